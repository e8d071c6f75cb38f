"""The tokenizer of a model directory: tokenizer.json through the `tokenizers` library.

Special tokens, added tokens and the handling of BOS follow what transformers does with the same
files, so that a prompt becomes the same ids here and there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

from tokenizers import AddedToken, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from jang_tools.chat import ChatTemplate, Message, load_chat_template
from jang_tools.detokenizer import Detokenizer
from jang_tools.errors import ArgumentError, FormatError, UnsupportedError
from jang_tools.foreign.faults import shown
from jang_tools.json_file import read_json_object

_NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


_ID_DIGITS = 10  # longer ones are no ids


class Tokenizer:
    """Text to token ids and back.

    ``eos_ids``: the ids that end an answer: those of config.json, generation_config.json and the
    tokenizer, and the token that the chat template writes after a turn. ``chat_template`` is None
    for base models. ``special_tokens``: "bos_token" and its like to their text.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
        eos_ids: Iterable[int] = (),
    ) -> None:
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template
        added = backend.get_added_tokens_decoder()
        self._special_ids = frozenset(id for id, token in added.items() if token.special)
        self.eos_ids = frozenset(eos_ids) | self._own_eos_ids(frozenset(added))

    @classmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """The tokenizer of a model directory.

        Raises UnsupportedError if there is no tokenizer.json, FormatError if a file is malformed.
        """
        directory = Path(directory)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise UnsupportedError(
                f"{file}: no such file, so text cannot become tokens",
                code="tokenizer",
                hint="save the model's fast tokenizer (tokenizer.json) beside its weights",
            )
        config_file = directory / "tokenizer_config.json"
        config = read_json_object(config_file)
        special = _special_tokens(directory, config)
        backend = _read_backend(file)
        backend.no_truncation()
        backend.no_padding()
        _follow_llama_class(backend, config)
        _add_missing_tokens(backend, config_file, config, special)
        _follow_bos_flags(backend, config_file, config, special)
        return cls(
            backend,
            special_tokens=special,
            chat_template=load_chat_template(directory, config, special),
            eos_ids=_configured_eos_ids(directory),
        )

    @property
    def vocab_size(self) -> int:
        """Ids that have a token, added tokens included; a model's own number may be larger."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    def token_id(self, token: str) -> int | None:
        """The id of a token by its exact text, or None."""
        return self.backend.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids; with ``add_special_tokens`` also those that the post-processor adds (BOS).

        Raises ArgumentError for text with bytes that were not UTF-8 where it came from, FormatError
        where the tokenizer cannot do what its file says.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # Python carries such bytes as lone surrogates
            raise ArgumentError(
                f"the text is not valid UTF-8 at character {error.start + 1}", code="argument"
            ) from error
        with _faults_of_library("tokenizer.json"):
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_prompt(self, text: str) -> list[int]:
        """As ``encode``, but a text that already begins with BOS gets no second one."""
        bos = self.bos_token
        return self.encode(text, add_special_tokens=not (bos and text.startswith(bos)))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of all ids at once."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """A new incremental decoder, for printing while tokens arrive."""
        return Detokenizer(self.backend, self._special_ids if skip_special_tokens else frozenset())

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = ...,
        tokenize: Literal[True] = ...,
        tools: Sequence[Mapping[str, Any]] | None = ...,
        **variables: Any,
    ) -> list[int]: ...

    @overload
    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = ...,
        tokenize: Literal[False],
        tools: Sequence[Mapping[str, Any]] | None = ...,
        **variables: Any,
    ) -> str: ...

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int] | str:
        """A conversation as token ids, or as text with ``tokenize=False``.

        The template writes its special tokens itself, so encoding adds none. Raises
        UnsupportedError for a model without a template, FormatError for a fault in it.
        """
        if self.chat_template is None:
            raise UnsupportedError(
                "this model has no chat template",
                code="chat_template",
                hint="pass the prompt as plain text",
            )
        text = self.chat_template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def _own_eos_ids(self, added_ids: frozenset[int]) -> frozenset[int]:
        found = set()
        if self.eos_token is not None and (eos := self.token_id(self.eos_token)) is not None:
            found.add(eos)
        if self.chat_template is not None and (end := self.chat_template.end_of_turn()):
            # An end of turn is one added token right after the answer; ordinary text there, such
            # as a line break, must not end generation.
            first = self.encode(end, add_special_tokens=False)[:1]  # none: a normalizer's work
            found.update(id for id in first if id in added_ids)
        return frozenset(found)


def _read_backend(file: Path) -> Backend:
    with _faults_of_library(str(file)):
        return Backend.from_file(str(file))


@contextmanager
def _faults_of_library(file: str) -> Iterator[None]:
    """What the library raises, bare Exceptions and its panics, as a FormatError about ``file``."""
    try:
        yield
    except BaseException as error:
        # A panic is no Exception; everything else beside them is an interruption.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{file}: {shown(_first_line(error), 400)}", code="tokenizer") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _special_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Named special tokens; tokenizer_config.json counts before special_tokens_map.json."""
    merged = {**read_json_object(directory / "special_tokens_map.json"), **config}
    found = {}
    for name in _NAMED_TOKENS:
        value = merged.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _add_missing_tokens(
    backend: Backend, file: Path, config: Mapping[str, Any], special: Mapping[str, str]
) -> None:
    """Adds the tokens that only tokenizer_config.json knows, in the order of their ids there."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing: list[AddedToken] = []
    declared = config.get("added_tokens_decoder") or {}
    if not isinstance(declared, dict):
        raise FormatError(f"{file}: added_tokens_decoder: expected an object", code="tokenizer")
    for id_text, entry in sorted(declared.items(), key=_id_order):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise FormatError(
                f"{file}: added_tokens_decoder: token {shown(id_text)} has no content",
                code="tokenizer",
            )
        if entry["content"] not in known:
            flags = {
                name: bool(entry[name])
                for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
                if name in entry
            }
            missing.append(AddedToken(entry["content"], **flags))
    known.update(token.content for token in missing)
    extra = [
        token.get("content") if isinstance(token, dict) else token
        for key in ("additional_special_tokens", "extra_special_tokens")
        for token in _as_list(config.get(key))
    ]
    for text in [*special.values(), *extra]:
        if isinstance(text, str) and text not in known:
            known.add(text)
            missing.append(AddedToken(text, special=True))
    if missing:
        backend.add_tokens(missing)


def _as_list(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _id_order(item: tuple[str, object]) -> int:
    return int(item[0]) if item[0].isdecimal() and len(item[0]) < _ID_DIGITS else -1


def _follow_llama_class(backend: Backend, config: Mapping[str, Any]) -> None:
    """transformers builds tokenizers of class LlamaTokenizer itself and takes from tokenizer.json
    only vocabulary, merges and post-processor. What differs for sentencepiece vocabularies is where
    the leading space goes: before the text only, not after each added token as well."""
    declared = str(config.get("tokenizer_class", ""))
    if declared.removesuffix("Fast") != "LlamaTokenizer" or "Prepend" not in repr(
        backend.normalizer
    ):
        return
    prefix = config.get("add_prefix_space")
    scheme: Literal["always", "never", "first"] = "always" if config.get("legacy") else "first"
    if prefix is False:
        scheme = "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", scheme, split=False)


def _follow_bos_flags(
    backend: Backend, file: Path, config: Mapping[str, Any], special: Mapping[str, str]
) -> None:
    """Without add_bos_token and add_eos_token the file's post-processor decides; with either, they
    replace it."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return
    bos = special.get("bos_token") if config.get("add_bos_token") else None
    eos = special.get("eos_token") if config.get("add_eos_token") else None
    parts = [*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])]
    tokens = [(text, backend.token_to_id(text)) for text in (bos, eos) if text]
    with _faults_of_library(str(file)):
        backend.post_processor = processors.TemplateProcessing(
            single=parts, pair=[*parts, "$B:1"], special_tokens=tokens
        )


def _configured_eos_ids(directory: Path) -> set[int]:
    config = read_json_object(directory / "config.json")
    text_config = config.get("text_config")
    places = [config, read_json_object(directory / "generation_config.json")]
    if isinstance(text_config, dict):
        places.append(text_config)
    found: set[int] = set()
    for place in places:
        value = place.get("eos_token_id")
        for id in value if isinstance(value, list) else [value]:
            if isinstance(id, int) and not isinstance(id, bool):
                found.add(id)
    return found
