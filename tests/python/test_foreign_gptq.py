"""GPTQ directories as models: exact weights, every layout that is read, refusals by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import jang_tools
from foreign_files import gptq_matrix, pack_words, read_floats, write_gptq
from jang_tools.cli.main import cli
from jang_tools.errors import FormatError, JangError
from jang_tools.evaluate import evaluate
from jang_tools.foreign.gptq_model import materialize_gptq, unpack
from jang_tools.foreign.open_foreign import foreign_kind, open_foreign
from jang_tools.foreign.reference import read_reference
from jang_tools.model import load_model
from tiny_checkpoints import BY_NAME, write_checkpoint

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    write_checkpoint(BY_NAME["llama-gqa"], folder)
    return folder


def materialized(folder: Path, reference: Path, output: Path) -> dict[str, np.ndarray]:
    output.mkdir()
    materialize_gptq(folder, read_reference(reference), output)
    return read_floats(output)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_a_little_endian_stream(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 64))
    words = np.array([pack_words(row.tolist(), bits) for row in codes], np.int32)
    np.testing.assert_array_equal(unpack(words, bits), codes)
    assert (words < 0).any()  # the sign bit holds a code's bit


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("zero_offset", [0, 1])
def test_weights_are_exact(
    bits: int, group_size: int, zero_offset: int, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "gptq"
    # Both flags over the grid of the parameters, rather than four times as many cases.
    desc_act, sym = bits in (2, 4), group_size in (64, 128)
    expected = write_gptq(
        folder,
        source,
        bits=bits,
        group_size=group_size,
        zero_offset=zero_offset,
        desc_act=desc_act,
        sym=sym,
    )
    assert_equal(materialized(folder, source, tmp_path / "plain"), expected)


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("sym", [False, True])
def test_four_bits_in_all_kinds(desc_act: bool, sym: bool, source: Path, tmp_path: Path) -> None:
    options = {"desc_act": desc_act, "sym": sym}
    expected = write_gptq(tmp_path / "gptq", source, **options)
    found = materialized(tmp_path / "gptq", source, tmp_path / "plain")
    assert_equal(found, expected)
    tokens = np.arange(20)
    ours = load_model(tmp_path / "plain", "exact")(tokens)
    assert np.isfinite(ours).all()
    # Rounding to 4 bits keeps a matrix, and reading it wrongly would not.
    weights = read_floats(source)[f"{UP}.weight"]
    error = np.linalg.norm(found[f"{UP}.weight"] - weights) / np.linalg.norm(weights)
    assert 0.02 < error < 0.15


def test_a_group_may_be_larger_than_any_integer_of_a_machine(source: Path, tmp_path: Path) -> None:
    settings = {"group_size": 1 << 64}
    expected = write_gptq(tmp_path / "gptq", source, group_size=-1, settings=settings)
    assert_equal(materialized(tmp_path / "gptq", source, tmp_path / "plain"), expected)


def test_a_zero_point_of_nought_wraps_in_the_first_format() -> None:
    positive = np.random.default_rng(0).uniform(0.5, 1.5, (32, 32)).astype(np.float32)
    matrix = gptq_matrix(positive)
    stored = unpack(matrix.arrays["qzeros"], 4)
    assert (stored == 15).all()  # nought less one, in four bits
    assert (matrix.weights >= 0).all()


def test_zero_points_of_nought_are_read(source: Path, tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}

    def change(arrays: dict[str, np.ndarray]) -> None:
        positive = np.abs(read_floats(source)[f"{UP}.weight"])
        matrix = gptq_matrix(positive)
        arrays.update({f"{UP}.{part}": array for part, array in matrix.arrays.items()})
        expected[f"{UP}.weight"] = matrix.weights

    expected = {**write_gptq(tmp_path / "gptq", source, change=change), **expected}
    assert_equal(materialized(tmp_path / "gptq", source, tmp_path / "plain"), expected)


def test_pieces_are_whole_words_of_zero_points(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jang_tools.foreign.gptq_model._CHUNK_WEIGHTS", 5000)
    for bits in (3, 4):
        expected = write_gptq(tmp_path / f"gptq-{bits}", source, bits=bits)
        found = materialized(tmp_path / f"gptq-{bits}", source, tmp_path / f"plain-{bits}")
        assert_equal(found, expected)


@pytest.mark.parametrize("case", ["mixtral", "qwen3-moe", "qwen2-moe", "olmoe", "phimoe"])
def test_experts_are_modules_like_others(case: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(BY_NAME[case], source)
    expected = write_gptq(tmp_path / "gptq", source)
    assert_equal(materialized(tmp_path / "gptq", source, tmp_path / "plain"), expected)


def test_old_file_names_and_biases_of_nought(source: Path, tmp_path: Path) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for name in [name for name in arrays if name.endswith(".qweight")]:
            outputs = arrays[name].shape[1]
            arrays[name.replace(".qweight", ".bias")] = np.zeros(outputs, np.float16)

    folder = tmp_path / "gptq"
    expected = write_gptq(folder, source, change=change, file="gptq_model-4bit-32g.safetensors")
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    del settings["quant_method"], settings["checkpoint_format"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    assert foreign_kind(folder) == "gptq"
    assert_equal(materialized(folder, source, tmp_path / "plain"), expected)


def test_modules_may_differ_where_the_settings_say_so(source: Path, tmp_path: Path) -> None:
    weights = read_floats(source)[f"{UP}.weight"]
    other = gptq_matrix(weights, bits=8, group_size=64)

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays.update({f"{UP}.{part}": array for part, array in other.arrays.items()})

    settings = {"dynamic": {r"+:.*\.1\.mlp\.up_proj": {"bits": 8, "group_size": 64}}}
    expected = write_gptq(tmp_path / "gptq", source, change=change, settings=settings)
    expected[f"{UP}.weight"] = other.weights
    assert_equal(materialized(tmp_path / "gptq", source, tmp_path / "plain"), expected)


def test_evaluation_on_the_demo_model(tmp_path: Path) -> None:
    folder = tmp_path / "demo-gptq"
    write_gptq(folder, DEMO, group_size=64, desc_act=True)
    found = evaluate(DEMO, folder, sequence=64, tokens=256).models[0]
    assert 1e-3 < found.kl.mean < 0.1
    size = (folder / "model.safetensors").stat().st_size
    subject = found.subject
    assert (subject.name, subject.path, subject.bytes) == ("demo-gptq", folder, size)
    assert (subject.format, subject.method, subject.profile) == (
        "gptq",
        "gptq",
        "4-bit g64, desc_act",
    )


Change = Callable[[dict[str, np.ndarray]], object]


def spoil(part: str, edit: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda arrays: arrays.update({f"{UP}.{part}": edit(arrays[f"{UP}.{part}"])})


def drop(name: str) -> Change:
    return lambda arrays: arrays.pop(name)


def with_value(array: np.ndarray, at: Any, value: float) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


REFUSED: dict[str, tuple[Change | None, dict[str, Any], str, str]] = {
    "another method": (None, {"quant_method": "awq"}, "unsupported_format", "found awq"),
    "bits": (None, {"bits": 5}, "unsupported_format", "bits: 5 are not read; read are 2, 3, 4, 8"),
    "bits as text": (None, {"bits": "4"}, "config_value", "bits: expected an integer, found '4'"),
    "no bits": (None, {"bits": None}, "config_value", "bits: expected an integer, found None"),
    "group 0": (None, {"group_size": 0}, "config_value", "group_size: expected -1 or a positive"),
    "flag": (None, {"desc_act": "no"}, "config_value", "desc_act: expected true or false"),
    "layout": (
        None,
        {"checkpoint_format": "marlin"},
        "unsupported_format",
        "checkpoint_format: 'marlin' is not read; read are gptq, gptq_v2",
    ),
    "words": (None, {"pack_dtype": "int8"}, "unsupported_format", "expected int32, found 'int8'"),
    "other bits": (
        None,
        {"bits": 8},
        "triple_shape",
        r"scales': expected \d groups of 32 for \d+ inputs, found \d",
    ),
    "other groups": (
        None,
        {"group_size": 64},
        "triple_shape",
        r"scales': expected 4 groups of 64 for 224 inputs, found 7",
    ),
    "no scales": (drop(f"{UP}.scales"), {}, "missing_tensor", r"up_proj\.scales': missing"),
    "no zero points": (drop(f"{UP}.qzeros"), {}, "missing_tensor", r"up_proj\.qzeros': missing"),
    "no order": (
        drop(f"{UP}.g_idx"),
        {"desc_act": True},
        "missing_tensor",
        r"g_idx': missing, where desc_act is true",
    ),
    "an order without desc_act": (
        spoil("g_idx", lambda index: index[::-1].copy()),
        {},
        "config_value",
        "expected the groups in order, for desc_act is false",
    ),
    "group beyond": (
        spoil("g_idx", lambda index: with_value(index, 3, 4)),
        {"desc_act": True},
        "config_value",
        "expected groups from 0 to 3, found 0 to 4",
    ),
    "negative group": (
        spoil("g_idx", lambda index: with_value(index, 3, -1)),
        {"desc_act": True},
        "config_value",
        "found -1 to 3",
    ),
    "short order": (
        spoil("g_idx", lambda index: index[:-1].copy()),
        {},
        "triple_shape",
        r"expected I32 \[128\], found I32 \[127\]",
    ),
    "flat codes": (
        spoil("qweight", lambda words: words.reshape(-1)),
        {},
        "triple_shape",
        "expected a matrix of I32, found I32",
    ),
    "codes as floats": (
        spoil("qweight", lambda words: words.astype(np.float32)),
        {},
        "triple_shape",
        "expected a matrix of I32, found F32",
    ),
    "scales transposed": (
        spoil("scales", lambda scales: scales.T.copy()),
        {},
        "triple_shape",
        "found 224",
    ),
    "zero points cut": (
        spoil("qzeros", lambda words: words[:, 1:].copy()),
        {},
        "triple_shape",
        r"qzeros': expected shape \[4, 28\.0\], for 4 bits, found \[4, 27\]",
    ),
    "infinite scale": (
        spoil("scales", lambda scales: with_value(scales, (2, 5), np.inf)),
        {},
        "non_finite",
        r"scales': expected finite values",
    ),
    "infinite norm": (
        lambda arrays: arrays.update({"model.norm.weight": np.full(128, np.nan, np.float16)}),
        {},
        "non_finite",
        r"tensor 'model\.norm\.weight': expected finite values",
    ),
    "a bias that the model lacks": (
        lambda arrays: arrays.update({f"{UP}.bias": np.ones(224, np.float16)}),
        {},
        "extra_tensor",
        r"tensor 'model\.layers\.1\.mlp\.up_proj\.bias': expected no such tensor",
    ),
    "an embedding of another size": (
        lambda arrays: arrays.update({"model.embed_tokens.weight": np.ones((9, 128), np.float16)}),
        {},
        "tensor_shape",
        r"expected shape \[331, 128\], .* found \[9, 128\]",
    ),
    "no norm": (drop("model.norm.weight"), {}, "missing_tensor", "expected 39 tensors, found 38"),
    "integers": (
        lambda arrays: arrays.update({"model.norm.weight": np.ones(128, np.int32)}),
        {},
        "unusable_dtype",
        "expected F32, F16 or BF16, found I32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_spoiled_directories_are_one_line(name: str, source: Path, tmp_path: Path) -> None:
    change, settings, code, message = REFUSED[name]
    folder = tmp_path / "gptq"
    write_gptq(folder, source, change=change, settings=settings)
    output = tmp_path / "plain"
    output.mkdir()
    with pytest.raises(JangError, match=message) as raised:
        materialize_gptq(folder, read_reference(source), output)
    assert "\n" not in str(raised.value)
    assert raised.value.code == code


def test_converted_directories_are_not_taken_for_gptq(tmp_path: Path) -> None:
    jang_tools.convert(DEMO, tmp_path / "converted", profile="uniform-4", method="rtn")
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert config["quantization_config"]["bits"] == 4  # as mlx-lm writes it
    assert foreign_kind(tmp_path / "converted") is None


def test_settings_that_disagree(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gptq"
    write_gptq(folder, source)
    (folder / "quantize_config.json").write_text('{"bits": 8}')
    with (
        pytest.raises(FormatError, match=r"bits: expected 4, as config\.json has it, found 8"),
        open_foreign(folder, source),
    ):
        pass
    assert foreign_kind(folder) == "gptq"  # so that it is this that the user hears


def test_a_damaged_file_is_the_cores_to_refuse(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gptq"
    write_gptq(folder, source)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-5])
    with pytest.raises(FormatError, match=r"model\.safetensors"), open_foreign(folder, source):
        pass


def test_the_command_says_it_in_one_line(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gptq"
    write_gptq(folder, source, settings={"checkpoint_format": "marlin"})
    done = CliRunner().invoke(cli, ["eval", "--reference", str(source), "--model", str(folder)])
    assert done.exit_code == 1
    assert done.stderr == (
        "error: config.json: checkpoint_format: 'marlin' is not read; read are gptq, gptq_v2\n"
    )
