"""inspect(): what a directory holds, from its headers and JSON files alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.hub import resolve_model
from jang_tools.role_summary import RoleSummary, role_summaries


@dataclass(frozen=True)
class InspectedTensor:
    """A quantized module (one row for codes, scales and biases together) or a plain tensor.

    ``shape`` is logical: rows and columns of weights, whatever the packing.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: int | None
    group_size: int | None
    bytes: int
    file: str


@dataclass(frozen=True)
class Inspection:
    """A directory: ``format`` is jang, jang-v1, mlx or hf; ``bytes`` those of the weight files."""

    path: Path
    format: str
    model_type: str
    profile: str | None
    method: str | None
    average_bits: float
    bits_per_weight: float
    bytes: int
    parameters: int
    roles: list[RoleSummary] = field(default_factory=list)
    tensors: list[InspectedTensor] = field(default_factory=list)

    def to_json(self, *, tensors: bool = False) -> dict[str, Any]:
        """The document of ``jang inspect --json``; with ``tensors`` also that of --tensors."""
        document: dict[str, Any] = {
            "schema": "jang.inspect/1",
            "path": str(self.path),
            "format": self.format,
            "model_type": self.model_type,
            "profile": self.profile,
            "method": self.method,
            "average_bits": self.average_bits,
            "bits_per_weight": self.bits_per_weight,
            "bytes": self.bytes,
            "parameters": self.parameters,
            "roles": [vars(role).copy() for role in self.roles],
        }
        if tensors:
            document["tensors"] = [
                {**vars(tensor), "shape": list(tensor.shape)} for tensor in self.tensors
            ]
        return document


def inspect(path: str | Path) -> Inspection:
    """Reads what a directory (or org/name in the Hub cache) says about itself.

    JANG v2, stock MLX, plain Hugging Face and JANG v1 directories; v1 by headers and shapes. Raises
    FormatError for a malformed file, UnsupportedError for a format that is refused by name, and
    IoError.
    """
    directory = resolve_model(path)
    found = _core.inspect_directory(str(directory))
    return Inspection(
        path=directory,
        format=found.format,
        model_type=found.model_type,
        profile=found.profile,
        method=found.method,
        average_bits=found.average_bits,
        bits_per_weight=found.bits_per_weight,
        bytes=found.bytes,
        parameters=found.parameters,
        roles=role_summaries(found.roles),
        tensors=[
            InspectedTensor(
                name=tensor.name,
                dtype=tensor.dtype,
                shape=tuple(tensor.shape),
                bits=tensor.bits,
                group_size=tensor.group_size,
                bytes=tensor.bytes,
                file=tensor.file,
            )
            for tensor in found.tensors
        ],
    )
