"""PostgreSQL, by psycopg. Needs the extra ``sql``.

Not by ADBC: that hands over what Arrow has no type for (``inet``, ranges, enumerations) as the bytes of the wire, and
``money`` as a hundred times the amount.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from mistill.datasets.databases.database import python_columns, quoted, told_by
from mistill.datasets.databases.paged_database import PAGE_ROWS, KeyColumn, PagedDatabase
from mistill.datasets.databases.table_address import TableAddress
from mistill.datasets.optional_library import PYARROW, OptionalLibrary
from mistill.datasets.sources.json_text import json_decoder
from mistill.errors import InputError

_PSYCOPG = OptionalLibrary("psycopg", extra="sql")
_CONNECT_S = 30
_SETTINGS: Final = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=3"
"""So that a row reads the same whoever reads it: another text would be another row."""
_TO_CONVERT: Final = (
    "its database has the encoding SQL_ASCII, by which the server converts nothing: read it by a ?query= that does, "
    "such as SELECT convert_from(convert(convert_to(name, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'SQL_ASCII') AS name FROM …"
)
_MAX_NAME_BYTES = 63
_LOCK_S = 1
"""While it is only tried whether a table can be replaced: who wants it meanwhile waits behind us."""
_AS_TEXT: Final = (
    "interval", "inet", "cidr", "int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange",
    "int4multirange", "int8multirange", "nummultirange", "datemultirange", "tsmultirange", "tstzmultirange",
)  # fmt: skip
"""What Python's types would round (an interval with months) or JSON has no form for."""
_MAY_BE_BEYOND: Final = ("date", "timestamp", "timestamptz")
"""Of years that Python has not, and ``infinity``."""
_PLAIN_TYPES: Final = {
    "bool": "bool_", "int2": "int16", "int4": "int32", "int8": "int64", "float4": "float32", "float8": "float64",
    "date": "date32", "bytea": "binary", "text": "string", "varchar": "string",
}  # fmt: skip
_MAX_DECIMAL_DIGITS = 38


class PostgreSQL(PagedDatabase):
    """A table of a server, or what a query of it gives: that is one read-only transaction, as long as the run reads."""

    folds_case: ClassVar = False

    def __init__(self, address: TableAddress) -> None:
        super().__init__(address)
        for name in address.table:
            if len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
                raise InputError(
                    f"{self.name}: PostgreSQL cuts names to {_MAX_NAME_BYTES} bytes, and that may be another table's: "
                    f"{name!r} is longer",
                    hint="give the name as the server has it",
                )
        self._psycopg = _PSYCOPG.load(self.name)
        self.errors = (self._psycopg.Error,)
        self.passing = (self._psycopg.OperationalError,)

    @contextmanager
    def connected(self, *, to_write: bool) -> Generator[Any]:
        given = {"user": self.address.user, "password": self.address.password}
        only = "" if to_write else " -c default_transaction_read_only=on"
        connection = self._psycopg.connect(
            f"postgresql://{self.address.host}",
            **{name: value for name, value in given.items() if value is not None},
            autocommit=True,
            client_encoding="utf8",  # else texts of a database in SQL_ASCII are bytes
            connect_timeout=_CONNECT_S,
            application_name="mistill",
            options=_SETTINGS + only,
        )
        with connection:
            self._read_exactly(connection)
            yield connection

    @contextmanager
    def explaining(self, doing: str, *, hint: str | None = None) -> Generator[None]:
        with super().explaining(doing, hint=hint):
            try:
                yield
            except self._psycopg.errors.CharacterNotInRepertoire as error:
                raise InputError(
                    f"{self.name}: cannot be {doing}: {told_by(error)}", hint=_TO_CONVERT
                ) from None

    def _read_exactly(self, connection: Any) -> None:
        """Values are read with all their digits, and as text where Python has no type that holds them."""
        json = _PSYCOPG.load(self.name, "psycopg.types.json")
        json.set_json_loads(_json_value, connection)
        text = _PSYCOPG.load(self.name, "psycopg.types.string").TextLoader
        adapters = connection.adapters
        for name in _AS_TEXT:
            adapters.register_loader(name, text)
        for name in _MAY_BE_BEYOND:
            usual = adapters.get_loader(adapters.types[name].oid, self._psycopg.pq.Format.TEXT)
            adapters.register_loader(name, _text_beyond(self._psycopg, usual))

    # --- reading ----------------------------------------------------------------------------------------------------

    def described(self, connection: Any) -> tuple[list[str], Mapping[str, Any]]:
        found = connection.execute(f"SELECT * FROM {self.source('described')} LIMIT 0").description
        return [column.name for column in found], {} if not PYARROW.is_there else self._types(
            connection, found
        )

    def _types(self, connection: Any, columns: Sequence[Any]) -> Mapping[str, Any]:
        arrow = PYARROW.load(f"reading {self.name}")
        made: dict[str, Any] = {
            "timestamp": arrow.timestamp("us"),
            "timestamptz": arrow.timestamp("us", tz="UTC"),
            "time": arrow.time64("us"),
        }
        found: dict[str, Any] = {}
        for column in columns:
            known = connection.adapters.types.get(column.type_code)
            name = None if known is None or known.array_oid == column.type_code else known.name
            if name == "numeric" and column.precision is not None and column.scale is not None:
                if column.precision <= _MAX_DECIMAL_DIGITS and 0 <= column.scale <= column.precision:
                    found[column.name] = arrow.decimal128(column.precision, column.scale)
            elif name in made:
                found[column.name] = made[name]
            elif name in _PLAIN_TYPES:
                found[column.name] = getattr(arrow, _PLAIN_TYPES[name])()
        return found

    def key(self, connection: Any, columns: Sequence[str]) -> list[KeyColumn]:  # noqa: ARG002  as of any database
        """The primary key, else the smallest unique index without nulls that orders as its columns do; none where other
        tables inherit from this one, whose rows it has too: they may have the same."""
        inherited = connection.execute(
            """
            SELECT EXISTS (
                SELECT FROM pg_inherits i, pg_class c
                WHERE i.inhparent = to_regclass(%s) AND c.oid = i.inhparent AND c.relkind <> 'p'
            )
            """,
            (self.table,),
        ).fetchone()
        if inherited == (True,):
            return []
        found = connection.execute(
            """
            SELECT array_agg(a.attname::text ORDER BY k.place), array_agg(
                CASE WHEN t.typtype <> 'd' THEN format_type(a.atttypid, a.atttypmod) END ORDER BY k.place
            )
            FROM pg_index i, pg_attribute a, pg_type t, pg_opclass o,
                 unnest(i.indkey, i.indcollation, i.indclass) WITH ORDINALITY AS k(number, coll, class, place)
            WHERE i.indrelid = to_regclass(%s) AND a.attrelid = i.indrelid AND a.attnum = k.number
              AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
              AND k.place <= i.indnkeyatts AND t.oid = a.atttypid AND o.oid = k.class
            GROUP BY i.indexrelid, i.indisprimary
            HAVING bool_and(a.attnotnull AND o.opcdefault AND k.coll = a.attcollation)
            ORDER BY i.indisprimary DESC, count(*), i.indexrelid
            LIMIT 1
            """,
            (self.table,),
        ).fetchone()
        return [] if found is None else [self._exact(*one) for one in zip(*found, strict=True)]

    def _exact(self, name: str, kind: str | None) -> KeyColumn:
        """The text of a value is the same value again for the server, of any type: Python has no type for some, and a
        ``real`` from it is another number. Without a ``kind``, of a domain, the server finds what is meant."""
        column = f'"rows".{quoted(name)}'
        given = "%s" if kind is None else f"CAST(%s AS {self.literal(kind)})"
        return KeyColumn(column, (f"{column}::text",), given)

    def literal(self, names: str) -> str:
        return names.replace("%", "%%")

    @contextmanager
    def cursor(self, connection: Any, query: str) -> Generator[Iterator[Sequence[Any]]]:
        connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction(), connection.cursor(name="mistill") as found:
            found.itersize = PAGE_ROWS
            found.execute(query)
            yield iter(found)

    # --- writing ----------------------------------------------------------------------------------------------------

    def schema(self, connection: Any) -> tuple[str, ...]:
        """Where none is named, that of the table which the search path finds; else where it makes one."""
        if self.address.table[:-1]:
            return self.address.table[:-1]
        (found,) = connection.execute(
            """
            SELECT coalesce(
                (SELECT n.nspname FROM pg_class c, pg_namespace n
                 WHERE c.oid = to_regclass(%s) AND n.oid = c.relnamespace),
                current_schema()
            )
            """,
            (self.table,),
        ).fetchone()
        return () if found is None else (found,)

    def name_there(self, connection: Any) -> str | None:
        (found,) = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (self.table,)).fetchone()
        return self.address.table[-1] if found else None

    def check_writable(self, connection: Any) -> None:
        name = next(reversed(self.schema(connection)), None)
        found = connection.execute(
            "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = %s", (name,)
        ).fetchone()
        if found is None:
            raise InputError(f"{self.name}: there is no schema {name or 'to make it in'}")
        if found == (False,):
            raise InputError(f"{self.name}: this user may make no table in the schema {name}")
        self._check_apart(connection)
        connection.execute(f"SET lock_timeout = '{_LOCK_S * 1000:.0f}ms'")
        try:
            self.rehearse_swap(connection)
        except self._psycopg.errors.LockNotAvailable:
            pass  # somebody has it for the moment; at the end it is waited for
        except self._psycopg.errors.DependentObjectsStillExist as error:
            named = (error.diag.message_detail or told_by(error)).splitlines()
            raise self.not_replaced("; ".join(named)) from None

    def _check_apart(self, connection: Any) -> None:
        """A table that is part of another one, or has parts, would be replaced without a word of them."""
        found = connection.execute(
            """
            SELECT c.relkind = 'p', (
                SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
                FROM pg_inherits i WHERE i.inhrelid = c.oid
            )
            FROM pg_class c WHERE c.oid = to_regclass(%s)
            """,
            (self.table,),
        ).fetchone()
        has_parts, wholes = found or (False, None)
        if wholes is not None:
            raise self.not_replaced(f"its rows are rows of {wholes} too", f"take it out of {wholes}")
        if has_parts:
            raise self.not_replaced("its rows are in partitions, which would go with it")

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, self._psycopg.ProgrammingError | self._psycopg.errors.TooManyColumns)

    def is_json(self, kind: Any) -> bool:
        types = PYARROW.load("writing a table").types
        if types.is_struct(kind) or types.is_map(kind) or types.is_union(kind):
            return True
        return hasattr(kind, "value_field") and types.is_nested(kind.value_type)

    def column_type(self, kind: Any, *, is_json: bool) -> str:
        if is_json:
            return "jsonb"
        types = PYARROW.load("writing a table").types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if hasattr(kind, "value_field"):
            return f"{self.column_type(kind.value_type, is_json=False)}[]"
        if types.is_decimal(kind):
            return f"numeric({kind.precision},{kind.scale})"
        if types.is_timestamp(kind):
            return "timestamp" if kind.tz is None else "timestamptz"
        return next(
            (name for name, is_it in _NAMES.items() if any(getattr(types, one)(kind) for one in is_it)),
            "text",
        )

    def insert(self, connection: Any, table: str, batch: Any, as_json: Sequence[bool]) -> None:
        columns = [
            [_without_nul(value, is_json=is_json) for value in values]
            if is_json or _holds_text(field.type)
            else values
            for values, is_json, field in zip(
                python_columns(batch, as_json), as_json, batch.schema, strict=True
            )
        ]
        with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
            for row in zip(*columns, strict=True):
                copy.write_row(row)


_NAMES: Final = {
    "boolean": ("is_boolean",),
    "smallint": ("is_int8", "is_uint8", "is_int16"),
    "integer": ("is_uint16", "is_int32"),
    "bigint": ("is_uint32", "is_int64"),
    "numeric(20,0)": ("is_uint64",),
    "real": ("is_float16", "is_float32"),
    "double precision": ("is_float64",),
    "bytea": ("is_binary", "is_large_binary", "is_fixed_size_binary"),
    "date": ("is_date",),
    "time": ("is_time",),
    "interval": ("is_duration",),
}
"""Types in SQL, by the tests of pyarrow's that they are for."""

_decode = json_decoder().decode


def _json_value(data: str | bytes) -> Any:
    return _decode(data if isinstance(data, str) else data.decode())


def _text_beyond(psycopg: Any, usual: Any) -> Any:
    """A loader as the usual one, which cannot be a base, but for values that it has no type for: of these, the text."""
    loader: Any = psycopg.adapt.Loader

    class OrText(loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            loader.__init__(self, oid, context)
            self._usual = usual(oid, context)

        def load(self, data: Any) -> Any:
            try:
                return self._usual.load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return OrText


def _holds_text(kind: Any) -> bool:
    return "string" in str(kind)


_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""In JSON: behind an escaped backslash it is text."""


def _without_nul(value: Any, *, is_json: bool) -> Any:
    """PostgreSQL has no NUL in texts, and no escape of it in its JSON: U+FFFD stands for it."""
    if isinstance(value, str):
        text = value.replace("\0", "\ufffd")
        return _ESCAPED_NUL.sub(r"\1\\ufffd", text) if is_json else text
    return [_without_nul(one, is_json=is_json) for one in value] if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType]
