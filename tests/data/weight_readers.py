"""Both readers of weight files on the same bytes: ours and the ``safetensors`` package's."""

from __future__ import annotations

import json
import struct

import safetensors

from jang_tools import _core
from jang_tools.errors import FormatError, UnsupportedError

# Rules of ours that the package does not have (docs/safety.md): duplicate names, dtypes of no use
# here, caps, NUL in names, and entries written as lists or holding nested unknown fields.
STRICTER = {"duplicate_name", "unusable_dtype", "header_cap", "header_encoding", "entry_field"}

# Bytes of the dtypes that a tensor can have.
SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}

Tensors = list[tuple[str, str, list[int], bytes]]


def read_ours(data: bytes) -> Tensors:
    tensors = _core.parse_header(data, len(data))
    return sorted(
        (t.name, t.dtype, list(t.shape), data[t.begin : t.begin + t.bytes]) for t in tensors
    )


def read_package(data: bytes) -> Tensors:
    tensors = safetensors.deserialize(data)
    return sorted((name, t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in tensors)


def _has_duplicates(data: bytes) -> bool:
    """Whether any object in a header that the package reads has a key twice."""
    found = False

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal found
        found = found or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    (length,) = struct.unpack("<Q", data[:8])
    json.loads(data[8 : 8 + length], object_pairs_hook=look)
    return found


def compare(data: bytes) -> Tensors | str:
    """Holds both readers against each other on one file; AssertionError where they disagree.

    Returns what is in the file, or our code for what is wrong with it.
    """
    try:
        ours = read_ours(data)
    except (FormatError, UnsupportedError) as error:
        try:
            read_package(data)
        except safetensors.SafetensorError:
            return error.code
        # Of a name that stands there twice the package sees the last entry alone, ours each.
        stricter = error.code in STRICTER or _has_duplicates(data)
        assert stricter, f"the package reads a file that ours refuses: {error}"
        return error.code
    try:
        package = read_package(data)
    except safetensors.SafetensorError as error:
        raise AssertionError(f"ours reads a file that the package refuses: {error}") from error
    assert ours == package
    return ours
