"""Cases and tensors of minimax (MiniMax-Text-01) for tiny_checkpoints.py.

Every option of the family is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values

ARCHITECTURES = {"minimax": "MiniMaxForCausalLM"}
FOREIGN_KEYS = {"minimax": ("attention_bias", "mlp_bias")}
LONG = 75  # tokens: two whole chunks of states and a part of one
LINEAR, FULL = "linear_attention", "full_attention"
BLOCK = 16  # tokens that transformers takes together

PLAIN: Values = {
    "model_type": "minimax",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 96,
    "sliding_window": None,
    "block_size": BLOCK,
    "layer_types": [FULL, LINEAR, FULL, LINEAR],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "full_attn_alpha_factor": 1.7,
    "full_attn_beta_factor": 0.8,
    "linear_attn_alpha_factor": 1.3,
    "linear_attn_beta_factor": 0.6,
    "mlp_alpha_factor": 2.2,
    "mlp_beta_factor": 1.4,
}
# Name, what differs from the plain model, dtype, shards, experts fused as in memory, keys left to
# their defaults. Stock mlx-lm has no such model.
CASES: list[tuple[str, Values, str, int, bool, tuple[str, ...]]] = [
    ("minimax", PLAIN, "F32", 0, False, ("layer_types", "rope_parameters", "sliding_window")),
    (
        "minimax-window",
        {
            **PLAIN,
            "head_dim": 64,
            "num_key_value_heads": 5,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "sliding_window": 8,
            "tie_word_embeddings": True,
            "num_hidden_layers": 5,
            "layer_types": [LINEAR, LINEAR, FULL, FULL, LINEAR],
            "rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0},
            "mlp_alpha_factor": 1,
            "linear_attn_beta_factor": -0.9,
        },
        "BF16",
        2,
        True,
        (),
    ),
]


def readable(config: Mapping[str, Any]) -> Values:
    """What else changes with the number of layers."""
    count = config["num_hidden_layers"]
    return {"layer_types": [FULL if layer % 2 == 0 else LINEAR for layer in range(count)]}


def large(config: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides."""
    return {
        "layer_types": [FULL if layer % 2 == 0 else LINEAR for layer in range(16)],
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 1024,
    }


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers do not count."""
    mixers = sum(3 if kind == LINEAR else 4 for kind in values["layer_types"])
    return mixers + 3 * int(values["num_hidden_layers"])


def decays(c: Mapping[str, Any], layer: int) -> Tensors:
    """Tensors that some checkpoints store and that follow from the config."""
    heads = c["num_attention_heads"]
    rate = np.float32(2.0) ** (-8 * np.arange(1, heads + 1, dtype=np.float32) / heads)
    depth = 1 - layer / (c["num_hidden_layers"] - 1 + 1e-5) + 1e-5
    rate = (rate * depth).astype(np.float32)[:, None, None]
    step = np.arange(1, BLOCK + 1, dtype=np.float32)
    between = step[:, None] - step[None, :]
    kept = np.where(between >= 0, -rate[None] * np.maximum(between, 0), -np.inf)
    yield "slope_rate", rate
    yield "query_decay", np.exp(-rate * step[:, None])
    yield "key_decay", np.exp(-rate * (BLOCK - step[:, None]))
    yield "diagonal_decay", np.exp(kept)


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order; decays are stored where experts are not fused."""
    c, fused = case.values, case.fused_experts
    hidden, heads, dim = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    inner = heads * dim

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(size: int = hidden) -> Floats:
        return 1 + draw((size,), 0.2)

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        mixer = f"{prefix}.self_attn"
        yield f"{prefix}.input_layernorm.weight", norm()
        if c["layer_types"][layer] == LINEAR:
            yield f"{mixer}.qkv_proj.weight", matrix(3 * inner, hidden)
            yield f"{mixer}.output_gate.weight", matrix(inner, hidden)
            yield f"{mixer}.norm.weight", norm(inner)
            yield f"{mixer}.out_proj.weight", matrix(hidden, inner)
            for name, values in decays(c, layer) if not fused else ():
                yield f"{mixer}.{name}", values.astype(np.float32)
        else:
            keys = c["num_key_value_heads"] * dim
            for name, out in {"q_proj": inner, "k_proj": keys, "v_proj": keys}.items():
                yield f"{mixer}.{name}.weight", matrix(out, hidden)
            yield f"{mixer}.o_proj.weight", matrix(hidden, inner)
        yield f"{prefix}.post_attention_layernorm.weight", norm()
        count, width = c["num_local_experts"], c["intermediate_size"]
        block = f"{prefix}.{'mlp' if fused else 'block_sparse_moe'}"
        yield f"{block}.gate.weight", matrix(count, hidden)
        parts = [(matrix(width, hidden), matrix(width, hidden)) for _ in range(count)]
        downs = [matrix(hidden, width) for _ in range(count)]
        if fused:
            yield f"{block}.experts.gate_up_proj", np.stack([np.concatenate(p) for p in parts])
            yield f"{block}.experts.down_proj", np.stack(downs)
            continue
        for expert, ((gate, up), down) in enumerate(zip(parts, downs, strict=True)):
            for name, values in (("w1", gate), ("w3", up), ("w2", down)):
                yield f"{block}.experts.{expert}.{name}.weight", values
    yield "model.norm.weight", norm()
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, fused_experts=fused, absent=absent, stock=False)
        for name, values, dtype, shards, fused, absent in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    LONG,
    readable=readable,
    large=large,
)
