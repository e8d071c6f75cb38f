"""Parts of the printed reports that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from jang_tools.cli.ui import format_count, format_size, format_table

if TYPE_CHECKING:
    from jang_tools.convert import ConvertResult, Lattices
    from jang_tools.needs import Needs
    from jang_tools.plan import Allocation, Suggestion


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


def allocation_lines(allocation: Allocation, size: int, parameters: int) -> list[str]:
    """What was asked, what could be had, and what every role got; for a file of ``size`` bytes."""

    def per_weight(count: int) -> str:
        return f"{8 * count / parameters:.4g}" if parameters else "0"

    asked, got = allocation.requested_bytes, size
    lines = [
        f"Requested: {per_weight(asked)} bits per weight ({asked} bytes)"
        f" | achieved: {per_weight(got)} ({got} bytes)",
        f"Reachable: {per_weight(allocation.lowest_bytes)} to"
        f" {per_weight(allocation.highest_bytes)} bits per weight | losses: {allocation.losses}",
    ]
    for role, rows in groupby(allocation.widths, key=lambda row: row.role):
        chosen = [
            f"{row.modules} x {row.bits}-bit g{row.group_size}"
            if row.bits
            else f"{row.modules} x unquantized"
            for row in rows
        ]
        lines.append(f"  {role}: {', '.join(chosen)}")
    for floor in allocation.floors:
        if floor.bits < floor.table_bits:
            lines.append(
                f"  floor of {floor.kind}: {floor.bits} bits in place of {floor.table_bits}, which"
                " would take too much of the target"
            )
        if floor.binding:
            lines.append(
                f"  floor of {floor.kind}: {floor.bits} bits raises {floor.binding} of"
                f" {floor.modules}"
            )
    return lines


def suggestion_line(profile: str, suggestion: Suggestion) -> str:
    """The hint that the same bytes can be spent better, with the option that does it."""
    return (
        f"hint: --size {suggestion.size} in place of {profile} spends as many bytes where they"
        f" count: {suggestion.loss_ratio:.2f} times its expected loss"
    )


def lattice_line(lattices: Lattices) -> str:
    """How many tensors were stored on the lattice of their source, and how much of them exactly."""
    found = f"{lattices.tensors} tensors lie on lattices"
    if lattices.lossless_groups == lattices.groups:
        return f"{found}: stored without loss"
    share = lattices.lossless_groups / lattices.groups
    percent = min(100 * share, 99.99)  # never rounded up to all
    return (
        f"{found}: {percent:.2f} % of their groups stored without loss,"
        f" {lattices.lossless_tensors} tensors entirely"
    )


def needs_line(needs: Needs) -> str:
    """Memory and disk that a conversion takes at most, with the largest share of each."""

    def largest(shares: Sequence[tuple[str, int]]) -> str:
        what, size = max(shares, key=lambda share: share[1])
        return f" ({what}: {format_size(size)})" if len(shares) > 1 else ""

    disk = [share for share in needs.disk if share[1]]
    return (
        f"Memory: at most {format_size(needs.memory_bytes)}{largest(needs.memory)}"
        f" | Disk: {format_size(needs.disk_bytes)}{largest(disk)}"
    )


def conversion_lines(report: ConvertResult) -> list[str]:
    """What a conversion has made: widths and size."""
    lines = []
    if report.allocation:
        lines += allocation_lines(report.allocation, report.bytes, report.parameters)
    if report.lattices:
        lines.append(lattice_line(report.lattices))
    attention, mlp = (
        f"{bits}-bit" if bits else "none" for bits in (report.attention_bits, report.mlp_bits)
    )
    lines.append(f"Attention layers: {attention} | MLP: {mlp}")
    lines.append(f"Average bits: {report.average_bits:.1f} | Size: {format_size(report.bytes)}")
    return lines


def format_bits(bits: float) -> str:
    """A width without needless digits: 4, 4.06."""
    return f"{bits:.2f}".rstrip("0").rstrip(".")
