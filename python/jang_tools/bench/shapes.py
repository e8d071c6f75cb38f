"""Shapes of well-known models, for synthetic ones of the same speed; no weights, no arithmetic.

A shape is a Llama-style stack: attention with grouped heads, RMSNorm, and a gated MLP or routed
experts. Only what decides the speed is here; vocabulary and head are those of the model that the
shape is named after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jang_tools.errors import ArgumentError

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Shape:
    """What decides how long a token takes."""

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

    def modules(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Path and shape of every module, matrices and norms, in the order of the layers."""
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

    @staticmethod
    def is_quantized(path: str, dims: tuple[int, ...]) -> bool:
        """Matrices and stacks of them, but for routers, which models keep as they are."""
        return len(dims) > 1 and not path.endswith(".mlp.gate")

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


SHAPES = {
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


def find_shape(name: str) -> Shape:
    """The shape of that name, or an ArgumentError that lists the names."""
    if name not in SHAPES:
        raise ArgumentError(f"shape: expected one of {', '.join(SHAPES)}, found '{name}'")
    return SHAPES[name]
