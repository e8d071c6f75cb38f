"""Every error the package raises on purpose: one line of text, and where it happened."""

from __future__ import annotations


class JangError(Exception):
    """Base of all. ``code`` is stable ("payload_layout"); the other fields may be empty."""

    code: str = ""
    file: str = ""
    tensor: str = ""
    message: str = ""
    hint: str = ""

    def __init__(self, text: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.message = text
        self.hint = hint


class FormatError(JangError, ValueError):
    """A file that is malformed or contradicts itself."""


class UnsupportedError(JangError, ValueError):
    """A well-formed file of a kind that the package does not handle; the text names the kind."""


class ArgumentError(JangError, ValueError):
    """An argument or an environment variable with an unusable value."""


class IoError(JangError, OSError):
    """The operating system refused: no such file, no space, no permission."""


class CancelledError(JangError):
    """Stopped by the caller before the end."""
