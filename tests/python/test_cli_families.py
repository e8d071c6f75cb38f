"""The whole path by commands, once for every family: plan, convert, verify, inspect, run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny_checkpoints as tiny
from jang_tools import generate, load
from jang_tools.cli.main import cli

PROMPT = "Once upon a time there was a"


def first_cases() -> list[tiny.Case]:
    """The first, plainest case of every model type."""
    by_type: dict[str, tiny.Case] = {}
    for case in tiny.CASES:
        by_type.setdefault(case.model_type, case)
    return list(by_type.values())


def jang(*arguments: str | Path) -> str:
    """What a command prints; it must succeed."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="jang")
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("case", first_cases(), ids=lambda case: case.model_type)
def test_a_family_goes_from_source_to_text(case: tiny.Case, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    # Four layers: every kind of layer that these families have.
    tiny.write_readable_checkpoint(case, source, num_hidden_layers=4)
    widths = ["--profile", "JANG_3M", "--group-size", "32"]
    planned = json.loads(jang("plan", source, *widths, "--json"))
    jang("convert", "--model", source, *widths, "--method", "mse", "--output", output, "--quiet")
    jang("verify", output, "--against", source)
    inspected = json.loads(jang("inspect", output, "--json"))
    assert inspected["model_type"] in (case.model_type, case.model_type.removesuffix("_text"))
    assert {role["role"] for role in planned["roles"]} == {
        role["role"] for role in inspected["roles"]
    }
    found = json.loads(
        jang("run", "--model", output, "--prompt", PROMPT, "--max-tokens", "24", "--json")
    )
    model, tokenizer = load(output)
    assert found["text"] == generate(model, tokenizer, PROMPT, max_tokens=24)
    assert 1 <= found["generation_tokens"] <= 24
