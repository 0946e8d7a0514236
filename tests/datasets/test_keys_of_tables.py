"""A table is read in pages by its key: whatever the key is, each row comes once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.databases import PostgreSQL, Tables

from mistill.datasets.databases import paged_database
from mistill.datasets.databases.sqlite import SQLite
from mistill.datasets.sources import open_source
from mistill.errors import InputError


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(paged_database, "PAGE_ROWS", 2)


def numbers_of(address: str, rows: int) -> list[int]:
    """What stands in the column ``n`` of each row; no more than one row too many."""
    return [record["n"] for record in islice(read(address), rows + 1)]


def read(address: str) -> Iterator[Any]:
    return (row.record for row in open_source(address))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "i"),
        ("real", "i / 7.0"),
        ("double precision", "i / 7.0"),
        ("decimal(9, 4)", "i / 7.0"),
        ("text", "'É%' || i"),
    ],
)
def test_each_row_comes_once_by_a_key_of_any_plain_type(tables: Tables, kind: str, value: str) -> None:
    without = " WITHOUT ROWID" if "sqlite" in tables.database else ""
    tables.execute(f'CREATE TABLE t ("the %" {kind} NOT NULL PRIMARY KEY, n integer){without}')
    numbers = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 9)"
    tables.execute(f"INSERT INTO t {numbers} SELECT {value}, i FROM c")
    assert sorted(numbers_of(tables.address("t"), 9)) == list(range(1, 10))


# --- SQLite -----------------------------------------------------------------------------------------------------------

_texts = st.lists(
    st.sampled_from([b"a", b"A", b" ", b"\0", b"1", b"\xff", b"\xfe", "é".encode(), b"\xd8"])
).map(b"".join)
_VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**53, 2**53 + 1, float(2**53), 0.0, -0.0, 1, 1.0, float("inf")]),
    st.floats(allow_nan=False),
    _texts,
    _texts.map(lambda text: ("text", text)),
)
_COLLATIONS = st.sampled_from(["BINARY", "NOCASE", "RTRIM"])


_SQLITE = "CREATE TABLE t (k0 {0} NOT NULL, n integer, PRIMARY KEY ({1})) WITHOUT ROWID"


@st.composite
def _keys(draw: st.DrawFn) -> tuple[str, list[list[Any]]]:
    """A table's SQL, and rows of its key."""
    kinds = draw(
        st.lists(st.sampled_from(["", "text", "int", "real", "numeric", "blob"]), min_size=1, max_size=2)
    )
    columns = [f"k{place} {kind} COLLATE {draw(_COLLATIONS)} NOT NULL" for place, kind in enumerate(kinds)]
    key = [
        f"k{place} COLLATE {draw(_COLLATIONS)} {draw(st.sampled_from(['', 'DESC']))}"
        for place in range(len(kinds))
    ]
    # Of a table with a rowid that has no name left, the primary key is as good.
    more = draw(st.sampled_from([("", " WITHOUT ROWID"), (", rowid, _rowid_, oid", "")]))
    made = (
        f"CREATE TABLE t ({', '.join(columns)}, n integer{more[0]}, PRIMARY KEY ({', '.join(key)})){more[1]}"
    )
    return made, draw(st.lists(st.lists(_VALUES, min_size=len(kinds), max_size=len(kinds)), max_size=9))


@settings(max_examples=50)
@given(_keys(), st.sampled_from(["UTF-8", "UTF-16le", "UTF-16be"]))
@example((_SQLITE.format("text", "k0"), [[("text", b"a")], [("text", b"\xff\xfe")]]), "UTF-8")
@example(
    (_SQLITE.format("text COLLATE NOCASE", "k0 COLLATE BINARY"), [["a"], ["zz"], ["b"], ["ZZ"]]), "UTF-8"
)
def test_each_row_comes_once_by_any_key_of_sqlite(
    tmp_path_factory: pytest.TempPathFactory, key: tuple[str, list[list[Any]]], encoding: str
) -> None:
    made, rows = key
    path = tmp_path_factory.mktemp("keys") / "rows.db"
    _fill_sqlite(path, [f"PRAGMA encoding = '{encoding}'", made], rows)
    kept = _numbers_in_sqlite(path)
    assert sorted(numbers_of(f"sqlite:///{path}?table=t", len(kept))) == kept


def _fill_sqlite(path: Path, statements: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    import sqlite3

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = off")
        for statement in statements:
            connection.execute(statement)
        for number, row in enumerate(rows):
            places = ["CAST(? AS TEXT)" if isinstance(value, tuple) else "?" for value in row]
            names = ", ".join(f"k{place}" for place in range(len(row)))
            connection.execute(
                f"INSERT OR IGNORE INTO t ({names}, n) VALUES ({', '.join(places)}, {number})",
                [value[1] if isinstance(value, tuple) else value for value in row],
            )
        connection.commit()


def _numbers_in_sqlite(path: Path) -> list[int]:
    import sqlite3

    with closing(sqlite3.connect(path)) as connection:
        return [number for (number,) in connection.execute("SELECT n FROM t ORDER BY n")]


def test_rows_that_come_again_are_refused(sqlite: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite.execute("CREATE TABLE t (n integer)")
    sqlite.execute("INSERT INTO t VALUES (1), (2), (3)")
    inexact = paged_database.KeyColumn('"rows".rowid', ('"rows".rowid',), "? - 1")
    monkeypatch.setattr(SQLite, "key", lambda *_: [inexact])
    found = read(sqlite.address("t"))
    assert [next(found)["n"], next(found)["n"]] == [1, 2]
    with pytest.raises(InputError, match="rows come again"):
        next(found)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_POSTGRESQL_KINDS = {
    "real": "i / 7.0",
    "double precision": "i / 7.0",
    "numeric": "CASE i WHEN 1 THEN 'NaN' ELSE i / 7.0 END",
    "numeric(9,2)[]": "ARRAY[i / 7.0, NULL]",
    "money": "(i * 1000.5)::numeric::money",
    "smallint": "i",
    "boolean": "i % 2 = 0",
    "text": "chr(60 + i * 3) || '%'",
    'text COLLATE "C"': "chr(60 + i * 3)",
    "text COLLATE by_letters": "(ARRAY['a', 'A', 'á', 'b', 'B', ' ', ''])[i % 7 + 1]",
    "varchar(5)": "i",
    "char(5)": "i",
    '"char"': '(64 + i)::"char"',
    "bytea": "decode(lpad(to_hex(i * 17), 4, '0'), 'hex')",
    "bit(9)": "i::bit(9)",
    "varbit": "substring(i::bit(8) from 8 - i % 8)::varbit",
    "uuid": "md5(i::text)::uuid",
    "inet": "'10.0.0.0/8'::inet + i",
    "cidr": "set_masklen('10.0.0.0'::cidr, 8 + i % 20)",
    "date": "CASE i WHEN 1 THEN 'infinity' ELSE '0001-01-01 BC'::date + i END",
    "timestamp": "'epoch'::timestamp + i * interval '1 us'",
    "timestamptz": "CASE i WHEN 1 THEN '-infinity' ELSE 'epoch'::timestamptz + i * interval '1 us' END",
    "timetz": "'00:00+02'::timetz + i * interval '1 us'",
    "interval": "i * interval '1 month 1 us'",
    "int[]": "ARRAY[i % 3, NULL, i]",
    "text[]": "ARRAY[chr(30 + i), '\"', NULL]",
    "jsonb": "CASE i % 2 WHEN 0 THEN to_jsonb(i / 7.0) ELSE jsonb_build_object('%', i) END",
    "int4range": "int4range(i, CASE i % 2 WHEN 0 THEN i + 1 END)",
    "mood": "CASE i % 2 WHEN 0 THEN 'good' ELSE 'bad %' END::mood",
    "pair": "ROW(i / 7.0, 'a,\"')::pair",
    "short": "i / 7.0",
    "letters": "chr(60 + i)",
    "regclass": "(ARRAY['pg_class', 'pg_type', 'pg_index'])[i % 3 + 1]::regclass",
}
"""Types, and a value of each by a number ``i``."""

_TYPES = """
    CREATE COLLATION by_letters (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
    CREATE TYPE mood AS ENUM ('good', 'bad %');
    CREATE TYPE pair AS (a real, b text);
    CREATE DOMAIN short AS real;
    CREATE DOMAIN letters AS text COLLATE "C"
"""

_postgresql_keys = st.lists(st.sampled_from(sorted(_POSTGRESQL_KINDS)), min_size=1, max_size=2)


@pytest.fixture(scope="module")
def typed(postgresql_server: PostgreSQL) -> PostgreSQL:
    postgresql_server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    postgresql_server.execute(_TYPES)
    return postgresql_server


@pytest.mark.parametrize("kind", _POSTGRESQL_KINDS)
def test_each_row_comes_once_by_a_key_of_any_type_of_postgresql(typed: PostgreSQL, kind: str) -> None:
    _check_key(typed, [kind], "PRIMARY KEY (k0)", [*range(1, 8), 60])


@settings(max_examples=15)
@given(_postgresql_keys, st.booleans(), st.lists(st.integers(1, 60), max_size=9))
def test_each_row_comes_once_by_any_key_of_postgresql(
    typed: PostgreSQL, kinds: list[str], is_index: bool, numbers: list[int]
) -> None:
    # An index may have a collation that is not its column's.
    collated = [' COLLATE "C"' if is_index and "COLLATE" in kind else "" for kind in kinds]
    names = ", ".join(f"k{place}{collation}" for place, collation in enumerate(collated))
    _check_key(typed, kinds, f"INDEX ({names})" if is_index else f"PRIMARY KEY ({names})", numbers)


def test_a_unique_index_that_orders_otherwise_than_its_column_is_no_key(typed: PostgreSQL) -> None:
    _check_key(typed, ["text COLLATE by_letters"], 'INDEX (k0 COLLATE "C")', range(1, 8))


def _check_key(server: PostgreSQL, kinds: Sequence[str], key: str, numbers: Sequence[int]) -> None:
    columns = ", ".join(f"k{place} {kind} NOT NULL" for place, kind in enumerate(kinds))
    values = ", ".join(f"({_POSTGRESQL_KINDS[kind]})" for kind in kinds)
    names = ", ".join(f"k{place}" for place in range(len(kinds)))
    made = f"CREATE UNIQUE INDEX ON t {key[5:]}" if key.startswith("INDEX") else f"ALTER TABLE t ADD {key}"
    server.execute(
        f"""
        DROP TABLE IF EXISTS t;
        CREATE TABLE t (n integer, {columns});
        {made};
        INSERT INTO t (n, {names})
            SELECT i, {values} FROM unnest('{{{", ".join(map(str, numbers))}}}'::int[]) AS i ON CONFLICT DO NOTHING
        """
    )
    kept = sorted(number for (number,) in server.execute("SELECT n FROM t"))
    assert sorted(numbers_of(f"{server.address}&table=t", len(kept))) == kept
