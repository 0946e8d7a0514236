"""A blocking call of many rows, shown while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mistill.delivery.governor import AnyGovernor
from mistill.llms.event_loop import background
from mistill.llms.types import Outcome
from mistill.progress.display import Display
from mistill.progress.progress import Progress
from mistill.progress.view import Watch

T = TypeVar("T")
Count = Callable[[Outcome], object]

_SHOWN_AFTER_S = 1.0


def run_call(
    call: Callable[[Count | None], Coroutine[Any, Any, T]],
    rows: int,
    governor: AnyGovernor,
    display: Display,
    *,
    at_once: int,
) -> T:
    """Runs ``call`` to its end. It is given what counts each row's outcome, where anybody wants to know.

    Args:
        at_once: requests that may be in flight.
    """
    if not rows or not display.is_wanted:
        return background.run(call(None))
    progress = Progress(total=rows, started_at_s=time.monotonic())
    with display.showing(Watch(progress, governor.snapshot, at_once=lambda: at_once), after_s=_SHOWN_AFTER_S):
        return background.run(call(progress.add))
