"""The table behind test_every_family*.py: one row a model type, and one for each variant of it
that converts in another way (experts or none, other layers, other positions).

A new family is covered by its row. A row says what cannot be known from the case itself; a test
fails for a model type without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_checkpoints as tiny
from jang_tools import convert
from jang_tools.errors import JangError
from jang_tools.model import load_model
from jang_tools.plan import Plan
from test_parity import stored
from tiny_case import Values

LENGTH = 64  # tokens of a calibration sequence

Tokens = npt.NDArray[np.int32]

COLUMNS = ["1L", "2S", "2M", "2L", "3S", "3M", "3L", "4S", "4M", "4L", "6M"]
PROFILES = [
    *(f"JANG_{name}" for name in [*COLUMNS, "3K", "4K", "5K", "6K"]),
    *(f"uniform-{bits}" for bits in (2, 3, 4, 5, 6, 8)),
    *(f"mixed_{pair}" for pair in ("2_6", "3_4", "3_6", "4_6")),
    *(f"tiered-{name}" for name in COLUMNS),
]


@dataclass(frozen=True)
class Row:
    """What is expected of one case of tiny_checkpoints."""

    name: str
    architecture: str  # its type in jang_config.json
    roles: str  # of what lies in layers, but norms
    config: Mapping[str, Any] = field(default_factory=dict)  # beside the case's
    # Likewise, in the shape that a text is read with, and the groups that divide its widths.
    readable: Mapping[str, Any] = field(default_factory=dict)
    group_size: int = 32
    stock: bool | None = None  # whether stock mlx-lm computes the same; None: what the case says
    # The divergence after gptq, at most this part of mse's on the same text; None where weights at
    # random make the model so sure of every token that there is none to see.
    gain: float | None = 0.9
    scarce: bool = False  # corrections of the choice may leave experts without tokens
    mixed: bool = True  # mixed_* profiles find the v_proj and down_proj that they are about
    routers: bool = False  # stock reads packed routers
    # Whether rounding moves logits a little; not where 8 bits of such weights at random move them
    # by a third of the largest, as they do inputs in fast precision.
    steady: bool = True
    # Last parts of matrices whose inputs are measured and that no profile quantizes: groups do not
    # divide them, or stock holds them as bare arrays.
    unpacked: tuple[str, ...] = ()
    # Experts' names have one spelling; have two, for which tiny_checkpoints draws other values.
    one_spelling: bool = False
    redrawn: bool = False
    # Ends of paths whose role does not follow from the innermost block that they lie in.
    part_roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def case(self) -> tiny.Case:
        case = tiny.BY_NAME[self.name]
        return replace(case, config={**case.config, **self.config})

    @property
    def has_stock(self) -> bool:
        return self.case.stock if self.stock is None else self.stock

    @property
    def all_roles(self) -> set[str]:
        return {"embedding", "other", *self.roles.split()} | (set() if self.case.tied else {"head"})

    @property
    def experts(self) -> bool:
        return "expert" in self.roles.split()

    @property
    def spellings(self) -> tuple[bool, ...]:
        """The values of Case.fused_experts that make a difference."""
        return (False, True) if self.experts and not self.one_spelling else (False,)

    @property
    def tokens(self) -> Tokens:
        """Past the first chunk, where layers work in chunks."""
        return tiny.long_tokens(self.case)[0] if self.case.long else tiny.tokens()[0]

    @property
    def fewer_profiles(self) -> list[tuple[str, str]]:
        return [pair for pair in FEW if self.mixed or not pair[0].startswith("mixed_")]

    def __str__(self) -> str:
        return self.name


# Profiles and methods that every family meets, of every kind of profile; widths differ in the
# others, and these all meet the first family of each architecture.
FEW = [
    ("JANG_1L", "mse"),
    ("JANG_2S", "rtn"),
    ("JANG_3M", "mse"),
    ("JANG_4K", "rtn"),
    ("mixed_2_6", "mse"),
    ("tiered-4M", "mse"),
    ("uniform-6", "rtn"),
]

DENSE = "attention mlp"
ROUTED = "attention router expert"
# The embedding factor is a root: stock rounds it otherwise unless it is exact.
EXACT_ROOT: Values = {
    "hidden_size": 256,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
# Widths that groups of 64 divide, and as many experts in each.
WIDE_MOE: Values = {"moe_intermediate_size": 64}
WIDE: Values = {"intermediate_size": 64, "num_experts": 8}
EVERY_LAYER: Values = {"num_hidden_layers": 4, "intermediate_size": 256}  # of qwen's hybrids
FOUR: Values = {"num_hidden_layers": 4}
LIGHTNING = dict.fromkeys(("qkv_proj", "output_gate", "out_proj"), "linear_attention")
# One branch a layer, which is called mixer whatever it is.
MIXERS = {
    **dict.fromkeys((f"mixer.{part}_proj" for part in "qkvo"), "attention"),
    **dict.fromkeys(("mixer.up_proj", "mixer.down_proj"), "mlp"),
}
# Every kind of layer, and all experts, so that corrections leave none without tokens.
ALL_EXPERTS: Values = {**FOUR, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1}

# The first of each architecture stands for it where all profiles are converted.
ROWS = [
    Row("llama", "transformer", DENSE),
    Row("mistral", "transformer", DENSE),
    Row("qwen2", "transformer", DENSE),
    Row("qwen3", "transformer", DENSE),
    # As stock, uniform profiles divide some of its matrices by groups of 64 alone.
    Row("granite", "transformer", DENSE, readable={"intermediate_size": 192}),
    Row("olmo2", "transformer", DENSE),
    Row("smollm3", "transformer", DENSE, gain=None),
    Row("gemma-bf16", "transformer", DENSE, config=EXACT_ROOT, stock=True, gain=None),
    # Stock has no windows here: one that no test's sequence leaves.
    Row("gemma2-window", "transformer", DENSE, config={"sliding_window": 128}, gain=None),
    # Stock needs a whole period of its layers.
    Row("gemma3", "transformer", DENSE, readable={"sliding_window_pattern": 2}, gain=None),
    Row(
        "gemma4",
        "transformer",
        DENSE,
        readable={"sliding_window": 24},
        part_roles={"per_layer_input_gate": "attention", "per_layer_projection": "attention"},
    ),
    Row("phi", "transformer", DENSE, mixed=False),
    Row("phi3", "transformer", DENSE),
    # Stock has the factors of long sequences at every length.
    Row("phi3-longrope", "transformer", DENSE, stock=False),
    Row("glm4", "transformer", DENSE),
    Row("cohere-qk-norm", "transformer", DENSE),
    Row(
        "cohere2",
        "transformer",
        DENSE,
        readable={"layer_types": ["sliding_attention", "full_attention"]},
    ),
    Row("qwen3-moe", "moe", ROUTED, readable=WIDE_MOE, group_size=64, routers=True),
    Row("qwen3-moe-sparse", "moe", f"{ROUTED} mlp", readable=FOUR),
    Row("mixtral", "moe", ROUTED, readable=WIDE, group_size=64, routers=True),
    Row(
        "qwen2-moe",
        "moe",
        f"{ROUTED} shared_expert",
        readable=WIDE_MOE,
        group_size=64,
        routers=True,
    ),
    Row(
        "olmoe",
        "moe",
        ROUTED,
        readable={"intermediate_size": 64},
        group_size=64,
        routers=True,
    ),
    Row("granitemoe", "moe", ROUTED, readable=WIDE, group_size=64, routers=True),
    Row("phimoe", "moe", ROUTED, readable=WIDE, group_size=64, routers=True),
    Row(
        "minimax-m2",
        "moe",
        ROUTED,
        # Enough of its 8 experts that corrections leave none without tokens.
        readable={
            "intermediate_size": 64,
            "shared_intermediate_size": 0,
            "num_experts_per_tok": 6,
        },
        group_size=64,
        routers=True,
    ),
    Row(
        "gpt-oss",
        "moe",
        ROUTED,
        readable={"sliding_window": 24},
        one_spelling=True,
        steady=False,
    ),
    Row(
        "gemma4-experts",
        "moe",
        f"{DENSE} router expert",
        readable={"sliding_window": 24},
        one_spelling=True,
    ),
    Row(
        "glm4-moe",
        "moe",
        f"{ROUTED} shared_expert mlp",
        scarce=True,
        unpacked=("gate",),
        redrawn=True,
    ),
    Row(
        "deepseek-v2",
        "moe",
        f"{ROUTED} shared_expert mlp",
        scarce=True,
        unpacked=("gate",),
        redrawn=True,
    ),
    Row(
        "deepseek-v3",
        "moe",
        f"{ROUTED} shared_expert mlp",
        scarce=True,
        unpacked=("gate",),
        redrawn=True,
    ),
    Row("mamba-biases", "mamba", "ssm", mixed=False),
    Row("falcon-mamba", "mamba", "ssm", mixed=False, unpacked=("dt_proj",)),
    Row("mamba2", "mamba", "ssm", mixed=False),
    Row("mamba2-groups", "mamba", "ssm", mixed=False),
    Row("qwen3-5", "hybrid_ssm", f"linear_attention {DENSE}", readable=EVERY_LAYER, group_size=64),
    Row(
        "qwen3-next",
        "hybrid_moe_ssm",
        f"linear_attention {ROUTED} shared_expert",
        readable={**EVERY_LAYER, **WIDE_MOE},
        group_size=64,
        redrawn=True,
    ),
    Row(
        "qwen3-5-moe",
        "hybrid_moe_ssm",
        f"linear_attention {ROUTED} shared_expert",
        readable={**EVERY_LAYER, **WIDE_MOE},
        group_size=64,
        redrawn=True,
    ),
    Row("lfm2", "hybrid_ssm", f"ssm {DENSE}", readable=FOUR, mixed=False),
    Row(
        "lfm2-moe",
        "hybrid_moe_ssm",
        f"ssm {ROUTED} mlp",
        readable={**FOUR, "num_experts_per_tok": 6},
    ),
    Row("jamba", "hybrid_moe_ssm", f"ssm {ROUTED} mlp", readable=FOUR, unpacked=("dt_proj",)),
    Row(
        "granitemoehybrid",
        "hybrid_moe_ssm",
        f"ssm {ROUTED} shared_expert",
        one_spelling=True,
    ),
    Row("granitemoehybrid-dense", "hybrid_ssm", f"ssm {DENSE}"),
    Row(
        "granitemoehybrid-groups",
        "hybrid_moe_ssm",
        f"ssm {ROUTED} shared_expert",
        one_spelling=True,
    ),
    Row(
        "nemotron-h",
        "hybrid_moe_ssm",
        f"ssm {ROUTED} shared_expert mlp",
        readable=ALL_EXPERTS,
        unpacked=("gate",),
        part_roles=MIXERS,
    ),
    Row(
        "nemotron-h-latent",
        "hybrid_moe_ssm",
        f"ssm {ROUTED} shared_expert",
        readable=ALL_EXPERTS,
        unpacked=("gate",),
        part_roles={
            **MIXERS,
            **dict.fromkeys(("fc1_latent_proj", "fc2_latent_proj"), "attention"),
        },
    ),
    Row("falcon-h1", "hybrid_ssm", f"ssm {DENSE}", readable=FOUR),
    Row("minimax", "hybrid_moe_ssm", f"linear_attention {ROUTED}", part_roles=LIGHTNING),
    Row(
        "minimax-window",
        "hybrid_moe_ssm",
        f"linear_attention {ROUTED}",
        readable={"sliding_window": None},
        part_roles=LIGHTNING,
        steady=False,
    ),
]
EXPERTS = [row for row in ROWS if len(row.spellings) > 1 and not row.redrawn]
FIRST_OF_ARCHITECTURE = {row.architecture: row.name for row in reversed(ROWS)}.values()


def write_readable(row: Row, folder: Path, **case: Any) -> None:
    """The row's checkpoint in the shape that a text can be read with; `case` as of tiny.Case."""
    changed = replace(row.case, **case)
    tiny.write_readable_checkpoint(changed, folder, **{**row.config, **row.readable})


def solve(source: Path, output: Path, text: Path, sequences: int, **options: Any) -> Any:
    """Converts by gptq with a short calibration."""
    return convert(
        source,
        output,
        method="gptq",
        calibration=text,
        calibration_sequences=sequences,
        **{
            "profile": "uniform-3",
            "threads": 2,
            "group_size": 32,
            "calibration_tokens": LENGTH,
            **options,
        },
    )


def jang_document(output: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((output / "jang_config.json").read_text("utf-8"))
    return document


def manifest(output: Path) -> dict[str, Any]:
    """Module paths to what is recorded of each quantized matrix."""
    return dict(jang_document(output)["quantization"]["tensor_quantization_manifest"])


def only_looked_up(planned: Plan, tied: bool) -> set[str]:
    """Of the planned modules, the tables that are no head."""
    tables = {module.path for module in planned.modules if module.role == "embedding"}
    heads = {"model.embed_tokens", "backbone.embeddings", "language_model.model.embed_tokens"}
    return tables - heads if tied else tables


def write_index(folder: Path, names: Iterable[str]) -> None:
    """A shard index without shards."""
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "m.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def assert_noticed(name: str, change: Mapping[str, Any], folder: Path, **case: Any) -> None:
    """A check of the comparison with transformers: the change moves logits far beyond it."""
    own = tiny.BY_NAME[name]
    spelling = case.pop("spelling", "new")
    wrong = replace(own, config={**own.config, **change}, **case)
    tiny.write_checkpoint(wrong, folder, spelling)
    reference = stored(name)
    found = load_model(folder, "exact")(reference["tokens"][0])
    expected = reference["logits"]
    assert np.abs(found - expected[0]).max() > 1e-2 * np.abs(expected).max()


def assert_refused(
    name: str, change: Mapping[str, Any], error: type[JangError], words: list[str], folder: Path
) -> None:
    """The changed config.json is refused in one line with these words."""
    tiny.write_checkpoint(tiny.BY_NAME[name], folder, "old")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), encoding="utf-8")
    try:
        load_model(folder)
    except error as caught:
        message = str(caught)
    else:
        raise AssertionError(f"{change}: not refused")
    assert all(word in message for word in ["config.json", *words]), message
    assert "\n" not in message
