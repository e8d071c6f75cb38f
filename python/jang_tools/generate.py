"""Text generation, token by token: prefill, sample, detokenize, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jang_tools import _core
from jang_tools.errors import ArgumentError
from jang_tools.model import KvCache, Model, as_tokens

if TYPE_CHECKING:
    from jang_tools.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class GenerationResponse:
    """One step of :func:`stream_generate`; rates are tokens per second of wall time so far."""

    text: str
    """What this step adds; empty while a character is incomplete or a stop string may begin."""
    token: int
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    finish_reason: FinishReason | None
    """None until the last step; "stop": end token or stop string, "length": budget or context."""


class _StopStrings:
    """Lets text through up to the first stop string, holding back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise ArgumentError("stop: an empty string would stop at once")
        self._stops = tuple(stops)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string was met."""
        held = self._held + text
        ends = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        if ends:
            self._held = ""
            return held[: min(ends)], True
        longest = max((len(stop) for stop in self._stops), default=0)
        keep = 0
        for length in range(min(longest - 1, len(held)), 0, -1):
            if any(stop.startswith(held[-length:]) for stop in self._stops):
                keep = length
                break
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held


def context_limit(model: Model, context: int | None) -> int:
    """Positions a sequence may take: ``context``, or what the model's configuration states."""
    if context is not None and context < 1:
        raise ArgumentError(f"context: expected at least 1, found {context}")
    return model.max_positions if context is None else context


def stream_generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    *,
    max_tokens: int | None = 256,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    cache: KvCache | None = None,
    context: int | None = None,
) -> Iterator[GenerationResponse]:
    """Yields a :class:`GenerationResponse` per token until an end token, a stop string or a limit.

    ``prompt`` is text or token ids. ``max_tokens`` None: until the context is full. ``cache``
    continues an earlier sequence (``prompt`` is then what comes after it) and holds this one at the
    end, but for the last token. Raises ArgumentError if the prompt does not fit the context, naming
    both numbers.
    """
    sampler = _core.Sampler(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    if max_tokens is not None and max_tokens < 1:
        raise ArgumentError(f"max_tokens: expected at least 1, found {max_tokens}")
    stops = _StopStrings(stop)
    ids = as_tokens(tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else list(prompt))
    continued = cache is not None
    cache = model.cache() if cache is None else cache
    limit = context_limit(model, context)
    room = limit - cache.length - len(ids)
    if room < 1:
        raise ArgumentError(
            f"the prompt has {cache.length + len(ids)} tokens,"
            f" the context holds {limit} and one must be left",
            hint="shorten the prompt, or raise --context if the model allows it",
        )
    budget = room if max_tokens is None else min(max_tokens, room)
    eos = frozenset(model.core.eos_ids) | tokenizer.eos_ids
    detokenizer = tokenizer.detokenizer()

    start = time.perf_counter()
    logits = model.last_logits(ids, cache)
    if continued:
        cache.keep()  # a later turn may render this answer otherwise and go back to the prompt
    prefilled = time.perf_counter()
    prompt_tps = len(ids) / max(prefilled - start, 1e-9)
    history = np.empty(len(ids) + budget, dtype=np.int32)
    history[: len(ids)] = ids

    for count in range(1, budget + 1):
        seen = len(ids) + count - 1
        token = sampler.next(logits, history[:seen])
        history[seen] = token
        reason: FinishReason | None = None
        if token in eos:
            text, reason = detokenizer.finish(), "stop"
        else:
            text = detokenizer.add(token)
            if count == budget:
                text, reason = text + detokenizer.finish(), "length"
        text, stopped = stops.add(text)
        if stopped:
            reason = "stop"
        elif reason is not None:
            text += stops.finish()
        yield GenerationResponse(
            text=text,
            token=token,
            prompt_tokens=len(ids),
            prompt_tps=prompt_tps,
            generation_tokens=count,
            generation_tps=count / max(time.perf_counter() - prefilled, 1e-9),
            finish_reason=reason,
        )
        if reason is not None:
            return
        logits = model.last_logits(history[seen : seen + 1], cache)


def generate(
    model: Model, tokenizer: Tokenizer, prompt: str | Sequence[int], **options: Any
) -> str:
    """The text of :func:`stream_generate`, whole; same options."""
    return "".join(step.text for step in stream_generate(model, tokenizer, prompt, **options))
