"""A server that fails every row alike: a wrong path, a page that is no API, a setting that it refuses."""

from __future__ import annotations

from mistill.errors import (
    APIError,
    MalformedAnswer,
    MistillError,
    NoRowAnswered,
    RepeatedAnswer,
    TransportError,
)
from mistill.wording import words

ENOUGH_FAILED = 20
"""So many rows that all failed alike, while none was answered, are no chance: what is wrong is wrong for all."""


class FirstFailures:
    """The failures of a run of which no row has ever been answered."""

    def __init__(self) -> None:
        self._alike: tuple[type[MistillError], int | None] | None = None
        self._count = 0

    def add(self, error: MistillError) -> bool:
        """One row failed, and none was answered so far. Returns whether the rows to come would fail too."""
        if not isinstance(error, APIError | TransportError | MalformedAnswer | RepeatedAnswer):
            return False  # it is the row's own, or the run ends by it anyway
        alike = (type(error), error.status if isinstance(error, APIError) else None)
        self._count = self._count + 1 if alike == self._alike else 1
        self._alike = alike
        return self._count >= ENOUGH_FAILED

    def told(self, last: MistillError) -> NoRowAnswered:
        """What ends the run."""
        message = words(
            f"none of the first {self._count} rows was answered, each failed alike: ", last.message
        )
        return NoRowAnswered(message, hint=last.hint or "mend what the server says, and start again")
