"""What a tiny checkpoint is, and what a module of one family says about its model types.

A module `tiny_<family>.py` ends in a `FAMILY`; tiny_checkpoints.py lists them and asks no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

LENGTH = 24
VOCABULARY = 331

Floats = npt.NDArray[np.float32]
Draw = Callable[[tuple[int, ...], float], Floats]  # shape, deviation
Values = dict[str, Any]
Tensors = Iterator[tuple[str, Floats]]  # names and values in file order

# The plain model; cases say what differs. Rotary settings are spelled rope_parameters.
BASE: Values = {
    "model_type": "llama",
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


@dataclass(frozen=True)
class Case:
    """One checkpoint: what differs from the plain model, and how it is stored."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)  # beside BASE
    dtype: str = "F32"
    shards: int = 0  # 0: one model.safetensors
    # Dynamic rotary positions turn cached keys differently from a full pass beyond this length;
    # with longrope, earlier logits are those of a short sequence.
    exact_continuation: int = LENGTH
    fused_experts: bool = False  # as transformers 5 holds them, else a tensor for each expert
    absent: tuple[str, ...] = ()  # keys that config.json leaves to the model type's default
    stock: bool = True  # whether stock mlx-lm computes the same from the same directory
    prefix: str = "model."  # before the names of the language model

    @property
    def values(self) -> Values:
        return {**BASE, **self.config}

    @property
    def model_type(self) -> str:
        return str(self.values["model_type"])

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def matrices(self) -> int:
        """Of all layers that may be quantized; a stack of experts is one."""
        return self.family.matrices(self.values)

    @property
    def long(self) -> int:
        """Tokens of a longer sequence that belongs to the case; 0: none."""
        return self.family.long

    @property
    def tied(self) -> bool:
        return bool(self.values["tie_word_embeddings"])


def unchanged(values: Values) -> None:
    """The spelling of a family whose files say what its cases say."""


def old_rope(values: Values) -> None:
    """Rotary settings as transformers 4 wrote them: rope_theta and rope_scaling."""
    rope = dict(values.pop("rope_parameters", {}))
    if not rope:
        return
    values["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        values["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "default":
        values["rope_scaling"] = None
        return
    if rope["rope_type"] != "llama3":
        rope["type"] = rope.pop("rope_type")
    values["rope_scaling"] = rope


def nothing(values: Mapping[str, Any]) -> Values:
    """What else changes with the size of a model where nothing does."""
    return {}


@dataclass(frozen=True)
class Family:
    """The model types whose checkpoints one module makes."""

    architectures: Mapping[str, str]  # model type to the class of transformers
    cases: Sequence[Case]
    tensors: Callable[[Case, Draw], Tensors]  # before rounding to the stored dtype
    matrices: Callable[[Mapping[str, Any]], int]  # of all layers that may be quantized
    # Of the plain model's keys, those that a type does not have.
    foreign_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    long: int = 0  # tokens of a longer sequence to compare, 0 for none
    # From the cases' spelling to config.json's, in place, as transformers 5 and 4 write it.
    new_spelling: Callable[[Values], None] = unchanged
    old_spelling: Callable[[Values], None] = old_rope
    # What else changes in the shape that can read a text, and at a billion weights.
    readable: Callable[[Mapping[str, Any]], Values] = nothing
    large: Callable[[Mapping[str, Any]], Values] = nothing


# By model type; filled by tiny_checkpoints.py.
FAMILIES: dict[str, Family] = {}
