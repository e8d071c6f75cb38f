"""Convert language models to JANG, look at them, check them and run them on any CPU.

The public names load on first use, so that ``import jang_tools`` and ``jang --help`` import neither
numpy nor the compiled core.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jang_tools.errors import (
    ArgumentError,
    CancelledError,
    FormatError,
    IoError,
    JangError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from jang_tools.compare import compare
    from jang_tools.convert import convert
    from jang_tools.evaluate import evaluate
    from jang_tools.finalize import convert_planned, finalize
    from jang_tools.generate import generate, stream_generate
    from jang_tools.inspect import inspect
    from jang_tools.model import load
    from jang_tools.parts import convert_part
    from jang_tools.plan import plan
    from jang_tools.upgrade import upgrade
    from jang_tools.verify import verify

    __version__: str

__all__ = [
    "ArgumentError",
    "CancelledError",
    "FormatError",
    "IoError",
    "JangError",
    "UnsupportedError",
    "__version__",
    "compare",
    "convert",
    "convert_part",
    "convert_planned",
    "evaluate",
    "finalize",
    "generate",
    "inspect",
    "load",
    "plan",
    "stream_generate",
    "upgrade",
    "verify",
]

_HOME = {
    "compare": "compare",
    "convert": "convert",
    "convert_part": "parts",
    "convert_planned": "finalize",
    "evaluate": "evaluate",
    "finalize": "finalize",
    "generate": "generate",
    "inspect": "inspect",
    "load": "model",
    "plan": "plan",
    "stream_generate": "generate",
    "upgrade": "upgrade",
    "verify": "verify",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("jang-tools")
    except PackageNotFoundError:
        # Imported from a source tree: the core knows the version that it was built from.
        from jang_tools import _core

        return str(_core.__version__)


class _Package(ModuleType):
    """Keeps ``jang_tools.convert`` the function: importing the submodule of the same name would
    otherwise bind the module over it, at whatever moment that import happens."""

    def __setattr__(self, name: str, value: Any) -> None:
        if _HOME.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
