"""docs/cli.md against the commands: every option is documented, and nothing else."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jang_tools.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
SHARED = "What all commands share"
WORD = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def table_options(section: str) -> set[str]:
    """Option names in the first column of the section's tables."""
    cells = re.findall(r"^\| (`-.*?) \| ", SECTIONS[section], re.MULTILINE)
    return {name for cell in cells for name in WORD.findall(cell)}


def real_options(name: str) -> set[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = click.Context(command, parent=click.Context(cli, **cli.context_settings))
    return {
        spelling
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    }


def test_there_is_a_section_for_every_command() -> None:
    assert {name for name in SECTIONS if name.startswith("jang ")} == {
        f"jang {name}" for name in COMMANDS
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_documented_and_no_others(name: str) -> None:
    shared = table_options(SHARED)
    assert shared == {"--json", "-q", "--quiet", "-v", "--verbose", "-h", "--help"}
    assert shared <= real_options(name)
    assert table_options(f"jang {name}") == real_options(name) - shared


@pytest.mark.parametrize("name", COMMANDS)
def test_options_mentioned_in_the_text_exist(name: str) -> None:
    mentioned = set(WORD.findall(" ".join(re.findall(r"`[^`]*`", SECTIONS[f"jang {name}"]))))
    others = {option for command in COMMANDS for option in real_options(command)}
    assert {option for option in mentioned if len(option) > 2} <= others


@pytest.mark.parametrize("name", COMMANDS)
def test_schemas_are_named(name: str) -> None:
    assert f"`jang.{name}/1`" in SECTIONS[f"jang {name}"]


def test_every_command_shows_its_options_with_help() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def examples() -> list[tuple[str, str]]:
    """Command lines shown in the sections of commands, with the output shown below them."""
    found = []
    for section in (text for name, text in SECTIONS.items() if name.startswith("jang ")):
        for block in re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            if block.startswith("$ "):
                shown = [part.partition("\n") for part in block[2:].split("\n$ ")]
                found += [(line, output) for line, _, output in shown]
            else:
                found += [(line, "") for line in block.splitlines()]
    return found


def test_examples_on_the_bundled_model_run_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run = 0
    for line, output in examples():
        if "tiny-" not in line:  # on models that are not here
            continue
        program, *arguments = shlex.split(line)
        assert program == "jang"
        done = CliRunner().invoke(cli, arguments, prog_name="jang")
        assert done.exit_code == 0, f"{line}: {done.stderr}"
        assert done.stdout
        if output:
            shown, found = (
                re.sub(r"^Memory: at most [^|]*", "", text, flags=re.MULTILINE)  # by threads
                for text in (output, done.stdout)
            )
            assert found.splitlines() == shown.splitlines()
        run += 1
    assert run >= 6
