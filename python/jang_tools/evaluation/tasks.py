"""Tasks as `evaluate` sees them: opened once, then answered by the reference and each model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from jang_tools.errors import ArgumentError
from jang_tools.evaluation.choice_files import Questions, read_arc, read_mmlu
from jang_tools.evaluation.humaneval import Problems, prompt_style, read_problems, solve_all
from jang_tools.evaluation.multiple_choice import (
    Answers,
    Prompts,
    answer_all,
    arc_prompts,
    choose_items,
    mmlu_prompts,
)
from jang_tools.evaluation.report import TaskPair, TaskResult, TaskScore
from jang_tools.evaluation.statistics import mcnemar, proportion_error

if TYPE_CHECKING:
    from jang_tools.model import Model
    from jang_tools.tokenizer import Tokenizer

TASKS = ("mmlu", "arc", "humaneval")

Advance = Callable[[str, int, int], None]  # model, items done, items in all
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Contestant:
    name: str
    model: Model
    tokenizer: Tokenizer


class Task(ABC):
    """``run`` scores the reference, which comes first, and the models."""

    def __init__(self, name: str, limit: int | None) -> None:
        self.name = name
        self.limit = limit

    @abstractmethod
    def run(
        self,
        contestants: Sequence[Contestant],
        execute: bool,
        written: list[dict[str, Any]],
        advance: Advance,
    ) -> TaskResult:
        """``execute``: programs may be run; ``written`` collects what models wrote."""


def open_task(name: str, path: Path, limit: int | None) -> Task:
    """Reads the files of a task, so that what is wrong with them shows before anything runs."""
    if name == "mmlu":
        return _Choice(name, limit, read_mmlu(path))
    if name == "arc":
        return _Choice(name, limit, read_arc(path))
    return _Programs(name, limit, read_problems(path))


class _Choice(Task):
    def __init__(self, name: str, limit: int | None, questions: Questions) -> None:
        super().__init__(name, limit)
        self.questions = questions

    def run(
        self,
        contestants: Sequence[Contestant],
        execute: bool,
        written: list[dict[str, Any]],
        advance: Advance,
    ) -> TaskResult:
        context = min(one.model.max_positions for one in contestants)
        prompts = self._prompts(contestants[0].tokenizer, context)
        total = len(prompts.items)
        if total == 0:
            raise ArgumentError(f"{self.name}: no question fits {context} tokens", code="argument")
        answers: list[Answers] = []
        for one in contestants:

            def count(done: int, name: str = one.name) -> None:
                advance(name, done, total)

            answers.append(answer_all(one.model, prompts.items, count))
        truth = np.array([prompt.answer for prompt in prompts.items])
        by_bytes = self.name == "arc"
        scores, right = [], [found.plain == truth for found in answers]
        for i, one in enumerate(contestants):
            per_byte = float((answers[i].per_byte == truth).mean()) if by_bytes else None
            flips = float((answers[i].plain != answers[0].plain).mean()) if i else None
            scores.append(_score(one.name, right, i, flips, per_byte))
        return TaskResult(
            task=self.name,
            metric="likelihood of the answer's letter" if not by_bytes else "likelihood of options",
            prompt=prompts.style,
            sha256=self.questions.sha256,
            items=total,
            malformed=self.questions.malformed,
            too_long=prompts.too_long,
            reference=scores[0],
            models=scores[1:],
            pairs=_pairs([one.name for one in contestants[1:]], right[1:]),
        )

    def _prompts(self, tokenizer: Tokenizer, context: int) -> Prompts:
        build = mmlu_prompts if self.name == "mmlu" else arc_prompts
        return build(self.questions, tokenizer, context, self.limit)


class _Programs(Task):
    def __init__(self, name: str, limit: int | None, problems: Problems) -> None:
        super().__init__(name, limit)
        self.problems = problems

    def run(
        self,
        contestants: Sequence[Contestant],
        execute: bool,
        written: list[dict[str, Any]],
        advance: Advance,
    ) -> TaskResult:
        items = choose_items(self.problems.items, self.limit)
        right: list[Right] = []
        isolated = True
        for one in contestants:

            def count(done: int, name: str = one.name) -> None:
                advance(name, done, len(items))

            made, outcomes = solve_all(one.model, one.tokenizer, items, execute, count)
            isolated = isolated and all(found.isolated for found in outcomes if found.passed)
            right.append(np.array([found.passed for found in outcomes], dtype=bool))
            for i, problem in enumerate(items):
                row: dict[str, Any] = {"task_id": problem.task_id, "model": one.name}
                row["completion"] = made[i].removeprefix(problem.prompt)
                if execute:
                    row |= {"passed": outcomes[i].passed, "error": outcomes[i].error}
                written.append(row)
        scores = []
        for i, one in enumerate(contestants):
            if execute:
                flips = float((right[i] != right[0]).mean()) if i else None
                scores.append(_score(one.name, right, i, flips, None))
            else:
                scores.append(TaskScore(one.name, None, None))
        notes = []
        if not execute:
            notes.append("programs were written down and not run: accuracy is not known")
        elif not isolated:
            notes.append("programs ran without a network namespace: this system allows none")
        return TaskResult(
            task=self.name,
            metric="pass@1, greedy" if execute else "nothing: programs were not run",
            prompt=prompt_style(contestants[0].tokenizer),
            sha256=self.problems.sha256,
            items=len(items),
            malformed=self.problems.malformed,
            too_long=0,
            reference=scores[0],
            models=scores[1:],
            pairs=_pairs([one.name for one in contestants[1:]], right[1:]) if execute else [],
            notes=notes,
        )


def _score(
    name: str, right: Sequence[Right], index: int, flips: float | None, per_byte: float | None
) -> TaskScore:
    accuracy = float(right[index].mean())
    p_value = None
    if index:
        p_value = mcnemar(*_only(right[0], right[index]))
    error = proportion_error(accuracy, len(right[index]))
    return TaskScore(name, accuracy, error, per_byte, flips, p_value)


def _only(first: Right, second: Right) -> tuple[int, int]:
    """How many items only the first, and only the second, got right."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def _pairs(names: Sequence[str], right: Sequence[Right]) -> list[TaskPair]:
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        first, second = _only(right[i], right[j])
        pairs.append(TaskPair(names[i], names[j], first, second, mcnemar(first, second)))
    return pairs
