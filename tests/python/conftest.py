"""Fixtures of more than one file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import tiny_checkpoints as tiny
from jang_tools.calibration import BUILTIN, read_calibration_text

pytest.register_assert_rewrite("families", "stock")  # before they are imported

import families  # noqa: E402
from families import Row  # noqa: E402

# A shell that starts the tests in the background has them, and every process that they start,
# ignore Ctrl-C. A handler is not inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to calibrate a tiny model with."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(read_calibration_text(BUILTIN).content[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=families.ROWS, ids=str)
def row(request: pytest.FixtureRequest) -> Row:
    """Every row of the table of families."""
    found: Row = request.param
    return found


@pytest.fixture(scope="module")
def source(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row's checkpoint, with every kind of layer."""
    folder = tmp_path_factory.mktemp(row.name) / "source"
    tiny.write_checkpoint(row.case, folder)
    return folder


@pytest.fixture(scope="module")
def readable(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row's checkpoint in a shape that a text can be read with."""
    folder = tmp_path_factory.mktemp(row.name) / "readable"
    families.write_readable(row, folder)
    return folder
