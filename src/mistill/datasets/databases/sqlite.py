"""SQLite, by Python's own module."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from mistill.datasets.databases.database import python_columns, quoted
from mistill.datasets.databases.paged_database import PAGE_ROWS, KeyColumn, PagedDatabase
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
    text_or_comment: ClassVar = re.compile(
        r"""'(?:''|[^'])*' | "(?:""|[^"])*" | `(?:``|[^`])*` | \[[^\]]*\]
            | (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))""",
        re.DOTALL | re.VERBOSE,
    )

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
            # Else a new name is refused where any view or trigger of the file names what is not there, as the table
            # is not.
            connection.execute("PRAGMA legacy_alter_table = on")
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

    def is_refusal(self, error: Exception) -> bool:
        return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) == sqlite3.SQLITE_ERROR

    def described(self, connection: Any) -> tuple[list[str], Mapping[str, Any]]:
        found = connection.execute(f"SELECT * FROM {self.source('described')} LIMIT 0")
        return [column[0] for column in found.description], {}

    def key(self, connection: Any, columns: Sequence[str]) -> list[KeyColumn]:
        taken = {column.lower() for column in columns}
        row_id = next((name for name in _ROW_IDS if name not in taken), None)
        if row_id is not None:
            try:
                connection.execute(f"SELECT {row_id} FROM {self.table} WHERE {row_id} IS NOT NULL LIMIT 1")
            except sqlite3.OperationalError:  # it is WITHOUT ROWID, or a view
                pass
            else:
                # Of a view, it is null or that of some table in it.
                number = f'"rows".{row_id}'
                return [KeyColumn(number, (number,), "?")] if self._found(connection)[1] == "table" else []
        return self._primary_key(connection)

    def _primary_key(self, connection: Any) -> list[KeyColumn]:
        """By the collations of its index, which may be others than those of its columns. Empty where it may be null, as
        it may but in tables without a rowid, and where texts are in UTF-16: one that is none cannot be given again."""
        indexes = connection.execute(
            "SELECT name FROM pragma_index_list(?, ?) WHERE origin = 'pk'", self._place
        )
        index, (encoding,) = indexes.fetchone(), connection.execute("PRAGMA encoding").fetchone()
        if index is None or encoding != "UTF-8":
            return []
        _, schema = self._place
        key = connection.execute(
            "SELECT name, coll FROM pragma_index_xinfo(?, ?) WHERE key ORDER BY seqno", (*index, schema)
        ).fetchall()
        never_null = connection.execute(
            'SELECT name FROM pragma_table_info(?, ?) WHERE "notnull"', self._place
        ).fetchall()
        if not all((name,) in never_null for name, _ in key):
            return []
        return [_exact(name, collation) for name, collation in key]

    def _found(self, connection: Any) -> tuple[str | None, str | None]:
        """Its name as it was made, and what it is: ``table``, ``view``; ``None`` where there is none."""
        name, schema = self._place
        found = connection.execute(
            f"SELECT name, type FROM {quoted(schema)}.sqlite_master "
            "WHERE lower(name) = lower(?) AND type IN ('table', 'view')",
            (name,),
        ).fetchone()
        return (None, None) if found is None else found

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

    def name_there(self, connection: Any) -> str | None:
        return self._found(connection)[0]

    def check_writable(self, connection: Any) -> None:
        name, schema = self._place
        if schema.lower() != "main":  # a table of temp is in no file, and gone as soon as it is written
            raise InputError(f"{self.name}: there is no schema {schema} in a file", hint=f"write into {name}")
        if self._found(connection)[1] == "view":
            raise self.not_replaced("it is a view")
        self.rehearse_swap(connection)

    def rehearse_swap(self, connection: Any) -> None:
        with self.taken_back(connection):
            if self.name_there(connection) is not None:  # to drop it takes as long as it is large
                unused = self.unused_name(connection).rpartition(".")[2]
                connection.execute(f"ALTER TABLE {self.table} RENAME TO {unused}")
            self.swap(connection, self.create_any(connection))

    def begin(self, connection: Any) -> None:
        self._once_free(connection, "BEGIN IMMEDIATE")

    def is_empty(self, connection: Any) -> bool:
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if self.is_taken(error):
                return False
            # The disk is full, for whoever else has the file too.
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


def _exact(name: str, collation: str) -> KeyColumn:
    """A column may have values of any type, and texts that are none. As bytes, a text is what it is in the file; what a
    function gives has no affinity, so that the database compares it as it is."""
    column = f'"rows".{quoted(name)}'
    return KeyColumn(
        order=f"{column} COLLATE {quoted(collation)}",
        kept=(
            f"CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) END",
            f"CASE typeof({column}) WHEN 'text' THEN NULL ELSE {column} END",
        ),
        given="coalesce(CAST(? AS TEXT), ?)",
    )


def _text(raw: bytes) -> str:
    """SQLite takes for text whatever it is told is text."""
    return raw.decode(errors="replace")
