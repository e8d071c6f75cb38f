"""`jang verify`: whether a directory is what it says."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from jang_tools.cli.options import fetch, model_argument, one_model, output_options, threads_option
from jang_tools.cli.ui import Ui, format_table, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from jang_tools.repair import Repair
    from jang_tools.verify import VerifyResult


@click.command("verify")
@model_argument
@click.option(
    "--against",
    metavar="SOURCE",
    help="The model it was converted from: reports the error of every tensor and judges it.",
)
@click.option(
    "--plan",
    metavar="FILE",
    help="The plan file that it was made by: also names the files that --repair would make again.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="With --plan and --against: make damaged files again from the source, then check.",
)
@click.option(
    "--statistics",
    metavar="FILE",
    help="With --repair: the statistics that the plan was made with, if it was.",
)
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    model_option: str | None,
    against: str | None,
    plan: str | None,
    repair: bool,
    statistics: str | None,
    threads: int | None,
) -> None:
    """Check a model directory, its checksums and its values.

    Judges structure, the map of widths against the shapes, manifest, checksums, SHA256SUMS and that
    all scales are finite. Exits with 1 if anything is wrong, naming each fault. With --repair the
    files that are damaged are made again first, from the plan and the source.
    """
    if repair and (plan is None or against is None):
        raise click.UsageError("--repair needs --plan and --against")
    if statistics is not None and not repair:
        raise click.UsageError("--statistics is for --repair")
    path = fetch(ui, one_model(model, model_option))
    source = None if against is None else fetch(ui, against)

    from jang_tools.verify import verify

    repaired = None
    if repair and plan is not None and source is not None:
        repaired = _repair(ui, path, plan, source, statistics, threads)
    with ui.progress("verifying") as progress:
        found = verify(path, against=source, threads=threads, progress=progress, plan=plan)
    _print_faults(ui, found)
    if found.damaged and not repair:
        _name_damaged(ui, found, str(plan), against)
    document = found.to_json()
    if repaired is not None:
        document["repair"] = repaired.to_json()
    ui.document(document)
    if not found.ok:
        click.get_current_context().exit(1)


def _repair(
    ui: Ui, path: Path, plan: str, source: Path, statistics: str | None, threads: int | None
) -> Repair:
    from jang_tools.repair import repair

    with ui.progress("repairing") as progress:
        done = repair(
            path,
            plan=plan,
            against=source,
            statistics=statistics,
            threads=threads,
            progress=progress,
            notice=ui.note,
        )
    for damage in done.damaged:
        state = "made again" if damage.file in done.replaced else "found right"
        ui.result(one_line(f"{damage.file}: {damage.reason}: {state}"))
    if not done.damaged:
        ui.result("nothing is damaged")
    return done


def _name_damaged(ui: Ui, found: VerifyResult, plan: str, against: str | None) -> None:
    """Which files to make again, and the command that does it."""
    ui.result(f"damaged files of the plan: {', '.join(found.damaged or [])}")
    words = ["jang", "verify", str(found.path), "--repair", "--plan", plan]
    words += ["--against", against or "SOURCE"]
    ui.note(f"hint: {shlex.join(words)}")


def _print_faults(ui: Ui, found: VerifyResult) -> None:
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
