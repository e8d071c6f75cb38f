"""The dense families beyond llama as converted directories: every profile, every method, stock
mlx-lm, and gemma3 inside its multimodal wrapper.

Logits of the sources are compared with transformers in test_parity.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.errors import UnsupportedError
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.plan import plan
from test_mlx import PROFILES, assert_agreement

FAMILIES = ["qwen2", "qwen3", "granite", "olmo2", "smollm3", "gemma", "gemma2", "gemma3"]
# The case that stands for a family, and what stock mlx-lm needs to be comparable: no window before
# the end of the test (it has none), an embedding factor that needs no rounding.
CASES = {name: name for name in FAMILIES} | {"gemma2": "gemma2-window", "gemma": "gemma-bf16"}
# All inputs of matrices are multiples of 64, the root of the hidden size is exact in 16 bits.
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "head_dim": 64,
}

ROLES = {"attention", "mlp", "embedding", "head", "other"}


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


def case_of(family: str, **config: Any) -> tiny.Case:
    case = tiny.BY_NAME[CASES[family]]
    return replace(case, config={**case.config, **SHAPE, **config})


def without_window(case: tiny.Case) -> tiny.Case:
    if case.config.get("sliding_window") is None or case.model_type == "gemma3_text":
        return case
    return replace(case, config={**case.config, "sliding_window": 64})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_profile_is_planned_written_verified_and_run(family: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny.write_checkpoint(case_of(family, num_hidden_layers=2), source)
    tokens = tiny.tokens()[0, :6]
    for profile in PROFILES:
        out = tmp_path / profile
        planned = plan(source, profile=profile)
        assert {row.role for row in planned.roles} <= ROLES
        result = convert(source, out, profile=profile, method="rtn", threads=2)
        assert [line for line in result.warnings if "tokenizer" not in line] == planned.warnings
        assert result.bytes == planned.bytes
        report = verify(out, against=source)
        assert report.ok, (profile, report)
        assert np.isfinite(load_model(out, threads=2)(tokens)).all()
        shutil.rmtree(out)


@pytest.mark.parametrize("profile", ["JANG_2S", "JANG_3M", "mixed_2_6", "tiered-4M"])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_agrees(family: str, profile: str, tmp_path: Path) -> None:
    tiny.write_checkpoint(without_window(case_of(family)), tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", profile=profile, method="mse")
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    assert_agreement(tmp_path / "out", prompt=tiny.tokens()[0, :8].tolist(), count=16)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_gptq_reaches_every_matrix(family: str, text: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shape: dict[str, Any] = {**SHAPE, "num_hidden_layers": 2}
    if family == "gemma3":  # stock needs a whole period of its layers
        shape["sliding_window_pattern"] = 2
    case = without_window(case_of(family))
    tiny.write_readable_checkpoint(case, source, **shape)
    common: dict[str, Any] = {"profile": "uniform-3", "threads": 2}
    calibrated = {"calibration": text, "calibration_sequences": 24, "calibration_tokens": 64}
    convert(source, tmp_path / "mse", method="mse", **common)
    convert(source, tmp_path / "gptq", method="gptq", **common, **calibrated)
    assert verify(tmp_path / "gptq", against=source).ok
    document = json.loads((tmp_path / "gptq" / "jang_config.json").read_text("utf-8"))
    manifest = document["quantization"]["tensor_quantization_manifest"]
    assert len(manifest) == 2 * 7 + (1 if case.tied else 2)
    solvers = {path: entry["solver"] for path, entry in manifest.items()}
    if not case.tied:
        assert solvers.pop("model.embed_tokens") == "mse"
    assert set(solvers.values()) == {"gptq"}
    if not case.tied:  # tied heads of these weights are sure of every token: no divergence to see
        outputs = [tmp_path / "mse", tmp_path / "gptq"]
        report = evaluate(source, outputs, text=text, sequence=64, tokens=24 * 64)
        mse, gptq = (model.kl.mean for model in report.models)
        assert 0 < gptq < mse
    assert_agreement(tmp_path / "gptq", count=30)


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
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    case = case_of("gemma3")
    wrapped(case, tmp_path / "source", PREFIXES[0])
    path = tmp_path / "source" / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"vocab_size": tiny.VOCABULARY}
    path.write_text(json.dumps(config), encoding="utf-8")
    stock, values = load_stock(tmp_path / "source", strict=True)
    stock, values = quantize_model(stock, values, 32, 4)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
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
    case = tiny.BY_NAME[name]
    wrong = replace(case, config={**case.config, **change})
    tiny.write_checkpoint(wrong, tmp_path / "wrong")
    root = Path(__file__).resolve().parents[1] / "data" / "parity"
    with np.load(root / f"{name}.npz", allow_pickle=False) as stored:
        tokens, expected = stored["tokens"], stored["logits"]
    found = load_model(tmp_path / "wrong", "exact")(tokens[0])
    assert np.abs(found - expected[0]).max() > 1e-2 * np.abs(expected).max()
