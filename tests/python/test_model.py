"""Caches of every type, and several sequences in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jang_tools.errors import ArgumentError
from jang_tools.model import KV_TYPES, KvType, Model, load_model

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
TYPES: list[KvType] = [name for name in KV_TYPES if name != "auto"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(DEMO, "exact", threads=2)


def tokens(count: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 4000, size=count).astype(np.int32)


def test_narrow_caches_stay_near_f32(model: Model) -> None:
    exact = model(tokens(300), model.cache("f32")).astype(np.float64)
    errors = {}
    for name in TYPES:
        found = model(tokens(300), model.cache(name))
        errors[name] = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    assert errors["f32"] == 0
    assert 0 < errors["f16"] < 2e-3
    assert errors["f16"] < errors["bf16"] < 2e-2
    assert 0 < errors["q8"] < 2e-2
    assert errors["q8"] < errors["q4"] < 0.2


@pytest.mark.parametrize("name", TYPES)
def test_decode_gives_the_bits_of_prefill(model: Model, name: KvType) -> None:
    row = tokens(70)
    whole = model(row, model.cache(name))
    cache = model.cache(name)
    assert cache.kv_type == name
    steps = np.stack([model.last_logits(row[i : i + 1], cache) for i in range(len(row))])
    assert np.array_equal(steps, whole)


def test_cache_sizes_follow_the_type(model: Model) -> None:
    sizes = {name: model.core.kv_bytes(4096, name) for name in TYPES}
    assert sizes["f32"] == 2 * sizes["f16"] == 2 * sizes["bf16"]
    assert sizes["q4"] < 0.65 * sizes["q8"] < 0.65 * sizes["f16"]


def test_the_type_of_a_model_is_that_of_its_caches() -> None:
    model = load_model(DEMO, "exact", kv_type="q8")
    assert model.core.kv_type == "q8"
    assert model.cache().kv_type == "q8"
    assert model.cache("f16").kv_type == "f16"
    assert model.core.kv_bytes(64) == model.core.kv_bytes(64, "q8")


def test_unknown_types_are_refused(model: Model) -> None:
    with pytest.raises(ArgumentError, match="kv_type"):
        load_model(DEMO, kv_type="f8")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="kv_type"):
        model.cache("q2")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="kv_type"):
        model.core.kv_bytes(10, "half")


def test_a_batch_equals_its_sequences_one_by_one(model: Model) -> None:
    histories = [0, 40, 64, 300]
    lengths = [50, 1, 1, 3]
    types: list[KvType] = ["f32", "f16", "q8", "q4"]
    rows, caches, expected = [], [], []
    for i in range(4):
        row = tokens(histories[i] + lengths[i], seed=i)
        alone, own = model.cache(types[i]), model.cache(types[i])
        if histories[i]:
            model.last_logits(row[: histories[i]], alone)
            model.last_logits(row[: histories[i]], own)
        rows.append(row[histories[i] :])
        caches.append(own)
        expected.append(model.last_logits(rows[-1], alone))
    found = model.batch_logits(rows, caches)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.stack(expected))
    assert [cache.length for cache in caches] == [
        h + n for h, n in zip(histories, lengths, strict=True)
    ]


def test_refused_batches_leave_the_caches_alone(model: Model) -> None:
    a, b = model.cache(), model.cache()
    model.last_logits([1, 2], a)
    with pytest.raises(ArgumentError, match="twice"):
        model.batch_logits([[1], [2]], [a, a])
    with pytest.raises(ArgumentError, match="vocabulary"):
        model.batch_logits([[1], [10**6]], [a, b])
    with pytest.raises(ArgumentError, match="2 sequences and 1 caches"):
        model.batch_logits([[1], [2]], [a])
    with pytest.raises(ArgumentError, match="at least one sequence"):
        model.batch_logits([], [])
    with pytest.raises(ArgumentError, match="None"):
        model.core.forward_batch([tokens(1)], [None])  # type: ignore[list-item]
    assert (a.length, b.length) == (2, 0)
