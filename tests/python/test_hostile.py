"""The reader of weight files against the ``safetensors`` package, and its errors in Python.

What our reader accepts the package must accept with equal tensors, so what the package rejects
ours rejects. The other way round ours is stricter, in the places listed in ``STRICTER`` and
nowhere else.
"""

from __future__ import annotations

import gc
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jang_tools import _core
from jang_tools.errors import ArgumentError, FormatError, IoError, JangError, UnsupportedError
from weight_readers import SIZES, compare, read_ours, read_package


def weight_file(header: str | bytes, payload: bytes = b"") -> bytes:
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw)) + raw + payload


# --- Files made of plausible and implausible parts ------------------------------------------------

NESTED = ["[]", "{}", "[[1]]"]
UNSIGNED = ["0", "1", "2", "9223372036854775808", "18446744073709551615"]
NO_UNSIGNED = [
    "-1",
    "-0",
    "1.0",
    "1e0",
    "01",
    "1e999",
    "18446744073709551616",
    "null",
    '"1"',
    "true",
]
LONG = [f'"{"x" * length}"' for length in (4096, 4097)]
STRINGS = [
    '"t0"',
    '"\\u0074\\u0030"',
    '""',
    '"é"',
    '"a\\u0000"',
    '"\\ud800"',
    '"__metadata__"',
    *LONG,
]
# What may stand in place of each part of a sound header, sound or not.
ODD = {
    "space": [" ", "\n", "\t\r", "\0", "\ufeff", "\u00a0", "//", ",", "{}"],
    "name": [*STRINGS, "1", ""],
    "dtype": [f'"{d}"' for d in (*SIZES, "F8_E5M2", "F4", "C64", "F31", "f32", "")],
    "number": [*UNSIGNED, *NO_UNSIGNED, *NESTED, "", "1,1", ",".join("1" * 8), ",".join("1" * 9)],
    "extra": [
        f',"{f}":{v}' for f in ("x", "shape") for v in (*STRINGS, *NESTED, "1", "null", "nan")
    ],
    "metadata": [f'"__metadata__":{v},' for v in ("null", *NESTED)],
    "string": [f'"k":{v}' for v in (*STRINGS, *NESTED, "1", "null", '"v","k":"v"')],
}


@st.composite
def files(draw: Any) -> bytes:
    """A sound file in which up to two parts are replaced."""
    parts: list[tuple[str, str]] = [("space", ""), ("", "{"), ("metadata", "")]
    if draw(st.booleans()):
        parts += [("", '"__metadata__":{'), ("string", '"k":"v"'), ("", "},")]
    end = 0
    for i in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(list(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        begin, end = end, end + SIZES[dtype] * int(np.prod(shape))
        parts += [("", "," if i else ""), ("name", f'"t{i}"'), ("space", ""), ("", ':{"dtype":')]
        parts += [("dtype", f'"{dtype}"'), ("", ',"shape":[')]
        for axis, length in enumerate(shape):
            parts += [("", "," if axis else ""), ("number", str(length))]
        parts += [("", '],"data_offsets":['), ("number", str(begin)), ("", ",")]
        parts += [("number", str(end)), ("", "]"), ("extra", ""), ("", "}")]
    parts += [("space", ""), ("", "}"), ("space", "")]
    places = [i for i, (kind, _) in enumerate(parts) if kind]
    for place in draw(st.lists(st.sampled_from(places), max_size=2)):
        kind = parts[place][0]
        parts[place] = kind, draw(st.sampled_from(ODD[kind]))
    surplus = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]))
    header = "".join(text for _, text in parts)
    return weight_file(header, bytes(k % 251 for k in range(max(0, end + surplus))))


@given(files())
@example(weight_file("{}"))
@example(weight_file('{"a":{"dtype":"U8","shape":[0,9223372036854775808,2],"data_offsets":[0,0]}}'))
@example(weight_file('{"a":{"dtype":"U8","shape":[9223372036854775808,2,0],"data_offsets":[0,0]}}'))
@example(weight_file('{"a":["F32",[1],[0,4]]}', b"abcd"))
@settings(
    max_examples=1500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
def test_assembled_files_agree_with_the_package(data: bytes) -> None:
    compare(data)


@given(st.binary(max_size=64), st.integers(-2, 2))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_random_bytes_agree_with_the_package(tail: bytes, surplus: int) -> None:
    compare(struct.pack("<Q", max(0, len(tail) + surplus)) + tail)


def saved(tensors: dict[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(tensors, metadata={"format": "pt"})


def test_mutated_files_agree_with_the_package() -> None:
    good = saved(
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.uint8)}
    )
    assert read_ours(good) == read_package(good)
    rng = random.Random(1)
    header_end = 8 + struct.unpack("<Q", good[:8])[0]
    for _ in range(4000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(header_end)] = rng.choice(b'\x00\x01 "{}[],:0123456789-ae\xc3\xff')
        compare(bytes(data))


def test_every_truncation_and_a_surplus_byte_are_refused() -> None:
    good = saved({"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.uint8)})
    for size in range(len(good)):
        with pytest.raises(FormatError):
            read_ours(good[:size])
    with pytest.raises(FormatError) as info:
        read_ours(good + b"\0")
    assert info.value.code == "payload_layout"


# --- Directories ----------------------------------------------------------------------------------


def put(directory: Path, name: str, content: bytes | str) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
)
def test_arrays_equal_what_the_package_wrote(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "matrix": rng.integers(0, 2, (3, 5)).astype(dtype),
        "scalar": np.array(1, dtype=dtype),
        "empty": np.zeros((0, 4), dtype=dtype),
    }
    put(tmp_path, "model.safetensors", saved(arrays))
    checkpoint = _core.Checkpoint(str(tmp_path))
    for name, expected in arrays.items():
        found = checkpoint.array(name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [[0, 1 << 62], [1 << 61, 4, 0], [0, (1 << 64) - 1]])
def test_empty_shapes_that_no_array_has_are_refused(shape: list[int], tmp_path: Path) -> None:
    entry = {"dtype": "I32", "shape": shape, "data_offsets": [0, 0]}
    put(tmp_path, "model.safetensors", weight_file(json.dumps({"t": entry}), b""))
    checkpoint = _core.Checkpoint(str(tmp_path))
    assert checkpoint.tensors[0].shape == tuple(shape)
    with pytest.raises(FormatError, match="expected a shape that an array can have") as caught:
        checkpoint.array("t")
    assert caught.value.code == "shape_overflow" and caught.value.tensor == "t"


def test_misaligned_payloads_are_read_correctly(tmp_path: Path) -> None:
    for dtype, size in SIZES.items():
        for shift in range(8):
            header = json.dumps(
                {
                    "pad": {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]},
                    "t": {"dtype": dtype, "shape": [3], "data_offsets": [shift, shift + 3 * size]},
                }
            )
            payload = bytes(shift) + b"\x01" * (3 * size)
            put(tmp_path, "model.safetensors", weight_file(header, payload))
            array = _core.Checkpoint(str(tmp_path)).array("t")
            assert array.flags.aligned and not array.flags.writeable
            assert array.tobytes() == payload[shift:]


def test_views_are_read_only_and_keep_the_mapping_alive(tmp_path: Path) -> None:
    put(tmp_path, "model.safetensors", saved({"a": np.arange(1000, dtype=np.float64)}))
    checkpoint = _core.Checkpoint(str(tmp_path))
    array = checkpoint.array("a")
    del checkpoint
    gc.collect()
    assert array.sum() == 499500
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)


def test_bfloat16_comes_as_bits(tmp_path: Path) -> None:
    header = '{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    put(tmp_path, "model.safetensors", weight_file(header, struct.pack("<HH", 0x3F80, 0xC000)))
    checkpoint = _core.Checkpoint(str(tmp_path))
    assert checkpoint.dtype("a") == "BF16"
    assert checkpoint.array("a").tolist() == [0x3F80, 0xC000]


def test_what_a_checkpoint_tells(tmp_path: Path) -> None:
    put(tmp_path, "x.safetensors", saved({"b": np.zeros((2, 3), np.float32)}))
    put(tmp_path, "y.safetensors", saved({"a": np.zeros(4, np.uint8)}))
    put(
        tmp_path,
        "model.safetensors.index.json",
        '{"weight_map":{"a":"y.safetensors","b":"x.safetensors"}}',
    )
    checkpoint = _core.Checkpoint(str(tmp_path))
    assert checkpoint.files == ["x.safetensors", "y.safetensors"]
    assert checkpoint.file_bytes == sum(
        (tmp_path / name).stat().st_size for name in checkpoint.files
    )
    a, b = checkpoint.tensors
    assert (a.name, a.dtype, a.shape, a.file, a.bytes) == ("a", "U8", (4,), "y.safetensors", 4)
    assert (b.name, b.dtype, b.shape, b.file, b.bytes) == ("b", "F32", (2, 3), "x.safetensors", 24)
    assert repr(a) == "TensorInfo(name='a', dtype='U8', shape=(4,))"


def test_links_as_in_a_hub_cache(tmp_path: Path) -> None:
    put(tmp_path, "blobs/0123", saved({"a": np.arange(4, dtype=np.uint8)}))
    put(tmp_path, "blobs/4567", '{"weight_map":{"a":"model-00001-of-00001.safetensors"}}')
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    os.symlink("../../blobs/0123", snapshot / "model-00001-of-00001.safetensors")
    os.symlink("../../blobs/4567", snapshot / "model.safetensors.index.json")
    assert _core.Checkpoint(str(snapshot)).array("a").tolist() == [0, 1, 2, 3]


def test_headers_alone(tmp_path: Path) -> None:
    data = saved({"a": np.zeros(100, np.float32)})
    put(tmp_path, "model.safetensors", data[:-400])
    with pytest.raises(FormatError):
        _core.Checkpoint(str(tmp_path))
    checkpoint = _core.Checkpoint(str(tmp_path), headers_only=True)
    assert checkpoint.tensors[0].shape == (100,)
    assert checkpoint.file_bytes == len(data)
    with pytest.raises(ArgumentError):
        checkpoint.array("a")


# --- Errors ---------------------------------------------------------------------------------------

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
SHARD = weight_file('{"a":' + ENTRY + "}", b"abcd")
INDEX = "model.safetensors.index.json"

HOSTILE: list[tuple[str, type[JangError], str, dict[str, bytes | str], str]] = [
    ("file_too_small", FormatError, "model.safetensors", {"model.safetensors": b"1234567"}, ""),
    ("header_too_large", FormatError, "model.safetensors", {"model.safetensors": b"\xff" * 16}, ""),
    ("header_past_end", FormatError, "model.safetensors", {"model.safetensors": SHARD[:20]}, ""),
    (
        "header_encoding",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file(b'{"\xff":1}')},
        "",
    ),
    (
        "header_syntax",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file("[]")},
        "",
    ),
    (
        "duplicate_name",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file(f'{{"a":{ENTRY},"a":{ENTRY}}}', b"abcd")},
        "a",
    ),
    (
        "metadata_type",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file('{"__metadata__":{"k":1}}')},
        "",
    ),
    (
        "entry_field",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file('{"a":{}}')},
        "a",
    ),
    (
        "unknown_dtype",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file('{"a":' + ENTRY.replace("F32", "F33") + "}", b"abcd")},
        "a",
    ),
    (
        "unusable_dtype",
        UnsupportedError,
        "model.safetensors",
        {
            "model.safetensors": weight_file(
                '{"a":' + ENTRY.replace("F32", "F8_E5M2") + "}", b"abcd"
            )
        },
        "a",
    ),
    (
        "shape_overflow",
        FormatError,
        "model.safetensors",
        {
            "model.safetensors": weight_file(
                '{"a":' + ENTRY.replace("[1]", "[9223372036854775808,2]") + "}", b"abcd"
            )
        },
        "a",
    ),
    (
        "payload_size",
        FormatError,
        "model.safetensors",
        {"model.safetensors": weight_file('{"a":' + ENTRY.replace("[1]", "[2]") + "}", b"abcd")},
        "a",
    ),
    ("payload_layout", FormatError, "model.safetensors", {"model.safetensors": SHARD + b"x"}, ""),
    (
        "header_cap",
        FormatError,
        "model.safetensors",
        {
            "model.safetensors": weight_file(
                '{"a":' + ENTRY.replace("[1]", "[1,1,1,1,1,1,1,1,1]") + "}", b"abcd"
            )
        },
        "a",
    ),
    ("index_syntax", FormatError, INDEX, {INDEX: '{"weight_map":{}} x'}, ""),
    (
        "index_file_name",
        FormatError,
        INDEX,
        {INDEX: '{"weight_map":{"a":"../x.safetensors"}}'},
        "a",
    ),
    (
        "index_mismatch",
        FormatError,
        "x.safetensors",
        {INDEX: '{"weight_map":{"b":"x.safetensors"}}', "x.safetensors": SHARD},
        "a",
    ),
    ("shard_set", FormatError, INDEX, {INDEX: '{"weight_map":{"a":"x.safetensors"}}'}, ""),
    ("unsupported_format", UnsupportedError, "pytorch_model.bin", {"pytorch_model.bin": b""}, ""),
    ("io", IoError, "model.safetensors", {"model.safetensors/x": b""}, ""),
]


@pytest.mark.parametrize(
    ("code", "kind", "file", "contents", "tensor"), HOSTILE, ids=[row[0] for row in HOSTILE]
)
def test_each_fault_is_one_line_that_names_the_place(
    tmp_path: Path,
    code: str,
    kind: type[JangError],
    file: str,
    contents: dict[str, bytes | str],
    tensor: str,
) -> None:
    for name, content in contents.items():
        put(tmp_path, name, content)
    with pytest.raises(JangError) as info:
        _core.Checkpoint(str(tmp_path))
    error = info.value
    assert type(error) is kind
    assert error.code == code
    assert Path(error.file) == tmp_path / file
    assert error.tensor == tensor
    assert error.message and "\n" not in str(error)
    assert (
        str(error) == f"{error.file}: " + (f"tensor '{tensor}': " if tensor else "") + error.message
    )


def test_kinds_are_the_builtin_ones_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        _core.Checkpoint(str(tmp_path / "absent"))
    put(tmp_path, "model.safetensors", b"")
    with pytest.raises(ValueError, match="8 bytes"):
        _core.Checkpoint(str(tmp_path))


def test_pickle_files_come_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path, "pytorch_model.bin", b"")
    with pytest.raises(UnsupportedError) as info:
        _core.Checkpoint(str(tmp_path))
    assert "save_pretrained" in info.value.hint


def test_hostile_names_stay_one_line_of_text(tmp_path: Path) -> None:
    name = "a\\n\\u001b[31m\\u0085" + "é" * 1000
    put(tmp_path, "model.safetensors", weight_file(f'{{"{name}":{{}}}}'))
    with pytest.raises(FormatError) as info:
        _core.Checkpoint(str(tmp_path))
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 1000


def test_directory_names_that_are_no_utf8(tmp_path: Path) -> None:
    directory = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(directory)
    with pytest.raises(FormatError) as info:
        _core.Checkpoint(os.fsdecode(directory))
    assert info.value.code == "shard_set"
    assert "\\xff" in info.value.file
