"""Hybrid models beyond one chunk of their recurrences: against transformers and against themselves,
what a cache can go back to, and multimodal checkpoints of the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
import tiny_hybrid as hybrid
from jang_tools import _core, convert

STORED = Path(__file__).resolve().parents[1] / "data" / "parity"
TOLERANCE = 1e-4  # of the largest logit
RUNS_TOLERANCE = 1e-5

CASES = [case for case in tiny.CASES if case.long]
Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: tiny.Case, tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    folder = tmp_path_factory.mktemp(case.name) / "model"
    tiny.write_checkpoint(case, folder)
    return _core.Model(str(folder), precision="exact", threads=2)


def relative(found: Logits, expected: Logits) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def in_steps(model: _core.Model, row: npt.NDArray[np.int32], cuts: list[int]) -> Logits:
    cache = model.new_cache()
    parts = np.split(row, np.cumsum(cuts)) if cuts else [row]
    return np.concatenate([model.forward(part, cache) for part in parts if len(part)])


def test_long_sequences_equal_transformers(case: tiny.Case, model: _core.Model) -> None:
    with np.load(STORED / f"{case.name}.npz") as stored:
        tokens, expected = stored["long_tokens"][0], stored["long_logits"][0]
    assert np.array_equal(tokens, tiny.long_tokens(case)[0])
    assert relative(model.forward(tokens, model.new_cache()), expected) <= TOLERANCE


@pytest.mark.parametrize("cuts", [[1] * 75, [31, 1, 1, 31, 1], [40], [5, 64], [32, 32]])
def test_every_cut_gives_the_same_logits(
    case: tiny.Case, model: _core.Model, cuts: list[int]
) -> None:
    row = tiny.long_tokens(case)[0]
    whole = model.forward(row, model.new_cache())
    assert relative(in_steps(model, row, cuts), whole) <= RUNS_TOLERANCE


def test_a_batch_gives_the_bits_of_single_runs(case: tiny.Case, model: _core.Model) -> None:
    row = tiny.long_tokens(case)[0]
    parts = [row[:40], row[:7], row[3:75], row[10:11]]
    caches = [model.new_cache() for _ in parts]
    alone = [model.new_cache() for _ in parts]
    for step in range(3):
        fed = [part if step == 0 else part[:1] for part in parts]
        together = model.forward_batch(fed, caches)
        single = [
            model.forward(one, cache, last_only=True) for one, cache in zip(fed, alone, strict=True)
        ]
        assert np.array_equal(together, np.stack(single))


def test_the_cache_goes_back(case: tiny.Case, model: _core.Model) -> None:
    row, other = tiny.long_tokens(case)[0], tiny.long_tokens(case)[0][::-1]
    cache = model.new_cache()
    for token in row[:70]:
        model.forward(token[None], cache)
    for length in (66, 50, 33):  # this chunk, the one before
        assert cache.truncate(length) == length
        continued = model.forward(other[:9], cache)
        whole = model.forward(np.concatenate([row[:length], other[:9]]), model.new_cache())
        assert relative(continued, whole[length:]) <= RUNS_TOLERANCE
        assert cache.truncate(length) == length


def test_a_cache_that_cannot_go_back_begins_anew(case: tiny.Case, model: _core.Model) -> None:
    row = tiny.long_tokens(case)[0]
    cache = model.new_cache()
    for token in row:
        model.forward(token[None], cache)
    assert cache.truncate(20) == 0
    assert cache.length == 0
    again = model.forward(row[:40], cache)
    assert relative(again, model.forward(row[:40], model.new_cache())) <= RUNS_TOLERANCE


def test_chunks_of_one_call_are_not_mistaken_for_known_ones(
    case: tiny.Case, model: _core.Model
) -> None:
    row, other = tiny.long_tokens(case)[0], tiny.long_tokens(case)[0][::-1]
    for first in ([], [10]):
        for length in (70, 40, 12):
            cache = model.new_cache()
            in_cache = np.split(row, first)
            for part in in_cache:
                model.forward(part, cache)
            left = cache.truncate(length)
            assert left in (length, 0)
            assert cache.length == left
            continued = model.forward(other[:9], cache)
            whole = model.forward(np.concatenate([row[:left], other[:9]]), model.new_cache())
            assert relative(continued, whole[left:]) <= RUNS_TOLERANCE


def test_exact_logits_do_not_depend_on_the_cut(case: tiny.Case, model: _core.Model) -> None:
    """The same bits, forwards, and after going back and on again."""
    row = tiny.long_tokens(case)[0]
    whole = model.forward(row, model.new_cache())
    cache = model.new_cache()
    model.forward(row[:50], cache)
    for length, to in ((41, 47), (33, 75)):
        assert cache.truncate(length) == length
        assert np.array_equal(model.forward(row[length:to], cache), whole[length:to])
    assert np.array_equal(in_steps(model, row, [1] * len(row)), whole)


def test_what_is_kept_can_be_reached_again(case: tiny.Case, model: _core.Model) -> None:
    row = tiny.long_tokens(case)[0]
    cache = model.new_cache()
    model.forward(row[:38], cache)
    cache.keep()
    expected = model.forward(row[38:], cache)
    for _ in range(2):
        model.forward(np.tile(row, 2), cache)
        assert cache.truncate(38) == 38
        assert np.array_equal(model.forward(row[38:], cache), expected)


def test_options_are_scored_from_the_kept_context(case: tiny.Case, model: _core.Model) -> None:
    row = tiny.long_tokens(case)[0]
    options = [row[50:51], row[10:70], row[60:75]]
    scorer = _core.OptionScorer(model)
    for context in (row[:45], row[:50], row[:3]):
        found = scorer.score(context, options)
        for option, score in zip(options, found, strict=True):
            whole = model.forward(np.concatenate([context, option]), model.new_cache())
            rows = whole[len(context) - 1 : -1].astype(np.float64)
            norms = np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1)) + rows.max(-1)
            assert score == pytest.approx((rows[np.arange(len(option)), option] - norms).sum())


def wrapped(case: tiny.Case, folder: Path) -> None:
    """The case as a multimodal checkpoint."""
    folder.mkdir(parents=True)
    config = hybrid.wrapped_config(tiny.config(case))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    entries = [
        (name, case.dtype, values.shape, tiny.encode(values, case.dtype))
        for name, values in hybrid.wrapped_tensors(tiny.tensors(case))
    ]
    tiny.write_safetensors(folder / "model.safetensors", entries)


@pytest.mark.parametrize("name", ["qwen3-5", "qwen3-5-narrow", "qwen3-5-moe"])
def test_multimodal_checkpoints_are_their_text_model(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "text")
    wrapped(case, tmp_path / "wrapped")
    row = tiny.tokens()[0]

    def run(path: Path) -> Logits:
        model = _core.Model(str(path), precision="exact", threads=2)
        return model.forward(row, model.new_cache())

    expected = run(tmp_path / "text")
    assert np.array_equal(run(tmp_path / "wrapped"), expected)
    options: dict[str, Any] = {"method": "rtn", "group_size": 32, "profile": "JANG_4L"}
    report = convert(tmp_path / "wrapped", tmp_path / "out", **options)
    assert any(text.startswith("visual: 2 tensors left out") for text in report.warnings)
    assert any(text.startswith("mtp: 2 tensors left out") for text in report.warnings)
    convert(tmp_path / "text", tmp_path / "plain", **options)
    assert np.array_equal(run(tmp_path / "out"), run(tmp_path / "plain"))
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "vision_config" not in config
    tied = bool(case.config.get("tie_word_embeddings", False))
    assert config["text_config"]["tie_word_embeddings"] is tied


def test_norms_are_shifted_once(tmp_path: Path) -> None:
    """Stored norms are gamma, marked as such; without the mark they count as gamma - 1."""
    case = tiny.BY_NAME["qwen3-5"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    row = tiny.tokens()[0]

    def run() -> Logits:
        model = _core.Model(str(tmp_path / "out"), precision="exact", threads=2)
        return model.forward(row, model.new_cache())

    marked = run()
    names = {
        name.removesuffix(".weight"): values[0]
        for name, values in tiny.tensors(case)
        if values.ndim == 1 and name.endswith("norm.weight")
    }
    stored = _core.Checkpoint(str(tmp_path / "out"))
    for name, first in names.items():
        shift = 0.0 if name.endswith("linear_attn.norm") else 1.0
        found = stored.array(f"language_model.{name}.weight")[0]
        assert found == np.float32(first + np.float32(shift)), name
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config.pop("jang_norms_pre_shifted") is True
    path.write_text(json.dumps(config), encoding="utf-8")
    assert relative(run(), marked) > 1e-2
