"""qwen3_5 and qwen3_next: sources of half precision, stock conversions of released checkpoints.

What every family must do is in test_every_family*.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, verify
from jang_tools.model import load_model
from stock import assert_same_logits, convert_by_stock


def test_half_precision_sources(tmp_path: Path) -> None:
    """Norms become gamma in the source's own dtype."""
    case = tiny.BY_NAME["qwen3-5-bf16"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", group_size=32)
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    assert_same_logits(tmp_path / "out", tiny.tokens()[0])


@pytest.mark.parametrize("name", ["qwen3-5", "qwen3-next"])
def test_stock_conversions_run_here(name: str, tmp_path: Path) -> None:
    """Stock shifts their norms itself."""
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source", "old")
    path = tmp_path / "source" / "config.json"
    values = json.loads(path.read_text())
    # Stock knows the outer name alone and reads other keys than transformers wrote.
    values["model_type"] = values["model_type"].removesuffix("_text")
    values["rope_parameters"] = {
        "type": "default",
        "rope_theta": values["rope_theta"],
        "partial_rotary_factor": values["partial_rotary_factor"],
    }
    path.write_text(json.dumps(values), encoding="utf-8")
    convert_by_stock(tmp_path / "source", tmp_path / "stock")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert_same_logits(tmp_path / "stock", tiny.long_tokens(tiny.BY_NAME[name])[0])
