"""A GGUF file as a plain Hugging Face directory: every weight dequantized exactly to float32.

The model is the file's; what is not weights (configuration, tokenizer) is the reference's, and the
file's own numbers are held against it. One piece of one tensor is in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jang_tools.errors import IoError
from jang_tools.foreign.faults import malformed, shown, unsupported
from jang_tools.foreign.gguf_blocks import FILE_TYPES, Floats, require_dequantizer
from jang_tools.foreign.gguf_file import GgufFile, GgufTensor
from jang_tools.foreign.gguf_names import ARCHITECTURES, Place, is_derived, place_of
from jang_tools.foreign.plain_writer import Advance, PlainTensor, write_plain
from jang_tools.foreign.reference import EMBEDDING, HEAD, Reference, Shape

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_SPLITS = 1000


@dataclass(frozen=True)
class GgufSummary:
    """``bytes`` of all files, ``tensor_bytes`` of their weights; ``file_type``: like Q4_K_M."""

    architecture: str
    file_type: str | None
    bytes: int
    tensor_bytes: int


@dataclass(frozen=True)
class _Source:
    """Rows ``[begin, end)`` of a tensor in one of the files."""

    file: GgufFile
    tensor: GgufTensor
    begin: int
    end: int
    interleaved: int = 0

    def pieces(self) -> Iterator[Floats]:
        if self.interleaved == 0:
            yield from self.file.chunks(self.tensor, self.begin, self.end)
            return
        if len(self.tensor.shape) == 1:  # a bias: its elements are the rows
            yield _split_pairs(self.file.read(self.tensor).reshape(-1, 1), self.interleaved)
            return
        head = (self.end - self.begin) // self.interleaved
        for rows in self.file.chunks(self.tensor, self.begin, self.end, head):
            yield _split_pairs(rows, len(rows) // head)


def _split_pairs(rows: Floats, heads: int) -> Floats:
    """Rows 0, 2, 4, ... of each head before its rows 1, 3, 5, ...: Hugging Face's order."""
    pairs: Floats = rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2)
    return pairs.reshape(rows.shape)


def materialize_gguf(
    file: Path, reference: Reference, output: Path, advance: Advance | None = None
) -> GgufSummary:
    """Writes the model of a GGUF file (of all its parts, if it is split) into ``output``.

    ``output`` is an existing empty directory. Tensors and shapes must be the reference's; a file
    without a head is a tied model. Raises FormatError naming file, tensor, expected and found,
    UnsupportedError for an architecture or a type that is not read, IoError.
    """
    with ExitStack() as stack:
        files = _open_parts(file, stack)
        architecture = _architecture(files[0], reference)
        _check_numbers(files[0], architecture, reference)
        sources = _sources(files, architecture, reference)
        config = dict(reference.config)
        expected = dict(reference.tensors)
        _settle_head(file.name, sources, expected, config, reference)
        found = {name: _shape(source) for name, source in sources.items()}
        Reference(reference.path, config, expected).check(
            file.name, found, {name: source.tensor.name for name, source in sources.items()}
        )
        kinds = {source.tensor.kind.name for source in sources.values()}
        require_dequantizer(kinds)
        tensors = [PlainTensor(name, expected[name], sources[name].pieces) for name in expected]
        write_plain(output, tensors, config, reference.path, advance)
        number = files[0].values.get("general.file_type")
        return GgufSummary(
            architecture=architecture,
            file_type=FILE_TYPES.get(number) if isinstance(number, int) else None,
            bytes=sum(part.bytes for part in files),
            tensor_bytes=sum(t.bytes for part in files for t in part.tensors.values()),
        )


def _open_parts(path: Path, stack: ExitStack) -> list[GgufFile]:
    """The file, or all files of a split model, the first of which has the metadata."""
    first = stack.enter_context(GgufFile(path))
    count = first.values.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return [first]
    name = _SPLIT.fullmatch(path.name)
    if count > _MAX_SPLITS or name is None or int(name["count"]) != count:
        raise malformed(
            path.name,
            f"split.count: expected a name like NAME-00001-of-{min(count, 99999):05d}.gguf for a"
            f" part of {count}",
            code="shard_set",
        )
    parts: list[GgufFile] = []
    for number in range(count):
        other = path.with_name(f"{name['stem']}-{number + 1:05d}-of-{count:05d}.gguf")
        if not other.is_file():
            raise IoError(f"{other}: no such file, part {number + 1} of {count}", code="io")
        part = first if other == path else stack.enter_context(GgufFile(other))
        if part.values.get("split.count") != count or part.values.get("split.no") != number:
            raise malformed(
                other.name,
                f"expected part {number} of {count}, found"
                f" {shown(str(part.values.get('split.no')))} of"
                f" {shown(str(part.values.get('split.count')))}",
                code="shard_set",
            )
        parts.append(part)
    total = sum(len(part.tensors) for part in parts)
    stated = parts[0].values.get("split.tensors.count", total)
    if stated != total:
        raise malformed(
            path.name,
            f"split.tensors.count: expected {shown(str(stated))} tensors in all parts, found"
            f" {total}",
            code="index_mismatch",
        )
    return parts


def _architecture(file: GgufFile, reference: Reference) -> str:
    kind = file.values.get("general.type", "model")
    if kind != "model":
        raise unsupported(file.path.name, f"general.type: expected model, found {shown(str(kind))}")
    name = file.values.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise unsupported(
            file.path.name,
            f"general.architecture: {shown(str(name))} is not read; read are"
            f" {', '.join(ARCHITECTURES)}",
        )
    if reference.model_type not in ARCHITECTURES[name]:
        raise malformed(
            file.path.name,
            f"general.architecture: expected that of {reference.path.name}, a"
            f" {shown(reference.model_type)} model, found {name}",
            code="unsupported_model",
        )
    return name


def _check_numbers(file: GgufFile, architecture: str, reference: Reference) -> None:
    """The numbers that shapes do not show: a file of another model may have the same shapes."""
    config = reference.config
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    theta = config.get("rope_theta")
    if theta is None and isinstance(rope, dict):
        theta = rope.get("rope_theta")
    for key, expected in (
        ("block_count", config.get("num_hidden_layers")),
        ("embedding_length", config.get("hidden_size")),
        ("attention.head_count", reference.heads),
        ("attention.head_count_kv", reference.kv_heads),
        ("expert_used_count", config.get("num_experts_per_tok")),
        ("rope.freq_base", theta),
        ("attention.layer_norm_rms_epsilon", config.get("rms_norm_eps")),
    ):
        found: Any = file.values.get(f"{architecture}.{key}")
        if found is None or not isinstance(expected, int | float):
            continue
        if isinstance(found, int | float) and np.float32(found) == np.float32(expected):
            continue
        raise malformed(
            file.path.name,
            f"{architecture}.{key}: expected {expected}, that of {reference.path.name}, found"
            f" {shown(str(found))}",
            code="config_value",
        )


def _sources(
    files: Sequence[GgufFile], architecture: str, reference: Reference
) -> dict[str, _Source]:
    sources: dict[str, _Source] = {}
    for file in files:
        for tensor in file.tensors.values():
            if is_derived(tensor.name):
                continue
            place = place_of(tensor.name, architecture, reference)
            if place is None:
                raise malformed(
                    file.path.name,
                    f"expected only tensors of a {shown(reference.model_type)} model",
                    code="extra_tensor",
                    tensor=tensor.name,
                )
            for name, source in _placed(file, tensor, place, reference):
                if name in sources:
                    raise malformed(
                        file.path.name,
                        f"expected {name} once, found it also as"
                        f" '{shown(sources[name].tensor.name)}'",
                        code="duplicate_name",
                        tensor=tensor.name,
                    )
                sources[name] = source
    return sources


def _placed(
    file: GgufFile, tensor: GgufTensor, place: Place, reference: Reference
) -> Iterator[tuple[str, _Source]]:
    fail = partial(malformed, file.path.name, code="tensor_shape", tensor=tensor.name)
    if not place.parts:
        if place.interleaved and (tensor.shape[0] % (2 * place.interleaved)):
            raise fail(
                f"expected rows in {place.interleaved} heads of an even size, found"
                f" {tensor.shape[0]}"
            )
        yield place.name, _Source(file, tensor, 0, tensor.rows, place.interleaved)
        return
    if len(tensor.shape) != 3 or tensor.shape[1] % len(place.parts):
        raise fail(f"expected a stack of experts, found shape {list(tensor.shape)}")
    experts, rows = tensor.shape[0], tensor.shape[1] // len(place.parts)
    if reference.expert_name(place.layer, experts - 1, place.parts[0]) not in reference.tensors:
        raise fail(
            f"expected the experts of layer {place.layer} of {reference.path.name}, found {experts}"
        )
    begin = 0
    for expert in range(experts):
        for part in place.parts:
            name = reference.expert_name(place.layer, expert, part)
            yield name, _Source(file, tensor, begin, begin + rows)
            begin += rows


def _shape(source: _Source) -> Shape:
    shape = source.tensor.shape
    rows = source.end - source.begin
    return shape if prod(shape[:-1]) == rows else (rows, shape[-1])


def _settle_head(
    file: str,
    sources: dict[str, _Source],
    expected: dict[str, Shape],
    config: dict[str, Any],
    reference: Reference,
) -> None:
    """A file without a head multiplies with its embedding; one with a head of its own does not."""
    tied = config.get("tie_word_embeddings") is True
    if HEAD in sources:
        config["tie_word_embeddings"] = False
        expected.setdefault(HEAD, expected.get(EMBEDDING, ()))
    elif tied:
        expected.pop(HEAD, None)
    elif HEAD in expected:
        raise malformed(
            file,
            f"expected a head, for that of {reference.path.name} is not its embedding, found no"
            " output.weight",
            code="missing_tensor",
            tensor="output.weight",
        )
