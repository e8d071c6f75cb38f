"""plan(): which width every tensor of a model would get, and what the files would weigh.

Reads headers only: shards may hold nothing beyond what their headers promise, and for the described
model types config.json (with its index, if there is one) is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.hub import locate_model
from jang_tools.role_summary import RoleSummary, role_summaries


@dataclass(frozen=True)
class Profile:
    """Bits by column. K profiles choose their widths: their columns are None, and
    ``published_average`` is the mean that they hold."""

    name: str
    mlp: int | None
    attention: int | None
    embedding: int | None
    head: int | None
    published_average: float


@dataclass(frozen=True)
class PlannedModule:
    """A matrix, or a stack of experts' matrices, that is stored quantized."""

    path: str
    role: str
    weights: int
    bits: int
    group_size: int


@dataclass(frozen=True)
class Plan:
    """A conversion's outcome in numbers.

    ``average_bits`` counts the codes of quantized weights, ``average_bits_stored`` their scales and
    biases too; ``bytes`` is the exact size of all weight files and ``bits_per_weight`` is
    8 * bytes / parameters.
    """

    model: str
    profile: str
    target_bits: float | None
    average_bits: float
    average_bits_stored: float
    bits_per_weight: float
    bytes: int
    parameters: int
    attention_bits: int
    mlp_bits: int
    roles: list[RoleSummary] = field(default_factory=list)
    modules: list[PlannedModule] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang plan --json``."""
        return {
            "schema": "jang.plan/1",
            "model": self.model,
            "profile": self.profile,
            "target_bits": self.target_bits,
            "average_bits": self.average_bits,
            "average_bits_stored": self.average_bits_stored,
            "bits_per_weight": self.bits_per_weight,
            "bytes": self.bytes,
            "parameters": self.parameters,
            "roles": [vars(role).copy() for role in self.roles],
            "modules": [vars(module).copy() for module in self.modules],
            "warnings": list(self.warnings),
        }


def profiles() -> list[Profile]:
    """The table of profiles: the fixed columns, then the K profiles."""
    table = [
        Profile(row.name, row.mlp, row.attention, row.embedding, row.head, row.published_average)
        for row in _core.profiles()
    ]
    for target in _core.k_profile_targets():
        table.append(Profile(f"JANG_{target}K", None, None, None, None, float(target)))
    return table


def plan(
    model: str | Path,
    *,
    profile: str = "JANG_4K",
    dtype: str | None = None,
    group_size: int | None = None,
    router_bits: int | None = None,
    expert_floor: int | None = None,
    rules: Sequence[str] = (),
) -> Plan:
    """Plans the conversion of a directory or of org/name in the Hub cache.

    Args:
        profile: any spelling of a profile ("4L", "jang_4k") or baseline ("uniform-4", "mixed_2_6",
            "tiered-4L").
        dtype: bf16, f16 or f32 for scales, biases and unquantized tensors; None: the source's.
        group_size: 32, 64 or 128; where it does not divide the inputs of a matrix, the largest
            smaller one that does.
        router_bits: 8 quantizes the routers of expert models; None leaves them.
        expert_floor: at least this many bits for routed experts.
        rules: "GLOB=BITS[:GROUP]" or "GLOB=none" on module paths; the last match wins.

    Raises ArgumentError (unknown profile, a rule that matches nothing), FormatError,
    UnsupportedError (already quantized, or a format that is refused by name), IoError.
    """
    located = locate_model(model)
    found = _core.plan_directory(
        str(located.path),
        profile=profile,
        dtype=dtype,
        group_size=group_size,
        router_bits=router_bits,
        expert_floor=expert_floor,
        rules=list(rules),
    )
    return Plan(
        model=located.name,
        profile=found.profile,
        target_bits=found.target_bits,
        average_bits=found.average_bits,
        average_bits_stored=found.average_bits_stored,
        bits_per_weight=found.bits_per_weight,
        bytes=found.file_bytes,
        parameters=found.parameters,
        attention_bits=found.attention_bits,
        mlp_bits=found.mlp_bits,
        roles=role_summaries(found.roles),
        modules=[
            PlannedModule(tensor.path, tensor.role, tensor.weights, tensor.bits, tensor.group_size)
            for tensor in found.tensors
            if tensor.bits is not None and tensor.group_size is not None
        ],
        warnings=list(found.warnings),
    )
