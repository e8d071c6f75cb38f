"""Calibration texts and their sequences, and what gptq makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jang_tools import convert, verify
from jang_tools.calibration import calibrate_on, cut_sequences
from jang_tools.evaluate import evaluate
from jang_tools.evaluation.texts import Text, text_prefix
from jang_tools.tokenizer import Tokenizer

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"


def test_sequences_are_spread_over_the_text() -> None:
    tokenizer = Tokenizer.load(DEMO)
    content = " ".join(f"The {n} houses stood by the river." for n in range(2000))
    found = cut_sequences(tokenizer, Text("t", content, ""), 5, 64)
    prefix = text_prefix(tokenizer)
    body = 64 - len(prefix)
    ids = np.asarray(tokenizer.encode(content, add_special_tokens=False), dtype=np.int32)
    windows = len(ids) // body
    assert found.shape == (5, 64)
    for i, row in enumerate(found):
        start = i * windows // 5 * body
        assert row.tolist() == [*prefix, *ids[start : start + body].tolist()]


def test_a_short_text_gives_fewer_sequences() -> None:
    tokenizer = Tokenizer.load(DEMO)
    found = cut_sequences(tokenizer, Text("t", "Once upon a time. " * 40, ""), 1000, 32)
    assert 1 < len(found) < 1000


def test_defaults() -> None:
    assert calibrate_on(DEMO).ids.shape == (128, 512)


@pytest.mark.parametrize("profile", ["uniform-4", "JANG_2M"])
def test_gptq_beats_mse_on_the_demo_model(profile: str, tmp_path: Path) -> None:
    outputs = []
    for method in ("mse", "gptq"):
        outputs.append(tmp_path / method)
        rest = {"calibration_sequences": 32} if method == "gptq" else {}
        result = convert(DEMO, outputs[-1], profile=profile, method=method, threads=2, **rest)
        assert result.method == method
    assert verify(outputs[1], against=DEMO).ok
    report = evaluate(DEMO, outputs, sequence=256, tokens=4096)
    mse, gptq = (model.kl.mean for model in report.models)
    assert gptq < 0.8 * mse  # a text of another kind, and a quarter of the default tokens
    document = json.loads((outputs[1] / "jang_config.json").read_text())["quantization"]
    assert document["quantization_method"] == "gptq"
    assert document["calibration_method"].startswith("builtin sha256:")
    assert document["calibration"]["tokens"] == 32 * 512
    down = document["tensor_quantization_manifest"]["model.layers.1.mlp.down_proj"]
    assert down["solver"] == "gptq"
    assert 0.01 <= down["lambda"] <= 0.5
    assert 0.0 <= down["alpha"] <= 1.0
    assert 0.0 < down["error"] < 0.5


def test_a_measured_size_beats_a_profile(tmp_path: Path) -> None:
    """Widths by probes and solver errors, against those of a profile in as many bytes."""
    options: dict[str, Any] = {"method": "gptq", "calibration_sequences": 16}
    named = convert(DEMO, tmp_path / "named", profile="JANG_2M", **options)
    sized = convert(DEMO, tmp_path / "sized", size=named.bytes, **options)
    assert sized.allocation is not None
    assert sized.allocation.losses == "measured"
    assert sized.bytes <= named.bytes
    assert verify(tmp_path / "sized", against=DEMO).ok
    outputs = [tmp_path / "named", tmp_path / "sized"]
    report = evaluate(DEMO, outputs, sequence=256, tokens=4096)
    plain, chosen = (model.kl.mean for model in report.models)
    assert chosen < 0.9 * plain
