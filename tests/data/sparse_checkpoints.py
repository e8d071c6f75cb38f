"""Checkpoints of any size that take no space: real headers and indexes, payloads that are holes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]

_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


def llama(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """config.json of a dense model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def qwen3_moe(layers: int, hidden: int, experts: int, width: int) -> dict[str, Any]:
    """config.json of a mixture of experts, every feed-forward routed."""
    return {
        **llama(layers, hidden, 4 * hidden, 151_936),
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": width,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Names and shapes, a tensor for each expert."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (heads, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, heads)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        if "num_experts" not in config:
            yield from _gated(f"{prefix}.mlp", hidden, inner)
            continue
        yield f"{prefix}.self_attn.q_norm.weight", (config["head_dim"],)
        yield f"{prefix}.self_attn.k_norm.weight", (config["head_dim"],)
        yield f"{prefix}.mlp.gate.weight", (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            yield from _gated(
                f"{prefix}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"]
            )
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _gated(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.gate_proj.weight", (inner, hidden)
    yield f"{prefix}.up_proj.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def write_sparse(
    folder: Path, config: dict[str, Any], shard_bytes: int = 5 << 30, dtype: str = "BF16"
) -> int:
    """Writes the checkpoint; returns the bytes that its weight files seem to have."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    shards: list[list[tuple[str, Shape]]] = [[]]
    filled = 0
    for name, shape in tensors(config):
        size = prod(shape) * _BYTES[dtype]
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    weight_map: dict[str, str] = {}
    total = 0
    for number, entries in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += write_holes(folder / name, entries, dtype)
        weight_map |= {entry: name for entry, _ in entries}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def write_holes(path: Path, entries: Iterable[tuple[str, Shape]], dtype: str = "BF16") -> int:
    """One weight file without payload; returns the bytes that its tensors seem to have."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in entries:
        end = offset + prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset
