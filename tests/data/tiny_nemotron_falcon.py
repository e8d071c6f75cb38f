"""Cases and tensors of nemotron_h and falcon_h1 for tiny_checkpoints.py.

Every option of these families is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {
    "nemotron_h": "NemotronHForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
}
LONG = 75  # tokens: two whole chunks of states and a part of one
# Of the plain model's keys, those that a family does not have.
FOREIGN_KEYS = {
    "nemotron_h": ("rms_norm_eps", "hidden_act", "rope_parameters"),
    "falcon_h1": ("head_dim",),
}
UNLIMITED = [0.0, {"__float__": "Infinity"}]  # as transformers 5 writes it
STATES, FULL, DENSE, ROUTED = "linear_attention", "full_attention", "mlp", "moe"
LETTERS = {STATES: "M", FULL: "*", DENSE: "-", ROUTED: "E"}

NEMOTRON = {
    "model_type": "nemotron_h",
    "pad_token_id": 0,
    "layers_block_type": [STATES, FULL, DENSE, ROUTED],
    "layer_norm_epsilon": 3e-4,
    "mlp_hidden_act": "relu2",
    "mamba_num_heads": 12,
    "mamba_head_dim": 16,
    "n_groups": 3,
    "ssm_state_size": 32,
    "conv_kernel": 4,
    "expand": 2,
    "chunk_size": 16,
    "time_step_min": 0.001,
    "use_bias": False,
    "use_conv_bias": True,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 96,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
FALCON = {
    "model_type": "falcon_h1",
    "pad_token_id": 0,
    "mamba_d_ssm": 288,
    "mamba_n_heads": 18,
    "mamba_d_head": 16,
    "mamba_n_groups": 3,
    "mamba_d_state": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "projectors_bias": False,
    "mamba_rms_norm": False,
    "mamba_norm_before_gate": True,
    "time_step_limit": UNLIMITED,
    "embedding_multiplier": 1.7,
    "lm_head_multiplier": 0.3,
    "attention_in_multiplier": 1.3,
    "attention_out_multiplier": 0.6,
    "key_multiplier": 0.7,
    "ssm_in_multiplier": 1.4,
    "ssm_out_multiplier": 0.55,
    "ssm_multipliers": [0.9, 1.2, 0.45, 1.6, 0.8],
    "mlp_multipliers": [1.15, 0.65],
}

# Name, what differs from the plain model, dtype, shards, experts fused as in memory, keys left to
# their defaults, whether stock mlx-lm computes the same.
CASES: list[tuple[str, Values, str, int, bool, tuple[str, ...], bool]] = [
    (
        "nemotron-h",
        NEMOTRON,
        "BF16",
        0,
        False,
        ("time_step_min", "mlp_hidden_act", "conv_kernel", "use_conv_bias", "n_group"),
        True,
    ),
    (
        "nemotron-h-dense",
        {
            **NEMOTRON,
            "layers_block_type": [DENSE, STATES, FULL, STATES],
            "num_key_value_heads": 5,
            "head_dim": 64,
            "use_bias": True,
            "mlp_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "mamba_num_heads": 8,
            "mamba_head_dim": 32,
            "n_groups": 2,
            "ssm_state_size": 48,
            "time_step_min": 0.15,
        },
        "F32",
        2,
        False,
        (),
        True,
    ),
    # Where groups are closed to a token, stock gives their experts 0 and not -inf: the same as
    # long as the corrected scores of open ones are above.
    (
        "nemotron-h-latent",
        {
            **NEMOTRON,
            "layers_block_type": [ROUTED, FULL, ROUTED, STATES],
            "moe_latent_size": 64,
            "mlp_bias": True,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": False,
            "routed_scaling_factor": 2.5,
            "num_experts_per_tok": 2,
            "n_groups": 1,
        },
        "F16",
        2,
        True,
        (),
        False,
    ),
    (
        "falcon-h1",
        FALCON,
        "F32",
        0,
        False,
        ("time_step_limit", "mamba_norm_before_gate", "mamba_conv_bias", "mamba_rms_norm"),
        True,
    ),
    # Multipliers that change no digit of a weight.
    (
        "falcon-h1-norm",
        {
            **FALCON,
            "tie_word_embeddings": True,
            "num_key_value_heads": 5,
            "attention_bias": True,
            "mlp_bias": True,
            "mamba_proj_bias": True,
            "projectors_bias": True,
            "mamba_conv_bias": False,
            "mamba_d_conv": 3,
            "mamba_n_groups": 1,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "rms_norm_eps": 3e-4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "embedding_multiplier": 2.0,
            "lm_head_multiplier": 0.25,
            "attention_in_multiplier": 0.5,
            "attention_out_multiplier": 2.0,
            "key_multiplier": 0.5,
            "ssm_in_multiplier": 2.0,
            "ssm_out_multiplier": 0.5,
            "ssm_multipliers": [0.5, 1.0, 2.0, 0.5, 0.5],
            "mlp_multipliers": [2.0, 0.5],
        },
        "BF16",
        2,
        False,
        (),
        True,
    ),
    # Stock norms all groups together and knows no limits of steps.
    (
        "falcon-h1-groups",
        {
            **FALCON,
            "mamba_d_ssm": None,
            "mamba_d_head": "auto",
            "mamba_n_heads": 20,
            "mamba_n_groups": 4,
            "mamba_rms_norm": True,
            "time_step_limit": [0.15, 0.6],
            "mlp_multipliers": [1.0, 1.0],
            "key_multiplier": 1.0,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
        },
        "F16",
        0,
        False,
        ("mlp_multipliers", "key_multiplier"),
        False,
    ),
]


def old_spelling(values: Values) -> None:
    """Patterns in the place of lists, and infinity as Python's json writes it."""
    old_rope(values)
    if values.get("time_step_limit") == UNLIMITED:
        values["time_step_limit"] = [0.0, float("inf")]
    if "layers_block_type" in values:
        kinds = values.pop("layers_block_type")
        values["hybrid_override_pattern"] = "".join(LETTERS[kind] for kind in kinds)


def new_spelling(values: Values) -> None:
    """The number of layers is that of the list."""
    if "layers_block_type" in values:
        del values["num_hidden_layers"]


def inner_channels(config: Mapping[str, Any]) -> int:
    """Of falcon_h1's state spaces."""
    inner = config["mamba_d_ssm"]
    return int(config["mamba_expand"] * config["hidden_size"] if inner is None else inner)


def readable(config: Mapping[str, Any]) -> Values:
    """What else changes with the hidden size and the number of layers."""
    if config["model_type"] == "falcon_h1":
        return {"mamba_n_heads": inner_channels(config) // 16}
    return {"layers_block_type": config["layers_block_type"][: config["num_hidden_layers"]]}


def large(config: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides."""
    if config["model_type"] == "falcon_h1":
        return {
            "num_hidden_layers": 16,
            "mamba_d_ssm": 3072,
            "mamba_n_heads": 48,
            "mamba_d_head": 64,
            "mamba_n_groups": 1,
            "mamba_d_state": 128,
        }
    kinds = [STATES, ROUTED, STATES, DENSE, FULL, ROUTED] * 4
    return {
        "num_hidden_layers": len(kinds),
        "layers_block_type": kinds,
        "mamba_num_heads": 64,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "ssm_state_size": 128,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1024,
        "moe_shared_expert_intermediate_size": 2048,
    }


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized by groups of 32; a stack of experts is one, routers stay
    as they are."""
    if values["model_type"] == "falcon_h1":
        return 9 * int(values["num_hidden_layers"])
    routed = 6 if values.get("moe_latent_size") else 4
    counts = {STATES: 2, FULL: 4, DENSE: 2, ROUTED: routed}
    return sum(counts[kind] for kind in values["layers_block_type"])


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c = case.values
    hidden = c["hidden_size"]

    def matrix(out: int, columns: int) -> Floats:
        return draw((out, columns), 1.5 / columns**0.5)

    def norm(path: str, size: int = hidden) -> Tensors:
        yield f"{path}.weight", 1 + draw((size,), 0.2)

    def uniform(size: int, low: float, high: float) -> Floats:
        # Sums of uniform numbers with the mean and the deviation of one from low to high.
        values = (low + high) / 2 + draw((size,), (high - low) / 12**0.5)
        return np.clip(values, low, high).astype(np.float32)

    def linear(name: str, out: int, columns: int, bias: bool) -> Tensors:
        yield f"{name}.weight", matrix(out, columns)
        if bias:
            yield f"{name}.bias", draw((out,), 0.3)

    def attention(prefix: str, dim: int, bias: bool) -> Tensors:
        rows, kv_rows = (c[f"num_{kind}_heads"] * dim for kind in ("attention", "key_value"))
        yield from linear(f"{prefix}.q_proj", rows, hidden, bias)
        yield from linear(f"{prefix}.k_proj", kv_rows, hidden, bias)
        yield from linear(f"{prefix}.v_proj", kv_rows, hidden, bias)
        yield from linear(f"{prefix}.o_proj", hidden, rows, bias)

    def states(
        prefix: str, inner: int, count: int, shared: int, taps: int, biases: tuple[bool, bool, bool]
    ) -> Tensors:
        """`shared`: channels of B and C together; `biases`: of in, out and the convolution."""
        channels = inner + shared
        yield f"{prefix}.A_log", uniform(count, 0.0, 1.5)
        yield f"{prefix}.D", draw((count,), 1.0)
        yield f"{prefix}.dt_bias", uniform(count, -3.0, 0.0)
        yield from linear(f"{prefix}.in_proj", inner + channels + count, hidden, biases[0])
        yield f"{prefix}.conv1d.weight", draw((channels, 1, taps), 0.4)
        if biases[2]:
            yield f"{prefix}.conv1d.bias", draw((channels,), 0.3)
        yield from linear(f"{prefix}.out_proj", hidden, inner, biases[1])

    def plain(prefix: str, width: int) -> Tensors:
        yield from linear(f"{prefix}.up_proj", width, hidden, c["mlp_bias"])
        yield from linear(f"{prefix}.down_proj", hidden, width, c["mlp_bias"])

    def routed(prefix: str) -> Tensors:
        count, width = c["n_routed_experts"], c["moe_intermediate_size"]
        latent = c.get("moe_latent_size")
        yield f"{prefix}.gate.weight", matrix(count, hidden)
        yield f"{prefix}.gate.e_score_correction_bias", draw((count,), 0.3)
        seen = latent or hidden
        ups = [matrix(width, seen) for _ in range(count)]
        downs = [matrix(seen, width) for _ in range(count)]
        if case.fused_experts:
            yield f"{prefix}.experts.up_proj", np.stack(ups)
            yield f"{prefix}.experts.down_proj", np.stack(downs)
        else:
            for expert, (up, down) in enumerate(zip(ups, downs, strict=True)):
                yield f"{prefix}.experts.{expert}.up_proj.weight", up
                yield f"{prefix}.experts.{expert}.down_proj.weight", down
        if latent:
            yield from linear(f"{prefix}.fc1_latent_proj", latent, hidden, c["mlp_bias"])
            yield from linear(f"{prefix}.fc2_latent_proj", hidden, latent, c["mlp_bias"])
        yield from plain(f"{prefix}.shared_experts", c["moe_shared_expert_intermediate_size"])

    def nemotron() -> Tensors:
        yield "backbone.embeddings.weight", draw((c["vocab_size"], hidden), 1.0)
        for layer, kind in enumerate(c["layers_block_type"]):
            prefix = f"backbone.layers.{layer}"
            yield from norm(f"{prefix}.norm")
            prefix += ".mixer"
            if kind == STATES:
                heads = c["mamba_num_heads"]
                inner, shared = heads * c["mamba_head_dim"], 2 * c["n_groups"] * c["ssm_state_size"]
                biases = (c["use_bias"], c["use_bias"], c["use_conv_bias"])
                yield from states(prefix, inner, heads, shared, c["conv_kernel"], biases)
                yield from norm(f"{prefix}.norm", inner)
            elif kind == FULL:
                yield from attention(prefix, c["head_dim"], False)
            elif kind == ROUTED:
                yield from routed(prefix)
            else:
                yield from plain(prefix, c["intermediate_size"])
        yield from norm("backbone.norm_f")
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)

    def falcon() -> Tensors:
        inner, count = inner_channels(c), c["mamba_n_heads"]
        shared, width = 2 * c["mamba_n_groups"] * c["mamba_d_state"], c["intermediate_size"]
        biases = (c["mamba_proj_bias"], c["projectors_bias"], c["mamba_conv_bias"])
        yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
        for layer in range(c["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            yield from norm(f"{prefix}.input_layernorm")
            yield from states(f"{prefix}.mamba", inner, count, shared, c["mamba_d_conv"], biases)
            if c["mamba_rms_norm"]:
                yield from norm(f"{prefix}.mamba.norm", inner)
            dim = hidden // c["num_attention_heads"]
            yield from attention(f"{prefix}.self_attn", dim, c["attention_bias"])
            yield from norm(f"{prefix}.pre_ff_layernorm")
            for name in ("gate_proj", "up_proj"):
                yield from linear(f"{prefix}.feed_forward.{name}", width, hidden, c["mlp_bias"])
            yield from linear(f"{prefix}.feed_forward.down_proj", hidden, width, c["mlp_bias"])
        yield from norm("model.final_layernorm")
        if not c["tie_word_embeddings"]:
            yield "lm_head.weight", matrix(c["vocab_size"], hidden)

    yield from nemotron() if c["model_type"] == "nemotron_h" else falcon()


def factors(values: Mapping[str, Any]) -> dict[str, tuple[float, Any]]:
    """By the last part of a module's path: what falcon_h1's multipliers make of its input and of
    its result, a number or one for each row."""
    inner, shared = inner_channels(values), values["mamba_n_groups"] * values["mamba_d_state"]
    sizes = [inner, inner, shared, shared, values["mamba_n_heads"]]
    into, (gate, down) = values["attention_in_multiplier"], values["mlp_multipliers"]
    return {
        "embed_tokens": (1.0, values["embedding_multiplier"]),
        "lm_head": (1.0, values["lm_head_multiplier"]),
        "q_proj": (into, 1.0),
        "k_proj": (into, values["key_multiplier"]),
        "v_proj": (into, 1.0),
        "o_proj": (1.0, values["attention_out_multiplier"]),
        "in_proj": (values["ssm_in_multiplier"], np.repeat(values["ssm_multipliers"], sizes)),
        "out_proj": (1.0, values["ssm_out_multiplier"]),
        "gate_proj": (1.0, gate),
        "down_proj": (1.0, down),
    }


def without_multipliers(config: Mapping[str, Any]) -> Values:
    """The config, all multipliers of which are 1."""
    values = dict(config)
    for key, value in config.items():
        if "multiplier" in key:
            values[key] = [1.0] * len(value) if isinstance(value, list) else 1.0
    return values


def multiplied(values: Mapping[str, Any], stored: Tensors) -> Tensors:
    """Tensors of a checkpoint of falcon_h1 with its multipliers in them, in float32. Biases take
    what multiplies a result."""
    parts = factors(values)
    for name, numbers in stored:
        *_, module, part = f".{name}".split(".")
        before, behind = parts.get(module, (1.0, 1.0))
        factor = np.asarray(before * behind if part == "weight" else behind).astype(np.float32)
        yield name, numbers * (factor[:, None] if factor.ndim and numbers.ndim == 2 else factor)


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
    new_spelling=new_spelling,
    old_spelling=old_spelling,
    readable=readable,
    large=large,
)
