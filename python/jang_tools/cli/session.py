"""One conversation or a row of completions with a loaded model, for `jang run`.

A conversation is rendered anew for each turn; what its ids share with the previous turn stays in
the cache and is not computed again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from jang_tools.errors import ArgumentError
from jang_tools.generate import GenerationResponse, stream_generate
from jang_tools.model import Model
from jang_tools.tokenizer import Tokenizer


class Session:
    """Turns prompts into answers. ``chat``: through the chat template, with memory of the turns."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        chat: bool,
        system: str | None,
        options: Mapping[str, Any],
    ) -> None:
        """``options``: keyword arguments of `stream_generate` but for the cache."""
        self._model = model
        self._tokenizer = tokenizer
        self._chat = chat
        self._options = dict(options)
        self._messages: list[dict[str, str]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})
        self._cache = model.cache()
        self._cached: list[int] = []  # the ids whose keys and values the cache holds

    def answer(self, prompt: str) -> Generator[GenerationResponse, None, None]:
        """The steps of an answer. Stopping the iteration early keeps what was said so far."""
        ids = self._prompt_ids(prompt)
        kept = self._reuse(ids)
        said: list[str] = []
        tokens: list[int] = []
        try:
            for step in stream_generate(
                self._model, self._tokenizer, ids[kept:], cache=self._cache, **self._options
            ):
                said.append(step.text)
                tokens.append(step.token)
                yield step
        finally:
            self._cached = (ids + tokens)[: self._cache.length]
            if self._chat and tokens:
                self._messages.append({"role": "user", "content": prompt})
                self._messages.append({"role": "assistant", "content": "".join(said)})

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self._chat:
            turn = {"role": "user", "content": prompt}
            ids = self._tokenizer.apply_chat_template([*self._messages, turn])
        else:
            ids = self._tokenizer.encode_prompt(prompt)
        if not ids:
            raise ArgumentError("the prompt is empty", code="argument")
        return ids

    def _reuse(self, ids: Sequence[int]) -> int:
        """Cuts the cache to what it shares with ``ids``, less one id that is left to compute."""
        shared = 0
        for old, new in zip(self._cached, ids[:-1], strict=False):
            if old != new:
                break
            shared += 1
        # Recurrent layers may not be able to go back that far; then all is computed again.
        return self._cache.truncate(shared)
