from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library, need_library_of

from mistill.datasets.sources import open_source
from mistill.errors import InputError

ROWS = [{"id": 1, "text": "grüß"}, {"id": 2, "text": 'a "quoted", one'}, {"id": 3, "text": "two\nlines"}]

NAIVE = datetime.datetime.fromisoformat("2026-03-01T12:00:00")


def jsonl(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def csv_bytes(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


NEEDS_ARROW = b"pyarrow would have made this"
"""Stands for bytes that cannot be made: `put` and ``stdin`` skip the test that wants them."""


def parquet(rows: list[dict[str, Any]]) -> bytes:
    return written_by_arrow(
        lambda pa, sink: library("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), sink)
    )


def arrow_file(rows: list[dict[str, Any]]) -> bytes:
    def write(pa: Any, sink: Any) -> None:
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    return written_by_arrow(write)


def arrow_stream(rows: list[dict[str, Any]]) -> bytes:
    def write(pa: Any, sink: Any) -> None:
        table = pa.Table.from_pylist(rows)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)

    return written_by_arrow(write)


def zst(data: bytes) -> bytes:
    def write(pa: Any, sink: Any) -> None:
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)

    return written_by_arrow(write)


def written_by_arrow(write: Callable[[Any, Any], None]) -> bytes:
    """What ``write(pyarrow, sink)`` puts into the sink."""
    if find_spec("pyarrow") is None:
        return NEEDS_ARROW
    pa = library("pyarrow")
    sink = pa.BufferOutputStream()
    write(pa, sink)
    return sink.getvalue().to_pybytes()


def as_text(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{key: str(value) for key, value in row.items()} for row in rows]


def records(source: Any, **options: Any) -> list[dict[str, Any]]:
    return [row.record for row in open_source(source, **options)]


def put(directory: Path, name: str, data: bytes) -> Path:
    need_library_of(name)
    if data == NEEDS_ARROW:
        library("pyarrow")
    path = directory / name
    path.write_bytes(data)
    return path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(data: bytes) -> None:
        if data == NEEDS_ARROW:
            library("pyarrow")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.jsonl", jsonl(ROWS), ROWS),
        ("a.ndjson", jsonl(ROWS), ROWS),
        ("a.JSONL", jsonl(ROWS), ROWS),
        ("a.jsonl", jsonl(ROWS).replace(b"\n", b"\r\n"), ROWS),
        ("a.jsonl", b"\xef\xbb\xbf" + jsonl(ROWS), ROWS),
        ("a.jsonl", b"\n\n" + jsonl(ROWS).replace(b"\n", b"\n \t\n"), ROWS),
        ("a.jsonl", jsonl(ROWS).rstrip(), ROWS),
        ("2026.03.a.jsonl.gz", gzip.compress(jsonl(ROWS), mtime=0), ROWS),
        (
            "a.jsonl.gz",
            gzip.compress(jsonl(ROWS[:1]), mtime=0) + gzip.compress(jsonl(ROWS[1:]), mtime=0),
            ROWS,
        ),
        ("a.jsonl.zst", zst(jsonl(ROWS)), ROWS),
        ("a.json", json.dumps(ROWS).encode(), ROWS),
        ("a.json", b"\xef\xbb\xbf" + json.dumps(ROWS, indent=2).encode(), ROWS),
        ("a.json", json.dumps({"version": 3, "rows": ROWS, "meta": {"of": [1]}}, indent=1).encode(), ROWS),
        ("a.json", json.dumps({"rows": ROWS}).encode(), ROWS),
        ("a.json", jsonl(ROWS), ROWS),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0), ROWS),
        ("a.csv", csv_bytes(ROWS), as_text(ROWS)),
        ("a.csv", b"\xef\xbb\xbf" + csv_bytes(ROWS).replace(b"\r\n", b"\n"), as_text(ROWS)),
        ("a.csv", b"\n" + csv_bytes(ROWS) + b"\n\n", as_text(ROWS)),
        ("a.csv.gz", gzip.compress(csv_bytes(ROWS), mtime=0), as_text(ROWS)),
        ("a.csv.zst", zst(csv_bytes(ROWS)), as_text(ROWS)),
        ("a.tsv", csv_bytes(ROWS, "\t"), as_text(ROWS)),
        ("a.parquet", parquet(ROWS), ROWS),
        ("a.arrow", arrow_file(ROWS), ROWS),
        ("a.arrow", arrow_stream(ROWS), ROWS),
        ("a.feather", arrow_file(ROWS), ROWS),
    ],
)
def test_every_format_gives_its_rows(tmp_path: Path, name: str, data: bytes, expected: list[Any]) -> None:
    source = open_source(put(tmp_path, name, data))
    assert [row.record for row in source] == expected
    assert [row.index for row in source] == [0, 1, 2]  # read again
    assert source.columns == ("id", "text")
    assert source.total in (None, 3)


def test_feather_with_compression(tmp_path: Path) -> None:
    table = library("pyarrow").Table.from_pylist(ROWS)
    library("pyarrow.feather").write_feather(table, str(tmp_path / "a.feather"), compression="lz4")
    assert records(tmp_path / "a.feather") == ROWS


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.json", b"[]"),
        ("a.json", b" \n"),
        ("a.json", b'{"rows": []}'),
        ("a.csv", b""),
        ("a.csv", b"id,text\n"),
        ("a.parquet", parquet([])),
    ],
)
def test_an_empty_input_is_no_error(tmp_path: Path, name: str, data: bytes) -> None:
    source = open_source(put(tmp_path, name, data))
    assert list(source) == []
    assert source.total in (None, 0)


def test_total_and_columns_come_from_schemas(tmp_path: Path) -> None:
    assert open_source(put(tmp_path, "a.parquet", parquet(ROWS))).total == 3
    assert open_source(put(tmp_path, "b.parquet", parquet(ROWS)), limit=2).total == 2
    assert open_source(put(tmp_path, "a.csv", b"x,y\n")).columns == ("x", "y")
    assert open_source(put(tmp_path, "a.jsonl", b"")).columns is None
    assert open_source(ROWS).total == 3


def test_raw_is_the_line_itself_or_compact_json(tmp_path: Path) -> None:
    line = b'{"n": 1.10,  "big": 123456789012345678901234567890}'
    (row,) = open_source(put(tmp_path, "a.jsonl", b"  " + line + b" \r\n"))
    assert row.raw == line
    assert row.record["big"] == 123456789012345678901234567890
    (row,) = open_source([{"n": 1, "t": "é"}])
    assert row.raw == '{"n":1,"t":"é"}'.encode()


def test_of_a_key_given_twice_the_last_counts(tmp_path: Path) -> None:
    assert records(put(tmp_path, "a.jsonl", b'{"a":1,"a":2}\n')) == [{"a": 2}]


def test_line_separators_inside_strings_do_not_split_rows(tmp_path: Path) -> None:
    rows = [{"t": "a\u2028b\u0085c\x0bd"}]
    assert records(put(tmp_path, "a.jsonl", jsonl(rows))) == rows
    assert records(put(tmp_path, "a.csv", csv_bytes(rows))) == rows


def test_where_names_the_line_also_after_blank_and_multiline_ones(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b'id,t\n1,"x\ny"\n\n2,z\n')
    assert [row.where for row in open_source(path)] == [f"{path} line 2", f"{path} line 5"]
    path = put(tmp_path, "a.jsonl", b'\n{"a":1}\n\n{"a":2}')
    assert [row.where for row in open_source(path)] == [f"{path} line 2", f"{path} line 4"]
    path = put(tmp_path, "a.parquet", parquet(ROWS))
    assert [row.where for row in open_source(path)][2] == f"{path} row 2"


def test_lines_are_counted_across_chunks(tmp_path: Path) -> None:
    rows = [{"n": n, "t": "x" * 1000} for n in range(3000)]
    source = open_source(put(tmp_path, "a.jsonl", jsonl(rows)))
    assert [(row.index, row.record) for row in source] == list(enumerate(rows))
    assert [int(row.where.rpartition(" ")[2]) for row in source] == list(range(1, 3001))


# --- which inputs ---------------------------------------------------------------------------------------------------


def test_several_inputs_are_one_sequence(tmp_path: Path) -> None:
    first = put(tmp_path, "b.jsonl", jsonl(ROWS[:1]))
    empty = put(tmp_path, "empty.jsonl", b"")
    second = put(tmp_path, "a.csv", b"id,more\n9,x\n8,y\n")
    source = open_source([first, str(empty), second])
    assert [(row.index, row.record["id"]) for row in source] == [(0, 1), (1, "9"), (2, "8")]
    assert source.columns == ("id", "text", "more")
    assert [row.index for row in open_source([first, second], limit=2)] == [0, 1]


def test_a_glob_is_sorted_and_must_match(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        put(tmp_path, name, jsonl([{"from": name}]))
    (tmp_path / "d.jsonl").mkdir()
    assert records(f"{tmp_path}/*.jsonl") == [{"from": "a.jsonl"}, {"from": "b.jsonl"}]
    with pytest.raises(InputError, match=r"no file matches .*x\*"):
        open_source(f"{tmp_path}/x*")


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path) -> None:
    assert records(put(tmp_path, "a[1].jsonl", jsonl(ROWS))) == ROWS


def test_limit(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", jsonl(ROWS[:2]) + b"not read")
    assert records(path, limit=0) == []
    with pytest.raises(InputError, match="limit is -1"):
        open_source(path, limit=-1)
    generated = iter(ROWS)
    assert records(generated, limit=2) == ROWS[:2]
    assert next(generated) == ROWS[2]


def test_stdin_is_jsonl_unless_told_otherwise(stdin: Callable[[bytes], None]) -> None:
    stdin(jsonl(ROWS))
    source = open_source("-")
    assert source.columns == ("id", "text")  # and the row seen for it is not lost
    assert [row.record for row in source] == ROWS
    with pytest.raises(InputError, match="stdin can be read only once"):
        list(source)
    stdin(csv_bytes(ROWS))
    assert records("-", format="csv") == as_text(ROWS)
    stdin(gzip.compress(jsonl(ROWS), mtime=0))
    assert records("-", format="jsonl.gz") == ROWS
    stdin(zst(jsonl(ROWS)))
    assert records("-", format="jsonl.zst") == ROWS
    with pytest.raises(InputError, match="Parquet cannot be read from a pipe"):
        open_source("-", format="parquet")


def test_format_overrides_the_suffix(tmp_path: Path) -> None:
    path = put(tmp_path, "dump.txt", jsonl(ROWS))
    assert records(path, format="jsonl") == ROWS
    with pytest.raises(InputError, match=r"dump.txt: its suffix names no known format.*jsonl.*parquet"):
        open_source(path)
    for unknown in ("yaml", "parquet.gz", "csv.bz2"):
        with pytest.raises(InputError, match="unknown format"):
            open_source(path, format=unknown)
    with pytest.raises(InputError, match="for files only"):
        open_source(ROWS, format="csv")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: no such file"):
        open_source(tmp_path / "none.jsonl")
    directory = tmp_path / "d.jsonl"
    directory.mkdir()
    with pytest.raises(InputError, match=r"is a directory.*\*\.jsonl"):
        open_source(directory)
    for name in ("one.csv.gz", "two.csv.gz", "three.parquet", "notes"):
        (directory / name).touch()
    with pytest.raises(InputError, match=r"name (its files|them): '.*/d\.jsonl/\*\.csv\.gz'"):
        open_source(directory)


# --- what is wrong inside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"[1, 2]", "line 2: a list, where a row must be an object"),
        (b'"text"', "line 2: a string, where a row must be an object"),
        (b"null", "line 2: null, where a row must be an object"),
        (b"{'a': 1}", r"line 2: not JSON: a single quote, column 2 \(.*what Python prints of a dict"),
        (b"{\"a\": 'x'}", "line 2: not JSON: a single quote, column 7"),
        (
            b'{"a": "x\ty"}',
            r"line 2: not JSON: the control character U\+0009 in a string, column 9 \(write it as \\t;",
        ),
        (
            b'{"a\x1b": 1}',
            r"line 2: not JSON: the control character U\+001B in a string, column 4 \(write it as \\u001b;",
        ),
        (b'{"a": 1,}', "line 2: not JSON: .*column"),
        (b'{"a": NaN}', "line 2: not JSON: NaN is no JSON number; write null"),
        (b'{"a": -Infinity}', "line 2: not JSON: -Infinity is no JSON number"),
        (b'{"a": 1} {"b": 2}', "line 2: not JSON: Extra data, column 10"),
        (b'{"a": "x', "line 2: not JSON: Unterminated string"),
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, bad: bytes, message: str) -> None:
    path = put(tmp_path, "a.jsonl", b'{"a": 0}\n' + bad + b'\n{"a": 3}\n')
    rows = iter(open_source(path))
    assert next(rows).record == {"a": 0}
    with pytest.raises(InputError, match=message) as caught:
        next(rows)
    assert caught.value.index == 1
    assert str(path) in str(caught.value)


def test_a_number_out_of_range_is_refused_when_it_is_read(tmp_path: Path) -> None:
    (row,) = open_source(put(tmp_path, "a.jsonl", b'{"a": 1e999}\n'))
    with pytest.raises(InputError, match="line 1: not JSON: the number 1e999 is out of range"):
        _ = row.record
    with pytest.raises(InputError, match="1e999 is out of range"):
        records(put(tmp_path, "a.json", b'[{"a": 1e999}]'))


@pytest.mark.parametrize("torn", [b'{"a": 2', b'{"a": "hal', b'{"a', b'{"a": tr', b'{"a": "\\u00', b"{"])
def test_a_torn_last_line_is_called_that(tmp_path: Path, torn: bytes) -> None:
    path = put(tmp_path, "a.jsonl", b'{"a": 1}\n' + torn)
    with pytest.raises(InputError, match=r"line 2, the last, has no end.*still being written, or was cut"):
        list(open_source(path))
    path.write_bytes(b'{"a": 1}\n' + torn + b"\n")  # with a newline it is just wrong
    with pytest.raises(InputError, match="line 2: not JSON"):
        list(open_source(path))


def test_a_document_given_as_lines_is_explained(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", json.dumps(ROWS, indent=2).encode())
    with pytest.raises(InputError, match=r"line 1: .*give input_format=.json"):
        list(open_source(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_wrong_encoding_names_line_and_offset(tmp_path: Path, name: str) -> None:
    good = {"a.jsonl": b'{"a": "x"}\n', "a.csv": b"a\n", "a.json": b'{"rows": [\n'}[name]
    bad = {"a.jsonl": b'{"a": "caf', "a.csv": b"caf", "a.json": b'{"a": "caf'}[name]
    path = put(tmp_path, name, good + bad + "é".encode("latin-1") + b'"}\n')
    message = rf"line 2: not UTF-8: byte 0xe9 at offset {len(good + bad)} .*Windows-1252: encoding='cp1252'"
    with pytest.raises(InputError, match=message):
        list(open_source(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_wrong_encoding_far_inside(tmp_path: Path, name: str) -> None:
    text = "é€" * 50
    line = {"a.jsonl": f'{{"t": "{text}"}}\n', "a.csv": f"{text}\n", "a.json": f'{{"t": "{text}"}},\n'}[name]
    data = (b"[\n" if name == "a.json" else b"") + line.encode() * 10_000 + b'{"t": "\xff"}\n'
    offset = data.index(b"\xff")
    number = data.count(b"\n", 0, offset) + 1
    path = put(tmp_path, name, data)
    told = f"not UTF-8: byte 0xff at offset {offset}"
    if name == "a.json":
        with pytest.raises(InputError, match=f"line {number}: {told} .*encoding='utf-8-replace'"):
            list(open_source(path))
    else:  # where lines are sure, it is that row's own trouble
        *others, row = list(open_source(path))
        assert (row.where, row.problem) == (f"{path} line {number}", told)
        assert {other.problem for other in others} == {None}


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (json.dumps(ROWS).encode("utf-16"), "looks like UTF-16"),
        (gzip.compress(jsonl(ROWS), mtime=0), "looks gzip-compressed; add .gz"),
        (zst(jsonl(ROWS)), "looks zstd-compressed; add .zst"),
        (parquet([{"a": "\xff" * 50, "b": 1.5e300}]), "looks like Parquet"),
        (arrow_file(ROWS), "looks like Arrow"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_other_kinds_of_file_are_recognised(tmp_path: Path, data: bytes, hint: str, suffix: str) -> None:
    with pytest.raises(InputError, match=f"not UTF-8.*{hint}"):
        list(open_source(put(tmp_path, "a" + suffix, data)))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.jsonl.gz",
            gzip.compress(jsonl(ROWS * 99), mtime=0)[:-20],
            "a.jsonl.gz: the compressed data ends too early",
        ),
        ("a.jsonl.gz", jsonl(ROWS), "a.jsonl.gz: cannot be read: Not a gzipped file"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 99, "a.jsonl.gz: cannot be read"),
        ("a.jsonl.zst", zst(jsonl(ROWS * 99))[:-9], "a.jsonl.zst: cannot be read"),
        ("a.jsonl.zst", jsonl(ROWS), "a.jsonl.zst: cannot be read"),
        ("a.parquet", parquet(ROWS)[:-9], "a.parquet: cannot be read"),
        ("a.parquet", b"", "a.parquet: cannot be read"),
        ("a.arrow", jsonl(ROWS), "a.arrow: cannot be read"),
        ("a.json", b'[{"a": 1}, {"a": 2', r"a.json line 1 column 19: not JSON: .* \(.*cut"),
        ("a.json", b'[{"a": 1},\n {"a" 2}, {"a": 3}]', "a.json line 2 column 7: not JSON: Expecting ':'"),
        ("a.json", b'[{"a": 1}, 5]', "a.json row 1: a number, where a row must be an object"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "line 1 column 11: not JSON: ',' is missing"),
        ("a.json", b'[{"a": 1}] more', "more text after the end"),
        ("a.json", b'{"a": [{}], "b": [{}]}', "both 'a' and 'b' are lists"),
        ("a.json", b'{"a": 1}', "an object without a list.*give input_format=.jsonl"),
        ("a.json", b"12", "not a list of objects"),
        ("a.json", b'[{"a": NaN}]', "NaN is no JSON number"),
        ("a.json", b"{1: [{}]}", "a key in double quotes is missing"),
        ("a.csv", b"a,b,a\n1,2,3\n", "a.csv: the column 'a' stands twice"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv line 3: 1 field where the header has 2"),
        ("a.csv", b"a,b\n1,2,3\n", "a.csv line 2: 3 fields where the header has 2"),
        ("a.csv", b'a,b\n1,2\n3,"cut', "a.csv line 3: not well-formed: unexpected end of data"),
        ("a.csv", b'a,b\n1,"x"y\n', "a.csv line 2: not well-formed"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = put(tmp_path, name, data)
    with pytest.raises(InputError, match=message):
        list(open_source(path))


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [("a.jsonl", 50_000_000), ("a.json", 50_000_000), ("a.csv", 10_000_000)]
)
def test_a_huge_row(tmp_path: Path, name: str, size: int) -> None:
    text = "ab" * (size // 2)
    rows = [{"t": text}, {"t": "small"}]
    data = {"a.jsonl": jsonl, "a.json": lambda rows: json.dumps(rows).encode(), "a.csv": csv_bytes}[name](
        rows
    )
    assert [len(row.record["t"]) for row in open_source(put(tmp_path, name, data))] == [size, 5]


def encoded(rows: list[dict[str, Any]], suffix: str) -> bytes:
    encoders: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
        "jsonl": jsonl,
        "json": lambda rows: json.dumps(rows).encode(),
        "csv": csv_bytes,
        "jsonl.gz": lambda rows: gzip.compress(jsonl(rows), 1),
        "jsonl.zst": lambda rows: zst(jsonl(rows)),
        "parquet": parquet,
        "arrow": arrow_file,
    }
    return encoders[suffix](rows)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "jsonl.gz", "jsonl.zst", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    twelve_mb = [{"n": n, "t": "x" * 6000} for n in range(2_000)]
    path = put(tmp_path, f"a.{suffix}", encoded(twelve_mb, suffix))
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_source(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2_000
    assert peak < 7_000_000


# --- objects --------------------------------------------------------------------------------------------------------


class _Mapping(dict[str, Any]):
    pass


def _generated() -> Iterator[dict[str, Any]]:
    yield from ROWS


OBJECTS: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "tuple": lambda: tuple(ROWS),
    "mappings": lambda: [_Mapping(row) for row in ROWS],
    "Table": lambda: library("pyarrow").Table.from_pylist(ROWS),
    "RecordBatch": lambda: library("pyarrow").RecordBatch.from_pylist(ROWS),
    "pandas": lambda: library("pandas").DataFrame(ROWS),
    "polars": lambda: library("polars").DataFrame(ROWS),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_in_memory(name: str) -> None:
    source = open_source(OBJECTS[name]())
    assert source.columns == ("id", "text")
    assert source.total == 3
    assert source.repeatable
    for _ in range(2):
        assert [row.record for row in source] == ROWS
    assert "row 1 of the" in next(row for row in source if row.index == 1).where


@pytest.mark.parametrize("make", [_generated, lambda: library("pyarrow").Table.from_pylist(ROWS).to_reader()])
def test_streams_are_read_once(make: Callable[[], Any]) -> None:
    source = open_source(make())
    assert source.total is None
    assert not source.repeatable
    assert source.columns == ("id", "text")
    assert [row.record for row in source] == ROWS


def test_a_generator_says_that_it_is_spent() -> None:
    source = open_source(_generated())
    list(source)
    with pytest.raises(InputError, match="only once"):
        list(source)


def test_a_hugging_face_dataset() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS * 700)
    source = open_source(data)
    assert (source.total, source.columns) == (2100, ("id", "text"))
    assert [row.record for row in source] == ROWS * 700
    assert records(data.select([2, 0])) == [ROWS[2], ROWS[0]]
    assert records(data.to_iterable_dataset(), limit=3) == ROWS
    with pytest.raises(InputError, match="pick one of 'train'"):
        open_source(datasets.DatasetDict({"train": data}))


def test_a_hugging_face_dataset_with_a_transform() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)

    def shout(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        return {"loud": [text.upper() for text in batch["text"]]}

    source = open_source(data.with_transform(shout))
    assert (source.total, source.columns, source.header) == (3, ("loud",), None)
    assert [row.record for row in source] == [{"loud": row["text"].upper()} for row in ROWS]
    assert records(data.with_format("numpy")) == ROWS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.date(2026, 3, 1), "2026-03-01"),
        (NAIVE, "2026-03-01T12:00:00"),
        (datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC), "2026-03-01T00:00:00Z"),
        (datetime.timedelta(days=1, seconds=2), "P1DT2S"),
        (decimal.Decimal("1.10"), 1.1),
        (decimal.Decimal("NaN"), None),
        ([decimal.Decimal("Infinity")], [None]),
        (b"\x00\xff", "AP8="),
        (float("nan"), None),
        (float("inf"), None),
        ((1, 2), [1, 2]),
        (_Mapping(a=1), {"a": 1}),
        (2**70, 2**70),
        ("NaN and Infinity", "NaN and Infinity"),
    ],
)
def test_what_json_has_no_type_for(value: Any, expected: Any) -> None:
    assert records([{"v": value}]) == [{"v": expected}]


@pytest.mark.parametrize(
    ("name", "make", "expected"),
    [
        ("numpy", lambda np: np.int64(3), 3),
        ("numpy", lambda np: np.float32(0.5), 0.5),
        ("numpy", lambda np: np.bool_(True), True),
        ("numpy", lambda np: np.str_("x"), "x"),
        ("numpy", lambda np: np.array([[1, 2]]), [[1, 2]]),
        ("numpy", lambda np: np.datetime64("2026-03-01T00:00:00.000000001"), "2026-03-01T00:00:00.000000001"),
        ("numpy", lambda np: np.datetime64("NaT", "s"), None),
        ("pandas", lambda pd: pd.Timestamp("2026-03-01"), "2026-03-01T00:00:00"),
        ("pandas", lambda pd: pd.Timestamp("2026-03-01", tz="UTC"), "2026-03-01T00:00:00Z"),
        ("pandas", lambda pd: pd.Timestamp("2026-03-01 00:00:00.000000001"), "2026-03-01T00:00:00.000000001"),
        ("pandas", lambda pd: pd.Timedelta(days=1), "P1D"),
        ("pandas", lambda pd: pd.NaT, None),
        ("pandas", lambda pd: pd.NA, None),
    ],
)
def test_values_of_libraries(name: str, make: Callable[[Any], Any], expected: Any) -> None:
    assert records([{"v": make(library(name))}]) == [{"v": expected}]


def test_decimals_keep_all_digits_in_raw() -> None:
    (row,) = open_source([{"v": decimal.Decimal("0.10000000000000000000001"), "n": decimal.Decimal("NaN")}])
    assert row.raw == b'{"v":0.10000000000000000000001,"n":null}'


def test_frames_with_missing_values() -> None:
    pd, pl, pa = library("pandas"), library("polars"), library("pyarrow")
    frame = pd.DataFrame({"a": [1.5, None], "t": pd.to_datetime(["2026-03-01", None]), "s": ["x", None]})
    expected = [{"a": 1.5, "t": "2026-03-01T00:00:00", "s": "x"}, {"a": None, "t": None, "s": None}]
    assert records(frame) == expected
    assert records(pl.from_pandas(frame)) == expected
    assert records(pa.Table.from_pandas(frame)) == expected


def test_a_row_is_the_same_from_every_library() -> None:
    pd, pl, pa = library("pandas"), library("polars"), library("pyarrow")
    columns = {
        "t": [NAIVE],
        "n": [1],
        "l": [[1, 2]],
        "s": [{"a": None, "b": "x"}],
    }
    raws = {
        next(iter(open_source(data))).raw
        for data in (
            [{name: values[0] for name, values in columns.items()}],
            pa.table(columns),
            pl.DataFrame(columns),
            pd.DataFrame(columns),
        )
    }
    assert len(raws) == 1


def test_nested_arrow_types() -> None:
    pa = library("pyarrow")
    table = pa.table(
        {
            "struct": pa.array([{"a": [1, None], "b": {"c": "x"}}]),
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "dictionary": pa.array(["x"]).dictionary_encode(),
            "decimal": pa.array([decimal.Decimal("1.5")]),
            "binary": pa.array([b"\xff"]),
        }
    )
    assert records(table) == [
        {
            "struct": {"a": [1, None], "b": {"c": "x"}},
            "map": [["k", 1]],
            "dictionary": "x",
            "decimal": 1.5,
            "binary": "/w==",
        }
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": [1, 2]}, "rows cannot be read from a dict .*an iterable of dicts"),
        (b"a.jsonl", "rows cannot be read from a bytes"),
        (None, "rows cannot be read from a NoneType"),
        (7, "rows cannot be read from a int"),
        ([{"a": 1}, "text"], r'row 1 of the list: a str, where a row must be a mapping .*"prompt": text'),
        ([{"a": 1}, None], "row 1 of the list: a NoneType, where a row must be a mapping"),
    ],
)
def test_objects_that_are_no_rows(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(open_source(data))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("polars", lambda pl: pl.LazyFrame(ROWS), "frame.collect"),
        ("pandas", lambda pd: pd.DataFrame([[1, 2]], columns=["a", "a"]), "the column 'a' stands twice"),
        (
            "pandas",
            lambda pd: pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
            "several levels",
        ),
        ("pyarrow", lambda pa: pa.table([[1], [2]], names=["a", "a"]), "the column 'a' stands twice"),
    ],
)
def test_frames_that_hold_no_rows(name: str, make: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(open_source(make(library(name))))


def test_a_loop_of_references_is_an_error_of_its_column() -> None:
    loop: list[Any] = []
    loop.append(loop)
    (row,) = open_source([{"a": loop}])
    assert row.problem == "column 'a' holds what JSON cannot carry: it never ends; convert it before the run"


@pytest.mark.parametrize(
    "value",
    [object(), 1j, 10**5000, {("x", "y"): 1}, lambda: 1, {"in": [object()]}],
    ids=["object", "complex", "huge", "tuple key", "function", "nested"],
)
def test_a_value_that_json_cannot_carry_costs_its_row_alone(value: Any) -> None:
    first, second, third = open_source([{"a": 1}, {"a": 1, "b": value}, {"a": 2}])
    assert (first.problem, third.problem) == (None, None)
    assert (second.problem or "").startswith("column 'b' holds what JSON cannot carry: ")
    assert second.record == {"a": 1, "b": None}


def test_a_line_that_is_nested_too_deep_costs_its_row_alone(tmp_path: Path) -> None:
    deep = b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}"
    path = put(tmp_path, "a.jsonl", b'{"a": 1}\n' + deep + b'\n{"a": 3}\n')
    assert [(row.index, row.record, row.problem) for row in open_source(path)] == [
        (0, {"a": 1}, None),
        (1, {}, "it is nested too deep to be read"),
        (2, {"a": 3}, None),
    ]


def test_a_path_without_a_suffix_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="photos: no such file"):
        open_source(tmp_path / "photos")


def test_one_column_is_no_table_and_the_way_to_one_is_told() -> None:
    pandas, polars, arrow = library("pandas"), library("polars"), library("pyarrow")
    texts = ["a", "b"]
    for column, hint in (
        (pandas.Series(texts), "series.to_frame"),
        (polars.Series(texts), "series.to_frame"),
        (arrow.chunked_array([texts]), "pyarrow.table"),
        (arrow.array(texts), "pyarrow.table"),
        (library("datasets").Dataset.from_dict({"text": texts})["text"], "pass the dataset itself"),
    ):
        with pytest.raises(InputError, match=rf"which is one column .*{hint}"):
            open_source(column)
    assert [row.record for row in open_source(pandas.Series(texts).to_frame("text"))] == [
        {"text": "a"},
        {"text": "b"},
    ]


def test_columns_of_a_frame_that_arrow_has_no_type_for() -> None:
    pl = library("polars")
    library("pyarrow")
    big = 2**100
    frame = pl.DataFrame({"a": [big], "b": ["x"]}, schema={"a": pl.Int128, "b": pl.String})
    source = open_source(frame)
    assert [row.record["b"] for row in source] == ["x"]
    assert b"1267650600228229401496703205376" in next(iter(source)).raw
    assert list(source.types()) == ["b"]
    beyond = pl.select(at=pl.lit(2**60).cast(pl.Datetime("ms")), a=pl.lit(1).cast(pl.Int128))
    with pytest.raises(InputError, match="the DataFrame: a column cannot be read"):
        list(open_source(beyond))


def test_a_stream_that_breaks_is_an_error_of_the_input() -> None:
    pa = library("pyarrow")

    def batches() -> Iterator[Any]:
        yield pa.record_batch({"a": [1]})
        raise OSError("the disk is gone")

    reader = pa.RecordBatchReader.from_batches(pa.schema({"a": pa.int64()}), batches())
    with pytest.raises(InputError, match=r"RecordBatchReader: .*the disk is gone"):
        list(open_source(reader))


@dataclass
class Tagged:
    tags: set[int]
    more: list[frozenset[int]]


@pytest.mark.parametrize(
    "made",
    [
        lambda numbers: set(numbers),
        lambda numbers: [{"a": frozenset(numbers)}],
        lambda numbers: Tagged(set(numbers), [frozenset(numbers)]),
        lambda numbers: {"a": (set(numbers), Tagged(set(), [frozenset(numbers)]))},
        lambda numbers: {frozenset(numbers), frozenset([2, 10])},
        lambda numbers: {str(number) if number else number for number in numbers},
    ],
)
def test_a_set_is_a_list_of_one_order(made: Callable[[list[int]], Any]) -> None:
    numbers = [0, 8, 16, 24, 32, 2**61 - 1]  # whose order in a set is that in which they came
    backwards = numbers[::-1]
    assert list(set(numbers)) != list(set(backwards))
    rows = [next(iter(open_source([{"s": made(order)}]))) for order in (numbers, backwards)]
    assert rows[0].raw == rows[1].raw
    assert "16" in rows[0].raw.decode()


def test_a_set_is_sorted() -> None:
    (row,) = open_source([{"words": {"b", "a", "c"}, "numbers": {10, 9, 2.5}, "all": {"a", None, 2}}])
    assert row.record == {"words": ["a", "b", "c"], "numbers": [2.5, 9, 10], "all": ["a", 2, None]}
