"""Llama directories of any size, written as a stream: plain bf16 checkpoints and stock 4-bit ones.

Weights are slices of one block of random numbers, so that writing costs no more than the disk does.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

SHARD_BYTES = 2 << 30
_BLOCK = 1 << 24  # elements
_VOCABULARY = 32_000
_BITS, _GROUP = 4, 64

Shape = tuple[int, ...]


def config(hidden: int, inner: int, layers: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 256,
        "head_dim": 128,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "eos_token_id": 2,
    }


def matrices(hidden: int, inner: int, layers: int) -> Iterator[tuple[str, Shape]]:
    """Paths and shapes of all tensors, norms included."""
    yield "model.embed_tokens", (_VOCABULARY, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm", (hidden,)
        yield f"{prefix}.self_attn.q_proj", (hidden, hidden)
        yield f"{prefix}.self_attn.k_proj", (hidden // 2, hidden)
        yield f"{prefix}.self_attn.v_proj", (hidden // 2, hidden)
        yield f"{prefix}.self_attn.o_proj", (hidden, hidden)
        yield f"{prefix}.post_attention_layernorm", (hidden,)
        yield f"{prefix}.mlp.gate_proj", (inner, hidden)
        yield f"{prefix}.mlp.up_proj", (inner, hidden)
        yield f"{prefix}.mlp.down_proj", (hidden, inner)
    yield "model.norm", (hidden,)
    yield "lm_head", (_VOCABULARY, hidden)


def layers_for(size: int, hidden: int, inner: int, bytes_per_weight: float) -> int:
    """As many layers as `size` bytes take, at least one."""
    fixed = 2 * _VOCABULARY * hidden * bytes_per_weight
    layer = (3 * hidden * hidden + 3 * hidden * inner) * bytes_per_weight
    return max(1, round((size - fixed) / layer))


def write_plain(folder: Path, size: int, *, hidden: int = 2048, inner: int = 8192) -> int:
    """A bf16 checkpoint of about `size` bytes; returns the bytes of its weight files."""
    layers = layers_for(size, hidden, inner, 2)
    random = np.random.default_rng(7)
    values = random.standard_normal(_BLOCK, dtype=np.float32) * np.float32(0.02)
    block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    tensors = [
        (f"{path}.weight", "BF16", shape, 2 * int(np.prod(shape)))
        for path, shape in matrices(hidden, inner, layers)
    ]
    return _write(folder, config(hidden, inner, layers), tensors, {"BF16": block})


def write_quantized(folder: Path, size: int, *, hidden: int = 2048, inner: int = 8192) -> int:
    """A stock 4-bit directory (group 64, bf16 scales) of about `size` bytes; random codes."""
    layers = layers_for(size, hidden, inner, _BITS / 8 + 4 / _GROUP)
    random = np.random.default_rng(7)
    scales = random.uniform(0.001, 0.002, _BLOCK // 8).astype(np.float32)
    blocks = {
        "U32": random.bytes(1 << 25),
        "BF16": (scales.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
    }
    tensors = []
    for path, shape in matrices(hidden, inner, layers):
        if len(shape) == 1:
            tensors.append((f"{path}.weight", "BF16", shape, 2 * shape[0]))
            continue
        rows, columns = shape
        words, groups = columns * _BITS // 32, columns // _GROUP
        tensors.append((f"{path}.weight", "U32", (rows, words), 4 * rows * words))
        tensors.append((f"{path}.scales", "BF16", (rows, groups), 2 * rows * groups))
        tensors.append((f"{path}.biases", "BF16", (rows, groups), 2 * rows * groups))
    pair = {"bits": _BITS, "group_size": _GROUP, "mode": "affine"}
    values = {**config(hidden, inner, layers), "quantization": pair, "quantization_config": pair}
    return _write(folder, values, tensors, blocks)


def _write(
    folder: Path,
    values: dict[str, Any],
    tensors: list[tuple[str, str, Shape, int]],
    blocks: dict[str, bytes],
) -> int:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    shards: list[list[tuple[str, str, Shape, int]]] = [[]]
    room = SHARD_BYTES
    for tensor in tensors:
        if tensor[3] > room and shards[-1]:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(tensor)
        room -= tensor[3]
    weight_map, total = {}, 0
    offsets = np.random.default_rng(11)
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with (folder / name).open("wb") as file:
            _write_shard(file, shard, blocks, offsets)
            total += file.tell()
        weight_map.update({tensor[0]: name for tensor in shard})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def _write_shard(
    file: BinaryIO,
    shard: list[tuple[str, str, Shape, int]],
    blocks: dict[str, bytes],
    offsets: np.random.Generator,
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, dtype, shape, count in shard:
        offsets_of = [begin, begin + count]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets_of}
        begin += count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    file.write(struct.pack("<Q", len(text)) + text)
    for _, dtype, _, count in shard:
        block = memoryview(blocks[dtype])
        while count > 0:
            start = 4 * int(offsets.integers(len(block) // 8))
            piece = block[start : start + min(count, len(block) - start)]
            file.write(piece)
            count -= len(piece)


def touch(folder: Path) -> int:
    """Reads every weight file once, so that the page cache holds it if it can; returns bytes."""
    buffer: npt.NDArray[np.uint8] = np.empty(1 << 22, dtype=np.uint8)
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(memoryview(buffer)):
                total += count
    return total
