"""How much memory this process may use: the machine's, less what a control group withholds."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = (  # limit, usage; version 2 first
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def total_memory() -> int | None:
    """Bytes of memory that the process could have at most, or None where that cannot be told."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or a silent one
        return None
    for limit, _ in _CGROUPS:
        if (value := _number(limit)) is not None:
            total = min(total, value)
    return total


def available_memory() -> int | None:
    """Bytes that can be had without swapping (page cache counts as free), or None."""
    available = None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError):  # no such file on this system
        return None
    for limit, usage in _CGROUPS:
        bound, used = _number(limit), _number(usage)
        if available is not None and bound is not None and used is not None:
            # The group's usage counts page cache, which can be dropped: a floor of an eighth keeps
            # a group full of cache from looking full of data.
            available = min(available, max(bound - used, bound // 8))
    return available


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or "max"
        return None
