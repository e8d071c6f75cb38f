"""`jang profiles`: the table of profiles, and what each would make of a model."""

from __future__ import annotations

import click

from jang_tools.cli.options import fetch, output_options
from jang_tools.cli.ui import Ui, format_size, format_table


@click.command("profiles")
@click.option(
    "--model", metavar="MODEL", help="Also plan this model with each: average bits and size."
)
@output_options
def command(ui: Ui, model: str | None) -> None:
    """List the profiles, with averages and sizes for a model.

    The columns are bits of a role; published is the average that the profile is known by, which
    depends on the model it was measured on. JANG_3K to JANG_6K choose widths to reach a mean.
    """
    path = None if model is None else fetch(ui, model)  # found once for all profiles

    from jang_tools.plan import plan, profiles

    header = ["profile", "mlp", "attention", "embedding", "head", "published"]
    if model is not None:
        header += ["average", "size"]
    rows: list[list[str]] = []
    documents = []
    for profile in profiles():
        columns = (profile.mlp, profile.attention, profile.embedding, profile.head)
        widths = [str(bits) if bits else "chosen" for bits in columns]
        row = [profile.name, *widths, f"{profile.published_average:.1f}"]
        document = {
            "name": profile.name,
            "mlp": profile.mlp,
            "attention": profile.attention,
            "embedding": profile.embedding,
            "head": profile.head,
            "published_average": profile.published_average,
        }
        if path is not None:
            planned = plan(path, profile=profile.name)
            row += [f"{planned.average_bits:.2f}", format_size(planned.bytes)]
            document["average_bits"] = planned.average_bits
            document["bits_per_weight"] = planned.bits_per_weight
            document["bytes"] = planned.bytes
        rows.append(row)
        documents.append(document)
    for line in format_table(header, rows):
        ui.result(line)
    if not ui.json:
        ui.note("also: uniform-N (2-6, 8), mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6, tiered-NAME")
    ui.document({"schema": "jang.profiles/1", "model": model, "profiles": documents})
