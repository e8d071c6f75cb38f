"""Any text as a chat template: what comes out is text within the limits, or one line of an error.

The document is {"template": text, "variables": object}; the limits are small here, so that they are
met within the time that the fuzzer has.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import atheris

with atheris.instrument_imports(include=["jang_tools"]):
    from jang_tools import template_sandbox
    from jang_tools.chat import ChatTemplate
    from jang_tools.errors import FormatError

from harness import check_error, document, run

template_sandbox.BASE_CHARACTERS = 20_000
template_sandbox.SECONDS = 0.3
SLACK_SECONDS = 3.0  # one operation, the compiler, the instrumentation

CALL = {"function": {"name": "f", "arguments": {"x": 1}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "user", "content": "Is 1 < 2 & é?"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
WORDS = r"""
{% for m in messages %}
{% endfor %}
{% if m.content is string %}
{% endif %}
{{ m.content }}
{% set ns = namespace(x='ab') %}
{% set ns.x = ns.x + ns.x %}
{{ ns.x ~ ns.x }}
{% macro f(x) %}{{ x }}{% endmacro %}
{{ f(f('a')) }}
range(999)
[ns.x, ns.x]
{'a': ns.x}
 | join('-')
 | replace('a', 'bb')
 | tojson(indent=2)
 | map('upper') | list
 | batch(3)
 | indent(9)
 | center(99)
 | sum
 | sort
 | selectattr('role', 'equalto', 'user') | list
.split('a')
.replace('', 'xy')
.join(['a', 'b'])
.format('a', b=1)
'%s %d' % ('a', 3)
 * 99
[1:]
[::-1]
 ** 9
.__class__
['__init__']
 | attr('__globals__')
loop.index
loop.cycle(1, 2)
{% generation %}
{% endgeneration %}
{% break %}
raise_exception('x')
strftime_now('%d')
{% call f() %}a{% endcall %}
{% filter upper %}a{% endfilter %}
{% block b %}{{ self.b() }}{% endblock %}
"""


def one_input(data: bytes) -> None:
    value = document(data)
    source: Any = data.decode("utf-8", "replace")
    variables: dict[str, Any] = {}
    if isinstance(value, dict) and isinstance(value.get("template"), str):
        source = value["template"]
        if isinstance(value.get("variables"), dict):
            variables = {f"v_{name}": item for name, item in value["variables"].items()}
    messages = copy.deepcopy(MESSAGES)
    template = ChatTemplate(
        {"default": source}, file="t.jinja", special_tokens={"bos_token": "<s>"}
    )
    began = time.thread_time()
    try:
        text = template.render(messages, tools=TOOLS, **variables)
        assert isinstance(text, str)
        inputs = len(repr([messages, TOOLS, variables])) * 2
        most = template_sandbox.BASE_CHARACTERS + template_sandbox.INPUT_FACTOR * inputs
        assert len(text) <= most, f"{len(text)} characters"
    except FormatError as error:
        assert str(error).startswith("t.jinja: chat template: ")
        check_error(error)
    took = time.thread_time() - began
    assert took <= template_sandbox.SECONDS + SLACK_SECONDS, f"{took:.1f} seconds"
    assert messages == MESSAGES, "the template changed the caller's messages"


if __name__ == "__main__":
    run(one_input, WORDS.strip("\n").split("\n"))
