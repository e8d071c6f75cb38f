"""minimax (MiniMax-Text-01): stored decays, keys that move logits, refusals. Stock mlx-lm has no
such model.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_checkpoints as tiny
from families import assert_noticed, assert_refused
from jang_tools import FormatError, UnsupportedError, convert
from jang_tools.errors import JangError
from weight_files import read_weights


@pytest.fixture(scope="module", params=["minimax", "minimax-window"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


def test_decays_are_left_out(name: str, source: Path, tmp_path: Path) -> None:
    result = convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    assert [line for line in result.warnings if "stock mlx-lm" in line]
    # They follow from the config, whether a source stores them or not.
    assert not [path for path in read_weights(tmp_path / "out") if "decay" in path]


@pytest.mark.parametrize(
    "change",
    [
        {"full_attn_alpha_factor": 1.0},
        {"full_attn_beta_factor": 1.0},
        {"linear_attn_alpha_factor": 1.0},
        {"linear_attn_beta_factor": 1.0},
        {"mlp_alpha_factor": 1.0},
        {"mlp_beta_factor": 1.0},
        {"num_experts_per_tok": 1},
        {"sliding_window": 8},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ],
)
def test_parity_notices_a_wrong_key(change: dict[str, Any], tmp_path: Path) -> None:
    assert_noticed("minimax", change, tmp_path / "wrong", absent=())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer_types": ["full_attention"]}, FormatError, ["layer_types", "4 layers"]),
        (
            {"layer_types": ["full_attention", "mamba", "full_attention", "linear_attention"]},
            FormatError,
            ["layer_types", "layer 1", "mamba"],
        ),
        ({"layer_types": "linear_attention"}, FormatError, ["layer_types", "list"]),
        ({"mlp_beta_factor": 1e7}, FormatError, ["mlp_beta_factor", "found 10000000"]),
        ({"linear_attn_alpha_factor": "1"}, FormatError, ["linear_attn_alpha_factor", "number"]),
        ({"rotary_dim": 16}, UnsupportedError, ["rotary_dim", "32", "found 16"]),
        ({"hidden_act": "gelu"}, UnsupportedError, ["hidden_act", "gelu"]),
        ({"num_local_experts": 1}, FormatError, ["num_experts_per_tok", "found 2"]),
        ({"head_dim": 1 << 22}, FormatError, ["head_dim", "2^24"]),
    ],
)
def test_hostile_configs_are_refused_in_one_line(
    change: dict[str, Any], error: type[JangError], words: list[str], tmp_path: Path
) -> None:
    assert_refused("minimax", change, error, words, tmp_path / "source")
