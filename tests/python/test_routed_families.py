"""qwen2_moe, olmoe, granitemoe, phimoe and minimax_m2: conversion at every profile and by every
method, roles, stock mlx-lm in both directions, and where stock computes something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import tiny_checkpoints as tiny
import tiny_experts
from jang_tools import convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from test_mlx import PROFILES, assert_agreement, stock_model
from test_parity import stored
from weight_files import read_weights

FAMILIES = ["qwen2-moe", "olmoe", "granitemoe", "phimoe", "minimax-m2"]
# Widths of experts that groups of 64 divide, and as many experts in each.
WIDE: dict[str, dict[str, Any]] = {
    "qwen2-moe": {"moe_intermediate_size": 64},
    "olmoe": {"intermediate_size": 64},
    "granitemoe": {"intermediate_size": 64, "num_experts": 8},
    "phimoe": {"intermediate_size": 64, "num_experts": 8},
    # Enough of its 8 experts that corrections leave none without tokens.
    "minimax-m2": {
        "intermediate_size": 64,
        "shared_intermediate_size": 0,
        "num_experts_per_tok": 6,
    },
}
ROLES = {"attention", "router", "expert", "embedding", "head", "other"}
LENGTH = 64


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer, so that a text can be read; widths that groups of 64 divide."""
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder, **WIDE[name])
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


def manifest(output: Path) -> dict[str, Any]:
    document = json.loads((output / "jang_config.json").read_text())
    return dict(document["quantization"]["tensor_quantization_manifest"])


# --- every profile -----------------------------------------------------------------------------


def test_every_profile_is_planned_written_verified_and_run(source: Path, tmp_path: Path) -> None:
    row = tiny.tokens()[0, :6]
    for profile in PROFILES:
        out = tmp_path / profile
        planned = plan(source, profile=profile)
        result = convert(source, out, profile=profile, method="rtn", threads=2)
        assert result.bytes == planned.bytes
        assert verify(out, against=source).ok
        assert np.isfinite(load_model(out, threads=2)(row)).all()


@pytest.mark.parametrize(
    ("profile", "method"),
    [("JANG_2S", "rtn"), ("JANG_3M", "mse"), ("JANG_1L", "mse"), ("tiered-4M", "rtn")],
)
def test_stock_agrees(source: Path, profile: str, method: str, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", profile=profile, method=method, threads=2)
    assert_agreement(tmp_path / "out", count=24)


@pytest.mark.parametrize("options", [{"profile": "uniform-4"}, {"router_bits": 8}])
def test_stock_agrees_with_packed_routers(
    source: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    convert(source, tmp_path / "out", method="rtn", **options)
    assert any(entry["role"] == "router" for entry in manifest(tmp_path / "out").values())
    assert_agreement(tmp_path / "out", count=16)


def test_stock_conversions_run_here(name: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    case = tiny.BY_NAME[name]
    wide = replace(case, config={**case.config, **tiny.READABLE, **WIDE[name]}, absent=())
    tiny.write_checkpoint(wide, tmp_path / "source", spelling="old")
    stock, values = load_stock(tmp_path / "source", strict=True)
    predicate = getattr(stock, "quant_predicate", None)
    stock, values = quantize_model(stock, values, 64, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert verify(tmp_path / "stock").ok
    assert_agreement(tmp_path / "stock", count=16)


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_4L")
    assert not [text for text in planned.warnings if "unknown name" in text]
    roles = {row.role: row.weights for row in planned.roles}
    assert roles.keys() == ROLES | ({"shared_expert"} if name == "qwen2-moe" else set())
    convert(source, tmp_path / "out", profile="JANG_4L", method="rtn")
    assert {row.role: row.weights for row in inspect(tmp_path / "out").roles} == roles
    entries = manifest(tmp_path / "out")
    layers = {path: entry for path, entry in entries.items() if ".layers." in path}
    assert len(layers) == tiny_experts.matrices(json.loads((source / "config.json").read_text()))
    for path, entry in layers.items():
        part = path.split(".")[-2]
        role = {"self_attn": "attention", "shared_expert": "shared_expert"}.get(part, "expert")
        assert entry["role"] == role
        assert entry["bits"] == (8 if role == "attention" else 4)
        assert (len(entry["shape"]) == 3) == (role == "expert")
    assert json.loads((tmp_path / "out/jang_config.json").read_text())["architecture"]["has_moe"]


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    bare, full = (plan(folder, profile="JANG_4K") for folder in (tmp_path, source))
    names = dict.fromkeys(read_weights(source), "model.safetensors")
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    listed = plan(tmp_path, profile="JANG_4K")
    for found in (bare, listed):
        assert found.parameters == full.parameters
        assert [m.path for m in found.modules] == [m.path for m in full.modules]
        assert found.bytes == full.bytes


def test_names_in_memory_convert_to_the_same_bytes(
    name: str, source: Path, text: Path, tmp_path: Path
) -> None:
    fused = replace(tiny.BY_NAME[name], fused_experts=True)
    tiny.write_readable_checkpoint(fused, tmp_path / "fused", **WIDE[name])
    assert read_weights(tmp_path / "fused").keys() != read_weights(source).keys()
    for folder, output in ((source, "a"), (tmp_path / "fused", "b")):
        solve(folder, tmp_path / output, text, 6)
    one, other = (read_weights(tmp_path / output) for output in "ab")
    assert one == other
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(source)(row), load_model(tmp_path / "fused")(row))


# --- calibration -------------------------------------------------------------------------------


def solve(source: Path, output: Path, text: Path, sequences: int, **options: Any) -> Any:
    return convert(
        source,
        output,
        method="gptq",
        calibration=text,
        calibration_sequences=sequences,
        calibration_tokens=LENGTH,
        **{"profile": "uniform-3", "threads": 2, **options},
    )


def test_gptq_solves_every_matrix_and_beats_mse(source: Path, text: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "mse", profile="JANG_3M", method="mse", threads=2)
    assert solve(source, tmp_path / "gptq", text, 40, profile="JANG_3M").warnings == []
    assert verify(tmp_path / "gptq", against=source).ok
    entries = manifest(tmp_path / "gptq")
    solved = {path for path, entry in entries.items() if entry["solver"] == "gptq"}
    # An embedding that is no head is only looked up; routers stay as they are.
    assert entries.keys() - solved == {"model.embed_tokens"}
    for path in solved:
        if ".switch_mlp." in path:
            assert entries[path]["experts"]["solved"] == 8
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(source, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    assert_agreement(tmp_path / "gptq", count=24)


def test_measured_sizes_agree_with_stock(source: Path, text: Path, tmp_path: Path) -> None:
    result = solve(source, tmp_path / "out", text, 8, profile=None, bits=5.0)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "out", against=source).ok
    assert_agreement(tmp_path / "out", count=16)


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
    case = tiny.BY_NAME[name]
    wrong = replace(case, config={**case.config, **change})
    tiny.write_checkpoint(wrong, tmp_path / "wrong")
    reference = stored(name)
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"]
    assert np.abs(found - expected[0]).max() > 1e-2 * np.abs(expected).max()


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


@pytest.mark.parametrize("name", ["qwen2-moe-sparse", "phimoe-longrope"])
def test_stock_refuses_rather_than_answers_wrongly(name: str, tmp_path: Path) -> None:
    """No dense layers in qwen2_moe, no tied heads in either."""
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    with pytest.raises(ValueError):
        stock_model(tmp_path / "out")
