#!/usr/bin/env python3
"""Speed of what exists, on one model: conversion, loading, prefill and decode.

Prints tok/s, GB/s of weights read, the share of a read-only pass over the same files in the same
run, threads, kernel level, a hash of the output and the command. Medians of five.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jang_tools import _core, convert
from jang_tools.model import load_model

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
REPEATS = 5


def median_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_only_seconds(path: Path, threads: int) -> float:
    """Seconds to read every mapped weight byte once with `threads` threads."""
    maps = [np.memmap(file, mode="r") for file in sorted(path.glob("model*.safetensors"))]
    parts = [part for array in maps for part in np.array_split(array, threads * 4)]
    with ThreadPoolExecutor(threads) as pool:

        def touch() -> None:
            list(pool.map(np.bitwise_xor.reduce, (p[: p.size & ~7].view(np.uint64) for p in parts)))

        touch()
        return median_seconds(touch)


def report(
    name: str, tokens: int, seconds: float, gigabytes: float, read: float, out: bytes
) -> None:
    """One line: `gigabytes` of weights read in all; `read` GB/s is the read-only pass."""
    rate = gigabytes / seconds
    digest = hashlib.sha256(out).hexdigest()[:12]
    print(
        f"{name:8} {tokens:5} tokens  {tokens / seconds:9.1f} tok/s  {rate:7.2f} GB/s  "
        f"{rate / read:6.1%} of read-only  output {digest}"
    )


def bench_model(path: Path, title: str, threads: int) -> None:
    model = load_model(path, threads=threads or None)
    gigabytes = model.core.weight_bytes / 1e9
    read = gigabytes / read_only_seconds(path, model.core.threads)
    print(
        f"\n{title}: {gigabytes * 1e3:.1f} MB, load {model.load_seconds * 1e3:.2f} ms, "
        f"read-only {read:.2f} GB/s"
    )
    for tokens in (64, 512):
        prompt = np.random.RandomState(1).randint(0, model.vocabulary, tokens).astype(np.int32)
        logits = model.last_logits(prompt, model.cache())
        seconds = median_seconds(lambda p=prompt: model.last_logits(p, model.cache()))
        report("prefill", tokens, seconds, gigabytes, read, logits.tobytes())
    prompt = np.arange(1, 9, dtype=np.int32)
    chosen: list[int] = []

    def decode() -> None:
        cache = model.cache()
        chosen[:] = [int(model.last_logits(prompt, cache).argmax())]
        while len(chosen) < 128:
            chosen.append(int(model.last_logits(chosen[-1:], cache).argmax()))

    seconds = median_seconds(decode)
    out = np.array(chosen, dtype=np.int32).tobytes()
    report("decode", 128, seconds, gigabytes * 128, read, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="a Hugging Face directory")
    parser.add_argument("--profile", default="JANG_4L")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    runtime = _core.runtime_info()
    level = next(name for name, state in runtime["levels"].items() if state["active"])
    threads = arguments.threads or runtime["threads"]
    print(f"command: {' '.join(sys.argv)}\nkernel level: {level}, threads: {threads}")
    with tempfile.TemporaryDirectory() as folder:
        source = sum(file.stat().st_size for file in arguments.model.glob("*.safetensors"))
        for method in ("rtn", "mse"):
            output = Path(folder) / method
            start = time.perf_counter()
            convert(
                arguments.model, output, profile=arguments.profile, method=method, threads=threads
            )
            seconds = time.perf_counter() - start
            print(f"convert {method}: {source / 1e6 / seconds:.1f} MB/s of source, {seconds:.2f} s")
        bench_model(arguments.model, "source", threads)
        bench_model(Path(folder) / "mse", arguments.profile, threads)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
