"""convert(): a Hugging Face checkpoint becomes a JANG v2 directory.

The core plans and writes weights, index and both configs; this file checks the wish, copies the
tokenizer, sums up and names the result. Everything happens in OUTPUT.partial until the last step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jang_tools import _core
from jang_tools.calibration import BUILTIN, calibrate_on
from jang_tools.errors import ArgumentError, JangError
from jang_tools.hub import locate_model
from jang_tools.needs import Needs, memory_needs, size_text
from jang_tools.output_files import check_apart, copy_file, files_to_copy, write_file
from jang_tools.output_files import check_space as _check_space
from jang_tools.partial_output import PartialOutput, check_output
from jang_tools.plan import Allocation, allocation_of, measured_losses, profile_name
from jang_tools.resume import resume_key
from jang_tools.sha256sums import SUMS, format_sums, hash_files

if TYPE_CHECKING:
    from jang_tools.stream import HubStream

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the item just finished
Notice = Callable[[str], None]  # a line for the user

METHODS = ("rtn", "mse", "gptq")


@dataclass(frozen=True)
class Lattices:
    """Tensors of the source that lie on lattices and are stored there, in groups of 32 to 128.

    Of the ``tensors`` ``lossless_tensors`` read back as the source's values in every group; over
    all of them ``lossless_groups`` of the ``groups`` do.
    """

    tensors: int
    lossless_tensors: int
    groups: int
    lossless_groups: int

    def to_json(self) -> dict[str, int]:
        """``lattices`` of ``jang convert --json``."""
        return {
            "tensors": self.tensors,
            "lossless_tensors": self.lossless_tensors,
            "groups": self.groups,
            "lossless_groups": self.lossless_groups,
        }


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion wrote. ``bytes``: all model-*.safetensors; widths as in the report.
    ``needs``: what was stated before it began; None for conversions in parts."""

    output: Path
    profile: str
    method: str
    bytes: int
    average_bits: float
    bits_per_weight: float
    attention_bits: int
    mlp_bits: int
    seconds: float
    parameters: int = 0
    needs: Needs | None = None
    allocation: Allocation | None = None
    lattices: Lattices | None = None
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang convert --json``."""
        return {
            "schema": "jang.convert/1",
            "output": str(self.output),
            "profile": self.profile,
            "method": self.method,
            "bytes": self.bytes,
            "average_bits": self.average_bits,
            "bits_per_weight": self.bits_per_weight,
            "attention_bits": self.attention_bits,
            "mlp_bits": self.mlp_bits,
            "seconds": self.seconds,
            "allocation": self.allocation.to_json() if self.allocation else None,
            "lattices": self.lattices.to_json() if self.lattices else None,
            "needs": self.needs.to_json() if self.needs else None,
            "files": self.files,
            "warnings": self.warnings,
        }


def convert(
    model: str | Path,
    output: str | Path,
    *,
    profile: str | None = None,
    bits: float | None = None,
    size: int | None = None,
    method: str = "mse",
    calibration: str | Path = BUILTIN,
    calibration_sequences: int | None = None,
    calibration_tokens: int | None = None,
    statistics: str | Path | None = None,
    dtype: str | None = None,
    group_size: int | None = None,
    router_bits: int | None = None,
    expert_floor: int | None = None,
    rules: Sequence[str] = (),
    shard_size: int | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    max_memory: int | None = None,
    from_hub: bool = False,
    delete_after_use: bool = False,
    progress: Progress | None = None,
    notice: Notice | None = None,
    starting: Callable[[Needs], None] | None = None,
) -> ConvertResult:
    """Converts ``model`` (a directory or org/name[@revision]) into the new directory ``output``.

    ``profile``: any name of ``jang profiles``; in its place ``bits``, the bits per weight that the
    weight files take at most, or ``size``, the same in bytes; JANG_4K without any. ``method``:
    "rtn" (round to nearest, MLX's rule), "mse" (a search of scale and bias in every group) or
    "gptq" (error feedback against the inputs that each layer sees on a text). The text is
    ``calibration``, "builtin" or a UTF-8 file; of it ``calibration_sequences`` (128) sequences of
    ``calibration_tokens`` (512, or the model's limit) tokens are read; only "gptq" looks at these.
    ``statistics``: a file of `jang calibrate`, or an importance matrix of llama.cpp; "mse" then
    weights each column by the mean square of its input, and ``bits`` and ``size`` choose widths by
    losses measured with these weights.
    ``dtype``: "bf16", "f16" or "f32" casts all weights first; else scales, biases and unquantized
    tensors keep the source's. ``rules``: "GLOB=BITS[:GROUP]" or "GLOB=none" on module paths, the
    last match wins. ``shard_size``: bytes of tensors in one file (5 GiB), but for a matrix that is
    larger. ``overwrite`` replaces a directory that this package wrote.
    ``max_memory``: bytes of memory of its own that the process may take, pages of the mapped source
    apart; fewer ``threads`` run where that makes it fit, and what cannot fit is refused before the
    start. ``starting`` is told what memory and disk will be needed, once nothing speaks against it.
    ``progress(done, total, item)`` counts bytes converted and hashed, on the calling thread, and
    before that, on a scale of their own, those of samples whose losses are measured; Ctrl-C stops
    within a second and leaves nothing behind, but once "gptq" has finished a layer, or the other
    methods have worked for some 20 seconds: what is interrupted then, by whatever, the same call
    continues at the last finished layer or tensor, to the same bytes. ``notice(line)`` is told so
    when it does, and why if it cannot.
    ``from_hub``: ``model`` is org/name[@revision] and is converted while it is downloaded, file by
    file, into the Hub's cache, or with ``delete_after_use`` beside the output until a file is
    converted. "gptq", FP8 and MXFP4 sources, and losses measured with ``statistics``, want
    everything first.
    Tensors that already lie on a lattice, as after quantization-aware training, are found by "mse"
    and "gptq" and stored there without loss where the width allows.

    Raises FormatError, UnsupportedError, ArgumentError or IoError, each with one line of text.
    """
    start = time.perf_counter()
    _check_method(method)
    target = Path(os.path.abspath(output))
    check_output(target, overwrite=overwrite)
    with ExitStack() as stack:
        stream: HubStream | None = None
        if from_hub:
            from jang_tools.stream import HubStream

            stream = stack.enter_context(
                HubStream(str(model), target, delete_after_use=delete_after_use, notice=notice)
            )
        source = locate_model(model) if stream is None else stream.model
        check_apart(source.path, target)
        options: dict[str, Any] = {
            "profile": profile_name(profile, bits, size),
            "bits": bits,
            "size": size,
            "dtype": dtype,
            "group_size": group_size,
            "router_bits": router_bits,
            "expert_floor": expert_floor,
            "rules": list(rules),
            "shard_size": shard_size,
        }
        calibrated: dict[str, Any] = {}
        warnings: list[str] = []
        measures = statistics is not None and (bits is not None or size is not None)
        whole = _reads_all(method, measures)
        if stream is not None:
            if whole and notice is not None:
                notice(
                    f"{whole}: all weights are read first, so all are downloaded before it begins"
                )
            stream.bring_first(stream.weights if whole else _core.compared_files(str(source.path)))
        if statistics is not None:
            from jang_tools.statistics import load_statistics

            given = load_statistics(statistics, source.path)
            warnings += given.warnings
            calibrated = {
                "column_weights": given.mean_squares,
                "statistics_file": given.file,
                "statistics_sha256": given.sha256,
            }
            if measures:
                options["losses"] = measured_losses(
                    source.path, given, dtype, group_size, threads, progress
                )
        plan = _core.plan_directory(str(source.path), **options)
        state_bytes = 0
        ids = None
        if method == "gptq":
            found = calibrate_on(
                source.path,
                source=calibration,
                sequences=calibration_sequences,
                tokens=calibration_tokens,
            )
            calibrated |= {
                "calibration_ids": found.ids,
                "calibration_text": found.text.name,
                "calibration_sha256": found.text.sha256,
            }
            ids = found.ids
            state_bytes = int(_core.resume_bytes(str(source.path), found.ids.size))
        key = resume_key(
            source.path,
            {"method": method}
            | {name: value for name, value in options.items() if name != "losses"},
            ids,
            calibrated.get("statistics_sha256", ""),
            None if stream is None else stream.identity,
        )
        copied = files_to_copy(source.path)
        if "tokenizer.json" not in copied:
            warnings.append(NO_TOKENIZER)
        needs, scratch_bytes = memory_needs(
            source.path,
            plan,
            ids=ids,
            casts=dtype is not None,
            statistics_bytes=sum(
                values.nbytes for values in calibrated.get("column_weights", {}).values()
            ),
            threads=threads,
            limit=max_memory,
        )
        if notice is not None and needs.threads < needs.threads_asked:
            notice(
                f"{needs.threads} of {needs.threads_asked} threads, so that at most"
                f" {size_text(needs.memory_bytes)} of memory are taken"
            )
        needs.disk.append(("output", plan.file_bytes + sum(copied.values())))
        needs.disk.append(("state to continue from", state_bytes))
        needs.disk.append(("scratch of calibration", scratch_bytes))
        if stream is not None:
            needs.disk.extend(stream.disk_needs(_core.feed_schedule(str(source.path), plan)))
        with PartialOutput(target, overwrite=overwrite, resume=True) as partial:
            _check_space(partial.path, max(needs.disk_bytes - partial.kept_bytes(), 0), needs.disk)
            if starting is not None:
                starting(needs)
            count = _Progress(progress, plan.file_bytes + sum(copied.values()))
            if stream is not None:
                stream.waiting = count.waiting
            for name in copied:
                copy_file(source.path / name, partial.path / name)
            report = _core.convert_directory(
                str(source.path),
                str(partial.path),
                **options,
                method=method,
                threads=needs.threads,
                source_name=source.name,
                source_revision=source.revision,
                think_in_template=opens_thinking(source.path, warnings),
                generator_version=str(_core.__version__),
                **calibrated,
                resume_key=key,
                resume_stretch=_RESUME_STRETCH,
                feed=None if whole else stream,
                progress=count.converted if progress else None,
                notice=notice,
            )
            count.output_bytes = report.file_bytes + sum(copied.values())
            files = sorted([*copied, *report.files])
            sums = hash_files(partial.path, files, threads=threads, advance=count.hashed)
            write_file(partial.path / SUMS, format_sums(sums))
            partial.commit()
    return result_of(
        report.plan,
        Path(output),
        method=method,
        seconds=time.perf_counter() - start,
        needs=needs,
        lattices=_lattices_of(report.lattices),
        files=sorted([*files, SUMS]),
        warnings=[*report.warnings, *warnings],
    )


def result_of(
    plan: _core.Plan,
    output: Path,
    *,
    method: str,
    seconds: float,
    lattices: Lattices | None,
    files: list[str],
    warnings: list[str],
    needs: Needs | None = None,
) -> ConvertResult:
    """The result of a conversion by ``plan``, as run."""
    return ConvertResult(
        output=output,
        profile=plan.profile,
        method=method,
        bytes=plan.file_bytes,
        average_bits=plan.average_bits,
        bits_per_weight=plan.bits_per_weight,
        attention_bits=plan.attention_bits,
        mlp_bits=plan.mlp_bits,
        seconds=seconds,
        parameters=plan.parameters,
        needs=needs,
        allocation=allocation_of(plan),
        lattices=lattices,
        files=files,
        warnings=warnings,
    )


def _lattices_of(found: _core.LatticeSummary) -> Lattices | None:
    if found.tensors == 0:
        return None
    return Lattices(found.tensors, found.lossless_tensors, found.groups, found.lossless_groups)


_RESUME_STRETCH = 0  # bytes of the source between two states of rtn and mse; 0: about 20 seconds
NO_TOKENIZER = (
    "tokenizer.json: not in the source, so `jang run` and most loaders cannot take text;"
    " the weights are converted"
)


class _Progress:
    """One scale over two phases: bytes of the source converted, then bytes of the output hashed."""

    def __init__(self, callback: Progress | None, output_bytes: int) -> None:
        self._callback = callback
        self.output_bytes = output_bytes  # as planned; lattices of the source may change it
        self._converted = 0
        self._hashed = 0
        self._done, self._total = 0, output_bytes

    def converted(self, done: int, total: int, item: str) -> None:
        self._converted = total
        self._done, self._total = done, total + self.output_bytes
        if self._callback is not None:
            self._callback(done, self._total, item)

    def waiting(self, name: str) -> None:
        """Nothing goes on until this file has come; whoever watches may look at signals."""
        if self._callback is not None:
            self._callback(self._done, self._total, f"waiting for {name}")

    def hashed(self, count: int, item: str) -> None:
        # Documents are hashed too; they are not worth a total that grows.
        self._hashed = min(self._hashed + count, self.output_bytes)
        if self._callback is not None:
            total = self._converted + self.output_bytes
            self._callback(self._converted + self._hashed, total, item)


def _reads_all(method: str, measures: bool) -> str:
    """What of a conversion wants all weights before it begins, or nothing."""
    if method == "gptq":
        return "method gptq"
    return "measuring losses" if measures else ""


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ArgumentError(
            f"method: expected one of {', '.join(METHODS)}, found '{method}'", code="argument"
        )


def opens_thinking(source: Path, warnings: list[str]) -> bool:
    """Whether the chat template's generation prompt ends with an open <think>."""
    from jang_tools.chat import load_chat_template
    from jang_tools.json_file import read_json_object

    # What the tokens are does not matter here, only that templates may join them to text.
    blank = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "")
    try:
        config = read_json_object(source / "tokenizer_config.json")
        template = load_chat_template(source, config, blank)
        return template is not None and template.opens_thinking()
    except JangError as error:
        warnings.append(f"the chat template cannot be read: {error}")
        return False
