"""Answers with nothing in them: what is said of them once, however many there are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from mistill.llms.types import Outcome
from mistill.progress.formatting import count

_log = logging.getLogger("mistill")


class EmptyAnswers:
    """Those of a call, by finish reason."""

    def __init__(self) -> None:
        self._reasons: Counter[str | None] = Counter()

    def add(self, outcome: Outcome) -> None:
        for completion in outcome.completions:
            # `Completion.is_empty`, without a call for every row.
            if completion is not None and not completion.text and not completion.tool_calls:
                self._reasons[completion.finish_reason] += 1

    def warn(self, model: str) -> None:
        """To be called once the call has ended."""
        if self._reasons:
            warn_of_empty(model, self._reasons)


def warn_of_empty(model: str, reasons: Mapping[str | None, int]) -> None:
    """Says how many answers have neither a text nor a tool call; ``reasons``: their finish reasons, at least one."""
    number = sum(reasons.values())
    told = ", ".join(
        f"{reason}" if len(reasons) == 1 else f"{reason} ({times:,})" for reason, times in reasons.items()
    )
    often = "" if number == 1 else f" in {count(number, 'answer')}"
    _log.warning("%s gave no content%s; finish reason: %s", model, often, told)
