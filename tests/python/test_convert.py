"""convert(): bytes that depend on source and options alone, and every way to refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny_checkpoints as tiny
from jang_tools import convert, plan, verify
from jang_tools.errors import ArgumentError, FormatError, IoError, JangError, UnsupportedError
from weight_files import read_weights

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
OUR_FILES = {
    "SHA256SUMS",
    "config.json",
    "generation_config.json",
    "jang_config.json",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tiny.write_checkpoint(tiny.BY_NAME["llama-gqa"], tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


# --- what is written ---------------------------------------------------------------------------


def test_result_and_files_of_the_demo(output: Path) -> None:
    result = convert(DEMO, output, profile="4l", method="rtn")
    assert set(contents(output)) == OUR_FILES
    assert result.profile == "JANG_4L"
    assert result.method == "rtn"
    assert (result.attention_bits, result.mlp_bits) == (8, 4)
    assert result.bytes == (output / "model-00001-of-00001.safetensors").stat().st_size
    assert result.warnings == []
    assert sorted(OUR_FILES) == result.files
    document = result.to_json()
    assert document["schema"] == "jang.convert/1"
    assert document["output"] == str(output)
    assert json.loads(json.dumps(document)) == document
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (output / name).read_bytes() == (DEMO / name).read_bytes()
    assert not partial(output).exists()


def test_sums_satisfy_sha256sum(output: Path) -> None:
    convert(DEMO, output, method="rtn")
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    subprocess.run(
        ["sha256sum", "--strict", "--status", "-c", "SHA256SUMS"], cwd=output, check=True
    )


@pytest.mark.parametrize("method", ["rtn", "mse"])
@pytest.mark.parametrize("case", ["llama", "llama-gqa", "llama-head-dim", "llama-tied", "mistral"])
def test_the_same_bytes_twice_and_with_any_threads(tmp_path: Path, case: str, method: str) -> None:
    tiny.write_checkpoint(tiny.BY_NAME[case], tmp_path / "source")
    first = tmp_path / "first"
    convert(tmp_path / "source", first, profile="JANG_3M", method=method, threads=1)
    assert verify(first, against=tmp_path / "source").faults == []
    for threads in (1, 2, 5):
        other = tmp_path / f"other{threads}"
        convert(tmp_path / "source", other, profile="JANG_3M", method=method, threads=threads)
        assert contents(other) == contents(first)


def test_shards_of_the_source_do_not_matter(tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama-gqa"]
    tiny.write_checkpoint(case, tmp_path / "three" / "source")
    entries = [
        (name, case.dtype, values.shape, tiny.encode(values, case.dtype))
        for name, values in tiny.tensors(case)
    ]
    (tmp_path / "one" / "source").mkdir(parents=True)
    tiny.write_safetensors(tmp_path / "one" / "source" / "model.safetensors", entries)
    shutil.copy(tmp_path / "three" / "source" / "config.json", tmp_path / "one" / "source")
    for name in ("one", "three"):
        convert(tmp_path / name / "source", tmp_path / name / "out", method="rtn")
    assert contents(tmp_path / "one" / "out") == contents(tmp_path / "three" / "out")


def test_misaligned_sources(tmp_path: Path) -> None:
    for case in ("llama", "llama-head-dim", "llama-tied"):
        folder = tmp_path / case
        tiny.write_checkpoint(tiny.BY_NAME[case], folder / "source")
        convert(folder / "source", folder / "even", method="rtn")
        file = folder / "source" / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        odd = data[8 : 8 + length] + b" "
        file.write_bytes(struct.pack("<Q", len(odd)) + odd + data[8 + length :])
        convert(folder / "source", folder / "odd", method="rtn")
        assert contents(folder / "odd") == contents(folder / "even")


def test_unquantized_tensors_are_the_sources(source: Path, output: Path) -> None:
    convert(source, output, method="rtn")
    before, after = read_weights(source), read_weights(output)
    plain = [name for name in before if name in after and after[name].dtype == "BF16"]
    assert len(plain) == 9  # two norms a layer and the last one
    for name in plain:
        assert after[name] == before[name]


def test_a_cast_is_that_of_the_source_first(tmp_path: Path) -> None:
    case = tiny.BY_NAME["llama"]
    tiny.write_checkpoint(case, tmp_path / "f32")
    entries = [
        (name, "BF16", values.shape, tiny.encode(values, "BF16"))
        for name, values in tiny.tensors(case)
    ]
    (tmp_path / "bf16").mkdir()
    tiny.write_safetensors(tmp_path / "bf16" / "model.safetensors", entries)
    shutil.copy(tmp_path / "f32" / "config.json", tmp_path / "bf16")
    convert(tmp_path / "f32", tmp_path / "cast", method="rtn", dtype="bf16")
    convert(tmp_path / "bf16", tmp_path / "direct", method="rtn")
    assert read_weights(tmp_path / "cast") == read_weights(tmp_path / "direct")
    assert verify(tmp_path / "cast", against=tmp_path / "f32").faults == []


def test_plain_rounding_equals_mlx(output: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    mx.set_default_device(mx.cpu)
    convert(DEMO, output, profile="JANG_3M", method="rtn")
    config = json.loads((output / "config.json").read_text())["quantization"]
    stored = read_weights(output)
    weights = mx.load(str(DEMO / "model.safetensors"))
    paths = [path for path, entry in config.items() if isinstance(entry, dict)]
    assert len(paths) == 44
    for path in paths:
        entry = config[path]
        expected = mx.quantize(
            weights[f"{path}.weight"], group_size=entry["group_size"], bits=entry["bits"]
        )
        for part, array in zip(("weight", "scales", "biases"), expected, strict=True):
            words = array if part == "weight" else array.view(mx.uint16)
            assert stored[f"{path}.{part}"].payload == np.array(words).tobytes(), (path, part)


def test_uniform_rounding_equals_stock_convert(tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    # Stock casts to what the older spelling says, and to float16 without it.
    shutil.copytree(DEMO, tmp_path / "source")
    config = json.loads((DEMO / "config.json").read_text())
    config["torch_dtype"] = config["dtype"]
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    mlx_lm.convert(
        str(tmp_path / "source"), str(tmp_path / "stock"), quantize=True, q_bits=4, q_group_size=64
    )
    convert(tmp_path / "source", tmp_path / "ours", profile="uniform-4", method="rtn")
    assert read_weights(tmp_path / "ours") == read_weights(tmp_path / "stock")


def test_without_a_tokenizer_there_is_a_warning(source: Path, output: Path) -> None:
    result = convert(source, output, method="rtn")
    assert len(result.warnings) == 1
    assert "tokenizer.json" in result.warnings[0]
    assert verify(output).ok


def test_links_are_followed_and_other_files_left(source: Path, output: Path) -> None:
    text = b'{"add_bos_token": true}'
    (source / "elsewhere").write_bytes(text)
    (source / "tokenizer_config.json").symlink_to("elsewhere")
    (source / "tokenizer.model").mkdir()
    (source / "modeling_llama.py").write_text("raise SystemExit\n")
    (source / "README.md").write_text("words\n")
    convert(source, output, method="rtn")
    copied = output / "tokenizer_config.json"
    assert not copied.is_symlink()
    assert copied.read_bytes() == text
    assert not {"elsewhere", "tokenizer.model", "modeling_llama.py", "README.md"} & set(
        contents(output)
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}", True),
        ("{{ bos_token + messages[0].content }}", False),
        ("{% if enable_thinking %}<think>{% endif %}", False),
    ],
)
def test_think_in_template(source: Path, output: Path, template: str, expected: bool) -> None:
    (source / "chat_template.jinja").write_text(template)
    convert(source, output, method="rtn")
    capabilities = json.loads((output / "jang_config.json").read_text())["capabilities"]
    assert capabilities["think_in_template"] is expected


def test_a_broken_template_is_copied_all_the_same(source: Path, output: Path) -> None:
    (source / "chat_template.jinja").write_text("{% if %}")
    convert(source, output, method="rtn")
    assert (output / "chat_template.jinja").read_text() == "{% if %}"
    capabilities = json.loads((output / "jang_config.json").read_text())["capabilities"]
    assert capabilities["think_in_template"] is False


def test_a_broken_tokenizer_config_is_copied_with_a_warning(source: Path, output: Path) -> None:
    (source / "tokenizer_config.json").write_text("{")
    result = convert(source, output, method="rtn")
    assert any("tokenizer_config.json" in warning for warning in result.warnings)
    assert (output / "tokenizer_config.json").read_text() == "{"


def test_progress_rises_to_its_total(source: Path, output: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    convert(source, output, method="rtn", progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert len({call[1] for call in calls}) == 1
    assert done[-1] == calls[-1][1]


# --- refusals ----------------------------------------------------------------------------------


def refusal(kind: type[JangError], source: Path, output: Path, **options: Any) -> JangError:
    """Converts and expects ``kind``; nothing is left behind. Returns the error."""
    before = set(output.parent.iterdir())
    with pytest.raises(kind) as caught:
        convert(source, output, **{"method": "rtn", **options})
    assert set(output.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return caught.value


def test_unknown_method(source: Path, output: Path) -> None:
    assert "best" in str(refusal(ArgumentError, source, output, method="best"))


def test_unusable_calibration(source: Path, output: Path) -> None:
    gptq = {"method": "gptq"}
    assert "tokenizer.json" in str(refusal(FormatError, source, output, **gptq))
    for options in ({"calibration_sequences": 0}, {"calibration_tokens": 1}):
        assert "calibration" in str(refusal(ArgumentError, DEMO, output, **gptq, **options))
    limit = str(refusal(ArgumentError, DEMO, output, **gptq, calibration_tokens=100_000))
    assert "limit" in limit
    short = output.parent / "short.txt"
    short.write_text("Once.")
    assert "too short" in str(refusal(ArgumentError, DEMO, output, **gptq, calibration=short))


def test_unusable_options(source: Path, output: Path) -> None:
    assert "JANG_9Z" in str(refusal(ArgumentError, source, output, profile="JANG_9Z"))
    assert "int4" in str(refusal(ArgumentError, source, output, dtype="int4").message).lower()
    assert "*.nowhere" in str(refusal(ArgumentError, source, output, rules=["*.nowhere=4"]))
    assert refusal(ArgumentError, source, output, group_size=48).code == "argument"
    assert refusal(ArgumentError, source, output, threads=-1).code == "argument"


def test_no_such_source(tmp_path: Path, output: Path) -> None:
    assert "no such directory" in str(refusal(IoError, tmp_path / "nowhere", output))


def test_existing_output(source: Path, output: Path) -> None:
    for make in (output.mkdir, output.touch, lambda: output.symlink_to("nowhere")):
        make()
        error = refusal(IoError, source, output)
        assert error.code == "output_exists"
        assert str(output) in str(error)
        # Neither is replaced on request: none of them is ours.
        assert refusal(IoError, source, output, overwrite=True).code == "output_exists"
        output.unlink() if output.is_symlink() or output.is_file() else output.rmdir()


def test_overwrite_replaces_what_is_ours(source: Path, output: Path) -> None:
    convert(source, output, profile="JANG_2S", method="rtn")
    before = contents(output)
    assert refusal(IoError, source, output).code == "output_exists"
    assert contents(output) == before
    convert(source, output, profile="JANG_4L", method="rtn", overwrite=True)
    assert contents(output) != before
    assert verify(output, against=source).faults == []
    assert not partial(output).exists()


def test_overwrite_leaves_foreign_files_alone(source: Path, output: Path) -> None:
    convert(source, output, profile="JANG_2S", method="rtn")
    (output / "notes.txt").write_text("mine\n")
    error = refusal(IoError, source, output, overwrite=True)
    assert "notes.txt" in str(error)
    assert (output / "notes.txt").read_text() == "mine\n"
    assert (output / "config.json").exists()


def test_overwrite_keeps_the_old_one_on_failure(source: Path, output: Path) -> None:
    convert(source, output, profile="JANG_2S", method="rtn")
    before = contents(output)

    def stop(done: int, total: int, item: str) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        convert(source, output, method="rtn", overwrite=True, progress=stop)
    assert contents(output) == before
    assert not partial(output).exists()


def test_overwrite_without_an_atomic_exchange(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jang_tools import partial_output

    monkeypatch.setattr(partial_output, "_exchange", lambda one, other: False)
    convert(source, output, profile="JANG_2S", method="rtn")
    before = contents(output)
    real = os.rename
    renames: list[tuple[Path, Path]] = []

    def fail_second(one: Path, other: Path) -> None:
        renames.append((Path(one), Path(other)))
        if len(renames) == 2:
            raise OSError(5, "Input/output error", str(other))
        real(one, other)

    monkeypatch.setattr(os, "rename", fail_second)
    refusal(IoError, source, output, overwrite=True)
    assert contents(output) == before
    monkeypatch.setattr(os, "rename", real)
    convert(source, output, profile="JANG_4L", method="rtn", overwrite=True)
    assert contents(output) != before
    assert {path.name for path in output.parent.iterdir()} == {"source", "out"}


def test_source_and_output_apart(source: Path, tmp_path: Path) -> None:
    assert refusal(IoError, source, source).code == "output_exists"
    convert(source, tmp_path / "model", method="rtn")
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(JangError, match="same directory"):
        convert(tmp_path / "link", tmp_path / "model", method="rtn", overwrite=True)
    assert "inside" in str(refusal(ArgumentError, source, source / "out"))
    (tmp_path / "door").symlink_to("source")
    assert "inside" in str(refusal(ArgumentError, source, tmp_path / "door" / "out"))


def test_parent_that_is_none(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in ("nowhere", "file"):
        with pytest.raises(IoError, match="no such directory"):
            convert(source, tmp_path / parent / "out", method="rtn")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place that refuses new directories")
def test_parent_that_cannot_be_written(source: Path) -> None:
    with pytest.raises(IoError, match=r"/proc/self/out\.partial"):
        convert(source, "/proc/self/out", method="rtn")


def test_no_space_is_noticed_before_anything_is_written(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_bavail=100, f_frsize=4096), raising=True
    )
    error = refusal(IoError, source, output)
    assert error.code == "no_space"
    assert "0.4 MB are free" in str(error)


def test_documents_need_space_too(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = plan(source).bytes
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_bavail=size + 500_000, f_frsize=1)
    )
    assert re.search(r"MB for output, .* MB for documents", str(refusal(IoError, source, output)))


def test_quantized_sources(source: Path, output: Path, tmp_path: Path) -> None:
    convert(source, output, method="rtn")
    assert "JANG" in str(refusal(UnsupportedError, output, tmp_path / "again"))
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (source / "config.json").write_text(json.dumps(config))
    assert "awq" in str(refusal(UnsupportedError, source, tmp_path / "again"))


def test_pickle_and_unknown_families(source: Path, output: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    config["model_type"] = "gemma3"  # only as a wrapper of a text model
    (source / "config.json").write_text(json.dumps(config))
    assert "gemma3" in str(refusal(UnsupportedError, source, output))
    for file in source.glob("*.safetensors*"):
        file.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin" in str(refusal(JangError, source, output))


def test_incomplete_checkpoints(source: Path, output: Path) -> None:
    (source / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in str(refusal(JangError, source, output))


def test_missing_tensor(tmp_path: Path, output: Path) -> None:
    case = tiny.BY_NAME["llama"]
    tiny.write_checkpoint(case, tmp_path / "source")
    entries = [
        (name, "F32", values.shape, tiny.encode(values, "F32"))
        for name, values in tiny.tensors(case)
        if name != "model.layers.2.mlp.up_proj.weight"
    ]
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", entries)
    error = refusal(FormatError, tmp_path / "source", output)
    assert error.tensor == "model.layers.2.mlp.up_proj.weight"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, output: Path, bad: float) -> None:
    case = tiny.BY_NAME["llama"]
    tiny.write_checkpoint(case, tmp_path / "source")
    entries = []
    for name, values in tiny.tensors(case):
        if name == "model.layers.3.mlp.down_proj.weight":
            values[7, 11] = bad
        entries.append((name, "F32", values.shape, tiny.encode(values, "F32")))
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", entries)
    error = refusal(FormatError, tmp_path / "source", output)
    assert error.code == "non_finite"
    assert error.tensor == "model.layers.3.mlp.down_proj.weight"
    assert error.file == "model.safetensors"
    assert "row 7, column 11" in error.message


def test_values_beyond_the_cast(tmp_path: Path, output: Path) -> None:
    case = tiny.BY_NAME["llama"]
    tiny.write_checkpoint(case, tmp_path / "source")
    entries = []
    for name, values in tiny.tensors(case):
        if name == "model.norm.weight":
            values[5] = 1e6
        entries.append((name, "F32", values.shape, tiny.encode(values, "F32")))
    tiny.write_safetensors(tmp_path / "source" / "model.safetensors", entries)
    error = refusal(FormatError, tmp_path / "source", output, dtype="f16")
    assert error.code == "range"
    assert error.tensor == "model.norm.weight"
    assert "bf16" in error.hint
    convert(tmp_path / "source", output, method="rtn", dtype="bf16")


# --- OUTPUT.partial ----------------------------------------------------------------------------


def test_a_foreign_partial_is_refused(source: Path, output: Path) -> None:
    partial(output).mkdir()
    (partial(output) / "thesis.txt").write_text("mine\n")
    assert refusal(IoError, source, output).code == "output_exists"
    (partial(output) / ".jang-partial").touch()
    assert "thesis.txt" in str(refusal(IoError, source, output))
    assert (partial(output) / "thesis.txt").read_text() == "mine\n"


def test_a_stale_partial_is_started_over(source: Path, output: Path) -> None:
    partial(output).mkdir()
    (partial(output) / ".jang-partial").touch()
    (partial(output) / "model-00001-of-00009.safetensors").write_bytes(b"half")
    (partial(output) / "tokenizer.json").write_bytes(b"half")
    convert(source, output, method="rtn")
    assert not partial(output).exists()
    assert verify(output).ok
    assert "tokenizer.json" not in contents(output)


def test_two_conversions_do_not_meet(source: Path, output: Path) -> None:
    met: list[IoError] = []

    def intrude(done: int, total: int, item: str) -> None:
        if not met:
            with pytest.raises(IoError, match="another conversion") as caught:
                convert(source, output, method="rtn")
            met.append(caught.value)

    convert(source, output, method="rtn", progress=intrude)
    assert met
    assert verify(output).ok


_INTERRUPTED = """
import sys
from jang_tools import convert
first = True
def progress(done, total, item):
    global first
    if first:
        print("started", flush=True)
        first = False
convert(sys.argv[1], sys.argv[2], method="mse", threads=2, progress=progress)
"""


@pytest.fixture(scope="module")
def slow_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes seconds to convert with a grid search at the reference level."""
    folder = tmp_path_factory.mktemp("slow") / "source"
    case = tiny.Case("slow", {"vocab_size": 120_000, "hidden_size": 160}, dtype="BF16")
    tiny.write_checkpoint(case, folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interruptions(
    slow_source: Path, source: Path, output: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(slow_source), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JANG_ISA": "reference"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    assert (partial(output) / ".jang-partial").is_file()
    process.send_signal(number)
    _, trace = process.communicate()
    assert process.returncode != 0
    assert not output.exists()
    if number == signal.SIGINT:
        assert trace.rstrip().endswith("KeyboardInterrupt")
        assert not partial(output).exists()
    else:
        assert "jang_config.json" not in contents(partial(output))
    convert(source, output, method="rtn")
    assert verify(output).ok
    assert not partial(output).exists()


_MEASURED = """
import resource, sys
from jang_tools import convert, plan, verify
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], method="rtn", threads=2)
verify(sys.argv[2], against=sys.argv[1], threads=2)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    # 300 MB: were pages of the source kept, or a whole matrix held, it would show.
    vocabulary, hidden = 240_000, 512
    config = {**tiny.BASE, "vocab_size": vocabulary, "hidden_size": hidden, "num_hidden_layers": 0}
    config["tie_word_embeddings"] = False
    case = tiny.Case("large", config, dtype="BF16")
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({**tiny.config(case), "num_hidden_layers": 1}))
    layer = tiny.Case("layer", {"hidden_size": hidden, "vocab_size": 2, "num_hidden_layers": 1})
    random = np.random.default_rng(1)
    block = tiny.encode(random.normal(size=(4000, hidden)).astype(np.float32), "BF16")
    entries = []
    for name, values in tiny.tensors(layer):
        if values.shape == (2, hidden):  # embedding and head, 245 MB each
            shape, payload = (vocabulary, hidden), block * (vocabulary // 4000)
        else:
            shape, payload = values.shape, tiny.encode(values, "BF16")
        entries.append((name, "BF16", shape, payload))
    tiny.write_safetensors(source / "model.safetensors", entries)
    del entries
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(source), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    before, after = (int(word) for word in done.stdout.split())
    assert after - before < 100 * 1024
