"""DuckDB, by its own library, as Arrow data. Needs the extra ``sql``."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mistill.datasets import far_places
from mistill.datasets.databases.database import Database, quoted
from mistill.datasets.databases.table_address import TableAddress
from mistill.datasets.far_places import GOES_ON
from mistill.datasets.optional_library import PYARROW, OptionalLibrary
from mistill.datasets.sources.arrow_rows import column_values
from mistill.datasets.sources.json_text import json_decoder
from mistill.errors import InputError

if TYPE_CHECKING:
    from mistill.datasets.sources.row import Input

_DUCKDB = OptionalLibrary("duckdb", extra="sql")
_BATCH_ROWS = 1024
_AS_TEXT: Final = ("INTERVAL", "BIT", "TIME WITH TIME ZONE", "TIMETZ")
"""What Arrow has no type for that reads as one value."""


class DuckDB(Database):
    """A table of a file, or what a query of it gives. A table is read in the order in which it was filled."""

    log_ending: ClassVar = ".wal"

    def __init__(self, address: TableAddress) -> None:
        super().__init__(address)
        self._library = _DUCKDB.load(self.name)
        PYARROW.load(self.name)
        self.errors = (self._library.Error,)

    @contextmanager
    def connected(self, *, to_write: bool) -> Generator[Any]:
        path = self.address.file or ""
        if not to_write and not Path(path).is_file():
            raise InputError(f"{self.name}: no such file")
        with _private_folder(f"{path}.tmp"), closing(self._opened(path, to_write=to_write)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            if to_write:
                # Rows go into the file itself: the log beside it could be read by others than the file, and needs room.
                connection.execute("SET checkpoint_threshold = '1B'")
            yield connection

    def _opened(self, path: str, *, to_write: bool) -> Any:
        """A file is one process's at a time, but for readers: one that is in use may be free in a moment."""
        is_new = not Path(path).exists()
        for wait_s in (*far_places.WAITS_S, None):
            try:
                return self._library.connect(path, read_only=not to_write)
            except self._library.IOException as error:
                if not self.is_taken(error):
                    if is_new:  # on a full disk, it is made and has nothing in it
                        Path(path).unlink(missing_ok=True)
                    raise
                if wait_s is None:
                    raise
            if wait_s != far_places.WAITS_S[0]:  # it is not just for a moment
                self.say_taken(wait_s)
            time.sleep(wait_s)
        raise AssertionError("the last try raises")

    # --- reading ----------------------------------------------------------------------------------------------------

    def described(self, connection: Any) -> tuple[list[str], Mapping[str, Any]]:
        relation = self._relation(connection)
        with closing(_reader(relation)) as reader:
            schema = reader.schema
        json = _json_columns(relation)
        return list(schema.names), {field.name: field.type for field in schema if field.name not in json}

    def records(self, origin: Input, first_index: int) -> Iterator[Mapping[str, Any]]:
        with self.explaining("read", hint=GOES_ON), self.connected(to_write=False) as connection:
            relation = self._relation(connection)
            json, place = _json_columns(relation), 0
            for batch in _reader(relation):
                names = batch.schema.names
                columns = [
                    _decoded(values, is_json=name in json)
                    for name, column in zip(names, batch.columns, strict=True)
                    for values in [column_values(column, name, origin, first_index + place, place)]
                ]
                for values in zip(*columns, strict=True):
                    yield dict(zip(names, values, strict=True))
                place += batch.num_rows

    def _relation(self, connection: Any) -> Any:
        query = self.address.query
        if query is not None:
            self._check_query(connection, query)
        relation = connection.sql(f"FROM {self.source('rows')}" if query is None else query)
        found = zip(relation.columns, map(str, relation.types), strict=True)
        casts = [
            f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name, kind in found if kind in _AS_TEXT
        ]
        return relation.project(f"* REPLACE ({', '.join(casts)})") if casts else relation

    def _check_query(self, connection: Any, query: str) -> None:
        """One that does something else than read would do it to files beside the database too (``COPY … TO``)."""
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != self._library.StatementType.SELECT:
            raise InputError(f"{self.name}: the query is not one SELECT")

    # --- writing ----------------------------------------------------------------------------------------------------

    def schema(self, connection: Any) -> tuple[str, ...]:
        """Of two names, the first is a schema's or that of the file itself."""
        around = self.address.table[:-1]
        if len(around) > 1:
            return around
        file, usual = connection.execute("SELECT current_database(), current_schema()").fetchone()
        if not around:
            return file, usual
        (name,) = around
        if name.lower() != file.lower():
            return file, name
        if name.lower() != usual and self._has_schema(connection, (file, name)):
            raise InputError(
                f"{self.name}: {name} is the file and a schema in it",
                hint=f"name both: {file}.{name} or {file}.{usual} before the table's name",
            )
        return file, usual

    def name_there(self, connection: Any) -> str | None:
        names = [name.lower() for name in (*self.schema(connection), self.address.table[-1])]
        found = connection.execute(
            "SELECT table_name FROM information_schema.tables "
            "WHERE [lower(table_catalog), lower(table_schema), lower(table_name)] = ?",
            [names],
        ).fetchone()
        return None if found is None else found[0]

    def check_writable(self, connection: Any) -> None:
        schema = self.schema(connection)
        if not self._has_schema(connection, schema):
            raise InputError(f"{self.name}: there is no schema {'.'.join(schema)}")
        self.rehearse_swap(connection)

    def _has_schema(self, connection: Any, names: Sequence[str]) -> bool:
        (found,) = connection.execute(
            "SELECT count(*) FROM information_schema.schemata WHERE [lower(catalog_name), lower(schema_name)] = ?",
            [[name.lower() for name in names]],
        ).fetchone()
        return found > 0

    def is_taken(self, error: Exception) -> bool:
        return isinstance(error, self._library.IOException) and "lock" in str(error)

    def is_refusal(self, error: Exception) -> bool:
        library = self._library
        return isinstance(error, library.CatalogException | library.ParserException | library.BinderException)

    def is_empty(self, connection: Any) -> bool:
        (found,) = connection.execute("SELECT count(*) FROM information_schema.tables").fetchone()
        return not found

    def is_json(self, kind: Any) -> bool:  # noqa: ARG002  it has a type for each
        return False

    def column_types(self, connection: Any, kinds: Sequence[Any], as_json: Sequence[bool]) -> list[str]:
        schema = PYARROW.load("writing a table").schema(
            [(f"c{place}", kind) for place, kind in enumerate(kinds)]
        )
        found = connection.from_arrow(schema.empty_table()).types
        return ["JSON" if is_json else str(kind) for kind, is_json in zip(found, as_json, strict=True)]

    def make_file(self, path: Path) -> None:
        with closing(self._opened(str(path), to_write=True)):  # an empty file is none to it
            path.chmod(0o600)

    def commit(self, connection: Any) -> None:
        super().commit(connection)
        # Where the disk is full, closing leaves it in the log beside the file, and says nothing.
        connection.execute("CHECKPOINT")

    def insert(self, connection: Any, table: str, batch: Any, as_json: Sequence[bool]) -> None:  # noqa: ARG002  it reads JSON itself
        connection.register("mistill_batch", batch)
        connection.execute(f"INSERT INTO {table} SELECT * FROM mistill_batch")
        connection.unregister("mistill_batch")


@contextmanager
def _private_folder(path: str) -> Generator[None]:
    """Where DuckDB puts what does not fit into memory: it would make one that others may read."""
    with suppress(OSError):
        Path(path).mkdir(0o700)
    try:
        yield
    finally:
        with suppress(OSError):  # another process uses it, or nothing can be written there
            Path(path).rmdir()


def _reader(relation: Any) -> Any:
    """Rows as they are made. The method had another name before DuckDB 1.4."""
    return getattr(relation, "to_arrow_reader", relation.fetch_arrow_reader)(_BATCH_ROWS)


def _json_columns(relation: Any) -> frozenset[str]:
    kinds = zip(relation.columns, map(str, relation.types), strict=True)
    return frozenset(name for name, kind in kinds if kind == "JSON")


_decode = json_decoder().decode


def _decoded(values: list[Any], *, is_json: bool) -> list[Any]:
    return [None if value is None else _decode(value) for value in values] if is_json else values
