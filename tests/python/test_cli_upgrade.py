"""`jang upgrade` as text and as JSON, and the commands that read JANG v1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import old_jang as old
import tiny_checkpoints as tiny
from test_cli_commands import DEMO, document, jang, succeed


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """With the tokenizer of the demo model."""
    case = tiny.Case("v1", {**tiny.READABLE, "head_dim": 32})
    old.write_v1(case, tmp_path / "v1", "1.1")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / file, tmp_path / "v1" / file)
    return tmp_path / "v1"


def test_text_names_every_change(v1: Path, tmp_path: Path) -> None:
    done = jang("upgrade", v1, "--output", tmp_path / "v2")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("model.embed_tokens: stored as weight, scales and biases")
    assert "model.embed_tokens.qweight" in lines[0]
    assert any(line.startswith("directory: index, config.json") for line in lines)
    assert lines[-2].startswith(f"{len(lines) - 2} changes to JANG v1 | Size: ")
    assert lines[-1] == f"Wrote {tmp_path / 'v2'}"
    assert succeed("verify", tmp_path / "v2") == "OK\n"


def test_json_is_one_document(v1: Path, tmp_path: Path) -> None:
    found = document("upgrade", v1, "-o", tmp_path / "v2")
    assert found["schema"] == "jang.upgrade/1"
    assert found["source_format"] == "jang-v1"
    assert found["output"] == str(tmp_path / "v2")
    assert {"tensor", "what", "why"} == set(found["changes"][0])
    again = document("upgrade", tmp_path / "v2", "-o", tmp_path / "v3")
    assert again["output"] is None and again["changes"] == []
    text = succeed("upgrade", tmp_path / "v2", "-o", tmp_path / "v3")
    assert text.startswith("Nothing to do")
    assert not (tmp_path / "v3").exists()


def test_an_output_in_the_way(v1: Path, tmp_path: Path) -> None:
    succeed("upgrade", v1, "-o", tmp_path / "v2")
    done = jang("upgrade", v1, "-o", tmp_path / "v2")
    assert done.exit_code == 1
    assert "already exists" in done.stderr and "--force" in done.stderr
    succeed("upgrade", v1, "-o", tmp_path / "v2", "--force")
    (tmp_path / "mine").mkdir()
    done = jang("upgrade", v1, "-o", tmp_path / "mine", "--force")
    assert done.exit_code == 1 and "not a directory that jang-tools wrote" in done.stderr


def test_plain_models_are_for_convert(tmp_path: Path) -> None:
    done = jang("upgrade", DEMO, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "not quantized" in done.stderr and "hint: `jang convert`" in done.stderr
    assert not list(tmp_path.iterdir())


def test_v1_in_the_other_commands(v1: Path, tmp_path: Path) -> None:
    found = document("inspect", v1, "--tensors")
    assert found["format"] == "jang-v1" and found["average_bits"] == 4
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert tensors["model.layers.0.mlp.up_proj"]["shape"] == [224, 128]
    assert document("verify", v1)["ok"] is True
    arguments = ("--prompt", "Once upon a time", "--max-tokens", "8", "--temperature", "0")
    text = succeed("run", "--model", v1, *arguments)
    succeed("upgrade", v1, "-o", tmp_path / "v2")
    assert text and succeed("run", "--model", tmp_path / "v2", *arguments) == text


def test_convert_refuses_v1(v1: Path, tmp_path: Path) -> None:
    done = jang("convert", "--model", v1, "--output", tmp_path / "out")
    assert done.exit_code == 1 and "JANG v1" in done.stderr


def test_old_maps_point_to_the_command(tmp_path: Path) -> None:
    old.write_old_v2(tiny.BY_NAME["llama"], tmp_path / "old", width=lambda name: 4)
    done = jang("run", "--model", tmp_path / "old", "--prompt", "x")
    assert done.exit_code == 1
    assert "jang upgrade" in done.stderr
    json.loads(jang("upgrade", tmp_path / "old", "-o", tmp_path / "new", "--json").stdout)
