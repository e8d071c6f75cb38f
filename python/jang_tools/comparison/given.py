"""Models that were given rather than made: directories that run as they are, and foreign files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jang_tools.errors import UnsupportedError
from jang_tools.json_file import read_json_object


def is_foreign(path: Path) -> bool:
    """Whether a model has to be expanded before it runs: a file, or another packing of weights."""
    if path.is_file():
        return True
    quantization = read_json_object(path / "config.json").get("quantization_config")
    return isinstance(quantization, dict) and "quant_method" in quantization


@contextmanager
def open_given(path: Path, reference: Path) -> Iterator[Path]:
    """The directory that runs in the place of a given model, for as long as the block lasts."""
    if not is_foreign(path):
        yield path
        return
    raise UnsupportedError(f"{path}: models in formats of others cannot be read yet")
