"""Numbers as they stand in the JSON, for Python types: pydantic makes a float of every fraction first.

A ``Decimal`` loses digits by that (``12345678901234567890.12``), and a ``float`` becomes infinite (``1e400``,
``"NaN"``). Only the type knows which place of a text is read as what. So an answer with such a number is read once with
a mark in the number's place, and what pydantic complains of there says what it wanted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from pydantic import TypeAdapter, ValidationError

from mistill.errors import let_interrupt_pass

Place = tuple[str | int, ...]

_MARK = "?"  # no number and no name of one, so that whatever wants a number complains of it
_FLOAT_DIGITS = 309
"""An integer of fewer digits is never more than a float can hold."""

_FRACTION = re.compile(r"\d[.eE]")
_LONG_INTEGER = re.compile(rf"\d{{{_FLOAT_DIGITS}}}")
# What stands in a string that pydantic takes for a float, and is not finite as one.
_NO_FINITE = re.compile(r'"\s*[+-]?(?:nan|inf(?:inity)?|[\d._]+e\+?\d{3,})\s*"', re.IGNORECASE)

_decode = msgspec.json.Decoder().decode


class NumberMistake(Exception):
    """A number that a float cannot hold.

    Attributes:
        place: where it stands in the document.
    """

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class _Digits(str):
    """A number of the text that pydantic may not keep, as it is written there."""


class _Suspect(NamedTuple):
    """A number, or the name of one (``"NaN"``), and where it stands."""

    place: Place
    holder: Any
    key: str | int
    written: str


class ExactNumbers:
    """Looks after the numbers of answers that are read as the type of ``adapter``.

    Args:
        places: pydantic's ``loc``, kind of error, document → the place in the document.
    """

    def __init__(
        self, adapter: TypeAdapter[Any], places: Callable[[Sequence[str | int], str, Any], list[str | int]]
    ) -> None:
        self._adapter = adapter
        self._places = places
        kinds = _kinds(adapter.core_schema)
        self._has_decimals = "decimal" in kinds
        self._has_floats = "float" in kinds

    def exact(self, json_text: str) -> str:
        """A text of the same meaning that pydantic reads without a loss, where it `may_lose` anything of ``json_text``.

        Raises:
            NumberMistake: a float would not be finite.
        """
        try:
            document = json.loads(
                json_text, parse_float=self._fraction, parse_int=_integer, parse_constant=_constant
            )
        except (ValueError, RecursionError):
            return json_text  # pydantic says what is wrong with it
        root: list[Any] = [document]
        suspects = list(_suspects(root))
        if not suspects:
            return json_text
        for suspect in suspects:
            suspect.holder[suspect.key] = _MARK
        wanted = self._wanted(root[0])
        for suspect in suspects:
            suspect.holder[suspect.key] = _settled(suspect, wanted.get(suspect.place, set()))
        return json.dumps(root[0])

    def may_lose(self, json_text: str) -> bool:
        """Whether pydantic may lose digits of a number in ``json_text``, or take one for infinite."""
        if self._has_decimals and _FRACTION.search(json_text):
            return True
        # The decoder refuses NaN, and a fraction that no float can hold, in less time than a search would take.
        try:
            _decode(json_text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return True
        return self._has_floats and (_has_long_integer(json_text) or bool(_NO_FINITE.search(json_text)))

    def _fraction(self, digits: str) -> Any:
        number = float(digits)
        keeps_digits = repr(number) == digits and not number.is_integer()  # pydantic writes 2.0 as 2
        return _Digits(digits) if math.isinf(number) or (self._has_decimals and not keeps_digits) else number

    def _wanted(self, document: Any) -> Mapping[Place, set[str]]:
        """What pydantic wants at a place of ``document`` that it refuses: ``"float"``, ``"decimal"``, ``"int"`` …"""
        wanted: dict[Place, set[str]] = {}
        try:
            self._adapter.validate_json(json.dumps(document))
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False, include_input=False):
                place = tuple(self._places(detail["loc"], detail["type"], document))
                wanted.setdefault(place, set()).add(detail["type"].partition("_")[0])
        except BaseException as error:
            let_interrupt_pass(error)
            return {}  # a validator of the user's own that does not expect the mark: nothing is known
        return wanted


def _has_long_integer(json_text: str) -> bool:
    # A run of so many digits covers one of these places, wherever it begins.
    some = json_text[_FLOAT_DIGITS - 1 :: _FLOAT_DIGITS]
    return any(map(str.isdigit, some)) and _LONG_INTEGER.search(json_text) is not None


def _constant(name: str) -> Any:
    raise NumberMistake((), f"it is not JSON: {name}")  # pydantic takes NaN and Infinity for numbers


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < _FLOAT_DIGITS else _Digits(digits)


def _suspects(root: list[Any]) -> Iterator[_Suspect]:
    waiting: list[tuple[Place, Any]] = [((), root)]
    while waiting:
        place, holder = waiting.pop()
        for key, value in _items(holder):
            if isinstance(value, _Digits) or (isinstance(value, str) and _is_no_finite(value)):
                yield _Suspect((*place, key)[1:], holder, key, value)
            elif isinstance(value, dict | list):
                waiting.append(((*place, key), cast("Any", value)))


def _items(holder: Any) -> Iterable[tuple[str | int, Any]]:
    return enumerate(cast("list[Any]", holder)) if isinstance(holder, list) else holder.items()


def _is_no_finite(text: str) -> bool:
    """Whether pydantic would make of ``text`` a float that is not finite."""
    if not _NO_FINITE.fullmatch(f'"{text}"'):
        return False
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False


def _settled(suspect: _Suspect, wanted: set[str]) -> Any:
    """What stands for ``suspect`` in the text that pydantic reads, where it wants one of ``wanted``."""
    written = suspect.written
    if not isinstance(written, _Digits):
        if "float" in wanted:
            raise NumberMistake(suspect.place, f"{json.dumps(written)} is no finite number")
        return written
    if "decimal" in wanted and "float" not in wanted:
        return str(written)
    try:
        number = float(written) if _FRACTION.search(written) else int(written)
    except ValueError as error:
        raise NumberMistake(suspect.place, str(error)) from error
    if isinstance(number, int) and "float" in wanted and "int" not in wanted:
        number = math.inf
    if isinstance(number, float) and math.isinf(number):
        raise NumberMistake(suspect.place, f"{written} is more than a float can hold")
    return number


def _kinds(core_schema: Any) -> set[Any]:
    """What stands anywhere in the type: ``"decimal"``, ``"float"`` …"""
    kinds: set[Any] = set()
    waiting: list[Any] = [core_schema]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            node = cast("dict[str, Any]", node)
            if isinstance(node.get("type"), str):
                kinds.add(node["type"])
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(cast("Sequence[Any]", node))
    return kinds
