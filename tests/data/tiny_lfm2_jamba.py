"""Cases and tensors of lfm2, lfm2_moe and jamba for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "lfm2": "Lfm2ForCausalLM",
    "lfm2_moe": "Lfm2MoeForCausalLM",
    "jamba": "JambaForCausalLM",
}
LONG = 75  # tokens: two whole chunks of states and a part of one
# Of the plain model's keys, those that a family does not have.
_LFM2_FOREIGN = ("attention_bias", "mlp_bias", "hidden_act", "rms_norm_eps")
FOREIGN_KEYS = {
    "lfm2": _LFM2_FOREIGN,
    "lfm2_moe": _LFM2_FOREIGN,
    "jamba": ("attention_bias", "mlp_bias", "head_dim", "rope_parameters"),
}
CONV, FULL = "conv", "full_attention"

LFM2 = {
    "model_type": "lfm2",
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "intermediate_size": 336,  # two thirds are 224
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "norm_eps": 3e-4,
    "conv_bias": False,
    "conv_L_cache": 3,
    "layer_types": [CONV, FULL, CONV, CONV],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
LFM2_MOE = {
    **{key: value for key, value in LFM2.items() if not key.startswith("block_")},
    "model_type": "lfm2_moe",
    "intermediate_size": 224,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_dense_layers": 1,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}
JAMBA = {
    "model_type": "jamba",
    "pad_token_id": 0,
    "intermediate_size": 96,
    "num_key_value_heads": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "attn_layer_period": 3,
    "attn_layer_offset": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 10,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "rms_norm_eps": 3e-4,
}

# Name, what differs from the plain model, dtype, shards, experts fused as in memory, keys left to
# their defaults, whether stock mlx-lm computes the same.
CASES: list[tuple[str, Values, str, int, bool, tuple[str, ...], bool]] = [
    ("lfm2", LFM2, "BF16", 0, False, ("tie_word_embeddings", "conv_L_cache", "head_dim"), True),
    (
        "lfm2-biases",
        {
            **LFM2,
            "num_key_value_heads": 5,
            "conv_bias": True,
            "conv_L_cache": 4,
            "block_ffn_dim_multiplier": 1.3,  # 218, and 256 in whole multiples
            "intermediate_size": 252,
            "block_multiple_of": 64,
            "layer_types": [FULL, CONV, FULL, CONV],
            "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        },
        "F32",
        2,
        False,
        (),
        True,
    ),
    # What stock does not have: a head of its own, scaled positions, heads of another size.
    (
        "lfm2-untied",
        {
            **LFM2,
            "tie_word_embeddings": False,
            "intermediate_size": 224,
            "block_auto_adjust_ff_dim": False,
            "head_dim": 64,
            "conv_L_cache": 2,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        },
        "F16",
        0,
        False,
        (),
        False,
    ),
    ("lfm2-moe", LFM2_MOE, "BF16", 0, False, ("tie_word_embeddings", "head_dim"), True),
    (
        "lfm2-moe-fused",
        {
            **LFM2_MOE,
            "num_key_value_heads": 5,
            "num_dense_layers": 2,
            "num_experts": 4,
            "use_expert_bias": False,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.5,
            "conv_bias": True,
            "layer_types": [FULL, CONV, CONV, FULL],
        },
        "F16",
        2,
        True,
        (),
        True,
    ),
    # Stock divides the weights of the chosen experts by their sum.
    (
        "jamba",
        JAMBA,
        "BF16",
        0,
        False,
        ("expert_layer_period", "expert_layer_offset", "mamba_conv_bias"),
        False,
    ),
    # Where all experts are chosen that sum is 1.
    (
        "jamba-fused",
        {
            **JAMBA,
            "num_experts_per_tok": 4,
            "expert_layer_period": 1,
            "expert_layer_offset": 0,
            "attn_layer_period": 2,
            "attn_layer_offset": 0,
            "mamba_dt_rank": 32,
            "mamba_d_state": 9,
            "mamba_expand": 3,
        },
        "F16",
        2,
        True,
        (),
        True,
    ),
    # A single expert is none.
    (
        "jamba-dense",
        {
            **JAMBA,
            "tie_word_embeddings": True,
            "num_key_value_heads": 5,
            "num_experts": 1,
            "attn_layer_period": 4,
            "attn_layer_offset": 1,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "mamba_d_conv": 3,
        },
        "F32",
        0,
        False,
        (),
        True,
    ),
    # Layer 1 alone is routed; stock counts from the other side and takes layer 2.
    (
        "jamba-sparse",
        {**JAMBA, "expert_layer_period": 3, "num_experts_per_tok": 1},
        "F32",
        0,
        False,
        (),
        False,
    ),
]


def old_spelling(values: Values) -> None:
    """What the first checkpoints say otherwise."""
    old_rope(values)
    if values["model_type"] == "jamba":
        if values["mamba_dt_rank"] == -(-values["hidden_size"] // 16):
            values["mamba_dt_rank"] = "auto"
        return
    if "tie_word_embeddings" in values:
        values["tie_embedding"] = values.pop("tie_word_embeddings")
    if values["model_type"] == "lfm2":
        values["block_ff_dim"] = values.pop("intermediate_size")
        values["block_dim"] = values["hidden_size"]
        types = values.pop("layer_types")
        values["full_attn_idxs"] = [i for i, kind in enumerate(types) if kind == FULL]


def readable(config: Mapping[str, Any]) -> Values:
    """What else changes with the hidden size and the number of layers."""
    hidden = config["hidden_size"]
    if config["model_type"] == "jamba":
        return {"mamba_dt_rank": -(-hidden // 16)} if config["mamba_dt_rank"] == 10 else {}
    return {"layer_types": config["layer_types"][: config["num_hidden_layers"]]}


def large(config: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides."""
    model_type = config["model_type"]
    if model_type == "jamba":
        return {
            "num_hidden_layers": 16,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_dt_rank": 128,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "intermediate_size": 1408,
        }
    values: Values = {"layer_types": [FULL if layer % 3 == 2 else CONV for layer in range(16)]}
    if model_type == "lfm2":
        values |= {"intermediate_size": 8448, "block_multiple_of": 256}
    return values


def is_sparse(values: Mapping[str, Any], layer: int) -> bool:
    """Whether the feed-forward of a layer is routed."""
    if values["model_type"] == "jamba":
        every, first = values["expert_layer_period"], values["expert_layer_offset"]
        return bool(values["num_experts"] > 1 and layer % every == first)
    return values["model_type"] == "lfm2_moe" and layer >= values["num_dense_layers"]


def is_attention(values: Mapping[str, Any], layer: int) -> bool:
    if values["model_type"] == "jamba":
        return bool(layer % values["attn_layer_period"] == values["attn_layer_offset"])
    return bool(values["layer_types"][layer] == FULL)


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized by groups of 32; a stack of experts is one, routers stay
    as they are."""
    recurrent = 2
    if values["model_type"] == "jamba":
        recurrent = 4 if values["mamba_dt_rank"] % 32 == 0 else 3
    layers = range(values["num_hidden_layers"])
    return sum(3 + (4 if is_attention(values, layer) else recurrent) for layer in layers)


def dense_width(values: Mapping[str, Any]) -> int:
    """Of a feed-forward that is not routed."""
    width = int(values["intermediate_size"])
    if values["model_type"] != "lfm2" or not values["block_auto_adjust_ff_dim"]:
        return width
    width = int(values["block_ffn_dim_multiplier"] * int(2 * width / 3))
    return -(-width // values["block_multiple_of"]) * int(values["block_multiple_of"])


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c, fused = case.values, case.fused_experts
    kind, hidden = c["model_type"], c["hidden_size"]
    jamba = kind == "jamba"
    heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(path: str, size: int = hidden) -> Tensors:
        yield f"{path}.weight", 1 + draw((size,), 0.2)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Floats:
        # Sums of uniform numbers with the mean and the deviation of one from low to high.
        values = (low + high) / 2 + draw(shape, (high - low) / 12**0.5)
        return np.clip(values, low, high).astype(np.float32)

    def linear(name: str, out: int, columns: int, bias: bool) -> Tensors:
        yield f"{name}.weight", matrix(out, columns)
        if bias:
            yield f"{name}.bias", draw((out,), 0.3)

    def attention(prefix: str) -> Tensors:
        yield f"{prefix}.q_proj.weight", matrix(heads * dim, hidden)
        yield f"{prefix}.k_proj.weight", matrix(kv_heads * dim, hidden)
        yield f"{prefix}.v_proj.weight", matrix(kv_heads * dim, hidden)
        out = "o_proj" if jamba else "out_proj"
        yield f"{prefix}.{out}.weight", matrix(hidden, heads * dim)
        if not jamba:
            yield from norm(f"{prefix}.q_layernorm", dim)
            yield from norm(f"{prefix}.k_layernorm", dim)

    def short(prefix: str) -> Tensors:
        yield f"{prefix}.conv.weight", draw((hidden, 1, c["conv_L_cache"]), 0.4)
        if c["conv_bias"]:
            yield f"{prefix}.conv.bias", draw((hidden,), 0.3)
        yield from linear(f"{prefix}.in_proj", 3 * hidden, hidden, c["conv_bias"])
        yield from linear(f"{prefix}.out_proj", hidden, hidden, c["conv_bias"])

    def selective(prefix: str) -> Tensors:
        inner = c["mamba_expand"] * hidden
        states, rank = c["mamba_d_state"], c["mamba_dt_rank"]
        yield f"{prefix}.A_log", uniform((inner, states), 0.0, 1.5)
        yield f"{prefix}.D", draw((inner,), 1.0)
        yield f"{prefix}.conv1d.weight", draw((inner, 1, c["mamba_d_conv"]), 0.4)
        if c["mamba_conv_bias"]:
            yield f"{prefix}.conv1d.bias", draw((inner,), 0.3)
        yield from linear(f"{prefix}.in_proj", 2 * inner, hidden, c["mamba_proj_bias"])
        yield f"{prefix}.x_proj.weight", matrix(rank + 2 * states, inner)
        yield from norm(f"{prefix}.dt_layernorm", rank)
        yield from norm(f"{prefix}.b_layernorm", states)
        yield from norm(f"{prefix}.c_layernorm", states)
        yield f"{prefix}.dt_proj.weight", matrix(inner, rank)
        yield f"{prefix}.dt_proj.bias", uniform((inner,), -3.0, 0.0)
        yield from linear(f"{prefix}.out_proj", hidden, inner, c["mamba_proj_bias"])

    parts = ("gate_proj", "up_proj", "down_proj") if jamba else ("w1", "w3", "w2")

    def gated(prefix: str, width: int) -> Tensors:
        for name in parts[:2]:
            yield f"{prefix}.{name}.weight", matrix(width, hidden)
        yield f"{prefix}.{parts[2]}.weight", matrix(hidden, width)

    def routed(prefix: str) -> Tensors:
        count = c["num_experts"]
        width = c["intermediate_size"] if jamba else c["moe_intermediate_size"]
        yield f"{prefix}.{'router' if jamba else 'gate'}.weight", matrix(count, hidden)
        halves = [matrix(2 * width, hidden) for _ in range(count)]
        downs = [matrix(hidden, width) for _ in range(count)]
        if fused:
            yield f"{prefix}.experts.gate_up_proj", np.stack(halves)
            yield f"{prefix}.experts.down_proj", np.stack(downs)
        else:
            for expert, (both, down) in enumerate(zip(halves, downs, strict=True)):
                for name, value in zip(parts, (both[:width], both[width:], down), strict=True):
                    yield f"{prefix}.experts.{expert}.{name}.weight", value
        if c.get("use_expert_bias"):
            yield f"{prefix}.expert_bias", draw((count,), 0.3)

    before, between, last = "operator_norm", "ffn_norm", "embedding_norm"
    if jamba:
        before, between, last = "input_layernorm", "pre_ff_layernorm", "final_layernorm"
    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from norm(f"{prefix}.{before}")
        if is_attention(c, layer):
            yield from attention(f"{prefix}.self_attn")
        elif jamba:
            yield from selective(f"{prefix}.mamba")
        else:
            yield from short(f"{prefix}.conv")
        yield from norm(f"{prefix}.{between}")
        if is_sparse(c, layer):
            yield from routed(f"{prefix}.feed_forward")
        else:
            yield from gated(f"{prefix}.feed_forward", dense_width(c))
    yield from norm(f"model.{last}")
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=stock)
        for name, values, dtype, shards, fused, absent, stock in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    LONG,
    old_spelling=old_spelling,
    readable=readable,
    large=large,
)
