"""What llama.cpp calls the tensors of the models that are read here, and in which order rows lie.

The map is by the file's own names, ``blk.N.attn_q.weight``; importance matrices use the same ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jang_tools.foreign.reference import EMBEDDING, HEAD, Reference

# general.architecture -> model types of the reference that it may stand for.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "llama": ("llama", "mistral", "mixtral"),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "qwen3moe": ("qwen3_moe",),
}
# Rotary pairs lie side by side in the rows of these, half a head apart in Hugging Face's.
INTERLEAVED = ("llama",)

_TOP = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "output.weight": HEAD,
}
_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_STACKS = {
    "ffn_gate_exps": ("gate_proj",),
    "ffn_up_exps": ("up_proj",),
    "ffn_down_exps": ("down_proj",),
    "ffn_gate_up_exps": ("gate_proj", "up_proj"),  # gate rows before up rows, in each expert
}
_EXPERT = {"ffn_gate": "gate_proj", "ffn_up": "up_proj", "ffn_down": "down_proj"}
_BLOCK = re.compile(r"blk\.(?P<layer>0|[1-9]\d{0,4})\.(?P<rest>.+)\.(?P<kind>weight|bias)")
_ONE_EXPERT = re.compile(r"(?P<module>ffn_gate|ffn_up|ffn_down)\.(?P<expert>0|[1-9]\d{0,4})")
# Tables that follow from the configuration.
_DERIVED = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")


@dataclass(frozen=True)
class Place:
    """Where a tensor of the file goes: one plain ``name``, or a stack of experts.

    ``interleaved``: heads whose rows must be put back in Hugging Face's order, 0 for none.
    """

    name: str = ""
    layer: int = -1
    parts: tuple[str, ...] = ()
    interleaved: int = 0


def is_derived(name: str) -> bool:
    """Whether a tensor repeats what the configuration says."""
    return _DERIVED.fullmatch(name) is not None


def place_of(name: str, architecture: str, reference: Reference) -> Place | None:
    """Where the tensor ``name`` of a file goes, or None if no model that is read here has it."""
    if name in _TOP:
        return Place(_TOP[name])
    block = _BLOCK.fullmatch(name)
    if block is None:
        return None
    layer, rest, kind = int(block["layer"]), block["rest"], block["kind"]
    if rest in _STACKS and kind == "weight":
        return Place(layer=layer, parts=_STACKS[rest])
    one = _ONE_EXPERT.fullmatch(rest)
    if one is not None and kind == "weight":  # files from before experts were stacked
        return Place(reference.expert_name(layer, int(one["expert"]), _EXPERT[one["module"]]))
    module = reference.router if rest == "ffn_gate_inp" else _MODULES.get(rest)
    if module is None:
        return None
    heads = {"attn_q": reference.heads, "attn_k": reference.kv_heads}.get(rest, 0)
    return Place(
        f"model.layers.{layer}.{module}.{kind}",
        interleaved=heads if architecture in INTERLEAVED else 0,
    )
