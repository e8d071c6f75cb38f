#!/usr/bin/env python3
"""Runs the `$` lines of ```console blocks and compares what they print; --write replaces it.

Commands run in a fresh directory beside a link to examples/, stdout and stderr together, as on a
terminal without colours. Speeds and times are left out of the comparison.
Usage: transcripts.py [--write] FILE...
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
MEMORY = re.compile(r"^Memory: at most [^|]*")  # grows with the threads of a machine
VOLATILE = re.compile(r"\d+(\.\d+)? ?(ms|s|[kMG]B/s|tok/s|tokens/s)(?![\w/])")


def work_directory(folder: Path) -> None:
    """Makes `folder` look like a clone as far as documented commands care."""
    (folder / "examples").symlink_to(ROOT / "examples")


def run_block(block: str, folder: Path) -> str:
    """The block with the output of each command as it is now; SystemExit if one fails."""
    made = []
    # The command of this interpreter's environment, not another one that the PATH may hold.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "100"}
    for line in block.splitlines():
        if not line.startswith("$ "):
            continue
        done = subprocess.run(
            line[2:],
            shell=True,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{line}\nexit {done.returncode}\n{done.stdout}")
        output = [text.rstrip() for text in done.stdout.splitlines()]
        made.append("\n".join([line, *output]))
    return "\n".join(made) + "\n"


def steady(text: str) -> list[str]:
    """Lines without what differs from run to run, nor the spaces that align it."""
    return [
        re.sub(r"\s+", " ", VOLATILE.sub(r"# \2", MEMORY.sub("Memory: # ", line)))
        for line in text.splitlines()
    ]


def refresh(text: str) -> str:
    """A Markdown text with all its console blocks run, in order, in one directory."""
    with tempfile.TemporaryDirectory() as folder:
        work_directory(Path(folder))
        return BLOCK.sub(
            lambda found: "```console\n" + run_block(found[1], Path(folder)) + "```", text
        )


def difference(text: str) -> str:
    """How the console blocks of a text differ from what their commands print; empty if not."""
    return "\n".join(difflib.unified_diff(steady(text), steady(refresh(text)), lineterm="", n=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    failed = False
    for path in arguments.files:
        text = path.read_text(encoding="utf-8")
        if arguments.write:
            path.write_text(refresh(text), encoding="utf-8")
        elif found := difference(text):
            failed = True
            print(f"{path}:\n{found}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
