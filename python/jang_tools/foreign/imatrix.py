"""llama.cpp's importance matrices as weights of columns: the mean square of each input of a matrix.

Entries are by llama.cpp's names and say nothing of experts in their older form; the reference model
gives both their modules and their shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from jang_tools.foreign.faults import malformed, shown
from jang_tools.foreign.gguf_names import Place, place_of
from jang_tools.foreign.imatrix_file import Entry, read_entries
from jang_tools.foreign.reference import EMBEDDING, HEAD, Reference, Shape, read_reference

_SMALLEST = 1e-6  # of a matrix's mean: columns that were always zero still count a little
_NAMED = 3  # modules that a warning names

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImportanceMatrix:
    """``weights`` by module path as conversion writes it: ``[columns]`` or ``[experts, columns]``.

    Positive float32, the mean square of each input; matrices that saw no token have ones.
    ``datasets`` and ``chunks``: what the file says it was made from.
    """

    weights: dict[str, Floats]
    warnings: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    chunks: int = 0


def read_imatrix(path: Path, reference: Reference | Path) -> ImportanceMatrix:
    """The importance matrix in ``path``, GGUF or the older form, for the model ``reference``.

    ``reference`` is a model directory, or what was read of one.
    Entries that the model lacks, modules without an entry and matrices without tokens are named in
    ``warnings``. Raises FormatError for a file that breaks its format or has other columns than the
    model, naming file, entry, expected and found; UnsupportedError for a GGUF file that is no
    importance matrix; IoError.
    """
    if isinstance(reference, Path):
        reference = read_reference(reference)
    file = read_entries(path)
    found = ImportanceMatrix({}, datasets=file.datasets, chunks=file.chunks)
    return _by_module(path.name, file.entries, reference, found)


def _by_module(
    file: str, entries: list[Entry], reference: Reference, found: ImportanceMatrix
) -> ImportanceMatrix:
    matrices = _matrices(reference)
    unknown: list[str] = []
    unseen: list[str] = []
    for entry in entries:
        paths = [path for path in _paths(entry.name, reference) if path in matrices]
        if not paths:
            unknown.append(entry.name)
        for path in paths:
            means, empty = _means(file, entry, path, matrices[path])
            found.weights[path] = means
            stacked = means.ndim == 2
            unseen += [f"{path}, expert {expert}" if stacked else path for expert in empty]
    optional = ("embed_tokens", "lm_head", reference.router)
    missing = [
        path for path in matrices if path not in found.weights and not path.endswith(optional)
    ]
    for what, names in (
        ("entries that the model lacks", unknown),
        ("modules without an entry, whose columns all count the same", missing),
        ("matrices that saw no token, whose columns all count the same", unseen),
    ):
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            found.warnings.append(
                f"{shown(file)}: {len(names)} {what}: {', '.join(map(shown, names[:_NAMED]))}{more}"
            )
    return found


def _means(file: str, entry: Entry, path: str, shape: Shape) -> tuple[Floats, list[int]]:
    """Weights of the module ``path`` of ``shape``, and which of its matrices saw no token."""
    experts = shape[0] if len(shape) == 3 else 1
    columns = shape[-1]
    if entry.sums.size != experts * columns or len(entry.counts) not in (1, experts):
        what = f"{experts} matrices of {columns}" if len(shape) == 3 else f"{columns}"
        raise malformed(
            file,
            f"expected {what} columns, those of {path}, found {len(entry.counts)} of"
            f" {entry.sums.size // len(entry.counts)}",
            code="tensor_shape",
            tensor=entry.name,
        )
    sums = entry.sums.reshape(experts, columns)
    counts = np.broadcast_to(entry.counts, experts)
    for what, values in (("sums", sums), ("counts", counts)):
        if not np.isfinite(values).all() or (values < 0).any():
            raise malformed(
                file, f"expected {what} from 0 on, found others", code="non_finite",
                tensor=entry.name,
            )  # fmt: skip
    means = np.ones((experts, columns), np.float32)
    level = sums.mean(axis=1, dtype=np.float64)
    seen = (counts > 0) & (level > 0)
    means[seen] = sums[seen] / counts[seen, None]
    least = (_SMALLEST * means.mean(axis=1, dtype=np.float64)).astype(np.float32)
    means = np.maximum(means, np.maximum(least, np.finfo(np.float32).tiny)[:, None])
    empty = np.flatnonzero(~seen).tolist()
    return means if len(shape) == 3 else means[0], empty


def _paths(name: str, reference: Reference) -> Iterator[str]:
    """Module paths that an entry is about; columns lie in one order in both programs."""
    if name in ("output.weight", "token_embd.weight") and HEAD not in reference.tensors:
        yield EMBEDDING.removesuffix(".weight")  # a tied head
        return
    place = place_of(name, "", reference)
    if place is None:
        return
    if place.parts:
        yield from (_stack_path(place, part, reference) for part in place.parts)
        return
    if place.name.endswith(".weight"):
        yield place.name.removesuffix(".weight")


def _stack_path(place: Place, part: str, reference: Reference) -> str:
    return f"model.layers.{place.layer}.{reference.routed_block}.switch_mlp.{part}"


def _matrices(reference: Reference) -> dict[str, Shape]:
    """Shapes of the modules that have columns, experts stacked as conversion stacks them."""
    found: dict[str, Shape] = {}
    for name, shape in reference.tensors.items():
        if len(shape) == 2 and name.endswith(".weight") and ".experts." not in name:
            found[name.removesuffix(".weight")] = shape
    layers = reference.config["num_hidden_layers"]
    for layer in range(layers):
        for part in ("gate_proj", "up_proj", "down_proj"):
            first = reference.tensors.get(reference.expert_name(layer, 0, part))
            if first is None:
                continue
            count = 1
            while reference.expert_name(layer, count, part) in reference.tensors:
                count += 1
            path = _stack_path(Place(layer=layer), part, reference)
            found[path] = (count, *first)
    return found
