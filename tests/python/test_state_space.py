"""mamba, falcon_mamba and mamba2: conversion at every profile and by every method, roles, planning
from a config alone, stock mlx-lm in both directions, generation in fast precision."""

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
from jang_tools.errors import ArgumentError
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.statistics import collect, load_statistics
from test_mlx import PROFILES, TOLERANCE, assert_agreement, stock_model
from test_parity import stored

FAMILIES = ["mamba-biases", "falcon-mamba", "mamba2", "mamba2-groups"]
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


def assert_same_logits(path: Path, tokens: Any) -> None:
    ours = load_model(path, "exact", threads=2)(tokens)
    theirs = stock_model(path)(tokens)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))


# --- every profile -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    few = ["JANG_2S", "JANG_4K", "tiered-3M", "uniform-6"]
    # One method and one model of a kind meet all profiles: what differs between them is the width.
    profiles = PROFILES if method == "rtn" and name in ("mamba-biases", "mamba2") else few
    for profile in profiles:
        options: dict[str, Any] = {"profile": profile, "method": method, "group_size": 32}
        if profile.startswith("mixed_"):  # stock mlx-lm cannot either
            with pytest.raises(ArgumentError, match="down_proj"):
                convert(source, tmp_path / profile, **options)
            continue
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


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_3M", group_size=32)
    assert not [text for text in planned.warnings if "unknown name" in text]
    roles = {row.role for row in planned.roles}
    head = set() if tiny.BY_NAME[name].tied else {"head"}
    assert roles == {"other", "ssm", "embedding"} | head
    convert(source, tmp_path / "out", profile="JANG_3M", method="rtn", group_size=32)
    inspected = inspect(tmp_path / "out")
    assert {row.role: row.weights for row in inspected.roles} == {
        row.role: row.weights for row in planned.roles
    }
    record = json.loads((tmp_path / "out" / "jang_config.json").read_text())
    assert record["architecture"]["type"] == "mamba"
    assert record["architecture"]["attention"] == "none"
    assert record["architecture"]["has_ssm"] is True
    manifest = record["quantization"]["tensor_quantization_manifest"]
    layers = {path: entry for path, entry in manifest.items() if ".layers." in path}
    assert len(layers) == tiny.BY_NAME[name].matrices
    for path, entry in layers.items():
        assert entry["role"] == "ssm"
        if path.endswith(("x_proj", "dt_proj")):  # they steer decays
            assert entry["bits"] == 8


def test_a_bare_config_plans_like_its_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    bare, full = plan(tmp_path, **options), plan(source, **options)
    assert bare.parameters == full.parameters
    assert [m.path for m in bare.modules] == [m.path for m in full.modules]
    assert bare.bytes == full.bytes


def test_a_head_of_its_own_is_told_from_a_copy(tmp_path: Path) -> None:
    """Tied files may hold the head as well; stock mlx-lm refuses it."""
    case = tiny.BY_NAME["mamba"]
    tiny.write_checkpoint(case, tmp_path / "source")
    entries = [
        (tensor, case.dtype, values.shape, tiny.encode(values, case.dtype))
        for tensor, values in tiny.tensors(case)
    ]
    head = ("lm_head.weight", *entries[0][1:])
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", [*entries, head])
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    reference = stored("mamba")
    logits = load_model(tmp_path / "source", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(reference["logits"]).max()
    assert_same_logits(tmp_path / "out", tiny.tokens()[0])


# --- calibration -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


def solve(source: Path, output: Path, text: Path, sequences: int, **options: Any) -> Any:
    return convert(
        source,
        output,
        method="gptq",
        calibration=text,
        calibration_sequences=sequences,
        calibration_tokens=LENGTH,
        **{"profile": "uniform-3", "group_size": 32, **options},
    )


@pytest.fixture(scope="module")
def readable(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with."""
    folder = tmp_path_factory.mktemp(name) / "readable"
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder)
    return folder


def test_gptq_solves_every_matrix_and_beats_mse(
    name: str, readable: Path, text: Path, tmp_path: Path
) -> None:
    convert(readable, tmp_path / "mse", profile="uniform-3", method="mse", group_size=32)
    made = solve(readable, tmp_path / "gptq", text, 40, threads=2)
    assert all("dt_proj: no group size divides" in text for text in made.warnings)
    assert verify(tmp_path / "gptq", against=readable).ok
    manifest = json.loads((tmp_path / "gptq" / "jang_config.json").read_text())["quantization"][
        "tensor_quantization_manifest"
    ]
    solved = {path for path, entry in manifest.items() if entry["solver"] == "gptq"}
    # An embedding that is no head is only looked up.
    assert manifest.keys() - solved <= {"backbone.embeddings"}
    assert ("lm_head" in manifest) == ("backbone.embeddings" not in solved)
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    if tiny.BY_NAME[name].stock:
        assert_same_logits(tmp_path / "gptq", np.arange(5, 4000, 90, dtype=np.int32))


def test_threads_change_no_byte(readable: Path, text: Path, tmp_path: Path) -> None:
    files = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        solve(readable, out, text, 6, profile="JANG_3M", threads=threads)
        files.append((out / "model-00001-of-00001.safetensors").read_bytes())
    assert files[0] == files[1]


def test_sizes_and_statistics(readable: Path, text: Path, tmp_path: Path) -> None:
    result = solve(readable, tmp_path / "sized", text, 8, profile=None, bits=6.0)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    short = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    collect(readable, tmp_path / "sums", calibration=text, **short)
    weights = load_statistics(tmp_path / "sums", readable).mean_squares
    modules = {module.path: module.role for module in plan(readable, group_size=32).modules}
    if "head" in modules.values():  # else the embedding is the head too
        modules = {path: role for path, role in modules.items() if role != "embedding"}
    assert set(weights) >= set(modules)
    options: dict[str, Any] = {"profile": "uniform-3", "method": "mse", "group_size": 32}
    convert(readable, tmp_path / "weighted", statistics=tmp_path / "sums", **options)
    assert verify(tmp_path / "weighted", against=readable).ok


# --- running -----------------------------------------------------------------------------------


def test_fast_precision_stays_near(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", profile="JANG_6M", method="rtn", group_size=32)
    row = tiny.tokens()[0]
    exact = load_model(tmp_path / "out", "exact", threads=2)(row)
    model = load_model(tmp_path / "out", "fast", threads=2)
    assert np.abs(model(row) - exact).max() <= 0.1 * np.abs(exact).max()
    cache = model.cache()
    for token in row:
        logits = model(token[None], cache)
    assert np.abs(logits[-1] - exact[-1]).max() <= 0.1 * np.abs(exact).max()


def test_states_do_not_grow(source: Path) -> None:
    model = load_model(source)
    one = model.core.kv_bytes(1)
    assert model.core.kv_bytes(1_000_000) == 2 * one


@pytest.mark.parametrize("name", ["mamba-biases", "falcon-mamba", "mamba2"])
def test_stock_conversions_run_here(name: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    # What stock requires stands in what we write; its own conversion starts from that.
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "source", method="rtn", rules=["*=none"])
    (tmp_path / "source" / "jang_config.json").unlink()
    stock, values = load_stock(tmp_path / "source", strict=True)

    def whole_groups(_: str, module: Any) -> bool:
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0

    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=whole_groups)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)
