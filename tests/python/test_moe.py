"""Models with routed experts: conversion of every spelling, and what quantized ones promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import manifest
from jang_tools import convert, plan
from jang_tools.errors import FormatError, JangError
from jang_tools.model import Model, load_model
from jang_tools.quantize import quantize
from weight_files import read_weights

NAMES = ["qwen3-moe", "qwen3-moe-sparse", "mixtral"]
TOKENS = 96


def tokens(count: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(5).integers(0, tiny.VOCABULARY, count).astype(np.int32)


def block(name: str) -> str:
    return "block_sparse_moe" if name.startswith("mixtral") else "mlp"


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


@pytest.fixture(scope="module")
def converted(source: Path) -> Path:
    output = source.parent / "converted"
    rules = ["*.up_proj=3:32", "*.down_proj=5:32"]
    convert(source, output, profile="JANG_4L", method="rtn", group_size=32, rules=rules)
    return output


def steps(model: Model, row: np.ndarray, sizes: list[int]) -> np.ndarray:
    cache = model.cache()
    parts = []
    for size in sizes:
        parts.append(model(row[cache.length : cache.length + size], cache))
    return np.concatenate(parts)


# --- running -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_threads_change_no_bit(converted: Path, precision: Any) -> None:
    models = [load_model(converted, precision, threads=n) for n in (1, 2, 5)]
    row = tokens()
    for sizes in ([TOKENS], [1, 2, 3, 7, 40], [1] * 6):
        first, *others = (steps(model, row, sizes) for model in models)
        for other in others:
            assert np.array_equal(first, other)
    caches = [[model.cache() for _ in range(6)] for model in models]
    rows = [row[i : i + 1 + 3 * (i % 2)] for i in range(6)]
    batches = [
        model.core.forward_batch(rows, own) for model, own in zip(models, caches, strict=True)
    ]
    assert np.array_equal(batches[0], batches[1])
    assert np.array_equal(batches[0], batches[2])


def test_exact_results_do_not_depend_on_the_other_tokens(converted: Path) -> None:
    model = load_model(converted, "exact", threads=2)
    row = tokens()
    whole = model(row)
    for sizes in ([1] * TOKENS, [5] * 19 + [1], [90, 6]):
        assert np.array_equal(steps(model, row, sizes), whole)
    rows = [row[i : i + 3] for i in range(9)]
    batch = model.core.forward_batch(rows, [model.cache() for _ in rows])
    assert np.array_equal(batch, np.stack([model(part)[-1] for part in rows]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return (
        wide
        - wide.max(axis=-1, keepdims=True)
        - np.log(np.exp(wide - wide.max(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True))
    )


def test_fast_stays_close_to_exact(converted: Path) -> None:
    exact = load_model(converted, "exact")(tokens())
    model = load_model(converted, "fast")
    p = log_softmax(exact)
    for fast in (model(tokens()), steps(model, tokens(), [1] * TOKENS)):
        assert not np.array_equal(fast, exact)
        divergence = (np.exp(p) * (p - log_softmax(fast))).sum(axis=-1)
        # As for dense models of random weights; their tail is longer here, because now and then a
        # token goes to another expert.
        assert np.median(divergence) < 8e-3


# --- conversion --------------------------------------------------------------------------------


def test_a_stack_is_its_experts_in_the_order_of_their_numbers(
    name: str, source: Path, tmp_path: Path
) -> None:
    convert(source, tmp_path / "out", profile="uniform-4", method="rtn", group_size=32)
    written, weights = read_weights(tmp_path / "out"), read_weights(source)
    prefix = f"model.layers.3.{block(name)}"  # routed in every case
    for part, short in {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}.items():
        own = short if name == "mixtral" else part
        count = tiny.BY_NAME[name].config["num_experts"]
        experts = [weights[f"{prefix}.experts.{e}.{own}.weight"] for e in range(count)]
        kind = {"BF16": np.uint16, "F16": np.float16}[experts[0].dtype]
        values = np.stack([np.frombuffer(e.payload, kind).reshape(e.shape) for e in experts])
        dtype = "BF16" if kind is np.uint16 else None
        expected = quantize(values, bits=4, group_size=32, dtype=dtype)
        stack = f"{prefix}.switch_mlp.{part}"
        assert written[f"{stack}.weight"].payload == expected.codes.tobytes()
        assert written[f"{stack}.weight"].shape == expected.codes.shape
        assert written[f"{stack}.scales"].payload == expected.scales.tobytes()
        assert written[f"{stack}.biases"].payload == expected.biases.tobytes()


def test_routers_stay_as_they_are_unless_asked(
    name: str, source: Path, converted: Path, tmp_path: Path
) -> None:
    router = f"model.layers.3.{block(name)}.gate"
    before = read_weights(source)[f"{router}.weight"]
    assert read_weights(converted)[f"{router}.weight"] == before
    convert(source, tmp_path / "out", method="rtn", group_size=32, router_bits=8)
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"][router]
    assert entry == {"bits": 8, "group_size": 32, "mode": "affine"}  # 160 inputs
    close = load_model(tmp_path / "out", "exact")(tokens(20))
    assert np.isfinite(close).all()


def test_a_stack_says_where_it_comes_from(name: str, converted: Path) -> None:
    entry = manifest(converted)[f"model.layers.3.{block(name)}.switch_mlp.down_proj"]
    assert entry["role"] == "expert"
    assert "experts.*." in entry["source_tensor"]
    assert len(entry["shape"]) == 3


# --- what does not fit -------------------------------------------------------------------------


def spoil_config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        key = "num_local_experts" if "num_local_experts" in config else "num_experts"
        for name, value in changes.items():
            config[key if name == "experts" else name] = value
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def without(tensor: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = read_weights(folder)
        entries = [
            (name, one.dtype, one.shape, one.payload)
            for name, one in weights.items()
            if name != tensor
        ]
        assert len(entries) < len(weights)
        tiny.write_safetensors(folder / "model.safetensors", entries)

    return spoil


MISSING = "model.layers.1.mlp.experts.5.up_proj.weight"
ROUTER = "model.layers.0.mlp.gate.weight"


@pytest.mark.parametrize(
    ("spoil", "file", "tensor", "words"),
    [
        (spoil_config(experts=7), "model.safetensors", "experts", ["7"]),
        (spoil_config(experts=9), "model.safetensors", "experts", ["8"]),
        (spoil_config(experts=0), "config.json", "", ["num_local_experts", "found 0"]),
        (
            spoil_config(num_experts_per_tok=9),
            "config.json",
            "",
            ["num_experts_per_tok", "8 experts", "found 9"],
        ),
        (without(MISSING), "model.safetensors", MISSING, ["missing"]),
        (without(ROUTER), "model.safetensors", ROUTER, ["missing"]),
    ],
    ids=["more-experts", "fewer-experts", "no-experts", "too-many-chosen", "expert", "router"],
)
def test_what_does_not_fit_is_one_clear_error(
    spoil: Callable[[Path], None], file: str, tensor: str, words: list[str], tmp_path: Path
) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["qwen3-moe"], tmp_path / "source")
    spoil(tmp_path / "source")
    attempts: list[Callable[[], Any]] = [
        lambda: convert(tmp_path / "source", tmp_path / "out"),
        lambda: load_model(tmp_path / "source"),
        lambda: plan(tmp_path / "source"),
    ]
    for attempt in attempts:
        with pytest.raises(JangError) as caught:
            attempt()
        error = caught.value
        assert isinstance(error, FormatError)
        assert error.file == file
        assert tensor in error.tensor or "gate" in error.tensor
        if error.tensor == tensor or not tensor:
            assert all(word in str(error) for word in words)
        assert "\n" not in str(error)
    assert not (tmp_path / "out").exists()


def test_stacks_that_disagree_with_the_config_are_refused(converted: Path, tmp_path: Path) -> None:
    """A converted directory whose config promises another number of experts."""
    import shutil

    for change in (1, -1):
        folder = tmp_path / str(change)
        shutil.copytree(converted, folder)
        config = json.loads((folder / "config.json").read_text())
        key = "num_experts" if "num_experts" in config else "num_local_experts"
        for one in {key, "num_local_experts"} & config.keys():
            config[one] += change
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(FormatError) as caught:
            load_model(folder)
        assert ".switch_mlp." in caught.value.tensor
        assert "expected" in str(caught.value)
        assert "found" in str(caught.value)
