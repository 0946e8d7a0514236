"""A store whose library would wait for ever: who waits is told so, and not for longer than makes sense."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import TypeVar

from mistill.errors import InputError
from mistill.wording import START_AGAIN, words

_log = logging.getLogger("mistill")

_T = TypeVar("_T")

SAYS_AFTER_S = 5.0
ENDS_AFTER_S = 60.0
"""After which a store counts as gone that says nothing."""
_SLOWEST_BYTES_S = 100_000
"""At which an upload goes on."""


def patiently(name: str, ask: Callable[[], _T], *, upload_bytes: int = 0) -> _T:
    """What ``ask`` gives, or raises.

    Args:
        name: of what is asked for.
        ask: is called in a thread of its own, which is left behind where the store never answers.
        upload_bytes: what is sent with it, for which there is time besides.

    Raises:
        InputError: it has not answered in time.
    """
    answer: Future[_T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="mistill-store", daemon=True).start()
    within_s = ENDS_AFTER_S + upload_bytes / _SLOWEST_BYTES_S
    wait_for([answer], timeout=SAYS_AFTER_S)
    if not answer.done():
        told = "what is sent to the store takes its time" if upload_bytes else "the store does not answer"
        _log.warning("%s: %s: it is waited for, %.0f seconds at the most", name, told, within_s)
        wait_for([answer], timeout=within_s - SAYS_AFTER_S)
    if not answer.done():
        raise InputError(
            f"{name}: the store has not answered within {within_s:.0f} seconds",
            hint=words("see whether it, and what is between, is well; then ", START_AGAIN),
        )
    return answer.result()
