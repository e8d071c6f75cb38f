"""Plan files: a conversion planned once, to be made in parts on any machines (parts.py).

The core writes and reads the document (docs/format.md, section 11); this file hashes the source
for it, and holds a source and this program against one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jang_tools import _core
from jang_tools.calibration import calibration_arguments
from jang_tools.errors import ArgumentError, FormatError, IoError
from jang_tools.hub import ResolvedModel, locate_model
from jang_tools.output_files import files_to_copy, write_file
from jang_tools.partial_output import sync_directory
from jang_tools.resume import header_hash

if TYPE_CHECKING:
    from jang_tools.calibration import Calibration
    from jang_tools.plan import Progress
    from jang_tools.statistics import Statistics

CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ".safetensors"
_PIECE = 1 << 20


def write_plan_file(
    output: Path,
    source: ResolvedModel,
    *,
    method: str,
    read_weights: bool,
    options: Mapping[str, Any],
    statistics: Statistics | None,
    calibration: Calibration | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> _core.PlanFile:
    """Plans ``source`` and writes ``output``, a new file. ``options``: of `_core.make_plan_file`;
    ``calibration``: of method gptq.

    Raises what planning raises, IoError.
    """
    _check_free(output)
    weighted: dict[str, Any] = {}
    if statistics is not None:
        weighted = {
            "column_weights": statistics.mean_squares,
            "statistics_file": statistics.file,
            "statistics_sha256": statistics.sha256,
        }
    if calibration is not None:
        weighted |= calibration_arguments(calibration)
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".jang-plan-", dir=output.absolute().parent)
    except OSError as error:
        raise IoError(f"{output}: {error.strerror or error}", code="io") from error
    with scratch as folder:
        plan = _core.make_plan_file(
            str(source.path),
            **options,
            **weighted,
            method=method,
            read_weights=read_weights,
            files=_source_files(source.path),
            source_name=source.name,
            source_revision=source.revision,
            version=str(_core.__version__),
            threads=threads or 0,
            scratch=folder,
            progress=progress,
        )
    unfinished = output.with_name(f"{output.name}.{secrets.token_hex(8)}")
    try:
        write_file(unfinished, plan.text.encode("utf-8"))
        _check_free(output)
        os.replace(unfinished, output)
        sync_directory(output.absolute().parent)
    finally:
        unfinished.unlink(missing_ok=True)
    return plan


def read_plan_file(path: str | Path) -> _core.PlanFile:
    """The plan in a file, if this version of the program made it.

    Raises FormatError for a file that is no plan or was changed, ArgumentError for one of another
    version, IoError.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    plan = _core.parse_plan_file(content, str(path))
    if plan.version != _core.__version__:
        raise ArgumentError(
            f"{path}: expected a plan of jang-tools {_core.__version__}, found one of"
            f" {plan.version}",
            code="argument",
            hint="use the version that made it for all parts, or plan anew with this one",
        )
    return plan


def locate_source(
    plan: _core.PlanFile, plan_path: str | Path, model: str | Path | None
) -> ResolvedModel:
    """``model``, or the Hub revision that the plan is of. Raises ArgumentError without either."""
    if model is not None:
        return locate_model(model)
    if plan.source_revision:
        return locate_model(f"{plan.source_name}@{plan.source_revision}")
    raise ArgumentError(
        f"{plan_path}: the plan of the directory {plan.source_name}, whose place it does not say",
        code="argument",
        hint="give --model DIR",
    )


def check_source(plan: _core.PlanFile, plan_path: str | Path, source: Path) -> None:
    """Compares every file of the plan with the one in ``source``: size, and hash of the document or
    of the header. Raises FormatError naming the first that differs, IoError for one that is gone.
    """
    for name, size, digest in plan.files:
        file = source / name
        try:
            found_size = file.stat().st_size
            if found_size != size:
                raise FormatError(
                    f"{file}: expected {size} bytes as when {plan_path} was made,"
                    f" found {found_size}",
                    code="checksum",
                )
            found = _hash_of(file)
        except OSError as error:
            raise IoError(f"{file}: {error.strerror or error}", code="io") from error
        if found != digest:
            what = "a header" if name.endswith(_WEIGHTS) else "content"
            raise FormatError(
                f"{file}: expected {what} with the SHA-256 {digest} as when {plan_path} was made,"
                f" found {found}",
                code="checksum",
            )


def content_hash(file: Path) -> str:
    """SHA-256 of a whole file. Raises OSError."""
    digest = hashlib.sha256()
    with file.open("rb") as reader:
        while piece := reader.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _hash_of(file: Path) -> str:
    return header_hash(file) if file.name.endswith(_WEIGHTS) else content_hash(file)


def _source_files(source: Path) -> list[tuple[str, int, str]]:
    """Name, size and hash of all files that a conversion reads or copies."""
    weights = _core.Checkpoint(str(source), headers_only=True).files
    documents = [CONFIG, *files_to_copy(source)]
    if (source / _INDEX).is_file():
        documents.append(_INDEX)
    found = []
    for name in sorted([*weights, *documents]):
        try:
            found.append((name, (source / name).stat().st_size, _hash_of(source / name)))
        except OSError as error:
            raise IoError(f"{source / name}: {error.strerror or error}", code="io") from error
    return found


def _check_free(output: Path) -> None:
    if os.path.lexists(output):
        raise IoError(f"{output}: already exists", code="output_exists", hint="choose another name")
