"""Files of llama.cpp's importance matrices: sums of squares of the inputs of each tensor.

Two forms are read. GGUF: ``NAME.in_sum2`` F32 [matrices, columns], sums of squares, and
``NAME.counts`` F32 [matrices, 1], tokens; a dense tensor is one matrix, a stack of experts has one
each. The older binary form is little-endian, without magic:

    i32 entries, then for each: i32 length, name, i32 calls, i32 values, f32 [values]
    optionally i32 chunks, i32 length, name of the text

where values are means times calls, experts one after another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from jang_tools.errors import IoError
from jang_tools.foreign.faults import malformed, shown, unsupported
from jang_tools.foreign.gguf_file import MAGIC, MAX_NAME_BYTES, GgufFile

_MAX_BYTES = 1 << 32
_MAX_ENTRIES = 65_536

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """Sums over all calls, ``[matrices, columns]``, and how many there were, ``[matrices]``."""

    name: str
    sums: Floats
    counts: Floats


@dataclass(frozen=True)
class ImatrixFile:
    """``datasets`` and ``chunks``: what the file says it was made from."""

    entries: list[Entry]
    datasets: list[str]
    chunks: int


def read_entries(path: Path) -> ImatrixFile:
    """All entries of a file in either form.

    Raises FormatError for a file that breaks its form, UnsupportedError for a GGUF file that is no
    importance matrix, IoError.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    if start != MAGIC:
        legacy = _LegacyFile(path)
        return ImatrixFile(legacy.entries, legacy.datasets, legacy.chunks)
    with GgufFile(path) as gguf:
        datasets, chunks = (
            gguf.values.get(f"imatrix.{key}") for key in ("datasets", "chunk_count")
        )
        return ImatrixFile(
            list(_gguf_entries(gguf)),
            [str(name) for name in datasets] if isinstance(datasets, list) else [],
            chunks if isinstance(chunks, int) else 0,
        )


def _gguf_entries(file: GgufFile) -> Iterator[Entry]:
    name = file.path.name
    kind = file.values.get("general.type", "imatrix")
    if kind != "imatrix":
        raise unsupported(name, f"general.type: expected imatrix, found {shown(str(kind))}")
    for tensor in file.tensors.values():
        base, _, suffix = tensor.name.rpartition(".")
        other = {"in_sum2": "counts", "counts": "in_sum2"}.get(suffix)
        if other is None:
            continue  # in_sum, which newer files have too, and whatever follows
        if f"{base}.{other}" not in file.tensors:
            raise malformed(
                name, f"expected {shown(base)}.{other} beside it", code="missing_tensor",
                tensor=tensor.name,
            )  # fmt: skip
        if tensor.kind.name != "F32":
            raise malformed(
                name, f"expected F32, found {tensor.kind.name}", code="unusable_dtype",
                tensor=tensor.name,
            )  # fmt: skip
        if suffix == "counts":
            continue
        sums, counts = file.read(tensor), file.read(file.tensors[f"{base}.counts"])
        # Dimensions of one are not always written.
        if sums.ndim > 2 or counts.size != (1 if sums.ndim == 1 else len(sums)):
            raise malformed(
                name,
                f"expected one count for each of its matrices, found shape {list(sums.shape)} and"
                f" {counts.size} counts",
                code="tensor_shape",
                tensor=tensor.name,
            )
        yield Entry(base, sums.reshape(counts.size, -1), counts.reshape(-1))


class _LegacyFile:
    """The older form, walked from its start to its very end."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._at = 0
        try:
            if path.stat().st_size > _MAX_BYTES:
                self._fail(f"expected at most {_MAX_BYTES} bytes", "header_cap")
            self._data = path.read_bytes()
        except OSError as error:
            raise IoError(f"{path}: {error.strerror or error}", code="io") from error
        self.entries: list[Entry] = []
        self.datasets: list[str] = []
        self.chunks = 0
        names: set[str] = set()
        for _ in range(self._count("entries", _MAX_ENTRIES, 13)):
            entry = self._entry()
            if entry.name in names:
                self._fail("occurs twice", "duplicate_name", entry.name)
            names.add(entry.name)
            self.entries.append(entry)
        if self._at < len(self._data):
            (self.chunks,) = struct.unpack("<i", self._take(4))
            length = self._count("bytes of the text's name", MAX_NAME_BYTES, 1, least=0)
            self.datasets = [self._take(length).decode("utf-8", errors="replace")]
        if self._at < len(self._data):
            self._fail(
                f"expected its end at byte {self._at}, found {len(self._data) - self._at} more",
                "payload_layout",
            )

    def _entry(self) -> Entry:
        length = self._count("bytes of a name", MAX_NAME_BYTES, 1)
        try:
            name = self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            self._fail("a name is not UTF-8", "header_encoding")
        (calls,) = struct.unpack("<i", self._take(4))
        if calls < 0:
            self._fail(f"expected calls from 0 on, found {calls}", "config_value", name)
        count = self._count("values", len(self._data), 4, tensor=name)
        values = np.frombuffer(self._take(4 * count), "<f4").astype(np.float32)
        # The form does not say how many matrices there are; the model does.
        return Entry(name, values.reshape(1, -1), np.array([calls or 1], np.float32))

    def _count(
        self, what: str, most: int, bytes_each: int, least: int = 1, tensor: str = ""
    ) -> int:
        (count,) = struct.unpack("<i", self._take(4))
        most = min(most, (len(self._data) - self._at) // bytes_each)
        if not least <= count <= most:
            self._fail(f"{what}: expected {least} to {most}, found {count}", "header_cap", tensor)
        return int(count)

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._fail(
                f"expected {count} more bytes at byte {self._at}, found"
                f" {len(self._data) - self._at}",
                "header_past_end",
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def _fail(self, message: str, code: str, tensor: str = "") -> NoReturn:
        raise malformed(self._name, message, code=code, tensor=tensor)
