"""A run's memory: rows, attempts, answers, outcomes and starts in one SQLite file, which survives ``kill -9``."""

from mistill.ledger.damage import Damage
from mistill.ledger.error_record import ErrorRecord
from mistill.ledger.matching import InputMatcher, InputRow, RowState
from mistill.ledger.reader import (
    Cause,
    Counts,
    EarlierOutcome,
    LedgerReader,
    LedgerRow,
    PastAttempt,
    Start,
)
from mistill.ledger.selection import EVERYTHING, FIELDS, Selection, Term, parse_terms
from mistill.ledger.spending import Spending
from mistill.ledger.writer import Attempt, Ledger, PaidAnswer, Tokens

__all__ = [
    "EVERYTHING",
    "FIELDS",
    "Attempt",
    "Cause",
    "Counts",
    "Damage",
    "EarlierOutcome",
    "ErrorRecord",
    "InputMatcher",
    "InputRow",
    "Ledger",
    "LedgerReader",
    "LedgerRow",
    "PaidAnswer",
    "PastAttempt",
    "RowState",
    "Selection",
    "Spending",
    "Start",
    "Term",
    "Tokens",
    "parse_terms",
]
