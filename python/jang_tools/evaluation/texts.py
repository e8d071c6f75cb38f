"""Texts to evaluate on, and the windows of tokens that they become.

A window is what a model reads from an empty cache: the tokens that its tokenizer puts in front of
any text (BOS), then text. Windows do not overlap, and what is left at the end is dropped.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from jang_tools.errors import ArgumentError, FormatError, IoError

if TYPE_CHECKING:
    from jang_tools.tokenizer import Tokenizer

BUILTIN = "builtin"
DEFAULT_SEQUENCE = 1024  # or the model's limit, where that is smaller

_CHARACTERS_A_TOKEN = 8  # a first guess, on the safe side, of how much text to tokenize
_CUT_TOKENS = 32  # tokens near a cut may be other ones than in the whole text

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Text:
    """A text and where it comes from; ``sha256`` is that of its UTF-8 bytes, uncompressed."""

    name: str
    content: str
    sha256: str

    @property
    def bytes(self) -> int:
        return len(self.content.encode("utf-8"))


@dataclass(frozen=True)
class Window:
    """``targets[i]`` follows ``tokens[i]``; positions from ``first_scored`` on count."""

    tokens: Ids
    targets: Ids
    first_scored: int


def read_text(source: str | Path) -> Text:
    """The built-in evaluation text, or a UTF-8 file, which may be compressed (.gz, .xz).

    Raises IoError if it cannot be read, FormatError if it is not UTF-8 or damaged.
    """
    if str(source) == BUILTIN:
        packed = (files("jang_tools") / "data" / "evaluation.txt.gz").read_bytes()
        return _text(BUILTIN, gzip.decompress(packed))
    path = Path(source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".xz":
            data = lzma.decompress(data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"{path}: cannot be decompressed: {error}") from error
    return _text(path.name, data)


def _text(name: str, data: bytes) -> Text:
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: not valid UTF-8 at byte {error.start}") from error
    return Text(name, content, hashlib.sha256(data).hexdigest())


def text_prefix(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text: BOS, for those that have one to add."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def encode_start(tokenizer: Tokenizer, text: str, count: int | None) -> Ids:
    """The first ``count`` tokens of a text without special tokens, or all; perhaps fewer.

    Only as much text is tokenized as that takes.
    """
    if count is None:
        return _ids(tokenizer, text)
    length = count * _CHARACTERS_A_TOKEN + 1024
    while length < len(text):
        found = _ids(tokenizer, text[:length])[:-_CUT_TOKENS]
        if len(found) >= count:
            return found[:count]
        length *= 2
    return _ids(tokenizer, text)[:count]


def _ids(tokenizer: Tokenizer, text: str) -> Ids:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)


def tokens_needed(sequence: int, prefix: int, tokens: int | None) -> int | None:
    """Text tokens that windows with ``tokens`` positions in all take; None for all there are."""
    if tokens is None:
        return None
    return tokens // sequence * (sequence - prefix) + 1


def make_windows(ids: Ids, prefix: list[int], sequence: int, half: bool) -> list[Window]:
    """As many whole windows of ``sequence`` positions as there is text for.

    Each position has a target, the last one the token after the window. A position that would
    predict a token of the prefix is not scored; with ``half`` only the second half is.
    """
    stride = sequence - len(prefix)
    if stride < 1:
        raise ArgumentError(f"sequence: expected more than {len(prefix)}, found {sequence}")
    first = max(len(prefix) - 1, 0)
    if half:
        first = max(first, sequence // 2)
    head = np.asarray(prefix, dtype=np.int32)
    windows = []
    for start in range(0, len(ids) - stride, stride):
        line = np.concatenate([head, ids[start : start + stride + 1]])
        windows.append(Window(line[:-1], line[1:], first))
    return windows


def hash_ids(ids: Ids) -> str:
    """SHA-256 of token ids as little-endian 32-bit numbers."""
    return hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
