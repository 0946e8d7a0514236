"""A run's memory: rows, attempts, answers and outcomes in one SQLite file, which survives ``kill -9``."""

from mistill.ledger.matching import InputMatcher, InputRow, RowState
from mistill.ledger.reader import Cause, Counts, EarlierOutcome, LedgerReader, LedgerRow
from mistill.ledger.selection import EVERYTHING, Selection
from mistill.ledger.writer import NO_USAGE, Attempt, Ledger, PaidAnswer, Usage, describe

__all__ = [
    "EVERYTHING",
    "NO_USAGE",
    "Attempt",
    "Cause",
    "Counts",
    "EarlierOutcome",
    "InputMatcher",
    "InputRow",
    "Ledger",
    "LedgerReader",
    "LedgerRow",
    "PaidAnswer",
    "RowState",
    "Selection",
    "Usage",
    "describe",
]
