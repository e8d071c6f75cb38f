"""gemma4's text model: conversion by every method, roles, shared keys in the cache and in
calibration, multimodal files, stock mlx-lm in both directions, refusals.

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
from jang_tools import FormatError, UnsupportedError, convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.statistics import collect, load_statistics
from test_mlx import PROFILES, assert_agreement, stock_model
from test_parity import RUNS_TOLERANCE, TOLERANCE, relative_error, stored
from tiny_gemma4 import ROPES
from weight_files import read_weights

FAMILIES = ["gemma4", "gemma4-experts"]
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


def manifest(path: Path) -> dict[str, Any]:
    document = json.loads((path / "jang_config.json").read_text("utf-8"))
    return dict(document["quantization"]["tensor_quantization_manifest"])


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    few = ["JANG_2S", "JANG_4K", "tiered-3M"]
    profiles = PROFILES if method == "rtn" and name == "gemma4" else few
    for profile in profiles:
        out = tmp_path / profile
        convert(source, out, profile=profile, method=method, group_size=32, threads=2)
        assert verify(out, against=source).ok, profile
        row = tiny.tokens()[0]
        assert np.isfinite(load_model(out, threads=1)(row)).all()
        if method == "mse":
            assert_agreement(out, prompt=row[:8].tolist(), count=16)
        shutil.rmtree(out)


@pytest.mark.parametrize("name", [*FAMILIES, "gemma4-all"])
def test_unquantized_output_is_the_source(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    reference = stored(name)
    row = reference["tokens"][0]
    ours = load_model(tmp_path / "out", "exact")(row)
    assert np.array_equal(ours, load_model(tmp_path / "source", "exact")(row))
    assert relative_error(ours, reference["logits"][0]) <= TOLERANCE
    if case.stock:
        assert_agreement(tmp_path / "out", prompt=row[:8].tolist(), count=16)
    else:
        with pytest.raises(ValueError, match="bias"):
            stock_model(tmp_path / "out")


@pytest.mark.parametrize("name", [*FAMILIES, "gemma4-all"])
def test_roles_are_complete(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "source")
    planned = plan(tmp_path / "source", profile="JANG_4L", group_size=32)
    assert planned.warnings == []
    roles = {"other", "embedding", "attention", "mlp"}
    roles |= {"router", "expert"} if case.config["enable_moe_block"] else set()
    assert {row.role for row in planned.roles} == roles | (set() if case.tied else {"head"})
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    found = {row.role: row.weights for row in inspect(tmp_path / "out").roles}
    assert found == {row.role: row.weights for row in planned.roles}
    entries = manifest(tmp_path / "out")
    matrices = [path for path in entries if ".layers." in path and ".router." not in path]
    assert len(matrices) == case.matrices


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(source: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    full, plans = plan(source, **options), [plan(tmp_path, **options)]
    index = {"metadata": {}, "weight_map": dict.fromkeys(read_weights(source), "m.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


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


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def readable(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with."""
    folder = tmp_path_factory.mktemp(name) / "readable"
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder, sliding_window=24)
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
    solve(readable, tmp_path / "gptq", text, 40)
    assert verify(tmp_path / "gptq", against=readable).ok
    entries = manifest(tmp_path / "gptq")
    unsolved = {path for path, entry in entries.items() if entry["solver"] != "gptq"}
    assert unsolved <= {"model.embed_tokens_per_layer"}  # which is only looked up
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    tokens = np.arange(5, 4000, 90, dtype=np.int32)
    theirs = stock_model(tmp_path / "gptq")(tokens)
    ours = load_model(tmp_path / "gptq", "exact", threads=2)(tokens)
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_threads_change_no_byte_of_a_solve(readable: Path, text: Path, tmp_path: Path) -> None:
    for threads in (1, 2):
        solve(readable, tmp_path / str(threads), text, 6, threads=threads)
    assert read_weights(tmp_path / "1") == read_weights(tmp_path / "2")


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
    wanted = {module.path for module in plan(readable).modules}
    found = {path for path in weights if not path.endswith("router.proj")}
    assert found == wanted - {"model.embed_tokens_per_layer"}
    options: dict[str, Any] = {"profile": "uniform-3", "method": "mse", "group_size": 32}
    convert(readable, tmp_path / "weighted", statistics=sums, **options)
    assert verify(tmp_path / "weighted", against=readable).ok


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


@pytest.mark.parametrize("name", ["gemma4", "gemma4-all"])
def test_a_batch_gives_the_bits_of_single_runs(name: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    row = np.tile(tiny.tokens()[0], 20)  # beyond a chunk of attention
    parts = [row[:300], row[:7], row[3:75], row[10:11]]
    core = load_model(tmp_path / "source", "exact", threads=2).core
    caches = [core.new_cache() for _ in parts]
    alone = [core.new_cache() for _ in parts]
    for step in range(3):
        fed = [part if step == 0 else part[:1] for part in parts]
        together = core.forward_batch(fed, caches)
        single = [
            core.forward(one, cache, last_only=True) for one, cache in zip(fed, alone, strict=True)
        ]
        assert np.array_equal(together, np.stack(single))


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


@pytest.mark.parametrize("wrap", [False, True])
def test_stock_conversions_run_here(name: str, wrap: bool, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    case = replace(tiny.BY_NAME[name], shards=0, absent=())
    if wrap:
        wrapped(case, tmp_path / "source", "old")
        path = tmp_path / "source" / "config.json"
        config = json.loads(path.read_text("utf-8")) | {"vocab_size": tiny.VOCABULARY}
        path.write_text(json.dumps(config), encoding="utf-8")
    else:
        tiny.write_checkpoint(case, tmp_path / "source", "old")
    stock, values = load_stock(tmp_path / "source", strict=True)
    predicate = getattr(stock, "quant_predicate", None)
    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
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
    case = tiny.BY_NAME[name]
    changed = replace(case, config={**case.config, **change}, absent=())
    tiny.write_checkpoint(changed, tmp_path / "wrong", "old")
    reference = stored(name)
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()


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
    change: dict[str, Any], error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["gemma4"], tmp_path / "source", "old")
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error) as caught:
        load_model(tmp_path / "source")
    message = str(caught.value)
    assert all(word in message for word in ["config.json", *words]), message
    assert "\n" not in message


def test_images_do_not_change_what_text_sees(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["gemma4"], tmp_path / "source")
    row: npt.NDArray[np.int32] = tiny.tokens()[0]
    expected = load_model(tmp_path / "source")(row)
    path = tmp_path / "source" / "config.json"
    more = {"use_bidirectional_attention": "vision"}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    assert np.array_equal(load_model(tmp_path / "source")(row), expected)
