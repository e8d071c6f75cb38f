"""What the documents say is run: console transcripts, Python snippets, tables, links, paths."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import transcripts  # noqa: E402

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
IDS = [path.name for path in DOCUMENTS]
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_console_blocks_print_what_they_show(path: Path) -> None:
    assert transcripts.difference(path.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_python_blocks_run(path: Path, tmp_path: Path) -> None:
    blocks = PYTHON.findall(path.read_text(encoding="utf-8"))
    if not blocks:
        return
    transcripts.work_directory(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    missing = [link for link in LINK.findall(text) if not (path.parent / link).exists()]
    assert missing == []


def test_table_of_profiles_is_measured() -> None:
    script = ROOT / "tools" / "profile_table.py"
    command = [sys.executable, str(script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_paths_named_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tops = "kernels|cpp|python|tests|cmake|tools|bench|examples|docs"
    named = set(re.findall(rf"`((?:{tops})/[\w./-]*)`", text))
    assert len(named) > 20
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    named = {name for text in texts for name in re.findall(r"`make ([a-z-]+)", text)}
    assert named
    assert named <= targets


def test_a_wrong_transcript_is_noticed() -> None:
    text = "```console\n$ echo read 12.5 MB/s\nread 99.0 MB/s\n```\n"
    assert transcripts.difference(text) == ""
    assert transcripts.difference(text.replace("read 99", "wrote 99")) != ""
