"""Reading weight files in tests, byte for byte and without the package's own reader."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    payload: bytes


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Every tensor of every model*.safetensors."""
    found = {}
    for file in sorted(directory.glob("model*.safetensors")):
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), data[begin:end])
    return found


def payload_offset(file: Path, tensor: str) -> int:
    """Where a tensor's bytes begin in its file."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return 8 + length + int(json.loads(data[8 : 8 + length])[tensor]["data_offsets"][0])
