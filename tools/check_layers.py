#!/usr/bin/env python3
"""Reads includes and imports; fails on a wrong arrow between folders or a file over 800 lines.

The arrows, outsiders and limits are the tables below; docs/architecture.md explains them. Prints
one line a violation, FILE:LINE: what is wrong. Usage: check_layers.py [ROOT]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 800
SOURCE_SUFFIXES = {".cpp", ".h", ".inl", ".py", ".sh", ".cmake"}

# A folder may include itself and folders of lower rank; the same rank is not known to each other.
RANKS = {
    "base": 0, "kernels": 0,
    "io": 1, "quant": 1,
    "arch": 2,
    "plan": 3, "model": 3,
    "eval": 4,
    "calibrate": 5,
    "convert": 6,
    "bind": 7,
}  # fmt: skip


@dataclass(frozen=True)
class Outsider:
    """Something that only some folders, or files named by their paths, may touch."""

    name: str
    pattern: re.Pattern[str]
    places: frozenset[str]
    sources_only: bool = False  # not even the headers of those folders


def outsider(name: str, pattern: str, *places: str, sources_only: bool = False) -> Outsider:
    return Outsider(name, re.compile(pattern), frozenset(places), sources_only)


OUTSIDERS = [
    outsider("nlohmann/json", r"#\s*include\s*[<\"]nlohmann/", "io", sources_only=True),
    outsider("pybind11 or Python.h", r"#\s*include\s*[<\"](pybind11/|Python\.h)", "bind"),
    outsider(
        "threads",
        r"#\s*include\s*<(thread|pthread\.h|future)>|\bstd::(jthread|thread|async)\b",
        "base",
    ),
    outsider(
        "mmap and file descriptors",
        r"#\s*include\s*<(sys/mman\.h|fcntl\.h|sys/uio\.h)>",
        "io",
        "cpp/base/large_pages.cpp",  # madvise
    ),
    outsider(
        "intrinsics and vector types",
        r"#\s*include\s*<(\w*mmintrin\.h|x86intrin\.h|arm_neon\.h|arm_sve\.h)>"
        r"|\b_mm\d*_\w+\(|\b__m(128|256|512)[id]?\b|\bvector_size\b",
        "kernels",
    ),
]

# Kernels take raw pointers: nothing that allocates, throws, locks or owns.
KERNELS_DENIED = re.compile(
    r"#\s*include\s*<(algorithm|array|deque|functional|future|iostream|map|memory|mutex|new|numeric|optional|set|span"
    r"|sstream|stdexcept|string|string_view|thread|tuple|unordered_map|variant|vector)>|\bthrow\b"
)
# The package runs without these, whatever the tests use.
PYTHON_DENIED = {
    "torch",
    "transformers",
    "mlx",
    "mlx_lm",
    "safetensors",
    "pickle",
    "marshal",
    "dill",
}
PYTHON_OUTER = {"cli", "server"}  # nothing outside these may import them

QUOTED = re.compile(r'#\s*include\s*"([^"]+)"')


def without_comments(text: str) -> str:
    """The text with comments blanked and line numbers kept."""
    text = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def cpp_folder(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return "kernels" if parts[0] == "kernels" else parts[1]


def check_cpp(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    folder = cpp_folder(path, root)
    if folder not in RANKS:
        yield 1, f"folder '{folder}' has no place among the layers"
        return
    for number, line in enumerate(
        without_comments(path.read_text(encoding="utf-8")).split("\n"), 1
    ):
        if included := QUOTED.search(line):
            target = included[1].split("/")[0]
            if "/" not in included[1] or target not in RANKS:
                yield number, f'include "{included[1]}" is not of the form "folder/file"'
            elif target != folder and RANKS[target] >= RANKS[folder]:
                yield number, f"{folder} may not include {target}"
        for one in OUTSIDERS:
            allowed = one.places & {folder, path.relative_to(root).as_posix()}
            if one.pattern.search(line) and (
                not allowed or (one.sources_only and path.suffix != ".cpp")
            ):
                only = " and ".join(sorted(one.places)) + (
                    " .cpp files" if one.sources_only else ""
                )
                yield number, f"{one.name}: only in {only}"
        if folder == "kernels" and (denied := KERNELS_DENIED.search(line)):
            yield number, f"kernels may not use {denied[0]}"


def imported(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Absolute names that an import statement of a module in `package` reaches."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        prefix = ".".join([*base, *([node.module] if node.module else [])])
        yield prefix
        yield from (f"{prefix}.{alias.name}" for alias in node.names)


def check_python(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    parts = list(path.relative_to(root / "python").with_suffix("").parts)
    area = parts[1] if len(parts) > 2 else ""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in imported(node, parts[:-1]):
            top, *rest = name.split(".")
            line = getattr(node, "lineno", 1)
            if top in PYTHON_DENIED:
                yield line, f"the package may not import {top}"
            if top == "jang_tools" and rest and rest[0] in PYTHON_OUTER and rest[0] != area:
                yield line, f"{area or 'the package'} may not import jang_tools.{rest[0]}"


def sources(root: Path) -> Iterator[Path]:
    for top in ("cmake", "kernels", "cpp", "python", "tests", "tools", "bench", "examples"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and path.is_file():
                yield path


def violations(root: Path) -> list[str]:
    """All violations below `root`, one line each."""
    found: list[str] = []
    for path in sources(root):
        name = path.relative_to(root)
        issues: list[tuple[int, str]] = []
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_LINES:
            issues.append((lines, f"{lines} lines, more than {MAX_LINES}"))
        if name.parts[0] in ("cpp", "kernels") and path.suffix in (".cpp", ".h", ".inl"):
            issues.extend(check_cpp(path, root))
        elif name.parts[:2] == ("python", "jang_tools") and path.suffix == ".py":
            issues.extend(check_python(path, root))
        found.extend(f"{name}:{line}: {text}" for line, text in issues)
    return list(dict.fromkeys(found))


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = violations(root)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
