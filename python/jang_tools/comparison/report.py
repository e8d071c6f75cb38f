"""What a comparison found: dataclasses, the document of ``jang compare --json``, tables.

KL is in nats per token, sizes in bytes, rates between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from jang_tools.comparison.rows import Row
from jang_tools.evaluation.report import TextInfo, finite
from jang_tools.evaluation.statistics import (
    RESAMPLES,
    Difference,
    Estimate,
    KlSummary,
    Values,
    paired_difference,
)
from jang_tools.evaluation.tables import markdown, number, percent

HEADER = [
    *("model", "method", "MB", "bits/weight", "KL", "±", "median", "99.9 %", "top-1", "ppl ratio"),
]
PAIR_HEADER = [
    *("model", "against", "KL", "against", "factor", "difference", "95 % from", "to"),
    *("confidence", "is"),
]


@dataclass(frozen=True)
class LayerError:
    """Root mean square of a stored matrix's error over that of the matrix."""

    path: str
    relative_rms: float


@dataclass(frozen=True)
class RowScores:
    """A measured row; the measures are those of ``jang eval``.

    ``kl_windows``: mean KL of every window, which any two rows can be compared by. ``seconds``: of
    the conversion, None for a given model. ``layers``: errors by matrix, where they were asked for.
    """

    row: Row
    kl: KlSummary
    top1: Estimate
    perplexity: float
    perplexity_reference: float
    perplexity_ratio: Estimate
    probability_rms: float
    logit_mse: float
    kl_windows: list[float] = field(repr=False)
    seconds: float | None = None
    layers: list[LayerError] | None = field(default=None, repr=False)

    @property
    def windows(self) -> Values:
        """``[windows, 1]``, as statistics take them."""
        return np.asarray(self.kl_windows, dtype=np.float64)[:, None]

    def to_json(self) -> dict[str, Any]:
        row = self.row
        document: dict[str, Any] = {
            "name": row.name,
            "kind": row.kind,
            "profile": row.profile,
            "method": row.method,
            "path": None if row.path is None else str(row.path),
            "bytes": row.bytes,
            "bits_per_weight": row.bits_per_weight,
            "equal_bytes": row.equal,
            "kl": asdict(self.kl),
            "top1": self.top1.value,
            "top1_se": self.top1.se,
            "perplexity": self.perplexity,
            "perplexity_reference": self.perplexity_reference,
            "perplexity_ratio": asdict(self.perplexity_ratio),
            "probability_rms": self.probability_rms,
            "logit_mse": self.logit_mse,
            "kl_windows": self.kl_windows,
            "seconds": self.seconds,
        }
        if self.layers is not None:
            document["layers"] = [vars(layer).copy() for layer in self.layers]
        return document


def scores_of(row: Row, record: dict[str, Any], **more: Any) -> RowScores:
    """From the record of `measure`, as it comes back from a file."""
    return RowScores(
        row=row,
        kl=KlSummary(**record["kl"]),
        top1=Estimate(**record["top1"]),
        perplexity=record["perplexity"],
        perplexity_reference=record["perplexity_reference"],
        perplexity_ratio=Estimate(**record["perplexity_ratio"]),
        probability_rms=record["probability_rms"],
        logit_mse=record["logit_mse"],
        kl_windows=record["kl_windows"],
        **more,
    )


@dataclass(frozen=True)
class RowPair:
    """Two rows on the same windows: ``kl`` is first - second, ``factor`` first / second.

    ``kind``: "equal-bytes" (the first is ours at the second's size) or "method" (the same widths).
    ``verdict`` on the first: "better" or "worse" if the 95 % interval has no zero in it, else
    "tie".
    """

    kind: str
    first: str
    second: str
    kl: Difference
    factor: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Rows by size, and the pairs that the table is made for; ``pair`` compares any others."""

    model: str
    version: str
    level: str
    precision: str
    seed: int
    complete: bool
    text: TextInfo
    rows: list[RowScores]
    pairs: list[RowPair]
    notices: list[str]

    def pair(self, first: str, second: str, kind: str = "any") -> RowPair:
        """The paired difference of two rows by name; KeyError for one that is not there."""
        rows = {scores.row.name: scores for scores in self.rows}
        return compare_rows(rows[first], rows[second], kind, self.seed)

    def to_json(self) -> dict[str, Any]:
        """The document ``jang.compare/1``."""
        document: dict[str, Any] = {
            "schema": "jang.compare/1",
            "version": self.version,
            "level": self.level,
            "precision": self.precision,
            "seed": self.seed,
            "complete": self.complete,
            "model": self.model,
            "text": asdict(self.text),
            "rows": [scores.to_json() for scores in self.rows],
            "pairs": [asdict(pair) for pair in self.pairs],
            "notices": self.notices,
        }
        return {key: finite(value) for key, value in document.items()}

    def to_markdown(self) -> str:
        """The table, the pairs, and what they were measured on."""
        lines: list[str] = []
        for title, header, rows in self.tables():
            lines += [f"**{title}**", ""] if title else []
            lines += [*markdown(header, rows), ""]
        return "\n".join([*lines, *self.sources()])

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, header and rows of all tables that have any."""
        titles = {"equal-bytes": "At equal bytes", "method": "Methods at the same widths"}
        found = [("", HEADER, [table_row(scores) for scores in self.rows])]
        means = {scores.row.name: scores.kl.mean for scores in self.rows}
        for kind, title in titles.items():
            rows = [pair_row(pair, means) for pair in self.pairs if pair.kind == kind]
            found.append((title, PAIR_HEADER, rows))
        return [part for part in found if part[2]]

    def sources(self) -> list[str]:
        """What the numbers need to be compared with others."""
        text = self.text
        scored = "all positions" if text.score == "all" else "the second half"
        return [
            f"Reference {self.model}, models in {self.precision} precision, kernels {self.level},"
            f" jang-tools {self.version}.",
            f"Text {text.name} (sha256 {text.sha256[:12]}): {text.windows} windows of"
            f" {text.sequence}, {scored} scored, {text.tokens} tokens; errors by windows,"
            " differences paired.",
        ]


def compare_rows(first: RowScores, second: RowScores, kind: str, seed: int) -> RowPair:
    found = paired_difference(first.windows, second.windows, seed)
    verdict = "tie"
    if found.low is not None and found.high is not None:
        if found.high < 0:
            verdict = "better"
        elif found.low > 0:
            verdict = "worse"
    factor = first.kl.mean / second.kl.mean if second.kl.mean > 0 else float("inf")
    return RowPair(kind, first.row.name, second.row.name, found, factor, verdict)


def pairs_of(rows: Sequence[RowScores], seed: int) -> list[RowPair]:
    """Ours against each row of its size; each method against the one named before it."""
    by_name = {scores.row.name: scores for scores in rows}
    pairs = []
    for scores in rows:
        equal = by_name.get(scores.row.equal or "")
        if equal is not None:
            pairs.append(compare_rows(equal, scores, "equal-bytes", seed))
    order = {"rtn": 0, "mse": 1, "gptq": 2}
    widths: dict[str, list[RowScores]] = {}
    for scores in rows:
        if scores.row.profile is not None:
            widths.setdefault(scores.row.profile, []).append(scores)
    for same in widths.values():
        same.sort(key=lambda scores: order.get(scores.row.method or "", 0))
        for before, after in pairwise(same):
            pairs.append(compare_rows(after, before, "method", seed))
    return pairs


def table_row(scores: RowScores) -> list[str]:
    row = scores.row
    return [
        row.profile or row.name,
        row.method or "",
        f"{row.bytes / 1e6:.2f}",
        f"{row.bits_per_weight:.2f}",
        number(scores.kl.mean, 4),
        number(scores.kl.se, 2),
        number(scores.kl.median),
        number(scores.kl.p999),
        percent(scores.top1.value),
        f"{scores.perplexity_ratio.value:.4f}",
    ]


def pair_row(pair: RowPair, means: dict[str, float]) -> list[str]:
    return [
        pair.first,
        pair.second,
        number(means[pair.first], 4),
        number(means[pair.second], 4),
        number(pair.factor),
        number(pair.kl.mean),
        number(pair.kl.low),
        number(pair.kl.high),
        _confidence(pair.kl.confidence),
        pair.verdict,
    ]


def _confidence(share: float | None) -> str:
    """A bootstrap of so many resamples cannot tell certainty from less than one of them."""
    return f"> {100 - 100 / RESAMPLES:g} %" if share == 1 else percent(share)
