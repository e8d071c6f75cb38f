"""Cases and tensors of llama, of the families that differ from it by a few tensors, and of mixtral
and qwen3_moe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "granite": "GraniteForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
FOREIGN_KEYS = {
    "mistral": ("attention_bias", "mlp_bias"),
    "mixtral": ("attention_bias", "mlp_bias"),
    "qwen2": ("attention_bias", "mlp_bias"),
    "gemma2": ("hidden_act",),
    "gemma3_text": ("hidden_act",),
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


def new_spelling(values: Values) -> None:
    """Kinds of layers one by one, and the number of experts under another name."""
    if "sliding_window_pattern" in values:
        every = values.pop("sliding_window_pattern")
        values.setdefault(
            "layer_types",
            [
                "sliding_attention" if (i + 1) % every else "full_attention"
                for i in range(values["num_hidden_layers"])
            ],
        )
    if "num_experts" in values:
        values["num_local_experts"] = values.pop("num_experts")


def old_spelling(values: Values) -> None:
    """What earlier files said otherwise."""
    if values["model_type"] == "mixtral":
        values["num_local_experts"] = values.pop("num_experts")
    if values["model_type"] != "gemma3_text":
        old_rope(values)
        return
    rope = values.pop("rope_parameters")
    values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    values["rope_theta"] = rope["full_attention"]["rope_theta"]
    values["rope_scaling"] = {k: v for k, v in rope["full_attention"].items() if k != "rope_theta"}


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers; a stack of experts is one, routers do not count."""
    return 7 * int(values["num_hidden_layers"])


def is_sparse(values: Mapping[str, Any], layer: int) -> bool:
    """Whether the feed-forward of a layer is routed."""
    if "num_experts" not in values:
        return False
    every = values.get("decoder_sparse_step", 1)
    return (layer + 1) % every == 0 and layer not in values.get("mlp_only_layers", [])


def experts(case: Case, prefix: str, matrix: Callable[[int, int], Floats]) -> Tensors:
    """Router and experts of a layer, in the spelling of the case."""
    c = case.values
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


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c = case.values
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head_dim, inner = c["head_dim"], c["intermediate_size"]

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(size: int = hidden) -> Floats:
        gain = draw((size,), 0.2)
        return gain if case.model_type.startswith("gemma") else 1 + gain

    yield f"{case.prefix}embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
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
                yield f"{prefix}.{name}.bias", draw((out,), 0.3)
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


FAMILY = Family(
    ARCHITECTURES,
    CASES,
    tensors,
    matrices,
    FOREIGN_KEYS,
    new_spelling=new_spelling,
    old_spelling=old_spelling,
)
