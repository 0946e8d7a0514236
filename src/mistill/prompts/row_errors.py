"""What is wrong with one row, in words."""

from __future__ import annotations

from collections.abc import Mapping

from mistill.datasets.sources import Row
from mistill.errors import InputError

_MAX_COLUMNS_SHOWN = 20


def row_error(row: Row, problem: str, hint: str | None = None) -> InputError:
    """The error of a row, which names it."""
    return InputError(f"{row.where}: {problem}", hint=hint, index=row.index)


def change_error(what: str, row: Row | None = None) -> InputError:
    """A file that a row names is not what the run read: its answer would be to something else."""
    problem, hint = f"{what} has changed since the run read it", "run again to send it as it is"
    return InputError(problem, hint=hint) if row is None else row_error(row, problem, hint)


def list_columns(record: Mapping[str, object]) -> str:
    """The columns of a row, some of them where there are many."""
    if not record:
        return "no columns"
    shown = ", ".join(repr(name) for name in list(record)[:_MAX_COLUMNS_SHOWN])
    more = len(record) - _MAX_COLUMNS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
