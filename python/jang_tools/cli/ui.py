"""How commands speak: results on stdout; progress, notices and errors on stderr.

Relies on click for styles and terminals; tqdm is imported when a bar is drawn.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click

from jang_tools.errors import ArgumentError

Progress = Callable[[int, int, str], None]  # done, in all, the item just finished

_LOG_LEVELS = ("error", "info", "debug")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Ui:
    """What one run of a command prints, and where."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def result(self, text: str) -> None:
        """A line of the command's result; with --json the document takes its place."""
        if not self.json:
            click.echo(text)

    def document(self, document: dict[str, Any]) -> None:
        """The one JSON document of --json."""
        if self.json:
            click.echo(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))

    def note(self, text: str) -> None:
        if not self.quiet:
            click.echo(one_line(text), err=True)

    def warn(self, text: str) -> None:
        """A warning; --quiet does not hide it."""
        click.echo(f"{_styled('warning:', 'yellow')} {one_line(text)}", err=True)

    @property
    def draws_progress(self) -> bool:
        """Bars appear only where somebody can watch them."""
        return not self.quiet and sys.stderr.isatty()

    @contextmanager
    def progress(self, label: str, unit: str = "B") -> Iterator[Progress | None]:
        """A bar with rate and time left, over bytes or what ``unit`` says, as a callback; None
        where none is drawn."""
        if not self.draws_progress:
            yield None
            return
        from tqdm import tqdm  # type: ignore[import-untyped]

        bars: list[Any] = []

        def advance(done: int, total: int, item: str) -> None:
            if not bars:  # now that there is work; what is printed before stays above the bar
                name = unit if unit == "B" else f" {unit}"
                bars.append(
                    tqdm(desc=label, unit=name, unit_scale=True, dynamic_ncols=True, leave=False)
                )
            if done < bars[0].n:  # the next phase of the same job
                bars[0].reset()
            bars[0].total = total
            bars[0].set_postfix_str(one_line(item), refresh=False)
            bars[0].update(done - bars[0].n)
            if done >= total:
                bars[0].refresh()

        try:
            yield advance
        finally:
            for bar in bars:
                bar.close()


class Stages:
    """A bar for each stage in turn, with rate and time left, where bars are drawn."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self._stack = ExitStack()
        self._stage = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def advance(self, stage: str, done: int, total: int, unit: str) -> None:
        if stage != self._stage:
            self.end()
            self._stage = stage
            self._bar = self._stack.enter_context(self._ui.progress(stage, unit))
        if self._bar is not None:
            self._bar(done, total, "")

    def end(self) -> None:
        """Takes the bar away, so that lines can be printed in its place."""
        self._stack.close()
        self._stage = ""
        self._bar = None


def log_level() -> str:
    """JANG_LOG: error (as --quiet), info, or debug (as --verbose). ArgumentError if it is none."""
    level = os.environ.get("JANG_LOG", "") or "info"
    if level not in _LOG_LEVELS:
        raise ArgumentError(
            f"JANG_LOG: expected one of {', '.join(_LOG_LEVELS)}, found '{level}'", code="argument"
        )
    return level


def print_error(text: str, hint: str = "") -> None:
    """The one line of a failure, and what to do about it."""
    click.echo(f"{_styled('error:', 'red')} {one_line(text)}", err=True)
    print_hint(hint)


def print_hint(hint: str) -> None:
    """What to do about it; nothing where there is nothing to say."""
    if hint:
        click.echo(f"hint: {one_line(hint)}", err=True)


def one_line(text: str) -> str:
    """``text`` with line breaks and other control characters escaped: names come from files."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def format_size(count: int) -> str:
    """Bytes in GB = 10^9; below one of these in MB, below 0.1 MB in kB."""
    if count >= 999_950_000:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def format_count(count: int) -> str:
    """Weights in words: 1.7 M, 8.03 B."""
    for unit, name, digits in ((1e9, " B", 2), (1e6, " M", 1), (1e3, " K", 1)):
        if count >= unit:
            return f"{count / unit:.{digits}f}{name}"
    return str(count)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines with aligned columns: the first ``left`` to the left, numbers to the right."""
    table = [list(map(one_line, row)) for row in [header, *rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _styled(word: str, color: str) -> str:
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        return word
    return click.style(word, fg=color, bold=True)
