"""GGUF files that somebody spoiled: one line that names file, tensor, expected and found."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from foreign_files import Type, gguf_tensors, write_gguf
from jang_tools.cli.main import cli
from jang_tools.errors import FormatError, JangError, UnsupportedError
from jang_tools.foreign.gguf_file import GgufFile
from jang_tools.foreign.gguf_model import materialize_gguf
from jang_tools.foreign.reference import Reference, read_reference
from tiny_checkpoints import BY_NAME, write_checkpoint


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    write_checkpoint(BY_NAME["llama-gqa"], folder)
    return folder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def small(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int = 2,
    keys: bytes = b"",
    key_count: int = 0,
    infos: bytes | None = None,
    data: bytes | None = None,
) -> bytes:
    """A file of two tensors, a F32 [2, 8] and b Q8_0 [3, 32], laid down by hand."""
    if infos is None:
        infos = info("a", (8, 2), 0, 0) + info("b", (32, 3), 8, 64)
    head = magic + struct.pack("<IQQ", version, tensors, key_count) + keys + infos
    head += bytes(-len(head) % 32)
    if data is None:
        data = np.arange(16, dtype="<f4").tobytes() + bytes(3 * 34)
        data += bytes(-len(data) % 32)
    return head + data


def info(name: str, lengths: tuple[int, ...], kind: int, offset: int) -> bytes:
    return (
        text(name)
        + struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)
        + struct.pack("<IQ", kind, offset)
    )


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


A = info("a", (8, 2), 0, 0)
B = info("b", (32, 3), 8, 64)
HUGE = 1 << 60
ALIGN = "general.alignment"

SPOILED: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "file_too_small", "expected at least 24 bytes, found 0"),
    "magic": (small(magic=b"GGML"), "header_syntax", "expected the magic b'GGUF', found b'GGML'"),
    "version 1": (small(version=1), "unsupported_format", "GGUF version 1; supported: 2, 3"),
    "version 4": (small(version=4), "unsupported_format", "GGUF version 4"),
    "big-endian": (small(version=3 << 24), "unsupported_format", "a big-endian GGUF file"),
    "tensors": (small(tensors=HUGE), "header_cap", f"tensors: .* found {HUGE}"),
    "keys": (small(key_count=HUGE), "header_cap", f"keys: .* found {HUGE}"),
    "more keys than there are": (small(key_count=5), "", "small.gguf: "),
    "more tensors than there are": (small(tensors=3), "", "small.gguf: "),
    "key without name": (
        small(key_count=1, keys=key("", 4, bytes(4))),
        "header_cap",
        "expected a name of 1 to 4096 bytes, found 0",
    ),
    "key beyond the file": (
        small(key_count=1, keys=struct.pack("<Q", 4000) + bytes(8)),
        "header_past_end",
        "expected 4000 more bytes of header",
    ),
    "key not UTF-8": (
        small(key_count=1, keys=struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)),
        "header_encoding",
        "its name is not UTF-8",
    ),
    "key twice": (
        small(key_count=2, keys=2 * key("k", 4, bytes(4))),
        "duplicate_name",
        "key 'k': occurs twice",
    ),
    "type of a key": (
        small(key_count=1, keys=key("k", 13, bytes(4))),
        "header_syntax",
        "key 'k': unknown type 13",
    ),
    "truth": (
        small(key_count=1, keys=key("k", 7, b"\2")),
        "header_syntax",
        "key 'k': expected 0 or 1, found 2",
    ),
    "string beyond the file": (
        small(key_count=1, keys=key("k", 8, struct.pack("<Q", HUGE))),
        "header_past_end",
        f"expected {HUGE} more bytes",
    ),
    "array beyond the file": (
        small(key_count=1, keys=key("k", 9, struct.pack("<IQ", 4, HUGE))),
        "header_cap",
        f"key 'k': values: expected at most .*, found {HUGE}",
    ),
    "strings beyond the file": (
        small(key_count=1, keys=key("k", 9, struct.pack("<IQ", 8, HUGE))),
        "header_cap",
        "key 'k': values",
    ),
    "array of arrays": (
        small(key_count=1, keys=key("k", 9, struct.pack("<IQ", 9, 1) * 50)),
        "header_syntax",
        "key 'k': arrays of arrays",
    ),
    "name that moves the cursor": (
        small(infos=info("a\x1b[2J\n", (8, 2), 77, 0) + B),
        "unknown_dtype",
        r"tensor 'a\\x1b\[2J\\n': unknown type 77",
    ),
    "long name": (small(infos=info("n" * 5000, (8, 2), 0, 0) + B), "header_cap", "found 5000"),
    "tensor twice": (
        small(infos=A + info("a", (32, 3), 8, 64)),
        "duplicate_name",
        "tensor 'a': occurs twice",
    ),
    "no dimensions": (small(infos=info("a", (), 0, 0) + B), "header_cap", "found 0"),
    "dimensions": (
        small(infos=info("a", (8, 2, 1, 1, 1), 0, 0) + B),
        "header_cap",
        "expected 1 to 4 dimensions, found 5",
    ),
    "empty tensor": (small(infos=info("a", (8, 0), 0, 0) + B), "shape_overflow", r"\[8, 0\]"),
    "overflow": (
        small(infos=info("a", (1 << 32, 1 << 32), 0, 0) + B),
        "shape_overflow",
        "no size in 64 bits",
    ),
    "type that holds no weights": (
        small(infos=info("a", (8, 2), 24, 0) + B),
        "unsupported_format",
        "type I8 is not read",
    ),
    "part of a block": (
        small(infos=A + info("b", (33, 3), 8, 64)),
        "tensor_shape",
        "tensor 'b': 33 columns are not a multiple of the 32 of a Q8_0 block",
    ),
    "overlap": (
        small(infos=A + info("b", (32, 3), 8, 32)),
        "payload_layout",
        "tensor 'b': expected its data at offset 64, found 32",
    ),
    "gap": (small(infos=A + info("b", (32, 3), 8, 96)), "payload_layout", "found 96"),
    "wrapping offset": (
        small(infos=info("a", (8, 2), 0, (1 << 64) - 32) + B),
        "payload_layout",
        f"found {(1 << 64) - 32}",
    ),
    "outside the file": (
        small(infos=A + info("b", (32, 1 << 40), 8, 64)),
        "payload_layout",
        "tensor 'b': expected .* bytes from byte 192 on, found 128: the file is cut off",
    ),
    "cut off": (
        small()[:-40],
        "payload_layout",
        "tensor 'b': expected 102 bytes from byte 192 on, found 88",
    ),
    "surplus": (small() + bytes(32), "payload_layout", "something follows the last tensor"),
    "alignment 0": (
        small(key_count=1, keys=key(ALIGN, 4, struct.pack("<I", 0))),
        "config_value",
        "general.alignment: expected a power of two from 8 to 2\\^20, found 0",
    ),
    "alignment 48": (
        small(key_count=1, keys=key(ALIGN, 4, struct.pack("<I", 48))),
        "config_value",
        "found 48",
    ),
    "alignment of text": (
        small(key_count=1, keys=key(ALIGN, 8, text("wide"))),
        "config_value",
        "found wide",
    ),
}


def test_the_small_file_is_right(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    for version in (2, 3):
        file.write_bytes(small(version=version))
        with GgufFile(file) as opened:
            assert opened.read(opened.tensors["a"]).tolist() == [
                list(range(8)),
                list(range(8, 16)),
            ]
            assert opened.read(opened.tensors["b"]).shape == (3, 32)


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_headers_are_one_line(name: str, tmp_path: Path) -> None:
    data, code, message = SPOILED[name]
    file = tmp_path / "small.gguf"
    file.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(JangError, match=message) as raised:
        GgufFile(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(raised.value).startswith("small.gguf: ") and "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
    assert code in ("", raised.value.code)
    assert peak < 4 << 20  # the read buffer, not what the file promises


def test_no_damage_is_a_traceback(tmp_path: Path) -> None:
    """Every prefix, and a thousand spoiled copies: it opens and reads, or it is refused."""
    keys = key("general.architecture", 8, text("llama")) + key(
        "list", 9, struct.pack("<IQ", 8, 2) + text("x") + text("y")
    )
    whole = small(key_count=2, keys=keys)
    random = np.random.default_rng(3)
    spoiled = [whole[:length] for length in range(len(whole))]
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(int(random.integers(1, 4))):
            data[int(random.integers(0, 260))] = int(random.integers(0, 256))
        spoiled.append(bytes(data))
    file = tmp_path / "small.gguf"
    refused = 0
    for data in spoiled:
        file.write_bytes(data)
        try:
            with GgufFile(file) as opened:
                for tensor in opened.tensors.values():
                    opened.read(tensor)
        except JangError:
            refused += 1
    assert len(whole) < refused < len(spoiled)


Tensors = dict[str, np.ndarray]


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def replaced(name: str, shape: tuple[int, ...]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.zeros(shape, np.float32)})


WRONG: dict[str, tuple[Callable[[Tensors], object] | None, Mapping[str, Any], str, str]] = {
    "missing": (
        without("blk.1.ffn_up.weight"),
        {},
        "missing_tensor",
        r"expected 39 tensors, found 38: 1 of model are missing",
    ),
    "missing head": (
        without("output.weight"),
        {},
        "missing_tensor",
        r"tensor 'output\.weight': expected a head, .* found no output\.weight",
    ),
    "extra": (
        replaced("blk.0.attn_sinks.weight", (8,)),
        {},
        "extra_tensor",
        r"tensor 'blk\.0\.attn_sinks\.weight': expected only tensors of a llama model",
    ),
    "layer too much": (
        replaced("blk.4.attn_norm.weight", (128,)),
        {},
        "extra_tensor",
        r"tensor 'blk\.4\.attn_norm\.weight': expected no such tensor",
    ),
    "experts of a dense model": (
        replaced("blk.0.ffn_up_exps.weight", (2, 8, 128)),
        {},
        "tensor_shape",
        "expected the experts of layer 0 of model, found 2",
    ),
    "flat experts": (
        replaced("blk.0.ffn_up_exps.weight", (8, 128)),
        {},
        "tensor_shape",
        r"expected a stack of experts, found shape \[8, 128\]",
    ),
    "shape": (
        replaced("blk.0.ffn_up.weight", (128, 224)),
        {},
        "tensor_shape",
        r"expected shape \[224, 128\], that of model\.layers\.0\.mlp\.up_proj\.weight in model,"
        r" found \[128, 224\]",
    ),
    "heads of odd rows": (
        replaced("blk.0.attn_q.weight", (126, 128)),
        {},
        "tensor_shape",
        "expected rows in 4 heads of an even size, found 126",
    ),
    "architecture": (
        None,
        {"general.architecture": "mamba"},
        "unsupported_format",
        "general.architecture: mamba is not read; read are llama, ",
    ),
    "another architecture": (
        None,
        {"general.architecture": "qwen3moe"},
        "unsupported_model",
        "expected that of model, a llama model, found qwen3moe",
    ),
    "an importance matrix": (
        None,
        {"general.type": "imatrix"},
        "unsupported_format",
        "general.type: expected model, found imatrix",
    ),
    "heads": (
        None,
        {"llama.attention.head_count": 8},
        "config_value",
        r"llama\.attention\.head_count: expected 4, that of model, found 8",
    ),
    "theta": (None, {"llama.rope.freq_base": 5e5}, "config_value", "expected 10000.0"),
    "heads by layer": (
        None,
        {"llama.attention.head_count_kv": [2, 2, 2, 2]},
        "config_value",
        r"found \[2, 2, 2, 2\]",
    ),
    "part without its name": (None, {"split.count": 3}, "shard_set", "for a part of 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_of_another_model_are_refused(name: str, source: Path, tmp_path: Path) -> None:
    change, keys, code, message = WRONG[name]
    tensors = gguf_tensors(source)
    if change is not None:
        change(tensors)
    file = write_gguf(tmp_path / "model.gguf", source, Type.F16, tensors=tensors, keys=keys)
    output = tmp_path / "plain"
    output.mkdir()
    with pytest.raises(JangError, match=message) as raised:
        materialize_gguf(file, read_reference(source), output)
    assert raised.value.code == code
    assert str(raised.value).startswith("model.gguf: ")
    assert list(output.iterdir()) == []


def test_without_the_package_the_extra_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", source, Type.F16)
    quantized = write_gguf(tmp_path / "quantized.gguf", source, Type.Q8_0)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    output = tmp_path / "out"
    output.mkdir()
    materialize_gguf(plain, read_reference(source), output)
    with pytest.raises(UnsupportedError, match="type Q8_0 need the package gguf") as raised:
        materialize_gguf(quantized, read_reference(source), output)
    assert raised.value.hint == "pip install 'jang-tools[compare]'"


def test_the_command_says_it_in_one_line(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.write_bytes(small())
    words = ["eval", "--reference", str(source), "--model", str(file)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert done.stderr == (
        "error: small.gguf: general.architecture: None is not read; read are llama, qwen2, qwen3,"
        " qwen3moe\n"
    )
    notes = tmp_path / "notes.txt"
    notes.write_text("no model")
    done = CliRunner().invoke(cli, [*words[:-1], str(notes)])
    assert done.exit_code == 1 and "a file, where a model directory is expected" in done.stderr


def test_names_of_strangers_are_escaped_and_cut() -> None:
    reference = Reference(Path("reference"), {}, {"a": (1,), "b\x1b[2J": (2,)})
    for found in ({"\n": (1,)}, {"n" * 4096: (1,)}, {"b\x1b[2J": (1,)}, {"a": (1,)}):
        with pytest.raises(FormatError) as caught:
            reference.check("file", found, {})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
