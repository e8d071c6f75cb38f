"""repair(): a directory that was made by a plan gets its damaged files back.

What is damaged is judged by SHA256SUMS, or by the checksums in jang_config.json where that is gone.
Shards are made again from the source in DIR.partial, compared with what they should be, and only
then renamed into place, one by one; documents follow from plan and shards. Interrupted at any
moment, the same call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.convert import opens_thinking
from jang_tools.directory_lock import DirectoryLock
from jang_tools.errors import ArgumentError, FormatError, IoError, JangError, UnsupportedError
from jang_tools.finalize import ShardReader
from jang_tools.json_file import read_json_object
from jang_tools.part_directory import DOCUMENTS, SOURCE_CONFIG, PartDirectory
from jang_tools.partial_output import COPIED, PARTS, io_error, sync_directory
from jang_tools.parts import Notice, PartJob, Progress
from jang_tools.sha256sums import SUMS, format_sums, hash_files, parse_sums

_MANIFEST = "jang_config.json"


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be."""

    file: str
    reason: str


@dataclass(frozen=True)
class Repair:
    """What a repair has found, and the files that it has replaced."""

    path: Path
    plan: str
    damaged: list[Damage] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """``repair`` of ``jang verify --json``."""
        return {
            "plan": self.plan,
            "damaged": [vars(damage).copy() for damage in self.damaged],
            "replaced": self.replaced,
        }


def repair(
    path: str | Path,
    *,
    plan: str | Path,
    against: str | Path,
    statistics: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> Repair:
    """Makes the damaged files of the directory ``path`` again, from the file ``plan`` that it was
    made by and its source ``against``.

    Shards that are sound are read, not made. ``statistics``: the file that the plan was made with,
    where it was made with one. ``progress`` counts bytes read, and then, on a scale of its own,
    those of the source. Files that the plan does not know are left alone.

    Raises UnsupportedError for a plan of method gptq, ArgumentError for a directory that another
    plan or source made, FormatError for a source that differs from the plan's, or a directory
    without any checksums to go by, IoError.
    """
    directory = Path(os.path.realpath(path))
    if not directory.is_dir():
        raise IoError(f"{path}: no such directory to repair", code="io")
    job = PartJob(
        plan, directory, model=against, statistics=statistics, threads=threads, repair=True
    )
    try:
        lock = DirectoryLock(directory, "another command repairs it", optional=True)
    except OSError as error:
        raise error if isinstance(error, IoError) else io_error(directory, error) from error
    try:
        return _Repair(directory, job, threads, progress, notice).run()
    finally:
        lock.release()


def refuse_method(plan: _core.PlanFile, plan_path: str | Path) -> None:
    """UnsupportedError where the shards of a plan cannot be made one by one."""
    if plan.method == "gptq":
        raise UnsupportedError(
            f"{plan_path}: method gptq: its layers build on each other, so no shard can be made"
            " again alone",
            code="argument",
            hint=f"`jang convert --plan {plan_path}` makes the directory anew",
        )


class _Repair:
    def __init__(
        self,
        directory: Path,
        job: PartJob,
        threads: int | None,
        progress: Progress | None,
        notice: Notice | None,
    ) -> None:
        self._directory = directory
        self._job = job
        self._plan = job.plan
        self._threads = threads
        self._progress = progress
        self._notice = notice
        self._found = _Judge(directory, job, threads, progress)
        self._replaced: list[str] = []

    def run(self) -> Repair:
        found = self._found
        damaged = found.judge()
        shards = [number for number, name in enumerate(self._job.names) if name not in found.hashes]
        if damaged or self._leftovers():
            core = self._job.core()
            with self._job.directory as work:
                try:
                    self._make(work, core, shards)
                    self._write_documents(work, core)
                    self._write_sums(work)
                except ArgumentError:  # what was made belongs elsewhere
                    work.discard()
                    raise
                work.discard()
        return Repair(self._directory, self._plan.checksum, damaged, self._replaced)

    def _leftovers(self) -> bool:
        """Whether an interrupted repair has left something behind."""
        return (self._job.directory.path / PARTS).is_file()

    def _make(self, work: PartDirectory, core: _core.PlannedShards, shards: Sequence[int]) -> None:
        """Shards first, all of them: nothing is replaced before everything new is known to fit."""
        self._job.make_in(work, core, shards, progress=self._progress, notice=self._notice)
        names = [self._job.names[shard] for shard in shards]
        hashes = hash_files(work.path, names, threads=self._threads)
        for shard, name in zip(shards, names, strict=True):
            self._found.require(name, hashes[name], self._checksums(work, shard))
        for name in names:
            if hashes[name] != self._found.seen.get(name):
                self._replace(work, name)
        self._found.hashes |= hashes

    def _checksums(self, work: PartDirectory, shard: int) -> dict[str, int]:
        return _core.shard_checksums(str(work.path), self._plan, shard) or {}

    def _write_documents(self, work: PartDirectory, core: _core.PlannedShards) -> None:
        work.gather_documents(self._job.source)
        copied = [name for name in work.copied() if name not in self._found.hashes]
        documents = [name for name in DOCUMENTS if name not in self._found.hashes]
        if documents:
            self._record_shards(work, core)
            work.remove_documents()
            _core.finish_planned(
                str(work.path),
                self._plan,
                (work.path / SOURCE_CONFIG).read_bytes(),
                opens_thinking(work.path, []),
            )
        hashes = hash_files(work.path, [*copied, *documents], threads=self._threads)
        for name in documents:
            self._found.require(name, hashes[name], None)
        for name in (*copied, *documents):
            if hashes[name] != self._found.seen.get(name):
                self._replace(work, name)
        self._found.hashes |= hashes

    def _record_shards(self, work: PartDirectory, core: _core.PlannedShards) -> None:
        """Documents say what records know of every shard; sound ones have theirs no more."""
        for shard, name in enumerate(self._job.names):
            if self._checksums(work, shard):
                continue
            if not core.record(str(self._directory), str(work.path), shard):
                self._job.make_in(work, core, [shard], progress=None, notice=self._notice)
                self._found.require(name, hash_files(work.path, [name])[name], None)

    def _write_sums(self, work: PartDirectory) -> None:
        content = format_sums({**(self._found.sums or {}), **self._found.hashes})
        if content != self._found.sums_content:
            work.write_sums(content)
            self._replace(work, SUMS)

    def _replace(self, work: PartDirectory, name: str) -> None:
        try:
            os.replace(work.path / name, self._directory / name)
            sync_directory(self._directory)
        except OSError as error:
            raise io_error(self._directory / name, error) from error
        self._replaced.append(name)


class _Judge:
    """Which files are what they should be.

    ``hashes``: SHA-256 of those that are; ``seen``: of all that can be read. ``sums``: what
    SHA256SUMS says, None where it does not say it of all shards.
    """

    def __init__(
        self, directory: Path, job: PartJob, threads: int | None, progress: Progress | None
    ) -> None:
        self._directory = directory
        self._job = job
        self._plan = job.plan
        self._threads = threads
        self._progress = progress
        self.hashes: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        self.sums: dict[str, str] | None = None
        self.sums_content: bytes | None = None
        self._damaged: list[Damage] = []
        self._checksums: dict[str, int] | None = None

    def judge(self) -> list[Damage]:
        """Reads every file of the plan once. Raises FormatError where nothing says what they were,
        ArgumentError where it was something else."""
        refuse_method(self._plan, self._job.plan_path)
        self._refuse_other_shards()
        self._read_sums()
        self._read_manifest()
        if self.sums is None and self._checksums is None:
            raise FormatError(
                f"{self._directory}: neither {SUMS} nor {_MANIFEST} says what its shards were",
                code="hash_file",
                hint=f"`jang convert --plan {self._job.plan_path}` makes the directory anew",
            )
        self._judge_shards()
        self._judge_documents()
        return sorted(self._damaged, key=lambda damage: damage.file)

    def require(self, name: str, digest: str, checksums: dict[str, int] | None) -> None:
        """Holds a new file against what the old one was. ``checksums``: of a shard, by tensor.

        Raises ArgumentError: then another plan or source made the directory.
        """
        if digest == self.seen.get(name):
            return  # the file was right, and what was said about it was not
        if self.sums is not None:
            right = name not in self.sums or digest == self.sums[name]
        else:
            known = self._checksums or {}
            right = checksums is None or all(known.get(key) == checksums[key] for key in checksums)
        if not right:
            raise ArgumentError(
                f"{self._directory / name}: made again it is not what"
                f" {_MANIFEST if self.sums is None else SUMS} says: {self._job.plan_path} or the"
                " source is not what made the directory",
                code="argument",
                hint="nothing was replaced; use the plan and the source that it was made from",
            )

    def _refuse_other_shards(self) -> None:
        for name in sorted(os.listdir(self._directory)):
            is_shard = name.startswith("model-") and name.endswith(".safetensors")
            if is_shard and name not in self._job.names:
                raise ArgumentError(
                    f"{self._directory}: holds {name}, which is no shard of {self._job.plan_path}",
                    code="argument",
                    hint="use the plan that the directory was made by",
                )

    def _read_sums(self) -> None:
        try:
            content = (self._directory / SUMS).read_bytes()
            sums = parse_sums(content)
        except (OSError, FormatError) as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else str(error)
            self._damaged.append(Damage(SUMS, reason.removeprefix(f"{SUMS}: ")))
            return
        absent = [name for name in (*self._job.names, *DOCUMENTS) if name not in sums]
        if absent:
            self._damaged.append(Damage(SUMS, f"does not list {absent[0]}"))
            return
        self.sums, self.sums_content = sums, content

    def _read_manifest(self) -> None:
        file = self._directory / _MANIFEST
        try:
            document = read_json_object(file)
            digest = hash_files(self._directory, [_MANIFEST])[_MANIFEST]
            checksums = _checksums_in(document)
        except (JangError, OSError):
            return
        if checksums is None or (self.sums is not None and digest != self.sums[_MANIFEST]):
            return
        for place, expected in (
            ("generator.version", self._plan.version),
            ("quantization.profile", self._plan.plan.profile),
            ("quantization.quantization_method", self._plan.method),
            ("source_model.name", self._plan.source_name),
            ("source_model.revision", self._plan.source_revision or None),
        ):
            found = _member(document, place)
            if found != expected:
                raise ArgumentError(
                    f"{file}: {place}: expected {expected!r} as {self._job.plan_path} has it,"
                    f" found {found!r}",
                    code="argument",
                    hint="use the plan that the directory was made by",
                )
        self._checksums = checksums

    def _judge_shards(self) -> None:
        readers = {}
        for shard, name in enumerate(self._job.names):
            reason = self._outside(name, self._job.sizes[shard])
            if reason:
                self._damaged.append(Damage(name, reason))
                continue
            readers[name] = _Watch(self._reader_of(shard))
        total = sum(self._job.sizes)
        count = 0

        def advance(more: int, item: str) -> None:
            nonlocal count
            count += more
            if self._progress is not None:
                self._progress(min(count, total), total, item)

        self._hash(list(readers), readers, advance)
        for name, reader in readers.items():
            if name not in self.seen:
                continue
            reason = reader.reason
            if not reason and self.sums is not None and self.seen[name] != self.sums[name]:
                reason = f"SHA-256 is {self.seen[name]}, {SUMS} says {self.sums[name]}"
            if reason:
                self._damaged.append(Damage(name, reason))
            else:
                self.hashes[name] = self.seen[name]

    def _reader_of(self, shard: int) -> Callable[[], ShardReader]:
        file = self._directory / self._job.names[shard]
        layout = self._plan.layout(shard)
        return lambda: ShardReader(file, layout, self._checksums or {}, "")

    def _judge_documents(self) -> None:
        copied = {name: digest for name, _, digest in self._plan.files if name in COPIED}
        names = (*copied, *DOCUMENTS)
        there = []
        for name in names:
            reason = self._outside(name, None)
            if reason:
                self._damaged.append(Damage(name, reason))
            else:
                there.append(name)
        self._hash(there, {}, None)
        for name in there:
            known = copied.get(name) or (self.sums or {}).get(name)
            if name not in self.seen or known is None:
                continue  # a document of an output without sums is written again, and compared
            if self.seen[name] == known:
                self.hashes[name] = known
            else:
                reason = f"SHA-256 is {self.seen[name]}, expected {known}"
                self._damaged.append(Damage(name, reason))

    def _outside(self, name: str, size: int | None) -> str:
        """What is wrong with a file without reading it."""
        file = self._directory / name
        if not os.path.lexists(file):
            return "missing"
        if file.is_symlink() or not file.is_file():
            return "not a regular file"
        found = file.stat().st_size
        return "" if size in (None, found) else f"expected {size} bytes, found {found}"

    def _hash(
        self,
        names: list[str],
        readers: dict[str, _Watch],
        advance: Callable[[int, str], None] | None,
    ) -> None:
        """Into ``seen``; a file that cannot be read is damaged."""
        try:
            self.seen |= hash_files(
                self._directory, names, threads=self._threads, advance=advance, readers=readers
            )
        except IoError:
            for name in names:
                self._hash_one(name, readers)

    def _hash_one(self, name: str, readers: dict[str, _Watch]) -> None:
        try:
            if name in readers:
                readers[name].restart()
            self.seen |= hash_files(self._directory, [name], readers=readers)
        except IoError as error:
            self._damaged.append(Damage(name, f"cannot be read: {error}"))


class _Watch:
    """A `ShardReader` that keeps what is wrong in place of raising it."""

    def __init__(self, make: Callable[[], ShardReader]) -> None:
        self._make = make
        self.restart()

    def restart(self) -> None:
        """From the first byte again."""
        self._reader = self._make()
        self.reason = ""

    def feed(self, piece: memoryview) -> None:
        """The next bytes."""
        self._try(lambda: self._reader.feed(piece))

    def end(self) -> None:
        """The file has ended."""
        self._try(self._reader.end)

    def _try(self, call: Callable[[], None]) -> None:
        if self.reason:
            return
        try:
            call()
        except FormatError as error:
            self.reason = error.message.partition(": ")[2]


def _member(document: dict[str, Any], place: str) -> Any:
    value: Any = document
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _checksums_in(document: dict[str, Any]) -> dict[str, int] | None:
    """CRC-32 by tensor; None for anything that a conversion does not write."""
    found = _member(document, "checksums.tensors")
    if not isinstance(found, dict) or not found:
        return None
    try:
        return {name: int(text, 16) for name, text in found.items()}
    except (TypeError, ValueError):
        return None
