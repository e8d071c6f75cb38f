"""`jang upgrade`: a directory of an older version or another writer becomes JANG v2."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, model_argument, one_model, output_options, threads_option
from jang_tools.cli.ui import Ui, format_size, one_line

_FORMATS = {"jang-v1": "JANG v1", "jang": "JANG v2", "mlx": "stock MLX"}


@click.command("upgrade")
@model_argument
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Directory to write; it must not exist."
)
@click.option("--force", is_flag=True, help="Replace an output that jang-tools wrote.")
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    output: str,
    force: bool,
    threads: int | None,
) -> None:
    """Write an older or foreign quantized directory as JANG v2, losing nothing.

    For JANG v1, for JANG v2 whose map of widths or whose norms older tools got wrong, and for stock
    MLX. Codes are never quantized again; every change is listed with its reason.
    """
    source = one_model(model, model_option)
    fetch(ui, source)

    from jang_tools.upgrade import upgrade

    with ui.progress("upgrading") as progress:
        found = upgrade(source, output, overwrite=force, threads=threads, progress=progress)
    for warning in found.warnings:
        ui.warn(warning)
    for change in found.changes:
        ui.result(one_line(str(change)))
    if found.output is None:
        ui.result("Nothing to do: the directory is as jang-tools writes it.")
    else:
        count = len(found.changes)
        source = _FORMATS[found.source_format]
        ui.result(
            f"{count} change{'s' if count > 1 else ''} to {source}"
            f" | Size: {format_size(found.bytes)}"
        )
        ui.result(one_line(f"Wrote {found.output}"))
    ui.document(found.to_json())
