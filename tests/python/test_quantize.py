"""Quantization of arrays: byte equality with the mlx package, round trips, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jang_tools.errors import ArgumentError, FormatError
from jang_tools.quantize import Quantized, dequantize, pack, quantize, unpack

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
DTYPES = ("F32", "F16", "BF16")
MX_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}

COLUMNS = 384
ROWS = 6


def _rng() -> np.random.Generator:
    return np.random.default_rng(20)


def _adversarial() -> dict[str, np.ndarray]:
    """Float32 matrices [ROWS, COLUMNS] that reach every branch of the rule."""
    rng = _rng()
    normal = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    ones = np.ones((ROWS, COLUMNS), np.float32)
    index = np.arange(COLUMNS)
    levels = rng.standard_normal((ROWS, 1)).astype(np.float32)
    half_integers = (rng.integers(-30, 30, (ROWS, COLUMNS)) / 2).astype(np.float32)
    outlier = normal * 0.01
    outlier[:, 5::32] = 50.0
    return {
        "normal": normal,
        "small normal": normal * 0.02,
        "heavy": rng.standard_t(2, (ROWS, COLUMNS)).astype(np.float32),
        "zeros": ones * 0,
        "negative zeros": ones * np.float32(-0.0),
        "mixed zeros": np.where(index % 2 == 0, np.float32(0.0), np.float32(-0.0)) * ones,
        "constant": ones * levels,
        "constant negative": ones * -np.abs(levels),
        "constant tiny": ones * np.float32(3e-8),
        "ties": np.where(index % 2 == 0, -1.0, 1.0).astype(np.float32) * ones,
        "ties scaled": np.where(index % 3 == 0, -1.0, 1.0).astype(np.float32) * np.abs(levels),
        "all negative": -np.abs(normal) - np.float32(0.25),
        "all positive": np.abs(normal) + np.float32(0.25),
        "one sided": np.abs(normal),
        "narrow offset": (100 + normal * 0.01).astype(np.float32),
        "denormals": (normal * 1e-40).astype(np.float32),
        "negative denormals": -np.abs(normal * 1e-40).astype(np.float32),
        "at the least step": (normal * 3e-7).astype(np.float32),
        "huge": (np.clip(normal, -3, 3) * 1e4).astype(np.float32),
        "outlier": outlier,
        "negative outlier": -outlier,
        "alternating": np.where(index % 2 == 0, 1.0, -0.75).astype(np.float32) * np.abs(normal),
        "half integers": half_integers,
        "near half integers": np.nextafter(half_integers, np.float32(np.inf)),
        "integers": rng.integers(-8, 8, (ROWS, COLUMNS)).astype(np.float32),
        "mostly zero": np.where(rng.random((ROWS, COLUMNS)) < 0.9, 0, normal).astype(np.float32),
        "ramp": ((index - 100) / np.float32(16)).astype(np.float32) * ones,
    }


def _to_mx(values: np.ndarray, dtype: str) -> mx.array:
    return mx.array(values.astype(np.float32)).astype(MX_DTYPES[dtype])


def _to_numpy(array: mx.array) -> np.ndarray:
    """Bits of an mlx array as numpy; bfloat16 as uint16."""
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array)


def _ours(values: np.ndarray, dtype: str, **options: Any) -> Quantized:
    """Quantizes ``values`` (float32) rounded to ``dtype``."""
    source = _to_numpy(_to_mx(values, dtype))
    return quantize(source, dtype=dtype, **options)


def _assert_equal_to_mlx(values: np.ndarray, dtype: str, bits: int, group_size: int) -> None:
    theirs = mx.quantize(_to_mx(values, dtype), group_size=group_size, bits=bits)
    ours = _ours(values, dtype, bits=bits, group_size=group_size)
    for name, found, expected in zip(Quantized._fields, ours, theirs, strict=True):
        reference = _to_numpy(expected)
        assert found.shape == reference.shape
        assert found.tobytes() == reference.tobytes(), name


@pytest.fixture(scope="module", autouse=True)
def _cpu() -> None:
    mx.set_default_device(mx.cpu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUPS)
def test_rtn_equals_mlx_on_adversarial_matrices(dtype: str, bits: int, group_size: int) -> None:
    for name, values in _adversarial().items():
        try:
            _assert_equal_to_mlx(values, dtype, bits, group_size)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUPS)
def test_rtn_equals_mlx_on_huge_ranges(bits: int, group_size: int) -> None:
    values = (_rng().standard_normal((ROWS, COLUMNS)) * 2e37).astype(np.float32)
    for dtype in ("F32", "BF16"):
        _assert_equal_to_mlx(values, dtype, bits, group_size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
def test_rtn_equals_mlx_on_random_matrices(dtype: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    for scale in (1e-4, 0.02, 1.0, 300.0):
        values = (rng.standard_normal((64, 1024)) * scale).astype(np.float32)
        _assert_equal_to_mlx(values, dtype, bits, 64)


def test_rtn_equals_mlx_on_stacks() -> None:
    values = _rng().standard_normal((3, 5, 128)).astype(np.float32)
    _assert_equal_to_mlx(values, "BF16", 3, 64)
    assert _ours(values, "BF16", bits=3, group_size=64).codes.shape == (3, 5, 12)


finite_floats = st.floats(-1.75 * 2.0**127, 1.75 * 2.0**127, width=32)


@settings(max_examples=150, deadline=None)
@given(
    values=hnp.arrays(np.float32, (1, 128), elements=finite_floats, fill=finite_floats),
    bits=st.sampled_from(BITS),
    group_size=st.sampled_from(GROUPS),
    dtype=st.sampled_from(("F32", "BF16")),
)
def test_rtn_equals_mlx_or_is_refused(
    values: np.ndarray, bits: int, group_size: int, dtype: str
) -> None:
    scales = _to_numpy(
        mx.quantize(_to_mx(values, dtype), group_size=group_size, bits=bits)[1].astype(mx.float32)
    )
    if np.isfinite(scales).all():
        _assert_equal_to_mlx(values, dtype, bits, group_size)
    else:
        with pytest.raises(FormatError, match="beyond the range"):
            _ours(values, dtype, bits=bits, group_size=group_size)


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float32, (2, 128), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    bits=st.sampled_from(BITS),
    dtype=st.sampled_from(("F32", "BF16")),
)
def test_mse_is_never_worse_than_rtn(values: np.ndarray, bits: int, dtype: str) -> None:
    exact = np.array(_to_mx(values, dtype).astype(mx.float32)).astype(np.float64)

    def error(method: str) -> np.ndarray:
        quantized = _ours(values, dtype, bits=bits, group_size=64, method=method)
        found = dequantize(quantized, bits=bits, group_size=64, dtype=dtype)
        squares = (found.astype(np.float64) - exact) ** 2
        return squares.reshape(-1, 64).sum(axis=1)

    largest = np.abs(exact).reshape(-1, 64).max(axis=1)
    resolution = 64 * (largest * 2.0**-22) ** 2
    assert (error("mse") <= error("rtn") * (1 + 1e-5) + resolution + 1e-80).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", BITS)
def test_dequantize_agrees_with_mlx(dtype: str, bits: int) -> None:
    values = _rng().standard_normal((ROWS, COLUMNS)).astype(np.float32)
    for method in ("rtn", "mse"):
        ours = _ours(values, dtype, bits=bits, group_size=64, method=method)
        found = dequantize(ours, bits=bits, group_size=64, dtype=dtype)
        scales, biases = (
            (mx.array(a).view(mx.bfloat16) if dtype == "BF16" else mx.array(a)).astype(mx.float32)
            for a in (ours.scales, ours.biases)
        )
        theirs = mx.dequantize(mx.array(ours.codes), scales, biases, group_size=64, bits=bits)
        np.testing.assert_array_equal(found, np.array(theirs))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_result_does_not_depend_on_threads(bits: int, method: Any) -> None:
    values = _rng().standard_normal((513, 256)).astype(np.float32)
    one = quantize(values, bits=bits, method=method, threads=1)
    for threads in (2, 3):
        other = quantize(values, bits=bits, method=method, threads=threads)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_strided_and_read_only_sources() -> None:
    values = _rng().standard_normal((8, 256)).astype(np.float32)
    expected = quantize(np.ascontiguousarray(values[::2, ::-1]), bits=4)
    view = values[::2, ::-1]
    view.flags.writeable = False
    for a, b in zip(quantize(view, bits=4), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_importance_lowers_the_weighted_error() -> None:
    rng = _rng()
    values = rng.standard_normal((64, 512)).astype(np.float32)
    importance = np.exp(2 * rng.standard_normal(512)).astype(np.float32)

    def weighted_error(**options: Any) -> float:
        found = dequantize(quantize(values, bits=3, method="mse", **options), bits=3)
        return float((importance * (found - values) ** 2).sum())

    assert weighted_error(importance=importance) < 0.85 * weighted_error()


@settings(max_examples=80, deadline=None)
@given(data=st.data(), bits=st.sampled_from(BITS), rows=st.integers(0, 3), blocks=st.integers(0, 6))
def test_pack_round_trips(data: st.DataObject, bits: int, rows: int, blocks: int) -> None:
    codes = data.draw(
        hnp.arrays(np.uint8, (rows, 32 * blocks), elements=st.integers(0, 2**bits - 1))
    )
    words = pack(codes, bits=bits)
    assert words.shape == (rows, blocks * bits)
    np.testing.assert_array_equal(unpack(words, bits=bits), codes)
    stream = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    fields = stream.reshape(rows, 32 * blocks, bits).astype(np.uint16)
    np.testing.assert_array_equal((fields << np.arange(bits, dtype=np.uint16)).sum(axis=2), codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-infinity")]
)
def test_non_finite_values_are_refused_by_place(
    dtype: str, method: str, value: float, name: str
) -> None:
    values = _rng().standard_normal((4, 128)).astype(np.float32)
    values[2, 77] = value
    with pytest.raises(FormatError, match=f"row 2, column 77: {name} where") as caught:
        _ours(values, dtype, bits=4, group_size=32, method=method)
    assert caught.value.code == "non_finite"


def test_scales_beyond_the_type_are_refused_by_place() -> None:
    values = np.ones((2, 64), np.float32)
    values[1, 40], values[1, 41] = 3e38, -3e38
    with pytest.raises(FormatError, match="the group at row 1, column 32: its scale") as caught:
        quantize(values, bits=2, group_size=32)
    assert caught.value.code == "range"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 7}, "bits: expected"),
        ({"bits": 4, "group_size": 48}, "group_size: expected"),
        ({"bits": 4, "group_size": 128}, "no multiple of group_size"),
        ({"bits": 4, "method": "gptq"}, "method: expected"),
        ({"bits": 4, "threads": -1}, "threads: expected"),
        ({"bits": 4, "dtype": "F16"}, "does not fit"),
        ({"bits": 4, "importance": np.ones(64, np.float32)}, "only method"),
        (
            {"bits": 4, "method": "mse", "importance": np.ones(32, np.float32)},
            "one axis of 64",
        ),
        (
            {"bits": 4, "method": "mse", "importance": np.zeros(64, np.float32)},
            "above zero",
        ),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        quantize(np.ones((2, 64), np.float32), **options)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint16])
def test_other_element_types_are_refused(dtype: Any) -> None:
    with pytest.raises(ArgumentError, match="expected float32, float16, or uint16"):
        quantize(np.ones((2, 64), dtype), bits=4)


def test_mismatched_triples_are_refused() -> None:
    good = quantize(np.ones((2, 64), np.float32), bits=4)
    for bad in (
        good._replace(scales=good.scales[:, :0]),
        good._replace(biases=good.biases[:1]),
        good._replace(biases=good.biases.astype(np.float16)),
    ):
        with pytest.raises(ArgumentError, match=r"scales|biases"):
            dequantize(bad, bits=4)
    with pytest.raises(ArgumentError, match="no whole groups"):
        dequantize(good, bits=3)
    with pytest.raises(ArgumentError, match="at most 3"):
        pack(np.full(32, 4, np.uint8), bits=2)
    with pytest.raises(ArgumentError, match="multiple of 32"):
        pack(np.zeros(33, np.uint8), bits=2)


def test_an_unknown_kernel_level_is_an_error() -> None:
    program = (
        "import numpy as np; from jang_tools.quantize import quantize;"
        "quantize(np.ones((1, 64), np.float32), bits=4)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JANG_ISA": "avx1024"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert "ArgumentError" in last
    assert "JANG_ISA=avx1024" in last
