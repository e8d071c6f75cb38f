"""A GPTQ directory as a plain Hugging Face one: w = scale * (code - zero), exact in float32.

A module of ``in`` inputs and ``out`` outputs is stored transposed, as little-endian bit streams of
``bits`` a code in 32-bit words:

    qweight  I32 [in * bits / 32, out]       codes, packed along the inputs
    qzeros   I32 [groups, out * bits / 32]   zero points, packed along the outputs
    scales   F16 [groups, out]
    g_idx    I32 [in]                        the group of each input; absent: in order

The distance of two codes has 8 bits at most and an F16 scale 11, so the product needs no rounding;
scales in F32, which hardly any writer makes, are rounded once, as in every reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.errors import FormatError
from jang_tools.foreign.faults import malformed, shown
from jang_tools.foreign.gptq_settings import BITS, GptqSettings, read_settings
from jang_tools.foreign.plain_writer import Advance, Floats, PlainTensor, write_plain
from jang_tools.foreign.reference import HEAD, Reference, Shape, plain_config
from jang_tools.json_file import read_json_object

_CHUNK_WEIGHTS = 1 << 20
_FLOATS = ("F32", "F16", "BF16")
_PARTS = ("qweight", "qzeros", "scales", "g_idx")

Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class GptqSummary:
    """``bytes`` of the weight files; ``bits`` and ``group_size`` as the settings have them."""

    bits: int
    group_size: int
    desc_act: bool
    bytes: int


def materialize_gptq(
    directory: Path, reference: Reference, output: Path, advance: Advance | None = None
) -> GptqSummary:
    """Writes the model of an AutoGPTQ or GPTQModel directory into ``output``.

    ``output`` is an existing empty directory. 2, 3, 4 and 8 bits, any group size, with and without
    ``desc_act``, symmetric or not, in the formats ``gptq`` and ``gptq_v2``. Configuration and
    tokenizer are the directory's own; tensors and shapes must be the reference's. Raises
    FormatError naming file, tensor, expected and found, UnsupportedError, IoError.
    """
    settings = read_settings(directory)
    with TemporaryDirectory(prefix="jang-gptq-") as scratch:
        weights = _Weights(_open(directory, Path(scratch)), settings)
        config = plain_config(read_json_object(directory / "config.json"))
        tensors = weights.tensors(reference)
        found: dict[str, Shape] = {tensor.name: tensor.shape for tensor in tensors}
        expected = dict(reference.tensors)
        if config.get("tie_word_embeddings") is True and HEAD not in found:
            expected.pop(HEAD, None)
        Reference(reference.path, config, expected).check(directory.name, found, weights.sources)
        own = (directory / "tokenizer.json").is_file()
        write_plain(output, tensors, config, directory if own else reference.path, advance)
        return GptqSummary(
            settings.bits, settings.group_size, settings.desc_act, weights.checkpoint.file_bytes
        )


def _open(directory: Path, scratch: Path) -> _core.Checkpoint:
    """The directory's weights; AutoGPTQ called its one file gptq_model-4bit-128g.safetensors."""
    try:
        return _core.Checkpoint(directory)
    except FormatError as error:
        named = sorted(directory.glob("gptq_model*.safetensors"))
        if error.code != "shard_set" or len(named) != 1:
            raise
    (scratch / "model.safetensors").symlink_to(named[0].resolve())
    return _core.Checkpoint(scratch)


@dataclass(frozen=True)
class _Module:
    """The stored arrays of one quantized matrix, checked against each other."""

    bits: int
    zero_offset: int
    qweight: Integers
    qzeros: Integers
    scales: Floats
    groups: Integers  # of each input

    @property
    def shape(self) -> Shape:
        return self.qweight.shape[1], len(self.groups)

    def pieces(self) -> Iterator[Floats]:
        """Rows of weights, one for each output, about a million weights at a time."""
        outputs, inputs = self.shape
        # Whole words of zero points: 32 outputs fill them at any width.
        step = max(32, _CHUNK_WEIGHTS // inputs // 32 * 32)
        top = (1 << self.bits) - 1
        for begin in range(0, outputs, step):
            end = min(begin + step, outputs)
            words = slice(begin * self.bits // 32, -(-end * self.bits // 32))
            zeros = unpack(self.qzeros[:, words], self.bits)[:, : end - begin]
            zeros = (zeros + np.int32(self.zero_offset)) & np.int32(top)
            codes = unpack(self.qweight[:, begin:end].T, self.bits)
            distance = codes - zeros[self.groups].T
            yield distance.astype(np.float32) * self.scales[self.groups, begin:end].T


def unpack(words: Integers, bits: int) -> Integers:
    """Codes along the last axis: int32 ``[..., n]`` to ``[..., n * 32 / bits]``, low bits first."""
    data = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 8:
        return data.astype(np.int32)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        parts: Integers = ((data[..., None] >> shifts) & np.uint8((1 << bits) - 1)).astype(np.int32)
        return parts.reshape(*data.shape[:-1], -1)
    stream = np.unpackbits(data, axis=-1, bitorder="little")
    places: Integers = stream.reshape(*data.shape[:-1], -1, bits) << np.arange(bits, dtype=np.int32)
    codes: Integers = places.sum(axis=-1, dtype=np.int32)
    return codes


class _Weights:
    """The tensors of a directory as plain ones; ``sources``: what it calls each itself."""

    def __init__(self, checkpoint: _core.Checkpoint, settings: GptqSettings) -> None:
        self.checkpoint = checkpoint
        self._settings = settings
        self._info = {tensor.name: tensor for tensor in checkpoint.tensors}
        self.sources: dict[str, str] = {}

    def tensors(self, reference: Reference) -> list[PlainTensor]:
        """All of them, modules opened and checked; what the reference lacks is among them."""
        found = []
        for name in self._info:
            module, _, part = name.rpartition(".")
            if f"{module}.qweight" in self._info and part in _PARTS:
                if part == "qweight":
                    weight = self._module(module)
                    found.append(PlainTensor(f"{module}.weight", weight.shape, weight.pieces))
                    self.sources[f"{module}.weight"] = name
                continue
            if name.endswith((".rotary_emb.inv_freq", ".position_ids")):
                continue
            if part == "bias" and name not in reference.tensors and self._is_zero(name):
                continue  # written for every module by the first versions
            found.append(self._plain(name))
        return found

    def _plain(self, name: str) -> PlainTensor:
        info = self._info[name]
        if info.dtype not in _FLOATS:
            self._fail(name, f"expected F32, F16 or BF16, found {info.dtype}", "unusable_dtype")

        def pieces() -> Iterator[Floats]:
            flat = self.checkpoint.array(name).reshape(-1)
            for begin in range(0, len(flat), _CHUNK_WEIGHTS):
                yield self._finite(name, _as_float(flat[begin : begin + _CHUNK_WEIGHTS]))

        return PlainTensor(name, tuple(info.shape), pieces)

    def _module(self, module: str) -> _Module:
        qweight, scales = (self._array(f"{module}.{part}") for part in ("qweight", "scales"))
        qzeros = self._array(f"{module}.qzeros")
        self._matrix(f"{module}.qweight", qweight, ("I32",))
        self._matrix(f"{module}.qzeros", qzeros, ("I32",))
        self._matrix(f"{module}.scales", scales, _FLOATS)
        outputs, groups = qweight.shape[1], scales.shape[0]
        inputs, bits = self._inputs(module, qweight.shape[0], groups)
        if scales.shape != (groups, outputs):
            self._fail(
                f"{module}.scales",
                f"expected shape {[groups, outputs]}, found {list(scales.shape)}",
                "triple_shape",
            )
        if outputs * bits % 32 or qzeros.shape != (groups, outputs * bits // 32):
            self._fail(
                f"{module}.qzeros",
                f"expected shape {[groups, outputs * bits / 32]}, for {bits} bits, found"
                f" {list(qzeros.shape)}",
                "triple_shape",
            )
        values = self._finite(f"{module}.scales", _as_float(scales))
        return _Module(
            bits, self._settings.zero_offset, qweight, qzeros, values,
            self._groups(module, inputs, groups),
        )  # fmt: skip

    def _inputs(self, module: str, words: int, groups: int) -> tuple[int, int]:
        """Inputs and bits: as the settings say or, where modules differ, as the shapes tell."""
        settings = self._settings
        inputs, bits = words * 32 // settings.bits, settings.bits
        if settings.mixed:
            index = self._info.get(f"{module}.g_idx")
            if index is None:
                self._fail(f"{module}.g_idx", "missing, where modules differ", "missing_tensor")
            inputs = int(index.shape[0]) if len(index.shape) == 1 else 0
            bits = words * 32 // inputs if inputs else 0
        if bits not in BITS or inputs * bits != words * 32 or inputs == 0:
            self._fail(
                f"{module}.qweight",
                f"expected {settings.bits} bits a code, found {words} words for {inputs} inputs",
                "triple_shape",
            )
        if not settings.mixed:
            size = inputs if settings.group_size == -1 else settings.group_size
            if groups != -(-inputs // size):
                self._fail(
                    f"{module}.scales",
                    f"expected {-(-inputs // size)} groups of {shown(str(size))} for {inputs}"
                    f" inputs, found {groups}",
                    "triple_shape",
                )
        return inputs, bits

    def _groups(self, module: str, inputs: int, groups: int) -> Integers:
        size = -(-inputs // groups)
        if self._settings.group_size > 0 and not self._settings.mixed:
            # The settings may name any integer; numpy takes 64 bits.
            size = min(self._settings.group_size, inputs)
        plain = (np.arange(inputs) // size).astype(np.int32)
        name = f"{module}.g_idx"
        if name not in self._info:
            if self._settings.desc_act:
                self._fail(name, "missing, where desc_act is true", "missing_tensor")
            return plain
        index = self._array(name)
        if index.shape != (inputs,) or index.dtype != np.int32:
            self._fail(
                name,
                f"expected I32 {[inputs]}, found {self._info[name].dtype} {list(index.shape)}",
                "triple_shape",
            )
        if index.min() < 0 or index.max() >= groups:
            self._fail(
                name,
                f"expected groups from 0 to {groups - 1}, found {index.min()} to {index.max()}",
                "config_value",
            )
        if not self._settings.desc_act and not np.array_equal(index, plain):
            self._fail(
                name,
                "expected the groups in order, for desc_act is false, found another order",
                "config_value",
            )
        found: Integers = index
        return found

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._info:
            self._fail(name, "missing", "missing_tensor")
        return self.checkpoint.array(name)

    def _matrix(self, name: str, array: npt.NDArray[Any], dtypes: Sequence[str]) -> None:
        dtype = self._info[name].dtype
        if array.ndim != 2 or array.size == 0 or dtype not in dtypes:
            self._fail(
                name,
                f"expected a matrix of {' or '.join(dtypes)}, found {dtype} {list(array.shape)}",
                "triple_shape",
            )

    def _finite(self, name: str, values: Floats) -> Floats:
        if not np.isfinite(values).all():
            self._fail(name, "expected finite values, found NaN or infinity", "non_finite")
        return values

    def _is_zero(self, name: str) -> bool:
        plain = self._info[name].dtype in _FLOATS
        return plain and not np.count_nonzero(_as_float(self.checkpoint.array(name)))

    def _fail(self, tensor: str, message: str, code: str) -> NoReturn:
        file = self._info[tensor].file if tensor in self._info else ""
        raise malformed(
            file or _first_file(self.checkpoint.files), message, code=code, tensor=tensor
        )


def _first_file(files: Sequence[str]) -> str:
    return files[0] if files else "model.safetensors"


def _as_float(array: npt.NDArray[Any]) -> Floats:
    """float32 of float32, float16 or bfloat16 (which comes as uint16)."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)
