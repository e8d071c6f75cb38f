"""Rows of the printed tables, of the terminal and of Markdown: a column a measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jang_tools.evaluation.report import ModelScores, Pair, TaskResult

MODEL_HEADER = [
    *("model", "MB", "bits/weight", "KL", "±", "median", "95 %", "99 %", "99.9 %", "max"),
    *("top-1", "perplexity", "ratio", "±", "Δp rms", "logit MSE"),
]
PAIR_HEADER = ["KL of", "minus that of", "difference", "±", "95 % from", "to", "better"]
TASK_HEADER = [
    *("task", "model", "accuracy", "±", "per byte", "flips", "p (McNemar)"),
]


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits without an exponent where that is readable; empty for None."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-5 or abs(value) >= 1e7:
        return f"{value:.{digits - 1}e}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def model_row(model: ModelScores) -> list[str]:
    kl = model.kl
    return [
        model.subject.name,
        f"{model.subject.bytes / 1e6:.2f}",
        f"{model.subject.bits_per_weight:.2f}",
        number(kl.mean, 4),
        number(kl.se, 2),
        *(number(value) for value in (kl.median, kl.p95, kl.p99, kl.p999, kl.max)),
        percent(model.top1.value),
        number(model.perplexity, 5),
        f"{model.perplexity_ratio.value:.4f}",
        number(model.perplexity_ratio.se, 2),
        number(model.probability_rms),
        number(model.logit_mse),
    ]


def pair_row(pair: Pair) -> list[str]:
    return [
        pair.first,
        pair.second,
        number(pair.kl.mean),
        number(pair.kl.se, 2),
        number(pair.kl.low),
        number(pair.kl.high),
        pair.better or "open",
    ]


def task_rows(tasks: Sequence[TaskResult]) -> list[list[str]]:
    return [
        [
            task.task,
            score.name,
            percent(score.accuracy),
            percent(score.se),
            percent(score.per_byte),
            percent(score.flips),
            number(score.p_value, 2),
        ]
        for task in tasks
        for score in [task.reference, *task.models]
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]
