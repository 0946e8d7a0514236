"""Values of options that click has no type for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from mistill.addresses import keep_secrets
from mistill.errors import InputError, nearest_name
from mistill.foreign_text import read_json
from mistill.kinds.options import split_names
from mistill.records.flattening import Flattening
from mistill.same_place import check_is_here

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # older versions of click have it without a parameter

_SECONDS_OF = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_BYTES_OF = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmg", 1)
    for unit, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


class Json(_Type):
    """JSON, or the path of a ``.json`` file. A settings file gives the value itself."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text = read_text(value) if value.endswith(".json") else value
        try:
            return read_json(text, value if value.endswith(".json") else "it")
        except InputError as error:
            self.fail(str(error), param, ctx)


class TextOrJson(_Type):
    """A word, or a JSON object."""

    name = "TEXT|JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("{"):
            return Json().convert(value, param, ctx)
        return value


def _measured(value: Any, units: Mapping[str, int]) -> float | None:
    """A number with a unit behind it, in the smallest; ``None`` where it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", str(value).strip().lower())
    return None if found is None or found[2] not in units else float(found[1]) * units[found[2]]


if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice


class OneOf(_Choice):
    """A word of several; of another one, it is said which was perhaps meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            near = nearest_name(value, self.choices)
            if near is None:
                raise
            raise click.BadParameter(f"{error.message} Did you mean {near!r}?", ctx, param) from error


class Duration(_Type):
    """``90``, ``90s``, ``30m``, ``2h``, ``1d`` → seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = _measured(value, _SECONDS_OF)
        if found is None:
            self.fail(f"{value!r} is no time: write 90, 90s, 30m, 2h or 1d", param, ctx)
        return found


class Bytes(_Type):
    """``200MB``, ``1GB``, ``512MiB``, ``4096`` → bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _measured(value, _BYTES_OF)
        if found is None:
            self.fail(f"{value!r} is no size: write 50MB or 512MiB", param, ctx)
        return int(found)


class NameList(_Type):
    """``a,b`` → ``("a", "b")``; a name with a comma in it stands in double quotes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = tuple(split_names(value))
        if not names:
            self.fail(f"{value!r} names nothing", param, ctx)
        return names


class Flatten(_Type):
    """Whether and how answers are flattened; a settings file may say ``true``."""

    name = "HOW"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002  click's signature
        ctx: click.Context | None,  # noqa: ARG002  click's signature
    ) -> bool | str:
        Flattening.of(value)
        return value


class Pair(_Type):
    """``NAME=VALUE`` → ``(name, value)``, the value converted by ``of``."""

    def __init__(self, name: str, of: Callable[[str], Any] = str) -> None:
        self.name = name
        self._of = of

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):  # click converts a default again
            return cast("tuple[str, Any]", value)
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip() or not text.strip():
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        try:
            return name.strip(), self._of(text.strip())
        except ValueError:
            self.fail(f"{text.strip()!r} is not a number: write it in the digits 0 to 9", param, ctx)


class Named(_Type):
    """A path or an address; of that, from here on, what may be shown: whoever opens it has the rest."""

    name = "TEXT"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002  click's signature
        ctx: click.Context | None,  # noqa: ARG002  click's signature
    ) -> Any:
        return keep_secrets(value) if isinstance(value, str) else value


class RowName(_Type):
    """A row's place in the input, from 0, or its id: whatever is no number of any file."""

    name = "ROW"
    _max_digits = 18

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002  click's signature
        ctx: click.Context | None,  # noqa: ARG002  click's signature
    ) -> Any:
        is_place = (
            isinstance(value, str)
            and value.isascii()
            and value.isdecimal()
            and len(value) <= self._max_digits
        )
        return int(value) if is_place else value


METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "FILE"}
"""What stands in the help for a value of a plain type."""


def members_of(annotation: Any) -> tuple[Any, ...]:
    """The types of a union but ``None``: ``float | None`` → ``(float,)``."""
    members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return tuple(member for member in members if member is not type(None))


def read_text(path: str) -> str:
    """The text of a UTF-8 file.

    Raises:
        InputError: it cannot be read.
    """
    check_is_here(path, "a text")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
