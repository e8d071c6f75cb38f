"""gpt_oss: conversion by every profile and method, MXFP4 sources, windows and sinks in pieces,
stock mlx-lm in both directions, refusals.

Logits of the sources are compared with transformers in test_parity.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from click.testing import CliRunner

import tiny_checkpoints as tiny
from families import PROFILES, manifest
from jang_tools import FormatError, UnsupportedError, convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.cli.main import cli
from jang_tools.errors import JangError
from jang_tools.evaluate import evaluate
from jang_tools.finalize import finalize
from jang_tools.model import load_model
from jang_tools.parts import convert_part
from jang_tools.statistics import collect, load_statistics
from stock import assert_agreement, stock_model
from test_parity import RUNS_TOLERANCE, TOLERANCE, relative_error, stored
from tiny_gpt_oss import FULL, YARN, on_grid, pack, pack_experts, unpack
from weight_files import read_weights

LENGTH = 64
ROLES = {"other", "embedding", "head", "router", "expert", "attention"}
ROUTER = ".mlp.router"


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt-oss") / "source"
    tiny.write_checkpoint(tiny.BY_NAME["gpt-oss"], folder)
    return folder


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint in BF16 and the same with its experts as MXFP4."""
    folder = tmp_path_factory.mktemp("twins")
    for name in ("plain", "packed"):
        tiny.write_checkpoint(tiny.BY_NAME["gpt-oss-packable"], folder / name)
    pack_experts(folder / "packed")
    return folder / "plain", folder / "packed"


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(source: Path, method: str, tmp_path: Path) -> None:
    row = tiny.tokens()[0]
    for profile in PROFILES if method == "rtn" else ["JANG_2S", "JANG_4K", "tiered-3M"]:
        out = tmp_path / profile
        planned = plan(source, profile=profile, group_size=32)
        result = convert(source, out, profile=profile, method=method, group_size=32, threads=2)
        assert result.bytes == planned.bytes
        assert verify(out, against=source).ok, profile
        assert np.isfinite(load_model(out, threads=1)(row)).all()
        if method == "mse":
            assert_agreement(out, prompt=row[:8].tolist(), count=16)
        shutil.rmtree(out)


@pytest.mark.parametrize("name", [case.name for case in tiny.CASES if "gpt-oss" in case.name])
def test_unquantized_output_is_the_source(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    reference = stored(name)
    row = reference["tokens"][0]
    ours = load_model(tmp_path / "out", "exact")(row)
    assert np.array_equal(ours, load_model(tmp_path / "source", "exact")(row))
    assert relative_error(ours, reference["logits"][0]) <= TOLERANCE
    if case.stock:
        assert_agreement(tmp_path / "out", prompt=row[:8].tolist(), count=16)
        return
    if case.tied:
        with pytest.raises(ValueError, match="lm_head"):
            stock_model(tmp_path / "out")
        return
    theirs = stock_model(tmp_path / "out")(row)  # whose yarn has whole channels
    assert np.abs(ours - theirs).max() > 1e-3 * np.abs(theirs).max()


def test_written_values_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    written, values = read_weights(tmp_path / "out"), dict(tiny.tensors(tiny.BY_NAME["gpt-oss"]))
    for layer in range(4):
        block = f"model.layers.{layer}.mlp.experts"
        both, bias = values[f"{block}.gate_up_proj"], values[f"{block}.gate_up_proj_bias"]
        expected = {
            "gate_proj.weight": both[:, :, 0::2].swapaxes(1, 2),
            "up_proj.weight": both[:, :, 1::2].swapaxes(1, 2),
            "down_proj.weight": values[f"{block}.down_proj"].swapaxes(1, 2),
            "gate_proj.bias": bias[:, 0::2],
            "up_proj.bias": bias[:, 1::2],
            "down_proj.bias": values[f"{block}.down_proj_bias"],
        }
        for part, wanted in expected.items():
            found = written[f"{block}.{part}"]
            assert found.shape == wanted.shape
            assert found.payload == tiny.encode(wanted, "F32")


@pytest.mark.parametrize("packed", [False, True])
def test_a_bare_config_and_an_index_plan_like_the_checkpoint(
    twins: tuple[Path, Path], packed: bool, tmp_path: Path
) -> None:
    folder = twins[packed]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    full, plans = plan(folder, **options), [plan(tmp_path, **options)]
    index = {"metadata": {}, "weight_map": dict.fromkeys(read_weights(folder), "m.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


@pytest.mark.parametrize("options", [{"profile": "uniform-4"}, {"router_bits": 8}])
def test_stock_agrees_with_packed_routers(options: dict[str, Any], tmp_path: Path) -> None:
    case = tiny.BY_NAME["gpt-oss"]
    wide = replace(case, config={**case.config, "hidden_size": 128, "intermediate_size": 64})
    tiny.write_checkpoint(wide, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", **options)
    assert any(entry["role"] == "router" for entry in manifest(tmp_path / "out").values())
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :8].tolist(), count=16)


def test_stock_conversions_run_here(source: Path, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    convert(source, tmp_path / "plain", method="rtn", rules=["*=none"])
    stock, values = load_stock(tmp_path / "plain", strict=True)

    def predicate(path: str, module: Any) -> bool | dict[str, int]:
        return {"group_size": 32, "bits": 8} if path.endswith("router") else True

    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert verify(tmp_path / "stock").ok
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)


# --- MXFP4 -------------------------------------------------------------------------------------


def test_packing_is_its_own_inverse() -> None:
    values = np.random.RandomState(4).standard_normal((3, 8, 64)).astype(np.float32)
    grid = on_grid(values)
    assert np.array_equal(unpack(*pack(grid)), grid)
    assert 0.02 < np.abs(grid - values).max() < 0.6


def test_packed_experts_are_the_dequantized_model(twins: tuple[Path, Path]) -> None:
    """Stored logits are those that transformers computes from the plain twin."""
    reference = stored("gpt-oss-packable")
    model = load_model(twins[1], "exact", threads=2)
    for row, expected in zip(reference["tokens"], reference["logits"], strict=True):
        assert relative_error(model(row), expected) <= TOLERANCE
    plain, row = load_model(twins[0], "exact"), reference["tokens"][0]
    assert relative_error(model(row), plain(row)) <= RUNS_TOLERANCE
    assert model.core.format == "hf"


def test_packed_experts_run_in_pieces_and_on_any_threads(twins: tuple[Path, Path]) -> None:
    row = np.tile(tiny.tokens()[0], 13)
    whole = load_model(twins[1], "exact", threads=1)(row)
    for threads in (2, 3):
        assert np.array_equal(load_model(twins[1], "exact", threads=threads)(row), whole)
    model = load_model(twins[1], "exact", threads=2)
    cache = model.cache()
    parts = [model(row[i : i + 23], cache) for i in range(0, len(row), 23)]
    assert relative_error(np.concatenate(parts), whole) <= RUNS_TOLERANCE
    fast = load_model(twins[1], threads=2)(row)
    assert np.median(np.abs(fast - whole).max(axis=-1)) <= 0.1 * np.abs(whole).max()


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_both_twins_convert_to_the_same_bytes(
    twins: tuple[Path, Path], method: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": "JANG_3M", "method": method, "group_size": 32}
    for name, folder in zip(("plain", "packed"), twins, strict=True):
        convert(folder, tmp_path / name, threads=2, **options)
        assert verify(tmp_path / name, against=folder).ok
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert "quant_method" not in config["quantization_config"]
    assert verify(tmp_path / "packed", against=twins[0]).ok
    assert read_weights(tmp_path / "plain") == read_weights(tmp_path / "packed")
    assert_agreement(tmp_path / "packed", prompt=tiny.tokens()[0, :8].tolist(), count=16)


@pytest.mark.parametrize("packed", [False, True])
def test_parts_are_the_bytes_of_one_conversion(
    twins: tuple[Path, Path], packed: bool, tmp_path: Path
) -> None:
    source = twins[packed]
    options: dict[str, Any] = {"profile": "JANG_3M", "group_size": 32, "shard_size": 100_000}
    plan(source, output=tmp_path / "plan.json", method="mse", **options)
    for number in (3, 1, 2):
        convert_part(tmp_path / "plan.json", tmp_path / "out", part=(number, 3), model=source)
    finalize(tmp_path / "plan.json", tmp_path / "out", model=source)
    convert(source, tmp_path / "single", method="mse", **options)
    assert read_weights(tmp_path / "out") == read_weights(tmp_path / "single")


def test_packed_experts_lie_on_lattices(twins: tuple[Path, Path], tmp_path: Path) -> None:
    """Of 5 bits in groups of 32: at 6 bits a profile has more than they need."""
    options: dict[str, Any] = {"profile": "JANG_6M", "method": "mse"}
    convert(twins[1], tmp_path / "out", **options)
    entries = manifest(tmp_path / "out")
    experts = {path: entry for path, entry in entries.items() if ".experts." in path}
    assert len(experts) == 12
    for entry in experts.values():
        assert (entry["bits"], entry["group_size"]) == (5, 32)
        assert entry["solver"] == "lattice"
        assert entry["groups"] == entry["lossless_groups"] > 0
    assert verify(tmp_path / "out", against=twins[1]).ok


def test_packed_experts_are_inspected(twins: tuple[Path, Path]) -> None:
    packed, plain = inspect(twins[1]), inspect(twins[0])
    assert (packed.format, packed.method, plain.method) == ("hf", "mxfp4", None)
    assert packed.parameters == plain.parameters
    roles = {row.role: (row.tensors, row.weights) for row in packed.roles}
    assert roles == {row.role: (row.tensors, row.weights) for row in plain.roles}
    assert packed.average_bits == 4
    found = {tensor.name: tensor for tensor in packed.tensors}
    both = found["model.layers.0.mlp.experts.gate_up_proj"]
    assert (both.dtype, both.bits, both.group_size) == ("U8", 4, 32)
    assert both.shape == (4, 192, 160)
    assert both.bytes == 4 * 192 * 5 * 17
    shown = CliRunner().invoke(cli, ["inspect", str(twins[1])], prog_name="jang").stdout
    assert "Hugging Face\n" in shown and "mxfp4" in shown


def change_scales(folder: Path, change: Callable[[np.ndarray], None]) -> None:
    entries = []
    for name, (dtype, shape, payload) in read_weights(folder).items():
        if name == "model.layers.1.mlp.experts.down_proj_scales":
            values = np.frombuffer(payload, dtype=np.uint8).copy()
            change(values)
            payload = values.tobytes()
        entries.append((name, dtype, shape, payload))
    tiny.write_safetensors(folder / "model.safetensors", entries)


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.parametrize("scale", [253, 254, 255])
def test_scales_that_are_no_numbers_are_refused(
    twins: tuple[Path, Path], scale: int, tmp_path: Path
) -> None:
    folder = copy_of(twins[1], tmp_path / "source")

    def change(values: np.ndarray) -> None:
        values[7] = scale

    change_scales(folder, change)
    for attempt in (
        lambda: load_model(folder),
        lambda: convert(folder, tmp_path / "out", method="rtn", group_size=32),
    ):
        with pytest.raises(FormatError) as caught:
            attempt()
        message = str(caught.value)
        for word in (
            "model.safetensors",
            "layers.1.mlp.experts.down_proj_scales",
            "row 2, block 1",
        ):
            assert word in message, message
        assert f"found {scale}" in message
        assert "\n" not in message
    assert not (tmp_path / "out").exists()


def test_scales_at_the_ends_are_exact(twins: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copy_of(twins[1], tmp_path / "source")

    def change(values: np.ndarray) -> None:
        values[0], values[1] = 0, 1

    change_scales(folder, change)
    convert(folder, tmp_path / "out", method="rtn", rules=["*=none"])
    row = tiny.tokens()[0]
    ours = load_model(tmp_path / "out", "exact")(row)
    assert relative_error(load_model(folder, "exact")(row), ours) <= RUNS_TOLERANCE
    found = read_weights(tmp_path / "out")["model.layers.1.mlp.experts.down_proj.weight"].payload
    bits = np.frombuffer(found, dtype="<u2").astype("<u4") << np.uint32(16)
    block = read_weights(folder)["model.layers.1.mlp.experts.down_proj_blocks"].payload[:32]
    codes = np.frombuffer(block, dtype=np.uint8).reshape(2, 16)
    ones = unpack(codes, np.array([127, 127], dtype=np.uint8)).astype(np.float64)
    powers = np.repeat([2.0**-127, 2.0**-126], 32)
    assert np.array_equal(bits.view("<f4")[:64].astype(np.float64), ones * powers)


@pytest.mark.parametrize(
    ("tensor", "change", "words"),
    [
        ("down_proj_scales", None, ["down_proj_scales", "missing beside", "down_proj_blocks"]),
        ("down_proj_blocks", None, ["down_proj_blocks", "missing beside", "down_proj_scales"]),
        ("gate_up_proj_bias", None, ["gate_proj.bias", "missing"]),
        ("gate_up_proj_scales", (4, 192, 4), ["gate_up_proj_scales", "[4, 192, 5]"]),
        ("gate_up_proj_blocks", (4, 192, 4, 16), ["hidden_size", "160", "[4, 192, 4, 16]"]),
        ("down_proj_blocks", (4, 160, 3, 8), ["down_proj_blocks", "intermediate_size 96"]),
        ("gate_up_proj_blocks", (4, 191, 5, 16), ["even number of rows", "[4, 191, 5, 16]"]),
    ],
)
def test_packed_parts_that_do_not_belong_together_are_refused(
    twins: tuple[Path, Path],
    tensor: str,
    change: tuple[int, ...] | None,
    words: list[str],
    tmp_path: Path,
) -> None:
    folder = copy_of(twins[1], tmp_path / "source")
    entries = []
    for name, (dtype, shape, payload) in read_weights(folder).items():
        if name == f"model.layers.2.mlp.experts.{tensor}":
            if change is None:
                continue
            shape, payload = change, payload[: int(np.prod(change))]
            payload += bytes(int(np.prod(change)) - len(payload))
        entries.append((name, dtype, shape, payload))
    tiny.write_safetensors(folder / "model.safetensors", entries)
    for attempt in (
        lambda: load_model(folder),
        lambda: plan(folder),
        lambda: convert(folder, tmp_path / "out", method="rtn", group_size=32),
    ):
        with pytest.raises(JangError) as caught:
            attempt()
        message = str(caught.value)
        assert all(word in message for word in words), message
        assert "\n" not in message


def test_codes_need_a_word_in_the_config(twins: tuple[Path, Path], tmp_path: Path) -> None:
    folder = copy_of(twins[1], tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="found U8"):
        load_model(folder)
    config |= {"quantization_config": {"quant_method": "awq"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="awq"):
        load_model(folder)


def test_the_word_alone_packs_nothing(source: Path, tmp_path: Path) -> None:
    """Other writers leave it behind in a checkpoint that they have unpacked."""
    folder = copy_of(source, tmp_path / "source")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    row = tiny.tokens()[0]
    assert np.array_equal(load_model(folder, "exact")(row), load_model(source, "exact")(row))


# --- calibration -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "packed"])
def readable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that a text can be read with."""
    folder = tmp_path_factory.mktemp("readable") / "source"
    case = tiny.BY_NAME["gpt-oss-packable"]
    tiny.write_readable_checkpoint(case, folder, sliding_window=24, num_experts_per_tok=2)
    if request.param:
        pack_experts(folder)
    return folder


def test_gptq_solves_every_matrix_and_beats_mse(readable: Path, text: Path, tmp_path: Path) -> None:
    # Experts lie on lattices, where nothing is to be solved, unless the widths are below theirs.
    options: dict[str, Any] = {"profile": "uniform-3", "group_size": 32, "threads": 2}
    convert(readable, tmp_path / "mse", method="mse", **options)
    lengths = {"calibration_sequences": 40, "calibration_tokens": LENGTH}
    convert(readable, tmp_path / "gptq", method="gptq", calibration=text, **lengths, **options)
    assert verify(tmp_path / "gptq", against=readable).ok
    entries = manifest(tmp_path / "gptq")
    unsolved = {path for path, entry in entries.items() if entry["solver"] != "gptq"}
    assert unsolved <= {"model.embed_tokens"}
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    tokens = np.arange(5, 4000, 90, dtype=np.int32)
    theirs = stock_model(tmp_path / "gptq")(tokens)
    ours = load_model(tmp_path / "gptq", "exact", threads=2)(tokens)
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def test_measured_sizes_and_statistics_meet_every_matrix(
    readable: Path, text: Path, tmp_path: Path
) -> None:
    few = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    options: dict[str, Any] = {"method": "gptq", "calibration": text, "group_size": 32, **few}
    result = convert(readable, tmp_path / "sized", bits=4.0, threads=2, **options)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    collect(readable, tmp_path / "sums", calibration=text, **few)
    sums = load_statistics(tmp_path / "sums", readable).mean_squares
    found = {path for path in sums if not path.endswith(ROUTER)}
    assert found == {module.path for module in plan(readable).modules} - {"model.embed_tokens"}
    weighted: dict[str, Any] = {"profile": "uniform-3", "method": "mse", "group_size": 32}
    convert(readable, tmp_path / "weighted", statistics=tmp_path / "sums", **weighted)
    assert verify(tmp_path / "weighted", against=readable).ok


# --- running -----------------------------------------------------------------------------------


def test_pieces_are_one_pass_beyond_windows_and_chunks(source: Path) -> None:
    row = np.tile(tiny.tokens()[0], 13)  # beyond the 256 keys that are taken together
    model = load_model(source, "exact", threads=2)
    whole = model(row)
    for threads in (1, 3):
        assert np.array_equal(load_model(source, "exact", threads=threads)(row), whole)
    for size in (1, 7, 100):
        cache = model.cache()
        parts = [model(row[i : i + size], cache) for i in range(0, len(row), size)]
        assert relative_error(np.concatenate(parts), whole) <= RUNS_TOLERANCE, size


def test_every_cache_type_goes_with_sinks(source: Path) -> None:
    model, row = load_model(source, "exact", threads=2), tiny.tokens()[0]
    exact = model(row)
    bounds = {"f32": 1e-6, "f16": 5e-3, "bf16": 5e-2, "q8": 0.1, "q4": 1.0}
    for kind, bound in bounds.items():
        whole = model(row, model.cache(kind))
        error = np.median(np.abs(whole - exact).max(axis=-1)) / np.abs(exact).max()
        assert error <= bound, kind
        cache = model.cache(kind)
        steps = np.concatenate([model(row[i : i + 5], cache) for i in range(0, len(row), 5)])
        assert relative_error(steps, whole) <= RUNS_TOLERANCE


def test_a_batch_gives_the_bits_of_single_runs(source: Path) -> None:
    row = np.tile(tiny.tokens()[0], 20)
    parts = [row[:300], row[:7], row[3:75], row[10:11]]
    core = load_model(source, "exact", threads=2).core
    caches, alone = [core.new_cache() for _ in parts], [core.new_cache() for _ in parts]
    for step in range(3):
        fed = [part if step == 0 else part[:1] for part in parts]
        together = core.forward_batch(fed, caches)
        single = [
            core.forward(one, cache, last_only=True) for one, cache in zip(fed, alone, strict=True)
        ]
        assert np.array_equal(together, np.stack(single))


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"swiglu_limit": 7.0},
        {"swiglu_alpha": 1.702},
        {"sliding_window": 16},
        {"layer_types": [FULL] * 4},
        {"num_experts_per_tok": 2},
        {"rope_parameters": YARN},
    ],
)
def test_parity_notices_a_wrong_key(change: dict[str, Any], tmp_path: Path) -> None:
    case = tiny.BY_NAME["gpt-oss-limits"]
    tiny.write_checkpoint(replace(case, config={**case.config, **change}), tmp_path / "wrong")
    reference = stored("gpt-oss-limits")
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer_types": [FULL]}, FormatError, ["layer_types", "4 layers"]),
        ({"layer_types": [FULL, "mamba"] * 2}, FormatError, ["layer_types", "layer 1", "mamba"]),
        ({"swiglu_limit": 0}, FormatError, ["swiglu_limit", "found 0"]),
        ({"swiglu_limit": "7"}, FormatError, ["swiglu_limit", "number"]),
        ({"swiglu_alpha": -1.0}, FormatError, ["swiglu_alpha", "found -1"]),
        ({"num_local_experts": 2}, FormatError, ["num_experts_per_tok", "found 3"]),
        ({"num_local_experts": 5}, FormatError, ["expected shape [5, "]),
        ({"head_dim": 1 << 22}, FormatError, ["head_dim", "2^24"]),
        ({"quantization_config": []}, FormatError, ["quantization_config", "object"]),
    ],
)
def test_hostile_configs_are_refused_in_one_line(
    source: Path, change: dict[str, Any], error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    folder = copy_of(source, tmp_path / "source")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error) as caught:
        load_model(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
