"""Conversions by gptq in parts: runs of layers, one after another, to the bytes of the single
command, wherever they are cut or killed."""

from __future__ import annotations

import json
import os
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
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.cli.main import cli
from jang_tools.errors import ArgumentError, FormatError, IoError, UnsupportedError
from jang_tools.finalize import convert_planned, finalize
from jang_tools.part_directory import PartDirectory
from jang_tools.parts import convert_part
from jang_tools.plan_file import read_plan_file
from jang_tools.ray_engine import convert_on_ray
from jang_tools.repair import repair

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
}
CALIBRATION: dict[str, Any] = {"calibration_sequences": 9, "calibration_tokens": 32}
OPTIONS: dict[str, Any] = {
    "profile": "JANG_4L",
    "method": "gptq",
    "group_size": 32,
    "shard_size": 60_000,
    **CALIBRATION,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:8_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("model") / "source", "llama-gqa", SHAPE)


@pytest.fixture(scope="module")
def planned(source: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan(source, output=path, calibration=text, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def whole(source: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "out"
    convert(source, output, calibration=text, **OPTIONS)
    return contents(output)


def write_source(folder: Path, name: str, shape: dict[str, Any]) -> Path:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(replace(case, config={**case.config, **shape}), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / file, folder / file)
    return folder


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


# --- the same bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_parts(
    count: int,
    planned: Path,
    source: Path,
    text: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    for number in range(1, count + 1):
        seen.clear()
        convert_part(
            planned,
            output,
            part=(number, count),
            model=source,
            calibration=text,
            progress=lambda done, total, item: seen.append((done, total)),
        )
        assert seen[-1][0] == seen[-1][1]
        assert all(0 <= done <= total for done, total in seen)
    result = finalize(planned, output)
    assert contents(output) == whole
    assert sorted(result.files) == sorted(whole)
    assert result.method == "gptq"
    assert not partial(output).exists()


def test_all_parts_in_one_go(
    planned: Path, source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    convert_planned(planned, tmp_path / "out", model=source, calibration=text)
    assert contents(tmp_path / "out") == whole
    assert verify(tmp_path / "out", against=source, plan=planned).ok


def test_parts_on_machines_of_their_own(
    planned: Path, source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Each begins with the files of the one before, as `cp DIR/*` brings them."""
    former = None
    for number in (1, 2, 3):
        output = tmp_path / f"machine-{number}" / "out"
        output.parent.mkdir()
        if former is not None:
            partial(output).mkdir()
            for file in sorted(partial(former).glob("[!.]*")):
                shutil.copy(file, partial(output) / file.name)
        convert_part(planned, output, part=(number, 3), model=source, calibration=text)
        former = output
    assert former is not None
    finalize(planned, former)
    assert contents(former) == whole


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixtral", {"profile": "JANG_3M"}),
        ("llama-gqa", {"bits": 6.0}),
        ("llama-tied", {"profile": "JANG_4L"}),
        ("gemma4", {"profile": "JANG_4L"}),
        ("deepseek-v3", {"profile": "JANG_3M"}),
    ],
)
def test_experts_sizes_and_tied_heads(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    vocabulary = {"vocab_size": 4096}
    if name == "gemma4":
        vocabulary["vocab_size_per_layer_input"] = 4096
    shape = vocabulary if name != "llama-gqa" else SHAPE
    source = write_source(tmp_path / "source", name, shape)
    wishes = {**options, "method": "gptq", "group_size": 32, "shard_size": 90_000, **CALIBRATION}
    path, output = tmp_path / "plan.json", tmp_path / "out"
    plan(source, output=path, **wishes)
    # Later layers of gemma4 read keys of the first, so that no hidden states say how to go on.
    count = 1 if name == "gemma4" else 2
    for number in range(1, count + 1):
        convert_part(path, output, part=(number, count), model=source)
    layers = json.loads((source / "config.json").read_text("utf-8"))["num_hidden_layers"]
    most = 1 if name == "gemma4" else layers
    with pytest.raises(ArgumentError, match=f"expected at most {most}, since"):
        convert_part(path, output, part=(1, 99), model=source)
    result = finalize(path, output)
    single = convert(source, tmp_path / "single", **wishes)
    assert contents(output) == contents(tmp_path / "single")
    mine, theirs = result.to_json(), single.to_json()
    for key in ("output", "seconds", "needs"):  # parts state none
        del mine[key], theirs[key]
    assert mine == theirs


# --- what the part before leaves -----------------------------------------------------------------


def test_a_part_names_the_one_it_needs(
    planned: Path, source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(FormatError) as caught:
        convert_part(planned, output, part=(2, 2), model=source, calibration=text)
    assert "part 2 of 2 needs the hidden states that part 1 leaves: run it first" in str(
        caught.value
    )
    match = re.search("`(jang .*?)`", caught.value.hint)
    assert match is not None
    words = shlex.split(match[1])
    assert words[words.index("--part") + 1] == "1/2"
    assert CliRunner().invoke(cli, words[1:], prog_name="jang").exit_code == 0
    with pytest.raises(IoError, match=r"missing [0-9]+ of [0-9]+ shards") as missing:
        finalize(planned, output)
    assert "--part 1/1" in missing.value.hint
    states = next(partial(output).glob("layers-*.states"))
    sound = states.read_bytes()
    for damaged in (sound[:-1], sound[:80] + bytes([sound[80] ^ 1]) + sound[81:], b""):
        states.write_bytes(damaged)
        with pytest.raises(FormatError, match="part 2 of 2 needs the hidden states"):
            convert_part(planned, output, part=(2, 2), model=source, calibration=text)
    notices: list[str] = []
    convert_part(
        planned, output, part=(1, 2), model=source, calibration=text, notice=notices.append
    )
    assert any(line.startswith("not going on behind layer 2 of 4: ") for line in notices)
    assert states.read_bytes() == sound
    convert_part(planned, output, part=(2, 2), model=source, calibration=text)
    finalize(planned, output)
    assert contents(output) == whole


def test_damage_is_named_at_the_end_and_made_again(
    planned: Path, source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for number in (1, 2):
        convert_part(planned, output, part=(number, 2), model=source, calibration=text)
    for name in read_plan_file(planned).shards:
        file = partial(output) / name
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(FormatError, match="expected CRC-32") as caught:
            finalize(planned, output)
        assert "--part 1/1" in caught.value.hint
        convert_part(planned, output, part=(1, 1), model=source, calibration=text)
        assert file.read_bytes() == whole[name]
    (partial(output) / "layers-all.states").unlink()
    with pytest.raises(IoError, match=r"missing layers-all\.states") as missing:
        finalize(planned, output)
    assert "--part 1/1" in missing.value.hint
    convert_part(planned, output, part=(1, 1), model=source, calibration=text)
    finalize(planned, output)
    assert contents(output) == whole


_CHILD = """
import sys
from jang_tools.parts import convert_part

plan, output, model, text, layer = sys.argv[1:]

def progress(done, total, item):
    if item.startswith(layer):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)

convert_part(plan, output, part=(2, 2), model=model, calibration=text, progress=progress)
"""


def test_a_part_that_was_killed_goes_on_behind_its_last_layer(
    planned: Path, source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    convert_part(planned, output, part=(1, 2), model=source, calibration=text)
    killed = subprocess.run(
        [sys.executable, "-c", _CHILD, planned, output, source, text, "model.layers.3.mlp.up"]
    )
    assert killed.returncode == -9
    notices: list[str] = []
    convert_part(
        planned, output, part=(2, 2), model=source, calibration=text, notice=notices.append
    )
    assert notices == ["continuing behind layer 3 of 4"]
    finalize(planned, output)
    assert contents(output) == whole


def test_two_parts_at_once(planned: Path, source: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with (
        PartDirectory(output, read_plan_file(planned)) as work,
        work.layers_lock(),
        pytest.raises(IoError, match="another process makes a part of these layers"),
    ):
        convert_part(planned, output, part=(1, 2), model=source, calibration=text)


# --- what is refused -----------------------------------------------------------------------------


def test_the_text_is_that_of_the_plan(
    planned: Path, source: Path, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(ArgumentError, match=r"calibrated on calibration\.txt") as caught:
        convert_part(planned, output, part=(1, 2), model=source)
    assert caught.value.hint == "give --calibration FILE"
    other = tmp_path / "other.txt"
    other.write_text(text.read_text("utf-8") + "More.\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match="expected the calibration text"):
        convert_part(planned, output, part=(1, 2), model=source, calibration=other)
    with pytest.raises(ArgumentError, match="needs no statistics"):
        convert_part(planned, output, part=(1, 2), model=source, calibration=text, statistics=other)
    assert not partial(output).exists()
    mse = tmp_path / "mse.json"
    plan(source, output=mse, method="mse")
    with pytest.raises(ArgumentError, match="needs no calibration text"):
        convert_part(mse, output, part=(1, 1), model=source, calibration=text)


def test_more_parts_than_layers(planned: Path, source: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="expected at most 4, since hidden states"):
        convert_part(planned, tmp_path / "out", part=(1, 5), model=source, calibration=text)


def test_other_kernels_are_refused(planned: Path, source: Path, text: Path, tmp_path: Path) -> None:
    """Their last digits differ, and with them what the hidden states become."""
    level = json.loads(planned.read_text("utf-8"))["calibration"]["level"]
    if level == "reference":
        pytest.skip("nothing below the reference level")
    program = "from jang_tools.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", "--plan", planned, "--part", "1/2",
         "--model", source, "--calibration", text, "--output", tmp_path / "out"],
        env={**os.environ, "JANG_ISA": "reference"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"expected kernels of the level {level}, found reference" in done.stderr
    assert f"JANG_ISA={level}" in done.stderr


def test_what_cannot_work_on_gptq_says_so(
    planned: Path, source: Path, text: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="engine ray: the parts of method gptq follow"):
        convert_on_ray(planned, tmp_path / "out", model=source)
    convert_planned(planned, tmp_path / "out", model=source, calibration=text)
    with pytest.raises(UnsupportedError, match="no shard can be made again alone"):
        repair(tmp_path / "out", plan=planned, against=source)


def test_a_plan_file_says_what_decides_bytes(planned: Path) -> None:
    document = json.loads(planned.read_text("utf-8"))
    assert document["options"]["method"] == "gptq"
    calibration = document["calibration"]
    assert sorted(calibration) == [
        *("asked_sequences", "level", "sequences", "sha256", "streams", "text", "tokens"),
        "tokens_sha256",
    ]
    assert (calibration["text"], calibration["sequences"], calibration["tokens"]) == (
        *("calibration.txt", 9, 32),
    )


# --- the commands --------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, [str(word) for word in arguments], prog_name="jang")
    assert done.exit_code == code, done.output
    return done


def test_the_commands_work_together(
    source: Path, text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    path, output = tmp_path / "plan.json", tmp_path / "out"
    run("plan", source, "--profile", "4L", "--method", "gptq", "-o", path,
        "--shard-size", 60_000, "--group-size", 32, "--calibration", text,
        "--calibration-sequences", 9, "--calibration-tokens", 32)  # fmt: skip
    part = ("convert", "--plan", path, "--model", source, "--output", output)
    part += ("--calibration", text, "--part")
    assert "Part 1 of 2 is in " in run(*part, "1/2").stdout
    assert json.loads(run(*part, "2/2", "--json").stdout)["schema"] == "jang.part/1"
    run("finalize", "--plan", path, "--output", output)
    assert contents(output) == whole


@pytest.mark.parametrize(
    "options",
    [
        ["--plan", "p", "--calibration-tokens", "32"],
        ["--plan", "p", "--calibration", "t", "--engine", "ray"],
    ],
)
def test_command_lines_that_make_no_sense(options: list[str]) -> None:
    run("convert", "--output", "out", *options, code=2)
    run("plan", "x", "--calibration", "builtin", code=2)
