"""GGUF files as models: blocks against references of their own, tensors, order, evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import jang_tools
from foreign_files import Type, gguf_tensors, read_floats, write_gguf
from jang_tools.cli.main import cli
from jang_tools.errors import FormatError, IoError
from jang_tools.evaluate import evaluate
from jang_tools.foreign import plain_writer
from jang_tools.foreign.gguf_blocks import TYPES, dequantize
from jang_tools.foreign.gguf_file import GgufFile
from jang_tools.foreign.gguf_model import materialize_gguf
from jang_tools.foreign.open_foreign import foreign_kind, open_foreign
from jang_tools.foreign.reference import read_reference
from jang_tools.model import load_model
from tiny_checkpoints import BY_NAME, write_checkpoint

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
PARAMETERS = 6819072  # of the demo model
BLOCKS = 6

Bytes = npt.NDArray[np.uint8]


def half(block: Bytes, at: int) -> float:
    return float(block[at : at + 2].view(np.float16)[0])


def q4_0(block: Bytes) -> list[float]:
    low = [int(byte) & 15 for byte in block[2:]]
    high = [int(byte) >> 4 for byte in block[2:]]
    return [half(block, 0) * (code - 8) for code in low + high]


def q8_0(block: Bytes) -> list[float]:
    return [half(block, 0) * int(code) for code in block[2:].view(np.int8)]


def scales_k4(packed: Bytes) -> list[tuple[int, int]]:
    """Eight 6-bit scales and minima in 12 bytes, the last four split over two places."""
    found = []
    for j in range(8):
        if j < 4:
            found.append((int(packed[j]) & 63, int(packed[j + 4]) & 63))
        else:
            low = int(packed[j + 4])
            scale = (low & 15) | (int(packed[j - 4]) >> 6 << 4)
            found.append((scale, (low >> 4) | (int(packed[j]) >> 6 << 4)))
    return found


def q4_k(block: Bytes) -> list[float]:
    d, least = half(block, 0), half(block, 2)
    out = []
    for part, (scale, minimum) in enumerate(scales_k4(block[4:16])):
        codes = block[16 + part // 2 * 32 :][:32]
        out += [d * scale * ((int(c) >> 4 * (part % 2)) & 15) - least * minimum for c in codes]
    return out


def q5_k(block: Bytes) -> list[float]:
    d, least = half(block, 0), half(block, 2)
    out = []
    for part, (scale, minimum) in enumerate(scales_k4(block[4:16])):
        codes, fifth = block[48 + part // 2 * 32 :][:32], block[16:48]
        for code, bit in zip(codes, fifth, strict=True):
            value = (int(code) >> 4 * (part % 2)) & 15 | (int(bit) >> part & 1) << 4
            out.append(d * scale * value - least * minimum)
    return out


def q6_k(block: Bytes) -> list[float]:
    d, scales = half(block, 208), block[192:208].view(np.int8)
    out = []
    for i in range(256):
        in_half, run, at = i // 128, i % 128 // 32, i % 32
        low = int(block[in_half * 64 + run % 2 * 32 + at]) >> 4 * (run // 2) & 15
        high = int(block[128 + in_half * 32 + at]) >> 2 * run & 3
        out.append(d * int(scales[i // 16]) * ((low | high << 4) - 32))
    return out


# Where the 16-bit scales of a block lie, and its values by the definition of the format.
REFERENCES = {
    "Q4_0": ((0,), q4_0),
    "Q8_0": ((0,), q8_0),
    "Q4_K": ((0, 2), q4_k),
    "Q5_K": ((0, 2), q5_k),
    "Q6_K": ((208,), q6_k),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_blocks_have_the_values_of_the_format(name: str) -> None:
    kind = next(kind for kind in TYPES.values() if kind.name == name)
    random = np.random.default_rng(7)
    blocks = random.integers(0, 256, (BLOCKS, kind.bytes), dtype=np.uint8)
    scales, by_definition = REFERENCES[name]
    for at in scales:
        blocks[:, at : at + 2] = (
            random.normal(0, 0.02, (BLOCKS, 1)).astype(np.float16).view(np.uint8)
        )
    expected = np.array([by_definition(block) for block in blocks])
    found = dequantize(blocks.reshape(-1), kind).reshape(BLOCKS, kind.weights)
    assert found.dtype == np.float32
    # Products are rounded to float32 once or twice, differences once more.
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=1e-7 * np.abs(expected).max())
    assert np.unique(found).size > 16


def test_every_type_has_the_size_of_the_package_and_is_dequantized() -> None:
    random = np.random.default_rng(8)
    for number, kind in TYPES.items():
        theirs = Type(number)
        assert theirs.name == kind.name
        assert gguf.GGML_QUANT_SIZES[theirs] == (kind.weights, kind.bytes)
        # Scales of 0x2c2c are 0.067, whatever their place is.
        blocks = random.integers(0, 256, (4, kind.bytes), dtype=np.uint8)
        blocks[:, -2:] = blocks[:, :4] = 0x2C
        found = dequantize(blocks.reshape(-1), kind)
        with np.errstate(all="ignore"):
            expected = gguf.quants.dequantize(blocks.reshape(2, -1), theirs).reshape(-1)
        np.testing.assert_array_equal(found, expected, err_msg=kind.name)


def materialized(file: Path, reference: Path, output: Path) -> dict[str, np.ndarray]:
    output.mkdir()
    materialize_gguf(file, read_reference(reference), output)
    return read_floats(output)


@pytest.mark.parametrize(
    "case",
    [
        "llama-gqa",
        "llama-head-dim",
        "llama-attention-bias",
        "llama-mlp-bias",
        "llama-tied",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2-window",
        "qwen3",
        "qwen3-moe-sparse",
    ],
)
def test_unquantized_tensors_come_back_bit_by_bit(case: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME[case], source)
    file = write_gguf(tmp_path / "model.gguf", source)
    found = materialized(file, source, tmp_path / "plain")
    expected = read_floats(source)
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["dtype"] == "float32"
    tokens = np.arange(20)
    ours = load_model(tmp_path / "plain", "exact")(tokens)
    np.testing.assert_array_equal(ours, load_model(source, "exact")(tokens))


@pytest.mark.parametrize("case", ["mixtral-fused", "qwen3-moe-fused"])
def test_the_reference_may_spell_its_experts_otherwise(case: str, tmp_path: Path) -> None:
    source, packed = tmp_path / "source", tmp_path / "packed"
    write_checkpoint(BY_NAME[case], source)
    jang_tools.convert(source, packed, profile="JANG_4L", method="rtn", group_size=32)
    file = write_gguf(tmp_path / "model.gguf", source)
    tokens = np.arange(20)
    expected = load_model(source, "exact")(tokens)
    for reference in (source, packed):
        output = tmp_path / f"plain-{reference.name}"
        materialized(file, reference, output)
        assert not (output / "jang_config.json").exists()
        found = load_model(output, "exact")(tokens)
        np.testing.assert_array_equal(found, expected)


def test_experts_that_are_not_stacked_and_those_fused_with_their_gates(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["mixtral"], source)
    tensors = gguf_tensors(source)
    for layer in range(4):
        name = f"blk.{layer}.ffn_{{}}.weight"
        gate, up, down = (
            tensors.pop(name.format(f"{part}_exps")) for part in ("gate", "up", "down")
        )
        if layer % 2:
            tensors[name.format("gate_up_exps")] = np.concatenate([gate, up], axis=1)
            tensors[name.format("down_exps")] = down
            continue
        for expert in range(len(gate)):
            for part, stack in (("gate", gate), ("up", up), ("down", down)):
                tensors[name.format(f"{part}.{expert}")] = stack[expert]
    file = write_gguf(tmp_path / "model.gguf", source, tensors=tensors)
    found, expected = materialized(file, source, tmp_path / "plain"), read_floats(source)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_head_that_only_the_file_has_is_used(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["llama-tied"], source)
    tensors = gguf_tensors(source)
    tensors["output.weight"] = 2 * tensors["token_embd.weight"]
    file = write_gguf(tmp_path / "model.gguf", source, tensors=tensors)
    materialized(file, source, tmp_path / "plain")
    tokens = np.arange(20)
    once = load_model(source, "exact")(tokens)
    twice = load_model(tmp_path / "plain", "exact")(tokens)
    np.testing.assert_array_equal(twice, 2 * once)


def test_tables_of_positions_are_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["llama-llama3"], source)
    tensors = {**gguf_tensors(source), "rope_freqs.weight": np.ones(16, np.float32)}
    file = write_gguf(tmp_path / "model.gguf", source, tensors=tensors)
    assert sorted(materialized(file, source, tmp_path / "plain")) == sorted(read_floats(source))


def test_a_model_in_parts_is_read_from_any_of_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["llama-gqa"], source)
    tensors = list(gguf_tensors(source).items())
    parts = [dict(tensors[part::2]) for part in range(2)]
    for number, part in enumerate(parts):
        keys = {"split.no": number, "split.count": 2, "split.tensors.count": len(tensors)}
        name = f"big-0000{number + 1}-of-00002.gguf"
        write_gguf(tmp_path / name, source, tensors=part, keys=keys)
    with open_foreign(tmp_path / "big-00002-of-00002.gguf", source) as model:
        assert model.bytes == sum(path.stat().st_size for path in tmp_path.glob("big-*"))
        assert sorted(read_floats(model.directory)) == sorted(read_floats(source))
    (tmp_path / "big-00001-of-00002.gguf").unlink()
    with (
        pytest.raises(IoError, match=r"big-00001-of-00002\.gguf: no such file, part 1 of 2"),
        open_foreign(tmp_path / "big-00002-of-00002.gguf", source),
    ):
        pass


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    kinds = {"F32": Type.F32, "F16": Type.F16, "Q8_0": Type.Q8_0, "Q4_0": Type.Q4_0}
    files = {
        name: write_gguf(folder / f"demo-{name}.gguf", DEMO, kind) for name, kind in kinds.items()
    }
    files["wrong"] = write_gguf(folder / "demo-wrong.gguf", DEMO, permuted=False)
    return files


def test_evaluation_on_the_demo_model(demo_files: dict[str, Path]) -> None:
    found = evaluate(DEMO, list(demo_files.values()), sequence=64, tokens=256)
    kl = dict(zip(demo_files, (model.kl.mean for model in found.models), strict=True))
    assert abs(kl["F32"]) < 1e-12
    assert abs(kl["F16"]) < 1e-6
    assert 1e-6 < kl["Q8_0"] < 1e-3
    assert 1e-2 < kl["Q4_0"] < 0.1
    assert kl["wrong"] > 0.2  # heads in the other order are another model
    for model, file in zip(found.models, demo_files.values(), strict=True):
        subject = model.subject
        assert (subject.path, subject.format, subject.bytes) == (file, "gguf", file.stat().st_size)
        assert subject.bits_per_weight == pytest.approx(8 * subject.bytes / PARAMETERS)
    assert found.models[3].subject.bits_per_weight < 4.6
    assert "demo-Q4_0.gguf: weights from GGUF, dequantized to float32" in found.notices


def test_the_command_takes_a_file_and_leaves_nothing_behind(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "named.gguf"  # as the Hub's cache has files
    link.symlink_to(demo_files["Q8_0"])
    words = ["eval", "--reference", str(DEMO), "--model", str(link), "--json"]
    done = CliRunner().invoke(cli, [*words, "--sequence", "64", "--tokens", "128"])
    assert done.exit_code == 0, done.stderr
    model = json.loads(done.stdout)["models"][0]
    assert (model["format"], model["name"]) == ("gguf", "named.gguf")
    assert list(tmp_path.iterdir()) == [tmp_path / "links"]


def test_progress_counts_the_bytes_that_are_written(demo_files: dict[str, Path]) -> None:
    seen: list[tuple[str, int, int, str]] = []
    with open_foreign(demo_files["F16"], DEMO, lambda *now: seen.append(now)) as model:
        assert model.tensor_bytes < model.bytes == demo_files["F16"].stat().st_size
    assert {(stage, total, unit) for stage, _, total, unit in seen} == {
        ("demo-F16.gguf to float32", 4 * PARAMETERS, "B")
    }
    assert seen[-1][1] == 4 * PARAMETERS and len(seen) > 20


def test_the_disk_is_asked_before_any_work(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(plain_writer.shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(IoError, match=r"needs 0\.03 GB .* has 0\.00 GB free") as raised,
        open_foreign(demo_files["F32"], DEMO),
    ):
        pass
    assert raised.value.code == "no_space"
    assert list(tmp_path.iterdir()) == []


def test_the_directory_goes_when_the_block_fails(
    demo_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), open_foreign(demo_files["F32"], DEMO):
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_are_known_by_name_or_magic(demo_files: dict[str, Path], tmp_path: Path) -> None:
    bare = tmp_path / "model"
    bare.symlink_to(demo_files["F32"])
    assert foreign_kind(bare) == foreign_kind(demo_files["F32"]) == "gguf"
    assert foreign_kind(DEMO) is None
    assert foreign_kind(DEMO / "config.json") is None
    assert foreign_kind(tmp_path / "absent") is None


def test_pieces_of_a_tensor_are_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jang_tools.foreign.gguf_file.CHUNK_WEIGHTS", 1000)
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["llama-gqa"], source)
    file = write_gguf(tmp_path / "model.gguf", source, Type.Q8_0)
    with GgufFile(file) as opened:
        tensor = opened.tensors["blk.0.ffn_up.weight"]
        pieces = list(opened.chunks(tensor, 0, tensor.rows))
        assert len(pieces) == 32
        np.testing.assert_array_equal(np.concatenate(pieces), opened.read(tensor))
    found = materialized(file, source, tmp_path / "plain")
    for name, values in read_floats(source).items():
        assert np.abs(found[name] - values).max() <= np.abs(values).max() / 127


def test_a_value_that_is_not_finite_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME["llama-gqa"], source)
    tensors = gguf_tensors(source)
    tensors["blk.2.ffn_up.weight"][5, 7] = np.nan
    file = write_gguf(tmp_path / "model.gguf", source, tensors=tensors)
    with pytest.raises(
        FormatError, match=r"tensor 'blk\.2\.ffn_up\.weight': row 5, column 7: .* found nan"
    ):
        materialized(file, source, tmp_path / "plain")
