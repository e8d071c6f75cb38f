"""Agreement with stock mlx-lm, in both directions and at every profile.

What `convert` writes loads strictly there, with the same logits and the same greedy text in
float32; what stock `mlx_lm.convert` writes runs here with the same agreement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import PROFILES
from jang_tools import convert
from jang_tools.model import load_model
from stock import PROMPT, assert_agreement

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


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
