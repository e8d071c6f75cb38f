#!/usr/bin/env python3
"""Converts the demo model at every profile and prints the README's table; --check compares it.

Sizes are of the `model-*.safetensors` files; averages are bits of codes and, with scales, biases
and unquantized tensors, 8 * bytes / parameters.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from jang_tools import _core, convert

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DEMO = ROOT / "examples" / "tiny-prose-llama"
BEGIN, END = "<!-- profiles: made by tools/profile_table.py -->", "<!-- end of profiles -->"
COLUMNS = ["1L", "2S", "2M", "2L", "3S", "3M", "3L", "4S", "4M", "4L", "6M"]
PROFILES = [
    *(f"JANG_{name}" for name in [*COLUMNS, "3K", "4K", "5K", "6K"]),
    "uniform-4",
    "mixed_2_6",
]


def table() -> str:
    """The Markdown table, one row a profile."""
    lines = [
        "| profile | MLP | attention | embedding | head | MB | bits per weight | code bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    source = sum(path.stat().st_size for path in DEMO.glob("*.safetensors"))
    lines.append(f"| source, bf16 | 16 | 16 | 16 | 16 | {source / 1e6:.2f} | 16.00 | |")
    columns = {
        p.name: f"{p.mlp} | {p.attention} | {p.embedding} | {p.head}" for p in _core.profiles()
    }
    with tempfile.TemporaryDirectory() as folder:
        for profile in PROFILES:
            output = Path(folder) / profile
            report = convert(DEMO, output, profile=profile, method="rtn")
            size = sum(path.stat().st_size for path in output.glob("model-*.safetensors"))
            assert size == report.bytes, f"{profile}: reported {report.bytes}, found {size} bytes"
            widths = columns.get(profile, " | | | ")
            averages = f"{report.bits_per_weight:.2f} | {report.average_bits:.2f}"
            lines.append(f"| `{profile}` | {widths} | {size / 1e6:.2f} | {averages} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with README.md")
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    arguments = parser.parse_args()
    made = table()
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN + "\n", 1)
    stored, after = rest.split(END, 1)
    stored = stored.strip()
    if arguments.write:
        README.write_text(before + BEGIN + "\n" + made + "\n" + END + after, encoding="utf-8")
    elif arguments.check and stored != made:
        print(f"error: the table in README.md is not what converting gives:\n{made}")
        return 1
    elif not arguments.check:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
