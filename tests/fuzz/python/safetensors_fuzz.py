"""Our reader of weight files against the ``safetensors`` package: what ours takes, that one takes
with equal tensors; what only the package takes breaks one of the rules that docs/safety.md lists.

The input is a header's text, framed and followed by the payload that it promises; a first byte of
zero says that the rest is the file itself.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

import atheris

from harness import ROOT, document, run

sys.path.insert(0, str(ROOT / "tests" / "data"))

from weight_readers import SIZES, compare

WORDS = """
    dtype shape data_offsets __metadata__ F32 F8_E4M3 U8 BOOL F4 C64 format pt
"""
CODES = """
    file_too_small header_too_large header_past_end header_encoding header_syntax duplicate_name
    metadata_type entry_field unknown_dtype unusable_dtype shape_overflow payload_size
    payload_layout header_cap
"""
LARGEST_PAYLOAD = 1 << 16


def edges() -> Callable[[str], None]:
    """Neither reader is instrumented: a branch for each outcome tells the fuzzer what is new."""
    outcomes = [*CODES.split(), *SIZES, *(f"rank {n}" for n in range(9))]
    outcomes += [f"{n} tensors" for n in range(4)]
    lines = [f"    if outcome == {outcome!r}: return" for outcome in outcomes]
    names: dict[str, Any] = {}
    exec("\n".join(["def tell(outcome):", *lines]), names)
    told: Callable[[str], None] = atheris.instrument_func(names["tell"])
    return told


tell = edges()


def promised(header: Any) -> int:
    """Where the last payload of a header ends, if that is small."""
    ends = [0]
    for entry in header.values() if isinstance(header, dict) else []:
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list):
            ends += [end for end in offsets if isinstance(end, int) and 0 <= end < LARGEST_PAYLOAD]
    return max(ends)


def whole_file(data: bytes) -> bytes:
    if data[:1] == b"\0":
        return data[1:]
    payload = bytes(k % 251 for k in range(promised(document(data))))
    return struct.pack("<Q", len(data)) + data + payload


def one_input(data: bytes) -> None:
    found = compare(whole_file(data))
    if isinstance(found, str):
        tell(found)
        return
    tell(f"{len(found)} tensors")
    for _, dtype, shape, _ in found:
        tell(dtype)
        tell(f"rank {len(shape)}")


if __name__ == "__main__":
    run(one_input, WORDS.split())
