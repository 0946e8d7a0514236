"""Databases that are read by a driver of Python: a page at a time by a key, or all by one cursor."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mistill.datasets import far_places
from mistill.datasets.databases.database import Database
from mistill.datasets.far_places import GOES_ON
from mistill.errors import InputError

if TYPE_CHECKING:
    from mistill.datasets.sources.row import Input

PAGE_ROWS = 1000


class KeyColumn(Struct, frozen=True):
    """One column of a key, in SQL. A value that is read and given again has to be the very same for the database: else
    rows come twice, or not at all.

    Attributes:
        order: what rows are ordered by, and compared.
        kept: what is read of it, so that nothing of the value is lost on the way through Python.
        given: the value again, with a placeholder for each of ``kept``.
    """

    order: str
    kept: tuple[str, ...]
    given: str


class PagedDatabase(Database):
    """A table that has a key is read in pages, each a short transaction of its own: a run may take hours, and holds no
    snapshot and no lock meanwhile; a connection that breaks is made anew. What has none, and a query, is one cursor.

    Attributes:
        passing: errors of a connection that broke.
    """

    passing: tuple[type[Exception], ...] = ()

    @abstractmethod
    def key(self, connection: Any, columns: Sequence[str]) -> list[KeyColumn]:
        """What orders the rows of the table ``"rows"``, and is another and not null in each; empty where nothing is.

        Another by what orders it: two values may be equal by one collation, and not by another.
        """

    @abstractmethod
    def column_type(self, kind: Any, *, is_json: bool) -> str:
        """As `column_types`, of one."""

    def column_types(self, connection: Any, kinds: Sequence[Any], as_json: Sequence[bool]) -> list[str]:  # noqa: ARG002  they are in a table of ours
        return [self.column_type(kind, is_json=is_json) for kind, is_json in zip(kinds, as_json, strict=True)]

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

    def _pages(self, key: Sequence[KeyColumn]) -> Iterator[Sequence[Any]]:
        width = sum(len(column.kept) for column in key)
        last: Sequence[Sequence[Any]] = ()
        waits = iter(far_places.WAITS_S)
        while True:
            try:
                with self.connected(to_write=False) as connection:
                    while page := self._page(connection, key, last[-1][:width] if last else ()):
                        self._check_goes_on(page[0][:width], (row[:width] for row in last))
                        for row in page:
                            yield row[width:]
                        last, waits = page, iter(far_places.WAITS_S)
            except self.passing:
                wait_s = next(waits, None)
                if wait_s is None:
                    raise
                time.sleep(wait_s)
            else:
                return

    def _page(
        self, connection: Any, key: Sequence[KeyColumn], after: Sequence[Any]
    ) -> Sequence[Sequence[Any]]:
        order = self.literal(", ".join(column.order for column in key))
        kept = self.literal(", ".join(one for column in key for one in column.kept))
        beyond = f"WHERE ({order}) > ({', '.join(column.given for column in key)}) " if after else ""
        rows = f'{self.literal(self.table)} AS "rows"'  # SQLite knows no schema.name.*
        query = f'SELECT {kept}, "rows".* FROM {rows} {beyond}ORDER BY {order} LIMIT {PAGE_ROWS}'
        return connection.execute(query, tuple(after)).fetchall()

    def _check_goes_on(self, first: Sequence[Any], before: Iterable[Sequence[Any]]) -> None:
        """A row that came already would come for ever, and each round might be paid for."""
        if any(one == first for one in before):
            raise InputError(
                f"{self.name}: rows come again, by a key that the database orders in another way than it compares it",
                hint="read it by a query, which is one transaction: ?query=SELECT … FROM … ORDER BY …",
            )
