"""Converted directories against their source: unquantized output is the same model, and quantized
output is the model whose weights are the dequantized ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tiny_checkpoints as tiny
import tiny_hybrid as hybrid
import tiny_nemotron_falcon as falcon
from jang_tools import _core, convert, plan

TOLERANCE = 1e-4  # of the largest logit
SUM_ORDER = 5e-6  # likewise, of the same weights added up in another order

Floats = npt.NDArray[np.float32]


def logits(path: Path) -> Floats:
    model = _core.Model(str(path), precision="exact", threads=2)
    return np.stack([model.forward(row, model.new_cache()) for row in tiny.tokens()])


def as_float(checkpoint: _core.Checkpoint, name: str) -> Floats:
    values = checkpoint.array(name)
    if checkpoint.dtype(name) == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def codes_of(words: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.int64]:
    """Codes of rows that are little-endian bit streams: [..., in*bits/32] to [..., in]."""
    stream = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
    return stream.reshape(*words.shape[:-1], -1, bits) @ (1 << np.arange(bits))


def dequantized(checkpoint: _core.Checkpoint, path: str, bits: int, group_size: int) -> Floats:
    codes = codes_of(checkpoint.array(f"{path}.weight"), bits)
    grouped = codes.reshape(*codes.shape[:-1], -1, group_size)
    scales = as_float(checkpoint, f"{path}.scales").astype(np.float64)[..., None]
    biases = as_float(checkpoint, f"{path}.biases").astype(np.float64)[..., None]
    return (grouped * scales + biases).reshape(codes.shape).astype(np.float32)


def write_dequantized(converted: Path, config: dict[str, object], folder: Path) -> int:
    """Writes the plain float32 directory of the same weights; returns how many were quantized."""
    checkpoint = _core.Checkpoint(str(converted))
    entries = json.loads((converted / "config.json").read_text())["quantization"]
    modules = {path: entry for path, entry in entries.items() if isinstance(entry, dict)}
    payloads = []
    for tensor in sorted(info.name for info in checkpoint.tensors):
        path, _, kind = tensor.rpartition(".")
        if kind in ("scales", "biases"):
            continue
        if kind == "weight" and path in modules:
            entry = modules[path]
            values = dequantized(checkpoint, path, entry["bits"], entry["group_size"])
        else:
            values = as_float(checkpoint, tensor)
        payloads.append((tensor, "F32", values.shape, values.tobytes()))
    folder.mkdir()
    tiny.write_safetensors(folder / "model.safetensors", payloads)
    # Its dtype stays: gemma rounds a factor to it.
    (folder / "config.json").write_text(json.dumps(config))
    return len(modules)


@pytest.fixture(params=tiny.CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return request.param


def write_with_stored_norms(case: tiny.Case, folder: Path) -> None:
    """The BF16 case with the norms that its converted directory has: of gamma - 1, which sources
    hold, gamma is written in their dtype."""

    def rounded(values: Floats) -> Floats:
        words = np.frombuffer(tiny.encode(values, "BF16"), "<u2").astype(np.uint32)
        return (words << 16).view(np.float32)

    entries = []
    for name, values in tiny.tensors(case):
        if name.endswith("norm.weight") and "linear_attn.norm" not in name:
            values = rounded(1 + rounded(values)) - 1
        entries.append((name, case.dtype, values.shape, tiny.encode(values, case.dtype)))
    folder.mkdir()
    tiny.write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text(json.dumps(tiny.config(case)))


def write_with_multiplied_weights(case: tiny.Case, folder: Path) -> None:
    """The case with its multipliers in the weights, where its converted directory has them."""
    config = falcon.without_multipliers(tiny.config(case))
    # Of a tied model the head is the embedding by a factor of its own.
    for key in ("embedding_multiplier", "lm_head_multiplier"):
        config[key] = case.values[key]
    entries = []
    for name, values in falcon.multiplied(case.values, tiny.stored_tensors(case)):
        if name.endswith("conv1d.weight"):  # as those have it whose weights hold multipliers
            values = values.reshape(values.shape[0], values.shape[2], 1)
        entries.append((name, case.dtype, values.shape, tiny.encode(values, case.dtype)))
    folder.mkdir()
    tiny.write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text(json.dumps(config))


def test_unquantized_output_is_the_same_model(case: tiny.Case, tmp_path: Path) -> None:
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", method="rtn", rules=["*=none"])
    expected = tmp_path / "source"
    if case.model_type in hybrid.ARCHITECTURES and case.dtype == "BF16":
        expected = tmp_path / "expected"
        write_with_stored_norms(case, expected)
    if case.model_type == "falcon_h1":
        expected = tmp_path / "expected"
        write_with_multiplied_weights(case, expected)
    found, wanted = logits(tmp_path / "out"), logits(expected)
    if case.model_type == "deepseek_v3":
        # Written stacks hold the matrix of the keys transposed, so its sums run in another order.
        assert np.abs(found - wanted).max() <= SUM_ORDER * np.abs(wanted).max()
    else:
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_quantized_output_is_the_model_of_its_dequantized_weights(
    case: tiny.Case, method: str, tmp_path: Path
) -> None:
    tiny.write_checkpoint(case, tmp_path / "source")
    modules = plan(tmp_path / "source", profile="JANG_4L", group_size=32).modules
    names = {module.path.rpartition(".")[2] for module in modules}
    widths = {"v_proj": 3, "qkv_proj": 3, "o_proj": 5, "dense": 5, "up_proj": 2, "gate_up_proj": 2}
    widths |= {"fc1": 2, "down_proj": 6, "fc2": 6}
    rules = [f"*.{name}={bits}:32" for name, bits in widths.items() if name in names]
    options = {"profile": "JANG_4L", "group_size": 32, "rules": rules}
    convert(tmp_path / "source", tmp_path / "out", method=method, **options)
    config, written = tiny.config(case), json.loads((tmp_path / "out/config.json").read_text())
    for key in ("qkv_bias", "attention_bias", "lm_head_bias"):  # some are written as zeros
        if key in written:
            config[key] = written[key]
    quantized = write_dequantized(tmp_path / "out", config, tmp_path / "plain")
    # Beside the layers' an embedding, a head, and of gemma4 what gives layers inputs of their own.
    others = {"embed_tokens", "embeddings", "lm_head"}
    others |= {"embed_tokens_per_layer", "per_layer_model_projection"}
    assert quantized == case.matrices + len(others & names)
    assert ("lm_head" in names) != case.tied
    expected = logits(tmp_path / "plain")
    error = np.abs(logits(tmp_path / "out") - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE
