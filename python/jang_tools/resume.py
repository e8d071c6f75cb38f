"""The key of a conversion: whatever its weights depend on, as one hash.

What an interrupted conversion left in OUTPUT.partial is continued by one of the same key only, so
everything that decides a byte of the weight files must be in it: the program itself, the kernels
that it runs, the source, the options, the calibration tokens. Documents are written at the end and
need not be.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.errors import IoError

_HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, by the format's rules


def resume_key(
    source: Path,
    options: Mapping[str, Any],
    ids: npt.NDArray[np.int32] | None,
    statistics: str,
    weights: list[list[Any]] | None = None,
) -> str:
    """64 hex digits. ``options``: JSON values, the method too; ``ids``: [sequences, tokens] of a
    calibration; ``statistics``: the hash of a statistics file, or empty; ``weights``: what says
    which weight files they are, where they are not there yet. Raises IoError."""
    try:
        document = {
            "program": _program(),
            "source": _source(source, weights),
            "options": dict(options),
            "calibration": None if ids is None else [*ids.shape, _sha256(ids.tobytes())],
            "statistics": statistics,
        }
    except OSError as error:
        raise IoError(
            f"{error.filename or source}: {error.strerror or error}", code="io"
        ) from error
    return _sha256(json.dumps(document, sort_keys=True).encode("utf-8"))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _program() -> list[str]:
    """Version, kernel level, and the hash of the core: builds of one version may differ."""
    runtime = _core.runtime_info()
    level = next(name for name, state in runtime["levels"].items() if state["active"])
    core = _sha256(Path(str(_core.__file__)).read_bytes())
    return [str(runtime["version"]), level, core]


def _source(source: Path, weights: list[list[Any]] | None) -> list[list[Any]]:
    """Of each weight file what changes when it is replaced, without reading all of it; of the
    documents beside them the content."""
    found: list[list[Any]] = list(weights or [])
    for file in sorted(source.iterdir()):
        if file.suffix not in (".safetensors", ".json") or not file.is_file():
            continue
        status = file.stat()
        if file.suffix == ".json":
            found.append([file.name, _sha256(file.read_bytes())])
        elif weights is None:
            found.append([file.name, status.st_size, status.st_mtime_ns, header_hash(file)])
    return found


def header_hash(file: Path) -> str:
    """SHA-256 of the header of a safetensors file, its length included. Raises OSError."""
    with file.open("rb") as reader:
        head = reader.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        length = min(size, _HEADER_LIMIT, os.fstat(reader.fileno()).st_size)
        return _sha256(head + reader.read(length))
