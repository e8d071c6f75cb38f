"""The machine and the command behind a figure."""

from __future__ import annotations

import platform
from pathlib import Path

_CPU_KEYS = ("model name", "Model", "Hardware", "uarch")


def cpu_name() -> str:
    """The processor as the system calls it, or the architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    for key in _CPU_KEYS:
        if found.get(key):
            return found[key]
    return platform.processor() or platform.machine()
