"""What every model family must do: say what it is made of, from a config as from a checkpoint, and
convert to the same bytes however it is spelled.

The table of families is in families.py; what is special to a family stands in its own file. Logits
of sources are compared with transformers in test_parity.py, and in test_converted_models.py with
those of unquantized and dequantized output.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import (
    EXPERTS,
    ROWS,
    Row,
    jang_document,
    manifest,
    write_index,
)
from jang_tools import convert, inspect, plan, verify
from jang_tools.model import load_model
from test_parity import RUNS_TOLERANCE, TOLERANCE, relative_error, stored
from tiny_case import FAMILIES
from weight_files import read_weights

GROUPS: dict[str, Any] = {"group_size": 32}


def test_every_model_type_has_a_row() -> None:
    assert {row.case.model_type for row in ROWS} == FAMILIES.keys()
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_threads_change_no_byte(row: Row, source: Path, tmp_path: Path) -> None:
    for threads in (1, 2, 3):
        convert(source, tmp_path / str(threads), profile="JANG_2S", threads=threads, **GROUPS)
    one, two, three = (read_weights(tmp_path / name) for name in "123")
    assert one == two
    assert one == three


def test_unquantized_output_is_the_source(row: Row, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    assert verify(tmp_path / "out", against=source).ok
    ours = load_model(tmp_path / "out", "exact")(row.tokens)
    expected = load_model(source, "exact")(row.tokens)
    if row.case.model_type in ("deepseek_v3", "falcon_h1"):
        # Written stacks hold the matrix of the keys transposed, so its sums run in another order;
        # written weights have the multipliers that the source's config has.
        assert relative_error(ours, expected) <= RUNS_TOLERANCE
    else:
        assert np.array_equal(ours, expected)
    if not row.config:
        reference = stored(row.name)["long_logits" if row.case.long else "logits"][0]
        assert relative_error(ours, reference) <= TOLERANCE


# --- what it is made of ------------------------------------------------------------------------

# Of the parts of a module's path; else it belongs to an mlp.
ROLE_OF_PART = {
    "self_attn": "attention",
    "linear_attn": "linear_attention",
    "mixer": "ssm",
    "mamba": "ssm",
    "conv": "ssm",
    "switch_mlp": "expert",
    "experts": "expert",
    "switch_glu": "expert",
    "shared_expert": "shared_expert",
    "shared_experts": "shared_expert",
    "shared_mlp": "shared_expert",
}
STEER_DECAYS = ("x_proj", "dt_proj")


def role_of(path: str, row: Row) -> str:
    """The role that names tell."""
    for end, role in row.part_roles.items():
        if path.endswith(f".{end}"):
            return role
    found = [ROLE_OF_PART[part] for part in path.split(".") if part in ROLE_OF_PART]
    return found[-1] if found else "mlp"


def test_roles_are_complete(row: Row, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_4L", **GROUPS)
    assert {part.role for part in planned.roles} == row.all_roles
    convert(source, tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    found = {part.role: part.weights for part in inspect(tmp_path / "out").roles}
    assert found == {part.role: part.weights for part in planned.roles}
    entries = manifest(tmp_path / "out")
    layers = {
        path: entry
        for path, entry in entries.items()
        if ".layers." in path and entry["role"] != "router"
    }
    assert len(layers) == row.case.matrices
    for path, entry in layers.items():
        assert entry["role"] == role_of(path, row), path
        assert (len(entry["shape"]) == 3) == (entry["role"] == "expert" or "embed" in path), path
        if entry["role"] in ("attention", "mlp", "expert", "shared_expert"):
            assert entry["bits"] == (8 if entry["role"] == "attention" else 4), path
        if path.endswith(STEER_DECAYS) and entry["role"] == "ssm":
            assert entry["bits"] == 8
    made = jang_document(tmp_path / "out")["architecture"]
    assert made["type"] == row.architecture
    assert made["has_moe"] is row.experts
    assert made["has_ssm"] is bool({"ssm", "linear_attention"} & row.all_roles)
    assert (made["attention"] == "none") == ("attention" not in row.all_roles)


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(
    row: Row, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", **GROUPS}
    full, plans = plan(source, **options), [plan(tmp_path, **options)]
    for fused in row.spellings:
        write_index(
            tmp_path, (name for name, _ in tiny.tensors(replace(row.case, fused_experts=fused)))
        )
        plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


@pytest.mark.parametrize("expert_row", EXPERTS, ids=str)
def test_names_in_memory_convert_to_the_same_bytes(expert_row: Row, tmp_path: Path) -> None:
    """Experts in stacks, as transformers holds them, and one by one."""
    for fused in expert_row.spellings:
        folder, output = tmp_path / f"source-{fused}", tmp_path / f"out-{fused}"
        tiny.write_checkpoint(replace(expert_row.case, fused_experts=fused), folder)
        convert(folder, output, profile="JANG_2S", method="mse", **GROUPS)
    sources, outputs = (
        [read_weights(tmp_path / f"{stem}-{fused}") for fused in (False, True)]
        for stem in ("source", "out")
    )
    assert sources[0].keys() != sources[1].keys()
    assert outputs[0] == outputs[1]
    one, other = (
        load_model(tmp_path / f"source-{fused}")(expert_row.tokens) for fused in (False, True)
    )
    assert np.array_equal(one, other)
