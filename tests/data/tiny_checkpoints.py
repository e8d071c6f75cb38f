"""Tiny Hugging Face checkpoints, written from a seed with numpy alone: the same bytes everywhere.

The numbers follow one recipe, because default initialisation hides bugs (unit norms, zero biases):
matrices N(0, 1.5^2 / fan_in), norm weights 1 + N(0, 0.2^2), biases N(0, 0.3^2). Logits that
transformers computes for them are in parity/, made by tests/python/parity/make_logits.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_experts as routed
import tiny_gemma4 as gemma4
import tiny_hybrid as hybrid
import tiny_latent as latent
import tiny_lfm2_jamba as mixed
import tiny_minimax as minimax
import tiny_phi_glm_cohere as more
import tiny_state_space as spaces

SEQUENCES = 2
LENGTH = 24
VOCABULARY = 331

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One checkpoint: what differs from the plain model, and how it is stored."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)  # beside BASE; rope as rope_parameters
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
    def model_type(self) -> str:
        return str({**BASE, **self.config}["model_type"])

    @property
    def matrices(self) -> int:
        """Of all layers that may be quantized; a stack of experts is one."""
        values = {**BASE, **self.config}
        if self.model_type in hybrid.ARCHITECTURES:
            return hybrid.matrices(values)
        if self.model_type in spaces.ARCHITECTURES:
            return spaces.matrices(values)
        if self.model_type in routed.ARCHITECTURES:
            return routed.matrices(values)
        if self.model_type in latent.ARCHITECTURES:
            return latent.matrices(values)
        if self.model_type in gemma4.ARCHITECTURES:
            return gemma4.matrices(values)
        if self.model_type in minimax.ARCHITECTURES:
            return minimax.matrices(values)
        if self.model_type in mixed.ARCHITECTURES:
            return mixed.matrices(values)
        return int(values["num_hidden_layers"]) * more.matrices_of_a_layer(self.model_type)

    @property
    def long(self) -> int:
        """Tokens of a longer sequence that belongs to the case; 0: none."""
        if self.model_type in spaces.ARCHITECTURES:
            return spaces.LONG
        if self.model_type in minimax.ARCHITECTURES:
            return minimax.LONG
        if self.model_type in mixed.ARCHITECTURES:
            return mixed.LONG
        return hybrid.LONG if self.model_type in hybrid.ARCHITECTURES else 0

    @property
    def tied(self) -> bool:
        return bool({**BASE, **self.config}["tie_word_embeddings"])


BASE: dict[str, Any] = {
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

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

CASES = [
    Case("llama"),
    Case("llama-mha", {"num_key_value_heads": 5}, dtype="BF16"),
    Case(
        "llama-gqa",
        {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2},
        dtype="BF16",
        shards=3,
    ),
    Case("llama-head-dim", {"head_dim": 64}, dtype="F16"),
    Case("llama-attention-bias", {"attention_bias": True}, dtype="BF16"),
    Case("llama-mlp-bias", {"mlp_bias": True}, dtype="F16"),
    Case("llama-tied", {"tie_word_embeddings": True}, dtype="BF16"),
    Case("llama-theta", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    Case(
        "llama-linear",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}},
    ),
    Case(
        "llama-dynamic",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
        exact_continuation=16,
    ),
    Case("llama-llama3", {"rope_parameters": LLAMA3}, dtype="BF16"),
    Case("mistral", {"model_type": "mistral", "sliding_window": None}, dtype="BF16"),
    Case(
        "mistral-window",
        {"model_type": "mistral", "sliding_window": 8, "num_key_value_heads": 5},
        dtype="F16",
    ),
    Case(
        "mistral-window-head-dim",
        {"model_type": "mistral", "sliding_window": 8, "head_dim": 64},
        dtype="BF16",
        shards=2,
    ),
]
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
MIXTRAL = {
    "model_type": "mixtral",
    "num_experts": 4,  # spelled num_local_experts in both spellings of the file
    "num_experts_per_tok": 2,
    "intermediate_size": 96,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
CASES += [
    Case("qwen3-moe", QWEN3_MOE, dtype="BF16"),
    Case("qwen3-moe-fused", QWEN3_MOE, dtype="BF16", shards=2, fused_experts=True),
    # Dense layers 0 and 2 by the step, 1 by its number; weights are not divided by their sum.
    Case(
        "qwen3-moe-sparse",
        {
            **QWEN3_MOE,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [1],
        },
        dtype="F16",
    ),
    Case(
        "qwen3-moe-window",
        {
            **QWEN3_MOE,
            "use_sliding_window": True,
            "sliding_window": 8,
            "num_experts_per_tok": 8,
            "attention_bias": True,
        },
    ),
    Case("mixtral", MIXTRAL, dtype="BF16"),
    Case("mixtral-fused", MIXTRAL, dtype="F16", fused_experts=True),
    Case("mixtral-window", {**MIXTRAL, "sliding_window": 8, "num_key_value_heads": 5}),
]
CASES += [
    Case(name, values, dtype, shards, more.exact_continuation(values, LENGTH))
    for name, values, dtype, shards in more.CASES
]
CASES += [
    Case(name, values, dtype, shards, fused_experts=fused)
    for name, values, dtype, shards, fused in hybrid.CASES
]
CASES += [
    Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=stock)
    for name, values, dtype, shards, fused, absent, stock in routed.CASES
]
CASES += [
    Case(name, values, dtype, shards, fused_experts=fused, stock=stock)
    for name, values, dtype, shards, fused, stock in latent.CASES
]
CASES += [
    Case(name, values, dtype, shards, absent=absent, stock=stock)
    for name, values, dtype, shards, absent, stock in gemma4.CASES
]
CASES += [
    Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=False)
    for name, values, dtype, shards, fused, absent in minimax.CASES
]
QWEN2 = {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
QWEN3 = {**QWEN2, "model_type": "qwen3", "head_dim": 64}
GRANITE = {
    "model_type": "granite",
    "attention_multiplier": 0.11,
    "embedding_multiplier": 3.5,
    "residual_multiplier": 0.42,
    "logits_scaling": 2.75,
}
OLMO2 = {"model_type": "olmo2", "rms_norm_eps": 1e-6}
SMOLLM3 = {
    "model_type": "smollm3",
    "pad_token_id": 0,  # the default lies outside a small vocabulary
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 2000000.0},
}
GEMMA = {
    "model_type": "gemma",
    "head_dim": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
}
GEMMA2 = {
    **GEMMA,
    "model_type": "gemma2",
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
    "query_pre_attn_scalar": 48,
    "attn_logit_softcapping": 4.0,
    "final_logit_softcapping": 90.0,
}
GEMMA3 = {
    **GEMMA,
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
    "query_pre_attn_scalar": 24,
    "sliding_window_pattern": 3,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 500000.0, "factor": 4.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
}
CASES += [
    Case("qwen2", QWEN2, dtype="BF16"),
    Case(
        "qwen2-window",
        {
            **QWEN2,
            "tie_word_embeddings": True,
            "num_key_value_heads": 5,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 2,
        },
    ),
    Case("qwen3", QWEN3, dtype="BF16"),
    # A list of its own for the windows, and biases, which stock does not have.
    Case(
        "qwen3-window",
        {
            **QWEN3,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 0,
            "layer_types": [
                "full_attention",
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
        },
        dtype="F16",
        stock=False,
    ),
    Case("granite", {**GRANITE, "attention_bias": True, "mlp_bias": True}, dtype="BF16"),
    Case(
        "granite-tied",
        {
            **GRANITE,
            "tie_word_embeddings": True,
            "num_key_value_heads": 5,
            "rope_parameters": LLAMA3,
        },
        absent=("num_key_value_heads",),
    ),
    Case("olmo2", {**OLMO2, "num_key_value_heads": 5}, dtype="BF16"),
    Case(
        "olmo2-gqa",
        {
            **OLMO2,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "hidden_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
        },
        dtype="F16",
        shards=2,
    ),
    Case("smollm3", SMOLLM3, dtype="BF16", absent=("tie_word_embeddings", "rope_parameters")),
    # Stock has these windows too.
    Case(
        "smollm3-local",
        {
            **SMOLLM3,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "no_rope_layers": [1, 0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 8,
        },
    ),
]
CASES += [
    # The legacy name of the activation; stock takes it for the exact one.
    Case("gemma", {**GEMMA, "hidden_act": "gelu"}, absent=("tie_word_embeddings",), stock=False),
    Case("gemma-bf16", {**GEMMA, "num_key_value_heads": 5}, dtype="BF16", stock=False),
    Case("gemma2-window", GEMMA2, absent=("tie_word_embeddings",)),
    Case(
        "gemma2-uncapped",
        {
            **GEMMA2,
            "attention_bias": True,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
        },
        dtype="BF16",
        stock=False,
    ),
    Case("gemma3", GEMMA3, dtype="BF16", absent=("tie_word_embeddings",)),
    # What stock does not know: a head of its own for these norms, a cap, windows by a list.
    Case(
        "gemma3-untied",
        {
            **GEMMA3,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "attn_logit_softcapping": 3.0,  # stands in files, is not used
            "final_logit_softcapping": 9.0,
            "num_key_value_heads": 5,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
        stock=False,
    ),
]
CASES += [
    Case(name, values, dtype=dtype, shards=shards, absent=absent, stock=stock)
    for name, values, dtype, shards, absent, stock in spaces.CASES
]
CASES += [
    Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=stock)
    for name, values, dtype, shards, fused, absent, stock in mixed.CASES
]
BY_NAME = {case.name: case for case in CASES}


def config(case: Case, spelling: str = "new") -> dict[str, Any]:
    """config.json of a case: "new" as transformers 5 writes it, "old" as its predecessors did."""
    values = {**BASE, **case.config}
    torch_dtype = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}[case.dtype]
    names = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "mixtral": "MixtralForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
        **more.ARCHITECTURES,
        **hybrid.ARCHITECTURES,
        **spaces.ARCHITECTURES,
        **routed.ARCHITECTURES,
        **latent.ARCHITECTURES,
        **gemma4.ARCHITECTURES,
        **minimax.ARCHITECTURES,
        **mixed.ARCHITECTURES,
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "granite": "GraniteForCausalLM",
        "olmo2": "Olmo2ForCausalLM",
        "smollm3": "SmolLM3ForCausalLM",
        "gemma": "GemmaForCausalLM",
        "gemma2": "Gemma2ForCausalLM",
        "gemma3_text": "Gemma3ForCausalLM",
    }
    values["architectures"] = [names[case.model_type]]
    if case.model_type in ("mistral", "mixtral", "qwen2"):
        del values["attention_bias"], values["mlp_bias"]
    foreign = {**more.FOREIGN_KEYS, **routed.FOREIGN_KEYS, **latent.FOREIGN_KEYS}
    foreign |= {**gemma4.FOREIGN_KEYS, **minimax.FOREIGN_KEYS}
    foreign |= mixed.FOREIGN_KEYS
    for key in foreign.get(case.model_type, ()):
        del values[key]
    if case.model_type in spaces.ARCHITECTURES:
        for key in spaces.FOREIGN_KEYS[case.model_type]:
            del values[key]
        if spelling == "old":
            spaces.old_spelling(values)
    if case.model_type in hybrid.ARCHITECTURES:
        del values["mlp_bias"]
        if spelling == "new":
            del values["partial_rotary_factor"]
        else:
            values["rope_parameters"] = dict(values["rope_parameters"])
            values["rope_parameters"].pop("partial_rotary_factor")
            hybrid.old_spelling(values)
    if case.model_type in ("gemma2", "gemma3_text"):
        del values["hidden_act"]
    if case.model_type in gemma4.ARCHITECTURES and spelling == "new":
        gemma4.new_spelling(values)
    if spelling == "new" and "sliding_window_pattern" in values:
        every = values.pop("sliding_window_pattern")
        values.setdefault(
            "layer_types",
            [
                "sliding_attention" if (i + 1) % every else "full_attention"
                for i in range(values["num_hidden_layers"])
            ],
        )
    for key in case.absent:
        values.pop(key)
    renamed = spelling == "new" and case.model_type == "qwen3_moe"
    local = case.model_type in ("mixtral", *routed.LOCAL_EXPERTS)
    if local or (renamed and "num_experts" in values):
        values["num_local_experts"] = values.pop("num_experts")
    if spelling == "new":
        values["dtype"] = torch_dtype
        return values
    values["torch_dtype"] = torch_dtype
    if case.model_type in gemma4.ARCHITECTURES:
        return values
    if case.model_type in mixed.ARCHITECTURES:
        mixed.old_spelling(values)
    rope = dict(values.pop("rope_parameters", {}))
    if not rope:
        return values
    if "full_attention" in rope:
        values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        values["rope_theta"] = rope.pop("rope_theta")
        values["rope_scaling"] = rope
        return values
    values["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        values["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    more.old_spelling(values)
    routed.old_spelling(values)
    if rope["rope_type"] == "default":
        values["rope_scaling"] = None
    elif rope["rope_type"] == "llama3":
        values["rope_scaling"] = rope
    else:
        rope["type"] = rope.pop("rope_type")
        values["rope_scaling"] = rope
    return values


class Numbers:
    """Normal-like numbers from integers alone, so that no library's logarithm decides a bit.

    Sums of four uniform 16-bit integers: exact in float64, variance 4 * (2^32 - 1) / 12.
    """

    def __init__(self, seed: str) -> None:
        digest = hashlib.sha256(seed.encode()).digest()
        self.state = np.random.RandomState(np.frombuffer(digest, dtype="<u4"))

    def normal(self, shape: tuple[int, ...], deviation: float) -> Floats:
        raw = self.state.randint(0, 65536, size=(*shape, 4)).sum(axis=-1) - 2 * 65535
        return (raw.astype(np.float64) * (deviation / 37837.22767)).astype(np.float32)


def is_sparse(values: Mapping[str, Any], layer: int) -> bool:
    """Whether the feed-forward of a layer is routed."""
    if "num_experts" not in values:
        return False
    every = values.get("decoder_sparse_step", 1)
    return (layer + 1) % every == 0 and layer not in values.get("mlp_only_layers", [])


def experts(
    case: Case, prefix: str, matrix: Callable[[int, int], Floats]
) -> Iterator[tuple[str, Floats]]:
    """Router and experts of a layer, in the spelling of the case."""
    c = {**BASE, **case.config}
    hidden, count = c["hidden_size"], c["num_experts"]
    width = c.get("moe_intermediate_size", c["intermediate_size"])
    mixtral = case.model_type == "mixtral"
    # Fused tensors are those that transformers 5 holds in memory, under its names there.
    block = f"{prefix}.{'block_sparse_moe' if mixtral and not case.fused_experts else 'mlp'}"
    yield f"{block}.gate.weight", matrix(count, hidden)
    parts = [
        (matrix(width, hidden), matrix(width, hidden), matrix(hidden, width)) for _ in range(count)
    ]
    if case.fused_experts:
        yield f"{block}.experts.gate_up_proj", np.stack([np.concatenate(p[:2]) for p in parts])
        yield f"{block}.experts.down_proj", np.stack([p[2] for p in parts])
        return
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for expert, values in enumerate(parts):
        for name, value in zip(names, values, strict=True):
            yield f"{block}.experts.{expert}.{name}.weight", value


def tensors(case: Case) -> Iterator[tuple[str, Floats]]:
    """Names and values in file order, before rounding to the stored dtype."""
    c = {**BASE, **case.config}
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head_dim, inner = c["head_dim"], c["intermediate_size"]
    numbers = Numbers(case.name)
    if case.model_type in more.ARCHITECTURES:
        yield from more.tensors(c, numbers.normal)
        return
    if case.model_type in hybrid.ARCHITECTURES:
        yield from hybrid.tensors(c, numbers.normal, case.fused_experts)
        return
    if case.model_type in spaces.ARCHITECTURES:
        yield from spaces.tensors(c, numbers.normal)
        return
    if case.model_type in routed.ARCHITECTURES:
        yield from routed.tensors(c, numbers.normal, case.fused_experts)
        return

    if case.model_type in latent.ARCHITECTURES:
        yield from latent.tensors(c, numbers.normal, case.fused_experts)
        return
    if case.model_type in gemma4.ARCHITECTURES:
        yield from gemma4.tensors(c, numbers.normal)
        return
    if case.model_type in minimax.ARCHITECTURES:
        yield from minimax.tensors(c, numbers.normal, case.fused_experts)
        return

    if case.model_type in mixed.ARCHITECTURES:
        yield from mixed.tensors(c, numbers.normal, case.fused_experts)
        return

    def matrix(out: int, columns: int) -> Floats:
        return numbers.normal((out, columns), 1.5 / columns**0.5)

    def norm(size: int = hidden) -> Floats:
        gain = numbers.normal((size,), 0.2)
        return gain if case.model_type.startswith("gemma") else 1 + gain

    yield f"{case.prefix}embed_tokens.weight", numbers.normal((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"{case.prefix}layers.{layer}"
        if case.model_type != "olmo2":
            yield f"{prefix}.input_layernorm.weight", norm()
        qkv_bias = c["attention_bias"] or case.model_type == "qwen2"
        modules = [
            ("self_attn.q_proj", heads * head_dim, hidden, qkv_bias),
            ("self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias),
            ("self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias),
            ("self_attn.o_proj", hidden, heads * head_dim, c["attention_bias"]),
        ]
        if not is_sparse(c, layer):
            modules += [
                ("mlp.gate_proj", inner, hidden, c["mlp_bias"]),
                ("mlp.up_proj", inner, hidden, c["mlp_bias"]),
                ("mlp.down_proj", hidden, inner, c["mlp_bias"]),
            ]
        for name, out, columns, bias in modules:
            yield f"{prefix}.{name}.weight", matrix(out, columns)
            if bias:
                yield f"{prefix}.{name}.bias", numbers.normal((out,), 0.3)
        if case.model_type in ("qwen3_moe", "qwen3", "gemma3_text"):
            yield f"{prefix}.self_attn.q_norm.weight", norm(head_dim)
            yield f"{prefix}.self_attn.k_norm.weight", norm(head_dim)
        if case.model_type == "olmo2":
            yield f"{prefix}.self_attn.q_norm.weight", norm(heads * head_dim)
            yield f"{prefix}.self_attn.k_norm.weight", norm(kv_heads * head_dim)
        if is_sparse(c, layer):
            yield from experts(case, prefix, matrix)
        yield f"{prefix}.post_attention_layernorm.weight", norm()
        if case.model_type in ("gemma2", "gemma3_text"):
            yield f"{prefix}.pre_feedforward_layernorm.weight", norm()
        if case.model_type in ("gemma2", "gemma3_text", "olmo2"):
            yield f"{prefix}.post_feedforward_layernorm.weight", norm()
    yield f"{case.prefix}norm.weight", norm()
    if not case.tied:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


def encode(values: Floats, dtype: str) -> bytes:
    """Little-endian bytes of float32 values rounded to nearest even in F32, F16 or BF16."""
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return rounded.astype("<u2").tobytes()


def write_safetensors(path: Path, entries: list[tuple[str, str, tuple[int, ...], bytes]]) -> None:
    """Writes (name, dtype, shape, payload) in the given order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, payload in entries:
        end = offset + len(payload)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for *_, payload in entries:
            file.write(payload)


def write_checkpoint(case: Case, folder: Path, spelling: str = "new") -> str:
    """Writes the checkpoint of a case to `folder`; returns the SHA-256 of all its payloads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config(case, spelling), indent=2, sort_keys=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    entries = [
        (name, case.dtype, values.shape, encode(values, case.dtype))
        for name, values in tensors(case)
    ]
    if case.shards == 0:
        write_safetensors(folder / "model.safetensors", entries)
    else:
        weight_map = {}
        for shard in range(case.shards):
            name = f"model-{shard + 1:05d}-of-{case.shards:05d}.safetensors"
            part = entries[shard :: case.shards]
            write_safetensors(folder / name, part)
            weight_map.update({entry[0]: name for entry in part})
        total = sum(len(entry[3]) for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    digest = hashlib.sha256()
    for *_, payload in entries:
        digest.update(payload)
    return digest.hexdigest()


def tokens(vocabulary: int = VOCABULARY) -> npt.NDArray[np.int32]:
    """The sequences that every case is run on, [SEQUENCES, LENGTH]."""
    state = np.random.RandomState(20)
    return state.randint(0, vocabulary, size=(SEQUENCES, LENGTH)).astype(np.int32)


def long_tokens(case: Case) -> npt.NDArray[np.int32]:
    """A longer sequence, [1, case.long]."""
    state = np.random.RandomState(21)
    return state.randint(0, VOCABULARY, size=(1, case.long)).astype(np.int32)


# With the tokenizer of the demo model, so that a text can be read; widths that groups divide.
READABLE = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


def write_readable_checkpoint(case: Case, folder: Path, spelling: str = "new", **more: Any) -> None:
    """The case in the shape READABLE, with ``more`` in its config, and a tokenizer."""
    values = {**case.config, **READABLE, **more}
    if case.model_type in spaces.ARCHITECTURES:
        values |= spaces.readable(values, values["hidden_size"])
    if case.model_type in gemma4.ARCHITECTURES:
        values = {**values, **gemma4.readable(values), **more}
    if case.model_type in minimax.ARCHITECTURES:
        values |= minimax.readable(values)
    if case.model_type in mixed.ARCHITECTURES:
        values |= mixed.readable(values, values["hidden_size"])
    write_checkpoint(replace(case, config=values), folder, spelling)
    demo = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo / file, folder / file)
