"""Foreign models as directories that can be run, for as long as a block of code needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from jang_tools.errors import FormatError
from jang_tools.foreign.gguf_file import MAGIC
from jang_tools.foreign.gptq_settings import is_gptq

Kind = Literal["gguf", "gptq"]
Progress = Callable[[str, int, int, str], None]  # stage, done, in all, unit


@dataclass(frozen=True)
class ForeignModel:
    """``directory``: plain, float32, temporary. ``bytes``: of the model's own weight files.

    ``profile`` is what the format calls the mix of widths ("Q4_K_M", "4-bit g128"), if anything;
    ``tensor_bytes`` those of the weights alone, without the tokenizer that GGUF files carry.
    """

    path: Path
    directory: Path
    kind: Kind
    bytes: int
    tensor_bytes: int
    profile: str | None


def foreign_kind(path: Path) -> Kind | None:
    """What `open_foreign` is needed for: a GGUF file, a GPTQ directory; None for anything else."""
    if path.is_dir():
        try:
            return "gptq" if is_gptq(path) else None
        except FormatError:
            return None  # the core says what is wrong with it
    if not path.is_file():
        return None
    if path.suffix.lower() == ".gguf":
        return "gguf"
    try:
        with path.open("rb") as file:
            return "gguf" if file.read(len(MAGIC)) == MAGIC else None
    except OSError:
        return None


@contextmanager
def open_foreign(
    path: Path, reference: Path, progress: Progress | None = None
) -> Iterator[ForeignModel]:
    """The model ``path``, a GGUF file or a GPTQ directory, as a directory that the core can run.

    ``reference`` is the directory of the model that it was made from. All weights are written as
    float32 into a temporary directory (in TMPDIR), four bytes each, and removed at the end of the
    block. Raises FormatError or UnsupportedError naming file, tensor, expected and found; IoError,
    before any work, if the disk has too little room.
    """
    from jang_tools.foreign.gguf_model import materialize_gguf
    from jang_tools.foreign.gptq_model import materialize_gptq
    from jang_tools.foreign.reference import read_reference

    like = read_reference(reference)

    def advance(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{path.name} to float32", done, total, "B")

    with TemporaryDirectory(prefix="jang-foreign-", ignore_cleanup_errors=True) as scratch:
        # A name of its own, for what is said about it.
        directory = Path(scratch) / (path.name or path.resolve().name)
        directory.mkdir()
        if path.is_dir():
            gptq = materialize_gptq(path, like, directory, advance)
            group = f"g{gptq.group_size}" if gptq.group_size > 0 else "one group"
            order = ", desc_act" if gptq.desc_act else ""
            yield ForeignModel(
                path, directory, "gptq", gptq.bytes, gptq.bytes, f"{gptq.bits}-bit {group}{order}"
            )
            return
        gguf = materialize_gguf(path, like, directory, advance)
        yield ForeignModel(path, directory, "gguf", gguf.bytes, gguf.tensor_bytes, gguf.file_type)
