"""plan(): which width every tensor of a model would get, and what the files would weigh.

Reads headers only: shards may hold nothing beyond what their headers promise, and for the described
model types config.json (with its index, if there is one) is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jang_tools import _core
from jang_tools.errors import ArgumentError
from jang_tools.evaluation.texts import BUILTIN
from jang_tools.hub import locate_model
from jang_tools.role_summary import RoleSummary, role_summaries

if TYPE_CHECKING:
    from jang_tools.statistics import Statistics

DEFAULT_PROFILE = "JANG_4K"
Progress = Callable[[int, int, str], None]  # bytes of samples measured, in all, the last tensor

# Of the expected loss. On the demo model what is below it has a clearly better KL, too: measured
# ratios are 0.6 to 1.3 times the expected ones (docs/quantization.md, "Allocation").
CLEARLY_BETTER = 0.65
_TIERED = ("JANG_", "tiered-")  # profiles that favour some roles whatever that costs


@dataclass(frozen=True)
class Profile:
    """Bits by column. K profiles choose their widths: their columns are None, and
    ``published_average`` is the mean that they hold."""

    name: str
    mlp: int | None
    attention: int | None
    embedding: int | None
    head: int | None
    published_average: float


@dataclass(frozen=True)
class PlannedModule:
    """A matrix, or a stack of experts' matrices, that is stored quantized."""

    path: str
    role: str
    weights: int
    bits: int
    group_size: int


@dataclass(frozen=True)
class Floor:
    """The lowest width that a kind of matrix gets.

    ``table_bits`` is the table's, ``bits`` what holds: less where all floors together would take
    too much of the target. ``binding`` of the ``modules`` would have got less without it.
    """

    kind: str
    table_bits: int
    bits: int
    modules: int
    binding: int


@dataclass(frozen=True)
class ChosenWidth:
    """The modules of one role that got the same format; None of both where unquantized."""

    role: str
    bits: int | None
    group_size: int | None
    modules: int
    weights: int


@dataclass(frozen=True)
class Allocation:
    """What was asked of ``bits`` or ``size``, and what could be had: bytes of the weight files.

    ``losses`` is "prior" (the built-in table) or "measured".
    """

    requested_bits: float | None
    requested_bytes: int
    lowest_bytes: int
    highest_bytes: int
    losses: str
    floors: list[Floor] = field(default_factory=list)
    widths: list[ChosenWidth] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The object ``allocation`` of ``jang plan --json`` and ``jang convert --json``."""
        return {
            **vars(self),
            "floors": [vars(floor).copy() for floor in self.floors],
            "widths": [vars(width).copy() for width in self.widths],
        }


@dataclass(frozen=True)
class Suggestion:
    """A size in place of the profile: files of at most these bytes, with ``loss_ratio`` times the
    profile's loss as the prior expects it."""

    size: int
    loss_ratio: float


@dataclass(frozen=True)
class Plan:
    """A conversion's outcome in numbers.

    ``average_bits`` counts the codes of quantized weights, ``average_bits_stored`` their scales and
    biases too; ``bytes`` is the exact size of all weight files and ``bits_per_weight`` is
    8 * bytes / parameters. ``allocation`` is None for a profile. ``suggestion`` is there where
    tiers cost clearly more than they give.
    """

    model: str
    profile: str
    target_bits: float | None
    average_bits: float
    average_bits_stored: float
    bits_per_weight: float
    bytes: int
    parameters: int
    attention_bits: int
    mlp_bits: int
    allocation: Allocation | None = None
    suggestion: Suggestion | None = None
    roles: list[RoleSummary] = field(default_factory=list)
    modules: list[PlannedModule] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shards: int = 1  # weight files

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang plan --json``."""
        return {
            "schema": "jang.plan/1",
            "model": self.model,
            "profile": self.profile,
            "target_bits": self.target_bits,
            "average_bits": self.average_bits,
            "average_bits_stored": self.average_bits_stored,
            "bits_per_weight": self.bits_per_weight,
            "bytes": self.bytes,
            "parameters": self.parameters,
            "shards": self.shards,
            "allocation": self.allocation.to_json() if self.allocation else None,
            "suggestion": vars(self.suggestion).copy() if self.suggestion else None,
            "roles": [vars(role).copy() for role in self.roles],
            "modules": [vars(module).copy() for module in self.modules],
            "warnings": list(self.warnings),
        }


def profiles() -> list[Profile]:
    """The table of profiles: the fixed columns, then the K profiles."""
    table = [
        Profile(row.name, row.mlp, row.attention, row.embedding, row.head, row.published_average)
        for row in _core.profiles()
    ]
    for target in _core.k_profile_targets():
        table.append(Profile(f"JANG_{target}K", None, None, None, None, float(target)))
    return table


def allocation_of(found: _core.Plan) -> Allocation | None:
    """What a plan of the core says about its target; None where a profile chose."""
    allocation = found.allocation
    if allocation is None:
        return None
    return Allocation(
        requested_bits=allocation.requested_bits,
        requested_bytes=allocation.requested_bytes,
        lowest_bytes=allocation.lowest_bytes,
        highest_bytes=allocation.highest_bytes,
        losses="measured" if allocation.measured else "prior",
        floors=[
            Floor(floor.name, floor.wanted, floor.bits, floor.modules, floor.binding)
            for floor in allocation.floors
        ],
        widths=_chosen_widths(found),
    )


def _chosen_widths(found: _core.Plan) -> list[ChosenWidth]:
    """In the order of roles in the model, narrow formats first, matrices only."""
    sums: dict[tuple[str, int | None, int | None], list[int]] = {}
    order: dict[str, int] = {}
    for tensor in found.tensors:
        if tensor.role == "other":
            continue
        order.setdefault(tensor.role, len(order))
        entry = sums.setdefault((tensor.role, tensor.bits, tensor.group_size), [0, 0])
        entry[0] += 1
        entry[1] += tensor.weights
    # 32 bits stand for "unquantized"; of one width, wide groups are the narrower format.
    rows = sorted(
        sums.items(), key=lambda row: (order[row[0][0]], row[0][1] or 32, -(row[0][2] or 0))
    )
    return [ChosenWidth(*format_of, *counts) for format_of, counts in rows]


def profile_name(profile: str | None, bits: float | None, size: int | None) -> str:
    """The profile to plan with: the default if none of the three is given.

    ArgumentError for more than one.
    """
    if sum(value is not None for value in (profile, bits, size)) > 1:
        raise ArgumentError("give one of profile, bits and size", code="argument")
    if size is not None and size < 0:
        raise ArgumentError(f"size: expected bytes, found {size}", code="argument")
    return DEFAULT_PROFILE if profile is None else profile


def measured_losses(
    source: Path,
    statistics: Statistics,
    dtype: str | None,
    group_size: int | None,
    threads: int | None,
    progress: Progress | None,
) -> dict[str, _core.ModuleLoss]:
    """By module path what every format costs, weighted by ``statistics``."""
    return _core.measure_losses(
        str(source),
        statistics.mean_squares,
        file=statistics.file,
        dtype=dtype,
        group_size=group_size,
        threads=threads or 0,
        progress=progress,
    )


def plan(
    model: str | Path,
    *,
    profile: str | None = None,
    bits: float | None = None,
    size: int | None = None,
    dtype: str | None = None,
    group_size: int | None = None,
    router_bits: int | None = None,
    expert_floor: int | None = None,
    statistics: str | Path | None = None,
    rules: Sequence[str] = (),
    shard_size: int | None = None,
    output: str | Path | None = None,
    method: str = "mse",
    calibration: str | Path = BUILTIN,
    calibration_sequences: int | None = None,
    calibration_tokens: int | None = None,
    read_weights: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Plans the conversion of a directory or of org/name in the Hub cache.

    Args:
        profile: any spelling of a profile ("4L", "jang_4k") or baseline ("uniform-4", "mixed_2_6",
            "tiered-4L"); JANG_4K if neither this nor bits nor size is given.
        bits: real bits per weight to reach, 8 * bytes of the weight files / parameters: widths and
            group sizes are then chosen by loss per byte, and the files take at most this.
        size: the same as bytes of the weight files.
        dtype: bf16, f16 or f32 for scales, biases and unquantized tensors; None: the source's.
        group_size: 32, 64 or 128; where it does not divide the inputs of a matrix, the largest
            smaller one that does.
        router_bits: 8 quantizes the routers of expert models; None leaves them.
        expert_floor: at least this many bits for routed experts.
        statistics: a file of `jang calibrate` or an importance matrix of llama.cpp. With bits or
            size the loss of every width is measured on a sample of each matrix, weighted by it,
            in place of the built-in table; the weights must be there then.
        rules: "GLOB=BITS[:GROUP]" or "GLOB=none" on module paths; the last match wins.
        shard_size: bytes of tensors in one file, 5 GiB unless given; one matrix may be larger.
        output: a plan file to write, for a conversion in parts (`jang_tools.parts`).
        method: of that conversion: "rtn", "mse" or "gptq".
        calibration: the text of "gptq", as for `convert`, with ``calibration_sequences`` and
            ``calibration_tokens``; the plan file knows it by its hash.
        read_weights: for the plan file, also looks for tensors that lie on lattices, as `convert`
            does with "mse"; without it the conversion in parts does not store them there. "gptq"
            always looks, and with bits or size measures what widths cost on the text.
        progress: called as progress(done, total, tensor) while losses are measured.

    Raises ArgumentError (statistics of another model, unknown profile, a rule that matches nothing,
    a target below what the narrowest widths take: the message names the reachable interval),
    FormatError, UnsupportedError (already quantized, or a format that is refused by name), IoError.
    """
    name = profile_name(profile, bits, size)
    located = locate_model(model)
    losses: dict[str, _core.ModuleLoss] = {}
    warnings: list[str] = []
    given = None
    if statistics is not None:
        from jang_tools.statistics import load_statistics

        given = load_statistics(statistics, located.path)
        warnings = given.warnings
        if bits is not None or size is not None:
            losses = measured_losses(located.path, given, dtype, group_size, None, progress)
    options: dict[str, Any] = {
        "dtype": dtype,
        "group_size": group_size,
        "router_bits": router_bits,
        "expert_floor": expert_floor,
        "rules": list(rules),
        "shard_size": shard_size,
    }
    wanted = {"profile": name, "bits": bits, "size": size, "losses": losses, **options}
    if output is None:
        found = _core.plan_directory(str(located.path), **wanted)
    else:
        from jang_tools.calibration import calibrate_on
        from jang_tools.plan_file import write_plan_file

        found_text = None
        if method == "gptq":
            found_text = calibrate_on(
                located.path,
                source=calibration,
                sequences=calibration_sequences,
                tokens=calibration_tokens,
            )
        found = write_plan_file(
            Path(output),
            located,
            method=method,
            read_weights=read_weights,
            options=wanted,
            statistics=given,
            calibration=found_text,
            progress=progress,
        ).plan
    return Plan(
        model=located.name,
        profile=found.profile,
        target_bits=found.target_bits,
        average_bits=found.average_bits,
        average_bits_stored=found.average_bits_stored,
        bits_per_weight=found.bits_per_weight,
        bytes=found.file_bytes,
        parameters=found.parameters,
        attention_bits=found.attention_bits,
        mlp_bits=found.mlp_bits,
        allocation=allocation_of(found),
        suggestion=_suggestion(located.path, found, options),
        roles=role_summaries(found.roles),
        modules=[
            PlannedModule(tensor.path, tensor.role, tensor.weights, tensor.bits, tensor.group_size)
            for tensor in found.tensors
            if tensor.bits is not None and tensor.group_size is not None
        ],
        warnings=[*found.warnings, *warnings],
        shards=len(found.shards),
    )


def _suggestion(path: Path, found: _core.Plan, options: dict[str, Any]) -> Suggestion | None:
    """Whether widths by loss per byte, in as many bytes, are expected to be clearly better."""
    if found.allocation is not None or not found.profile.startswith(_TIERED):
        return None
    try:
        other = _core.plan_directory(str(path), size=found.file_bytes, **options)
    except ArgumentError:  # options that leave no plan of that size
        return None
    if not other.prior_loss < CLEARLY_BETTER * found.prior_loss:
        return None
    return Suggestion(found.file_bytes, other.prior_loss / found.prior_loss)
