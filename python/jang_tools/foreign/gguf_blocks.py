"""The types that GGUF tensors have: their blocks, and their values as float32.

Sizes are those of the format and are all that reading a header takes. Values of F32, F16 and BF16
are made here; quantized blocks are dequantized by the ``gguf`` package of llama.cpp's authors, of
the extra ``compare``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools.errors import UnsupportedError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BlockType:
    """``weights`` consecutive values of a row take ``bytes`` bytes."""

    name: str
    weights: int
    bytes: int


TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
}
PLAIN = ("F32", "F16", "BF16")
# Types that exist but hold no weights of a model, or need more than their own blocks.
OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
# general.file_type: what llama.cpp calls the mix of types in a file.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0",
    38: "MXFP4_MOE",
}  # fmt: skip


def require_dequantizer(kinds: set[str]) -> None:
    """Raises UnsupportedError if a type of ``kinds`` cannot be dequantized here."""
    for kind in sorted(kinds - set(PLAIN)):
        _quantizer(kind)


def dequantize(blocks: npt.NDArray[np.uint8], kind: BlockType) -> Floats:
    """The values of whole blocks, in order: uint8 ``[n * kind.bytes]`` to ``[n * kind.weights]``.

    Exact: every value is the float32 that llama.cpp's own reference code gives.
    """
    if kind.name == "F32":
        return blocks.view("<f4").astype(np.float32, copy=False)
    if kind.name == "F16":
        return blocks.view("<f2").astype(np.float32)
    if kind.name == "BF16":
        return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)
    quants, number = _quantizer(kind.name)
    # One row of all blocks: the package works through rows in small groups, and the types know
    # nothing of rows. Scales may be infinite in a damaged file; the caller looks at the values.
    with np.errstate(all="ignore"):
        values: Floats = quants.dequantize(blocks.reshape(1, -1), number)
    return values.reshape(-1)


def _quantizer(kind: str) -> tuple[Any, Any]:
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError as error:
        raise UnsupportedError(
            f"GGUF blocks of type {kind} need the package gguf, which is not installed",
            code="unsupported_format",
            hint="pip install 'jang-tools[compare]'",
        ) from error
    number = getattr(GGMLQuantizationType, kind, None)
    if number is None or number not in quants._type_traits:
        raise UnsupportedError(
            f"GGUF blocks of type {kind} are unknown to the installed package gguf",
            code="unsupported_format",
            hint="pip install --upgrade gguf",
        )
    return quants, number
