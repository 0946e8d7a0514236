"""The rows of a table, or of a query."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.databases.database import database_of
from mistill.datasets.sources.row import Row
from mistill.errors import InputError

_log = logging.getLogger("mistill")


class TableReader:
    """Rows of a database, in constant memory, by a connection that can change nothing. ``where`` counts rows from 0.

    Args:
        address: of the table.

    Raises:
        InputError: there is no such database or table, it cannot be reached, or a library is missing.
    """

    repeatable = True
    is_far = True

    def __init__(self, address: str) -> None:
        self._database = database_of(address)
        self.name = self._database.name
        with self._database.explaining("read"), self._database.connected(to_write=False) as connection:
            names, self._types = self._database.described(connection)
            self._columns = check_columns_once(names, self.name)
            self._unordered = self._database.unordered(connection)

    @property
    def folders(self) -> Sequence[Path]:
        return ()

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        return self._types

    def features(self) -> Mapping[str, Any]:
        return {}

    def total(self) -> None:
        return None

    def count(self, wanted: Callable[[], bool]) -> int | None:
        try:
            with self._database.explaining("read"), self._database.connected(to_write=False) as connection:
                return self._database.count(connection) if wanted() else None
        except InputError:  # whoever reads the rows is told
            return None

    def where(self, place: int) -> str:
        return f"{self.name} row {place - 1}"

    def rows(self, first_index: int) -> Iterator[Row]:
        if self._unordered is not None:
            _log.warning(
                "%s: %s, so its rows may come in another order next time; a run goes on all the same, since rows are "
                "known by what is in them",
                self.name,
                self._unordered,
            )
        for place, record in enumerate(self._database.records(self, first_index), 1):
            yield Row.of(record, self, first_index + place - 1, place)
