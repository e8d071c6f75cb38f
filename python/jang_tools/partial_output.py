"""The directory that a conversion works in, OUTPUT.partial, and its one rename to OUTPUT.

A lock on the directory keeps two conversions apart; a marker file says that it is ours. Nothing is
ever deleted but files that a conversion writes, by their names. A conversion that can be continued
leaves its state there when it is interrupted (cpp/convert/resume_state.h), for the next one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import stat
import sys
from pathlib import Path
from types import TracebackType

from jang_tools.directory_lock import DirectoryLock, make_directory
from jang_tools.errors import CancelledError, IoError

GENERATOR = "jang-tools"
MARKER = ".jang-partial"
PARTS = "parts.plan"  # in a directory that holds parts of a planned conversion (part_directory.py)
SUMS = "SHA256SUMS"
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "chat_template.jinja",
    "chat_template.json",
)
# What the core writes down to continue from, each also under the name it has until it is complete.
_STATE = frozenset({".resume-losses", ".resume-layers"})
_UNFINISHED = frozenset(f"{name}.new" for name in _STATE)
# Scratch files lose their names as soon as they are open; a kill may come between.
SCRATCH = frozenset(
    f".calibration-{name}"
    for name in (
        *("quantized", "quantized-keys", "full", "full-keys", "experts"),
        *("measured", "measured-keys", "probed-keys"),
    )
)
_WRITTEN = frozenset(
    {*COPIED, MARKER, SUMS, "config.json", "jang_config.json", "model.safetensors.index.json"}
    | _STATE
    | _UNFINISHED
    | SCRATCH
)
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
MARKER_TEXT = "A conversion by jang-tools works here; it is removed or renamed when that ends.\n"
# Ends of a conversion that the same command may overcome; what a file has wrong stays wrong.
PASSING = (KeyboardInterrupt, SystemExit, CancelledError, OSError, MemoryError)
CONTINUE_HINT = "{} keeps what is done: the same command continues there"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def is_ours(directory: Path) -> bool:
    """Whether jang_config.json there names this program as its generator."""
    try:
        document = json.loads((directory / "jang_config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    generator = document.get("generator") if isinstance(document, dict) else None
    return isinstance(generator, dict) and generator.get("name") == GENERATOR


def check_output(output: Path, *, overwrite: bool, option: str = "--overwrite") -> None:
    """Raises what speaks against writing ``output`` before any work is done; ``option`` is what the
    command calls ``overwrite``."""
    parent = output.parent
    if not parent.is_dir():
        raise IoError(
            f"{parent}: no such directory, so {output.name} cannot be made in it", code="io"
        )
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise IoError(
            f"{output}: already exists",
            code="output_exists",
            hint=f"choose another output, or {option} to replace a directory of jang-tools",
        )
    if output.is_symlink() or not output.is_dir() or not is_ours(output):
        raise IoError(
            f"{output}: not a directory that jang-tools wrote, so it is not overwritten",
            code="output_exists",
            hint="remove it yourself or choose another output",
        )
    _refuse_foreign(output, "so it is not overwritten")


class PartialOutput:
    """``with PartialOutput(output) as partial:`` works in ``partial.path``; ``commit`` renames it.

    Leaving the block in any other way removes what was written. ``resume``: state that an earlier
    conversion left stays with its shards, and if this one is interrupted, or the machine refuses,
    so does its own.
    """

    def __init__(self, output: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.output = Path(os.path.abspath(output))
        self.path = self.output.with_name(self.output.name + ".partial")
        self._overwrite = overwrite
        self._resume = resume
        self._lock: DirectoryLock | None = None
        self._committed = False

    def __enter__(self) -> PartialOutput:
        created = False
        try:
            check_output(self.output, overwrite=self._overwrite)
            created = make_directory(self.path)
            self._lock = DirectoryLock(self.path, "another conversion is working there")
            if not created:
                self._empty_stale()
            (self.path / MARKER).write_text(MARKER_TEXT, encoding="ascii")
        except BaseException as error:
            if created:
                _remove_written(self.path)
            self._unlock()
            if isinstance(error, OSError) and not isinstance(error, IoError):
                raise io_error(self.path, error) from error
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._resume and isinstance(value, PASSING) and self._has_state():
                add_hint(value, CONTINUE_HINT.format(self.path))
            elif not self._committed:
                _remove_written(self.path)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def kept_bytes(self) -> int:
        """Disk space that files of an earlier conversion take here."""
        return sum(_disk_bytes(self.path / name) for name in os.listdir(self.path))

    def _has_state(self) -> bool:
        return not self._committed and any((self.path / name).is_file() for name in _STATE)

    def commit(self) -> None:
        """Makes everything durable and gives the directory its name, in one step."""
        try:
            for name in _STATE | _UNFINISHED:
                (self.path / name).unlink(missing_ok=True)
            (self.path / MARKER).unlink()
            sync_directory(self.path)
            check_output(self.output, overwrite=self._overwrite)
            if os.path.lexists(self.output):
                self._replace()
            else:
                os.rename(self.path, self.output)
                self._committed = True
            sync_directory(self.output.parent)
        except OSError as error:
            if isinstance(error, IoError):
                raise
            raise io_error(self.output, error) from error

    def _empty_stale(self) -> None:
        names = os.listdir(self.path)
        if PARTS in names:
            raise IoError(
                f"{self.path}: holds parts of a planned conversion, so it is not cleared",
                code="output_exists",
                hint="`jang finalize` ends that one; or remove it, or choose another output",
            )
        if names and MARKER not in names and not is_ours(self.path):
            raise IoError(
                f"{self.path}: exists, and is not from a conversion of jang-tools",
                code="output_exists",
                hint="remove it yourself or choose another output",
            )
        _refuse_foreign(self.path, "so it is not cleared")
        resume = self._resume and self._has_state()
        for name in names:
            if resume and (name in _STATE or _SHARD.fullmatch(name)):
                continue  # for the core, which knows whether they fit
            if name != MARKER:  # last, so that an interruption leaves it recognisable
                (self.path / name).unlink()

    def _replace(self) -> None:
        if _exchange(self.path, self.output):
            self._committed = True
            _remove_written(self.path)  # now the directory that was there before
            return
        # Without an atomic exchange there is a moment with the old directory under another name.
        former = self.output.with_name(self.output.name + ".partial.former")
        os.rename(self.output, former)
        try:
            os.rename(self.path, self.output)
        except BaseException:
            os.rename(former, self.output)
            raise
        self._committed = True
        _remove_written(former)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_output(output: Path) -> None:
    """Removes a directory that a conversion wrote; IoError if it is not one, or cannot be removed.

    An interruption leaves a directory that this function still knows.
    """
    known = not output.is_symlink() and output.is_dir()
    if not known or not (is_ours(output) or (output / MARKER).is_file()):
        raise IoError(
            f"{output}: not a directory that jang-tools wrote, so it is not removed",
            code="output_exists",
            hint="remove it yourself or choose another output",
        )
    _refuse_foreign(output, "so it is not removed")
    try:
        (output / MARKER).write_text(MARKER_TEXT, encoding="ascii")
    except OSError as error:
        raise io_error(output, error) from error
    _remove_written(output)
    if os.path.lexists(output):
        raise IoError(f"{output}: cannot be removed", code="io")


def _is_written_name(name: str) -> bool:
    return name in _WRITTEN or _SHARD.fullmatch(name) is not None


def _refuse_foreign(directory: Path, consequence: str) -> None:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not _is_written_name(entry.name) or not entry.is_file(follow_symlinks=False):
            raise IoError(
                f"{directory}: holds {entry.name}, which no conversion writes, {consequence}",
                code="output_exists",
                hint="move it elsewhere, or choose another output",
            )


def _remove_written(directory: Path) -> None:
    """Removes the files that a conversion writes, and the directory if nothing else is in it."""
    try:
        names = sorted(os.listdir(directory), key=lambda name: name == MARKER)
        for name in names:
            file = directory / name
            if _is_written_name(name) and stat.S_ISREG(file.lstat().st_mode):
                file.unlink()
        directory.rmdir()
    except OSError:
        # Removal is tidying up after something else, which is what the user must hear about. What
        # stays is called .partial and is cleared by the next conversion.
        return


def add_hint(error: BaseException, hint: str) -> None:
    """Adds to the hint of an error of any type, behind its own."""
    known = getattr(error, "hint", "")
    setattr(error, "hint", f"{known}; {hint}" if known else hint)  # noqa: B010 - of any exception


def _disk_bytes(file: Path) -> int:
    status = file.lstat()
    blocks = getattr(status, "st_blocks", None)  # of 512 bytes, where the system says
    return status.st_size if blocks is None else blocks * 512


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two directories atomically; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if done == 0:
        return True
    reason = ctypes.get_errno()
    if reason in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(reason, os.strerror(reason), str(other))


def io_error(path: Path, error: OSError) -> IoError:
    """What the system said, as one line that names the file."""
    code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "io"
    where = error.filename if isinstance(error.filename, str) else str(path)
    return IoError(f"{where}: {error.strerror or error}", code=code)
