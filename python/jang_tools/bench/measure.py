"""Measures prefill, decode and batched decode of a loaded model against a read-only pass.

Each test runs once to warm up, which also gives the hash of its output, and then in rounds: a pass
that reads all weight files, the test, a pass again. A share compares a round with the two passes
around it, because page placement and neighbours move the bandwidth of a machine from minute to
minute. Decoding at several depths goes through the same rounds, so that what a context costs is a
difference within a round. Figures are medians over rounds. Tokens are fixed; choosing the next one
is off the clock.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.errors import ArgumentError
from jang_tools.model import KvCache, Model

Ids = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]
Note = Callable[[str], None]

_SEED = 1


@dataclass(frozen=True)
class Settings:
    """What to measure; zero or an empty tuple leaves a kind out."""

    prompt: int = 512
    decode: int = 64
    depths: tuple[int, ...] = (0, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    rounds: int = 5

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.decode < 0 or any(depth < 0 for depth in self.depths):
            raise ArgumentError("bench: token counts and depths must not be negative")
        if any(batch < 1 for batch in self.batches) or self.rounds < 1:
            raise ArgumentError("bench: batches and rounds must be at least 1")

    def steps(self, batch: int) -> int:
        """Steps of a batched test: about ``decode`` tokens, but at least four steps."""
        return max(4, self.decode // batch)


@dataclass(frozen=True)
class Result:
    """One test. Weights count once for each call of the model, however often it reads them; experts
    count as they are chosen, once a pass however many tokens chose them."""

    kind: str  # prefill, decode, batch
    tokens: int  # of a prefill; steps of a decode
    depth: int  # tokens in the cache before the first one
    batch: int  # sequences
    tok_s: float  # of all sequences together
    tops: float  # 2 * multiply-adds with weights, of all threads together, 10^12 a second
    tops_per_core: float
    gb_s: float  # weights that the calls need, 10^9 bytes a second
    share: float  # of the read-only passes around the test
    read_only_gb_s: float
    seconds: float  # of one run
    slowest: float  # seconds of the slowest round
    output_hash: str  # SHA-256 of all float32 logits of one run, the first 16 digits
    stable: bool  # every round ended with the same logits

    @property
    def title(self) -> str:
        return title_of(self.kind, self.tokens, self.depth, self.batch)


@dataclass(frozen=True)
class Skipped:
    """A test that this model cannot run, and why."""

    kind: str
    tokens: int
    depth: int
    batch: int
    reason: str

    @property
    def title(self) -> str:
        return title_of(self.kind, self.tokens, self.depth, self.batch)


@dataclass(frozen=True)
class Attention:
    """What a context of ``depth`` tokens adds to a decode step, as a share of that step."""

    depth: int
    share_of_decode: float


@dataclass
class Measurements:
    """Results of one model under one level, number of threads and precision."""

    level: str
    threads: int
    precision: str
    kv_type: str  # of the caches
    load_seconds: float  # opening, validating and mapping
    weight_bytes: int  # of the files, what a read-only pass reads
    token_bytes: (
        int  # of the matrices that one token is multiplied with; of experts the chosen ones
    )
    token_weights: int
    rounds: int
    read_only_gb_s: float = 0.0  # median of all passes
    results: list[Result] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Test:
    """Something that `run` does; it yields the logits of every call of the model."""

    kind: str
    tokens: int
    depth: int
    batch: int
    calls: int  # of the model in one run
    rows: int  # of logits that one call makes
    run: Callable[[], Iterator[Logits]]

    @property
    def positions(self) -> int:
        """Tokens that go through the layers in one run."""
        return self.tokens * self.batch

    @property
    def title(self) -> str:
        return title_of(self.kind, self.tokens, self.depth, self.batch)


def title_of(kind: str, tokens: int, depth: int, batch: int) -> str:
    """How a test is called wherever it is shown: `decode 64 at 4096`, `batch 8`."""
    if kind == "batch":
        return f"batch {batch}"
    return f"{kind} {tokens}" + (f" at {depth}" if depth else "")


def active_level() -> str:
    """The kernel level of this process."""
    levels = _core.runtime_info()["levels"]
    return next(str(name) for name, state in levels.items() if state["active"])


def measure(model: Model, settings: Settings, note: Note = lambda _: None) -> Measurements:
    """Runs the tests of ``settings``; ``note`` hears the titles of each group before it starts."""
    traffic = model.core.weight_traffic
    layers, head, wanted = traffic["layers"], traffic["head"], traffic["wanted_only"]
    always = layers["bytes"] + head["bytes"] - traffic["experts"]["bytes"]
    measured = Measurements(
        level=active_level(),
        threads=model.core.threads,
        precision=model.precision,
        kv_type=model.core.kv_type,
        load_seconds=model.load_seconds,
        weight_bytes=model.core.weight_bytes,
        token_bytes=layers["bytes"] + head["bytes"],
        token_weights=layers["weights"] + head["weights"],
        rounds=settings.rounds,
    )
    model.core.read_pass()  # maps the pages
    passes: list[float] = []
    for group in _groups(model, settings, measured.skipped):
        note(", ".join(test.title for test in group))
        runs = _rounds(model, group, settings.rounds)
        for test, run in zip(group, runs, strict=True):
            all_tokens = layers["weights"] - wanted["weights"]
            products = all_tokens * test.positions
            products += (wanted["weights"] + head["weights"]) * test.rows * test.calls
            operations = 2 * products
            needed = always * test.calls + run.expert_bytes
            measured.results.append(_result(test, run, operations, needed, measured))
            passes += run.before
        passes.append(runs[-1].after[-1])
        measured.attention += _attention(group, runs)
    if passes:
        measured.read_only_gb_s = measured.weight_bytes / statistics.median(passes) / 1e9
    return measured


@dataclass
class _Runs:
    """The rounds of one test: seconds of the run, and of the passes before and after it."""

    output_hash: str
    expert_bytes: int  # that one run reads
    times: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    stable: bool = True


def _rounds(model: Model, group: list[Test], rounds: int) -> list[_Runs]:
    """Warms up and hashes every test of ``group``, then runs all of them in each round."""
    runs, last = [], []
    for test in group:
        digest = hashlib.sha256()
        before = model.core.expert_bytes_read
        for logits in test.run():
            final = logits.astype("<f4", copy=False).tobytes()
            digest.update(final)
        read = model.core.expert_bytes_read - before
        runs.append(_Runs(digest.hexdigest()[:16], read))
        last.append(final)
    seconds = model.core.read_pass()
    for _ in range(rounds):
        for test, run, expected in zip(group, runs, last, strict=True):
            run.before.append(seconds)
            start = time.perf_counter()
            for logits in test.run():
                found = logits
            run.times.append(time.perf_counter() - start)
            run.stable = run.stable and found.astype("<f4", copy=False).tobytes() == expected
            seconds = model.core.read_pass()
            run.after.append(seconds)
    return runs


def _result(test: Test, run: _Runs, operations: int, needed: int, measured: Measurements) -> Result:
    seconds = statistics.median(run.times)
    ceilings = [
        measured.weight_bytes * (1 / before + 1 / after) / 2
        for before, after in zip(run.before, run.after, strict=True)
    ]
    return Result(
        kind=test.kind,
        tokens=test.tokens,
        depth=test.depth,
        batch=test.batch,
        tok_s=test.positions / seconds,
        tops=operations / seconds / 1e12,
        tops_per_core=operations / seconds / 1e12 / measured.threads,
        gb_s=needed / seconds / 1e9,
        share=statistics.median(
            needed / one / ceiling for one, ceiling in zip(run.times, ceilings, strict=True)
        ),
        read_only_gb_s=statistics.median(ceilings) / 1e9,
        seconds=seconds,
        slowest=max(run.times),
        output_hash=run.output_hash,
        stable=run.stable,
    )


def _attention(group: list[Test], runs: list[_Runs]) -> list[Attention]:
    """Decode tests with a context against the one without, round by round."""
    times = {test.depth: run.times for test, run in zip(group, runs, strict=True)}
    if group[0].kind != "decode" or 0 not in times:
        return []
    return [
        Attention(depth, statistics.median(1 - a / b for a, b in zip(times[0], deep, strict=True)))
        for depth, deep in times.items()
        if depth > 0
    ]


def _groups(model: Model, settings: Settings, skipped: list[Skipped]) -> Iterator[list[Test]]:
    """The tests, in groups that share their rounds."""
    limit = model.max_positions
    short = f"the model's context is {limit} tokens"

    if settings.prompt > limit:
        skipped.append(Skipped("prefill", settings.prompt, 0, 1, short))
    elif settings.prompt:
        yield [prefill_test(model, settings.prompt)]
    decodes = []
    for depth in settings.depths if settings.decode else ():
        if depth + settings.decode > limit:
            skipped.append(Skipped("decode", settings.decode, depth, 1, short))
        else:
            decodes.append(decode_test(model, settings.decode, depth))
    if decodes:
        yield decodes
    for batch in settings.batches:
        steps = settings.steps(batch)
        if steps > limit:
            skipped.append(Skipped("batch", steps, 0, batch, short))
        else:
            yield [batch_test(model, steps, batch)]


def _ids(model: Model, *shape: int) -> Ids:
    """The same tokens everywhere: bits of the generator, not a method that may change."""
    raw = np.random.PCG64(_SEED).random_raw(math.prod(shape))
    return np.asarray(raw % model.vocabulary, dtype=np.int32).reshape(shape)


def prefill_test(model: Model, tokens: int) -> Test:
    """A prompt of ``tokens`` from an empty cache, for the logits of its last token."""
    prompt = _ids(model, tokens)
    cache = model.cache()

    def run() -> Iterator[Logits]:
        cache.truncate(0)
        yield model.core.forward(prompt, cache, last_only=True)

    return Test("prefill", len(prompt), 0, 1, calls=1, rows=1, run=run)


def decode_test(model: Model, tokens: int, depth: int) -> Test:
    """``tokens`` one by one, after ``depth`` others that are in the cache before the clock runs."""
    history, steps = _ids(model, depth), _ids(model, tokens)
    cache = model.cache()
    if depth:
        model.core.forward(history, cache, last_only=True)
        cache.keep()

    def run() -> Iterator[Logits]:
        cache.truncate(depth)
        for i in range(len(steps)):
            yield model.core.forward(steps[i : i + 1], cache, last_only=True)

    return Test("decode", len(steps), depth, 1, calls=len(steps), rows=1, run=run)


def batch_test(model: Model, count: int, sequences: int) -> Test:
    """``count`` steps of ``sequences`` sequences, one token of each in a call."""
    steps = _ids(model, count, sequences, 1)
    caches: list[KvCache] = [model.cache() for _ in range(sequences)]
    tokens = [list(step) for step in steps]

    def run() -> Iterator[Logits]:
        for cache in caches:
            cache.truncate(0)
        for step in tokens:
            yield model.core.forward_batch(step, caches)

    return Test("batch", count, 0, sequences, calls=count, rows=sequences, run=run)
