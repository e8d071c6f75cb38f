"""`jang bench`: speed of a model, or of a synthetic one of a known shape, on this machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from jang_tools.bench.shapes import GROUP_SIZES, SHAPES, WIDTHS, AnyShape, find_shape
from jang_tools.cli.options import fetch, output_options, precision_option, threads_option
from jang_tools.cli.signals import ended_by_signal
from jang_tools.cli.ui import Ui, format_size, format_table
from jang_tools.errors import ArgumentError

if TYPE_CHECKING:
    from jang_tools.bench.measure import Measurements, Settings

_BITS, _GROUP_SIZE = 4, 64


def _numbers(minimum: int) -> Any:
    """A callback that parses `0,4096`; `none` is the empty list."""

    def parse(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
        if value.strip().lower() == "none":
            return ()
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(f"'{value}' is not a list such as 1,2,4, or none") from None
        if min(numbers) < minimum:
            raise click.BadParameter(f"{min(numbers)} is smaller than {minimum}")
        return tuple(dict.fromkeys(numbers))

    return parse


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> AnyShape | None:
    try:
        return None if value is None else find_shape(value)
    except ArgumentError as error:
        raise click.BadParameter(str(error)) from None


@click.command("bench")
@click.option("--model", metavar="MODEL", help="Directory or Hub id of the model to measure.")
@click.option(
    "--shape",
    metavar="NAME|FILE",
    callback=_shape,
    help=f"Measure a synthetic model instead: that of a config.json, or {', '.join(SHAPES)}.",
)
@click.option(
    "--layers", type=click.IntRange(min=1), help="Layers of the shape [default: all of them]."
)
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in WIDTHS]),
    help=f"Bits of all matrices of the shape [default: {_BITS}].",
)
@click.option(
    "--group-size",
    type=click.Choice([str(size) for size in GROUP_SIZES]),
    help=f"Weights of the shape that share a scale and a bias [default: {_GROUP_SIZE}].",
)
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the synthetic model to DIR and leave it there [default: a temporary folder].",
)
@click.option(
    "--prompt",
    metavar="N",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    help="Tokens of the prefill; 0: no prefill.",
)
@click.option(
    "--decode",
    metavar="N",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Tokens to decode; 0: no decode.",
)
@click.option(
    "--depth",
    "depths",
    metavar="N,...",
    default="0,4096",
    show_default=True,
    callback=_numbers(0),
    help="Tokens in the cache before decoding starts.",
)
@click.option(
    "--batch",
    "batches",
    metavar="N,...",
    default="1,2,4,8,16,32",
    show_default=True,
    callback=_numbers(1),
    help="Sequences decoded together; `none`: no batches.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Measured runs of each test, whose median counts.",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the results into FILE (.png, .svg, .pdf); needs the extra `plots`.",
)
@precision_option
@threads_option
@output_options
def command(
    ui: Ui,
    model: str | None,
    shape: AnyShape | None,
    layers: int | None,
    bits: str | None,
    group_size: str | None,
    keep: Path | None,
    prompt: int,
    decode: int,
    depths: tuple[int, ...],
    batches: tuple[int, ...],
    rounds: int,
    precision: Literal["fast", "exact"],
    plot: Path | None,
    threads: int | None,
) -> None:
    """Measure prefill, decode and batches against a read-only pass.

    Each test alternates with a pass that only reads the same mapped files; the share of its rate is
    how much of the memory's bandwidth a test turns into tokens. All figures are medians.
    """
    if (model is None) == (shape is None):
        raise click.UsageError("give --model MODEL or --shape NAME|FILE")
    for name, value in (
        ("--layers", layers),
        ("--bits", bits),
        ("--group-size", group_size),
        ("--keep", keep),
    ):
        if model is not None and value is not None:
            raise click.UsageError(f"{name} belongs to --shape")
    if plot is not None:
        from jang_tools.bench.plot import require_plots

        require_plots(plot)

    from jang_tools.bench.measure import Settings

    settings = Settings(prompt, decode, depths, batches, rounds)
    if model is not None:
        path = fetch(ui, model)
        subject: dict[str, Any] = {"model": str(path), "shape": None}
        _measure(ui, path, path.name, subject, settings, precision, threads, plot)
        return
    assert shape is not None
    chosen = shape.with_layers(layers)
    width, group = int(bits or _BITS), int(group_size or _GROUP_SIZE)
    subject = {
        "model": None,
        "shape": shape.name,
        "layers": chosen.layers,
        "bits": width,
        "group_size": group,
    }
    title = f"{chosen.name}, {chosen.layers} layers, {width} bits (group size {group})"
    with _synthetic(ui, chosen, width, group, keep) as path:
        _measure(ui, path, title, subject, settings, precision, threads, plot)


@contextmanager
def _synthetic(ui: Ui, shape: AnyShape, bits: int, group: int, keep: Path | None) -> Iterator[Path]:
    """The directory of a synthetic model, removed at the end unless it is to be kept."""
    from jang_tools.bench.synthetic import checkpoint_bytes, write_checkpoint

    size = checkpoint_bytes(shape, bits, group)
    if keep is not None:
        if keep.exists():
            raise ArgumentError(
                f"{keep}: exists already",
                code="argument",
                hint=f"jang bench --model {keep} measures what is there",
            )
        with ended_by_signal(), ui.progress("Writing") as advance:
            ui.note(f"writing {format_size(size)} of random weights to {keep}")
            try:
                write_checkpoint(keep, shape, bits, group, progress=advance)
            except BaseException:
                shutil.rmtree(keep, ignore_errors=True)  # half a model is of no use
                raise
        yield keep
        return
    with ended_by_signal(), tempfile.TemporaryDirectory(prefix="jang-bench-") as folder:
        ui.note(f"writing {format_size(size)} of random weights to {folder}, removed afterwards")
        path = Path(folder) / "model"
        with ui.progress("Writing") as advance:
            write_checkpoint(path, shape, bits, group, progress=advance)
        yield path


def _measure(
    ui: Ui,
    path: Path,
    title: str,
    subject: dict[str, Any],
    settings: Settings,
    precision: Literal["fast", "exact"],
    threads: int | None,
    plot: Path | None,
) -> None:
    from jang_tools.bench.machine import cpu_name
    from jang_tools.bench.measure import measure
    from jang_tools.memory import total_memory
    from jang_tools.model import load_model

    network = load_model(path, precision, threads)
    memory = total_memory()
    if memory is not None and network.core.weight_bytes > memory:
        ui.warn(
            f"the weights take {format_size(network.core.weight_bytes)}, the memory holds"
            f" {format_size(memory)}: this measures the disk"
        )
    measured = measure(network, settings, lambda test: ui.note(f"measuring {test}"))
    _print(ui, title, cpu_name(), measured)
    for one in measured.attention:
        ui.result(f"Attention over {one.depth} tokens: {one.share_of_decode:.1%} of a step")
    ui.document(
        {
            "schema": "jang.bench/1",
            **subject,
            "cpu": cpu_name(),
            "format": network.core.format,
            **measured.to_json(),
        }
    )
    for unstable in (test for test in measured.results if not test.stable):
        ui.warn(f"{unstable.title}: rounds gave different logits")
    if plot is not None:
        from jang_tools.bench.plot import draw

        draw(measured, title, plot)
        ui.note(f"drawn to {plot}")


def _print(ui: Ui, title: str, cpu: str, measured: Measurements) -> None:
    ui.result(
        f"{title}: {format_size(measured.weight_bytes)}, loaded in"
        f" {1e3 * measured.load_seconds:.1f} ms"
    )
    ui.result(
        f"{cpu}, level {measured.level}, {measured.threads} threads,"
        f" precision {measured.precision}, cache {measured.kv_type}"
    )
    ui.result(
        f"A token reads {format_size(measured.token_bytes)} of weights;"
        f" only reading: {measured.read_only_gb_s:.1f} GB/s"
    )
    ui.result("")
    header = ["test", "tok/s", "TOPS", "per core", "GB/s", "of reading", "output"]
    rows = [
        [
            one.title,
            f"{one.tok_s:.1f}",
            f"{one.tops:.3f}",
            f"{one.tops_per_core:.3f}",
            f"{one.gb_s:.1f}",
            f"{one.share:.1%}",
            one.output_hash,
        ]
        for one in measured.results
    ]
    for line in format_table(header, rows):
        ui.result(line)
    for reason in dict.fromkeys(skip.reason for skip in measured.skipped):
        names = [skip.title for skip in measured.skipped if skip.reason == reason]
        ui.note(f"not measured: {', '.join(names)}: {reason}")
