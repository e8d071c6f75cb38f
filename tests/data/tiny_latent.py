"""Cases and tensors of glm4_moe, deepseek_v3 and deepseek_v2 for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Tensors, Values

ARCHITECTURES = {
    "glm4_moe": "Glm4MoeForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
}
# Of the plain model's keys, those that a family does not have.
FOREIGN_KEYS = {
    "glm4_moe": ("mlp_bias",),
    "deepseek_v3": ("mlp_bias", "head_dim"),
    "deepseek_v2": ("head_dim",),
}

EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.75,
}
GROUPS = {"n_group": 4, "topk_group": 2}
NO_GROUPS = {"n_group": 1, "topk_group": 1}
GLM4_MOE = {
    "model_type": "glm4_moe",
    **EXPERTS,
    **NO_GROUPS,
    "norm_topk_prob": True,
    "use_qk_norm": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    },
}
LATENT = {
    "num_key_value_heads": 5,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 0.5,
    "mscale": 0.7,
    "mscale_all_dim": 1.4,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    **LATENT,
    **EXPERTS,
    **GROUPS,
    "q_lora_rank": 64,
    "norm_topk_prob": True,
}
DEEPSEEK_V2 = {
    "model_type": "deepseek_v2",
    **LATENT,
    **EXPERTS,
    "q_lora_rank": None,
    "topk_method": "greedy",
}

# Name, what differs from the plain model, dtype, shards, whether experts are fused, whether stock
# mlx-lm computes the same.
CASES: list[tuple[str, Values, str, int, bool, bool]] = [
    ("glm4-moe", {**GLM4_MOE, "attention_bias": True}, "BF16", 0, False, True),
    (
        "glm4-moe-groups",
        {
            **GLM4_MOE,
            **GROUPS,
            "norm_topk_prob": False,
            "use_qk_norm": True,
            "n_shared_experts": 1,
            "first_k_dense_replace": 2,
            "num_key_value_heads": 5,
            "head_dim": 64,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500000.0,
                "partial_rotary_factor": 0.75,
            },
        },
        "F32",
        2,
        True,
        True,
    ),
    ("deepseek-v3", {**DEEPSEEK_V3, "rope_parameters": YARN}, "F32", 0, False, True),
    (
        "deepseek-v3-full-rank",
        {
            **DEEPSEEK_V3,
            **NO_GROUPS,
            "q_lora_rank": None,
            "norm_topk_prob": False,
            "attention_bias": True,
            "n_shared_experts": 1,
        },
        "BF16",
        2,
        False,
        True,
    ),
    # Stock rotates neighbours whatever the config says, and never ties the head.
    (
        "deepseek-v3-halves",
        {
            **DEEPSEEK_V3,
            "rope_interleave": False,
            "tie_word_embeddings": True,
            "topk_group": 3,
            "v_head_dim": 64,
            "qk_nope_head_dim": 32,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.0},
        },
        "F16",
        0,
        True,
        False,
    ),
    ("deepseek-v2", {**DEEPSEEK_V2, "rope_parameters": YARN}, "BF16", 0, False, True),
    (
        "deepseek-v2-groups",
        {
            **DEEPSEEK_V2,
            **GROUPS,
            "topk_method": "group_limited_greedy",
            "q_lora_rank": 64,
            "attention_bias": True,
            "n_shared_experts": 1,
        },
        "F32",
        2,
        False,
        True,
    ),
    # No stock class has these biases.
    ("deepseek-v2-mlp-bias", {**DEEPSEEK_V2, "mlp_bias": True}, "F16", 0, True, False),
]


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers stay as they are."""
    attention = 4
    if values["model_type"] != "glm4_moe":
        attention = 3 + (values["model_type"] == "deepseek_v3")
        attention += 1 if values["q_lora_rank"] is None else 2
    dense = values["first_k_dense_replace"]
    layers = values["num_hidden_layers"]
    return layers * attention + dense * 3 + (layers - dense) * 6


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c, fused = case.values, case.fused_experts
    hidden = c["hidden_size"]
    kind = c["model_type"]
    mlp_bias = kind == "deepseek_v2" and c["mlp_bias"]

    def linear(path: str, out: int, columns: int, bias: bool) -> Tensors:
        yield f"{path}.weight", draw((out, columns), 1.5 / columns**0.5)
        if bias:
            yield f"{path}.bias", draw((out,), 0.3)

    def norm(path: str, size: int = hidden) -> Tensors:
        yield f"{path}.weight", 1 + draw((size,), 0.2)

    def gated(prefix: str, width: int, bias: bool) -> Tensors:
        yield from linear(f"{prefix}.gate_proj", width, hidden, bias)
        yield from linear(f"{prefix}.up_proj", width, hidden, bias)
        yield from linear(f"{prefix}.down_proj", hidden, width, bias)

    def attention(prefix: str) -> Tensors:
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield from linear(f"{prefix}.{name}_proj", count * dim, hidden, c["attention_bias"])
        yield from linear(f"{prefix}.o_proj", hidden, heads * dim, False)
        if c["use_qk_norm"]:
            yield from norm(f"{prefix}.q_norm", dim)
            yield from norm(f"{prefix}.k_norm", dim)

    def latent(prefix: str) -> Tensors:
        heads, rank, bias = c["num_attention_heads"], c["kv_lora_rank"], c["attention_bias"]
        plain, rotary, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        rows = heads * (plain + rotary)
        if c["q_lora_rank"] is None:
            yield from linear(f"{prefix}.q_proj", rows, hidden, False)
        else:
            yield from linear(f"{prefix}.q_a_proj", c["q_lora_rank"], hidden, bias)
            yield from norm(f"{prefix}.q_a_layernorm", c["q_lora_rank"])
            yield from linear(f"{prefix}.q_b_proj", rows, c["q_lora_rank"], False)
        yield from linear(f"{prefix}.kv_a_proj_with_mqa", rank + rotary, hidden, bias)
        yield from norm(f"{prefix}.kv_a_layernorm", rank)
        yield from linear(f"{prefix}.kv_b_proj", heads * (plain + value), rank, False)
        yield from linear(f"{prefix}.o_proj", hidden, heads * value, bias)

    def routed(prefix: str) -> Tensors:
        count, width = c["n_routed_experts"], c["moe_intermediate_size"]
        yield from linear(f"{prefix}.gate", count, hidden, False)
        if kind != "deepseek_v2":
            # Below 0 where stock mlx-lm is not compared with: it counts closed groups as 0.
            mean = 1.0 if c.get("rope_interleave", True) else -0.5
            yield f"{prefix}.gate.e_score_correction_bias", mean + draw((count,), 0.3)
        if fused:
            halves = [draw((2 * width, hidden), 1.5 / hidden**0.5) for _ in range(count)]
            yield f"{prefix}.experts.gate_up_proj", np.stack(halves)
            downs = [draw((hidden, width), 1.5 / width**0.5) for _ in range(count)]
            yield f"{prefix}.experts.down_proj", np.stack(downs)
        else:
            for expert in range(count):
                yield from gated(f"{prefix}.experts.{expert}", width, False)
        yield from gated(f"{prefix}.shared_experts", c["n_shared_experts"] * width, mlp_bias)

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from norm(f"{prefix}.input_layernorm")
        if kind == "glm4_moe":
            yield from attention(f"{prefix}.self_attn")
        else:
            yield from latent(f"{prefix}.self_attn")
        yield from norm(f"{prefix}.post_attention_layernorm")
        if layer < c["first_k_dense_replace"]:
            yield from gated(f"{prefix}.mlp", c["intermediate_size"], mlp_bias)
        else:
            yield from routed(f"{prefix}.mlp")
    yield from norm("model.norm")
    if not c["tie_word_embeddings"]:
        yield from linear("lm_head", c["vocab_size"], hidden, False)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, fused_experts=fused, stock=stock)
        for name, values, dtype, shards, fused, stock in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
)
