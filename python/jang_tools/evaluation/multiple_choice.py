"""MMLU and ARC by the likelihood of options: prompts, scoring, answers of each model.

A question becomes one context and a continuation per option; the model chooses the likeliest.
Which text that is decides by several points, so it is written down in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.evaluation.choice_files import LETTERS, Question, Questions

if TYPE_CHECKING:
    from jang_tools.model import Model
    from jang_tools.tokenizer import Tokenizer

EXAMPLES = 5  # of MMLU for base models, where the files have them

Ids = npt.NDArray[np.int32]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """One question as tokens: ``lengths`` are UTF-8 bytes of the options' texts."""

    context: Ids
    continuations: list[Ids]
    lengths: list[int]
    answer: int


@dataclass(frozen=True)
class Prompts:
    """``too_long``: questions that fit no context even without examples."""

    items: list[Prompt]
    style: str
    too_long: int


@dataclass(frozen=True)
class Answers:
    """Chosen options, one a question: by likelihood, and by likelihood per byte."""

    plain: npt.NDArray[np.int64]
    per_byte: npt.NDArray[np.int64]


def choose_items(items: Sequence[Item], limit: int | None) -> list[Item]:
    """``limit`` items spread evenly over all, so that every subject keeps its share."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]


def mmlu_prompts(
    questions: Questions, tokenizer: Tokenizer, context: int, limit: int | None = None
) -> Prompts:
    """The answer's letter after the question and its lettered options.

    Base models: up to five examples of the subject before it, " A" after "Answer:". Models with a
    chat template: one user turn without examples, "A" as the beginning of the answer.
    """
    chat = tokenizer.chat_template is not None
    shots = 0 if chat else min(EXAMPLES, min(map(len, questions.examples.values()), default=0))
    style = (
        "chat template, no examples, 'A' as the answer"
        if chat
        else f"{shots} examples, ' A' after 'Answer:'"
    )
    prompts, too_long = [], 0
    for item in choose_items(questions.items, limit):
        options = [LETTERS[i] if chat else f" {LETTERS[i]}" for i in range(len(item.options))]
        examples = questions.examples.get(item.subject, [])[:shots]
        found = None
        # A question too long for its examples is asked with fewer of them.
        for count in range(len(examples), -1, -1):
            text = _chat_text(item, tokenizer) if chat else _mmlu_text(item, examples[:count])
            found = _tokenize(tokenizer, text, options, item, context, special=not chat)
            if found is not None:
                break
        if found is None:
            too_long += 1
        else:
            prompts.append(found)
    return Prompts(prompts, style, too_long)


def arc_prompts(
    questions: Questions, tokenizer: Tokenizer, context: int, limit: int | None = None
) -> Prompts:
    """The option's text after "Answer:"; the same for base and chat models."""
    prompts, too_long = [], 0
    for item in choose_items(questions.items, limit):
        text = f"Question: {item.text}\nAnswer:"
        options = [f" {option}" for option in item.options]
        found = _tokenize(tokenizer, text, options, item, context, special=True)
        if found is None:
            too_long += 1
        else:
            prompts.append(found)
    return Prompts(prompts, "no examples, the option's text after 'Answer:'", too_long)


def answer_all(
    model: Model, prompts: Sequence[Prompt], progress: Callable[[int], None] | None = None
) -> Answers:
    """The options that a model chooses; ``progress`` gets the number of questions done."""
    scorer = _core.OptionScorer(model.core)
    plain, per_byte = [], []
    for done, prompt in enumerate(prompts, 1):
        scores = np.array(scorer.score(prompt.context, prompt.continuations))
        plain.append(int(scores.argmax()))
        per_byte.append(int((scores / prompt.lengths).argmax()))
        if progress is not None:
            progress(done)
    return Answers(np.array(plain), np.array(per_byte))


def _mmlu_block(item: Question, answer: str) -> str:
    lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(item.options)]
    return "\n".join([item.text, *lines, f"Answer:{answer}"])


def _mmlu_text(item: Question, examples: Sequence[Question]) -> str:
    about = f" about {item.subject}" if item.subject else ""
    head = f"The following are multiple choice questions (with answers){about}."
    shown = [_mmlu_block(example, f" {LETTERS[example.answer]}") for example in examples]
    return "\n\n".join([head, *shown, _mmlu_block(item, "")])


def _chat_text(item: Question, tokenizer: Tokenizer) -> str:
    lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(item.options)]
    question = "\n".join(
        [item.text, *lines, "", "Answer with the letter of the right option and nothing else."]
    )
    return tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False)


def _tokenize(
    tokenizer: Tokenizer,
    text: str,
    options: Sequence[str],
    item: Question,
    context: int,
    special: bool,
) -> Prompt | None:
    """Context and continuations as ids, or None if the longest does not fit ``context``.

    Each option is tokenized together with the text before it, as a model reads it; the context ends
    where the first of these differ.
    """
    bare = tokenizer.encode(text, add_special_tokens=special)
    wholes = [tokenizer.encode(text + option, add_special_tokens=special) for option in options]
    shared = min(_shared(bare, whole) for whole in wholes)
    # Every continuation has a token, and so has the context.
    shared = min(shared, *(len(whole) - 1 for whole in wholes))
    if shared < 1 or max(map(len, wholes)) > context:
        return None
    return Prompt(
        context=np.array(wholes[0][:shared], dtype=np.int32),
        continuations=[np.array(whole[shared:], dtype=np.int32) for whole in wholes],
        lengths=[max(len(option.strip().encode("utf-8")), 1) for option in options],
        answer=item.answer,
    )


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    for at, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return at
    return min(len(a), len(b))
