"""nemotron_h and falcon_h1: conversion by every method, roles, planning from a config or an index,
names of other writers, multipliers in the config and in the weights, stock mlx-lm in both
directions, and where stock computes something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import tiny_checkpoints as tiny
import tiny_nemotron_falcon as nemotron_falcon
from jang_tools import convert, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.model import load_model
from stock import assert_agreement, assert_same_logits, stock_model
from test_lfm2_jamba import rewrite
from test_parity import stored
from weight_files import read_weights

FAMILIES = ["nemotron-h", "nemotron-h-latent", "falcon-h1"]
LENGTH = 64
GROUPS: dict[str, Any] = {"group_size": 32}
UNQUANTIZED: dict[str, Any] = {"method": "rtn", "rules": ["*=none"]}


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


@pytest.mark.parametrize("kind", ["nemotron-h", "nemotron-h-dense", "falcon-h1-norm"])
def test_unquantized_output_is_the_source(kind: str, tmp_path: Path) -> None:
    """To the bit, multipliers that are powers of two included."""
    tiny.write_checkpoint(tiny.BY_NAME[kind], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", **UNQUANTIZED)
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    row = tiny.tokens()[0]
    folders = (tmp_path / "out", tmp_path / "source")
    out, found = (load_model(folder, "exact")(row) for folder in folders)
    assert np.array_equal(out, found)
    assert_same_logits(tmp_path / "out", row)


# --- multipliers of falcon_h1 --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["falcon-h1", "falcon-h1-norm"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_multipliers_are_written_into_the_weights(kind: str, dtype: str, tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME[kind], dtype=dtype)
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", **UNQUANTIZED)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["jang_mup_folded"] is True
    assert config["key_multiplier"] == case.values["key_multiplier"]
    written = read_weights(tmp_path / "out")
    wanted = dict(nemotron_falcon.multiplied(case.values, tiny.stored_tensors(case)))
    assert written.keys() == wanted.keys()
    for name, values in wanted.items():
        assert written[name].payload == tiny.encode(values, written[name].dtype), name
        assert written[name].dtype in (dtype, "F32")


@pytest.mark.parametrize("kind", ["falcon-h1", "falcon-h1-groups", "falcon-h1-norm"])
def test_what_is_written_computes_the_same(kind: str, tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME[kind], dtype="F32")
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", **UNQUANTIZED)
    row = tiny.tokens()[0]
    out, found = (load_model(tmp_path / stem, "exact")(row) for stem in ("out", "source"))
    assert np.abs(out - found).max() <= 1e-5 * np.abs(found).max()
    if case.stock:
        assert_same_logits(tmp_path / "out", row)


def test_without_the_mark_multipliers_are_not_in_the_weights(tmp_path: Path) -> None:
    """What a writer leaves that turns the convolutions and nothing else."""
    case = tiny.BY_NAME["falcon-h1"]
    plain = nemotron_falcon.without_multipliers(case.config)
    tiny.write_checkpoint(case, tmp_path / "source")
    tiny.write_checkpoint(replace(case, config=plain), tmp_path / "plain")
    convert(tmp_path / "plain", tmp_path / "out", **UNQUANTIZED)
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    config |= {key: value for key, value in case.config.items() if "multiplier" in key}
    row = tiny.tokens()[0]
    expected = load_model(tmp_path / "source", "exact")(row)
    for mark in (None, False, True):
        config["jang_mup_folded"] = mark
        file.write_text(json.dumps(config))
        found = load_model(tmp_path / "out", "exact")(row)
        assert np.array_equal(found, expected) is (mark is not True)


def test_a_head_that_is_not_the_embedding_has_its_own_multiplier(tmp_path: Path) -> None:
    """Tied by the config, with another matrix stored: two matrices, here and in what is written."""
    case = replace(tiny.BY_NAME["falcon-h1"], dtype="F32")
    tiny.write_checkpoint(case, tmp_path / "source")
    expected = load_model(tmp_path / "source", "exact")(tiny.tokens()[0])
    file = tmp_path / "source" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    assert np.array_equal(load_model(tmp_path / "source", "exact")(tiny.tokens()[0]), expected)
    convert(tmp_path / "source", tmp_path / "out", **UNQUANTIZED)
    found = load_model(tmp_path / "out", "exact")(tiny.tokens()[0])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_embedding_stored_as_the_head_has_the_embeddings_multiplier(tmp_path: Path) -> None:
    tiny.write_checkpoint(replace(tiny.BY_NAME["falcon-h1-norm"], shards=0), tmp_path / "source")
    row = tiny.tokens()[0]
    expected = load_model(tmp_path / "source", "exact")(row)
    rewrite(tmp_path / "source", {"model.embed_tokens.weight": "lm_head.weight"})
    assert np.array_equal(load_model(tmp_path / "source", "exact")(row), expected)
    convert(tmp_path / "source", tmp_path / "out", **UNQUANTIZED)
    assert "model.embed_tokens.weight" in read_weights(tmp_path / "out")
    assert np.array_equal(load_model(tmp_path / "out", "exact")(row), expected)


# --- names of others ---------------------------------------------------------------------------


def test_names_in_memory_convert_to_the_same_bytes(tmp_path: Path) -> None:
    row = tiny.tokens()[0]
    logits, outputs = [], []
    for stem, fused in (("single", False), ("fused", True), ("renamed", True)):
        case = replace(tiny.BY_NAME["nemotron-h"], fused_experts=fused)
        tiny.write_checkpoint(case, tmp_path / stem)
        if stem == "renamed":
            rewrite(tmp_path / stem, {"backbone.": "model."})
        convert(
            tmp_path / stem, tmp_path / f"{stem}-out", profile="JANG_2S", method="mse", **GROUPS
        )
        logits.append(load_model(tmp_path / stem)(row))
        outputs.append(read_weights(tmp_path / f"{stem}-out"))
    assert "model.layers.3.mixer.experts.up_proj" in read_weights(tmp_path / "renamed")
    assert outputs[0] == outputs[1] == outputs[2]
    assert np.array_equal(logits[0], logits[1]) and np.array_equal(logits[0], logits[2])


def test_experts_that_others_renamed_are_read(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["nemotron-h"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4K", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    expected = load_model(tmp_path / "out")(row)
    names = {"switch_mlp.fc1": "switch_mlp.up_proj", "switch_mlp.fc2": "switch_mlp.down_proj"}
    rewrite(tmp_path / "out", names, ("model.safetensors.index.json",))
    assert "backbone.layers.3.mixer.switch_mlp.up_proj.scales" in read_weights(tmp_path / "out")
    assert np.array_equal(load_model(tmp_path / "out")(row), expected)


# --- calibration -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def readable(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with, of every kind of layer."""
    folder = tmp_path_factory.mktemp(name) / "readable"
    # All of the experts, so that corrections leave none without tokens.
    more = {} if name == "falcon-h1" else {"num_experts_per_tok": 8, "n_group": 1, "topk_group": 1}
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder, num_hidden_layers=4, **more)
    return folder


# --- running, and stock ------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_threads_change_no_logit(name: str, source: Path, precision: str, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", profile="JANG_3M", method="rtn", **GROUPS)
    row = tiny.long_tokens(tiny.BY_NAME[name])[0]
    for folder in (source, tmp_path / "out"):
        one, two, three = (load_model(folder, precision, threads=n)(row) for n in (1, 2, 3))
        assert np.array_equal(one, two) and np.array_equal(one, three)


@pytest.mark.parametrize("kind", ["nemotron-h", "nemotron-h-dense", "falcon-h1", "falcon-h1-norm"])
def test_stock_conversions_run_here(kind: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    # What stock requires stands in what we write; its own conversion starts from that.
    tiny.write_checkpoint(tiny.BY_NAME[kind], tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "source", **UNQUANTIZED)
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


def differs_from_stock(folder: Path) -> bool:
    row = tiny.tokens()[0]
    ours, theirs = load_model(folder, "exact")(row), stock_model(folder)(row)
    return bool(np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max())


def test_stock_norms_the_groups_of_falcon_together(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["falcon-h1-groups"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    assert differs_from_stock(tmp_path / "out")


def test_stock_leaves_out_multipliers_of_keys_and_values(tmp_path: Path) -> None:
    """Of what it folds by itself: what we write is folded in whole."""
    case = tiny.BY_NAME["falcon-h1"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "filled", **UNQUANTIZED)  # a config with every key
    config = json.loads((tmp_path / "filled" / "config.json").read_text())
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    assert differs_from_stock(tmp_path / "source")
    assert not differs_from_stock(tmp_path / "filled")
    plain = {"key_multiplier": 1.0, "attention_in_multiplier": 1.0}
    (tmp_path / "source" / "config.json").write_text(json.dumps({**config, **plain}))
    assert not differs_from_stock(tmp_path / "source")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("nemotron-h", {"layer_norm_epsilon": 0.03}),
        ("nemotron-h", {"routed_scaling_factor": 1.0}),
        ("nemotron-h", {"norm_topk_prob": False}),
        ("nemotron-h", {"num_experts_per_tok": 2}),
        ("nemotron-h-dense", {"time_step_min": 0.001}),
        ("nemotron-h-latent", {"n_group": 1, "topk_group": 1}),
        *[
            ("falcon-h1", {key: 0.5})
            for key in (
                "embedding_multiplier",
                "lm_head_multiplier",
                "attention_in_multiplier",
                "attention_out_multiplier",
                "ssm_in_multiplier",
                "ssm_out_multiplier",
            )
        ],
        *[("falcon-h1", {"ssm_multipliers": [*[1.0] * i, 2.0, *[1.0] * (4 - i)]}) for i in (0, 4)],
        ("falcon-h1", {"mlp_multipliers": [0.5, 0.65]}),
        ("falcon-h1-norm", {"mamba_norm_before_gate": True}),
        ("falcon-h1-groups", {"mamba_norm_before_gate": False}),
        ("falcon-h1-groups", {"time_step_limit": [0.0, 0.6]}),
    ],
)
def test_parity_notices_a_wrong_key(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    """A check of the comparison with transformers: each key moves logits far beyond it."""
    case = tiny.BY_NAME[kind]
    wrong = replace(case, config={**case.config, **change})
    tiny.write_checkpoint(wrong, tmp_path / "wrong")
    reference = stored(kind)
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"]
    assert np.abs(found - expected[0]).max() > 1e-3 * np.abs(expected).max()
