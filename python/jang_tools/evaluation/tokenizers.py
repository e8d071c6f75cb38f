"""The tokenizers of the directories that are compared, which must agree to be comparable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jang_tools.errors import ArgumentError
from jang_tools.tokenizer import Tokenizer

# All that a tokenizer is made from.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json", "config.json"),
)


class Tokenizers:
    """One tokenizer a directory, loaded once where the files are the same."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._loaded: dict[tuple[str, ...], Tokenizer] = {}

    def hash(self, index: int) -> str:
        """SHA-256 of tokenizer.json."""
        return _hash_file(self._paths[index] / "tokenizer.json")

    def of(self, index: int) -> Tokenizer:
        """The directory's own, or the reference's where it has none."""
        return self[index if self.hash(index) else 0]

    def check_sizes(self) -> None:
        """Raises ArgumentError for a vocabulary of another size than the reference's."""
        own = self.of(0).vocab_size
        for index, path in enumerate(self._paths):
            if self.of(index).vocab_size != own:
                raise ArgumentError(
                    f"{path}: its tokenizer has {self.of(index).vocab_size} tokens, the"
                    f" reference's {own}: their distributions cannot be compared",
                    code="argument",
                )

    def same_ids(self, first: int, second: int) -> bool:
        """Whether the files that decide about ids are the same; if not, the ids may still be."""
        names = TOKENIZER_FILES[:3]
        one, other = self._paths[first], self._paths[second]
        return all(_hash_file(one / name) == _hash_file(other / name) for name in names)

    def __getitem__(self, index: int) -> Tokenizer:
        path = self._paths[index]
        key = tuple(_hash_file(path / name) for name in TOKENIZER_FILES)
        if key not in self._loaded:
            self._loaded[key] = Tokenizer.load(path)
        return self._loaded[key]


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
