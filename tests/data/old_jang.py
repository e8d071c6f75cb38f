"""Directories as older writers left them, packed with numpy alone: JANG v1 in its three versions,
JANG v2 with one pair of numbers for tensors of several widths and without a manifest.

Codes are those of plain asymmetric rounding between the least and the largest weight of a group,
which is none of our own rules: whoever reads them has only the formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_checkpoints as tiny

Floats = npt.NDArray[np.float32]
Entry = tuple[str, str, tuple[int, ...], bytes]
Width = Callable[[str], int]


@dataclass(frozen=True)
class Packed:
    """A matrix or stack: codes [..., in], scales and biases [..., in / g] as float16 holds them."""

    bits: int
    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.float16]
    zero_points: bool

    @property
    def stream(self) -> bytes:
        """The codes as one little-endian bit stream."""
        places = np.arange(self.bits, dtype=np.uint8)
        return np.packbits((self.codes.reshape(-1, 1) >> places) & 1, bitorder="little").tobytes()

    @property
    def biases(self) -> npt.NDArray[np.float64]:
        """Exact, in either spelling."""
        offsets = self.offsets.astype(np.float64)
        return -self.scales.astype(np.float64) * offsets if self.zero_points else offsets

    @property
    def values(self) -> Floats:
        """s * q + b, each operation rounded to float32."""
        group = self.codes.shape[-1] // self.scales.shape[-1]
        codes = self.codes.reshape(*self.scales.shape, group).astype(np.float32)
        scales = self.scales.astype(np.float32)[..., None]
        biases = self.biases.astype(np.float32)[..., None]
        return (codes * scales + biases).reshape(self.codes.shape)


def pack(
    values: Floats, bits: int, group: int, *, zero_points: bool, whole: bool = False
) -> Packed:
    """``whole``: zero points are integers, as some writers have them."""
    blocks = values.reshape(*values.shape[:-1], -1, group).astype(np.float64)
    low, high = blocks.min(-1), blocks.max(-1)
    scales = np.maximum((high - low) / (2**bits - 1), 1e-4).astype(np.float16)
    steps = scales.astype(np.float64)
    if zero_points:
        offsets = -low / steps
        offsets = (np.rint(offsets) if whole else offsets).astype(np.float16)
        codes = np.rint(blocks / steps[..., None] + offsets.astype(np.float64)[..., None])
    else:
        offsets = low.astype(np.float16)
        codes = np.rint((blocks - offsets.astype(np.float64)[..., None]) / steps[..., None])
    codes = np.clip(codes, 0, 2**bits - 1).astype(np.uint8).reshape(values.shape)
    return Packed(bits, codes, scales, offsets, zero_points)


def quantized_names(tensors: Iterable[tuple[str, Floats]]) -> set[str]:
    """What old writers quantized: matrices and stacks, but for routers and convolutions."""
    left = ("norm.weight", ".gate.weight", "conv1d.weight", "conv.conv.weight")
    return {
        name
        for name, values in tensors
        if values.ndim >= 2
        and not name.endswith(left)
        and values.shape[-1] % 32 == 0
        and (name.endswith((".weight", ".experts.gate_up_proj", ".experts.down_proj")))
    }


def v1_parts(base: str, packed: Packed, version: str) -> list[Entry]:
    """The tensors of one module."""
    blocks = packed.scales.size
    parts: list[Entry] = [
        (f"{base}.qweight", "U8", (len(packed.stream),), packed.stream),
        (f"{base}.scales", "F16", (blocks,), packed.scales.tobytes()),
        (
            f"{base}.{'zeros' if packed.zero_points else 'biases'}",
            "F16",
            (blocks,),
            packed.offsets.tobytes(),
        ),
    ]
    if version == "1.0":
        step = packed.codes.size // blocks * packed.bits // 8
        widths = np.full(blocks, packed.bits, np.uint8)
        places = (np.arange(blocks) * step).astype("<u4")
        parts.append((f"{base}.bit_map", "U8", (blocks,), widths.tobytes()))
        parts.append((f"{base}.block_offsets", "U32", (blocks,), places.tobytes()))
        return parts
    shape = np.array(packed.codes.shape, "<i8")
    parts.append((f"{base}.bits", "U8", (1,), bytes([packed.bits])))
    parts.append((f"{base}.shape", "I64", shape.shape, shape.tobytes()))
    return parts


def write_v1(
    case: tiny.Case,
    folder: Path,
    version: str,
    *,
    group: int = 32,
    width: Width = lambda name: 4,
    whole_zeros: bool = False,
    shards: int = 2,
    prefix: str = "jang",
    bare: bool = True,
) -> dict[str, Floats]:
    """Writes the case as JANG v1; returns what every source tensor reads as. ``bare``: bases of
    modules are without ``.weight``."""
    folder.mkdir(parents=True)
    values = dict(tiny.tensors(case))
    quantized = quantized_names(values.items())
    entries: list[Entry] = []
    read = {}
    for name, tensor in values.items():
        if name in quantized:
            packed = pack(
                tensor, width(name), group, zero_points=version != "1.2", whole=whole_zeros
            )
            base = name.removesuffix(".weight") if bare else name
            entries += v1_parts(base, packed, version)
            read[name] = packed.values
        else:
            entries.append((name, "F16", tensor.shape, tiny.encode(tensor, "F16")))
            read[name] = tensor.astype(np.float16).astype(np.float32)
    config = tiny.config(case)
    config["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    document = {
        "format": prefix,
        "format_version": "1.1" if version == "1.2" else version,  # as its writers said
        "quantization": {"block_size": group, "profile": "JANG_4S", "quantization_method": "mse"},
        "source_model": {"name": "someone/model"},
    }
    file = {"jang": "jang_config.json", "jjqf": "jjqf_config.json", "mxq": "mxq_config.json"}
    (folder / file[prefix]).write_text(json.dumps(document))
    weight_map = {}
    for shard in range(shards):
        part = entries[shard::shards]
        name = f"model-{shard + 1:05d}-of-{shards:05d}.{prefix}.safetensors"
        tiny.write_safetensors(folder / name, part)
        weight_map |= {entry[0]: name for entry in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"model.{prefix}.index.json").write_text(json.dumps(index))
    return read


def v2_parts(path: str, packed: Packed) -> list[Entry]:
    """Weight, scales and biases of a module, whose offsets are biases."""
    shape = packed.codes.shape
    words = (*shape[:-1], shape[-1] * packed.bits // 32)
    return [
        (f"{path}.weight", "U32", words, packed.stream),
        (f"{path}.scales", "F16", packed.scales.shape, packed.scales.tobytes()),
        (f"{path}.biases", "F16", packed.offsets.shape, packed.offsets.tobytes()),
    ]


def write_old_v2(
    case: tiny.Case, folder: Path, *, group: int = 32, width: Width, jang: bool = True
) -> dict[str, Floats]:
    """Writes a case whose names stay as they are with one pair for all of it, the smallest width;
    returns what every tensor reads as. ``jang``: without, it has no JANG document."""
    folder.mkdir(parents=True)
    values = dict(tiny.tensors(case))
    quantized = quantized_names(values.items())
    entries: list[Entry] = []
    read = {}
    for name, tensor in values.items():
        if name in quantized:
            packed = pack(tensor, width(name), group, zero_points=False)
            entries += v2_parts(name.removesuffix(".weight"), packed)
            read[name] = packed.values
        else:
            entries.append((name, "F16", tensor.shape, tiny.encode(tensor, "F16")))
            read[name] = tensor.astype(np.float16).astype(np.float32)
    config: dict[str, Any] = tiny.config(case)
    config["dtype"] = "float16"
    config["quantization"] = {"group_size": group, "bits": min(map(width, quantized))}
    (folder / "config.json").write_text(json.dumps(config))
    if jang:
        document = {
            "format": "jang",
            "format_version": "2.0",
            "quantization": {"block_size": group, "bit_widths_used": [], "profile": "JANG_2M"},
        }
        (folder / "jang_config.json").write_text(json.dumps(document))
    tiny.write_safetensors(folder / "model-00001-of-00001.safetensors", entries)
    return read


def write_read_back(case: tiny.Case, read: dict[str, Floats], folder: Path) -> None:
    """The plain float32 directory of the same values."""
    folder.mkdir(parents=True)
    config = tiny.config(case)
    config["dtype"] = "float16"  # gemma rounds a factor to it
    (folder / "config.json").write_text(json.dumps(config))
    tiny.write_safetensors(
        folder / "model.safetensors",
        [(name, "F32", values.shape, values.tobytes()) for name, values in read.items()],
    )
