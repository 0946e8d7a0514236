"""Names of columns, of which none may stand twice: a record could hold only one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from mistill.errors import InputError

T = TypeVar("T")


def first_repeated(names: Iterable[T]) -> T | None:
    """The first name that stood before it already; ``None`` where each stands once."""
    seen: set[T] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def check_columns_once(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The names as a tuple.

    Args:
        where: what has these columns, for the error.

    Raises:
        InputError: one stands twice.
    """
    found = tuple(names)
    if (repeated := first_repeated(found)) is not None:
        raise InputError(f"{where}: the column {repeated!r} stands twice", hint="rename one")
    return found
