"""GGUF files of the package's shapes, for llama.cpp: written with `gguf`, quantized by its own API.

    .venv-peers/bin/python bench/peers/gguf_models.py source FILE --shape mistral-7b --layers 2
    .venv-peers/bin/python bench/peers/gguf_models.py quantize SOURCE TYPE FILE

The source is bf16 with the values of the package's synthetic checkpoint. Quantization is "pure":
every matrix, embedding and head too, gets the one type, as ours get one width.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import numpy as np

# The shapes and values of the package need no compiled core, so its source tree is enough where the
# package is not installed.
sys.path.append(str(Path(__file__).resolve().parents[2] / "python"))

from jang_tools.bench.shapes import SHAPES, Shape
from jang_tools.bench.synthetic import plain_values

# Our name of a type -> file type of llama.h.
FILE_TYPES = {
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_0": 2,
    "Q4_K": 14,
    "Q5_K": 16,
    "Q6_K": 18,
    "Q8_0": 7,
}
DENSE = {
    name: shape for name, shape in SHAPES.items() if isinstance(shape, Shape) and not shape.experts
}
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    path = name.removesuffix(".weight")
    if not path.startswith("model.layers."):
        return f"{_NAMES[path]}.weight"
    layer, module = path.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_NAMES[module]}.weight"


def write_source(path: Path, shape: Shape) -> None:
    """The plain model of ``shape`` as bf16 GGUF, one tensor in memory at a time."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")  # tokens come as numbers
    for name, dims, _ in shape.tensors(None, 64):
        if len(dims) == 1:
            writer.add_tensor_info(gguf_name(name), dims, np.dtype(np.float32), 4 * dims[0])
        else:
            writer.add_tensor_info(
                gguf_name(name),
                dims,
                np.dtype(np.uint16),
                2 * dims[0] * dims[1],
                raw_dtype=gguf.GGMLQuantizationType.BF16,
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, values in plain_values(shape):
        if values.ndim == 1:
            writer.write_tensor_data((values.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.write_tensor_data(values)
    writer.close()


def quantize(source: Path, kind: str, target: Path, threads: int) -> None:
    """Every matrix of ``source`` as ``kind``, by llama.cpp itself."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = FILE_TYPES[kind]
    params.pure = True
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if failed:
        raise SystemExit(f"llama_model_quantize: code {failed} for {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    source = actions.add_parser("source", help="write the bf16 file")
    source.add_argument("file", type=Path)
    source.add_argument("--shape", choices=list(DENSE), default="mistral-7b")
    source.add_argument("--layers", type=int)
    convert = actions.add_parser("quantize", help="quantize a source")
    convert.add_argument("source", type=Path)
    convert.add_argument("type", choices=list(FILE_TYPES))
    convert.add_argument("file", type=Path)
    convert.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.action == "source":
        write_source(arguments.file, DENSE[arguments.shape].with_layers(arguments.layers))
    else:
        quantize(arguments.source, arguments.type, arguments.file, arguments.threads)


if __name__ == "__main__":
    main()
