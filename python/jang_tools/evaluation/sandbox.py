"""Runs a program that a model wrote in a separate, limited process, and says whether it passed.

This keeps accidents in: endless loops, all of memory, files all over the place. It is no defence
against a program that attacks the machine; docs/evaluation.md says what is and is not limited.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jang_tools.errors import UnsupportedError

SECONDS = 10.0
MEMORY = 1 << 30
_GRACE = 10.0  # seconds beyond a candidate's own, for a machine under load
_RUNNER = Path(__file__).with_name("candidate.py")


@dataclass(frozen=True)
class Outcome:
    """``error`` names what stopped the program, or is empty; ``isolated``: without a network."""

    passed: bool
    error: str
    isolated: bool


def run_candidate(program: str, seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
    """Runs Python source to its end or to a limit: ``seconds`` of wall time, ``memory`` bytes."""
    if os.name != "posix":
        raise UnsupportedError("running candidates needs a POSIX system", code="unsupported")
    receive, report = os.pipe()
    job = json.dumps({"program": program, "seconds": seconds, "memory": memory})
    try:
        with tempfile.TemporaryDirectory(prefix="jang-candidate-") as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_RUNNER), str(report)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                pass_fds=[report],
                start_new_session=True,
            )
            os.close(report)
            report = -1
            try:
                # The runner keeps the time itself, as it can wait for all that it has to end.
                process.communicate(job.encode("utf-8", "surrogatepass"), seconds + _GRACE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                # After Ctrl-C, and for what a candidate left running where there are no namespaces.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            os.set_blocking(receive, False)
            try:
                said = os.read(receive, 4096)
            except BlockingIOError:
                said = b""
    finally:
        os.close(receive)
        if report >= 0:
            os.close(report)
    try:
        found = json.loads(said.partition(b"\n")[0])
        return Outcome(bool(found["passed"]), str(found["error"]), bool(found["isolated"]))
    except (ValueError, KeyError, TypeError):
        return Outcome(False, "ended by a limit or a signal", False)
