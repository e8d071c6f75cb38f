#!/usr/bin/env python3
"""Checks that objects compiled for one instruction set share no code with the rest of the program.

An inline function or template used in an AVX-512 object and in a baseline one is a single weak
symbol, and the linker may keep the AVX-512 body for both. So an object of a kernel folder may
define one external symbol, the function that returns the folder's table, and no weak one. The
reference folder has the flags of the common code: there a weak symbol does no harm.

    tools/check_symbols.py BUILD_DIRECTORY [--nm aarch64-linux-gnu-nm]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

# Objects of the CMake target jang_kernels_<folder>.
OBJECTS = "kernels/CMakeFiles/jang_kernels_*.dir/**/*.o"
# nm's letters for symbols that this object defines and others see; lower case is local, but for
# the weak ones (v, w) and unique ones (u).
WEAK = set("VvWwu")
EXTERNAL = set("ABCDGRSTi")


def folder_of(path: Path) -> str:
    """`baseline` for .../jang_kernels_baseline.dir/baseline/table.cpp.o."""
    part = next(p for p in path.parts if p.startswith("jang_kernels_"))
    return part.removeprefix("jang_kernels_").removesuffix(".dir")


def faults_of(path: Path, nm: str) -> list[str]:
    listing = subprocess.run(
        [nm, "--demangle", str(path)], check=True, capture_output=True, text=True
    ).stdout
    table = f"jang::kernels::{folder_of(path)}_table()"
    faults = []
    for line in listing.splitlines():
        match = re.match(r"[0-9a-fA-F]* *([a-zA-Z]) (.*)", line)
        if match is None:
            continue
        kind, name = match.groups()
        if name.startswith(("__asan", "__ubsan", "__tsan", "__odr_asan", ".Lubsan", "DW.ref.")):
            continue  # a sanitizer's or the unwinder's own: no code, the same in every object
        if kind in WEAK:
            if folder_of(path) == "reference":
                continue
            faults.append(f"{path}: weak symbol {name}")
        elif kind in EXTERNAL and name != table:
            faults.append(f"{path}: external symbol {name}; only {table} may be seen outside")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="CMake build directory")
    parser.add_argument("--nm", default="nm", help="nm of the target's binutils")
    arguments = parser.parse_args()

    objects = sorted(arguments.build.glob(OBJECTS))
    folders = {folder_of(path) for path in objects}
    if not {"baseline", "reference"} <= folders:
        print(f"{arguments.build}: no kernel objects found; build jang_kernels first")
        return 1
    faults = [fault for path in objects for fault in faults_of(path, arguments.nm)]
    for fault in faults:
        print(fault)
    if not faults:
        print(f"{len(objects)} kernel objects ({', '.join(sorted(folders))}): no shared symbols")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
