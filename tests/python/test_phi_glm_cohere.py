"""phi3 and glm4: halves of gate and up that others split, longrope past its original positions.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert
from jang_tools.model import load_model
from stock import assert_agreement
from test_parity import TOLERANCE, stored
from weight_files import read_weights

# --- every profile -----------------------------------------------------------------------------


# --- calibration -------------------------------------------------------------------------------


# --- directories of other writers --------------------------------------------------------------


@pytest.mark.parametrize("family", ["phi3", "glm4"])
def test_split_halves_of_gate_and_up_are_read(family: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[family], tmp_path / "source")
    whole, split = tmp_path / "whole", tmp_path / "split"
    convert(tmp_path / "source", whole, profile="uniform-4", method="rtn", group_size=32)
    split.mkdir()
    entries = []
    for path, tensor in read_weights(whole).items():
        if ".gate_up_proj." not in path:
            entries.append((path, tensor.dtype, tensor.shape, tensor.payload))
            continue
        rows, *columns = tensor.shape
        half = len(tensor.payload) // 2
        for i, part in enumerate(("gate_proj", "up_proj")):
            payload = tensor.payload[i * half : (i + 1) * half]
            name = path.replace("gate_up_proj", part)
            entries.append((name, tensor.dtype, (rows // 2, *columns), payload))
    tiny.write_safetensors(split / "model.safetensors", entries)
    config = json.loads((whole / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        for path, entry in list(config[key].items()):
            if path.endswith(".gate_up_proj"):
                del config[key][path]
                for part in ("gate_proj", "up_proj"):
                    config[key][path.replace("gate_up_proj", part)] = entry
    (split / "config.json").write_text(json.dumps(config))
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(split, "exact")(row), load_model(whole, "exact")(row))


# --- longrope ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["phi3-longrope-beyond", "phi3-longrope-window"])
@pytest.mark.parametrize("size", [1, 5, 7, 16])
def test_past_the_original_positions_all_angles_change(
    name: str, size: int, tmp_path: Path
) -> None:
    """Whatever the cuts, logits beyond are those that transformers has for the whole sequence."""
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "model")
    model, reference = load_model(tmp_path / "model", threads=2), stored(name)
    scale = np.abs(reference["logits"]).max()
    for row, expected in zip(reference["tokens"], reference["logits"], strict=True):
        cache = model.cache()
        for at in range(0, len(row), size):
            logits = model(row[at : at + size], cache)
            error = np.abs(logits - expected[at : at + size]).max()
            if cache.length > case.exact_continuation:
                assert error <= TOLERANCE * scale
            elif at > 0:
                assert error > 100 * TOLERANCE * scale  # short sequences have other angles


def test_stock_agrees_past_the_original_positions(tmp_path: Path) -> None:
    """Stock has the factors of long sequences at every length."""
    tiny.write_checkpoint(tiny.BY_NAME["phi3-longrope-beyond"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :17].tolist(), count=12)


# --- what stock cannot load --------------------------------------------------------------------
