"""The command line itself: start-up, help, exit codes, errors in one line, the words it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from jang_tools.cli.main import COMMANDS, cli
from jang_tools.cli.options import output_options, parse_size
from jang_tools.cli.ui import Ui, format_count, format_size, format_table, one_line
from jang_tools.errors import ArgumentError, CancelledError, FormatError, UnsupportedError

DEMO = Path(__file__).parents[2] / "examples" / "tiny-prose-llama"


def jang(*arguments: str, **environment: str) -> Result:
    return CliRunner(env={"JANG_LOG": None, "NO_COLOR": None, **environment}).invoke(
        cli, list(arguments), prog_name="jang"
    )


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- start-up ----------------------------------------------------------------------------------

HEAVY = ("numpy", "jang_tools._core", "tokenizers", "jinja2", "huggingface_hub", "tqdm")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    if arguments == ["--version"] and not _is_installed():
        pytest.skip("a source tree has its version from the core")
    script = f"""
import sys
sys.argv = ["jang", *{arguments!r}]
from jang_tools.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = process("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def _is_installed() -> bool:
    try:
        return bool(metadata.version("jang-tools"))
    except metadata.PackageNotFoundError:
        return False


def test_package_names_are_the_functions_whatever_is_imported_first() -> None:
    for order in ("import jang_tools.convert, jang_tools.inspect, jang_tools.plan", "pass"):
        script = f"""
{order}
from jang_tools import convert, generate, inspect, load, plan, stream_generate, verify
import jang_tools, jang_tools.verify, jang_tools.generate
names = ("convert", "generate", "inspect", "load", "plan", "stream_generate", "verify")
for name in names:
    assert callable(getattr(jang_tools, name)), name
    assert getattr(jang_tools, name) is globals()[name], name
from jang_tools.convert import convert as again
assert again is convert
assert set(jang_tools.__all__) <= set(dir(jang_tools))
try:
    jang_tools.absent
except AttributeError as error:
    assert "absent" in str(error)
else:
    raise SystemExit("no AttributeError")
"""
        done = process("-c", script)
        assert done.returncode == 0, done.stderr


def test_summaries_of_the_overview_are_those_of_the_commands() -> None:
    for name, summary in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(200) == summary


def test_version_is_one_word_and_a_number() -> None:
    done = jang("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("jang ")
    assert done.stdout.strip().split()[1][0].isdigit()


# --- exit codes and errors ---------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Makes `jang env` raise ``error``."""
    module = ModuleType("jang_tools.cli.env")

    @click.command("env")
    @output_options
    def command(ui: Ui) -> None:
        raise error

    module.command = command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jang_tools.cli.env", module)


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (FormatError("a.safetensors: bad"), 1, ["error: a.safetensors: bad"]),
        (UnsupportedError("awq", hint="use x"), 1, ["error: awq", "hint: use x"]),
        (FormatError("tensor 'a\nb\x1b[2J': bad"), 1, ["error: tensor 'a\\nb\\x1b[2J': bad"]),
        (CancelledError("stopped"), 130, ["interrupted"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (MemoryError(), 1, ["error: out of memory"]),
        (
            FileNotFoundError(2, "No such file or directory", "x.json"),
            1,
            ["error: x.json: No such file or directory"],
        ),
        (
            ZeroDivisionError("by\nzero"),
            1,
            [
                "error: unexpected ZeroDivisionError: by\\nzero",
                "hint: please report this; --verbose or JANG_LOG=debug shows the traceback",
            ],
        ),
    ],
)
def test_every_failure_is_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, lines: list[str]
) -> None:
    failing(monkeypatch, error)
    done = jang("env")
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.splitlines() == lines


@pytest.mark.parametrize("ask", [{"arguments": ["--verbose"]}, {"JANG_LOG": "debug"}])
def test_the_traceback_is_there_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, ask: dict[str, Any]
) -> None:
    failing(monkeypatch, ZeroDivisionError("x"))
    done = jang("env", *ask.pop("arguments", []), **ask)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == "error: unexpected ZeroDivisionError: x"
    assert done.stderr.splitlines()[1].startswith("Traceback")


def test_an_unknown_log_level_is_an_error() -> None:
    done = jang("env", JANG_LOG="loud")
    assert done.exit_code == 1
    assert done.stderr == "error: JANG_LOG: expected one of error, info, debug, found 'loud'\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["plan"],
        ["plan", "a", "--model", "b"],
        ["plan", "a", "--profile", "4L", "--bits", "4"],
        ["plan", "a", "--size", "4 parsecs"],
        ["plan", "a", "--size", "0"],
        ["plan", "a", "--group-size", "48"],
        ["convert", "--model", "a"],
        ["convert", "--output", "a"],
        ["convert", "--model", "a", "--output", "b", "--method", "guess"],
        ["convert", "--model", "a", "--output", "b", "--threads", "0"],
        ["run"],
        ["run", "--model", "a", "--json"],
        ["run", "--model", "a", "--prompt", "b", "--max-tokens", "0"],
        ["env", "--quiet", "--verbose"],
        ["inspect"],
        ["verify"],
        ["env", "more"],
    ],
)
def test_a_senseless_command_line_is_2(arguments: list[str]) -> None:
    done = jang(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "missing"],
        ["inspect", "--model", "missing"],
        ["verify", "missing"],
        ["verify", str(DEMO), "--against", "missing"],
        ["profiles", "--model", "missing"],
        ["run", "--model", "missing", "--prompt", "x"],
        ["convert", "--model", "missing", "--output", "absent-output"],
    ],
)
def test_a_missing_model_is_one_line(arguments: list[str]) -> None:
    done = jang(*arguments, "--quiet")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "error: missing: no such directory"
    assert not Path("absent-output").exists()


def test_calibration_options_are_for_gptq(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = jang("convert", "--model", str(DEMO), "--calibration", "builtin", "--output", out)
    assert done.exit_code == 2
    assert "--method gptq" in done.stderr
    assert not list(tmp_path.iterdir())


def test_gptq_names_a_text_that_is_missing(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    text = str(tmp_path / "none.txt")
    rest = ("--method", "gptq", "--calibration", text, "--output", out)
    done = jang("convert", "--model", str(DEMO), *rest)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {text}: ")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_leaves_is_no_error() -> None:
    # `head` closes the pipe long before the listing ends.
    command = f"'{sys.executable}' -m jang_tools.cli.main env --json | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4200000000", 4_200_000_000),
        ("4.2GB", 4_200_000_000),
        ("4.2 gb", 4_200_000_000),
        ("3GiB", 3 << 30),
        ("512MiB", 512 << 20),
        ("1.5k", 1500),
        ("8G", 8_000_000_000),
        ("1.5x", None),
        ("1.5kB", 1500),
        ("7B", 7),
        ("1TB", 10**12),
        ("-1", None),
        ("1e9", None),
        ("GB", None),
        ("", None),
        ("0", None),
        ("1 2", None),
    ],
)
def test_sizes_as_arguments(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(text)
    else:
        assert parse_size(text) == size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (4_100_000_000, "4.1 GB"),
        (999_950_000, "1.0 GB"),
        (999_949_999, "999.9 MB"),
        (4_612_345, "4.6 MB"),
        (100_000, "0.1 MB"),
        (99_999, "100.0 kB"),
        (0, "0.0 kB"),
    ],
)
def test_sizes_in_print(count: int, text: str) -> None:
    assert format_size(count) == text


def test_counts_in_print() -> None:
    assert [format_count(n) for n in (7, 1500, 6_800_000, 8_030_000_000)] == [
        "7",
        "1.5 K",
        "6.8 M",
        "8.03 B",
    ]


def test_tables_align_and_lines_stay_lines() -> None:
    assert format_table(["role", "bits"], [["mlp", "4"], ["a\nb", "16"]]) == [
        "role  bits",
        "mlp      4",
        "a\\nb    16",
    ]
    assert one_line("é ✔ \t\x00\x85\u2028") == "é ✔ \\t\\x00\\x85\\u2028"


def test_quiet_hides_notes_but_no_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        ui = Ui(quiet=quiet)
        ui.note("note")
        ui.warn("careful")
        ui.result("result")
        ui.document({"schema": "x"})
        out, err = capsys.readouterr()
        assert out == "result\n"
        assert err == ("" if quiet else "note\n") + "warning: careful\n"


def test_json_prints_the_document_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ui = Ui(json=True)
    ui.result("result")
    ui.document({"schema": "x", "name": "é"})
    assert json.loads(capsys.readouterr().out) == {"schema": "x", "name": "é"}
    with pytest.raises(ValueError, match="JSON"):
        ui.document({"x": float("nan")})  # NaN is no JSON


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().progress("work") as advance:
        assert advance is None
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Ui().progress("work") as advance:
        assert advance is not None
        assert capsys.readouterr().err == ""  # nothing before there is something to show
        advance(1, 4, "first")
        advance(4, 4, "last\nline")
    shown = capsys.readouterr().err
    assert "work" in shown
    assert "last\\nline" in shown
    assert "100%" in shown
    with Ui(quiet=True).progress("work") as advance:
        assert advance is None


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("", True), ("1", False)])
def test_colour_only_on_a_terminal_that_wants_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_color: str | None,
    colored: bool,
) -> None:
    from jang_tools.cli import ui

    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert ui._styled("error:", "red") == "error:"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert ("\x1b[" in ui._styled("error:", "red")) is colored


def test_errors_of_the_environment_come_from_the_core() -> None:
    done = jang("env", JANG_NUM_THREADS="many")
    assert done.exit_code == 1
    assert "JANG_NUM_THREADS" in done.stderr
    assert isinstance(ArgumentError("x"), ValueError)
