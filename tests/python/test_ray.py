"""jang convert --engine ray, on a Ray cluster of several worker processes on this machine; skipped
where the extra `ray` is not installed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jang_tools import convert, plan
from jang_tools.bench.shapes import Shape
from jang_tools.bench.synthetic import write_checkpoint
from jang_tools.cli.main import cli
from jang_tools.errors import ArgumentError, FormatError, IoError
from jang_tools.plan_file import read_plan_file
from jang_tools.ray_engine import convert_on_ray

ray = pytest.importorskip("ray")

SHARD = 2_000_000


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "source"
    write_checkpoint(folder, Shape("generated", 512, 1536, 5, 8, 4, 64, 8_000), None)
    return folder


@pytest.fixture(scope="module")
def planned(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan(source, output=path, method="mse", profile="JANG_4L", shard_size=SHARD)
    return path


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "out"
    convert(source, output, method="mse", profile="JANG_4L", shard_size=SHARD)
    return contents(output)


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def workers_at_work() -> list[int]:
    """Processes that run a task of the engine; Ray writes its name into their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"ray::make_shard" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_worker_that_is_killed_costs_nothing(
    planned: Path, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    partial = output.with_name("out.partial")
    shards = read_plan_file(planned).shards
    assert len(shards) >= 8
    killed: list[int] = []
    workers: set[int] = set()
    ended = threading.Event()

    def kill_two() -> None:
        while not ended.is_set():
            at_work = [pid for pid in workers_at_work() if pid not in killed]
            workers.update(at_work)
            unfinished = list(partial.glob("*.part")) if partial.exists() else []
            if unfinished and at_work and len(killed) < 2:
                os.kill(at_work[0], signal.SIGKILL)
                killed.append(at_work[0])
                time.sleep(0.2)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_two)
    killer.start()
    seen: list[tuple[int, int, str]] = []
    try:
        result = convert_on_ray(
            planned,
            output,
            model=source,
            threads=1,
            progress=lambda done, total, item: seen.append((done, total, item)),
        )
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 2
    assert len(workers) >= 3
    assert contents(output) == whole
    assert sorted(result.files) == sorted(whole)
    assert {item for _, _, item in seen} >= set(shards)
    assert all(done <= total for done, total, _ in seen)


def test_errors_of_tasks_arrive_as_they_are(planned: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    partial = output.with_name("out.partial")
    with pytest.raises(ArgumentError, match="expected at most 3, the CPUs of the largest node"):
        convert_on_ray(planned, output, model=source, threads=4)
    partial.mkdir()
    (partial / "notes.txt").write_text("mine")
    with pytest.raises(IoError, match="holds no parts of a plan") as caught:
        convert_on_ray(planned, output, model=source, threads=1)
    assert caught.value.code == "output_exists"
    assert caught.value.hint.startswith("end what began it")
    other = tmp_path / "other.json"
    other.write_bytes(planned.read_bytes().replace(b'"bits": 4', b'"bits": 8', 1))
    with pytest.raises(FormatError, match="expected the checksum"):
        convert_on_ray(other, output, model=source)


def test_the_command(planned: Path, source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments: list[Any] = ["convert", "--plan", planned, "--engine", "ray", "--threads", "1"]
    arguments += ["--model", source, "--output", output]
    done = CliRunner().invoke(cli, [str(word) for word in arguments], prog_name="jang")
    assert done.exit_code == 0, done.output
    assert "Done" in done.output
    assert contents(output) == whole
