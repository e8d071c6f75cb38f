"""Our reader of weight files against the ``safetensors`` package: what ours takes, that one takes
with equal tensors; what only the package takes breaks one of the rules that docs/safety.md lists.

The input is a header's text, framed and followed by the payload that it promises; a first byte of
zero says that the rest is the file itself.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

from harness import ROOT, document, run

sys.path.insert(0, str(ROOT / "tests" / "data"))

from weight_readers import compare

WORDS = """
    dtype shape data_offsets __metadata__ F32 F8_E4M3 U8 BOOL F4 C64 format pt
"""
LARGEST_PAYLOAD = 1 << 16


def promised(header: Any) -> int:
    """Where the last payload of a header ends, if that is small."""
    ends = [0]
    for entry in header.values() if isinstance(header, dict) else []:
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list):
            ends += [end for end in offsets if isinstance(end, int) and 0 <= end < LARGEST_PAYLOAD]
    return max(ends)


def one_input(data: bytes) -> None:
    if data[:1] == b"\0":
        compare(data[1:])
        return
    compare(struct.pack("<Q", len(data)) + data + payload(data))


def payload(header: bytes) -> bytes:
    return bytes(k % 251 for k in range(promised(document(header))))


if __name__ == "__main__":
    run(one_input, WORDS.split())
