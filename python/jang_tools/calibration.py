"""Texts that quantization is calibrated on, and the sequences of tokens that they become.

Sequences begin as a model's input does (BOS, if its tokenizer adds one) and are spread evenly over
the text, so that a text of many parts is seen in all of them. Nothing is drawn at random.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jang_tools.errors import ArgumentError, FormatError
from jang_tools.evaluation.texts import BUILTIN as BUILTIN
from jang_tools.evaluation.texts import Text, encode_start, read_text, text_prefix

if TYPE_CHECKING:
    from jang_tools.tokenizer import Tokenizer

DEFAULT_SEQUENCES = 128
DEFAULT_TOKENS = 512
_WHOLE_TEXT = 4 << 20  # characters up to which a text is tokenized as a whole


@dataclass(frozen=True)
class Calibration:
    """``ids``: int32 [sequences, tokens]; ``text`` is what they were cut from, for ``asked``
    sequences, of which it may have had fewer."""

    text: Text
    ids: npt.NDArray[np.int32]
    asked: int


def read_calibration_text(source: str | Path) -> Text:
    """The built-in calibration text, or a UTF-8 file, which may be compressed (.gz, .xz).

    Raises IoError if it cannot be read, FormatError if it is not UTF-8 or damaged.
    """
    if str(source) != BUILTIN:
        return read_text(source)
    packed = (files("jang_tools") / "data" / "calibration.txt.gz").read_bytes()
    data = gzip.decompress(packed)
    return Text(BUILTIN, data.decode("utf-8"), hashlib.sha256(data).hexdigest())


def calibrate_on(
    directory: str | Path,
    *,
    source: str | Path = BUILTIN,
    sequences: int | None = None,
    tokens: int | None = None,
) -> Calibration:
    """``sequences`` sequences of ``tokens`` tokens of a text, for the model in ``directory``.

    Defaults are 128 and 512 (or the model's limit of positions): 65,536 tokens are four for each
    input of layers up to 16,384 wide. Fewer come back where the text is shorter, at least one.
    Raises ArgumentError for numbers that cannot be met, FormatError, UnsupportedError, IoError.
    """
    from jang_tools.json_file import read_json_object
    from jang_tools.tokenizer import Tokenizer

    path = Path(directory)
    limit = _positions(read_json_object(path / "config.json"))
    if tokens is None:
        tokens = DEFAULT_TOKENS if limit is None else min(DEFAULT_TOKENS, limit)
    if sequences is None:
        sequences = DEFAULT_SEQUENCES
    if sequences < 1:
        raise ArgumentError(
            f"calibration sequences: expected 1 or more, found {sequences}", code="argument"
        )
    if tokens < 2 or (limit is not None and tokens > limit):
        most = "" if limit is None else f" to {limit}, the model's limit"
        raise ArgumentError(
            f"calibration tokens: expected 2{most or ' or more'}, found {tokens}", code="argument"
        )
    if not (path / "tokenizer.json").exists():
        raise FormatError(
            f"{path.name}: calibration needs tokenizer.json, which is not there",
            code="missing_file",
            hint="--method mse needs no text",
        )
    text = read_calibration_text(source)
    return Calibration(
        text, cut_sequences(Tokenizer.load(path), text, sequences, tokens), sequences
    )


def tokens_sha256(ids: npt.NDArray[np.int32]) -> str:
    """Of all ids as little-endian 32-bit integers."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()


def calibration_arguments(found: Calibration) -> dict[str, Any]:
    """What it is for the core's plan files and layers, as keyword arguments."""
    return {
        "calibration_ids": found.ids,
        "calibration_text": found.text.name,
        "calibration_sha256": found.text.sha256,
        "tokens_sha256": tokens_sha256(found.ids),
        "asked_sequences": found.asked,
    }


def cut_sequences(
    tokenizer: Tokenizer, text: Text, sequences: int, tokens: int
) -> npt.NDArray[np.int32]:
    """int32 [at most ``sequences``, ``tokens``], spread evenly over the text, none overlapping."""
    prefix = np.asarray(text_prefix(tokenizer), dtype=np.int32)
    body = tokens - len(prefix)
    if body < 1:
        raise ArgumentError(
            f"calibration tokens: expected more than {len(prefix)}, found {tokens}",
            code="argument",
        )
    if len(text.content) <= _WHOLE_TEXT:
        rows = _from_ids(encode_start(tokenizer, text.content, None), sequences, body)
    else:
        rows = _from_places(tokenizer, text.content, sequences, body)
    if not rows:
        raise ArgumentError(
            f"{text.name}: too short for one calibration sequence of {tokens} tokens",
            code="argument",
            hint="use a longer text, or fewer tokens a sequence",
        )
    return np.stack([np.concatenate([prefix, row]) for row in rows])


def _from_ids(ids: npt.NDArray[np.int32], sequences: int, body: int) -> list[npt.NDArray[np.int32]]:
    found = len(ids) // body
    count = min(sequences, found)
    starts = [i * found // count * body for i in range(count)]
    return [ids[start : start + body] for start in starts]


def _from_places(
    tokenizer: Tokenizer, content: str, sequences: int, body: int
) -> list[npt.NDArray[np.int32]]:
    """Of long texts only what is used is tokenized: from the line that begins at each place."""
    rows = []
    for i in range(sequences):
        start, end = (len(content) * k // sequences for k in (i, i + 1))
        line = content.find("\n", start, end) + 1 if start else 0
        row = encode_start(tokenizer, content[line or start : end], body)
        if len(row) == body:
            rows.append(row)
    return rows


def _positions(config: dict[str, Any]) -> int | None:
    limit = config.get("max_position_embeddings")
    return limit if isinstance(limit, int) and limit > 0 else None
