"""Multiple-choice questions from local files in the layouts that they are handed around in.

MMLU: CSV rows of question, four options and the answer (a letter, or an index below a header), or
JSONL with question, choices, answer. ARC: JSONL with a question of stem and choices, flat or
nested, and answerKey. A row that cannot be read is counted and left out, never guessed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jang_tools.errors import ArgumentError, FormatError, IoError

LETTERS = "ABCDEFGHIJ"

_MMLU_FIELDS = 6
_RECORD_LINES = 200  # of a quoted field that goes over several lines


@dataclass(frozen=True)
class Question:
    """``answer`` is the index of the right one of ``options``; ``subject`` may be empty."""

    text: str
    options: tuple[str, ...]
    answer: int
    subject: str = ""


@dataclass(frozen=True)
class Questions:
    """What a file or folder holds; ``examples`` are the development questions by subject."""

    items: list[Question]
    malformed: int
    sha256: str
    examples: dict[str, list[Question]]


def read_mmlu(path: Path) -> Questions:
    """A file, a folder of files, or a folder with ``test/`` and perhaps ``dev/``.

    Files that end in _dev hold examples, those in _val are left out. The subject is the file's
    name, or what a row says.
    """
    files = _data_files(path, (".csv", ".jsonl"))
    dev = [file for file in files if _part(file) == "dev"]
    if path.is_dir() and not dev and (path / "dev").is_dir():
        dev = _data_files(path / "dev", (".csv", ".jsonl"))
    if path.is_dir() and (path / "test").is_dir():
        files = _data_files(path / "test", (".csv", ".jsonl"))
    test = [file for file in files if _part(file) not in ("dev", "val")]
    found = _read(test, path)
    examples: dict[str, list[Question]] = {}
    for file in dev:
        for question in _rows(file):
            if question is not None:
                examples.setdefault(question.subject, []).append(question)
    return Questions(found.items, found.malformed, found.sha256, examples)


def read_arc(path: Path) -> Questions:
    """A JSONL file, or a folder of them."""
    return _read(_data_files(path, (".jsonl",)), path)


def _data_files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise IoError(f"{path}: no such file or directory", code="io")
    return sorted(file for file in path.iterdir() if file.suffix in suffixes and file.is_file())


def _part(file: Path) -> str:
    """test, dev or val, from the end of the name."""
    return file.stem.rpartition("_")[2]


def _read(files: list[Path], source: Path) -> Questions:
    if not files:
        raise ArgumentError(f"{source}: holds no files of questions (.csv or .jsonl)")
    items: list[Question] = []
    malformed = 0
    digest = hashlib.sha256()
    for file in files:
        digest.update(_bytes(file))
        for question in _rows(file):
            if question is None:
                malformed += 1
            else:
                items.append(question)
    if not items:
        raise FormatError(f"{source}: no question can be read, {malformed} rows are malformed")
    return Questions(items, malformed, digest.hexdigest(), {})


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise IoError(f"{file}: {error.strerror or error}", code="io") from error


def _rows(file: Path) -> Iterator[Question | None]:
    """The questions of a file in order, None for each row that cannot be read."""
    text = _bytes(file).decode("utf-8", errors="replace")
    subject = file.stem.rpartition("_")[0] if _part(file) in ("test", "dev", "val") else file.stem
    if file.suffix == ".csv":
        return _csv_questions(text, subject.replace("_", " "))
    return _json_questions(text.splitlines(), subject.replace("_", " "))


# --- CSV ---------------------------------------------------------------------------------------


def _csv_questions(text: str, subject: str) -> Iterator[Question | None]:
    for row in _csv_rows(text):
        if row is None:
            yield None
        elif row[0] == "question" and row[-1] == "answer":
            continue  # a header
        else:
            yield _csv_question(row, subject)


def _csv_question(row: list[str], subject: str) -> Question | None:
    if len(row) != _MMLU_FIELDS:
        return None
    question, *options, answer = (field.strip() for field in row)
    letters = LETTERS[: len(options)]
    if len(answer) == 1 and answer in letters:
        index = letters.index(answer)
    elif answer in ("0", "1", "2", "3"):
        index = int(answer)
    else:
        return None
    return _checked(question, options, index, subject)


def _csv_rows(text: str) -> Iterator[list[str] | None]:
    """Records by the strict rules of CSV; None for a line that no record can begin with.

    A quote that is not escaped spoils its own line only: reading goes on with the next.
    """
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        row, used = _record(lines[at : at + _RECORD_LINES])
        yield row
        at += used


def _record(lines: list[str]) -> tuple[list[str] | None, int]:
    """The record that begins the lines, and how many it takes; (None, 1) if there is none."""
    reader = csv.reader(io.StringIO("".join(lines), newline=""), strict=True)
    try:
        row = next(reader)
    except (csv.Error, StopIteration):
        return None, 1
    return row, max(reader.line_num, 1)


# --- JSON lines --------------------------------------------------------------------------------


def _json_questions(lines: Iterable[str], subject: str) -> Iterator[Question | None]:
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield None
            continue
        yield _json_question(row, subject) if isinstance(row, dict) else None


def _json_question(row: dict[str, Any], subject: str) -> Question | None:
    question: Any = row.get("question")
    choices: Any = row.get("choices")
    if isinstance(question, dict):
        question, choices = question.get("stem"), question.get("choices")
    labels: list[Any] = []
    if isinstance(choices, dict):
        labels, choices = choices.get("label", []), choices.get("text")
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        labels = [choice.get("label") for choice in choices]
        choices = [choice.get("text") for choice in choices]
    if not isinstance(question, str) or not isinstance(choices, list):
        return None
    if not isinstance(labels, list) or (labels and len(labels) != len(choices)):
        return None
    key = row.get("answerKey", row.get("answer"))
    index = _answer_index(key, labels or list(LETTERS[: len(choices)]))
    own_subject = row.get("subject")
    if isinstance(own_subject, str) and own_subject:
        subject = own_subject.replace("_", " ")
    return None if index is None else _checked(question, choices, index, subject)


def _answer_index(key: object, labels: list[Any]) -> int | None:
    """A label, or an index where labels are letters; rows of digits as labels take the label."""
    if isinstance(key, str) and labels.count(key) == 1:
        return labels.index(key)
    if isinstance(key, str) and key.isdecimal():
        key = int(key)
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(labels):
        return None if any(str(label).isdecimal() for label in labels) else key
    return None


def _checked(question: str, options: list[Any], answer: int, subject: str) -> Question | None:
    if not question.strip() or not 2 <= len(options) <= len(LETTERS) or answer >= len(options):
        return None
    if not all(isinstance(option, str) and option.strip() for option in options):
        return None
    return Question(question.strip(), tuple(option.strip() for option in options), answer, subject)
