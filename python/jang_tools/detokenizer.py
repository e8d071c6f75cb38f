"""Turns a stream of token ids into text that can be printed at once.

Decoding ids one by one goes wrong in three ways: a character may be spread over several tokens, a
leading space depends on the token before, and special tokens hide both. So a short window of ids is
decoded anew for each token, and what grew at its end is the new text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Set

from tokenizers import Tokenizer as Backend

_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LONGEST_CHARACTER = 4  # bytes in UTF-8; a token that yields text yields at least one byte


class Detokenizer:
    """``add`` each token, then ``finish``: together the pieces are the decoded text.

    Text that a later token could still change is held back, so no piece ends inside a character. A
    character that stays incomplete at the end is dropped.
    """

    def __init__(self, backend: Backend, hidden: Set[int]) -> None:
        """``hidden``: ids that leave no trace in the text (special tokens)."""
        self._backend = backend
        self._hidden = hidden
        self._window: list[int] = []  # context, then the ids whose text is not printed yet
        self._context = 0  # how many ids of the window are context
        self._printed = ""  # the part of the window's text that is out already

    def add(self, token: int) -> str:
        """The text that ``token`` completes; often one word, sometimes nothing."""
        if token in self._hidden or self._backend.id_to_token(token) is None:
            return ""
        self._window.append(token)
        text = self._decode(len(self._window))
        if not text.endswith(_REPLACEMENT):
            return self._print(text, len(self._window))
        # Either an unfinished character or bytes that never become one. Nothing before the last
        # four tokens can be part of an unfinished character.
        settled = len(self._window) - _LONGEST_CHARACTER
        if settled <= self._context or self._splits_character(settled):
            return ""
        text_settled = self._decode(settled)
        return self._print(text_settled, settled) if text.startswith(text_settled) else ""

    def finish(self) -> str:
        """What was held back, less an incomplete character. The next text starts afresh."""
        text = self._decode(len(self._window))
        if text.endswith(_REPLACEMENT) and self._ends_inside_character():
            text = text.rstrip(_REPLACEMENT)
        piece = self._new_part(text)
        self._window, self._context, self._printed = [], 0, ""
        return piece

    def _decode(self, count: int) -> str:
        return str(self._backend.decode(self._window[:count], skip_special_tokens=False))

    def _new_part(self, text: str) -> str:
        """What ``text`` has after the printed part, of which late bytes may change the tail."""
        return text[len(self._printed) :]

    def _print(self, text: str, count: int) -> str:
        """Takes the first ``count`` ids of the window as done; they become the next context."""
        piece = self._new_part(text)
        del self._window[: self._context]
        self._context = count - self._context
        self._printed = self._decode(self._context)
        return piece

    def _ends_inside_character(self) -> bool:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in self._window[self._context :]:
            decoder.decode(self._token_bytes(token))
        return bool(decoder.getstate()[0])

    def _splits_character(self, count: int) -> bool:
        """Whether one character begins before id ``count`` of the window and ends after it."""
        before = b"".join(map(self._token_bytes, self._window[self._context : count]))[-3:]
        after = b"".join(map(self._token_bytes, self._window[count:]))[:3]
        return any(
            _is_character(before[-head:] + after[:tail])
            for head in range(1, len(before) + 1)
            for tail in range(1, len(after) + 1)
        )

    def _token_bytes(self, token: int) -> bytes:
        name = self._backend.id_to_token(token) or ""
        byte = _BYTE_TOKEN.fullmatch(name)
        if byte:
            return bytes([int(byte[1], 16)])
        if _REPLACEMENT in self._backend.decode([token], skip_special_tokens=False):
            # Broken on its own: the token is written in the alphabet of byte-level BPE.
            return bytes(_BYTE_OF[character] for character in name if character in _BYTE_OF)
        return name.encode("utf-8", "replace")


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes each byte as one printable character: itself where it is printable in
    Latin-1, else the next free code point from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_alphabet()
