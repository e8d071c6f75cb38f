"""The strict JSON reader against the standard library: same values, never more lenient."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jang_tools import _core
from jang_tools.errors import FormatError


def test_json_agrees_with_the_standard_library() -> None:
    values: list[Any] = [
        {},
        [],
        {"b": [1, -2, 0.1, 1e-05, True, None, "é\n"], "a": {"x": {}}},
        2**63,
        1.5,
        "s",
    ]
    for value in values:
        text = json.dumps(value)
        assert json.loads(_core.normalize_json(text.encode())) == value
    assert _core.normalize_json(b'{"b":1,"a":[Infinity]}', non_finite=True) == (
        '{\n  "a": [\n    Infinity\n  ],\n  "b": 1\n}\n'
    )


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**64 - 1),
            st.text(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_json_round_trips(value: Any) -> None:
    once = _core.normalize_json(json.dumps(value, ensure_ascii=False).encode())
    assert json.loads(once) == value
    assert _core.normalize_json(once.encode()) == once


@given(st.text(alphabet='{}[]:,"01.-e+\\ntrufalsN \t', max_size=12))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_json_refuses_what_the_standard_library_refuses(text: str) -> None:
    try:
        ours = json.loads(_core.normalize_json(text.encode()))
    except FormatError as error:
        assert error.code == "config_syntax"
        return
    assert json.loads(text) == ours
