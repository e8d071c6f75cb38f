"""`jang convert`: a Hugging Face model to a JANG directory."""

from __future__ import annotations

from typing import Any

import click

from jang_tools.cli.options import (
    calibration_options,
    calibration_wishes,
    fetch,
    output_options,
    plan_options,
    threads_option,
    width_options,
)
from jang_tools.cli.report import allocation_lines, lattice_line, suggestion_line
from jang_tools.cli.ui import Ui, format_size

_METHODS = {
    "rtn": "RTN (round to nearest)",
    "mse": "MSE (grid search)",
    "gptq": "GPTQ (calibrated error feedback)",
}


@click.command("convert")
@click.option("--model", required=True, metavar="MODEL", help="Directory or Hub id to convert.")
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Directory to write; it must not exist."
)
@width_options
@click.option(
    "--method",
    type=click.Choice(["rtn", "mse", "gptq"]),
    default="mse",
    show_default=True,
    help="How codes are chosen: plain rounding, a search per group, or error feedback against the"
    " inputs of each layer on a calibration text.",
)
@calibration_options
@click.option(
    "--overwrite", is_flag=True, help="Replace an output that an earlier conversion wrote."
)
@threads_option
@output_options
def command(
    ui: Ui,
    model: str,
    output: str,
    method: str,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
    overwrite: bool,
    threads: int | None,
    **widths: Any,
) -> None:
    """Convert a Hugging Face model to a JANG directory.

    The output appears under its name only when it is complete; until then the work is in
    OUTPUT.partial beside it. With --method gptq an interrupted conversion is continued at its last
    finished layer by the same command. Sizes are in GB = 10^9 bytes, GiB = 2^30 bytes.
    """
    options = plan_options(**widths)
    wishes = calibration_wishes(
        "--method",
        [method],
        calibration=calibration,
        calibration_sequences=calibration_sequences,
        calibration_tokens=calibration_tokens,
    )
    sized = options["bits"] is not None or options["size"] is not None
    if options["statistics"] and method != "mse" and not sized:
        raise click.UsageError("--statistics is for --method mse, or for --bits and --size")
    path = fetch(ui, model)

    from jang_tools.convert import convert
    from jang_tools.plan import plan

    with ui.progress("converting") as progress:
        announced = False

        def advance(done: int, total: int, item: str) -> None:
            nonlocal announced
            if not announced:  # what is refused before the work starts leaves stdout empty
                announced = True
                found = None if sized else plan(path, **options)
                if found is not None and found.suggestion is not None:
                    ui.note(suggestion_line(found.profile, found.suggestion))
                ui.result(f"Quantizing with {_METHODS[method]}...")
            if progress is not None:
                progress(done, total, item)

        report = convert(
            model,
            output,
            method=method,
            **wishes,
            overwrite=overwrite,
            threads=threads,
            progress=advance,
            notice=ui.note,
            **options,
        )
    if report.allocation:
        for line in allocation_lines(report.allocation, report.bytes, report.parameters):
            ui.result(line)
    if report.lattices:
        ui.result(lattice_line(report.lattices))
    ui.result(f"Attention layers: {_bits(report.attention_bits)} | MLP: {_bits(report.mlp_bits)}")
    ui.result(f"Average bits: {report.average_bits:.1f} | Size: {format_size(report.bytes)}")
    for warning in report.warnings:
        ui.warn(warning)
    ui.result("Done \N{HEAVY CHECK MARK}")
    ui.document(report.to_json())


def _bits(bits: int) -> str:
    return f"{bits}-bit" if bits else "none"
