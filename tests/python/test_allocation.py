"""`bits` and `size` in place of a profile: targets, files, messages, the documents about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tiny_checkpoints as tiny
from jang_tools import convert, errors, inspect, verify
from jang_tools.cli.main import cli
from jang_tools.plan import plan

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"


def jang(*arguments: str) -> Result:
    environment = {"JANG_LOG": None, "NO_COLOR": None}
    return CliRunner(env=environment).invoke(cli, list(arguments), prog_name="jang")


def file_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("model-*.safetensors"))


@pytest.mark.parametrize("case", ["llama", "llama-tied", "mistral", "mixtral", "qwen3-moe"])
def test_files_take_what_the_plan_says(tmp_path: Path, case: str) -> None:
    source = tmp_path / "source"
    tiny.write_checkpoint(tiny.BY_NAME[case], source)
    interval = plan(source, bits=60).allocation
    assert interval is not None
    low, high = interval.lowest_bytes, interval.highest_bytes
    for i, size in enumerate((low, (2 * low + high) // 3, (low + 2 * high) // 3, high)):
        out = tmp_path / str(i)
        planned = plan(source, size=size)
        result = convert(source, out, size=size, method="rtn")
        assert file_bytes(out) == result.bytes == planned.bytes <= size
        assert result.profile == f"size-{size}"
        assert verify(out).ok
        widths = {
            path: (entry["bits"], entry["group_size"])
            for path, entry in json.loads((out / "config.json").read_text("utf-8"))[
                "quantization"
            ].items()
            if isinstance(entry, dict)
        }
        assert widths == {
            module.path: (module.bits, module.group_size) for module in planned.modules
        }


@pytest.mark.parametrize("bits", [2.7, 3.25, 4.0, 5.5, 7.9])
def test_bits_of_the_demo(bits: float) -> None:
    found = plan(DEMO, bits=bits)
    assert found.profile == f"bits-{bits:g}"
    assert 0.998 * bits < found.bits_per_weight <= bits
    assert found.target_bits == bits
    allocation = found.allocation
    assert allocation is not None
    assert allocation.requested_bits == bits
    assert allocation.requested_bytes == int(bits * found.parameters / 8)
    assert allocation.lowest_bytes <= found.bytes <= allocation.highest_bytes
    assert sum(row.modules for row in allocation.widths) == len(found.modules)
    assert allocation.losses == "prior"


def test_the_documents_record_it(tmp_path: Path) -> None:
    result = convert(DEMO, tmp_path / "out", bits=3.5, method="rtn")
    record = json.loads((tmp_path / "out" / "jang_config.json").read_text("utf-8"))["quantization"]
    assert record["profile"] == "bits-3.5"
    assert record["target_bits"] == 3.5
    allocation = record["allocation"]
    assert allocation["requested_bits"] == 3.5
    assert allocation["losses"] == "prior"
    assert set(allocation["floors"]) == {"head", "embedding", "attention", "mlp"}
    head = allocation["floors"]["head"]
    assert head["table_bits"] == 6
    assert head["modules"] == 1
    assert inspect(tmp_path / "out").profile == "bits-3.5"
    document = result.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["allocation"]["lowest_bytes"] == allocation["lowest_bytes"]
    convert(DEMO, tmp_path / "profile", profile="4L", method="rtn")
    other = json.loads((tmp_path / "profile" / "jang_config.json").read_text("utf-8"))
    assert "allocation" not in other["quantization"]


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    for name, threads in (("a", 1), ("b", 3)):
        convert(DEMO, tmp_path / name, bits=3, method="rtn", threads=threads)
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"bits": 4, "size": 10**6}, ["one of profile, bits and size"]),
        ({"bits": 4, "profile": "4L"}, ["one of profile, bits and size"]),
        ({"bits": 1}, ["1.000 bits per weight", "the files can take 2."]),
        ({"size": 10}, ["10 bytes", "the files can take 2."]),
        ({"size": -1}, ["-1"]),
        ({"bits": 0}, ["above 0"]),
        ({"bits": float("nan")}, ["nan"]),
        ({"bits": float("inf")}, ["inf"]),
        ({"bits": 3, "rules": ["*=8"]}, ["out of reach"]),
    ],
)
def test_refused_targets(tmp_path: Path, options: dict[str, Any], names: list[str]) -> None:
    for attempt in (
        lambda: plan(DEMO, **options),
        lambda: convert(DEMO, tmp_path / "out", **options),
    ):
        with pytest.raises(errors.ArgumentError) as raised:
            attempt()
        for name in names:
            assert name in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_options_stay_fixed() -> None:
    found = plan(DEMO, bits=5.5, rules=["*.v_proj=8:32", "lm_head=none"], group_size=64)
    widths = {module.path: (module.bits, module.group_size) for module in found.modules}
    assert widths["model.layers.2.self_attn.v_proj"] == (8, 32)
    assert "lm_head" not in widths
    assert {group for path, (_, group) in widths.items() if not path.endswith("v_proj")} == {64}
    assert 5.49 < found.bits_per_weight <= 5.5


def test_the_command_says_what_it_chose() -> None:
    done = jang("plan", str(DEMO), "--bits", "3.5")
    assert done.exit_code == 0, done.stderr
    assert "as bits-3.5" in done.stdout
    assert "Requested: 3.5 bits per weight" in done.stdout
    assert "Reachable: 2.2" in done.stdout
    assert "  mlp: " in done.stdout
    assert "floor of head: " in done.stdout


def test_the_command_and_sizes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = jang(
        "convert", "--model", str(DEMO), "--size", "3.5MB", "--method", "rtn", "-o", str(out)
    )
    assert done.exit_code == 0, done.stderr
    assert "(3500000 bytes)" in done.stdout
    assert 3_490_000 < file_bytes(out) <= 3_500_000
    document = json.loads(jang("plan", str(DEMO), "--size", "3500000", "--json").stdout)
    assert document["profile"] == "size-3500000"
    assert document["bytes"] == file_bytes(out)
    assert document["allocation"]["requested_bytes"] == 3_500_000
    assert document["allocation"]["widths"]


def test_a_target_above_the_maximum_is_written_with_a_notice() -> None:
    done = jang("plan", str(DEMO), "--size", "1GiB")
    assert done.exit_code == 0
    assert "above the largest file" in done.stderr
    assert all(module.bits == 8 for module in plan(DEMO, size=2**30).modules)


def test_a_target_below_the_minimum_names_the_interval(tmp_path: Path) -> None:
    done = jang("convert", "--model", str(DEMO), "--bits", "1.9", "-o", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "the target of 1.900 bits per weight" in done.stderr
    assert "the files can take 2." in done.stderr
    assert "hint: " in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--bits", "4", "--size", "4GB"],
        ["--profile", "4L", "--bits", "4"],
        ["--profile", "4L", "--size", "4GB"],
        ["--bits", "0"],
        ["--bits", "four"],
        ["--size", "4 apples"],
    ],
)
@pytest.mark.parametrize("command", ["plan", "convert"])
def test_usage(command: str, options: list[str]) -> None:
    rest = ["--output", "absent-output"] if command == "convert" else []
    done = jang(command, "--model", str(DEMO), *options, *rest)
    assert done.exit_code == 2
    assert done.stdout == ""
