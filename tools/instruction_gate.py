#!/usr/bin/env python3
"""Compares the instructions that kernels take with bench/instruction_counts.json (callgrind, avx2).

    python tools/instruction_gate.py BUILD_DIRECTORY [--write]

Instruction counts do not depend on the machine or its load, so they may decide where times may not:
a case that takes over 5 % more than recorded fails. ``--write`` records the counts of this build,
for a change that is meant. Counts of another compiler are shown, not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

RECORD = Path(__file__).resolve().parent.parent / "bench" / "instruction_counts.json"
LEVEL = "avx2"
TOLERANCE = 0.05
CASES = [
    *(f"linear {bits} 64 1" for bits in (2, 3, 4, 5, 6, 8)),
    *(f"linear 4 64 {tokens}" for tokens in (2, 4, 8, 32, 512)),
    *(f"linear {bits} 64 32" for bits in (2, 3, 5, 6, 8)),
    "linear 4 32 1",
    "linear 4 128 1",
    "round 64 1",
    "attention 4 1024",
    "attention 32 1024",
]


def count(program: Path, case: str) -> int:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=counted_region",
        str(program),
        *case.split(),
    ]
    run = subprocess.run(
        command,
        env={**os.environ, "JANG_ISA": LEVEL},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or found is None or int(found[1]) == 0:
        sys.exit(f"{case}: no count\n{run.stderr}")
    return int(found[1])


def compiler(build: Path) -> str:
    cache = (build / "CMakeCache.txt").read_text(encoding="utf-8")
    path = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.*)$", cache, re.MULTILINE)
    if path is None:
        sys.exit(f"{build}: not a build directory")
    version = subprocess.run([path[1], "-dumpfullversion"], capture_output=True, text=True).stdout
    return f"g++ {version.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    program = next(arguments.build.rglob("kernel_counts"), None)
    if program is None:
        sys.exit(f"{arguments.build}: no kernel_counts (JANG_BUILD_BENCHMARKS=ON builds it)")
    counts = {case: count(program, case) for case in CASES}
    here = compiler(arguments.build)
    if arguments.write:
        record = {"level": LEVEL, "compiler": here, "instructions": counts}
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {RECORD}")
        return
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    judged = record["compiler"] == here
    failed = []
    for case, found in counts.items():
        expected = record["instructions"].get(case)
        ratio = found / expected if expected else float("inf")
        word = "ok" if ratio <= 1 + TOLERANCE else "MORE"
        if ratio < 1 - TOLERANCE:
            word = "less: record it with --write"
        print(f"{case:20} {found:>10,} of {expected or 0:>10,}  {ratio:6.3f}  {word}")
        if word == "MORE":
            failed.append(case)
    if not judged:
        print(f"not judged: recorded with {record['compiler']}, built with {here}")
    elif failed:
        sys.exit(f"more than {TOLERANCE:.0%} more instructions: {', '.join(failed)}")


if __name__ == "__main__":
    main()
