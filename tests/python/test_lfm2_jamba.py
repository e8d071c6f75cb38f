"""lfm2, lfm2_moe and jamba: names of other writers, and where stock computes something else.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import assert_noticed
from jang_tools import convert
from jang_tools.model import load_model
from stock import assert_same_logits, stock_model
from weight_files import read_weights

GROUPS: dict[str, Any] = {"group_size": 32}


# --- every profile -----------------------------------------------------------------------------


# --- names of others ---------------------------------------------------------------------------


def rewrite(folder: Path, names: dict[str, str], dropped: tuple[str, ...] = ()) -> None:
    """Renames parts of tensors' names and of the keys of the map of widths."""

    def renamed(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    entries = [
        (renamed(key), one.dtype, one.shape, one.payload)
        for key, one in read_weights(folder).items()
    ]
    tiny.write_safetensors(next(folder.glob("model*.safetensors")), entries)
    for file in ("config.json", "jang_config.json"):
        if (folder / file).exists():
            (folder / file).write_text(renamed((folder / file).read_text()))
    for file in dropped:
        (folder / file).unlink(missing_ok=True)


def test_feed_forwards_that_others_renamed_are_read(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["lfm2"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4K", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    expected = load_model(tmp_path / "out")(row)
    parts = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    names = {f"feed_forward.{old}": f"feed_forward.{new}" for old, new in parts.items()}
    rewrite(tmp_path / "out", names, ("model.safetensors.index.json",))
    assert "model.layers.0.feed_forward.up_proj.scales" in read_weights(tmp_path / "out")
    assert np.array_equal(load_model(tmp_path / "out")(row), expected)


def test_a_multimodal_checkpoint_is_its_text_model(tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME["lfm2"], shards=0)
    tiny.write_checkpoint(case, tmp_path / "text")
    tiny.write_checkpoint(case, tmp_path / "whole")
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    rewrite(tmp_path / "whole", {"model.": "model.language_model."})
    wrapper = {"model_type": "lfm2_vl", "vision_config": {}, "text_config": config}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(wrapper))
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(tmp_path / "whole")(row), load_model(tmp_path / "text")(row))
    for folder, output in (("text", "a"), ("whole", "b")):
        convert(tmp_path / folder, tmp_path / output, profile="JANG_2S", method="rtn", **GROUPS)
    assert read_weights(tmp_path / "a") == read_weights(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert written["model_type"] == "lfm2" and "text_config" not in written
    assert_same_logits(tmp_path / "b", row)


# --- calibration -------------------------------------------------------------------------------


# --- running, and stock ------------------------------------------------------------------------


def test_stock_divides_the_weights_of_jambas_experts(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["jamba"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    ours, theirs = load_model(tmp_path / "out", "exact")(row), stock_model(tmp_path / "out")(row)
    assert np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lfm2", {"norm_eps": 0.03}),
        ("lfm2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        ("lfm2-moe", {"norm_topk_prob": False}),
        ("lfm2-moe", {"routed_scaling_factor": 1.5}),
        ("lfm2-moe", {"num_experts_per_tok": 2}),
        ("lfm2-moe-fused", {"routed_scaling_factor": 1.0}),
        ("jamba", {"num_experts_per_tok": 3}),
        ("jamba", {"rms_norm_eps": 0.03}),
    ],
)
def test_parity_notices_a_wrong_key(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    """A check of the comparison with transformers: each key moves logits far beyond it."""
    assert_noticed(kind, change, tmp_path / "wrong")
