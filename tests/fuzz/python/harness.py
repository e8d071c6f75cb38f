"""What the Python targets share: the run, scratch files, and a mutator that keeps JSON sound.

Every target takes a JSON document that describes its files, so that mutations reach the rules
behind the first; text that is no such document counts as the file itself.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unicodedata import bidirectional, category

import atheris

from jang_tools.errors import JangError

ROOT = Path(__file__).resolve().parents[3]
# Values that readers have reason to fear, beside those that a document has already.
PAIRS = ((1, 0), (1, 1), (-1, 0))  # sign, less: 2^n, 2^n - 1, -2^n
FEARED: list[Any] = [None, True, False, 0.0, -0.0, 0.5, 1e-45, 1e38, 1e300, [], [0], {}, {"a": 1}]
FEARED += [0, 1, 2, 3, 4, 7, 8, 31, 32, 33, 64, 128, 255, 256, 4096]
FEARED += [sign * (1 << bits) - less for bits in (31, 32, 53, 62, 63, 64) for sign, less in PAIRS]
FEARED += [
    "",
    "a",
    "\0",
    "\n",
    "\x1b[31m",
    "\ud800",
    "\ufeff",
    "é",
    "\U0001f600",
    "..",
    "/",
    "x" * 300,
]
LARGEST = 1 << 16  # bytes of an input
TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MESSAGE = 4096  # characters of an error's text, at most


class Scratch:
    """An empty folder in memory, the same one for every input."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._held = tempfile.TemporaryDirectory(
            prefix="jang-fuzz-", dir=memory if memory.is_dir() else None
        )
        self.path = Path(self._held.name)

    def folder(self, name: str) -> Path:
        """A folder without anything in it."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        return folder


def check_error(error: JangError) -> None:
    """One bounded line of printable text, with a code."""
    text = str(error)
    assert text and len(text) <= MESSAGE, f"{len(text)} characters: {text[:200]!r}"
    check_text(text)
    assert error.code, f"no code: {text}"


def check_text(text: str) -> None:
    """One line, without anything that moves a cursor, turns a direction or cannot be encoded."""
    text.encode()
    assert len(text.splitlines()) <= 1, repr(text)
    hidden = [c for c in text if category(c) == "Cc" or bidirectional(c) in TURNING]
    assert not hidden, repr(text)


def document(data: bytes) -> Any:
    """The JSON document of an input, or None."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _nodes(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Each place below ``value``, as its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(items):
        found.append((value, key))
        if isinstance(child, (dict, list)):
            _nodes(child, found)


def _mutated(chance: random.Random, value: Any, words: Sequence[Any]) -> Any:
    places: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        _nodes(value, places)
    if not places:
        return chance.choice(FEARED)
    container, key = chance.choice(places)
    if not (container[key:] if isinstance(container, list) else key in container):
        return value
    child = container[key]
    other, place = chance.choice(places)
    match chance.randrange(8):
        case 0 | 1 if isinstance(child, int) and not isinstance(child, bool):
            container[key] = child + chance.choice(
                (-1, 1, child, -child, 1 << chance.randrange(64))
            )
        case 0 | 1 if isinstance(child, str) and child:
            at, end = sorted(chance.randrange(len(child) + 1) for _ in "ab")
            middle = str(chance.choice([*words, *FEARED, child[at:end] * 2]))
            container[key] = child[:at] + middle + child[end:]
        case 2 if isinstance(container, dict):
            del container[key]
        case 2:
            container.pop(key)
        case 3 if isinstance(container, dict):
            container[str(chance.choice([*words, *FEARED]))] = child
        case 3:
            container.insert(key, child)
        case 4:
            container[key] = other[place]
        case 5 if isinstance(child, (dict, list)):
            container[key] = json.loads(json.dumps(child))
        case 6:
            container[key] = chance.choice(FEARED)
        case _:
            container[key] = chance.choice([*words, *FEARED])
    return value


def mutator(words: Sequence[Any]) -> Callable[[bytes, int, int], bytes]:
    """Changes a few places of a document; one time in eight its bytes, without regard."""

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        value = document(data)
        if value is None or chance.randrange(8) == 0:
            return bytes(atheris.Mutate(data, min(largest, LARGEST)))
        try:
            for _ in range(chance.choice((1, 1, 1, 2, 4))):
                value = _mutated(chance, value, words)
            text = json.dumps(value, separators=(",", ":")).encode()
        except (ValueError, RecursionError):  # a document that holds itself
            return data
        return text if len(text) <= largest else data

    return mutate


def fill(kind: Any, count: int) -> bytes:
    """``count`` bytes of a payload, by a number that stands for them."""
    if count <= 0:
        return b""
    if kind == 0:
        return bytes(count)
    if kind == 1:  # small positive values as f16 and f32
        return (b"\x00\x3c\x80\x3c" * (count // 4 + 1))[:count]
    return random.Random(ascii(kind)).randbytes(count)


def run(one_input: Callable[[bytes], None], words: Sequence[Any]) -> None:
    """Fuzzes with libFuzzer's arguments from the command line."""
    if os.environ.get("JANG_FUZZ_ONCE"):  # the seeds as a plain test, without the fuzzer
        for name in sys.argv[1:]:
            one_input(Path(name).read_bytes())
        return
    atheris.Setup(sys.argv, one_input, custom_mutator=mutator(words))
    atheris.Fuzz()
