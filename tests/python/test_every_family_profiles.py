"""Every model family at every profile: planned at all, converted, verified, run and compared with
stock mlx-lm at some of each kind. The first family of each architecture is converted at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import FEW, FIRST_OF_ARCHITECTURE, PROFILES, Row
from jang_tools import ArgumentError, convert, plan, verify
from jang_tools.model import load_model
from stock import assert_agreement, assert_same_logits

GROUPS: dict[str, Any] = {"group_size": 32}


def test_every_profile_is_planned(row: Row, source: Path) -> None:
    whole = {}
    for profile in PROFILES:
        if profile.startswith("mixed_") and not row.mixed:  # stock mlx-lm cannot either
            with pytest.raises(ArgumentError, match="down_proj"):
                plan(source, profile=profile, **GROUPS)
            continue
        planned = plan(source, profile=profile, **GROUPS)
        assert {part.role for part in planned.roles} == row.all_roles
        assert not [line for line in planned.warnings if "unknown name" in line]
        assert planned.bytes > sum(module.weights * module.bits // 8 for module in planned.modules)
        whole[profile] = {part.role: part.weights for part in planned.roles}
    assert all(weights == whole["JANG_4K"] for weights in whole.values())


def test_profiles_convert_verify_and_run(row: Row, source: Path, tmp_path: Path) -> None:
    if not row.mixed:
        with pytest.raises(ArgumentError, match="down_proj"):
            convert(source, tmp_path / "out", profile="mixed_3_6", **GROUPS)
    fewer = row.fewer_profiles
    pairs = list(fewer)
    if row.name in FIRST_OF_ARCHITECTURE:
        known = {profile for profile, _ in FEW}
        mixed = ("mixed_",) if not row.mixed else ()
        pairs += [(p, "rtn") for p in PROFILES if p not in known and not p.startswith(mixed)]
    for profile, method in pairs:
        out = tmp_path / profile
        planned = plan(source, profile=profile, **GROUPS)
        made = convert(source, out, profile=profile, method=method, threads=2, **GROUPS)
        assert made.bytes == planned.bytes, profile
        assert [line for line in made.warnings if "tokenizer" not in line] == planned.warnings
        report = verify(out, against=source)
        assert report.ok and report.tensors, (profile, report)
        assert np.isfinite(load_model(out, threads=1)(tiny.tokens()[0])).all(), profile
        if row.has_stock and (profile, method) in fewer:
            assert_agreement(out, prompt=tiny.tokens()[0, :8].tolist(), count=16)
        if row.has_stock and profile == "JANG_3M":
            assert_same_logits(out, row.tokens)
        shutil.rmtree(out)
