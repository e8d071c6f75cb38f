"""`jang plan`: the widths a conversion would choose, by role; as a file, a conversion in parts."""

from __future__ import annotations

from typing import Any

import click

from jang_tools.cli.options import (
    calibration_options,
    calibration_wishes,
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
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Also write a plan file, for `jang convert --plan`; the weights must be there then.",
)
@click.option(
    "--method",
    type=click.Choice(["rtn", "mse", "gptq"]),
    help="Of the conversion that the plan file is for [default: mse].",
)
@calibration_options
@click.option(
    "--read-weights",
    is_flag=True,
    help="For the plan file, look for tensors that lie on lattices; reads the weights. gptq always"
    " does.",
)
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    output: str | None,
    method: str | None,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
    read_weights: bool,
    **widths: Any,
) -> None:
    """Show which widths a conversion would choose, from headers alone.

    MODEL is a directory, which may be a bare config.json with its index, or a Hub id, which is
    downloaded first. With --output the plan becomes a file, from which `jang convert --plan` makes
    the shards, all of them or in parts.
    """
    options = plan_options(**widths)
    if output is None and (method is not None or read_weights):
        raise click.UsageError("--method and --read-weights are for a plan file: give --output")
    wishes = calibration_wishes(
        "--method",
        [method or "mse"],
        calibration=calibration,
        calibration_sequences=calibration_sequences,
        calibration_tokens=calibration_tokens,
    )
    located = one_model(model, model_option)
    path = fetch(ui, located)

    from jang_tools.plan import plan

    with ui.progress("measuring") as progress:
        found = plan(
            located if output is not None else path,
            **options,
            output=output,
            method=method or "mse",
            **wishes,
            read_weights=read_weights,
            progress=progress,
        )
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
    if output is not None:
        ui.result(f"Plan file: {output} ({found.shards} shards)")
    if found.suggestion is not None:
        ui.note(suggestion_line(found.profile, found.suggestion))
    for warning in found.warnings:
        ui.warn(warning)
    ui.document(found.to_json())
