"""jang verify --repair: whatever was damaged comes back byte for byte, and nothing else is touched;
what another plan made is refused before anything is replaced."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jang_tools import _core, convert, plan, verify
from jang_tools.cli.main import cli
from jang_tools.errors import ArgumentError, FormatError, IoError, UnsupportedError
from jang_tools.plan_file import read_plan_file
from jang_tools.repair import refuse_method, repair
from jang_tools.sha256sums import SUMS
from lattice_checkpoints import round_bf16, write_on_lattices

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
OPTIONS: dict[str, Any] = {"profile": "JANG_4L", "method": "rtn", "shard_size": 900_000}
MANIFEST = "jang_config.json"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan(DEMO, output=path, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    convert(DEMO, output, **OPTIONS)
    return output


@pytest.fixture
def directory(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "out"))


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def flip(file: Path, place: int | None = None) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    file.write_bytes(data)


def shard(planned: Path, number: int) -> str:
    return str(read_plan_file(planned).shards[number])


def leftover(directory: Path) -> Path:
    return directory.with_name(directory.name + ".partial")


# --- what comes back -----------------------------------------------------------------------------


def test_exactly_what_is_damaged_is_made_again(
    planned: Path, pristine: Path, directory: Path
) -> None:
    first, second, third = (shard(planned, number) for number in (0, 1, 3))
    (directory / first).unlink()
    os.truncate(directory / second, 1000)
    flip(directory / third)
    untouched = {
        name: (directory / name).stat().st_mtime_ns
        for name in os.listdir(directory)
        if name not in (first, second, third)
    }
    found = verify(directory, plan=planned)
    assert not found.ok and found.damaged == sorted((first, second, third))
    done = repair(directory, plan=planned, against=DEMO)
    assert [damage.file for damage in done.damaged] == sorted((first, second, third))
    reasons = {damage.file: damage.reason for damage in done.damaged}
    assert reasons[first] == "missing"
    assert "found 1000" in reasons[second]
    assert "CRC-32" in reasons[third]
    assert sorted(done.replaced) == sorted((first, second, third))
    assert contents(directory) == contents(pristine)
    for name, changed in untouched.items():
        assert (directory / name).stat().st_mtime_ns == changed
    assert not leftover(directory).exists()
    assert verify(directory, against=DEMO, plan=planned).ok


@pytest.mark.parametrize("name", ["config.json", MANIFEST, "tokenizer.json", SUMS])
@pytest.mark.parametrize("harm", [Path.unlink, flip, lambda file: file.write_bytes(b"")])
def test_every_document_comes_back(
    name: str,
    harm: Callable[[Path], None],
    planned: Path,
    pristine: Path,
    directory: Path,
) -> None:
    harm(directory / name)
    if name == SUMS:  # a shard beside it, judged by the checksums in the manifest
        flip(directory / shard(planned, 2))
    done = repair(directory, plan=planned, against=DEMO)
    assert name in done.replaced
    assert contents(directory) == contents(pristine)
    assert verify(directory).ok


def test_any_bit_of_any_file(planned: Path, pristine: Path, directory: Path) -> None:
    numbers = random.Random(11)
    expected = contents(pristine)
    for name in sorted(expected):
        for place in (0, numbers.randrange(len(expected[name])), len(expected[name]) - 1):
            flip(directory / name, place)
            repair(directory, plan=planned, against=DEMO)
            assert contents(directory) == expected, (name, place)


def test_a_sound_directory_is_left_alone(planned: Path, pristine: Path, directory: Path) -> None:
    times = {name: (directory / name).stat().st_mtime_ns for name in os.listdir(directory)}
    done = repair(directory, plan=planned, against=DEMO)
    assert done.damaged == [] and done.replaced == []
    assert {name: (directory / name).stat().st_mtime_ns for name in times} == times
    assert contents(directory) == contents(pristine)


def test_a_wrong_line_of_the_sums_is_put_right(
    planned: Path, pristine: Path, directory: Path
) -> None:
    """The shard was right all along, and is not replaced."""
    name = shard(planned, 1)
    lines = (directory / SUMS).read_bytes().split(b"\n")
    changed = [
        (b"0" if line[:1] != b"0" else b"1") + line[1:] if line.endswith(name.encode()) else line
        for line in lines
    ]
    (directory / SUMS).write_bytes(b"\n".join(changed))
    done = repair(directory, plan=planned, against=DEMO)
    assert [damage.file for damage in done.damaged] == [name]
    assert done.replaced == [SUMS]
    assert contents(directory) == contents(pristine)


def test_lattices_are_counted_again(tmp_path: Path) -> None:
    """The manifest says of every tensor on a lattice how many groups lose nothing; only making the
    shard tells."""
    source, path, output = tmp_path / "source", tmp_path / "plan.json", tmp_path / "out"
    write_on_lattices(DEMO, source, "F16", round_bf16)
    options: dict[str, Any] = {"profile": "JANG_4L", "shard_size": 2_000_000}
    plan(source, output=path, read_weights=True, **options)
    result = convert(source, output, **options)
    assert result.lattices is not None
    expected = contents(output)
    (output / MANIFEST).write_text("{}")
    assert MANIFEST in repair(output, plan=path, against=source).replaced
    assert contents(output) == expected


def test_an_interruption_anywhere_goes_on(
    planned: Path, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(pristine)
    for step in range(0, 60, 4):
        directory = Path(shutil.copytree(pristine, tmp_path / f"out-{step}"))
        flip(directory / shard(planned, 0))
        (directory / shard(planned, 2)).unlink()
        (directory / MANIFEST).unlink()
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
            for name in ("unlink", "replace", "rename", "fsync", "rmdir"):
                patch.setattr(os, name, stopping(getattr(os, name)))
            patch.setattr(Path, "unlink", stopping(Path.unlink))
            with suppress(KeyboardInterrupt):
                repair(directory, plan=planned, against=DEMO)
        repair(directory, plan=planned, against=DEMO)
        assert contents(directory) == expected, step
        assert not leftover(directory).exists()
        shutil.rmtree(directory)


# --- what is refused -----------------------------------------------------------------------------


def test_a_directory_of_another_plan(planned: Path, directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    plan(DEMO, output=other, **{**OPTIONS, "method": "mse"})  # the same shards and sizes
    flip(directory / shard(planned, 0))
    before = contents(directory)
    with pytest.raises(ArgumentError, match="quantization_method: expected 'mse'") as caught:
        repair(directory, plan=other, against=DEMO)
    assert caught.value.hint == "use the plan that the directory was made by"
    (directory / MANIFEST).unlink()
    before = contents(directory)
    with pytest.raises(ArgumentError, match="made again it is not what SHA256SUMS says"):
        repair(directory, plan=other, against=DEMO)
    assert contents(directory) == before
    assert not leftover(directory).exists()
    plan(DEMO, output=tmp_path / "large.json", **{**OPTIONS, "shard_size": 2_000_000})
    with pytest.raises(ArgumentError, match="which is no shard of"):
        repair(directory, plan=tmp_path / "large.json", against=DEMO)


def test_another_source(planned: Path, directory: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(DEMO, tmp_path / "source"))
    flip(source / "model.safetensors", (DEMO / "model.safetensors").stat().st_size - 1)
    for name in read_plan_file(planned).shards:
        flip(directory / name)
    before = contents(directory)
    with pytest.raises(ArgumentError, match="made again it is not what"):
        repair(directory, plan=planned, against=source)
    assert contents(directory) == before
    flip(source / "config.json")
    with pytest.raises(FormatError, match="expected content with the SHA-256"):
        repair(directory, plan=planned, against=source)


def test_nothing_to_judge_by(planned: Path, directory: Path) -> None:
    (directory / SUMS).unlink()
    (directory / MANIFEST).write_bytes(b"{}")
    with pytest.raises(FormatError, match="neither SHA256SUMS nor jang_config") as caught:
        repair(directory, plan=planned, against=DEMO)
    assert "makes the directory anew" in caught.value.hint
    with pytest.raises(IoError, match="no such directory"):
        repair(directory / "none", plan=planned, against=DEMO)


def test_layers_that_build_on_each_other(planned: Path) -> None:
    class Gptq:
        method = "gptq"

    with pytest.raises(UnsupportedError, match="no shard can be made again alone") as caught:
        refuse_method(Gptq(), "plan.json")  # type: ignore[arg-type]
    assert "jang convert --plan plan.json" in caught.value.hint
    refuse_method(read_plan_file(planned), planned)


def test_other_work_beside_is_left_alone(planned: Path, directory: Path) -> None:
    leftover(directory).mkdir()
    (leftover(directory) / "notes.txt").write_text("mine")
    flip(directory / shard(planned, 0))
    with pytest.raises(IoError, match="holds no parts of a plan"):
        repair(directory, plan=planned, against=DEMO)
    assert contents(leftover(directory)) == {"notes.txt": b"mine"}


def test_a_sound_shard_gets_its_record_back(planned: Path, pristine: Path, tmp_path: Path) -> None:
    """The record that a part writes, from the bytes of the shard and of the source."""
    from jang_tools.parts import convert_part

    made = convert_part(planned, tmp_path / "out", part=(1, 1), model=DEMO).directory
    core = _core.PlannedShards(read_plan_file(planned), str(planned), str(DEMO))
    for number, name in enumerate(read_plan_file(planned).shards):
        assert core.record(str(pristine), str(tmp_path), number)
        record = name.replace(".safetensors", ".record")
        assert (tmp_path / record).read_bytes() == (made / record).read_bytes()


# --- the command ---------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(cli, [str(word) for word in arguments], prog_name="jang")
    assert done.exit_code == code, done.output
    return done


def test_the_command(planned: Path, pristine: Path, directory: Path) -> None:
    name = shard(planned, 1)
    flip(directory / name)
    done = run("verify", directory, "--plan", planned, code=1)
    assert f"damaged files of the plan: {name}" in done.stdout
    assert f"--repair --plan {planned} --against SOURCE" in done.stderr
    repairing = ("verify", directory, "--repair", "--plan", planned, "--against", DEMO)
    done = run(*repairing)
    assert re_made(done.stdout) == [name]
    assert done.stdout.splitlines()[-1] == "OK"
    assert contents(directory) == contents(pristine)
    document = json.loads(run(*repairing, "--json").stdout)
    assert document["ok"] and document["damaged"] == []
    assert document["repair"]["damaged"] == [] and document["repair"]["replaced"] == []
    assert "nothing is damaged" in run(*repairing).stdout


def re_made(text: str) -> list[str]:
    return [line.split(":")[0] for line in text.splitlines() if line.endswith(": made again")]


@pytest.mark.parametrize(
    "options",
    [
        ["--repair"],
        ["--repair", "--plan", "p"],
        ["--repair", "--against", "s"],
        ["--statistics", "s"],
    ],
)
def test_command_lines_that_make_no_sense(options: list[str]) -> None:
    run("verify", "x", *options, code=2)
