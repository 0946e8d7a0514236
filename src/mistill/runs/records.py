"""The shape of a record out: the row, and our columns after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mistill.errors import InputError, nearest_name


def column_names(renames: Iterable[str], columns: Sequence[str]) -> dict[str, str]:
    """``columns`` of ours to the names they have in the output; ``renames`` as on the command line:
    ``generation=answer``.

    Raises ``InputError`` for a column we do not have, and for names that are empty or not all different.
    """
    names = {column: column for column in columns}
    for rename in renames:
        column, equals, name = rename.partition("=")
        if not equals or not name.strip():
            raise InputError(f"cannot rename a column with {rename!r}", hint="for example generation=answer")
        if column not in names:
            near = nearest_name(column, columns)
            hint = f"ours are {', '.join(columns)}" if near is None else f"did you mean {near!r}?"
            raise InputError(f"there is no output column {column!r} to rename", hint=hint)
        names[column] = name
    chosen = list(names.values())
    if repeated := next((name for place, name in enumerate(chosen) if name in chosen[:place]), None):
        raise InputError(f"two output columns would be called {repeated!r}")
    return names


def check_columns(
    input_columns: Iterable[str], ours: Collection[str], where: str = "the input", index: int | None = None
) -> None:
    """``InputError`` if a column of the input has the name of one of ours. ``where`` and ``index``: the row, if it is
    about one.
    """
    for name in input_columns:
        if name in ours:
            raise InputError(
                f"{where}: it has a column {name!r}, and the output adds one of that name",
                hint=f"rename ours: --column {name}=new_{name}",
                index=index,
            )


def make_record(
    record: Mapping[str, Any], outcome: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
    """A row and the outcome's columns, renamed. ``outcome`` is keyed by our own names; what it lacks is
    null.
    """
    return {**record, **{name: outcome.get(column) for column, name in names.items()}}


def make_line(raw: bytes, outcome: Mapping[str, Any], names: Mapping[str, str]) -> bytes:
    """``make_record`` on a row's JSON, without decoding it: the row's own digits and spelling are kept to
    the byte.
    """
    added = msgspec.json.encode({name: outcome.get(column) for column, name in names.items()})
    own = raw.rstrip()[:-1].rstrip()
    return own + (added[1:] if own == b"{" else b"," + added[1:])
