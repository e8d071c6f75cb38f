"""Reads one JSON object from a model directory; every fault is one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jang_tools.errors import FormatError, IoError


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in ``path``, or an empty one if there is no such file.

    Raises FormatError for text that is not one JSON object, IoError if it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON: {error}", code="config_syntax") from error
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise FormatError(
            f"{path}: expected text that can be encoded, found {error}", code="config_syntax"
        ) from error
    if not isinstance(value, dict):
        raise FormatError(
            f"{path}: expected a JSON object, found {type(value).__name__}", code="config_syntax"
        )
    return value
