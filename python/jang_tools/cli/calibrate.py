"""`jang calibrate`: statistics of a model's inputs, for conversions to come."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, model_argument, one_model, output_options, threads_option
from jang_tools.cli.ui import Ui


@click.command("calibrate")
@model_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="Statistics file to write; it must not exist.",
)
@click.option(
    "--calibration",
    metavar="builtin|FILE",
    help="UTF-8 text to read; .gz and .xz are unpacked [default: builtin; with --merge none].",
)
@click.option(
    "--calibration-sequences",
    type=click.IntRange(1, 1 << 20),
    help="Sequences to read of it, spread evenly [default: 128].",
)
@click.option(
    "--calibration-tokens",
    type=click.IntRange(2, 1 << 20),
    help="Tokens of each sequence [default: 512, or the model's limit].",
)
@click.option(
    "--merge",
    metavar="FILE[,FILE...]",
    help="Statistics of this model whose sums are added; without --calibration nothing else is.",
)
@click.option(
    "--hessians",
    is_flag=True,
    help="Also keep the second moments of all linear layers but routed experts.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    output: str,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
    merge: str | None,
    hessians: bool,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Collect statistics of a model's inputs on a text, and merge them.

    The file serves `jang convert --statistics` and `jang plan --statistics`. Sums of several texts
    are added with --merge, where model and tokenizer are the same.
    """
    files = [] if merge is None else [name for name in merge.split(",") if name]
    if merge is not None and not files:
        raise click.UsageError("--merge: expected one or more files")
    cut = (calibration_sequences, calibration_tokens)
    if files and calibration is None and any(wish is not None for wish in cut):
        raise click.UsageError("--calibration-sequences and -tokens are for --calibration")
    path = fetch(ui, one_model(model, model_option))

    from jang_tools.statistics import collect

    with ui.progress("calibrating", unit="pass") as progress:
        report = collect(
            path,
            output,
            calibration=calibration or (None if files else "builtin"),
            calibration_sequences=calibration_sequences,
            calibration_tokens=calibration_tokens,
            merge=files,
            hessians=hessians,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    ui.result(
        f"{report.output}: {report.modules} modules, {report.tokens} tokens in"
        f" {report.sequences} sequences"
    )
    if report.fewest_expert_tokens is not None:
        ui.result(f"Fewest tokens of an expert: {report.fewest_expert_tokens}")
    ui.document(report.to_json())
