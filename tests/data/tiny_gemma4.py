"""Cases and tensors of gemma4's text model for tiny_checkpoints.py.

Every option of the family is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Tensors, Values, unchanged

ARCHITECTURES = {"gemma4_text": "Gemma4ForCausalLM"}
FOREIGN_KEYS = {"gemma4_text": ("mlp_bias", "hidden_act")}
SLIDING, FULL = "sliding_attention", "full_attention"

ROPES: Values = {
    FULL: {"rope_type": "proportional", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
    SLIDING: {"rope_type": "default", "rope_theta": 2e4},
}
PLAIN: Values = {
    "model_type": "gemma4_text",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
    "global_head_dim": 64,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 331,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 20.0,
    "pad_token_id": 0,
    "rope_parameters": ROPES,
}
EXPERTS: Values = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 3,
    "moe_intermediate_size": 32,
}
# Name, what differs from the plain model, dtype, shards, keys left to their defaults, stock.
CASES: list[tuple[str, Values, str, int, tuple[str, ...], bool]] = [
    ("gemma4", PLAIN, "F32", 0, ("tie_word_embeddings",), True),
    # Of four layers only the last sees all positions by default. The roots of the sizes are exact.
    (
        "gemma4-experts",
        {
            **PLAIN,
            **EXPERTS,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
            "final_logit_softcapping": None,
            "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
        },
        "BF16",
        2,
        ("layer_types", "rope_parameters", "final_logit_softcapping"),
        True,
    ),
    # Stock has no biases.
    (
        "gemma4-all",
        {
            **PLAIN,
            **EXPERTS,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "num_global_key_value_heads": 5,
            "attention_k_eq_v": True,
            "head_dim": 64,
            "global_head_dim": 32,
            "num_hidden_layers": 5,
            "num_kv_shared_layers": 3,
            "layer_types": [FULL, SLIDING, SLIDING, FULL, FULL],
            "vocab_size_per_layer_input": 350,
            "rope_parameters": {
                FULL: {
                    "rope_type": "proportional",
                    "rope_theta": 3e4,
                    "partial_rotary_factor": 0.75,
                    "factor": 2.0,
                },
                SLIDING: {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
            },
        },
        "F16",
        0,
        (),
        False,
    ),
]


def full_heads(values: Mapping[str, Any]) -> tuple[int, int]:
    """Size and number of the key heads of full layers."""
    count = values.get("num_global_key_value_heads")
    own = count is not None and values["attention_k_eq_v"]
    return values["global_head_dim"], count if own else values["num_key_value_heads"]


def new_spelling(values: Values) -> None:
    """transformers 5 states what differs layer by layer."""
    size, count = full_heads(values)
    types = values["layer_types"]
    values["per_layer_config"] = {
        str(layer): {"head_dim": size, "num_key_value_heads": count}
        for layer, kind in enumerate(types)
        if kind == FULL
    }
    values.pop("global_head_dim")
    values.pop("num_global_key_value_heads", None)


def readable(values: Mapping[str, Any]) -> Values:
    """What else changes with the vocabulary and the number of layers."""
    return {
        "vocab_size_per_layer_input": values["vocab_size"],
        "num_hidden_layers": 4,
        "num_global_key_value_heads": 1,
    }


def large(values: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides, beside the table of
    the layers' inputs, which is only looked up."""
    layers = values["num_hidden_layers"]
    return {
        "layer_types": [FULL if layer % 4 == 3 else SLIDING for layer in range(layers)],
        "num_kv_shared_layers": layers // 2,
        "use_double_wide_mlp": False,
        "global_head_dim": 128,
        "hidden_size_per_layer_input": 128,
        "vocab_size_per_layer_input": values["vocab_size"],
    }


def shared(values: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer reads keys of an earlier one."""
    return bool(layer >= values["num_hidden_layers"] - values["num_kv_shared_layers"])


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers do not count."""
    total = 0
    for layer in range(values["num_hidden_layers"]):
        full = values["layer_types"][layer] == FULL
        own = 1 if full and values["attention_k_eq_v"] else 2
        total += 2 + (0 if shared(values, layer) else own) + 3
        total += 3 if values["enable_moe_block"] else 0
        total += 2 if values["hidden_size_per_layer_input"] else 0
    return total


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c = case.values
    hidden, heads, size = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    inputs = c["hidden_size_per_layer_input"]

    def linear(path: str, out: int, columns: int, bias: bool = False) -> Tensors:
        yield f"{path}.weight", draw((out, columns), 1.5 / columns**0.5)
        if bias:
            yield f"{path}.bias", draw((out,), 0.3)

    def norm(path: str, channels: int = hidden) -> Tensors:
        yield f"{path}.weight", 1 + draw((channels,), 0.2)

    def attention(prefix: str, layer: int) -> Tensors:
        full = c["layer_types"][layer] == FULL
        dim, keys = full_heads(c) if full else (size, c["num_key_value_heads"])
        bias = c["attention_bias"]
        yield from linear(f"{prefix}.q_proj", heads * dim, hidden, bias)
        yield from norm(f"{prefix}.q_norm", dim)
        yield from linear(f"{prefix}.o_proj", hidden, heads * dim, bias)
        if shared(c, layer):
            return
        yield from linear(f"{prefix}.k_proj", keys * dim, hidden, bias)
        yield from norm(f"{prefix}.k_norm", dim)
        if not (full and c["attention_k_eq_v"]):
            yield from linear(f"{prefix}.v_proj", keys * dim, hidden, bias)

    def routed(prefix: str) -> Tensors:
        count, width = c["num_experts"], c["moe_intermediate_size"]
        yield from linear(f"{prefix}.router.proj", count, hidden)
        yield f"{prefix}.router.scale", 1 + draw((hidden,), 0.2)
        yield f"{prefix}.router.per_expert_scale", 1 + draw((count,), 0.3)
        both = [draw((2 * width, hidden), 1.5 / hidden**0.5) for _ in range(count)]
        yield f"{prefix}.experts.gate_up_proj", np.stack(both)
        down = [draw((hidden, width), 1.5 / width**0.5) for _ in range(count)]
        yield f"{prefix}.experts.down_proj", np.stack(down)
        for name in ("pre_feedforward_layernorm_2", "post_feedforward_layernorm_1"):
            yield from norm(f"{prefix}.{name}")
        yield from norm(f"{prefix}.post_feedforward_layernorm_2")

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    if inputs:
        columns = c["num_hidden_layers"] * inputs
        rows = c["vocab_size_per_layer_input"]
        yield "model.embed_tokens_per_layer.weight", draw((rows, columns), 1.0)
        yield from linear("model.per_layer_model_projection", columns, hidden)
        yield from norm("model.per_layer_projection_norm", inputs)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield from norm(f"{prefix}.input_layernorm")
        yield from attention(f"{prefix}.self_attn", layer)
        yield from norm(f"{prefix}.post_attention_layernorm")
        yield from norm(f"{prefix}.pre_feedforward_layernorm")
        width = c["intermediate_size"] * (2 if shared(c, layer) and c["use_double_wide_mlp"] else 1)
        yield from linear(f"{prefix}.mlp.gate_proj", width, hidden)
        yield from linear(f"{prefix}.mlp.up_proj", width, hidden)
        yield from linear(f"{prefix}.mlp.down_proj", hidden, width)
        if c["enable_moe_block"]:
            yield from routed(prefix)
        yield from norm(f"{prefix}.post_feedforward_layernorm")
        if inputs:
            yield from linear(f"{prefix}.per_layer_input_gate", inputs, hidden)
            yield from linear(f"{prefix}.per_layer_projection", hidden, inputs)
            yield from norm(f"{prefix}.post_per_layer_input_norm")
        scale = 0.75 + draw((1,), 0.14)
        yield f"{prefix}.layer_scalar", np.clip(scale, 0.5, 1.0).astype(np.float32)
    yield from norm("model.norm")
    if not c["tie_word_embeddings"]:
        yield from linear("lm_head", c["vocab_size"], hidden)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, absent=absent, stock=stock)
        for name, values, dtype, shards, absent, stock in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    new_spelling=new_spelling,
    old_spelling=unchanged,
    readable=readable,
    large=large,
)
