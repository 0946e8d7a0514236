"""Tables of databases as inputs and outputs."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.databases import PostgreSQL, Tables
from tests.libraries import library

from mistill.datasets import far_places
from mistill.datasets.databases import paged_database
from mistill.datasets.databases import postgresql as postgresql_database
from mistill.datasets.databases import sqlite as sqlite_database
from mistill.datasets.databases.database import database_of
from mistill.datasets.input_size import InputSize
from mistill.datasets.sources import open_source
from mistill.datasets.writers import check_columns, check_no_loss, check_target, open_writer
from mistill.errors import InputError, MistillError


def records(address: str) -> list[dict[str, Any]]:
    return [row.record for row in open_source(address)]


def write(target: str, rows: list[dict[str, Any]], types: dict[str, Any] | None = None) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open_writer(target, columns=columns, types=types) as writer:
        for row in rows:
            writer.write(row)


def test_a_table_comes_back_as_it_was_written(tables: Tables) -> None:
    rows = [
        {
            "id": 1,
            "text": 'it\'s "é" \\ \n\t;',
            "score": 0.1,
            "tags": ["a", "b"],
            "good": True,
            "where": {"x": 1.5},
        },
        {"id": 2, "text": "", "score": None, "tags": [], "good": False, "where": None},
        {"id": 2**40, "text": None, "score": 3.0, "tags": None, "good": None, "where": {"x": 2.0}},
    ]
    write(tables.address('"an odd; ""name"""'), rows)
    found = records(tables.address('"an odd; ""name"""'))
    if tables.database.startswith("sqlite"):  # which has no such types
        for row in found:
            row["good"] = None if row["good"] is None else bool(row["good"])
            for column in ("tags", "where"):
                row[column] = None if row[column] is None else json.loads(row[column])
    assert found == rows


def test_columns_have_types(tables: Tables) -> None:
    arrow = library("pyarrow")
    types = {
        "amount": arrow.decimal128(20, 4),
        "day": arrow.date32(),
        "at": arrow.timestamp("us", tz="UTC"),
        "raw": arrow.binary(),
        "small": arrow.int16(),
    }
    row = {"amount": Decimal("1234567890123456.7890"), "day": "2024-02-29", "raw": "AQI=", "small": 3}
    row |= {"at": "2024-02-29T01:02:03.456000Z", "mixed": [1]}
    write(tables.address("t"), [row, {"mixed": "a"}], types)
    (found, _) = tables.execute("SELECT amount, day, raw, small, mixed FROM t ORDER BY small")
    if tables.database.startswith("sqlite"):
        assert tuple(found) in {
            ("1234567890123456.7890", "2024-02-29", b"\1\2", 3, "[1]"),
            (None,) * 4 + ('"a"',),
        }
        return
    mixed = json.loads(found[4]) if isinstance(found[4], str) else found[4]
    assert (*found[:4], mixed) == (Decimal("1234567890123456.7890"), date(2024, 2, 29), b"\1\2", 3, [1])
    source = open_source(tables.address("t"))
    assert {name: str(source.types()[name]) for name in ("amount", "day", "small")} == {
        "amount": "decimal128(20, 4)",
        "day": "date32[day]",
        "small": "int16",
    }
    first = next(row for row in source if row.record["small"] == 3)
    assert b'"amount":1234567890123456.7890' in first.raw
    assert first.record["at"].startswith("2024-02-29T01:02:03.456")
    assert first.record["mixed"] == [1]


def test_rows_come_in_the_order_of_the_key_in_pages(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_database, "PAGE_ROWS", 3)
    tables.execute('CREATE TABLE t ("b%" integer NOT NULL, a text NOT NULL, PRIMARY KEY (a, "b%"))')
    pairs = [(b, a) for a in ("y", "x") for b in (4, 2, 3, 1)]
    tables.execute(f"INSERT INTO t VALUES {', '.join(str(pair) for pair in pairs)}")
    found = [(row["b%"], row["a"]) for row in records(tables.address("t"))]
    # SQLite has an order of its own, and DuckDB gives rows as they were put in.
    assert found == (sorted(pairs, key=lambda pair: pair[::-1]) if "postgres" in tables.database else pairs)


def test_a_query_is_read_as_it_is(tables: Tables, caplog: pytest.LogCaptureFixture) -> None:
    tables.execute("CREATE TABLE t (id integer, text text)")
    tables.execute("INSERT INTO t VALUES (1, 'a%'), (2, 'b&'), (3, 'a?')")
    query = tables.query(
        "SELECT id AS n, text FROM t WHERE text LIKE 'a%25' OR text = 'b&' ORDER BY id DESC;"
    )
    source = open_source(query, limit=2)
    assert [(row.record["n"], row.record["text"], row.where[-5:]) for row in source] == [
        (3, "a?", "row 0"),
        (2, "b&", "row 1"),
    ]
    assert caplog.text == ""
    records(tables.query("SELECT id FROM t"))
    assert "the query has no ORDER BY" in caplog.text


@pytest.mark.parametrize(
    ("end", "is_ordered"),
    [
        (" -- the smallest first", False),
        ("; -- the smallest first; /* and */", False),
        (" /* ORDER BY%0Aid */ ;%0A", False),
        (" WHERE text <> '-- ORDER BY ' -- it's so%0A ORDER%0A BY id", True),
        (" WHERE id IN (SELECT id FROM t WHERE (id > 0) ORDER BY id)", False),
    ],
)
def test_a_query_is_read_with_its_comments(
    tables: Tables, caplog: pytest.LogCaptureFixture, end: str, is_ordered: bool
) -> None:
    tables.execute("CREATE TABLE t (id integer, text text)")
    tables.execute("INSERT INTO t VALUES (1, '--'), (2, 'b')")
    query = "SELECT id, text, row_number() OVER (ORDER BY id) AS place FROM t"
    source = open_source(tables.query(query + end))
    assert sorted((row.record["id"], row.record["text"]) for row in source) == [(1, "--"), (2, "b")]
    assert source.count(lambda: True) == 2
    assert ("has no ORDER BY" in caplog.text) is not is_ordered


def test_nothing_is_changed_by_reading(tables: Tables) -> None:
    tables.execute("CREATE TABLE t (id integer)")
    for query in (
        "DROP TABLE t",
        "SELECT 1; DROP TABLE t",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t RETURNING *",
    ):
        with pytest.raises(InputError):
            records(tables.query(query))
    assert tables.execute("SELECT count(*) FROM t") == [(0,)]


def test_how_many_rows_there_are_is_found_beside(tables: Tables) -> None:
    write(tables.address("t"), [{"id": number} for number in range(7)])
    source = open_source(tables.address("t"), limit=5)
    size = InputSize(source)
    assert source.count(lambda: True) == 5
    assert (size(), source.is_far) == (None, True)
    assert open_source(tables.query("SELECT * FROM t WHERE id > 3")).count(lambda: True) == 3


def test_a_table_is_whole_or_not_there(tables: Tables) -> None:
    write(tables.address("t"), [{"id": 1}])
    with pytest.raises(TypeError):
        write(tables.address("t"), [{"id": 2}, {"id": object()}])
    assert records(tables.address("t")) == [{"id": 1}]
    write(tables.address("t"), [{"name": "a"}])
    assert records(tables.address("t")) == [{"name": "a"}]
    listed = "sqlite_master" if tables.database.startswith("sqlite") else "information_schema.tables"
    name = "name" if listed == "sqlite_master" else "table_name"
    assert tables.execute(f"SELECT count(*) FROM {listed} WHERE {name} LIKE 'mistill%'") == [(0,)]


def test_a_view_is_not_replaced_and_that_is_known_before_anything_is_written(tables: Tables) -> None:
    tables.execute("CREATE VIEW t AS SELECT 7 AS id")
    with pytest.raises(InputError, match=r"cannot be (written|replaced): .*(view|View|not a table)"):
        check_target(tables.address("t"))
    assert records(tables.address("t")) == [{"id": 7}]


def test_to_look_whether_a_table_can_be_replaced_leaves_it_as_it_is(tables: Tables) -> None:
    tables.execute("CREATE TABLE t (id integer PRIMARY KEY)")
    tables.execute("INSERT INTO t VALUES (1)")
    check_target(tables.address("t"))
    with pytest.raises(Exception, match=r"(?i)constraint"):
        tables.execute("INSERT INTO t VALUES (1)")
    assert records(tables.address("t")) == [{"id": 1}]
    check_target(tables.address("none"))
    with pytest.raises(InputError, match="cannot be read"):
        records(tables.address("none"))


def test_a_write_that_fails_leaves_the_old_table(sqlite: Tables) -> None:
    write(sqlite.address("t"), [{"id": 1}])
    with pytest.raises(MistillError, match=r"these columns: too many columns.*no answer is lost.*drop"):
        write(sqlite.address("t"), [{f"column{number}": 1 for number in range(3000)}])
    assert records(sqlite.address("t")) == [{"id": 1}]


def test_what_else_is_in_a_database_is_in_nobody_s_way(tables: Tables) -> None:
    write(tables.address("t"), [{"id": 1}])
    tables.execute("CREATE TABLE other (id integer)")
    if "postgres" not in tables.database:  # which replaces no table that a view needs
        tables.execute("CREATE VIEW seen AS SELECT id FROM t")
        tables.execute("CREATE VIEW stale AS SELECT id FROM other")
        tables.execute("DROP TABLE other")
        tables.execute("CREATE TABLE other (id integer, more integer)")
    if "sqlite" in tables.database:
        tables.execute("CREATE TRIGGER filled AFTER INSERT ON other BEGIN INSERT INTO t VALUES (new.id); END")
        tables.execute("CREATE VIEW of_nothing AS SELECT id FROM none")
    check_target(tables.address("t"))
    for number in (2, 3):
        write(tables.address("t"), [{"id": number}])
    assert records(tables.address("t")) == [{"id": 3}]
    if "postgres" not in tables.database:
        assert tables.execute("SELECT id FROM seen") == [(3,)]


def test_a_write_that_fails_leaves_no_file_that_it_made(files: Tables, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write(files.address("t"), [{"id": object()}])
    assert list(tmp_path.iterdir()) == []
    files.execute("CREATE TABLE other (id integer)")
    before = list(tmp_path.iterdir())
    with pytest.raises(TypeError):
        write(files.address("t"), [{"id": object()}])
    assert list(tmp_path.iterdir()) == before
    assert files.execute("SELECT count(*) FROM other") == [(0,)]


def modes_of(folder: Path, but: Path | None = None) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file() and path != but}


@pytest.mark.parametrize(("source", "right"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o644)])
def test_nobody_may_read_a_new_file_who_may_not_read_what_its_table_is_made_of(
    files: Tables, tmp_path: Path, source: int, right: int
) -> None:
    made_of = tmp_path / "in.jsonl"
    made_of.touch()
    made_of.chmod(source)
    with open_writer(files.address("t"), made_of=[made_of]) as writer:
        for number in range(3_000):
            writer.write({"id": number})
        assert modes_of(tmp_path, but=made_of) == {0o600}, "the file, and its log"
    assert modes_of(tmp_path, but=made_of) == {right}
    (made,) = (path for path in tmp_path.iterdir() if path != made_of)
    made.chmod(0o644)  # by whoever wants to give it away
    with open_writer(files.address("t"), made_of=[made_of]) as writer:
        writer.write({"id": 1})
    assert modes_of(tmp_path, but=made_of) == {0o644}
    made.chmod(0o600)
    with open_writer(tmp_path / "out.jsonl", made_of=[files.address("t")]) as writer:
        writer.write({"id": 1})
    assert modes_of(tmp_path, but=made_of) == {0o600}, "a table in a private file is private"


def test_duckdb_writes_no_log_that_others_may_read_beside_a_private_file(
    duckdb: Tables, tmp_path: Path
) -> None:
    path = tmp_path / "a.duckdb"
    database = database_of(f"duckdb:///{path}?table=t")
    database.make_file(path)
    with database.connected(to_write=True) as connection:
        database.begin(connection)
        connection.execute("CREATE TABLE t AS SELECT * FROM range(1000)")
        connection.execute("COMMIT")
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.duckdb"]


def test_what_duckdb_has_no_memory_for_is_put_where_nobody_else_may_read_it(
    duckdb: Tables, tmp_path: Path
) -> None:
    duckdb.execute("CREATE TABLE t AS SELECT range id, repeat('x', 30) || range text FROM range(400000)")
    (file,) = tmp_path.iterdir()
    database = database_of(duckdb.query("SELECT * FROM t ORDER BY hash(id)"))
    with database.connected(to_write=False) as connection:
        connection.execute("SET memory_limit = '24MB'")
        connection.execute("SET threads = 1")
        with suppress(*database.errors):
            connection.execute(f"FROM {database.source('rows')}").fetchone()
        (folder,) = (path for path in tmp_path.iterdir() if path != file)
        assert list(folder.iterdir()), "it is in use"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_another_process_writes_is_waited_for_and_that_is_said(
    files: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_database, "_WAIT_S", 0.0)
    monkeypatch.setattr(sqlite_database, "_MOMENT_S", 0.0)
    monkeypatch.setattr(far_places, "WAITS_S", (0.0, 0.01))
    files.execute("CREATE TABLE t (id integer)")
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, files.database.partition("///")[2]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with held:
        assert held.stdout is not None
        held.stdout.readline()
        with pytest.raises(InputError, match=r"cannot be written.*let that process come to its end"):
            check_target(files.address("t"))
        held.communicate(b"")
    assert "another process has it: it is waited for" in caplog.text
    check_target(files.address("t"))


_HOLD = """
import sys
if sys.argv[1].endswith(".duckdb"):
    import duckdb
    connection = duckdb.connect(sys.argv[1])
else:
    import sqlite3
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.read()
"""


def test_a_table_that_exists_is_not_lost(tables: Tables) -> None:
    check_no_loss(tables.address("t"), "overwrite")
    tables.execute("CREATE TABLE t (id integer)")
    with pytest.raises(InputError, match="exists"):
        check_no_loss(tables.address("t"), "overwrite")
    check_target(tables.address("t"))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("sqlite:///none.db?table=t", "no such file"),
        ("duckdb:///none.db?table=t", "no such file"),
        ("sqlite://rows.db?table=t", "names no file (with three slashes: sqlite:///rows.db?table=rows)"),
        ("sqlite:///rows.db", "names no table (put ?table=NAME behind it"),
        ("sqlite:///rows.db?table=", "both a table and a query, or neither"),
        ("sqlite:///rows.db?table=t&query=SELECT 1", "both a table and a query"),
        ("sqlite:///rows.db?table=a..b", "is no name of a table"),
        ("sqlite:///rows.db?mode=x&table=t", "a file has no other parameters than a table or a query"),
    ],
)
def test_what_is_no_table_is_said(address: str, told: str) -> None:
    library("duckdb")
    with pytest.raises(InputError) as refused:
        records(address)
    assert told in str(refused.value)


def test_what_is_not_there_is_said(tables: Tables) -> None:
    tables.execute("CREATE TABLE t (id integer)")
    for address in (tables.address("none"), tables.query("SELECT * FROM none"), tables.query("SELEKT")):
        with pytest.raises(InputError, match="cannot be read"):
            records(address)
    with pytest.raises(InputError, match="into a table, not into a query"):
        check_target(tables.query("SELECT 1"))
    with pytest.raises(InputError, match="is a table, and has no format"):
        check_target(tables.address("t"), "csv")
    with pytest.raises(InputError, match="is a table, and has no encoding"):
        open_source(tables.address("t"), encoding="latin-1")


def test_a_ledger_has_no_other_tables(tmp_path: Path) -> None:
    from mistill.ledger import Ledger
    from mistill.ledger.targets import check_targets

    path = tmp_path / "a.ledger"
    with Ledger.open(path, {"a": 1}):
        pass
    with pytest.raises(InputError, match="is a ledger"):
        check_targets(f"sqlite:///{path}?table=t", None, ())


@pytest.mark.parametrize(
    ("database", "columns", "told"),
    [
        ("sqlite", ["error", "Error"], "duplicate column name: Error.*another case makes no other name"),
        ("sqlite", ["a\0b"], r"null character, at 'a\\x00b'"),
        ("sqlite", [f"c{number}" for number in range(2001)], "too many columns"),
        ("duckdb", ["prompt", "Prompt"], 'name "Prompt" already exists.*another case makes no other name'),
        ("duckdb", [""], "zero-length.*, at ''"),
        ("postgresql", ["ctid"], "conflicts with a system column"),
        ("postgresql", [""], "zero-length.*, at ''"),
        ("postgresql", ["a\0b"], r"at 'a\\x00b'"),
        ("postgresql", ["x" * 64], "'x{64}' would be called 'x{63}'"),
        ("postgresql", ["x" * 63 + "1", "x" * 63 + "2"], "specified more than once"),
        ("postgresql", [f"c{number}" for number in range(1601)], "at most 1600 columns"),
    ],
)
def test_columns_that_a_database_cannot_have_are_refused_before_and_at_the_end(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, columns: list[str], told: str
) -> None:
    tables: Tables = request.getfixturevalue(database)
    there = list(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"cannot have these columns: .*{told}") as refused:
        check_columns(tables.address("t"), columns)
    assert "no answer is lost" not in str(refused.value)
    with pytest.raises(MistillError, match=f"cannot have these columns: .*{told}") as failed:
        write(tables.address("t"), [dict.fromkeys(columns, 1)])
    assert "no answer is lost, the ledger has them: export again" in str(failed.value)
    assert list(tmp_path.iterdir()) == there
    check_columns(tables.address("t"), ["id", "error"])
    assert list(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    ("database", "table"),
    [
        ("sqlite", "temp.t"),
        ("sqlite", "sqlite_t"),
        ("sqlite", "sqlite_master"),
        ("sqlite", "none.t"),
        ("duckdb", "temp.t"),
        ("duckdb", "temp.main.t"),
        ("duckdb", "none.t"),
        ("postgresql", "pg_temp.t"),
        ("postgresql", "none.t"),
        ("postgresql", "t" * 64),
    ],
)
def test_a_table_that_would_not_be_there_is_refused_before_anything_is_written(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, table: str
) -> None:
    tables: Tables = request.getfixturevalue(database)
    for _ in range(2):
        before = [(path, path.read_bytes()) for path in tmp_path.iterdir()]
        with pytest.raises(InputError):
            check_target(tables.address(table))
        with pytest.raises(InputError):
            write(tables.address(table), [{"id": 1}])
        assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == before
        tables.execute("CREATE TABLE IF NOT EXISTS other (id integer)")  # a file is there now


def test_names_that_postgresql_would_cut_are_refused(postgresql: Tables) -> None:
    name = "t" * 63
    postgresql.execute(f"CREATE TABLE {name} AS SELECT 7 AS id")
    assert records(postgresql.address(name)) == [{"id": 7}]
    for longer in (f"{name}_in", "é" * 32):
        with pytest.raises(InputError, match=rf"cuts names to 63 bytes.*{longer}' is longer"):
            records(postgresql.address(longer))
        with pytest.raises(InputError, match="cuts names to 63 bytes"):
            check_no_loss(postgresql.address(longer), "overwrite")


def test_another_case_of_a_table_s_name_does_not_rename_it(files: Tables) -> None:
    write(files.address("Out"), [{"id": 1}])
    write(files.address("OUT"), [{"id": 2}])
    listed = "sqlite_master" if "sqlite" in files.database else "information_schema.tables"
    name = "name" if listed == "sqlite_master" else "table_name"
    assert files.execute(f"SELECT {name} FROM {listed}") == [("Out",)]
    assert records(files.address("out")) == [{"id": 2}]


def test_a_disk_that_is_full_is_left_without_an_empty_file(files: Tables, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _WRITE_ON_A_FULL_DISK, files.address("t")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "could not be written" in ended.stdout, ended.stderr
    assert list(tmp_path.iterdir()) == []


_WRITE_ON_A_FULL_DISK = """
import resource, sys
from mistill.datasets.places import target_of
from mistill.errors import MistillError
place = target_of(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
try:
    with place.writing():
        pass
except MistillError as error:
    print(error)
"""


def test_a_table_of_duckdb_has_types_of_any_number_of_columns(duckdb: Tables) -> None:
    columns = {f"c{number}": [number, str(number), None][number % 3] for number in range(2100)}
    write(duckdb.address("t"), [columns, dict.fromkeys(columns)])
    assert records(duckdb.address("t")) == [columns, dict.fromkeys(columns)]


# --- SQLite -----------------------------------------------------------------------------------------------------------


def test_sqlite_has_values_of_any_type(sqlite: Tables) -> None:
    sqlite.execute("CREATE TABLE t (x text PRIMARY KEY, rowid integer, y) WITHOUT ROWID")
    sqlite.execute("INSERT INTO t VALUES ('b', 1, x'0102'), ('a', 2, 1.5), ('c', 3, CAST(x'ff41' AS text))")
    found = [(row["x"], row["y"]) for row in records(sqlite.address("main.t"))]
    assert found == [("a", 1.5), ("b", "AQI="), ("c", "\ufffdA")]
    sqlite.execute("CREATE VIEW v AS SELECT y FROM t ORDER BY x DESC")
    assert [row["y"] for row in records(sqlite.address("v"))] == ["\ufffdA", "AQI=", 1.5]


@pytest.mark.parametrize(
    ("query", "is_ordered"),
    [
        ("SELECT [a--b], text FROM t", False),
        ("SELECT `a--b`, text FROM t;", False),
        ("SELECT [a--b], text, 1 AS `it's`, 2 AS [it's] FROM t -- ORDER BY 1", False),
        ("SELECT [a--b], text, 1 AS [order by], 2 AS `order by (` FROM t", False),
        ("SELECT [a--b], text, 1 AS `odd``)--` FROM t ORDER BY 1 /* no end of it", True),
        ("SELECT [a--b], text AS text, 1 AS a$x$, 2 AS b$x$ FROM t -- $x$", False),
    ],
)
def test_names_in_any_quotes_of_sqlite_have_no_comments_in_them(
    sqlite: Tables, caplog: pytest.LogCaptureFixture, query: str, is_ordered: bool
) -> None:
    sqlite.execute('CREATE TABLE t ("a--b" integer, text text)')
    sqlite.execute("INSERT INTO t VALUES (1, 'x')")
    source = open_source(sqlite.query(query))
    assert [(row.record["a--b"], row.record["text"]) for row in source] == [(1, "x")]
    assert source.count(lambda: True) == 1
    assert ("has no ORDER BY" in caplog.text) is not is_ordered


def test_a_null_in_a_key_of_sqlite_loses_no_row(sqlite: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_database, "PAGE_ROWS", 1)
    sqlite.execute("CREATE TABLE t (x text PRIMARY KEY)")
    sqlite.execute("INSERT INTO t VALUES (NULL), ('a'), (NULL)")
    assert [row["x"] for row in records(sqlite.address("t"))] == [None, "a", None]


# --- DuckDB -----------------------------------------------------------------------------------------------------------


def test_duckdb_has_types_of_its_own(duckdb: Tables) -> None:
    duckdb.execute(
        """
        CREATE TABLE t AS SELECT '{"a":1.10}'::json AS j, interval '1 month 2 day' AS i, 'x'::enum('x', 'y') AS e,
        map {'k': 1} AS m, '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid AS u, 12345678901234567890::hugeint AS h,
        '2024-02-29 01:02:03.456789123'::timestamp_ns AS n, '101'::bit AS b, 'infinity'::date AS d,
        'infinity'::double AS f
        """
    )
    (row,) = open_source(duckdb.address("t"))
    assert b'"j":{"a":1.10}' in row.raw
    assert row.record | {"j": None} == {
        "j": None,
        "i": "1 month 2 days",
        "e": "x",
        "m": [["k", 1]],
        "u": "6ecd8c99-4036-403d-bf84-cf8400f67836",
        "h": 12345678901234567890,
        "n": "2024-02-29T01:02:03.456789123",
        "b": "101",
        "d": "+5881580-07-11",
        "f": None,
    }


def test_a_table_of_another_schema_of_duckdb_is_another_one(duckdb: Tables) -> None:
    duckdb.execute("CREATE SCHEMA other; CREATE TABLE other.t AS SELECT 7 AS id")
    for name in ("t", "main.t", '"a b".t', '"A B".main.T', "none.other.t"):
        check_no_loss(duckdb.address(name), "overwrite")
    for name in ("other.t", "OTHER.T", '"a b".other.t'):
        with pytest.raises(InputError, match="exists"):
            check_no_loss(duckdb.address(name), "overwrite")
    for number, name in enumerate(("t", "main.t", '"a b".t', '"A B".MAIN.T')):
        check_target(duckdb.address(name))
        write(duckdb.address(name), [{"id": number}])
        with pytest.raises(InputError, match="exists"):
            check_no_loss(duckdb.address("t"), "overwrite")
        assert records(duckdb.address("t")) == records(duckdb.address(name)) == [{"id": number}]
    assert records(duckdb.address("other.t")) == [{"id": 7}]
    for name in ("none.t", "none.other.t", "temp.t", '"a b".none.t', '"a b".main.main.t'):
        with pytest.raises(InputError, match="there is no schema"):
            check_target(duckdb.address(name))


def test_a_schema_of_duckdb_that_is_called_as_its_file_is_named_with_both(duckdb: Tables) -> None:
    duckdb.execute('CREATE SCHEMA "a b"')
    for check in (check_target, lambda address: check_no_loss(address, "overwrite")):
        with pytest.raises(
            InputError, match=r"is the file and a schema in it \(name both: a b\.a b or a b\.main"
        ):
            check(duckdb.address('"a b".t'))
    for number, name in enumerate(('"a b".main.t', '"a b"."a b".t')):
        write(duckdb.address(name), [{"id": number}])
        assert records(duckdb.address(name)) == [{"id": number}]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_postgresql_has_types_of_its_own(postgresql: Tables) -> None:
    postgresql.execute("CREATE TYPE mood AS ENUM ('sad', 'ok')")
    postgresql.execute(
        "CREATE TABLE t (n numeric, j jsonb, i interval, e mood, a int[], p inet, r int4range, m money)"
    )
    postgresql.execute(
        "ALTER TABLE t ADD d date, ADD z timestamptz, ADD u uuid, ADD b bytea, ADD x numeric[]"
    )
    postgresql.execute(
        """
        INSERT INTO t VALUES (12345678901234567890.10, '{"a": 0.1000000000000000055}', '1 month 2 days', 'ok',
        '{1,NULL}', '10.0.0.1/8', '[1,3)', 12.5, 'infinity', '2024-02-29 01:02:03+02',
        '6ecd8c99-4036-403d-bf84-cf8400f67836', '\\x0102', '{1.50}')
        """
    )
    (row,) = open_source(postgresql.address("public.t"))
    assert b'"n":12345678901234567890.10,"j":{"a":0.1000000000000000055}' in row.raw
    assert row.record | {"n": None, "j": None, "x": None} == {
        "n": None,
        "j": None,
        "i": "P1M2D",
        "e": "ok",
        "a": [1, None],
        "p": "10.0.0.1/8",
        "r": "[1,3)",
        "m": "$12.50",
        "d": "infinity",
        "z": "2024-02-28T23:02:03Z",
        "u": "6ecd8c99-4036-403d-bf84-cf8400f67836",
        "b": "AQI=",
        "x": None,
    }
    assert b'"x":[1.50]' in row.raw


def test_an_infinity_of_postgresql_is_text_as_a_date_and_null_as_a_number(postgresql: Tables) -> None:
    dates = "'infinity'::date AS d, '-infinity'::timestamp AS t, 'infinity'::timestamptz AS z"
    dates += ", ARRAY['infinity'::date] AS a"
    numbers = (
        "'infinity'::float8 AS f, 'NaN'::float4 AS n, '-infinity'::numeric AS q, ARRAY['NaN'::numeric] AS b"
    )
    (row,) = records(postgresql.query(f"SELECT {dates}, {numbers}"))
    assert row == {
        "d": "infinity",
        "t": "-infinity",
        "z": "infinity",
        "a": ["infinity"],
        "f": None,
        "n": None,
        "q": None,
        "b": [None],
    }


def test_a_database_without_an_encoding_is_read_as_utf_8(postgresql_server: PostgreSQL) -> None:
    postgresql_server.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' TEMPLATE template0")
    tables = Tables(postgresql_server.address.replace("/postgres?", "/plain?"), postgresql_server.execute)
    write(tables.address("t"), [{"name": "Zoë"}])
    assert records(tables.address("t")) == [{"name": "Zoë"}]
    with library("psycopg").connect(tables.database, autocommit=True) as connection:
        connection.execute(r"UPDATE t SET name = convert_from('\x5a6feb', 'SQL_ASCII')")
    with pytest.raises(InputError, match=r"invalid byte sequence .*0xeb.*SQL_ASCII.*\?query="):
        records(tables.address("t"))
    name = "convert_from(convert(convert_to(name, 'SQL_ASCII'), 'LATIN1', 'UTF8'), 'SQL_ASCII')"
    assert records(tables.query(f"SELECT {name} AS name FROM t ORDER BY 1")) == [{"name": "Zoë"}]


def test_rows_of_tables_that_inherit_are_rows_of_the_table_too(postgresql: Tables) -> None:
    postgresql.execute("CREATE TABLE parent (id int PRIMARY KEY, text text)")
    postgresql.execute("CREATE TABLE child () INHERITS (parent)")
    postgresql.execute("INSERT INTO parent SELECT id, 'of the parent' FROM generate_series(1, 1501) AS id")
    postgresql.execute("INSERT INTO child SELECT id, 'of the child' FROM generate_series(1, 1500) AS id")
    assert len(records(postgresql.address("parent"))) == 3001


def test_a_table_that_a_view_needs_is_refused_before_anything_is_written(postgresql: Tables) -> None:
    write(postgresql.address("t"), [{"id": 1}])
    postgresql.execute("CREATE VIEW v AS SELECT id FROM t")
    with pytest.raises(InputError, match=r"cannot be replaced: view v depends on table t \(drop that first"):
        check_target(postgresql.address("t"))
    assert postgresql.execute("SELECT id FROM v") == [(1,)]


def test_a_table_is_made_in_the_schema_of_the_one_that_it_replaces(postgresql: Tables) -> None:
    postgresql.execute("CREATE SCHEMA first")
    postgresql.execute("CREATE TABLE public.t AS SELECT 7 AS id")
    postgresql.execute("ALTER ROLE postgres SET search_path = first, public")
    try:
        for name in ("t", "new"):
            check_target(postgresql.address(name))
            write(postgresql.address(name), [{"id": 1}])
        found = postgresql.execute(
            "SELECT table_schema::text, table_name::text FROM information_schema.tables"
            " WHERE table_schema IN ('first', 'public') ORDER BY 1"
        )
        assert found == [("first", "new"), ("public", "t")]
        assert records(postgresql.address("t")) == records(postgresql.address("public.t")) == [{"id": 1}]
        postgresql.execute("ALTER ROLE postgres SET search_path = ''")
        with pytest.raises(InputError, match="there is no schema to make it in"):
            check_target(postgresql.address("new"))
    finally:
        postgresql.execute("ALTER ROLE postgres RESET search_path")
        postgresql.execute("DROP SCHEMA first CASCADE")


def test_neither_a_table_in_parts_nor_a_part_of_one_is_replaced(postgresql: Tables) -> None:
    postgresql.execute("CREATE TABLE whole (id int) PARTITION BY RANGE (id)")
    with pytest.raises(
        InputError, match=r"its rows are in partitions, which would go with it \(drop that first"
    ):
        check_target(postgresql.address("whole"))
    postgresql.execute("CREATE TABLE part PARTITION OF whole FOR VALUES FROM (0) TO (10)")
    postgresql.execute("CREATE TABLE parent (id int)")
    postgresql.execute("CREATE TABLE child () INHERITS (parent)")
    for part, whole in (("part", "whole"), ("child", "parent")):
        told = f"its rows are rows of {whole} too (take it out of {whole} first, or write into another table)"
        with pytest.raises(InputError, match=re.escape(told)):
            check_target(postgresql.address(part))
    postgresql.execute("ALTER TABLE whole DETACH PARTITION part")
    postgresql.execute("ALTER TABLE child NO INHERIT parent")
    for alone in ("part", "child", "parent"):
        check_target(postgresql.address(alone))


def test_a_table_that_somebody_reads_for_the_moment_can_be_replaced_later(
    postgresql: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql_database, "_LOCK_S", 0.01)
    write(postgresql.address("t"), [{"id": 1}])
    with library("psycopg").connect(postgresql.database) as reader:
        reader.execute("SELECT * FROM t")
        check_target(postgresql.address("t"))


def test_a_text_about_the_escape_of_nul_stays_as_it_is_in_postgresql(postgresql: Tables) -> None:
    text = r"the escape \u0000 is NUL, and \\u0000 is not"
    write(postgresql.address("t"), [{"text": text, "mixed": 1}, {"text": "b", "mixed": [text, "\0"]}])
    found = records(postgresql.address("t"))
    assert [row["text"] for row in found] == [text, "b"]
    assert [row["mixed"] for row in found] == [1, [text, "\ufffd"]]


def test_a_dollar_within_a_name_begins_no_text(postgresql: Tables) -> None:
    for query in ("SELECT 1 AS a$x$, 2 AS b -- $x$", "SELECT $x$--$x$ AS a$x$, 2 AS b -- the end"):
        (row,) = records(postgresql.query(query))
        assert row["b"] == 2


def test_a_connection_that_breaks_is_made_anew(postgresql: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paged_database, "PAGE_ROWS", 10)
    monkeypatch.setattr(far_places, "WAITS_S", (0.0,))
    postgresql.execute("CREATE TABLE u AS SELECT generate_series(1, 50) AS id")
    postgresql.execute("CREATE TABLE t AS SELECT * FROM u")
    postgresql.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    unordered = iter(open_source(postgresql.address("u")))
    ordered = iter(open_source(postgresql.address("t")))
    others = "FROM pg_stat_activity WHERE application_name = 'mistill'"
    found = [next(ordered).record["id"]]
    postgresql.execute(f"SELECT pg_terminate_backend(pid) {others}")
    found += [row.record["id"] for row in ordered]
    assert found == list(range(1, 51))

    monkeypatch.setattr("mistill.datasets.databases.postgresql.PAGE_ROWS", 10)
    next(unordered)
    postgresql.execute(f"SELECT pg_terminate_backend(pid) {others}")
    with pytest.raises(InputError, match="start the same run again"):
        list(unordered)


def test_the_password_of_a_database_is_told_to_nobody(postgresql: Tables) -> None:
    write(postgresql.address("t"), [{"text": "a\0b", "mixed": 1}, {"text": "c", "mixed": "d\0"}])
    source = open_source(postgresql.address("t"))
    assert [row.record["text"] for row in source] == ["a\ufffdb", "c"]
    wrong = postgresql.address("t").replace(PostgreSQL.PASSWORD, "wr0ng-s3cr3t")
    nowhere = "postgresql://me:wr0ng-s3cr3t@127.0.0.1:9/db?table=t"
    for address in (wrong, nowhere):
        with pytest.raises(InputError, match="cannot be read: connection") as refused:
            records(address)
        assert "s3cr3t" not in f"{refused.value}{refused.value.__cause__}"
    assert "s3cr3t" not in f"{source.name}{source.paths}"
