"""Sources that were quantized once and expanded: stored as they were, by convert() and the command.

The demo model in the manner of Q4_0 comes back with the predictions that it had.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from jang_tools import convert, evaluate, verify
from jang_tools.cli.main import cli
from jang_tools.cli.report import lattice_line
from jang_tools.convert import Lattices
from lattice_checkpoints import Floats, round_bf16, write_on_lattices
from stock import assert_agreement
from weight_files import read_weights

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
MATRICES = 2 + 7 * 6


def quantization(directory: Path) -> dict[str, Any]:
    value = json.loads((directory / "jang_config.json").read_text())["quantization"]
    assert isinstance(value, dict)
    return value


def divergence(source: Path, output: Path) -> float:
    return evaluate(source, output, sequence=256, tokens=1024).models[0].kl.mean


def half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def on_lattices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scales of 8 digits, so that float16 holds every weight exactly."""
    target = tmp_path_factory.mktemp("lattices") / "source"
    assert len(write_on_lattices(DEMO, target, "F16", round_bf16)) == MATRICES
    return target


@pytest.mark.parametrize("method", ["mse", "gptq"])
def test_nothing_is_lost(method: str, on_lattices: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    few = {"calibration_sequences": 4, "calibration_tokens": 64} if method == "gptq" else {}
    result = convert(on_lattices, output, profile="JANG_4L", method=method, threads=2, **few)
    found = result.lattices
    assert found is not None
    assert (found.tensors, found.lossless_tensors) == (MATRICES, MATRICES)
    assert found.groups == found.lossless_groups
    assert result.to_json()["lattices"] == found.to_json()
    recorded = quantization(output)
    assert recorded["lattices"] == {**found.to_json(), "share": 1.0}
    assert recorded["bit_widths_used"] == [4]
    for entry in recorded["tensor_quantization_manifest"].values():
        assert (entry["solver"], entry["bits"], entry["group_size"]) == ("lattice", 4, 32)
        assert entry["groups"] == entry["lossless_groups"]
    assert divergence(on_lattices, output) < 1e-9
    report = verify(output, against=on_lattices)
    assert report.ok, report
    assert_agreement(output, count=50)


@pytest.mark.parametrize(("dtype", "round_scale"), [("F16", half), ("BF16", round_bf16)])
def test_what_the_source_rounded_comes_back_rounded(
    dtype: str, round_scale: Callable[[Floats], Floats], tmp_path: Path
) -> None:
    """Products of more digits than the source holds: s*q + b rounds to its values."""
    write_on_lattices(DEMO, tmp_path / "source", dtype, round_scale)
    output = tmp_path / "out"
    result = convert(tmp_path / "source", output, profile="JANG_4L", threads=2)
    assert result.lattices is not None
    assert result.lattices.lossless_tensors == result.lattices.tensors == MATRICES
    assert verify(output, against=tmp_path / "source").ok
    plain = convert(tmp_path / "source", tmp_path / "plain", profile="JANG_4L", method="rtn")
    assert plain.lattices is None
    lost = divergence(tmp_path / "source", output)
    assert lost < 1e-4
    assert lost < 0.02 * divergence(tmp_path / "source", tmp_path / "plain")


def test_only_the_tensors_that_lie_on_one(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    chosen = write_on_lattices(DEMO, source, "BF16", round_bf16, lambda name: "mlp" in name)
    result = convert(source, output, profile="JANG_4L", threads=2)
    assert result.lattices is not None
    assert result.lattices.tensors == len(chosen) == 18
    convert(DEMO, tmp_path / "plain", profile="JANG_4L", threads=2)
    ours, usual = read_weights(output), read_weights(tmp_path / "plain")
    manifest = quantization(output)["tensor_quantization_manifest"]
    for path, entry in manifest.items():
        assert entry["solver"] == ("lattice" if path in chosen else "mse")
        if path not in chosen:
            assert ours[f"{path}.weight"] == usual[f"{path}.weight"]
            assert ours[f"{path}.scales"] == usual[f"{path}.scales"]
    assert verify(output, against=source).ok


def test_an_ordinary_model_has_none(tmp_path: Path) -> None:
    result = convert(DEMO, tmp_path / "out", profile="JANG_4L", threads=2)
    assert result.lattices is None
    assert result.to_json()["lattices"] is None
    recorded = quantization(tmp_path / "out")
    assert "lattices" not in recorded
    solvers = {entry["solver"] for entry in recorded["tensor_quantization_manifest"].values()}
    assert solvers == {"mse"}


def test_the_command_says_what_it_found(on_lattices: Path, tmp_path: Path) -> None:
    def lines(source: Path, name: str) -> list[str]:
        arguments = ["convert", "--model", source, "--profile", "4l", "-o", tmp_path / name]
        done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.stderr
        return done.stdout.splitlines()

    line = f"{MATRICES} tensors lie on lattices: stored without loss"
    assert line in lines(on_lattices, "out")
    assert not any("lattice" in text for text in lines(DEMO, "ordinary"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Lattices(3, 3, 500, 500), "3 tensors lie on lattices: stored without loss"),
        (
            Lattices(3, 2, 100000, 99999),
            "3 tensors lie on lattices: 99.99 % of their groups stored without loss,"
            " 2 tensors entirely",
        ),
    ],
)
def test_only_all_counts_as_all(found: Lattices, expected: str) -> None:
    assert lattice_line(found) == expected
