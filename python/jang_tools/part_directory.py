"""OUTPUT.partial of a conversion in parts: several processes work there, one at its end.

Who makes shards shares a lock on the directory and holds one for each shard while he makes it; who
ends the conversion has it alone. `parts.plan` says of which plan the parts are. Checksums in the
records of shards protect what locks cannot: file systems without them, files brought from other
machines. Names are such that `cp` and `rsync` of all files bring everything that counts.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from jang_tools import _core
from jang_tools.directory_lock import DirectoryLock, make_directory
from jang_tools.errors import FormatError, IoError
from jang_tools.output_files import copy_file, write_file
from jang_tools.partial_output import (
    CONTINUE_HINT,
    COPIED,
    MARKER,
    MARKER_TEXT,
    PARTS,
    PASSING,
    SCRATCH,
    SUMS,
    add_hint,
    check_output,
    io_error,
    sync_directory,
)
from jang_tools.plan_file import CONFIG, content_hash

SOURCE_CONFIG = "source-config.json"  # the source's, for who ends the conversion without it
DOCUMENTS = ("config.json", "jang_config.json", "model.safetensors.index.json")
_SUMS_UNFINISHED = f"{SUMS}.new"
_SHARD = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")
_BESIDE = re.compile(r"model-\d{5,}-of-\d{5,}\.(?:safetensors\.part|record(?:\.new)?|lock)")
_STATES = re.compile(r"layers-(?:\d{5,}|all)\.states(?:\.new)?")  # behind layers, of gptq parts
FINAL_STATES = "layers-all.states"  # behind the head; has none, but says how tensors were solved
_LAYERS_LOCK = "layers.lock"
_COPY = re.compile(r"copy-[0-9a-f]{16}")
_KEPT = frozenset({*COPIED, *DOCUMENTS, SUMS})
_HELPERS = frozenset({MARKER, PARTS, SOURCE_CONFIG, _SUMS_UNFINISHED, _LAYERS_LOCK, *SCRATCH})


class PartDirectory:
    """``with PartDirectory(output, plan) as work:`` works in ``work.path`` beside others.

    ``alone``: nobody else works there, and parts are there already. ``repair``: ``output`` is
    there, and files of it are made again; `discard` ends that.
    """

    def __init__(
        self, output: Path, plan: _core.PlanFile, *, alone: bool = False, repair: bool = False
    ) -> None:
        self.output = Path(os.path.abspath(output))
        self.path = self.output.with_name(self.output.name + ".partial")
        self._plan = plan
        self._alone = alone
        self._repair = repair
        self._lock: DirectoryLock | None = None

    def __enter__(self) -> PartDirectory:
        try:
            if not self._repair:
                check_output(self.output, overwrite=False)
            if not self._alone:
                make_directory(self.path)
            elif not self.path.is_dir():
                raise IoError(
                    f"{self.path}: no such directory, so there are no parts to end with",
                    code="io",
                    hint="`jang convert --plan` makes them",
                )
            busy = "a part is being made there" if self._alone else "another command works there"
            self._lock = DirectoryLock(self.path, busy, shared=not self._alone, optional=True)
            self._check_mark()
            self._refuse_foreign()
        except BaseException as error:
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
        self._unlock()
        refused = isinstance(value, IoError) and value.code != "no_space"
        if isinstance(value, PASSING) and not refused:
            add_hint(value, CONTINUE_HINT.format(self.path))

    @contextmanager
    def shard_lock(self, name: str) -> Iterator[None]:
        """Keeps another process from making the shard of this name. IoError if one does."""
        with self._file_lock(
            f"{name.removesuffix('.safetensors')}.lock", "another process makes this shard"
        ):
            yield

    @contextmanager
    def layers_lock(self) -> Iterator[None]:
        """Keeps another process from making layers here. IoError if one does."""
        with self._file_lock(_LAYERS_LOCK, "another process makes a part of these layers"):
            yield

    @contextmanager
    def _file_lock(self, name: str, busy: str) -> Iterator[None]:
        file = self.path / name
        try:
            file.touch()
            lock = DirectoryLock(file, busy, optional=True)
        except OSError as error:
            if isinstance(error, IoError):
                raise
            raise io_error(file, error) from error
        try:
            yield
        finally:
            lock.release()

    def gather_documents(self, source: Path) -> None:
        """Copies what the end of the conversion needs of ``source``, where it is not there yet."""
        for name, target, digest in self._documents():
            if _has_hash(self.path / target, digest):
                continue
            copy = self.path / f"copy-{secrets.token_hex(8)}"
            try:
                copy_file(source / name, copy)
                if content_hash(copy) != digest:
                    raise FormatError(
                        f"{source / name}: changed while it was copied", code="checksum"
                    )
                os.replace(copy, self.path / target)
            finally:
                copy.unlink(missing_ok=True)

    def missing_documents(self) -> list[str]:
        """Names of copies that are not there, or not as the plan's source has them."""
        return [
            target
            for _, target, digest in self._documents()
            if not _has_hash(self.path / target, digest)
        ]

    def copied(self) -> list[str]:
        """Names of the tokenizer and template files that belong to the output."""
        return [name for name, _, _ in self._plan.files if name in COPIED]

    def remove_documents(self) -> None:
        """Clears what an end that did not come to its end has written."""
        for name in (SUMS, *DOCUMENTS):
            (self.path / name).unlink(missing_ok=True)

    def write_sums(self, content: bytes) -> None:
        """From here on only names are wrong: an interrupted end goes on with `publish`."""
        unfinished = self.path / _SUMS_UNFINISHED
        unfinished.unlink(missing_ok=True)
        write_file(unfinished, content)
        sync_directory(self.path)
        os.replace(unfinished, self.path / SUMS)
        sync_directory(self.path)

    def publish(self) -> None:
        """Removes everything that is no part of an output, and gives the directory its name."""
        try:
            helpers = [name for name in os.listdir(self.path) if not _belongs(name)]
            for name in sorted(helpers, key=_last_of_all):
                (self.path / name).unlink()
            sync_directory(self.path)
            check_output(self.output, overwrite=False)
            os.rename(self.path, self.output)
            sync_directory(self.output.parent)
        except OSError as error:
            if isinstance(error, IoError):
                raise
            raise io_error(self.output, error) from error

    def discard(self) -> None:
        """Removes the directory and all that parts have left in it."""
        try:
            for name in sorted(os.listdir(self.path), key=_last_of_all):
                (self.path / name).unlink()
            os.rmdir(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            raise io_error(self.path, error) from error

    def _documents(self) -> Iterator[tuple[str, str, str]]:
        """Name in the source, name here, SHA-256 of what is copied."""
        for name, _, digest in self._plan.files:
            if name == CONFIG:
                yield name, SOURCE_CONFIG, digest
            elif name in COPIED:
                yield name, name, digest

    def _check_mark(self) -> None:
        found = self._mark()
        if found is None:
            others = [name for name in os.listdir(self.path) if _in_the_way(name)]
            found = self._mark()  # a part that began at the same time
            if found is None and self._alone and (self.path / SUMS).is_file():
                return  # its end was interrupted between the last two names
            if found is None and (others or self._alone):
                raise IoError(
                    f"{self.path}: exists, and holds no parts of a plan ({PARTS} is not there)",
                    code="output_exists",
                    hint="end what began it, remove it yourself, or choose another output",
                )
        if found is None:
            self._write_mark()
            found = self._mark()
        if found != self._plan.checksum:
            raise IoError(
                f"{self.path}: expected parts of the plan {self._plan.checksum}, found those of"
                f" {found}",
                code="output_exists",
                hint="choose another output for this plan, or remove the parts that are there",
            )
        (self.path / MARKER).write_text(MARKER_TEXT, encoding="ascii")

    def _mark(self) -> str | None:
        try:
            return (self.path / PARTS).read_text(encoding="ascii", errors="replace").strip()[:80]
        except FileNotFoundError:
            return None

    def _write_mark(self) -> None:
        copy = self.path / f"copy-{secrets.token_hex(8)}"
        try:
            write_file(copy, f"{self._plan.checksum}\n".encode("ascii"))
            os.replace(copy, self.path / PARTS)
        finally:
            copy.unlink(missing_ok=True)
        sync_directory(self.path)

    def _refuse_foreign(self) -> None:
        for name in sorted(os.listdir(self.path)):
            file = self.path / name
            if not (_belongs(name) or _is_helper(name)) or file.is_symlink() or file.is_dir():
                raise IoError(
                    f"{self.path}: holds {name}, which no part of a conversion is",
                    code="output_exists",
                    hint="move it elsewhere, or choose another output",
                )

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _last_of_all(name: str) -> tuple[bool, bool]:
    """Sorts names for removal: the two that say whose directory it is go last."""
    return name in (PARTS, MARKER), name == MARKER


def _belongs(name: str) -> bool:
    return name in _KEPT or _SHARD.fullmatch(name) is not None


def _is_helper(name: str) -> bool:
    known = _BESIDE.fullmatch(name) or _COPY.fullmatch(name) or _STATES.fullmatch(name)
    return name in _HELPERS or known is not None


def _in_the_way(name: str) -> bool:
    """Of a directory without a mark: anything but what a part leaves that is just beginning."""
    return name != MARKER and _COPY.fullmatch(name) is None


def _has_hash(file: Path, digest: str) -> bool:
    with suppress(OSError):
        return not file.is_symlink() and content_hash(file) == digest
    return False
