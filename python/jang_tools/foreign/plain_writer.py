"""Writes a plain Hugging Face directory of float32 tensors, one piece of one in memory at a time.

Sizes are known beforehand, so headers come first and the disk is asked for room before any work.
"""

from __future__ import annotations

import errno
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools.errors import IoError
from jang_tools.partial_output import COPIED

Floats = npt.NDArray[np.float32]
Advance = Callable[[int, int], None]  # bytes written, bytes in all

_SHARD_BYTES = 4_000_000_000
_HEADER_SHARE = 1 << 20  # for headers, configuration and tokenizer, on top of the weights


@dataclass(frozen=True)
class PlainTensor:
    """``pieces()`` gives the values in order, as float32 arrays of any shape."""

    name: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Floats]]

    @property
    def bytes(self) -> int:
        return 4 * prod(self.shape)


def check_room(directory: Path, needed: int) -> None:
    """Raises IoError, naming both numbers, if the disk of ``directory`` has less than needed."""
    free = shutil.disk_usage(directory).free
    if free < needed + _HEADER_SHARE:
        raise IoError(
            f"{directory}: needs {needed / 1e9:.2f} GB for the weights as float32, has"
            f" {free / 1e9:.2f} GB free",
            code="no_space",
            hint="set TMPDIR to a place with more room",
        )


def write_plain(
    output: Path,
    tensors: Sequence[PlainTensor],
    config: Mapping[str, Any],
    tokenizer: Path,
    advance: Advance | None = None,
) -> None:
    """Writes ``tensors`` and ``config`` into ``output``, an existing empty directory.

    Tokenizer and generation files are copied from the directory ``tokenizer``. Raises IoError, and
    whatever a tensor's pieces raise.
    """
    total = sum(tensor.bytes for tensor in tensors)
    check_room(output, total)
    shards = _shards(tensors)
    weight_map: dict[str, str] = {}
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        if advance is not None:
            advance(done, total)

    try:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            _write_shard(output / name, shard, written)
            weight_map.update({tensor.name: name for tensor in shard})
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(output / "model.safetensors.index.json", index)
        _write_json(output / "config.json", config)
        for name in COPIED:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, output / name)
    except IoError:
        raise
    except OSError as error:
        code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "io"
        raise IoError(f"{output}: {error.strerror or error}", code=code) from error


def _shards(tensors: Sequence[PlainTensor]) -> list[list[PlainTensor]]:
    shards: list[list[PlainTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards


def _write_shard(
    path: Path, tensors: Sequence[PlainTensor], written: Callable[[int], None]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.bytes
        header[tensor.name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            count = 0
            for piece in tensor.pieces():
                data = np.ascontiguousarray(piece, dtype="<f4")
                file.write(data.data)
                count += data.nbytes
                written(data.nbytes)
            assert count == tensor.bytes, f"{tensor.name}: {count} bytes, not {tensor.bytes}"


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
