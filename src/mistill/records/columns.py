"""The shape of a record out: the row, and our columns after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from mistill.datasets.column_names import first_repeated
from mistill.datasets.encoding import encode_record
from mistill.errors import InputError, nearest_name
from mistill.wording import Setting, Words, words

_MAX_NAMED = 30


def column_names(renames: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """``columns`` of ours to the names they have in the output, where ``renames`` gives some another.

    Raises ``InputError`` for a column we do not have, and for names that are empty or not all different.
    """
    names = {column: column for column in columns}
    for column, name in renames.items():
        if not name.strip():
            raise InputError(
                f"cannot rename the column {column!r} to {name!r}",
                hint=words("for example ", Setting("columns", {"generation": "answer"})),
            )
        if column not in names:
            near = nearest_name(column, columns)
            hint = f"ours are {', '.join(columns)}" if near is None else f"did you mean {near!r}?"
            raise InputError(f"there is no output column {column!r} to rename", hint=hint)
        names[column] = name
    if (repeated := first_repeated(names.values())) is not None:
        raise InputError(f"two output columns would be called {repeated!r}")
    return names


def check_columns(
    input_columns: Iterable[str],
    ours: Collection[str] | Mapping[str, str],
    where: str = "the input",
    index: int | None = None,
) -> None:
    """Refuses columns of the input that have the names of ours, all of them at once.

    Args:
        ours: their names in the output; a mapping has what can be done about each.
        where, index: the row, if it is about one.

    Raises:
        InputError: there are such columns.
    """
    taken = [name for name in input_columns if name in ours]
    if not taken:
        return
    if len(taken) == 1:
        (name,) = taken
        ours_to = (
            cast("Mapping[str, str]", ours)[name] if isinstance(ours, Mapping) else rename_hint(name, name)
        )
        problem = f"it has a column {name!r}, and the output adds one of that name"
        hint = words(ours_to, "; or say what becomes of the row's own: ", _EARLIER)
    else:
        named = ", ".join(repr(name) for name in taken)
        of_a_run = " of an earlier run" if _is_of_a_run(taken) else ""
        problem = f"it has columns{of_a_run} that the output adds too: {named}"
        hint = words("say what becomes of them: ", _EARLIER)
    raise InputError(f"{where}: {problem}", hint=hint, index=index)


_EARLIER = words(
    Setting("earlier", "drop"),
    " leaves the row's out, ",
    Setting("earlier", "first_"),
    " keeps them as first_…",
)


def _is_of_a_run(columns: Collection[str]) -> bool:
    """Whether these look like what a run adds to a row."""
    return {"input_tokens", "error"} <= set(columns)


def nearest_and_all(name: str, known: Iterable[str]) -> str:
    """A hint for a column that is not there: the nearest one, and which there are."""
    names = list(known)
    near = nearest_name(name, names)
    shown = ", ".join(names[:_MAX_NAMED]) + (
        f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    )
    there = f"there are {shown}" if names else "there are none"
    return there if near is None else f"did you mean {near!r}? {there}"


def rename_hint(ours: str, name: str) -> Words:
    """How to give a column of ours another name than ``name``."""
    return words("rename ours: ", Setting("columns", {ours: f"new_{name}"}))


def add_columns(raw: bytes, columns: Mapping[str, Any]) -> bytes:
    """A row's JSON with columns added, none of which it has."""
    if not columns:
        return raw
    added = _encode(columns)
    own = raw.rstrip()[:-1].rstrip()
    return own + (added[1:] if own == b"{" else b"," + added[1:])


def _encode(columns: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(columns)
    except (UnicodeEncodeError, TypeError):
        # Half of a character, or a type that JSON has not: as in a row, see `encode_record`.
        return msgspec.json.encode({name: _as_in_a_row(value) for name, value in columns.items()})


def _as_in_a_row(value: Any) -> msgspec.Raw:
    if isinstance(value, msgspec.Raw):
        return value
    return msgspec.Raw(encode_record({"": value}).removeprefix(b'{"":').removesuffix(b"}"))
