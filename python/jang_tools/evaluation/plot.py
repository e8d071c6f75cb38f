"""The figure of `jang eval --plot`: KL against size; matplotlib is of the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jang_tools.bench.plot import figure_class
from jang_tools.evaluation.report import Evaluation, ModelScores


def draw(found: Evaluation, path: Path) -> None:
    """Mean KL with two standard errors over bits per weight, a point a model, as a picture."""
    figure = figure_class()(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    models = sorted(found.models, key=lambda model: model.subject.bits_per_weight)
    shown = [model for model in models if model.kl.mean > 0]  # an equal model has no place on logs
    axes.errorbar(
        [model.subject.bits_per_weight for model in shown],
        [model.kl.mean for model in shown],
        yerr=_errors(shown),
        fmt="o",
        color="#2f6f9f",
        capsize=3,
    )
    for model in shown:
        axes.annotate(
            model.subject.name,
            (model.subject.bits_per_weight, model.kl.mean),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    if shown:
        axes.set_yscale("log")
    axes.set_xlabel("bits per weight, whole files")
    axes.set_ylabel("KL from the reference, nats per token")
    text = found.text
    where = "" if text is None else f" on {text.name}, {text.tokens} tokens"
    axes.set_title(f"{found.reference.name}{where}", fontsize=11)
    axes.grid(True, which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _errors(models: Sequence[ModelScores]) -> list[list[float]]:
    """Down and up; the lower end stays on a logarithmic scale."""
    double = [2 * (model.kl.se or 0.0) for model in models]
    down = [min(error, 0.9 * model.kl.mean) for error, model in zip(double, models, strict=True)]
    return [down, double]
