"""Routed experts under gptq: what is solved and recorded where nothing else is quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import families
import tiny_checkpoints as tiny
from families import LENGTH
from jang_tools import convert, verify
from jang_tools.evaluate import evaluate

CASES = {
    "qwen3-moe": {"moe_intermediate_size": 64},
    "mixtral": {"intermediate_size": 64, "num_experts": 8},
}
EXPERTS = ["*=none", "*switch_mlp*=3:32"]  # nothing else is quantized


@pytest.fixture(scope="module", params=sorted(CASES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "source"
    tiny.write_readable_checkpoint(tiny.BY_NAME[request.param], folder, **CASES[request.param])
    return folder


def solve(source: Path, output: Path, text: Path, sequences: int, **options: Any) -> Any:
    return families.solve(
        source, output, text, sequences, rules=EXPERTS, group_size=None, **options
    )


def quantization(output: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output / "jang_config.json").read_text())
    return dict(document["quantization"])


def stacks(found: dict[str, Any]) -> dict[str, Any]:
    manifest = found["tensor_quantization_manifest"]
    return {path: entry for path, entry in manifest.items() if ".switch_mlp." in path}


def test_solved_experts_beat_searched_ones_on_their_text(
    source: Path, text: Path, tmp_path: Path
) -> None:
    options = {"profile": "uniform-3", "rules": EXPERTS, "threads": 2}
    convert(source, tmp_path / "mse", method="mse", **options)
    result = solve(source, tmp_path / "gptq", text, 40)
    assert result.warnings == []
    assert verify(tmp_path / "gptq", against=source).ok
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(source, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.7 * mse

    found = quantization(tmp_path / "gptq")
    entries = stacks(found)
    assert entries.keys() == found["tensor_quantization_manifest"].keys()
    assert len(entries) == 6
    for entry in entries.values():
        assert entry["solver"] == "gptq"
        assert entry["experts"] == {"solved": 8, "weighted": 0, "plain": 0}
        assert entry["alpha"] == 0
        assert 0.01 <= entry["lambda"] <= 0.5
        assert 0 < entry["error"] < 0.1
    experts = found["calibration"]["experts"]
    assert experts["count"] == 16
    assert experts["matrices"] == {"solved": 48, "weighted": 0, "plain": 0}
    config = json.loads((source / "config.json").read_text())
    mean = 40 * (LENGTH - 1) * config["num_experts_per_tok"] / 8
    assert 32 <= experts["tokens_least"] == experts["tokens_1_percent"]
    assert experts["tokens_least"] < experts["tokens_median"] < 1.3 * mean


def test_experts_with_few_tokens_are_searched_and_said_so(
    source: Path, text: Path, tmp_path: Path
) -> None:
    result = solve(source, tmp_path / "out", text, 1)
    experts = quantization(tmp_path / "out")["calibration"]["experts"]
    ways = experts["matrices"]
    assert sum(ways.values()) == 48
    assert ways["weighted"] + ways["plain"] > 0
    few = f"{ways['weighted'] + ways['plain']} of 48 expert matrices"
    assert [warning for warning in result.warnings if few in warning]
    assert verify(tmp_path / "out", against=source).ok
    for entry in stacks(quantization(tmp_path / "out")).values():
        assert sum(entry["experts"].values()) == 8
        assert entry["solver"] == ("gptq" if entry["experts"]["solved"] else "mse")
