"""Converted hybrid models: every method, several profiles and sizes, stock mlx-lm in both
directions, roles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.model import load_model

TOLERANCE = 1e-3  # of the largest logit
# Every kind of layer; widths that groups of 64 divide.
SHAPE = {"num_hidden_layers": 4, "intermediate_size": 256}
EXPERTS = {"moe_intermediate_size": 64}
CASES = {
    "qwen3-5": SHAPE,
    "qwen3-next": {**SHAPE, **EXPERTS},
    "qwen3-5-moe": {**SHAPE, **EXPERTS},
}
CALIBRATION = {"calibration_sequences": 12, "calibration_tokens": 64}
ROLES = {
    "qwen3-5": {"other", "embedding", "head", "linear_attention", "attention", "mlp"},
    "qwen3-next": {
        "other",
        "embedding",
        "head",
        "router",
        "shared_expert",
        "expert",
        "linear_attention",
        "attention",
    },
}
ROLES["qwen3-5-moe"] = ROLES["qwen3-next"]


@pytest.fixture(autouse=True, scope="module")
def on_cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


def write_source(name: str, folder: Path, spelling: str = "new") -> None:
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], folder, spelling, **CASES[name])


@pytest.fixture(scope="module", params=sorted(CASES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    write_source(request.param, folder)
    return folder


def tokens() -> npt.NDArray[np.int32]:
    """Past the edges of chunks."""
    return np.arange(5, 4000, 55, dtype=np.int32)


def assert_agreement(path: Path) -> None:
    """Stock mlx-lm loads it strictly, with our logits."""
    from mlx_lm.utils import load_model as load_stock

    stock, _ = load_stock(path, strict=True)
    stock.set_dtype(mx.float32)
    theirs = np.array(stock(mx.array(tokens())[None])[0])
    ours = load_model(path, "exact", threads=2)(tokens())
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert np.array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))


@pytest.mark.parametrize("profile", ["JANG_1L", "JANG_2S", "JANG_3M", "JANG_4K", "mixed_3_6"])
def test_profiles_agree_with_stock(source: Path, profile: str, tmp_path: Path) -> None:
    method = "mse" if profile == "JANG_3M" else "rtn"
    convert(source, tmp_path / "out", profile=profile, method=method, threads=2)
    assert verify(tmp_path / "out", against=source).ok
    assert_agreement(tmp_path / "out")


@pytest.mark.parametrize("widths", [{"profile": "JANG_2S"}, {"bits": 3.5}])
def test_calibrated_output_agrees_with_stock(
    source: Path, text: Path, widths: dict[str, Any], tmp_path: Path
) -> None:
    convert(source, tmp_path / "out", method="gptq", calibration=text, **CALIBRATION, **widths)
    assert verify(tmp_path / "out", against=source).ok
    assert_agreement(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "jang_config.json").read_text())["quantization"][
        "tensor_quantization_manifest"
    ]
    unsolved = {path for path, entry in manifest.items() if entry.get("solver") != "gptq"}
    assert {path.rpartition(".")[2] for path in unsolved} <= {
        "embed_tokens",
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    assert all("switch_mlp" in path or path.endswith("embed_tokens") for path in unsolved)


def test_threads_change_no_byte(source: Path, text: Path, tmp_path: Path) -> None:
    files = []
    for threads in (1, 2):
        out = tmp_path / str(threads)
        options: dict[str, Any] = {"profile": "JANG_3M", "calibration": text, "threads": threads}
        convert(source, out, method="gptq", **CALIBRATION, **options)
        files.append((out / "model-00001-of-00001.safetensors").read_bytes())
    assert files[0] == files[1]


def test_roles_are_complete(source: Path) -> None:
    made = plan(source, profile="JANG_3M")
    assert {row.role for row in made.roles} == ROLES[source.name]
    assert not [warning for warning in made.warnings if "unknown name" in warning]


def test_half_precision_sources(tmp_path: Path) -> None:
    """Norms become gamma in the source's own dtype."""
    case = tiny.BY_NAME["qwen3-5-bf16"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", group_size=32)
    assert verify(tmp_path / "out", against=tmp_path / "source").ok
    from mlx_lm.utils import load_model as load_stock

    stock, _ = load_stock(tmp_path / "out", strict=True)
    stock.set_dtype(mx.float32)
    row = tiny.tokens()[0]
    theirs = np.array(stock(mx.array(row)[None])[0])
    ours = load_model(tmp_path / "out", "exact", threads=2)(row)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["qwen3-5", "qwen3-next"])
def test_stock_conversions_run_here(name: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model as load_stock
    from mlx_lm.utils import quantize_model, save_config, save_model

    write_source(name, tmp_path / "source", spelling="old")
    path = tmp_path / "source" / "config.json"
    values = json.loads(path.read_text())
    # Stock knows the outer name alone and reads other keys than transformers wrote.
    values["model_type"] = values["model_type"].removesuffix("_text")
    values["rope_parameters"] = {
        "type": "default",
        "rope_theta": values["rope_theta"],
        "partial_rotary_factor": values["partial_rotary_factor"],
    }
    path.write_text(json.dumps(values), encoding="utf-8")
    stock, values = load_stock(tmp_path / "source", strict=True)
    predicate = getattr(stock, "quant_predicate", None)
    stock, values = quantize_model(stock, values, 32, 4, quant_predicate=predicate)
    (tmp_path / "stock").mkdir()
    save_model(tmp_path / "stock", stock)
    save_config(values, tmp_path / "stock" / "config.json")
    assert load_model(tmp_path / "stock").core.format == "mlx"
    assert_agreement(tmp_path / "stock")
