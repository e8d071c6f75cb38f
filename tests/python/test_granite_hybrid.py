"""granitemoehybrid: conversion by every method, roles, fused feed-forwards with and without
experts, planning from a config or an index, stock mlx-lm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.statistics import collect, load_statistics
from test_mlx import PROFILES, TOLERANCE, stock_model

FAMILIES = ["granitemoehybrid", "granitemoehybrid-dense", "granitemoehybrid-groups"]
LENGTH = 64


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


def routed(name: str) -> bool:
    return bool(tiny.BY_NAME[name].config["num_local_experts"])


def assert_same_logits(path: Path, tokens: Any) -> None:
    ours = load_model(path, "exact", threads=2)(tokens)
    theirs = stock_model(path)(tokens)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    few = ["JANG_2S", "JANG_4K", "mixed_3_6", "uniform-6"]
    # One method and one model meet all profiles: what differs between them is the width.
    profiles = PROFILES if method == "rtn" and name == "granitemoehybrid" else few
    for profile in profiles:
        options: dict[str, Any] = {"profile": profile, "method": method, "group_size": 32}
        convert(source, tmp_path / profile, threads=2, **options)
        assert verify(tmp_path / profile, against=source).ok
        row = tiny.tokens()[0]
        assert np.isfinite(load_model(tmp_path / profile, threads=1)(row)).all()
        if profile in ("JANG_2S", "uniform-6") and tiny.BY_NAME[name].stock:
            assert_same_logits(tmp_path / profile, row)


def test_unquantized_output_is_the_source(name: str, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(tmp_path / "out")(row), load_model(source)(row))
    if tiny.BY_NAME[name].stock:
        assert_same_logits(tmp_path / "out", row)


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_3M", group_size=32)
    assert not [text for text in planned.warnings if "unknown name" in text]
    roles = {row.role for row in planned.roles}
    routers = {"router", "expert", "shared_expert"} if routed(name) else {"mlp"}
    head = set() if tiny.BY_NAME[name].tied else {"head"}
    assert roles == {"other", "ssm", "attention", "embedding"} | routers | head
    convert(source, tmp_path / "out", profile="JANG_3M", method="rtn", group_size=32)
    assert {row.role: row.weights for row in inspect(tmp_path / "out").roles} == {
        row.role: row.weights for row in planned.roles
    }
    record = json.loads((tmp_path / "out" / "jang_config.json").read_text())
    hybrid = "hybrid_moe_ssm" if routed(name) else "hybrid_ssm"
    assert record["architecture"]["type"] == hybrid
    manifest = record["quantization"]["tensor_quantization_manifest"]
    layers = [p for p in manifest if ".layers." in p and not p.endswith("router.layer")]
    assert len(layers) == tiny.BY_NAME[name].matrices


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(
    name: str, source: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    full = plan(source, **options)
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    plans = [plan(tmp_path, **options)]
    tensors = [tensor for tensor, _ in tiny.tensors(tiny.BY_NAME[name])]
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def readable(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with."""
    folder = tmp_path_factory.mktemp(name) / "readable"
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder)
    return folder


def test_gptq_solves_every_matrix_and_beats_mse(
    name: str, readable: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "uniform-3", "group_size": 32, "threads": 2}
    convert(readable, tmp_path / "mse", method="mse", **options)
    short = {"calibration_sequences": 40, "calibration_tokens": LENGTH}
    convert(readable, tmp_path / "gptq", method="gptq", calibration=text, **short, **options)
    assert verify(tmp_path / "gptq", against=readable).ok
    manifest = json.loads((tmp_path / "gptq" / "jang_config.json").read_text())["quantization"][
        "tensor_quantization_manifest"
    ]
    unsolved = {path for path, entry in manifest.items() if entry["solver"] != "gptq"}
    assert unsolved <= {"model.embed_tokens"}
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    if tiny.BY_NAME[name].stock:
        assert_same_logits(tmp_path / "gptq", np.arange(5, 4000, 90, dtype=np.int32))


def test_sizes_and_statistics(readable: Path, text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"group_size": 32, "threads": 2}
    short = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    made = convert(
        readable, tmp_path / "sized", method="gptq", bits=5.0, calibration=text, **short, **options
    )
    assert made.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    collect(readable, tmp_path / "sums", calibration=text, **short)
    weights = load_statistics(tmp_path / "sums", readable).mean_squares
    modules = {module.path: module.role for module in plan(readable, group_size=32).modules}
    if "head" in modules.values():
        modules = {path: role for path, role in modules.items() if role != "embedding"}
    assert set(weights) >= set(modules)
    sums = {"statistics": tmp_path / "sums"}
    convert(readable, tmp_path / "weighted", method="mse", profile="uniform-3", **sums, **options)
    assert verify(tmp_path / "weighted", against=readable).ok
