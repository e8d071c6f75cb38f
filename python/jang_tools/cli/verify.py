"""`jang verify`: whether a directory is what it says."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, model_argument, one_model, output_options, threads_option
from jang_tools.cli.ui import Ui, format_table, one_line


@click.command("verify")
@model_argument
@click.option(
    "--against",
    metavar="SOURCE",
    help="The model it was converted from: reports the error of every tensor and judges it.",
)
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    against: str | None,
    threads: int | None,
) -> None:
    """Check a model directory, its checksums and its values.

    Judges structure, the map of widths against the shapes, manifest, checksums, SHA256SUMS and that
    all scales are finite. Exits with 1 if anything is wrong, naming each fault.
    """
    path = fetch(ui, one_model(model, model_option))
    source = None if against is None else fetch(ui, against)

    from jang_tools.verify import verify

    with ui.progress("verifying") as progress:
        found = verify(path, against=source, threads=threads, progress=progress)
    for notice in found.notices:
        ui.note(f"notice: {notice}")
    if found.tensors:
        header = ["tensor", "relative rms", "bound", "largest error"]
        rows = [
            [
                tensor.path,
                f"{tensor.relative_rms:.3e}",
                f"{tensor.bound:.3e}",
                f"{tensor.max_abs:.3e}",
            ]
            for tensor in found.tensors
        ]
        for line in format_table(header, rows):
            ui.result(line)
        ui.result("")
    for fault in found.faults:
        ui.result(one_line(f"fault {fault.code}: {fault}"))
    count = len(found.faults)
    ui.result("OK" if found.ok else f"{count} fault{'s' if count > 1 else ''}")
    ui.document(found.to_json())
    if not found.ok:
        click.get_current_context().exit(1)
