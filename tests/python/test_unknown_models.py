"""Models of an architecture that nobody here knows: converted by general rules, never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import tiny_checkpoints as tiny
from jang_tools import convert, inspect, load, plan, verify
from jang_tools.errors import UnsupportedError
from weight_files import read_weights

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"


@pytest.fixture
def like_llama(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    tiny.write_checkpoint(tiny.BY_NAME["llama-gqa"], source)
    config = json.loads((source / "config.json").read_text())
    config.update(model_type="unheard_of", architectures=["UnheardOf"], secret_sauce=0.25)
    (source / "config.json").write_text(json.dumps(config))
    return source


@pytest.fixture
def like_gpt_neox(tmp_path: Path) -> Path:
    """Other names, a fused projection, biases, an array of positions; no word about its head."""
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    shapes = {
        "gpt_neox.embed_in.weight": (96, 64),
        "gpt_neox.embed_positions.weight": (32, 64),
        "gpt_neox.layers.0.attention.query_key_value.weight": (192, 64),
        "gpt_neox.layers.0.attention.query_key_value.bias": (192,),
        "gpt_neox.layers.0.attention.dense.weight": (64, 64),
        "gpt_neox.layers.0.input_layernorm.weight": (64,),
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (128, 64),
        "gpt_neox.layers.0.mlp.dense_4h_to_h.weight": (64, 128),
        "gpt_neox.layers.0.mixture.theta.weight": (64, 64),
        "embed_out.weight": (96, 64),
    }
    save_file(
        {name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()},
        source / "model.safetensors",
    )
    (source / "config.json").write_text(json.dumps({"model_type": "gpt_neox", "vocab_size": 96}))
    return source


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_converted_with_a_notice(like_llama: Path, tmp_path: Path, method: str) -> None:
    output = tmp_path / "out"
    result = convert(like_llama, output, profile="JANG_4L", method=method)
    assert any('"unheard_of" is unknown' in warning for warning in result.warnings)
    assert verify(output, against=like_llama).ok
    config = json.loads((output / "config.json").read_text())
    source = json.loads((like_llama / "config.json").read_text())
    assert {key: config[key] for key in source if key in config} == source
    known = tmp_path / "known"
    source["model_type"] = "llama"
    (like_llama / "config.json").write_text(json.dumps(source))
    convert(like_llama, known, profile="JANG_4L", method=method)
    assert read_weights(output) == read_weights(known)


def test_other_names_have_roles(like_gpt_neox: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = convert(like_gpt_neox, output, profile="JANG_2M", method="rtn", group_size=32)
    assert any("mixture.theta" in warning for warning in result.warnings)
    widths = {
        name.removesuffix(".scales") for name in read_weights(output) if name.endswith(".scales")
    }
    assert widths == {
        "gpt_neox.embed_in",
        "gpt_neox.layers.0.attention.query_key_value",
        "gpt_neox.layers.0.attention.dense",
        "gpt_neox.layers.0.mlp.dense_h_to_4h",
        "gpt_neox.layers.0.mlp.dense_4h_to_h",
        "gpt_neox.layers.0.mixture.theta",
        "embed_out",
    }
    entries = json.loads((output / "config.json").read_text())["quantization"]
    assert entries["gpt_neox.layers.0.mlp.dense_h_to_4h"]["bits"] == 2
    assert entries["gpt_neox.layers.0.attention.dense"]["bits"] == 8
    assert entries["embed_out"]["bits"] == 8
    assert "tie_word_embeddings" not in json.loads((output / "config.json").read_text())
    assert verify(output, against=like_gpt_neox).ok
    assert inspect(output).average_bits == pytest.approx(
        plan(output.parent / "source", profile="JANG_2M", group_size=32).average_bits
    )


def test_a_size_fits(like_gpt_neox: Path, tmp_path: Path) -> None:
    result = convert(like_gpt_neox, tmp_path / "out", bits=6.5, method="mse")
    assert result.bits_per_weight <= 6.5


def test_running_and_calibrating_are_refused(like_llama: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, like_llama / name)
    with pytest.raises(UnsupportedError, match=r"unheard_of.*supported: .*llama") as refused:
        convert(like_llama, output, method="gptq")
    assert "rtn or mse" in refused.value.hint
    convert(like_llama, output, method="rtn")
    with pytest.raises(UnsupportedError, match=r"unheard_of.*supported: .*llama"):
        load(output)


def test_transposed_matrices_are_refused(like_gpt_neox: Path, tmp_path: Path) -> None:
    (like_gpt_neox / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UnsupportedError, match=r"gpt2.*\[inputs, outputs\]"):
        convert(like_gpt_neox, tmp_path / "out", method="rtn")
