"""Forked children: what has a thread and locks of its own cannot go on in one, and must not seem to.

While a process forks, none of its ledgers is inside SQLite: a child in which another thread held one of SQLite's own
locks would hang at its first query, whatever ledger it opens.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from mistill.errors import LedgerError
from mistill.process import OwnProcess


class Forkable(Protocol):
    """What is called when the process forks; see `register_for_forks`."""

    def busy(self) -> AbstractContextManager[object]:
        """Entered before a fork and left after it, in both processes: nothing of it is inside SQLite meanwhile."""
        ...

    def leave_to_parent(self) -> None:
        """In the child: it is the parent's."""
        ...


_open: WeakSet[Forkable] = WeakSet()
_forking = threading.Lock()
_held: list[tuple[Forkable, AbstractContextManager[object]]] = []


def register_for_forks(one: Forkable) -> None:
    """Until it is garbage, or `forget` is called."""
    _open.add(one)


def forget(one: Forkable) -> None:
    _open.discard(one)


def of_another_process(path: Path, process: OwnProcess) -> LedgerError:
    """The error of whoever uses a ledger in a child of the process that opened it."""
    hint = "open it in this process once the other has closed it"
    return process.error(f"the ledger {path} was opened", LedgerError, hint)


def _before() -> None:
    _forking.acquire()
    for one in list(_open):
        context = one.busy()
        context.__enter__()
        _held.append((one, context))


def _leave() -> list[Forkable]:
    left = [one for one, _ in _held]
    for _, context in _held:
        context.__exit__(None, None, None)
    _held.clear()
    _forking.release()
    return left


def _in_child() -> None:
    for one in _leave():
        one.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_leave, after_in_child=_in_child)
