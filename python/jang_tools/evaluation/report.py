"""What an evaluation found, as dataclasses, as the document of ``jang eval --json``, as Markdown.

KL and negative log-likelihoods are in nats per token, sizes in bytes, rates between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jang_tools.evaluation import tables
from jang_tools.evaluation.statistics import (
    Difference,
    Estimate,
    KlSummary,
    Values,
    estimate,
    exp,
    paired_difference,
    ratio_of_perplexities,
    summarize_kl,
)


@dataclass(frozen=True)
class TextInfo:
    """What was read: ``tokens`` are scored positions of all windows of ``sequence`` positions."""

    name: str
    sha256: str
    tokens: int
    sequence: int
    windows: int
    score: str
    bos: list[int]
    tokens_sha256: str
    tokenizer_sha256: str


@dataclass(frozen=True)
class Subject:
    """A model directory; ``bytes`` of its whole weight files."""

    path: Path
    name: str
    format: str
    profile: str | None
    method: str | None
    bytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class ModelScores:
    """One model against the reference.

    ``top1``: share of positions with the same most likely token. ``probability_rms``: root mean
    square change of the true token's probability. ``logit_mse``: of logits centred over the
    vocabulary. ``kl_positions``: ``[windows, positions]``.
    """

    subject: Subject
    kl: KlSummary
    top1: Estimate
    perplexity: float
    perplexity_reference: float
    perplexity_ratio: Estimate
    probability_rms: float
    logit_mse: float
    kl_positions: Values = field(repr=False, compare=False)


@dataclass(frozen=True)
class Pair:
    """Paired difference of KL, first - second; ``better`` is a name, or None if it is open."""

    first: str
    second: str
    kl: Difference
    better: str | None


@dataclass(frozen=True)
class TaskScore:
    """Answers of one model to one task; ``accuracy`` is None where they were not judged.

    ``flips``: share of items on which it chose otherwise than the reference. ``p_value``: McNemar's
    test against the reference. ``per_byte``: accuracy by likelihood per byte of the option's text.
    """

    name: str
    accuracy: float | None
    se: float | None
    per_byte: float | None = None
    flips: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class TaskPair:
    """Two models on the same items: how many only one of them got right."""

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class TaskResult:
    """``items`` were answered by all models; ``malformed`` rows and those ``too_long`` were not."""

    task: str
    metric: str
    prompt: str
    sha256: str
    items: int
    malformed: int
    too_long: int
    reference: TaskScore
    models: list[TaskScore]
    pairs: list[TaskPair]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """All of it; ``notices`` are what a reader of the numbers should know."""

    reference: Subject
    precision: str
    seed: int
    level: str
    version: str
    text: TextInfo | None
    models: list[ModelScores]
    pairs: list[Pair]
    tasks: list[TaskResult]
    notices: list[str]

    def to_json(self) -> dict[str, Any]:
        """The document ``jang.eval/1``."""
        document: dict[str, Any] = {
            "schema": "jang.eval/1",
            "version": self.version,
            "level": self.level,
            "precision": self.precision,
            "seed": self.seed,
            "text": None if self.text is None else asdict(self.text),
            "reference": _subject_json(self.reference),
            "models": [_model_json(model) for model in self.models],
            "pairs": [asdict(pair) for pair in self.pairs],
            "tasks": [asdict(task) for task in self.tasks],
            "notices": self.notices,
        }
        return {key: finite(value) for key, value in document.items()}

    def to_markdown(self) -> str:
        """Tables for a report: models, pairs, tasks, and what they were measured on."""
        parts = [
            (tables.MODEL_HEADER, [tables.model_row(model) for model in self.models]),
            (tables.PAIR_HEADER, [tables.pair_row(pair) for pair in self.pairs]),
            (tables.TASK_HEADER, tables.task_rows(self.tasks)),
        ]
        lines: list[str] = []
        for header, rows in parts:
            if rows:
                lines += [*tables.markdown(header, rows), ""]
        return "\n".join([*lines, *self.sources()])

    def sources(self) -> list[str]:
        """One line each on reference, text and tasks: what numbers need to be compared."""
        lines = [
            f"Reference {self.reference.name} ({self.reference.bytes / 1e6:.1f} MB), models in"
            f" {self.precision} precision, kernels {self.level}, jang-tools {self.version}."
        ]
        if self.text is not None:
            text = self.text
            scored = "all positions" if text.score == "all" else "the second half"
            lines.append(
                f"Text {text.name} (sha256 {text.sha256[:12]}): {text.windows} windows of"
                f" {text.sequence}, {scored} scored, {text.tokens} tokens; errors by windows."
            )
        for task in self.tasks:
            lines.append(
                f"Task {task.task} (sha256 {task.sha256[:12]}): {task.items} items by"
                f" {task.metric}, {task.prompt}; {task.malformed} malformed rows skipped,"
                f" {task.too_long} items too long."
            )
        return lines


def score_model(
    subject: Subject,
    kl: Values,
    nll: Values,
    nll_reference: Values,
    squared_error: Values,
    same_top: Values,
) -> ModelScores:
    """The scores of a model from its positions, arrays ``[windows, positions]``."""
    change = np.exp(-nll) - np.exp(-nll_reference)
    return ModelScores(
        subject=subject,
        kl=summarize_kl(kl),
        top1=estimate(same_top),
        perplexity=exp(float(nll.mean())),
        perplexity_reference=exp(float(nll_reference.mean())),
        perplexity_ratio=ratio_of_perplexities(nll, nll_reference),
        probability_rms=float(np.sqrt(np.square(change).mean())),
        logit_mse=float(squared_error.mean()),
        kl_positions=kl,
    )


def compare_all(models: Sequence[ModelScores], seed: int) -> list[Pair]:
    """Every two models, in order."""
    pairs = []
    for i, first in enumerate(models):
        for second in models[i + 1 :]:
            found = paired_difference(first.kl_positions, second.kl_positions, seed)
            better = None
            if found.low is not None and found.high is not None:
                if found.high < 0:
                    better = first.subject.name
                elif found.low > 0:
                    better = second.subject.name
            pairs.append(Pair(first.subject.name, second.subject.name, found, better))
    return pairs


def _subject_json(subject: Subject) -> dict[str, Any]:
    return {**vars(subject), "path": str(subject.path)}


def _model_json(model: ModelScores) -> dict[str, Any]:
    return {
        **_subject_json(model.subject),
        "kl": asdict(model.kl),
        "top1": model.top1.value,
        "top1_se": model.top1.se,
        "perplexity": model.perplexity,
        "perplexity_reference": model.perplexity_reference,
        "perplexity_ratio": asdict(model.perplexity_ratio),
        "probability_rms": model.probability_rms,
        "logit_mse": model.logit_mse,
    }


def finite(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
