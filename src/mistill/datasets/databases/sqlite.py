"""SQLite, by Python's own module."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from mistill.datasets.databases.database import python_columns, quoted
from mistill.datasets.databases.paged_database import PAGE_ROWS, PagedDatabase
from mistill.datasets.optional_library import PYARROW
from mistill.errors import InputError

_WAIT_S = 30.0
"""For a lock that another process holds."""
_MOMENT_S = 1.0
"""So long as another process writes as a rule, nothing is said of it."""
_ROW_IDS = ("rowid", "_rowid_", "oid")


class SQLite(PagedDatabase):
    """A table of a file. It keeps what a value is, not what a column is: dates are text, booleans 0 and 1."""

    errors = (sqlite3.Error, sqlite3.Warning)
    placeholder: ClassVar = "?"

    @contextmanager
    def connected(self, *, to_write: bool) -> Generator[Any]:
        path = Path(self.address.file or "")
        if not to_write and not path.is_file():
            raise InputError(f"{self.name}: no such file")
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if to_write else 'ro'}"
        # Opened by one thread and read by another, never by two at once.
        connection = sqlite3.connect(
            uri, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
        with closing(connection):
            connection.text_factory = _text
            connection.execute(f"PRAGMA query_only = {'off' if to_write else 'on'}")
            self._once_free(connection, "SELECT 1 FROM sqlite_master LIMIT 1")
            yield connection

    def _once_free(self, connection: Any, statement: str) -> None:
        """What needs a lock, that another process may have for some time: then it is said that it is waited for."""
        connection.execute(f"PRAGMA busy_timeout = {_MOMENT_S * 1000:.0f}")
        try:
            connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if not self.is_taken(error):
                raise
            self.say_taken(_WAIT_S)
        else:
            return
        finally:
            connection.execute(f"PRAGMA busy_timeout = {_WAIT_S * 1000:.0f}")
        connection.execute(statement).fetchall()

    def is_taken(self, error: Exception) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def described(self, connection: Any) -> tuple[list[str], Mapping[str, Any]]:
        found = connection.execute(f"SELECT * FROM {self.source('described')} LIMIT 0")
        return [column[0] for column in found.description], {}

    def key(self, connection: Any, columns: Sequence[str]) -> list[str]:
        taken = {column.lower() for column in columns}
        row_id = next((name for name in _ROW_IDS if name not in taken), None)
        if row_id is not None:
            try:
                connection.execute(f"SELECT {row_id} FROM {self.table} WHERE {row_id} IS NOT NULL LIMIT 1")
            except sqlite3.OperationalError:  # it is WITHOUT ROWID, or a view
                pass
            else:
                return [row_id] if self._is_table(connection) else []
        # A primary key may be null in SQLite, but for tables without a rowid.
        found = connection.execute(
            'SELECT name, "notnull" FROM pragma_table_info(?, ?) WHERE pk > 0 ORDER BY pk', self._place
        ).fetchall()
        return [quoted(name) for name, _ in found] if all(not_null for _, not_null in found) else []

    def _is_table(self, connection: Any) -> bool:
        """Of a view, rowid is null or that of some table in it."""
        name, schema = self._place
        found = connection.execute(
            f"SELECT type FROM {quoted(schema)}.sqlite_master WHERE lower(name) = lower(?)", (name,)
        ).fetchone()
        return found is not None and found[0] == "table"

    @property
    def _place(self) -> tuple[str, str]:
        *schema, name = self.address.table
        return name, schema[0] if schema else "main"

    @contextmanager
    def cursor(self, connection: Any, query: str) -> Generator[Iterator[Sequence[Any]]]:
        found = connection.cursor()
        found.arraysize = PAGE_ROWS
        yield found.execute(query)

    # --- writing ----------------------------------------------------------------------------------------------------

    def has_table(self, connection: Any) -> bool:
        name, schema = self._place
        known = f"SELECT 1 FROM {quoted(schema)}.sqlite_master"
        query = f"{known} WHERE lower(name) = lower(?) AND type IN ('table', 'view')"
        return connection.execute(query, (name,)).fetchone() is not None

    def check_writable(self, connection: Any) -> None:
        self.begin(connection)
        connection.execute("ROLLBACK")

    def begin(self, connection: Any) -> None:
        self._once_free(connection, "BEGIN IMMEDIATE")

    def is_empty(self, connection: Any) -> bool:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("BEGIN EXCLUSIVE")
        return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None

    def column_type(self, kind: Any, *, is_json: bool) -> str:
        types = PYARROW.load("writing a table").types
        if types.is_boolean(kind) or (types.is_integer(kind) and not types.is_uint64(kind)):
            return "INTEGER"
        if types.is_floating(kind):
            return "REAL"
        is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
        return "BLOB" if is_bytes and not is_json else "TEXT"

    def is_json(self, kind: Any) -> bool:
        return PYARROW.load("writing a table").types.is_nested(kind)

    def insert(self, connection: Any, table: str, batch: Any, as_json: Sequence[bool]) -> None:
        columns = python_columns(batch, as_json)
        places = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", zip(*columns, strict=True))


def _text(raw: bytes) -> str:
    """SQLite takes for text whatever it is told is text."""
    return raw.decode(errors="replace")
