"""`jang plan`: the widths a conversion would choose, by role."""

from __future__ import annotations

from typing import Any

import click

from jang_tools.cli.options import (
    fetch,
    model_argument,
    one_model,
    output_options,
    plan_options,
    width_options,
)
from jang_tools.cli.report import allocation_lines, role_table, suggestion_line
from jang_tools.cli.ui import Ui, format_count, format_size


@click.command("plan")
@model_argument
@width_options
@output_options
def command(ui: Ui, model: str | None, model_option: str | None, **widths: Any) -> None:
    """Show which widths a conversion would choose, from headers alone.

    MODEL is a directory, which may be a bare config.json with its index, or a Hub id, which is
    downloaded first.
    """
    options = plan_options(**widths)
    path = fetch(ui, one_model(model, model_option))

    from jang_tools.plan import plan

    with ui.progress("measuring") as progress:
        found = plan(path, **options, progress=progress)
    ui.result(f"{found.model}: {format_count(found.parameters)} parameters as {found.profile}")
    ui.result("")
    for line in role_table(found.roles):
        ui.result(line)
    ui.result("")
    if found.allocation:
        for line in allocation_lines(found.allocation, found.bytes, found.parameters):
            ui.result(line)
    ui.result(
        f"Average bits: {found.average_bits:.4g}"
        f" ({found.average_bits_stored:.4g} with scales and biases)"
    )
    ui.result(f"File bits per weight: {found.bits_per_weight:.4g}")
    ui.result(f"Expected file size: {format_size(found.bytes)} ({found.bytes} bytes)")
    if found.suggestion is not None:
        ui.note(suggestion_line(found.profile, found.suggestion))
    for warning in found.warnings:
        ui.warn(warning)
    ui.document(found.to_json())
