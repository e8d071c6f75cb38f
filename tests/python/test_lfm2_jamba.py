"""lfm2, lfm2_moe and jamba: conversion by every method, roles, planning from a config or an index,
names of other writers, stock mlx-lm in both directions, and where stock computes something else."""

from __future__ import annotations

import json
from dataclasses import replace
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
from test_mlx import PROFILES, TOLERANCE, assert_agreement, stock_model
from test_parity import stored
from weight_files import read_weights

FAMILIES = ["lfm2", "lfm2-moe", "jamba"]
LENGTH = 64
GROUPS: dict[str, Any] = {"group_size": 32}


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


def manifest(output: Path) -> dict[str, Any]:
    document = json.loads((output / "jang_config.json").read_text())
    return dict(document["quantization"]["tensor_quantization_manifest"])


def assert_same_logits(path: Path, tokens: Any) -> None:
    ours = load_model(path, "exact", threads=2)(tokens)
    theirs = stock_model(path)(tokens)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


# --- every profile -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    few = ["JANG_2S", "JANG_4K", "tiered-3M", "uniform-6"]
    row = tiny.tokens()[0, :6]
    for profile in PROFILES if method == "rtn" else few:
        out = tmp_path / profile
        options: dict[str, Any] = {"profile": profile, "method": method, **GROUPS}
        if name == "lfm2" and profile.startswith("mixed_"):  # its w2 is none to stock either
            with pytest.raises(ValueError, match="down_proj"):
                convert(source, out, **options)
            continue
        planned = plan(source, profile=profile, **GROUPS)
        assert convert(source, out, threads=2, **options).bytes == planned.bytes
        assert verify(out, against=source).ok
        assert np.isfinite(load_model(out, threads=2)(row)).all()
        if profile in ("JANG_2S", "uniform-6") and tiny.BY_NAME[name].stock:
            assert_same_logits(out, tiny.tokens()[0])


def test_unquantized_output_is_the_source(name: str, source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(tmp_path / "out")(row), load_model(source)(row))


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    planned = plan(source, profile="JANG_3M", **GROUPS)
    assert not [text for text in planned.warnings if "unknown name" in text]
    roles = {row.role for row in planned.roles}
    routers = set() if name == "lfm2" else {"router", "expert"}
    head = {"head"} if name == "jamba" else set()
    assert roles == {"other", "ssm", "attention", "embedding", "mlp"} | routers | head
    convert(source, tmp_path / "out", profile="JANG_3M", method="rtn", **GROUPS)
    assert {row.role: row.weights for row in inspect(tmp_path / "out").roles} == {
        row.role: row.weights for row in planned.roles
    }
    record = json.loads((tmp_path / "out" / "jang_config.json").read_text())
    kind = "hybrid_ssm" if name == "lfm2" else "hybrid_moe_ssm"
    assert record["architecture"]["type"] == kind
    entries = manifest(tmp_path / "out")
    layers = {path: entry for path, entry in entries.items() if ".layers." in path}
    assert len(layers) == tiny.BY_NAME[name].matrices
    for path, entry in layers.items():
        block = path.split(".")[3]
        wanted = {"self_attn": "attention", "conv": "ssm", "mamba": "ssm"}.get(block, "mlp")
        assert entry["role"] == ("expert" if "switch_mlp" in path else wanted)
        if path.endswith("x_proj"):  # it steers decays
            assert entry["bits"] == 8


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(
    name: str, source: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "JANG_4K", **GROUPS}
    full = plan(source, **options)
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    plans = [plan(tmp_path, **options)]
    for fused in (False, True):
        tensors = tiny.tensors(replace(tiny.BY_NAME[name], fused_experts=fused))
        index = {
            "weight_map": {tensor: "model-00001-of-00001.safetensors" for tensor, _ in tensors}
        }
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


# --- names of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lfm2-moe", "jamba"])
def test_names_in_memory_convert_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    for fused in (False, True):
        folder, output = tmp_path / f"source-{fused}", tmp_path / f"out-{fused}"
        tiny.write_checkpoint(replace(tiny.BY_NAME[kind], fused_experts=fused), folder)
        convert(folder, output, profile="JANG_2S", method="mse", **GROUPS)
    sources, outputs = (
        [read_weights(tmp_path / f"{stem}-{fused}") for fused in (False, True)]
        for stem in ("source", "out")
    )
    assert sources[0].keys() != sources[1].keys()
    assert outputs[0] == outputs[1]
    row = tiny.tokens()[0]
    one, other = (load_model(tmp_path / f"source-{fused}")(row) for fused in (False, True))
    assert np.array_equal(one, other)


def rewrite(folder: Path, names: dict[str, str], dropped: tuple[str, ...] = ()) -> None:
    """Renames parts of tensors' names and of the keys of the map of widths."""

    def renamed(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    entries = [
        (renamed(key), one.dtype, one.shape, one.payload)
        for key, one in read_weights(folder).items()
    ]
    tiny.write_safetensors(next(folder.glob("model*.safetensors")), entries)
    for file in ("config.json", "jang_config.json"):
        if (folder / file).exists():
            (folder / file).write_text(renamed((folder / file).read_text()))
    for file in dropped:
        (folder / file).unlink(missing_ok=True)


def test_feed_forwards_that_others_renamed_are_read(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["lfm2"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4K", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    expected = load_model(tmp_path / "out")(row)
    parts = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    names = {f"feed_forward.{old}": f"feed_forward.{new}" for old, new in parts.items()}
    rewrite(tmp_path / "out", names, ("model.safetensors.index.json",))
    assert "model.layers.0.feed_forward.up_proj.scales" in read_weights(tmp_path / "out")
    assert np.array_equal(load_model(tmp_path / "out")(row), expected)


def test_a_multimodal_checkpoint_is_its_text_model(tmp_path: Path) -> None:
    case = replace(tiny.BY_NAME["lfm2"], shards=0)
    tiny.write_checkpoint(case, tmp_path / "text")
    tiny.write_checkpoint(case, tmp_path / "whole")
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    rewrite(tmp_path / "whole", {"model.": "model.language_model."})
    wrapper = {"model_type": "lfm2_vl", "vision_config": {}, "text_config": config}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(wrapper))
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(tmp_path / "whole")(row), load_model(tmp_path / "text")(row))
    for folder, output in (("text", "a"), ("whole", "b")):
        convert(tmp_path / folder, tmp_path / output, profile="JANG_2S", method="rtn", **GROUPS)
    assert read_weights(tmp_path / "a") == read_weights(tmp_path / "b")
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert written["model_type"] == "lfm2" and "text_config" not in written
    assert_same_logits(tmp_path / "b", row)


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
    # Enough of the experts that corrections leave none without tokens.
    more = {"num_experts_per_tok": 6} if name == "lfm2-moe" else {}
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder, num_hidden_layers=4, **more)
    return folder


def test_gptq_solves_every_matrix_and_beats_mse(
    name: str, readable: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "uniform-3", "threads": 2, **GROUPS}
    convert(readable, tmp_path / "mse", method="mse", **options)
    short = {"calibration_sequences": 40, "calibration_tokens": LENGTH}
    convert(readable, tmp_path / "gptq", method="gptq", calibration=text, **short, **options)
    assert verify(tmp_path / "gptq", against=readable).ok
    entries = manifest(tmp_path / "gptq")
    unsolved = {path for path, entry in entries.items() if entry["solver"] != "gptq"}
    assert unsolved <= {"model.embed_tokens"}
    for path, entry in entries.items():
        if ".switch_mlp." in path:
            assert entry["experts"]["solved"] == entry["shape"][0]
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    if tiny.BY_NAME[name].stock:
        assert_same_logits(tmp_path / "gptq", np.arange(5, 4000, 90, dtype=np.int32))


def test_sizes_and_statistics(readable: Path, text: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"threads": 2, **GROUPS}
    short = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    made = convert(
        readable, tmp_path / "sized", method="gptq", bits=5.0, calibration=text, **short, **options
    )
    assert made.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    collect(readable, tmp_path / "sums", calibration=text, **short)
    weights = load_statistics(tmp_path / "sums", readable).mean_squares
    modules = {module.path: module.role for module in plan(readable, **GROUPS).modules}
    if "head" in modules.values():
        modules = {path: role for path, role in modules.items() if role != "embedding"}
    assert set(weights) >= set(modules)
    sums = {"statistics": tmp_path / "sums"}
    convert(readable, tmp_path / "weighted", method="mse", profile="uniform-3", **sums, **options)
    assert verify(tmp_path / "weighted", against=readable).ok


def test_threads_change_no_byte(readable: Path, text: Path, tmp_path: Path) -> None:
    files = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        short = {"calibration_sequences": 6, "calibration_tokens": LENGTH, "threads": threads}
        convert(
            readable, out, method="gptq", profile="JANG_3M", calibration=text, **short, **GROUPS
        )
        files.append((out / "model-00001-of-00001.safetensors").read_bytes())
    assert files[0] == files[1]


# --- running, and stock ------------------------------------------------------------------------


def test_fast_precision_stays_near(source: Path, tmp_path: Path) -> None:
    """Of most tokens: now and then one meets other experts."""
    convert(source, tmp_path / "out", profile="JANG_6M", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    exact = load_model(tmp_path / "out", "exact", threads=2)(row)
    model = load_model(tmp_path / "out", "fast", threads=2)
    cache = model.cache()
    decoded = np.concatenate([model(token[None], cache) for token in row])
    for found in (model(row), decoded):
        errors = np.abs(found - exact).max(axis=-1) / np.abs(exact).max()
        assert np.median(errors) <= 0.1


@pytest.mark.parametrize("kind", ["lfm2-biases", "lfm2-moe", "jamba-dense"])
def test_stock_conversions_run_here(kind: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    # What stock requires stands in what we write; its own conversion starts from that.
    tiny.write_checkpoint(tiny.BY_NAME[kind], tmp_path / "hf")
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


def test_stock_divides_the_weights_of_jambas_experts(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["jamba"], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    row = tiny.tokens()[0]
    ours, theirs = load_model(tmp_path / "out", "exact")(row), stock_model(tmp_path / "out")(row)
    assert np.abs(ours - theirs).max() > 1e-2 * np.abs(theirs).max()


@pytest.mark.parametrize("kind", ["lfm2-untied", "jamba-sparse"])
def test_stock_refuses_rather_than_answers_wrongly(kind: str, tmp_path: Path) -> None:
    """A head of lfm2's own; layers of experts that stock counts from the other side."""
    tiny.write_checkpoint(tiny.BY_NAME[kind], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", **GROUPS)
    with pytest.raises(ValueError):
        stock_model(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("lfm2", {"norm_eps": 0.03}),
        ("lfm2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
        ("lfm2-moe", {"norm_topk_prob": False}),
        ("lfm2-moe", {"routed_scaling_factor": 1.5}),
        ("lfm2-moe", {"num_experts_per_tok": 2}),
        ("lfm2-moe-fused", {"routed_scaling_factor": 1.0}),
        ("jamba", {"num_experts_per_tok": 3}),
        ("jamba", {"rms_norm_eps": 0.03}),
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
    assert np.abs(found - expected[0]).max() > 1e-2 * np.abs(expected).max()
