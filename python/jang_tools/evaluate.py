"""evaluate(): how far models are from a reference, on text and on tasks with answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jang_tools import _core
from jang_tools.errors import ArgumentError, IoError
from jang_tools.evaluation.report import (
    Evaluation,
    ModelScores,
    Subject,
    TaskResult,
    TextInfo,
    compare_all,
    score_model,
)
from jang_tools.evaluation.tasks import TASKS, Contestant, Task, open_task
from jang_tools.evaluation.texts import (
    BUILTIN,
    DEFAULT_SEQUENCE,
    Text,
    Window,
    encode_start,
    hash_ids,
    make_windows,
    read_text,
    text_prefix,
    tokens_needed,
)
from jang_tools.hub import resolve_model
from jang_tools.inspect import inspect
from jang_tools.model import PRECISIONS, Model, load_model
from jang_tools.tokenizer import Tokenizer

__all__ = ["BUILTIN", "TASKS", "Evaluation", "ModelScores", "evaluate"]

SCORES = ("all", "second-half")
FEW_WINDOWS = 64
TAIL_TOKENS = 250_000  # below this the 99.9th percentile rests on a handful of positions

# All that a tokenizer is made from.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json", "config.json"),
)

Progress = Callable[[str, int, int, str], None]  # stage, done, in all, unit


def evaluate(
    reference: str | Path,
    models: str | Path | Sequence[str | Path],
    *,
    text: str | Path | None = BUILTIN,
    sequence: int | None = None,
    tokens: int | None = None,
    score: Literal["all", "second-half"] = "all",
    tasks: Mapping[str, str | Path] | None = None,
    task_limit: int | None = None,
    allow_code_execution: bool = False,
    samples: str | Path | None = None,
    precision: Literal["fast", "exact"] = "exact",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Compares models with a reference, all of them directories or Hub ids.

    On ``text`` (a UTF-8 file, "builtin", or None for none) the models run in lock-step over windows
    of ``sequence`` tokens, at most ``tokens`` in all, and every position's distributions over the
    whole vocabulary are compared. The reference always computes in float32 with a float32 cache;
    ``precision`` is that of the models.

    ``tasks`` maps "mmlu", "arc" or "humaneval" to a local file or folder; ``task_limit`` takes that
    many items, evenly spread. HumanEval runs programs that models wrote, so it needs
    ``allow_code_execution``, or ``samples``, a JSONL file to write them to instead.

    Raises ArgumentError for options that make no sense and for models whose tokenizers or
    vocabularies cannot be compared, FormatError or UnsupportedError for a directory or file that
    cannot be read, IoError.
    """
    wanted = [models] if isinstance(models, str | Path) else list(models)
    tasks = dict(tasks or {})
    _check_options(wanted, text, score, precision, sequence, tokens, task_limit, tasks)
    if "humaneval" in tasks and not allow_code_execution and samples is None:
        raise ArgumentError(
            "humaneval runs programs that the models write, which must be allowed",
            code="argument",
            hint="--allow-code-execution runs them in a limited process; --samples FILE only"
            " writes them down",
        )
    opened = [open_task(name, Path(path), task_limit) for name, path in tasks.items()]
    content = None if text is None else read_text(text)

    paths = [resolve_model(str(path)) for path in [reference, *wanted]]
    subjects = _subjects(paths)
    loaded = [load_model(paths[0], "exact", threads, "f32")]
    loaded += [load_model(path, precision, threads) for path in paths[1:]]
    tokenizers = _Tokenizers(paths)

    notices: list[str] = []
    info: TextInfo | None = None
    scores: list[ModelScores] = []
    if content is not None:
        run = _TextRun(content, loaded, tokenizers, sequence, tokens, score, notices)
        info, scores = run.info, run.scores(subjects, progress)
    results = []
    written: list[dict[str, Any]] = []
    if opened:
        tokenizers.check_sizes()
        contestants = [
            Contestant(subject.name, model, tokenizers.of(i))
            for i, (subject, model) in enumerate(zip(subjects, loaded, strict=True))
        ]
        for task in opened:
            results.append(_run_task(task, contestants, allow_code_execution, written, progress))
    if samples is not None:
        _write_samples(Path(samples), written)
    runtime = _core.runtime_info()
    return Evaluation(
        reference=subjects[0],
        precision=precision,
        seed=seed,
        level=next(name for name, state in runtime["levels"].items() if state["active"]),
        version=str(runtime["version"]),
        text=info,
        models=scores,
        pairs=compare_all(scores, seed),
        tasks=results,
        notices=notices,
    )


def _check_options(
    models: Sequence[str | Path],
    text: str | Path | None,
    score: str,
    precision: str,
    sequence: int | None,
    tokens: int | None,
    task_limit: int | None,
    tasks: Mapping[str, object],
) -> None:
    if not models:
        raise ArgumentError("models: expected at least one")
    if text is None and not tasks:
        raise ArgumentError("nothing to evaluate on: no text and no tasks")
    for name, value, known in (("score", score, SCORES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ArgumentError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
    for name, count, least in (
        ("sequence", sequence, 2),
        ("tokens", tokens, 1),
        ("task_limit", task_limit, 1),
    ):
        if count is not None and count < least:
            raise ArgumentError(f"{name}: expected at least {least}, found {count}")
    for name in tasks:
        if name not in TASKS:
            raise ArgumentError(f"tasks: expected one of {', '.join(TASKS)}, found {name!r}")


def _subjects(paths: Sequence[Path]) -> list[Subject]:
    """The directories with names that tell them apart: the last folder, or more of the path."""
    places = [path.resolve() for path in paths]
    depth = 1
    names = ["/".join(place.parts[-depth:]) for place in places[1:]]
    while len(set(names)) < len(set(places[1:])):
        depth += 1
        names = ["/".join(place.parts[-depth:]) for place in places[1:]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"models: {twice} is given twice", code="argument")
    subjects = []
    for path, name in zip(paths, [places[0].name, *names], strict=True):
        found = inspect(path)
        subjects.append(
            Subject(
                path=path,
                name=name,
                format=found.format,
                profile=found.profile,
                method=found.method,
                bytes=found.bytes,
                bits_per_weight=found.bits_per_weight,
            )
        )
    return subjects


class _Tokenizers:
    """One tokenizer a directory, loaded once where the files are the same."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._loaded: dict[tuple[str, ...], Tokenizer] = {}

    def hash(self, index: int) -> str:
        """SHA-256 of tokenizer.json."""
        return _hash_file(self._paths[index] / "tokenizer.json")

    def of(self, index: int) -> Tokenizer:
        """The directory's own, or the reference's where it has none."""
        return self[index if self.hash(index) else 0]

    def check_sizes(self) -> None:
        """Raises ArgumentError for a vocabulary of another size than the reference's."""
        own = self.of(0).vocab_size
        for index, path in enumerate(self._paths):
            if self.of(index).vocab_size != own:
                raise ArgumentError(
                    f"{path}: its tokenizer has {self.of(index).vocab_size} tokens, the"
                    f" reference's {own}: their distributions cannot be compared",
                    code="argument",
                )

    def same_ids(self, first: int, second: int) -> bool:
        """Whether the files that decide about ids are the same; if not, the ids may still be."""
        names = TOKENIZER_FILES[:3]
        one, other = self._paths[first], self._paths[second]
        return all(_hash_file(one / name) == _hash_file(other / name) for name in names)

    def __getitem__(self, index: int) -> Tokenizer:
        path = self._paths[index]
        key = tuple(_hash_file(path / name) for name in TOKENIZER_FILES)
        if key not in self._loaded:
            self._loaded[key] = Tokenizer.load(path)
        return self._loaded[key]


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@dataclass
class _TextRun:
    """The windows of a text, and the models that read them; the first is the reference."""

    text: Text
    models: Sequence[Model]
    tokenizers: _Tokenizers
    sequence: int | None
    tokens: int | None
    score: str
    notices: list[str]

    def __post_init__(self) -> None:
        tokenizer = self.tokenizers[0]
        prefix = text_prefix(tokenizer)
        sequence = self._sequence_length()
        if self.tokens is not None and self.tokens < sequence:
            raise ArgumentError(
                f"tokens: {self.tokens} are fewer than one window of {sequence}",
                code="argument",
                hint="raise --tokens or lower --sequence",
            )
        needed = tokens_needed(sequence, len(prefix), self.tokens)
        ids = encode_start(tokenizer, self.text.content, needed)
        self.windows: list[Window] = make_windows(
            ids, prefix, sequence, self.score == "second-half"
        )
        if not self.windows:
            raise ArgumentError(
                f"{self.text.name}: its {len(ids)} tokens fill no window of {sequence}",
                code="argument",
                hint="use a longer text or a smaller --sequence",
            )
        stride = sequence - len(prefix)
        used = ids[: len(self.windows) * stride + 1]
        self._check_tokenizers(prefix, needed, ids)
        self.vocabulary = self._common_vocabulary(int(used.max()))
        scored = sequence - self.windows[0].first_scored
        self.info = TextInfo(
            name=self.text.name,
            sha256=self.text.sha256,
            tokens=len(self.windows) * scored,
            sequence=sequence,
            windows=len(self.windows),
            score=self.score,
            bos=prefix,
            tokens_sha256=hash_ids(used),
            tokenizer_sha256=self.tokenizers.hash(0),
        )
        if len(self.windows) < FEW_WINDOWS:
            self.notices.append(
                f"{len(self.windows)} windows: standard errors need about {FEW_WINDOWS} to be good"
            )
        if self.info.tokens < TAIL_TOKENS:
            self.notices.append(
                f"{self.info.tokens} tokens: the 99.9 % value needs about {TAIL_TOKENS}"
            )

    def scores(self, subjects: Sequence[Subject], progress: Progress | None) -> list[ModelScores]:
        """Runs all windows; ``subjects`` name the models, the reference first."""
        run = _core.LockStep(
            self.models[0].core,
            [model.core for model in self.models[1:]],
            vocabulary=self.vocabulary,
        )
        total = len(self.windows) * self.info.sequence * len(self.models)
        found: dict[str, list[Any]] = {}
        for index, window in enumerate(self.windows):
            base = total // len(self.windows) * index

            def advance(done: int, _: int, __: str, base: int = base) -> None:
                if progress is not None:
                    progress("evaluating", base + done, total, "tokens")

            values = run.run(window.tokens, window.targets, window.first_scored, progress=advance)
            for name, rows in values.items():
                found.setdefault(name, []).append(rows)
        arrays = {name: np.stack(rows, axis=-2).astype(np.float64) for name, rows in found.items()}
        return [
            score_model(
                subject,
                kl=arrays["kl"][m],
                nll=arrays["nll"][m],
                nll_reference=arrays["nll_reference"],
                squared_error=arrays["squared_error"][m],
                same_top=arrays["same_top"][m],
            )
            for m, subject in enumerate(subjects[1:])
        ]

    def _sequence_length(self) -> int:
        limit = min(model.max_positions for model in self.models)
        if self.sequence is None:
            return min(DEFAULT_SEQUENCE, limit)
        if self.sequence > limit:
            shortest = min(self.models, key=lambda model: model.max_positions)
            raise ArgumentError(
                f"sequence: {self.sequence} exceeds the context of {limit} tokens of"
                f" {shortest.path.name}",
                code="argument",
            )
        return self.sequence

    def _check_tokenizers(self, prefix: list[int], needed: int | None, ids: Any) -> None:
        """The same text must be the same ids to all."""
        self.tokenizers.check_sizes()
        for index in range(1, len(self.models)):
            path = self.models[index].path
            if not self.tokenizers.hash(index):
                self.notices.append(f"{path.name}: has no tokenizer.json; read as the reference's")
                continue
            if self.tokenizers.same_ids(0, index):
                continue
            other = self.tokenizers[index]
            same = text_prefix(other) == prefix and np.array_equal(
                encode_start(other, self.text.content, needed), ids
            )
            if not same:
                raise ArgumentError(
                    f"{path}: its tokenizer makes other tokens of the text than the reference's:"
                    " their distributions cannot be compared",
                    code="argument",
                )

    def _common_vocabulary(self, largest: int) -> int:
        """0 for whole rows; where padding differs, the rows that all models have."""
        sizes = {model.vocabulary for model in self.models}
        if len(sizes) == 1:
            return 0
        common = min(sizes)
        used = max(self.tokenizers[0].vocab_size, largest + 1)
        if common < used:
            smallest = min(self.models, key=lambda model: model.vocabulary)
            raise ArgumentError(
                f"{smallest.path}: its vocabulary of {common} does not hold the {used} tokens of"
                " the tokenizer",
                code="argument",
            )
        self.notices.append(
            f"vocabularies are padded differently, to {' and '.join(map(str, sorted(sizes)))}:"
            f" the first {common} entries are compared"
        )
        return common


def _run_task(
    task: Task,
    contestants: Sequence[Contestant],
    execute: bool,
    written: list[dict[str, Any]],
    progress: Progress | None,
) -> TaskResult:
    def advance(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{task.name}, {name}", done, total, "items")

    return task.run(contestants, execute, written, advance)


def _write_samples(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
