"""docs/cli.md against the commands: every option is documented, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from jang_tools.cli.main import COMMANDS, cli

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
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
        for spelling in parameter.opts
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
