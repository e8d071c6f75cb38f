"""Chat templates: the constructs that models use, the sandbox, faults in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jang_tools.chat import ChatTemplate, load_chat_template
from jang_tools.errors import FormatError

DATA = Path(__file__).parents[1] / "data" / "chat_templates"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "  Is 1 < 2 & é?  "}
ANSWER = {"role": "assistant", "content": "<think>\nyes\n</think>\n\nYes."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "add", "arguments": {"x": 1, "note": "<é>"}}}],
}
RESULT = {"role": "tool", "content": "3"}
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"x": {}}}},
}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [USER, ANSWER, USER],
    [SYSTEM, USER, ANSWER, USER],
    [USER, ANSWER],
    [ANSWER],
    [PARTS],
    [USER, CALL, RESULT, ANSWER, USER],
]


def shipped(name: str) -> ChatTemplate:
    file = DATA / f"{name}.jinja"
    return ChatTemplate(
        {"default": file.read_text("utf-8")}, file=str(file), special_tokens=SPECIAL
    )


def written(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, file="t.jinja", special_tokens=SPECIAL)


def outcome(render: Any) -> str | None:
    """The text, or None for a refusal."""
    try:
        return str(render())
    except Exception:
        return None


@pytest.mark.parametrize("name", sorted(file.stem for file in DATA.glob("*.jinja")))
def test_every_conversation_renders_as_in_transformers(name: str) -> None:
    library = pytest.importorskip("transformers.utils.chat_template_utils")
    source = (DATA / f"{name}.jinja").read_text("utf-8")
    template = shipped(name)
    rendered = 0
    for messages in CONVERSATIONS:
        for tools in (None, [TOOL]):
            for prompt in (True, False):
                for variables in ({}, {"enable_thinking": False}, {"date_string": "1999"}):

                    def theirs(
                        messages: Sequence[Mapping[str, Any]] = messages,
                        tools: Sequence[Mapping[str, Any]] | None = tools,
                        prompt: bool = prompt,
                        variables: Mapping[str, Any] = variables,
                    ) -> str:
                        texts, _ = library.render_jinja_template(
                            [messages],
                            tools=tools,
                            chat_template=source,
                            add_generation_prompt=prompt,
                            **SPECIAL,
                            **variables,
                        )
                        return str(texts[0])

                    def ours(
                        messages: Sequence[Mapping[str, Any]] = messages,
                        tools: Sequence[Mapping[str, Any]] | None = tools,
                        prompt: bool = prompt,
                        variables: Mapping[str, Any] = variables,
                    ) -> str:
                        return template.render(
                            messages, tools=tools, add_generation_prompt=prompt, **variables
                        )

                    text = outcome(ours)
                    assert text == outcome(theirs)
                    rendered += text is not None
    assert rendered > 20  # templates do not just refuse everything


def test_turns() -> None:
    assert shipped("turns").render([USER, {"role": "assistant", "content": "Yes."}, USER]) == (
        "<s><turn>user\nIs 1 < 2 & é?<end>\n<turn>model\nYes.<end>\n"
        "<turn>user\nIs 1 < 2 & é?<end>\n<turn>model\n"
    )
    assert shipped("turns").render([USER], add_generation_prompt=False) == (
        "<s><turn>user\nIs 1 < 2 & é?<end>\n"
    )


def test_thinking_switch_and_generation_tag() -> None:
    template = shipped("thinking")
    assert template.render([USER, ANSWER, USER], enable_thinking=False) == (
        "<|user|>  Is 1 < 2 & é?  <|end|>\n<|assistant|>Yes.<|end|>\n"
        "<|user|>  Is 1 < 2 & é?  <|end|>\n<|assistant|>"
    )
    assert template.render([PARTS]) == "<|user|>a<|end|>\n<|assistant|><think>\n"


def test_tools_are_json_without_html_escapes() -> None:
    text = shipped("tools").render([USER, CALL, RESULT], tools=[TOOL])
    assert json.dumps(TOOL) in text
    assert '"type": "object",\n  "properties"' in text
    assert '1. add(x=1, note="<é>")' in text
    assert "<tool>" not in text  # skipped by {% continue %}
    assert "Tools:" not in shipped("tools").render([USER])


def test_an_open_think_is_reported_only_if_it_is_always_there() -> None:
    assert shipped("reasoner").opens_thinking()
    assert not shipped("thinking").opens_thinking()
    assert not shipped("turns").opens_thinking()
    assert not written("{{ nothing.at.all }}").opens_thinking()


def test_end_of_turn_is_what_follows_the_answer() -> None:
    assert shipped("turns").end_of_turn() == "<end>\n"
    assert shipped("thinking").end_of_turn() == "<|end|>\n"
    assert written("{{ messages[0].content }}").end_of_turn() == ""
    assert written("{{ raise_exception('no') }}").end_of_turn() == ""


def test_messages_of_the_caller_stay_as_they_are() -> None:
    message = {"role": "user", "content": "x"}
    with pytest.raises(FormatError):
        written("{% set _ = messages[0].update(content='y') %}").render([message])
    with pytest.raises(FormatError):
        written("{% set _ = messages.append(1) %}").render([message])
    assert message == {"role": "user", "content": "x"}


# --- where templates come from ---------------------------------------------------------------


def found(directory: Path, config: Mapping[str, Any]) -> str | None:
    template = load_chat_template(directory, config, SPECIAL)
    return None if template is None else template.render([USER])


def test_the_file_counts_before_the_config_and_that_before_the_json(tmp_path: Path) -> None:
    config = {"chat_template": "config"}
    assert found(tmp_path, {}) is None
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json {{ bos_token }}"}')
    assert found(tmp_path, {}) == "json <s>"
    assert found(tmp_path, config) == "config"
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert found(tmp_path, config) == "file"


def test_a_list_of_templates_has_a_default_and_one_for_tools(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    template = load_chat_template(tmp_path, {"chat_template": named}, SPECIAL)
    assert template is not None
    assert template.render([USER]) == "D"
    assert template.render([USER], tools=[]) == "D"
    assert template.render([USER], tools=[TOOL]) == "T"
    assert found(tmp_path, {"chat_template": named[:1]}) == "T"
    assert found(tmp_path, {"chat_template": []}) is None


# --- faults and hostility --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('not\nlike this') }}", "not like this"),
        ("a\n{% if %}", "line 2: "),
        ("{% for m in messages %}", "line 1: "),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ '\\ud800' }}", "surrogates"),
        ("{{ messages[0].content / 2 }}", "TypeError"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception.__globals__.os }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id') }}", "unsafe"),
        ("{% include 'x' %}", "no loader"),
        ("{{ 'a' * 999999999999 }}", "out of bounds"),
        ("{{ 9999999 * [1] }}", "out of bounds"),
        ("{{ 99 ** 99999999 }}", "out of bounds"),
        ("{% for i in range(999999999) %}{% endfor %}", "Range too big"),
    ],
)
def test_faults_are_one_line_that_names_the_file(source: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        written(source).render([USER])
    text = str(caught.value)
    assert text.startswith("t.jinja: chat template: ")
    assert reason in text
    assert "\n" not in text


DOUBLED = (
    "{%% set ns = namespace(x=%s) %%}{%% for i in range(64) %%}{%% set ns.x = %s %%}{%% endfor %%}"
)


@pytest.mark.parametrize(
    "source",
    [
        DOUBLED % ("'ab'", "ns.x + ns.x"),
        DOUBLED % ("'ab'", "ns.x ~ ns.x"),
        DOUBLED % ("3", "ns.x * ns.x"),
        DOUBLED % ("[1]", "[ns.x, ns.x]"),
        DOUBLED % ("(1,)", "(ns.x, ns.x)"),
        DOUBLED % ("1", "{'a': ns.x, 'b': ns.x}"),
        "{{ 'a'.ljust(10 ** 10) }}{{ 1 }}",
        "{{ 'a'.encode().center(10 ** 10) }}",
        "{{ 'a' | center(10 ** 10) }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (10 ** 10, 1) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10 ** 10) }}",
        "{{ ('{0}' * 9999).format('x' * 9999) }}",
        "{{ ('%s' * 9999) % (('x' * 9999,) * 9999) }}",
        "{{ ('a' * 9999).replace('a', 'b' * 9999) }}",
        "{{ ('a' * 9999) | replace('', 'b' * 9999) }}",
        "{{ ('b' * 9999).join('a' * 9999) }}",
        "{{ ('a' * 9999) | join('b' * 9999) }}",
        "{{ ('\\n' * 9999) | indent(9999) }}",
        "{{ ('\\t' * 9999).expandtabs(9999) }}",
        "{{ [1] | tojson(indent=10 ** 9) }}",
        "{{ range(99) | slice(10 ** 9) | list }}",
        "{{ range(99999) | map('center', 9999) | list | length }}",
        "{{ ([[1]] * 9999) | sum(start=[]) }}",
        "{{ 15 | round(-10 ** 9) }}",
        "{{ ('é' * 900000).encode('punycode') }}",
        "{{ 'a'.encode().decode(encoding='idna') }}",
        "{{ ('-a' * 900000) | wordwrap(3) }}",
        "{% set s = 'x' * 1900000 %}{{ [" + "s[1:], " * 50 + "] | length }}",
        "{% set s = 'x' * 1900000 %}{% for i in range(9) %}{{ s }}{% endfor %}",
    ],
)
def test_what_would_take_all_time_or_memory_is_out_of_bounds(source: str) -> None:
    with pytest.raises(FormatError, match="out of bounds"):
        written(source).render([USER])


@pytest.mark.parametrize(
    "source",
    [
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_steps_are_counted(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jang_tools.template_sandbox.BASE_CHARACTERS", 20_000)
    with pytest.raises(FormatError, match="too large together"):
        written(source).render([USER])


@pytest.mark.parametrize(
    "source",
    [
        "{{ (1).to_bytes(9, 'big') }}",
        "{{ 'a'.translate({97: 'b'}) }}",
        "{{ ('<!---->' | safe).striptags() }}",
        "{{ 'a' | striptags }}",
        "{{ lipsum(9) }}",
    ],
)
def test_what_no_template_of_chats_needs_is_absent(source: str) -> None:
    with pytest.raises(FormatError, match=r"unsafe|No filter|undefined"):
        written(source).render([USER])


def test_the_processor_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 2))
    monkeypatch.setattr("jang_tools.template_sandbox.time.thread_time", lambda: float(next(now)))
    with pytest.raises(FormatError, match="more than 5 seconds"):
        written("{% for i in range(9) %}{% endfor %}").render([USER])


def test_long_templates_are_refused() -> None:
    with pytest.raises(FormatError, match="at most 250000 characters, found 250001"):
        written("x" * 250_001).render([USER])


def test_the_limits_grow_with_the_conversation() -> None:
    long = "x" * 3_000_000
    template = written("{{ messages[0].content ~ messages[0].content | upper }}")
    assert template.render([{"role": "user", "content": long}]) == long + long.upper()


def test_messages_of_a_template_are_bounded_and_printable() -> None:
    with pytest.raises(FormatError) as caught:
        written("{{ raise_exception('\\x1b[31m' * 9999) }}").render([USER])
    assert len(str(caught.value)) < 3000
    assert str(caught.value).isprintable()


def test_bounded_products_and_powers_still_work() -> None:
    assert (
        written("{{ 'é'.encode() | length }}{{ 'a'.encode('ascii').decode() }}").render([]) == "2a"
    )
    assert written("{{ '-' * 3 }}{{ 2 ** 10 }}{{ 3 * 4 }}{{ [0] * 2 }}").render([]) == (
        "---102412[0, 0]"
    )


@pytest.mark.parametrize(
    "value", [7, {"name": "default"}, [{"name": 1, "template": "x"}], ["text"]]
)
def test_a_template_of_another_type_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: chat_template: expected"):
        load_chat_template(tmp_path, {"chat_template": value}, SPECIAL)


def test_a_template_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"caf\xe9")
    with pytest.raises(FormatError, match=r"chat_template\.jinja: not valid UTF-8"):
        load_chat_template(tmp_path, {}, SPECIAL)
