"""What a comparison is made of: rows to convert, rows that were given, rows of equal size.

Planning reads headers only. Sizes are known before any work is done, and a row of equal size is
never larger than the row that it stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jang_tools import _core
from jang_tools.comparison.given import given_bytes
from jang_tools.convert import METHODS
from jang_tools.errors import ArgumentError
from jang_tools.hub import ResolvedModel
from jang_tools.plan import plan

MADE = ("profile", "baseline", "bits", "size")


@dataclass(frozen=True)
class Row:
    """A model to measure; ``name`` is unique, and that of its folder where it is converted.

    ``kind``: "profile", "baseline" (recipes of others), "bits" and "size" (widths chosen by loss
    per byte), or "given", a directory or file at ``path``. ``bytes`` are those of the weight
    files; ``equal``: the row of ours of at most as many.
    """

    name: str
    kind: str
    profile: str | None
    method: str | None
    bytes: int
    bits_per_weight: float
    path: Path | None = None
    bits: float | None = None
    size: int | None = None
    equal: str | None = None

    @property
    def widths(self) -> dict[str, Any]:
        """What ``convert`` takes for the widths of this row."""
        if self.kind in ("bits", "size"):
            return {"bits": self.bits, "size": self.size}
        return {"profile": self.profile}


@dataclass
class Wanted:
    """The rows of the table in the order of work, and what a reader should know about them."""

    rows: list[Row] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def plan_rows(
    source: Path,
    *,
    profiles: Sequence[str],
    bits: Sequence[float],
    methods: Sequence[str],
    given: Sequence[ResolvedModel],
    equal_bytes: bool,
) -> Wanted:
    """All rows for a source directory; ArgumentError for names, methods or sizes that make none."""
    _check(profiles, bits, methods, given)
    wanted = Wanted()
    for canonical in dict.fromkeys(_core.parse_profile(name) for name in profiles):
        kind = "profile" if canonical.startswith("JANG_") else "baseline"
        _add_made(wanted, source, kind, methods, profile=canonical)
    for value in dict.fromkeys(bits):
        _add_made(wanted, source, "bits", methods, bits=value)
    parameters = plan(source, profile="uniform-4").parameters
    taken = {row.name for row in wanted.rows}
    for model, name in zip(given, _given_names(given, taken), strict=True):
        size = given_bytes(model.path)
        wanted.rows.append(
            Row(name, "given", None, None, size, 8 * size / parameters, path=model.path)
        )
    if equal_bytes:
        _add_equal(wanted, source, "gptq" if "gptq" in methods else methods[-1])
    return wanted


def _check(
    profiles: Sequence[str],
    bits: Sequence[float],
    methods: Sequence[str],
    given: Sequence[ResolvedModel],
) -> None:
    if not profiles and not bits and not given:
        raise ArgumentError(
            "nothing to compare: no profiles, no baselines, no bits, no other models",
            code="argument",
        )
    if not methods:
        raise ArgumentError("methods: expected at least one", code="argument")
    for method in methods:
        if method not in METHODS:
            raise ArgumentError(
                f"methods: expected some of {', '.join(METHODS)}, found '{method}'",
                code="argument",
            )
    real = [model.path.resolve() for model in given]
    if len(set(real)) < len(real):
        twice = next(path for path in real if real.count(path) > 1)
        raise ArgumentError(f"{twice}: given twice", code="argument")


def _add_made(
    wanted: Wanted, source: Path, kind: str, methods: Sequence[str], **widths: Any
) -> None:
    found = plan(source, **widths)
    for method in dict.fromkeys(methods):
        wanted.rows.append(
            Row(
                f"{found.profile}-{method}",
                kind,
                found.profile,
                method,
                found.bytes,
                found.bits_per_weight,
                bits=widths.get("bits"),
                size=widths.get("size"),
            )
        )


def _add_equal(wanted: Wanted, source: Path, method: str) -> None:
    """One row of ours for every size that occurs; rows that are by size already need none."""
    made: dict[int, str | None] = {}
    base = list(wanted.rows)
    for index, row in enumerate(base):
        if row.kind == "bits":
            continue
        if row.bytes not in made:
            made[row.bytes] = None
            try:
                _add_made(wanted, source, "size", [method], size=row.bytes)
                made[row.bytes] = wanted.rows[-1].name
            except ArgumentError as error:
                wanted.notices.append(f"{row.name}: no file of ours is as small: {error}")
        wanted.rows[index] = replace(row, equal=made[row.bytes])


def _given_names(given: Sequence[ResolvedModel], taken: set[str]) -> list[str]:
    """The name of each, or more of the path where that does not tell them apart."""
    places = [model.path.resolve() for model in given]
    names = [model.name for model in given]
    deepest = max((len(place.parts) for place in places), default=1)
    for depth in range(2, deepest + 1):
        if len({*names, *taken}) == len(names) + len(taken):
            break
        names = ["/".join(place.parts[-depth:]) for place in places]
    return names
