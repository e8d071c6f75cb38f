"""SHA256SUMS: one line a file, `<64 hex>  <name>`, sorted by name; written, parsed and compared.

Hashing takes one thread a file (hashlib releases the interpreter lock); progress and Ctrl-C are
handled on the calling thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from jang_tools.errors import FormatError, IoError

SUMS = "SHA256SUMS"
_LINE = re.compile(rb"(?P<hex>[0-9a-f]{64})  (?P<name>[^/\\\0\r\n]+)")
_CHUNK = 1 << 20

Advance = Callable[[int, str], None]  # bytes hashed since the last call, file


class Reader(Protocol):
    """Sees the bytes of a file that is hashed, so that they are read once for both."""

    def feed(self, piece: memoryview) -> None:
        """The next bytes."""

    def end(self) -> None:
        """All was seen; raises what is wrong with it."""


def hash_files(
    directory: Path,
    names: Sequence[str],
    *,
    threads: int | None = None,
    advance: Advance | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> dict[str, str]:
    """SHA-256 of files, as 64 lower-case hex digits by name. Raises IoError.

    ``readers``: by name, for files whose bytes somebody else wants to see.
    """
    watching = readers or {}
    hashed = _Counter()
    stop = threading.Event()
    # The longest first, so that no thread is left alone with one at the end.
    order = sorted(names, key=lambda name: -_size(directory / name))
    workers = max(1, min(len(order), threads or os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(_hash_file, directory / name, hashed, stop, watching.get(name)): name
            for name in order
        }
        pending = set(jobs)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for job in done:
                    job.result()
                if advance is not None:
                    advance(hashed.take(), jobs[next(iter(done or pending))])
        except BaseException:
            stop.set()
            raise
        return {jobs[job]: job.result() for job in sorted(jobs, key=lambda job: jobs[job])}


def format_sums(sums: dict[str, str]) -> bytes:
    """The content of SHA256SUMS; `sha256sum -c` checks it."""
    order = sorted((os.fsencode(name), digest) for name, digest in sums.items())
    return b"".join(digest.encode("ascii") + b"  " + name + b"\n" for name, digest in order)


def parse_sums(content: bytes) -> dict[str, str]:
    """Strictly what `format_sums` writes: sorted, no name twice, lower-case hex, final newline.

    Raises FormatError naming the line.
    """
    lines = content.split(b"\n")
    if lines.pop() != b"":
        raise _malformed("expected a final newline")
    sums: dict[str, str] = {}
    previous = b""
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _malformed(
                f"line {number}: expected 64 lower-case hex digits, two spaces and a file name"
            )
        name = match["name"]
        if name <= previous:
            raise _malformed(f"line {number}: names must be sorted, each once")
        previous = name
        sums[os.fsdecode(name)] = match["hex"].decode("ascii")
    return sums


class _Counter:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count

    def take(self) -> int:
        with self._lock:
            count, self._bytes = self._bytes, 0
        return count


def _hash_file(path: Path, hashed: _Counter, stop: threading.Event, reader: Reader | None) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    try:
        with path.open("rb", buffering=0) as file:
            while not stop.is_set() and (count := file.readinto(buffer)):
                digest.update(buffer[:count])
                if reader is not None:
                    reader.feed(buffer[:count])
                hashed.add(count)
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    if reader is not None and not stop.is_set():
        reader.end()
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error


def _malformed(reason: str) -> FormatError:
    return FormatError(f"{SUMS}: {reason}", code="hash_file")
