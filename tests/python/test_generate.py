"""Generation on the demo model: limits, stops, seeds, continued caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jang_tools import generate, stream_generate
from jang_tools.errors import ArgumentError
from jang_tools.generate import _StopStrings
from jang_tools.model import Model, load
from jang_tools.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def loaded() -> tuple[Model, Tokenizer]:
    return load(DEMO, threads=2)


def test_greedy_follows_the_argmax_of_the_logits(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    ids = list(tokenizer.encode(PROMPT))
    steps = list(stream_generate(model, tokenizer, PROMPT, max_tokens=12))
    for step in steps:
        assert step.token == int(np.argmax(model(ids)[-1]))
        ids.append(step.token)
    assert [s.finish_reason for s in steps] == [None] * 11 + ["length"]
    assert steps[-1].generation_tokens == 12
    assert steps[-1].prompt_tokens == len(tokenizer.encode(PROMPT))


def test_text_is_the_decoded_tokens(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    steps = list(stream_generate(model, tokenizer, PROMPT, max_tokens=60))
    assert "".join(s.text for s in steps) == tokenizer.decode([s.token for s in steps])
    assert generate(model, tokenizer, PROMPT, max_tokens=60) == "".join(s.text for s in steps)


def test_token_prompts_and_text_prompts_agree(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    ids = tokenizer.encode(PROMPT)
    assert generate(model, tokenizer, ids, max_tokens=8) == generate(
        model, tokenizer, PROMPT, max_tokens=8
    )


def test_seeds_repeat_and_differ(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded

    def draw(seed: int) -> str:
        return generate(model, tokenizer, PROMPT, max_tokens=40, temperature=1.0, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_stop_string_ends_before_itself(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    whole = generate(model, tokenizer, PROMPT, max_tokens=60)
    stop = whole[20:24]
    steps = list(stream_generate(model, tokenizer, PROMPT, max_tokens=60, stop=[stop, "\0never"]))
    assert "".join(s.text for s in steps) == whole[: whole.index(stop)]
    assert steps[-1].finish_reason == "stop"


def test_end_token_ends(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    (eos,) = model.core.eos_ids

    class EndsNext(Tokenizer):
        eos_ids = frozenset({int(np.argmax(model(tokenizer.encode(PROMPT))[-1]))})

    ending = EndsNext.__new__(EndsNext)
    ending.__dict__.update(tokenizer.__dict__)
    ending.__dict__.pop("eos_ids", None)
    steps = list(stream_generate(model, ending, PROMPT, max_tokens=50))
    assert len(steps) == 1
    assert steps[0].finish_reason == "stop"
    assert steps[0].text == ""
    assert eos not in {s.token for s in steps}


def test_context_bounds_the_output_and_the_prompt(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    count = len(tokenizer.encode(PROMPT))
    steps = list(stream_generate(model, tokenizer, PROMPT, max_tokens=None, context=count + 5))
    assert len(steps) == 5
    assert steps[-1].finish_reason == "length"
    with pytest.raises(ArgumentError, match=rf"{count} tokens.*{count}"):
        next(stream_generate(model, tokenizer, PROMPT, context=count))


def test_continued_cache_equals_one_sequence(loaded: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = loaded
    ids = list(tokenizer.encode(PROMPT))
    whole = [s.token for s in stream_generate(model, tokenizer, ids, max_tokens=20)]
    cache = model.cache()
    first = [s.token for s in stream_generate(model, tokenizer, ids, max_tokens=10, cache=cache)]
    assert cache.length == len(ids) + 9
    rest = [
        s.token for s in stream_generate(model, tokenizer, first[-1:], max_tokens=10, cache=cache)
    ]
    assert first + rest == whole


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"context": 0}, "context"),
    ],
)
def test_unusable_options_are_named(
    loaded: tuple[Model, Tokenizer], options: dict[str, object], named: str
) -> None:
    model, tokenizer = loaded
    with pytest.raises(ArgumentError, match=named):
        next(stream_generate(model, tokenizer, PROMPT, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [0.5], [2**40], [-1], [4096]])
def test_unusable_tokens_are_refused(loaded: tuple[Model, Tokenizer], tokens: list[object]) -> None:
    model, _ = loaded
    with pytest.raises(ArgumentError):
        model(tokens)  # type: ignore[arg-type]


def test_stop_strings_hold_back_only_what_may_start_one() -> None:
    stops = _StopStrings(["###", "end."])
    assert stops.add("a#") == ("a", False)
    assert stops.add("#b") == ("##b", False)
    assert stops.add("the en") == ("the ", False)
    assert stops.add("d of") == ("end of", False)
    assert stops.add(" the end. More ###") == (" the ", True)
    assert _StopStrings([]).add("anything") == ("anything", False)
    held = _StopStrings(["abc"])
    assert held.add("ab") == ("", False)
    assert held.finish() == "ab"
