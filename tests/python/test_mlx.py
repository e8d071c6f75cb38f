"""Agreement with stock mlx-lm, in both directions and at every profile.

What `convert` writes loads strictly there, with the same logits and the same greedy text in
float32; what stock `mlx_lm.convert` writes runs here with the same agreement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert
from jang_tools.model import Model, load_model

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
PROMPT = [417, 5, 1200, 33, 60, 2048, 77, 9]
TOKENS = 200
TOLERANCE = 1e-3  # of the largest logit

COLUMNS = ["1L", "2S", "2M", "2L", "3S", "3M", "3L", "4S", "4M", "4L", "6M"]
PROFILES = [
    *(f"JANG_{name}" for name in [*COLUMNS, "3K", "4K", "5K", "6K"]),
    *(f"uniform-{bits}" for bits in (2, 3, 4, 5, 6, 8)),
    *(f"mixed_{pair}" for pair in ("2_6", "3_4", "3_6", "4_6")),
    *(f"tiered-{name}" for name in COLUMNS),
]

Logits = npt.NDArray[np.float32]


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


def stock_model(path: Path) -> Callable[[npt.NDArray[np.int32]], Logits]:
    """Loads strictly, in float32: tokens [n] to logits [n, vocabulary]."""
    from mlx_lm.utils import load_model as load_stock

    model, _ = load_stock(path, strict=True)
    model.set_dtype(mx.float32)

    def run(tokens: npt.NDArray[np.int32]) -> Logits:
        logits = model(mx.array(tokens)[None])[0]
        assert logits.dtype == mx.float32
        return np.array(logits)

    return run


def greedy(model: Model, prompt: list[int], count: int) -> tuple[npt.NDArray[np.int32], Logits]:
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


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_agrees_on_the_demo_model(profile: str, tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "out", profile=profile, method="rtn", threads=2)
    assert_agreement(tmp_path / "out")


@pytest.mark.parametrize("widths", [{"profile": "JANG_2S"}, {"bits": 3.5}])
def test_calibrated_output_agrees(widths: dict[str, Any], tmp_path: Path) -> None:
    short = {"calibration_sequences": 8, "calibration_tokens": 128}
    convert(DEMO, tmp_path / "out", method="gptq", **short, **widths)
    assert_agreement(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_metadata_types_and_groups_agree(dtype: str, group_size: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": dtype, "group_size": group_size}
    convert(DEMO, tmp_path / "out", profile="JANG_3M", method="mse", threads=2, **options)
    assert_agreement(tmp_path / "out", count=50)


def test_unquantized_output_agrees(tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "out", profile="JANG_4L", method="rtn", rules=["*=none"])
    assert_agreement(tmp_path / "out")
    tokens = np.array(PROMPT, dtype=np.int32)
    converted, source = load_model(tmp_path / "out"), load_model(DEMO)
    assert np.array_equal(converted(tokens), source(tokens))


# What stock mlx-lm has not, or has otherwise, by parts of the names of cases.
ELSEWISE = [
    "window",  # none in these families, but for cohere2's
    "dynamic",
    "yarn-scales",  # its ramp always begins and ends at whole channels
    "longrope",  # the factors of long sequences at every length: tests of phi3
    "phi-qk-norm",  # no such norms
    "phi-erf-tied",  # the tanh form, and a head of its own
    "cohere-untied",  # never a head of its own
    "cohere2-any-order",  # every n-th layer without a window
]


@pytest.mark.parametrize(
    "name",
    [
        case.name
        for case in tiny.CASES
        if case.stock and not any(part in case.name for part in ELSEWISE)
    ],
)
def test_variants_agree(name: str, tmp_path: Path) -> None:
    """Every variant that stock mlx-lm has."""
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile="JANG_4L", method="rtn", group_size=32)
    prompt = tiny.tokens()[0, :8].tolist()
    assert_agreement(tmp_path / "out", prompt=prompt, count=16)


def wider(case: tiny.Case) -> tiny.Case:
    """Of a hidden size that groups of 64 divide."""
    return replace(case, config={**case.config, "hidden_size": 320, "head_dim": 64})


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
@pytest.mark.parametrize("options", [{}, {"method": "mse"}, {"router_bits": 8}])
def test_experts_and_routers_agree(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Routers of both kinds; stock quantizes those of qwen3_moe by itself, those of mixtral not."""
    tiny.write_checkpoint(wider(tiny.BY_NAME[name]), tmp_path / "source")
    chosen = {"profile": "JANG_3M", "method": "rtn", **options}
    convert(tmp_path / "source", tmp_path / "out", **chosen)
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :8].tolist(), count=16)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_stock_conversions_of_experts_run_here(name: str, tmp_path: Path) -> None:
    """From a checkpoint with a tensor for each expert; stock quantizes qwen's routers at 8 bits."""
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    tiny.write_checkpoint(wider(tiny.BY_NAME[name]), tmp_path / "source", spelling="old")
    stock, values = load_stock(tmp_path / "source", strict=True)
    predicate = getattr(stock, "quant_predicate", None)
    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)


@pytest.mark.parametrize(
    "options",
    [
        {"q_bits": 4, "q_group_size": 64},
        {"q_bits": 8, "q_group_size": 32},
        {"q_bits": 3, "q_group_size": 128},
        {"quant_predicate": "mixed_2_6", "q_group_size": 64},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_stock_conversions_run_here(options: dict[str, Any], tmp_path: Path) -> None:
    mlx_lm.convert(str(DEMO), str(tmp_path / "stock"), quantize=True, **options)
    model = load_model(tmp_path / "stock")
    assert model.core.format == "mlx"
    assert_agreement(tmp_path / "stock")
