"""The figures of `jang compare`: KL against size, and the error of layers; extra `plots`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jang_tools.bench.plot import figure_class
from jang_tools.comparison.report import Comparison, RowScores

_COLORS = {"rtn": "#b0722a", "mse": "#2f6f9f", "gptq": "#3f8f5a", None: "#555555"}
_MARKERS = {"profile": "o", "baseline": "s", "bits": "D", "size": "D", "given": "^"}
_KINDS = {
    "profile": "profiles",
    "baseline": "recipes of others",
    "size": "by size",
    "given": "other models",
}
_STYLES = {"rtn": ":", "mse": "--", "gptq": "-"}
_LAYER = re.compile(r"\blayers\.(\d+)\.")


def draw(found: Comparison, path: Path) -> None:
    """Mean KL with two standard errors over bits per weight: a colour a method, a mark a kind."""
    figure = figure_class()(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    shown = [scores for scores in found.rows if scores.kl.mean > 0]  # logs have no zero
    named = {scores.row.profile or scores.row.name: scores for scores in sorted(shown, key=_worst)}
    for scores in shown:
        _point(axes, scores)
    for name, scores in named.items():
        if scores.row.kind not in ("size", "bits"):
            axes.annotate(
                name,
                (scores.row.bits_per_weight, scores.kl.mean),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=7,
            )
    _line_by_size(axes, shown)
    if shown:
        axes.set_yscale("log")
    _legend(axes, shown)
    axes.set_xlabel("bits per weight, whole files")
    axes.set_ylabel("KL from the reference, nats per token")
    axes.set_title(f"{found.model} on {found.text.name}, {found.text.tokens} tokens", fontsize=11)
    axes.grid(True, which="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _point(axes: Any, scores: RowScores) -> None:
    row = scores.row
    double = 2 * (scores.kl.se or 0.0)
    axes.errorbar(
        [row.bits_per_weight],
        [scores.kl.mean],
        yerr=[[min(double, 0.9 * scores.kl.mean)], [double]],
        fmt=_MARKERS[row.kind],
        color=_COLORS[row.method],
        capsize=3,
    )


def _worst(scores: RowScores) -> float:
    """A name stands once, at the worst of its methods: the others are below it."""
    return scores.kl.mean


def _line_by_size(axes: Any, shown: list[RowScores]) -> None:
    """The rows whose widths were chosen by loss per byte, joined: what a size can be worth."""
    for method, color in _COLORS.items():
        chosen = sorted(
            (scores.row.bits_per_weight, scores.kl.mean)
            for scores in shown
            if scores.row.kind in ("size", "bits") and scores.row.method == method
        )
        if len(chosen) > 1:
            axes.plot(*zip(*chosen, strict=True), color=color, linewidth=1, alpha=0.6)


def _legend(axes: Any, shown: list[RowScores]) -> None:
    for method in dict.fromkeys(scores.row.method for scores in shown):
        if method is not None:
            axes.plot([], [], color=_COLORS[method], linewidth=4, label=method)
    kinds = {"size" if scores.row.kind == "bits" else scores.row.kind for scores in shown}
    for kind, title in _KINDS.items():
        if kind in kinds:
            axes.plot([], [], _MARKERS[kind], color="#888888", label=title)
    if shown:
        axes.legend(fontsize=8, frameon=False)


def draw_layers(found: Comparison, path: Path) -> None:
    """Relative error of the weights of each layer, root mean square over its matrices: a colour for
    each choice of widths, a style for each method. What is outside layers stands beside them."""
    figure = figure_class()(figsize=(11, 6), layout="constrained")
    axes = figure.subplots()
    rows = [(scores, layer_errors(scores)) for scores in found.rows if scores.layers]
    places = sorted({place for _, errors in rows for place in errors}, key=_order)
    widths = list(dict.fromkeys(scores.row.profile for scores, _ in rows))
    for scores, errors in rows:
        color = f"C{widths.index(scores.row.profile) % 10}"
        style = _STYLES.get(scores.row.method or "", "-")
        for numbered in (True, False):
            chosen = [
                place for place in sorted(errors, key=_order) if place.isdecimal() == numbered
            ]
            axes.plot(
                [places.index(place) for place in chosen],
                [errors[place] for place in chosen],
                marker="." if numbered else "o",
                linestyle=style if numbered else "none",
                linewidth=1,
                color=color,
                label=scores.row.name if numbered else None,
            )
    axes.set_xticks(range(len(places)), places, fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel("layer")
    axes.set_ylabel("error of the weights, relative")
    axes.set_title(found.model, fontsize=11)
    axes.grid(True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def _order(place: str) -> tuple[int, int, str]:
    """The embedding, the layers by number, the rest by name."""
    if place.isdecimal():
        return (1, int(place), "")
    return (0 if place.startswith("embed") else 2, 0, place)


def layer_errors(scores: RowScores) -> dict[str, float]:
    """By number of the layer, or by the last part of the path where there is none."""
    squares: dict[str, list[float]] = {}
    for layer in scores.layers or []:
        match = _LAYER.search(layer.path)
        place = match[1] if match else layer.path.rpartition(".")[2]
        squares.setdefault(place, []).append(layer.relative_rms**2)
    return {place: float(np.sqrt(np.mean(values))) for place, values in squares.items()}
