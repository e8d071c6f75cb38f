"""Sources in 8-bit floats with a scale a block: read as the float32 model of the same values, by
conversion and at run time, and refused by name where they do not say what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import fp8_checkpoints as fp8
import tiny_checkpoints as tiny
from jang_tools import convert, inspect, plan, verify
from jang_tools.cli.main import cli
from jang_tools.errors import JangError
from jang_tools.finalize import convert_planned
from jang_tools.model import load_model
from test_parity import TOLERANCE, full_pass, relative_error, stored
from weight_files import Tensor, read_weights

# Blocks that end in the middle of matrices, of experts, of heads; and sizes of rows and columns
# that cannot be taken for each other.
CASES: dict[str, tuple[fp8.Block, str]] = {
    "qwen3": ((48, 64), "F32"),
    "deepseek-v3": ((24, 40), "BF16"),
    "qwen3-moe": ((24, 96), "F32"),
    "qwen3-moe-fused": ((16, 48), "BF16"),
    "phi3": ((100, 72), "F32"),
    "llama-tied": ((128, 128), "F32"),
}
FEW: dict[str, Any] = {"calibration_sequences": 2, "calibration_tokens": 32}
Logits = npt.NDArray[np.float32]


class Pair:
    """A checkpoint of codes, and the same model in plain tensors."""

    def __init__(self, source: Path, folder: Path, block: fp8.Block, scales: str = "F32") -> None:
        self.codes, self.twin = folder / "codes", folder / "twin"
        self.names = fp8.write_fp8(source, self.codes, block, scales)
        fp8.write_twin(self.codes, self.twin)

    @property
    def both(self) -> tuple[Path, Path]:
        return self.codes, self.twin


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    block, scales = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tiny.write_checkpoint(replace(tiny.BY_NAME[request.param], dtype="F32"), folder / "source")
    return Pair(folder / "source", folder, block, scales)


def readable(folder: Path, name: str, block: fp8.Block, **more: Any) -> Pair:
    """With a tokenizer, in bfloat16 where it is plain."""
    case = replace(tiny.BY_NAME[name], dtype="BF16")
    tiny.write_readable_checkpoint(case, folder / "source", **more)
    return Pair(folder / "source", folder, block)


def run(path: Path, **options: Any) -> Logits:
    return load_model(path, **options)(tiny.tokens()[0])


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = read_weights(first), read_weights(second)
    assert sorted(a) == sorted(b)
    for name, tensor in a.items():
        assert tensor == b[name], name


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", fp8.PARITY)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    assert fp8.write_parity(name, tmp_path / name) == str(stored(name)["weights_sha256"])
    reference = stored(name)
    logits = full_pass(load_model(tmp_path / name).core, reference["tokens"])
    assert relative_error(logits, reference["logits"]) <= TOLERANCE


def test_runs_as_its_twin(pair: Pair) -> None:
    expected = run(pair.twin, threads=1)
    for threads in (1, 2):
        for precision in ("fast", "exact"):
            found = run(pair.codes, threads=threads, precision=precision)
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("profile", "method", "dtype"),
    [("JANG_2S", "rtn", None), ("JANG_4K", "mse", None), ("uniform-6", "rtn", "bf16")],
)
def test_converts_as_its_twin(
    pair: Pair, profile: str, method: str, dtype: str | None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"profile": profile, "method": method, "dtype": dtype}
    options["group_size"] = 32
    for i, source in enumerate(pair.both):
        convert(source, tmp_path / f"out{i}", threads=1 + i, **options)
    assert_same_weights(tmp_path / "out0", tmp_path / "out1")
    config = json.loads((tmp_path / "out0" / "config.json").read_text())
    assert "quant_method" not in config["quantization_config"]
    for source in pair.both if dtype is None else ():
        report = verify(tmp_path / "out0", against=source)
        assert report.ok, report
    assert np.array_equal(run(tmp_path / "out0"), run(tmp_path / "out1"))


def test_unquantized_output_is_that_of_the_twin(pair: Pair, tmp_path: Path) -> None:
    for i, source in enumerate(pair.both):
        convert(source, tmp_path / f"out{i}", method="rtn", rules=["*=none"])
    assert_same_weights(tmp_path / "out0", tmp_path / "out1")
    # Not to the bit where the written layout adds in another order.
    assert relative_error(run(tmp_path / "out0"), run(pair.codes)) <= 5e-6


@pytest.mark.parametrize("name", ["qwen3", "qwen3-moe", "deepseek-v3"])
def test_calibrates_as_its_twin(name: str, tmp_path: Path) -> None:
    pair = readable(tmp_path, name, (48, 96))
    options: dict[str, Any] = {"method": "gptq", "group_size": 32, "dtype": "bf16", **FEW}
    for i, source in enumerate(pair.both):
        convert(source, tmp_path / f"out{i}", profile="JANG_3M", threads=2, **options)
        convert(source, tmp_path / f"sized{i}", bits=4.5, threads=2, **options)
    assert_same_weights(tmp_path / "out0", tmp_path / "out1")
    assert_same_weights(tmp_path / "sized0", tmp_path / "sized1")
    assert verify(tmp_path / "out0", against=pair.codes).ok


def test_scales_have_the_type_that_the_model_computes_in(tmp_path: Path) -> None:
    """Values are exact in float32 only; the model that was stored so was none in float32."""
    case = tiny.BY_NAME["qwen3"]
    # Most weights are those of the vocabulary: plain, so that the twin's scales are bfloat16 too.
    case = replace(case, config={**case.config, "vocab_size": 4096})
    tiny.write_checkpoint(case, tmp_path / "source")
    pair = Pair(tmp_path / "source", tmp_path, (48, 64))
    for i, source in enumerate(pair.both):
        convert(source, tmp_path / f"out{i}", profile="JANG_4S", method="mse", group_size=32)
    assert_same_weights(tmp_path / "out0", tmp_path / "out1")
    tiny.write_checkpoint(tiny.BY_NAME["qwen3"], tmp_path / "few")
    small = Pair(tmp_path / "few", tmp_path / "small-few", (48, 64))
    for source, stored_in, scales in (
        (small.codes, "float8_e4m3fn", "BF16"),
        (small.twin, "float32", "F32"),
    ):
        out = source.with_suffix(".out")
        convert(source, out, profile="JANG_4S", method="rtn", group_size=32)
        assert read_weights(out)["lm_head.scales"].dtype == scales
        record = json.loads((out / "jang_config.json").read_text())
        assert record["source_model"]["dtype"] == stored_in


def test_a_head_with_other_scales_is_a_head_of_its_own(tmp_path: Path) -> None:
    tiny.write_checkpoint(replace(tiny.BY_NAME["llama-tied"], dtype="F32"), tmp_path / "source")

    def embeds(name: str, values: fp8.Floats) -> bool:
        return "embed_tokens" in name

    codes = tmp_path / "codes"
    fp8.write_fp8(tmp_path / "source", codes, (64, 64), chosen=embeds)
    config = json.loads((codes / "config.json").read_text())
    weights = read_weights(codes)
    head = weights["model.embed_tokens.weight"]
    scales = weights["model.embed_tokens.weight" + fp8.SUFFIX]
    for factor, folder in ((1, tmp_path / "copy"), (-2, tmp_path / "other")):
        other = (fp8.as_floats(scales) * np.float32(factor)).tobytes()
        more = {
            "lm_head.weight": head,
            "lm_head.weight" + fp8.SUFFIX: scales._replace(payload=other),
        }
        fp8.write_directory(codes, folder, {**weights, **more}, config)
        fp8.write_twin(folder, folder.with_suffix(".twin"))
        assert np.array_equal(run(folder), run(folder.with_suffix(".twin")))
        out = folder.with_suffix(".out")
        convert(folder, out, profile="JANG_4S", method="rtn", group_size=32)
        assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] == (factor == 1)
    assert np.array_equal(run(tmp_path / "copy"), run(codes))
    assert not np.array_equal(run(tmp_path / "other"), run(codes))


# --- around conversion ---------------------------------------------------------------------------


def test_plan_and_inspect_count_what_there_is(pair: Pair, tmp_path: Path) -> None:
    planned, expected = (plan(path, profile="JANG_3M", group_size=32) for path in pair.both)
    assert planned.bytes == expected.bytes
    assert planned.parameters == expected.parameters
    found, plain = (inspect(path) for path in pair.both)
    assert found.bytes == (pair.codes / "model.safetensors").stat().st_size
    assert found.parameters == plain.parameters
    assert [row.weights for row in found.roles] == [row.weights for row in plain.roles]
    stored_tensors = read_weights(pair.codes)
    rows = {tensor.name: tensor for tensor in found.tensors}
    assert not [name for name in rows if name.endswith(fp8.SUFFIX)]
    for name in pair.names:
        parts = (stored_tensors[name], stored_tensors[name + fp8.SUFFIX])
        assert rows[name].dtype == "F8_E4M3"
        assert rows[name].bytes == sum(len(part.payload) for part in parts)


def test_parts_are_the_single_conversion(tmp_path: Path) -> None:
    pair = readable(tmp_path, "qwen3-moe", (40, 96))
    options: dict[str, Any] = {"profile": "JANG_4K", "method": "mse", "group_size": 32}
    options["shard_size"] = 300_000
    convert(pair.codes, tmp_path / "whole", **options)
    plan(pair.codes, output=tmp_path / "plan.json", **options)
    tensors = [
        tensor
        for shard in json.loads((tmp_path / "plan.json").read_text())["plan"]["shards"]
        for tensor in shard["tensors"]
    ]
    assert {tensor["source_dtype"] for tensor in tensors} == {"F8_E4M3", "BF16"}
    convert_planned(tmp_path / "plan.json", tmp_path / "parts", model=pair.codes)
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert len([name for name in files if name.endswith(".safetensors")]) > 2
    assert files == sorted(file.name for file in (tmp_path / "parts").iterdir())
    for name in files:
        whole, parts = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "parts"))
        assert whole == parts, name


def test_verify_sees_other_codes_and_other_scales(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["qwen3"], tmp_path / "source")
    codes = Pair(tmp_path / "source", tmp_path, (48, 64)).codes
    convert(codes, tmp_path / "out", profile="JANG_4S", method="rtn", group_size=32)
    config = json.loads((codes / "config.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    for part in (name, name + fp8.SUFFIX):
        weights = read_weights(codes)
        payload = bytearray(weights[part].payload)
        payload[3] ^= 0x40  # of a code, and of the exponent of a scale
        weights[part] = weights[part]._replace(payload=bytes(payload))
        changed = tmp_path / ("changed" + part[-3:])
        fp8.write_directory(codes, changed, weights, config)
        faults = verify(tmp_path / "out", against=changed).faults
        assert [fault.code for fault in faults] == ["quality"]
        assert "layers.1.mlp.up_proj" in faults[0].tensor


def test_the_memory_is_told_before_it_is_taken(pair: Pair) -> None:
    told: list[int] = []
    load_model(pair.codes, on_widen=told.append)
    weights = read_weights(pair.codes)
    assert told == [sum(4 * len(weights[name].payload) for name in pair.names)]
    load_model(pair.twin, on_widen=told.append)
    assert len(told) == 1


def test_run_says_it(tmp_path: Path) -> None:
    pair = readable(tmp_path, "qwen3", (64, 64))
    result = CliRunner().invoke(
        cli, ["run", "--model", str(pair.codes), "--raw", "--prompt", "one", "--max-tokens", "2"]
    )
    assert result.exit_code == 0, result.output
    assert "FP8 weights are computed as float32: " in result.stderr
    assert "FP8, " in result.stderr


def test_a_directory_of_another_format_has_none(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["qwen3"], tmp_path / "source")
    out = tmp_path / "out"
    convert(tmp_path / "source", out, profile="JANG_4S", method="rtn", group_size=32)
    weights = read_weights(out)
    norm = weights["model.norm.weight"]
    weights["model.norm.weight"] = Tensor("F8_E4M3", (2 * norm.shape[0],), norm.payload)
    config = json.loads((out / "config.json").read_text())
    fp8.write_directory(out, tmp_path / "bad", weights, config)
    (tmp_path / "bad" / "model.safetensors.index.json").unlink(missing_ok=True)
    with pytest.raises(JangError, match="F8_E4M3") as caught:
        load_model(tmp_path / "bad")
    assert caught.value.code == "unusable_dtype"


# --- hostile files -------------------------------------------------------------------------------

UP = "model.layers.0.mlp.up_proj.weight"
SCALES = UP + fp8.SUFFIX
Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def setting(**values: Any) -> Change:
    def change(_: dict[str, Tensor], config: dict[str, Any]) -> None:
        config["quantization_config"].update(values)

    return change


def tensor(name: str, changed: Callable[[Tensor], Tensor | None]) -> Change:
    def change(weights: dict[str, Tensor], _: dict[str, Any]) -> None:
        found = changed(weights.pop(name))
        if found is not None:
            weights[name] = found

    return change


def without(key: str) -> Change:
    return lambda weights, config: config["quantization_config"].pop(key)


def unquantized(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    del config["quantization_config"]


def per_tensor(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    for name in [name for name in weights if name.endswith(fp8.SUFFIX)]:
        del weights[name]
        weights[name.removesuffix("_inv")] = Tensor("F32", (), np.float32(1).tobytes())


def plain_codes(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    weights[UP] = fp8.widened_tensor(weights, UP, (32, 32))


def norm_codes(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    norm = weights["model.norm.weight"]
    weights["model.norm.weight"] = Tensor("F8_E4M3", norm.shape, bytes(norm.shape[0]))
    weights["model.norm.weight" + fp8.SUFFIX] = Tensor("F32", (5,), bytes(20))


def resized(shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda old: Tensor(old.dtype, shape, bytes(4 * int(np.prod(shape))))


def first_bytes(raw: bytes) -> Callable[[Tensor], Tensor]:
    return lambda old: old._replace(payload=raw + old.payload[len(raw) :])


BAD: dict[str, tuple[Change, str, str]] = {
    "no block size": (without("weight_block_size"), "unsupported_format", "weight_block_size"),
    "block size null": (setting(weight_block_size=None), "unsupported_format", "weight_block"),
    "static": (setting(activation_scheme="static"), "unsupported_format", "static"),
    "e5m2": (setting(fmt="e5m2"), "unsupported_format", "e5m2"),
    "fp4 experts": (setting(expert_dtype="fp4"), "unsupported_format", "fp4"),
    "another method": (
        setting(quant_method="compressed-tensors"),
        "unsupported_format",
        "compressed-tensors",
    ),
    "zero block": (setting(weight_block_size=[0, 32]), "config_value", "weight_block_size"),
    "negative block": (setting(weight_block_size=[32, -32]), "config_value", "weight_block_size"),
    "huge block": (setting(weight_block_size=[2**62, 32]), "config_value", "weight_block_size"),
    "three blocks": (setting(weight_block_size=[32] * 3), "config_value", "weight_block_size"),
    "one block": (setting(weight_block_size=32), "config_value", "weight_block_size"),
    "other blocks": (setting(weight_block_size=[64, 32]), "triple_shape", "[3, 7]"),
    "blocks of everything": (setting(weight_block_size=[2**24, 32]), "triple_shape", "[1, 7]"),
    "no configuration": (unquantized, "unsupported_format", "F8_E4M3"),
    "a scale a tensor": (per_tensor, "missing_tensor", "weight_scale_inv"),
    "no scales": (tensor(SCALES, lambda _: None), "missing_tensor", SCALES),
    "no codes": (tensor(UP, lambda _: None), "unsupported_format", SCALES),
    "scales beside values": (plain_codes, "unsupported_format", SCALES),
    "scales of other rows": (tensor(SCALES, resized((6, 5))), "triple_shape", "[6, 5]"),
    "scales turned": (tensor(SCALES, resized((5, 7))), "triple_shape", "[5, 7]"),
    "scales flat": (tensor(SCALES, resized((35,))), "triple_shape", "[35]"),
    "scales half": (
        tensor(SCALES, lambda t: Tensor("F16", t.shape, t.payload[::2])),
        "triple_shape",
        "F16",
    ),
    "scales as bytes": (
        tensor(SCALES, lambda t: Tensor("U8", t.shape, t.payload[::4])),
        "triple_shape",
        "U8",
    ),
    "scales e8m0": (
        tensor(SCALES, lambda t: Tensor("F8_E8M0", t.shape, t.payload[::4])),
        "unusable_dtype",
        "F8_E8M0",
    ),
    "codes e5m2": (
        tensor(UP, lambda t: Tensor("F8_E5M2", t.shape, t.payload)),
        "unusable_dtype",
        "F8_E5M2",
    ),
    "a vector": (norm_codes, "triple_shape", "model.norm.weight"),
}
VALUES: dict[str, tuple[Change, str]] = {
    "NaN": (tensor(UP, first_bytes(b"\x00\x7f")), "row 0, column 1: expected a finite value"),
    "negative NaN": (tensor(UP, first_bytes(b"\xff")), "row 0, column 0: expected a finite value"),
    "infinite scale": (tensor(SCALES, first_bytes(b"\0\0\x80\x7f")), "expected a finite value"),
    "NaN scale": (tensor(SCALES, first_bytes(b"\0\0\xc0\x7f")), "found NaN"),
    "overflow": (tensor(SCALES, first_bytes(b"\xff\xff\x7f\x7f")), "infinity"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    tiny.write_checkpoint(tiny.BY_NAME["qwen3"], folder / "source")
    fp8.write_fp8(folder / "source", folder / "codes", (32, 32))
    return folder / "codes"


def spoilt(sound: Path, folder: Path, change: Change) -> Path:
    weights = read_weights(sound)
    config = json.loads((sound / "config.json").read_text())
    change(weights, config)
    fp8.write_directory(sound, folder, weights, config)
    return folder


def refusals(path: Path, tmp_path: Path, *, values: bool) -> list[JangError]:
    calls: list[Callable[[], object]] = [
        lambda: convert(path, tmp_path / "out", profile="JANG_4S", method="rtn", group_size=32),
        lambda: load_model(path, threads=2),
    ]
    if not values:
        calls += [lambda: plan(path, profile="JANG_4S"), lambda: inspect(path)]
    found = []
    for call in calls:
        with pytest.raises(JangError) as caught:
            call()
        found.append(caught.value)
    return found


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_by_name(name: str, sound: Path, tmp_path: Path) -> None:
    change, code, text = BAD[name]
    for error in refusals(spoilt(sound, tmp_path / "bad", change), tmp_path, values=False):
        assert error.code == code, str(error)
        assert text in str(error)
        assert "\n" not in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", VALUES)
def test_values_that_are_none_are_refused(name: str, sound: Path, tmp_path: Path) -> None:
    change, text = VALUES[name]
    for error in refusals(spoilt(sound, tmp_path / "bad", change), tmp_path, values=True):
        assert error.code == "non_finite", str(error)
        assert UP in str(error)
        assert text in str(error)


def test_halves_that_share_a_block_are_refused(tmp_path: Path) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["qwen3-moe-fused"], tmp_path / "source")
    fp8.write_fp8(tmp_path / "source", tmp_path / "codes", (24, 32))  # 32 rows each
    for error in refusals(tmp_path / "codes", tmp_path, values=False):
        assert error.code == "unsupported_format"
        assert "gate_up_proj" in str(error)
