"""Llama directories of a chosen size, for benchmarks of conversion and loading.

Shapes and files come from the package; here a number of bytes becomes a number of layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from jang_tools.bench.shapes import Shape
from jang_tools.bench.synthetic import checkpoint_bytes, write_checkpoint

_BITS, _GROUP = 4, 64


def shape_for(size: int, bits: int | None, *, hidden: int = 2048, inner: int = 8192) -> Shape:
    """As many layers as `size` bytes take, at least one."""
    shape = Shape(
        "generated", hidden, inner, 1, hidden // 128, hidden // 256, 128, 32_000, max_positions=4096
    )
    one = checkpoint_bytes(shape, bits, _GROUP)
    layer = checkpoint_bytes(shape.with_layers(2), bits, _GROUP) - one
    return shape.with_layers(max(1, 1 + round((size - one) / layer)))


def write_plain(folder: Path, size: int) -> int:
    """A bf16 checkpoint of about `size` bytes; returns the bytes of its weight files."""
    return write_checkpoint(folder, shape_for(size, None), None)


def write_quantized(folder: Path, size: int) -> int:
    """A stock 4-bit directory (group 64, bf16 scales) of about `size` bytes; random codes."""
    return write_checkpoint(folder, shape_for(size, _BITS), _BITS, _GROUP)


def touch(folder: Path) -> int:
    """Reads every weight file once, so that the page cache holds it if it can; returns bytes."""
    buffer: npt.NDArray[np.uint8] = np.empty(1 << 22, dtype=np.uint8)
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(memoryview(buffer)):
                total += count
    return total
