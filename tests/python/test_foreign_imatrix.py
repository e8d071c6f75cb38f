"""Importance matrices of llama.cpp in both forms: means, experts, warnings, refusals."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import jang_tools
from foreign_files import legacy_imatrix, write_gguf_imatrix
from jang_tools.errors import JangError, UnsupportedError
from jang_tools.foreign.imatrix import read_imatrix
from jang_tools.foreign.reference import Reference, read_reference
from jang_tools.quantize import quantize
from tiny_checkpoints import BY_NAME, write_checkpoint

DENSE = {
    "attn_q": 128,
    "attn_k": 128,
    "attn_v": 128,
    "attn_output": 128,
    "ffn_gate": 128,
    "ffn_up": 128,
    "ffn_down": 224,
}
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
Entries = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    folder = tmp_path_factory.mktemp("sources")
    found = {}
    for case in (
        "llama-gqa",
        "llama-tied",
        "mixtral",
        "mixtral-fused",
        "qwen3-moe",
        "olmoe",
        "granitemoe",
        "granitemoe-fused",
        "phimoe",
        "phimoe-plain",
    ):
        write_checkpoint(BY_NAME[case], folder / case)
        found[case] = read_reference(folder / case)
    return found


def dense(seed: int = 0) -> Entries:
    random = np.random.default_rng(seed)
    return {
        f"blk.{layer}.{name}.weight": (
            random.uniform(1, 9000, (1, columns)).astype(np.float32),
            np.array([512.0 * (layer + 1)], np.float32),
        )
        for layer in range(4)
        for name, columns in DENSE.items()
    }


def test_gguf_means_by_module(sources: dict[str, Reference], tmp_path: Path) -> None:
    entries = dense()
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", entries, ["prose.txt", "code.txt"])
    found = read_imatrix(file, sources["llama-gqa"].path)
    assert found.warnings == []
    assert (found.datasets, found.chunks) == (["prose.txt", "code.txt"], 7)
    assert len(found.weights) == 28
    for layer in range(4):
        for name, module in MODULES.items():
            sums, counts = entries[f"blk.{layer}.{name}.weight"]
            weights = found.weights[f"model.layers.{layer}.{module}"]
            assert weights.dtype == np.float32
            np.testing.assert_array_equal(weights, sums[0] / counts[0])


def test_the_older_form_means_the_same(sources: dict[str, Reference], tmp_path: Path) -> None:
    entries = {name: (sums[0], 3) for name, (sums, _) in dense().items()}
    file = tmp_path / "imatrix.dat"
    for dataset in ("prose.txt", None):
        file.write_bytes(legacy_imatrix(entries, dataset))
        found = read_imatrix(file, sources["llama-gqa"])
        assert found.warnings == []
        assert (found.datasets, found.chunks) == (
            (["prose.txt"], 7) if dataset is not None else ([], 0)
        )
        sums = entries["blk.2.ffn_down.weight"][0]
        np.testing.assert_array_equal(
            found.weights["model.layers.2.mlp.down_proj"], sums / np.float32(3)
        )
    file.write_bytes(legacy_imatrix({"blk.2.ffn_down.weight": (sums, 0)}))
    found = read_imatrix(file, sources["llama-gqa"])
    np.testing.assert_array_equal(found.weights["model.layers.2.mlp.down_proj"], sums)


@pytest.mark.parametrize(
    ("case", "block", "count", "width"),
    [
        ("mixtral", "block_sparse_moe", 4, 96),
        ("mixtral-fused", "block_sparse_moe", 4, 96),
        ("qwen3-moe", "mlp", 8, 32),
        ("olmoe", "mlp", 8, 96),
        ("granitemoe", "block_sparse_moe", 4, 96),
        ("granitemoe-fused", "block_sparse_moe", 4, 96),
        ("phimoe", "block_sparse_moe", 4, 96),
        ("phimoe-plain", "block_sparse_moe", 4, 96),
    ],
)
def test_experts_have_weights_of_their_own(
    case: str, block: str, count: int, width: int, sources: dict[str, Reference], tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    gate_sums = random.uniform(1, 99, (count, 160)).astype(np.float32)
    down_sums = random.uniform(1, 99, (count, width)).astype(np.float32)
    counts = np.arange(count).astype(np.float32)  # the first expert saw nothing
    router = random.uniform(1, 99, (1, 160)).astype(np.float32)
    entries = {
        "blk.3.ffn_gate_exps.weight": (gate_sums, counts),
        "blk.3.ffn_up_exps.weight": (gate_sums, counts),
        "blk.3.ffn_down_exps.weight": (down_sums, counts),
        "blk.3.ffn_gate_inp.weight": (router, np.ones(1, np.float32)),
    }
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", entries)
    found = read_imatrix(file, sources[case])
    base = f"model.layers.3.{block}"
    for part, sums in (("gate_proj", gate_sums), ("up_proj", gate_sums), ("down_proj", down_sums)):
        weights = found.weights[f"{base}.switch_mlp.{part}"]
        assert weights.shape == sums.shape
        np.testing.assert_array_equal(weights[0], np.ones(sums.shape[1]))
        np.testing.assert_array_equal(weights[1:], sums[1:] / counts[1:, None])
    np.testing.assert_array_equal(
        found.weights[f"model.layers.3.{sources[case].router}"], router[0]
    )
    missing, unseen = found.warnings
    assert "modules without an entry" in missing and "self_attn.k_proj" in missing
    assert "3 matrices that saw no token" in unseen
    assert f"{base}.switch_mlp.gate_proj, expert 0" in unseen
    # The paths and shapes are those that conversion has.
    planned = jang_tools.plan(sources[case].path, profile="JANG_4L", group_size=32)
    paths = {module.path for module in planned.modules}
    assert {p for p in found.weights if not p.endswith(sources[case].router)} <= paths


def test_experts_in_the_older_form(sources: dict[str, Reference], tmp_path: Path) -> None:
    sums = np.random.default_rng(2).uniform(1, 9, (4, 160)).astype(np.float32)
    file = tmp_path / "imatrix.dat"
    file.write_bytes(legacy_imatrix({"blk.0.ffn_up_exps.weight": (sums, 5)}))
    found = read_imatrix(file, sources["mixtral"])
    weights = found.weights["model.layers.0.block_sparse_moe.switch_mlp.up_proj"]
    np.testing.assert_array_equal(weights, sums / np.float32(5))


def test_a_tied_head_is_the_embedding(sources: dict[str, Reference], tmp_path: Path) -> None:
    entry = (np.full((1, 160), 8, np.float32), np.array([2], np.float32))
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", {"output.weight": entry})
    found = read_imatrix(file, sources["llama-tied"])
    assert list(found.weights) == ["model.embed_tokens"]
    entry = (np.full((1, 128), 8, np.float32), np.array([2], np.float32))
    file = write_gguf_imatrix(tmp_path / "other.gguf", {"output.weight": entry})
    assert list(read_imatrix(file, sources["llama-gqa"]).weights) == ["lm_head"]


def test_what_is_missing_or_unknown_is_said(sources: dict[str, Reference], tmp_path: Path) -> None:
    entries = dense()
    del entries["blk.1.ffn_up.weight"]
    entries["blk.9.ffn_up.weight"] = entries["blk.0.ffn_up.weight"]
    entries["blk.2.attn_k.weight"] = (np.zeros((1, 128), np.float32), np.zeros(1, np.float32))
    entries["enc.\x1b[2J"] = entries["blk.0.ffn_up.weight"]
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", entries)
    found = read_imatrix(file, sources["llama-gqa"])
    assert found.warnings == [
        r"imatrix.gguf: 2 entries that the model lacks: blk.9.ffn_up.weight, enc.\x1b[2J",
        "imatrix.gguf: 1 modules without an entry, whose columns all count the same:"
        " model.layers.1.mlp.up_proj",
        "imatrix.gguf: 1 matrices that saw no token, whose columns all count the same:"
        " model.layers.2.self_attn.k_proj",
    ]
    assert (found.weights["model.layers.2.self_attn.k_proj"] == 1).all()


def test_weights_are_positive_and_serve_quantize(
    sources: dict[str, Reference], tmp_path: Path
) -> None:
    entries = dense()
    entries["blk.0.ffn_up.weight"][0][0, 64:] = 0  # inputs that never fired
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", entries)
    weights = read_imatrix(file, sources["llama-gqa"]).weights["model.layers.0.mlp.up_proj"]
    assert 0 < weights.min() < 1e-5 * weights.mean()
    rows = np.random.default_rng(3).normal(size=(4, 128)).astype(np.float32)
    quantize(rows, bits=3, method="mse", importance=weights)


ONE = np.ones((1, 128), np.float32)
COUNT = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("entries", "code", "message"),
    [
        (
            {"blk.0.ffn_up.weight": (np.ones((1, 64), np.float32), COUNT)},
            "tensor_shape",
            r"expected 128 columns, those of model\.layers\.0\.mlp\.up_proj, found 1 of 64",
        ),
        (
            {"blk.0.ffn_up.weight": (np.ones((2, 64), np.float32), np.ones(2, np.float32))},
            "tensor_shape",
            "found 2 of 64",
        ),
        (
            {"blk.0.ffn_up.weight": (np.ones((2, 128), np.float32), COUNT)},
            "tensor_shape",
            r"expected one count for each of its matrices, found shape \[2, 128\] and 1 counts",
        ),
        ({"blk.0.ffn_up.weight": (-ONE, COUNT)}, "non_finite", "expected sums from 0 on"),
        ({"blk.0.ffn_up.weight": (ONE, -COUNT)}, "non_finite", "expected counts from 0 on"),
    ],
)
def test_wrong_entries_are_one_line(
    entries: Entries, code: str, message: str, sources: dict[str, Reference], tmp_path: Path
) -> None:
    file = write_gguf_imatrix(tmp_path / "imatrix.gguf", entries)
    with pytest.raises(JangError, match=message) as raised:
        read_imatrix(file, sources["llama-gqa"])
    assert raised.value.code == code
    assert str(raised.value).startswith("imatrix.gguf: tensor 'blk.0.ffn_up.weight")


def test_a_model_is_no_importance_matrix(sources: dict[str, Reference], tmp_path: Path) -> None:
    file = write_gguf_imatrix(tmp_path / "model.gguf", dense(), kind="model")
    with pytest.raises(UnsupportedError, match="expected imatrix, found model"):
        read_imatrix(file, sources["llama-gqa"])


NAME = b"blk.0.ffn_up.weight"
WHOLE = legacy_imatrix({NAME.decode(): (ONE, 2)})


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"", "header_past_end", "expected 4 more bytes at byte 0, found 0"),
        (struct.pack("<i", 0), "header_cap", "entries: expected 1 to 0, found 0"),
        (struct.pack("<i", 1 << 30) + bytes(99), "header_cap", "entries: expected 1 to 7"),
        (struct.pack("<i", -1) + bytes(99), "header_cap", "found -1"),
        (WHOLE[:4] + struct.pack("<i", 5000) + WHOLE[8:], "header_cap", "bytes of a name"),
        (
            WHOLE[:27] + struct.pack("<i", -2) + WHOLE[31:],
            "config_value",
            "expected calls from 0 on, found -2",
        ),
        (
            WHOLE[:31] + struct.pack("<i", 1 << 30) + WHOLE[35:],
            "header_cap",
            r"tensor 'blk\.0\.ffn_up\.weight': values: expected 1 to \d+, found 1073741824",
        ),
        (WHOLE.replace(b"blk", b"\xff\xfe\xfd"), "header_encoding", "a name is not UTF-8"),
        (WHOLE[:-1], "header_cap", "bytes of the text's name"),
        (WHOLE + b"x", "payload_layout", "found 1 more"),
        (
            struct.pack("<i", 2) + 2 * WHOLE[4:-17],
            "duplicate_name",
            "tensor 'blk.0.ffn_up.weight': occurs twice",
        ),
    ],
)
def test_spoiled_files_are_one_line(
    data: bytes, code: str, message: str, sources: dict[str, Reference], tmp_path: Path
) -> None:
    file = tmp_path / "imatrix.dat"
    file.write_bytes(data)
    with pytest.raises(JangError, match=message) as raised:
        read_imatrix(file, sources["llama-gqa"])
    assert raised.value.code == code


def test_no_damage_is_a_traceback(sources: dict[str, Reference], tmp_path: Path) -> None:
    file = tmp_path / "imatrix.dat"
    random = np.random.default_rng(4)
    whole_ones = 0
    for length in range(len(WHOLE)):
        data = bytearray(WHOLE[:length] if length % 2 else WHOLE)
        if length % 2 == 0:
            data[int(random.integers(0, 40))] = int(random.integers(0, 256))
        file.write_bytes(data)
        try:
            read_imatrix(file, sources["llama-gqa"])
            whole_ones += 1
        except JangError as error:
            assert "\n" not in str(error)
    assert 0 < whole_ones < len(WHOLE)
