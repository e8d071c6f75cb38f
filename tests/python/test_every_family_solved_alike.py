"""Every model family is solved to the same bytes, whatever the threads and the spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from families import EXPERTS, Row, solve, write_readable
from weight_files import read_weights


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
