"""phi, phi3, glm4, cohere and cohere2: conversion at every profile and by every method, roles,
longrope past its original positions, and what stock mlx-lm makes of the directories."""

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
from test_mlx import PROFILES, assert_agreement, stock_model
from test_parity import TOLERANCE, stored
from weight_files import read_weights

FAMILIES = ["phi", "phi3-longrope", "glm4", "cohere-qk-norm", "cohere2"]
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


# --- every profile -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    # One method needs not meet all profiles: what differs between them is the width.
    profiles = PROFILES if method == "rtn" else ["JANG_1L", "JANG_4K", "tiered-3M", "uniform-6"]
    for profile in profiles:
        options: dict[str, Any] = {"profile": profile, "method": method, "group_size": 32}
        if name == "phi" and profile.startswith("mixed_"):  # stock mlx-lm cannot either
            with pytest.raises(ArgumentError, match="down_proj"):
                convert(source, tmp_path / profile, **options)
            continue
        convert(source, tmp_path / profile, threads=2, **options)
        result = verify(tmp_path / profile, against=source)
        assert result.ok
        assert result.tensors
        assert np.isfinite(load_model(tmp_path / profile, threads=1)(tiny.tokens()[0])).all()


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_4L", group_size=32)
    assert not [text for text in planned.warnings if "unknown name" in text]
    roles = {row.role for row in planned.roles}
    assert {"attention", "mlp"} <= roles
    assert "router" not in roles
    convert(source, tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    found = {row.role: row.weights for row in inspect(tmp_path / "out").roles}
    assert found == {row.role: row.weights for row in planned.roles}
    manifest = json.loads((tmp_path / "out" / "jang_config.json").read_text())["quantization"][
        "tensor_quantization_manifest"
    ]
    matrices = {path for path in manifest if ".layers." in path}
    assert len(matrices) == tiny.BY_NAME[name].matrices
    for path in matrices:
        assert manifest[path]["role"] == ("attention" if ".self_attn." in path else "mlp")
        bits = 8 if ".self_attn." in path else 4
        assert manifest[path]["bits"] == bits


def test_a_bare_config_plans_like_its_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    bare, full = plan(tmp_path, **options), plan(source, **options)
    assert bare.parameters == full.parameters
    assert [m.path for m in bare.modules] == [m.path for m in full.modules]
    assert bare.bytes == full.bytes


# --- calibration -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def readable(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with."""
    folder = tmp_path_factory.mktemp(name) / "readable"
    case = tiny.BY_NAME[name]
    tiny.write_readable_checkpoint(case, folder, **short(case))
    return folder


def short(case: tiny.Case) -> dict[str, Any]:
    """As many layer types as layers."""
    types = case.config.get("layer_types")
    return {} if types is None else {"layer_types": types[-tiny.READABLE["num_hidden_layers"] :]}


def solve(source: Path, output: Path, text: Path, sequences: int, **options: Any) -> Any:
    return convert(
        source,
        output,
        method="gptq",
        calibration=text,
        calibration_sequences=sequences,
        calibration_tokens=LENGTH,
        **{"profile": "uniform-3", "threads": 2, "group_size": 32, **options},
    )


def test_gptq_solves_every_matrix_and_beats_mse(readable: Path, text: Path, tmp_path: Path) -> None:
    convert(readable, tmp_path / "mse", profile="uniform-3", method="mse", group_size=32)
    assert solve(readable, tmp_path / "gptq", text, 40).warnings == []
    assert verify(tmp_path / "gptq", against=readable).ok
    manifest = json.loads((tmp_path / "gptq" / "jang_config.json").read_text())["quantization"][
        "tensor_quantization_manifest"
    ]
    solved = {path for path, entry in manifest.items() if entry["solver"] == "gptq"}
    # An embedding that is no head is only looked up.
    assert manifest.keys() - solved <= {"model.embed_tokens"}
    assert ("lm_head" in manifest) == ("model.embed_tokens" not in solved)
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    tokens = np.arange(5, 4000, 90, dtype=np.int32)
    theirs = stock_model(tmp_path / "gptq")(tokens)
    if "longrope" in readable.parent.name:
        return  # stock has the factors of long sequences everywhere
    ours = load_model(tmp_path / "gptq", "exact", threads=2)(tokens)
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_threads_change_no_byte_of_a_solve(readable: Path, text: Path, tmp_path: Path) -> None:
    for threads in (1, 2):
        solve(readable, tmp_path / str(threads), text, 6, threads=threads)
    assert read_weights(tmp_path / "1") == read_weights(tmp_path / "2")


def test_measured_sizes_and_statistics_meet_every_matrix(
    readable: Path, text: Path, tmp_path: Path
) -> None:
    result = solve(readable, tmp_path / "sized", text, 8, profile=None, bits=6.0)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    collect(
        readable,
        tmp_path / "sums",
        calibration=text,
        calibration_sequences=8,
        calibration_tokens=LENGTH,
    )
    weights = load_statistics(tmp_path / "sums", readable).mean_squares
    modules = {module.path: module.role for module in plan(readable).modules}
    if "head" in modules.values():  # else the embedding is the head too
        modules = {path: role for path, role in modules.items() if role != "embedding"}
    assert set(weights) == set(modules)
    options: dict[str, Any] = {"profile": "uniform-3", "method": "mse", "group_size": 32}
    convert(readable, tmp_path / "weighted", statistics=tmp_path / "sums", **options)
    assert verify(tmp_path / "weighted", against=readable).ok


# --- directories of other writers --------------------------------------------------------------


@pytest.mark.parametrize("family", ["phi3", "glm4"])
def test_split_halves_of_gate_and_up_are_read(family: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[family], tmp_path / "source")
    whole, split = tmp_path / "whole", tmp_path / "split"
    convert(tmp_path / "source", whole, profile="uniform-4", method="rtn", group_size=32)
    split.mkdir()
    entries = []
    for path, tensor in read_weights(whole).items():
        if ".gate_up_proj." not in path:
            entries.append((path, tensor.dtype, tensor.shape, tensor.payload))
            continue
        rows, *columns = tensor.shape
        half = len(tensor.payload) // 2
        for i, part in enumerate(("gate_proj", "up_proj")):
            payload = tensor.payload[i * half : (i + 1) * half]
            name = path.replace("gate_up_proj", part)
            entries.append((name, tensor.dtype, (rows // 2, *columns), payload))
    tiny.write_safetensors(split / "model.safetensors", entries)
    config = json.loads((whole / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        for path, entry in list(config[key].items()):
            if path.endswith(".gate_up_proj"):
                del config[key][path]
                for part in ("gate_proj", "up_proj"):
                    config[key][path.replace("gate_up_proj", part)] = entry
    (split / "config.json").write_text(json.dumps(config))
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(split, "exact")(row), load_model(whole, "exact")(row))


# --- longrope ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["phi3-longrope-beyond", "phi3-longrope-window"])
@pytest.mark.parametrize("size", [1, 5, 7, 16])
def test_past_the_original_positions_all_angles_change(
    name: str, size: int, tmp_path: Path
) -> None:
    """Whatever the cuts, logits beyond are those that transformers has for the whole sequence."""
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "model")
    model, reference = load_model(tmp_path / "model", threads=2), stored(name)
    scale = np.abs(reference["logits"]).max()
    for row, expected in zip(reference["tokens"], reference["logits"], strict=True):
        cache = model.cache()
        for at in range(0, len(row), size):
            logits = model(row[at : at + size], cache)
            error = np.abs(logits - expected[at : at + size]).max()
            if cache.length > case.exact_continuation:
                assert error <= TOLERANCE * scale
            elif at > 0:
                assert error > 100 * TOLERANCE * scale  # short sequences have other angles


def test_stock_agrees_past_the_original_positions(tmp_path: Path) -> None:
    """Stock has the factors of long sequences at every length."""
    tiny.write_checkpoint(tiny.BY_NAME["phi3-longrope-beyond"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :17].tolist(), count=12)


# --- what stock cannot load --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["phi-qk-norm", "phi-erf-tied", "cohere-untied", "cohere2-any-order"]
)
def test_stock_refuses_rather_than_answers_wrongly(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    with pytest.raises((ValueError, ZeroDivisionError)):
        stock_model(tmp_path / "out")
