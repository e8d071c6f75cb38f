#!/usr/bin/env python3
"""Kills conversions at random moments with SIGKILL and continues them, again and again.

A round is one conversion. In parts: a random number of them, in random order, one or two processes
at a time, a part that was killed back in the queue, then the end, killed likewise; parts of gptq in
their order, one at a time. Or by the single command, killed until it comes to its end. Every result
must be byte for byte that of an undisturbed run; rounds go on until so many kills have hit a
process at work.
Usage: random_kills.py [--kills 200] [--seed N] [--model DIR] [--methods rtn,mse,gptq]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jang_tools import convert, parts, plan
from jang_tools.finalize import finalize
from jang_tools.plan_file import read_plan_file

ROOT = Path(__file__).resolve().parent.parent
SHARD_SIZE = 600_000
KILLED = 0.8  # share of the processes that are killed, if they do not end before
LAYERS = 3  # parts of gptq at most; a model of fewer layers is no use here
CALIBRATION: dict[str, Any] = {"calibration_sequences": 24, "calibration_tokens": 48}

Work = Callable[[Callable[[str], None]], None]  # is handed where to say how it goes on


@dataclass
class Child:
    """A process at work; ``deadline`` is when it is killed."""

    pid: int
    name: str
    deadline: float
    start: float
    key: Any = None


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)


class Kills:
    """``folder``: where everything lies; ``model``: what is converted."""

    def __init__(self, folder: Path, model: Path, methods: list[str], seed: int) -> None:
        self._folder = folder
        self._model = model
        self._random = random.Random(seed)
        self._spans: dict[str, float] = {}  # of a process that nobody disturbs, by its name
        self._notices = folder / "notices"
        self._notices.touch()
        self.tally = Tally()
        self._whole: dict[str, dict[str, bytes]] = {}
        self._plans: dict[str, Path] = {}
        for method in methods:
            self._prepare(method)

    def run(self, kills: int) -> None:
        """Rounds until there were so many kills."""
        ways = [(way, method) for method in self._whole for way in ("parts", "convert")]
        while self.tally.kills.total() < kills:
            way, method = self._random.choice(ways)
            output = self._folder / "out"
            if way == "parts":
                self._in_parts(method, output)
            else:
                self._until_ended(f"convert {method}", self._single(method, output))
            if contents(output) != self._whole[method]:
                raise SystemExit(f"error: {way}, {method}: other bytes than an undisturbed run")
            self.tally.rounds[f"{way} {method}"] += 1
            shutil.rmtree(output)

    def continued(self) -> int:
        """Runs that went on inside a shard, or behind a tensor or layer."""
        lines = self._notices.read_text("utf-8").splitlines()
        return sum(line.startswith("continuing ") for line in lines)

    def _prepare(self, method: str) -> None:
        output = self._folder / "whole"
        self._until_ended(f"convert {method}", self._single(method, output), spare=True)
        self._whole[method] = contents(output)
        shutil.rmtree(output)
        path = self._folder / f"{method}.json"
        plan(
            self._model, output=path, method=method, profile="JANG_4L", shard_size=SHARD_SIZE,
            **_calibration(method),
        )  # fmt: skip
        self._plans[method] = path
        self._in_parts(method, output, spare=True)
        if contents(output) != self._whole[method]:
            raise SystemExit(f"error: {method}: parts have other bytes than the single command")
        shutil.rmtree(output)

    def _in_parts(self, method: str, output: Path, *, spare: bool = False) -> None:
        path = self._plans[method]
        in_order = method == "gptq"
        most = LAYERS if in_order else len(read_plan_file(path).shards)
        count = 1 if spare else self._random.randint(1, most)
        at_once = 1 if spare or in_order else self._random.choice((1, 1, 2))
        waiting = list(range(count, 0, -1))
        if not in_order:
            self._random.shuffle(waiting)
        running: list[Child] = []
        while waiting or running:
            while waiting and len(running) < at_once:
                number = waiting.pop()
                work = self._part(path, output, number, count)
                running.append(self._start(f"part {method}", work, 1 / count, spare))
                running[-1].key = number
            for child in self._wait(running):
                running.remove(child[0])
                if child[1]:
                    place = len(waiting) if in_order else self._random.randint(0, len(waiting))
                    waiting.insert(place, child[0].key)
        self._until_ended(f"finalize {method}", self._end(path, output), spare=spare)

    def _until_ended(self, name: str, work: Work, *, spare: bool = False) -> None:
        while True:
            running = [self._start(name, work, 1.0, spare)]
            ended = self._wait(running)
            if not ended[0][1]:
                return

    # --- what the processes do ---------------------------------------------------------------

    def _single(self, method: str, output: Path) -> Work:
        calibration = _calibration(method)
        threads = self._random.choice((1, 2))

        def work(notice: Callable[[str], None]) -> None:
            if output.exists():  # killed behind its very last step
                return
            convert(
                self._model, output, method=method, profile="JANG_4L", shard_size=SHARD_SIZE,
                threads=threads, notice=notice, **calibration,
            )  # fmt: skip

        return work

    def _part(self, path: Path, output: Path, number: int, count: int) -> Work:
        threads = self._random.choice((1, 2))

        def work(notice: Callable[[str], None]) -> None:
            parts.convert_part(
                path, output, part=(number, count), model=self._model,
                threads=threads, notice=notice,
            )  # fmt: skip

        return work

    def _end(self, path: Path, output: Path) -> Work:
        def work(_: Callable[[str], None]) -> None:
            if not output.exists():
                finalize(path, output)

        return work

    # --- processes ---------------------------------------------------------------------------

    def _start(self, name: str, work: Work, share: float, spare: bool) -> Child:
        span = self._spans.get(name, 1.0) * share
        killed = not spare and self._random.random() < KILLED
        moment = self._random.uniform(0.0, 1.2 * span) if killed else float("inf")
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            self._child(work)
        now = time.perf_counter()
        return Child(pid, name, now + moment, now)

    def _child(self, work: Work) -> None:
        """Never returns."""
        # Records behind every tensor, so that a kill may come between any two of them.
        parts._STRETCH = 1
        sys.modules["jang_tools.convert"]._RESUME_STRETCH = 1  # type: ignore[attr-defined]

        def notice(line: str) -> None:
            with self._notices.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        code = 1
        try:
            work(notice)
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)

    def _wait(self, running: list[Child]) -> list[tuple[Child, bool]]:
        """Until one of them has ended: which, and whether it was killed."""
        while True:
            ended = []
            for child in running:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid != 0:
                    ended.append((child, self._judge(child, status)))
                elif time.perf_counter() >= child.deadline:
                    os.kill(child.pid, signal.SIGKILL)
                    child.deadline = float("inf")
            if ended:
                return ended
            time.sleep(0.0005)

    def _judge(self, child: Child, status: int) -> bool:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            self.tally.kills[child.name] += 1
            return True
        if status != 0:
            raise SystemExit(f"error: {child.name} ended with {status}")
        self.tally.ended[child.name] += 1
        self._spans.setdefault(child.name, time.perf_counter() - child.start)
        return False


def _calibration(method: str) -> dict[str, Any]:
    return CALIBRATION if method == "gptq" else {}


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, help="of the moments and orders [default: the time]")
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "tiny-prose-llama")
    parser.add_argument("--methods", default="rtn,mse,gptq")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000_007
    print(f"seed {seed}", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(Path(folder), options.model, options.methods.split(","), seed)
        kills.run(options.kills)
        document = {
            "kills": kills.tally.kills.total(),
            "killed": dict(sorted(kills.tally.kills.items())),
            "conversions": kills.tally.rounds.total(),
            "rounds": dict(sorted(kills.tally.rounds.items())),
            "continued_inside": kills.continued(),
            "seconds": round(time.perf_counter() - start, 1),
        }
    print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
