"""inspect() on each format: what it says equals what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, inspect
from jang_tools.errors import FormatError, IoError, UnsupportedError

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("inspect") / "out"
    convert(DEMO, output, profile="JANG_3M", method="rtn")
    return output


def test_jang_directory(converted: Path) -> None:
    found = inspect(converted)
    assert (found.format, found.profile, found.method) == ("jang", "JANG_3M", "rtn")
    assert found.model_type == "llama"
    shards = list(converted.glob("model-*.safetensors"))
    assert found.bytes == sum(shard.stat().st_size for shard in shards)
    assert found.bits_per_weight == pytest.approx(8 * found.bytes / found.parameters)
    assert sum(row.weights for row in found.roles) == found.parameters
    roles = {row.role: row for row in found.roles}
    assert {name: row.bits for name, row in roles.items() if name != "other"} == {
        "attention": 6,
        "mlp": 3,
        "embedding": 4,
        "head": 6,
    }
    quantized = [row for row in found.roles if row.role != "other"]
    weights = sum(row.weights for row in quantized)
    assert found.average_bits == pytest.approx(
        sum(row.bits * row.weights for row in quantized) / weights
    )
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert tensors["model.layers.0.mlp.up_proj"].shape == (768, 256)
    assert tensors["model.layers.0.mlp.up_proj"].bits == 3
    assert tensors["model.norm.weight"].bits is None
    assert sum(tensor.bytes for tensor in found.tensors) < found.bytes


def test_documents(converted: Path) -> None:
    found = inspect(converted)
    short, long = found.to_json(), found.to_json(tensors=True)
    assert short["schema"] == "jang.inspect/1"
    assert "tensors" not in short
    assert len(long["tensors"]) == 44 + 13
    assert set(long["tensors"][0]) == {
        "name",
        "dtype",
        "shape",
        "bits",
        "group_size",
        "bytes",
        "file",
    }
    assert json.loads(json.dumps(long)) == long


def test_source_and_conversion_agree_on_parameters(converted: Path) -> None:
    plain = inspect(DEMO)
    assert plain.format == "hf"
    assert plain.profile is None
    assert plain.average_bits == 16
    assert plain.parameters == inspect(converted).parameters


def test_stock_mlx_directory(tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    mlx_lm.convert(str(DEMO), str(tmp_path / "mlx"), quantize=True, q_bits=4, q_group_size=32)
    found = inspect(tmp_path / "mlx")
    assert found.format == "mlx"
    assert found.average_bits == 4
    assert {tensor.group_size for tensor in found.tensors if tensor.bits} == {32}
    assert found.parameters == inspect(DEMO).parameters


def test_jang_v1_headers(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny.config(tiny.BY_NAME["llama"])))
    record = {"format": "jang", "format_version": "1.0", "quantization": {"block_size": 32}}
    (folder / "jang_config.json").write_text(json.dumps(record))
    base = "model.layers.0.self_attn.q_proj"
    blocks = 160 * 160 // 32

    def zeros(count: int) -> bytes:
        return np.zeros(count, np.uint8).tobytes()

    tiny.write_safetensors(
        folder / "model-00001-of-00001.jang.safetensors",
        [
            (f"{base}.qweight", "U8", (blocks * 12,), zeros(blocks * 12)),
            (f"{base}.scales", "F16", (blocks,), zeros(2 * blocks)),
            (f"{base}.zeros", "F16", (blocks,), zeros(2 * blocks)),
            (f"{base}.bit_map", "U8", (blocks,), zeros(blocks)),
            (f"{base}.block_offsets", "U32", (blocks,), zeros(4 * blocks)),
        ],
    )
    found = inspect(folder)
    assert found.format == "jang-v1"
    assert found.average_bits == 3
    assert found.parameters == 160 * 160
    assert [tensor.name for tensor in found.tensors] == [base]


def test_refusals(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(IoError, match="no such directory"):
        inspect(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(converted, copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json"):
        inspect(copy)
    config = json.loads((DEMO / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    shutil.rmtree(copy)
    shutil.copytree(DEMO, copy)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="gptq"):
        inspect(copy)
