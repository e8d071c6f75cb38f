"""compare(): one model at many profiles, sizes and methods, and others beside it, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jang_tools.calibration import BUILTIN, calibrate_on
from jang_tools.comparison.folder import DOCUMENT, WorkFolder, write_json
from jang_tools.comparison.given import locate_given
from jang_tools.comparison.measure import prepare
from jang_tools.comparison.report import Comparison, RowPair, RowScores, pairs_of
from jang_tools.comparison.rows import Row, plan_rows
from jang_tools.comparison.work import Calibration, Work, WorkPlan
from jang_tools.errors import ArgumentError
from jang_tools.evaluate import SCORES
from jang_tools.evaluation.text_run import Progress
from jang_tools.evaluation.texts import read_text
from jang_tools.hub import locate_model
from jang_tools.model import PRECISIONS

__all__ = ["Comparison", "Row", "RowPair", "RowScores", "WorkPlan", "compare"]


def compare(
    model: str | Path,
    *,
    profiles: Sequence[str] = (),
    bits: Sequence[float] = (),
    methods: Sequence[str] = ("mse",),
    also: Sequence[str | Path] = (),
    equal_bytes: bool = False,
    output: str | Path | None = None,
    keep: bool = True,
    calibration: str | Path = BUILTIN,
    calibration_sequences: int | None = None,
    calibration_tokens: int | None = None,
    text: str | Path = BUILTIN,
    sequence: int | None = None,
    tokens: int | None = None,
    score: Literal["all", "second-half"] = "all",
    precision: Literal["fast", "exact"] = "exact",
    layers: bool = False,
    threads: int | None = None,
    seed: int = 0,
    dry_run: bool = False,
    progress: Progress | None = None,
    on_plan: Callable[[WorkPlan], None] | None = None,
    on_row: Callable[[RowScores], None] | None = None,
) -> Comparison:
    """Converts ``model`` in many ways and measures each result against it.

    Rows are every one of ``profiles`` (baselines such as "uniform-4" included) and of ``bits`` (per
    weight of the files, widths chosen by loss per byte) with every one of ``methods``, and the
    directories or files of ``also``. ``equal_bytes`` adds for each size that occurs a row of ours
    with at most as many bytes, by gptq if that is among the methods, else by the last of them.

    The work is done in the folder ``output`` (NAME-comparison in the current one), where converted
    directories stay if ``keep``. A run that was interrupted continues there: what verifies as
    complete and what was measured with the same settings is not done again. ``dry_run`` only plans.

    ``calibration`` options are those of `convert`, ``text`` options those of `evaluate`. ``layers``
    also compares every stored matrix with its source. ``progress(stage, done, total, unit)``,
    ``on_plan`` (before any work) and ``on_row`` (as rows are done) are called on this thread.

    Raises ArgumentError for wishes that make no sense, IoError when the disk does not suffice or
    the folder is another one's, and what `convert` and `evaluate` raise.
    """
    _check(score, precision, sequence, tokens)
    located = locate_model(model)
    source = located.path
    given = [locate_given(one) for one in also]
    wanted = plan_rows(
        source,
        profiles=profiles,
        bits=bits,
        methods=methods,
        given=given,
        equal_bytes=equal_bytes,
    )
    settings, info = prepare(source, read_text(text), sequence, tokens, score, precision)
    wish: Calibration | None = None
    if "gptq" in methods:
        cut = calibrate_on(
            source,
            source=calibration,
            sequences=calibration_sequences,
            tokens=calibration_tokens,
        )
        wish = Calibration(calibration, cut.text.sha256, *map(int, cut.ids.shape))
    name = located.name.rpartition("/")[2]
    place = Path(f"{name}-comparison") if output is None else Path(output)
    with WorkFolder(place, located.name, progress) as folder:
        work = Work(
            folder,
            located,
            wanted.rows,
            settings,
            wish,
            keep=keep,
            layers=layers,
            threads=threads,
            progress=progress,
        )
        plan = work.plan()
        if on_plan is not None:
            on_plan(plan)

        def found() -> Comparison:
            results = work.results()
            return Comparison(
                model=located.name,
                version=work.version,
                level=work.level,
                precision=precision,
                seed=seed,
                complete=len(results) == len(wanted.rows),
                text=info,
                rows=results,
                pairs=pairs_of(results, seed),
                notices=list(dict.fromkeys([*wanted.notices, *work.notices()])),
            )

        if not dry_run:
            work.check_space(plan)
            work.run(
                plan,
                on_row=on_row or (lambda _: None),
                on_batch=lambda: write_json(folder.path / DOCUMENT, found().to_json()),
            )
        return found()


def _check(score: str, precision: str, sequence: int | None, tokens: int | None) -> None:
    for name, value, known in (("score", score, SCORES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ArgumentError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    for name, count, least in (("sequence", sequence, 2), ("tokens", tokens, 1)):
        if count is not None and count < least:
            raise ArgumentError(f"{name}: expected at least {least}, found {count}")
