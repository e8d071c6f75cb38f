"""`jang bench`: synthetic models, what is counted, the report. No speed is checked."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import jang_tools
import tiny_checkpoints as checkpoints
from jang_tools.bench import plot, synthetic
from jang_tools.bench.measure import (
    Measurements,
    Settings,
    measure,
)
from jang_tools.bench.measure import Result as Measured
from jang_tools.bench.shapes import SHAPES, WIDTHS, find_shape
from jang_tools.bench.synthetic import checkpoint_bytes, write_checkpoint
from jang_tools.cli.main import cli
from jang_tools.errors import ArgumentError, IoError, UnsupportedError
from jang_tools.model import load_model

ROOT = Path(__file__).parents[2]
TINY = SHAPES["tiny"]
SMALL = Settings(prompt=20, decode=4, depths=(0, 9), batches=(), rounds=2)
QUICK = ["--prompt", "8", "--decode", "2", "--depth", "0", "--batch", "none", "--rounds", "1"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    write_checkpoint(folder, TINY, 4)
    return folder


def bench(*arguments: str) -> Result:
    return CliRunner(env={"JANG_LOG": None}).invoke(cli, ["bench", *arguments], prog_name="jang")


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


# --- synthetic models --------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [None, *WIDTHS])
@pytest.mark.parametrize("name", ["tiny", "tied", "tiny-moe"])
def test_synthetic_models_are_sound_and_their_logits_ordinary(
    tmp_path: Path, bits: int | None, name: str
) -> None:
    tied = replace(TINY, tied=True, model_type="mistral")
    shape = tied if name == "tied" else SHAPES[name]
    written = write_checkpoint(tmp_path / "model", shape, bits, 32)
    found = jang_tools.inspect(tmp_path / "model")
    assert found.bytes == written
    assert 0 <= written - checkpoint_bytes(shape, bits, 32) < 10_000
    assert found.model_type == shape.model_type
    assert not jang_tools.verify(tmp_path / "model").faults
    logits = load_model(tmp_path / "model", "exact")(list(range(40)))
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 2.0
    # Tokens differ, so the model listens; a mean of experts says less than an MLP.
    assert len(set(logits.argmax(axis=1).tolist())) > (12 if shape.experts else 20)


# A case of every type, in its own widths: some groups must be smaller, some rows stay plain.
TYPES = {case.model_type: case for case in reversed(checkpoints.CASES)}


@pytest.mark.parametrize("model_type", sorted(TYPES))
def test_any_config_is_a_shape(model_type: str, tmp_path: Path) -> None:
    values = checkpoints.config(TYPES[model_type], "old")
    (tmp_path / "config.json").write_text(json.dumps(values))
    shape = find_shape(str(tmp_path / "config.json"))
    assert shape == find_shape(str(tmp_path))
    assert shape.model_type == model_type
    written = write_checkpoint(tmp_path / "model", shape, 4, 64)
    found = jang_tools.inspect(tmp_path / "model")
    assert found.bytes == written
    assert not jang_tools.verify(tmp_path / "model").faults
    wanted = jang_tools.plan(tmp_path, profile="uniform-4", group_size=64)
    assert found.parameters == wanted.parameters
    logits = load_model(tmp_path / "model", "exact")(list(range(40)))
    assert np.isfinite(logits).all()
    assert len(set(logits.argmax(axis=1).tolist())) > 1


def test_layers_of_a_config_are_its_first(tmp_path: Path) -> None:
    shape = SHAPES["qwen3.5-9b"].with_layers(4)
    assert shape.layers == 4
    assert shape.config()["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
    names = [tensor.name for tensor in shape.tensors(4, 64)]
    assert sum(".self_attn.q_proj." in name for name in names) == 1
    assert SHAPES["qwen3.5-9b"].with_layers(None).layers == 32


@pytest.mark.parametrize(
    "named", [{"hybrid_override_pattern": "M*-E"}, {"layers_block_type": ["mamba", "mlp", "moe"]}]
)
def test_layers_with_names_need_no_number(named: dict[str, Any], tmp_path: Path) -> None:
    (names,) = named.values()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nemotron_h", **named}))
    shape = find_shape(str(tmp_path))
    assert shape.layers == len(names)
    cut = shape.with_layers(2)
    assert (cut.layers, *cut.config().values()) == (2, "nemotron_h", names[:2], 2)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"num_hidden_layers": 0}', pytest.param("[" * 100_000, id="nested")],
)
def test_a_file_that_is_no_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArgumentError, match=re.escape(f"{tmp_path}/config.json: ")):
        find_shape(str(tmp_path))


def test_the_bytes_follow_from_the_arguments_alone(tmp_path: Path) -> None:
    for name, bits in (("a", 3), ("b", 3), ("c", 5)):
        write_checkpoint(tmp_path / name, TINY, bits)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_scales_have_both_signs_and_the_bias_centres_the_codes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", TINY.with_layers(1), 4)
    data = next((tmp_path / "m").glob("*.safetensors")).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    def floats(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        begin, end = header[f"model.layers.0.mlp.down_proj.{name}"]["data_offsets"]
        halves = np.frombuffer(data[8 + length + begin : 8 + length + end], dtype="<u2")
        return (halves.astype(np.uint32) << 16).view(np.float32)

    scales, biases = floats("scales"), floats("biases")
    assert 0.3 < (scales < 0).mean() < 0.7
    np.testing.assert_allclose(biases, -7.5 * scales, rtol=2**-8)


def test_several_shards_make_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "one", TINY, 4)
    monkeypatch.setattr(synthetic, "SHARD_BYTES", 200_000)
    write_checkpoint(tmp_path / "many", TINY, 4)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = (load_model(tmp_path / name)([1, 2, 3]) for name in ("one", "many"))
    np.testing.assert_array_equal(one, many)


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_checkpoint(
        tmp_path / "m", TINY, 4, progress=lambda done, total, _: seen.append((done, total))
    )
    assert [total for _, total in seen] == [checkpoint_bytes(TINY, 4)] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


def test_plain_values_are_those_of_the_plain_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", TINY, None)
    data = next((tmp_path / "m").glob("*.safetensors")).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for name, values in synthetic.plain_values(TINY):
        begin, end = header[name]["data_offsets"]
        assert list(values.shape) == header[name]["shape"]
        assert values.tobytes() == data[8 + length + begin : 8 + length + end], name


def test_named_shapes_have_the_published_number_of_weights() -> None:
    billions = {
        "llama-8b": 8.03,
        "llama-1b": 1.24,
        "llama-70b": 70.6,
        "qwen-0.5b-like": 0.49,
        "mistral-7b": 7.24,
        "qwen3-30b-a3b": 30.5,
        "qwen3.5-9b": 9.0,
    }
    for name, expected in billions.items():
        weights = sum(math.prod(tensor.dims) for tensor in SHAPES[name].tensors(None, 64))
        assert weights / 1e9 == pytest.approx(expected, rel=0.01), name


@pytest.mark.parametrize(
    ("bits", "group", "layers", "text"),
    [
        (7, 64, 1, "bits: expected one of 2, 3, 4, 5, 6, 8, found 7"),
        (4, 48, 1, "group_size: expected one of 32, 64, 128, found 48"),
        (4, 64, 0, "layers: expected at least 1, found 0"),
    ],
)
def test_impossible_models_are_refused(bits: int, group: int, layers: int, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        checkpoint_bytes(TINY.with_layers(layers), bits, group)


def test_groups_must_divide_the_rows() -> None:
    with pytest.raises(ArgumentError, match="128 does not divide the 320 columns of tiny"):
        checkpoint_bytes(replace(TINY, inner=320), 4, 128)
    with pytest.raises(ArgumentError, match=r"expected a config.json or one of llama-8b"):
        find_shape("llama-9b")


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=10, used=9, free=1)
    monkeypatch.setattr(synthetic.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(IoError, match=r"takes \d+ bytes, 1 are free"):
        write_checkpoint(tmp_path / "new" / "model", TINY, 4)
    assert not (tmp_path / "new").exists()


# --- what is measured --------------------------------------------------------------------------


def test_counts_are_those_of_the_matrices(tiny: Path) -> None:
    measured = measure(load_model(tiny), SMALL)
    layer_weights = TINY.layers * (256 * 256 * 2 + 128 * 256 * 2 + 3 * 512 * 256)
    head_weights = 512 * 256
    assert measured.token_weights == layer_weights + head_weights
    assert measured.token_bytes == (layer_weights + head_weights) * 9 // 16  # 4.5 bits
    assert measured.weight_bytes == sum(p.stat().st_size for p in tiny.glob("*.safetensors"))

    prefill, decode, deep = measured.results
    assert [one.title for one in measured.results] == ["prefill 20", "decode 4", "decode 4 at 9"]
    # A prefill asks for the logits of its last token only, and what lies behind the last layer's
    # keys and values is done for that token alone: its feed-forward, its queries, and its outputs.
    asked = 256 * 256 * 2 + 3 * 512 * 256
    operations = 2 * (20 * (layer_weights - asked) + asked + head_weights)
    assert prefill.tops == pytest.approx(operations / prefill.seconds / 1e12)
    assert prefill.tok_s == pytest.approx(20 / prefill.seconds)
    assert prefill.gb_s == pytest.approx(measured.token_bytes / prefill.seconds / 1e9)
    for one in (decode, deep):
        assert one.tops == pytest.approx(8 * measured.token_weights / one.seconds / 1e12)
        assert one.gb_s == pytest.approx(4 * measured.token_bytes / one.seconds / 1e9)
        assert one.tops_per_core == pytest.approx(one.tops / measured.threads)
        assert one.slowest >= one.seconds
        assert one.stable
    assert [one.depth for one in measured.attention] == [9]
    assert measured.attention[0].share_of_decode < 1


def test_only_the_chosen_experts_count(tmp_path: Path) -> None:
    shape = SHAPES["tiny-moe"]
    write_checkpoint(tmp_path / "m", shape, 4)
    measured = measure(load_model(tmp_path / "m"), SMALL)
    attention = 256 * 256 * 2 + 128 * 256 * 2
    router, experts, head = 16 * 256, 4 * 3 * 128 * 256, 512 * 256
    assert measured.token_weights == 2 * (attention + router + experts) + head
    quantized = 2 * (attention + experts) + head
    assert measured.token_bytes == quantized * 9 // 16 + 2 * 2 * router  # bf16 routers
    assert all(one.stable for one in measured.results)
    for one in measured.results[1:]:
        assert one.gb_s == pytest.approx(4 * measured.token_bytes / one.seconds / 1e9)
    # Several tokens read the experts that any of them chose: more than one does, at most all.
    (batch,) = measure(
        load_model(tmp_path / "m"), Settings(prompt=0, decode=0, depths=(), batches=(8,), rounds=1)
    ).results
    passes = batch.gb_s * batch.seconds * 1e9 / 4
    one_token = 2 * experts * 9 // 16
    assert measured.token_bytes + one_token < passes <= measured.token_bytes + 3 * one_token


def test_tokens_of_synthetic_models_choose_many_experts() -> None:
    """Router rows times normed embeddings, as the first layer about sees them."""
    shape = SHAPES["tiny-moe"].with_layers(1)
    values = {
        name.removesuffix(".weight"): (words.astype(np.uint32) << 16).view(np.float32)
        for name, words in synthetic.plain_values(shape)
    }
    x = values["model.embed_tokens"]
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True))
    chosen = np.argsort(x @ values["model.layers.0.mlp.gate"].T, axis=1)[:, -shape.chosen :]
    share = np.bincount(chosen.ravel(), minlength=shape.experts) / chosen.size * shape.experts
    assert share.min() > 0.5
    assert share.max() < 2


def test_hashes_are_those_of_the_logits_and_of_nothing_else(tiny: Path) -> None:
    hashes = []
    for threads in (1, 2):
        model = load_model(tiny, threads=threads)
        hashes.append([one.output_hash for one in measure(model, SMALL).results])
        assert hashes[0] == hashes[-1]
    assert len(set(hashes[0])) == 3
    model = load_model(tiny)
    raw = np.random.PCG64(1).random_raw(20) % TINY.vocabulary
    logits = model.last_logits(raw.astype(np.int32), model.cache())
    assert hashes[0][0] == hashlib.sha256(logits.tobytes()).hexdigest()[:16]


def test_batches_run_all_sequences_together(tiny: Path) -> None:
    model = load_model(tiny)
    settings = Settings(prompt=0, decode=0, depths=(), batches=(1, 3), rounds=1)
    measured = measure(model, settings)
    assert [(one.batch, one.tokens) for one in measured.results] == [(1, 4), (3, 4)]
    three = measured.results[1]
    assert three.tok_s == pytest.approx(12 / three.seconds)
    assert three.tops == pytest.approx(24 * measured.token_weights / three.seconds / 1e12)
    assert three.gb_s == pytest.approx(4 * measured.token_bytes / three.seconds / 1e9)
    # Each sequence has its own tokens, so that a mix-up of caches changes the hash.
    tokens = (np.random.PCG64(1).random_raw(12) % TINY.vocabulary).astype(np.int32).reshape(4, 3)
    digest = hashlib.sha256()
    caches = [model.cache() for _ in range(3)]
    for step in tokens:
        digest.update(
            model.core.forward_batch([step[i : i + 1] for i in range(3)], caches).tobytes()
        )
    assert three.output_hash == digest.hexdigest()[:16]


def test_a_share_compares_a_round_with_the_passes_around_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jang_tools.bench import measure as module

    model = load_model(tiny)
    size = model.core.weight_bytes
    reads = iter([9.0, 1.0, 2.0, 4.0])  # seconds; the first one only maps the pages
    core = SimpleNamespace(
        weight_traffic=model.core.weight_traffic,
        expert_bytes_read=0,
        threads=2,
        weight_bytes=size,
        kv_type="f16",
        read_pass=lambda: next(reads),
        forward=model.core.forward,
    )
    clock = iter([0.0, 2.0, 10.0, 14.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    fake: Any = SimpleNamespace(
        core=core,
        precision="fast",
        load_seconds=0.1,
        vocabulary=512,
        max_positions=64,
        cache=model.cache,
    )
    measured = measure(fake, Settings(prompt=4, decode=0, depths=(), batches=(), rounds=2))
    (prefill,) = measured.results
    token_bytes = measured.token_bytes
    rounds = [token_bytes / 2.0 / (size * 0.75), token_bytes / 4.0 / (size * 0.375)]
    assert prefill.seconds == 3.0
    assert prefill.share == pytest.approx(sum(rounds) / 2)
    assert measured.read_only_gb_s == pytest.approx(size / 2.0 / 1e9)


def test_what_a_context_costs_is_a_difference_within_a_round(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jang_tools.bench import measure as module

    # Seconds of the two depths, round by round: shares of 1/2, 3/4 and 0.
    ticks = [second for pair in ((1, 2), (1, 4), (3, 3)) for second in pair]
    clock = iter([moment for length in ticks for moment in (0.0, float(length))])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    settings = Settings(prompt=0, decode=2, depths=(0, 5), batches=(), rounds=3)
    measured = measure(load_model(tiny), settings)
    assert [one.seconds for one in measured.results] == [1.0, 3.0]
    (attention,) = measured.attention
    assert attention.depth == 5
    assert attention.share_of_decode == 0.5


def test_a_context_that_is_too_short_skips_tests(tiny: Path) -> None:
    settings = Settings(prompt=9000, decode=4, depths=(8189, 2), batches=(), rounds=1)
    measured = measure(load_model(tiny), settings)
    assert [one.title for one in measured.results] == ["decode 4 at 2"]
    assert [one.title for one in measured.skipped] == ["prefill 9000", "decode 4 at 8189"]
    assert "8192" in measured.skipped[0].reason


@pytest.mark.parametrize(
    "values", [{"prompt": -1}, {"depths": (-1,)}, {"batches": (0,)}, {"rounds": 0}]
)
def test_settings_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="bench"):
        Settings(**values)


# --- the command -------------------------------------------------------------------------------


def test_the_report_of_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = bench("--shape", "tiny", "--layers", "1", "--bits", "3", "--group-size", "32", *QUICK)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny, 1 layers, 3 bits (group size 32): ")
    assert "threads, precision fast" in lines[1]
    header = next(line for line in lines if line.startswith("test"))
    assert header.split()[1:4] == ["tok/s", "TOPS", "per"]
    assert [line.split("  ")[0] for line in lines[-2:]] == ["prefill 8", "decode 2"]
    assert "MB of random weights" in done.stderr
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_the_json_document(tiny: Path) -> None:
    done = bench("--model", str(tiny), "--json", "-q", "--threads", "1", *QUICK)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "jang.bench/1"
    assert document["model"] == str(tiny)
    assert document["shape"] is None
    assert document["threads"] == 1
    assert document["format"] == "mlx"
    assert document["precision"] == "fast"
    assert document["read_only_gb_s"] > 0
    assert {"kind", "tokens", "depth", "batch", "tok_s", "tops", "gb_s", "share"} <= set(
        document["results"][0]
    )
    assert [one["kind"] for one in document["results"]] == ["prefill", "decode"]
    assert done.stderr == ""


def test_precision_reaches_the_model(tiny: Path) -> None:
    documents = [
        json.loads(bench("--model", str(tiny), "--json", "--precision", word, *QUICK).stdout)
        for word in ("exact", "fast")
    ]
    assert [document["precision"] for document in documents] == ["exact", "fast"]


def test_a_model_that_is_kept(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    assert bench("--shape", "tiny", "--keep", str(keep), *QUICK).exit_code == 0
    assert load_model(keep).vocabulary == 512
    again = bench("--shape", "tiny", "--keep", str(keep), *QUICK)
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert load_model(keep).vocabulary == 512


def test_half_a_kept_model_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(synthetic, "_write_payload", fail)
    done = bench("--shape", "tiny", "--keep", str(tmp_path / "kept"), *QUICK)
    assert done.exit_code == 1
    assert "No space left" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give --model MODEL or --shape NAME"),
        (["--model", "x", "--shape", "tiny"], "give --model MODEL or --shape NAME"),
        (["--model", "x", "--bits", "4"], "--bits belongs to --shape"),
        (["--shape", "llama-9b"], "expected a config.json or one of llama-8b"),
        (["--shape", "tiny", "--depth", "a"], "'a' is not a list"),
        (["--shape", "tiny", "--depth", "-1"], "-1 is smaller than 0"),
        (["--shape", "tiny", "--batch", "0"], "0 is smaller than 1"),
        (["--shape", "tiny", "--bits", "7"], "'7' is not one of"),
    ],
)
def test_wrong_command_lines(arguments: list[str], text: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2
    assert text in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "jang_tools.cli.main", "bench", "--shape", "tiny"]
    options = ["--batch", "none", "--prompt", "8000", "--decode", "0", "--rounds", "1000"]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("measuring"):
            break
    assert next(path.name for path in tmp_path.iterdir()).startswith("jang-bench-")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted"
    assert list(tmp_path.iterdir()) == []


# --- tables and peers --------------------------------------------------------------------------


def script(name: str) -> Any:
    """A script of bench/ as a module."""
    path = ROOT / "bench" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_the_committed_tables_are_generated() -> None:
    tables = script("python/tables.py")
    text = (ROOT / "bench" / "README.md").read_text("utf-8")
    for row in [*tables.ROWS, *tables.WHOLE_ROWS]:
        name = "speed" if row in tables.ROWS else "whole"
        assert f"`{row.command(tables.SETTINGS[name])}` |" in text
    for name in tables.SETTINGS:
        assert tables.replace_between(text, name, ["x"]).count("\nx\n") == 1
        with pytest.raises(SystemExit, match="markers"):
            tables.replace_between(text.replace(f"<!-- {name}: end -->", ""), name, ["x"])


def test_commands_of_the_tables_are_understood() -> None:
    tables = script("python/tables.py")
    for name, rows in (("speed", tables.ROWS), ("whole", tables.WHOLE_ROWS)):
        for settings in (tables.SETTINGS[name], tables.QUICK_SETTINGS[name]):
            command = cli.get_command(click.Context(cli), "bench")
            assert command is not None
            for row in rows:
                command.make_context("bench", row.arguments(settings)[1:])


def test_tables_take_their_figures_from_the_documents(tiny: Path) -> None:
    tables = script("python/tables.py")
    done = bench("--model", str(tiny), "--json", *QUICK[:-4], "--batch", "8", "--rounds", "1")
    document = json.loads(done.stdout)
    row = tables.ROWS[0]
    lines = tables.speed_table({row: document}, ["--shape", "tiny"])
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    prefill = document["results"][0]
    decode = document["results"][1]
    assert cells[:3] == ["avx512", "2", "64"]
    assert cells[4:7] == [
        f"{decode['tok_s']:.1f}",
        f"{decode['share']:.1%}",
        f"{prefill['tok_s']:.1f}",
    ]
    assert len(cells) == lines[0].count("|") - 1
    assert lines[3].count("not measured") == 7
    whole = tables.whole_table({tables.WHOLE_ROWS[0]: document}, [])
    assert f"| {1e3 * document['load_seconds']:.1f} |" in whole[2]
    assert whole[0].count("|") == whole[2].count("|") == whole[3].count("|")


def test_a_comparison_counts_the_faster_state_of_the_peer() -> None:
    tables = script("python/tables.py")
    test = {"tokens": 100, "ours": 1.0, "repacked": 4.0, "plain": 2.0}
    row = {
        "type": "Q4_0",
        "our_bits_per_weight": 4.5,
        "their_bits_per_weight": 4.504,
        "tests": {
            "prefill": test,
            "decode": {**test, "repacked": None, "our_share": 0.91},
            "batch": {**test, "ours": None, "plain": None, "repacked": None},
        },
    }
    lines = tables.peers_table({"rows": [row]})
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:5] == ["Q4_0", "4.50 / 4.50", "100.0", "50.0 (plain)", "2.00x"]
    assert cells[8:] == ["not measured"] * 3 + ["91.0%"]
    assert len(cells) == lines[0].count("|") - 1
    assert tables.peers_table(None)[2].count("not measured") == len(cells) - 1


def test_a_peer_that_crashes_ends_its_rows_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = script("peers/compare.py")
    worker = tmp_path / "llama_cpp_worker.py"
    worker.write_text(
        "import os, sys\n"
        "print('{}', flush=True)\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    if number == 2: os.kill(os.getpid(), 9)\n"
        "    print('{\"seconds\": 0.5}', flush=True)\n"
    )
    monkeypatch.setattr(compare, "FOLDER", tmp_path)
    monkeypatch.setattr(compare, "PYTHON", sys.executable)
    peer = compare.PeerProcess(tmp_path / "x.gguf", 1, "plain")
    job = compare.Job("decode", 4)
    assert [peer.run(job) for _ in range(4)] == [0.5, 0.5, None, None]
    assert peer.failure == "ended with -9"
    peer.close()


def test_gguf_names_of_all_modules_are_different() -> None:
    models = script("peers/gguf_models.py")
    names = [models.gguf_name(tensor.name) for tensor in TINY.tensors(None, 64)]
    assert len(set(names)) == len(names) == 3 + 9 * TINY.layers
    assert models.gguf_name("model.layers.11.mlp.down_proj") == "blk.11.ffn_down.weight"
    assert set(models.FILE_TYPES) == set(script("peers/compare.py").PAIRS)


def test_gguf_sources_hold_the_values_of_the_checkpoint(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    models = script("peers/gguf_models.py")
    models.write_source(tmp_path / "source.gguf", TINY)
    reader = gguf.GGUFReader(tmp_path / "source.gguf")
    assert reader.fields["llama.vocab_size"].contents() == TINY.vocabulary
    found = {tensor.name: tensor for tensor in reader.tensors}
    for path, values in synthetic.plain_values(TINY):
        tensor = found.pop(models.gguf_name(path))
        assert list(tensor.shape) == list(values.shape)[::-1]
        expected = (values.astype(np.uint32) << 16).view(np.float32)
        if values.ndim == 2:
            assert np.asarray(tensor.data).tobytes() == values.tobytes()
        else:
            np.testing.assert_array_equal(tensor.data, expected)
    assert not found


# --- the plot ----------------------------------------------------------------------------------


def sample() -> Measurements:
    def result(kind: str, depth: int, batch: int) -> Measured:
        return Measured(
            kind, 64, depth, batch, 40.0, 0.1, 0.05, 30.0, 0.8, 40.0, 1.0, 1.1, "0" * 16, True
        )

    results = [result("prefill", 0, 1), result("decode", 4096, 1), result("batch", 0, 8)]
    return Measurements("avx2", 2, "fast", "f16", 0.1, 100, 80, 160, 5, 40.0, results)


def test_without_matplotlib_the_extra_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError):
        plot.require_plots(tmp_path / "x.png")
    done = bench("--shape", "tiny", "--plot", str(tmp_path / "x.png"), *QUICK)
    assert done.exit_code == 1
    assert "hint: pip install 'jang-tools[plots]'" in done.stderr
    assert "random weights" not in done.stderr
    with pytest.raises(ArgumentError, match=r"\.pdf, \.png, \.svg"):
        plot.require_plots(tmp_path / "x.bmp")


def test_the_figure_shows_every_test(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "figure.svg"
    plot.draw(sample(), "llama", path)
    text = path.read_text("utf-8")
    for title in ("prefill 64", "decode 64 at 4096", "batch 8"):
        assert f"<!-- {title} -->" in text
