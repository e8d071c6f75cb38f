"""What a conversion will take in memory and on the disk, stated before it begins and held against
limits.

The core counts, beside the code that allocates (cpp/convert/conversion_needs.h); this file lowers
the number of threads where that makes a limit hold, and words refusals.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.errors import ArgumentError


@dataclass(frozen=True)
class Needs:
    """``memory_bytes``: the peak of the process's own memory, made of ``memory``, (what, bytes),
    the largest first; pages of the mapped source are not in it. ``disk``: what is written, at the
    moment when it is most, likewise. With so many ``threads``, of those that were asked for."""

    threads: int
    threads_asked: int
    memory_bytes: int
    memory: list[tuple[str, int]]
    disk: list[tuple[str, int]] = field(default_factory=list)

    @property
    def disk_bytes(self) -> int:
        """Of everything that is written."""
        return sum(size for _, size in self.disk)

    def to_json(self) -> dict[str, Any]:
        """``needs`` of ``jang convert --json``."""
        return {
            "threads": self.threads,
            "memory_bytes": self.memory_bytes,
            "memory": [{"what": what, "bytes": size} for what, size in self.memory],
            "disk_bytes": self.disk_bytes,
            "disk": [{"what": what, "bytes": size} for what, size in self.disk],
        }


def memory_needs(
    source: Path,
    plan: _core.Plan,
    *,
    ids: npt.NDArray[np.int32] | None,
    casts: bool,
    statistics_bytes: int,
    threads: int | None,
    limit: int | None,
) -> tuple[Needs, int]:
    """What converting ``source`` by ``plan`` takes, and bytes of scratch files.

    ``ids``: [sequences, tokens] of a calibration. ``limit``: bytes of memory that may be taken;
    fewer threads than asked for come back where only that fits. Raises ArgumentError where nothing
    does.
    """

    def count(ids: npt.NDArray[np.int32] | None, threads: int) -> _core.ConversionNeeds:
        sequences, tokens = (0, 0) if ids is None else ids.shape
        return _core.conversion_needs(
            str(source),
            plan,
            sequences=sequences,
            tokens=tokens,
            casts=casts,
            statistics_bytes=statistics_bytes,
            threads=threads,
        )

    found = count(ids, threads or 0)
    asked = found.threads
    if limit is not None and found.memory_bytes > limit:
        single = count(ids, 1)
        if single.memory_bytes > limit:
            rounding = None if ids is None else count(None, 1).memory_bytes
            raise _refusal(single, limit, rounding)
        # What a thread takes is the same for each of them.
        fits, most = 1, found.threads
        while most - fits > 1:
            middle = (fits + most) // 2
            if count(ids, middle).memory_bytes <= limit:
                fits = middle
            else:
                most = middle
        found = count(ids, fits)
    needs = Needs(found.threads, asked, found.memory_bytes, list(found.memory))
    return needs, int(found.scratch_bytes)


def _refusal(needs: _core.ConversionNeeds, limit: int, rounding: int | None) -> ArgumentError:
    what, size = needs.memory[0]
    ways = []
    if rounding is not None:
        if any(name in ("hidden states", "inputs of experts") for name, _ in needs.memory[:3]):
            ways.append("fewer calibration sequences or tokens")
        if rounding <= limit:
            ways.append(f"--method mse, which takes {size_text(rounding)}")
    ways.append(f"a limit of {size_text(needs.memory_bytes)}")
    return ArgumentError(
        f"max memory: expected a peak of at most {size_text(limit)}, found"
        f" {size_text(needs.memory_bytes)} with one thread, of it {size_text(size)} for {what}",
        code="argument",
        hint=f"what helps: {'; or '.join(ways)}",
    )


def size_text(count: int) -> str:
    """Rounded up, so that a limit of this size suffices: "1.3 GB"."""
    unit, name = (10**9, "GB") if count >= 10**9 else (10**6, "MB")
    tenths = -(-count * 10 // unit)
    return f"{tenths // 10}.{tenths % 10} {name}"
