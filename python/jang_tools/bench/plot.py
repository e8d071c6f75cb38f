"""The figure of `jang bench --plot`; matplotlib, of the extra `plots`, is imported here alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jang_tools.bench.measure import Measurements, Result
from jang_tools.errors import ArgumentError, UnsupportedError

SUFFIXES = (".pdf", ".png", ".svg")


def require_plots(path: Path) -> None:
    """Raises before anything is measured if ``path`` could not be drawn afterwards."""
    if path.suffix.lower() not in SUFFIXES:
        raise ArgumentError(
            f"{path}: expected a name that ends in one of {', '.join(SUFFIXES)}", code="argument"
        )
    figure_class()


def draw(measured: Measurements, title: str, path: Path) -> None:
    """Rates of all tests, and the bandwidth that decoding and batches reach, as a picture."""
    results = measured.results
    figure = figure_class()(figsize=(10, 1.6 + 0.32 * max(len(results), 4)), layout="constrained")
    figure.suptitle(
        f"{title}: {measured.level}, {measured.threads} threads, {measured.precision}", fontsize=11
    )
    rates, bandwidth = figure.subplots(1, 2)
    _bars(rates, results, [one.tok_s for one in results], "{:.1f}")
    rates.set_xscale("log")
    rates.set_xlabel("tokens a second")
    streamed = [one for one in results if one.kind != "prefill"]
    _bars(bandwidth, streamed, [one.gb_s for one in streamed], "{:.1f}")
    bandwidth.axvline(measured.read_only_gb_s, color="black", linestyle="--", linewidth=1)
    bandwidth.set_xlabel(f"GB/s of weights; dashed: only reading, {measured.read_only_gb_s:.1f}")
    figure.savefig(path)


def _bars(axes: Any, results: Sequence[Result], values: Sequence[float], form: str) -> None:
    colors = {"prefill": "#7a5195", "decode": "#2f6f9f", "batch": "#5a9e6f"}
    names = [one.title for one in results]
    bars = axes.barh(names, values, color=[colors[one.kind] for one in results])
    axes.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def figure_class() -> Any:
    """matplotlib's Figure; UnsupportedError with the command that installs it if there is none."""
    try:
        return import_module("matplotlib.figure").Figure  # no window, no global state
    except ImportError as error:
        raise UnsupportedError(
            "--plot needs matplotlib, which is not installed",
            hint="pip install 'jang-tools[plots]'",
        ) from error
