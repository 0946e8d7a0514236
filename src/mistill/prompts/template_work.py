"""How much the expressions of a template make, told before they do: a width is a few digits, and a gigabyte of text.

What depends on data alone is counted as it is written. Here is what depends on a number in the template, or on a text
that is put in many places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Any, cast

_MAX_BITS = 100_000
TOO_MUCH = 2**63
_TAB = 8
_USUAL_INDENT = 16

# A printf-style conversion: its width and its precision; https://docs.python.org/3/library/stdtypes.html#old-string-formatting
_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+))?")
_NUMBER = re.compile(r"\d+")
_STRIP = frozenset({"strip", "lstrip", "rstrip"})
_SIZED = frozenset({"center", "ljust", "rjust", "zfill", "to_bytes"})
"""Methods whose number is the length of what they make."""


def work_of_operator(operator: str, left: Any, right: Any) -> int:
    """Of ``+``, ``*`` and ``**``."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else 0
        if operator == "**":
            bits = left.bit_length() * right
        return TOO_MUCH if bits > _MAX_BITS else 0
    if operator == "*" and isinstance(left, int):
        left, right = right, left
    if not isinstance(left, (str, list, tuple)):
        return 0
    length = len(cast("Any", left))
    if operator == "*" and isinstance(right, int):
        return length * max(0, right)
    return (
        length + len(cast("Any", right)) if operator == "+" and isinstance(right, (str, list, tuple)) else 0
    )


def work_of_call(method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Of a method of Python's own types."""
    owner, name = method.__self__, method.__name__
    given = [*args, *kwargs.values()]
    if name in _SIZED:
        return _largest(given)
    if not isinstance(owner, (str, bytes)):
        return 0
    if name in ("format", "format_map") and isinstance(owner, str):
        return _work_of_format(owner, given)
    if name == "expandtabs":
        return owner.count(cast("Any", "\t" if isinstance(owner, str) else b"\t")) * (
            _largest(given) if given else _TAB
        )
    if name == "replace" and len(args) > 1:
        return _work_of_replace(owner, args[0], args[1])
    if name == "translate" and given and isinstance(given[0], dict):
        values = cast("dict[Any, Any]", given[0]).values()
        return len(owner) * max((len(one) for one in values if isinstance(one, str)), default=0)
    if name in _STRIP and given:
        return _work_of_strip(owner, given[0])
    return _work_of_join(owner, given[0]) if name == "join" and given else 0


WHOLE_FILTERS = frozenset((
    "dictsort", "groupby", "items", "list", "max", "min", "random", "reverse", "sort", "unique",
))  # fmt: skip
"""Filters that go through all of a list, and write nothing."""
_ITEM_WORK = 2
_WRAPPED_WORK = 10  # of a character of `wordwrap`, which is Python's own and slow
_COPIES = 64  # characters that are copied at once, while one is looked at
_DELETED = 4096  # the same for `striptags`, whose text shrinks meanwhile
_COMPARED = 256
_USUAL_WIDTH = 79
_CLOSERS = re.compile(r"[)>]|&gt;")


def work_of_filter(name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Of a filter of Jinja's own."""
    given = [*args, *kwargs.values()]
    if name in ("center", "batch", "slice"):
        return _largest(given)
    if name in WHOLE_FILTERS or name == "sum":
        return _ITEM_WORK * len(cast("Any", value)) if isinstance(value, (list, tuple, dict, str)) else 0
    if name == "round":
        return TOO_MUCH if _largest(given) > _MAX_BITS // 4 else 0  # it takes ten to that power
    if name == "format" and isinstance(value, str):
        return work_of_percent(value, tuple(given))
    if name == "join":
        return _work_of_join(str(given[0]) if given else "", value)
    text = value if isinstance(value, str) else ""
    if name == "replace" and len(given) > 1:
        return _work_of_replace(text, *(str(one) for one in given[:2]))
    if name in ("indent", "wordwrap"):
        longest = max((len(one) for one in given if isinstance(one, str)), default=0)
        inserted = _times(longest, len(text) + 1)
        if name == "indent":
            return (text.count("\n") + 1) * _largest(given) + inserted
        return _work_of_wrap(text, args[0] if args else kwargs.get("width", _USUAL_WIDTH)) + inserted
    if name == "trim" and given:
        return _work_of_strip(text, given[0])
    if name == "striptags":
        return text.count("<") * len(text) // _DELETED
    if name == "urlize":
        return sum(len(_CLOSERS.findall(word)) * len(word) for word in text.split()) // _COPIES
    return 0


def _work_of_wrap(text: str, width: Any) -> int:
    """A word that is longer than a line is copied once for each line that it makes."""
    columns = width if isinstance(width, int) and width > 0 else 1
    copied = sum(len(word) * (len(word) // columns) for word in text.split() if len(word) > columns)
    return _WRAPPED_WORK * len(text) + copied // (2 * _COPIES)


def _work_of_strip(text: Any, characters: Any) -> int:
    if not isinstance(characters, (str, bytes)):
        return 0
    return _times(len(text), len(characters)) // _COMPARED


def work_of_percent(text: str, values: Any) -> int:
    """Of ``text % values``."""
    work = 0
    for width, precision in _PERCENT.findall(text):
        for size in (width, precision):
            if size == "*":
                work += _largest(cast("tuple[Any, ...]", values) if isinstance(values, tuple) else (values,))
            elif size:
                work += _number(size)
    return work


def work_of_indent(value: object, indent: object) -> int:
    """Of JSON that is indented so far."""
    if not isinstance(indent, int) or indent <= _USUAL_INDENT:
        return 0
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # whoever writes it says so
        return 0
    return indent * len(text)


def _work_of_format(text: str, values: Iterable[Any]) -> int:
    work = 0
    try:
        for _, _, spec, _ in Formatter().parse(text):
            if spec:
                work += sum(map(_number, _NUMBER.findall(spec)))
                work += _largest(values) if "{" in spec else 0
    except ValueError:  # no format: whoever uses it says so
        return 0
    return work


def _work_of_replace(text: Any, old: Any, new: Any) -> int:
    if type(text) is not type(old) or type(old) is not type(new):
        return 0
    return _times(text.count(old), len(new))


def _work_of_join(separator: Any, items: Any) -> int:
    if not isinstance(items, (list, tuple, str)):
        return 0
    known = cast("Sequence[Any]", items)
    return sum(len(one) for one in known if isinstance(one, (str, bytes))) + _times(
        len(separator), len(known)
    )


def _largest(values: Any) -> int:
    if isinstance(values, Mapping):
        values = cast("Mapping[Any, Any]", values).values()
    numbers = [one for one in values if isinstance(one, int)]
    inner = [_largest(one) for one in values if isinstance(one, (dict, list, tuple))]
    return min(TOO_MUCH, max([0, *numbers, *inner]))


def _number(digits: str) -> int:
    return int(digits) if len(digits) < len(str(TOO_MUCH)) else TOO_MUCH


def _times(one: int, other: int) -> int:
    return one * other if min(one, other) > 1 else 0  # what is there once is counted as it is written
