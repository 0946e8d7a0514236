# ruff: noqa: N802  the visitor's names are Jinja's
"""How the templates of prompts differ from Jinja's own.

- What is written is text: a null, a method, a generator or another object in its place is an error, on every way into
  the text: an output, ``~``, a filter, ``%``, ``format``.
- A name after a dot is an item; an attribute only where there is no such item, and a method only where it is called.
- A name that nothing has is a typed error.
- Work is counted, and bounded for each row.

Importing Jinja2 takes 30 ms, so nothing imports this module before there is a template.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from math import isfinite
from typing import Any, NamedTuple, cast

import msgspec
from jinja2 import StrictUndefined, Template, Undefined, UndefinedError, nodes, pass_context
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.utils import missing, object_type_repr
from jinja2.visitor import NodeTransformer

from mistill.llms.content import is_base64_of_media
from mistill.prompts.prompt_layout import Piece
from mistill.prompts.template_work import (
    WHOLE_FILTERS,
    work_of_call,
    work_of_filter,
    work_of_indent,
    work_of_operator,
    work_of_percent,
)
from mistill.prompts.written_numbers import encode_written, holds_written

MAX_WORK = 10_000_000
"""What the template of one row may take: characters that it writes, and steps of its loops at `_STEP_WORK` each."""

SELF = "_column_self"
"""By what name a template finds a column called ``self``, a word that Jinja keeps for itself."""

_LONG_CHARS = 256
"""A text that long may be the base64 of an image, which nobody wants to read."""

_STEP_WORK = 10
_STEP = "a step"  # a filter that no template can name

# Jinja's other globals (dict, lipsum …) would stand in, unseen, for a missing column of that name.
_KEPT_GLOBALS = ("namespace", "range")

_VALUE_FILTERS = frozenset((
    "abs", "attr", "batch", "count", "d", "default", "dictsort", "filesizeformat", "first", "float", "groupby", "int",
    "items", "last", "length", "list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "round",
    "select", "selectattr", "slice", "sort", "sum", "tojson", "unique", "xmlattr",
))  # fmt: skip
"""Filters that take a value for what it is. All others make text of it."""


class MissingColumn(UndefinedError):
    """The template needs ``name``, and nothing has it."""

    def __init__(self, name: str, message: str | None) -> None:
        super().__init__(message)
        self.name = name


class NullInText(Exception):
    """A null would be written as ``None``."""


class NoText(Exception):
    """``value`` would be written, and it is nothing that can be."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class NotFinite(Exception):
    """``value``, an infinity or NaN, would be written."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


class TooMuchWork(Exception):
    """The template goes on beyond `MAX_WORK`."""


class Compiled(NamedTuple):
    """A template that was compiled.

    Attributes:
        names: those that it does not set itself. ``kept``: those of them that are Jinja's, with what they are.
        text: what stands in it as it is.
    """

    template: Template
    names: frozenset[str]
    kept: dict[str, Any]
    text: str


def compile_template(source: str) -> Compiled:
    """``source``, compiled.

    Raises:
        TemplateError: it is none.
    """
    from jinja2 import meta

    environment = _Environment()
    tree = environment.parse(source)
    tree = cast("nodes.Template", _Rewriter(block.name for block in tree.find_all(nodes.Block)).visit(tree))
    tree.set_environment(environment)
    if any(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
        environment.finalize = _write_counted
    known: dict[str, Any] = cast("Any", environment).globals
    kept = {name: known[name] for name in _KEPT_GLOBALS}
    known.clear()
    names = frozenset(meta.find_undeclared_variables(tree))
    template = environment.from_string(tree)
    template.globals = {}  # they come with the row's values; jinja would go through them for each row
    text = "\0".join(data.data for data in tree.find_all(nodes.TemplateData))
    return Compiled(template, names, {name: value for name, value in kept.items() if name in names}, text)


def pieces_of(source: str) -> Iterator[Piece]:
    """What a template is made of. What stands in a block differs with the row, unless nothing in it is of the row."""
    from jinja2 import meta

    environment = _Environment()
    of_row = meta.find_undeclared_variables(environment.parse(source)) - {*_KEPT_GLOBALS} | {"random"}
    depth = 0
    written = ""
    tag, words = list[str](), list[str]()
    for _, what, value in environment.lex(source):
        if what == "data":
            if not depth:
                yield Piece(value, is_same=True)
            continue
        if what.endswith("_begin"):
            tag = []
            if not depth:
                written, words = "", []
        elif what not in ("whitespace", "variable_end", "block_end"):
            tag.append(value)
            words.append(value)
        written += value if not depth else ""
        is_block = what == "block_end"
        if is_block:
            depth += _opens(tag) - tag[0].startswith("end")
        if depth or not (is_block or what == "variable_end"):
            continue
        differs = not of_row.isdisjoint(words)
        if is_block and differs:
            of_row |= set(words)  # what it sets is of the row as well
        if not is_block or tag[0].startswith("end"):
            yield Piece(_literal(words) or written + "…" * is_block, is_same=not differs)


_BLOCKS = frozenset(("autoescape", "block", "call", "filter", "for", "if", "macro", "with"))


def _opens(words: Sequence[str]) -> bool:
    """Whether a tag has an end of its own: ``set`` does where it is given no value."""
    before_filters = takewhile(lambda word: word not in ("|", "("), words)
    return words[0] in _BLOCKS or (words[0] == "set" and "=" not in before_filters)


def _literal(words: Sequence[str]) -> str | None:
    """What an expression writes that is a text in quotes."""
    if len(words) != 1 or words[0][:1] not in ("'", '"'):
        return None
    return words[0][1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")


# --- what may be written ----------------------------------------------------------------------------------------------


def _writable(value: Any) -> Any:
    """``value``, if it is text or a number.

    Raises:
        NullInText, NotFinite, NoText, MissingColumn: it is not.
    """
    if isinstance(value, str):
        if len(value) >= _LONG_CHARS and is_base64_of_media(value):
            raise NoText(value)
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise NotFinite(value)
        return value
    if value is None:
        raise NullInText
    if isinstance(value, Undefined):
        return str(value)  # raises
    raise NoText(value)


@pass_context
def _write_counted(context: RowContext, value: Any) -> str:
    text = str(_writable(value))
    context.charge(len(text))
    return text


# --- the environment --------------------------------------------------------------------------------------------------


class _Undefined(StrictUndefined):
    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: Any = UndefinedError,
    ) -> None:
        if obj is missing and hint is None and name is not None:
            exc = partial(MissingColumn, name)
        super().__init__(hint, obj, name, exc)


class RowContext(Context):
    """What one rendering has.

    Attributes:
        work: done so far, set before it begins; a list, since inner contexts share it.
    """

    work: list[int]

    def charge(self, work: int) -> None:
        """Counts work, before or after it is done.

        Raises:
            TooMuchWork: it is more than one row may take.
        """
        self.work[0] += work
        if self.work[0] > MAX_WORK:
            raise TooMuchWork

    def expect(self, work: int) -> None:
        """As `charge`, of work that is counted once it is done."""
        if self.work[0] + work > MAX_WORK:
            raise TooMuchWork

    def derived(self, locals: dict[str, Any] | None = None) -> Context:  # noqa: A002  Jinja's name
        derived = cast("RowContext", super().derived(locals))
        derived.work = self.work
        return derived


class _Environment(ImmutableSandboxedEnvironment):
    context_class = RowContext
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=_Undefined,
            keep_trailing_newline=True,
            autoescape=False,  # prompts are text, not HTML
            finalize=_writable,
        )
        own: Any = self
        own.globals["range"] = _counted_range(own.globals["range"])
        filters: dict[str, Any] = own.filters
        for name in filters.keys() - _VALUE_FILTERS:
            filters[name] = _on_text(name)
        for name in (*WHOLE_FILTERS, "batch", "round", "slice"):
            filters[_itself(name)] = filters[name]
            filters[name] = _counted(name)
        filters |= {"tojson": _to_json, "join": _join, _STEP: _step}
        filters |= {"filesizeformat": _file_size, "sum": _sum, "xmlattr": _xml_attributes}

    def _generate(self, *args: Any, **kwargs: Any) -> str:
        # Jinja works constants out beforehand, and writes them as their repr into the template's code.
        return f"{super()._generate(*args, **kwargs)}\ninf, nan = float('inf'), float('nan')\n"

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (TypeError, LookupError):
            pass
        if not isinstance(argument, str):
            return self.undefined(obj=obj, name=argument)
        value = getattr(obj, argument, missing)
        if value is missing:
            return self.undefined(obj=obj, name=argument)
        if isinstance(value, Undefined):
            return value
        if not self.is_safe_attribute(obj, argument, value):
            return self.unsafe_undefined(obj, argument)
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)):
            what = f"{object_type_repr(obj)} has no item {argument!r}, but a method: {argument}()"
            return self.undefined(what, obj, argument)
        return value

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        changes = "" if attribute.startswith("_") else "a method that changes it, and "
        what = f"{object_type_repr(obj)} has no item {attribute!r}, but {changes}what templates may not use"
        return self.undefined(what, obj, attribute)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        of_map = value.__name__ == "format_map"

        @pass_context
        def checked(context: RowContext, *args: Any, **kwargs: Any) -> str:
            context.expect(work_of_call(value, args, kwargs))
            return wrapped(
                *(map(_all_in, args) if of_map else _all_writable(args)),
                **dict(zip(kwargs, _all_writable(kwargs.values()), strict=True)),
            )

        return checked

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        if isinstance(called, types.BuiltinMethodType):
            if called.__name__ == "join" and args:
                args = (list(args[0]), *args[1:])  # a generator can be counted only by using it up
            cast("RowContext", context).expect(work_of_call(called, args, kwargs))
        result = super().call(context, called, *args, **kwargs)
        if isinstance(result, (str, bytes)) and not isinstance(
            called, Macro
        ):  # what a macro writes was counted there
            cast("RowContext", context).charge(len(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        counted = cast("RowContext", context)
        if operator != "%" or not isinstance(left, str):
            counted.charge(work_of_operator(operator, left, right))
            return super().call_binop(context, operator, left, right)
        counted.expect(work_of_percent(left, right))
        text = super().call_binop(context, operator, left, _all_in(right))
        counted.charge(len(text))
        return text


def _counted_range(make: Callable[..., range]) -> Callable[..., range]:
    @pass_context
    def counted(context: RowContext, *args: Any) -> range:
        made = make(*args)
        context.charge(len(made))
        return made

    return counted


# --- filters ----------------------------------------------------------------------------------------------------------

_PLAIN = SandboxedEnvironment()
"""Has Jinja's own filters."""


def _all_writable(values: Iterable[Any]) -> list[Any]:
    return [_writable(value) for value in values]


def _all_in(value: Any) -> Any:
    """What stands right of ``%``: a value, a tuple of several, or an object of them by name."""
    if isinstance(value, tuple):
        return tuple(_all_writable(cast("tuple[Any, ...]", value)))
    if isinstance(value, dict):
        _all_writable(cast("dict[Any, Any]", value).values())
        return cast("Any", value)
    return _writable(value)


def _on_text(name: str) -> Callable[..., Any]:
    """Jinja's filter of that name, which makes text of what it is given, for what may be text."""

    @pass_context
    def apply(context: RowContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        _all_writable(kwargs.values())
        context.expect(work_of_filter(name, value, args, kwargs))
        result = _PLAIN.call_filter(name, _writable(value), _all_writable(args), kwargs, context)
        if isinstance(result, str):
            context.charge(len(result))
        return result

    return apply


def _itself(name: str) -> str:
    """By what name Jinja's own filter is kept, which no template can name."""
    return f"{name} itself"


def _counted(name: str) -> Callable[..., Any]:
    """Jinja's filter of that name, which writes no text, but takes as long as it is told, or as what it is given."""

    @pass_context
    def apply(context: RowContext, value: Any, *args: Any, **kwargs: Any) -> Any:
        context.charge(work_of_filter(name, value, args, kwargs))
        return context.environment.call_filter(_itself(name), value, args, kwargs, context)

    return apply


@pass_context
def _sum(context: RowContext, iterable: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Jinja's own filter copies all that it has for each list that it adds."""
    if attribute is not None:
        iterable = context.environment.call_filter("map", iterable, None, {"attribute": attribute}, context)
    if not isinstance(start, (list, tuple)):
        context.charge(work_of_filter("sum", iterable, (), {}))
        return sum(iterable, start)
    total = cast("Any", start)
    for one in iterable:
        context.charge(len(total))
        total = total + one
    return total


@pass_context
def _join(context: RowContext, value: Any, d: Any = "", attribute: Any = None) -> Any:
    if value is None:
        raise NullInText
    if attribute is not None:
        value = context.environment.call_filter("map", value, None, {"attribute": attribute}, context)
    items = _all_writable(value)
    context.expect(work_of_filter("join", items, [d], {}))
    text = _PLAIN.call_filter("join", items, [_writable(d)], {}, context)
    context.charge(len(text))
    return text


@pass_context
def _step(context: RowContext, work: int) -> bool:
    context.charge(work)
    return True


@pass_context
def _to_json(context: RowContext, value: object, indent: int | None = None) -> str:
    """Jinja's own filter is for HTML: it writes < as \\u003c and sorts the keys."""
    if isinstance(value, Undefined):
        return str(value)  # raises
    context.expect(work_of_indent(value, indent))
    if not holds_written(value):
        try:
            return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
        except ValueError:
            _refuse_infinities(value)
            raise
    _refuse_infinities(value)
    return msgspec.json.format(encode_written(value), indent=indent or 0).decode()


def _refuse_infinities(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float):
            _writable(one)
        elif isinstance(one, dict):
            waiting += cast("dict[Any, Any]", one).values()
        elif isinstance(one, (list, tuple)):
            waiting += cast("list[Any]", one)


@pass_context
def _xml_attributes(context: RowContext, value: Any, autospace: bool = True) -> Any:
    if isinstance(value, dict):
        for one in cast("dict[Any, Any]", value).values():
            if isinstance(one, float):
                _writable(one)
    return _PLAIN.call_filter("xmlattr", value, [autospace], {}, context)


@pass_context
def _file_size(context: RowContext, value: Any, binary: bool = False) -> Any:
    _writable(float(value))
    return _PLAIN.call_filter("filesizeformat", value, [binary], {}, context)


# --- the tree of a template -------------------------------------------------------------------------------------------


class _Rewriter(NodeTransformer):
    """Makes of a template's tree what this module says. ``blocks``: names of the template's own blocks."""

    def __init__(self, blocks: Iterable[str]) -> None:
        self._blocks = frozenset(blocks)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        return nodes.Name(SELF, "load", lineno=node.lineno) if _is_self(node) else node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Getitem(
            node.node, nodes.Const(node.attr, lineno=node.lineno), node.ctx, lineno=node.lineno
        )

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        method = node.node if isinstance(node.node, nodes.Getattr) else None
        block = method.node if method and _is_self(method.node) and method.attr in self._blocks else None
        self.generic_visit(node)
        if method is not None:
            node.node = method  # looked up to be called: a method goes before an item
        if method is not None and block is not None:
            method.node = block
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        items = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(items, "join", [], [], None, None, lineno=node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_count(node, _STEP_WORK), node.test, lineno=node.lineno)
        return _with_steps(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        return _with_steps(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        return _with_steps(node)


def _is_self(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == "self" and node.ctx == "load"


def _with_steps(node: Any) -> nodes.Node:
    """A loop or a macro that counts its steps, with the text that stands in it."""
    length = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    step = nodes.ExprStmt(_count(node, _STEP_WORK + length), lineno=node.lineno)
    node.body = [step, *node.body]
    return node


def _count(node: nodes.Node, work: int) -> nodes.Filter:
    const = nodes.Const(work, lineno=node.lineno)
    return nodes.Filter(const, _STEP, [], [], None, None, lineno=node.lineno)
