"""Generation parameters that the rows of a run bring themselves, each in a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, get_args

import msgspec

from mistill.datasets.sources import Row
from mistill.errors import InputError, WrongParameter, did_you_mean
from mistill.llms.generation import Generation
from mistill.llms.parameters import PARAMETER_TYPES, check_parameter_names, check_parameters
from mistill.llms.plain_values import without_nulls

_STRUCTURED = ("tools", "tool_choice", "response_format", "prediction")
"""Parameters in which null says no more than absence does."""


class RowParameters:
    """Which columns hold generation parameters: ``{"temperature": "temp"}``.

    A value that is null, an empty text or not there leaves the run's own. Columns of text, such as those of a CSV file,
    may hold numbers and other JSON.

    Raises ``InputError`` for a name that no parameter has, or a column that is no name.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        check_parameter_names(columns)
        for name, column in columns.items():
            if not isinstance(column, str) or not column:  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
                raise InputError(
                    f"row_parameters: {name} is to come from {column!r}, which names no column",
                    hint="a value for all rows goes into parameters",
                )
        self.columns = dict(columns)

    def __bool__(self) -> bool:
        return bool(self.columns)

    def check_columns(self, header: Sequence[str]) -> None:
        """``InputError`` if the input can have no such column; ``header`` is all that it has."""
        for name, column in self.columns.items():
            if column not in header:
                raise InputError(
                    f"row_parameters: {name} is to come from a column {column!r}, which the input has not",
                    hint=did_you_mean(column, header),
                )

    def apply(self, generation: Generation, row: Row) -> Generation:
        """``generation`` with the row's own parameters over it.

        Raises:
            WrongParameter: one of them has a wrong type, or a value out of its range; it names row and column.
        """
        values = {name: self._value(name, row) for name in self.columns}
        try:
            return generation.with_parameters(values)
        except InputError as error:
            raise self._refusal(values, row, error) from error

    def _value(self, name: str, row: Row) -> Any:
        value = row.record.get(self.columns[name])
        kinds = _kinds(name)
        if isinstance(value, str):
            value = _read(value, takes_text=str in kinds)
        if isinstance(value, float) and float not in kinds and value.is_integer():
            return int(value)  # tables make floats of a column of integers with nulls in it
        return without_nulls(value) if name in _STRUCTURED else value

    def _refusal(self, values: Mapping[str, Any], row: Row, error: InputError) -> WrongParameter:
        column = next((self.columns[name] for name, value in values.items() if _is_wrong(name, value)), None)
        place = "" if column is None else f"the column {column!r}: "
        return WrongParameter(f"{row.where}: {place}{error.message}", hint=error.hint, index=row.index)


def _kinds(name: str) -> tuple[Any, ...]:
    annotation = PARAMETER_TYPES[name]
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _read(text: str, *, takes_text: bool) -> Any:
    """What a text stands for; one that stands for nothing else is left as it is, to be refused by its type."""
    if not text:
        return None
    if takes_text and not text.startswith(("{", "[")):
        return text
    try:
        return msgspec.json.decode(text) if text.strip() else None
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return text


def _is_wrong(name: str, value: Any) -> bool:
    try:
        check_parameters({name: value})
    except InputError:
        return True
    return False
