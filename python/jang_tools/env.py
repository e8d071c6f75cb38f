"""What this installation is and what it will use: kernel levels, threads, libraries."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_LIBRARIES = ("numpy", "tokenizers", "jinja2", "huggingface_hub", "click", "tqdm")


@dataclass(frozen=True)
class Environment:
    """What ``jang env`` prints."""

    version: str
    levels: dict[str, dict[str, bool]]  # name -> compiled, supported, active
    threads: int
    threads_reason: str
    python: str
    platform: str
    libraries: dict[str, str | None]  # None: not installed
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The document of ``jang env --json``."""
        return {
            "schema": "jang.env/1",
            "version": self.version,
            "levels": self.levels,
            "threads": self.threads,
            "threads_reason": self.threads_reason,
            "python": self.python,
            "platform": self.platform,
            "libraries": self.libraries,
            "warnings": self.warnings,
        }


def environment() -> Environment:
    """Asks the core, the interpreter and the installed packages.

    Raises ArgumentError when JANG_ISA or JANG_NUM_THREADS holds an unusable value.
    """
    from jang_tools import _core

    runtime = _core.runtime_info()
    return Environment(
        version=str(runtime["version"]),
        levels={
            name: {key: bool(level[key]) for key in ("compiled", "supported", "active")}
            for name, level in runtime["levels"].items()
        },
        threads=int(runtime["threads"]),
        threads_reason=str(runtime["threads_reason"]),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.machine()}",
        libraries={name: _installed(name) for name in _LIBRARIES},
        warnings=_conflicts(),
    )


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _conflicts() -> list[str]:
    other = _installed("jang")
    if other is None:
        return []
    return [
        f"the package 'jang' {other} is installed here too; it brings a module and a command with"
        " the same names as jang-tools: keep the two in separate environments"
    ]
