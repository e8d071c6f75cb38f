"""Every model family under gptq: what is solved, and that it is worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from families import (
    LENGTH,
    Row,
    manifest,
    only_looked_up,
    solve,
)
from jang_tools import convert, plan, verify
from jang_tools.evaluate import evaluate
from stock import assert_same_logits

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
        # On the whole text that was solved for: on a part of it some tiny models gain nothing.
        whole = SEQUENCES * LENGTH
        report = evaluate(readable, [searched, out], text=text, sequence=LENGTH, tokens=whole)
        mse, gptq = (model.kl.mean for model in report.models)
        assert 0 < gptq < row.gain * mse
    if row.has_stock:
        assert_same_logits(out, np.arange(5, 4000, 55, dtype=np.int32))
