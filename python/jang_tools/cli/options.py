"""Options that several commands share, as decorators, and the values they take."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from jang_tools.cli.ui import Ui, log_level

Command = TypeVar("Command", bound=Callable[..., None])

DEFAULT_PROFILE = "JANG_4K"
_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes of a size: a bare number, or with a unit; G, GB = 10^9, GiB = 2^30. Else ValueError."""
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match["unit"].lower()) if match else None
    size = round(float(match["number"]) * unit) if match and unit else 0
    if size == 0:
        raise ValueError(f"'{text}' is not a size such as 4200000000, 4.2GB or 3.9GiB")
    return size


def size_value(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """An option's SIZE as bytes."""
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --json, --quiet and --verbose, and passes the command a `Ui` as ``ui``."""

    @click.option("--json", is_flag=True, help="Print one JSON document instead of text.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no notices on stderr.")
    @click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def with_ui(*args: Any, json: bool, quiet: bool, verbose: bool, **rest: Any) -> None:
        if quiet and verbose:
            raise click.UsageError("--quiet and --verbose exclude each other")
        level = log_level()
        ui = Ui(
            json=json,
            quiet=quiet or (level == "error" and not verbose),
            verbose=verbose or (level == "debug" and not quiet),
        )
        click.get_current_context().find_root().meta["jang.verbose"] = ui.verbose
        command(*args, ui=ui, **rest)

    return with_ui


def model_argument(command: Command) -> Command:
    """MODEL as the argument or as --model; the command receives it as ``model``."""
    command = click.option(
        "--model", "model_option", metavar="MODEL", help="The model, in place of the argument."
    )(command)
    return click.argument("model", required=False)(command)


def one_model(model: str | None, model_option: str | None) -> str:
    """The model of `model_argument`: given exactly once, or a usage error."""
    if model is not None and model_option is not None:
        raise click.UsageError("give the model once: as the argument or as --model")
    chosen = model if model is not None else model_option
    if not chosen:
        raise click.UsageError("missing the model: a directory or a Hub id such as org/name")
    return chosen


def fetch(ui: Ui, model: str) -> Path:
    """The model's directory; downloads of a Hub model show their progress on a terminal."""
    from jang_tools.hub import resolve_model

    return resolve_model(model, progress=ui.draws_progress)


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """Adds options so that --help lists them in this order."""
    for option in reversed(options):
        command = option(command)
    return command


def threads_option(command: Command) -> Command:
    return click.option(
        "--threads",
        type=click.IntRange(1, 4096),
        help="Threads to use [default: what affinity and CPU quota allow; see `jang env`].",
    )(command)


def precision_option(command: Command) -> Command:
    return click.option(
        "--precision",
        type=click.Choice(["fast", "exact"]),
        default="fast",
        show_default=True,
        help="Activations in products with quantized weights: rounded to 8 bits, or float32.",
    )(command)


def names(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """`--model A,B --model C`: a path whose name has a comma is taken whole."""
    found: list[str] = []
    for value in values:
        found += [value] if Path(value).exists() else value.split(",")
    if any(not name for name in found):
        raise click.BadParameter("an empty name in the list")
    return tuple(found)


def window_options(command: Command) -> Command:
    """The windows of a text that models are measured on."""
    return _with_options(
        command,
        click.option(
            "--sequence",
            type=click.IntRange(min=2),
            metavar="N",
            help="Tokens of a window [default: 1024, or the model's limit].",
        ),
        click.option(
            "--tokens",
            type=click.IntRange(min=1),
            metavar="N",
            help="Read at most this many, in whole windows [default: all of the text].",
        ),
        click.option(
            "--score",
            type=click.Choice(["all", "second-half"]),
            default="all",
            show_default=True,
            help="Positions of each window that count.",
        ),
    )


def measure_options(command: Command) -> Command:
    """How models are measured and what is said of the differences."""
    return _with_options(
        command,
        click.option(
            "--precision",
            type=click.Choice(["fast", "exact"]),
            default="exact",
            show_default=True,
            help="Activations of the models: float32, or rounded to 8 bits; the reference's are"
            " float32.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**63 - 1),
            default=0,
            show_default=True,
            help="Of the bootstrap behind confidence intervals.",
        ),
    )


def calibration_options(command: Command) -> Command:
    """The text of gptq; collected by `calibration_wishes`."""
    return _with_options(
        command,
        click.option(
            "--calibration",
            metavar="builtin|FILE",
            help="UTF-8 text for gptq; .gz and .xz are unpacked [default: builtin].",
        ),
        click.option(
            "--calibration-sequences",
            type=click.IntRange(1, 1 << 20),
            help="Sequences to read of it, spread evenly [default: 128].",
        ),
        click.option(
            "--calibration-tokens",
            type=click.IntRange(2, 1 << 20),
            help="Tokens of each sequence [default: 512, or the model's limit].",
        ),
    )


def calibration_wishes(
    option: str,
    methods: Sequence[str],
    *,
    calibration: str | None,
    calibration_sequences: int | None,
    calibration_tokens: int | None,
) -> dict[str, Any]:
    """The values of `calibration_options` as keyword arguments of `convert` and `compare`.

    UsageError where any is given and none of the methods, those of ``option``, reads the text.
    """
    wishes = (calibration, calibration_sequences, calibration_tokens)
    if "gptq" not in methods and any(wish is not None for wish in wishes):
        raise click.UsageError(f"--calibration options are for {option} gptq")
    return {
        "calibration": calibration or "builtin",
        "calibration_sequences": calibration_sequences,
        "calibration_tokens": calibration_tokens,
    }


def width_options(command: Command) -> Command:
    """The options that decide the width of every tensor; collected by `plan_options`."""
    return _with_options(
        command,
        click.option(
            "--profile",
            metavar="NAME",
            help=f"Profile by name; `jang profiles` lists them [default: {DEFAULT_PROFILE}].",
        ),
        click.option(
            "--bits",
            type=click.FloatRange(0, 64, min_open=True),
            metavar="FLOAT",
            help="Bits per weight of the output's weight files, in place of a profile: widths"
            " are chosen by loss per byte and never take more.",
        ),
        click.option(
            "--size",
            metavar="SIZE",
            callback=size_value,
            help="The same as a size of the weight files: bytes, 4.2GB (10^9) or 3.9GiB (2^30).",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["bf16", "f16", "f32"]),
            help="Store scales, biases and unquantized tensors in this type [default: the"
            " source's].",
        ),
        click.option(
            "--group-size",
            type=click.Choice(["32", "64", "128"]),
            help="Weights that share a scale and a bias [default: 64].",
        ),
        click.option(
            "--router-bits",
            type=click.Choice(["8"]),
            help="Quantize the routers of expert models [default: they stay unquantized].",
        ),
        click.option(
            "--expert-floor",
            type=click.Choice(["2", "3", "4", "5", "6", "8"]),
            help="At least this many bits for routed experts.",
        ),
        click.option(
            "--statistics",
            metavar="FILE",
            help="Statistics of `jang calibrate`, or an importance matrix of llama.cpp: weights"
            " the columns of mse, and with --bits or --size measures what each width costs.",
        ),
        click.option(
            "--set",
            "rules",
            multiple=True,
            metavar="GLOB=BITS[:GROUP]|GLOB=none",
            help="Width of the modules whose path matches; repeatable, the last match wins.",
        ),
        click.option(
            "--shard-size",
            metavar="SIZE",
            callback=size_value,
            help="Bytes of tensors in one file; a larger matrix gets its own [default: 5GiB].",
        ),
    )


def plan_options(
    *,
    profile: str | None,
    bits: float | None,
    size: int | None,
    dtype: str | None,
    group_size: str | None,
    router_bits: str | None,
    expert_floor: str | None,
    statistics: str | None,
    rules: tuple[str, ...],
    shard_size: int | None,
) -> dict[str, Any]:
    """The values of `width_options` as keyword arguments of `plan` and `convert`.

    UsageError for more than one of profile, bits and size.
    """
    if sum(value is not None for value in (profile, bits, size)) > 1:
        raise click.UsageError("give one of --profile, --bits and --size")
    return {
        "profile": profile,
        "bits": bits,
        "size": size,
        "dtype": dtype,
        "group_size": int(group_size) if group_size else None,
        "router_bits": int(router_bits) if router_bits else None,
        "expert_floor": int(expert_floor) if expert_floor else None,
        "statistics": statistics,
        "rules": rules,
        "shard_size": shard_size,
    }
