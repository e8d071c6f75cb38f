"""Conversions in parts: whatever is made where, in which order and after how many kills, the bytes
are those of the single command; what does not belong together is refused with one line."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import tiny_checkpoints as tiny
from jang_tools import convert, plan, verify
from jang_tools.cli.main import cli
from jang_tools.errors import ArgumentError, FormatError, IoError, JangError
from jang_tools.finalize import convert_planned, finalize
from jang_tools.part_directory import PartDirectory
from jang_tools.parts import convert_part, cut_parts, parse_part
from jang_tools.plan_file import read_plan_file
from jang_tools.statistics import collect
from lattice_checkpoints import round_bf16, write_on_lattices

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
SHARD = 900_000
OPTIONS: dict[str, Any] = {"profile": "JANG_4L", "shard_size": SHARD}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan(DEMO, output=path, method="rtn", **OPTIONS)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of a conversion by the single command."""
    output = tmp_path_factory.mktemp("whole") / "out"
    convert(DEMO, output, method="rtn", **OPTIONS)
    return contents(output)


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def shards_of(planned: Path) -> list[str]:
    return list(read_plan_file(planned).shards)


def make(planned: Path, output: Path, number: int, count: int, **options: Any) -> list[bool]:
    result = convert_part(planned, output, part=(number, count), model=DEMO, **options)
    return [shard.made for shard in result.shards]


def make_all(planned: Path, output: Path, count: int | None = None) -> None:
    parts = count or len(shards_of(planned))
    for number in range(1, parts + 1):
        make(planned, output, number, parts)


def one_line(error: JangError) -> str:
    text = str(error)
    assert "\n" not in text
    return text


# --- the same bytes ------------------------------------------------------------------------------


def test_any_number_of_parts_in_any_order(
    planned: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    shards = shards_of(planned)
    assert len(shards) >= 5
    order = random.Random(3)
    for count in (1, 2, 3, len(shards)):
        output = tmp_path / f"out-{count}"
        numbers = list(range(1, count + 1))
        order.shuffle(numbers)
        made = [flag for number in numbers for flag in make(planned, output, number, count)]
        assert made == [True] * len(shards)
        assert not output.exists()
        assert not any(name.startswith("model-") and ".part" in name for name in whole)
        result = finalize(planned, output)
        assert contents(output) == whole
        assert sorted(result.files) == sorted(whole)
        assert not partial(output).exists()
    assert verify(output, against=DEMO).ok


def test_parts_are_idempotent_and_may_be_cut_differently(
    planned: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert make(planned, output, 1, 2).count(True) > 0
    before = {name: (partial(output) / name).stat().st_mtime_ns for name in shards_of(planned)[:1]}
    assert not any(make(planned, output, 1, 2))
    assert True in make(planned, output, 1, 1)  # the rest, as all of one part
    for name, changed in before.items():
        assert (partial(output) / name).stat().st_mtime_ns == changed
    finalize(planned, output, model=DEMO)
    assert contents(output) == whole


def test_parts_of_several_machines_are_gathered(
    planned: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        source = Path(shutil.copytree(DEMO, tmp_path / f"source-{number}"))
        target = tmp_path / f"machine-{number}" / "out"
        target.parent.mkdir()
        convert_part(planned, target, part=(number, 3), model=source)
    output = tmp_path / "out"
    partial(output).mkdir()
    for number in (1, 2, 3):
        # As `cp DIR/*` does it: without names that begin with a dot.
        for file in sorted(partial(tmp_path / f"machine-{number}" / "out").glob("[!.]*")):
            shutil.copy(file, partial(output) / file.name)
    finalize(planned, output)
    assert contents(output) == whole


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_all_parts_in_one_go(method: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan(DEMO, output=path, method=method, **OPTIONS)
    seen: list[tuple[int, int]] = []
    result = convert_planned(
        path,
        tmp_path / "out",
        model=DEMO,
        progress=lambda done, total, item: seen.append((done, total)),
    )
    single = convert(DEMO, tmp_path / "single", method=method, **OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "single")
    assert all(0 <= done <= total for done, total in seen)
    mine, theirs = result.to_json(), single.to_json()
    for key in ("output", "seconds", "needs"):  # parts state no needs
        del mine[key], theirs[key]
    assert mine == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4.5, "shard_size": 400_000},
        {"profile": "mixed_3_6", "dtype": "f16", "group_size": 32, "shard_size": 1},
        {"profile": "4K", "rules": ["*.v_proj=6:32", "lm_head=none"], "shard_size": SHARD},
    ],
)
def test_options_decide_alike(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan(DEMO, output=path, method="rtn", **options)
    make_all(path, tmp_path / "out", 3)
    finalize(path, tmp_path / "out")
    single = convert(DEMO, tmp_path / "single", method="rtn", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "single")
    if "bits" in options:
        assert single.bits_per_weight <= options["bits"]


def test_stacked_experts_tied_heads_and_multipliers(tmp_path: Path) -> None:
    for name in ("mixtral", "llama-gqa", "nemotron-h", "falcon-h1"):
        source = tmp_path / name
        case = tiny.BY_NAME[name]
        config = dict(case.config)
        if name == "llama-gqa":
            config["tie_word_embeddings"] = True
        tiny.write_checkpoint(replace(case, config=config), source)
        path = tmp_path / f"{name}.json"
        plan(source, output=path, method="rtn", profile="JANG_3M", group_size=32, shard_size=20_000)
        for number in (3, 1, 2):
            convert_part(path, tmp_path / f"{name}-out", part=(number, 3), model=source)
        finalize(path, tmp_path / f"{name}-out", model=source)
        convert(
            source,
            tmp_path / f"{name}-single",
            method="rtn",
            profile="JANG_3M",
            group_size=32,
            shard_size=20_000,
        )
        mine = contents(tmp_path / f"{name}-out")
        assert mine == contents(tmp_path / f"{name}-single")


def test_statistics_belong_to_the_plan(tmp_path: Path) -> None:
    source = tmp_path / "source"
    case = tiny.BY_NAME["llama-gqa"]
    shape = {"vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2}
    tiny.write_checkpoint(replace(case, config={**case.config, **shape}), source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, source / name)
    statistics, other = tmp_path / "a.stats", tmp_path / "b.stats"
    for file, sequences in ((statistics, 2), (other, 3)):
        collect(source, file, calibration_sequences=sequences, calibration_tokens=16)
    path, output = tmp_path / "plan.json", tmp_path / "out"
    options: dict[str, Any] = {"bits": 6.0, "statistics": statistics, "shard_size": 60_000}
    plan(source, output=path, **options)
    for wrong in (None, other):
        with pytest.raises(ArgumentError, match="expected the statistics"):
            convert_part(path, output, part=(1, 1), model=source, statistics=wrong)
    result = convert_planned(path, output, model=source, statistics=statistics)
    single = convert(source, tmp_path / "single", **options)
    assert contents(output) == contents(tmp_path / "single")
    assert result.allocation == single.allocation
    assert sorted(result.warnings) == sorted(single.warnings)


def test_lattices_are_looked_for_when_planning(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_on_lattices(DEMO, source, "F16", round_bf16)
    options: dict[str, Any] = {"profile": "JANG_4L", "shard_size": 2_000_000}
    for read in (False, True):
        path = tmp_path / f"plan-{read}.json"
        plan(source, output=path, read_weights=read, **options)
        result = convert_planned(path, tmp_path / f"out-{read}", model=source)
        assert (result.lattices is not None) == read
    convert(source, tmp_path / "single", **options)
    assert contents(tmp_path / "out-True") == contents(tmp_path / "single")


# --- kills, and several at once ------------------------------------------------------------------

_CHILD = """
import sys
import jang_tools.parts as parts
parts._STRETCH = 1
plan, output, model, number = sys.argv[1:]
parts.convert_part(plan, output, part=(int(number), 2), model=model, threads=1)
"""


def test_two_processes_at_once(planned: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, planned, output, DEMO, str(number)],
            stderr=subprocess.PIPE,
        )
        for number in (1, 2)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    finalize(planned, output)
    assert contents(output) == whole


def test_a_shard_that_another_makes_is_left_alone(planned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    known = read_plan_file(planned)
    with PartDirectory(output, known) as work, work.shard_lock(known.shards[0]):
        with pytest.raises(IoError, match="another process makes this shard"):
            make(planned, output, 1, 2)
        with pytest.raises(IoError, match="a part is being made there"):
            finalize(planned, output)
        with pytest.raises(IoError, match="another conversion is working there"):
            convert(DEMO, output, method="rtn")
    make(planned, output, 1, 2)


def test_kills_at_any_moment() -> None:
    """tools/random_kills.py makes 200 of them, and gptq's."""
    command = [sys.executable, ROOT / "tools" / "random_kills.py", "--kills", "16"]
    done = subprocess.run([*command, "--methods", "rtn,mse"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.split("\n", 1)[1])["kills"] >= 16


def test_an_end_that_was_interrupted_goes_on(
    planned: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever between two system calls its last steps are stopped."""
    make_all(planned, tmp_path / "parts", 1)
    for step in range(0, 40, 3):
        output = tmp_path / f"out-{step}"
        shutil.copytree(partial(tmp_path / "parts"), partial(output))
        left = step

        def stopping(real: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("unlink", "replace", "rename", "fsync"):
                patch.setattr(os, name, stopping(getattr(os, name)))
            patch.setattr(Path, "unlink", stopping(Path.unlink))
            try:
                finalize(planned, output)
            except KeyboardInterrupt:
                assert not output.exists() or contents(output) == whole
        if not output.exists():
            finalize(planned, output)
        assert contents(output) == whole, step
        shutil.rmtree(output)


def test_ctrl_c_says_how_to_go_on(planned: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, item: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        make(planned, tmp_path / "out", 1, 1, progress=stop)
    assert "the same command continues there" in caught.value.hint  # type: ignore[attr-defined]


# --- what does not belong together ---------------------------------------------------------------


def test_more_parts_than_shards(planned: Path, tmp_path: Path) -> None:
    count = len(shards_of(planned))
    with pytest.raises(ArgumentError) as caught:
        make(planned, tmp_path / "out", 1, count + 1)
    assert f"at most {count} parts" in one_line(caught.value)
    assert f"found {count + 1}" in one_line(caught.value)
    assert "--shard-size" in caught.value.hint
    assert not partial(tmp_path / "out").exists()
    for text in ("0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3"):
        with pytest.raises(ValueError, match="is not a part"):
            parse_part(text)


def test_parts_are_cut_by_bytes() -> None:
    assert cut_parts([1, 1, 1, 1], 4) == [range(i, i + 1) for i in range(4)]
    assert cut_parts([10, 1, 1, 1, 1], 2) == [range(1), range(1, 5)]
    assert cut_parts([1, 1, 1, 1, 10], 2) == [range(4), range(4, 5)]
    assert cut_parts([0, 0, 5], 3) == [range(1), range(1, 2), range(2, 3)]
    numbers = random.Random(1)
    for _ in range(50):
        sizes = [numbers.randint(0, 9) for _ in range(numbers.randint(1, 12))]
        for count in range(1, len(sizes) + 1):
            parts = cut_parts(sizes, count)
            assert all(len(part) > 0 for part in parts)
            assert [shard for part in parts for shard in part] == list(range(len(sizes)))


def test_a_changed_source_is_named(planned: Path, tmp_path: Path) -> None:
    def changed(name: str, change: Any) -> str:
        source = Path(shutil.copytree(DEMO, tmp_path / "source"))
        (source / name).write_bytes(change((source / name).read_bytes()))
        with pytest.raises(FormatError) as caught:
            convert_part(planned, tmp_path / "out", part=(1, 2), model=source)
        with pytest.raises(FormatError, match=re.escape(str(caught.value))):
            finalize(planned, tmp_path / "out", model=source)
        shutil.rmtree(source)
        assert str(source / name) in one_line(caught.value)
        return one_line(caught.value)

    weights = "model.safetensors"
    size = (DEMO / weights).stat().st_size
    text = changed(weights, lambda data: data + b"x")
    assert f"expected {size} bytes" in text
    assert f"found {size + 1}" in text
    text = changed(weights, lambda data: data[:9] + data[9:].replace(b"F", b"f", 1))
    assert "expected a header with the SHA-256" in text
    text = changed("config.json", lambda data: data.replace(b"}", b" }", 1)[:-1])
    assert "expected content with the SHA-256" in text
    assert "expected" in changed("tokenizer.json", lambda data: data[:-1])
    source = Path(shutil.copytree(DEMO, tmp_path / "source"))
    (source / weights).unlink()
    with pytest.raises(IoError, match=weights):
        convert_part(planned, tmp_path / "out", part=(1, 2), model=source)
    assert not partial(tmp_path / "out").exists()


def test_the_source_must_be_known(planned: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="whose place it does not say") as caught:
        convert_part(planned, tmp_path / "out", part=(1, 2))
    assert caught.value.hint == "give --model DIR"


def test_a_changed_plan_file_is_refused(planned: Path, tmp_path: Path) -> None:
    content = planned.read_bytes()
    path = tmp_path / "plan.json"
    for change in (
        lambda text: text.replace(b'"bits": 8', b'"bits": 6', 1),
        lambda text: text.replace(b'"sha256": "', b'"sha256": "0', 1),
        lambda text: text[:-2],
        lambda text: b"",
        lambda text: text.replace(b"jang.plan-file/2", b"jang.plan-file/1"),
        lambda text: re.sub(rb'"checksum": ".', b'"checksum": "x', text),
    ):
        path.write_bytes(change(content))
        with pytest.raises(FormatError) as caught:
            convert_part(path, tmp_path / "out", part=(1, 2), model=DEMO)
        assert one_line(caught.value).startswith(f"{path}: ")
    path.unlink()
    with pytest.raises(IoError, match=str(path)):
        finalize(path, tmp_path / "out")


def test_a_plan_of_another_version_is_refused(
    planned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jang_tools import _core

    monkeypatch.setattr(_core, "__version__", "9.9")
    with pytest.raises(ArgumentError, match=r"expected a plan of jang-tools 9\.9, found one of"):
        make(planned, tmp_path / "out", 1, 2)


def test_damaged_shards_and_lying_records(
    planned: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    make_all(planned, output, 1)
    shards = shards_of(planned)
    victim = partial(output) / shards[2]
    record = victim.with_name(victim.name.replace(".safetensors", ".record"))
    sound = {path: path.read_bytes() for path in (victim, record)}

    def flip(data: bytes, place: int) -> bytes:
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    def lie(data: bytes) -> bytes:
        import zlib

        body = json.loads(data[64:])
        body["tensors"][min(body["tensors"])]["crc"][0] ^= 1
        text = json.dumps(body, indent=2, sort_keys=True).encode() + b"\n"
        return data[:20] + zlib.crc32(text).to_bytes(4, "little") + data[24:64] + text

    damages: list[tuple[Path, Any, str]] = [
        (victim, lambda data: data[:-1], "expected [0-9]+ bytes, found"),
        (victim, lambda data: flip(data, len(data) - 1), "expected CRC-32"),
        (victim, lambda data: flip(data, 20), "expected the header of the plan"),
        (record, lambda data: flip(data, len(data) // 2), "checksum"),
        (record, lie, "expected CRC-32 .* as its record says"),
    ]
    for path, damage, message in damages:
        path.write_bytes(damage(sound[path]))
        with pytest.raises(FormatError, match=message) as caught:
            finalize(planned, output)
        assert path.name in one_line(caught.value) or victim.name in one_line(caught.value)
        assert f"--part 3/{len(shards)}" in caught.value.hint
        notices: list[str] = []
        make(planned, output, 3, len(shards), notice=notices.append)
        assert len(notices) == 1
        assert notices[0].startswith(f"making {shards[2]} afresh: ")
        assert victim.read_bytes() == sound[victim]
    finalize(planned, output)
    assert contents(output) == whole


def test_missing_shards_are_named_with_their_command(
    planned: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shards = shards_of(planned)
    with pytest.raises(IoError, match="no such directory"):
        finalize(planned, output)
    make(planned, output, 1, len(shards))
    with pytest.raises(IoError) as caught:
        finalize(planned, output, model=DEMO)
    assert f"missing {len(shards) - 1} of {len(shards)} shards" in one_line(caught.value)
    assert all(name in str(caught.value) for name in shards[1:8])
    match = re.search("`(jang .*?)`", caught.value.hint)
    assert match is not None
    for number in range(2, len(shards) + 1):
        words = shlex.split(match[1])
        assert words[words.index("--part") + 1] == f"2/{len(shards)}"
        words[words.index("--part") + 1] = f"{number}/{len(shards)}"
        done = CliRunner().invoke(cli, words[1:], prog_name="jang")
        assert done.exit_code == 0, done.output
    (partial(output) / "tokenizer.json").unlink()
    with pytest.raises(IoError, match=r"missing, or not as the source has it: tokenizer\.json"):
        finalize(planned, output)
    make(planned, output, 1, 1)
    finalize(planned, output)
    assert contents(output) == whole


def test_parts_of_another_plan_are_refused(planned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    plan(DEMO, output=other, method="mse", **OPTIONS)  # the same shards
    output = tmp_path / "out"
    make(planned, output, 1, 2)
    for call in (lambda: make(other, output, 1, 2), lambda: finalize(other, output)):
        with pytest.raises(IoError, match="expected parts of the plan") as caught:
            call()
        assert str(partial(output)) in one_line(caught.value)
    make_all(planned, output, 2)
    make_all(other, tmp_path / "other", 2)
    record = shards_of(planned)[0].replace(".safetensors", ".record")
    shutil.copy(partial(tmp_path / "other") / record, partial(output) / record)
    with pytest.raises(ArgumentError, match=r"\.record: expected a part of the plan"):
        finalize(planned, output)
    with pytest.raises(ArgumentError, match=r"\.record: expected a part of the plan"):
        make(planned, output, 1, 1)


def test_other_work_in_the_place_is_left_alone(planned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    partial(output).mkdir()
    (partial(output) / "model-00001-of-00001.safetensors").write_bytes(b"of the single command")
    with pytest.raises(IoError, match="holds no parts of a plan"):
        make(planned, output, 1, 2)
    shutil.rmtree(partial(output))
    make(planned, output, 1, 2)
    (partial(output) / "notes.txt").write_text("mine")
    with pytest.raises(IoError, match=r"holds notes\.txt"):
        make(planned, output, 1, 2)
    (partial(output) / "notes.txt").unlink()
    with pytest.raises(IoError, match="holds parts of a planned conversion"):
        convert(DEMO, output, method="rtn")
    make_all(planned, output, 2)
    finalize(planned, output)
    with pytest.raises(IoError, match="already exists"):
        make(planned, output, 1, 2)


def test_what_cannot_be_planned_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(IoError, match="already exists"):
        plan(DEMO, output=tmp_path / "there.json")
    assert sorted(os.listdir(tmp_path)) == ["there.json"]


def test_a_plan_file_says_no_paths_and_no_times(planned: Path, tmp_path: Path) -> None:
    text = planned.read_text("utf-8")
    assert str(ROOT) not in text
    source = Path(shutil.copytree(DEMO, tmp_path / DEMO.name))
    os.utime(source / "model.safetensors", ns=(1, 1))
    plan(source, output=tmp_path / "plan.json", method="rtn", **OPTIONS)
    assert (tmp_path / "plan.json").read_text("utf-8") == text
    document = json.loads(text)
    assert document["schema"] == "jang.plan-file/2"
    names = [entry["name"] for entry in document["source"]["files"]]
    assert names == sorted(names)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)


# --- the commands --------------------------------------------------------------------------------


def test_the_commands_work_together(whole: dict[str, bytes], tmp_path: Path) -> None:
    path, output = str(tmp_path / "plan.json"), str(tmp_path / "out")
    made = run("plan", str(DEMO), "--profile", "4L", "--method", "rtn", "-o", path,
               "--shard-size", str(SHARD))  # fmt: skip
    assert f"Plan file: {path} (" in made.stdout
    part = ("convert", "--plan", path, "--model", str(DEMO), "--output", output, "--part")
    assert "Part 1 of 2 is in " in run(*part, "1/2").stdout
    document = json.loads(run(*part, "2/2", "--json").stdout)
    assert document["schema"] == "jang.part/1"
    assert [shard["made"] for shard in document["shards"]] == [True] * len(document["shards"])
    document = json.loads(run("finalize", "--plan", path, "--output", output, "--json").stdout)
    assert document["schema"] == "jang.finalize/1"
    assert contents(Path(output)) == whole


def run(*arguments: str, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, arguments, prog_name="jang")
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize(
    "options",
    [
        ["--part", "1/2", "--model", "x"],
        ["--plan", "p", "--bits", "4"],
        ["--plan", "p", "--profile", "4L"],
        ["--plan", "p", "--method", "rtn"],
        ["--plan", "p", "--set", "a=4"],
        ["--plan", "p", "--overwrite"],
        ["--plan", "p", "--calibration-sequences", "8"],
        ["--plan", "p", "--part", "3/2"],
        [],
    ],
)
def test_command_lines_that_make_no_sense(options: list[str]) -> None:
    run("convert", "--output", "out", *options, code=2)


def test_plan_options_want_a_file() -> None:
    run("plan", str(DEMO), "--method", "rtn", code=2)
    run("plan", str(DEMO), "--read-weights", code=2)


# --- the cluster examples ------------------------------------------------------------------------

CLUSTER = ROOT / "examples" / "cluster"


def commands_in(text: str) -> list[list[str]]:
    """The `jang` command lines of a script, its variables filled in."""
    filled = text.replace("\\\n", " ")
    values = {"SLURM_ARRAY_TASK_ID": "2", "JOB_COMPLETION_INDEX": "1", "PARTS": "4"}
    filled = re.sub(r"\$\(\((\w+) \+ 1\)\)", lambda m: str(int(values[m[1]]) + 1), filled)
    filled = re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], f"/{match[1]}"), filled)
    lines = [line.strip() for line in filled.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("jang ")]


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes.yaml", "README.md"])
def test_commands_of_the_cluster_examples_parse(name: str) -> None:
    import click

    commands = commands_in((CLUSTER / name).read_text("utf-8"))
    assert commands
    parts = 0
    for words in commands:
        command = cli.get_command(click.Context(cli), words[1])
        assert command is not None, words
        context = command.make_context(words[1], words[2:], resilient_parsing=False)
        if "--part" in words:
            number, count = context.params["part"]
            assert 1 <= number <= count == 4
            parts += 1
    assert parts > 0


def test_the_slurm_script_is_a_script() -> None:
    done = subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
