"""Jinja's immutable sandbox with limits of time and size, for templates that strangers wrote.

Jinja bounds neither: a loop in a loop runs for hours, a text that is added to itself takes all
memory. Here every operation that makes something is measured. A value may be as large as
`BASE_CHARACTERS` and some times the input, all that is made some times that, and the processor's
time is limited; each single operation is short, because its operands are bounded. What a value
weighs is the characters of its text, shared parts counted each time, for that is what writing it
out costs. Values that templates make cannot be changed, so a list is weighed once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from functools import update_wrapper
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

SOURCE_CHARACTERS = 250_000  # of a template; compiling it is not interrupted
BASE_CHARACTERS = 2_000_000  # of one value, when the input is small
INPUT_FACTOR = 16  # and so many times the input on top
WORK_FACTOR = 20  # all values together
SECONDS = 5.0  # of the processor

_STEP = 64  # what a turn of a loop or a call costs, whatever it makes
_OTHER = 64  # characters of things whose text is short: numbers, macros, iterators
_LARGEST_POWER = 1000
_LARGEST_BITS = 65_536  # of a whole number
_LARGEST_INDENT = 64
_SLOW_TEXT = 100_000  # characters, for what takes the square of its length

# For web pages, which templates of chats do not make; costly, and one of them random.
_ABSENT_FILTERS = ("urlize", "xmlattr", "striptags", "pprint")
# Attributes whose results bear no relation to the size of what they are given.
_UNSAFE_ATTRIBUTES = frozenset(
    {"translate", "maketrans", "format_map", "to_bytes", "from_bytes", "fromhex", "striptags"}
)
_CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)
_CODECS = ("utf-8", "utf8", "ascii", "latin-1", "utf-16", "utf-32")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")
_DIGITS = re.compile(r"\d+")

_current: ContextVar[Budget | None] = ContextVar("jang_template_budget", default=None)


class Budget:
    """What one rendering may still make, and until when it may run."""

    def __init__(self, inputs: Iterable[Any], seconds: float) -> None:
        self._known: dict[int, tuple[Any, int]] = {}
        self.largest = BASE_CHARACTERS + INPUT_FACTOR * sum(self.weight(one) for one in inputs)
        self._left = WORK_FACTOR * self.largest
        self._end = time.thread_time() + seconds
        self._seconds = seconds

    def weight(self, value: Any) -> int:
        """Characters that the text of ``value`` has at most."""
        if isinstance(value, (str, bytes)):
            return len(value) + 1
        if isinstance(value, int):
            return value.bit_length() // 3 + 1
        if not isinstance(value, _CONTAINERS):
            return _OTHER
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        total = 2 + sum(self.weight(item) + 2 for item in value)
        if isinstance(value, Mapping):
            total += sum(self.weight(item) + 2 for item in value.values())
        self._known[id(value)] = (value, total)  # kept alive: its id must not be another's
        return total

    def spend(self, characters: int = 0) -> None:
        """Takes something of that size from the budget before it is made."""
        if characters > self.largest:
            raise SecurityError(f"out of bounds: a value of {characters} characters")
        self._left -= characters + _STEP
        if self._left < 0:
            raise SecurityError("out of bounds: the values that it makes are too large together")
        if time.thread_time() > self._end:
            raise SecurityError(f"out of bounds: it runs for more than {self._seconds:g} seconds")

    def made(self, value: Any) -> Any:
        """``value``, paid for; nothing but a step if it was there before."""
        known = isinstance(value, _CONTAINERS) and id(value) in self._known
        self.spend(0 if known else self.weight(value))
        return value


@contextmanager
def budget_of(inputs: Iterable[Any]) -> Iterator[Budget]:
    """The limits of what runs in this block: a template's compilation and rendering."""
    budget = Budget(inputs, SECONDS)
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)


def _budget() -> Budget:
    budget = _current.get()
    if budget is None:
        raise SecurityError("a template runs outside of its limits")
    return budget


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates; renders only within `budget_of`."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, **options: Any) -> None:
        # Constants are not folded while a template is compiled: everything runs under one rule.
        super().__init__(optimized=False, finalize=_finalized, **options)
        for name in _ABSENT_FILTERS:
            del self.filters[name]
        del self.globals["lipsum"]
        self.globals["namespace"] = _OpaqueNamespace
        for name in list(self.filters):
            self.add_filter(name, self.filters[name])
        self.tests = {name: _counted(test) for name, test in self.tests.items()}  # type: ignore[arg-type]

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Makes a function a filter whose results are measured."""
        self.filters[name] = _measured(function, _FILTER_RULES.get(name))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _UNSAFE_ATTRIBUTES and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.spend()
        owner = getattr(__obj, "__self__", None)
        if owner is None and getattr(__obj, "__name__", "") == "format":
            # The sandbox wraps a text's method, and keeps where it was from.
            owner = getattr(getattr(__obj, "__wrapped__", None), "__self__", None)
        if isinstance(owner, (str, bytes)):
            rule = _METHOD_RULES.get(__obj.__name__)
            if rule is not None:
                args = rule(budget, owner, *args, **kwargs)[1:]
        return budget.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget()
        if operator == "**":
            if abs(left) > _LARGEST_POWER or abs(right) > _LARGEST_POWER:
                raise SecurityError("power out of bounds")
        elif isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > _LARGEST_BITS:
                raise SecurityError("whole number out of bounds")
        elif operator == "+":
            budget.spend(budget.weight(left) + budget.weight(right))
        elif operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(count, int):
                    budget.spend(budget.weight(sequence) * max(count, 0))
        elif operator == "%" and isinstance(left, (str, bytes)):
            _percent(budget, left, right)
        return budget.made(super().call_binop(context, operator, left, right))

    # What the generated code calls beside Jinja's own hooks.

    def turn(self) -> None:
        """One turn of a loop; the call itself has paid for it."""

    def bounded(self, value: Any) -> Any:
        """A list, tuple or dictionary that the template spells out."""
        return _budget().made(value)

    def joined(self, *values: Any) -> str:
        """``a ~ b``."""
        budget = _budget()
        budget.spend(sum(budget.weight(value) for value in values))
        return "".join(map(str, values))

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """``value[start:stop:step]``; no part is larger than the whole."""
        budget = _budget()
        budget.spend(budget.weight(value))
        return value[slice(start, stop, step)]

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The pieces of a template, a macro or a block, counted before they are joined."""
        budget, pieces, total = _budget(), [], 0
        for piece in parts:
            total += len(piece)
            budget.spend(len(piece))
            if total > budget.largest:
                raise SecurityError(f"out of bounds: more than {budget.largest} characters")
            pieces.append(piece)
        return "".join(pieces)


class _Generator(CodeGenerator):
    """Leads to the sandbox what Jinja's own code does without asking it."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.body.insert(0, nodes.ExprStmt(_environment_call("turn", [], node), lineno=node.lineno))
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.visit(_environment_call("joined", node.nodes, node), frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        part = node.arg
        ends = [end or nodes.Const(None) for end in (part.start, part.stop, part.step)]
        self.visit(_environment_call("sliced", [node.node, *ends], node), frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._bounded(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._bounded(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._bounded(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _bounded(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.bounded(")
        visit(node, frame)
        self.write(")")


TemplateSandbox.code_generator_class = _Generator


def _environment_call(name: str, arguments: list[nodes.Expr], node: nodes.Node) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
    return nodes.Call(function, arguments, [], None, None, lineno=node.lineno)


class _OpaqueNamespace(Namespace):
    """A namespace may hold itself and grows later, so its text says nothing of what is in it."""

    def __repr__(self) -> str:
        return "<Namespace>"


@pass_context  # so that the compiler does not apply it to constants
def _finalized(context: Context, value: Any) -> Any:
    """What is written out, measured before it becomes text."""
    return _budget().made(value)


def _measured(function: Callable[..., Any], rule: Rule | None) -> Callable[..., Any]:
    passed = 1 if hasattr(function, "jinja_pass_arg") else 0  # the environment or context

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.spend()
        if rule is not None:
            args = (*args[:passed], *rule(budget, *args[passed:], **kwargs))
        return budget.made(function(*args, **kwargs))

    return update_wrapper(wrapper, function)


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _budget().spend()
        return function(*args, **kwargs)

    return update_wrapper(wrapper, function)


# --- What is larger than its operands: paid for before it is made. A rule returns the positional
# arguments, with iterators read once.

Rule = Callable[..., tuple[Any, ...]]


def _percent(budget: Budget, form: str | bytes, values: Any) -> None:
    text = form if isinstance(form, str) else form.decode("latin-1")
    if "*" in text:
        raise SecurityError("a width that is an argument is out of bounds")
    budget.spend(_fields(budget, text, text.count("%"), values))


def _fields(budget: Budget, form: str, fields: int, *values: Any) -> int:
    """Characters that a format makes: each field may be the largest value or a width."""
    parts: list[Any] = []
    for value in values:
        parts += value.values() if isinstance(value, Mapping) else [value]
        parts += value if isinstance(value, tuple) else ()
    largest = max((budget.weight(part) for part in parts), default=0)
    widths = sum(min(int(digits[:9]), 10**9) for digits in _DIGITS.findall(form))
    return len(form) + fields * (largest + 8) + widths


def _format_filter(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    text = str(budget.made(value))
    _percent(budget, text, kwargs or args)
    return text, *args


def _format_method(budget: Budget, form: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    if _NESTED_FIELD.search(form.replace("{{", "").replace("}}", "")):
        raise SecurityError("a width that is an argument is out of bounds")
    # An attribute of an argument is a part of it.
    budget.spend(_fields(budget, form, form.count("{"), args, kwargs))
    return form, *args


def _replace(
    budget: Budget, value: Any, old: Any, new: Any, *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    found = value if isinstance(value, bytes) else str(budget.made(value))
    times = len(found) + 1 if not old else found.count(old)
    budget.spend(len(found) + times * len(new))
    return found if isinstance(value, bytes) else value, old, new, *args


def _join(
    budget: Budget, value: Any, separator: Any = "", *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    parts = list(value)
    each = len(separator) if isinstance(separator, (str, bytes)) else budget.weight(separator)
    budget.spend(budget.weight(parts) + each * len(parts))
    return parts, separator, *args


def _join_method(budget: Budget, separator: Any, value: Any) -> tuple[Any, ...]:
    parts, _ = _join(budget, value, separator)
    return separator, parts


def _width(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """A number among the arguments is a width or a count."""
    for number in (*args, *kwargs.values()):
        if isinstance(number, int):
            budget.spend(abs(number))
    return value, *args


def _indent(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    width = args[0] if args else kwargs.get("width", 4)
    text = str(budget.made(value))
    each = len(width) if isinstance(width, str) else abs(int(width))
    budget.spend(len(text) + (len(text.splitlines()) + 1) * each)
    return value, *args


def _expand_tabs(budget: Budget, value: Any, tabsize: int = 8) -> tuple[Any, ...]:
    budget.spend(len(value) + value.count("\t" if isinstance(value, str) else b"\t") * abs(tabsize))
    return value, tabsize


def _json_indent(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    numbers = [one for one in (*args, *kwargs.values()) if isinstance(one, int)]
    texts = [one for one in (*args, *kwargs.values()) if isinstance(one, (str, tuple, list))]
    if any(number > _LARGEST_INDENT for number in numbers) or budget.weight(texts) > 256:
        raise SecurityError("indent out of bounds")
    if numbers or texts:
        # Each value stands on a line of its own, indented by its depth.
        count, depth = _extent(value)
        budget.spend(count * (1 + depth) * max([1, budget.weight(texts), *numbers]))
    return value, *args


def _extent(value: Any) -> tuple[int, int]:
    """Values in ``value``, each time that they occur, and how deeply they are nested."""
    if not isinstance(value, (list, tuple, dict)):
        return 1, 0
    inside = [_extent(one) for one in (value.values() if isinstance(value, dict) else value)]
    return 1 + sum(count for count, _ in inside), 1 + max((depth for _, depth in inside), default=0)


def _short_text(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    wrap = [one for one in (*args, *kwargs.values()) if isinstance(one, str)]
    if len(str(budget.made(value))) * (1 + budget.weight(wrap)) > 16 * _SLOW_TEXT:
        raise SecurityError("a text to be wrapped is out of bounds")
    return value, *args


def _codec(
    budget: Budget, value: Any, encoding: Any = "utf-8", *args: Any, **kwargs: Any
) -> tuple[Any, ...]:
    """Some codecs, that of domain names for one, take the square of their length."""
    if str(kwargs.get("encoding", encoding)).lower() not in _CODECS:
        raise SecurityError("a codec out of bounds")
    return value, *([encoding] if "encoding" not in kwargs else []), *args


def _numbers(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Sums of lists take the square of their length."""
    if any(isinstance(one, (list, tuple)) for one in (*args, *kwargs.values())):
        raise SecurityError("a sum of lists is out of bounds")
    return value, *args


def _precision(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    if any(isinstance(one, int) and abs(one) > 100 for one in (*args, *kwargs.values())):
        raise SecurityError("precision out of bounds")
    return value, *args


_FILTER_RULES: dict[str, Rule] = {
    "batch": _width,
    "center": _width,
    "format": _format_filter,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _precision,
    "slice": _width,
    "sum": _numbers,
    "tojson": _json_indent,
    "truncate": _width,
    "wordwrap": _short_text,
}
_METHOD_RULES: dict[str, Rule] = {
    "center": _width,
    "decode": _codec,
    "encode": _codec,
    "expandtabs": _expand_tabs,
    "format": _format_method,
    "join": _join_method,
    "ljust": _width,
    "replace": _replace,
    "rjust": _width,
    "zfill": _width,
}
