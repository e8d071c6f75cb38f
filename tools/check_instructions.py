#!/usr/bin/env python3
"""Checks that tile instructions are in the objects of the amx folder, and in no other one.

Anywhere else they would end the program on a machine without tiles. In the folder itself the tests
carry them out by trapping them, and would pass as well if none was there. A compiler that does not
know them leaves the level out without a word; here that is a fault.

    tools/check_instructions.py BUILD_DIRECTORY [--objdump objdump]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

OBJECTS = "kernels/CMakeFiles/jang_kernels_*.dir/**/*.o"
FOLDER = "jang_kernels_x86_amx.dir"
BELOW = "jang_kernels_x86_avx512.dir"
NEEDED = {
    *("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored"),
    *("tdpbusd", "tdpbf16ps"),
}
TILE = re.compile(r"\b(ldtilecfg|tilerelease|tile(?:zero|loadd|stored)|tdp\w+)\b")


def tile_instructions(path: Path, objdump: str) -> set[str]:
    listing = subprocess.run(
        [objdump, "--disassemble", "--no-show-raw-insn", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return set(TILE.findall(listing))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="CMake build directory")
    parser.add_argument("--objdump", default="objdump", help="objdump of the target's binutils")
    arguments = parser.parse_args()

    objects = sorted(arguments.build.glob(OBJECTS))
    if not objects:
        print(f"{arguments.build}: no kernel objects found; build jang_kernels first")
        return 1
    if shutil.which(arguments.objdump) is None:
        print(f"no {arguments.objdump} here: instructions not checked")
        return 0
    faults = []
    amx = [path for path in objects if FOLDER in path.parts]
    if amx:
        found = set[str]().union(*(tile_instructions(path, arguments.objdump) for path in amx))
        faults += [f"x86_amx: no {name}" for name in sorted(NEEDED - found)]
    elif any(BELOW in path.parts for path in objects):
        faults.append("no x86_amx in this build: its compiler or assembler is too old")
    for path in objects:
        if path not in amx and (stray := tile_instructions(path, arguments.objdump)):
            faults.append(f"{path}: {', '.join(sorted(stray))} outside x86_amx")
    for fault in faults:
        print(fault)
    if not faults:
        print("tile instructions: in x86_amx only" if amx else "no x86 levels in this build")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
