"""Checkpoints whose matrices are 8-bit floats (E4M3) with a scale a block, and what they stand for.

Everything is numpy: the 256 values from the definition of the format, codes by the nearest of them,
products in float32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_checkpoints as tiny
from weight_files import Tensor, read_weights

Floats = npt.NDArray[np.float32]
Block = tuple[int, int]
SUFFIX = "_scale_inv"
LARGEST = 448.0
# What such files leave as it is, beside vectors: all writers, and some of them.
PLAIN = ("embed_tokens", "lm_head", "mlp.gate.weight", "conv1d")


# Cases of tiny_checkpoints whose logits transformers computes from such files, in parity/. It takes
# the size of a block from the shapes: these divide all matrices. Plain tensors are float32.
PARITY: dict[str, tuple[str, Block]] = {
    "fp8-qwen3": ("qwen3", (32, 16)),
    "fp8-qwen3-moe": ("qwen3-moe", (32, 32)),
    "fp8-deepseek-v3": ("deepseek-v3", (16, 32)),
}


def e4m3(code: int) -> float:
    """A sign, four bits of exponent with bias 7, three of mantissa; all ones is no number."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = code >> 3 & 0xF, code & 7
    if exponent == 0xF and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


TABLE = np.array([e4m3(code) for code in range(256)], dtype=np.float32)
_ORDERED = TABLE[:127].astype(np.float64)  # 0 to 448, ascending as the codes are


def nearest_codes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The code of the nearest number; of two equally near ones that of the larger magnitude."""
    magnitude = np.minimum(np.abs(values), LARGEST)
    codes = np.searchsorted((_ORDERED[1:] + _ORDERED[:-1]) / 2, magnitude, side="right")
    return (codes + 128 * np.signbit(values)).astype(np.uint8)


def spread(scales: Floats, shape: tuple[int, ...], block: Block) -> Floats:
    """Each block's scale at each of its weights."""
    rows = np.repeat(scales, block[0], axis=-2)[..., : shape[-2], :]
    return np.repeat(rows, block[1], axis=-1)[..., : shape[-1]]


def quantize(values: Floats, block: Block) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Codes, and one scale a block that takes its largest weight to 448."""
    *stack, rows, columns = values.shape
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    padded = np.zeros((*stack, grid[0] * block[0], grid[1] * block[1]))
    padded[..., :rows, :columns] = np.abs(values)
    largest = padded.reshape(*stack, grid[0], block[0], grid[1], block[1]).max(axis=(-3, -1))
    scales = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return nearest_codes(values / spread(scales, values.shape, block).astype(np.float64)), scales


def product(codes: npt.NDArray[np.uint8], scales: Floats, block: Block) -> Floats:
    return TABLE[codes] * spread(scales, codes.shape, block)


def as_floats(tensor: Tensor) -> Floats:
    if tensor.dtype == "BF16":
        words = np.frombuffer(tensor.payload, np.uint16).astype(np.uint32) << 16
        return words.view(np.float32).reshape(tensor.shape)
    dtype = {"F32": np.float32, "F16": np.float16}[tensor.dtype]
    return np.frombuffer(tensor.payload, dtype).astype(np.float32).reshape(tensor.shape)


def settings(block: Block, **more: Any) -> dict[str, Any]:
    """quantization_config as the writers of such files have it."""
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": list(block),
        **more,
    }


def is_matrix(name: str, values: Floats) -> bool:
    return values.ndim >= 2 and not any(part in name for part in PLAIN)


def write_directory(
    source: Path, target: Path, tensors: Mapping[str, Tensor], config: dict[str, Any]
) -> None:
    """Tensors and configuration in one file each, beside what else the source has."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if not file.name.startswith("model") and file.name != "config.json":
            shutil.copy(file, target / file.name)
    (target / "config.json").write_text(json.dumps(config))
    tiny.write_safetensors(
        target / "model.safetensors", [(name, *tensor) for name, tensor in tensors.items()]
    )


def write_fp8(
    source: Path,
    target: Path,
    block: Block,
    scale_dtype: str = "F32",
    chosen: Callable[[str, Floats], bool] = is_matrix,
) -> list[str]:
    """Copies a plain checkpoint, the chosen matrices as codes and scales; returns their names."""
    tensors: dict[str, Tensor] = {}
    names = []
    for name, tensor in read_weights(source).items():
        values = as_floats(tensor)
        if not chosen(name, values):
            tensors[name] = tensor
            continue
        codes, scales = quantize(values, block)
        tensors[name] = Tensor("F8_E4M3", codes.shape, codes.tobytes())
        payload = tiny.encode(scales, scale_dtype)
        tensors[name + SUFFIX] = Tensor(scale_dtype, scales.shape, payload)
        names.append(name)
    config = json.loads((source / "config.json").read_text())
    plain = sorted({name.removesuffix(".weight") for name in PLAIN})
    config["quantization_config"] = settings(block, modules_to_not_convert=plain)
    write_directory(source, target, tensors, config)
    return names


def widened_tensor(stored: Mapping[str, Tensor], name: str, block: Block) -> Tensor:
    """The float32 values of a tensor of codes."""
    tensor = stored[name]
    codes = np.frombuffer(tensor.payload, np.uint8).reshape(tensor.shape)
    values = product(codes, as_floats(stored[name + SUFFIX]), block)
    return Tensor("F32", tensor.shape, values.tobytes())


def widened(fp8: Path) -> dict[str, Tensor]:
    """Every tensor of such a directory, codes and scales as float32 values."""
    stored = read_weights(fp8)
    block = tuple(
        json.loads((fp8 / "config.json").read_text())["quantization_config"]["weight_block_size"]
    )
    return {
        name: widened_tensor(stored, name, block) if tensor.dtype == "F8_E4M3" else tensor
        for name, tensor in stored.items()
        if not name.endswith(SUFFIX)
    }


def write_twin(fp8: Path, target: Path) -> None:
    """The same model without codes: the products in float32, all else as it is."""
    config = json.loads((fp8 / "config.json").read_text())
    del config["quantization_config"]
    write_directory(fp8, target, widened(fp8), config)


def write_parity(name: str, target: Path) -> str:
    """The checkpoint of PARITY by that name; returns the SHA-256 of all its payloads."""
    case, block = PARITY[name]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        tiny.write_checkpoint(replace(tiny.BY_NAME[case], dtype="F32"), source)
        write_fp8(source, target, block)
    digest = hashlib.sha256()
    for tensor in read_weights(target).values():
        digest.update(tensor.payload)
    return digest.hexdigest()
