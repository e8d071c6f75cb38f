"""Fast precision: close to exact, the same for any number of threads, and chosen by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jang_tools import convert
from jang_tools.errors import ArgumentError
from jang_tools.model import load_model

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"


@pytest.fixture(scope="module", params=["JANG_4L", "JANG_2S", "uniform-3", "uniform-8"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(request.param) / "model"
    convert(DEMO, output, profile=request.param, method="rtn")
    return output


def tokens() -> np.ndarray:
    return np.random.default_rng(7).integers(3, 4000, size=120).astype(np.int32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def mean_divergence(expected: np.ndarray, found: np.ndarray) -> float:
    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def test_fast_stays_close_to_exact(directory: Path) -> None:
    exact = load_model(directory, "exact")(tokens())
    fast = load_model(directory, "fast")(tokens())
    assert not np.array_equal(fast, exact), "fast precision did not round the activations"
    # Tokens at random are harder than text; docs/kernels.md has the figures for text.
    assert mean_divergence(exact, fast) < 1e-3


def test_fast_decode_is_fast_prefill_in_another_order(directory: Path) -> None:
    model = load_model(directory, "fast")
    whole = model(tokens())
    cache = model.cache()
    for size in (1, 3, 4, 5, 60):
        model(tokens()[cache.length : cache.length + size], cache)
    rest = np.stack([model(tokens()[i : i + 1], cache)[0] for i in range(cache.length, 120)])
    # Other orders of sums, so that some activations round to the neighbouring code.
    assert mean_divergence(whole[-len(rest) :], rest) < 1e-3


def test_threads_change_no_bit(directory: Path) -> None:
    one, two = (load_model(directory, "fast", threads=n) for n in (1, 2))
    assert np.array_equal(one(tokens()), two(tokens()))
    caches = one.cache(), two.cache()
    for token in tokens()[:10]:
        assert np.array_equal(one([int(token)], caches[0]), two([int(token)], caches[1]))


def test_unquantized_weights_are_computed_alike() -> None:
    assert np.array_equal(load_model(DEMO, "fast")([1, 2, 3]), load_model(DEMO, "exact")([1, 2, 3]))


def test_fast_is_the_default_and_others_are_refused() -> None:
    assert load_model(DEMO).core.precision == "fast"
    assert load_model(DEMO, "exact").core.precision == "exact"
    with pytest.raises(ArgumentError, match="precision"):
        load_model(DEMO, "quick")  # type: ignore[arg-type]
