"""qwen2_moe, olmoe, granitemoe, phimoe and minimax_m2: keys that move logits, biases that only
stock mlx-lm has, and where it computes something else.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
import tiny_experts
from families import assert_noticed
from jang_tools import convert, plan, verify
from jang_tools.model import load_model
from stock import assert_agreement, stock_model
from weight_files import read_weights

# Widths of experts that groups of 64 divide, and as many experts in each.


# --- every profile -----------------------------------------------------------------------------


# --- calibration -------------------------------------------------------------------------------


# --- what differs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen2-moe", {"norm_topk_prob": True}),
        ("qwen2-moe-sparse", {"norm_topk_prob": False}),
        ("qwen2-moe-window", {"sliding_window": 24}),
        ("qwen2-moe-window", {"max_window_layers": 2}),
        ("qwen2-moe-windows-listed", {"layer_types": None}),
        ("olmoe-clip", {"clip_qkv": None}),
        ("olmoe-clip", {"clip_qkv": 1.0}),
        ("olmoe", {"norm_topk_prob": True}),
        ("granitemoe", {"attention_multiplier": 1.0}),
        ("granitemoe", {"residual_multiplier": 1.0}),
        ("granitemoe", {"embedding_multiplier": 1.0}),
        ("granitemoe", {"logits_scaling": 1.0}),
        ("granitemoe", {"num_experts_per_tok": 3}),
        ("phimoe", {"router_jitter_noise": 0.01}),
        ("phimoe-longrope", {"sliding_window": None}),
        ("minimax-m2", {"rope_parameters": tiny_experts.rope(5e6)}),
        ("minimax-m2", {"rope_parameters": tiny_experts.rope(1e4, partial_rotary_factor=0.5)}),
        ("minimax-m2", {"num_experts_per_tok": 2}),
        ("phimoe-longrope", {"original_max_position_embeddings": 8}),
    ],
)
def test_parity_notices_a_wrong_key(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """A check of the comparison with transformers: each key moves logits far beyond it."""
    assert_noticed(name, change, tmp_path / "wrong")


@pytest.mark.parametrize("name", ["qwen2-moe", "phimoe-plain"])
def test_biases_that_stock_always_has_are_written_as_zeros(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    bare = replace(case, config={**case.config, "qkv_bias": False})
    tiny.write_checkpoint(bare, tmp_path / "source")
    planned = plan(tmp_path / "source", profile="JANG_4L", group_size=32)
    options: dict[str, Any] = {"profile": "JANG_4L", "method": "rtn", "group_size": 32}
    result = convert(tmp_path / "source", tmp_path / "out", **options)
    assert result.bytes == planned.bytes
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    before, after = (read_weights(tmp_path / folder) for folder in ("source", "out"))
    added = {path: one for path, one in after.items() if path.endswith("_proj.bias")}
    assert len(added) == 4 * (4 if name == "phimoe-plain" else 3)
    assert not added.keys() & before.keys()
    if name == "phimoe-plain":
        added["lm_head.bias"] = after["lm_head.bias"]
    kept = next(iter(before.values())).dtype
    assert all(not any(one.payload) and one.dtype == kept for one in added.values())
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :8].tolist(), count=12)
    # A value that is not 0 is noticed.
    path = "model.layers.0.self_attn.k_proj.bias"
    entries = [
        (key, one.dtype, one.shape, b"\1" * len(one.payload) if key == path else one.payload)
        for key, one in after.items()
    ]
    file = next((tmp_path / "out").glob("*.safetensors"))
    tiny.write_safetensors(file, entries)
    faults = verify(tmp_path / "out", against=tmp_path / "source").faults
    assert [fault for fault in faults if path in str(fault)]


def test_stock_agrees_past_the_original_positions(tmp_path: Path) -> None:
    """Where both take the long factors and their magnitude; stock does at every length."""
    case = tiny.BY_NAME["phimoe"]
    config = {**case.config, "rope_parameters": tiny_experts.longrope(16)}
    tiny.write_checkpoint(replace(case, config=config), tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :17].tolist(), count=12)
    short = tiny.tokens()[0, :16]
    ours = load_model(tmp_path / "out", "exact")(short)
    theirs = stock_model(tmp_path / "out")(short)
    assert np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max()
