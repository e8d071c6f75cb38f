"""minimax (MiniMax-Text-01): conversion by every method, roles, stored decays, planning, refusals.

Logits are compared with transformers in test_parity.py and test_recurrent.py; stock mlx-lm has no
such model.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import FormatError, UnsupportedError, convert, inspect, plan, verify
from jang_tools.calibration import BUILTIN, read_calibration_text
from jang_tools.evaluate import evaluate
from jang_tools.model import load_model
from jang_tools.statistics import collect, load_statistics
from test_mlx import PROFILES
from test_parity import TOLERANCE, relative_error, stored
from weight_files import read_weights

LENGTH = 64
ROLES = {"other", "embedding", "router", "expert", "linear_attention", "attention"}


@pytest.fixture(scope="module", params=["minimax", "minimax-window"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(name) / "source"
    tiny.write_checkpoint(tiny.BY_NAME[name], folder)
    return folder


def manifest(path: Path) -> dict[str, Any]:
    document = json.loads((path / "jang_config.json").read_text("utf-8"))
    return dict(document["quantization"]["tensor_quantization_manifest"])


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_profiles_convert_verify_and_run(
    name: str, source: Path, method: str, tmp_path: Path
) -> None:
    few = ["JANG_2S", "JANG_4K", "tiered-3M", "uniform-6"]
    for profile in PROFILES if method == "rtn" and name == "minimax" else few:
        out = tmp_path / profile
        convert(source, out, profile=profile, method=method, group_size=32, threads=2)
        assert verify(out, against=source).ok, profile
        assert np.isfinite(load_model(out, threads=1)(tiny.tokens()[0])).all()
        shutil.rmtree(out)


def test_unquantized_output_is_the_source(name: str, source: Path, tmp_path: Path) -> None:
    result = convert(source, tmp_path / "out", method="rtn", rules=["*=none"])
    assert [line for line in result.warnings if "stock mlx-lm" in line]
    reference = stored(name)
    row = reference["long_tokens"][0]
    ours = load_model(tmp_path / "out", "exact")(row)
    assert np.array_equal(ours, load_model(source, "exact")(row))
    assert relative_error(ours, reference["long_logits"][0]) <= TOLERANCE
    # Decays follow from the config, whether a source stores them or not.
    assert not [path for path in read_weights(tmp_path / "out") if "decay" in path]


def test_roles_are_complete(name: str, source: Path, tmp_path: Path) -> None:
    case = tiny.BY_NAME[name]
    planned = plan(source, profile="JANG_3M", group_size=32)
    assert [line for line in planned.warnings if "stock mlx-lm" not in line] == []
    assert {row.role for row in planned.roles} == ROLES | (set() if case.tied else {"head"})
    convert(source, tmp_path / "out", profile="JANG_3M", method="rtn", group_size=32)
    found = {row.role: row.weights for row in inspect(tmp_path / "out").roles}
    assert found == {row.role: row.weights for row in planned.roles}
    entries = manifest(tmp_path / "out")
    layers = [path for path in entries if ".layers." in path and not path.endswith(".gate")]
    assert len(layers) == case.matrices


def test_a_bare_config_and_an_index_plan_like_the_checkpoint(
    name: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    options: dict[str, Any] = {"profile": "JANG_4K", "group_size": 32}
    full, plans = plan(source, **options), [plan(tmp_path, **options)]
    tensors = [tensor for tensor, _ in tiny.tensors(tiny.BY_NAME[name])]
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "m.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    plans.append(plan(tmp_path, **options))
    for made in plans:
        assert made.parameters == full.parameters
        assert [m.path for m in made.modules] == [m.path for m in full.modules]
        assert made.bytes == full.bytes


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


def test_gptq_solves_every_matrix_and_beats_mse(name: str, text: Path, tmp_path: Path) -> None:
    readable = tmp_path / "readable"
    tiny.write_readable_checkpoint(tiny.BY_NAME[name], readable, sliding_window=None)
    options: dict[str, Any] = {"profile": "uniform-3", "group_size": 32, "threads": 2}
    convert(readable, tmp_path / "mse", method="mse", **options)
    short = {"calibration_sequences": 40, "calibration_tokens": LENGTH}
    convert(readable, tmp_path / "gptq", method="gptq", calibration=text, **short, **options)
    assert verify(tmp_path / "gptq", against=readable).ok
    entries = manifest(tmp_path / "gptq")
    unsolved = {path for path, entry in entries.items() if entry["solver"] != "gptq"}
    assert unsolved <= {"model.embed_tokens"}
    outputs = [tmp_path / "mse", tmp_path / "gptq"]
    report = evaluate(readable, outputs, text=text, sequence=LENGTH, tokens=40 * LENGTH)
    mse, gptq = (model.kl.mean for model in report.models)
    assert 0 < gptq < 0.9 * mse
    few = {"calibration_sequences": 8, "calibration_tokens": LENGTH}
    sized: dict[str, Any] = {"method": "gptq", "calibration": text, "bits": 6.0, **few}
    result = convert(readable, tmp_path / "sized", group_size=32, **sized)
    assert result.allocation.losses == "measured"
    assert verify(tmp_path / "sized", against=readable).ok
    collect(readable, tmp_path / "sums", calibration=text, **few)
    sums = load_statistics(tmp_path / "sums", readable).mean_squares
    found = {path for path in sums if not path.endswith("block_sparse_moe.gate")}
    embedding = set() if tiny.BY_NAME[name].tied else {"model.embed_tokens"}
    assert found == {module.path for module in plan(readable).modules} - embedding


@pytest.mark.parametrize(
    "change",
    [
        {"full_attn_alpha_factor": 1.0},
        {"full_attn_beta_factor": 1.0},
        {"linear_attn_alpha_factor": 1.0},
        {"linear_attn_beta_factor": 1.0},
        {"mlp_alpha_factor": 1.0},
        {"mlp_beta_factor": 1.0},
        {"num_experts_per_tok": 1},
        {"sliding_window": 8},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ],
)
def test_parity_notices_a_wrong_key(change: dict[str, Any], tmp_path: Path) -> None:
    case = tiny.BY_NAME["minimax"]
    changed = replace(case, config={**case.config, **change}, absent=())
    tiny.write_checkpoint(changed, tmp_path / "wrong")
    reference = stored("minimax")
    found = load_model(tmp_path / "wrong", "exact")(reference["tokens"][0])
    expected = reference["logits"][0]
    assert np.abs(found - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"layer_types": ["full_attention"]}, FormatError, ["layer_types", "4 layers"]),
        (
            {"layer_types": ["full_attention", "mamba", "full_attention", "linear_attention"]},
            FormatError,
            ["layer_types", "layer 1", "mamba"],
        ),
        ({"layer_types": "linear_attention"}, FormatError, ["layer_types", "list"]),
        ({"mlp_beta_factor": 1e7}, FormatError, ["mlp_beta_factor", "found 10000000"]),
        ({"linear_attn_alpha_factor": "1"}, FormatError, ["linear_attn_alpha_factor", "number"]),
        ({"rotary_dim": 16}, UnsupportedError, ["rotary_dim", "32", "found 16"]),
        ({"hidden_act": "gelu"}, UnsupportedError, ["hidden_act", "gelu"]),
        ({"num_local_experts": 1}, FormatError, ["num_experts_per_tok", "found 2"]),
        ({"head_dim": 1 << 22}, FormatError, ["head_dim", "2^24"]),
    ],
)
def test_hostile_configs_are_refused_in_one_line(
    change: dict[str, Any], error: type[Exception], words: list[str], tmp_path: Path
) -> None:
    tiny.write_checkpoint(tiny.BY_NAME["minimax"], tmp_path / "source", "old")
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error) as caught:
        load_model(tmp_path / "source")
    message = str(caught.value)
    assert all(word in message for word in ["config.json", *words]), message
    assert "\n" not in message
