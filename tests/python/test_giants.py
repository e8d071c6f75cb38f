"""Checkpoints larger than any disk here: planned in little memory, and any part of one converted.

Their payloads are holes but for the rows that a test looks at.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import sparse_checkpoints as sparse
from jang_tools import convert, inspect, plan, verify
from jang_tools.parts import convert_part
from jang_tools.plan_file import read_plan_file
from jang_tools.quantize import quantize

PLAN = """
import json, sys
from pathlib import Path
from jang_tools import plan
source, output = sys.argv[1:]
result = plan(source, profile="JANG_2M", method="rtn", output=output)
print(json.dumps([result.parameters, len(result.modules),
                  Path("/proc/self/status").read_text()]))
"""


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A folder whose gigabytes do not stay until the next run."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_trillion_parameters_are_planned_in_little_memory(roomy: Path) -> None:
    config = sparse.qwen3_moe(layers=96, hidden=7168, experts=384, width=1344)
    assert sparse.write_sparse(roomy / "source", config) > 2e12
    index = json.loads((roomy / "source" / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) > 100_000
    command = [sys.executable, "-c", PLAN, str(roomy / "source"), str(roomy / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    parameters, modules, status = json.loads(done.stdout.splitlines()[-1])
    # Not ru_maxrss, which begins with the peak of the process that starts this one.
    peak = int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1])
    assert parameters > 1e12
    assert modules == 2 + 96 * 7  # a stack for all experts of a layer
    assert peak < 500_000  # kilobytes
    assert len(read_plan_file(roomy / "plan.json").shards) > 50


def put_rows(file: Path, tensor: str, first: int, rows: npt.NDArray[np.uint16]) -> None:
    """Writes rows of bfloat16 values into the hole that a tensor is."""
    with file.open("r+b") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        begin = json.loads(stream.read(length))[tensor]["data_offsets"][0]
        stream.seek(8 + length + begin + first * rows.shape[1] * 2)
        stream.write(rows.tobytes())


def get_rows(file: Path, tensor: str, first: int, count: int) -> bytes:
    """The bytes of some rows of a tensor."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(length))[tensor]
        begin, end = entry["data_offsets"]
        row = (end - begin) // prod(entry["shape"][:-1])
        stream.seek(8 + length + begin + first * row)
        return stream.read(count * row)


def random_rows(count: int, columns: int) -> npt.NDArray[np.uint16]:
    values = np.random.default_rng(7).standard_normal((count, columns)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def assert_stored(output: Path, path: str, first: int, rows: Any, bits: int) -> None:
    expected = quantize(rows, bits=bits, group_size=64, dtype="BF16")
    for part, values in (
        ("weight", expected.codes),
        ("scales", expected.scales),
        ("biases", expected.biases),
    ):
        assert get_rows(output, f"{path}.{part}", first, len(rows)) == values.tobytes()


def test_one_part_of_a_source_that_no_disk_holds(roomy: Path) -> None:
    source, output = roomy / "source", roomy / "out"
    assert sparse.write_sparse(source, sparse.llama(98, 12288, 32768, 100_000)) > 300e9
    path = "model.layers.47.mlp.up_proj"
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    rows = random_rows(5, 12288)
    put_rows(source / index[f"{path}.weight"], f"{path}.weight", 32763, rows)

    plan(
        source, profile="JANG_2M", method="rtn", shard_size=100_000_000, output=roomy / "plan.json"
    )
    shards = json.loads((roomy / "plan.json").read_text())["plan"]["shards"]
    assert len(shards) > 500
    number = next(
        i for i, shard in enumerate(shards, 1) if any(t["path"] == path for t in shard["tensors"])
    )
    result = convert_part(
        roomy / "plan.json", output, part=(number, len(shards)), model=source, threads=1
    )
    assert [shard.made for shard in result.shards] == [True]
    (made,) = (roomy / "out.partial").glob("*.safetensors")
    assert_stored(made, path, 32763, rows, 2)
    assert sum(file.stat().st_blocks * 512 for file in roomy.rglob("*")) < 1e9


def test_a_tensor_of_more_than_2_to_the_31_elements(roomy: Path) -> None:
    source, output = roomy / "source", roomy / "out"
    config = {**sparse.llama(1, 1024, 1024, 2_100_000), "tie_word_embeddings": True}
    sparse.write_sparse(source, config)
    (file,) = source.glob("*.safetensors")
    rows = random_rows(3, 1024)
    for first in (0, 2_097_151, 2_099_997):  # about element 2^31 and at the end, past 4 GiB
        put_rows(file, "model.embed_tokens.weight", first, rows)
    convert(source, output, profile="JANG_2S", method="rtn")
    (written,) = output.glob("*.safetensors")
    entry = next(t for t in inspect(output).tensors if t.name.startswith("model.embed_tokens"))
    for first in (0, 2_097_151, 2_099_997):
        assert_stored(written, "model.embed_tokens", first, rows, entry.bits)
    assert verify(output).ok


NAMES = [
    "トランスフォーマー.層.0.注意.q_proj.weight",
    "модель.слои.0.mlp.up_proj.weight",
    "e\u0301.0.down_proj.weight",  # decomposed, and beside it composed: two names
    "\u00e9.0.down_proj.weight",
    "\u0645\u0631\u062d\u0628\u0627.0.o_proj.weight",
    "🦙.\U0010ffff.0.k_proj.weight",
    "two words.0.v_proj.weight",
    'quote".0.gate_proj.weight',
    "back\\slash.0.gate_proj.weight",
]


def test_names_of_any_unicode(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    sparse.write_holes(source / "model.safetensors", [(name, (64, 64)) for name in NAMES])
    (source / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    convert(source, output, profile="JANG_4L", method="rtn")
    assert {t.name for t in inspect(output).tensors} == {n.removesuffix(".weight") for n in NAMES}
    assert verify(output, against=source).ok
