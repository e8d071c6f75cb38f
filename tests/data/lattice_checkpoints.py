"""Checkpoints whose matrices were quantized once and expanded again: groups of 32, b = -8 d."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weight_files import read_weights

Floats = npt.NDArray[np.float32]
GROUP = 32


def round_bf16(values: Floats) -> Floats:
    """To the nearest bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def symmetric_4_bit(weights: Floats, round_scale: Callable[[Floats], Floats]) -> Floats:
    """d * (q - 8), q of 0..15, with d from the element of largest magnitude in each group."""
    groups = weights.reshape(-1, GROUP)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, None], axis=1)
    d = round_scale((largest / -8).astype(np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(d == 0, 8, np.clip(np.rint(groups / d) + 8, 0, 15))
    return (d * (q - 8)).astype(np.float32).reshape(weights.shape)


def write_on_lattices(
    source: Path,
    target: Path,
    dtype: str,
    round_scale: Callable[[Floats], Floats],
    chosen: Callable[[str], bool] = lambda name: True,
) -> list[str]:
    """Copies a bfloat16 checkpoint as `dtype` ("BF16" or "F16") with the chosen matrices quantized.

    Returns the paths of those.
    """
    target.mkdir()
    for file in source.iterdir():
        if not file.name.endswith(".safetensors"):
            shutil.copy(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    config["dtype"] = {"BF16": "bfloat16", "F16": "float16"}[dtype]
    (target / "config.json").write_text(json.dumps(config))
    header: dict[str, object] = {}
    payloads, offset, quantized = [], 0, []
    for name, tensor in sorted(read_weights(source).items()):
        words = np.frombuffer(tensor.payload, np.uint16).astype(np.uint32) << 16
        values = words.view(np.float32).reshape(tensor.shape)
        if values.ndim == 2 and chosen(name):
            values = symmetric_4_bit(values, round_scale)
            quantized.append(name.removesuffix(".weight"))
        if dtype == "BF16":
            stored = (round_bf16(values).view(np.uint32) >> 16).astype(np.uint16)
        else:
            stored = values.astype(np.float16).view(np.uint16)
        payload = stored.tobytes()
        end = offset + len(payload)
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        payloads.append(payload)
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (target / "model.safetensors").open("wb") as writer:
        writer.write(struct.pack("<Q", len(text)) + text + b"".join(payloads))
    return quantized
