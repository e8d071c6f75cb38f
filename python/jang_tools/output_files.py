"""Files of an output but for its weights: what is copied from the source, how they are written,
and whether there is space for all of it.

Every fault is an IoError, or an ArgumentError for directories that lie in each other.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from jang_tools.errors import ArgumentError, IoError
from jang_tools.partial_output import COPIED

_DOCUMENTS = 32 << 20  # at most, with index and directory blocks; far above what they take


def check_apart(source: Path, target: Path) -> None:
    """Refuses an output that is the source, or lies in it, or holds it."""
    real_source, real_target = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if real_source == real_target:
        raise ArgumentError(f"{target}: output and source are the same directory", code="argument")
    if real_source in real_target.parents:
        raise ArgumentError(f"{target}: the output lies inside the source", code="argument")
    if real_target in real_source.parents:
        raise ArgumentError(f"{target}: the source lies inside the output", code="argument")


def files_to_copy(source: Path) -> dict[str, int]:
    """Sizes of the tokenizer and template files there, links followed, regular files only."""
    found = {}
    for name in COPIED:
        try:
            status = (source / name).stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise IoError(f"{source / name}: {error.strerror or error}", code="io") from error
        if stat.S_ISREG(status.st_mode):
            found[name] = status.st_size
    return found


def check_space(directory: Path, needed: int, parts: Sequence[tuple[str, int]] = ()) -> None:
    """Refuses to begin where fewer than ``needed`` bytes, and some for documents, are free.
    ``parts``: what takes them, and how much, where it is more than the output; less of it may be
    needed where some is there."""
    if not hasattr(os, "statvfs"):
        return
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    documents = min(_DOCUMENTS, (1 << 20) + needed // 8)
    if free < needed + documents:
        taking = [(name, size) for name, size in parts if size] or [("output", needed)]
        still = "still " if needed < sum(size for _, size in taking) else ""
        listed = ", ".join(
            f"{_size_text(size)} for {name}" for name, size in [*taking, ("documents", documents)]
        )
        what = f"{_size_text(needed + documents)} are {still}needed ({listed})"
        raise IoError(
            f"{directory.parent}: no space: {what}, {_size_text(free)} are free",
            code="no_space",
            hint="free some space, or write to another file system",
        )


def copy_file(source: Path, target: Path) -> None:
    """To a name that is free; durable when it returns."""
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise write_error(target, error) from error


def write_file(path: Path, content: bytes) -> None:
    """A file of a name that is free; durable when it returns."""
    try:
        with path.open("xb") as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> IoError:
    """What the system said about ``path``, as one line."""
    code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "io"
    return IoError(f"{path}: {error.strerror or error}", code=code)


def _size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
