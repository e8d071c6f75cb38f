"""Files of other programs for tests: GGUF by the `gguf` package, GPTQ directories and importance
matrices packed here, bit by bit. Nothing of the package's own readers is used."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tiny_checkpoints import write_safetensors
from weight_files import read_weights

Floats = npt.NDArray[np.float32]
Type = gguf.GGMLQuantizationType

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
}
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
_EXPERTS = {
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
}
_EXPERT = re.compile(r"model\.layers\.(\d+)\.[\w.]+\.experts\.(\d+)\.(\w+)\.weight")
_FUSED = re.compile(r"model\.layers\.(\d+)\.[\w.]+\.experts\.(gate_up_proj|down_proj)")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def read_floats(directory: Path) -> dict[str, Floats]:
    """Every tensor of a plain directory as float32."""
    found = {}
    for name, tensor in read_weights(directory).items():
        if tensor.dtype == "BF16":
            bits = np.frombuffer(tensor.payload, "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(tensor.payload, {"F16": "<f2", "F32": "<f4"}[tensor.dtype])
        found[name] = values.astype(np.float32).reshape(tensor.shape)
    return found


def permute(weights: Floats, heads: int) -> Floats:
    """Rows of each head from halves to neighbours: what llama.cpp's conversion does to q and k."""
    out = np.empty_like(weights)
    size = len(weights) // heads
    for head in range(heads):
        for pair in range(size // 2):
            for half in range(2):
                out[head * size + 2 * pair + half] = weights[
                    head * size + half * (size // 2) + pair
                ]
    return out


def gguf_tensors(directory: Path, *, permuted: bool = True) -> dict[str, Floats]:
    """The tensors of a plain directory under llama.cpp's names, experts stacked."""
    config = json.loads((directory / "config.json").read_text())
    interleaved = permuted and ARCHITECTURES[config["model_type"]] == "llama"
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, Floats] = {}
    stacks: dict[str, dict[int, Floats]] = {}
    for name, values in read_floats(directory).items():
        if expert := _EXPERT.fullmatch(name):
            layer, number, part = expert.groups()
            stacks.setdefault(f"blk.{layer}.{_EXPERTS[part]}.weight", {})[int(number)] = values
        elif fused := _FUSED.fullmatch(name):
            layer, part = fused.groups()
            if part == "down_proj":
                tensors[f"blk.{layer}.ffn_down_exps.weight"] = values
            else:
                gate, up = np.split(values, 2, axis=1)
                tensors[f"blk.{layer}.ffn_gate_exps.weight"] = gate
                tensors[f"blk.{layer}.ffn_up_exps.weight"] = up
        elif layer_match := _LAYER.fullmatch(name):
            layer, module, kind = layer_match.groups()
            short = _NAMES[module]
            if interleaved and short in heads:
                values = permute(values, heads[short])
            tensors[f"blk.{layer}.{short}.{kind}"] = values
        else:
            top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            base = name.removesuffix(".weight")
            tensors[f"{top.get(base, 'output')}.weight"] = values
    for name, parts in stacks.items():
        tensors[name] = np.stack([parts[number] for number in sorted(parts)])
    return tensors


def write_gguf(
    path: Path,
    directory: Path,
    kind: Type | Callable[[str], Type] = Type.F32,
    *,
    tensors: Mapping[str, Floats] | None = None,
    permuted: bool = True,
    keys: Mapping[str, Any] | None = None,
) -> Path:
    """The model of a plain directory as one GGUF file, matrices in ``kind``, the rest in F32.

    ``keys`` replace or, where None, remove entries of the metadata.
    """
    config = json.loads((directory / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    values: dict[str, Any] = {
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{architecture}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "tokenizer.ggml.tokens": [f"<{number}>" for number in range(20)],
        "tokenizer.ggml.scores": [0.5, 1.5],
        **(keys or {}),
    }
    writer = gguf.GGUFWriter(path, str(values.pop("general.architecture", architecture)))
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    found = gguf_tensors(directory, permuted=permuted) if tensors is None else tensors
    for name, array in found.items():
        want = kind(name) if callable(kind) else kind
        if array.ndim < 2:
            want = Type.F32
        writer.add_tensor(name, gguf.quants.quantize(array, want), raw_dtype=want)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pack_words(codes: Sequence[int], bits: int) -> list[int]:
    """A little-endian bit stream of codes as signed 32-bit words."""
    stream = 0
    for place, code in enumerate(codes):
        stream |= int(code) << (place * bits)
    words = [(stream >> (32 * word)) & 0xFFFFFFFF for word in range(len(codes) * bits // 32)]
    return [word - (1 << 32) if word >> 31 else word for word in words]


@dataclass(frozen=True)
class GptqMatrix:
    """A quantized matrix as it is stored, and the weights ``[out, in]`` that it stands for."""

    arrays: dict[str, npt.NDArray[Any]]
    weights: Floats


def gptq_matrix(
    weights: Floats,
    *,
    bits: int = 4,
    group_size: int = 32,
    sym: bool = False,
    desc_act: bool = False,
    zero_offset: int = 1,
    seed: int = 0,
) -> GptqMatrix:
    """Plain rounding of ``weights`` ``[out, in]``, stored as AutoGPTQ stores it."""
    outputs, inputs = weights.shape
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    index = np.arange(inputs) // size
    if desc_act:
        index = np.random.default_rng(seed).permutation(index)
    top = (1 << bits) - 1
    scales = np.empty((groups, outputs), np.float16)
    zeros = np.empty((groups, outputs), np.int64)
    codes = np.empty((inputs, outputs), np.int64)
    made = np.empty((outputs, inputs), np.float64)
    for group in range(groups):
        columns = np.flatnonzero(index == group)
        part = weights[:, columns].astype(np.float64)
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        if sym:
            high = np.maximum(-low, high)
            low = -high
        scale = ((high - low) / top).astype(np.float16)
        scales[group] = scale
        zero = np.full(outputs, (top + 1) // 2) if sym else np.round(-low / scale)
        zeros[group] = np.clip(zero, 0, top)
        for column in columns:
            code = np.round(weights[:, column] / scale.astype(np.float64)) + zeros[group]
            codes[column] = np.clip(code, 0, top)
            made[:, column] = scale.astype(np.float64) * (codes[column] - zeros[group])
    qweight = [pack_words(codes[:, out].tolist(), bits) for out in range(outputs)]
    stored = (zeros - zero_offset) & top
    qzeros = [pack_words(stored[group].tolist(), bits) for group in range(groups)]
    arrays = {
        "qweight": np.array(qweight, np.int32).T.copy(),
        "qzeros": np.array(qzeros, np.int32),
        "scales": scales,
        "g_idx": index.astype(np.int32),
    }
    return GptqMatrix(arrays, made.astype(np.float32))


_DTYPES = {"int32": "I32", "float16": "F16", "float32": "F32"}


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """A safetensors file of int32, float16 and float32 arrays."""
    entries = [
        (name, _DTYPES[str(array.dtype)], array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in arrays.items()
    ]
    write_safetensors(path, entries)


def write_gptq(
    folder: Path,
    directory: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    file: str = "model.safetensors",
    change: Callable[[dict[str, npt.NDArray[Any]]], None] | None = None,
    **options: Any,
) -> dict[str, Floats]:
    """A GPTQ directory of the model in ``directory``; returns the weights that it stands for.

    ``options`` go to `gptq_matrix`, ``settings`` over those that belong to them, and ``change`` may
    spoil the arrays before they are written.
    """
    folder.mkdir(parents=True)
    arrays: dict[str, npt.NDArray[Any]] = {}
    expected: dict[str, Floats] = {}
    for number, (name, values) in enumerate(read_floats(directory).items()):
        module = name.removesuffix(".weight")
        if values.ndim == 2 and module.endswith(("_proj", ".w1", ".w2", ".w3")):
            matrix = gptq_matrix(values, seed=number, **options)
            arrays.update({f"{module}.{part}": array for part, array in matrix.arrays.items()})
            expected[name] = matrix.weights
        else:
            expected[name] = values.astype(np.float16).astype(np.float32)
            arrays[name] = values.astype(np.float16)
    if change is not None:
        change(arrays)
    write_arrays(folder / file, arrays)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": options.get("bits", 4),
        "group_size": options.get("group_size", 32),
        "desc_act": options.get("desc_act", False),
        "sym": options.get("sym", False),
        "checkpoint_format": "gptq" if options.get("zero_offset", 1) else "gptq_v2",
        **(settings or {}),
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for tokenizer in directory.glob("tokenizer*.json"):
        shutil.copyfile(tokenizer, folder / tokenizer.name)
    return expected


def write_gguf_imatrix(
    path: Path,
    entries: Mapping[str, tuple[Floats, Floats]],
    datasets: Sequence[str] = ("prose.txt",),
    kind: str = "imatrix",
) -> Path:
    """Sums ``[matrices, columns]`` and counts ``[matrices]`` by name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums.astype(np.float32))
        writer.add_tensor(f"{name}.counts", counts.astype(np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def legacy_imatrix(
    entries: Mapping[str, tuple[Floats, int]], dataset: str | None = "prose.txt"
) -> bytes:
    """Sums and calls by name, in the binary form; without ``dataset`` as the first versions."""
    data = struct.pack("<i", len(entries))
    for name, (sums, calls) in entries.items():
        text = name.encode()
        data += struct.pack("<i", len(text)) + text + struct.pack("<ii", calls, sums.size)
        data += sums.astype("<f4").tobytes()
    if dataset is not None:
        text = dataset.encode()
        data += struct.pack("<ii", 7, len(text)) + text
    return data
