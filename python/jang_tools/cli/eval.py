"""`jang eval`: divergence of models from a reference, perplexity, tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from jang_tools.cli.options import (
    fetch,
    measure_options,
    names,
    output_options,
    threads_option,
    window_options,
)
from jang_tools.cli.ui import Stages, Ui, format_table
from jang_tools.errors import ArgumentError

_TASKS = ("mmlu", "arc", "humaneval")


def _tasks(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, str | None]:
    """`mmlu=DIR,arc`: names, each with a path or without."""
    found: dict[str, str | None] = {}
    for part in value.split(",") if value else []:
        name, equals, path = part.partition("=")
        if name not in _TASKS:
            raise click.BadParameter(f"'{name}' is none of {', '.join(_TASKS)}")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        if equals and not path:
            raise click.BadParameter(f"{name}= lacks the file or folder")
        found[name] = path or None
    return found


@click.command("eval")
@click.option(
    "--reference", required=True, metavar="MODEL", help="What to compare with: the original."
)
@click.option(
    "--model",
    "models",
    required=True,
    multiple=True,
    metavar="MODEL[,MODEL...]",
    callback=names,
    help="Models to compare, by directory, Hub id or GGUF file; repeatable.",
)
@click.option(
    "--text",
    default="builtin",
    show_default=True,
    metavar="FILE",
    help="UTF-8 text (also .gz, .xz); `builtin`: the package's mixed text; `none`: tasks only.",
)
@window_options
@click.option(
    "--tasks",
    metavar="NAME[=PATH],...",
    callback=_tasks,
    help="Also answer `mmlu`, `arc`, `humaneval` from local files.",
)
@click.option(
    "--task-data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where tasks without a PATH are: DIR/mmlu, DIR/arc, DIR/humaneval.",
)
@click.option(
    "--task-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most this many items of each task, evenly spread [default: all].",
)
@click.option(
    "--allow-code-execution",
    is_flag=True,
    help="Run the programs that models write for humaneval, in a limited process.",
)
@click.option(
    "--samples",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the programs of humaneval to FILE, as JSON lines.",
)
@click.option("--markdown", is_flag=True, help="Print Markdown tables instead of text.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw KL against size into FILE (.png, .svg, .pdf); needs the extra `plots`.",
)
@measure_options
@threads_option
@output_options
def command(
    ui: Ui,
    reference: str,
    models: tuple[str, ...],
    text: str,
    sequence: int | None,
    tokens: int | None,
    score: Literal["all", "second-half"],
    tasks: dict[str, str | None],
    task_data: Path | None,
    task_limit: int | None,
    allow_code_execution: bool,
    samples: Path | None,
    markdown: bool,
    plot: Path | None,
    precision: Literal["fast", "exact"],
    seed: int,
    threads: int | None,
) -> None:
    """Compare models with a reference: KL divergence, agreement, perplexity, tasks.

    Reference and models read the same windows of a text in lock-step; all their distributions are
    compared over the whole vocabulary. Errors are standard errors over windows.
    """
    if markdown and ui.json:
        raise click.UsageError("--json and --markdown exclude each other")
    if text == "none" and not tasks:
        raise click.UsageError("--text none needs --tasks")
    if plot is not None:
        if text == "none":
            raise click.UsageError("--plot draws KL, which needs a text")
        from jang_tools.bench.plot import require_plots

        require_plots(plot)
    places = _task_paths(tasks, task_data)
    paths = [fetch(ui, reference), *(_fetch_or_file(ui, model) for model in models)]

    from jang_tools.evaluate import evaluate

    with Stages(ui) as stages:
        found = evaluate(
            paths[0],
            paths[1:],
            text=None if text == "none" else text,
            sequence=sequence,
            tokens=tokens,
            score=score,
            tasks=places,
            task_limit=task_limit,
            allow_code_execution=allow_code_execution,
            samples=samples,
            precision=precision,
            threads=threads,
            seed=seed,
            progress=stages.advance,
        )
    for notice in [*found.notices, *(note for task in found.tasks for note in task.notes)]:
        ui.note(f"notice: {notice}")
    if markdown:
        ui.result(found.to_markdown())
    else:
        _print(ui, found)
    ui.document(found.to_json())
    if plot is not None:
        from jang_tools.evaluation.plot import draw

        draw(found, plot)
        ui.note(f"drawn to {plot}")


def _fetch_or_file(ui: Ui, model: str) -> Path:
    """A file stays one: `evaluate` takes GGUF files, and says what others are."""
    return Path(model) if Path(model).is_file() else fetch(ui, model)


def _task_paths(tasks: dict[str, str | None], data: Path | None) -> dict[str, str | Path]:
    places: dict[str, str | Path] = {}
    for name, path in tasks.items():
        if path is not None:
            places[name] = path
        elif data is not None:
            places[name] = data / name
        else:
            raise ArgumentError(
                f"--tasks {name}: where are its files?",
                code="argument",
                hint=f"--tasks {name}=PATH, or --task-data DIR with a folder {name} in it",
            )
    return places


def _print(ui: Ui, found: Any) -> None:
    from jang_tools.evaluation import tables

    parts = [
        (tables.MODEL_HEADER, [tables.model_row(model) for model in found.models], 1),
        (tables.PAIR_HEADER, [tables.pair_row(pair) for pair in found.pairs], 2),
        (tables.TASK_HEADER, tables.task_rows(found.tasks), 2),
    ]
    for line in found.sources():
        ui.result(line)
    for header, rows, left in parts:
        if rows:
            ui.result("")
            for line in format_table(header, rows, left):
                ui.result(line)
