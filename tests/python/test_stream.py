"""--from-hub: bytes of the whole download, whatever the network does, with few files at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import tiny_checkpoints as tiny
from fp8_checkpoints import SUFFIX, write_fp8
from hub_server import COMMIT, MOVED, Hub, directory_files, running_hub
from lattice_checkpoints import round_bf16, write_on_lattices
from tiny_gpt_oss import pack_experts
from weight_files import read_weights

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]

# The command with short waits, which writes down how many own files lie there at a time.
PROGRAM = """
import json, os, sys
import jang_tools.hub_files as hub_files
from jang_tools.stream import HubStream
hub_files._WAITS = (0.05, 0.05)
most = [0]
def counted(method):
    def count(self, files):
        result = method(self, files)
        names = os.listdir(self.path / "files")
        most[0] = max(most[0], sum(name.endswith(".safetensors") for name in names))
        return result
    return count
HubStream.need = counted(HubStream.need)
HubStream.done = counted(HubStream.done)
from jang_tools.cli.main import cli
try:
    cli(sys.argv[1:], prog_name="jang")
finally:
    with open(os.environ["MOST_FILES"], "w") as file:
        json.dump(most[0], file)
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    tiny.write_checkpoint(tiny.BY_NAME["llama-gqa"], tmp_path / "source")
    with running_hub() as found:
        found.files = directory_files(tmp_path / "source")
        assert [name for name in sorted(found.files) if name in SHARDS] == SHARDS
        yield found


class Runs:
    """Commands against a hub, with a cache of their own."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        self.hub = hub
        self.cache = folder / "cache"

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-c", PROGRAM, "convert", *map(str, arguments)]

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        most = str(self.folder / "most.json")
        return self.hub.environment(cache or self.cache, MOST_FILES=most)

    def convert(
        self, *arguments: str | Path, cache: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(cache),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def stream(self, output: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        target = self.folder / output
        return self.convert("--from-hub", "org/model", "--output", target, *arguments)

    def whole(self, output: str, *arguments: str | Path) -> dict[str, bytes]:
        """The output of the same conversion behind a download of everything."""
        target = self.folder / output
        other = self.folder / "other-cache"
        done = self.convert("--model", "org/model", "--output", target, *arguments, cache=other)
        assert done.returncode == 0, done.stderr
        for seen in (self.hub.whole, self.hub.requests, self.hub.begun, self.hub.ended):
            seen.clear()
        return directory_files(target)

    def files_at_once(self) -> int:
        return int(json.loads((self.folder / "most.json").read_text()))

    def left(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {
            "source", "cache", "other-cache", "most.json", "expected", "lattice",
        }  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path, hub: Hub) -> Runs:
    return Runs(tmp_path, hub)


def cached_weights(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*.safetensors"))


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("delete", [False, True])
def test_the_bytes_are_those_of_the_whole_download(runs: Runs, method: str, delete: bool) -> None:
    options = ["--method", method, "--profile", "JANG_3M"]
    expected = runs.whole("expected", *options)
    done = runs.stream("out", *options, *(["--delete-after-use"] if delete else []))
    assert done.returncode == 0, done.stderr
    assert directory_files(runs.folder / "out") == expected
    assert runs.left() == {"out"}
    assert sorted(name for name in runs.hub.whole if name in SHARDS) == SHARDS
    assert cached_weights(runs.cache) == ([] if delete else SHARDS)
    assert runs.files_at_once() <= (2 if delete else 0)


def test_what_is_cached_is_not_downloaded_and_not_deleted(runs: Runs) -> None:
    first = runs.stream("first", "--method", "rtn")
    assert first.returncode == 0, first.stderr
    runs.hub.whole.clear()
    again = runs.stream("again", "--method", "rtn", "--delete-after-use")
    assert again.returncode == 0, again.stderr
    assert not set(runs.hub.whole) & set(SHARDS)
    assert cached_weights(runs.cache) == SHARDS
    assert directory_files(runs.folder / "again") == directory_files(runs.folder / "first")


def test_the_statement_counts_what_lies_there_at_a_time(runs: Runs) -> None:
    sizes = [len(runs.hub.files[name]) for name in SHARDS]
    for options, expected in (
        (["--delete-after-use"], max(a + b for a, b in pairwise(sizes))),
        ([], sum(sizes)),
    ):
        done = runs.stream(f"out{len(options)}", "--method", "rtn", "--json", *options)
        assert done.returncode == 0, done.stderr
        disk = {row["what"]: row["bytes"] for row in json.loads(done.stdout)["needs"]["disk"]}
        downloads = next(size for what, size in disk.items() if what.startswith("downloads"))
        assert downloads == expected


def test_gptq_downloads_everything_first_and_says_so(runs: Runs) -> None:
    runs.hub.files = directory_files(DEMO)
    options = ["--method", "gptq", "--calibration-sequences", "2", "--calibration-tokens", "32"]
    expected = runs.whole("expected", *options)
    done = runs.stream("out", *options, "--delete-after-use")
    assert done.returncode == 0, done.stderr
    assert "method gptq: all weights are read first" in done.stderr
    assert directory_files(runs.folder / "out") == expected
    assert runs.left() == {"out"}
    assert cached_weights(runs.cache) == []


def scatter(source: Path) -> None:
    """Cuts a checkpoint of one file into three, none of which has both codes and their scales."""
    tensors = read_weights(source)
    codes = {name: name.removesuffix(SUFFIX).replace("_scales", "_blocks") for name in tensors}
    plain = [name for name in tensors if codes[name] == name]
    file = {name: SHARDS[i * 3 // len(plain)] for i, name in enumerate(plain)}
    after = dict(zip(SHARDS, [*SHARDS[1:], SHARDS[0]], strict=True))
    file |= {name: after[file[codes[name]]] for name in tensors if codes[name] != name}
    (source / "model.safetensors").unlink()
    for shard in SHARDS:
        entries = [(name, *tensor) for name, tensor in tensors.items() if file[name] == shard]
        tiny.write_safetensors(source / shard, entries)
    index = json.dumps({"metadata": {}, "weight_map": file})
    (source / "model.safetensors.index.json").write_text(index)


@pytest.mark.parametrize("kind", ["fp8", "mxfp4"])
@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_scales_in_other_files_than_their_codes_are_there(
    runs: Runs, kind: str, method: str
) -> None:
    source = runs.folder / "source" / kind
    if kind == "fp8":
        tiny.write_checkpoint(tiny.BY_NAME["qwen3"], runs.folder / "source" / "plain")
        write_fp8(runs.folder / "source" / "plain", source, (32, 64))
    else:
        tiny.write_checkpoint(tiny.BY_NAME["gpt-oss-packable"], source)
        pack_experts(source)
    scatter(source)
    runs.hub.files = directory_files(source)
    options = ["--method", method, "--group-size", "32"]
    expected = runs.whole("expected", *options)
    done = runs.stream("out", *options, "--delete-after-use")
    assert done.returncode == 0, done.stderr
    assert "are read first" not in done.stderr
    assert ("may lie on lattices" in done.stderr) == (kind == "mxfp4" and method == "mse")
    assert directory_files(runs.folder / "out") == expected
    assert sorted(name for name in runs.hub.whole if name in SHARDS) == SHARDS


def test_lattices_are_found_in_files_that_come_for_it(runs: Runs) -> None:
    write_on_lattices(runs.folder / "source", runs.folder / "lattice", "BF16", round_bf16)
    runs.hub.files = directory_files(runs.folder / "lattice")
    runs.hub.files.pop("model.safetensors.index.json", None)  # of the source, in one file now
    expected = runs.whole("expected", "--profile", "uniform-4")
    done = runs.stream("out", "--profile", "uniform-4", "--delete-after-use")
    assert done.returncode == 0, done.stderr
    assert "tensors may lie on lattices" in done.stderr
    assert "tensors lie on lattices" in done.stdout
    assert directory_files(runs.folder / "out") == expected


@pytest.mark.parametrize("equal", [True, False])
def test_a_stored_head_is_compared_with_the_embedding(runs: Runs, equal: bool) -> None:
    case = tiny.BY_NAME["llama-tied"]
    tensors = list(tiny.tensors(case))
    embedding = next(values for name, values in tensors if name == "model.embed_tokens.weight")
    tensors.append(("lm_head.weight", embedding if equal else embedding[::-1].copy()))
    entries = [(n, case.dtype, v.shape, tiny.encode(v, case.dtype)) for n, v in tensors]
    file = runs.folder / "source" / "tied.safetensors"
    tiny.write_safetensors(file, entries)
    config = json.dumps(tiny.config(case, "new")).encode()
    runs.hub.files = {"config.json": config, "model.safetensors": file.read_bytes()}
    expected = runs.whole("expected", "--method", "rtn")
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 0, done.stderr
    assert directory_files(runs.folder / "out") == expected


def test_passing_failures_are_tried_again(runs: Runs) -> None:
    expected = runs.whole("expected", "--method", "rtn")
    runs.hub.failures = {SHARDS[1]: [503, 500], "config.json": [503]}
    runs.hub.cut = {SHARDS[2]: 1}
    done = runs.stream("out", "--method", "rtn", "--delete-after-use")
    assert done.returncode == 0, done.stderr
    assert "trying again in 0.05 s" in done.stderr
    assert directory_files(runs.folder / "out") == expected


def test_a_lasting_failure_is_one_line_and_the_same_command_continues(runs: Runs) -> None:
    expected = runs.whole("expected", "--method", "rtn")
    runs.hub.failures = {}
    failing = runs.hub.files.pop(SHARDS[2])
    runs.hub.files[SHARDS[2]] = failing
    # The header is read, the file never comes.
    runs.hub.after_header = {SHARDS[2]: [503] * 50}
    done = runs.stream("out", "--method", "rtn", "--delete-after-use")
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert SHARDS[2] in line
    assert "given up behind 3 attempts" in line
    assert "the same command continues" in done.stderr
    assert runs.left() == {"out.partial", "out.download"}
    runs.hub.failures, runs.hub.after_header = {}, {}
    runs.hub.whole.clear()
    again = runs.stream("out", "--method", "rtn", "--delete-after-use")
    assert again.returncode == 0, again.stderr
    assert "continuing behind tensor" in again.stderr
    assert [name for name in runs.hub.whole if name in SHARDS] == [SHARDS[2]]
    assert directory_files(runs.folder / "out") == expected
    assert runs.left() == {"out"}


def test_a_file_that_changes_between_plan_and_download_is_noticed(runs: Runs) -> None:
    changed = bytearray(runs.hub.files[SHARDS[1]])
    changed[-1] ^= 1
    runs.hub.changes = {SHARDS[1]: bytes(changed)}
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 1
    assert f"org/model/{SHARDS[1]}: expected" in done.stderr
    assert "as when the conversion was planned" in done.stderr
    assert not (runs.folder / "out").exists()


def test_a_revision_that_moves_is_noticed_and_can_be_named(runs: Runs) -> None:
    expected = runs.whole("expected", "--method", "rtn")
    runs.hub.after_header = {SHARDS[1]: [503] * 50}
    assert runs.stream("out", "--method", "rtn").returncode == 1
    runs.hub.failures, runs.hub.after_header = {}, {}
    runs.hub.main = MOVED
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 1
    assert f"the revision 'main' is {MOVED} now, and was {COMMIT}" in done.stderr
    assert f"--revision {COMMIT} continues" in done.stderr
    done = runs.stream("out", "--method", "rtn", "--revision", COMMIT)
    assert done.returncode == 0, done.stderr
    assert directory_files(runs.folder / "out") == expected


def test_a_server_without_ranges_is_refused(runs: Runs) -> None:
    runs.hub.ranges = False
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 1
    assert "does not answer range requests" in done.stderr
    assert "--model" in done.stderr
    assert runs.left() == set()


def test_ctrl_c_while_waiting_leaves_what_the_same_command_continues(runs: Runs) -> None:
    expected = runs.whole("expected", "--method", "rtn")
    runs.hub.slow = 2.0
    runs.hub.slow_names = {SHARDS[2]}
    process = subprocess.Popen(
        runs.command("--from-hub", "org/model", "--output", runs.folder / "out", "--method", "rtn"),
        env=runs.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(name == SHARDS[2] for name, _ in runs.hub.begun):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert SHARDS[2] not in [name for name, _ in runs.hub.ended]  # it did not wait for the file
    assert "interrupted" in said
    runs.hub.slow = 0
    runs.hub.whole.clear()
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 0, done.stderr
    assert not {SHARDS[0], SHARDS[1]} & set(runs.hub.whole)
    assert directory_files(runs.folder / "out") == expected


AHEAD = """
import os, sys, time
from pathlib import Path
from jang_tools.stream import HubStream
names = sys.argv[2:]
with HubStream("org/model", Path(sys.argv[1]), delete_after_use=True) as stream:
    stream.schedule([([name], [name]) for name in names])
    stream.need(names[:1])
    begin = time.monotonic()
    while not (stream.path / "files" / names[1]).exists():
        assert time.monotonic() - begin < 60
        time.sleep(0.01)
    time.sleep(0.3)
    found = sorted(name for name in os.listdir(stream.path / "files") if name.startswith("model"))
    assert found == names[:2], found
    assert not os.path.islink(stream.path / "model" / "config.json")
    stream.done(names[:1])
    assert (stream.path / "model" / names[0]).stat().st_blocks * 512 <= 1 << 16
    stream.need(names[1:2])
print("ahead")
"""


def test_the_next_file_comes_while_one_is_converted(runs: Runs) -> None:
    done = subprocess.run(
        # No third file, whose download would outlive the stream that is not asked for it.
        [sys.executable, "-c", AHEAD, str(runs.folder / "out"), *SHARDS[:2]],
        env=runs.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "ahead\n", done.stderr
    assert runs.left() == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-hub", "org/model", "--model", "x"], "give one of --model and --from-hub"),
        (["--model", "x", "--revision", "v1"], "--revision is for --from-hub"),
        (["--model", "x", "--delete-after-use"], "--delete-after-use is for --from-hub"),
        (["--from-hub", "org/model@v1", "--revision", "v1"], "give the revision once"),
        (["--from-hub", "org/model", "--plan", "p.json"], "--from-hub and --plan exclude"),
    ],
)
def test_options_that_make_no_sense(runs: Runs, arguments: list[str], message: str) -> None:
    done = runs.convert("--output", runs.folder / "out", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert os.listdir(runs.folder) == ["source", "most.json"] or "out" not in runs.left()


def test_a_directory_is_no_repository(runs: Runs) -> None:
    done = runs.convert("--from-hub", runs.folder / "source", "--output", runs.folder / "out")
    assert done.returncode == 1
    assert "no such directory" in done.stderr or "org/name" in done.stderr


def test_another_download_in_the_way_is_left_alone(runs: Runs) -> None:
    place = runs.folder / "out.download"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    done = runs.stream("out", "--method", "rtn")
    assert done.returncode == 1
    assert "holds no download of jang-tools" in done.stderr
    assert (place / "mine.txt").read_text() == "mine"
