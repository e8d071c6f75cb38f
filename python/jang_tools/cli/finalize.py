"""`jang finalize`: the parts of a planned conversion to a JANG directory."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, output_options, threads_option
from jang_tools.cli.report import conversion_lines
from jang_tools.cli.ui import Ui


@click.command("finalize")
@click.option(
    "--plan", required=True, metavar="FILE", help="The plan file that the parts were made from."
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    help="Directory to write; the parts lie in DIR.partial.",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="Also compare the source with the plan: sizes and headers of all its files.",
)
@threads_option
@output_options
def command(ui: Ui, plan: str, output: str, model: str | None, threads: int | None) -> None:
    """Check the parts of a planned conversion, and make the directory of them.

    Needs all shards of the plan in OUTPUT.partial, and not the source. Every shard is read once;
    one that is missing or damaged is named with the command that makes it.
    """
    path = None if model is None else fetch(ui, model)

    from jang_tools.finalize import finalize

    with ui.progress("checking") as progress:
        report = finalize(plan, output, model=path, threads=threads, progress=progress)
    for line in conversion_lines(report):
        ui.result(line)
    for warning in report.warnings:
        ui.warn(warning)
    ui.result("Done \N{HEAVY CHECK MARK}")
    ui.document({**report.to_json(), "schema": "jang.finalize/1"})
