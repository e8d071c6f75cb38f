#!/usr/bin/env python3
"""Damages directories at random and holds the commands against it, again and again.

Half of the rounds damage a converted directory: `verify` must name the damaged file, `inspect` and
`run` may refuse or work. The other half damage a source: `plan` and `convert` may refuse or work.
Whatever happens, no process may end but by itself, and nothing but the errors of the package may
leave a function. Every round works in a process of its own.
Usage: random_damage.py [--rounds 1000] [--seed N] [--model DIR] [--seconds S, of one round]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jang_tools import convert, inspect, load, plan, verify
from jang_tools.errors import JangError
from jang_tools.generate import generate

ROOT = Path(__file__).resolve().parent.parent
HEAD = 6000  # bytes at the beginning of a weight file, which half of the changes hit
OK, REFUSED = 0, 3  # exit codes of a round

Bytes = bytearray


def flip(data: Bytes, dice: random.Random, near: int) -> Bytes:
    """One byte becomes another one."""
    data[dice.randrange(near)] ^= dice.randint(1, 255)
    return data


def truncate(data: Bytes, dice: random.Random, near: int) -> Bytes:
    return data[: dice.choice([0, dice.randrange(near), len(data) - 1])]


def extend(data: Bytes, dice: random.Random, near: int) -> Bytes:
    return data + dice.randbytes(dice.choice([1, 8, 5000]))


def swap(data: Bytes, dice: random.Random, near: int) -> Bytes:
    """Two pieces of equal length change places."""
    length = dice.randint(1, max(1, min(near // 4, 4096)))
    one, other = dice.randrange(near - length + 1), dice.randrange(len(data) - length + 1)
    if abs(one - other) >= length:
        piece = data[one : one + length]
        data[one : one + length] = data[other : other + length]
        data[other : other + length] = piece
    return data


def blank(data: Bytes, dice: random.Random, near: int) -> Bytes:
    """A page of zeros, as some file systems leave it after a crash."""
    begin = dice.randrange(near) // 512 * 512
    data[begin : begin + 512] = bytes(len(data[begin : begin + 512]))
    return data


KINDS: list[Callable[[Bytes, random.Random, int], Bytes]] = [flip, truncate, extend, swap, blank]


def damage(folder: Path, dice: random.Random) -> tuple[str, list[str]]:
    """Changes something in the folder; returns what, and the files that are no longer the same."""
    files = sorted(path for path in folder.iterdir() if path.stat().st_size > 0)
    while True:
        path = dice.choice(files)
        action = dice.choice([*KINDS, flip, flip, "remove", "exchange"])
        if action == "remove":
            path.unlink()
            return "remove", [path.name]
        if action == "exchange":
            other = dice.choice(files)
            one, two = path.read_bytes(), other.read_bytes()
            if one == two:
                continue
            path.write_bytes(two)
            other.write_bytes(one)
            return "exchange", [path.name, other.name]
        before = path.read_bytes()
        near = min(len(before), HEAD) if dice.random() < 0.5 else len(before)
        after = bytes(action(bytearray(before), dice, near))
        if after != before:
            path.write_bytes(after)
            return action.__name__, [path.name]


def judge_converted(folder: Path, files: list[str]) -> int:
    """What the commands make of a damaged directory; verify must name what was damaged."""
    try:
        report = verify(folder)
        found = " ".join(f"{fault.file} {fault.message}" for fault in report.faults)
    except JangError as error:
        found = str(error)
    assert found, "verify found nothing"
    assert any(name in found for name in files), f"verify names none of {files}: {found}"
    refused = 0
    for action in (inspect, run):
        try:
            action(folder)
        except JangError:
            refused += 1
    return REFUSED if refused else OK


def run(folder: Path) -> None:
    model, tokenizer = load(folder)
    generate(model, tokenizer, "Once upon a time", max_tokens=2)


def judge_source(folder: Path, files: list[str]) -> int:
    """As above; a source is not sealed, so that changed weights may well be converted."""
    refused = 0
    output = folder.with_name("made")
    for action in (
        lambda: plan(folder, profile="JANG_3M"),
        lambda: convert(folder, output, profile="JANG_3M", method="rtn", threads=1),
    ):
        try:
            action()
        except JangError as error:
            assert "\n" not in str(error), error
            refused += 1
    assert output.exists() or refused
    return REFUSED if refused else OK


def in_a_process(work: Callable[[], int], seconds: float) -> str:
    """How a forked process ended: "worked", "refused", or a description of a fault."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(int(seconds))
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            code = work()
        except BaseException:
            sys.__stderr__.write(traceback.format_exc())
            code = 1
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    known = {OK: "worked", REFUSED: "refused"}
    return known.get(os.WEXITSTATUS(status), "failed, see above")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "tiny-prose-llama")
    arguments = parser.parse_args()
    start = time.monotonic()
    counts: Counter[tuple[str, str, str]] = Counter()
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        options = {"profile": "JANG_3M", "method": "rtn", "shard_size": 1_000_000}
        # In a process too: one that has threads must not fork.
        make = in_a_process(
            lambda: convert(arguments.model, root / "converted", **options) and OK, 600
        )
        if make != "worked":
            print(f"the undamaged conversion {make}")
            return 1
        for number in range(arguments.rounds):
            dice = random.Random(f"{arguments.seed} {number}")
            converted = number % 2 == 0
            original = root / "converted" if converted else arguments.model
            folder = root / f"round-{number}" / "damaged"
            shutil.copytree(original, folder)
            kind, files = damage(folder, dice)
            judge = judge_converted if converted else judge_source
            outcome = in_a_process(lambda j=judge, d=folder, f=files: j(d, f), arguments.seconds)
            what = "converted" if converted else "source"
            counts[what, kind, outcome] += 1
            if outcome not in ("worked", "refused"):
                faults += 1
                print(f"round {number} of seed {arguments.seed}: {kind} of {files}: {outcome}")
            shutil.rmtree(folder.parent)
    for (what, kind, outcome), count in sorted(counts.items()):
        print(f"{what:10} {kind:9} {outcome:18} {count:5}")
    seconds = time.monotonic() - start
    print(f"{arguments.rounds} rounds in {seconds:.0f} s, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
