"""Shapes of well-known models, for synthetic ones of the same speed; no weights, no arithmetic.

A shape is either the few numbers of a Llama-style stack, for which no compiled core is needed, or
any `config.json`, of which the core plans the tensors as for a conversion.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from jang_tools.errors import ArgumentError

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


class TensorShape(NamedTuple):
    """A tensor of a model. ``group``: None if it stays plain, as norms and routers do."""

    name: str
    dims: tuple[int, ...]  # logical: rows and columns, experts before them
    group: int | None


@dataclass(frozen=True)
class Shape:
    """A Llama-style stack: attention with grouped heads, RMSNorm, a gated MLP or routed experts."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    model_type: str = "llama"
    rope_theta: float = 500_000.0
    max_positions: int = 32_768
    experts: int = 0  # of every layer, in place of the MLP
    chosen: int = 0  # experts that a token passes
    expert_inner: int = 0

    def with_layers(self, layers: int | None) -> Shape:
        """The same shape with another number of layers; None changes nothing."""
        return self if layers is None else replace(self, layers=layers)

    def config(self) -> dict[str, Any]:
        """``config.json`` of an unquantized checkpoint of this shape."""
        architecture = {
            "llama": "LlamaForCausalLM",
            "mistral": "MistralForCausalLM",
            "qwen3_moe": "Qwen3MoeForCausalLM",
        }
        values: dict[str, Any] = {
            "architectures": [architecture[self.model_type]],
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "eos_token_id": 2,
        }
        if self.model_type == "mistral":
            values["sliding_window"] = None
        if self.experts:
            values |= {
                "num_experts": self.experts,
                "num_experts_per_tok": self.chosen,
                "moe_intermediate_size": self.expert_inner,
                "norm_topk_prob": True,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            }
        return values

    def tensors(self, bits: int | None, group_size: int) -> Iterator[TensorShape]:
        """Those of the model quantized to one width, or plain, in the order of the layers.
        ArgumentError if groups do not divide the rows."""
        for path, dims in self._modules():
            # Models keep their routers as they are.
            quantized = bits is not None and len(dims) > 1 and not path.endswith(".mlp.gate")
            columns = dims[-1]
            if quantized and columns % group_size != 0:
                raise ArgumentError(
                    f"group_size: {group_size} does not divide the {columns} columns of {self.name}"
                )
            yield TensorShape(f"{path}.weight", dims, group_size if quantized else None)

    def _modules(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, width, kv_width = self.hidden, self.heads * self.head_dim, self.kv_width
        yield "model.embed_tokens", (self.vocabulary, hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm", (hidden,)
            yield f"{prefix}.self_attn.q_proj", (width, hidden)
            yield f"{prefix}.self_attn.k_proj", (kv_width, hidden)
            yield f"{prefix}.self_attn.v_proj", (kv_width, hidden)
            yield f"{prefix}.self_attn.o_proj", (hidden, width)
            if self.model_type == "qwen3_moe":
                yield f"{prefix}.self_attn.q_norm", (self.head_dim,)
                yield f"{prefix}.self_attn.k_norm", (self.head_dim,)
            yield f"{prefix}.post_attention_layernorm", (hidden,)
            if self.experts:
                stack = f"{prefix}.mlp.switch_mlp"
                yield f"{prefix}.mlp.gate", (self.experts, hidden)
                yield f"{stack}.gate_proj", (self.experts, self.expert_inner, hidden)
                yield f"{stack}.up_proj", (self.experts, self.expert_inner, hidden)
                yield f"{stack}.down_proj", (self.experts, hidden, self.expert_inner)
                continue
            yield f"{prefix}.mlp.gate_proj", (self.inner, hidden)
            yield f"{prefix}.mlp.up_proj", (self.inner, hidden)
            yield f"{prefix}.mlp.down_proj", (hidden, self.inner)
        yield "model.norm", (hidden,)
        if not self.tied:
            yield "lm_head", (self.vocabulary, hidden)

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class ConfigShape:
    """Any model that can be planned from its ``config.json``."""

    name: str
    values: Mapping[str, Any]

    @property
    def model_type(self) -> str:
        return str(self.values.get("model_type"))

    @property
    def layers(self) -> int:
        return int(_stated_layers(self.values))

    def with_layers(self, layers: int | None) -> ConfigShape:
        """The first ``layers`` of them, with the kinds that lists name; None changes nothing."""
        if layers is None:
            return self
        values = dict(self.values) | {"num_hidden_layers": layers}
        for key, value in self.values.items():
            of_layers = isinstance(value, list) or key in _LAYER_NAMES
            if of_layers and value is not None and len(value) == self.layers:
                values[key] = value[:layers]
        return replace(self, values=values)

    def config(self) -> dict[str, Any]:
        """``config.json`` of an unquantized checkpoint of this shape."""
        return dict(self.values)

    def tensors(self, bits: int | None, group_size: int) -> Iterator[TensorShape]:
        """Those of the model quantized to one width, or plain, in the order of converted files.
        Groups are smaller where columns need it. Raises what planning raises."""
        from jang_tools import _core

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(self.values), encoding="utf-8")
            profile = f"uniform-{bits or 4}"
            plan = _core.plan_directory(folder, profile=profile, group_size=group_size)
        for tensor in plan.tensors:
            kept = bits is None or tensor.bits is None or tensor.role == "router"
            yield TensorShape(tensor.name, tensor.shape, None if kept else tensor.group_size)


# A list of layers' kinds, or a string with a letter for each.
_LAYER_NAMES = ("layers_block_type", "layer_types", "hybrid_override_pattern")


def _stated_layers(values: Mapping[str, Any]) -> Any:
    """``num_hidden_layers`` as it stands; where every layer has a name it need not."""
    count = values.get("num_hidden_layers")
    named = (values[key] for key in _LAYER_NAMES if isinstance(values.get(key), list | str))
    return len(next(named, ())) if count is None else count


AnyShape = Shape | ConfigShape


def read_shape(path: Path) -> ConfigShape:
    """The shape that a ``config.json``, or a directory with one, describes. ArgumentError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{file}: {error}", code="argument") from error
    count = _stated_layers(values) if isinstance(values, dict) else None
    if not isinstance(count, int) or count < 1:
        raise ArgumentError(
            f"{file}: expected num_hidden_layers of a language model", code="argument"
        )
    return ConfigShape(file.absolute().parent.name, values)


_QWEN3_5_9B = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "vocab_size": 248_320,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
        "mrope_interleaved": True,
    },
    "hidden_act": "silu",
    "attn_output_gate": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 2,
}

SHAPES: dict[str, AnyShape] = {
    shape.name: shape
    for shape in (
        Shape("llama-8b", 4096, 14336, 32, 32, 8, 128, 128_256),
        Shape("llama-1b", 2048, 8192, 16, 32, 8, 64, 128_256, tied=True),
        Shape("llama-70b", 8192, 28672, 80, 64, 8, 128, 128_256),
        Shape(
            "qwen-0.5b-like", 896, 4864, 24, 14, 2, 64, 151_936, tied=True, rope_theta=1_000_000.0
        ),
        Shape("mistral-7b", 4096, 14336, 32, 32, 8, 128, 32_000, model_type="mistral"),
        Shape(
            "qwen3-30b-a3b",
            2048,
            6144,
            48,
            32,
            4,
            128,
            151_936,
            model_type="qwen3_moe",
            rope_theta=1_000_000.0,
            experts=128,
            chosen=8,
            expert_inner=768,
        ),
        ConfigShape("qwen3.5-9b", _QWEN3_5_9B),
        Shape("tiny", 256, 512, 2, 4, 2, 64, 512, rope_theta=10_000.0, max_positions=8192),
        Shape(
            "tiny-moe",
            256,
            512,
            2,
            4,
            2,
            64,
            512,
            model_type="qwen3_moe",
            rope_theta=10_000.0,
            max_positions=8192,
            experts=16,
            chosen=4,
            expert_inner=128,
        ),
    )
}


def find_shape(name: str) -> AnyShape:
    """The shape of that name, or of that config file; an ArgumentError that lists the names."""
    if name in SHAPES:
        return SHAPES[name]
    if Path(name).exists():
        return read_shape(Path(name))
    raise ArgumentError(
        f"expected a config.json or one of {', '.join(SHAPES)}, found '{name}'",
        code="argument",
    )
