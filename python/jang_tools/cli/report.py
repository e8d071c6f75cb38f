"""Parts of the printed reports that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jang_tools.cli.ui import format_count, format_size, format_table


class Role(Protocol):
    """A row of the table by role; `bits` is the mean width of its weights."""

    @property
    def role(self) -> str: ...
    @property
    def tensors(self) -> int: ...
    @property
    def weights(self) -> int: ...
    @property
    def bits(self) -> float: ...
    @property
    def bytes(self) -> int: ...


def role_table(roles: Sequence[Role]) -> list[str]:
    """Tensors, weights, bits and bytes by role, and their sums."""
    rows = [
        [
            row.role,
            str(row.tensors),
            format_count(row.weights),
            format_bits(row.bits),
            format_size(row.bytes),
        ]
        for row in roles
    ]
    rows.append(
        [
            "total",
            str(sum(row.tensors for row in roles)),
            format_count(sum(row.weights for row in roles)),
            "",
            format_size(sum(row.bytes for row in roles)),
        ]
    )
    return format_table(["role", "tensors", "weights", "bits", "bytes"], rows)


def format_bits(bits: float) -> str:
    """A width without needless digits: 4, 4.06."""
    return f"{bits:.2f}".rstrip("0").rstrip(".")
