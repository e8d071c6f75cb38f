#!/usr/bin/env python3
"""Compares _core.pyi with what the installed extension says; --write regenerates it."""

from __future__ import annotations

import argparse
import difflib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMITTED = Path(__file__).resolve().parent.parent / "python" / "jang_tools" / "_core.pyi"


def generate() -> str:
    """The stub of the extension module that this interpreter imports."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "jang_tools._core", "-o", folder]
        done = subprocess.run(
            [*command, "--exit-code"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"pybind11-stubgen failed:\n{done.stdout}{done.stderr}")
        text = (Path(folder) / "jang_tools" / "_core.pyi").read_text(encoding="utf-8")
    # Types that pybind11 names without arguments, which a strict type check refuses.
    text = re.sub(r"\b(os\.PathLike)\b(?!\[)", r"\1[str]", text)
    text = re.sub(r"\btuple\b(?=[:,)])", "tuple[typing.Any, ...]", text)
    text = re.sub(r"(?<=-> )dict(?=:)", "dict[str, typing.Any]", text)
    # The version changes with every release and is no part of the interface.
    lines = [line for line in text.splitlines() if not line.startswith("__version__")]
    return "\n".join(line.rstrip() for line in lines) + "\n__version__: str\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed stub")
    arguments = parser.parse_args()
    generated = generate()
    if arguments.write:
        COMMITTED.write_text(generated, encoding="utf-8")
        return 0
    committed = COMMITTED.read_text(encoding="utf-8") if COMMITTED.exists() else ""
    if committed == generated:
        return 0
    sys.stdout.writelines(
        difflib.unified_diff(
            committed.splitlines(keepends=True),
            generated.splitlines(keepends=True),
            "committed",
            "generated",
        )
    )
    print("error: _core.pyi is not what the extension says\nhint: make stubs")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
