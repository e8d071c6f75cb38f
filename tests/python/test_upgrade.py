"""JANG v1 runs, and upgrade() loses nothing: every weight reads back as the same float32 number,
whichever version or writer the directory came from."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import old_jang as old
import tiny_checkpoints as tiny
from jang_tools import _core, convert, inspect, upgrade, verify
from jang_tools.errors import FormatError, IoError, JangError, UnsupportedError
from jang_tools.sha256sums import SUMS
from test_converted_models import as_float, codes_of, logits
from weight_files import read_weights

DEMO = Path(__file__).resolve().parents[2] / "examples" / "tiny-prose-llama"
SUM_ORDER = 5e-6  # of the largest logit: the same weights added up in another order

Floats = npt.NDArray[np.float32]


def mixed_widths(name: str) -> int:
    """A width by the name, so that a wrong one is noticed; experts of a stack share theirs."""
    if "experts" in name:
        return 3
    for part, bits in (("q_proj", 8), ("v_proj", 5), ("o_proj", 6), ("down_proj", 2)):
        if part in name:
            return bits
    return 4


def stored(directory: Path) -> dict[str, Floats]:
    """Every matrix and vector of a v2 directory by its final name, s * q + b in float32."""
    checkpoint = _core.Checkpoint(str(directory))
    entries = json.loads((directory / "config.json").read_text())["quantization"]
    found = {}
    for info in checkpoint.tensors:
        path, _, part = info.name.rpartition(".")
        if part in ("scales", "biases") and path in entries:
            continue
        if part != "weight" or path not in entries:
            found[info.name] = as_float(checkpoint, info.name)
            continue
        entry = entries[path]
        codes = codes_of(checkpoint.array(info.name), entry["bits"]).astype(np.float32)
        grouped = codes.reshape(*codes.shape[:-1], -1, entry["group_size"])
        scales = as_float(checkpoint, f"{path}.scales")[..., None]
        biases = as_float(checkpoint, f"{path}.biases")[..., None]
        found[info.name] = (grouped * scales + biases).reshape(codes.shape)
    return found


def assert_sound(directory: Path) -> None:
    result = verify(directory)
    assert result.faults == [] and result.notices == []


def assert_close(found: Floats, expected: Floats) -> None:
    assert np.abs(found - expected).max() <= SUM_ORDER * np.abs(expected).max()


# --- JANG v1 ----------------------------------------------------------------------------------

V1_CASES = [
    ("llama", "1.0"),
    ("llama", "1.1"),
    ("llama-tied", "1.2"),
    ("llama-attention-bias", "1.1"),
    ("qwen3-moe", "1.1"),
    ("qwen3-moe", "1.0"),
    ("qwen3-moe-fused", "1.2"),
    ("mixtral", "1.2"),
    ("phi3", "1.1"),
    ("gemma2-window", "1.1"),
    ("glm4", "1.2"),
    ("granitemoe", "1.1"),
    ("granitemoehybrid-dense", "1.2"),
    ("mamba2", "1.1"),
    ("jamba", "1.2"),
    ("lfm2-moe", "1.1"),
    ("gemma4-experts", "1.2"),
    ("qwen3-5-moe", "1.1"),
    ("qwen3-next", "1.1"),
    ("qwen3-next", "1.2"),
]


@pytest.mark.parametrize(("name", "version"), V1_CASES)
def test_v1_runs_and_upgrades(name: str, version: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    v1 = tmp_path / "v1"
    read = old.write_v1(case, v1, version, width=mixed_widths)
    old.write_read_back(case, read, tmp_path / "plain")
    expected = logits(tmp_path / "plain")
    found = logits(v1)
    assert_close(found, expected)
    assert inspect(v1).format == "jang-v1"
    checked = verify(v1)
    assert checked.faults == []

    result = upgrade(v1, tmp_path / "v2")
    assert result.output == tmp_path / "v2" and result.source_format == "jang-v1"
    assert_sound(tmp_path / "v2")
    np.testing.assert_array_equal(logits(tmp_path / "v2"), found)
    again = upgrade(tmp_path / "v2", tmp_path / "v3")
    assert again.output is None and again.changes == []
    assert not (tmp_path / "v3").exists()


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_every_number_of_v1_survives(version: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]
    read = old.write_v1(case, tmp_path / "v1", version, width=mixed_widths)
    upgrade(tmp_path / "v1", tmp_path / "v2")
    found = stored(tmp_path / "v2")
    assert found.keys() == read.keys()
    for name, values in read.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    entries = json.loads((tmp_path / "v2" / "config.json").read_text())["quantization"]
    assert entries["model.layers.0.self_attn.q_proj"]["bits"] == 8
    # Products of F16 numbers want more digits than F16 has.
    dtypes = {t.dtype for n, t in read_weights(tmp_path / "v2").items() if n.endswith(".biases")}
    assert dtypes == ({"F16"} if version == "1.2" else {"F32"})


def test_products_that_f16_holds_stay_f16(tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]

    def width(name: str) -> int:
        return 2

    read = old.write_v1(case, tmp_path / "v1", "1.1", width=width, whole_zeros=True)
    result = upgrade(tmp_path / "v1", tmp_path / "v2")
    found = stored(tmp_path / "v2")
    weights = read_weights(tmp_path / "v2")
    dtypes = {weights[name].dtype for name in weights if name.endswith(".biases")}
    assert "F16" in dtypes  # zero points of 0, 1 and 2 only shift the exponent of the scale
    for name, values in read.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert any("-scale * zero point" in change.what for change in result.changes)


@pytest.mark.parametrize("prefix", ["jang", "jjqf", "mxq"])
def test_names_of_v1_files(prefix: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]
    for bare in (True, False):
        folder = tmp_path / f"v1-{bare}"
        old.write_v1(case, folder, "1.2", prefix=prefix, bare=bare, shards=1)
        if not bare:
            (folder / f"model.{prefix}.index.json").unlink()
        upgrade(folder, tmp_path / f"v2-{bare}")
    one, other = (read_weights(tmp_path / f"v2-{bare}") for bare in (True, False))
    assert one == other


def test_experts_of_several_widths_share_the_widest(tmp_path: Path) -> None:
    case = tiny.BY_NAME["qwen3-moe"]

    def width(name: str) -> int:
        found = re.search(r"experts\.(\d+)", name)
        return (2, 3, 4, 6)[int(found[1]) % 4] if found else 4

    read = old.write_v1(case, tmp_path / "v1", "1.2", width=width)
    result = upgrade(tmp_path / "v1", tmp_path / "v2")
    found = stored(tmp_path / "v2")
    for projection in ("gate_proj", "up_proj", "down_proj"):
        base = "model.layers.1.mlp"
        stack = found[f"{base}.switch_mlp.{projection}.weight"]
        for expert in range(8):
            np.testing.assert_array_equal(
                stack[expert], read[f"{base}.experts.{expert}.{projection}.weight"]
            )
    assert any("codes stored with 6 bits" in change.what for change in result.changes)
    np.testing.assert_array_equal(logits(tmp_path / "v2"), logits(tmp_path / "v1"))
    assert_sound(tmp_path / "v2")


def test_norms_of_v1_become_gamma(tmp_path: Path) -> None:
    case = tiny.BY_NAME["qwen3-next"]
    read = old.write_v1(case, tmp_path / "v1", "1.2")
    result = upgrade(tmp_path / "v1", tmp_path / "v2")
    found = stored(tmp_path / "v2")
    name = "model.layers.0.input_layernorm.weight"
    np.testing.assert_array_equal(found[name], read[name] + np.float32(1))
    assert read_weights(tmp_path / "v2")[name].dtype == "F32"
    assert any(change.tensor == name and "1 added" in change.what for change in result.changes)
    config = json.loads((tmp_path / "v2" / "config.json").read_text())
    assert config["jang_norms_pre_shifted"] is True


def test_v1_against_its_source(tmp_path: Path) -> None:
    for name in ("llama", "qwen3-next"):
        case = tiny.BY_NAME[name]
        source = tmp_path / name
        tiny.write_checkpoint(tiny.replace(case, dtype="F16"), source)
        old.write_v1(case, tmp_path / f"{name}-v1", "1.2")
        upgrade(tmp_path / f"{name}-v1", tmp_path / f"{name}-v2")
        for kind in ("v1", "v2"):
            result = verify(tmp_path / f"{name}-{kind}", against=source)
            assert result.faults == [], (name, kind)
            assert result.tensors


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_stock_mlx_loads_what_v1_became(version: str, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm")
    import mlx.core as mx
    from mlx_lm.utils import load_model

    case = tiny.BY_NAME["llama"]
    old.write_v1(case, tmp_path / "v1", version, width=mixed_widths)
    upgrade(tmp_path / "v1", tmp_path / "v2")
    model, _ = load_model(tmp_path / "v2", strict=True)
    expected = logits(tmp_path / "v1")
    found = np.stack(
        [np.array(model(mx.array(row[None]))[0].astype(mx.float32)) for row in tiny.tokens()]
    )
    # Its activations are F16, or F32 where scales are.
    assert np.abs(found - expected).max() <= 2e-2 * np.abs(expected).max()


def test_tensors_of_many_panels(tmp_path: Path) -> None:
    """Panels of about a megabyte, of which these matrices have several."""
    sizes = {"vocab_size": 30011, "num_hidden_layers": 1, "tie_word_embeddings": True}
    case = tiny.Case("wide", sizes)
    read = old.write_v1(case, tmp_path / "v1", "1.1", width=mixed_widths)
    upgrade(tmp_path / "v1", tmp_path / "v2")
    found = stored(tmp_path / "v2")
    for name, values in read.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert_sound(tmp_path / "v2")


def test_parts_that_no_model_has_are_left_out(tmp_path: Path) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.1", shards=1)
    expected = logits(v1)
    (v1 / "model.jang.index.json").unlink()
    entries = list(v1_entries(v1).values())
    for name in ("vision_tower.a.proj", "model.layers.4.mlp.up_proj", "mtp.fc"):
        packed = old.pack(np.ones((4, 32), np.float32), 4, 32, zero_points=True)
        entries += old.v1_parts(name, packed, "1.1")
    rotary = np.ones(16, np.float32).tobytes()
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    entries.append((name, "F32", (16,), rotary))
    tiny.write_safetensors(next(v1.glob("*.safetensors")), entries)
    np.testing.assert_array_equal(logits(v1), expected)
    result = upgrade(v1, tmp_path / "v2")
    left = {change.tensor: change.why for change in result.changes if change.what == "left out"}
    assert "vision_tower" in left["vision_tower.a.proj.qweight"]
    assert "behind the last layer" in left["model.layers.4.mlp.up_proj.scales"]
    assert "prediction" in left["mtp.fc.bits"]
    assert "follows from config.json" in left[name]
    assert_sound(tmp_path / "v2")
    np.testing.assert_array_equal(logits(tmp_path / "v2"), expected)


# --- hostile v1 -------------------------------------------------------------------------------

BASE = "model.layers.0.self_attn.k_proj"


def v1_entries(folder: Path) -> dict[str, old.Entry]:
    file = next(folder.glob("*.safetensors"))
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entries = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            entries[name] = (name, entry["dtype"], tuple(entry["shape"]), data[begin:end])
    return entries


def sized(name: str, dtype: str, payload: bytes) -> old.Entry:
    width = {"U8": 1, "F16": 2, "U32": 4, "F32": 4, "I64": 8}[dtype]
    return (name, dtype, (len(payload) // width,), payload)


def shape_of(*axes: int) -> bytes:
    return np.array(axes, "<i8").tobytes()


# What is done to the module BASE of a version, the code of the fault, and what it says.
HOSTILE: list[tuple[str, str, str, str, bytes | None, str, str]] = [
    ("1.1", "qweight", "U8", "cut", None, "triple_shape", "bytes for the shape"),
    ("1.1", "qweight", "I64", "as", None, "triple_shape", "expected U8, found I64"),
    ("1.1", "qweight", "", "drop", None, "missing_tensor", "missing beside"),
    ("1.1", "scales", "", "drop", None, "missing_tensor", "missing beside"),
    ("1.1", "scales", "F16", "cut", None, "triple_shape", "values"),
    ("1.1", "scales", "F32", "as", None, "triple_shape", "expected F16, found F32"),
    ("1.1", "zeros", "", "drop", None, "missing_tensor", "and so is"),
    ("1.1", "zeros", "F16", "cut", None, "triple_shape", "like the scales"),
    ("1.1", "biases", "F16", "put", bytes(2), "triple_shape", "one is expected"),
    ("1.1", "bits", "", "drop", None, "missing_tensor", "missing beside"),
    ("1.1", "bits", "U8", "put", b"\x07", "triple_shape", "found 7"),
    ("1.1", "bits", "U8", "put", b"\x00", "triple_shape", "found 0"),
    ("1.1", "bits", "U8", "put", b"\x04\x04", "triple_shape", "expected one width, found 2"),
    ("1.1", "bits", "U8", "put", b"\x08", "triple_shape", "bytes for the shape"),
    ("1.1", "shape", "", "drop", None, "missing_tensor", "missing beside"),
    ("1.1", "shape", "I64", "put", shape_of(32, -160), "triple_shape", "found -160"),
    ("1.1", "shape", "I64", "put", shape_of(1 << 39, 1 << 39), "triple_shape", "weights"),
    ("1.1", "shape", "I64", "put", shape_of(32, 0), "triple_shape", "found 0"),
    ("1.1", "shape", "I64", "put", shape_of(5120), "triple_shape", "2 or 3 axes"),
    ("1.1", "shape", "I64", "put", shape_of(160, 32), "tensor_shape", "expected shape"),
    ("1.1", "shape", "I64", "put", shape_of(320, 16), "unsupported_format", "over the ends"),
    ("1.1", "block_offsets", "U32", "put", bytes(4), "triple_shape", "without"),
    ("1.0", "bit_map", "", "drop", None, "triple_shape", "without"),
    ("1.0", "bit_map", "U8", "cut", None, "triple_shape", "one a block"),
    ("1.0", "bit_map", "U8", "last", b"\x03", "unsupported_format", "several widths"),
    ("1.0", "block_offsets", "U32", "last", bytes(4), "triple_shape", "expected offset"),
    ("1.0", "block_offsets", "", "drop", None, "missing_tensor", "missing beside"),
    ("1.0", "shape", "I64", "put", shape_of(32, 160), "triple_shape", "no version has both"),
    ("1.0", "qweight", "U8", "cut", None, "triple_shape", "bytes for the shape"),
]


@pytest.mark.parametrize(
    ("version", "part", "dtype", "how", "payload", "code", "text"),
    HOSTILE,
    ids=[f"{row[0]}-{row[1]}-{row[3]}-{row[6].replace(' ', '_')}" for row in HOSTILE],
)
def test_hostile_v1(
    version: str,
    part: str,
    dtype: str,
    how: str,
    payload: bytes | None,
    code: str,
    text: str,
    tmp_path: Path,
) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, version, shards=1)
    (v1 / "model.jang.index.json").unlink()
    entries = v1_entries(v1)
    name = f"{BASE}.{part}"
    before = entries.pop(name, None)
    if how == "put":
        assert payload is not None
        entries[name] = sized(name, dtype, payload)
    elif how != "drop":
        assert before is not None
        data = before[3]
        if how == "cut":
            data = data[: len(data) // 2]
        if how == "last":
            assert payload is not None
            data = data[: -len(payload)] + payload
        entries[name] = sized(name, dtype, data)
    tiny.write_safetensors(next(v1.glob("*.safetensors")), list(entries.values()))
    for act in (
        lambda: _core.Model(str(v1)),
        lambda: upgrade(v1, tmp_path / "v2"),
    ):
        with pytest.raises(JangError, match=text) as caught:
            act()
        assert caught.value.code == code
        assert "\n" not in str(caught.value) and BASE in str(caught.value)
    assert not list(tmp_path.glob("v2*"))
    faults = [] if code == "unsupported_format" else verify(v1).faults
    if code == "unsupported_format":
        with pytest.raises(UnsupportedError, match=text):
            verify(v1)
    else:
        assert code in {fault.code for fault in faults}


@pytest.mark.parametrize(
    ("document", "kind", "text"),
    [
        ({"quantization": {"block_size": 16}}, UnsupportedError, "32, 64 or 128"),
        ({"quantization": {"block_size": "64"}}, FormatError, "an integer"),
        ({"quantization": {"block_size": 64}}, JangError, "values for the shape|over the ends"),
        ({"quantization": {}}, JangError, "values for the shape|over the ends"),
        ({"format_version": "3.0"}, UnsupportedError, "newer than 2"),
        ({"hadamard_rotation": True}, UnsupportedError, "rotated"),
    ],
)
def test_hostile_v1_documents(
    document: dict[str, Any], kind: type[JangError], text: str, tmp_path: Path
) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.1")
    (v1 / "jang_config.json").write_text(json.dumps({"format": "jang", **document}))
    for act in (lambda: _core.Model(str(v1)), lambda: upgrade(v1, tmp_path / "v2")):
        with pytest.raises(kind, match=text):
            act()


def test_a_cut_v1_file(tmp_path: Path) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.1")
    file = sorted(v1.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(FormatError) as caught:
        upgrade(v1, tmp_path / "v2")
    assert caught.value.code == "payload_layout"
    assert {"payload_layout"} <= {fault.code for fault in verify(v1).faults}


def test_scales_that_are_no_numbers(tmp_path: Path) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.1", shards=1)
    (v1 / "model.jang.index.json").unlink()
    entries = v1_entries(v1)
    name = f"{BASE}.scales"
    data = bytearray(entries[name][3])
    data[2:4] = b"\x00\x7e"
    entries[name] = sized(name, "F16", bytes(data))
    tiny.write_safetensors(next(v1.glob("*.safetensors")), list(entries.values()))
    with pytest.raises(FormatError, match=r"row 0 of .* finite scale.* column 1") as caught:
        upgrade(v1, tmp_path / "v2")
    assert caught.value.file.endswith(".safetensors") and BASE in caught.value.tensor
    assert caught.value.code == "non_finite"
    assert not list(tmp_path.glob("v2*"))
    assert "non_finite" in {fault.code for fault in verify(v1).faults}


def test_v1_of_what_nobody_knows(tmp_path: Path) -> None:
    """Version 1.0 stores no shapes: without an architecture they are not guessed."""
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.0")
    config = json.loads((v1 / "config.json").read_text())
    (v1 / "config.json").write_text(json.dumps({**config, "model_type": "nothing_known"}))
    with pytest.raises(UnsupportedError, match="does not store the shape"):
        upgrade(v1, tmp_path / "v2")


def test_a_missing_tensor_of_version_1_0(tmp_path: Path) -> None:
    v1 = tmp_path / "v1"
    old.write_v1(tiny.BY_NAME["llama"], v1, "1.0", shards=1)
    (v1 / "model.jang.index.json").unlink()
    entries = [entry for name, entry in v1_entries(v1).items() if name != "model.norm.weight"]
    tiny.write_safetensors(next(v1.glob("*.safetensors")), entries)
    with pytest.raises(FormatError, match="no file has it") as caught:
        upgrade(v1, tmp_path / "v2")
    assert (caught.value.code, caught.value.tensor) == ("missing_tensor", "model.norm.weight")


def test_latent_attention_of_v1_is_refused_by_name(tmp_path: Path) -> None:
    """Half of kv_b_proj is written transposed, and groups do not turn with it."""
    name = next(name for name in tiny.BY_NAME if name.startswith("deepseek-v3"))
    old.write_v1(tiny.BY_NAME[name], tmp_path / "v1", "1.1")
    with pytest.raises(UnsupportedError, match=r"kv_b_proj.*groups would lie across"):
        upgrade(tmp_path / "v1", tmp_path / "v2")


# --- JANG v2 of older writers -----------------------------------------------------------------


def test_one_pair_for_several_widths(tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]
    read = old.write_old_v2(case, tmp_path / "old", width=mixed_widths)
    with pytest.raises(FormatError):
        _core.Model(str(tmp_path / "old"))
    result = upgrade(tmp_path / "old", tmp_path / "new")
    assert result.source_format == "jang"
    found = stored(tmp_path / "new")
    for name, values in read.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert_sound(tmp_path / "new")
    mended = {change.tensor: change for change in result.changes if change.what.startswith("map")}
    assert len(mended) == case.matrices + 2
    line = mended["model.layers.0.mlp.down_proj"]
    assert "2 bits with group size 32" in line.what and "no entry" in line.why
    old.write_read_back(case, read, tmp_path / "plain")
    assert_close(logits(tmp_path / "new"), logits(tmp_path / "plain"))


def test_wrong_entries_are_mended_and_surplus_ones_go(tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]
    old.write_old_v2(case, tmp_path / "old", width=mixed_widths)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["quantization"] |= {
        "model.layers.0.mlp.down_proj": {"bits": 4, "group_size": 32, "mode": "affine"},
        "model.layers.0.mlp.up_proj": False,
        "model.layers.0.input_layernorm": {"bits": 4, "group_size": 32, "mode": "affine"},
    }
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    result = upgrade(tmp_path / "old", tmp_path / "new")
    lines = {change.tensor: str(change) for change in result.changes}
    assert "had 4 bits with group size 32" in lines["model.layers.0.mlp.down_proj"]
    assert "had false" in lines["model.layers.0.mlp.up_proj"]
    assert "entry removed" in lines["model.layers.0.input_layernorm"]
    assert_sound(tmp_path / "new")


def test_pairs_that_nobody_can_tell_apart_are_refused(tmp_path: Path) -> None:
    """(4, 64) and (2, 128) have the same shapes; without an architecture nothing decides."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
    case = tiny.Case("even", sizes)
    old.write_old_v2(case, tmp_path / "old", group=64, width=lambda name: 4)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    config["model_type"] = "unknown_1"
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    pairs = "2 bits with group size 128 or 4 bits with group size 64"
    with pytest.raises(FormatError, match=pairs):
        upgrade(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize("name", ["qwen3-next", "qwen3-5"])
def test_unstamped_norms(name: str, tmp_path: Path) -> None:
    case = tiny.BY_NAME[next(key for key in tiny.BY_NAME if key.startswith(name))]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours", profile="JANG_4L", method="rtn", dtype="f16")
    folder = tmp_path / "old"
    shutil.copytree(tmp_path / "ours", folder)
    (folder / SUMS).unlink()
    raw = []
    entries = []
    for key, tensor in read_weights(folder).items():
        norm = key.endswith(
            ("input_layernorm.weight", "attention_layernorm.weight", "q_norm.weight",
             "k_norm.weight", "model.norm.weight")
        )  # fmt: skip
        payload = tensor.payload
        if norm and "linear_attn" not in key:
            values = np.frombuffer(payload, "<f2").astype(np.float32) - 1
            payload = values.astype("<f2").tobytes()
            raw.append(key)
        entries.append((key, tensor.dtype, tensor.shape, payload))
    assert raw
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    tiny.write_safetensors(folder / "model-00001-of-00001.safetensors", entries)
    config = json.loads((folder / "config.json").read_text())
    del config["jang_norms_pre_shifted"]
    (folder / "config.json").write_text(json.dumps(config))
    document = json.loads((folder / "jang_config.json").read_text())
    del document["generator"], document["checksums"]
    (folder / "jang_config.json").write_text(json.dumps(document))
    expected = logits(folder)

    result = upgrade(folder, tmp_path / "new")
    shifted = {change.tensor for change in result.changes if change.what.startswith("1 added")}
    assert shifted == set(raw)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["jang_norms_pre_shifted"]
    np.testing.assert_array_equal(logits(tmp_path / "new"), expected)
    assert_sound(tmp_path / "new")
    # Without the widths that F16 lacks the numbers are those of the first conversion.
    again = stored(tmp_path / "new")
    for key, values in stored(tmp_path / "ours").items():
        np.testing.assert_allclose(again[key], values, rtol=0, atol=1e-3, err_msg=key)


def test_halves_of_another_writer_are_joined(tmp_path: Path) -> None:
    case = tiny.BY_NAME["phi3"]
    tiny.write_checkpoint(case, tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours", profile="JANG_4L", method="rtn", group_size=32)
    folder = tmp_path / "old"
    shutil.copytree(tmp_path / "ours", folder)
    (folder / SUMS).unlink()
    entries = []
    for key, tensor in read_weights(folder).items():
        if ".gate_up_proj." not in key:
            entries.append((key, tensor.dtype, tensor.shape, tensor.payload))
            continue
        rows = tensor.shape[0] // 2
        half = len(tensor.payload) // 2
        halves = {"gate_proj": tensor.payload[:half], "up_proj": tensor.payload[half:]}
        for part, payload in halves.items():
            shape = (rows, *tensor.shape[1:])
            entries.append((key.replace("gate_up_proj", part), tensor.dtype, shape, payload))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink()
    tiny.write_safetensors(folder / "model-00001-of-00001.safetensors", entries)
    config = json.loads((folder / "config.json").read_text())
    for key in [key for key in config["quantization"] if key.endswith("gate_up_proj")]:
        entry = config["quantization"].pop(key)
        for part in ("gate_proj", "up_proj"):
            config["quantization"][key.replace("gate_up_proj", part)] = entry
    (folder / "config.json").write_text(json.dumps(config))
    document = {"format": "jang", "format_version": "2.0"}
    (folder / "jang_config.json").write_text(json.dumps(document))
    expected = logits(folder)
    result = upgrade(folder, tmp_path / "new")
    assert any("2 matrices joined" in change.what for change in result.changes)
    ours, new = read_weights(tmp_path / "ours"), read_weights(tmp_path / "new")
    assert ours == new
    assert_close(logits(tmp_path / "new"), expected)
    assert_sound(tmp_path / "new")


# --- stock MLX --------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [None, "mixed_2_6"])
def test_stock_directories(recipe: str | None, tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    stock = tmp_path / "stock"
    widths = {"q_bits": 4, "q_group_size": 64, "quant_predicate": recipe}
    mlx_lm.convert(str(DEMO), str(stock), quantize=True, **widths)
    result = upgrade(stock, tmp_path / "new")
    assert result.source_format == "mlx"
    assert_sound(tmp_path / "new")
    before, after = read_weights(stock), read_weights(tmp_path / "new")
    assert before == after
    copied = (tmp_path / "new" / "tokenizer.json").read_bytes()
    assert copied == (stock / "tokenizer.json").read_bytes()
    np.testing.assert_array_equal(logits(tmp_path / "new"), logits(stock))
    document = json.loads((tmp_path / "new" / "jang_config.json").read_text())
    assert document["upgraded_from"] == {"format": "mlx", "format_version": None, "generator": None}
    assert document["quantization"]["quantization_method"] == "unknown"
    assert verify(tmp_path / "new", against=DEMO).faults == []
    if recipe is None:
        entries = [change for change in result.changes if change.what.startswith("map: entry")]
        assert len(entries) == 44  # none had one of its own


# --- the directory that is written ------------------------------------------------------------


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    old.write_v1(tiny.BY_NAME["llama"], tmp_path / "v1", "1.1")
    return tmp_path / "v1"


def test_the_document_of_a_result(v1: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, _: str) -> None:
        seen.append((done, total))

    result = upgrade(v1, tmp_path / "v2", progress=progress)
    document = result.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "jang.upgrade/1"
    assert set(document["changes"][0]) == {"tensor", "what", "why"}
    assert result.bytes == sum(file.stat().st_size for file in (tmp_path / "v2").glob("model-*"))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert result.files == sorted(file.name for file in (tmp_path / "v2").iterdir())
    written = json.loads((tmp_path / "v2" / "jang_config.json").read_text())
    assert written["upgraded_from"]["format"] == "jang-v1"
    assert written["source_model"]["name"] == "someone/model"
    assert written["quantization"]["profile"] == "JANG_4S"
    assert written["quantization"]["quantization_method"] == "mse"


def test_threads_change_no_byte(v1: Path, tmp_path: Path) -> None:
    upgrade(v1, tmp_path / "one", threads=1)
    upgrade(v1, tmp_path / "three", threads=3)
    assert read_weights(tmp_path / "one") == read_weights(tmp_path / "three")
    for name in ("config.json", "jang_config.json", SUMS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


def test_outputs_that_exist(v1: Path, tmp_path: Path) -> None:
    upgrade(v1, tmp_path / "v2")
    with pytest.raises(IoError, match="already exists"):
        upgrade(v1, tmp_path / "v2")
    upgrade(v1, tmp_path / "v2", overwrite=True)
    assert_sound(tmp_path / "v2")
    with pytest.raises(ValueError, match="the same directory"):
        upgrade(v1, v1, overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(IoError):
        upgrade(v1, tmp_path / "mine", overwrite=True)


def test_plain_directories_are_for_convert(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not quantized") as caught:
        upgrade(DEMO, tmp_path / "out")
    assert "jang convert" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_what_convert_wrote_is_current(tmp_path: Path) -> None:
    convert(DEMO, tmp_path / "ours", profile="JANG_4L", method="rtn")
    result = upgrade(tmp_path / "ours", tmp_path / "out")
    assert result.output is None and result.changes == []
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_a_kill_leaves_no_output(v1: Path, tmp_path: Path) -> None:
    """Killed while it works, it leaves only OUTPUT.partial, which the next run replaces."""
    script = (
        "import os, signal, sys\n"
        "from jang_tools import upgrade\n"
        "def stop(done, total, item):\n"
        "    if done > 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "upgrade(sys.argv[1], sys.argv[2], progress=stop)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(v1), str(tmp_path / "v2")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "v2").exists() and (tmp_path / "v2.partial").is_dir()
    upgrade(v1, tmp_path / "v2")
    assert not (tmp_path / "v2.partial").exists()
    assert_sound(tmp_path / "v2")
