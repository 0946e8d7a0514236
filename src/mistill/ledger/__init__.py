"""A run's memory: rows, attempts, jobs, answers, outcomes and starts in one SQLite file, which survives ``kill -9``."""

from mistill.ledger.attempts import Attempt, KnownAttempt, PaidAnswer, Tokens
from mistill.ledger.damage import Damage
from mistill.ledger.error_record import ErrorRecord
from mistill.ledger.jobs import Job, JobRecord, JobState, LineAttempt, PlannedAttempt
from mistill.ledger.lane_usage import NOTHING_CACHED, CachedShares, RowUsage
from mistill.ledger.looks import Stretch
from mistill.ledger.marks import RowMark
from mistill.ledger.matching import InputMatcher, InputRow, RowState
from mistill.ledger.model_counts import AnswersOfModel, named
from mistill.ledger.reader import (
    Cause,
    Counts,
    EarlierOutcome,
    LedgerReader,
    LedgerRow,
    PastAttempt,
    ShardCounts,
    Start,
)
from mistill.ledger.row_set import RowSet
from mistill.ledger.selection import ASKABLE, EVERYTHING, FIELDS, WAITING, Selection, Term, parse_terms
from mistill.ledger.spending import Spending
from mistill.ledger.tables import Mark
from mistill.ledger.takings import AnswerTerms, Takings, TermsOf
from mistill.ledger.writer import Ledger

__all__ = [
    "ASKABLE",
    "EVERYTHING",
    "FIELDS",
    "NOTHING_CACHED",
    "WAITING",
    "AnswerTerms",
    "AnswersOfModel",
    "Attempt",
    "CachedShares",
    "Cause",
    "Counts",
    "Damage",
    "EarlierOutcome",
    "ErrorRecord",
    "InputMatcher",
    "InputRow",
    "Job",
    "JobRecord",
    "JobState",
    "KnownAttempt",
    "Ledger",
    "LedgerReader",
    "LedgerRow",
    "LineAttempt",
    "Mark",
    "PaidAnswer",
    "PastAttempt",
    "PlannedAttempt",
    "RowMark",
    "RowSet",
    "RowState",
    "RowUsage",
    "Selection",
    "ShardCounts",
    "Spending",
    "Start",
    "Stretch",
    "Takings",
    "Term",
    "TermsOf",
    "Tokens",
    "named",
    "parse_terms",
]
