"""Models ready to run, over the mapped weights of a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from jang_tools import _core
from jang_tools.errors import ArgumentError

if TYPE_CHECKING:
    from jang_tools.tokenizer import Tokenizer

Tokens = Sequence[int] | npt.NDArray[np.integer]
KvCache = _core.KvCache

KvType = Literal["auto", "f32", "f16", "bf16", "q8", "q4"]

PRECISIONS = ("fast", "exact")
KV_TYPES: tuple[KvType, ...] = get_args(KvType)


def as_tokens(tokens: Tokens) -> npt.NDArray[np.int32]:
    """Token ids as a one-dimensional int32 array; raises ArgumentError for anything else."""
    array = np.asarray(tokens)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ArgumentError(
            f"tokens: expected a non-empty list of integers, found {array.dtype} {array.shape}"
        )
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise ArgumentError("tokens: an id does not fit 32 bits")
    return np.ascontiguousarray(array, dtype=np.int32)


class Model:
    """A loaded model. Call it with token ids for float32 logits.

    ``model(tokens)`` starts from an empty cache and returns ``[len(tokens), vocab]``;
    ``model(tokens, cache)`` continues ``cache``, made by :meth:`cache`, and extends it. Not for use
    from several threads at once.
    """

    def __init__(
        self,
        path: Path,
        precision: Literal["fast", "exact"],
        threads: int | None,
        kv_type: KvType = "auto",
        on_widen: Callable[[int], None] | None = None,
    ) -> None:
        self.path = path
        self.precision = precision
        self.core = _core.Model(
            str(path),
            precision=precision,
            threads=threads or 0,
            kv_type=None if kv_type == "auto" else kv_type,
            on_widen=on_widen,
        )

    def __call__(self, tokens: Tokens, cache: KvCache | None = None) -> npt.NDArray[np.float32]:
        return self.core.forward(as_tokens(tokens), self.cache() if cache is None else cache)

    def last_logits(self, tokens: Tokens, cache: KvCache) -> npt.NDArray[np.float32]:
        """Like a call that continues ``cache``, but only the last token's logits, ``[vocab]``."""
        return self.core.forward(as_tokens(tokens), cache, last_only=True)

    def batch_logits(
        self, tokens: Sequence[Tokens], caches: Sequence[KvCache]
    ) -> npt.NDArray[np.float32]:
        """Continues several sequences, each with its own cache, in one pass over the weights.

        Returns the last token's logits of each, ``[len(tokens), vocab]``. Prompts and single tokens
        may be mixed.
        """
        return self.core.forward_batch([as_tokens(row) for row in tokens], list(caches))

    def cache(self, kv_type: KvType = "auto") -> KvCache:
        """An empty key/value cache for one sequence; ``auto``: of the type the model was loaded
        with."""
        return self.core.new_cache(None if kv_type == "auto" else kv_type)

    @property
    def vocabulary(self) -> int:
        return self.core.vocabulary

    @property
    def max_positions(self) -> int:
        """Context length that the configuration states, in tokens."""
        return self.core.max_positions

    @property
    def load_seconds(self) -> float:
        """Time to open, validate and map the directory; tokenizer and imports not counted."""
        return self.core.load_seconds

    def __repr__(self) -> str:
        return f"Model({self.path.name!r}, {self.core.model_type}, {self.core.format})"


def load_model(
    path: str | Path,
    precision: Literal["fast", "exact"] = "fast",
    threads: int | None = None,
    kv_type: KvType = "auto",
    on_widen: Callable[[int], None] | None = None,
) -> Model:
    """The model of a directory or Hub id, without its tokenizer.

    ``exact`` multiplies quantized weights with float32 activations, ``fast`` with activations
    rounded to int8 per group (docs/kernels.md states what that changes). Weights that are not
    quantized are computed alike by both. ``threads`` None: chosen from affinity mask and CPU quota.
    ``kv_type``: how caches keep keys and values, ``auto`` being the model's choice. FP8 weights are
    computed as float32 and widened to it in memory first; ``on_widen`` is called before that with
    the bytes it takes, and not for other models.
    """
    if precision not in PRECISIONS:
        raise ArgumentError(
            f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}"
        )
    if kv_type not in KV_TYPES:
        raise ArgumentError(f"kv_type: expected one of {', '.join(KV_TYPES)}, found {kv_type!r}")
    from jang_tools.hub import resolve_model

    return Model(resolve_model(str(path)), precision, threads, kv_type, on_widen)


def load(
    path: str | Path,
    precision: Literal["fast", "exact"] = "fast",
    threads: int | None = None,
    kv_type: KvType = "auto",
) -> tuple[Model, Tokenizer]:
    """``(model, tokenizer)`` of a JANG v2, MLX or plain Hugging Face directory, or of a Hub id.

    Weights stay in the mapped files; nothing is copied but those of FP8 sources. Raises FormatError
    or UnsupportedError for a directory that cannot be read, naming file and tensor, and
    UnsupportedError if it has no tokenizer.json (see :func:`load_model`).
    """
    from jang_tools.tokenizer import Tokenizer

    model = load_model(path, precision, threads, kv_type)
    return model, Tokenizer.load(model.path)
