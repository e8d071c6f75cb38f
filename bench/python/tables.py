"""Measures what bench/README.md shows and writes its tables: `make bench`.

    python bench/python/tables.py [--quick] [--only speed|whole|peers] [--unmeasured]

Three tables between markers: ours over levels, widths and group sizes; one model with all of its
layers and a long context, each row of both one `jang bench`; and ours against llama.cpp
(bench/peers/compare.py). A row that this machine cannot show says so beside its command. --quick
takes a tiny model, to see that everything runs; --unmeasured writes tables without figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "bench" / "README.md"
COMPARE = "bench/peers/compare.py"
MISSING = "not measured"
_WIDTHS = (2, 3, 4, 5, 6, 8)
_PEER_TYPES = ("Q2_K", "Q3_K", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


@dataclass(frozen=True)
class Row:
    """One line of the first table: a level, a width and a group size."""

    level: str
    bits: int
    group_size: int

    def arguments(self, settings: Sequence[str]) -> list[str]:
        return ["bench", *settings, "--bits", str(self.bits), "--group-size", str(self.group_size)]

    def command(self, settings: Sequence[str]) -> str:
        return f"JANG_ISA={self.level} {shlex.join(['jang', *self.arguments(settings)])}"


ROWS = [
    *(Row("avx512", bits, group) for group in (64, 128) for bits in _WIDTHS),
    *(Row("avx2", bits, 64) for bits in _WIDTHS),
    *(Row("amx", 4, group) for group in (64, 128)),
]
WHOLE_ROWS = [Row("avx512", 4, 64), Row("amx", 4, 64)]
_QUICK_TESTS = ["--prompt", "32", "--decode", "8", "--rounds", "2"]
_QUICK = ["--shape", "tiny", *_QUICK_TESTS]
SETTINGS = {
    "speed": ["--shape", "llama-8b", "--layers", "2", "--depth", "0", "--batch", "8"],
    "whole": ["--shape", "llama-8b", "--batch", "none"],
    "peers": [],
}
QUICK_SETTINGS = {
    "speed": [*_QUICK, "--depth", "0", "--batch", "8"],
    "whole": [*_QUICK, "--batch", "none"],
    "peers": _QUICK,
}


# --- measuring


def supported_levels() -> set[str]:
    from jang_tools import _core

    levels = _core.runtime_info()["levels"]
    return {str(name) for name, state in levels.items() if state["supported"]}


def measure_row(row: Row, settings: Sequence[str]) -> dict[str, Any]:
    """The document of one `jang bench`."""
    command = [sys.executable, "-m", "jang_tools.cli.main", *row.arguments(settings), "-q"]
    done = subprocess.run(
        [*command, "--json"],
        env={**os.environ, "JANG_ISA": row.level},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def measure_peers(settings: Sequence[str]) -> dict[str, Any]:
    """The document of bench/peers/compare.py."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peers.json"
        command = [sys.executable, str(ROOT / COMPARE), *settings, "--json", str(path)]
        subprocess.run(command, check=True)
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def commit() -> str:
    """The commit of the source tree, and whether files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    # This file is what the tables go into.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/README.md")
    return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


# --- tables


def speed_table(documents: dict[Row, dict[str, Any]], settings: Sequence[str]) -> list[str]:
    """One line per row of `ROWS`; `documents` has those that were measured."""
    header = ["level", "bits", "group", "reading GB/s", "decode tok/s", "of reading"]
    header += ["prefill tok/s", "TOPS per core", "batch 8 tok/s", "TOPS per core", "command"]

    def cells(document: dict[str, Any]) -> list[str]:
        return [
            f"{document['read_only_gb_s']:.1f}",
            cell(document, "decode", 0, "tok_s", "{:.1f}"),
            cell(document, "decode", 0, "share", "{:.1%}"),
            cell(document, "prefill", 0, "tok_s", "{:.1f}"),
            cell(document, "prefill", 0, "tops_per_core", "{:.3f}"),
            cell(document, "batch", 0, "tok_s", "{:.1f}"),
            cell(document, "batch", 0, "tops_per_core", "{:.3f}"),
        ]

    lines = []
    for row in ROWS:
        figures = cells(documents[row]) if row in documents else [MISSING] * 7
        names = [row.level, str(row.bits), str(row.group_size)]
        lines.append([*names, *figures, f"`{row.command(settings)}`"])
    return markdown(header, lines)


def whole_table(documents: dict[Row, dict[str, Any]], settings: Sequence[str]) -> list[str]:
    """One line per row of `WHOLE_ROWS`."""
    header = ["level", "GB", "load ms", "reading GB/s", "decode tok/s", "of reading"]
    header += ["at 4,096: tok/s", "attention", "prefill tok/s", "TOPS per core", "command"]

    def cells(document: dict[str, Any]) -> list[str]:
        attention = [
            one["share_of_decode"] for one in document["attention"] if one["depth"] == 4096
        ]
        return [
            f"{document['weight_bytes'] / 1e9:.2f}",
            f"{1e3 * document['load_seconds']:.1f}",
            f"{document['read_only_gb_s']:.1f}",
            cell(document, "decode", 0, "tok_s", "{:.1f}"),
            cell(document, "decode", 0, "share", "{:.1%}"),
            cell(document, "decode", 4096, "tok_s", "{:.1f}"),
            f"{attention[0]:.1%}" if attention else MISSING,
            cell(document, "prefill", 0, "tok_s", "{:.1f}"),
            cell(document, "prefill", 0, "tops_per_core", "{:.3f}"),
        ]

    lines = []
    for row in WHOLE_ROWS:
        figures = cells(documents[row]) if row in documents else [MISSING] * 9
        lines.append([row.level, *figures, f"`{row.command(settings)}`"])
    return markdown(header, lines)


def cell(document: dict[str, Any], kind: str, depth: int, name: str, form: str) -> str:
    """One figure of one test, if the build could run it."""
    for one in document["results"]:
        if (one["kind"], one["depth"]) == (kind, depth):
            return form.format(one[name])
    return MISSING


def peers_table(document: dict[str, Any] | None) -> list[str]:
    """One line per type; without a document all say that nothing was measured."""
    header = ["type", "bits per weight, ours / theirs"]
    for name in ("prefill 512", "decode", "batch 8"):
        header += [f"{name}: ours", "theirs", "ratio"]
    header.append("decode: ours of reading")
    if document is None:
        return markdown(header, [[kind, *[MISSING] * 11] for kind in _PEER_TYPES])
    lines = []
    for row in document["rows"]:
        widths = f"{row['our_bits_per_weight']:.2f} / {row['their_bits_per_weight']:.2f}"
        cells = [row["type"], widths]
        for kind in ("prefill", "decode", "batch"):
            cells += _peer_cells(row["tests"][kind])
        share = row["tests"]["decode"].get("our_share")
        cells.append(MISSING if share is None else f"{share:.1%}")
        lines.append(cells)
    return markdown(header, lines)


def _peer_cells(test: dict[str, Any]) -> list[str]:
    """Ours and the faster state of theirs in tok/s, and what ours is of theirs."""
    ours = test["ours"]
    known = {state: test[state] for state in ("repacked", "plain") if test[state] is not None}
    best = min(known, key=lambda state: float(known[state])) if known else None
    cells = [MISSING if ours is None else f"{test['tokens'] / ours:.1f}"]
    cells.append(MISSING if best is None else f"{test['tokens'] / known[best]:.1f} ({best})")
    cells.append(MISSING if best is None or ours is None else f"{known[best] / ours:.2f}x")
    return cells


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = "| " + " | ".join(header) + " |"
    return [
        line,
        "| " + " | ".join("---" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def replace_between(text: str, marker: str, lines: Sequence[str]) -> str:
    """`text` with what stands between the two markers replaced."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"expected one pair of '{marker}' markers")
    before, _, rest = text.partition(begin)
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + rest.partition(end)[2]


def bench_section(
    name: str, documents: dict[Row, dict[str, Any]], settings: Sequence[str]
) -> list[str]:
    """The table `speed` or `whole`, and above it where its figures come from."""
    lines = []
    if documents:
        one = next(iter(documents.values()))
        lines = [
            f"{one['cpu']}, {one['threads']} threads, precision {one['precision']}; commit"
            f" {commit()}. Medians of {one['rounds']} rounds.",
            "",
        ]
    table = speed_table if name == "speed" else whole_table
    return [*lines, *table(documents, settings)]


def peers_section(document: dict[str, Any] | None, settings: Sequence[str]) -> list[str]:
    command = shlex.join(["python", COMPARE, *settings])
    if document is None:
        return [f"`{command}`", "", *peers_table(None)]
    peer = document["peer"]
    lines = [
        f"{document['cpu']}, {document['threads']} threads, level {document['level']}, cache"
        f" {document['rows'][0]['our_kv_type']}; commit {commit()}.",
        f"llama-cpp-python {peer['version']}: `{peer['features']}`.",
        f"{document['shape']}, {document['layers']} layers, medians of {document['rounds']}"
        f" alternating rounds: `{command}`",
        "",
        *peers_table(document),
    ]
    for row in document["rows"]:
        for state, failure in row["failures"].items():
            lines += ["", f"{row['type']}, {state}: llama.cpp {failure}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, a few seconds")
    parser.add_argument("--only", choices=["speed", "whole", "peers"], help="one table")
    parser.add_argument("--unmeasured", action="store_true", help="tables without figures")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    text = arguments.readme.read_text(encoding="utf-8")
    levels = set() if arguments.unmeasured else supported_levels()
    for name, rows in (("speed", ROWS), ("whole", WHOLE_ROWS)):
        if arguments.only not in (None, name):
            continue
        settings = (QUICK_SETTINGS if arguments.quick else SETTINGS)[name]
        documents = {}
        for row in (row for row in rows if row.level in levels):
            print(row.command(settings), file=sys.stderr, flush=True)
            documents[row] = measure_row(row, settings)
        text = replace_between(text, name, bench_section(name, documents, settings))
    if arguments.only in (None, "peers"):
        settings = (QUICK_SETTINGS if arguments.quick else SETTINGS)["peers"]
        document = None if arguments.unmeasured else measure_peers(settings)
        text = replace_between(text, "peers", peers_section(document, settings))
    arguments.readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
