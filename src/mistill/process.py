"""Which process something belongs to: a forked child has neither its threads nor its locks."""

from __future__ import annotations

import os
from typing import TypeVar

from mistill.errors import MistillError

E = TypeVar("E", bound=MistillError)

_of_parents: list[object] = []


def keep_unused(belonging: object) -> None:
    """In a forked child: keeps what is the parent's, which must be neither used nor ended here. Even to let go of it
    could take a lock that was held when the process forked: of SQLite, or of the transport."""
    _of_parents.append(belonging)


class OwnProcess:
    """The process in which it was made."""

    def __init__(self) -> None:
        self._number = os.getpid()

    def is_this(self) -> bool:
        return os.getpid() == self._number

    def check(self, what: str, kind: type[MistillError], hint: str) -> None:
        """Raises `error` in a fork of the process."""
        if not self.is_this():
            raise self.error(what, kind, hint)

    def error(self, what: str, kind: type[E], hint: str) -> E:
        """The error, of such a kind, of a fork that uses what is not its own: ``what``: "the run was started"."""
        return kind(f"{what} by process {self._number}, and this is a fork of it", hint=hint)
