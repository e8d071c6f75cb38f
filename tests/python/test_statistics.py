"""Statistics of inputs: collected, merged, refused, and what conversions make of them."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import tiny_checkpoints as tiny
from jang_tools import convert, errors, verify
from jang_tools.cli.main import cli
from jang_tools.evaluate import evaluate
from jang_tools.plan import plan
from jang_tools.statistics import collect, load_statistics

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"


def jang(*arguments: str | Path) -> Result:
    environment = {"JANG_LOG": None, "NO_COLOR": None}
    words = [str(argument) for argument in arguments]
    return CliRunner(env=environment).invoke(cli, words, prog_name="jang")


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo model, by the command."""
    output = tmp_path_factory.mktemp("statistics") / "demo.stats"
    done = jang("calibrate", DEMO, "--output", output, "--calibration-sequences", "32", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "jang.calibrate/1"
    assert document["tokens"] == 32 * 512
    assert document["modules"] == 6 * 7 + 1
    assert document["fewest_expert_tokens"] is None
    assert [path.name for path in output.parent.iterdir()] == ["demo.stats"]
    return output


def test_what_a_file_says(statistics: Path) -> None:
    found = load_statistics(statistics, DEMO)
    assert found.file == "demo.stats"
    assert found.sha256 == hashlib.sha256(statistics.read_bytes()).hexdigest()
    weights = found.mean_squares
    assert set(weights) == {
        *(module.path for module in plan(DEMO).modules if module.role != "embedding")
    }
    down = weights["model.layers.3.mlp.down_proj"]
    assert down.shape == (768,)
    assert down.dtype == np.float32
    assert (down > 0).all()
    assert down.max() > 10 * np.median(down)


def test_two_halves_merge_to_the_whole(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    files = []
    for name, content in (("a", text[:9000]), ("b", text[9000:])):
        source = tmp_path / f"{name}.txt"
        source.write_text(content, "utf-8")
        files.append(tmp_path / f"{name}.stats")
        collect(DEMO, files[-1], calibration=source, calibration_sequences=4)
    done = jang("calibrate", DEMO, "-o", tmp_path / "m", "--merge", f"{files[0]},{files[1]}")
    assert done.exit_code == 0, done.stderr
    report = collect(
        DEMO,
        tmp_path / "n",
        calibration=tmp_path / "a.txt",
        calibration_sequences=4,
        merge=files[1:],
    )
    assert (tmp_path / "m").read_bytes() == (tmp_path / "n").read_bytes()
    assert report.texts == [
        hashlib.sha256((tmp_path / f"{name}.txt").read_bytes()).hexdigest() for name in "ab"
    ]
    parts = [load_statistics(file, DEMO).mean_squares for file in files]
    merged = load_statistics(tmp_path / "m", DEMO).mean_squares
    for path, values in merged.items():  # both halves have as many tokens
        expected = (parts[0][path] + parts[1][path]) / 2
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def refusal(*arguments: str | Path) -> str:
    done = jang(*arguments)
    assert done.exit_code == 1, done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    return lines[0]


def test_others_are_refused(statistics: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(DEMO, other)
    for path in other.iterdir():
        path.chmod(0o644)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert "model" in refusal("calibrate", other, "-o", tmp_path / "x", "--merge", statistics)
    line = refusal("convert", "--model", other, "-o", tmp_path / "y", "--statistics", statistics)
    assert "statistics of model" in line
    assert "statistics of model" in refusal("plan", other, "--statistics", statistics)

    (other / "model.safetensors").write_bytes((DEMO / "model.safetensors").read_bytes())
    tokenizer = (other / "tokenizer.json").read_text("utf-8")
    (other / "tokenizer.json").write_text(tokenizer + "\n", "utf-8")
    assert "tokenizer" in refusal("calibrate", other, "-o", tmp_path / "x", "--merge", statistics)

    cut = tmp_path / "cut"
    cut.write_bytes(statistics.read_bytes()[:-8])
    assert "cut" in refusal("convert", "--model", DEMO, "-o", tmp_path / "y", "--statistics", cut)
    weights_file = DEMO / "model.safetensors"
    line = refusal("calibrate", DEMO, "-o", tmp_path / "x", "--merge", weights_file)
    assert "jang-statistics" in line
    assert "exists" in refusal("calibrate", DEMO, "-o", statistics, "--merge", statistics)
    assert {path.name for path in tmp_path.iterdir()} == {"other", "cut"}


def test_senseless_lines(statistics: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    for arguments in (
        ("calibrate", DEMO, "-o", out, "--merge", ","),
        ("calibrate", DEMO, "-o", out, "--merge", statistics, "--calibration-tokens", "9"),
        ("convert", "--model", DEMO, "-o", out, "--statistics", statistics, "--method", "rtn"),
        ("convert", "--model", DEMO, "-o", out, "--statistics", statistics, "--method", "gptq"),
    ):
        assert jang(*arguments).exit_code == 2


def record_of(directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((directory / "jang_config.json").read_text("utf-8"))
    return record["quantization"]


def test_weighted_search_lowers_the_divergence(statistics: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("plain", "weighted", "again")]
    for output, threads in zip(outputs, (2, 2, 1), strict=True):
        file = None if output.name == "plain" else statistics
        convert(DEMO, output, profile="uniform-3", statistics=file, threads=threads)
    report = evaluate(DEMO, outputs[:2], sequence=256, tokens=4096)
    plain, weighted = (model.kl.mean for model in report.models)
    assert weighted < 0.9 * plain
    assert verify(outputs[1], against=DEMO).ok
    for file in outputs[1].iterdir():
        assert file.read_bytes() == (outputs[2] / file.name).read_bytes()
    record = record_of(outputs[1])
    digest = hashlib.sha256(statistics.read_bytes()).hexdigest()
    assert record["quantization_method"] == "mse"
    assert record["calibration_method"] == f"demo.stats sha256:{digest}"
    assert record["statistics"] == {"file": "demo.stats", "sha256": digest, "modules": 43}
    assert "statistics" not in record_of(outputs[0])


def test_measured_losses_choose_widths(statistics: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    found = plan(DEMO, bits=3.5, statistics=statistics, progress=lambda *now: seen.append(now))
    assert found.allocation is not None
    assert found.allocation.losses == "measured"
    assert seen[-1][0] == seen[-1][1]
    assert [module.path for module in found.modules]
    result = convert(DEMO, tmp_path / "out", bits=3.5, statistics=statistics)
    assert result.bytes == found.bytes
    record = record_of(tmp_path / "out")
    assert record["allocation"]["losses"] == "measured"
    widths = {path: entry["bits"] for path, entry in record["tensor_quantization_manifest"].items()}
    assert widths == {module.path: module.bits for module in found.modules}
    prior = plan(DEMO, bits=3.5)
    assert [m.bits for m in prior.modules] != [m.bits for m in found.modules]


def legacy_imatrix(path: Path, entries: dict[str, np.ndarray[Any, Any]]) -> Path:
    """llama.cpp's older form: means times calls."""
    data = struct.pack("<i", len(entries))
    for name, means in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", 4, means.size) + (4 * means.astype("<f4")).tobytes()
    path.write_bytes(data)
    return path


def test_an_importance_matrix_weights_the_same_columns(statistics: Path, tmp_path: Path) -> None:
    squares = load_statistics(statistics, DEMO).mean_squares
    path = "model.layers.2.mlp.down_proj"
    file = legacy_imatrix(tmp_path / "imatrix.dat", {"blk.2.ffn_down.weight": squares[path]})
    found = load_statistics(file, DEMO)
    assert set(found.mean_squares) == {path}
    np.testing.assert_allclose(found.mean_squares[path], squares[path], rtol=1e-5)
    result = convert(DEMO, tmp_path / "out", profile="uniform-3", statistics=file)
    assert any("matrices" in warning for warning in result.warnings)
    assert record_of(tmp_path / "out")["statistics"]["modules"] == 1
    assert verify(tmp_path / "out", against=DEMO).ok


def test_experts_have_rows_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny.write_checkpoint(tiny.BY_NAME["mixtral"], source)
    shutil.copy(DEMO / "tokenizer.json", source)
    config = json.loads((source / "config.json").read_text("utf-8"))
    ids = np.random.default_rng(1).integers(0, config["vocab_size"], (4, 24), dtype=np.int32)
    from jang_tools import _core

    output = tmp_path / "stats"
    _core.collect_statistics(
        str(source),
        str(output),
        ids,
        model_sha256="a" * 64,
        tokenizer_sha256="b" * 64,
        text_sha256="c" * 64,
    )
    found = _core.Statistics(str(output))
    experts = {path: count for path, count in found.counts().items() if "switch_mlp" in path}
    assert experts
    chosen = config["num_experts_per_tok"] * 4 * 23
    assert {int(count.sum()) for count in experts.values()} == {chosen}
    squares = found.mean_squares()
    for path, count in experts.items():
        assert squares[path].shape[0] == count.size == config["num_local_experts"]
    with pytest.raises(errors.ArgumentError, match="model"):
        convert(source, tmp_path / "out", statistics=output)
