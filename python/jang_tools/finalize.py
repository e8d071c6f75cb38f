"""finalize(): the shards of a planned conversion become a JANG directory.

It needs the plan and OUTPUT.partial, and not the source: parts have copied what it needs of that.
Every shard is read once, for its SHA-256 and the checksums that its record states.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.convert import (
    NO_TOKENIZER,
    ConvertResult,
    Lattices,
    Notice,
    Progress,
    opens_thinking,
    result_of,
)
from jang_tools.errors import FormatError, IoError, JangError
from jang_tools.hub import locate_model
from jang_tools.part_directory import DOCUMENTS, FINAL_STATES, SOURCE_CONFIG, PartDirectory
from jang_tools.parts import PartJob, part_command
from jang_tools.plan_file import check_source, read_plan_file
from jang_tools.sha256sums import SUMS, format_sums, hash_files, parse_sums

_NAMED = 8  # missing shards that a message lists


def finalize(
    plan: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    started: float | None = None,
) -> ConvertResult:
    """Checks that all shards of the conversion in the file ``plan`` lie in OUTPUT.partial and are
    what their records say, writes the documents and SHA256SUMS, and names the directory ``output``.

    With ``model`` its files are compared with those that the plan is of, too. ``progress`` counts
    bytes of the output. ``started``: since when the seconds of the result count, as
    time.perf_counter() had it; None: now. Interrupted at any moment, the same call goes on.

    Raises IoError for shards that are missing (its hint is the command that makes them),
    FormatError for one that is not what its record says or a source that differs, ArgumentError for
    a plan of another version.
    """
    start = time.perf_counter() if started is None else started
    known = read_plan_file(plan)
    if model is not None:
        check_source(known, plan, locate_model(model).path)
    end = _End(known, plan, Path(output), model)
    return end.run(start, threads, progress)


def convert_planned(
    plan: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    statistics: str | Path | None = None,
    calibration: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> ConvertResult:
    """All parts, as `convert_part`, and the end, as `finalize`, in one go."""
    start = time.perf_counter()
    job = PartJob(
        plan, output, model=model, statistics=statistics, calibration=calibration, threads=threads
    )
    job.make_part(1, 1, progress=progress, notice=notice)
    return _End(job.plan, plan, Path(output), model).run(start, threads, progress)


class _End:
    def __init__(
        self,
        plan: _core.PlanFile,
        plan_path: str | Path,
        output: Path,
        model: str | Path | None,
    ) -> None:
        self._plan = plan
        self._plan_path = plan_path
        self._output = output
        self._model = model
        self._names = list(plan.shards)

    def run(self, start: float, threads: int | None, progress: Progress | None) -> ConvertResult:
        warnings = list(self._plan.plan.warnings)
        with PartDirectory(self._output, self._plan, alone=True) as work:
            files = sorted([*work.copied(), *self._names, *DOCUMENTS])
            if "tokenizer.json" not in files:
                warnings.append(NO_TOKENIZER)
            count = _Hashed(progress, self._plan.plan.file_bytes)
            if not self._is_ended(work, files, threads, count):
                self._end(work, threads, count, warnings)
            lattices = _written_lattices(work.path)
            work.publish()
        return result_of(
            self._plan.plan,
            self._output,
            method=self._plan.method,
            seconds=time.perf_counter() - start,
            lattices=lattices,
            files=sorted([*files, SUMS]),
            warnings=warnings,
        )

    def _end(
        self, work: PartDirectory, threads: int | None, count: _Hashed, warnings: list[str]
    ) -> None:
        checksums = self._checksums(work.path)
        if self._plan.calibration is not None and not (work.path / FINAL_STATES).is_file():
            raise IoError(
                f"{work.path}: missing {FINAL_STATES}, which the last part leaves",
                code="shard_set",
                hint=f"`{self._command(1)}` goes on behind the layers that are there",
            )
        absent = work.missing_documents()
        if absent:
            raise IoError(
                f"{work.path}: missing, or not as the source has it: {', '.join(absent)}",
                code="io",
                hint=f"any part brings it, for example `{self._command(1)}`",
            )
        readers = {
            name: ShardReader(
                work.path / name, self._plan.layout(shard), sums, self._command(shard + 1)
            )
            for shard, (name, sums) in enumerate(checksums.items())
        }
        sums = hash_files(
            work.path, self._names, threads=threads, advance=count.advance, readers=readers
        )
        work.remove_documents()
        warnings += _core.finish_planned(
            str(work.path),
            self._plan,
            (work.path / SOURCE_CONFIG).read_bytes(),
            opens_thinking(work.path, warnings),
        )
        sums |= hash_files(work.path, [*work.copied(), *DOCUMENTS], threads=threads)
        work.write_sums(format_sums(sums))

    def _checksums(self, directory: Path) -> dict[str, dict[str, int]]:
        """Of every shard those of its record; IoError naming the shards that are not there."""
        found: dict[str, dict[str, int]] = {}
        missing = []
        for shard, name in enumerate(self._names):
            sums = None
            if (directory / name).is_file():
                try:
                    sums = _core.shard_checksums(str(directory), self._plan, shard)
                except FormatError as error:
                    error.hint = f"`{self._command(shard + 1)}` makes the shard anew"
                    raise
            if sums is None:
                missing.append(shard)
            else:
                found[name] = sums
        if missing:
            listed = ", ".join(self._names[shard] for shard in missing[:_NAMED])
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            if self._plan.method == "gptq":
                raise IoError(
                    f"{directory}: missing {len(missing)} of {len(self._names)} shards:"
                    f" {listed}{more}",
                    code="shard_set",
                    hint=f"`{self._command(1)}` makes what is missing of all layers",
                )
            others = ", ".join(f"{shard + 1}/{len(self._names)}" for shard in missing[1:_NAMED])
            raise IoError(
                f"{directory}: missing {len(missing)} of {len(self._names)} shards: {listed}{more}",
                code="shard_set",
                hint=f"`{self._command(missing[0] + 1)}` makes the first of them"
                + (f", likewise --part {others}" if others else ""),
            )
        return found

    def _command(self, number: int) -> str:
        """What makes a shard. Layers of gptq lie in several: there it is what makes all of them,
        and goes on behind those that are there."""
        known = self._plan.calibration
        if known is not None:
            return part_command(
                self._plan_path, self._output, self._model, 1, 1, calibration=known.text
            )
        return part_command(self._plan_path, self._output, self._model, number, len(self._names))

    def _is_ended(
        self, work: PartDirectory, files: list[str], threads: int | None, count: _Hashed
    ) -> bool:
        """Whether an interrupted end has left everything, and only names are to be put right."""
        if not (work.path / SUMS).is_file():
            return False
        readers = {
            name: ShardReader(work.path / name, self._plan.layout(shard), {}, "")
            for shard, name in enumerate(self._names)
        }
        try:
            known = parse_sums((work.path / SUMS).read_bytes())
            if sorted(known) != files:
                return False
            return known == hash_files(
                work.path, files, threads=threads, advance=count.advance, readers=readers
            )
        except (JangError, OSError):
            return False


class ShardReader:
    """Compares a shard with its layout and the checksums of its tensors as its bytes pass by."""

    def __init__(
        self, file: Path, layout: _core.ShardLayout, checksums: Mapping[str, int], command: str
    ) -> None:
        """``checksums``: CRC-32 by tensor; those that it lacks are not compared."""
        self._file = file
        self._hint = f"`{command}` makes the shard anew" if command else ""
        self._expected_bytes = int(layout.file_bytes)
        self._header = layout.header
        self._checksums = checksums
        self._tensors = [(name, begin, end) for name, begin, end in layout.tensors]
        self._next = 0
        self._crc = 0
        self._place = 0

    def feed(self, piece: memoryview) -> None:
        """The next bytes of the file."""
        start, end = self._place, self._place + len(piece)
        if start < len(self._header):
            head = bytes(piece[: len(self._header) - start])
            if self._header[start : start + len(head)] != head:
                self._fail("expected the header of the plan, found another")
        while self._next < len(self._tensors):
            name, first, last = self._tensors[self._next]
            if first < end:
                part = piece[max(first - start, 0) : max(min(last - start, len(piece)), 0)]
                self._crc = zlib.crc32(part, self._crc)
            if last > end:
                break
            self._close(name)
        self._place = end

    def end(self) -> None:
        """The file has ended."""
        if self._place != self._expected_bytes:
            self._fail(f"expected {self._expected_bytes} bytes, found {self._place}")
        for name, _, _ in self._tensors[self._next :]:  # without elements, at the very end
            self._close(name)

    def _close(self, name: str) -> None:
        expected = self._checksums.get(name, self._crc)
        if expected != self._crc:
            self._fail(
                f"tensor '{name}': expected CRC-32 {expected:08x} as its record says,"
                f" found {self._crc:08x}"
            )
        self._next += 1
        self._crc = 0

    def _fail(self, reason: str) -> None:
        raise FormatError(f"{self._file}: {reason}", code="checksum", hint=self._hint)


class _Hashed:
    """Bytes of the output that were read."""

    def __init__(self, callback: Progress | None, total: int) -> None:
        self._callback = callback
        self._total = total
        self._done = 0

    def advance(self, count: int, item: str) -> None:
        self._done = min(self._done + count, self._total)
        if self._callback is not None:
            self._callback(self._done, self._total, item)


def _written_lattices(directory: Path) -> Lattices | None:
    document: dict[str, Any] = json.loads((directory / "jang_config.json").read_bytes())
    found = document["quantization"].get("lattices")
    if found is None:
        return None
    return Lattices(
        found["tensors"],
        found["lossless_tensors"],
        found["groups"],
        found["lossless_groups"],
    )
