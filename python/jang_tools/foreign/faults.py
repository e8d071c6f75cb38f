"""Errors about foreign files: one bounded line each, with file, tensor, expected and found.

Names come from files that strangers wrote, so they are escaped and cut before they are shown.
"""

from __future__ import annotations

import re

from jang_tools.errors import FormatError, UnsupportedError

_SHOWN = 120
# As in the core: controls, ends of lines, what turns directions or shows nothing; and surrogates.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def shown(name: str, most: int = _SHOWN) -> str:
    """``name`` as text for a message: what is not printable escaped, long names cut."""
    text = name if len(name) <= most else name[:most] + "..."
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def malformed(file: str, message: str, *, code: str, tensor: str = "") -> FormatError:
    """A file that contradicts itself, the model, or the format's rules."""
    error = FormatError(_text(file, tensor, message), code=code)
    error.file, error.tensor, error.message = file, shown(tensor), message
    return error


def unsupported(file: str, message: str, *, tensor: str = "", hint: str = "") -> UnsupportedError:
    """A well-formed file of a kind that is refused by name."""
    error = UnsupportedError(_text(file, tensor, message), code="unsupported_format", hint=hint)
    error.file, error.tensor, error.message = file, shown(tensor), message
    return error


def _text(file: str, tensor: str, message: str) -> str:
    where = f"tensor '{shown(tensor)}': " if tensor else ""
    return f"{shown(file)}: {where}{message}"
