"""Quantization of arrays in the MLX-affine format: ``w = scale * code + bias`` per group.

What ``convert`` does to each tensor of a checkpoint, for arrays in memory. bfloat16, which numpy
lacks, is carried as uint16 with ``dtype="BF16"``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jang_tools import _core

__all__ = ["Quantized", "dequantize", "pack", "quantize", "unpack"]

Method = Literal["rtn", "mse"]


class Quantized(NamedTuple):
    """One quantized matrix or stack of matrices.

    codes: uint32 ``[..., in * bits / 32]``; each row a little-endian bit stream.
    scales, biases: ``[..., in / group_size]`` in the type of the source (uint16 for bfloat16).
    """

    codes: NDArray[np.uint32]
    scales: NDArray[Any]
    biases: NDArray[Any]


def quantize(
    weights: NDArray[Any],
    *,
    bits: int,
    group_size: int = 64,
    method: Method = "rtn",
    dtype: str | None = None,
    importance: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> Quantized:
    """Quantizes the rows of ``weights`` ``[..., in]``.

    weights: float32, float16, or uint16 with ``dtype="BF16"``; every value finite.
    bits: 2, 3, 4, 5, 6 or 8. group_size: 32, 64 or 128, a divisor of ``in``.
    method: "rtn" is MLX's CPU rule, equal byte for byte to ``mx.quantize``; "mse" searches scale
        and bias of each group for the least squared error.
    importance: positive float32 ``[in]``, weights of the squared errors by column ("mse" only).
    threads: 0 for all usable ones; the result does not depend on it.

    Raises FormatError, naming row and column, for a NaN or infinity or for a scale or bias that
    the type cannot hold; ArgumentError for other arguments.
    """
    return Quantized(
        *_core.quantize(
            weights,
            bits=bits,
            group_size=group_size,
            method=method,
            dtype=dtype,
            importance=importance,
            threads=threads,
        )
    )


def dequantize(
    quantized: Quantized,
    *,
    bits: int,
    group_size: int = 64,
    dtype: str | None = None,
    threads: int = 0,
) -> NDArray[np.float32]:
    """``scale * code + bias`` in float32 ``[..., in]``, product and sum rounded apart.

    dtype: "BF16" if scales and biases are uint16.
    """
    out: NDArray[np.float32] = _core.dequantize(
        quantized.codes,
        quantized.scales,
        quantized.biases,
        bits=bits,
        group_size=group_size,
        dtype=dtype,
        threads=threads,
    )
    return out


def pack(codes: NDArray[np.uint8], *, bits: int) -> NDArray[np.uint32]:
    """Codes ``[..., n]``, one a byte, to words ``[..., n * bits / 32]``; n a multiple of 32."""
    words: NDArray[np.uint32] = _core.pack(codes, bits=bits)
    return words


def unpack(words: NDArray[np.uint32], *, bits: int) -> NDArray[np.uint8]:
    """Words ``[..., n * bits / 32]`` to codes ``[..., n]``, one a byte."""
    codes: NDArray[np.uint8] = _core.unpack(words, bits=bits)
    return codes
