"""Records to a table of a database, whose columns get types as those of Parquet do."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any

from mistill.datasets.writers.arrow_writer import ArrowWriter


class TableWriter(ArrowWriter):
    """What goes into a `TableOutput`."""

    @contextmanager
    def _open(self, schema: Any, as_text: Collection[str]) -> Generator[Any]:
        self._stream.begin(schema, as_text)
        yield self._stream
