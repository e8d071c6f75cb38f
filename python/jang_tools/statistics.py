"""Statistics of the inputs of a model's linear layers: collected once, merged, and used again.

`collect` runs the model over a text and writes one safetensors file of sums (docs/format.md),
`merge` adds such files, `load_statistics` reads one, or an importance matrix of llama.cpp, as the
mean squares by which ``convert`` and ``plan`` weight the columns of each matrix.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.calibration import BUILTIN, calibrate_on
from jang_tools.errors import ArgumentError, IoError
from jang_tools.hub import locate_model

Progress = Callable[[int, int, str], None]  # done, in all, the layer at work
MeanSquares = dict[str, npt.NDArray[np.float32]]

_SAMPLE = 4096  # bytes at the start, in the middle and at the end of a tensor that a hash covers
_PIECE = 1 << 20


@dataclass(frozen=True)
class StatisticsReport:
    """What a statistics file holds. ``tokens`` counts those of all ``sequences``, first positions
    included; ``texts`` are the SHA-256 of the texts, in the order in which they were added."""

    output: Path
    modules: int
    sequences: int
    tokens: int
    texts: list[str]
    model_sha256: str
    tokenizer_sha256: str
    fewest_expert_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang calibrate --json``."""
        return {"schema": "jang.calibrate/1", **vars(self), "output": str(self.output)}


@dataclass(frozen=True)
class Statistics:
    """Weights of columns and where they come from.

    ``mean_squares``: by module path float32 [columns], or [experts, columns] of a stack; only the
    ratios within a matrix count. ``file`` is the bare name, ``sha256`` that of the file.
    """

    mean_squares: MeanSquares
    file: str
    sha256: str
    warnings: list[str] = field(default_factory=list)


def collect(
    model: str | Path,
    output: str | Path,
    *,
    calibration: str | Path | None = BUILTIN,
    calibration_sequences: int | None = None,
    calibration_tokens: int | None = None,
    merge: Sequence[str | Path] = (),
    hessians: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> StatisticsReport:
    """Runs ``model`` in full precision over a text and writes its statistics to ``output``.

    The text and the sequences cut from it are those of ``convert``; ``calibration=None`` reads
    none. The sums of the files ``merge`` are added: all must belong to this model and tokenizer.
    ``hessians`` also keeps the second moments, n^2/2 float32 for each linear layer that is no
    routed expert. ``progress(done, total, layer)`` counts sequences through branches.

    Raises ArgumentError for files of another model, UnsupportedError for families that cannot be
    run, FormatError or IoError, each with one line of text.
    """
    target = Path(output)
    if target.exists() and not overwrite:
        raise IoError(
            f"{target}: exists already", code="output_exists", hint="--overwrite replaces it"
        )
    if calibration is None and not merge:
        raise ArgumentError("statistics: expected a text or files to merge", code="argument")
    source = locate_model(model).path
    model_sha256, tokenizer_sha256 = model_hash(source), tokenizer_hash(source)
    for file in merge:
        _check_origin(file, model_sha256, tokenizer_sha256)
    partial, run = (Path(f"{target}.{part}") for part in ("partial", "run"))
    with _removed(partial, run):
        if calibration is not None:
            found = calibrate_on(
                source,
                source=calibration,
                sequences=calibration_sequences,
                tokens=calibration_tokens,
            )
            _core.collect_statistics(
                str(source),
                str(run if merge else partial),
                found.ids,
                model_sha256=model_sha256,
                tokenizer_sha256=tokenizer_sha256,
                text_sha256=found.text.sha256,
                hessians=hessians,
                threads=threads or 0,
                progress=progress,
            )
        if merge:
            own = [] if calibration is None else [str(run)]
            _core.merge_statistics([*own, *map(str, merge)], str(partial))
        report = _report(partial, target)
        os.replace(partial, target)
    return report


def load_statistics(path: str | Path, model: Path, *, known: bool = False) -> Statistics:
    """Statistics of `collect`, or an importance matrix of llama.cpp (GGUF, or its older form), for
    the directory ``model``. Which it is, its content decides. ``known``: somebody who has the
    file's hash checked before that it is of this model, so that no weights are read.

    Raises ArgumentError for statistics of another model, FormatError, UnsupportedError or IoError.
    """
    file = Path(path)
    digest = _hash_file(file)
    if not _is_safetensors(file):
        from jang_tools.foreign.imatrix import read_imatrix
        from jang_tools.foreign.reference import read_reference

        imported = read_imatrix(file, read_reference(model))
        return Statistics(imported.weights, file.name, digest, imported.warnings)
    found = _core.Statistics(str(file))
    if not known:
        _check_hash(file, "model", model_hash(model), found.model_sha256)
    return Statistics(found.mean_squares(), file.name, digest)


def model_hash(directory: Path) -> str:
    """What tells a model's weights from others: SHA-256 over name, dtype, shape and a sample of the
    bytes (start, middle, end) of every tensor by name, however they are spread over files."""
    digest = hashlib.sha256()
    checkpoint = _core.Checkpoint(str(directory))
    for tensor in checkpoint.tensors:
        digest.update(f"{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        data = checkpoint.array(tensor.name).reshape(-1).view(np.uint8)
        middle = max(0, (len(data) - _SAMPLE) // 2)
        for start in (0, middle, max(0, len(data) - _SAMPLE)):
            digest.update(data[start : start + _SAMPLE].tobytes())
    return digest.hexdigest()


def tokenizer_hash(directory: Path) -> str:
    """SHA-256 of tokenizer.json; IoError if it cannot be read."""
    return _hash_file(directory / "tokenizer.json")


def _check_origin(path: str | Path, model_sha256: str, tokenizer_sha256: str) -> None:
    """Refuses before any work what could not be added at its end."""
    found = _core.Statistics(str(path))
    _check_hash(path, "model", model_sha256, found.model_sha256)
    _check_hash(path, "tokenizer", tokenizer_sha256, found.tokenizer_sha256)


def _check_hash(path: str | Path, what: str, expected: str, found: str) -> None:
    if found != expected:
        raise ArgumentError(
            f"{path}: expected statistics of {what} {expected}, found those of {found}",
            code="argument",
            hint="`jang calibrate` makes statistics of this model",
        )


def _report(path: Path, output: Path) -> StatisticsReport:
    found = _core.Statistics(str(path))
    counts = found.counts()
    experts = [int(count.min()) for count in counts.values() if count.size > 1]
    return StatisticsReport(
        output=output,
        modules=len(counts),
        sequences=found.sequences,
        tokens=found.tokens,
        texts=list(found.text_sha256),
        model_sha256=found.model_sha256,
        tokenizer_sha256=found.tokenizer_sha256,
        fewest_expert_tokens=min(experts, default=None),
    )


class _removed:
    """Files that are gone on entry and on exit, whatever happens between."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths

    def __enter__(self) -> None:
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for path in self._paths:
            with suppress(FileNotFoundError):
                path.unlink()


def _is_safetensors(path: Path) -> bool:
    """By the first nine bytes: a header's length that the file can hold, then its brace."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length <= path.stat().st_size - 8


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    return digest.hexdigest()
