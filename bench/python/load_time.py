"""Measures how long opening a model takes with a warm page cache: validate and map, no copy.

    python bench/python/load_time.py [--gb 1] [--folder DIR] [--repeats 21]

Prints median and extremes over fresh loads in one process, and the first load of a new process.
Interpreter, imports and tokenizer are not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from generated_llama import touch, write_quantized

_LOAD = """
import sys
from jang_tools import _core
for _ in range(int(sys.argv[2])):
    print(_core.Model(sys.argv[1]).load_seconds)
"""


def load_seconds(folder: Path, repeats: int) -> list[float]:
    """Seconds of each of `repeats` loads in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder), str(repeats)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of the weight files")
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    parser.add_argument("--repeats", type=int, default=21)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="jang-bench-") as folder:
        model = Path(folder) / "model"
        size = write_quantized(model, int(arguments.gb * 1e9))
        touch(model)
        first = [load_seconds(model, 1)[0] for _ in range(5)]
        again = load_seconds(model, arguments.repeats)
    print(f"weights: {size / 1e9:.2f} GB")
    for name, times in (("first in a process", first), ("repeated", again)):
        middle = statistics.median(times)
        print(
            f"{name}: median {1e3 * middle:.1f} ms,"
            f" {1e3 * min(times):.1f} to {1e3 * max(times):.1f} ms over {len(times)}"
        )
    print("command: " + " ".join([Path(sys.executable).name, *sys.argv]))


if __name__ == "__main__":
    main()
