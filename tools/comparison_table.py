#!/usr/bin/env python3
"""Runs `jang compare` on the demo model and prints its tables; --write puts them into the docs.

An interrupted run continues in the work folder. `--tokens` and `--calibration-sequences` make a
quicker table, and say so in it, since the command line is printed with it.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "comparison.md"
BEGIN = "<!-- comparison: made by tools/comparison_table.py -->"
END = "<!-- end of comparison -->"
TIERS = ["1L", "2S", "2M", "2L", "3S", "3M", "3L", "4S", "4M", "4L", "6M", "3K", "4K", "5K", "6K"]
PROFILES = [f"JANG_{tier}" for tier in TIERS]
BASELINES = ["uniform-4", "mixed_2_6", "mixed_3_4", "tiered-4L"]
METHODS = ["rtn", "mse", "gptq"]


def command_line(tokens: int | None, sequences: int | None) -> list[str]:
    """The arguments that make the table, without places on this machine."""
    line = ["compare", "examples/tiny-prose-llama"]
    line += ["--profiles", ",".join(PROFILES), "--baselines", ",".join(BASELINES)]
    line += ["--methods", ",".join(METHODS), "--equal-bytes", "--sequence", "512"]
    if tokens is not None:
        line += ["--tokens", str(tokens)]
    if sequences is not None:
        line += ["--calibration-sequences", str(sequences)]
    return line


def tables(line: list[str], folder: Path) -> str:
    """What goes between the markers: the command, and what it writes as Markdown."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_suffix(".md")
    place = ["--output", str(folder), "--markdown", str(made)]
    run = [sys.executable, "-m", "jang_tools.cli.main", *line, *place]
    subprocess.run(run, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    text = made.read_text(encoding="utf-8").strip()
    made.unlink()
    return f"```\n{shlex.join(['jang', *line])}\n```\n\n{text}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put them into docs/comparison.md")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo-comparison")
    parser.add_argument("--tokens", type=int, help="of the text; all of it unless given")
    parser.add_argument("--calibration-sequences", type=int)
    arguments = parser.parse_args()
    line = command_line(arguments.tokens, arguments.calibration_sequences)
    made = tables(line, arguments.work.absolute())
    if not arguments.write:
        print(made)
        return 0
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN + "\n", 1)
    after = rest.split(END, 1)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
