"""This program against llama.cpp at equal bits per weight, in alternating rounds of one run.

    python bench/peers/compare.py [--shape mistral-7b] [--layers 2] [--rounds 5] [--json FILE]

Needs `.venv-peers` (bench/peers/setup.sh). Each round of a test: a read-only pass over our mapped
files, our run, llama.cpp with its repacked layouts, llama.cpp with the layout of the file. Figures
are medians; a ratio is ours against the faster of the two states. Both compute the same shape with
the same number of threads; weights are random, files live in a temporary folder and go one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.bench.machine import cpu_name
from jang_tools.bench.measure import active_level, batch_test, decode_test, prefill_test
from jang_tools.bench.shapes import SHAPES, Shape
from jang_tools.bench.synthetic import write_checkpoint
from jang_tools.model import Model, load_model

FOLDER = Path(__file__).resolve().parent
PYTHON = FOLDER.parents[1] / ".venv-peers" / "bin" / "python"
# Our width with groups of 64, and the type of the same bits per weight, scales included.
PAIRS = {
    "Q2_K": 2,
    "Q3_K": 3,
    "Q4_0": 4,
    "Q4_K": 4,
    "Q5_K": 5,
    "Q6_K": 6,
    "Q8_0": 8,
}
DENSE = {
    name: shape for name, shape in SHAPES.items() if isinstance(shape, Shape) and not shape.experts
}
STATES = ("repacked", "plain")
# Threads of the one that waits may spin for a moment before they sleep.
_QUIET_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """A test that both sides run."""

    kind: str
    tokens: int
    batch: int = 1

    @property
    def processed(self) -> int:
        return self.tokens * self.batch


@dataclass
class Row:
    """One type; seconds of a run by test and by who ran it, None where it failed."""

    type: str
    bits: int
    our_bits_per_weight: float
    their_bits_per_weight: float
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    our_kv_type: str = ""


class PeerProcess:
    """llama.cpp in a process of its own, which may crash without ending the comparison."""

    def __init__(self, model: Path, threads: int, state: str) -> None:
        options = ["--plain"] if state == "plain" else []
        self._process = subprocess.Popen(
            [PYTHON, FOLDER / "llama_cpp_worker.py", model, "--threads", str(threads), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.failure = ""
        self._answer()

    def run(self, job: Job) -> float | None:
        """Seconds of one run; None from the first failure on."""
        assert self._process.stdin is not None
        if self.failure:
            return None
        request = {"kind": job.kind, "tokens": job.tokens, "depth": 0, "batch": job.batch}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says how it ended
        answer = self._answer()
        return None if answer is None else float(answer["seconds"])

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.failure = f"ended with {self._process.wait()}"
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run_ours(model: Model, job: Job) -> Callable[[], float]:
    """One run of ours, as a function that gives its seconds."""
    if job.kind == "prefill":
        test = prefill_test(model, job.tokens)
    elif job.kind == "decode":
        test = decode_test(model, job.tokens, 0)
    else:
        test = batch_test(model, job.tokens, job.batch)

    def run() -> float:
        start = time.perf_counter()
        for _ in test.run():
            pass
        return time.perf_counter() - start

    return run


def compare_row(row: Row, ours: Path, theirs: Path, jobs: list[Job], rounds: int) -> None:
    """Fills ``row`` from the two files."""
    model = load_model(ours)
    row.our_kv_type = model.core.kv_type
    size = model.core.weight_bytes
    traffic = model.core.weight_traffic
    token_bytes = traffic["layers"]["bytes"] + traffic["head"]["bytes"]
    peers = {state: PeerProcess(theirs, model.core.threads, state) for state in STATES}
    for job in jobs:
        run = run_ours(model, job)
        seconds: dict[str, list[float | None]] = {"ours": [], **{state: [] for state in STATES}}
        passes = []
        for turn in range(rounds + 1):
            times: dict[str, float | None] = {}
            read = model.core.read_pass()
            times["ours"] = run()
            for state, peer in peers.items():
                time.sleep(_QUIET_SECONDS)
                times[state] = peer.run(job)
            time.sleep(_QUIET_SECONDS)
            if turn > 0:  # the first one warms up
                passes.append(read)
                for who, one in times.items():
                    seconds[who].append(one)
        result: dict[str, Any] = {
            "tokens": job.processed,
            "read_only_gb_s": size / statistics.median(passes) / 1e9,
        }
        for who, measured in seconds.items():
            known = [one for one in measured if one is not None]
            result[who] = statistics.median(known) if len(known) == rounds else None
        if job.kind == "decode":
            rate = token_bytes * job.tokens / result["ours"]
            result["our_share"] = rate / 1e9 / result["read_only_gb_s"]
        row.tests[job.kind] = result
    for state, peer in peers.items():
        peer.close()
        if peer.failure:
            row.failures[state] = peer.failure


def parameters(shape: Shape) -> int:
    return sum(math.prod(tensor.dims) for tensor in shape.tensors(None, 64))


def tool(script: str, *arguments: object) -> str:
    """Output of a script of this folder in the peers' environment."""
    done = subprocess.run(
        [PYTHON, FOLDER / script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if script == "gguf_models.py" else None,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(DENSE), default="mistral-7b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--types", default=",".join(PAIRS), help="types of GGUF, by comma")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the files go [a temporary folder]")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is missing: run bench/peers/setup.sh")
    types = arguments.types.split(",")
    if unknown := [kind for kind in types if kind not in PAIRS]:
        raise SystemExit(f"--types: expected some of {', '.join(PAIRS)}, found {unknown[0]}")

    shape = DENSE[arguments.shape].with_layers(arguments.layers)
    weights = parameters(shape)
    jobs = [
        Job("prefill", arguments.prompt),
        Job("decode", arguments.decode),
        Job("batch", max(4, arguments.decode // 4), arguments.batch),
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="jang-peers-") as name:
        folder = Path(name)
        source = folder / "source.gguf"
        tool("gguf_models.py", "source", source, "--shape", shape.name, "--layers", shape.layers)
        for kind in types:
            bits = PAIRS[kind]
            theirs, ours = folder / "theirs.gguf", folder / f"ours-{kind}"
            print(f"{kind}: quantizing", file=sys.stderr, flush=True)
            tool("gguf_models.py", "quantize", source, kind, theirs)
            our_bytes = write_checkpoint(ours, shape, bits)
            row = Row(kind, bits, 8 * our_bytes / weights, 8 * theirs.stat().st_size / weights)
            print(f"{kind}: measuring", file=sys.stderr, flush=True)
            compare_row(row, ours, theirs, jobs, arguments.rounds)
            rows.append(row)
            theirs.unlink()
            for path in ours.iterdir():
                path.unlink()
    document = {
        "schema": "jang.peers/1",
        "cpu": cpu_name(),
        "level": active_level(),
        "threads": int(_core.runtime_info()["threads"]),
        "shape": shape.name,
        "layers": shape.layers,
        "rounds": arguments.rounds,
        "batch": arguments.batch,
        "peer": json.loads(tool("llama_cpp_worker.py", "--about")),
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(document, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
