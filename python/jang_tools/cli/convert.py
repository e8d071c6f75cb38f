"""`jang convert`: a Hugging Face model to a JANG directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jang_tools.cli.options import (
    calibration_options,
    calibration_wishes,
    fetch,
    output_options,
    plan_options,
    size_value,
    threads_option,
    width_options,
)
from jang_tools.cli.report import conversion_lines, needs_line, suggestion_line
from jang_tools.cli.signals import ended_by_signal
from jang_tools.cli.ui import Ui, format_size

if TYPE_CHECKING:
    from jang_tools.convert import ConvertResult
    from jang_tools.needs import Needs

_METHODS = {
    "rtn": "RTN (round to nearest)",
    "mse": "MSE (grid search)",
    "gptq": "GPTQ (calibrated error feedback)",
}


def _part(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    from jang_tools.parts import parse_part

    try:
        return None if value is None else parse_part(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("convert")
@click.option("--model", metavar="MODEL", help="Directory or Hub id to convert.")
@click.option(
    "--from-hub",
    metavar="REPO",
    help="In place of --model: convert org/name while it is downloaded, file by file.",
)
@click.option(
    "--revision",
    metavar="REV",
    help="With --from-hub: the branch, tag or commit [default: the repository's main branch].",
)
@click.option(
    "--delete-after-use",
    is_flag=True,
    help="With --from-hub: delete each file when it is converted; else it stays in the Hub's"
    " cache.",
)
@click.option(
    "-o", "--output", required=True, metavar="DIR", help="Directory to write; it must not exist."
)
@width_options
@click.option(
    "--method",
    type=click.Choice(["rtn", "mse", "gptq"]),
    help="How codes are chosen: plain rounding, a search per group, or error feedback against the"
    " inputs of each layer on a calibration text [default: mse].",
)
@calibration_options
@click.option(
    "--plan",
    metavar="FILE",
    help="Convert as a plan file of `jang plan` says; it has the options that decide bytes.",
)
@click.option(
    "--part",
    metavar="I/N",
    callback=_part,
    help="With --plan: make only part I of N, from 1; `jang finalize` ends the conversion.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    help="With --plan: who makes the shards, this process or the tasks of a Ray cluster, as"
    " RAY_ADDRESS names it or a local one; needs the extra `ray` [default: local].",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an output that an earlier conversion wrote."
)
@click.option(
    "--max-memory",
    metavar="SIZE",
    callback=size_value,
    help="Memory of its own that the conversion may take: fewer threads run where that makes it"
    " fit; what cannot fit is refused before the start.",
)
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    from_hub: str | None,
    revision: str | None,
    delete_after_use: bool,
    output: str,
    method: str | None,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
    plan: str | None,
    part: tuple[int, int] | None,
    engine: str | None,
    overwrite: bool,
    max_memory: int | None,
    threads: int | None,
    **widths: Any,
) -> None:
    """Convert a Hugging Face model to a JANG directory.

    The output appears under its name only when it is complete; until then the work is in
    OUTPUT.partial beside it. With --method gptq an interrupted conversion is continued at its last
    finished layer by the same command. Sizes are in GB = 10^9 bytes, GiB = 2^30 bytes.
    """
    options = plan_options(**widths)
    model = _streamed_model(model, from_hub, revision, delete_after_use)
    if plan is not None:
        given = {**options, "method": method, "overwrite": overwrite or None}
        given |= {"from-hub": from_hub, "max-memory": max_memory}
        given["calibration-sequences"] = calibration_sequences
        given["calibration-tokens"] = calibration_tokens
        _refuse_with_plan(given)
        if calibration is not None and engine == "ray":
            raise click.UsageError("--calibration is for gptq, which --engine ray does not run")
        if part is not None and engine == "ray":
            raise click.UsageError("--part and --engine ray exclude each other: Ray has all parts")
        files = {"statistics": options["statistics"], "calibration": calibration}
        _convert_planned(ui, plan, output, model, part, engine, files, threads)
        return
    for name, value in (("--part", part), ("--engine", engine)):
        if value is not None:
            raise click.UsageError(f"{name} is for a conversion by --plan")
    if model is None:
        raise click.UsageError(
            "missing --model: a directory or a Hub id such as org/name; or --from-hub"
        )
    method = method or "mse"
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
    path = fetch(ui, model) if from_hub is None else None

    from jang_tools.convert import convert
    from jang_tools.plan import plan as plan_model

    with ended_by_signal(), ui.progress("converting") as progress:
        announced = False
        needs: Needs | None = None

        def starting(found: Needs) -> None:
            nonlocal needs
            needs = found

        def advance(done: int, total: int, item: str) -> None:
            nonlocal announced
            if not announced:  # what is refused before the work starts leaves stdout empty
                announced = True
                found = None if sized or path is None else plan_model(path, **options)
                if found is not None and found.suggestion is not None:
                    ui.note(suggestion_line(found.profile, found.suggestion))
                ui.result(f"Quantizing with {_METHODS[method]}...")
                if needs is not None:
                    ui.result(needs_line(needs))
            if progress is not None:
                progress(done, total, item)

        report = convert(
            model,
            output,
            method=method,
            **wishes,
            overwrite=overwrite,
            from_hub=from_hub is not None,
            delete_after_use=delete_after_use,
            max_memory=max_memory,
            threads=threads,
            progress=advance,
            notice=ui.note,
            starting=starting,
            **options,
        )
    _print_report(ui, report)


def _streamed_model(
    model: str | None, from_hub: str | None, revision: str | None, delete_after_use: bool
) -> str | None:
    """The model of --model, or of --from-hub with its revision."""
    if from_hub is None:
        for name, value in (("--revision", revision), ("--delete-after-use", delete_after_use)):
            if value:
                raise click.UsageError(f"{name} is for --from-hub")
        return model
    if model is not None:
        raise click.UsageError("give one of --model and --from-hub")
    if revision is not None and "@" in from_hub:
        raise click.UsageError("give the revision once: as --revision or behind @")
    return from_hub if revision is None else f"{from_hub}@{revision}"


def _refuse_with_plan(given: dict[str, Any]) -> None:
    """A plan file has all that decides bytes, and no option may say otherwise."""
    spelled = {"rules": "set"}
    for name, value in given.items():
        if value in (None, ()) or name == "statistics":
            continue
        option = f"--{spelled.get(name, name).replace('_', '-')}"
        raise click.UsageError(f"{option} and --plan exclude each other: the plan file decides")


def _convert_planned(
    ui: Ui,
    plan: str,
    output: str,
    model: str | None,
    part: tuple[int, int] | None,
    engine: str | None,
    files: dict[str, str | None],
    threads: int | None,
) -> None:
    common: dict[str, Any] = {"model": model, "threads": threads, **files}
    if model is not None:
        fetch(ui, model)
    if part is None:
        if engine == "ray":
            from jang_tools.ray_engine import convert_on_ray as make_all

            del common["calibration"]
        else:
            from jang_tools.finalize import convert_planned as make_all

        with ended_by_signal(), ui.progress("converting") as progress:
            report = make_all(plan, output, **common, progress=progress, notice=ui.note)
        _print_report(ui, report)
        return
    from jang_tools.parts import convert_part

    with ended_by_signal(), ui.progress("converting") as progress:
        made = convert_part(plan, output, part=part, **common, progress=progress, notice=ui.note)
    for shard in made.shards:
        state = "made" if shard.made else "is there"
        ui.result(f"{shard.file}: {state}, {format_size(shard.bytes)}")
    ui.result(f"Part {made.part} of {made.parts} is in {made.directory}")
    ui.document(made.to_json())


def _print_report(ui: Ui, report: ConvertResult) -> None:
    for line in conversion_lines(report):
        ui.result(line)
    for warning in report.warnings:
        ui.warn(warning)
    ui.result("Done \N{HEAVY CHECK MARK}")
    ui.document(report.to_json())
