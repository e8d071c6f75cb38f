"""Every model family under gptq: what is solved, and that it is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from families import (
    EXPERTS,
    LENGTH,
    Row,
    manifest,
    only_looked_up,
    solve,
    write_readable,
)
from jang_tools import convert, plan, verify
from jang_tools.evaluate import evaluate
from stock import assert_same_logits
from weight_files import read_weights

SEQUENCES = 40


def test_gptq_solves_every_matrix_and_beats_mse(
    row: Row, readable: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "uniform-3", "group_size": row.group_size, "threads": 2}
    out, searched = tmp_path / "gptq", tmp_path / "mse"
    planned = plan(readable, profile="uniform-3", group_size=row.group_size)
    made = solve(readable, out, text, SEQUENCES, **options)
    few = "expert matrices met fewer tokens" if row.scarce else "nothing of the kind"
    assert [line for line in made.warnings if few not in line] == planned.warnings
    assert verify(out, against=readable).ok
    entries = manifest(out)
    assert entries.keys() == {module.path for module in planned.modules}
    unsolved = {path for path, entry in entries.items() if entry["solver"] != "gptq"}
    assert unsolved == only_looked_up(planned, row.case.tied)
    for path, entry in entries.items():
        if path not in unsolved:
            assert 0 < entry["error"] < 0.2, path
            assert 0.001 <= entry["lambda"] <= 0.5
        if ".switch_mlp." in path and not row.scarce:
            assert entry["experts"]["solved"] == entry["shape"][0], path
    if row.gain is not None:
        convert(readable, searched, method="mse", **options)
        part = SEQUENCES * LENGTH * 2 // 5
        report = evaluate(readable, [searched, out], text=text, sequence=LENGTH, tokens=part)
        mse, gptq = (model.kl.mean for model in report.models)
        assert 0 < gptq < row.gain * mse
    if row.has_stock:
        assert_same_logits(out, np.arange(5, 4000, 55, dtype=np.int32))


@pytest.fixture(scope="module")
def shortly_solved(row: Row, readable: Path, text: Path) -> Path:
    output = readable.parent / "solved"
    solve(readable, output, text, 6, profile="JANG_3M", group_size=row.group_size)
    return output


def test_threads_change_no_byte_of_a_solve(
    row: Row, readable: Path, shortly_solved: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "JANG_3M", "group_size": row.group_size}
    solve(readable, tmp_path / "out", text, 6, threads=1, **options)
    assert read_weights(tmp_path / "out") == read_weights(shortly_solved)


def test_names_in_memory_are_solved_to_the_same_bytes(
    row: Row, readable: Path, shortly_solved: Path, text: Path, tmp_path: Path
) -> None:
    if row not in EXPERTS:
        pytest.skip("one spelling, or not of the same values")
    write_readable(row, tmp_path / "source", fused_experts=not row.case.fused_experts)
    assert read_weights(tmp_path / "source").keys() != read_weights(readable).keys()
    options: dict[str, Any] = {"profile": "JANG_3M", "group_size": row.group_size}
    solve(tmp_path / "source", tmp_path / "out", text, 6, **options)
    assert read_weights(tmp_path / "out") == read_weights(shortly_solved)
