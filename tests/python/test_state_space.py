"""mamba, falcon_mamba and mamba2: a head beside tied embeddings, states that do not grow.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert
from jang_tools.model import load_model
from stock import assert_same_logits
from test_parity import stored


@pytest.fixture(scope="module", params=["mamba-biases", "falcon-mamba", "mamba2", "mamba2-groups"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


# --- every profile -----------------------------------------------------------------------------


def test_a_head_of_its_own_is_told_from_a_copy(tmp_path: Path) -> None:
    """Tied files may hold the head as well; stock mlx-lm refuses it."""
    case = tiny.BY_NAME["mamba"]
    tiny.write_checkpoint(case, tmp_path / "source")
    entries = [
        (tensor, case.dtype, values.shape, tiny.encode(values, case.dtype))
        for tensor, values in tiny.tensors(case)
    ]
    head = ("lm_head.weight", *entries[0][1:])
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", [*entries, head])
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    reference = stored("mamba")
    logits = load_model(tmp_path / "source", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(reference["logits"]).max()
    assert_same_logits(tmp_path / "out", tiny.tokens()[0])


# --- calibration -------------------------------------------------------------------------------


# --- running -----------------------------------------------------------------------------------


def test_states_do_not_grow(source: Path) -> None:
    model = load_model(source)
    one = model.core.kv_bytes(1)
    assert model.core.kv_bytes(1_000_000) == 2 * one
