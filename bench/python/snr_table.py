"""Signal-to-noise ratio of the quantizers on Gaussian weights: the table of docs/quantization.md.

    python bench/python/snr_table.py [--weights 4194304] [--seed 0] [--dtype BF16]

Prints Markdown: 10 log10(sum w^2 / sum (w_hat - w)^2) in dB for plain rounding and for the search,
with scales and biases in the type of the source. Needs only jang_tools and numpy.
"""

from __future__ import annotations

import argparse

import numpy as np

from jang_tools.quantize import Method, dequantize, quantize

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (128, 64, 32)
COLUMNS = 4096


def gaussian(count: int, seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of weights, standard deviation 0.02, as stored in ``dtype`` and as exact float64."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((count // COLUMNS, COLUMNS)) * 0.02).astype(np.float32)
    if dtype == "F32":
        return values, values.astype(np.float64)
    if dtype == "F16":
        half = values.astype(np.float16)
        return half, half.astype(np.float64)
    # To bfloat16, ties to even: the upper half of the float after rounding.
    bits = values.view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return upper, (upper.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def snr(
    stored: np.ndarray, exact: np.ndarray, bits: int, group: int, method: Method, dtype: str
) -> float:
    """In dB."""
    quantized = quantize(stored, bits=bits, group_size=group, method=method, dtype=dtype)
    found = dequantize(quantized, bits=bits, group_size=group, dtype=dtype)
    return float(10 * np.log10((exact**2).sum() / ((found - exact) ** 2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=1 << 22)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("F32", "F16", "BF16"), default="BF16")
    arguments = parser.parse_args()
    stored, exact = gaussian(arguments.weights, arguments.seed, arguments.dtype)
    print("| bits | " + " | ".join(f"g{group} rtn | g{group} mse" for group in GROUPS) + " |")
    print("|---" * (1 + 2 * len(GROUPS)) + "|")
    for bits in BITS:
        cells = [
            f"{snr(stored, exact, bits, group, method, arguments.dtype):.2f}"
            for group in GROUPS
            for method in ("rtn", "mse")
        ]
        print(f"| {bits} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
