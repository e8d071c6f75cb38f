"""The folder that a comparison works in: its lock, what has been done, and the hashes of files.

``state.json`` says which conversion each subfolder is of and what was measured on which bytes; it
is replaced as a whole after every step, so that whatever ends a run loses one step at most.
``comparison.json`` is the document for readers.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from jang_tools.directory_lock import DirectoryLock
from jang_tools.errors import FormatError, IoError
from jang_tools.json_file import read_json_object
from jang_tools.partial_output import remove_output, sync_directory
from jang_tools.sha256sums import SUMS, format_sums, hash_files, parse_sums

STATE, DOCUMENT = "state.json", "comparison.json"
Progress = Callable[[str, int, int, str], None]  # stage, done, in all, unit

_SCHEMA = "jang.compare-state/1"


def key_of(**parts: Any) -> str:
    """A name for settings: equal settings have equal keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


class WorkFolder:
    """``with WorkFolder(path, source) as folder:`` holds the lock.

    ``source`` names the model: a folder serves one. Raises IoError for a folder that holds
    something else or that another run works in.
    """

    def __init__(self, path: Path, source: str, progress: Progress | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self._source = source
        self._progress = progress
        self._lock: DirectoryLock | None = None
        self._state: dict[str, Any] = {}

    def __enter__(self) -> WorkFolder:
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise IoError(f"{self.path}: {error.strerror or error}", code="io") from error
        self._lock = DirectoryLock(self.path, "another comparison is working there")
        try:
            self._load()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a folder in which nothing was done does not stay
            self.path.rmdir()
        if self._lock is not None:
            self._lock.release()

    # --- what has been done -------------------------------------------------------------------

    def conversion(self, name: str) -> dict[str, Any] | None:
        """What is known of the row's conversion: its ``key`` and, once it is done, the rest."""
        found = self._state["conversions"].get(name)
        return found if isinstance(found, dict) else None

    def set_conversion(self, name: str, record: dict[str, Any]) -> None:
        self._state["conversions"][name] = record
        self.save()

    def measured(self, key: str) -> dict[str, Any] | None:
        """The scores under a key, or None."""
        found = self._state["measured"].get(key)
        return found if isinstance(found, dict) else None

    def set_measured(self, key: str, record: dict[str, Any]) -> None:
        """Kept in memory until the next `save`."""
        self._state["measured"][key] = record

    def save(self) -> None:
        write_json(self.path / STATE, self._state, indent=None)

    # --- rows on disk -------------------------------------------------------------------------

    def directory(self, name: str) -> Path:
        return self.path / name

    def complete(self, name: str, threads: int | None) -> str | None:
        """The hash of a row's directory if every file is as SHA256SUMS says; else None."""
        directory = self.directory(name)
        try:
            content = (directory / SUMS).read_bytes()
            sums = parse_sums(content)
            found = self.hashes(directory, sorted(sums), threads)
        except (OSError, FormatError):
            return None
        return hashlib.sha256(content).hexdigest() if found == sums else None

    def remove(self, name: str) -> None:
        """Removes a row's directory, if there is one; IoError if something else lies there."""
        directory = self.directory(name)
        if os.path.lexists(directory):
            remove_output(directory)

    def model_hash(self, model: Path, threads: int | None) -> str:
        """The hash of a model that was given: of its one file, or of weights, configuration and
        tokenizer: all that decides what it computes and which tokens it reads."""
        if model.is_file():
            return self.hashes(model.parent, [model.name], threads)[model.name]
        files = (file for kind in ("*.safetensors", "*.json") for file in model.glob(kind))
        names = [file.name for file in files if file.is_file()]
        sums = self.hashes(model, names, threads)
        return hashlib.sha256(format_sums(sums)).hexdigest()

    def hashes(self, directory: Path, names: list[str], threads: int | None) -> dict[str, str]:
        """SHA-256 by name; a file of unchanged size and time is not read again."""
        known = self._state["files"]
        found: dict[str, str] = {}
        stamps = {}
        for name in names:
            path = directory.resolve() / name
            status = path.stat()
            stamps[name] = [status.st_size, status.st_mtime_ns]
            entry = known.get(str(path))
            if isinstance(entry, list) and entry[:2] == stamps[name]:
                found[name] = entry[2]
        missing = [name for name in names if name not in found]
        if missing:
            advance = self._advance(sum(stamps[name][0] for name in missing))
            fresh = hash_files(directory, missing, threads=threads, advance=advance)
            for name, digest in fresh.items():
                found[name] = digest
                known[str(directory.resolve() / name)] = [*stamps[name], digest]
        return dict(sorted(found.items()))

    def _advance(self, total: int) -> Callable[[int, str], None] | None:
        progress = self._progress
        if progress is None:
            return None
        hashed = 0

        def advance(count: int, _: str) -> None:
            nonlocal hashed
            hashed += count
            progress("hashing", hashed, total, "B")

        return advance

    # --- the folder itself --------------------------------------------------------------------

    def _load(self) -> None:
        state = read_json_object(self.path / STATE)
        if not state:
            strangers = sorted(name for name in os.listdir(self.path) if name != f"{STATE}.new")
            if strangers:
                raise IoError(
                    f"{self.path}: holds {strangers[0]}, and is not the folder of a comparison",
                    code="output_exists",
                    hint="choose another folder with --output",
                )
            state = {"schema": _SCHEMA, "source": self._source}
        if state.get("schema") != _SCHEMA:
            raise FormatError(
                f"{self.path / STATE}: expected schema {_SCHEMA}, found {state.get('schema')!r}"
            )
        if state.get("source") != self._source:
            raise IoError(
                f"{self.path}: is the folder of a comparison of {state.get('source')}, not of"
                f" {self._source}",
                code="output_exists",
                hint="choose another folder with --output",
            )
        for name in ("conversions", "measured", "files"):
            part = state.setdefault(name, {})
            if not isinstance(part, dict):
                raise FormatError(f"{self.path / STATE}: {name}: expected an object")
        self._state = state


def write_json(path: Path, document: dict[str, Any], indent: int | None = 1) -> None:
    """Replaces a file by a document at once: readers see the old one or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=indent)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_directory(path.parent)
    except OSError as error:
        code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "io"
        raise IoError(f"{path}: {error.strerror or error}", code=code) from error
