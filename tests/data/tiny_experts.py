"""Cases and tensors of qwen2_moe, olmoe, granitemoe, phimoe and minimax_m2 for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "phimoe": "PhimoeForCausalLM",
    "minimax_m2": "MiniMaxM2ForCausalLM",
}
# Of the plain model's keys, those that a family does not have.
FOREIGN_KEYS = {
    "qwen2_moe": ("attention_bias", "mlp_bias"),
    "olmoe": ("mlp_bias", "head_dim"),
    "granitemoe": ("mlp_bias", "head_dim"),
    "phimoe": ("mlp_bias", "head_dim"),
    "minimax_m2": ("attention_bias", "mlp_bias"),
}
# What config.json calls the number of experts.
LOCAL_EXPERTS = ("granitemoe", "phimoe", "minimax_m2")


def rope(theta: float, **more: Any) -> Values:
    return {"rope_type": "default", "rope_theta": theta, **more}


def longrope(original: int) -> Values:
    """Factors that differ from channel to channel, and between short and long."""
    return {
        "rope_type": "longrope",
        "rope_theta": 1e6,
        "short_factor": [1.0 + 0.05 * i for i in range(16)],
        "long_factor": [1.5 + 0.4 * i for i in range(16)],
        "short_mscale": 1.15,
        "long_mscale": 1.3,
        "original_max_position_embeddings": original,
    }


QWEN2_MOE = {
    "model_type": "qwen2_moe",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": False,
    "qkv_bias": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rope_parameters": rope(1e6),
}
OLMOE = {
    "model_type": "olmoe",
    "pad_token_id": 0,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "intermediate_size": 96,
    "norm_topk_prob": False,
    "rms_norm_eps": 1e-6,
    "rope_parameters": rope(20000.0),
}
GRANITEMOE = {
    "model_type": "granitemoe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 96,
    "attention_multiplier": 0.11,
    "embedding_multiplier": 3.5,
    "residual_multiplier": 0.42,
    "logits_scaling": 2.75,
}
PHIMOE = {
    "model_type": "phimoe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 96,
    "sliding_window": None,
    "attention_bias": True,
    "lm_head_bias": True,
    # So wide that the second expert is now and then among those near the first.
    "router_jitter_noise": 0.3,
    "rope_parameters": rope(1e6),
}
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "intermediate_size": 96,
    "head_dim": 64,
    "rope_parameters": rope(5e6, partial_rotary_factor=0.5),
}

# name, what differs from the plain model, dtype, shards, experts fused as in memory, keys that
# config.json leaves out, whether stock mlx-lm computes the same
CASES: list[tuple[str, Values, str, int, bool, tuple[str, ...], bool]] = [
    ("qwen2-moe", QWEN2_MOE, "BF16", 0, False, (), True),
    (
        "qwen2-moe-fused",
        {**QWEN2_MOE, "num_key_value_heads": 5},
        "F16",
        2,
        True,
        (),
        True,
    ),
    # Dense layers 0 and 2 by the step, 3 by its number. Stock has none, always has biases, never a
    # tied head, and does not divide weights by their sum.
    (
        "qwen2-moe-sparse",
        {
            **QWEN2_MOE,
            "norm_topk_prob": True,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "qkv_bias": False,
            "tie_word_embeddings": True,
        },
        "F16",
        0,
        False,
        (),
        False,
    ),
    # Windows in layers 0 and 2 by their numbers, and where a list says so.
    (
        "qwen2-moe-window",
        {
            **QWEN2_MOE,
            "head_dim": 64,
            "norm_topk_prob": True,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 3,
        },
        "F32",
        0,
        False,
        (),
        False,
    ),
    (
        "qwen2-moe-windows-listed",
        {
            **QWEN2_MOE,
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
        "BF16",
        0,
        False,
        (),
        False,
    ),
    ("olmoe", OLMOE, "BF16", 0, False, (), True),
    (
        "olmoe-fused",
        {
            **OLMOE,
            "norm_topk_prob": True,
            "attention_bias": True,
            "num_key_value_heads": 5,
        },
        "F16",
        2,
        True,
        ("num_key_value_heads",),
        True,
    ),
    # A limit that queries, keys and values all meet; stock has none.
    (
        "olmoe-clip",
        {
            **OLMOE,
            "clip_qkv": 0.8,
            "norm_topk_prob": True,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 10000.0,
                "factor": 2.5,
            },
        },
        "F32",
        0,
        False,
        (),
        False,
    ),
    ("granitemoe", {**GRANITEMOE, "attention_bias": True}, "BF16", 0, False, (), True),
    (
        "granitemoe-tied",
        {
            **GRANITEMOE,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 5,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "F32",
        2,
        False,
        ("num_key_value_heads",),
        True,
    ),
    ("granitemoe-fused", GRANITEMOE, "F16", 0, True, (), True),
    ("phimoe", PHIMOE, "BF16", 0, False, (), True),
    (
        "phimoe-plain",
        {
            **PHIMOE,
            "attention_bias": False,
            "lm_head_bias": False,
            "num_key_value_heads": 5,
        },
        "F16",
        0,
        True,
        ("attention_bias", "lm_head_bias"),
        True,
    ),
    # All of the sequence within the original positions: beyond them transformers keeps the short
    # factors. Stock has those of long sequences everywhere, no window, and no tied head.
    (
        "phimoe-longrope",
        {
            **PHIMOE,
            "router_jitter_noise": 0.01,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_parameters": longrope(64),
        },
        "F32",
        2,
        False,
        ("router_jitter_noise",),
        False,
    ),
    ("minimax-m2", MINIMAX_M2, "BF16", 0, False, (), True),
    (
        "minimax-m2-fused",
        {
            **MINIMAX_M2,
            "head_dim": 32,
            "num_key_value_heads": 5,
            "tie_word_embeddings": True,
            "rope_parameters": rope(20000.0, partial_rotary_factor=0.75),
        },
        "F16",
        2,
        True,
        (),
        True,
    ),
]


def name_local_experts(values: Values) -> None:
    if values["model_type"] in LOCAL_EXPERTS:
        values["num_local_experts"] = values.pop("num_experts")


def old_spelling(values: Values) -> None:
    """What the first checkpoints say otherwise."""
    old_rope(values)
    name_local_experts(values)
    if values["model_type"] == "minimax_m2":
        values["rotary_dim"] = int(values.pop("partial_rotary_factor") * values["head_dim"])


def is_sparse(values: Mapping[str, Any], layer: int) -> bool:
    """Whether the feed-forward of a layer is routed."""
    every = values.get("decoder_sparse_step", 1)
    return (layer + 1) % every == 0 and layer not in values.get("mlp_only_layers", [])


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers stay as they are."""
    shared = 3 if values["model_type"] == "qwen2_moe" else 0
    return sum(
        4 + 3 + (shared if is_sparse(values, layer) else 0)
        for layer in range(values["num_hidden_layers"])
    )


def _block(kind: str, fused: bool) -> str:
    """What checkpoints call a routed block; fused ones have its name in memory."""
    if kind == "granitemoe" or (kind in ("phimoe", "minimax_m2") and not fused):
        return "block_sparse_moe"
    return "mlp"


def _router(kind: str, fused: bool) -> str:
    if kind == "granitemoe":
        return "router" if fused else "router.layer"
    return "router" if kind == "phimoe" and fused else "gate"


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c, fused = case.values, case.fused_experts
    kind, hidden = c["model_type"], c["hidden_size"]
    heads, kv_heads, dim = (
        c["num_attention_heads"],
        c["num_key_value_heads"],
        c["head_dim"],
    )

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(path: str, size: int = hidden) -> Tensors:
        yield f"{path}.weight", 1 + draw((size,), 0.2)
        if kind == "phimoe":
            yield f"{path}.bias", draw((size,), 0.3)

    def gated(prefix: str, width: int) -> Tensors:
        yield f"{prefix}.gate_proj.weight", matrix(width, hidden)
        yield f"{prefix}.up_proj.weight", matrix(width, hidden)
        yield f"{prefix}.down_proj.weight", matrix(hidden, width)

    def attention(prefix: str) -> Tensors:
        all_biases = kind not in ("qwen2_moe", "minimax_m2") and c["attention_bias"]
        some = all_biases or c.get("qkv_bias", False)
        rows = {
            "q_proj": heads * dim,
            "k_proj": kv_heads * dim,
            "v_proj": kv_heads * dim,
        }
        for name, out in rows.items():
            yield f"{prefix}.{name}.weight", matrix(out, hidden)
            if some:
                yield f"{prefix}.{name}.bias", draw((out,), 0.3)
        yield f"{prefix}.o_proj.weight", matrix(hidden, heads * dim)
        if all_biases:
            yield f"{prefix}.o_proj.bias", draw((hidden,), 0.3)
        if kind in ("olmoe", "minimax_m2"):
            yield from norm(f"{prefix}.q_norm", heads * dim)
            yield from norm(f"{prefix}.k_norm", kv_heads * dim)

    def routed(layer: str) -> Tensors:
        count = c["num_experts"]
        width = c.get("moe_intermediate_size", c["intermediate_size"])
        mixtral = kind in ("phimoe", "minimax_m2")
        block = f"{layer}.{_block(kind, fused)}"
        router = _router(kind, fused)
        yield f"{block}.{router}.weight", matrix(count, hidden)
        halves = [matrix(2 * width, hidden) for _ in range(count)]
        downs = [matrix(hidden, width) for _ in range(count)]
        if fused:
            yield f"{block}.experts.gate_up_proj", np.stack(halves)
            yield f"{block}.experts.down_proj", np.stack(downs)
        elif kind == "granitemoe":
            yield f"{block}.input_linear.weight", np.stack(halves)
            yield f"{block}.output_linear.weight", np.stack(downs)
        else:
            names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
            for expert, (both, down) in enumerate(zip(halves, downs, strict=True)):
                for name, value in zip(names, (both[:width], both[width:], down), strict=True):
                    yield f"{block}.experts.{expert}.{name}.weight", value
        if kind == "minimax_m2":
            yield f"{block}.e_score_correction_bias", draw((count,), 0.3)
        if kind == "qwen2_moe":
            yield from gated(f"{block}.shared_expert", c["shared_expert_intermediate_size"])
            yield f"{block}.shared_expert_gate.weight", matrix(1, hidden)

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from norm(f"{prefix}.input_layernorm")
        yield from attention(f"{prefix}.self_attn")
        yield from norm(f"{prefix}.post_attention_layernorm")
        if is_sparse(c, layer):
            yield from routed(prefix)
        else:
            yield from gated(f"{prefix}.mlp", c["intermediate_size"])
    yield from norm("model.norm")
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)
    if c.get("lm_head_bias"):
        yield "lm_head.bias", draw((c["vocab_size"],), 0.3)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=stock)
        for name, values, dtype, shards, fused, absent, stock in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    new_spelling=name_local_experts,
    old_spelling=old_spelling,
)
