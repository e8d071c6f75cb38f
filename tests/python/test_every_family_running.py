"""What every model family's converted directory must do when it runs: near in fast precision, a
batch as its sequences alone.

Cuts of a sequence and threads are compared in test_parity.py and test_recurrent.py, for every case.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import Row
from jang_tools import convert
from jang_tools.model import load_model


@pytest.fixture(scope="module")
def converted(row: Row, source: Path) -> Path:
    output = source.parent / "converted"
    convert(source, output, profile="JANG_6M", method="rtn", group_size=32)
    return output


def test_fast_precision_stays_near(row: Row, converted: Path) -> None:
    if not row.steady:
        pytest.skip("as sensitive to any rounding")
    tokens = tiny.tokens()[0]
    exact = load_model(converted, "exact", threads=2)(tokens)
    model = load_model(converted, "fast", threads=2)
    cache = model.cache()
    decoded = np.concatenate([model(token[None], cache) for token in tokens])
    for found in (model(tokens), decoded):
        assert not np.array_equal(found, exact)
        errors = np.abs(found - exact).max(axis=-1) / np.abs(exact).max()
        # Of most tokens, where there are experts: now and then one meets others.
        assert (np.median(errors) if row.experts else errors.max()) <= 0.1


def assert_batch_gives_the_bits_of_single_runs(path: Path) -> None:
    tokens = np.tile(tiny.tokens()[0], 20)  # beyond a chunk of attention
    parts = [tokens[:300], tokens[:7], tokens[3:75], tokens[10:11]]
    core = load_model(path, "exact", threads=2).core
    caches, alone = ([core.new_cache() for _ in parts] for _ in range(2))
    for step in range(3):
        fed = [part if step == 0 else part[:1] for part in parts]
        together = core.forward_batch(fed, caches)
        single = [
            core.forward(one, cache, last_only=True) for one, cache in zip(fed, alone, strict=True)
        ]
        assert np.array_equal(together, np.stack(single))


def test_a_batch_gives_the_bits_of_single_runs(row: Row, source: Path, converted: Path) -> None:
    assert_batch_gives_the_bits_of_single_runs(source)
    assert_batch_gives_the_bits_of_single_runs(converted)


@pytest.mark.parametrize("name", ["gemma4-all", "glm4-moe-groups", "deepseek-v2-groups"])
def test_a_batch_of_a_variant_gives_the_bits_of_single_runs(name: str, tmp_path: Path) -> None:
    """Keys that other layers share; experts chosen by groups."""
    tiny.write_checkpoint(tiny.BY_NAME[name], tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", group_size=32)
    assert_batch_gives_the_bits_of_single_runs(tmp_path / "source")
    assert_batch_gives_the_bits_of_single_runs(tmp_path / "out")
