#!/usr/bin/env python3
"""Builds and runs all tests of `make test`: C++ through ctest, Python through pytest.

The C++ folders that compute (kernels, quant, model) and the Python tests of computed results run
once for each kernel level that this CPU has (JANG_ISA), at the lowest two fewer Python tests;
everything else runs once, at the default.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPP_PER_LEVEL = "kernels|quant|model"
PYTHON_PER_LEVEL = (
    "test_parity.py",
    "test_quantize.py",
    "test_model.py",
    "test_moe.py",
    "test_precision.py",
    "test_recurrent.py",
)
# Of the two lowest levels, which take up to ten times as long. That their integer kernels equal the
# others is tested in C++.
SLOW_LEVELS = ("reference", "baseline")
PYTHON_AT_SLOW_LEVELS = ("test_parity.py", "test_quantize.py", "test_model.py")
# How rows are shared between threads is no matter of the level.
LEFT_OUT_AT_SLOW_LEVELS = "not threads_do_not_change_a_bit"


def step(title: str, command: list[str], **environment: str) -> bool:
    """Runs a command under a heading; True if it succeeded."""
    start = time.monotonic()
    print(f"==> {title}", flush=True)
    code = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, check=False
    ).returncode
    print(
        f"    {'ok' if code == 0 else f'FAILED ({code})'}, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return code == 0


def supported_levels() -> tuple[list[str], str]:
    """Names of the levels that this machine can run, and the one active by default."""
    from jang_tools import _core

    levels = _core.runtime_info()["levels"]
    active = next(name for name, state in levels.items() if state["active"])
    return [name for name, state in levels.items() if state["supported"]], active


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpp-only", action="store_true")
    parser.add_argument("--python-only", action="store_true")
    arguments = parser.parse_args()
    jobs = str(os.cpu_count() or 2)
    levels, active = supported_levels()
    others = [level for level in levels if level != active]
    print(f"kernel levels of this machine: {', '.join(levels)}; default: {active}", flush=True)

    failed = []

    def run(title: str, command: list[str], **environment: str) -> None:
        if not step(title, command, **environment):
            failed.append(title)

    if not arguments.python_only:
        if not step(
            "C++ tests: configure", ["cmake", "--preset", "release", "--log-level=WARNING"]
        ):
            return 1
        if not step(
            "C++ tests: build", ["cmake", "--build", "--preset", "release", "--parallel", jobs]
        ):
            return 1
        ctest = ["ctest", "--preset", "release", "--parallel", jobs, "--no-tests=error"]
        run(f"C++ tests, {active}", ctest, JANG_ISA=active)
        for level in others:
            run(f"C++ tests, {level}", [*ctest, "-R", f"^({CPP_PER_LEVEL})[.]"], JANG_ISA=level)
    if not arguments.cpp_only:
        pytest = [sys.executable, "-m", "pytest", "-q", "-n", jobs, "--dist"]
        # A file's tests stay together: they share what its fixtures converted.
        run("Python tests", [*pytest, "loadfile", "tests/python"])
        for level in others:
            slow = level in SLOW_LEVELS
            names = PYTHON_AT_SLOW_LEVELS if slow else PYTHON_PER_LEVEL
            files = [f"tests/python/{name}" for name in names]
            chosen = ["-k", LEFT_OUT_AT_SLOW_LEVELS] if slow else []
            # Of these, one file takes most of the time.
            title = f"Python tests of results, {level}"
            run(title, [*pytest, "load", *chosen, *files], JANG_ISA=level)

    if failed:
        print("FAILED: " + "; ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
