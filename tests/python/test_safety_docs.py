"""docs/safety.md against cpp/base/error.h: every file rule has its row, every row a test."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| ([\w, ]+) \| `([a-z0-9_]+)` \| ([^|]+) \| `([\w/.]+)` \|$", re.M)
# What the user or the machine got wrong, not a file.
NO_FILE_RULE = {"argument", "output_exists", "no_space", "io", "cancelled"}


def snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def codes() -> set[str]:
    text = (ROOT / "cpp/base/error.h").read_text(encoding="utf-8")
    body = re.search(r"enum class ErrorCode \{(.*?)\n\};", text, re.S)
    assert body is not None
    return {snake(name) for name in re.findall(r"^  k(\w+),", body.group(1), re.M)}


def rows() -> list[tuple[str, str, str, str]]:
    return ROW.findall((ROOT / "docs/safety.md").read_text(encoding="utf-8"))


def test_codes_of_file_rules_are_the_rows() -> None:
    assert len(codes()) > 35
    assert codes() >= NO_FILE_RULE
    named = [code for _, code, _, _ in rows()]
    assert sorted(named) == sorted(codes() - NO_FILE_RULE)


def test_names_are_those_of_the_program() -> None:
    source = (ROOT / "cpp/base/error.cpp").read_text(encoding="utf-8")
    named = dict(re.findall(r"case ErrorCode::k(\w+):\s+return \"(\w+)\";", source))
    assert {snake(name): text for name, text in named.items()} == {code: code for code in codes()}


def test_every_row_names_a_test_that_names_its_code() -> None:
    for _, code, _, test in rows():
        text = (ROOT / test).read_text(encoding="utf-8")
        constant = "k" + "".join(part.capitalize() for part in code.split("_"))
        assert re.search(rf'\b{constant}\b|"{code}"', text), f"{test} does not test {code}"


def test_fuzz_targets_are_described_and_have_seeds() -> None:
    text = (ROOT / "docs/safety.md").read_text(encoding="utf-8")
    targets = {path.stem for path in (ROOT / "tests/fuzz").glob("*_fuzz.cpp")}
    assert len(targets) > 5
    in_python = {path.stem for path in (ROOT / "tests/fuzz/python").glob("*_fuzz.py")}
    assert len(in_python) > 4 and not targets & in_python
    targets |= in_python
    assert targets == set(re.findall(r"^\| `(\w+_fuzz)` \|", text, re.M))
    for target in targets:
        corpus = ROOT / "tests/fuzz/corpus" / target.removesuffix("_fuzz")
        assert any(corpus.iterdir()), f"no seeds for {target}"


def test_the_seeds_are_those_that_the_script_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("seeds", ROOT / "tests/fuzz/make_corpus.py")
    assert spec is not None and spec.loader is not None
    seeds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeds)
    committed = ROOT / "tests/fuzz/corpus"
    # readers() takes the seeds of another target, which are written before it runs.
    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    seeds.main()
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {p.relative_to(committed) for p in committed.rglob("*") if p.is_file()}
    for name in written:
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), name
