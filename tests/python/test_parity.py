"""Logits against those of transformers (float32, eager), and against themselves in other cuts.

The checkpoints are rebuilt from seeds; the reference logits are stored with the digest of the
weights they belong to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
from jang_tools import _core

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests" / "data" / "parity"
DEMO = ROOT / "examples" / "tiny-prose-llama"
TOLERANCE = 1e-4  # of the largest logit
RUNS_TOLERANCE = 1e-5  # between two ways of cutting the same sequence

Logits = npt.NDArray[np.float32]


def stored(name: str) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(STORED / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def full_pass(model: _core.Model, tokens: npt.NDArray[np.int32]) -> Logits:
    return np.stack([model.forward(row, model.new_cache()) for row in tokens])


def in_chunks(model: _core.Model, row: npt.NDArray[np.int32], size: int) -> Logits:
    cache = model.new_cache()
    parts = [model.forward(row[i : i + size], cache) for i in range(0, len(row), size)]
    assert cache.length == len(row)
    return np.concatenate(parts)


def relative_error(found: Logits, expected: Logits) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module", params=tiny.CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(case: tiny.Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(case.name) / "model"
    assert tiny.write_checkpoint(case, folder) == str(stored(case.name)["weights_sha256"])
    return folder


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> _core.Model:
    return _core.Model(str(checkpoint), threads=1)


def test_logits_equal_transformers(case: tiny.Case, model: _core.Model) -> None:
    reference = stored(case.name)
    logits = full_pass(model, reference["tokens"])
    assert relative_error(logits, reference["logits"]) <= TOLERANCE


def test_old_config_spelling_is_the_same_model(
    case: tiny.Case, model: _core.Model, tmp_path: Path
) -> None:
    tiny.write_checkpoint(case, tmp_path / "old", spelling="old")
    old = _core.Model(str(tmp_path / "old"), threads=1)
    tokens = tiny.tokens()
    assert np.array_equal(full_pass(old, tokens), full_pass(model, tokens))


@pytest.mark.parametrize("size", [1, 7, 16])
def test_prefill_equals_chunks(case: tiny.Case, model: _core.Model, size: int) -> None:
    for row in tiny.tokens()[:, : case.exact_continuation]:
        whole = model.forward(row, model.new_cache())
        assert relative_error(in_chunks(model, row, size), whole) <= RUNS_TOLERANCE


def test_chunks_equal_transformers(case: tiny.Case, model: _core.Model) -> None:
    reference = stored(case.name)
    length = case.exact_continuation
    scale = np.abs(reference["logits"]).max()
    if length < tiny.LENGTH:
        pytest.skip("continuing past the limit differs by nature; prefill is compared above")
    for row, expected in zip(reference["tokens"], reference["logits"], strict=True):
        assert np.abs(in_chunks(model, row, 5) - expected).max() <= TOLERANCE * scale


def test_threads_do_not_change_a_bit(checkpoint: Path, model: _core.Model) -> None:
    two = _core.Model(str(checkpoint), threads=2)
    three = _core.Model(str(checkpoint), threads=3)
    tokens = tiny.tokens()
    one_thread = full_pass(model, tokens)
    assert np.array_equal(full_pass(two, tokens), one_thread)
    assert np.array_equal(full_pass(three, tokens), one_thread)
    for other in (two, three):
        assert np.array_equal(in_chunks(other, tokens[0], 1), in_chunks(model, tokens[0], 1))


def test_last_only_is_the_last_row(model: _core.Model) -> None:
    row = tiny.tokens()[0]
    last = model.forward(row, model.new_cache(), last_only=True)
    assert relative_error(last, model.forward(row, model.new_cache())[-1]) <= RUNS_TOLERANCE


def test_tokens_that_nobody_asks_about_leave_their_keys(
    case: tiny.Case, model: _core.Model
) -> None:
    row = tiny.tokens()[0, : case.exact_continuation]
    whole = model.forward(row, model.new_cache())
    cache = model.new_cache()
    for begin, end in ((0, 9), (9, len(row) - 1), (len(row) - 1, len(row))):
        last = model.forward(row[begin:end], cache, last_only=True)
        assert relative_error(last, whole[end - 1]) <= RUNS_TOLERANCE


def test_truncated_cache_continues_as_if_never_longer(case: tiny.Case, model: _core.Model) -> None:
    row, other = tiny.tokens()[:, : case.exact_continuation]
    cache = model.new_cache()
    model.forward(row, cache)
    cache.truncate(5)
    continued = model.forward(other[5:], cache)
    whole = model.forward(np.concatenate([row[:5], other[5:]]), model.new_cache())
    assert relative_error(continued, whole[5:]) <= RUNS_TOLERANCE


def test_demo_model_equals_transformers() -> None:
    reference = stored("tiny-prose-llama")
    model = _core.Model(str(DEMO), threads=2)
    assert relative_error(full_pass(model, reference["tokens"]), reference["logits"]) <= TOLERANCE


def test_every_stored_file_belongs_to_a_case() -> None:
    names = {path.stem for path in STORED.glob("*.npz")}
    own = {name for name in names if name.startswith("fp8-")}  # test_fp8.py
    assert names - own == {case.name for case in tiny.CASES} | {"tiny-prose-llama"}


@pytest.mark.parametrize(
    ("name", "other"),
    [("mistral-window", "window"), ("llama-llama3", "rope"), ("llama-linear", "rope")],
)
def test_the_comparison_notices_a_wrong_config(name: str, other: str, tmp_path: Path) -> None:
    """A check of the checks: one wrong field must be far outside the tolerance."""
    changed = {
        "window": {"sliding_window": None},
        "rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    }[other]
    case = tiny.BY_NAME[name]
    wrong = tiny.Case(name, {**case.config, **changed}, dtype=case.dtype, shards=case.shards)
    tiny.write_checkpoint(wrong, tmp_path / "wrong")
    reference = stored(name)
    model = _core.Model(str(tmp_path / "wrong"), threads=1)
    assert relative_error(full_pass(model, reference["tokens"]), reference["logits"]) > 1e-2
