"""Cases and tensors of mamba, falcon_mamba, mamba2 and granitemoehybrid for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "mamba": "MambaForCausalLM",
    "falcon_mamba": "FalconMambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
}
LONG = 75  # tokens: two whole chunks of states and a part of one
# Of the plain model's keys, those that a family does not have.
NO_ATTENTION = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "rope_parameters",
)
FOREIGN_KEYS = {
    "mamba": (*NO_ATTENTION, "head_dim"),
    "falcon_mamba": (*NO_ATTENTION, "head_dim"),
    "mamba2": NO_ATTENTION,
    "granitemoehybrid": ("mlp_bias", "head_dim"),
}
UNLIMITED = [0.0, {"__float__": "Infinity"}]  # as transformers 5 writes it

BACKBONE = {
    "layer_norm_epsilon": 1e-5,  # the only one that stock mlx-lm knows for all norms
    "expand": 2,
    "conv_kernel": 4,
    "state_size": 16,
    "use_bias": False,
    "use_conv_bias": True,
    "pad_token_id": 0,
}
MAMBA = {
    "model_type": "mamba",
    **BACKBONE,
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
FALCON = {**MAMBA, "model_type": "falcon_mamba", "mixer_rms_eps": 1e-5}
MAMBA2 = {
    "model_type": "mamba2",
    **BACKBONE,
    "state_size": 32,
    "num_heads": 20,
    "head_dim": 16,
    "n_groups": 1,  # stock norms all groups together
    "time_step_limit": UNLIMITED,
    "chunk_size": 16,
}

RECURRENT, FULL = "linear_attention", "full_attention"
OLD_TYPES = {RECURRENT: "mamba", FULL: "attention"}
GRANITE = {
    "model_type": "granitemoehybrid",
    "pad_token_id": 0,
    "intermediate_size": 32,
    "shared_intermediate_size": 64,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": [RECURRENT, FULL, RECURRENT, RECURRENT],
    "embedding_multiplier": 1.5,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.4,
    "logits_scaling": 3.0,
    "position_embedding_type": "nope",
    "mamba_n_heads": 20,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_chunk_size": 16,
    "time_step_limit": UNLIMITED,
}

# Name, what differs from the plain model, dtype, shards, keys left to their defaults, stock.
CASES: list[tuple[str, Values, str, int, tuple[str, ...], bool]] = [
    ("mamba", MAMBA, "F32", 0, ("tie_word_embeddings", "use_bias"), True),
    (
        "mamba-biases",
        {
            **MAMBA,
            "tie_word_embeddings": False,
            "use_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "expand": 3,
            "state_size": 9,
            "time_step_rank": 32,
        },
        "BF16",
        2,
        (),
        True,
    ),
    ("mamba-eps", {**MAMBA, "layer_norm_epsilon": 3e-3}, "F16", 0, (), False),
    ("falcon-mamba", FALCON, "BF16", 0, (), True),
    (
        "falcon-mamba-untied",
        {
            **FALCON,
            "tie_word_embeddings": False,
            "use_bias": True,
            "mixer_rms_eps": 1e-2,
            "time_step_rank": 7,
            "state_size": 20,
        },
        "F32",
        2,
        (),
        True,
    ),
    ("mamba2", MAMBA2, "F32", 0, ("time_step_limit", "use_conv_bias"), True),
    (
        "mamba2-limits",
        {
            **MAMBA2,
            "tie_word_embeddings": True,
            "use_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "state_size": 48,
            "num_heads": 5,
            "head_dim": 64,
            "time_step_limit": [0.15, 0.6],
        },
        "BF16",
        0,
        (),
        True,
    ),
    (
        "mamba2-groups",
        {**MAMBA2, "n_groups": 4, "layer_norm_epsilon": 3e-3, "num_heads": 40, "head_dim": 8},
        "F16",
        2,
        (),
        False,
    ),
]


CASES += [
    (
        "granitemoehybrid",
        GRANITE,
        "F32",
        0,
        ("position_embedding_type", "time_step_limit"),
        True,
    ),
    (
        "granitemoehybrid-dense",
        {
            **GRANITE,
            "num_local_experts": 0,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "num_key_value_heads": 5,
            "layer_types": [FULL, RECURRENT, RECURRENT, FULL],
            "position_embedding_type": "rope",
            "mamba_d_head": "auto",
            "mamba_n_heads": 5,
            "mamba_d_conv": 3,
            "mamba_conv_bias": False,
            "mamba_proj_bias": True,
            "time_step_limit": [0.15, 0.6],
        },
        "BF16",
        2,
        ("num_key_value_heads",),
        True,
    ),
    ("granitemoehybrid-groups", {**GRANITE, "mamba_n_groups": 4}, "F16", 0, (), False),
]


def old_spelling(values: Values) -> None:
    """Earlier files have other names of layers, and infinity as Python's json writes it."""
    old_rope(values)
    if values.get("time_step_limit") == UNLIMITED:
        values["time_step_limit"] = [0.0, float("inf")]
    if "layer_types" in values:
        values["layer_types"] = [OLD_TYPES[kind] for kind in values["layer_types"]]


def readable(config: Mapping[str, Any]) -> Values:
    """What else changes with the hidden size and the number of layers."""
    hidden = config["hidden_size"]
    if config["model_type"] == "granitemoehybrid":
        types = config["layer_types"][: config["num_hidden_layers"]]
        return {
            "mamba_n_heads": config["mamba_expand"] * hidden // 16,
            "layer_types": types,
            "num_key_value_heads": config["num_attention_heads"],
        }
    if config["model_type"] != "mamba2":
        return {}
    return {"num_heads": config["expand"] * hidden // config["head_dim"]}


def large(config: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides."""
    model_type = config["model_type"]
    if model_type == "granitemoehybrid":
        return {
            "layer_types": [FULL if layer % 8 == 5 else RECURRENT for layer in range(16)],
            "mamba_n_heads": 64,
            "mamba_d_head": 64,
            "mamba_d_state": 128,
            "num_local_experts": 16,
            "num_experts_per_tok": 4,
            "intermediate_size": 512,
            "shared_intermediate_size": 1024,
        }
    values: Values = {"num_hidden_layers": 36}
    if model_type == "mamba2":
        values |= {"num_heads": 64, "head_dim": 64, "state_size": 128}
    return values


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized by groups of 32; a stack of experts is one, routers stay
    as they are."""
    if values["model_type"] == "granitemoehybrid":
        mixers = sum(2 if kind == RECURRENT else 4 for kind in values["layer_types"])
        feed_forward = 5 if values["num_local_experts"] else 3
        return mixers + feed_forward * len(values["layer_types"])
    if values["model_type"] == "mamba2":
        return 2 * int(values["num_hidden_layers"])
    rank = values["time_step_rank"]
    steps = rank != "auto" and rank % 32 == 0
    return (4 if steps else 3) * int(values["num_hidden_layers"])


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c = case.values
    hidden = c["hidden_size"]

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(size: int) -> Floats:
        return 1 + draw((size,), 0.2)

    def uniform(shape: tuple[int, ...], low: float, high: float) -> Floats:
        # Sums of uniform numbers with the mean and the deviation of one from low to high.
        values = (low + high) / 2 + draw(shape, (high - low) / 12**0.5)
        return np.clip(values, low, high).astype(np.float32)

    def linear(name: str, out: int, columns: int, bias: bool) -> Tensors:
        yield f"{name}.weight", matrix(out, columns)
        if bias:
            yield f"{name}.bias", draw((out,), 0.3)

    def convolution(name: str, channels: int, taps: int, bias: bool) -> Tensors:
        yield f"{name}.weight", draw((channels, 1, taps), 0.4)
        if bias:
            yield f"{name}.bias", draw((channels,), 0.3)

    def selective(prefix: str) -> Tensors:
        inner, states, rank = c["expand"] * hidden, c["state_size"], c["time_step_rank"]
        rank = -(-hidden // 16) if rank == "auto" else rank
        yield f"{prefix}.A_log", uniform((inner, states), 0.0, 1.5)
        yield f"{prefix}.D", draw((inner,), 1.0)
        yield from linear(f"{prefix}.in_proj", 2 * inner, hidden, c["use_bias"])
        yield from convolution(f"{prefix}.conv1d", inner, c["conv_kernel"], c["use_conv_bias"])
        yield f"{prefix}.x_proj.weight", matrix(rank + 2 * states, inner)
        yield f"{prefix}.dt_proj.weight", matrix(inner, rank)
        yield f"{prefix}.dt_proj.bias", uniform((inner,), -3.0, 0.0)
        yield from linear(f"{prefix}.out_proj", hidden, inner, c["use_bias"])

    def heads(
        prefix: str, inner: int, count: int, shared: int, taps: int, *, bias: bool, conv_bias: bool
    ) -> Tensors:
        """`shared`: channels of B and C together."""
        channels = inner + shared
        yield f"{prefix}.A_log", uniform((count,), 0.0, 1.5)
        yield f"{prefix}.D", draw((count,), 1.0)
        yield f"{prefix}.dt_bias", uniform((count,), -3.0, 0.0)
        yield from linear(f"{prefix}.in_proj", inner + channels + count, hidden, bias)
        yield from convolution(f"{prefix}.conv1d", channels, taps, conv_bias)
        yield f"{prefix}.norm.weight", norm(inner)
        yield from linear(f"{prefix}.out_proj", hidden, inner, bias)

    def granite_layer(prefix: str, kind: str) -> Tensors:
        yield f"{prefix}.input_layernorm.weight", norm(hidden)
        if kind == RECURRENT:
            yield from heads(
                f"{prefix}.mamba",
                c["mamba_expand"] * hidden,
                c["mamba_n_heads"],
                2 * c["mamba_n_groups"] * c["mamba_d_state"],
                c["mamba_d_conv"],
                bias=c["mamba_proj_bias"],
                conv_bias=c["mamba_conv_bias"],
            )
        else:
            keys = c["num_key_value_heads"] * hidden // c["num_attention_heads"]
            rows = {"q_proj": hidden, "k_proj": keys, "v_proj": keys, "o_proj": hidden}
            for name, out in rows.items():
                yield from linear(f"{prefix}.self_attn.{name}", out, hidden, c["attention_bias"])
        yield f"{prefix}.post_attention_layernorm.weight", norm(hidden)
        count, width, shared = (
            c[key] for key in ("num_local_experts", "intermediate_size", "shared_intermediate_size")
        )
        if count:
            moe = f"{prefix}.block_sparse_moe"
            both = [matrix(2 * width, hidden) for _ in range(count)]
            yield f"{moe}.input_linear.weight", np.stack(both)
            down = [matrix(hidden, width) for _ in range(count)]
            yield f"{moe}.output_linear.weight", np.stack(down)
            yield f"{moe}.router.layer.weight", matrix(count, hidden)
        yield f"{prefix}.shared_mlp.input_linear.weight", matrix(2 * shared, hidden)
        yield f"{prefix}.shared_mlp.output_linear.weight", matrix(hidden, shared)

    granite = c["model_type"] == "granitemoehybrid"
    embedding = "model.embed_tokens" if granite else "backbone.embeddings"
    yield f"{embedding}.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        if granite:
            yield from granite_layer(f"model.layers.{layer}", c["layer_types"][layer])
            continue
        prefix = f"backbone.layers.{layer}"
        yield f"{prefix}.norm.weight", norm(hidden)
        if c["model_type"] == "mamba2":
            yield from heads(
                f"{prefix}.mixer",
                c["expand"] * hidden,
                c["num_heads"],
                2 * c["n_groups"] * c["state_size"],
                c["conv_kernel"],
                bias=c["use_bias"],
                conv_bias=c["use_conv_bias"],
            )
        else:
            yield from selective(f"{prefix}.mixer")
    yield f"{'model.norm' if granite else 'backbone.norm_f'}.weight", norm(hidden)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


FAMILY = Family(
    ARCHITECTURES,
    [
        Case(name, values, dtype, shards, absent=absent, stock=stock)
        for name, values, dtype, shards, absent, stock in CASES
    ],
    tensors,
    matrices,
    FOREIGN_KEYS,
    LONG,
    old_spelling=old_spelling,
    readable=readable,
    large=large,
)
