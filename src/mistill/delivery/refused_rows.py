"""Rows that the server refuses for themselves, whatever it says: their refusals concern nobody else."""

from __future__ import annotations

from collections.abc import Hashable

from mistill.delivery.tuning import Tuning

_MAX_ROWS = 1 << 16
"""So many are remembered. One that was forgotten is only taken for any other."""


class RefusedRows:
    """Which rows were refused (429) again though many others were accepted since, and few refused.

    A used-up quota refuses whoever comes; a row that is refused each time among rows that are not is refused for
    itself.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._first: dict[Hashable, tuple[int, int]] = {}
        self._alone: set[Hashable] = set()

    def refused(
        self, row: Hashable, *, answered: int, refused: int, nobody_else: bool, asked_s: float | None
    ) -> bool:
        """Notes a refusal that nothing explains; True if it is of this row alone.

        Args:
            answered, refused: how many requests have been so far, this one included.
            nobody_else: no other request is in flight or waits.
            asked_s: how long the server wants the row to wait.
        """
        if row in self._alone:
            return True
        first = self._first.get(row)
        if first is None:
            if len(self._first) >= _MAX_ROWS:
                self._first.clear()
            self._first[row] = (answered, refused)
            return False
        others_refused = refused - first[1]
        stands_alone = answered - first[0] >= self._tuning.scatter_accepted * others_refused
        # What is asked of all is asked of this one where there is no other: no row waits for so long.
        is_hopeless = nobody_else and (asked_s or 0.0) > self._tuning.max_retry_after_s
        if not (stands_alone or is_hopeless):
            return False
        if len(self._alone) >= _MAX_ROWS:
            self._alone.clear()
        self._alone.add(row)
        del self._first[row]
        return True
