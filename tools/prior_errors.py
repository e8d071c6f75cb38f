#!/usr/bin/env python3
"""Measures the errors by width and group size behind `--bits`: cpp/plan/prior_errors.inl.

    python tools/prior_errors.py MODEL [MODEL ...] [--rows 512] [--write]

For Gaussian weights and for the matrices of each MODEL (directories of bfloat16 safetensors), mean
square over mean squared error after `mse`, with bfloat16 scales and biases. The table is the mean
in decibels of the Gaussian figure and of the mean of all matrices, and is printed beside both.
Needs jang_tools and numpy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jang_tools.quantize import dequantize, quantize

TABLE = Path(__file__).resolve().parents[1] / "cpp" / "plan" / "prior_errors.inl"
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
COLUMNS = 4096
SEED = 0


def matrices(model: Path, rows: int) -> Iterator[np.ndarray]:
    """At most ``rows`` rows of every matrix, evenly spread, as bfloat16 in uint16."""
    for path in sorted(model.glob("*.safetensors")):
        stored = np.memmap(path, dtype=np.uint8, mode="r")
        start = 8 + int(stored[:8].view(np.uint64)[0])
        header = json.loads(stored[8:start].tobytes())
        for name, entry in sorted(header.items()):
            shape = entry.get("shape", [])
            if entry.get("dtype") != "BF16" or len(shape) < 2 or shape[-1] % max(GROUPS) != 0:
                continue
            begin, end = (start + offset for offset in entry["data_offsets"])
            matrix = stored[begin:end].view(np.uint16).reshape(-1, shape[-1])
            step = max(1, len(matrix) // rows)
            print(f"{model.name}: {name}", flush=True)
            yield np.ascontiguousarray(matrix[::step][:rows])


def gaussian(rows: int) -> np.ndarray:
    """Standard deviation 0.02, rounded to bfloat16."""
    values = np.random.default_rng(SEED).standard_normal((rows, COLUMNS)) * 0.02
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decibels(stored: np.ndarray) -> np.ndarray:
    """10 log10 of signal over error, [width][group size]."""
    exact = (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    table = np.empty((len(BITS), len(GROUPS)))
    for i, bits in enumerate(BITS):
        for j, group in enumerate(GROUPS):
            found = dequantize(
                quantize(stored, bits=bits, group_size=group, method="mse", dtype="BF16"),
                bits=bits,
                group_size=group,
                dtype="BF16",
            )
            table[i, j] = 10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum())
    return table


def show(title: str, table: np.ndarray) -> None:
    print(f"\n{title}, dB:\nbits " + " ".join(f"{f'g{group}':>6}" for group in GROUPS))
    for bits, row in zip(BITS, table, strict=True):
        print(f"{bits:4} " + " ".join(f"{value:6.2f}" for value in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    arguments = parser.parse_args()
    normal = decibels(gaussian(arguments.rows))
    found = [
        decibels(matrix) for model in arguments.models for matrix in matrices(model, arguments.rows)
    ]
    table = (normal + np.mean(found, axis=0)) / 2
    show("Gaussian", normal)
    show(f"mean of {len(found)} matrices", np.mean(found, axis=0))

    show("table", table)
    if arguments.write:
        rows = [", ".join(f"{value:.2f}" for value in row) for row in table]
        lines = [f"{{{row}}},  // {bits} bits\n" for bits, row in zip(BITS, rows, strict=True)]
        TABLE.write_text(
            "// Signal over error in dB by group size (32, 64, 128), written by"
            " tools/prior_errors.py.\n// clang-format off\n" + "".join(lines),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
