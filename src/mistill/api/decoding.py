"""JSON as servers really send it → structs.

What is as specified is decoded by msgspec alone, which is where the speed is. Where that fails, the body is read again
with patience: numbers may be texts, a field of the wrong type is left out, half a character becomes U+FFFD. The fields
that are the answer itself, its struct names as `ESSENTIAL`: where one of them is wrong, the body is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from mistill.characters import whole_characters

T = TypeVar("T")

_MAX_DIGITS = 4000  # of an integer; Python refuses to read longer ones
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Incoming(Struct, frozen=True, gc=False):
    """Base of what comes in.

    Attributes:
        ESSENTIAL: fields whose value must be of its type (or null), as must those without a default; others may be left
            out.
    """

    ESSENTIAL: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What servers are known to send in a form of their own, in the form of this struct."""
        return given


def is_error(said: Any) -> bool:
    """Whether what stands under ``error`` says that something failed: null does not, nor does an object of nothings."""
    return any(cast("dict[str, Any]", said).values()) if isinstance(said, dict) else bool(said)


def tolerant_decoder(kind: type[T], *, pieces: frozenset[str] = frozenset()) -> Callable[[bytes], T]:
    """A decoder of JSON into ``kind``, a struct of `Incoming` structs. What is no such JSON gives a `ValueError`.

    Args:
        pieces: fields whose texts are pieces of a longer one: half a character at their ends may have its other half in
            the next, and is kept.
    """
    decode = msgspec.json.Decoder(kind).decode

    def tolerant(raw: bytes) -> T:
        try:
            return decode(raw)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            return _mend(raw, kind, error, pieces)

    return tolerant


def load_json(raw: bytes, pieces: frozenset[str] = frozenset()) -> Any:
    """Any JSON, with what msgspec refuses: a byte order mark, NaN, halves of surrogate pairs (as U+FFFD).

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    text = raw.removeprefix(_BYTE_ORDER_MARK).decode()
    try:
        return _without_surrogates(json.loads(text, parse_int=_integer), pieces)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def without_halves(value: Any) -> Any:
    """JSON values with U+FFFD for each half of a surrogate pair in them."""
    return _without_surrogates(value, frozenset())


def _mend(raw: bytes, kind: type[T], error: Exception, pieces: frozenset[str]) -> T:
    """What can be read of ``raw`` with patience.

    Args:
        error: why msgspec alone could not.

    Raises:
        Exception: ``error``, which has the better words, where nothing can be done.
    """
    try:
        return _convert(load_json(raw, pieces), kind)
    except (ValueError, RecursionError):
        raise error from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _without_surrogates(value: Any, pieces: frozenset[str]) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_without_surrogates(item, pieces) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {
            whole_characters(name): _piece(item)
            if name in pieces and isinstance(item, str)
            else _without_surrogates(item, pieces)
            for name, item in items
        }
    return value


def _piece(text: str) -> str:
    start = text[:1] if "\udc00" <= text[:1] <= "\udfff" else ""
    end = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    return start + whole_characters(text[len(start) : len(text) - len(end)]) + end


def _convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: a struct, a list or tuple of them, a union with one of these, or anything else."""
    if kind is Raw:
        return Raw(msgspec.json.encode(value))
    for member in _members(kind):
        if isinstance(value, dict) and isinstance(member, type) and issubclass(member, Struct):
            return _struct(cast("dict[str, Any]", value), member)
        if isinstance(value, list) and get_origin(member) in (list, tuple):
            items = [_convert(item, get_args(member)[0]) for item in cast("list[Any]", value)]
            return items if get_origin(member) is list else tuple(items)
    return msgspec.convert(value, kind, strict=str in _members(kind))


@cache
def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _struct(given: dict[str, Any], kind: type[Struct]) -> Struct:
    essential: frozenset[str] = getattr(kind, "ESSENTIAL", frozenset())
    if issubclass(kind, Incoming):
        given = kind.mended(given)
    fields: dict[str, Any] = {}
    for field in _fields(kind):
        if field.encode_name not in given:
            if field.required:
                raise msgspec.ValidationError(f"no field {field.encode_name!r}")
            continue
        value = given[field.encode_name]
        try:
            fields[field.name] = _convert(value, field.type)
        except ValueError:
            if field.required or (value is not None and field.name in essential):
                raise
    return kind(**fields)


_fields = cache(msgspec.structs.fields)
