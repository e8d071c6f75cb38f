"""Every model family by measured losses and by statistics of its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from families import LENGTH, Row, only_looked_up, solve
from jang_tools import convert, plan, verify
from jang_tools.statistics import collect, load_statistics
from stock import assert_same_logits


def test_sizes_are_chosen_by_measured_losses(
    row: Row, readable: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": None, "bits": 6.0, "group_size": row.group_size}
    routers = {"router_bits": 8} if row.routers else {}
    # Few tokens: every candidate is measured on each of them.
    result = solve(readable, tmp_path / "out", text, 2, calibration_tokens=32, **options, **routers)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "out", against=readable).ok
    if row.has_stock:
        assert_same_logits(tmp_path / "out", np.arange(5, 4000, 90, dtype=np.int32))


def test_statistics_meet_every_matrix(row: Row, readable: Path, text: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    lengths = {"calibration_sequences": 4, "calibration_tokens": LENGTH}
    collect(readable, sums, calibration=text, **lengths)
    # With routers, which most profiles leave as they are.
    packed = plan(readable, profile="uniform-3", router_bits=8, group_size=row.group_size)
    wanted = {module.path for module in packed.modules} - only_looked_up(packed, row.case.tied)
    found = load_statistics(sums, readable).mean_squares.keys()
    assert wanted <= found
    assert {path.rpartition(".")[2] for path in found - wanted} == set(row.unpacked)
    options: dict[str, Any] = {"profile": "uniform-3", "method": "mse"}
    options["group_size"] = row.group_size
    convert(readable, tmp_path / "weighted", statistics=sums, **options)
    assert verify(tmp_path / "weighted", against=readable).ok
