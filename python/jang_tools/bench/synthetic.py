"""Writes a checkpoint of a shape with random weights: stock MLX quantized, or plain bf16.

Every byte follows from the seed and the arguments, so that two machines measure the same model.
Weights are slices of one random block, streamed to the file: memory stays small whatever the size,
and writing costs no more than the disk does. Their scale keeps a residual stream of unit variance,
so that logits are finite and ordinary.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from jang_tools.bench.shapes import GROUP_SIZES, WIDTHS, AnyShape
from jang_tools.errors import ArgumentError, IoError

SHARD_BYTES = 2 << 30
_SEED = 7
_CODE_BLOCK = 1 << 25  # bytes
_TABLE = 1 << 20  # values of a block of scales, biases or bf16 weights
_STEP = 4093  # a prime: tensors start at different places of a block

Progress = Callable[[int, int, str], None]
Words = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    content: str  # key of the block that its bytes come from
    start: int  # place in the block, in elements


class _Blocks:
    """Random material by content key, made once and then sliced."""

    def __init__(self) -> None:
        generator = np.random.PCG64(_SEED)  # a bit stream that no release of numpy changes
        raw = generator.random_raw(_CODE_BLOCK // 8).astype("<u8")
        self._made: dict[str, memoryview] = {"codes": memoryview(raw.tobytes())}
        # Sums of four 16-bit words: smooth, symmetric, of variance one after scaling.
        halves = raw[:_TABLE].view("<u2").reshape(_TABLE, 4).astype(np.float64)
        self._bell = (halves.sum(axis=1) / 65535.0 - 2.0) * np.sqrt(3.0)
        self._unit = halves[:, 0] / 65535.0
        self._sign = np.where(halves[:, 1] < 32768.0, -1.0, 1.0)

    def get(self, content: str) -> memoryview:
        if content not in self._made:
            kind, *numbers = content.split(":")
            self._made[content] = memoryview(
                getattr(self, f"_{kind}_block")(*map(int, numbers)).tobytes()
            )
        return self._made[content]

    def _norm_block(self) -> Words:
        return _bf16(1.0 + 0.1 * self._bell)

    def _dense_block(self, fan_in: int) -> Words:
        return _bf16(self._bell / np.sqrt(fan_in))

    def _scale_block(self, bits: int, fan_in: int) -> Words:
        return _bf16(self._scales(bits, fan_in))

    def _bias_block(self, bits: int, fan_in: int) -> Words:
        # Codes are uniform over 0..2^bits-1: this centres the weights of the group.
        stored = (_bf16(self._scales(bits, fan_in)).astype(np.uint32) << 16).view(np.float32)
        return _bf16(stored * -((1 << bits) - 1) / 2.0)

    def _scales(self, bits: int, fan_in: int) -> npt.NDArray[np.float64]:
        deviation = np.sqrt((4.0**bits - 1.0) / 12.0)  # of a uniform code
        size = (0.75 + 0.5 * self._unit) / (deviation * np.sqrt(fan_in))
        return np.asarray(size * self._sign)


def _bf16(values: npt.NDArray[np.floating]) -> Words:
    """Rounded to nearest even; the values are finite."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")


def check_widths(shape: AnyShape, bits: int | None, group_size: int) -> None:
    """ArgumentError if the format has no such width or group size."""
    if bits is not None and bits not in WIDTHS:
        raise ArgumentError(f"bits: expected one of {', '.join(map(str, WIDTHS))}, found {bits}")
    if group_size not in GROUP_SIZES:
        sizes = ", ".join(map(str, GROUP_SIZES))
        raise ArgumentError(f"group_size: expected one of {sizes}, found {group_size}")
    if shape.layers < 1:
        raise ArgumentError(f"layers: expected at least 1, found {shape.layers}")


def checkpoint_bytes(shape: AnyShape, bits: int | None, group_size: int = 64) -> int:
    """Bytes of all tensors; headers add some kilobytes."""
    check_widths(shape, bits, group_size)
    return sum(tensor.nbytes for tensor in _tensors(shape, bits, group_size))


def write_checkpoint(
    folder: Path,
    shape: AnyShape,
    bits: int | None,
    group_size: int = 64,
    *,
    progress: Progress | None = None,
) -> int:
    """Writes ``folder``, which must not exist; returns the bytes of its weight files.

    ``bits`` None: plain bf16; else a stock MLX directory with bf16 scales and biases and every
    matrix but routers at that width, with smaller groups where its columns need them. Raises
    IoError if the disk has no room for it, and what planning raises.
    """
    check_widths(shape, bits, group_size)
    tensors = list(_tensors(shape, bits, group_size))
    size = sum(tensor.nbytes for tensor in tensors)
    _check_space(folder, size)
    folder.mkdir(parents=True)
    config = shape.config()
    if bits is not None:
        entries: dict[str, Any] = {"bits": bits, "group_size": group_size, "mode": "affine"}
        for name, _, group in shape.tensors(bits, group_size):
            if group not in (None, group_size):
                entries[name.removesuffix(".weight")] = {"bits": bits, "group_size": group}
        config |= {"quantization": entries, "quantization_config": entries}
    _write_json(folder / "config.json", config)

    shards = list(_shards(tensors))
    blocks = _Blocks()
    weight_map: dict[str, str] = {}
    written = done = 0
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            _write_header(file, shard)
            for tensor in shard:
                _write_payload(file, tensor, blocks.get(tensor.content))
                done += tensor.nbytes
                if progress is not None:
                    progress(done, size, tensor.name)
            written += file.tell()
        weight_map.update({tensor.name: name for tensor in shard})
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)
    return written


def plain_values(shape: AnyShape) -> Iterator[tuple[str, Words]]:
    """Name and bf16 values, in its shape, of each tensor of the plain checkpoint."""
    blocks = _Blocks()
    for tensor in _tensors(shape, None, 64):
        block = np.frombuffer(blocks.get(tensor.content), dtype="<u2")
        yield tensor.name, np.resize(np.roll(block, -tensor.start), tensor.shape)


def _tensors(shape: AnyShape, bits: int | None, group_size: int) -> Iterator[_Tensor]:
    for number, (name, dims, group) in enumerate(shape.tensors(bits, group_size)):
        start = number * _STEP
        weights = math.prod(dims)
        if bits is None or group is None:
            yield _Tensor(name, "BF16", dims, 2 * weights, _plain_content(name, dims), start)
            continue
        *outer, columns = dims
        rows = math.prod(outer)
        words, groups = columns * bits // 32, columns // group
        yield _Tensor(name, "U32", (*outer, words), 4 * rows * words, "codes", start)
        path = name.removesuffix(".weight")
        for kind in ("scale", "bias"):  # the same start: a group's pair belongs together
            content = f"{kind}:{bits}:{columns}"
            name = f"{path}.{'scales' if kind == 'scale' else 'biases'}"
            yield _Tensor(name, "BF16", (*outer, groups), 2 * rows * groups, content, start)


def _plain_content(name: str, dims: tuple[int, ...]) -> str:
    """Vectors are near 1, as gains of norms; biases near 0; matrices keep the variance."""
    if name.endswith("bias"):
        return "dense:256"
    if len(dims) == 1:
        return "norm"
    taps = dims[-1] == 1 and len(dims) == 3  # of a convolution of each channel
    return f"dense:{dims[-2] if taps else dims[-1]}"


def _shards(tensors: list[_Tensor]) -> Iterator[list[_Tensor]]:
    shard: list[_Tensor] = []
    room = SHARD_BYTES
    for tensor in tensors:
        if shard and tensor.nbytes > room:
            yield shard
            shard, room = [], SHARD_BYTES
        shard.append(tensor)
        room -= tensor.nbytes
    yield shard


def _check_space(folder: Path, size: int) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise IoError(
            f"{place}: the model takes {size} bytes, {free} are free",
            hint="fewer layers or bits, or another folder (--keep DIR, or TMPDIR)",
        )


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_header(file: BinaryIO, shard: list[_Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in shard:
        end = begin + tensor.nbytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    file.write(struct.pack("<Q", len(text)) + text)


def _write_payload(file: BinaryIO, tensor: _Tensor, block: memoryview) -> None:
    width = 4 if tensor.dtype == "U32" else 2
    at = tensor.start * width % len(block)
    left = tensor.nbytes
    while left > 0:
        piece = block[at : at + min(left, len(block) - at)]
        file.write(piece)
        left -= len(piece)
        at = 0
