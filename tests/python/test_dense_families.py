"""The dense families beyond llama: gemma3 inside its multimodal wrapper, keys that move logits.

What every family must do is in test_every_family*.py, logits of the sources in test_parity.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from families import assert_noticed
from jang_tools import convert, verify
from jang_tools.errors import UnsupportedError
from jang_tools.model import load_model
from jang_tools.plan import plan
from stock import assert_agreement, convert_by_stock

# The case that stands for a family, and what stock mlx-lm needs to be comparable: no window before
# the end of the test (it has none), an embedding factor that needs no rounding.
# All inputs of matrices are multiples of 64, the root of the hidden size is exact in 16 bits.


def wrapped(case: tiny.Case, folder: Path, prefix: str, head: str = "lm_head.weight") -> list[str]:
    """The multimodal checkpoint around a text model, in one of the two spellings of names.

    Returns the names of its tensors.
    """
    folder.mkdir(parents=True)
    tower = prefix.removesuffix("language_model.") if prefix.startswith("model.") else ""
    values = list(tiny.tensors(replace(case, prefix=prefix)))
    vision = np.zeros((4, 4), dtype=np.float32)
    layer = f"{tower}vision_tower.vision_model.encoder.layers.0"
    values += [(f"{layer}.self_attn.q_proj.weight", vision)]
    values += [(f"{tower}multi_modal_projector.mm_input_projection_weight", vision)]
    entries = [
        (name.replace("lm_head.weight", head), case.dtype, v.shape, tiny.encode(v, case.dtype))
        for name, v in values
    ]
    tiny.write_safetensors(folder / "model.safetensors", entries)
    text_config = tiny.config(case, "old")
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "torch_dtype": text_config.pop("torch_dtype"),
        "eos_token_id": text_config.pop("eos_token_id"),
        "image_token_index": 262144,
        "text_config": text_config,
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 4},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return [entry[0] for entry in entries]


PREFIXES = ["language_model.model.", "model.language_model."]


@pytest.mark.parametrize("name", ["gemma3", "gemma3-untied"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_gemma3_is_its_language_part(name: str, prefix: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    tiny.write_checkpoint(case, tmp_path / "flat")
    head = "language_model.lm_head.weight" if prefix == PREFIXES[0] else "lm_head.weight"
    wrapped(case, tmp_path / "wrapped", prefix, head)
    tokens = tiny.tokens()[0]
    expected = load_model(tmp_path / "flat", "exact")(tokens)
    source = load_model(tmp_path / "wrapped", "exact")
    assert np.array_equal(source(tokens), expected)
    assert source.core.eos_ids == [2, 3]

    options: dict[str, Any] = {"profile": "JANG_4L", "method": "rtn", "group_size": 32}
    notices = [
        "multi_modal_projector: 1 tensors left out; only the language model is written",
        "vision_tower: 1 tensors left out; only the language model is written",
    ]
    assert plan(tmp_path / "wrapped", profile="JANG_4L", group_size=32).warnings == notices
    result = convert(tmp_path / "wrapped", tmp_path / "out", **options)
    assert result.warnings[:2] == notices
    assert verify(tmp_path / "out", against=tmp_path / "wrapped").ok
    convert(tmp_path / "flat", tmp_path / "same", **options)
    out, same = (load_model(tmp_path / name, "exact") for name in ("out", "same"))
    assert np.array_equal(out(tokens), same(tokens))
    written = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert written["model_type"] == "gemma3_text"
    assert written["architectures"] == ["Gemma3ForCausalLM"]
    assert not {"text_config", "vision_config", "image_token_index"} & written.keys()
    if case.stock:
        assert_agreement(tmp_path / "out", prompt=tokens[:8].tolist(), count=16)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrapped_gemma3_is_planned_from_config_and_index(prefix: str, tmp_path: Path) -> None:
    names = wrapped(tiny.BY_NAME["gemma3"], tmp_path / "wrapped", prefix)
    expected = plan(tmp_path / "wrapped", profile="JANG_4L", group_size=32)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tmp_path / "wrapped" / "config.json", bare)
    found = plan(bare, profile="JANG_4L", group_size=32)
    assert [module.path for module in found.modules] == [m.path for m in expected.modules]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model.safetensors")}
    (bare / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    listed = plan(bare, profile="JANG_4L", group_size=32)
    assert [module.path for module in listed.modules] == [m.path for m in expected.modules]
    assert listed.bytes == expected.bytes


def test_stock_conversions_of_wrapped_gemma3_run_here(tmp_path: Path) -> None:
    wrapped(tiny.BY_NAME["gemma3"], tmp_path / "source", PREFIXES[0])
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"vocab_size": tiny.VOCABULARY}
    path.write_text(json.dumps(config), encoding="utf-8")
    convert_by_stock(tmp_path / "source", tmp_path / "stock")
    assert verify(tmp_path / "stock").ok
    assert_agreement(tmp_path / "stock", prompt=tiny.tokens()[0, :8].tolist(), count=16)


def test_other_wrappers_are_refused_by_name(tmp_path: Path) -> None:
    wrapped(tiny.BY_NAME["gemma3"], tmp_path / "source", PREFIXES[0])
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"model_type": "llava"}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UnsupportedError, match='"llava", a wrapper around "gemma3_text"'):
        load_model(tmp_path / "source")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("granite", {"attention_multiplier": 1.0}),
        ("granite", {"residual_multiplier": 1.0}),
        ("granite", {"embedding_multiplier": 1.0}),
        ("granite", {"logits_scaling": 1.0}),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
        ("gemma2-window", {"attn_logit_softcapping": None}),
        ("gemma2-window", {"final_logit_softcapping": None}),
        ("gemma2-window", {"sliding_window": None}),
        ("gemma2-window", {"query_pre_attn_scalar": 256}),
        ("gemma3", {"sliding_window_pattern": 4}),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        ("qwen2-window", {"max_window_layers": 0}),
        ("qwen3-window", {"use_sliding_window": False}),
    ],
)
def test_parity_notices_a_wrong_key(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """A check of the comparison with transformers: each key moves logits far beyond it."""
    assert_noticed(name, change, tmp_path / "wrong")
