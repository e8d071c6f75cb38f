"""evaluate(): how far models are from a reference, on text and on tasks with answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jang_tools import _core
from jang_tools.errors import ArgumentError, IoError
from jang_tools.evaluation.opened import OpenedModel, open_models
from jang_tools.evaluation.report import (
    Evaluation,
    ModelScores,
    Subject,
    TaskResult,
    TextInfo,
    compare_all,
)
from jang_tools.evaluation.tasks import TASKS, Contestant, Task, open_task
from jang_tools.evaluation.text_run import Progress, TextRun
from jang_tools.evaluation.texts import (
    BUILTIN,
    Text,
    read_text,
)
from jang_tools.evaluation.tokenizers import Tokenizers
from jang_tools.model import PRECISIONS, load_model

__all__ = ["BUILTIN", "TASKS", "Evaluation", "ModelScores", "evaluate"]

SCORES = ("all", "second-half")


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

    A model may also be a GGUF file or a GPTQ directory: its weights are dequantized to float32 in a
    temporary directory (docs/evaluation.md), and its bytes are those of its own files.

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
    with open_models(reference, wanted, progress) as ready:
        return _measure(
            ready,
            content,
            opened,
            sequence=sequence,
            tokens=tokens,
            score=score,
            allow_code_execution=allow_code_execution,
            samples=samples,
            precision=precision,
            threads=threads,
            seed=seed,
            progress=progress,
        )


def _measure(
    models: Sequence[OpenedModel],
    content: Text | None,
    opened: Sequence[Task],
    *,
    sequence: int | None,
    tokens: int | None,
    score: str,
    allow_code_execution: bool,
    samples: str | Path | None,
    precision: Literal["fast", "exact"],
    threads: int | None,
    seed: int,
    progress: Progress | None,
) -> Evaluation:
    """The evaluation of opened models, the reference first, on a text and on opened tasks."""
    paths = [model.directory for model in models]
    subjects = _subjects(models)
    loaded = [load_model(paths[0], "exact", threads, "f32")]
    loaded += [load_model(path, precision, threads) for path in paths[1:]]
    tokenizers = Tokenizers(paths)

    notices = [
        f"{subject.name}: weights from {subject.format.upper()}, dequantized to float32"
        for subject, model in zip(subjects, models, strict=True)
        if model.foreign is not None
    ]
    info: TextInfo | None = None
    scores: list[ModelScores] = []
    if content is not None:
        run = TextRun(content, loaded, tokenizers, sequence, tokens, score, notices)
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


def _subjects(models: Sequence[OpenedModel]) -> list[Subject]:
    """The models with names that tell them apart: the last folder, or more of the path."""
    # A file in a cache is a link to one without a name.
    places = [
        model.path.absolute() if model.path.is_file() else model.path.resolve() for model in models
    ]
    depth = 1
    names = ["/".join(place.parts[-depth:]) for place in places[1:]]
    while len(set(names)) < len(set(places[1:])):
        depth += 1
        names = ["/".join(place.parts[-depth:]) for place in places[1:]]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ArgumentError(f"models: {twice} is given twice", code="argument")
    return [
        model.subject(name) for model, name in zip(models, [places[0].name, *names], strict=True)
    ]


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
