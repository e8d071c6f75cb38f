"""verify(): nothing wrong with what was written, and no byte of it can change unnoticed."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_checkpoints as tiny
from jang_tools import convert, verify
from jang_tools.errors import FormatError, IoError, UnsupportedError
from jang_tools.sha256sums import SUMS, format_sums, hash_files, parse_sums
from weight_files import payload_offset, read_weights

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
SHARD = "model-00001-of-00001.safetensors"
TEXTS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
FILES = sorted(
    ["config.json", "jang_config.json", "model.safetensors.index.json", SHARD, SUMS, *TEXTS]
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a tokenizer that fits nothing but is copied all the same."""
    folder = tmp_path_factory.mktemp("verify") / "source"
    small = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
    tiny.write_checkpoint(
        tiny.Case("verified", {**small, "num_hidden_layers": 1}, dtype="BF16"), folder
    )
    for name in TEXTS:
        (folder / name).write_text(json.dumps({"eos_token_id": 2, "version": "1.0"}))
    return folder


@pytest.fixture(scope="module")
def pristine(source: Path) -> Path:
    output = source.parent / "out"
    convert(source, output, profile="JANG_4L", method="rtn")
    assert sorted(file.name for file in output.iterdir()) == FILES
    return output


@pytest.fixture
def directory(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def codes(directory: Path, against: Path | None = None) -> set[str]:
    return {fault.code for fault in verify(directory, against=against).faults}


def seal(directory: Path) -> None:
    """Makes SHA256SUMS true again."""
    names = [file.name for file in directory.iterdir() if file.name != SUMS]
    (directory / SUMS).write_bytes(format_sums(hash_files(directory, names)))


def change_payload(directory: Path, tensor: str, change: Callable[[bytearray], None]) -> None:
    """Changes a tensor's bytes and makes every checksum true again."""
    old = read_weights(directory)[tensor].payload
    new = bytearray(old)
    change(new)
    assert len(new) == len(old) and new != old
    file = directory / SHARD
    begin = payload_offset(file, tensor)
    data = bytearray(file.read_bytes())
    data[begin : begin + len(new)] = new
    file.write_bytes(data)
    config = directory / "jang_config.json"
    document = json.loads(config.read_text())
    document["checksums"]["tensors"][tensor] = f"{zlib.crc32(new):08x}"
    config.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    seal(directory)


# --- sound directories -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("profile", ["JANG_2S", "JANG_3L", "JANG_4K", "JANG_6M", "mixed_2_6"])
def test_what_was_written_is_sound(tmp_path: Path, profile: str, method: str) -> None:
    convert(DEMO, tmp_path / "out", profile=profile, method=method)
    result = verify(tmp_path / "out", against=DEMO)
    assert result.ok and result.faults == [] and result.notices == []
    assert result.tensors is not None and len(result.tensors) == 44
    for tensor in result.tensors:
        assert 0 < tensor.relative_rms <= tensor.bound
        assert tensor.max_abs > 0


def test_grid_search_is_nowhere_worse_than_rounding(tmp_path: Path) -> None:
    for method in ("rtn", "mse"):
        convert(DEMO, tmp_path / method, profile="JANG_3S", method=method)
    rtn = verify(tmp_path / "rtn", against=DEMO).tensors
    mse = verify(tmp_path / "mse", against=DEMO).tensors
    assert rtn is not None and mse is not None
    for plain, searched in zip(rtn, mse, strict=True):
        assert plain.relative_rms == pytest.approx(plain.bound / 1.5)
        assert searched.relative_rms < plain.relative_rms


def test_stock_mlx_directories(tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    mlx_lm.convert(str(DEMO), str(tmp_path / "mlx"), quantize=True, q_bits=4, q_group_size=64)
    result = verify(tmp_path / "mlx", against=DEMO)
    assert result.faults == []
    assert any(SUMS in notice for notice in result.notices)
    assert any("checksums" in notice for notice in result.notices)


def test_plain_directories() -> None:
    result = verify(DEMO)
    assert result.ok
    assert result.tensors is None
    assert result.notices


def test_documents(pristine: Path, source: Path) -> None:
    plain = verify(pristine).to_json()
    assert plain["schema"] == "jang.verify/1"
    assert plain["ok"] is True and plain["faults"] == []
    assert "tensors" not in plain
    compared = verify(pristine, against=source).to_json()
    assert {"path", "relative_rms", "max_abs"} <= set(compared["tensors"][0])
    assert json.loads(json.dumps(compared)) == compared


def test_progress_rises_to_its_total(pristine: Path, source: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    verify(pristine, against=source, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert len({call[1] for call in calls}) == 1
    assert done[-1] == calls[-1][1]


# --- flipped bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found(directory: Path, name: str) -> None:
    file = directory / name
    good = file.read_bytes()
    chance = random.Random(name)
    places = {0, 1, len(good) - 1, len(good) // 2}
    places |= {chance.randrange(len(good)) for _ in range(60)}
    places |= {chance.randrange(min(3000, len(good))) for _ in range(20)}
    for place in sorted(places):
        bad = bytearray(good)
        bad[place] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        result = verify(directory)
        assert not result.ok, (name, place)
        told = [(fault.file, fault.message) for fault in result.faults]
        assert any(name in line for pair in told for line in pair) or SUMS in dict(told), told
    file.write_bytes(good)
    assert verify(directory).ok


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_other_byte_is_found(pristine: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    file = pristine / name
    good = file.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    try:
        file.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
        assert not verify(pristine).ok
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_longer_files_are_found(directory: Path, name: str) -> None:
    file = directory / name
    good = file.read_bytes()
    for bad in (b"", good[:-1], good + b"\n", good + b"\0" * 64):
        file.write_bytes(bad)
        assert not verify(directory).ok, len(bad)


def test_payload_flips_are_found_without_the_sums(directory: Path) -> None:
    for tensor, part in read_weights(directory).items():
        begin = payload_offset(directory / SHARD, tensor)
        data = bytearray((directory / SHARD).read_bytes())
        data[begin + len(part.payload) // 3] ^= 16
        (directory / SHARD).write_bytes(data)
        faults = verify(directory).faults
        assert (tensor, "checksum") in {(fault.tensor, fault.code) for fault in faults}
        data[begin + len(part.payload) // 3] ^= 16
        (directory / SHARD).write_bytes(data)


# --- SHA256SUMS --------------------------------------------------------------------------------


def test_sums_are_parsed_strictly() -> None:
    one, two = "1" * 64, "2" * 64
    good = f"{one}  a\n{two}  b c\n".encode()
    assert parse_sums(good) == {"a": one, "b c": two}
    assert format_sums(parse_sums(good)) == good
    for bad in (
        good[:-1],
        good + b"\n",
        f"{two}  b\n{one}  a\n".encode(),
        f"{one}  a\n{one}  a\n".encode(),
        f"{one} a\n".encode(),
        f"{one} *a\n".encode(),
        f"{one}   a\n".encode()[:66] + b"/a\n",
        f"{'A' * 64}  a\n".encode(),
        f"{one[1:]}  a\n".encode(),
        f"{one}  \n".encode(),
        f"{one}  a\r\n".encode(),
        f"{one}  ../a\n".encode(),
        f"\ufeff{one}  a\n".encode(),
    ):
        with pytest.raises(FormatError, match=SUMS) as caught:
            parse_sums(bad)
        assert caught.value.code == "hash_file"


def test_missing_sums(directory: Path) -> None:
    (directory / SUMS).unlink()
    assert codes(directory) == {"hash_file"}
    record = json.loads((directory / "jang_config.json").read_text())
    del record["generator"], record["checksums"]
    (directory / "jang_config.json").write_text(json.dumps(record))
    result = verify(directory)  # a foreign directory now
    assert result.ok
    assert len(result.notices) == 2


def test_files_that_are_not_listed_and_listed_ones_that_are_not_there(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine\n")
    (directory / "folder").mkdir()
    (directory / "tokenizer.json").unlink()
    found = {(fault.code, fault.file) for fault in verify(directory).faults}
    assert found == {
        ("stray_file", "notes.txt"),
        ("stray_file", "folder"),
        ("hash_file", "tokenizer.json"),
    }


def test_the_sums_may_not_list_themselves(directory: Path) -> None:
    sums = parse_sums((directory / SUMS).read_bytes())
    (directory / SUMS).write_bytes(format_sums({**sums, SUMS: "0" * 64}))
    assert codes(directory) == {"hash_file"}


def test_sums_of_an_unsupported_format_still_count(directory: Path) -> None:
    record = json.loads((directory / "jang_config.json").read_text())
    record["format"] = "jangtq"
    (directory / "jang_config.json").write_text(json.dumps(record))
    assert {"unsupported_format", "hash_file"} <= codes(directory)
    (directory / SUMS).unlink()
    with pytest.raises(UnsupportedError):
        verify(directory)


# --- structure ---------------------------------------------------------------------------------


def test_stray_weights(directory: Path) -> None:
    shutil.copy(directory / SHARD, directory / "model-old.safetensors")
    assert "stray_file" in codes(directory)
    seal(directory)
    faults = verify(directory).faults
    assert [(fault.code, fault.file) for fault in faults] == [
        ("stray_file", "model-old.safetensors")
    ]


def test_map_and_manifest(directory: Path) -> None:
    config = directory / "config.json"
    good = config.read_text()
    document = json.loads(good)
    entry = document["quantization"]["model.layers.0.mlp.up_proj"]
    entry["bits"] = {4: 8}[entry["bits"]]
    document["quantization_config"] = document["quantization"]
    config.write_text(json.dumps(document))
    seal(directory)
    faults = verify(directory).faults
    assert faults and "up_proj" in str(faults[0])
    config.write_text(good)
    record = directory / "jang_config.json"
    document = json.loads(record.read_text())
    manifest = document["quantization"]["tensor_quantization_manifest"]
    del manifest["lm_head"]
    document["quantization"]["tensor_quantization_manifest_count"] -= 1
    record.write_text(json.dumps(document))
    seal(directory)
    assert [(fault.code, fault.tensor) for fault in verify(directory).faults] == [
        ("manifest", "lm_head")
    ]


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="no such directory"):
        verify(tmp_path / "nowhere")
    assert "unknown_format" in codes(tmp_path)


# --- against the source ------------------------------------------------------------------------


def unlike_rows(directory: Path, path: str) -> tuple[int, int]:
    """The rows of the smallest and the largest scale; a row is one group of 64 here."""
    scales = np.frombuffer(read_weights(directory)[f"{path}.scales"].payload, dtype="<u2")
    magnitudes = scales & 0x7FFF  # of bf16: in the order of the values
    return int(magnitudes.argmin()), int(magnitudes.argmax())


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_source_that_was_cast_before_it_was_rounded(
    tmp_path: Path, method: str, dtype: str
) -> None:
    case = tiny.Case("cast", {"hidden_size": 128, "num_hidden_layers": 1}, dtype="F32")
    tiny.write_checkpoint(case, tmp_path / "source")
    output = tmp_path / "out"
    convert(tmp_path / "source", output, profile="uniform-8", method=method, dtype=dtype)
    found = verify(output, against=tmp_path / "source")
    assert found.ok, found.faults
    path = "model.layers.0.mlp.up_proj"

    def exchange(payload: bytearray) -> None:
        payload[:8], payload[64:72] = payload[64:72], payload[:8]

    change_payload(output, f"{path}.weight", exchange)
    faults = verify(output, against=tmp_path / "source").faults
    assert [(fault.code, fault.tensor) for fault in faults] == [("quality", path)]


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("part", ["scales", "biases", "weight"])
def test_exchanged_rows(source: Path, tmp_path: Path, method: str, part: str) -> None:
    output = tmp_path / "out"
    convert(source, output, profile="JANG_4L", method=method)
    path = "model.layers.0.mlp.up_proj"
    one, two = unlike_rows(output, path)
    row = len(read_weights(output)[f"{path}.{part}"].payload) // 96

    def swap(payload: bytearray) -> None:
        first, second = slice(one * row, (one + 1) * row), slice(two * row, (two + 1) * row)
        payload[first], payload[second] = payload[second], payload[first]

    change_payload(output, f"{path}.{part}", swap)
    assert verify(output).ok  # all sums are true again
    faults = verify(output, against=source).faults
    assert [(fault.code, fault.tensor) for fault in faults] == [("quality", path)]


@pytest.mark.parametrize("part", ["scales", "biases", "weight"])
def test_any_bit_of_plain_rounding(directory: Path, source: Path, part: str) -> None:
    def flip(payload: bytearray) -> None:
        payload[100] ^= 1

    change_payload(directory, f"model.layers.0.mlp.up_proj.{part}", flip)
    faults = verify(directory, against=source).faults
    assert [fault.tensor for fault in faults] == ["model.layers.0.mlp.up_proj"]
    # Two bytes a scale: the fiftieth row. 32 bytes of codes a row: the third.
    assert f"row {3 if part == 'weight' else 50}, column 0" in faults[0].message


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_one_high_bit_of_one_code(source: Path, tmp_path: Path, method: str) -> None:
    output = tmp_path / "out"
    convert(source, output, profile="JANG_4L", method=method)

    def flip(payload: bytearray) -> None:
        payload[777] ^= 0x80

    change_payload(output, "model.layers.0.mlp.down_proj.weight", flip)
    assert verify(output).ok
    assert codes(output, against=source) == {"quality"}


def test_a_changed_norm(directory: Path, source: Path) -> None:
    def flip(payload: bytearray) -> None:
        payload[10] ^= 1

    change_payload(directory, "model.norm.weight", flip)
    faults = verify(directory, against=source).faults
    assert [(fault.code, fault.tensor) for fault in faults] == [("quality", "model.norm.weight")]
    assert "column 5" in faults[0].message


def test_infinite_scales(directory: Path) -> None:
    def spoil(payload: bytearray) -> None:
        payload[0:2] = b"\x80\x7f"

    change_payload(directory, "lm_head.scales", spoil)
    faults = verify(directory).faults
    assert [(fault.code, fault.tensor) for fault in faults] == [("non_finite", "lm_head.scales")]


def test_another_source(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    small = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
    tiny.write_checkpoint(
        tiny.Case("another", {**small, "num_hidden_layers": 1}, dtype="BF16"), other
    )
    assert codes(directory, against=other) == {"quality"}
    tiny.write_checkpoint(
        tiny.Case("another", {**small, "num_hidden_layers": 2}, dtype="BF16"), other
    )
    assert "missing_tensor" in codes(directory, against=other)


def test_a_quantized_source_is_no_source(pristine: Path) -> None:
    with pytest.raises(UnsupportedError):
        verify(pristine, against=pristine)
