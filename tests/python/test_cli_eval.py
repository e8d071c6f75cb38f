"""`jang eval` through the runner: what goes to stdout and stderr, and how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner, Result

import jang_tools
from jang_tools.bench import plot as bench_plot
from jang_tools.cli.main import cli
from jang_tools.errors import UnsupportedError

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"
SMALL = ("--sequence", "64", "--tokens", "256")


def jang_eval(*arguments: str | Path) -> Result:
    words = ["eval", *map(str, arguments)]
    return CliRunner(env={"JANG_LOG": None}).invoke(cli, words, prog_name="jang")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("cli-eval")
    for profile in ("2M", "4L"):
        jang_tools.convert(DEMO, folder / f"demo-{profile}", profile=profile, method="rtn")
    return [folder / "demo-4L", folder / "demo-2M"]


def test_prints_a_table_and_notes_apart(models: list[Path]) -> None:
    done = jang_eval("--reference", DEMO, "--model", f"{models[0]},{models[1]}", *SMALL)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"Reference tiny-prose-llama \(13\.6 MB\), models in exact precision", lines[0])
    assert re.match(r"Text builtin \(sha256 [0-9a-f]{12}\): 4 windows of 64, all", lines[1])
    assert lines[3].split()[:4] == ["model", "MB", "bits/weight", "KL"]
    assert lines[4].split()[:3] == ["demo-4L", "4.97", "5.83"]
    assert lines[5].startswith("demo-2M")
    assert lines[-1].split()[0] == "demo-4L" and lines[-1].endswith("demo-4L")
    assert "notice: 4 windows" in done.stderr
    assert jang_eval("--reference", DEMO, "--model", models[0], *SMALL, "-q").stderr == ""


def test_json_is_one_document(models: list[Path]) -> None:
    done = jang_eval("--reference", DEMO, "--model", models[0], *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["schema"] == "jang.eval/1"
    assert document["reference"]["path"] == str(DEMO)
    assert [model["path"] for model in document["models"]] == [str(models[0])]
    assert document["text"]["sequence"] == 64
    assert document["text"]["tokens"] == 256
    assert 0 < document["models"][0]["kl"]["mean"] < 1


def test_markdown_replaces_the_text(models: list[Path]) -> None:
    done = jang_eval("--reference", DEMO, "--model", models[0], *SMALL, "--markdown")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("| model | MB |")
    assert "| demo-4L | 4.97 |" in done.stdout


def test_models_may_be_repeated_and_their_names_hold_commas(
    tmp_path: Path, models: list[Path]
) -> None:
    odd = tmp_path / "a,b"
    odd.symlink_to(models[0])
    done = jang_eval("--reference", DEMO, "--model", odd, "--model", models[1], *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    assert len(json.loads(done.stdout)["models"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--markdown"], "exclude each other"),
        (["--text", "none"], "--text none needs --tasks"),
        (["--tasks", "gsm8k"], "none of mmlu"),
        (["--tasks", "arc=x,arc=y"], "given twice"),
        (["--tasks", "arc="], "lacks the file"),
        (["--score", "first"], "second-half"),
        (["--sequence", "1"], "1"),
        (["--text", "none", "--tasks", "arc=x", "--plot", "x.png"], "needs a text"),
    ],
)
def test_command_lines_that_make_no_sense(options: list[str], message: str) -> None:
    done = jang_eval("--reference", DEMO, "--model", DEMO, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "absent.txt"], "absent.txt: No such file or directory"),
        (["--sequence", "4096"], "exceeds the context of 1024"),
        (["--tasks", "arc"], "where are its files?"),
        (["--tasks", "arc=absent.jsonl"], "absent.jsonl: no such file"),
        (["--plot", "figure.bmp"], "figure.bmp: expected a name that ends in"),
    ],
)
def test_known_failures_are_one_line(options: list[str], message: str) -> None:
    done = jang_eval("--reference", DEMO, "--model", DEMO, *options)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = jang_eval("--reference", DEMO, "--model", tmp_path / "absent")
    assert done.exit_code == 1
    assert "absent" in done.stderr


def test_tasks_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mmlu").mkdir()
    rows = "One?,a,b,c,d,A\nTwo?,a,b,c,d,B\nbroken\n"
    (tmp_path / "mmlu" / "own_test.csv").write_text(rows)
    arguments = ("--text", "none", "--tasks", "mmlu", "--task-data", tmp_path)
    done = jang_eval("--reference", DEMO, "--model", DEMO, *arguments)
    assert done.exit_code == 0, done.stderr
    assert "Task mmlu" in done.stdout and "1 malformed rows skipped" in done.stdout
    assert done.stdout.splitlines()[-1].split()[:2] == ["mmlu", "tiny-prose-llama"]


def test_humaneval_needs_a_word_of_permission(tmp_path: Path) -> None:
    row = {"task_id": "a", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): f()"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    done = jang_eval(
        *("--reference", DEMO, "--model", DEMO, "--text", "none"),
        *("--tasks", f"humaneval={tmp_path / 'own.jsonl'}"),
    )
    assert done.exit_code == 1
    assert "hint: --allow-code-execution" in done.stderr


def test_plots_are_refused_without_matplotlib_and_drawn_with_it(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = MagicMock()
    for place in ("jang_tools.bench.plot", "jang_tools.evaluation.plot"):
        monkeypatch.setattr(f"{place}.figure_class", lambda: lambda **_: figure)
    target = tmp_path / "kl.svg"
    arguments = ("--reference", DEMO, "--model", models[0], *SMALL)
    done = jang_eval(*arguments, "--plot", target)
    assert done.exit_code == 0, done.stderr
    assert f"drawn to {target}" in done.stderr
    figure.savefig.assert_called_once_with(target)
    sizes, means = figure.subplots.return_value.errorbar.call_args.args
    assert sizes == [pytest.approx(5.83, abs=0.01)]
    assert 0 < means[0] < 1

    def refuse() -> Any:
        raise UnsupportedError("--plot needs matplotlib, which is not installed")

    monkeypatch.setattr(bench_plot, "figure_class", refuse)
    done = jang_eval(*arguments, "--plot", target)
    assert done.exit_code == 1
    assert "matplotlib" in done.stderr


def test_interruption_ends_it_at_once() -> None:
    # The runner would swallow the signal; a fresh process shows what a shell sees.
    code = (
        "import sys\n"
        "from jang_tools.cli.main import main\n"
        "from jang_tools.evaluation.texts import read_text\n"
        "sys.argv = ['jang', 'eval', '--reference', sys.argv[1], '--model', sys.argv[1]]\n"
        "print('ready', flush=True)\n"
        "main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(DEMO)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - start < 20  # a bound for machines under load, not a measurement
    assert process.returncode == 130
    assert (out, error.splitlines()[-1]) == ("", "interrupted")
