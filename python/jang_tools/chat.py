"""Chat templates: the Jinja programs that models bring along, run in Jinja's sandbox.

A template is untrusted text. It sees the messages, the special tokens and the few functions that
transformers documents for templates; a fault in it is one line that names its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from jang_tools.errors import FormatError
from jang_tools.foreign.faults import shown
from jang_tools.json_file import read_json_object
from jang_tools.template_sandbox import SOURCE_CHARACTERS, TemplateSandbox, budget_of

Message = Mapping[str, Any]

_LONGEST_REASON = 400  # characters of a template's own message
_LONGEST_DATE_FORM = 200


class ChatTemplate:
    """The template of one model. ``file`` is where it comes from, for messages."""

    def __init__(
        self, sources: Mapping[str, str], *, file: str, special_tokens: Mapping[str, str]
    ) -> None:
        """``sources``: template texts by name: "default", and "tool_use" for calls with tools."""
        self.file = file
        self._sources = dict(sources)
        self._special_tokens = dict(special_tokens)
        self._environment = _environment()

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation as the model was trained to read it.

        ``messages``: mappings with ``role`` and ``content``. Other keyword arguments are variables
        of the template, such as ``enable_thinking``. Raises FormatError with the template's own
        message.
        """
        values: dict[str, Any] = {
            **self._special_tokens,
            "messages": [dict(message) for message in messages],
            "tools": [dict(tool) for tool in tools] if tools is not None else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        source = self._sources["tool_use" if tools and "tool_use" in self._sources else "default"]
        if len(source) > SOURCE_CHARACTERS:
            raise self._fault(
                f"expected at most {SOURCE_CHARACTERS} characters, found {len(source)}"
            )
        try:
            with budget_of(values.values()):
                text = self._environment.from_string(source).render(values)
            text.encode()  # an escape such as \\ud800 in a template makes half a character
            return text
        except TemplateSyntaxError as error:
            raise self._fault(f"line {error.lineno}: {error.message}") from error
        except TemplateError as error:
            raise self._fault(error.message or type(error).__name__) from error
        except Exception as error:
            # Whatever an expression of the template raises (TypeError, KeyError, RecursionError,
            # ...) is the template's fault and not the program's.
            raise self._fault(f"{type(error).__name__}: {error}") from error

    def opens_thinking(self) -> bool:
        """Whether the generation prompt ends with an open ``<think>``, however it is asked for; no
        if the template fails."""
        question = [{"role": "user", "content": "?"}]
        try:
            prompts = [self.render(question)]
            prompts += [self.render(question, enable_thinking=think) for think in (True, False)]
        except FormatError:
            return False
        return all(prompt.rstrip().endswith("<think>") for prompt in prompts)

    def end_of_turn(self) -> str:
        """What the template writes after an assistant's last answer; empty if it does not tell."""
        mark = "4f6d1c"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        try:
            text = self.render(turns, add_generation_prompt=False)
        except FormatError:
            return ""
        return text.rpartition(mark)[2] if mark in text else ""

    def _fault(self, reason: str) -> FormatError:
        line = shown(" ".join(reason.split()), _LONGEST_REASON)
        return FormatError(f"{self.file}: chat template: {line}", code="chat_template")


def load_chat_template(
    directory: Path, tokenizer_config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> ChatTemplate | None:
    """The template of a model directory, or None for a base model.

    chat_template.jinja counts before tokenizer_config.json, that before chat_template.json.
    """
    sources: dict[str, str] = {}
    file = directory / "chat_template.jinja"
    if file.is_file():
        sources = {"default": _read_text(file)}
    if not sources:
        file = directory / "tokenizer_config.json"
        sources = _named_sources(tokenizer_config.get("chat_template"), file)
    if not sources:
        file = directory / "chat_template.json"
        sources = _named_sources(read_json_object(file).get("chat_template"), file)
    if not sources:
        return None
    return ChatTemplate(sources, file=str(file), special_tokens=special_tokens)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: not valid UTF-8: {error}", code="chat_template") from error


def _named_sources(value: object, file: Path) -> dict[str, str]:
    """A template text, or a list of {"name", "template"}; the first is the default if none is."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    named: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        name = entry.get("name") if isinstance(entry, dict) else None
        text = entry.get("template") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(text, str):
            raise FormatError(
                f"{file}: chat_template: expected text or a list of name and template",
                code="chat_template",
            )
        named[name] = text
    if named and "default" not in named:
        named["default"] = next(iter(named.values()))
    return named


class _GenerationTag(Extension):
    """`{% generation %}` marks assistant text for training; in a prompt it is only a scope."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it without ClassVar

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > _LONGEST_DATE_FORM:
        raise TemplateError(f"strftime_now: a form of {len(form)} characters")
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As JSON, without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> TemplateSandbox:
    environment = TemplateSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.add_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment
