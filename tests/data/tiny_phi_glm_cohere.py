"""Cases and tensors of phi, phi3, glm4, cohere and cohere2 for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiny_case import LENGTH, Case, Draw, Family, Tensors, Values, old_rope

ARCHITECTURES = {
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
}
# Of the plain model's keys, those that a family does not have.
FOREIGN_KEYS = {
    "phi": ("rms_norm_eps", "attention_bias", "mlp_bias", "head_dim"),
    "phi3": ("attention_bias", "mlp_bias", "head_dim"),
    "glm4": ("mlp_bias",),
    "cohere": ("rms_norm_eps", "mlp_bias", "head_dim"),
    "cohere2": ("rms_norm_eps", "mlp_bias", "head_dim"),
}


def default_rope(**more: Any) -> Values:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


def longrope(pairs: int, original: int, **more: Any) -> Values:
    """Factors that differ from channel to channel, and between short and long."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.05 * i for i in range(pairs)],
        "long_factor": [1.5 + 0.4 * i for i in range(pairs)],
        "original_max_position_embeddings": original,
        **more,
    }


def phi3_longrope(pairs: int, original: int, **more: Any) -> Values:
    return {
        "original_max_position_embeddings": original,
        "max_position_embeddings": 128,
        "rope_parameters": longrope(pairs, original, **more),
    }


PHI = {
    "model_type": "phi",
    "hidden_act": "gelu_new",
    "layer_norm_eps": 2e-5,
    "qk_layernorm": False,
    "rope_parameters": default_rope(partial_rotary_factor=0.75),
}
PHI3 = {
    "model_type": "phi3",
    "pad_token_id": 0,  # the default is outside of so small a vocabulary
    "sliding_window": None,
    "original_max_position_embeddings": 64,
    "rope_parameters": default_rope(partial_rotary_factor=1.0),
}
GLM4 = {
    "model_type": "glm4",
    "pad_token_id": 0,
    "attention_bias": True,
    "rope_parameters": default_rope(partial_rotary_factor=0.25),
}
COHERE = {
    "model_type": "cohere",
    "layer_norm_eps": 1e-4,
    "logit_scale": 0.25,
    "use_qk_norm": False,
    "tie_word_embeddings": True,
    "rope_parameters": default_rope(),
}
SLIDING, FULL = "sliding_attention", "full_attention"
COHERE2 = {
    **{key: value for key, value in COHERE.items() if key != "use_qk_norm"},
    "model_type": "cohere2",
    "sliding_window": 8,
    "layer_types": [SLIDING, SLIDING, SLIDING, FULL],
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}

# name, what differs from the plain model, dtype, shards
CASES: list[tuple[str, Values, str, int]] = [
    ("llama-yarn", {"rope_parameters": {**YARN, "beta_fast": 4.0, "beta_slow": 0.5}}, "BF16", 0),
    (
        "llama-yarn-scales",
        {"rope_parameters": {**YARN, "truncate": False, "mscale": 0.9, "mscale_all_dim": 0.4}},
        "F32",
        0,
    ),
    ("phi3", PHI3, "BF16", 0),
    (
        "phi3-longrope",  # all of the sequence within the original positions
        {
            **PHI3,
            **phi3_longrope(12, 64, partial_rotary_factor=0.75),
            "num_key_value_heads": 5,
        },
        "F16",
        2,
    ),
    ("phi3-longrope-beyond", {**PHI3, **phi3_longrope(16, 16)}, "F32", 0),
    (
        "phi3-longrope-window",
        {
            **PHI3,
            **phi3_longrope(8, 16, partial_rotary_factor=0.5, attention_factor=1.25),
            "sliding_window": 8,
            "tie_word_embeddings": True,
        },
        "BF16",
        0,
    ),
    ("phi", PHI, "F32", 0),
    (
        "phi-qk-norm",
        {
            **PHI,
            "qk_layernorm": True,
            "num_key_value_heads": 5,
            "rope_parameters": default_rope(partial_rotary_factor=0.25),
        },
        "BF16",
        0,
    ),
    ("phi-erf-tied", {**PHI, "hidden_act": "gelu", "tie_word_embeddings": True}, "F16", 0),
    ("glm4", GLM4, "BF16", 0),
    (
        "glm4-head-dim",
        {
            **GLM4,
            "attention_bias": False,
            "head_dim": 64,
            "num_key_value_heads": 5,
            "rope_parameters": default_rope(partial_rotary_factor=0.75),
        },
        "F16",
        2,
    ),
    ("cohere", {**COHERE, "attention_bias": True}, "BF16", 0),
    ("cohere-qk-norm", {**COHERE, "use_qk_norm": True, "num_key_value_heads": 5}, "F32", 0),
    ("cohere-untied", {**COHERE, "tie_word_embeddings": False}, "F16", 0),
    ("cohere2", COHERE2, "BF16", 0),
    (
        "cohere2-types",
        {
            **COHERE2,
            "layer_types": [SLIDING, FULL, SLIDING, FULL],
            "attention_bias": True,
            "logit_scale": 0.5,
            "sliding_window": 5,
        },
        "F32",
        0,
    ),
    (
        "cohere2-any-order",
        {**COHERE2, "layer_types": [FULL, SLIDING, SLIDING, FULL], "num_key_value_heads": 5},
        "F16",
        0,
    ),
]


def old_spelling(values: Values) -> None:
    """What earlier files said otherwise."""
    old_rope(values)
    if values["model_type"] == "cohere2" and values["layer_types"] == COHERE2["layer_types"]:
        del values["layer_types"]
        values["sliding_window_pattern"] = 4


def exact_continuation(values: Values) -> int:
    """How long the logits of a sequence are those that its beginning has alone."""
    rope = values["rope_parameters"]
    if rope["rope_type"] != "longrope":
        return LENGTH
    return min(LENGTH, int(rope["original_max_position_embeddings"]))


def matrices(values: Mapping[str, Any]) -> int:
    of_a_layer = {"phi": 6, "phi3": 4, "glm4": 6}.get(values["model_type"], 7)
    return of_a_layer * int(values["num_hidden_layers"])


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    values = case.values
    kind, hidden, inner = values["model_type"], values["hidden_size"], values["intermediate_size"]
    heads, kv_heads = values["num_attention_heads"], values["num_key_value_heads"]
    head_dim = values["head_dim"]
    width, kv_width = heads * head_dim, kv_heads * head_dim
    bias = kind == "phi" or (kind != "phi3" and values["attention_bias"])

    def linear(path: str, out: int, columns: int, biased: bool) -> Tensors:
        yield f"{path}.weight", draw((out, columns), 1.5 / columns**0.5)
        if biased:
            yield f"{path}.bias", draw((out,), 0.3)

    def norm(path: str, *shape: int) -> Tensors:
        yield f"{path}.weight", 1 + draw(shape or (hidden,), 0.2)
        if kind == "phi":
            yield f"{path}.bias", draw(shape or (hidden,), 0.3)

    yield "model.embed_tokens.weight", draw((values["vocab_size"], hidden), 1.0)
    for layer in range(values["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        yield from norm(f"{prefix}.input_layernorm")
        if kind == "phi3":
            yield from linear(f"{attention}.qkv_proj", width + 2 * kv_width, hidden, False)
        else:
            yield from linear(f"{attention}.q_proj", width, hidden, bias)
            yield from linear(f"{attention}.k_proj", kv_width, hidden, bias)
            yield from linear(f"{attention}.v_proj", kv_width, hidden, bias)
        output = "dense" if kind == "phi" else "o_proj"
        yield from linear(f"{attention}.{output}", hidden, width, bias and kind != "glm4")
        if values.get("qk_layernorm"):
            yield from norm(f"{attention}.q_layernorm", head_dim)
            yield from norm(f"{attention}.k_layernorm", head_dim)
        if values.get("use_qk_norm"):
            yield from norm(f"{attention}.q_norm", heads, head_dim)
            yield from norm(f"{attention}.k_norm", kv_heads, head_dim)
        if kind == "phi":
            yield from linear(f"{mlp}.fc1", inner, hidden, True)
            yield from linear(f"{mlp}.fc2", hidden, inner, True)
        elif kind in ("phi3", "glm4"):
            yield from linear(f"{mlp}.gate_up_proj", 2 * inner, hidden, False)
            yield from linear(f"{mlp}.down_proj", hidden, inner, False)
        else:
            yield from linear(f"{mlp}.gate_proj", inner, hidden, False)
            yield from linear(f"{mlp}.up_proj", inner, hidden, False)
            yield from linear(f"{mlp}.down_proj", hidden, inner, False)
        if kind in ("phi3", "glm4"):
            yield from norm(f"{prefix}.post_attention_layernorm")
        if kind == "glm4":
            yield from norm(f"{prefix}.post_self_attn_layernorm")
            yield from norm(f"{prefix}.post_mlp_layernorm")
    yield from norm("model.final_layernorm" if kind == "phi" else "model.norm")
    if not values["tie_word_embeddings"]:
        yield "lm_head.weight", draw((values["vocab_size"], hidden), 1.5 / hidden**0.5)
    if kind == "phi":
        yield "lm_head.bias", draw((values["vocab_size"],), 0.3)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, exact_continuation(values))
        for name, values, dtype, shards in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    old_spelling=old_spelling,
)
