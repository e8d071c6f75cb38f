"""RoleSummary: the row that plan() and inspect() print for each role of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jang_tools import _core


@dataclass(frozen=True)
class RoleSummary:
    """The tensors of one role. ``bits``: mean width of their codes; stored width if unquantized."""

    role: str
    tensors: int
    weights: int
    bits: float
    bytes: int


def role_summaries(rows: Sequence[_core.RoleRow]) -> list[RoleSummary]:
    return [RoleSummary(row.role, row.tensors, row.weights, row.bits, row.bytes) for row in rows]
