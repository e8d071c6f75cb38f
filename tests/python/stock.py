"""Stock mlx-lm beside ours: the same directory, the same tokens, the same logits.

It always computes on the CPU in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from jang_tools.model import Model, load_model

PROMPT = [417, 5, 1200, 33, 60, 2048, 77, 9]
TOKENS = 200
TOLERANCE = 1e-3  # of the largest logit

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]


def stock_model(path: Path) -> Callable[[Tokens], Logits]:
    """Loads strictly, in float32: tokens [n] to logits [n, vocabulary]."""
    from mlx_lm.utils import load_model as load_stock

    mx.set_default_device(mx.cpu)
    model, _ = load_stock(path, strict=True)
    model.set_dtype(mx.float32)

    def run(tokens: Tokens) -> Logits:
        logits = model(mx.array(tokens)[None])[0]
        assert logits.dtype == mx.float32
        return np.array(logits)

    return run


def greedy(model: Model, prompt: list[int], count: int) -> tuple[Tokens, Logits]:
    """Prompt and `count` greedy tokens, and the logits that chose them, [count, vocabulary]."""
    cache = model.cache()
    logits = [model(prompt, cache)[-1]]
    tokens = [*prompt, int(logits[-1].argmax())]
    while len(logits) < count:
        logits.append(model(tokens[-1:], cache)[-1])
        tokens.append(int(logits[-1].argmax()))
    return np.array(tokens, dtype=np.int32), np.stack(logits)


def assert_agreement(path: Path, prompt: list[int] = PROMPT, count: int = TOKENS) -> None:
    """Greedy text and logits of both; each prefix is ours, so equal choices mean equal texts."""
    tokens, ours = greedy(load_model(path, "exact", threads=2), prompt, count)
    theirs = stock_model(path)(tokens[:-1])[len(prompt) - 1 :]
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.array_equal(theirs.argmax(axis=-1), tokens[len(prompt) :])


def assert_same_logits(path: Path, tokens: Tokens) -> None:
    """Logits and choices of both at every one of the tokens."""
    ours, theirs = load_model(path, "exact", threads=2)(tokens), stock_model(path)(tokens)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))


def convert_by_stock(source: Path, output: Path, group_size: int = 32) -> None:
    """What mlx_lm.convert does at 4 bits; groups that a model asks for give way to ours where its
    tiny widths cannot be divided by them."""
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    mx.set_default_device(mx.cpu)
    stock, values = load_stock(source, strict=True)
    own = getattr(stock, "quant_predicate", None)

    def chosen(path: str, module: Any) -> Any:
        wanted = True if own is None else own(path, module)
        if isinstance(wanted, dict) and module.weight.shape[-1] % wanted["group_size"] != 0:
            return {**wanted, "group_size": group_size}
        return wanted

    stock, values = quantize_model(stock, values, group_size, 4, quant_predicate=chosen)
    output.mkdir()
    save_model(output, stock)
    save_config(values, output / "config.json")
