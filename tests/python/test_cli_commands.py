"""plan, convert, inspect, verify, profiles and env on the demo model, as text and as JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import jang_tools
from jang_tools.cli.main import cli

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
# Embedding and head, then per layer attention, MLP and two norms, and the last norm.
DEMO_PARAMETERS = 2 * 4096 * 256 + 6 * (2 * 256 * (256 + 128) + 3 * 256 * 768 + 512) + 256


def jang(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="jang")


def succeed(*arguments: str | Path) -> str:
    done = jang(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def document(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """The one JSON document that a command prints."""
    done = jang(*arguments, "--json")
    assert done.exit_code == code, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cli") / "tiny-4L"
    succeed("convert", "--model", DEMO, "--profile", "4l", "--output", output, "--method", "rtn")
    return output


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "copy"))


# --- convert -----------------------------------------------------------------------------------


def test_convert_reports_in_five_lines(tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = jang("convert", "--model", DEMO, "--profile", "JANG_4L", "-o", output)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Quantizing with MSE (grid search)..."
    assert re.fullmatch(
        r"Memory: at most \d+\.\d MB \(.+: \d+\.\d MB\) \| Disk: \d+\.\d MB", lines[1]
    )
    assert lines[2] == "Attention layers: 8-bit | MLP: 4-bit"
    match = re.fullmatch(r"Average bits: (\d\.\d) \| Size: (\d+\.\d) MB", lines[3])
    assert match is not None
    assert lines[4:] == ["Done ✔"]
    shards = sum(file.stat().st_size for file in output.glob("model-*.safetensors"))
    assert float(match[2]) == round(shards / 1e6, 1)
    assert float(match[1]) == round(jang_tools.inspect(output).average_bits, 1)


def test_convert_defaults_are_4k_and_mse(tmp_path: Path) -> None:
    found = document("convert", "--model", DEMO, "--output", tmp_path / "out")
    assert found["schema"] == "jang.convert/1"
    assert (found["profile"], found["method"]) == ("JANG_4K", "mse")
    assert found["output"] == str(tmp_path / "out")
    assert 3.5 < found["average_bits"] <= 4
    shards = (tmp_path / "out").glob("model-*.safetensors")
    assert found["bytes"] == sum(file.stat().st_size for file in shards)
    assert found["bits_per_weight"] == pytest.approx(8 * found["bytes"] / DEMO_PARAMETERS)
    assert found["seconds"] > 0
    assert found["warnings"] == []


def test_convert_passes_its_options_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    succeed(
        *("convert", "--model", DEMO, "--output", output, "--profile", "4L", "--method", "rtn"),
        *("--dtype", "f16", "--group-size", "128", "--threads", "1", "--expert-floor", "3"),
        *("--set", "*.down_proj=6:32", "--set", "lm_head=none"),
    )
    modules = {row["name"]: row for row in document("inspect", output, "--tensors")["tensors"]}
    down = modules["model.layers.0.mlp.down_proj"]
    up = modules["model.layers.0.mlp.up_proj"]
    assert (down["bits"], down["group_size"]) == (6, 32)
    assert (up["bits"], up["group_size"]) == (4, 128)
    head = next(row for name, row in modules.items() if name.startswith("lm_head"))
    assert (head["bits"], head["dtype"]) == (None, "F16")


def test_convert_refuses_an_output_that_exists(copy: Path) -> None:
    before = (copy / "SHA256SUMS").read_bytes()
    arguments = ("convert", "--model", DEMO, "--output", copy, "--method", "rtn")
    done = jang(*arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {copy}: already exists")
    assert "hint: " in done.stderr
    assert (copy / "SHA256SUMS").read_bytes() == before
    succeed(*arguments, "--overwrite")
    assert (copy / "SHA256SUMS").read_bytes() != before


def test_convert_names_an_unknown_profile_and_an_idle_pattern(tmp_path: Path) -> None:
    base = ("convert", "--model", DEMO, "--output", tmp_path / "out")
    for extra, named in ((("--profile", "9Z"), "9Z"), (("--set", "nothing.*=4"), "nothing.*")):
        done = jang(*base, *extra)
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert named in done.stderr
    assert not list(tmp_path.iterdir())


# --- plan, profiles ----------------------------------------------------------------------------


def test_plan_expects_the_bytes_that_convert_writes(converted: Path) -> None:
    found = document("plan", DEMO, "--profile", "4L")
    assert found["schema"] == "jang.plan/1"
    assert found["profile"] == "JANG_4L"
    shards = converted.glob("model-*.safetensors")
    assert found["bytes"] == sum(file.stat().st_size for file in shards)
    assert found["bits_per_weight"] == pytest.approx(8 * found["bytes"] / DEMO_PARAMETERS)
    assert sum(row["weights"] for row in found["roles"]) == DEMO_PARAMETERS
    quantized = [row for row in found["modules"] if row["bits"] is not None]
    weights = sum(row["weights"] for row in quantized)
    bits = sum(row["weights"] * row["bits"] for row in quantized)
    assert found["average_bits"] == pytest.approx(bits / weights)
    assert set(found["roles"][0]) >= {"role", "tensors", "weights", "bits", "bytes"}
    assert set(found["modules"][0]) >= {"path", "role", "weights", "bits", "group_size"}


def test_plan_prints_a_table_by_role() -> None:
    text = succeed("plan", "--model", DEMO, "--profile", "uniform-4")
    found = document("plan", DEMO, "--profile", "uniform-4")
    for row in found["roles"]:
        assert re.search(rf"^{row['role']} +{row['tensors']} ", text, re.MULTILINE)
    assert f"Expected file size: {found['bytes'] / 1e6:.1f} MB ({found['bytes']} bytes)" in text
    assert "Average bits: 4 (4.5 with scales and biases)" in text


def test_profiles_lists_the_table() -> None:
    rows = {row["name"]: row for row in document("profiles")["profiles"]}
    columns = ("mlp", "attention", "embedding", "head")
    assert tuple(rows["JANG_4L"][name] for name in columns) == (4, 8, 4, 8)
    assert tuple(rows["JANG_2S"][name] for name in columns) == (2, 6, 4, 6)
    assert {"JANG_3K", "JANG_4K", "JANG_5K", "JANG_6K"} <= set(rows)
    text = succeed("profiles")
    for name in rows:
        assert re.search(rf"^{name} ", text, re.MULTILINE)
    assert "average" not in text.splitlines()[0]


def test_profiles_of_a_model_are_its_plans() -> None:
    found = document("profiles", "--model", DEMO)
    assert found["schema"] == "jang.profiles/1"
    for row in found["profiles"]:
        plan = document("plan", DEMO, "--profile", row["name"])
        for name in ("average_bits", "bits_per_weight", "bytes"):
            assert row[name] == plan[name]
    assert "average" in succeed("profiles", "--model", DEMO).splitlines()[0]


# --- inspect, verify, env ----------------------------------------------------------------------


def test_inspect_tells_what_was_converted(converted: Path) -> None:
    found = document("inspect", converted)
    assert found["schema"] == "jang.inspect/1"
    assert (found["format"], found["profile"], found["method"]) == ("jang", "JANG_4L", "rtn")
    assert found["parameters"] == DEMO_PARAMETERS
    assert "tensors" not in found
    text = succeed("inspect", "--model", converted)
    assert re.search(r"^profile +JANG_4L$", text, re.MULTILINE)
    assert "down_proj" not in text
    assert "down_proj" in succeed("inspect", converted, "--tensors")


def test_inspect_of_a_source(converted: Path) -> None:
    found = document("inspect", DEMO, "--tensors")
    assert (found["format"], found["profile"]) == ("hf", None)
    assert found["bytes"] == (DEMO / "model.safetensors").stat().st_size
    assert sum(row["bytes"] for row in found["tensors"]) < found["bytes"]
    assert set(found["tensors"][0]) == {
        *("name", "dtype", "shape", "bits", "group_size", "bytes", "file")
    }


def test_verify_of_a_sound_directory(converted: Path) -> None:
    assert succeed("verify", converted) == "OK\n"
    found = document("verify", converted)
    assert (found["schema"], found["ok"], found["faults"]) == ("jang.verify/1", True, [])
    assert "tensors" not in found


def test_verify_names_a_flipped_byte_and_fails(copy: Path) -> None:
    (shard,) = copy.glob("model-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-7] ^= 1
    shard.write_bytes(data)
    done = jang("verify", copy)
    assert done.exit_code == 1
    assert shard.name in done.stdout
    assert done.stdout.splitlines()[-1].endswith(("fault", "faults"))
    assert "error: " not in done.stderr  # a fault is a finding, not a failure of the command
    found = document("verify", copy, code=1)
    assert found["ok"] is False
    assert {"code", "file", "tensor", "message"} <= set(found["faults"][0])


def test_verify_against_the_source(converted: Path) -> None:
    found = document("verify", converted, "--against", DEMO)
    assert found["ok"] is True
    assert {"path", "relative_rms", "max_abs"} <= set(found["tensors"][0])
    assert all(0 < row["relative_rms"] <= row["bound"] for row in found["tensors"])
    text = succeed("verify", converted, "--against", DEMO)
    assert text.splitlines()[-1] == "OK"
    assert "model.layers.0.mlp.down_proj" in text


def test_env_tells_levels_threads_and_libraries() -> None:
    found = document("env")
    assert found["schema"] == "jang.env/1"
    active = [name for name, level in found["levels"].items() if level["active"]]
    assert len(active) == 1
    assert found["levels"][active[0]] == {"compiled": True, "supported": True, "active": True}
    assert found["threads"] >= 1
    assert found["libraries"]["tokenizers"]
    text = succeed("env")
    assert re.search(rf"^{active[0]} +yes +yes +yes$", text, re.MULTILINE)
    assert f"Threads: {found['threads']} (" in text


def test_env_warns_of_the_package_with_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from jang_tools import env

    real = env._installed
    monkeypatch.setattr(env, "_installed", lambda name: "2.5" if name == "jang" else real(name))
    done = jang("env")
    assert done.exit_code == 0
    assert "warning: the package 'jang' 2.5 is installed here too" in done.stderr
    assert document("env")["warnings"]
