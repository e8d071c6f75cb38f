"""glm4_moe, deepseek_v3 and deepseek_v2: how latents lie in files, what a latent cache holds, what
is left out.

What every family must do is in test_every_family*.py, logits of the sources in test_parity.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import LENGTH, assert_noticed, manifest, solve
from jang_tools import convert, verify
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from stock import assert_agreement
from test_parity import RUNS_TOLERANCE, relative_error
from tiny_latent import YARN
from weight_files import read_weights


@pytest.fixture(scope="module", params=["glm4-moe", "deepseek-v3", "deepseek-v2"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["glm4-moe-groups", "deepseek-v3", "deepseek-v2-groups"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_unquantized_output_is_the_source(name: str, dtype: str, tmp_path: Path) -> None:
    """Keys of a latent are transposed on disk, nothing is rounded that the dtype holds."""
    case = replace(tiny.BY_NAME[name], dtype=dtype.upper())
    tiny.write_checkpoint(case, tmp_path / "source")
    options: dict[str, Any] = {"profile": "JANG_4L", "method": "rtn", "rules": ["*=none"]}
    convert(tmp_path / "source", tmp_path / "out", **options)
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    row = tiny.tokens()[0]
    ours = load_model(tmp_path / "out", "exact")(row)
    expected = load_model(tmp_path / "source", "exact")(row)
    assert relative_error(ours, expected) <= RUNS_TOLERANCE
    assert_agreement(tmp_path / "out", prompt=row[:8].tolist(), count=16)


def test_the_third_generation_is_written_as_stacks_of_heads(
    name: str, source: Path, tmp_path: Path
) -> None:
    """The second's as one matrix; routers stay plain, which stock holds as a bare array."""
    convert(source, tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    weights = read_weights(tmp_path / "out")
    latent = {path.split(".")[-2] for path in weights if ".self_attn." in path}
    assert ("embed_q" in latent) == (name == "deepseek-v3")
    assert ("kv_b_proj" in latent) == (name == "deepseek-v2")
    assert not [path for path in manifest(tmp_path / "out") if path.endswith("mlp.gate")]


def test_latents_are_turned_to_the_bit(tmp_path: Path) -> None:
    case = tiny.BY_NAME["deepseek-v3-full-rank"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    before, after = read_weights(tmp_path / "source"), read_weights(tmp_path / "out")
    values = {**tiny.BASE, **case.config}
    heads, rank = values["num_attention_heads"], values["kv_lora_rank"]
    plain = values["qk_nope_head_dim"]
    for layer in range(values["num_hidden_layers"]):
        base = f"model.layers.{layer}.self_attn."
        whole = before[f"{base}kv_b_proj.weight"]
        both = np.frombuffer(whole.payload, "<u2").reshape(heads, -1, rank)
        for part, expected in (
            ("embed_q", both[:, :plain].swapaxes(1, 2)),
            ("unembed_out", both[:, plain:]),
        ):
            found = after[f"{base}{part}.weight"]
            assert tuple(found.shape) == expected.shape
            assert found.payload == np.ascontiguousarray(expected).tobytes()


def test_corrections_of_the_choice_are_never_cast(tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME["deepseek-v3"], dtype="F32")
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", dtype="bf16", group_size=32)
    for path, tensor in read_weights(tmp_path / "out").items():
        if path.endswith("correction_bias"):
            assert tensor.dtype == "F32"
        elif ".scales" in path or "norm" in path:
            assert tensor.dtype == "BF16"
    assert verify(tmp_path / "out", against=tmp_path / "source").ok


# --- calibration -------------------------------------------------------------------------------


def test_heads_alone_are_solved_better_than_searched(text: Path, tmp_path: Path) -> None:
    """Of all matrices only those between the latent and the heads are quantized."""
    readable = tmp_path / "source"
    tiny.write_readable_checkpoint(tiny.BY_NAME["deepseek-v3"], readable)
    rules = ["*=none", "*.embed_q=3:32", "*.unembed_out=3:32"]
    options: dict[str, Any] = {"profile": "uniform-3", "rules": rules}
    convert(readable, tmp_path / "mse", method="mse", **options)
    solve(readable, tmp_path / "gptq", text, 40, **options)
    entries = manifest(tmp_path / "gptq")
    assert len(entries) == 2 * 2
    for entry in entries.values():
        assert 0 < entry["error"] < 0.1
        assert 0.001 <= entry["lambda"] <= 0.5
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse


# --- running -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepseek-v3", "deepseek-v2-groups"])
def test_every_cache_type_holds_latents(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    model, row = load_model(tmp_path / "source", "exact", threads=2), tiny.tokens()[0]
    exact = model(row)
    # Of the median token: a rounded key may send a token to other experts.
    bounds = {"f32": 1e-6, "f16": 1e-3, "bf16": 1e-2, "q8": 5e-2, "q4": 0.5}
    errors = {}
    for kind, bound in bounds.items():
        cache = model.cache(kind)
        whole = model(row, cache)
        errors[kind] = float(np.median(np.abs(whole - exact).max(axis=-1)) / np.abs(exact).max())
        assert errors[kind] <= bound, kind
        cache = model.cache(kind)
        steps = np.concatenate([model(row[i : i + 5], cache) for i in range(0, len(row), 5)])
        assert relative_error(steps, whole) <= RUNS_TOLERANCE
    assert 0 < errors["f16"] < errors["bf16"] < errors["q4"]


def test_many_heads_share_a_key(tmp_path: Path) -> None:
    """More heads than a tile of attention has rows: cut by heads, over chunks, for one token."""
    case = tiny.BY_NAME["deepseek-v3"]
    wide = {"num_attention_heads": 40, "num_key_value_heads": 40, "max_position_embeddings": 1024}
    tiny.write_checkpoint(replace(case, config={**case.config, **wide}), tmp_path / "source")
    row = np.tile(tiny.tokens()[0], 23)[:540]
    models = [load_model(tmp_path / "source", "exact", threads=n).core for n in (1, 2, 3)]
    results = []
    for model in models:
        cache = model.new_cache()
        whole = model.forward(row, cache)
        cache.truncate(530)
        results.append(np.stack([model.forward(token[None], cache)[0] for token in row[530:]]))
        assert np.array_equal(results[-1], whole[530:])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def mtp_layer(case: tiny.Case) -> list[tuple[str, tiny.Floats]]:
    """A layer behind the last, as released checkpoints have it for multi-token prediction."""
    values = {**tiny.BASE, **case.config}
    last = f"model.layers.{values['num_hidden_layers'] - 1}."
    extra = f"model.layers.{values['num_hidden_layers']}."
    hidden = values["hidden_size"]
    block = [(n.replace(last, extra), v) for n, v in tiny.tensors(case) if n.startswith(last)]
    own = {"eh_proj.weight": (hidden, 2 * hidden), "enorm.weight": (hidden,)}
    own |= {"shared_head.head.weight": (values["vocab_size"], hidden)}
    return block + [(extra + n, np.ones(shape, dtype=np.float32)) for n, shape in own.items()]


def test_multi_token_prediction_is_left_out(name: str, source: Path, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    extra = mtp_layer(case)
    folder = tmp_path / "source"
    folder.mkdir()
    config = tiny.config(case) | {"num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    entries = [
        (path, case.dtype, values.shape, tiny.encode(values, case.dtype))
        for path, values in [*tiny.tensors(case), *extra]
    ]
    tiny.write_safetensors(folder / "model.safetensors", entries)
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(folder)(row), load_model(source)(row))
    convert(folder, tmp_path / "out", method="rtn", group_size=32)
    assert verify(tmp_path / "out", against=folder).ok
    assert not [path for path in read_weights(tmp_path / "out") if ".layers.4." in path]
    assert_agreement(tmp_path / "out", prompt=row[:8].tolist(), count=16)


# --- stock mlx-lm ------------------------------------------------------------------------------


# --- checks of the checks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("glm4-moe", {"norm_topk_prob": False}),
        ("glm4-moe", {"routed_scaling_factor": 1.0}),
        ("glm4-moe-groups", {"topk_group": 4}),
        ("deepseek-v3", {"rope_interleave": False}),
        ("deepseek-v3", {"topk_group": 4}),
        ("deepseek-v3", {"rope_parameters": {**YARN, "mscale_all_dim": 0.7}}),
        ("deepseek-v3", {"rope_parameters": {**YARN, "mscale": 1.4}}),
        ("deepseek-v2", {"routed_scaling_factor": 1.0}),
        ("deepseek-v2-groups", {"topk_method": "greedy"}),
    ],
)
def test_parity_notices_a_wrong_key(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """Each key moves logits far beyond the tolerance of the comparison with transformers."""
    assert_noticed(name, change, tmp_path / "wrong")
