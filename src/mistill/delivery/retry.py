"""What to do about a failed attempt: a table, and nothing that has state.

The order of the table is the order of the tree in ``mistill.errors``. A 429 is retried without a delay of its own:
the governor, which sees every row's 429, decides when the next attempt may leave.
"""

from __future__ import annotations

import logging
import random
import traceback
from typing import Any, Literal

from msgspec import Struct

from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import (
    BadRequest,
    CapacityExceeded,
    Forbidden,
    InvalidModel,
    InvalidOutput,
    LedgerError,
    MalformedAnswer,
    MistillError,
    NoRowAnswered,
    NotFound,
    NothingAnswers,
    RateLimited,
    ServerError,
    Stopped,
    TransportError,
    Unauthorized,
)

_log = logging.getLogger("mistill")
_told: set[tuple[Any, ...]] = set()


class Decision(Struct, frozen=True):
    """``retry``: another attempt can help. ``wait``: who decides how long. ``fatal``: no other row can survive it."""

    retry: bool
    wait: Literal["none", "backoff", "governor"] = "none"
    fatal: bool = False


_GIVE_UP = Decision(retry=False)
_STOP_ALL = Decision(retry=False, fatal=True)
_BACK_OFF = Decision(retry=True, wait="backoff")
_ASK_GOVERNOR = Decision(retry=True, wait="governor")

_TABLE: tuple[tuple[type[MistillError], Decision], ...] = (
    (InvalidModel, _STOP_ALL),
    (BadRequest, _GIVE_UP),
    (Unauthorized, _STOP_ALL),
    (Forbidden, _GIVE_UP),
    (NotFound, _GIVE_UP),
    (RateLimited, _ASK_GOVERNOR),
    (CapacityExceeded, _BACK_OFF),
    (ServerError, _BACK_OFF),
    (NothingAnswers, _STOP_ALL),
    (NoRowAnswered, _STOP_ALL),
    (TransportError, _BACK_OFF),
    (MalformedAnswer, _BACK_OFF),
    (InvalidOutput, _GIVE_UP),
    (Stopped, _STOP_ALL),
    (LedgerError, _STOP_ALL),
)


def classify(error: MistillError) -> Decision:
    """The decision for one failed attempt, from the error alone. It is noted as ``error.retryable``."""
    decision = _decision_for(error)
    error.retryable = decision.retry
    return decision


def _decision_for(error: MistillError) -> Decision:
    if isinstance(error, RateLimited) and error.limit_is_zero:
        return _STOP_ALL
    for kind, decision in _TABLE:
        if isinstance(error, kind):
            return decision
    return _GIVE_UP


def as_failure(error: Exception) -> MistillError:
    """What an attempt raised, as an error of the tree: whatever a server made us stumble over costs one row."""
    if isinstance(error, MistillError):
        return error
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)[-1:]]
    if (told := (type(error), *places)) not in _told:  # by the row's error alone nobody could find it
        _told.add(told)
        _log.warning(
            "rows fail by an error that nobody foresaw, of mistill's or of your own code", exc_info=error
        )
    return MalformedAnswer(f"this attempt ended in an unforeseen {type(error).__name__}: {str(error)[:200]}")


def backoff_s(failures: int, retry_after_s: float | None = None, *, tuning: Tuning | None = None) -> float:
    """Seconds to wait after the ``failures``-th failure in a row (from 1): exponential with full jitter.

    Never less than the server's ``Retry-After``.
    Formula: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    tuning = tuning or current_tuning()
    doublings = min(failures - 1, 64)  # an outage may take thousands of tries, and 2.0**1024 is no number
    ceiling = min(tuning.max_backoff_s, tuning.backoff_base_s * 2.0**doublings)
    jitter = random.uniform(0.0, ceiling)  # noqa: S311  spreads load, protects nothing
    return jitter if retry_after_s is None else retry_after_s + jitter
