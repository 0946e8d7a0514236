"""Requests that are no row's, such as for the bill of a month, asked again where that can help."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from mistill.delivery.retry import backoff_s, classify
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import APIError, ConnectFailed, MalformedAnswer, MistillError

T = TypeVar("T")

_ATTEMPTS: Final = 8
"""Their pauses are half a minute as a mean: somebody waits in front of the screen."""
_PATIENCE_S: Final = 60.0
"""The window of a quota."""

_log = logging.getLogger("mistill")


async def persistently(
    call: Callable[[], Awaitable[T]],
    *,
    may_retry: Callable[[MistillError, int], bool],
    patience_s: float,
    longest_wait_s: float,
    tell: Callable[[MistillError], None],
    tuning: Tuning,
) -> T:
    """Asks until it is answered, or another attempt cannot help, or may not be made.

    Args:
        may_retry: whether another attempt may be made after this error, which was that of the so many-th attempt.
        patience_s: none is made later than this after the first.
        longest_wait_s: what tells us to wait for longer is not asked again.
        tell: has each error that another attempt follows.

    Raises:
        MistillError: of the last attempt.
    """
    give_up_at = time.monotonic() + patience_s
    failures = 0
    while True:
        try:
            return await call()
        except MistillError as error:
            failures += 1
            can_help = classify(error).retry and may_retry(error, failures)
            if not can_help or time.monotonic() > give_up_at:
                raise
            said_s = error.retry_after_s if isinstance(error, APIError) else None
            if said_s is not None and said_s > longest_wait_s:
                raise
            tell(error)
            await asyncio.sleep(backoff_s(failures, said_s, tuning=tuning))


async def ask_patiently(call: Callable[[], Awaitable[T]], what: str) -> T:
    """For whoever waits for the answer: up to eight times within a minute.

    Three attempts tell that nothing answers, and one that what answers is no such API.

    Args:
        what: is asked for, in words.

    Raises:
        MistillError: of the last attempt.
    """
    tuning = current_tuning()
    told = set[type[MistillError]]()

    def may_retry(error: MistillError, failures: int) -> bool:
        attempts = tuning.unreachable_attempts if isinstance(error, ConnectFailed) else _ATTEMPTS
        return failures < attempts and not isinstance(error, MalformedAnswer)

    def tell(error: MistillError) -> None:
        if type(error) not in told:
            told.add(type(error))
            _log.warning("%s did not come, and is asked for again: %s", what, error.headline)

    return await persistently(
        call,
        may_retry=may_retry,
        patience_s=_PATIENCE_S,
        longest_wait_s=_PATIENCE_S,
        tell=tell,
        tuning=tuning,
    )
