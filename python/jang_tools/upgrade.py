"""upgrade(): a quantized directory of an older version or another writer becomes JANG v2.

The core finds what must change and writes weights and documents; this file copies the tokenizer,
sums up and names the result, in OUTPUT.partial until the last step, as conversions do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.convert import opens_thinking
from jang_tools.hub import locate_model
from jang_tools.output_files import check_apart, check_space, copy_file, files_to_copy, write_file
from jang_tools.partial_output import PartialOutput, check_output
from jang_tools.sha256sums import SUMS, format_sums, hash_files

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the item just finished


@dataclass(frozen=True)
class Change:
    """One difference: of a module or tensor, or, with an empty ``tensor``, of the directory."""

    tensor: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.tensor or 'directory'}: {self.what} ({self.why})"


@dataclass(frozen=True)
class UpgradeResult:
    """``output`` is None, and ``changes`` is empty, where there was nothing to do.

    ``source_format`` is jang-v1, jang or mlx; ``bytes`` those of the weight files.
    """

    output: Path | None
    source_format: str
    changes: list[Change]
    bytes: int
    seconds: float
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang upgrade --json``."""
        return {
            "schema": "jang.upgrade/1",
            "output": None if self.output is None else str(self.output),
            "source_format": self.source_format,
            "changes": [vars(change).copy() for change in self.changes],
            "bytes": self.bytes,
            "seconds": self.seconds,
            "files": self.files,
            "warnings": self.warnings,
        }


def upgrade(
    model: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> UpgradeResult:
    """Writes the quantized directory ``model`` as JANG v2, as `convert` would have, to ``output``.

    ``model`` is JANG v1, a JANG v2 directory of another writer or of one that got the map of widths
    or the norms wrong, or a directory of stock MLX. Nothing is quantized again: every weight reads
    back as the same float32 number. Codes are copied, or stored with more bits where the experts of
    one projection have several widths; the result lists each change with its reason. Where there is
    nothing to change, nothing is written. ``overwrite`` replaces a directory that this package
    wrote. ``progress(done, total, item)`` counts bytes written and hashed, on the calling thread.
    Whatever ends it early, a file of ``output`` is never there before all of it is.

    Raises FormatError, UnsupportedError (of unquantized directories, and of what cannot be known
    from the files), ArgumentError or IoError, each with one line of text.
    """
    start = time.perf_counter()
    target = Path(os.path.abspath(output))
    source = locate_model(model)
    check_apart(source.path, target)
    planned = _core.plan_upgrade(str(source.path))
    changes = [Change(row.tensor, row.what, row.why) for row in planned.changes]
    size = planned.plan.file_bytes
    if planned.current:
        return UpgradeResult(None, planned.format, [], size, time.perf_counter() - start)
    check_output(target, overwrite=overwrite, option="--force")
    warnings = list(planned.plan.warnings)
    copied = files_to_copy(source.path)
    hashed_bytes = size + sum(copied.values())
    done = 0

    def written(count: int, total: int, item: str) -> None:
        nonlocal done
        done = count
        if progress is not None:
            progress(count, total + hashed_bytes, item)

    with PartialOutput(target, overwrite=overwrite) as partial:
        check_space(partial.path, hashed_bytes)
        for name in copied:
            copy_file(source.path / name, partial.path / name)
        report = _core.upgrade_directory(
            str(source.path),
            str(partial.path),
            threads=threads or 0,
            source_name=source.name,
            think_in_template=opens_thinking(source.path, warnings),
            generator_version=str(_core.__version__),
            progress=written,
        )
        base, hashed = done, 0

        def advance(count: int, item: str) -> None:
            nonlocal hashed
            hashed = min(hashed + count, hashed_bytes)  # documents are not worth a growing total
            if progress is not None:
                progress(base + hashed, base + hashed_bytes, item)

        files = sorted([*copied, *report.files])
        sums = hash_files(partial.path, files, threads=threads, advance=advance)
        write_file(partial.path / SUMS, format_sums(sums))
        partial.commit()
    return UpgradeResult(
        output=Path(output),
        source_format=planned.format,
        changes=changes,
        bytes=report.file_bytes,
        seconds=time.perf_counter() - start,
        files=sorted([*files, SUMS]),
        warnings=warnings,
    )
