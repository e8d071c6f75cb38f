"""verify(): proof that a directory is what it says, down to the last byte.

The core judges structure, map, manifest, checksums and values; this file judges SHA256SUMS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.errors import FormatError, IoError, JangError, UnsupportedError
from jang_tools.hub import resolve_model
from jang_tools.part_directory import DOCUMENTS
from jang_tools.partial_output import COPIED, is_ours
from jang_tools.plan_file import read_plan_file
from jang_tools.sha256sums import SUMS, hash_files, parse_sums

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the item just finished


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``code`` is stable, ``file`` and ``tensor`` may be empty."""

    code: str
    file: str
    tensor: str
    message: str

    def __str__(self) -> str:
        parts = [self.file, f"tensor '{self.tensor}'" if self.tensor else "", self.message]
        return ": ".join(part for part in parts if part)


@dataclass(frozen=True)
class TensorError:
    """A quantized module against its source: root mean square of the error over that of the source,
    the largest error, and the relative error that is still accepted."""

    path: str
    relative_rms: float
    max_abs: float
    bound: float


@dataclass(frozen=True)
class VerifyResult:
    """``ok`` if there is no fault. ``notices`` say what could not be checked, and why.

    ``damaged``: with a plan, the files of it that faults name, in the order of their names.
    """

    path: Path
    faults: list[Fault] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    tensors: list[TensorError] | None = None  # with a source to compare with
    damaged: list[str] | None = None

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang verify --json``."""
        document: dict[str, Any] = {
            "schema": "jang.verify/1",
            "path": str(self.path),
            "ok": self.ok,
            "faults": [vars(fault).copy() for fault in self.faults],
            "notices": self.notices,
        }
        if self.tensors is not None:
            document["tensors"] = [vars(tensor).copy() for tensor in self.tensors]
        if self.damaged is not None:
            document["damaged"] = self.damaged
        return document


def verify(
    path: str | Path,
    against: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    plan: str | Path | None = None,
) -> VerifyResult:
    """Checks a directory; with ``against`` (its unquantized source) also every value.

    ``plan``: the plan file that the directory was made by; then the result says which of its files
    `jang_tools.repair` would make again.

    A tensor fails if its relative error exceeds 1.5 times (method gptq: 2 times, mse with
    statistics: 3 times) that of plain rounding at the same bits and group size.
    ``progress(done, total, item)`` counts bytes.

    Raises UnsupportedError for a format that is refused by name, IoError; what is wrong with the
    directory's content is in the result.
    """
    directory = resolve_model(path)
    expected = None if plan is None else planned_files(plan)
    source = None if against is None else resolve_model(against)
    if source is not None:  # what is wrong with the source is no fault of the directory
        _core.plan_directory(str(source), profile="uniform-8")
    has_sums = os.path.lexists(directory / SUMS)
    names = _list_files(directory)
    hash_bytes = sum(max(size, 0) for size in names.values()) if has_sums else 0
    scale = _Scale(progress, hash_bytes)
    faults: list[Fault] = []
    notices: list[str] = []
    tensors: list[TensorError] | None = None
    try:
        found = _core.verify_directory(
            str(directory),
            against=None if source is None else str(source),
            threads=threads or 0,
            progress=scale.core if progress else None,
        )
    except (FormatError, UnsupportedError) as error:
        if not has_sums and expected is None:
            raise
        # The sums can still tell whether this is how the directory was written.
        faults.append(_fault_of(error))
    else:
        faults = [Fault(row.code, row.file, row.tensor, row.message) for row in found.faults]
        notices = list(found.notices)
        if source is not None:
            tensors = [
                TensorError(row.path, row.relative_rms, row.max_abs, row.bound)
                for row in found.tensors
            ]
    ours = is_ours(directory)
    if has_sums:
        more, remarks = _check_sums(directory, names, ours, threads, scale)
        faults += more
        notices += remarks
    elif ours:
        faults.append(Fault("hash_file", SUMS, "", "missing"))
    else:
        notices.append(f"no {SUMS} to compare with")
    damaged = None
    if expected is not None:
        faults += _misfits(expected, names, faults)
        damaged = sorted(set(expected) & _damaged_files(faults))
    return VerifyResult(directory, faults, notices, tensors, damaged)


def planned_files(plan: str | Path) -> dict[str, int | None]:
    """Names of all files of the directory that a plan file makes; sizes where it says them."""
    known = read_plan_file(plan)
    sizes: dict[str, int | None] = dict.fromkeys((*DOCUMENTS, SUMS))
    sizes |= {name: size for name, size, _ in known.files if name in COPIED}
    for shard, name in enumerate(known.shards):
        sizes[name] = known.layout(shard).file_bytes
    return sizes


def _misfits(
    expected: dict[str, int | None], names: dict[str, int], faults: list[Fault]
) -> list[Fault]:
    """Files of a plan that are missing or of another size, and no fault says so yet."""
    said = _damaged_files(faults)
    found = []
    for name, size in sorted(expected.items()):
        if name in said or name == SUMS:
            continue
        if name not in names:
            found.append(Fault("hash_file", name, "", "missing, but a file of the plan"))
        elif size is not None and names[name] != size:
            reason = f"expected {size} bytes as the plan has it, found {names[name]}"
            found.append(Fault("hash_file", name, "", reason))
    return found


def _damaged_files(faults: list[Fault]) -> set[str]:
    """Those whose bytes are wrong; other faults may name a file for what another one lacks."""
    return {Path(fault.file).name for fault in faults if fault.code in ("hash_file", "checksum")}


class _Scale:
    """The core's progress and that of hashing on one scale."""

    def __init__(self, callback: Progress | None, hash_bytes: int) -> None:
        self._callback = callback
        self._hash_bytes = hash_bytes
        self._core_bytes = 0
        self._hashed = 0

    def core(self, done: int, total: int, item: str) -> None:
        self._core_bytes = total
        if self._callback is not None:
            self._callback(done, total + self._hash_bytes, item)

    def hashed(self, count: int, item: str) -> None:
        self._hashed += count
        if self._callback is not None:
            total = self._core_bytes + self._hash_bytes
            self._callback(self._core_bytes + self._hashed, total, item)


def _list_files(directory: Path) -> dict[str, int]:
    """Sizes of everything in the directory but SHA256SUMS; -1 for what is no regular file."""
    try:
        with os.scandir(directory) as entries:
            return {
                entry.name: entry.stat().st_size if entry.is_file() else -1
                for entry in entries
                if entry.name != SUMS
            }
    except OSError as error:
        raise IoError(f"{directory}: {error.strerror or error}", code="io") from error


def _check_sums(
    directory: Path, names: dict[str, int], ours: bool, threads: int | None, scale: _Scale
) -> tuple[list[Fault], list[str]]:
    try:
        sums = parse_sums((directory / SUMS).read_bytes())
    except OSError as error:
        return [Fault("io", SUMS, "", error.strerror or str(error))], []
    except FormatError as error:
        return [Fault("hash_file", SUMS, "", str(error).removeprefix(f"{SUMS}: "))], []
    faults: list[Fault] = []
    notices: list[str] = []
    for name in sorted(set(sums) - set(names)):
        faults.append(Fault("hash_file", name, "", f"missing, but listed in {SUMS}"))
    for name in sorted(set(names) - set(sums)):
        kind = "a file" if names[name] >= 0 else "no file"
        if ours:
            faults.append(Fault("stray_file", name, "", f"{kind}, and not listed in {SUMS}"))
        else:
            notices.append(f"{name}: not listed in {SUMS}")
    common = sorted(set(sums) & set(names))
    for name in common:
        if names[name] < 0:
            faults.append(Fault("hash_file", name, "", "expected a regular file"))
    hashed = hash_files(
        directory,
        [name for name in common if names[name] >= 0],
        threads=threads,
        advance=scale.hashed,
    )
    for name, digest in hashed.items():
        if digest != sums[name]:
            faults.append(
                Fault("hash_file", name, "", f"SHA-256 is {digest}, {SUMS} says {sums[name]}")
            )
    return faults, notices


def _fault_of(error: JangError) -> Fault:
    return Fault(error.code, error.file, error.tensor, error.message)
