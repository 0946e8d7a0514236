"""``typing.TypedDict`` on Python 3.11, where pydantic takes only the one of ``typing_extensions``."""

from __future__ import annotations

import sys
from types import GenericAlias, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import typing_extensions


def with_modern_typeddicts(type_: Any) -> Any:
    """``type_`` with each ``typing.TypedDict`` in it made anew: at its root, in its keys, in ``list[...]``, in unions.

    One that refers to itself is left, for pydantic to refuse with its own words.
    """
    return type_ if sys.version_info >= (3, 12) else _modern(type_, ())


def _modern(type_: Any, outer: tuple[Any, ...]) -> Any:
    if is_typeddict(type_) and type(type_).__module__ == "typing":
        return type_ if type_ in outer else _modern_typeddict(type_, (*outer, type_))
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return Annotated[(_modern(args[0], outer), *args[1:])]
    if origin in (Union, UnionType):
        return Union[tuple(_modern(arg, outer) for arg in args)]  # noqa: UP007  (made at run time)
    if origin in (list, tuple, dict, set, frozenset):
        return GenericAlias(origin, tuple(_modern(arg, outer) for arg in args))
    return type_


def _modern_typeddict(type_: Any, outer: tuple[Any, ...]) -> Any:
    fields: dict[str, Any] = {}
    for key, hint in get_type_hints(type_, include_extras=True).items():
        said = get_origin(hint)
        inner = _modern(get_args(hint)[0] if said in (Required, NotRequired) else hint, outer)
        required = said is Required or (said is not NotRequired and key in type_.__required_keys__)
        fields[key] = Required[inner] if required else NotRequired[inner]
    make: Any = typing_extensions.TypedDict
    modern = make(type_.__name__, fields)
    modern.__doc__ = type_.__doc__
    modern.__module__ = type_.__module__
    if hasattr(type_, "__pydantic_config__"):
        modern.__pydantic_config__ = type_.__pydantic_config__
    return modern
