"""Interrupted conversions: the same call continues, to the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.errors import FormatError, IoError
from jang_tools.partial_output import PartialOutput
from jang_tools.resume import resume_key

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
STATE = ".resume-layers"
LOSSES = ".resume-losses"
SHAPE = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
}
OPTIONS: dict[str, Any] = {
    "profile": "JANG_4L",
    "method": "gptq",
    "group_size": 32,
    "calibration_sequences": 9,
    "calibration_tokens": 32,
    "threads": 2,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:8_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "source"
    case = tiny.BY_NAME["llama-gqa"]
    tiny.write_checkpoint(replace(case, config={**case.config, **SHAPE}), folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def undisturbed(source: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """SHA256SUMS of a conversion that nothing happened to."""
    output = tmp_path_factory.mktemp("whole") / "out"
    convert(source, output, calibration=text, **OPTIONS)
    return sums(output)


def sums(output: Path) -> bytes:
    return (output / "SHA256SUMS").read_bytes()


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def stopped(source: Path, output: Path, error: BaseException, **options: Any) -> BaseException:
    """What a conversion raises that ``error`` ends in its third layer."""

    def progress(done: int, total: int, item: str) -> None:
        if item == "model.layers.2.self_attn.q_proj.weight":
            raise error

    with pytest.raises(type(error)) as caught:
        convert(source, output, progress=progress, **options)
    return caught.value


# --- what stays, and what is continued -----------------------------------------------------------


def test_an_interruption_is_continued(
    source: Path, text: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    error = stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
    assert error.hint == f"{partial(output)} keeps what is done: the same command continues there"  # type: ignore[attr-defined]
    assert (partial(output) / STATE).is_file()
    notices: list[str] = []
    convert(source, output, calibration=text, notice=notices.append, **{**OPTIONS, "threads": 1})
    assert notices == ["continuing behind layer 2 of 4"]
    assert sums(output) == undisturbed
    assert not partial(output).exists()
    assert not any(name.startswith(".") for name in os.listdir(output))
    assert verify(output, against=source).ok


def test_an_interruption_while_hashing_repeats_nothing(
    source: Path, text: Path, undisturbed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"

    def interrupted(*_: Any, **__: Any) -> dict[str, str]:
        raise KeyboardInterrupt

    module = sys.modules["jang_tools.convert"]  # the package has the function of that name
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "hash_files", interrupted)
        convert(source, output, calibration=text, **OPTIONS)
    notices: list[str] = []
    convert(source, output, calibration=text, notice=notices.append, **OPTIONS)
    assert notices == ["continuing: all tensors were quantized before"]
    assert sums(output) == undisturbed


def test_a_full_disk_keeps_the_work_and_a_bad_file_does_not(
    source: Path, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    full = IoError("no space", code="no_space", hint="free some space")
    error = stopped(source, output, full, calibration=text, **OPTIONS)
    assert error.hint.startswith("free some space; ")  # type: ignore[attr-defined]
    assert (partial(output) / STATE).is_file()
    stopped(source, output, FormatError("bad"), calibration=text, **OPTIONS)
    assert not partial(output).exists()


def test_before_the_first_layer_nothing_stays(source: Path, text: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int, item: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        convert(source, tmp_path / "out", calibration=text, progress=progress, **OPTIONS)
    assert not hasattr(caught.value, "hint")
    assert not partial(tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "JANG_3M"},
        {"calibration_tokens": 33},
        {"rules": ["lm_head=8:32"]},
        {"dtype": "f16"},
    ],
)
def test_other_options_start_afresh(
    change: dict[str, Any], source: Path, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
    changed = {**OPTIONS, **change}
    notices: list[str] = []
    convert(source, output, calibration=text, notice=notices.append, **changed)
    assert len(notices) == 1
    assert notices[0].startswith("starting afresh: ")
    assert "other options" in notices[0]
    convert(source, tmp_path / "whole", calibration=text, **changed)
    assert sums(output) == sums(tmp_path / "whole")


def test_other_methods_clear_what_was_left(source: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
    notices: list[str] = []
    convert(source, output, method="rtn", notice=notices.append)
    assert [line.split(":")[0] for line in notices] == ["starting afresh"]
    assert verify(output).ok
    assert not partial(output).exists()


def test_damage_starts_afresh(source: Path, text: Path, undisturbed: bytes, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for name in (STATE, "model-00001-of-00001.safetensors"):
        stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
        damaged = bytearray((partial(output) / name).read_bytes())
        damaged[10] ^= 1
        (partial(output) / name).write_bytes(damaged)
        notices: list[str] = []
        convert(source, output, calibration=text, notice=notices.append, **OPTIONS)
        assert [line.split(":")[0] for line in notices] == ["starting afresh"]
        assert sums(output) == undisturbed
        shutil.rmtree(output)


def test_a_foreign_file_beside_the_state_is_refused(
    source: Path, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
    (partial(output) / STATE).unlink()
    (partial(output) / STATE).symlink_to(source / "config.json")
    with pytest.raises(IoError, match=STATE):
        convert(source, output, calibration=text, **OPTIONS)
    assert (source / "config.json").is_file()


def test_space_is_checked_with_state_and_without_what_is_there(
    source: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    module = sys.modules["jang_tools.convert"]  # the package has the function of that name
    monkeypatch.setattr(
        module, "_check_space", lambda directory, needed, parts: asked.append(needed)
    )
    convert(source, tmp_path / "rtn", method="rtn", profile="JANG_4L", group_size=32)
    output = tmp_path / "out"
    stopped(source, output, KeyboardInterrupt(), calibration=text, **OPTIONS)
    state = (partial(output) / STATE).stat().st_size
    convert(source, output, calibration=text, **OPTIONS)
    plain, first, second = asked
    assert first >= plain + 2 * state
    assert second <= first - state


# --- kills ---------------------------------------------------------------------------------------

_CHILD = """
import json, os, signal, sys, threading
from jang_tools import convert
items, delay = int(sys.argv[4]), float(sys.argv[5])
sys.modules["jang_tools.convert"]._RESUME_STRETCH = int(sys.argv[6])
count = 0
def progress(done, total, item):
    global count
    if ".self_attn." not in item:  # polls, and what other threads may finish
        return
    count += 1
    if count == items and not delay:
        os.kill(os.getpid(), signal.SIGKILL)
    if count == items:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
convert(
    sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]),
    progress=progress, notice=lambda line: print(line, flush=True),
)
print(count)
"""


def run_child(
    output: Path, options: dict[str, Any], items: int, delay: float, stretch: int = 0
) -> list[str]:
    """Lines of a conversion of the demo model, killed ``delay`` seconds behind an item if not 0."""
    arguments = [str(DEMO), str(output), json.dumps(options), str(items), str(delay), str(stretch)]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == (-signal.SIGKILL if items else 0)
    return done.stdout.splitlines()


# Six layers of four matrices that count; with bits all are measured first.
@pytest.mark.parametrize(
    ("width", "moments"),
    [({"profile": "JANG_4L"}, [7, 8, 5]), ({"bits": 9.5, "rules": ["*mlp*=none"]}, [27, 14])],
)
def test_kills_at_any_moment(
    width: dict[str, Any], moments: list[int], text: Path, tmp_path: Path
) -> None:
    options = {
        **width,
        "method": "gptq",
        "calibration": str(text),
        "calibration_sequences": 8,
        "calibration_tokens": 32,
        "threads": 2,
    }
    assert run_child(tmp_path / "whole", options, 0, 0) == ["48" if "bits" in width else "24"]
    output = tmp_path / "out"
    notices: list[str] = []
    delays = random.Random(17)
    for items in moments:
        notices += run_child(output, options, items, delays.uniform(0, 0.03))
        assert not output.exists()
    notices += run_child(output, options, 0, 0)[:-1]
    assert notices
    assert all(line.startswith("continuing ") for line in notices), notices
    assert notices[-1].startswith("continuing behind layer ")
    assert sums(output) == sums(tmp_path / "whole")


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_kills_between_tensors(method: str, tmp_path: Path) -> None:
    options = {"profile": "JANG_4L", "method": method, "threads": 1}
    run_child(tmp_path / "whole", options, 0, 0)
    output = tmp_path / "out"
    notices: list[str] = []
    for items in (3, 5, 9):
        notices += run_child(output, options, items, 0, stretch=1)
        assert not output.exists()
        assert (partial(output) / STATE).is_file()
    notices += run_child(output, options, 0, 0, stretch=1)[:-1]
    assert len(notices) == 3
    assert all(line.startswith("continuing behind tensor ") for line in notices), notices
    assert sums(output) == sums(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_command_by_a_signal_says_how_to_continue(
    text: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "jang_tools.cli.main", "convert", "--model", str(DEMO)]
    command += ["--method", "gptq", "--calibration", str(text), "--calibration-tokens", "64"]
    command += ["--calibration-sequences", "16", "--threads", "1", "-o", str(output)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (partial(output) / STATE).exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-2:] == [
        "interrupted",
        f"hint: {partial(output)} keeps what is done: the same command continues there",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "continuing behind layer " in done.stderr
    assert done.stdout.startswith("Quantizing with GPTQ")
    assert verify(output).ok


# --- the key -------------------------------------------------------------------------------------


def test_the_key_changes_with_all_that_bytes_depend_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)

    def key(options: dict[str, Any] | None = None, ids: Any = ids, statistics: str = "") -> str:
        return resume_key(copy, options or {"bits": 4.0}, ids, statistics)

    first = key()
    assert key() == first
    seen = {first, key({"bits": 4.5}), key(ids=ids.reshape(4, 3)), key(ids=ids + 1)}
    seen.add(key(statistics="a" * 64))
    weights = next(copy.glob("*.safetensors"))
    os.utime(weights, ns=(1, 1))
    seen.add(key())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    seen.add(key())
    changed = bytearray(weights.read_bytes())
    changed[20] ^= 1
    weights.write_bytes(changed)
    os.utime(weights, ns=(1, 1))
    seen.add(key())
    monkeypatch.setattr("jang_tools.resume._program", lambda: ["2.0", "reference", "00"])
    seen.add(key())
    assert len(seen) == 9
    (copy / "notes.txt").write_text("no part of the model\n")
    assert key() in seen


def test_state_is_known_to_partial_directories(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PartialOutput(tmp_path / "a", resume=True) as work:
        (work.path / LOSSES).write_bytes(b"losses")
        (work.path / f"{STATE}.new").write_bytes(b"half")
        (work.path / "model-00001-of-00001.safetensors").write_bytes(b"half")
        (work.path / "tokenizer.json").write_bytes(b"{}")
        (work.path / ".calibration-full").write_bytes(b"scratch")
        raise KeyboardInterrupt
    with PartialOutput(tmp_path / "a", resume=True) as work:
        names = {LOSSES, ".jang-partial", "model-00001-of-00001.safetensors"}
        assert set(os.listdir(work.path)) == names
        assert work.kept_bytes() > 0
        work.commit()
    assert os.listdir(tmp_path / "a") == ["model-00001-of-00001.safetensors"]
