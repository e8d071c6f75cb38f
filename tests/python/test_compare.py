"""compare(): its numbers against evaluate(), its resuming, its refusals, and the command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner, Result

import jang_tools
from foreign_files import Type, write_gguf
from jang_tools.cli.main import cli
from jang_tools.comparison import measure, plot, work
from jang_tools.comparison.given import locate_given
from jang_tools.comparison.rows import Row, plan_rows
from jang_tools.errors import ArgumentError, FormatError, IoError
from jang_tools.evaluate import evaluate
from jang_tools.evaluation.texts import read_text
from jang_tools.hub import ResolvedModel
from jang_tools.plan import plan

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "tiny-prose-llama"
SIZE = {"sequence": 64, "tokens": 320}

sys.path.insert(0, str(ROOT / "tools"))

import comparison_table  # noqa: E402


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(read_text("builtin").content[:4000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The folder of a finished comparison; tests that change it take a copy."""
    path = tmp_path_factory.mktemp("compare") / "work"
    run(path, text)
    return path


def run(output: Path, text: Path, **more: Any) -> jang_tools.compare.Comparison:  # type: ignore[name-defined]
    wishes: dict[str, Any] = {
        "profiles": ["2S", "uniform-4"],
        "methods": ["rtn", "mse"],
        "equal_bytes": True,
        **SIZE,
        **more,
    }
    return jang_tools.compare(DEMO, output=output, text=text, **wishes)


def left(output: Path, text: Path, **more: Any) -> dict[str, str]:
    """What a run would still have to do, by row."""
    plans: list[Any] = []
    run(output, text, dry_run=True, on_plan=plans.append, **more)
    return {step.row.name: step.left for step in plans[0].steps}


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "work")
    return tmp_path / "work"


def file_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("model-*.safetensors"))


NAMES = {"JANG_2S-rtn", "JANG_2S-mse", "uniform-4-rtn", "uniform-4-mse"}


def test_rows_are_sorted_and_equal_bytes_are_never_more(folder: Path, text: Path) -> None:
    found = run(folder, text)
    rows = {scores.row.name: scores.row for scores in found.rows}
    sizes = {plan(DEMO, profile=name).bytes for name in ("2S", "uniform-4")}
    assert set(rows) == NAMES | {f"size-{size}-mse" for size in sizes}
    assert [scores.row.bytes for scores in found.rows] == sorted(row.bytes for row in rows.values())
    for row in rows.values():
        assert row.bytes == file_bytes(folder / row.name)
        assert row.bits_per_weight == pytest.approx(8 * row.bytes / 6_819_072, rel=1e-3)
    for name in NAMES:
        equal = rows[rows[name].equal or ""]
        assert 0.998 * rows[name].bytes < equal.bytes <= rows[name].bytes
    equal_pairs = [pair for pair in found.pairs if pair.kind == "equal-bytes"]
    assert {pair.second for pair in equal_pairs} == NAMES
    methods = {(pair.first, pair.second) for pair in found.pairs if pair.kind == "method"}
    assert methods == {
        ("JANG_2S-mse", "JANG_2S-rtn"),
        ("uniform-4-mse", "uniform-4-rtn"),
    }
    assert found.complete
    assert json.loads((folder / "comparison.json").read_text("utf-8")) == found.to_json()


def test_numbers_are_those_of_evaluate(folder: Path, text: Path) -> None:
    found = run(folder, text)
    names = [scores.row.name for scores in found.rows]
    expected = evaluate(DEMO, [folder / name for name in names], text=text, **SIZE)
    assert found.text == expected.text
    for scores, other in zip(found.rows, expected.models, strict=True):
        assert scores.kl == other.kl
        assert (scores.top1, scores.perplexity_ratio) == (other.top1, other.perplexity_ratio)
        assert (scores.perplexity, scores.logit_mse) == (other.perplexity, other.logit_mse)
        assert len(scores.kl_windows) == 5
    for pair in expected.pairs:
        own = found.pair(pair.first, pair.second)
        for name in ("mean", "se", "low", "high", "confidence"):
            assert getattr(own.kl, name) == pytest.approx(getattr(pair.kl, name), rel=1e-9), name
        assert own.verdict == {pair.first: "better", pair.second: "worse", None: "tie"}[pair.better]
    best = next(pair for pair in found.pairs if pair.second == "JANG_2S-rtn")
    assert best.verdict == "better" and best.factor < 0.5


def test_a_second_run_repeats_nothing(
    copy: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((copy / "comparison.json").read_text("utf-8"))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("repeated")

    monkeypatch.setattr(work, "convert", fail)
    monkeypatch.setattr(work, "measure", fail)
    assert run(copy, text).to_json() == before


class Stop:
    """A progress callback that ends the run when a stage of some name is half done."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        if stage.startswith(self.prefix) and 2 * done >= total:
            raise KeyboardInterrupt


def test_continues_after_an_interruption_between_and_inside_rows(
    tmp_path: Path, folder: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MOST_AT_ONCE", 1)
    output = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        run(output, text, progress=Stop("converting uniform-4-rtn"))
    assert sorted(os.listdir(output)) == [
        *("JANG_2S-mse", "JANG_2S-rtn", "comparison.json", "state.json"),
    ]
    assert not json.loads((output / "comparison.json").read_text("utf-8"))["complete"]
    kept = (output / "JANG_2S-mse" / "jang_config.json").stat()
    steps = left(output, text)
    assert steps.pop("JANG_2S-rtn") == steps.pop("JANG_2S-mse") == "nothing"
    assert set(steps.values()) == {"convert"}
    with pytest.raises(KeyboardInterrupt):
        run(output, text, progress=Stop("evaluating"))
    assert left(output, text)["uniform-4-rtn"] == "measure"
    found = run(output, text)
    assert (output / "JANG_2S-mse" / "jang_config.json").stat() == kept
    whole = run(folder, text)
    assert found.rows != [] and [scores.kl for scores in found.rows] == [
        scores.kl for scores in whole.rows
    ]
    assert found.pairs == whole.pairs


def edit_state(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "state.json"
    state = json.loads(path.read_text("utf-8"))
    change(state)
    path.write_text(json.dumps(state), "utf-8")


def test_a_row_whose_end_was_not_recorded_is_verified_and_kept(copy: Path, text: Path) -> None:
    edit_state(copy, lambda state: state["conversions"]["JANG_2S-mse"].pop("sha256"))
    assert set(left(copy, text).values()) == {"nothing"}


def test_damaged_and_outdated_rows_are_made_again(copy: Path, text: Path) -> None:
    before = json.loads((copy / "comparison.json").read_text("utf-8"))
    (shard,) = (copy / "JANG_2S-rtn").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    (copy / "uniform-4-mse" / "tokenizer.json").unlink()
    edit_state(copy, lambda state: state["conversions"]["uniform-4-rtn"].update(key="other"))
    again = {"JANG_2S-rtn", "uniform-4-mse", "uniform-4-rtn"}
    assert {name for name, to_do in left(copy, text).items() if to_do == "convert"} == again
    found = run(copy, text).to_json()
    for one, other in zip(found["rows"], before["rows"], strict=True):
        del one["seconds"], other["seconds"]
    assert found == before
    assert jang_tools.verify(copy / "JANG_2S-rtn").ok


def test_what_no_conversion_wrote_is_not_removed(copy: Path, text: Path) -> None:
    (copy / "JANG_2S-rtn" / "notes.txt").write_text("mine")
    (copy / "JANG_2S-rtn" / "config.json").write_text("{}")
    with pytest.raises(IoError, match=r"holds notes\.txt"):
        run(copy, text)
    assert (copy / "JANG_2S-rtn" / "notes.txt").read_text() == "mine"


def test_other_settings_measure_again_and_convert_what_depends_on_them(
    copy: Path, text: Path
) -> None:
    assert set(left(copy, text, tokens=128).values()) == {"measure"}
    assert set(left(copy, text, precision="fast").values()) == {"measure"}
    more = left(copy, text, profiles=["2S", "4L"], equal_bytes=False)
    assert more == {
        "JANG_2S-rtn": "nothing",
        "JANG_2S-mse": "nothing",
        "JANG_4L-rtn": "convert",
        "JANG_4L-mse": "convert",
    }


def test_gptq_is_the_method_of_equal_bytes_and_depends_on_its_calibration(
    tmp_path: Path, text: Path
) -> None:
    wishes: dict[str, Any] = {
        "profiles": ["uniform-3"],
        "methods": ["gptq", "rtn"],
        "calibration_tokens": 64,
    }
    found = run(tmp_path / "work", text, calibration_sequences=4, **wishes)
    names = {scores.row.name for scores in found.rows}
    size = plan(DEMO, profile="uniform-3").bytes
    assert names == {"uniform-3-gptq", "uniform-3-rtn", f"size-{size}-gptq"}
    for name in names:
        document = json.loads((tmp_path / "work" / name / "jang_config.json").read_text("utf-8"))
        assert document["quantization"]["quantization_method"] == name.rpartition("-")[2]
    assert found.pair("uniform-3-gptq", "uniform-3-rtn").kl.mean < 0
    steps = left(tmp_path / "work", text, calibration_sequences=5, **wishes)
    assert steps.pop("uniform-3-rtn") == "nothing"
    assert set(steps.values()) == {"convert"}


def test_directories_are_removed_unless_kept(copy: Path, text: Path) -> None:
    before = json.loads((copy / "comparison.json").read_text("utf-8"))
    shutil.rmtree(copy / "uniform-4-rtn")  # measured: need not be made again
    found = run(copy, text, keep=False)
    assert found.to_json() == before
    assert sorted(os.listdir(copy)) == ["comparison.json", "state.json"]
    assert set(left(copy, text).values()) == {"nothing"}


def test_other_models_are_rows_too(copy: Path, tmp_path: Path, text: Path) -> None:
    other = tmp_path / "elsewhere" / "mine"
    shutil.copytree(copy / "JANG_2S-mse", other)
    found = run(copy, text, also=[other])
    rows = {scores.row.name: scores for scores in found.rows}
    assert rows["mine"].row.kind == "given"
    assert rows["mine"].row.bytes == rows["JANG_2S-mse"].row.bytes
    assert rows["mine"].row.equal == rows["JANG_2S-mse"].row.equal
    assert rows["mine"].kl == rows["JANG_2S-mse"].kl
    assert found.pair("mine", "JANG_2S-mse").verdict == "tie"
    with pytest.raises(IoError, match="no such directory"):
        run(copy, text, also=[tmp_path / "missing"])
    with pytest.raises(ArgumentError, match="given twice"):
        run(copy, text, also=[other, other])


def test_a_gguf_file_is_a_row_too(tmp_path: Path, text: Path) -> None:
    file = write_gguf(tmp_path / "demo-Q8_0.gguf", DEMO, Type.Q8_0)
    wishes: dict[str, Any] = {"profiles": [], "methods": ["rtn"], "also": [file]}
    found = run(tmp_path / "work", text, **wishes)
    rows = {scores.row.name: scores for scores in found.rows}
    given = rows["demo-Q8_0.gguf"]
    assert given.row.bytes == file.stat().st_size
    assert given.kl == evaluate(DEMO, file, text=text, **SIZE).models[0].kl
    (pair,) = found.pairs
    assert rows[pair.first].row.bytes <= given.row.bytes and pair.second == "demo-Q8_0.gguf"
    assert any("dequantized to float32" in notice for notice in found.notices)
    file.write_bytes(file.read_bytes() + b"0")  # another file: measured again
    assert left(tmp_path / "work", text, **wishes)["demo-Q8_0.gguf"] == "measure"


def test_names_of_given_models_tell_them_apart(tmp_path: Path) -> None:
    for place in ("a/m", "b/m"):
        shutil.copytree(DEMO, tmp_path / place, ignore=shutil.ignore_patterns("*.safetensors"))
        (tmp_path / place / "model.safetensors").symlink_to(DEMO / "model.safetensors")
    tiny = tmp_path / "tiny.gguf"
    tiny.write_bytes(b"GGUF")
    wanted = plan_rows(
        DEMO,
        profiles=["4L"],
        bits=[3.5],
        methods=["rtn", "mse"],
        given=[locate_given(path) for path in (tmp_path / "a/m", tmp_path / "b/m", tiny)],
        equal_bytes=True,
    )
    names = [row.name for row in wanted.rows]
    assert names[:7] == [
        *("JANG_4L-rtn", "JANG_4L-mse", "bits-3.5-rtn", "bits-3.5-mse", "a/m", "b/m"),
        str(Path(tmp_path.name) / "tiny.gguf"),
    ]
    by_name = {row.name: row for row in wanted.rows}
    assert by_name["bits-3.5-rtn"].equal is None  # is by size already
    assert by_name[names[6]].equal is None
    assert len(wanted.notices) == 1 and "no file of ours is as small" in wanted.notices[0]


def test_models_of_the_hub_are_named_as_there(tmp_path: Path) -> None:
    snapshot = ResolvedModel(DEMO, "org/name", "0123abc")
    assert snapshot.argument == "org/name@0123abc"
    assert ResolvedModel(tmp_path, "x", "").argument == str(tmp_path)
    wanted = plan_rows(
        DEMO, profiles=[], bits=[], methods=["rtn"], given=[snapshot], equal_bytes=False
    )
    assert [row.name for row in wanted.rows] == ["org/name"]


def test_batches_fit_the_memory_and_strangers_are_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(f"row{i}", "profile", "p", "rtn", 10_000_000, 4.0) for i in range(5)]
    gguf = tmp_path / "m.gguf"
    gguf.write_bytes(b"")
    rows.insert(2, Row("m.gguf", "given", None, None, 0, 4.0, path=gguf))

    def names(spare: int | None) -> list[list[str]]:
        return [[row.name for row in batch] for batch in measure.batches(rows, DEMO, spare)]

    monkeypatch.setattr(measure, "available_memory", lambda: None)
    assert names(None) == [["row0", "row1"], ["m.gguf"], ["row2", "row3", "row4"]]
    assert names(20_000_000) == [["row0", "row1"], ["m.gguf"], ["row2", "row3"], ["row4"]]
    monkeypatch.setattr(measure, "available_memory", lambda: 1_000_000)
    assert all(len(batch) == 1 for batch in names(None))
    monkeypatch.setattr(measure, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(measure, "available_memory", lambda: 1 << 40)
    assert names(None)[-1] == ["row4"]


def test_a_full_disk_is_noticed_before_any_work(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "free_space", lambda _: 80_000_000)
    with pytest.raises(IoError, match="no space: the converted models take") as caught:
        run(tmp_path / "work", text)
    assert caught.value.code == "no_space" and "--no-keep" in caught.value.hint
    assert not (tmp_path / "work").exists()
    plans: list[Any] = []
    run(tmp_path / "work", text, keep=False, dry_run=True, on_plan=plans.append)
    assert max(step.row.bytes for step in plans[0].steps) < plans[0].disk_bytes < 40_000_000


def test_a_folder_of_something_else_is_refused(copy: Path, tmp_path: Path, text: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    with pytest.raises(IoError, match=r"holds thesis\.tex"):
        run(other, text)
    edit_state(copy, lambda state: state.update(source="another-model"))
    with pytest.raises(IoError, match="of a comparison of another-model"):
        run(copy, text)
    (copy / "state.json").write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        run(copy, text)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_runs_at_once_are_refused(copy: Path, text: Path) -> None:
    def inside(_: object) -> None:
        with pytest.raises(IoError, match="another comparison is working there"):
            run(copy, text)

    run(copy, text, dry_run=True, on_plan=inside)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"profiles": []}, "nothing to compare"),
        ({"profiles": ["JANG_9X"]}, "JANG_9X"),
        ({"methods": []}, "methods: expected at least one"),
        ({"methods": ["awq"]}, "methods: expected some of rtn, mse, gptq, found 'awq'"),
        ({"bits": [1.0]}, "out of reach"),
        ({"sequence": 4096}, "exceeds the context of 1024 tokens"),
        ({"tokens": 8}, "fewer than one window"),
        ({"methods": ["gptq"], "calibration_tokens": 5000}, "calibration tokens"),
        ({"precision": "half"}, "precision: expected one of"),
    ],
)
def test_wishes_that_make_no_sense(
    tmp_path: Path, text: Path, wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(tmp_path / "work", text, **wishes)
    assert not (tmp_path / "work").exists()


# --- the command -------------------------------------------------------------------------------


def jang(*arguments: str | Path) -> Result:
    return CliRunner(env={"JANG_LOG": None}).invoke(cli, list(map(str, arguments)))


def jang_compare(output: Path, text: Path, *more: str | Path) -> Result:
    return jang(
        *("compare", DEMO, "--profiles", "2S", "--baselines", "uniform-4", "--methods", "rtn,mse"),
        *("--equal-bytes", "--output", output, "--text", text, "--sequence", "64"),
        *("--tokens", "320", *more),
    )


def test_the_command_prints_tables_and_writes_files(
    copy: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = MagicMock()
    for place in ("jang_tools.bench.plot", "jang_tools.comparison.plot"):
        monkeypatch.setattr(f"{place}.figure_class", lambda: lambda **_: figure)
    shutil.rmtree(copy / "uniform-4-mse")
    edit_state(copy, lambda state: state["conversions"].pop("uniform-4-mse"))
    markdown, picture, layers = (tmp_path / name for name in ("t.md", "kl.svg", "layers.svg"))
    done = jang_compare(
        copy, text, "--markdown", markdown, "--plot", picture, "--layer-plot", layers
    )
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Reference tiny-prose-llama, models in exact precision")
    assert lines[3].split()[:5] == ["model", "method", "MB", "bits/weight", "KL"]
    assert "At equal bytes" in lines and "Methods at the same widths" in lines
    assert "better" in done.stdout
    errors = done.stderr
    assert "6 models, 6 to do in work" in errors  # all for their layers
    assert "uniform-4-mse: KL" in errors and "notice: 5 windows" in errors
    assert markdown.read_text("utf-8").startswith("| model | method | MB |")
    assert [call.args[0] for call in figure.savefig.call_args_list] == [picture, layers]
    axes = figure.subplots.return_value
    drawn = sorted(call.args[0][0] for call in axes.errorbar.call_args_list)
    rows = json.loads((copy / "comparison.json").read_text("utf-8"))["rows"]
    assert drawn == sorted(row["bits_per_weight"] for row in rows)
    errors_drawn = [call.kwargs for call in axes.plot.call_args_list if "linestyle" in call.kwargs]
    assert len(errors_drawn) == 2 * len(rows)  # a line for the layers, points beside them


def test_layers_are_those_of_verify(copy: Path, text: Path) -> None:
    found = run(copy, text, profiles=["2S"], methods=["rtn"], equal_bytes=False, layers=True)
    (scores,) = found.rows
    tensors = jang_tools.verify(copy / "JANG_2S-rtn", against=DEMO).tensors
    assert tensors is not None
    assert [(layer.path, layer.relative_rms) for layer in scores.layers or []] == [
        (tensor.path, tensor.relative_rms) for tensor in tensors
    ]
    errors = plot.layer_errors(scores)
    assert set(errors) == {"embed_tokens", "lm_head", *map(str, range(6))}
    first = [t.relative_rms**2 for t in tensors if ".layers.0." in t.path]
    assert errors["0"] == pytest.approx((sum(first) / len(first)) ** 0.5)
    assert len(found.to_json()["rows"][0]["layers"]) == len(tensors)


def test_the_command_speaks_json(copy: Path, text: Path) -> None:
    done = jang_compare(copy, text, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "jang.compare/1" and document["complete"]
    assert document == json.loads((copy / "comparison.json").read_text("utf-8"))


def test_the_command_plans_without_work(tmp_path: Path, text: Path) -> None:
    done = jang_compare(tmp_path / "new", text, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "6 models, 6 to do in new, which takes" in done.stdout
    document = json.loads(jang_compare(tmp_path / "new", text, "--dry-run", "--json").stdout)
    steps = {step["name"]: step["left"] for step in document["plan"]["steps"]}
    assert set(steps.values()) == {"convert"} and set(steps) > NAMES
    assert document["rows"] == [] and not document["complete"]
    assert not (tmp_path / "new").exists()


def test_an_interrupted_command_says_that_it_continues(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "convert", stop)
    done = jang_compare(tmp_path / "new", text)
    assert done.exit_code == 130
    assert f"the same command continues in {tmp_path / 'new'}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare"),
        (["--profiles", "4L", "--calibration", "x.txt"], "are for --methods gptq"),
        (["--profiles", "4L,"], "an empty name"),
        (["--bits", "four"], "'four' is not a number"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    done = jang("compare", DEMO, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


# --- what users are told -----------------------------------------------------------------------


def test_tiers_that_cost_more_than_they_give_are_pointed_out(tmp_path: Path) -> None:
    planned = plan(DEMO, profile="JANG_2M")
    assert planned.suggestion is not None
    assert planned.suggestion.size == planned.bytes
    assert planned.suggestion.loss_ratio < 0.5
    assert planned.to_json()["suggestion"]["size"] == planned.bytes
    for wishes in ({"profile": "uniform-4"}, {"size": planned.bytes}, {"bits": 4.0}):
        assert plan(DEMO, **wishes).suggestion is None
    hint = f"hint: --size {planned.bytes} in place of JANG_2M"
    assert hint in jang("plan", DEMO, "--profile", "2M").stderr
    options = ("--model", DEMO, "--profile", "2M", "--method", "rtn", "--output")
    assert hint in jang("convert", *options, tmp_path / "loud").stderr
    quiet = jang("convert", *options, tmp_path / "quiet", "-q")
    assert quiet.exit_code == 0 and quiet.stderr == ""
    assert "hint: --size" not in jang("convert", *options, tmp_path / "loud").stderr  # it exists


def test_the_documented_table_is_of_the_script() -> None:
    document = comparison_table.DOCUMENT.read_text("utf-8")
    made = document.split(comparison_table.BEGIN)[1].split(comparison_table.END)[0]
    wanted = [*comparison_table.PROFILES, *comparison_table.BASELINES]
    for name in wanted:
        for method in comparison_table.METHODS:
            assert f"| {name} | {method} |" in made
            assert f"-gptq | {name}-{method} |" in made
