"""A planned conversion on a Ray cluster: a task for every shard, then the end on this machine.

Relies on Ray (the extra `ray`) for where and when tasks run and for repeating those whose worker
died, and on `convert_part`, which is idempotent, for what a task does; keeps no state of its own.
Source, plan and output lie on a file system that all nodes see.
"""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from jang_tools import errors
from jang_tools.convert import ConvertResult, Notice, Progress
from jang_tools.errors import ArgumentError, IoError, JangError, UnsupportedError
from jang_tools.finalize import finalize
from jang_tools.partial_output import CONTINUE_HINT, add_hint
from jang_tools.parts import PartJob, convert_part
from jang_tools.plan_file import read_plan_file

_RETRIES = 20  # of a task whose worker died; each goes on where the shard's record ends
_POLL_SECONDS = 0.2  # Ctrl-C is noticed within


def convert_on_ray(
    plan: str | Path,
    output: str | Path,
    *,
    model: str | Path | None = None,
    statistics: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
) -> ConvertResult:
    """As `convert_planned`, with the shards made by tasks of the Ray cluster that this process is
    connected to, or that RAY_ADDRESS names, or else of one on this machine.

    ``threads``: of a task, for which it reserves as many CPUs; None: those of the smallest node.

    Raises UnsupportedError for a plan of gptq and without Ray, IoError for a task whose worker died
    again and again, and whatever `convert_part` raises in a task.
    """
    start = time.perf_counter()
    if read_plan_file(plan).method == "gptq":
        raise UnsupportedError(
            "engine ray: the parts of method gptq follow one another, so no two tasks could work at"
            " once",
            code="argument",
            hint="`jang convert --plan` without --engine makes them in order on one machine,"
            " --part each on one of its own",
        )
    ray = _import_ray()
    # Before anything is sent out: what is wrong with plan, source or output is said here.
    job = PartJob(plan, output, model=model, statistics=statistics, threads=threads)
    connected = ray.is_initialized()
    if not connected:
        _connect(ray)
    try:
        cpus = _cpus_of_a_task(ray, threads)
        given: dict[str, Any] = {
            "plan": os.path.abspath(plan),
            "output": str(job.directory.output),
            "model": None if model is None else str(_absolute(model)),
            "statistics": None if statistics is None else os.path.abspath(statistics),
            "threads": cpus,
        }
        task = ray.remote(num_cpus=cpus, max_retries=_RETRIES, retry_exceptions=False)(make_shard)
        tasks = {
            task.remote(given, number, len(job.names)): number - 1
            for number in range(1, len(job.names) + 1)
        }
        _wait(ray, job, tasks, progress, notice)
    finally:
        if not connected:
            ray.shutdown()
    return finalize(plan, output, model=model, threads=threads, started=start)


def make_shard(given: dict[str, Any], number: int, count: int) -> dict[str, Any]:
    """What a task runs. An error of this package is returned, so that it arrives as it is."""
    notices: list[str] = []
    try:
        convert_part(
            given["plan"],
            given["output"],
            part=(number, count),
            model=given["model"],
            statistics=given["statistics"],
            threads=given["threads"],
            notice=notices.append,
        )
    except JangError as error:
        fields = {"text": str(error), "code": error.code, "hint": error.hint}
        return {"notices": notices, "error": {"type": type(error).__name__, **fields}}
    return {"notices": notices, "error": None}


def _wait(
    ray: Any,
    job: PartJob,
    tasks: dict[Any, int],
    progress: Progress | None,
    notice: Notice | None,
) -> None:
    done, total = 0, sum(job.sizes)
    pending = list(tasks)
    try:
        while pending:
            ready, pending = ray.wait(pending, timeout=_POLL_SECONDS)
            for reference in ready:
                shard = tasks[reference]
                _take(ray, reference, job.names[shard], notice)
                done += job.sizes[shard]
                if progress is not None:
                    progress(done, total, job.names[shard])
    except BaseException as error:
        for reference in pending:
            ray.cancel(reference, force=True)
        if isinstance(error, KeyboardInterrupt):
            add_hint(error, CONTINUE_HINT.format(job.directory.path))
        raise


def _take(ray: Any, reference: Any, name: str, notice: Notice | None) -> None:
    try:
        found = ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IoError(
            f"{name}: its task on the Ray cluster did not end: {reason}",
            code="io",
            hint="the same command continues with what is done",
        ) from error
    for line in found["notices"]:
        if notice is not None:
            notice(line)
    said = found["error"]
    if said is not None:
        kind = getattr(errors, said["type"])
        raise kind(said["text"], code=said["code"], hint=said["hint"])


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise UnsupportedError(
            "engine ray: the package ray is not installed",
            code="argument",
            hint="pip install 'jang-tools[ray]'",
        ) from error


def _connect(ray: Any) -> None:
    # A converter reports to nobody; a cluster that is there already has decided for itself.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(logging_level="error", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        reason = str(error).strip().splitlines()[0]
        raise IoError(f"no Ray cluster on {where}: {reason}", code="io") from error


def _cpus_of_a_task(ray: Any, threads: int | None) -> int:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cpus = [int(node["Resources"]["CPU"]) for node in nodes if node["Resources"].get("CPU", 0) >= 1]
    if not cpus:
        raise ArgumentError("no node of the Ray cluster has a CPU to give", code="argument")
    if threads is not None and threads > max(cpus):
        raise ArgumentError(
            f"threads: expected at most {max(cpus)}, the CPUs of the largest node of the Ray"
            f" cluster, found {threads}",
            code="argument",
        )
    return threads or min(cpus)


def _absolute(model: str | Path) -> str | Path:
    """A directory, wherever a task runs; a Hub id as it is."""
    return os.path.abspath(model) if Path(model).is_dir() else model
