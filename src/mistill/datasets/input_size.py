"""How many rows an input has, found out beside the run that reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mistill.datasets.sources import Source


class InputSize:
    """How many rows a source has: called, it says what is known by now, or ``None``.

    Args:
        before: rows that an earlier start found, which is believed until they are counted.

    Attributes:
        on_found: is called, from the thread that counts, when it is known.
    """

    def __init__(self, source: Source, before: int | None = None) -> None:
        self.on_found: Callable[[], object] | None = None
        self._source = source
        self._is_over = threading.Event()
        self._is_over.set()
        self._rows = source.total
        self._is_known = self._rows is not None
        if not self._is_known and before is not None:
            self._rows = source.of_total(before)

    def __call__(self) -> int | None:
        return self._rows

    @contextmanager
    def wanted(self) -> Generator[None]:
        """Somebody may want to know, for as long as the block lasts."""
        self._is_over.clear()
        try:
            yield
        finally:
            self._is_over.set()

    def find(self) -> None:
        """Somebody wants to know: reads text files through in a thread, once, for as long as it is `wanted`."""
        if not self._is_known and not self._is_over.is_set():
            self._is_known = True
            threading.Thread(target=self._count, name="mistill-input-size", daemon=True).start()

    def _count(self) -> None:
        rows = self._source.count(lambda: not self._is_over.is_set())
        if rows is not None:
            self._rows = rows
            if self.on_found is not None:
                self.on_found()
