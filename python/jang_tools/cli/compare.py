"""`jang compare`: one model at many profiles, sizes and methods, and others beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from jang_tools.cli.options import (
    calibration_options,
    calibration_wishes,
    fetch,
    measure_options,
    model_argument,
    names,
    one_model,
    output_options,
    threads_option,
    window_options,
)
from jang_tools.cli.ui import Stages, Ui, format_size, format_table
from jang_tools.errors import CancelledError, IoError

if TYPE_CHECKING:
    from jang_tools.compare import Comparison, RowScores, WorkPlan


def _bits(
    context: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> tuple[float, ...]:
    found = []
    for value in names(context, parameter, values):
        try:
            found.append(float(value))
        except ValueError:
            raise click.BadParameter(f"'{value}' is not a number of bits per weight") from None
    return tuple(found)


@click.command("compare")
@model_argument
@click.option(
    "--profiles",
    multiple=True,
    metavar="NAME,...",
    callback=names,
    help="Profiles of `jang profiles` to convert to; repeatable.",
)
@click.option(
    "--baselines",
    multiple=True,
    metavar="NAME,...",
    callback=names,
    help="Recipes of others to convert to: uniform-4, mixed_3_4, tiered-4L and so on.",
)
@click.option(
    "--bits",
    multiple=True,
    metavar="FLOAT,...",
    callback=_bits,
    help="Bits per weight of the files to convert to, widths chosen by loss per byte.",
)
@click.option(
    "--methods",
    multiple=True,
    default=("mse",),
    show_default=True,
    metavar="NAME,...",
    callback=names,
    help="How codes are chosen, each for every row that is converted: rtn, mse, gptq.",
)
@click.option(
    "--also",
    multiple=True,
    metavar="DIR|FILE,...",
    callback=names,
    help="Models to measure as they are: directories, Hub ids, GGUF files; repeatable.",
)
@click.option(
    "--equal-bytes",
    is_flag=True,
    help="Beside each of these, one by `--size` of at most as many bytes.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to work in and to continue in [default: NAME-comparison].",
)
@click.option(
    "--keep/--no-keep",
    default=True,
    show_default=True,
    help="Leave converted directories there, or remove each when it is measured.",
)
@calibration_options
@click.option(
    "--text",
    default="builtin",
    show_default=True,
    metavar="FILE",
    help="UTF-8 text to measure on (also .gz, .xz), or `builtin`.",
)
@window_options
@measure_options
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the tables to FILE, as Markdown.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw KL against size into FILE (.png, .svg, .pdf); needs the extra `plots`.",
)
@click.option(
    "--layer-plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the error of every layer's weights into FILE; needs the extra `plots`.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be done and what it takes.")
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    profiles: tuple[str, ...],
    baselines: tuple[str, ...],
    bits: tuple[float, ...],
    methods: tuple[str, ...],
    also: tuple[str, ...],
    equal_bytes: bool,
    output: Path | None,
    keep: bool,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
    text: str,
    sequence: int | None,
    tokens: int | None,
    score: Literal["all", "second-half"],
    precision: Literal["fast", "exact"],
    seed: int,
    markdown: Path | None,
    plot: Path | None,
    layer_plot: Path | None,
    dry_run: bool,
    threads: int | None,
) -> None:
    """Convert a model in many ways and measure all of them on one text, in one table.

    Everything happens in one folder, and the same command continues there after an interruption:
    converted models that verify and measurements with the same settings are not repeated. Rows are
    sorted by size; differences are paired, with 95 % intervals over windows.
    """
    wishes = calibration_wishes(
        "--methods",
        methods,
        calibration=calibration,
        calibration_sequences=calibration_sequences,
        calibration_tokens=calibration_tokens,
    )
    if not (profiles or baselines or bits or also):
        raise click.UsageError("nothing to compare: give --profiles, --baselines, --bits or --also")
    for picture in (plot, layer_plot):
        if picture is not None:
            from jang_tools.bench.plot import require_plots

            require_plots(picture)
    chosen = one_model(model, model_option)
    for wish in (chosen, *(one for one in also if not Path(one).is_file())):
        fetch(ui, wish)
    _check_folders(markdown, plot, layer_plot)

    from jang_tools.compare import compare

    plans: list[WorkPlan] = []
    with _continued(ui, plans), Stages(ui) as stages:

        def planned(plan: WorkPlan) -> None:
            stages.end()
            plans.append(plan)
            for line in _plan_lines(plan, keep):
                if dry_run:
                    ui.result(line)
                else:
                    ui.note(line)

        def done(scores: RowScores) -> None:
            stages.end()
            ui.note(_row_line(scores))

        found = compare(
            chosen,
            profiles=[*profiles, *baselines],
            bits=bits,
            methods=methods,
            also=also,
            equal_bytes=equal_bytes,
            output=output,
            keep=keep,
            **wishes,
            text=text,
            sequence=sequence,
            tokens=tokens,
            score=score,
            precision=precision,
            layers=layer_plot is not None,
            threads=threads,
            seed=seed,
            dry_run=dry_run,
            progress=stages.advance,
            on_plan=planned,
            on_row=done,
        )
    for notice in found.notices:
        ui.note(f"notice: {notice}")
    if dry_run:
        ui.document({**found.to_json(), "plan": plans[0].to_json()})
        return
    _print(ui, found)
    ui.document(found.to_json())
    _write(ui, found, markdown, plot, layer_plot)


@contextmanager
def _continued(ui: Ui, plans: Sequence[WorkPlan]) -> Iterator[None]:
    """Says after an interruption that nothing is lost."""
    try:
        yield
    except (KeyboardInterrupt, CancelledError):
        if plans:
            ui.note(f"the same command continues in {plans[0].folder}")
        raise


def _check_folders(*files: Path | None) -> None:
    """What cannot be written afterwards is said before the work."""
    for file in files:
        if file is not None and not file.absolute().parent.is_dir():
            raise IoError(f"{file.parent}: no such directory", code="io")


def _plan_lines(plan: WorkPlan, keep: bool) -> list[str]:
    words = {"convert": "convert, measure", "measure": "measure", "nothing": "done before"}
    rows = [
        [
            step.row.name,
            format_size(step.row.bytes),
            f"{step.row.bits_per_weight:.2f}",
            words[step.left],
        ]
        for step in plan.steps
    ]
    left = sum(step.left != "nothing" for step in plan.steps)
    free = "" if plan.free_bytes is None else f" of {format_size(plan.free_bytes)} that are free"
    stays = "" if keep else " at a time"
    return [
        *format_table(["model", "size", "bits/weight", "to do"], rows),
        f"{len(plan.steps)} models, {left} to do in {plan.folder.name}, which takes"
        f" {format_size(plan.disk_bytes)}{stays}{free}",
    ]


def _row_line(scores: RowScores) -> str:
    error = "" if scores.kl.se is None else f" ± {scores.kl.se:.2g}"
    took = "" if scores.seconds is None else f", converted in {scores.seconds:.1f} s"
    return (
        f"{scores.row.name}: KL {scores.kl.mean:.4g}{error}, {format_size(scores.row.bytes)}{took}"
    )


def _print(ui: Ui, found: Comparison) -> None:
    for line in found.sources():
        ui.result(line)
    for title, header, rows in found.tables():
        ui.result("")
        if title:
            ui.result(title)
        for line in format_table(header, rows, 2):
            ui.result(line)


def _write(
    ui: Ui, found: Comparison, markdown: Path | None, plot: Path | None, layers: Path | None
) -> None:
    if markdown is not None:
        try:
            markdown.write_text(found.to_markdown() + "\n", encoding="utf-8")
        except OSError as error:
            raise IoError(f"{markdown}: {error.strerror or error}", code="io") from error
        ui.note(f"written to {markdown}")
    if plot is not None:
        from jang_tools.comparison.plot import draw

        draw(found, plot)
        ui.note(f"drawn to {plot}")
    if layers is not None:
        from jang_tools.comparison.plot import draw_layers

        draw_layers(found, layers)
        ui.note(f"drawn to {layers}")
