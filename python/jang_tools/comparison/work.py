"""The work of a comparison: what of it is left, whether the disk holds it, and doing it.

Rows are converted and measured batch by batch, and every step is recorded when it is done. A
second run with the same wishes takes up what is recorded, and repeats what does not verify.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.comparison.folder import WorkFolder, key_of
from jang_tools.comparison.measure import Settings, batches, measure
from jang_tools.comparison.report import LayerError, RowScores, scores_of
from jang_tools.comparison.rows import Row
from jang_tools.convert import ConvertResult, convert
from jang_tools.errors import FormatError, IoError
from jang_tools.evaluation.text_run import Progress
from jang_tools.hub import ResolvedModel
from jang_tools.partial_output import COPIED
from jang_tools.verify import verify

_MADE = ("bytes", "bits_per_weight")
_SPACE_MARGIN = 64 << 20  # documents and directory blocks, and files that others write meanwhile


@dataclass(frozen=True)
class Calibration:
    """What gptq is calibrated on: a text, the hash of its content, and how much is read of it."""

    source: str | Path
    sha256: str
    sequences: int
    tokens: int


@dataclass(frozen=True)
class Step:
    """What is left to do for a row: "convert" (and measure), "measure" or "nothing"."""

    row: Row
    left: str


@dataclass(frozen=True)
class WorkPlan:
    """Before anything is done: the steps, what they will take on the disk, and what is free."""

    folder: Path
    steps: list[Step]
    disk_bytes: int
    free_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """The object ``plan`` of ``jang compare --dry-run --json``."""
        return {
            "folder": str(self.folder),
            "disk_bytes": self.disk_bytes,
            "free_bytes": self.free_bytes,
            "steps": [
                {"name": step.row.name, "bytes": step.row.bytes, "left": step.left}
                for step in self.steps
            ],
        }


class Work:
    """The rows of one comparison in its folder.

    ``layers``: also compares every stored matrix with its source. ``keep``: converted directories
    stay.
    """

    def __init__(
        self,
        folder: WorkFolder,
        model: ResolvedModel,
        rows: Sequence[Row],
        settings: Settings,
        calibration: Calibration | None,
        *,
        keep: bool,
        layers: bool,
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        self._folder = folder
        self._model = model
        self._source = model.path
        self._rows = rows
        self._settings = settings
        self._calibration = calibration
        self._keep = keep
        self._layers = layers
        self._threads = threads
        self._progress = progress
        self._source_hash = folder.model_hash(self._source, threads)
        runtime = _core.runtime_info()
        self.version = str(runtime["version"])
        self.level = next(name for name, state in runtime["levels"].items() if state["active"])
        self._hashes = {row.name: self._known_hash(row) for row in rows}

    def plan(self) -> WorkPlan:
        steps = [Step(row, self._left(row)) for row in self._rows]
        copied = sum(_size(self._source / name) for name in COPIED)
        new = [step.row.bytes + copied for step in steps if step.left == "convert"]
        free = free_space(self._folder.path)
        if self._keep or free is None:
            needed = sum(new)
        else:
            left = [step.row for step in steps if step.left != "nothing"]
            needed = max(
                (self._space(batch, copied) for batch in self._batches(left, free)), default=0
            )
        return WorkPlan(self._folder.path, steps, needed, free)

    def check_space(self, plan: WorkPlan) -> None:
        """IoError if what is planned does not fit the disk."""
        free = plan.free_bytes
        if free is None or not plan.disk_bytes or free >= plan.disk_bytes + _SPACE_MARGIN:
            return
        raise IoError(
            f"{self._folder.path}: no space: the converted models take"
            f" {_size_text(plan.disk_bytes)}, {_size_text(free)} are free",
            code="no_space",
            hint="free some space, or choose another folder with --output"
            + (", or --no-keep" if self._keep else ""),
        )

    def run(
        self, plan: WorkPlan, on_row: Callable[[RowScores], None], on_batch: Callable[[], None]
    ) -> None:
        """Does what is left, batch by batch; ``on_row`` and ``on_batch`` are told what is done."""
        left = [step.row for step in plan.steps if step.left != "nothing"]
        for batch in self._batches(left, plan.free_bytes):
            for row in batch:
                self._hashes[row.name] = self._make(row)
            missing = [row for row in batch if self._record(row) is None]
            if missing:
                records = measure(
                    self._source,
                    [(row, self._place(row)) for row in missing],
                    self._settings,
                    self._threads,
                    self._progress,
                )
                for row, record in zip(missing, records, strict=True):
                    self._folder.set_measured(self._measure_key(row), record)
                self._folder.save()
            for row in batch:
                if self._layers:
                    self._measure_layers(row)
                on_row(self._result(row))
                if not self._keep:
                    self._drop(row)
            on_batch()
        if not self._keep:  # also what an earlier run kept
            for row in self._rows:
                self._drop(row)

    def results(self) -> list[RowScores]:
        """The rows that are measured, by size; of equal sizes in the order of the wishes."""
        found = [self._result(row) for row in self._rows if self._record(row) is not None]
        return sorted(found, key=lambda scores: scores.row.bytes)

    def notices(self) -> list[str]:
        """What the measurements remarked, once each."""
        records = (self._record(row) for row in self._rows)
        found = (record["notices"] for record in records if record is not None)
        return list(dict.fromkeys(notice for notices in found for notice in notices))

    # --- what is known ------------------------------------------------------------------------

    def _conversion_key(self, row: Row) -> str:
        """Settings that decide the bytes of a row; those of gptq depend on the kernels."""
        calibration: Any = None
        wish = self._calibration
        if row.method == "gptq" and wish is not None:
            calibration = [wish.sha256, wish.sequences, wish.tokens, self.level]
        return key_of(
            source=self._source_hash,
            widths=row.widths,
            method=row.method,
            calibration=calibration,
            version=self.version,
        )

    def _known_hash(self, row: Row) -> str | None:
        """The hash of a row that is there, or that was and need not be made again."""
        if row.path is not None:
            return self._folder.model_hash(row.path, self._threads)
        record = self._folder.conversion(row.name)
        if record is None or record.get("key") != self._conversion_key(row):
            return None
        if os.path.lexists(self._folder.directory(row.name)):
            return self._folder.complete(row.name, self._threads)
        known = record.get("sha256")
        if not isinstance(known, str):
            return None
        measured = self._folder.measured(self._measure_key(row, known)) is not None
        return known if measured and (not self._layers or "layers" in record) else None

    def _measure_key(self, row: Row, digest: str | None = None) -> str:
        return key_of(
            reference=self._source_hash,
            model=digest or self._hashes[row.name],
            settings=self._settings.key(),
            level=self.level,
            version=self.version,
        )

    def _record(self, row: Row) -> dict[str, Any] | None:
        if self._hashes[row.name] is None:
            return None
        return self._folder.measured(self._measure_key(row))

    def _left(self, row: Row) -> str:
        if self._hashes[row.name] is None:
            return "convert"
        conversion = self._folder.conversion(row.name) or {}
        layers = self._layers and row.path is None and "layers" not in conversion
        return "measure" if self._record(row) is None or layers else "nothing"

    def _result(self, row: Row) -> RowScores:
        record = self._record(row)
        assert record is not None
        conversion = (self._folder.conversion(row.name) or {}) if row.path is None else {}
        layers = conversion.get("layers") if self._layers else None
        # Measured widths are known only once a row is made.
        known = {name: conversion[name] for name in _MADE if name in conversion}
        return scores_of(
            replace(row, **known),
            record,
            seconds=conversion.get("seconds"),
            layers=None if layers is None else [LayerError(*layer) for layer in layers],
        )

    # --- doing it -----------------------------------------------------------------------------

    def _place(self, row: Row) -> Path:
        return self._folder.directory(row.name) if row.path is None else row.path

    def _make(self, row: Row) -> str:
        """The hash of the row's directory, converted unless it is there."""
        known = self._hashes[row.name]
        if known is not None:
            record = self._folder.conversion(row.name)
            if record is not None and "sha256" not in record:  # the run ended before it was said
                self._folder.set_conversion(row.name, {**record, "sha256": known})
            return known
        # The key is recorded first: a directory that has its name is then known to be of this key,
        # even if the run ends before it can say so.
        self._folder.remove(row.name)
        record = {"key": self._conversion_key(row)}
        self._folder.set_conversion(row.name, record)
        start = time.perf_counter()
        wish = self._calibration
        calibrated: dict[str, Any] = {}
        if row.method == "gptq" and wish is not None:
            calibrated = {
                "calibration": wish.source,
                "calibration_sequences": wish.sequences,
                "calibration_tokens": wish.tokens,
            }
        made = convert(
            self._model.argument,
            self._place(row),
            **row.widths,
            method=row.method or "",
            **calibrated,
            threads=self._threads,
            progress=self._advance(f"converting {row.name}", "B"),
        )
        seconds = time.perf_counter() - start
        digest = self._folder.complete(row.name, self._threads)
        if digest is None or not _as_planned(row, made):
            raise FormatError(
                f"{self._place(row)}: expected {row.bytes} bytes of weights as planned, found"
                f" {made.bytes}, or files that changed since they were written"
            )
        self._folder.set_conversion(
            row.name,
            {
                **record,
                "sha256": digest,
                "seconds": round(seconds, 3),
                "bytes": made.bytes,
                "bits_per_weight": made.bits_per_weight,
            },
        )
        return digest

    def _measure_layers(self, row: Row) -> None:
        """Relative errors of all matrices, which also verifies the directory."""
        record = self._folder.conversion(row.name)
        if row.path is not None or record is None or "layers" in record:
            return
        found = verify(
            self._place(row),
            against=self._source,
            threads=self._threads,
            progress=self._advance(f"layers of {row.name}", "B"),
        )
        if not found.ok:
            raise FormatError(f"{self._place(row)}: {found.faults[0]}")
        layers = [[tensor.path, tensor.relative_rms] for tensor in found.tensors or []]
        self._folder.set_conversion(row.name, {**record, "layers": layers})

    def _drop(self, row: Row) -> None:
        if row.path is None and self._hashes[row.name] is not None:
            self._folder.remove(row.name)

    def _advance(self, stage: str, unit: str) -> Callable[[int, int, str], None] | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total, _: progress(stage, done, total, unit)

    # --- disk ---------------------------------------------------------------------------------

    def _batches(self, rows: Sequence[Row], free: int | None) -> list[list[Row]]:
        spare = None if self._keep or free is None else free // 2
        return batches(rows, self._source, spare)

    def _space(self, batch: Sequence[Row], copied: int) -> int:
        return sum(row.bytes + copied for row in batch if self._hashes[row.name] is None)


def _as_planned(row: Row, made: ConvertResult) -> bool:
    """Where gptq measures what widths cost, the plan of a size is only a bound."""
    if row.method == "gptq" and row.size is not None:
        return made.bytes <= row.size
    if row.method == "gptq" and row.bits is not None:
        return made.bits_per_weight <= row.bits
    return made.bytes == row.bytes


def free_space(path: Path) -> int | None:
    """Bytes that a user may still write there; None where that cannot be told."""
    if not hasattr(os, "statvfs"):
        return None
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
