"""`jang env`: what this installation is and what it will use."""

from __future__ import annotations

import click

from jang_tools.cli.options import output_options
from jang_tools.cli.ui import Ui, format_table


@click.command("env")
@output_options
def command(ui: Ui) -> None:
    """Show kernel levels, threads and libraries.

    A kernel level is compiled if this build holds it, supported if this CPU runs it, and active if
    it is the one in use; JANG_ISA forces one.
    """
    from jang_tools.env import environment

    found = environment()
    ui.result(f"jang-tools {found.version}, {found.python}, {found.platform}")
    ui.result(f"Threads: {found.threads} ({found.threads_reason})")
    ui.result("")
    rows = [
        [name, *(_mark(level[key]) for key in ("compiled", "supported", "active"))]
        for name, level in found.levels.items()
    ]
    for line in format_table(["kernel level", "compiled", "supported", "active"], rows):
        ui.result(line)
    ui.result("")
    libraries = [[name, version or "not installed"] for name, version in found.libraries.items()]
    for line in format_table(["library", "version"], libraries, left=2):
        ui.result(line)
    for warning in found.warnings:
        ui.warn(warning)
    ui.document(found.to_json())


def _mark(value: bool) -> str:
    return "yes" if value else "-"
