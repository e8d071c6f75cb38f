"""convert_part(): some of a planned conversion, made on its own.

A part is a run of whole shards, cut by bytes. Parts are made in any order, on any machines, by
several processes at once; an interrupted one is continued by the same call, behind the last
stretch of work that it wrote down. The core makes shards (cpp/convert/planned_shards.h); this file
cuts parts, checks the source and keeps two processes from one shard. Parts of gptq are runs of
layers, made in order: layer_parts.py. finalize.py ends it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.calibration import BUILTIN
from jang_tools.errors import ArgumentError
from jang_tools.layer_parts import LayerParts
from jang_tools.output_files import check_apart, check_space
from jang_tools.part_directory import PartDirectory
from jang_tools.partial_output import COPIED
from jang_tools.plan_file import check_source, locate_source, read_plan_file

Progress = Callable[[int, int, str], None]  # bytes of the source done, in all, the tensor
Notice = Callable[[str], None]  # a line for the user

_PART = re.compile(r"(?P<number>[0-9]{1,9})/(?P<count>[0-9]{1,9})")
_STRETCH = 0  # bytes of the source between two records of a shard; 0: about 20 seconds


@dataclass(frozen=True)
class MadeShard:
    """A shard of a part. ``made``: now; else it was there, and is as its record says."""

    file: str
    bytes: int
    made: bool


@dataclass(frozen=True)
class PartResult:
    """What a part of a conversion has made. ``directory``: where it lies until the end.

    ``shards``: of gptq those that are whole, whichever parts made their tensors.
    """

    directory: Path
    plan: str
    part: int
    parts: int
    seconds: float
    shards: list[MadeShard] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of its shards."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang convert --part --json``."""
        return {
            "schema": "jang.part/1",
            "directory": str(self.directory),
            "plan": self.plan,
            "part": self.part,
            "parts": self.parts,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "shards": [vars(shard).copy() for shard in self.shards],
        }


def parse_part(text: str) -> tuple[int, int]:
    """(i, N) of "i/N", where 1 <= i <= N. Raises ValueError."""
    match = _PART.fullmatch(text)
    number, count = (int(match["number"]), int(match["count"])) if match else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"'{text}' is not a part such as 1/4 or 4/4")
    return number, count


def cut_parts(sizes: Sequence[int], count: int) -> list[range]:
    """Runs of shards of about equal bytes, none empty; ``count`` <= len(sizes)."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    cuts = [0]
    for part in range(1, count):
        wanted = ends[-1] * part
        first, last = cuts[-1] + 1, len(sizes) - (count - part)
        cuts.append(
            min(range(first, last + 1), key=lambda cut: (abs(ends[cut] * count - wanted), cut))
        )
    cuts.append(len(sizes))
    return [range(begin, end) for begin, end in pairwise(cuts)]


def convert_part(
    plan: str | Path,
    output: str | Path,
    *,
    part: tuple[int, int],
    model: str | Path | None = None,
    statistics: str | Path | None = None,
    calibration: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> PartResult:
    """Makes part i of N, ``part`` = (i, N) from 1 on, of the conversion that the file ``plan`` is.

    The shards lie in OUTPUT.partial until `finalize`. ``model``: the source, a directory or a Hub
    id; None: the Hub revision that the plan names. ``statistics``: the file that the plan was made
    with, where it was made with one; ``calibration``: the text of a gptq plan, unless it is the
    built-in one. Shards that are there and are as their records say are not made again. ``notice``
    is told what is continued, and what is made afresh and why.

    Raises FormatError for a source that differs from the plan's or a part of gptq whose part before
    is to be made first, ArgumentError for a part that is none, a plan of another version, or a
    program that plans differently, IoError for parts of another plan in the same place and whatever
    the system refuses.
    """
    start = time.perf_counter()
    job = PartJob(
        plan, output, model=model, statistics=statistics, calibration=calibration, threads=threads
    )
    shards = job.make_part(*part, progress=progress, notice=notice)
    return PartResult(
        directory=job.directory.path,
        plan=job.plan.checksum,
        part=part[0],
        parts=part[1],
        seconds=time.perf_counter() - start,
        shards=shards,
    )


class PartJob:
    """A plan, the source it is of, and the directory that its parts lie in."""

    def __init__(
        self,
        plan: str | Path,
        output: str | Path,
        *,
        model: str | Path | None,
        statistics: str | Path | None,
        threads: int | None,
        calibration: str | Path | None = None,
        repair: bool = False,
    ) -> None:
        """``repair``: for an ``output`` that is there."""
        self.plan_path = plan
        self.plan = read_plan_file(plan)
        self.names = list(self.plan.shards)
        self.sizes = [self.plan.layout(shard).file_bytes for shard in range(len(self.names))]
        self.directory = PartDirectory(Path(output), self.plan, repair=repair)
        source = locate_source(self.plan, plan, model)
        check_apart(source.path, self.directory.output)
        check_source(self.plan, plan, source.path)
        self.source = source.path
        self._model = model
        self._statistics = statistics
        self._calibration = calibration
        self._threads = threads

    def part(self, number: int, count: int) -> range:
        """Its shards. Raises ArgumentError."""
        shards = len(self.names)
        if count > shards:
            raise ArgumentError(
                f"part {number}/{count}: expected at most {shards} parts, one for each shard of"
                f" {self.plan_path}, found {count}",
                code="argument",
                hint="`jang plan --shard-size` plans smaller shards, of which there are more",
            )
        if not 1 <= number <= count:
            raise ArgumentError(
                f"part {number}/{count}: expected a number from 1 to {count}", code="argument"
            )
        return cut_parts(self.sizes, count)[number - 1]

    def make_part(
        self, number: int, count: int, *, progress: Progress | None, notice: Notice | None
    ) -> list[MadeShard]:
        """Makes what of a part is not there, and checks what is."""
        if self.plan.method == "gptq":
            return self._make_layers(number, count, progress, notice)
        return self.make(self.part(number, count), progress=progress, notice=notice)

    def _make_layers(
        self, number: int, count: int, progress: Progress | None, notice: Notice | None
    ) -> list[MadeShard]:
        if self._statistics is not None:
            raise ArgumentError(
                f"{self.plan_path}: a plan of method gptq needs no statistics, found"
                f" {self._statistics}",
                code="argument",
            )
        layers = LayerParts(
            self.plan,
            self.plan_path,
            self.source,
            calibration=self._calibration,
            threads=self._threads,
        )
        layers.cut(number, count)  # refused before anything is written
        with self.directory as work:
            before = set(os.listdir(work.path))
            layers.make(
                work,
                number,
                count,
                lambda part: part_command(
                    self.plan_path,
                    self.directory.output,
                    self._model,
                    part,
                    count,
                    calibration=self._calibration,
                ),
                sizes=dict(zip(self.names, self.sizes, strict=True)),
                stretch=_STRETCH,
                progress=progress,
                notice=notice,
            )
            return [
                MadeShard(name, size, name not in before)
                for name, size in zip(self.names, self.sizes, strict=True)
                if (work.path / name).is_file()
            ]

    def make(
        self, shards: range, *, progress: Progress | None, notice: Notice | None
    ) -> list[MadeShard]:
        """Makes those that are not there, and checks those that are."""
        core = self.core()
        with self.directory as work:
            return self.make_in(work, core, shards, progress=progress, notice=notice)

    def core(self) -> _core.PlannedShards:
        """The opened source, planned again. Raises ArgumentError for other widths or statistics."""
        return _core.PlannedShards(
            self.plan,
            str(self.plan_path),
            str(self.source),
            **self._weights(),
            threads=self._threads or 0,
        )

    def make_in(
        self,
        work: PartDirectory,
        core: _core.PlannedShards,
        shards: Sequence[int],
        *,
        progress: Progress | None,
        notice: Notice | None,
    ) -> list[MadeShard]:
        """As `make`, for who works in the directory already."""
        self._check_space(work.path, shards)
        work.gather_documents(self.source)
        count = _Progress(progress, [core.source_bytes(shard) for shard in shards])
        made = []
        for shard in shards:
            with work.shard_lock(self.names[shard]):
                done = core.make(
                    str(work.path),
                    shard,
                    stretch=_STRETCH,
                    progress=count.advance if progress else None,
                    notice=notice,
                )
            made.append(MadeShard(self.names[shard], self.sizes[shard], done))
            count.next()
        return made

    def _weights(self) -> dict[str, Any]:
        if self._calibration is not None:
            raise ArgumentError(
                f"{self.plan_path}: a plan of method {self.plan.method} needs no calibration text,"
                f" found {self._calibration}",
                code="argument",
            )
        if self._statistics is None:
            return {}
        from jang_tools.statistics import load_statistics

        given = load_statistics(self._statistics, self.source, known=True)
        return {
            "column_weights": given.mean_squares,
            "statistics_file": given.file,
            "statistics_sha256": given.sha256,
        }

    def _check_space(self, directory: Path, shards: Sequence[int]) -> None:
        needed = sum(size for name, size, _ in self.plan.files if name in COPIED)
        for shard in shards:
            name = self.names[shard]
            there = any((directory / file).exists() for file in (name, f"{name}.part"))
            needed += 0 if there else self.sizes[shard]
        check_space(directory, needed)


class _Progress:
    """One scale over several shards."""

    def __init__(self, callback: Progress | None, sizes: list[int]) -> None:
        self._callback = callback
        self._sizes = sizes
        self._total = sum(sizes)
        self._before = 0
        self._shard = 0

    def advance(self, done: int, _: int, item: str) -> None:
        if self._callback is not None:
            self._callback(self._before + done, self._total, item)

    def next(self) -> None:
        self._before += self._sizes[self._shard]
        self._shard += 1


def part_command(
    plan: str | Path,
    output: str | Path,
    model: str | Path | None,
    number: int,
    count: int,
    *,
    calibration: str | Path | None = None,
) -> str:
    """The command line that makes a part."""
    import shlex

    words = ["jang", "convert", "--plan", str(plan), "--part", f"{number}/{count}"]
    words += ["--model", str(model) if model is not None else "MODEL"]
    if calibration is not None and str(calibration) != BUILTIN:
        words += ["--calibration", str(calibration)]
    words += ["--output", os.fspath(output)]
    return shlex.join(words)
