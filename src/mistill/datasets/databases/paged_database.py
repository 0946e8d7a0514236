"""Databases that are read by a driver of Python: a page at a time by a key, or all by one cursor."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from mistill.datasets.databases import database
from mistill.datasets.databases.database import GOES_ON, Database

if TYPE_CHECKING:
    from mistill.datasets.sources.row import Input

PAGE_ROWS = 1000


class PagedDatabase(Database):
    """A table that has a key is read in pages, each a short transaction of its own: a run may take hours, and holds no
    snapshot and no lock meanwhile; a connection that breaks is made anew. What has none, and a query, is one cursor.

    Attributes:
        placeholder: of a parameter in SQL. ``passing``: errors of a connection that broke.
    """

    placeholder: ClassVar[str]
    passing: tuple[type[Exception], ...] = ()

    @abstractmethod
    def key(self, connection: Any, columns: Sequence[str]) -> list[str]:
        """What orders the rows of the table, and is another and not null in each, quoted; empty where nothing is."""

    def literal(self, names: str) -> str:
        """Names in a query that has placeholders in it."""
        return names

    @abstractmethod
    def cursor(self, connection: Any, query: str) -> AbstractContextManager[Iterator[Sequence[Any]]]:
        """What a query gives, some rows at a time."""

    def records(self, origin: Input, first_index: int) -> Iterator[Mapping[str, Any]]:  # noqa: ARG002  each value is whole
        with self.explaining("read", hint=GOES_ON):
            with self.connected(to_write=False) as connection:
                columns, _ = self.described(connection)
                key = [] if self.address.query is not None else self.key(connection, columns)
            for values in self._pages(key) if key else self._all():
                yield dict(zip(columns, values, strict=True))

    def unordered(self, connection: Any) -> str | None:
        if self.address.query is not None:
            return super().unordered(connection)
        columns, _ = self.described(connection)
        return None if self.key(connection, columns) else "the table has no key"

    def _all(self) -> Iterator[Sequence[Any]]:
        query = f"SELECT * FROM {self.table}" if self.address.query is None else self.address.query
        with self.connected(to_write=False) as connection, self.cursor(connection, query) as rows:
            yield from rows

    def _pages(self, key: Sequence[str]) -> Iterator[Sequence[Any]]:
        after: Sequence[Any] = ()
        waits = iter(database.WAITS_S)
        while True:
            try:
                with self.connected(to_write=False) as connection:
                    while page := connection.execute(self._page_query(key, after), tuple(after)).fetchall():
                        for row in page:
                            yield row[len(key) :]
                        after, waits = page[-1][: len(key)], iter(database.WAITS_S)
            except self.passing:
                wait_s = next(waits, None)
                if wait_s is None:
                    raise
                time.sleep(wait_s)
            else:
                return

    def _page_query(self, key: Sequence[str], after: Sequence[Any]) -> str:
        keys = self.literal(", ".join(key))
        beyond = f"WHERE ({keys}) > ({', '.join([self.placeholder] * len(key))}) " if after else ""
        rows = f'{self.literal(self.table)} AS "rows"'  # SQLite knows no schema.name.*
        return f'SELECT {keys}, "rows".* FROM {rows} {beyond}ORDER BY {keys} LIMIT {PAGE_ROWS}'
