"""Speed of the quantizers on one thread at every kernel level: the table of docs/quantization.md.

    python bench/python/quantize_speed.py [--bits 2 4] [--group-size 64] [--rounds 5]

Each level runs in a process of its own with JANG_ISA set. Times are processor time of the whole
path from bfloat16 rows to packed codes, medians over the rounds, in millions of weights per second;
the hash is of codes, scales and biases and must be the same at every level.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time

LEVELS = ("reference", "baseline", "avx2", "avx512", "neon")
COLUMNS = 4096


def measure(bits: int, group_size: int, method: str, rounds: int) -> tuple[float, str]:
    """Millions of weights a second and the hash of the output, at this process's level."""
    import numpy as np

    from jang_tools.quantize import quantize

    rows = 512 if method == "mse" else 4096
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((rows, COLUMNS)) * 0.02).astype(np.float32)
    source = (values.view(np.uint32) >> 16).astype(np.uint16)
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        result = quantize(
            source, bits=bits, group_size=group_size, method=method, dtype="BF16", threads=1
        )
        times.append(time.process_time() - begin)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in result)).hexdigest()[:12]
    return source.size / statistics.median(times) / 1e6, digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        rows = [
            (bits, method, *measure(bits, arguments.group_size, method, arguments.rounds))
            for bits in arguments.bits
            for method in ("rtn", "mse")
        ]
        print(json.dumps(rows))
        return
    print("| level | bits | method | Mweights/s, 1 thread | output |")
    print("|---|---|---|---|---|")
    for level in LEVELS:
        command = [sys.executable, __file__, "--worker", *sys.argv[1:]]
        environment = {**os.environ, "JANG_ISA": level}
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode != 0:
            if "ArgumentError" not in process.stderr:  # a level that this machine has not
                sys.exit(process.stderr)
            continue
        for bits, method, speed, digest in json.loads(process.stdout):
            print(f"| {level} | {bits} | {method} | {speed:.1f} | `{digest}` |", flush=True)


if __name__ == "__main__":
    main()
