"""Writes the seeds of the fuzz targets: sound inputs of every kind, small, one idea each.

Run from anywhere: ``python tests/fuzz/make_corpus.py``. The files are committed; running it again
gives the same bytes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"
ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HIDDEN, VOCAB, GROUP = 32, 8, 32

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 24], "activation_scheme": "dynamic"}
SHAPES = {
    "model.embed_tokens.weight": [VOCAB, HIDDEN],
    "model.layers.0.input_layernorm.weight": [HIDDEN],
    "model.layers.0.mlp.down_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.mlp.gate_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.mlp.up_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.post_attention_layernorm.weight": [HIDDEN],
    "model.layers.0.self_attn.k_proj.weight": [16, HIDDEN],
    "model.layers.0.self_attn.o_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.self_attn.q_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.self_attn.v_proj.weight": [16, HIDDEN],
    "model.norm.weight": [HIDDEN],
}


def put(target: str, name: str, content: bytes | str) -> None:
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def header(tensors: dict[str, tuple[str, list[int]]]) -> tuple[str, int]:
    """The header's text and the bytes of the payload it promises."""
    sizes = {"U8": 1, "F8_E4M3": 1, "F16": 2, "U32": 4, "F32": 4, "F64": 8, "I64": 8}
    entries: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin = end
        count = sizes[dtype]
        for length in shape:
            count *= length
        end = begin + count
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return compact(entries), end


def section(letter: str, text: str, payload: int | bytes | None = None) -> bytes:
    """A payload of that many zeros, or of these bytes."""
    body = text.encode() + (b"" if payload is None else b"\n$$" + bytes(payload))
    return b"\n@@" + letter.encode() + body


def quantized(bits: int) -> dict[str, tuple[str, list[int]]]:
    tensors: dict[str, tuple[str, list[int]]] = {}
    for name, shape in SHAPES.items():
        if len(shape) == 1:
            tensors[name] = ("F16", shape)
            continue
        path = name.removesuffix(".weight")
        tensors[name] = ("U32", [shape[0], shape[1] * bits // 32])
        tensors[f"{path}.scales"] = ("F16", [shape[0], shape[1] // GROUP])
        tensors[f"{path}.biases"] = ("F16", [shape[0], shape[1] // GROUP])
    return tensors


def width_map(bits: int) -> dict[str, Any]:
    width = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    paths = [n.removesuffix(".weight") for n, shape in SHAPES.items() if len(shape) == 2]
    return {**width, **dict.fromkeys(paths, width)}


def headers() -> None:
    texts = {
        "empty": "{}",
        "one": compact({"a": ENTRY}),
        "spaced": ' {"a" : {"shape":[ 1 ], "extra":null, "dtype":"F32", "data_offsets":[0,4]}}\n',
        "metadata": compact({"__metadata__": {"format": "pt"}, "a": ENTRY}),
        "two": compact({"a": ENTRY, "b": {"dtype": "BF16", "shape": [], "data_offsets": [4, 6]}}),
        "empty_tensor": compact({"a": {"dtype": "U8", "shape": [0, 9], "data_offsets": [0, 0]}}),
        "escapes": '{"\\u0061\\n\\ud83d\\ude00":' + compact(ENTRY) + "}",
        "huge": compact({"a": {"dtype": "U8", "shape": [2**60], "data_offsets": [0, 2**60]}}),
        "twice": '{"a":' + compact(ENTRY) + ',"a":' + compact(ENTRY) + "}",
    }
    for name, text in texts.items():
        put("header", name, text)
    raw = texts["one"].encode()
    put("header", "framed", struct.pack("<Q", len(raw)) + raw + bytes(4))


def indexes() -> None:
    put("index", "one", compact({"weight_map": {"a": "model.safetensors"}}))
    total = {"total_size": 8, "total_parameters": 2}
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    put("index", "two", compact({"metadata": total, "weight_map": shards}))
    for i, name in enumerate(["../x.safetensors", "a/b.safetensors", "C:x.safetensors", "m.bin"]):
        put("index", f"hostile_{i}", compact({"weight_map": {"a": name}}))


def configs() -> None:
    put("config", "llama", compact(LLAMA))
    ropes = {
        "llama3": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "linear": {"type": "linear", "factor": 2.0},
        "dynamic": {"type": "dynamic", "factor": 2.0},
    }
    for name, rope in ropes.items():
        put("config", name, compact({**LLAMA, "rope_scaling": rope}))
    put("config", "new_keys", compact({**LLAMA, "rope_parameters": {"rope_theta": 1e6}}))
    put("config", "mistral", compact({**LLAMA, "model_type": "mistral", "sliding_window": 16}))
    routed = {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2}
    put("config", "mixtral", compact({**routed, "model_type": "mixtral"}))
    qwen = {"mlp_only_layers": [0], "decoder_sparse_step": 1, "moe_intermediate_size": 64}
    put("config", "qwen3_moe", compact({**routed, **qwen, "model_type": "qwen3_moe"}))
    shared = {"shared_expert_intermediate_size": 32, "qkv_bias": False, "norm_topk_prob": True}
    even = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}
    put(
        "config",
        "qwen2_moe",
        compact({**routed, **qwen, **shared, **even, "model_type": "qwen2_moe"}),
    )
    put("config", "olmoe", compact({**routed, "clip_qkv": 8.0, "model_type": "olmoe"}))
    granite = {"attention_multiplier": 0.1, "logits_scaling": 6, "embedding_multiplier": 12.0}
    put("config", "granitemoe", compact({**routed, **granite, "model_type": "granitemoe"}))
    magnitudes = {"type": "longrope", "short_mscale": 1.2, "long_mscale": 1.4}
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.5] * 8}
    minimax = {"num_local_experts": 4, "rotary_dim": 8, "shared_intermediate_size": 0}
    put("config", "minimax_m2", compact({**routed, **minimax, "model_type": "minimax_m2"}))
    phimoe = {"rope_scaling": {**magnitudes, **factors}, "router_jitter_noise": 0.01}
    put("config", "phimoe", compact({**routed, **phimoe, "model_type": "phimoe"}))
    factors = {"short_factor": [1.0, 2.0], "long_factor": [2.0, 3.5]}
    longrope = {"type": "longrope", **factors}
    phi3 = {"original_max_position_embeddings": 32, "partial_rotary_factor": 0.25}
    put(
        "config", "phi3", compact({**LLAMA, **phi3, "model_type": "phi3", "rope_scaling": longrope})
    )
    yarn = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.5, "mscale_all_dim": 0.7}
    put("config", "yarn", compact({**LLAMA, "rope_scaling": {**yarn, "truncate": False}}))
    parallel = {**LLAMA, "layer_norm_eps": 1e-5}
    phi = {"hidden_act": "gelu_new", "qk_layernorm": True, "partial_rotary_factor": 0.5}
    put("config", "phi", compact({**parallel, **phi, "model_type": "phi"}))
    put("config", "glm4", compact({**LLAMA, "model_type": "glm4", "attention_bias": True}))
    cohere = {**parallel, "logit_scale": 0.25}
    put("config", "cohere", compact({**cohere, "model_type": "cohere", "use_qk_norm": True}))
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention"]}
    put("config", "cohere2", compact({**cohere, **windows, "model_type": "cohere2"}))
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
    hybrid = {**routed, **qwen, **delta, "full_attention_interval": 2, "head_dim": 16}
    put("config", "qwen3_next", compact({**hybrid, "model_type": "qwen3_next"}))
    inner = {**hybrid, "model_type": "qwen3_5_moe_text", "partial_rotary_factor": 0.5}
    put("config", "qwen3_5_moe", compact({"model_type": "qwen3_5_moe", "text_config": inner}))
    types = {"layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4}
    put("config", "qwen3_5", compact({**hybrid, **types, "model_type": "qwen3_5_text"}))
    dense: dict[str, dict[str, Any]] = {
        "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        "qwen3": {"head_dim": 16, "layer_types": ["full_attention"]},
        "granite": {"attention_multiplier": 0.1, "logits_scaling": 8, "residual_multiplier": 0.2},
        "olmo2": {"num_key_value_heads": None},
        "smollm3": {"no_rope_layers": [0], "use_sliding_window": True, "sliding_window": 8},
        "gemma": {"hidden_act": "gelu", "torch_dtype": "bfloat16"},
        "gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": None},
        "gemma3_text": {"rope_local_base_freq": 1e4, "sliding_window_pattern": 2},
    }
    for name, more in dense.items():
        put("config", name, compact({**LLAMA, **more, "model_type": name}))
    grouped = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    grouped |= {"n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 0}
    latent = {**LLAMA, **grouped, "q_lora_rank": None, "kv_lora_rank": 32, "v_head_dim": 16}
    latent |= {"qk_nope_head_dim": 32, "qk_rope_head_dim": 8, "rope_scaling": yarn}
    put("config", "deepseek_v3", compact({**latent, "model_type": "deepseek_v3"}))
    limited = {"topk_method": "group_limited_greedy", "q_lora_rank": 16, "mlp_bias": True}
    put("config", "deepseek_v2", compact({**latent, **limited, "model_type": "deepseek_v2"}))
    glm = {"use_qk_norm": True, "norm_topk_prob": False, "routed_scaling_factor": 2.5}
    put("config", "glm4_moe", compact({**LLAMA, **grouped, **glm, "model_type": "glm4_moe"}))
    tables = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": None}
    text = {**LLAMA, "model_type": "gemma3_text", "rope_parameters": tables}
    put("config", "gemma3", compact({"model_type": "gemma3", "text_config": text}))
    keys = {"global_head_dim": 32, "num_kv_shared_layers": 1, "attention_k_eq_v": True}
    inputs = {"hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 8}
    gemma4 = {**LLAMA, **keys, **inputs, "num_hidden_layers": 3, "model_type": "gemma4_text"}
    gemma4["layer_types"] = ["sliding_attention", "full_attention", "full_attention"]
    put("config", "gemma4_text", compact(gemma4))
    some = {"enable_moe_block": True, "top_k_experts": 2, "moe_intermediate_size": 32}
    shapes = {"per_layer_config": {"0": {"head_dim": 32, "num_key_value_heads": 2}}}
    text = {**LLAMA, **some, **shapes, "num_experts": 4, "hidden_size_per_layer_input": 0}
    text |= {"final_logit_softcapping": 30.0, "use_bidirectional_attention": "vision"}
    put("config", "gemma4", compact({"model_type": "gemma4", "text_config": text}))
    lightning = {"num_hidden_layers": 2, "linear_attn_alpha_factor": 2, "mlp_beta_factor": 0.5}
    lightning["layer_types"] = ["linear_attention", "full_attention"]
    put("config", "minimax", compact({**routed, **lightning, "model_type": "minimax"}))
    sinks = {"num_hidden_layers": 2, "swiglu_limit": 5.5, "sliding_window": 8}
    sinks["quantization_config"] = {"quant_method": "mxfp4"}
    put("config", "gpt_oss", compact({**routed, **sinks, "model_type": "gpt_oss"}))
    backbone = {"expand": 2, "state_size": 8, "conv_kernel": 4, "use_bias": True}
    spaces: dict[str, dict[str, Any]] = {
        "mamba": {"time_step_rank": "auto"},
        "falcon_mamba": {"time_step_rank": 4, "mixer_rms_eps": 1e-5},
        "mamba2": {"num_heads": 4, "n_groups": 2, "head_dim": 16},
    }
    for name, more in spaces.items():
        put("config", name, compact({**LLAMA, **backbone, **more, "model_type": name}))
    limits = {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    limited = {**LLAMA, **backbone, **spaces["mamba2"], **limits, "model_type": "mamba2"}
    put("config", "mamba2_limits", compact(limited))
    mixed_layers = {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2}
    granite = {"mamba_n_heads": 4, "mamba_d_head": "auto", "shared_intermediate_size": 32}
    hybrid_granite = {**routed, **mixed_layers, **granite, "model_type": "granitemoehybrid"}
    put("config", "granitemoehybrid", compact(hybrid_granite))
    short = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "conv_L_cache": 3}
    widths = {"block_multiple_of": 8, "block_ffn_dim_multiplier": 1.3, "block_ff_dim": 48}
    put("config", "lfm2", compact({**LLAMA, **short, **widths, "model_type": "lfm2"}))
    listed = {"full_attn_idxs": [0], "tie_embedding": False, "conv_bias": True}
    put("config", "lfm2_numbers", compact({**LLAMA, **listed, "model_type": "lfm2"}))
    sparse = {**routed, **short, "num_dense_layers": 1, "routed_scaling_factor": 2.0}
    put("config", "lfm2_moe", compact({**sparse, "model_type": "lfm2_moe"}))
    rhythm = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 3}
    selective = {"mamba_dt_rank": "auto", "mamba_d_state": 4, "mamba_expand": 2}
    put("config", "jamba", compact({**routed, **rhythm, **selective, "model_type": "jamba"}))
    letters = {"hybrid_override_pattern": "M*-E", "num_hidden_layers": 4, "mlp_hidden_act": "relu2"}
    heads = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "moe_latent_size": 32}
    put("config", "nemotron_h", compact({**routed, **letters, **heads, "model_type": "nemotron_h"}))
    named = {"layers_block_type": ["linear_attention", "moe"], "num_hidden_layers": 2}
    put("config", "nemotron_h_list", compact({**routed, **named, "model_type": "nemotron_h"}))
    scales = {
        "ssm_multipliers": [1, 2, 0.5, 1, 1],
        "mlp_multipliers": [0.5, 2],
        "key_multiplier": 2,
    }
    spread = {"mamba_d_ssm": None, "mamba_d_head": "auto", "mamba_n_heads": 4, **scales}
    put("config", "falcon_h1", compact({**LLAMA, **spread, "model_type": "falcon_h1"}))
    put("config", "fp8", compact({**LLAMA, "quantization_config": FP8}))
    put("config", "map", compact({**LLAMA, "quantization": width_map(4)}))
    mixed = {"group_size": 64, "bits": 4, "model.norm": False, "lm_head": True, "x": {"bits": 8}}
    put("config", "mixed_map", compact({**LLAMA, "quantization": mixed}))
    manifest = {"model.norm": {"bits": 4, "group_size": 64, "weight_shape": [8, 4]}}
    nested = {"quantization": {"tensor_quantization_manifest": manifest}}
    put("config", "manifest", compact({**LLAMA, **nested}))
    put("config", "non_finite", '{"a":[Infinity,-Infinity,NaN,{"__float__":"NaN"}],"b":"NaN"}')
    put("config", "numbers", "[0,-0,1.5,1e-7,18446744073709551615,-9223372036854775808,1e400]")
    put("config", "strings", '["","\\u0000","\\ud83d\\ude00","\\"\\\\\\/\\b"]')


def files() -> None:
    config = section("c", compact(LLAMA))
    text, size = header({name: ("F16", shape) for name, shape in SHAPES.items()})
    put("file", "plain", config + section("m", text, size))
    first, first_size = header({"model.norm.weight": ("F16", [HIDDEN])})
    second, second_size = header(
        {name: ("F16", shape) for name, shape in SHAPES.items() if name != "model.norm.weight"}
    )
    shard_of = dict.fromkeys(SHAPES, "y.safetensors") | {"model.norm.weight": "x.safetensors"}
    index = section("i", compact({"weight_map": shard_of}))
    shards = section("x", first, first_size) + section("y", second, second_size)
    put("file", "shards", config + index + shards)
    text, size = header(quantized(4))
    mlx = section("c", compact({**LLAMA, "quantization": width_map(4)}))
    put("file", "mlx", mlx + section("m", text, size))
    jang = section("j", compact({"format": "jang", "format_version": "2.0"}))
    put("file", "jang", mlx + jang + section("m", text, size))
    codes = {name: ("F8_E4M3", shape) for name, shape in SHAPES.items() if len(shape) == 2}
    scales = {
        f"{name}_scale_inv": ("F32", [-(-shape[0] // 16), -(-shape[1] // 24)])
        for name, (_, shape) in codes.items()
    }
    plain = {name: ("F16", shape) for name, shape in SHAPES.items() if name not in codes}
    fp8_text, fp8_size = header({**codes, **scales, **plain})
    fp8 = section("c", compact({**LLAMA, "quantization_config": FP8}))
    put("file", "fp8", fp8 + section("m", fp8_text, fp8_size))
    document = {"format": "jang", "format_version": "1.1", "quantization": {"block_size": GROUP}}
    put("file", "v1", config + section("j", compact(document)) + v1_weights())
    put("file", "truncated", config + section("m", text, size - 1))


def v1_weights() -> bytes:
    """The shards of JANG 1.1, with 4 bits: widths and shapes are payloads."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    payload = b""
    for name, shape in SHAPES.items():
        if len(shape) == 1:
            tensors[name] = ("F16", shape)
            payload += bytes(2 * shape[0])
            continue
        base = name.removesuffix(".weight")
        weights = shape[0] * shape[1]
        tensors[f"{base}.qweight"] = ("U8", [weights // 2])
        tensors[f"{base}.scales"] = ("F16", [weights // GROUP])
        tensors[f"{base}.zeros"] = ("F16", [weights // GROUP])
        tensors[f"{base}.bits"] = ("U8", [1])
        tensors[f"{base}.shape"] = ("I64", [2])
        payload += bytes(weights // 2 + 4 * (weights // GROUP)) + b"\x04"
        payload += b"".join(axis.to_bytes(8, "little") for axis in shape)
    text, size = header(tensors)
    assert len(payload) == size
    return section("m", text, payload)


def shard_bytes(tensors: list[dict[str, Any]]) -> int:
    """Of the file that a plan's tensors make: header, padded to 64, and payloads."""
    written: list[tuple[str, str, list[int], int]] = []
    for tensor in tensors:
        shape, path = tensor["shape"], tensor["path"]
        if "bits" not in tensor:
            written.append((tensor["name"], tensor["dtype"], shape, tensor["bytes"]))
            continue
        codes = [*shape[:-1], shape[-1] * tensor["bits"] // 32]
        groups = [*shape[:-1], shape[-1] // tensor["group_size"]]
        written.append((f"{path}.weight", "U32", codes, 4 * math.prod(codes)))
        for part in ("scales", "biases"):
            written.append((f"{path}.{part}", "F16", groups, 2 * math.prod(groups)))
    place = 0
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    for name, dtype, shape, size in sorted(
        written, key=lambda row: (row[3] % 64 != 0, row[1] != "U32", row[0])
    ):
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    return -(-(8 + len(compact(entries))) // 64) * 64 + place


def plan_files() -> None:
    head: dict[str, Any] = {
        "name": "lm_head.weight",
        "path": "lm_head",
        "source": "lm_head.weight",
        "source_dtype": "F16",
        "shape": [VOCAB, HIDDEN],
        "role": "head",
        "bits": 4,
        "group_size": GROUP,
        "bytes": VOCAB * (HIDDEN // 2 + 4),
    }
    norm = {
        "name": "model.norm.weight",
        "path": "model.norm",
        "source": "model.norm.weight",
        "source_dtype": "F16",
        "shape": [HIDDEN],
        "role": "other",
        "dtype": "F16",
        "bytes": 2 * HIDDEN,
    }
    shards = [
        {"file": f"model-0000{i}-of-00002.safetensors", "bytes": shard_bytes([t]), "tensors": [t]}
        for i, t in enumerate((head, norm), start=1)
    ]
    plan: dict[str, Any] = {
        "profile": "uniform-4",
        "dtype": "F16",
        "tied_head": False,
        "parameters": 288,
        "shard_bytes": 100,
        "shards": shards,
        "target_bits": 4.0,
        "warnings": [],
    }
    options: dict[str, Any] = {
        "method": "rtn",
        "profile": "uniform-4",
        "shard_bytes": 100,
        "rules": [],
        "losses": {},
        "lattices": {},
    }
    config = {"name": "config.json", "bytes": 9, "sha256": "a" * 64}
    document: dict[str, Any] = {
        "schema": "jang.plan-file/2",
        "checksum": "00000000",
        "generator": {"name": "jang-tools", "version": "1.0"},
        "source": {"name": "tiny", "revision": "", "files": [config]},
        "options": options,
        "plan": plan,
    }
    put("plan_file", "profile", compact(document))
    sized = {
        **{key: value for key, value in options.items() if key != "profile"},
        "bits": 4.5,
        "dtype": "F16",
        "group_size": 32,
        "router_bits": 8,
        "expert_floor": 3,
        "rules": ["*.a=4:32", "b=none"],
        "losses": {"lm_head": {"errors": [{"bits": 4, "group_size": 32, "error": 0.1}]}},
        "lattices": {"lm_head": {"formats": [{"bits": 4, "group_size": 32, "share": 1.0}]}},
    }
    floor = {"name": "head", "wanted": 4, "bits": 3, "modules": 1, "binding": 0}
    allocation = {
        "requested_bits": 4.5,
        "requested_bytes": 300,
        "lowest_bytes": 100,
        "highest_bytes": 400,
        "measured": True,
        "floors": [floor],
    }
    source = {**document["source"], "heads_equal": False, "revision": "abc"}
    statistics = {"file": "a.stats", "sha256": "b" * 64, "modules": 1}
    full = {**document, "options": sized, "source": source, "statistics": statistics}
    put("plan_file", "sized", compact({**full, "plan": {**plan, "allocation": allocation}}))
    calibration = {
        "text": "builtin",
        "sha256": "c" * 64,
        "tokens_sha256": "d" * 64,
        "asked_sequences": 256,
        "sequences": 128,
        "tokens": 512,
        "streams": 2,
        "level": "x86_avx2",
    }
    solved = {**document, "options": {**options, "method": "gptq"}, "calibration": calibration}
    put("plan_file", "solved", compact(solved))


def statistics() -> None:
    metadata = {
        "format": "jang-statistics",
        "version": "1",
        "cap_rule": "20 x median |x|^2 of the sequence, position 0 left out",
        "model_sha256": "a" * 64,
        "tokenizer_sha256": "b" * 64,
        "text_sha256": f"{'c' * 64},{'d' * 64}",
        "sequences": "2",
        "tokens": "64",
    }
    shapes: dict[str, dict[str, tuple[str, list[int]]]] = {
        "matrix": {"a.sum_x2": ("F64", [3]), "a.count": ("I64", [1])},
        "experts": {"a.sum_x2": ("F64", [2, 3]), "a.count": ("I64", [2])},
        "hessian": {"a.sum_x2": ("F64", [3]), "a.count": ("I64", [1]), "a.H": ("F32", [6])},
    }
    for name, tensors in shapes.items():
        text, size = header(tensors)
        text = '{"__metadata__":' + compact(metadata) + "," + text[1:]
        put("statistics", name, text.encode() + b"\n$$" + bytes(size))


def levels() -> None:
    for check in range(17):
        put("levels", f"check_{check:02}", bytes([check, *range(check, check + 40)]))


def templates() -> None:
    texts = {
        "turns": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
        "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ bos_token }}",
        "macro": "{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ f('a') ~ f(v_a) }}",
        "state": "{% set ns = namespace(x='ab') %}{% for i in range(9) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x[1:] }}",
        "methods": "{{ 'a-b'.split('-') | join(', ') }}{{ 'a'.replace('a', 'b') * 3 }}",
        "formats": "{{ '%s %05d' % ('a', 3) }}{{ '{} {:>5}'.format('a', 1) }}",
    }
    for name, text in texts.items():
        put("template", name, compact({"template": text, "variables": {"a": "b"}}))


def tokenizers() -> None:
    decoder = {"257": {"content": "<e>", "special": True, "lstrip": True}}
    config = {"bos_token": "<s>", "eos_token": {"content": "<e>"}, "added_tokens_decoder": decoder}
    put("tokenizer", "added", compact({"tokenizer_config": config, "text": "a <e>"}))
    flags = {**config, "add_bos_token": True, "add_eos_token": False}
    put("tokenizer", "flags", compact({"tokenizer_config": flags, "text": "a"}))
    chat = {**config, "chat_template": "{{ messages[0].content }}<e>"}
    generation = {"eos_token_id": [1, 2]}
    put("tokenizer", "chat", compact({"tokenizer_config": chat, "generation_config": generation}))
    words = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    whole = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None}
    whole |= {"post_processor": None, "decoder": None, "model": words}
    put("tokenizer", "words", compact({"tokenizer": whole, "text": "b"}))
    prefix = {"type": "Prepend", "prepend": "_"}
    llama = {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}
    put(
        "tokenizer",
        "llama",
        compact({"tokenizer": {**whole, "normalizer": prefix}, "tokenizer_config": llama}),
    )


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
}


def gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in GGUF_NAMES:
        return GGUF_NAMES[module] + ".weight"
    part = module.removeprefix("model.layers.0.")
    short = part.split(".")[-1].removesuffix("_proj")
    kind = "attn" if part.startswith("self_attn") else "ffn"
    return f"blk.0.{GGUF_NAMES.get(part, f'{kind}_{short}')}.weight"


def foreign() -> None:
    """Documents of the Python targets, which make files of them."""
    keys = [
        ["general.architecture", 8, "llama"],
        ["general.file_type", 4, 1],
        ["llama.block_count", 4, 1],
        ["llama.rope.freq_base", 6, 10000.0],
        ["tokenizer.ggml.scores", 9, [6, [0.5, 1.5]]],
        ["tokenizer.ggml.tokens", 9, [8, ["a", "b"]]],
    ]
    for kind, number in {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}.items():
        tensors = [
            [gguf_name(name), shape[::-1], number if len(shape) == 2 else 0, 0, 0]
            for name, shape in SHAPES.items()
        ]
        put("gguf", kind, compact({"version": 3, "keys": keys, "tensors": tensors, "tail": 0}))
    aligned = [["general.alignment", 4, 64], ["a", 0, 1], ["b", 7, 1], ["c", 12, 0.5]]
    small = [["a", [256], 12, 0, 1], ["b", [2, 2, 2], 0, 0, 1]]
    put("gguf", "aligned", compact({"version": 2, "keys": aligned, "tensors": small, "tail": 5}))
    magic = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIB", 1, b"a", 7, 1)
    put("gguf", "bytes", magic)

    modules = ["blk.0.attn_q.weight", "blk.0.ffn_down.weight", "token_embd.weight"]
    older = [[name, 3, HIDDEN, 1] for name in modules]
    put("imatrix", "older", compact({"entries": older, "dataset": "prose.txt"}))
    put("imatrix", "oldest", compact({"entries": older[:1]}))
    sums = [[f"{name}.in_sum2", [HIDDEN, 1], 0, 0, 1] for name in modules]
    counts = [[f"{name}.counts", [1, 1], 0, 0, 1] for name in modules]
    about = [["general.type", 8, "imatrix"], ["imatrix.datasets", 9, [8, ["prose.txt"]]]]
    put("imatrix", "gguf", compact({"keys": about, "tensors": [*sums, *counts]}))

    for bits in (2, 3, 4, 8):
        settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": False}
        arrays: dict[str, list[Any]] = {}
        for name, shape in SHAPES.items():
            module = name.removesuffix(".weight")
            if not module.endswith("_proj") or shape[0] * bits % 32:
                arrays[name] = ["F16", shape, 1]
                continue
            rows, columns = shape
            arrays[f"{module}.qweight"] = ["I32", [columns * bits // 32, rows], 7]
            arrays[f"{module}.qzeros"] = ["I32", [columns // GROUP, rows * bits // 32], 8]
            arrays[f"{module}.scales"] = ["F16", [columns // GROUP, rows], 1]
            arrays[f"{module}.g_idx"] = ["I32", [columns], 0]
        config = {**LLAMA, "quantization_config": {**settings, "sym": True}}
        put("gptq", f"bits_{bits}", compact({"config": config, "tensors": arrays}))
        if bits == 4:
            both = {"config": LLAMA, "settings": {"bits": bits, "group_size": -1}}
            put("gptq", "settings", compact({**both, "tensors": arrays}))
            one = {
                name: [dtype, [1, shape[1]], kind]
                if name.endswith((".qzeros", ".scales"))
                else [dtype, shape, kind]
                for name, (dtype, shape, kind) in arrays.items()
            }
            beyond = {"config": LLAMA, "settings": {"bits": bits, "group_size": 1 << 64}}
            put("gptq", "group_beyond_64_bits", compact({**beyond, "tensors": one}))
            longest = {**arrays, "model.layers.0.mlp.down_proj.qzeros": ["I32", [0, 1 << 62], 8]}
            put("gptq", "empty_and_long", compact({"config": config, "tensors": longest}))
            surplus = {**arrays, "\n": ["F16", [HIDDEN], 1]}
            put("gptq", "control_in_name", compact({"config": config, "tensors": surplus}))


def readers() -> None:
    for path in sorted((CORPUS / "header").iterdir()):
        put("safetensors", path.name, path.read_bytes())
    raw = compact({"a": ENTRY}).encode()
    put("safetensors", "framed", b"\0" + struct.pack("<Q", len(raw)) + raw + bytes(4))


def main() -> None:
    headers()
    indexes()
    configs()
    files()
    plan_files()
    statistics()
    levels()
    templates()
    tokenizers()
    foreign()
    readers()


if __name__ == "__main__":
    main()
