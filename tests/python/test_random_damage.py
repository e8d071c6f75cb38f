"""A small run of tools/random_damage.py: damage is found and named, and crashes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_random_damage_is_found_and_crashes_nothing() -> None:
    command = [sys.executable, str(ROOT / "tools" / "random_damage.py"), "--rounds", "50"]
    done = subprocess.run(
        [*command, "--seconds", "300"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 rounds" in done.stdout
    assert ", 0 faults" in done.stdout
