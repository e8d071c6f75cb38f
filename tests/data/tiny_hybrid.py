"""Cases and tensors of qwen3_next, qwen3_5 and qwen3_5_moe for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
}
LONG = 75  # tokens: two whole chunks of a delta rule and a part of one
WRAPPED = "model.language_model."  # what multimodal checkpoints have for "model."


def rope(**more: Any) -> Values:
    return {"rope_type": "default", "rope_theta": 10000.0, **more}


DELTA = {
    "rms_norm_eps": 1e-5,
    "full_attention_interval": 4,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "partial_rotary_factor": 0.5,
}
MROPE = {"mrope_section": [3, 3, 2], "mrope_interleaved": True}
QWEN3_5 = {
    "model_type": "qwen3_5_text",
    **DELTA,
    "rope_parameters": rope(rope_theta=1e6, partial_rotary_factor=0.5, **MROPE),
}
EXPERTS = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
}
QWEN3_NEXT = {
    "model_type": "qwen3_next",
    **DELTA,
    **EXPERTS,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "rope_parameters": rope(partial_rotary_factor=0.5),
}
QWEN3_5_MOE = {**QWEN3_5, **EXPERTS, "model_type": "qwen3_5_moe_text"}

# Name, what differs from the plain model, dtype, shards, whether experts are fused.
CASES: list[tuple[str, Values, str, int, bool]] = [
    ("qwen3-5", QWEN3_5, "F32", 0, False),
    (
        "qwen3-5-narrow",
        {
            **QWEN3_5,
            "num_key_value_heads": 5,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "full_attention_interval": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 20,
            "linear_num_value_heads": 8,
            "linear_value_head_dim": 40,
            "linear_conv_kernel_dim": 3,
        },
        "F32",
        2,
        False,
    ),
    ("qwen3-5-bf16", QWEN3_5, "BF16", 2, False),
    ("qwen3-next", QWEN3_NEXT, "F32", 0, False),
    (
        "qwen3-next-sparse",
        {
            **QWEN3_NEXT,
            "norm_topk_prob": False,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [1],
            "full_attention_interval": 3,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "attention_bias": True,
        },
        "F32",
        2,
        False,
    ),
    ("qwen3-5-moe", QWEN3_5_MOE, "F32", 0, True),
]


def new_spelling(values: Values) -> None:
    """The part of a head that turns stands among the rotary settings."""
    del values["partial_rotary_factor"]


def old_spelling(values: Values) -> None:
    """Without what transformers 5 puts into the rotary settings."""
    rope = values["rope_parameters"].items()
    values["rope_parameters"] = {key: value for key, value in rope if key not in MROPE}
    old_rope(values)


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers stay as they are."""
    mixed = 3 if values["model_type"] == "qwen3_next" else 5
    return sum(
        (4 if is_full(values, layer) else mixed) + (6 if is_sparse(values, layer) else 3)
        for layer in range(values["num_hidden_layers"])
    )


def is_full(values: Mapping[str, Any], layer: int) -> bool:
    return (layer + 1) % int(values["full_attention_interval"]) == 0


def is_sparse(values: Mapping[str, Any], layer: int) -> bool:
    if "num_experts" not in values:
        return False
    every = values.get("decoder_sparse_step", 1)
    return (layer + 1) % every == 0 and layer not in values.get("mlp_only_layers", [])


def tensors(case: Case, draw: Draw) -> Tensors:
    c, fused = case.values, case.fused_experts
    """Names and values in file order. Norms are stored as gamma - 1, but for the delta rule's."""
    hidden, inner = c["hidden_size"], c["intermediate_size"]

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(size: int = hidden) -> Floats:
        return draw((size,), 0.2)

    def uniform(size: int, low: float, high: float) -> Floats:
        # Sums of uniform numbers with the mean and the deviation of one from low to high.
        spread = high - low
        values = (low + high) / 2 + draw((size,), spread / 12**0.5)
        return np.clip(values, low, high).astype(np.float32)

    def gated(prefix: str, width: int) -> Tensors:
        yield f"{prefix}.gate_proj.weight", matrix(width, hidden)
        yield f"{prefix}.up_proj.weight", matrix(width, hidden)
        yield f"{prefix}.down_proj.weight", matrix(hidden, width)

    def attention(prefix: str) -> Tensors:
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        rows = {"q_proj": 2 * heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        for name, out in rows.items():
            yield f"{prefix}.{name}.weight", matrix(out, hidden)
            if c["attention_bias"]:
                yield f"{prefix}.{name}.bias", draw((out,), 0.3)
        yield f"{prefix}.o_proj.weight", matrix(hidden, heads * dim)
        if c["attention_bias"]:
            yield f"{prefix}.o_proj.bias", draw((hidden,), 0.3)
        yield f"{prefix}.q_norm.weight", norm(dim)
        yield f"{prefix}.k_norm.weight", norm(dim)

    def delta(prefix: str) -> Tensors:
        heads = c["linear_num_value_heads"]
        keys = c["linear_num_key_heads"] * c["linear_key_head_dim"]
        values = heads * c["linear_value_head_dim"]
        inputs = {
            "in_proj_qkv": 2 * keys + values,
            "in_proj_z": values,
            "in_proj_b": heads,
            "in_proj_a": heads,
        }
        if c["model_type"] == "qwen3_next":
            inputs = {"in_proj_qkvz": 2 * keys + 2 * values, "in_proj_ba": 2 * heads}
        for name, out in inputs.items():
            yield f"{prefix}.{name}.weight", matrix(out, hidden)
        taps = c["linear_conv_kernel_dim"]
        yield f"{prefix}.conv1d.weight", draw((2 * keys + values, 1, taps), 0.4)
        yield f"{prefix}.A_log", uniform(heads, 0.0, 1.5)
        yield f"{prefix}.dt_bias", uniform(heads, -3.0, 0.0)
        yield f"{prefix}.norm.weight", 1 + norm(c["linear_value_head_dim"])
        yield f"{prefix}.out_proj.weight", matrix(hidden, values)

    def routed(prefix: str) -> Tensors:
        count, width = c["num_experts"], c["moe_intermediate_size"]
        yield f"{prefix}.gate.weight", matrix(count, hidden)
        if fused:
            halves = np.stack([matrix(2 * width, hidden) for _ in range(count)])
            yield f"{prefix}.experts.gate_up_proj", halves
            downs = np.stack([matrix(hidden, width) for _ in range(count)])
            yield f"{prefix}.experts.down_proj", downs
        else:
            for expert in range(count):
                yield from gated(f"{prefix}.experts.{expert}", width)
        yield from gated(f"{prefix}.shared_expert", c["shared_expert_intermediate_size"])
        yield f"{prefix}.shared_expert_gate.weight", matrix(1, hidden)

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", norm()
        if is_full(c, layer):
            yield from attention(f"{prefix}.self_attn")
        else:
            yield from delta(f"{prefix}.linear_attn")
        yield f"{prefix}.post_attention_layernorm.weight", norm()
        if is_sparse(c, layer):
            yield from routed(f"{prefix}.mlp")
        else:
            yield from gated(f"{prefix}.mlp", inner)
    yield "model.norm.weight", norm()
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


def wrapped_config(text: Values) -> Values:
    """The text settings of a case as a multimodal checkpoint has them."""
    outer = str(text["model_type"]).removesuffix("_text")
    inner = {k: v for k, v in text.items() if k not in ("architectures", "tie_word_embeddings")}
    return {
        "architectures": [ARCHITECTURES[text["model_type"]].replace("CausalLM", "ConditionalGen")],
        "model_type": outer,
        "text_config": {**inner, "tie_word_embeddings": text["tie_word_embeddings"]},
        "vision_config": {"depth": 2, "hidden_size": 64},
        "image_token_id": 5,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def wrapped_tensors(plain: Tensors) -> Tensors:
    """The same values under the names of a multimodal checkpoint, with a tower and an mtp layer."""
    for name, values in plain:
        yield name.replace("model.", WRAPPED, 1) if name.startswith("model.") else name, values
    for name in (
        "model.visual.patch_embed.proj.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "mtp.layers.0.mlp.gate_proj.weight",
        "mtp.norm.weight",
    ):
        yield name, np.ones((8, 8) if "norm" not in name else (8,), dtype=np.float32)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, fused_experts=fused)
        for name, values, dtype, shards, fused in CASES
    ],
    tensors,
    matrices,
    dict.fromkeys(ARCHITECTURES, ("mlp_bias",)),
    LONG,
    new_spelling=new_spelling,
    old_spelling=old_spelling,
)
