"""One text, read by a reference and models in lock-step: its windows, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jang_tools import _core
from jang_tools.errors import ArgumentError
from jang_tools.evaluation.report import ModelScores, Subject, TextInfo, score_model
from jang_tools.evaluation.texts import (
    DEFAULT_SEQUENCE,
    Text,
    Window,
    encode_start,
    hash_ids,
    make_windows,
    text_prefix,
    tokens_needed,
)
from jang_tools.evaluation.tokenizers import Tokenizers
from jang_tools.model import Model

FEW_WINDOWS = 64
TAIL_TOKENS = 250_000  # below this the 99.9th percentile rests on a handful of positions

Progress = Callable[[str, int, int, str], None]  # stage, done, in all, unit


@dataclass
class TextRun:
    """The windows of a text, and the models that read them; the first is the reference."""

    text: Text
    models: Sequence[Model]
    tokenizers: Tokenizers
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
