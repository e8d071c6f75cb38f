"""A GGUF file as its header describes it, and the bytes and values of its tensors.

A strict reader of our own: the ``gguf`` package follows counts and lengths wherever they lead. Here
every count is held against the bytes that are left before anything is allocated or walked, and a
file that opens has tensors that follow each other, aligned, without gap or overlap, up to its end.
Little-endian files of versions 2 and 3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn

import numpy as np

from jang_tools.errors import IoError
from jang_tools.foreign.faults import malformed, shown, unsupported
from jang_tools.foreign.gguf_blocks import OTHER_TYPES, TYPES, BlockType, Floats, dequantize

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1_000_000
MAX_KEYS = 65_536
MAX_VALUES = 4_000_000  # of all arrays of the header together
MAX_NAME_BYTES = 4096
MAX_DIMENSIONS = 4
CHUNK_WEIGHTS = 1 << 20

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """``shape``: rows before columns, as numpy has it; ``begin`` and ``bytes`` in the file."""

    name: str
    kind: BlockType
    shape: tuple[int, ...]
    begin: int
    bytes: int

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        """Of all dimensions but the last together."""
        return _product(self.shape[:-1])


class GgufFile:
    """An open file: ``values`` by key, ``tensors`` by name, ``bytes`` of the whole file.

    Raises FormatError for what breaks the format, UnsupportedError for another version or byte
    order or a type that holds no weights, IoError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb", buffering=1 << 16)
        except OSError as error:
            raise IoError(f"{path}: {error.strerror or error}", code="io") from error
        try:
            self.bytes = os.fstat(self._file.fileno()).st_size
            header = _Header(self._file, path.name, self.bytes)
            self.values = header.values
            self.tensors = header.tensors
        except OSError as error:
            self._file.close()
            raise IoError(f"{path}: {error.strerror or error}", code="io") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read_rows(self, tensor: GgufTensor, begin: int, end: int) -> Floats:
        """Rows ``[begin, end)`` as float32 ``[end - begin, columns]``, every value finite."""
        row_bytes = tensor.columns // tensor.kind.weights * tensor.kind.bytes
        length = (end - begin) * row_bytes
        try:
            self._file.seek(tensor.begin + begin * row_bytes)
            data = self._file.read(length)
        except OSError as error:
            raise IoError(f"{self.path}: {error.strerror or error}", code="io") from error
        if len(data) != length:
            raise malformed(
                self.path.name,
                f"expected {length} bytes, found {len(data)}: the file has become shorter",
                code="payload_layout",
                tensor=tensor.name,
            )
        values = dequantize(np.frombuffer(data, np.uint8), tensor.kind)
        values = values.reshape(end - begin, tensor.columns)
        if not np.isfinite(values).all():
            row, column = (int(at[0]) for at in np.nonzero(~np.isfinite(values)))
            raise malformed(
                self.path.name,
                f"row {begin + row}, column {column}: expected a finite value, found"
                f" {values[row, column]}",
                code="non_finite",
                tensor=tensor.name,
            )
        return values

    def chunks(self, tensor: GgufTensor, begin: int, end: int, step: int = 1) -> Iterator[Floats]:
        """Rows ``[begin, end)`` in pieces of about a million weights, of whole ``step`` rows."""
        rows = max(step, CHUNK_WEIGHTS // tensor.columns // step * step)
        for row in range(begin, end, rows):
            yield self.read_rows(tensor, row, min(row + rows, end))

    def read(self, tensor: GgufTensor) -> Floats:
        """The whole tensor in its shape: for small ones."""
        return self.read_rows(tensor, 0, tensor.rows).reshape(tensor.shape)


class _Header:
    """Reads from the start of a file; what it has passed is checked."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self._file, self._name, self._size = file, name, size
        self._at = 0
        self._array_values = 0
        self.values: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        tensors, keys = self._start()
        for _ in range(keys):
            self._pair()
        infos = [self._info() for _ in range(tensors)]
        self._place(infos)

    def _start(self) -> tuple[int, int]:
        if self._size < 24:
            self._fail(f"expected at least 24 bytes, found {self._size}", "file_too_small")
        magic = self._take(4)
        if magic != MAGIC:
            self._fail(f"expected the magic {MAGIC!r}, found {magic!r}", "header_syntax")
        (version,) = struct.unpack("<I", self._take(4))
        if version & 0xFFFF == 0 and version != 0:
            raise unsupported(self._name, "a big-endian GGUF file")
        if version not in (2, 3):
            raise unsupported(self._name, f"GGUF version {version}; supported: 2, 3")
        tensors, keys = struct.unpack("<QQ", self._take(16))
        # A tensor's entry takes 32 bytes at least, a key's 13.
        self._bounded("tensors", tensors, MAX_TENSORS, 32)
        self._bounded("keys", keys, MAX_KEYS, 13)
        return tensors, keys

    def _pair(self) -> None:
        key = self._name_text("a key")
        if key in self.values:
            self._fail(f"key '{shown(key)}': occurs twice", "duplicate_name")
        (kind,) = struct.unpack("<I", self._take(4))
        self.values[key] = self._value(key, kind)

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            self._fail(f"key '{shown(key)}': unknown type {kind}", "header_syntax")
        layout = _SCALARS[kind]
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        if kind != _BOOL:
            return value
        if value > 1:
            self._fail(f"key '{shown(key)}': expected 0 or 1, found {value}", "header_syntax")
        return bool(value)

    def _array(self, key: str) -> list[Any]:
        kind, count = struct.unpack("<IQ", self._take(12))
        where = f"key '{shown(key)}'"
        if kind == _ARRAY:
            self._fail(f"{where}: arrays of arrays are not allowed", "header_syntax")
        if kind != _STRING and kind not in _SCALARS:
            self._fail(f"{where}: unknown type {kind}", "header_syntax")
        size = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        self._bounded(f"{where}: values", count, MAX_VALUES - self._array_values, size)
        self._array_values += count
        if kind == _STRING:
            return [self._text() for _ in range(count)]
        data = np.frombuffer(self._take(count * size), _SCALARS[kind])
        values: list[Any] = data.tolist()
        return values

    def _info(self) -> tuple[str, BlockType, tuple[int, ...], int]:
        name = self._name_text("a tensor")

        def fail(message: str, code: str) -> NoReturn:
            raise malformed(self._name, message, code=code, tensor=name)

        if name in self.tensors:
            fail("occurs twice", "duplicate_name")
        (rank,) = struct.unpack("<I", self._take(4))
        if not 1 <= rank <= MAX_DIMENSIONS:
            fail(f"expected 1 to {MAX_DIMENSIONS} dimensions, found {rank}", "header_cap")
        lengths = struct.unpack(f"<{rank}Q", self._take(8 * rank))
        number, offset = struct.unpack("<IQ", self._take(12))
        if number in OTHER_TYPES:
            raise unsupported(self._name, f"type {OTHER_TYPES[number]} is not read", tensor=name)
        if number not in TYPES:
            fail(f"unknown type {number}", "unknown_dtype")
        kind = TYPES[number]
        if 0 in lengths or _product(lengths) * kind.bytes >= 1 << 62:
            fail(f"shape {list(lengths)} is empty or has no size in 64 bits", "shape_overflow")
        if lengths[0] % kind.weights != 0:
            fail(
                f"{lengths[0]} columns are not a multiple of the {kind.weights} of a"
                f" {kind.name} block",
                "tensor_shape",
            )
        # Names are taken at once, so that a second one is seen; places follow.
        shape = tuple(reversed(lengths))
        self.tensors[name] = GgufTensor(name, kind, shape, 0, 0)
        return name, kind, shape, offset

    def _place(self, infos: list[tuple[str, BlockType, tuple[int, ...], int]]) -> None:
        alignment = self.values.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or isinstance(alignment, bool)
            or not 8 <= alignment <= 1 << 20
            or alignment & (alignment - 1)
        ):
            self._fail(
                "general.alignment: expected a power of two from 8 to 2^20, found"
                f" {shown(str(alignment))}",
                "config_value",
            )
        start = _round_up(self._at, alignment)
        end = start
        for name, kind, shape, offset in infos:
            begin = _round_up(end, alignment)
            if start + offset != begin:
                raise malformed(
                    self._name,
                    f"expected its data at offset {begin - start}, found {offset}",
                    code="payload_layout",
                    tensor=name,
                )
            size = _product(shape) // kind.weights * kind.bytes
            end = begin + size
            if end > self._size:
                raise malformed(
                    self._name,
                    f"expected {size} bytes from byte {begin} on, found"
                    f" {max(0, self._size - begin)}: the file is cut off",
                    code="payload_layout",
                    tensor=name,
                )
            self.tensors[name] = GgufTensor(name, kind, shape, begin, size)
        if self._size >= _round_up(end, alignment) + alignment:
            self._fail(
                f"expected {end} bytes, found {self._size}: something follows the last tensor",
                "payload_layout",
            )

    def _text(self) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        return self._take(length).decode("utf-8", errors="replace")

    def _name_text(self, what: str) -> str:
        (length,) = struct.unpack("<Q", self._take(8))
        if not 1 <= length <= MAX_NAME_BYTES:
            self._fail(
                f"{what}: expected a name of 1 to {MAX_NAME_BYTES} bytes, found {length}",
                "header_cap",
            )
        data = self._take(length)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what}: its name is not UTF-8", "header_encoding")

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            self._fail(
                f"expected {count} more bytes of header at byte {self._at}, found"
                f" {self._size - self._at}",
                "header_past_end",
            )
        if self._at + count > MAX_HEADER_BYTES:
            self._fail(f"the header has more than {MAX_HEADER_BYTES} bytes", "header_too_large")
        data = self._file.read(count)
        if len(data) != count:
            self._fail("the file has become shorter", "header_past_end")
        self._at += count
        return data

    def _bounded(self, what: str, count: int, most: int, bytes_each: int) -> None:
        room = (self._size - self._at) // bytes_each
        if count > min(most, room):
            self._fail(f"{what}: expected at most {min(most, room)}, found {count}", "header_cap")

    def _fail(self, message: str, code: str) -> NoReturn:
        raise malformed(self._name, message, code=code)


def _product(lengths: tuple[int, ...]) -> int:
    total = 1
    for length in lengths:
        total *= length
    return total


def _round_up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
