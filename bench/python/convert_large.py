"""Converts a large generated checkpoint and measures memory and speed.

    python bench/python/convert_large.py [--gb 4] [--folder DIR] [--methods rtn,mse] [--threads 1,2]
                                         [--sparse]

Prints, for each method and number of threads: seconds, source bytes per second, the share of a
plain copy of the same files (with fsync), peak resident and anonymous memory. The source is read
once before, so that its pages are in the page cache as far as they fit. With --sparse its weights
are holes, which take no disk space: memory counts then, not speed.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generated_llama import touch, write_plain

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "data"))
import sparse_checkpoints

_CONVERT = """
import sys
from jang_tools import convert
source, output, method, threads = sys.argv[1:]
result = convert(source, output, profile="JANG_4L", method=method, threads=int(threads))
print(result.bytes)
"""


@dataclass(frozen=True)
class Run:
    seconds: float
    output_bytes: int
    peak_resident: int
    peak_anonymous: int


def measure(source: Path, output: Path, method: str, threads: int) -> Run:
    """Converts in a process of its own, whose memory is looked at a hundred times a second."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _CONVERT, str(source), str(output), method, str(threads)],
        stdout=subprocess.PIPE,
        text=True,
    )
    resident = anonymous = 0
    while process.poll() is None:
        status = _status(process.pid)
        resident = max(resident, status.get("VmHWM", 0))
        anonymous = max(anonymous, status.get("RssAnon", 0))
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    text, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"convert failed with {process.returncode}")
    return Run(seconds, int(text), resident, anonymous)


def _status(pid: int) -> dict[str, int]:
    """Memory figures of a process in bytes, by their names in /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    figures = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            figures[name] = int(value.split()[0]) * 1024
    return figures


def copy_seconds(source: Path, target: Path) -> float:
    """A plain copy of the weight files, flushed to disk: what the disk alone allows."""
    target.mkdir()
    start = time.perf_counter()
    for file in sorted(source.glob("*.safetensors")):
        shutil.copyfile(file, target / file.name)
        with (target / file.name).open("rb+") as copied:
            os.fsync(copied.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(target)
    return seconds


def write_holes(folder: Path, size: int) -> int:
    """A dense model of about ``size`` bytes, of the shapes of Llama-3-8B, without its values."""
    bytes_of = [
        sum(2 * math.prod(shape) for _, shape in sparse_checkpoints.tensors(_dense(layers)))
        for layers in (1, 2)
    ]
    layers = max(1, 1 + round((size - bytes_of[0]) / (bytes_of[1] - bytes_of[0])))
    return sparse_checkpoints.write_sparse(folder, _dense(layers))


def _dense(layers: int) -> dict[str, Any]:
    return sparse_checkpoints.llama(layers, 4096, 14_336, 32_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=4.0, help="size of the source")
    parser.add_argument("--folder", type=Path, help="where to work [default: a temporary folder]")
    parser.add_argument("--methods", default="rtn,mse")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--sparse", action="store_true", help="a source of holes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="jang-bench-") as folder:
        source = Path(folder) / "source"
        copied: float | None = None
        if arguments.sparse:
            size = write_holes(source, int(arguments.gb * 1e9))
            print(f"source: {size / 1e9:.2f} GB of holes")
        else:
            size = write_plain(source, int(arguments.gb * 1e9))
            touch(source)
            copied = copy_seconds(source, Path(folder) / "copy")
            print(f"source: {size / 1e9:.2f} GB; plain copy: {copied:.1f} s,", end=" ")
            print(f"{size / copied / 1e6:.0f} MB/s")
        print("| method | threads | seconds | MB/s | of a copy | peak RSS | anonymous | output |")
        print("|---|---|---|---|---|---|---|---|")
        for method in arguments.methods.split(","):
            for threads in map(int, arguments.threads.split(",")):
                if not arguments.sparse:
                    touch(source)
                output = Path(folder) / "out"
                run = measure(source, output, method, threads)
                shutil.rmtree(output)
                cells = [
                    method,
                    str(threads),
                    f"{run.seconds:.1f}",
                    f"{size / run.seconds / 1e6:.0f}",
                    "" if copied is None else f"{100 * copied / run.seconds:.0f} %",
                    f"{run.peak_resident / 1e6:.0f} MB",
                    f"{run.peak_anonymous / 1e6:.0f} MB",
                    f"{run.output_bytes / 1e9:.2f} GB",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)
    print("command: " + " ".join([Path(sys.executable).name, *sys.argv]))


if __name__ == "__main__":
    main()
