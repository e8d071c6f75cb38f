"""Models that were given rather than made: directories that run as they are, and foreign ones.

A GGUF file or a GPTQ directory is expanded into a temporary directory while it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jang_tools.errors import FormatError, UnsupportedError
from jang_tools.evaluation.text_run import Progress
from jang_tools.foreign.open_foreign import foreign_kind, open_foreign
from jang_tools.hub import ResolvedModel, locate_model
from jang_tools.inspect import inspect


def locate_given(text: str | Path) -> ResolvedModel:
    """The directory or foreign file that ``text`` names; raises what `locate_model` raises."""
    path = Path(text)
    if path.is_file() and foreign_kind(path) is not None:
        return ResolvedModel(path, path.name, "")
    return locate_model(text)


def is_foreign(path: Path) -> bool:
    """Whether a model has to be expanded before it runs."""
    return foreign_kind(path) is not None


def given_bytes(path: Path) -> int:
    """Bytes of a model's weights: the whole file, or all weight files of a directory."""
    if path.is_file():
        return path.stat().st_size
    try:
        return inspect(path).bytes
    except (FormatError, UnsupportedError):  # a layout of others, for their readers to judge
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))


@contextmanager
def open_given(path: Path, reference: Path, progress: Progress | None) -> Iterator[Path]:
    """The directory that runs in the place of a given model, for as long as the block lasts."""
    if not is_foreign(path):
        yield path
        return
    with open_foreign(path, reference, progress) as model:
        yield model.directory
