"""`jang inspect`: what a model directory holds."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, model_argument, one_model, output_options
from jang_tools.cli.report import role_table
from jang_tools.cli.ui import Ui, format_count, format_size, format_table

_FORMATS = {
    "jang": "JANG v2",
    "jang-v1": "JANG v1",
    "mlx": "MLX affine",
    "hf": "Hugging Face, unquantized",
}


@click.command("inspect")
@model_argument
@click.option("--tensors", is_flag=True, help="List every tensor as well.")
@output_options
def command(ui: Ui, model: str | None, model_option: str | None, tensors: bool) -> None:
    """Show what a model directory holds.

    Format, profile, method, widths and sizes, from headers and JSON alone: it takes no longer for a
    large model.
    """
    path = fetch(ui, one_model(model, model_option))

    from jang_tools.inspect import inspect

    found = inspect(path)
    packed = found.format == "hf" and found.method is not None
    facts = {
        "path": str(found.path),
        "format": _FORMATS.get(found.format, found.format) if not packed else "Hugging Face",
        "model type": found.model_type,
        "profile": found.profile,
        "method": found.method,
        "parameters": format_count(found.parameters),
        "average bits": f"{found.average_bits:.4g}",
        "bits per weight": f"{found.bits_per_weight:.4g}",
        "size": f"{format_size(found.bytes)} ({found.bytes} bytes)",
    }
    rows = [[name, value] for name, value in facts.items() if value]
    for line in format_table(["model", ""], rows, left=2)[1:]:
        ui.result(line)
    ui.result("")
    for line in role_table(found.roles):
        ui.result(line)
    if tensors:
        ui.result("")
        rows = [
            [
                tensor.name,
                tensor.dtype,
                "x".join(map(str, tensor.shape)),
                f"{tensor.bits}" if tensor.bits else "-",
                f"{tensor.group_size}" if tensor.group_size else "-",
                str(tensor.bytes),
                tensor.file,
            ]
            for tensor in found.tensors
        ]
        header = ["tensor", "dtype", "shape", "bits", "group", "bytes", "file"]
        for line in format_table(header, rows, left=3):
            ui.result(line)
    ui.document(found.to_json(tensors=tensors))
