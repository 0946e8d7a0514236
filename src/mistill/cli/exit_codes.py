"""What the exit code of a command says."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    ANSWERED = 0
    """Every row was answered."""
    SOME_FAILED = 1
    """Some rows failed, or wait for the user's word."""
    USAGE = 2
    """The command, a setting or the input is wrong; nothing was sent."""
    STOPPED = 3
    """A refused key, a quota of 0, a budget, or a ledger that cannot be used."""
    INTERRUPTED = 130
    """Ctrl-C."""
