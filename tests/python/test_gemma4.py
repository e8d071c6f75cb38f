"""gemma4's text model: keys that layers share, in files, in the cache and in calibration,
multimodal files, refusals.

What every family must do is in test_every_family*.py, logits of the sources in test_parity.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
from families import assert_noticed, assert_refused, manifest, solve
from jang_tools import FormatError, UnsupportedError, convert, inspect, plan, verify
from jang_tools.errors import JangError
from jang_tools.model import load_model
from stock import assert_agreement, convert_by_stock
from test_parity import RUNS_TOLERANCE, relative_error
from tiny_gemma4 import ROPES
from weight_files import read_weights


@pytest.fixture(scope="module", params=["gemma4", "gemma4-experts"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


# --- conversion --------------------------------------------------------------------------------


def test_roles_are_complete_where_every_option_is_on(tmp_path: Path) -> None:
    case = tiny.BY_NAME["gemma4-all"]
    tiny.write_checkpoint(case, tmp_path / "source")
    planned = plan(tmp_path / "source", profile="JANG_4L", group_size=32)
    assert planned.warnings == []
    roles = {"other", "embedding", "head", "attention", "mlp", "router", "expert"}
    assert {row.role for row in planned.roles} == roles
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    found = {row.role: row.weights for row in inspect(tmp_path / "out").roles}
    assert found == {row.role: row.weights for row in planned.roles}
    layers = [path for path in manifest(tmp_path / "out") if ".layers." in path]
    assert len([path for path in layers if ".router." not in path]) == case.matrices


def test_what_shared_layers_store_is_left_out(tmp_path: Path) -> None:
    """Released checkpoints have keys of their own in layers that read those of others."""
    case = tiny.BY_NAME["gemma4"]
    tiny.write_checkpoint(case, tmp_path / "source")
    expected = load_model(tmp_path / "source", "exact")(tiny.tokens()[0])
    values = list(tiny.tensors(case))
    shapes = {"k_proj.weight": (64, 160), "v_proj.weight": (64, 160), "k_norm.weight": (64,)}
    values += [
        (f"model.layers.3.self_attn.{part}", np.ones(shape, dtype=np.float32))
        for part, shape in shapes.items()
    ]
    entries = [(path, case.dtype, v.shape, tiny.encode(v, case.dtype)) for path, v in values]
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", entries)
    assert np.array_equal(load_model(tmp_path / "source", "exact")(tiny.tokens()[0]), expected)
    convert(tmp_path / "source", tmp_path / "out", method="rtn", group_size=32)
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    assert not [p for p in read_weights(tmp_path / "out") if "layers.3.self_attn.k" in p]


# --- calibration -------------------------------------------------------------------------------


def test_an_interruption_changes_no_byte(text: Path, tmp_path: Path) -> None:
    """Keys that later layers read are no part of what a conversion goes on from."""
    tiny.write_readable_checkpoint(tiny.BY_NAME["gemma4"], tmp_path / "source")
    solve(tmp_path / "source", tmp_path / "whole", text, 6)

    def progress(done: int, total: int, item: str) -> None:
        if item == "model.layers.3.self_attn.q_proj.weight":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(tmp_path / "source", tmp_path / "out", text, 6, progress=progress)
    solve(tmp_path / "source", tmp_path / "out", text, 6)
    assert read_weights(tmp_path / "out") == read_weights(tmp_path / "whole")


# --- running -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gemma4", "gemma4-all"])
def test_every_cache_type_holds_shared_keys(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    model, row = load_model(tmp_path / "source", "exact", threads=2), tiny.tokens()[0]
    exact = model(row)
    bounds = {"f32": 1e-6, "f16": 5e-3, "bf16": 5e-2, "q8": 0.1, "q4": 1.0}
    for kind, bound in bounds.items():
        whole = model(row, model.cache(kind))
        error = np.median(np.abs(whole - exact).max(axis=-1)) / np.abs(exact).max()
        assert error <= bound, kind
        cache = model.cache(kind)
        steps = np.concatenate([model(row[i : i + 5], cache) for i in range(0, len(row), 5)])
        assert relative_error(steps, whole) <= RUNS_TOLERANCE


# --- multimodal files and stock mlx-lm ---------------------------------------------------------


def wrapped(case: tiny.Case, folder: Path, spelling: str) -> None:
    """The multimodal checkpoint around a text model."""
    folder.mkdir(parents=True)
    vision = np.zeros((4, 4), dtype=np.float32)
    values = [
        (name.replace("model.", "model.language_model.", 1), value)
        for name, value in tiny.tensors(case)
    ]
    for tower in ("vision_tower.encoder.layers.0.mlp", "embed_vision", "audio_tower.layers.0.x"):
        values.append((f"model.{tower}.embedding_projection.weight", vision))
    entries = [(n, case.dtype, v.shape, tiny.encode(v, case.dtype)) for n, v in values]
    tiny.write_safetensors(folder / "model.safetensors", entries)
    text_config = tiny.config(case, spelling)
    kept = ["dtype" if spelling == "new" else "torch_dtype", "eos_token_id"]
    config = {
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        **{key: text_config.pop(key) for key in kept},
        "tie_word_embeddings": True,
        "image_token_id": 258880,
        "text_config": text_config,
        "vision_config": {"model_type": "gemma4_vision", "hidden_size": 4},
        "audio_config": None,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("spelling", ["new", "old"])
def test_wrapped_gemma4_is_its_language_part(source: Path, name: str, spelling: str) -> None:
    folder = source.parent / spelling
    wrapped(tiny.BY_NAME[name], folder, spelling)
    row = tiny.tokens()[0]
    expected = load_model(source, "exact")(row)
    model = load_model(folder, "exact")
    assert np.array_equal(model(row), expected)
    assert model.core.eos_ids == [2, 3]
    out = source.parent / f"{spelling}-out"
    result = convert(folder, out, profile="JANG_4L", method="mse", group_size=32)
    towers = {line.split(":")[0] for line in result.warnings if "left out" in line}
    assert towers == {"vision_tower", "embed_vision", "audio_tower"}
    assert verify(out, against=folder).ok
    written = json.loads((out / "config.json").read_text("utf-8"))
    assert written["model_type"] == "gemma4_text"
    assert not {"text_config", "vision_config", "image_token_id"} & written.keys()
    assert_agreement(out, prompt=row[:8].tolist(), count=16)


def test_stock_conversions_of_wrapped_gemma4_run_here(name: str, tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME[name], shards=0, absent=())
    wrapped(case, tmp_path / "source", "old")
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"vocab_size": tiny.VOCABULARY}
    path.write_text(json.dumps(config), encoding="utf-8")
    convert_by_stock(tmp_path / "source", tmp_path / "stock")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)


# --- configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gemma4", {"final_logit_softcapping": None}),
        ("gemma4", {"sliding_window": 9}),
        ("gemma4", {"rope_parameters": {**ROPES, "full_attention": {}}}),
        ("gemma4-experts", {"top_k_experts": 2}),
        ("gemma4", {"rms_norm_eps": 0.1}),
    ],
)
def test_parity_notices_a_wrong_key(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    assert_noticed(name, change, tmp_path / "wrong", absent=(), spelling="old")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"num_kv_shared_layers": 4}, FormatError, ["num_kv_shared_layers", "0 to 3", "found 4"]),
        ({"num_kv_shared_layers": 3}, FormatError, ["num_kv_shared_layers", "full_attention"]),
        ({"global_head_dim": 63}, FormatError, ["global_head_dim", "even", "found 63"]),
        ({"global_head_dim": -1}, FormatError, ["global_head_dim", "found -1"]),
        ({"per_layer_config": []}, FormatError, ["per_layer_config", "object"]),
        ({"per_layer_config": {"1": 3}}, FormatError, ["per_layer_config.1", "object"]),
        (
            {"per_layer_config": {"1": {"head_dim": 0}}},
            FormatError,
            ["per_layer_config.1.head_dim", "from 1"],
        ),
        (
            {"per_layer_config": {"0": {"head_dim": 64}}},
            UnsupportedError,
            ["per_layer_config.0", "full attention"],
        ),
        (
            {"per_layer_config": {"1": {"sliding_window": 4}}},
            UnsupportedError,
            ["per_layer_config.1.sliding_window"],
        ),
        ({"hidden_size_per_layer_input": 1 << 24}, FormatError, ["2^24"]),
        ({"vocab_size_per_layer_input": 330}, FormatError, ["331", "found 330"]),
        ({"enable_moe_block": True}, FormatError, ["num_experts", "missing"]),
        (
            {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 5},
            FormatError,
            ["top_k_experts", "1 to 4", "found 5"],
        ),
        ({"enable_moe_block": "yes"}, FormatError, ["enable_moe_block", "true or false"]),
        (
            {"use_bidirectional_attention": "all"},
            UnsupportedError,
            ["use_bidirectional_attention", "vision"],
        ),
        ({"hidden_activation": "silu"}, UnsupportedError, ["hidden_activation", "silu"]),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            FormatError,
            ["rope_parameters.sliding_attention", "missing"],
        ),
        (
            {
                "rope_parameters": {
                    **ROPES,
                    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 1.5},
                }
            },
            FormatError,
            ["partial_rotary_factor", "at most 1"],
        ),
    ],
)
def test_hostile_configs_are_refused_in_one_line(
    change: dict[str, Any], error: type[JangError], words: list[str], tmp_path: Path
) -> None:
    assert_refused("gemma4", change, error, words, tmp_path / "source")


def test_images_do_not_change_what_text_sees(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["gemma4"], tmp_path / "source")
    row: npt.NDArray[np.int32] = tiny.tokens()[0]
    expected = load_model(tmp_path / "source")(row)
    path = tmp_path / "source" / "config.json"
    more = {"use_bidirectional_attention": "vision"}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    assert np.array_equal(load_model(tmp_path / "source")(row), expected)
