"""What a foreign model must consist of: the tensors of the reference directory, in one spelling.

The reference says which tensors there are and how large, which holds a foreign file to the shapes
of a model that is known to run. Checkpoints spell experts in three ways (one tensor for each,
fused, stacked); here each expert has its own three matrices, as most files have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jang_tools.errors import FormatError
from jang_tools.foreign.faults import malformed, shown
from jang_tools.inspect import InspectedTensor, inspect
from jang_tools.json_file import read_json_object

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_EXPERT_PARTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
# Model types whose routed block is called block_sparse_moe, and what its router is called there.
_SPARSE_ROUTERS = {"mixtral": "gate", "phimoe": "gate", "granitemoe": "router.layer"}
_LINEAR_PARTS = {"input_linear": "gate_up_proj", "output_linear": "down_proj"}
# Buffers that old checkpoints carry and nothing reads.
_BUFFER = re.compile(r".*\.(rotary_emb\.inv_freq|position_ids)")
_STACK = re.compile(
    r"(?P<block>.*)\.(?:(?:experts|switch_mlp)\.(?P<part>\w+_proj)(?:\.weight)?"
    r"|(?P<linear>input_linear|output_linear)\.weight)"
)
# Names of a sparse block's router in memory, which some writers keep.
_ROUTER = re.compile(r"\.(?:mlp\.(?:gate|router)|block_sparse_moe\.router)\.weight")
# How this program and others write down that weights are quantized.
_QUANTIZATION = ("quantization", "quantization_config", "compression_config")
_COUNT_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """``tensors``: shapes by plain name. ``config``: config.json without its quantization."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Shape]

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def heads(self) -> int:
        return self._count("num_attention_heads") or 1

    @property
    def kv_heads(self) -> int:
        return self._count("num_key_value_heads") or self.heads

    def _count(self, key: str) -> int | None:
        value = self.config.get(key)
        return value if isinstance(value, int) and value > 0 else None

    def expert_name(self, layer: int, expert: int, part: str) -> str:
        """Plain name of one expert's matrix; ``part``: gate_proj, up_proj or down_proj."""
        return _expert_name(self.model_type, f"model.layers.{layer}.mlp", expert, part)

    @property
    def router(self) -> str:
        """The module of a layer that chooses experts."""
        router = _SPARSE_ROUTERS.get(self.model_type)
        return "mlp.gate" if router is None else f"block_sparse_moe.{router}"

    @property
    def routed_block(self) -> str:
        """The module of a layer that holds its router and experts."""
        return self.router.partition(".")[0]

    def check(self, file: str, found: Mapping[str, Shape], sources: Mapping[str, str]) -> None:
        """Holds the shapes of a foreign file against the reference's.

        ``sources``: what the file itself calls a tensor. Raises FormatError for the first that is
        missing, too much or of another shape. A head that only one side has is judged by the
        caller, for it depends on the file's rule about tied ones.
        """
        for name, shape in found.items():
            source = sources.get(name, name)
            if name not in self.tensors:
                raise malformed(
                    file,
                    f"expected no such tensor, for {self.path.name} has no {shown(name)}",
                    code="extra_tensor",
                    tensor=source,
                )
            if shape != self.tensors[name]:
                raise malformed(
                    file,
                    f"expected shape {list(self.tensors[name])}, that of {shown(name)} in"
                    f" {self.path.name}, found {list(shape)}",
                    code="tensor_shape",
                    tensor=source,
                )
        missing = [name for name in self.tensors if name not in found]
        if missing:
            raise malformed(
                file,
                f"expected {len(self.tensors)} tensors, found {len(found)}: {len(missing)} of"
                f" {self.path.name} are missing, the first of them {shown(missing[0])}",
                code="missing_tensor",
                tensor=missing[0],
            )


def read_reference(path: Path) -> Reference:
    """Tensors and configuration of a model directory, from its headers.

    Raises what `inspect` raises, and FormatError for a configuration that lacks its numbers.
    """
    config = read_json_object(path / "config.json")
    for key in _COUNT_KEYS[:3]:
        value = config.get(key)
        if not isinstance(value, int) or value < 1:
            raise FormatError(
                f"{path.name}/config.json: {key}: expected a positive number, found {value!r:.40}",
                code="config_value",
            )
    model_type = str(config.get("model_type", ""))
    tensors: dict[str, Shape] = {}
    for tensor in inspect(path).tensors:
        tensors.update(_plain_tensors(model_type, tensor))
    return Reference(path, plain_config(config), tensors)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same model with float32 weights and without quantization."""
    plain = {key: value for key, value in config.items() if key not in _QUANTIZATION}
    for key in ("dtype", "torch_dtype"):
        if key in plain:
            plain[key] = "float32"
    return plain


def _plain_tensors(model_type: str, tensor: InspectedTensor) -> Iterator[tuple[str, Shape]]:
    if _BUFFER.fullmatch(tensor.name):
        return
    name = tensor.name + (".weight" if tensor.bits is not None else "")
    stack = _STACK.fullmatch(name)
    if stack is None or len(tensor.shape) != 3:
        router = _SPARSE_ROUTERS.get(model_type)
        if router is not None:
            name = _ROUTER.sub(f".block_sparse_moe.{router}.weight", name)
        yield name, tensor.shape
        return
    count, rows, columns = tensor.shape
    part = stack["part"] or _LINEAR_PARTS[stack["linear"]]
    fused = part == "gate_up_proj"
    for expert in range(count):
        for one in ("gate_proj", "up_proj") if fused else (part,):
            shape = (rows // 2 if fused else rows, columns)
            yield _expert_name(model_type, stack["block"], expert, one), shape


def _expert_name(model_type: str, block: str, expert: int, part: str) -> str:
    if model_type in _SPARSE_ROUTERS:
        block = block.removesuffix(".mlp").removesuffix(".block_sparse_moe") + ".block_sparse_moe"
    if model_type in ("mixtral", "phimoe"):
        part = _EXPERT_PARTS.get(part, part)
    return f"{block}.experts.{expert}.{part}.weight"
