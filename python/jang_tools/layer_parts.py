"""Parts of a planned gptq conversion: runs of layers, one after another.

Each part starts from the hidden states of the calibration tokens that the part before left behind
its last layer, so part i needs part i-1, and says so. A part killed at any moment is continued
behind its last finished layer. The core solves and writes (cpp/convert/planned_layers.h); this file
reads the calibration text again and holds it against the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.calibration import BUILTIN, calibrate_on, calibration_arguments
from jang_tools.errors import ArgumentError, JangError
from jang_tools.output_files import check_space
from jang_tools.part_directory import PartDirectory

Progress = Callable[[int, int, str], None]
Notice = Callable[[str], None]


class LayerParts:
    """The layers of a gptq plan, opened, to be cut and made."""

    def __init__(
        self,
        plan: _core.PlanFile,
        plan_path: str | Path,
        source: Path,
        *,
        calibration: str | Path | None,
        threads: int | None,
    ) -> None:
        self._plan_path = plan_path
        self._source = source
        found = calibrate_on(source, **_planned_text(plan, plan_path, calibration))
        self._tokens = int(found.ids.size)
        self._core = _core.PlannedLayers(
            plan,
            str(plan_path),
            str(source),
            **calibration_arguments(found),
            threads=threads or 0,
        )

    def cut(self, number: int, count: int) -> tuple[int, int]:
        """Where part ``number`` of ``count`` begins and ends. Raises ArgumentError."""
        from jang_tools.parts import cut_parts

        stops = self._core.stops
        if count > len(stops):
            raise ArgumentError(
                f"part {number}/{count}: expected at most {len(stops)}, since hidden states can be"
                f" handed on between layers at {len(stops) - 1} places, found {count}",
                code="argument",
            )
        begins = [0, *stops[:-1]]
        sizes = [self._core.source_bytes(*ends) for ends in zip(begins, stops, strict=True)]
        part = cut_parts(sizes, count)[number - 1]
        return begins[part.start], stops[part.stop - 1]

    def make(
        self,
        work: PartDirectory,
        number: int,
        count: int,
        command: Callable[[int], str],
        *,
        sizes: dict[str, int],
        stretch: int,
        progress: Progress | None,
        notice: Notice | None,
    ) -> bool:
        """Makes part ``number`` of ``count``; False if all of it was there. ``sizes``: bytes of the
        shards by name; ``command``: the line that makes a part.

        Raises FormatError where the part before is to be made first.
        """
        begin, end = self.cut(number, count)
        self._check_space(work.path, sizes)
        work.gather_documents(self._source)
        with work.layers_lock():
            try:
                return self._core.make(
                    str(work.path),
                    begin,
                    end,
                    needs=f"part {number} of {count} needs the hidden states that part"
                    f" {number - 1} leaves: run it first",
                    stretch=stretch,
                    progress=progress,
                    notice=notice,
                )
            except JangError as error:
                if error.code == "shard_set" and number > 1:
                    error.hint = f"`{command(number - 1)}` makes it"
                raise

    def _check_space(self, directory: Path, sizes: dict[str, int]) -> None:
        """For all shards, though a part makes some of them: the disk holds them in the end."""
        needed = _core.resume_bytes(str(self._source), self._tokens)
        for name, size in sizes.items():
            there = any((directory / file).exists() for file in (name, f"{name}.part"))
            needed += 0 if there else size
        check_space(directory, needed)


def _planned_text(
    plan: _core.PlanFile, plan_path: str | Path, calibration: str | Path | None
) -> dict[str, Any]:
    """The arguments of `calibrate_on` that give the tokens of the plan."""
    known = plan.calibration
    if known is None:
        raise ArgumentError(f"{plan_path}: not a plan of method gptq", code="argument")
    if calibration is None and known.text != BUILTIN:
        raise ArgumentError(
            f"{plan_path}: the plan is calibrated on {known.text}, whose place it does not say",
            code="argument",
            hint="give --calibration FILE",
        )
    return {
        "source": BUILTIN if calibration is None else calibration,
        "sequences": known.asked_sequences,
        "tokens": known.tokens,
    }
