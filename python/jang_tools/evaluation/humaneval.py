"""HumanEval: functions that a model completes greedily, and whether their tests pass."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jang_tools.errors import FormatError, IoError
from jang_tools.evaluation.sandbox import Outcome, run_candidate

if TYPE_CHECKING:
    from jang_tools.model import Model
    from jang_tools.tokenizer import Tokenizer

MAX_TOKENS = 512
# What begins after the function that a base model was asked for.
STOPS = ("\nclass ", "\ndef ", "\n#", "\n@", "\nif ", "\nprint(", "\nimport ", "\nfrom ", "\n```")
_BLOCK = re.compile(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", re.S)


@dataclass(frozen=True)
class Problem:
    task_id: str
    prompt: str
    entry_point: str
    test: str


@dataclass(frozen=True)
class Problems:
    items: list[Problem]
    malformed: int
    sha256: str


def read_problems(path: Path) -> Problems:
    """A JSONL file (perhaps .gz), or a folder with one; rows that cannot be read are counted."""
    if path.is_dir():
        found = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
        if not found:
            raise IoError(f"{path}: holds no .jsonl or .jsonl.gz file", code="io")
        path = found[0]
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except gzip.BadGzipFile as error:
        raise FormatError(f"{path}: {error}") from error
    except (UnicodeDecodeError, EOFError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise IoError(f"{path}: {error.strerror or error}", code="io") from error
    items, malformed = [], 0
    for line in text.splitlines():
        if line.strip():
            problem = _problem(line)
            if problem is None:
                malformed += 1
            else:
                items.append(problem)
    if not items:
        raise FormatError(f"{path}: no problem can be read, {malformed} rows are malformed")
    return Problems(items, malformed, hashlib.sha256(text.encode("utf-8")).hexdigest())


def _problem(line: str) -> Problem | None:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    values: list[Any] = [row.get(key) for key in ("task_id", "prompt", "entry_point", "test")]
    if not all(isinstance(value, str) and value for value in values):
        return None
    task_id, prompt, entry_point, test = values
    return Problem(task_id, prompt, entry_point, test) if entry_point.isidentifier() else None


def prompt_style(tokenizer: Tokenizer) -> str:
    return "completion" if tokenizer.chat_template is None else "chat template"


def complete(model: Model, tokenizer: Tokenizer, problem: Problem) -> str:
    """The program text that stands for the function: prompt and completion, or a block of code."""
    from jang_tools.generate import stream_generate

    prompt: str | list[int]
    stops: tuple[str, ...]
    if tokenizer.chat_template is None:
        prompt, stops = problem.prompt, STOPS
    else:
        question = (
            "Complete this Python function. Reply with the whole function in one code block.\n\n"
            f"```python\n{problem.prompt}\n```"
        )
        prompt, stops = tokenizer.apply_chat_template([{"role": "user", "content": question}]), ()
    steps = stream_generate(model, tokenizer, prompt, max_tokens=MAX_TOKENS, stop=stops)
    text = "".join(step.text for step in steps)
    if tokenizer.chat_template is None:
        return problem.prompt + text
    return extract_code(problem, text)


def extract_code(problem: Problem, answer: str) -> str:
    """The code of a chat's answer; a body alone is put after the prompt."""
    blocks = _BLOCK.findall(answer)
    code = max(blocks, key=len) if blocks else answer
    if re.search(rf"^\s*(async\s+)?def\s+{re.escape(problem.entry_point)}\b", code, re.M):
        # The prompt's imports and helpers come first, as the answer may rely on them.
        head = problem.prompt.rpartition("def ")[0]
        return f"{head}\n{code}"
    return problem.prompt + code


def check(problem: Problem, program: str) -> Outcome:
    """Runs the tests of a problem on a completed program, in a separate process."""
    return run_candidate(f"{program}\n\n{problem.test}\n\ncheck({problem.entry_point})\n")


def solve_all(
    model: Model,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    execute: bool,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[str], list[Outcome]]:
    """Programs and, with ``execute``, their outcomes, in the order of the problems."""
    programs, outcomes = [], []
    for done, problem in enumerate(problems, 1):
        programs.append(complete(model, tokenizer, problem))
        if execute:
            outcomes.append(check(problem, programs[-1]))
        if progress is not None:
            progress(done)
    return programs, outcomes
