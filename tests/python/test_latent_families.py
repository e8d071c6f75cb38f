"""glm4_moe, deepseek_v3 and deepseek_v2: conversion at every profile and by every method, roles,
what a latent cache holds, what is left out, and what stock mlx-lm makes of the directories.

Logits of the sources are compared with transformers in test_parity.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.statistics import collect, load_statistics
from test_mlx import PROFILES, assert_agreement, stock_model
from test_parity import RUNS_TOLERANCE, TOLERANCE, relative_error, stored
from tiny_latent import YARN
from weight_files import read_weights

FAMILIES = ["glm4-moe", "deepseek-v3", "deepseek-v2"]
LENGTH = 64
ROLES = {"other", "embedding", "head", "router", "shared_expert", "expert", "attention", "mlp"}


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


def manifest(path: Path) -> dict[str, Any]:
    document = json.loads((path / "jang_config.json").read_text("utf-8"))
    return dict(document["quantization"]["tensor_quantization_manifest"])


def tokens() -> npt.NDArray[np.int32]:
    return np.arange(5, 4000, 90, dtype=np.int32)


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(source: Path, method: str, tmp_path: Path) -> None:
    # One method needs not meet all profiles: what differs between them is the width.
    profiles = PROFILES if method == "rtn" else ["JANG_1L", "JANG_4K", "tiered-3M", "uniform-6"]
    for profile in profiles:
        out = tmp_path / profile
        convert(source, out, profile=profile, method=method, group_size=32, threads=2)
        assert verify(out, against=source).ok, profile
        assert np.isfinite(load_model(out, threads=1)(tiny.tokens()[0])).all()
        shutil.rmtree(out)


@pytest.mark.parametrize("profile", ["JANG_2S", "JANG_3M", "mixed_2_6", "tiered-4M"])
def test_stock_agrees(source: Path, profile: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"profile": profile, "method": "mse", "group_size": 32}
    convert(source, tmp_path / "out", **options)
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :8].tolist(), count=16)


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_4L", group_size=32)
    assert planned.warnings == []
    assert {row.role for row in planned.roles} == ROLES
    convert(source, tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    found = {row.role: row.weights for row in inspect(tmp_path / "out").roles}
    assert found == {row.role: row.weights for row in planned.roles}
    matrices = {path for path in manifest(tmp_path / "out") if ".layers." in path}
    assert len(matrices) == tiny.BY_NAME[name].matrices
    assert not [path for path in matrices if path.endswith("mlp.gate")]  # stock: a bare array
    weights = read_weights(tmp_path / "out")
    latent = {path.split(".")[-2] for path in weights if ".self_attn." in path}
    assert ("embed_q" in latent) == (name == "deepseek-v3")
    assert ("kv_b_proj" in latent) == (name == "deepseek-v2")


def test_a_bare_config_plans_like_its_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    bare, full = plan(tmp_path, **options), plan(source, **options)
    assert bare.parameters == full.parameters
    assert [m.path for m in bare.modules] == [m.path for m in full.modules]
    assert bare.bytes == full.bytes
    index = {"metadata": {}, "weight_map": dict.fromkeys(read_weights(source), "m.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert plan(tmp_path, **options).bytes == full.bytes


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
    # Corrections of the choice may leave an expert without a token, of which there is a warning.
    warnings = solve(readable, tmp_path / "gptq", text, 40).warnings
    assert [line for line in warnings if "expert matrices met fewer tokens" not in line] == []
    assert verify(tmp_path / "gptq", against=readable).ok
    entries = manifest(tmp_path / "gptq")
    solved = {path for path, entry in entries.items() if entry["solver"] == "gptq"}
    assert entries.keys() - solved == {"model.embed_tokens"}  # which is only looked up
    for entry in (entry for path, entry in entries.items() if "embed_q" in path):
        assert 0 < entry["error"] < 0.1
        assert 0.001 <= entry["lambda"] <= 0.5
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    theirs = stock_model(tmp_path / "gptq")(tokens())
    ours = load_model(tmp_path / "gptq", "exact", threads=2)(tokens())
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_heads_alone_are_solved_better_than_searched(text: Path, tmp_path: Path) -> None:
    """Of all matrices only those between the latent and the heads are quantized."""
    readable = tmp_path / "source"
    tiny.write_readable_checkpoint(tiny.BY_NAME["deepseek-v3"], readable)
    rules = ["*=none", "*.embed_q=3:32", "*.unembed_out=3:32"]
    options: dict[str, Any] = {"profile": "uniform-3", "rules": rules}
    convert(readable, tmp_path / "mse", method="mse", **options)
    solve(readable, tmp_path / "gptq", text, 40, **options)
    assert len(manifest(tmp_path / "gptq")) == 2 * 2
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse


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
    sums = tmp_path / "sums"
    lengths = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    collect(readable, sums, calibration=text, **lengths)
    weights = load_statistics(sums, readable).mean_squares
    modules = {module.path: module.role for module in plan(readable).modules}
    wanted = {path for path, role in modules.items() if role != "embedding"}
    found = {path for path in weights if not path.endswith("mlp.gate")}
    assert found == {path for path in wanted if not path.endswith("mlp.gate")}
    options: dict[str, Any] = {"profile": "uniform-3", "method": "mse", "group_size": 32}
    convert(readable, tmp_path / "weighted", statistics=sums, **options)
    assert verify(tmp_path / "weighted", against=readable).ok


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


@pytest.mark.parametrize("name", ["glm4-moe-groups", "deepseek-v3", "deepseek-v2-groups"])
def test_a_batch_gives_the_bits_of_single_runs(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", group_size=32)
    row = np.tile(tiny.tokens()[0], 20)  # beyond a chunk of attention
    parts = [row[:300], row[:7], row[3:75], row[10:11]]
    for path in (tmp_path / "source", tmp_path / "out"):
        core = load_model(path, "exact", threads=2).core
        caches = [core.new_cache() for _ in parts]
        alone = [core.new_cache() for _ in parts]
        for step in range(3):
            fed = [part if step == 0 else part[:1] for part in parts]
            together = core.forward_batch(fed, caches)
            single = [
                core.forward(one, cache, last_only=True)
                for one, cache in zip(fed, alone, strict=True)
            ]
            assert np.array_equal(together, np.stack(single))


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


def test_stock_conversions_run_here(name: str, tmp_path: Path) -> None:
    """The third generation's are quantized as stacks of heads, the second's as one matrix."""
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source", spelling="old")
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text()) | {"num_hidden_layers": 4}
    path.write_text(json.dumps(config))
    stock, values = load_stock(tmp_path / "source", strict=False)
    # Experts by names that stock joins only under others.
    weights = mx.load(str(tmp_path / "source" / "model.safetensors"))
    weights = stock.sanitize(joined(weights, config["n_routed_experts"]))
    stock.load_weights(list(weights.items()), strict=True)
    predicate = getattr(stock, "quant_predicate", None)
    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)


def joined(weights: dict[str, mx.array], count: int) -> dict[str, mx.array]:
    """Expert by expert to stacks."""
    out = {path: values for path, values in weights.items() if ".experts." not in path}
    for path in weights:
        if ".experts.0." in path:
            parts = [weights[path.replace(".experts.0.", f".experts.{i}.")] for i in range(count)]
            out[path.replace("experts.0.", "switch_mlp.")] = mx.stack(parts)
    return out


@pytest.mark.parametrize("name", ["deepseek-v3-halves", "deepseek-v2-mlp-bias"])
def test_what_stock_has_not_runs_here(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    reference = stored(name)
    ours = load_model(tmp_path / "out", "exact")(reference["tokens"][0])
    assert relative_error(ours, reference["logits"][0]) <= TOLERANCE
    with pytest.raises(ValueError, match=r"lm_head|bias"):
        stock_model(tmp_path / "out")


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
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(replace(case, config={**case.config, **change}), tmp_path / "wrong")
    reference = stored(name)
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()
