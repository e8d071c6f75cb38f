"""Every model family against stock mlx-lm, in both directions: unquantized output loads strictly
there with the same logits and the same greedy text, and what stock writes runs here.

Profiles are compared in test_every_family_profiles.py; test_mlx.py compares every variant at one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_checkpoints as tiny
from families import ROWS, Row, manifest, write_readable
from jang_tools import convert, verify
from jang_tools.model import load_model
from stock import assert_agreement, convert_by_stock, stock_model

GROUPS: dict[str, Any] = {"group_size": 32}
PROMPT = tiny.tokens()[0, :8].tolist()


@pytest.fixture(scope="module", params=[row for row in ROWS if row.has_stock], ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    return found


def test_unquantized_output_and_stock_conversions_of_it_agree(row: Row, tmp_path: Path) -> None:
    """What stock requires stands in what we write; its own conversion starts from that."""
    tiny.write_checkpoint(row.case, tmp_path / "source", "old")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    assert_agreement(tmp_path / "out", prompt=PROMPT, count=16)
    (tmp_path / "out" / "jang_config.json").unlink()
    convert_by_stock(tmp_path / "out", tmp_path / "stock")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert verify(tmp_path / "stock").ok
    assert_agreement(tmp_path / "stock", prompt=PROMPT, count=16)


@pytest.mark.parametrize("routed", [row for row in ROWS if row.routers], ids=str)
def test_packed_routers_agree(routed: Row, tmp_path: Path) -> None:
    write_readable(routed, tmp_path / "source")
    for options in ({"profile": "uniform-4"}, {"router_bits": 8}):
        out = tmp_path / "-".join(options)
        convert(tmp_path / "source", out, method="rtn", **options)
        assert any(entry["role"] == "router" for entry in manifest(out).values())
        assert_agreement(out, count=16)


# What is missing there, or would compute something else: biases, norms of queries and keys, a head
# of its own or a tied one, a layer without experts, another order of layers.
REFUSED = {
    "phi-qk-norm": "",
    "phi-erf-tied": "",
    "cohere-untied": "",
    "cohere2-any-order": "",
    "qwen2-moe-sparse": "",
    "phimoe-longrope": "",
    "lfm2-untied": "",
    "jamba-sparse": "",
    "deepseek-v3-halves": "lm_head",
    "deepseek-v2-mlp-bias": "bias",
    "gemma4-all": "bias",
}


@pytest.mark.parametrize("name", REFUSED)
def test_stock_refuses_rather_than_answers_wrongly(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    with pytest.raises((ValueError, ZeroDivisionError), match=REFUSED[name]):
        stock_model(tmp_path / "out")
