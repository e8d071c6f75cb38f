"""The models that are compared, as directories to run: GGUF files and GPTQ directories as float32.

Such a directory is temporary and large; what is said of the model (path, name, bytes, bits) is
always about what the user named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jang_tools.evaluation.report import Subject
from jang_tools.foreign.open_foreign import ForeignModel, foreign_kind, open_foreign
from jang_tools.hub import resolve_model
from jang_tools.inspect import inspect


@dataclass(frozen=True)
class OpenedModel:
    """``path``: what was named; ``directory``: what is run."""

    path: Path
    directory: Path
    foreign: ForeignModel | None = None

    def subject(self, name: str) -> Subject:
        """The model under ``name`` in a report. Raises what `inspect` raises."""
        found = inspect(self.directory)
        if self.foreign is None:
            return Subject(
                path=self.path,
                name=name,
                format=found.format,
                profile=found.profile,
                method=found.method,
                bytes=found.bytes,
                bits_per_weight=found.bits_per_weight,
            )
        return Subject(
            path=self.path,
            name=name,
            format=self.foreign.kind,
            profile=self.foreign.profile,
            method="gptq" if self.foreign.kind == "gptq" else None,
            bytes=self.foreign.bytes,
            bits_per_weight=8 * self.foreign.bytes / found.parameters,
        )


@contextmanager
def open_models(
    reference: str | Path,
    models: Sequence[str | Path],
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Iterator[list[OpenedModel]]:
    """Reference and models, in order; what was made to run them is removed at the end.

    Raises what `resolve_model` and `open_foreign` raise.
    """
    with ExitStack() as stack:
        first = resolve_model(str(reference))
        opened = [OpenedModel(first, first)]
        for model in models:
            path = Path(model)
            if not path.is_file() or foreign_kind(path) is None:
                path = resolve_model(str(model))
            foreign = None
            if foreign_kind(path) is not None:
                foreign = stack.enter_context(open_foreign(path, first, progress))
            opened.append(OpenedModel(path, foreign.directory if foreign else path, foreign))
        yield opened
