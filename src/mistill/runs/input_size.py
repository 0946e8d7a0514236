"""How many rows an input has, found out beside the run that reads it."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from mistill.datasets.sources import Source


class InputSize:
    """How many rows a source has: called, it says what is known by now, or ``None``.

    Text files are read through in a thread, for as long as the block lasts.

    Args:
        before: rows that an earlier start found, which is believed until they are counted.
    """

    def __init__(self, source: Source, before: int | None) -> None:
        self._source = source
        self._rows = source.total
        self._is_known = self._rows is not None
        if not self._is_known and before is not None:
            self._rows = source.of_total(before)
        self._is_over = threading.Event()

    def __call__(self) -> int | None:
        return self._rows

    def __enter__(self) -> Self:
        if not self._is_known:
            threading.Thread(target=self._count, name="mistill-input-size", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()

    def _count(self) -> None:
        rows = self._source.count(lambda: not self._is_over.is_set())
        if rows is not None:
            self._rows = rows
