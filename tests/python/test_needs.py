"""What a conversion states before it begins, against what it then takes; limits that are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import _core, convert
from jang_tools.errors import ArgumentError, IoError
from jang_tools.needs import Needs, memory_needs, size_text

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
HIDDEN, INNER, LAYERS = 512, 1792, 2
CALIBRATION = {"calibration_sequences": 16, "calibration_tokens": 128}

# Anonymous memory has no peak of its own in the system's accounts, so it is looked at often; the
# peak of everything, mapped pages of the source included, is the system's.
CHILD = """
import json, resource, sys, threading, time
from jang_tools import convert
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
peak, ended = 0, threading.Event()
def watch():
    global peak
    while not ended.wait(0.001):
        peak = max(peak, anonymous())
before, most_before = anonymous(), most()
thread = threading.Thread(target=watch)
thread.start()
result = convert(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
ended.set()
thread.join()
print(json.dumps([result.needs.memory_bytes, peak - before, most() - most_before]))
"""


def write_model(folder: Path) -> None:
    """A llama of random weights, large enough for its matrices to be most of the memory."""
    folder.mkdir()
    config = json.loads((DEMO / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder)
    vocabulary = config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q", HIDDEN), ("k", 256), ("v", 256), ("o", HIDDEN)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, HIDDEN)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (HIDDEN,)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}
    random = np.random.default_rng(1)
    entries = []
    for name, shape in shapes.items():
        values = 0.02 * random.standard_normal(shape) + (len(shape) == 1)
        entries.append((name, "BF16", shape, tiny.encode(values.astype(np.float32), "BF16")))
    tiny.write_safetensors(folder / "model.safetensors", entries)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needs") / "model"
    write_model(folder)
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "options",
    [
        {"method": "rtn"},
        {"method": "mse"},
        {"method": "mse", "dtype": "f32"},
        {"method": "gptq", **CALIBRATION},
        {"method": "gptq", "calibration_sequences": 4, "calibration_tokens": 64},
        {"method": "gptq", "bits": 4.5, "calibration_sequences": 8, "calibration_tokens": 64},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_the_peak_stays_below_the_statement_and_near_it(
    model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    arguments = [str(model), str(tmp_path / "out"), json.dumps({**options, "threads": 2})]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    stated, taken, taken_with_pages = json.loads(done.stdout)
    assert taken <= stated
    assert stated <= 2 * taken + (64 << 20)
    assert taken_with_pages <= stated + (model / "model.safetensors").stat().st_size


def needs_of(model: Path, threads: int = 2, **options: Any) -> Needs:
    plan = _core.plan_directory(str(model))
    ids = np.zeros(options.pop("shape"), np.int32) if "shape" in options else None
    found, _ = memory_needs(
        model,
        plan,
        ids=ids,
        casts=False,
        statistics_bytes=0,
        threads=threads,
        limit=options.pop("limit", None),
    )
    return found


def test_shares_add_up_and_grow_with_what_they_are_of(model: Path) -> None:
    one = needs_of(model, threads=1, shape=(16, 128))
    many = needs_of(model, threads=32, shape=(16, 128))
    longer = needs_of(model, threads=1, shape=(32, 128))
    rounding = needs_of(model, threads=1)
    for needs in (one, many, longer, rounding):
        assert needs.memory_bytes == sum(size for _, size in needs.memory)
        assert [size for _, size in needs.memory] == sorted(
            (size for _, size in needs.memory), reverse=True
        )
    assert rounding.memory_bytes < one.memory_bytes < many.memory_bytes
    states = dict(longer.memory)["hidden states"]
    assert states == 2 * 32 * 128 * HIDDEN * 4
    assert dict(one.memory)["hidden states"] * 2 == states
    assert dict(one.memory)[f"second moments of {INNER} inputs"] == (
        4 * 8 * INNER * INNER  # sums and cross sums, and both of what is held out
    )


def test_states_beyond_memory_are_counted_as_scratch(model: Path) -> None:
    plan = _core.plan_directory(str(model))
    few = _core.conversion_needs(str(model), plan, sequences=128, tokens=512)
    assert few.scratch_bytes == 0
    many = _core.conversion_needs(str(model), plan, sequences=20_000, tokens=512)
    assert many.scratch_bytes == 2 * 20_000 * 512 * HIDDEN * 4
    assert many.memory_bytes < few.memory_bytes


@pytest.mark.parametrize("case", tiny.CASES[::5], ids=lambda case: case.name)
def test_every_kind_of_layer_can_be_counted(case: tiny.Case, tmp_path: Path) -> None:
    tiny.write_checkpoint(case, tmp_path / "source")
    source = str(tmp_path / "source")
    for options in ({}, {"bits": 6.0}):
        plan = _core.plan_directory(source, **options)
        shape = {"sequences": 8, "tokens": 16, "threads": 2}
        assert _core.conversion_needs(source, plan, **shape).memory_bytes < 1 << 28
        # Sizes that no machine has stop at the largest number.
        shape |= {"sequences": 1 << 40, "tokens": 1 << 20}
        assert _core.conversion_needs(source, plan, **shape).scratch_bytes > 1 << 60


def test_fewer_threads_run_where_that_fits(model: Path, tmp_path: Path) -> None:
    most, least = (needs_of(model, threads=count).memory_bytes for count in (12, 1))
    limit = (most + least) // 2
    lines: list[str] = []
    said: list[Needs] = []
    limited = convert(
        model,
        tmp_path / "limited",
        method="rtn",
        threads=12,
        max_memory=limit,
        notice=lines.append,
        starting=said.append,
    )
    assert limited.needs is not None
    assert said == [limited.needs]
    assert 1 <= limited.needs.threads < 12
    assert limited.needs.memory_bytes <= limit
    assert needs_of(model, threads=limited.needs.threads + 1).memory_bytes > limit
    assert lines == [
        f"{limited.needs.threads} of 12 threads, so that at most"
        f" {size_text(limited.needs.memory_bytes)} of memory are taken"
    ]
    convert(model, tmp_path / "free", method="rtn", threads=2)
    for file in (tmp_path / "free").iterdir():
        assert (tmp_path / "limited" / file.name).read_bytes() == file.read_bytes()


def test_what_cannot_fit_is_refused_before_the_start(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ArgumentError) as caught:
        convert(model, output, method="gptq", max_memory=120_000_000, **CALIBRATION)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("max memory: expected a peak of at most 120.0 MB, found ")
    assert f"for second moments of {INNER} inputs" in message
    assert "--method mse, which takes" in caught.value.hint
    assert not list(tmp_path.iterdir())
    with pytest.raises(ArgumentError, match="max memory") as caught:
        convert(model, output, method="rtn", max_memory=1_000_000)
    # The limit that the hint names is enough.
    words = caught.value.hint.split("a limit of ")[1].split()
    enough = round(float(words[0]) * {"MB": 10**6, "GB": 10**9}[words[1]])
    assert convert(model, output, method="rtn", max_memory=enough).needs is not None


def test_scratch_and_state_count_towards_the_space(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 400_000_000

    def statvfs(_: Any) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, free // 4096, 0, free // 4096, 0, 0, 0, 0, 255))

    real = _core.conversion_needs

    class Counted:
        """As for a calibration whose states do not fit memory."""

        def __init__(self, **values: Any) -> None:
            vars(self).update(values)

    def with_scratch(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        return Counted(
            threads=found.threads,
            memory=found.memory,
            memory_bytes=found.memory_bytes,
            scratch_bytes=300_000_000,
        )

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(_core, "conversion_needs", with_scratch)
    with pytest.raises(IoError) as caught:
        convert(
            model, tmp_path / "out", method="gptq", calibration_sequences=96, calibration_tokens=512
        )
    message = str(caught.value)
    assert "no space" in message
    assert "300.0 MB for scratch of calibration" in message
    assert "MB for state to continue from" in message
    assert "MB for output" in message
    assert not list(tmp_path.iterdir())


def test_the_command_states_both(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jang_tools.cli.main", "convert", "--model", str(model)]
    command += ["--method", "rtn", "--max-memory", "2G"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "text")], capture_output=True, text=True, check=True
    )
    line = done.stdout.splitlines()[1]
    assert line.startswith("Memory: at most ")
    assert " | Disk: " in line
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "json"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    needs = json.loads(done.stdout)["needs"]
    assert needs["memory_bytes"] == sum(row["bytes"] for row in needs["memory"])
    assert needs["disk_bytes"] == sum(row["bytes"] for row in needs["disk"])
    assert needs["memory_bytes"] <= 2_000_000_000
