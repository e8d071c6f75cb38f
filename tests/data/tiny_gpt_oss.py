"""Cases and tensors of gpt_oss for tiny_checkpoints.py, and their experts packed as MXFP4.

Every option of the family is on in at least one case, with a value that is not its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_case import Case, Draw, Family, Floats, Tensors, Values, old_rope

ARCHITECTURES = {"gpt_oss": "GptOssForCausalLM"}
FOREIGN_KEYS = {"gpt_oss": ("mlp_bias",)}
SLIDING, FULL = "sliding_attention", "full_attention"

YARN: Values = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 4.0,
    "beta_fast": 8.0,
    "beta_slow": 0.5,
    "original_max_position_embeddings": 32,
}
PLAIN: Values = {
    "model_type": "gpt_oss",
    "num_local_experts": 8,
    "num_experts_per_tok": 3,
    "intermediate_size": 96,
    "head_dim": 64,
    "attention_bias": True,
    "sliding_window": 8,
    "layer_types": [SLIDING, FULL] * 2,
    "rope_parameters": YARN,
}
# Their experts' values are those of MXFP4 codes.
PACKABLE = ("gpt-oss-packable",)
CASES = [
    Case("gpt-oss", PLAIN, absent=("layer_types",)),
    # Limits that gates and both ends of up meet, at another slope; stock has neither, nor a tied
    # head, and its ramp of yarn begins and ends at whole channels.
    Case(
        "gpt-oss-limits",
        {
            **PLAIN,
            "swiglu_limit": 0.9,
            "swiglu_alpha": 1.2,
            "num_key_value_heads": 5,
            "head_dim": 32,
            "layer_types": [FULL, FULL, SLIDING, SLIDING],
            "tie_word_embeddings": True,
            "rope_parameters": {**YARN, "truncate": False},
        },
        "BF16",
        shards=2,
        stock=False,
    ),
    # What a config without keys means: yarn again, and a window that no test reaches.
    Case(
        "gpt-oss-defaults",
        {**PLAIN, "num_local_experts": 4, "num_experts_per_tok": 4},
        "F16",
        absent=(
            "rope_parameters",
            "layer_types",
            "sliding_window",
            "head_dim",
            "attention_bias",
            "num_experts_per_tok",
        ),
        stock=False,
    ),
    Case(
        "gpt-oss-unbiased",
        {
            **PLAIN,
            "attention_bias": False,
            "num_experts_per_tok": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "F16",
        shards=2,
    ),
    Case("gpt-oss-packable", {**PLAIN, "num_local_experts": 4}, "BF16"),
]


def old_spelling(values: Values) -> None:
    """As other families, but that no rope_scaling at all would stand for yarn."""
    old_rope(values)
    if "rope_scaling" in values and values["rope_scaling"] is None:
        values["rope_scaling"] = {"rope_type": "default"}


def readable(config: Mapping[str, Any]) -> Values:
    """What else changes with the number of layers."""
    count = config["num_hidden_layers"]
    return {"layer_types": [FULL if layer % 2 else SLIDING for layer in range(count)]}


def large(config: Mapping[str, Any]) -> Values:
    """What a model of about a billion weights of hidden size 2048 has besides."""
    return {
        "layer_types": [SLIDING, FULL] * 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 1024,
        "sliding_window": 128,
    }


def matrices(values: Mapping[str, Any]) -> int:
    """Of all layers that may be quantized; a stack of experts is one, routers do not count."""
    return 7 * int(values["num_hidden_layers"])


MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
BLOCK = 32
Bytes = npt.NDArray[np.uint8]


def pack(values: Floats) -> tuple[Bytes, Bytes]:
    """Blocks [..., columns / 32, 16] and scales [..., columns / 32] nearest to the values."""
    blocks = values.reshape(*values.shape[:-1], -1, BLOCK)
    top = np.maximum(np.abs(blocks).max(axis=-1), np.float32(2.0**-100))
    exponent = np.ceil(np.log2(top / 6)).astype(np.int32)
    scaled = blocks / np.exp2(exponent)[..., None].astype(np.float32)
    nearest = np.abs(np.abs(scaled)[..., None] - MAGNITUDES).argmin(axis=-1)
    codes = (nearest + 8 * (scaled < 0)).astype(np.uint8)
    packed = codes[..., 0::2] | codes[..., 1::2] << 4
    return packed.astype(np.uint8), (exponent + 127).astype(np.uint8)


def unpack(blocks: Bytes, scales: Bytes) -> Floats:
    """The values [..., columns] of codes; scales from 1 to 252."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    values = np.where(codes & 8, -1, 1) * MAGNITUDES[codes & 7]
    values = values * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return values.reshape(*blocks.shape[:-2], -1).astype(np.float32)


def on_grid(values: Floats) -> Floats:
    return unpack(*pack(values))


def in_turn(gate: Floats, up: Floats, axis: int) -> Floats:
    """Gate and up one after the other along an axis."""
    both = np.stack([gate, up], axis=axis + 1)
    shape = [*gate.shape]
    shape[axis] *= 2
    return both.reshape(shape)


def tensors(case: Case, draw: Draw) -> Tensors:
    """Names and values in file order."""
    c = case.values
    hidden, heads, dim = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
    count, width = c["num_local_experts"], c["intermediate_size"]
    inner, keys = heads * dim, c["num_key_value_heads"] * dim

    def matrix(*shape: int) -> Floats:
        return draw(shape, 1.5 / shape[-1] ** 0.5)

    def experts(out: int, columns: int) -> Floats:
        values = matrix(count, out, columns)
        return on_grid(values) if case.name in PACKABLE else values

    def norm() -> Floats:
        return 1 + draw((hidden,), 0.2)

    yield "model.embed_tokens.weight", draw((c["vocab_size"], hidden), 1.0)
    for layer in range(c["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", norm()
        shapes = {"q": (inner, hidden), "k": (keys, hidden), "v": (keys, hidden)}
        for name, shape in (shapes | {"o": (hidden, inner)}).items():
            yield f"{prefix}.self_attn.{name}_proj.weight", matrix(*shape)
            if c["attention_bias"]:
                yield f"{prefix}.self_attn.{name}_proj.bias", draw((shape[0],), 0.3)
        yield f"{prefix}.self_attn.sinks", draw((heads,), 1.5)
        yield f"{prefix}.post_attention_layernorm.weight", norm()
        yield f"{prefix}.mlp.router.weight", matrix(count, hidden)
        yield f"{prefix}.mlp.router.bias", draw((count,), 0.3)
        gate, up, down = experts(width, hidden), experts(width, hidden), experts(hidden, width)
        block = f"{prefix}.mlp.experts"
        yield f"{block}.gate_up_proj", in_turn(gate, up, 1).swapaxes(1, 2)
        yield f"{block}.gate_up_proj_bias", draw((count, 2 * width), 0.3)
        yield f"{block}.down_proj", down.swapaxes(1, 2)
        yield f"{block}.down_proj_bias", draw((count, hidden), 0.3)
    yield "model.norm.weight", norm()
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(c["vocab_size"], hidden)


def pack_experts(folder: Path) -> None:
    """Turns a checkpoint of one file, whose experts lie on the grid, into one of MXFP4."""
    from tiny_checkpoints import write_safetensors
    from weight_files import read_weights

    path = folder / "model.safetensors"
    entries: list[tuple[str, str, tuple[int, ...], bytes]] = []
    for name, (dtype, shape, payload) in read_weights(folder).items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            entries.append((name, dtype, shape, payload))
            continue
        assert dtype == "BF16"
        bits = np.frombuffer(payload, dtype="<u2").astype("<u4") << np.uint32(16)
        values = bits.view("<f4").reshape(shape).swapaxes(1, 2)
        blocks, scales = pack(values)
        assert np.array_equal(unpack(blocks, scales), values)
        entries.append((f"{name}_blocks", "U8", blocks.shape, blocks.tobytes()))
        entries.append((f"{name}_scales", "U8", scales.shape, scales.tobytes()))
    write_safetensors(path, entries)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")


FAMILY = Family(
    ARCHITECTURES,
    CASES,
    tensors,
    matrices,
    FOREIGN_KEYS,
    old_spelling=old_spelling,
    readable=readable,
    large=large,
)
