from __future__ import annotations

import csv
import gzip
import io
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.libraries import library, need_library_of

from mistill.datasets.sources import open_source
from mistill.datasets.writers import Writer, check_target, open_writer
from mistill.datasets.writers.arrow_writer import BATCH_ROWS, ArrowIpcWriter, ParquetWriter
from mistill.datasets.writers.destination import Destination
from mistill.datasets.writers.spool import open_spool
from mistill.errors import InputError, MistillError

ROWS = [{"id": 1, "text": "grüß", "error": None}, {"id": 2, "text": 'a "b",\nc', "error": None}]
TEXT_FORMATS = ["jsonl", "ndjson", "json", "csv", "tsv"]
FORMATS = [
    *TEXT_FORMATS,
    *(f"{text}.{compression}" for text in TEXT_FORMATS for compression in ("gz", "zst")),
    "parquet",
    "arrow",
    "feather",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.text(max_size=4)
records = st.lists(st.dictionaries(names, values, min_size=1, max_size=4), max_size=6)


def opened(target: Path | str, **options: Any) -> AbstractContextManager[Writer]:
    need_library_of(options.get("format") or str(target))
    return open_writer(target, **options)


def write(target: Path | str, rows: Iterable[dict[str, Any]], **options: Any) -> None:
    with opened(target, **options) as writer:
        for row in rows:
            writer.write(row)


def write_in_batches(path: Path, rows: Iterable[dict[str, Any]], batch_rows: int) -> None:
    """Arrow data, of which so many records are looked at together."""
    need_library_of(path.name)
    kind = {".parquet": ParquetWriter, ".arrow": ArrowIpcWriter}[path.suffix]
    with path.open("wb") as stream, open_spool(path.parent, path.name) as spool:
        destination = Destination(stream=stream, columns=None, open_spool=lambda: spool)
        writer = kind(destination, batch_rows=batch_rows)
        for row in rows:
            writer.write(row)
        writer.finish()


def read(path: Path) -> list[dict[str, Any]]:
    return [row.record for row in open_source(path)]


# --- what is written is what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    write(path, ROWS)
    expected = ROWS
    if suffix.startswith(("csv", "tsv")):
        expected = [{"id": str(row["id"]), "text": row["text"], "error": ""} for row in ROWS]
    assert read(path) == expected
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_lines_of_json_give_the_same_bytes_as_records(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"records.{suffix}", ROWS)
    with opened(tmp_path / f"lines.{suffix}") as writer:
        for row in ROWS:
            writer.write_raw(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())
    assert (tmp_path / f"lines.{suffix}").read_bytes() == (tmp_path / f"records.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_records_make_a_good_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    write(path, [], columns=["id", "text"])
    source = open_source(path)
    assert list(source) == []
    if "json" not in suffix:
        assert source.columns == ("id", "text")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz"])
@settings(max_examples=30)
@given(rows=records)
def test_json_round_trip(suffix: str, rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"out.{suffix}"
        write(path, rows)
        assert read(path) == rows


@settings(max_examples=50)
@given(
    data=st.data(),
    columns=st.lists(names, min_size=1, max_size=4, unique=True),
    suffix=st.sampled_from(["csv", "tsv"]),
)
def test_csv_round_trip(data: st.DataObject, columns: list[str], suffix: str) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(columns, st.text())), max_size=5))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"out.{suffix}"
        write(path, rows, columns=columns)
        source = open_source(path)
        assert [row.record for row in source] == rows
        assert source.columns == tuple(columns)


def same(got: Any, wanted: Any) -> bool:
    """Equal, where a key that is missing and one that is null are the same, as they are in columns."""
    if isinstance(got, dict) and isinstance(wanted, dict):
        return all(same(got.get(key), wanted.get(key)) for key in {*got, *wanted})
    if isinstance(got, list) and isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    alike = type(got) is type(wanted) or {type(got), type(wanted)} == {int, float}
    return alike and got == wanted


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@settings(max_examples=80)
@given(rows=records, batch_rows=st.sampled_from([1, 2, BATCH_ROWS]))
@example(rows=[{"a": 1}, {"a": 2.5}, {"a": 2**53 + 1}], batch_rows=1)
@example(rows=[{"a": 1}, {"a": 2.5}, {"a": 2**53 + 1}], batch_rows=BATCH_ROWS)
@example(rows=[{"a": [1, 2.5]}, {"a": [None, True]}], batch_rows=1)
@example(rows=[{"a": [1, 2.5]}, {"a": [None, True]}], batch_rows=BATCH_ROWS)
@example(rows=[{"a": {"b": {}}}, {"a": None}], batch_rows=1)
@example(rows=[{"a": {"b": {}}}, {"a": None}], batch_rows=BATCH_ROWS)
@example(
    rows=[{"a": {"b": 1}}, {"a": {"c": [{"d": 2}]}}, {"a": {"c": [{"d": 2.5, "e": None}]}}], batch_rows=1
)
@example(
    rows=[{"a": {"b": 1}}, {"a": {"c": [{"d": 2}]}}, {"a": {"c": [{"d": 2.5, "e": None}]}}], batch_rows=8192
)
@example(rows=[{"a": "x"}, {"a": 1}, {"a": None}, {"b": 2**63}], batch_rows=1)
@example(rows=[{"a": "x"}, {"a": 1}, {"a": None}, {"b": 2**63}], batch_rows=BATCH_ROWS)
@example(rows=[{"a": {"": 1}}, {"": []}], batch_rows=1)
@example(rows=[{"a": {"": 1}}, {"": []}], batch_rows=BATCH_ROWS)
def test_columnar_round_trip(suffix: str, rows: list[dict[str, Any]], batch_rows: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"out.{suffix}"
        write_in_batches(path, rows, batch_rows)
        back = read(path)
    assert len(back) == len(rows)
    for name in {name for row in rows for name in row}:
        pairs = [(got[name], row.get(name)) for got, row in zip(back, rows, strict=True)]
        as_values = all(same(got, wanted) for got, wanted in pairs)
        assert as_values or all(same(parsed(got), wanted) for got, wanted in pairs)


def parsed(got: Any) -> Any:
    assert got is None or isinstance(got, str)
    return None if got is None else json.loads(got)


# --- types of columns -----------------------------------------------------------------------------------------------


def types_of(path: Path) -> dict[str, str]:
    return {field.name: str(field.type) for field in library("pyarrow.parquet").read_schema(path)}


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1, None, 3], "int64"),
        ([None, None], "string"),
        ([None, 1], "int64"),
        ([1, 2.5], "double"),
        ([True, None], "bool"),
        (["x", None], "string"),
        ([[], ["x"]], "list<element: string>"),
        ([[None]], "list<element: string>"),
        ([{"a": 1}, {"b": "x"}], "struct<a: int64, b: string>"),
        ([{"a": None}], "struct<a: string>"),
        ([1, "x"], "string"),
        ([True, 1], "string"),
        ([2**64], "string"),
        ([2**53 + 1, 0.5], "string"),
        ([{}], "string"),
        ([[1], {"a": 1}], "string"),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, BATCH_ROWS])
def test_the_type_of_a_column(tmp_path: Path, column: list[Any], expected: str, batch_rows: int) -> None:
    path = tmp_path / "a.parquet"
    for values in (column, column[::-1]):
        write_in_batches(path, [{"c": value} for value in values], batch_rows)
        found = types_of(path)
        if expected.startswith("struct"):
            assert set(found["c"][7:-1].split(", ")) == set(expected[7:-1].split(", "))
        else:
            assert found["c"] == expected


def test_mixed_values_are_kept_as_json_text(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"c": "x"}, {"c": 2**64}, {"c": None}, {"c": {"a": [1]}}])
    assert [row["c"] for row in read(tmp_path / "a.parquet")] == [
        '"x"',
        "18446744073709551616",
        None,
        '{"a":[1]}',
    ]


def test_a_type_that_shows_late_holds_for_all(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": n, "late": None} for n in range(20_000)]
    rows[-1] = {"n": 0.5, "late": {"k": [1]}, "new": "x"}
    write(tmp_path / "a.parquet", rows)
    assert types_of(tmp_path / "a.parquet") == {
        "n": "double",
        "late": "struct<k: list<element: int64>>",
        "new": "string",
    }
    back = read(tmp_path / "a.parquet")
    assert back[0] == {"n": 0.0, "late": None, "new": None}
    assert back[-1] == rows[-1]


def test_columns_come_in_the_order_given(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"b": 1, "c": 2, "a": 3}], columns=["a", "b", "none"])
    assert list(types_of(tmp_path / "a.parquet")) == ["a", "b", "none", "c"]


def test_records_gather_into_large_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"n": n} for n in range(70_000)])
    assert library("pyarrow.parquet").ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_cells_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, [{"s": "x", "i": 1, "f": 0.5, "b": True, "n": None, "l": [1, "é"], "o": {"k": None}}])
    assert path.read_text() == 's,i,f,b,n,l,o\nx,1,0.5,true,,"[1,""é""]","{""k"":null}"\n'


def test_csv_takes_records_with_fewer_columns_but_none_with_others(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write(path, [{"b": 1}, {"a": 2}], columns=["a", "b"])
    assert path.read_text() == "a,b\n,1\n2,\n"
    with pytest.raises(
        InputError, match=r"record 2 has a column 'c', which is not in the header.*JSONL or Parquet"
    ):
        write(path, [{"a": 1}, {"c": 2}])
    assert path.read_text() == "a,b\n,1\n2,\n"


@settings(max_examples=50)
@given(cell=st.text())
@example(cell="lone \r return")
def test_other_readers_of_csv_see_the_same(cell: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.csv"
        write(path, [{"a": cell, "b": "x"}])
        with path.open(newline="", encoding="utf-8") as file:
            assert list(csv.reader(file)) == [["a", "b"], [cell, "x"]]


# --- whole or not at all --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_appears_when_it_is_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    path.write_bytes(b"the old one")
    with opened(path) as writer:
        for n in range(2000):
            writer.write({"n": n, "t": os.urandom(500).hex()})
        assert path.read_bytes() == b"the old one"
    assert len(read(path)) == 2000
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


class Interrupted(BaseException):
    pass


def interrupted_rows() -> Iterator[dict[str, Any]]:
    for n in range(2000):
        yield {"n": n, "t": os.urandom(500).hex()}
    raise Interrupted


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("old", [b"the old one", None])
def test_a_failure_leaves_things_as_they_were(tmp_path: Path, suffix: str, old: bytes | None) -> None:
    path = tmp_path / f"out.{suffix}"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(Interrupted):
        write(path, interrupted_rows())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if old is None else [old])


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "csv.zst", "parquet", "arrow"])
@pytest.mark.parametrize("records", [10, 5000])
def test_a_full_disk(tmp_path: Path, suffix: str, records: int) -> None:
    path = tmp_path / f"out.{suffix}"
    path.write_bytes(b"the old one")
    rows = [{"n": n, "t": os.urandom(400).hex()} for n in range(records)]
    with (
        files_limited_to(1000 if records == 10 else 1_500_000),
        pytest.raises(
            MistillError, match=r"out\.\S+.* could not be written: File too large .*no answer is lost"
        ),
    ):
        write(path, rows)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]
    write(path, rows)
    assert len(read(path)) == records


def test_a_full_disk_under_the_output_alone(tmp_path: Path) -> None:
    rows = [{"t": "x"} for _ in range(3)]  # smaller as lines than as a Parquet file
    with (
        files_limited_to(100),
        pytest.raises(MistillError, match=r"out\.parquet could not be written: File too large"),
    ):
        write(tmp_path / "out.parquet", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nobody() -> Iterator[None]:
    """Rights count for nothing when root runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_directory(nobody: None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o555)
        try:
            for check in (check_target, lambda path: write(path, ROWS)):
                with pytest.raises(InputError, match="cannot be written"):
                    check(Path(directory) / "out.jsonl")
        finally:
            Path(directory).chmod(0o755)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        check_target(tmp_path / "d.jsonl")
    with pytest.raises(InputError, match=r"there is no directory .*mkdir -p"):
        check_target(tmp_path / "none" / "a.jsonl")
    with pytest.raises(InputError, match=r"its suffix names no known format.*jsonl.*parquet"):
        check_target(tmp_path / "a.docx")
    with pytest.raises(InputError, match="unknown format 'docx'"):
        check_target(tmp_path / "a.jsonl", "docx")


def test_a_new_file_has_the_usual_rights_and_a_replaced_one_its_own(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain", tmp_path / "a.jsonl"
    plain.touch()
    write(path, ROWS)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    path.chmod(0o640)
    write(path, ROWS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("sources", "replaced", "right"),
    [
        ([0o600], None, 0o600),
        ([0o644], None, 0o644),
        ([0o640], None, 0o640),
        ([0o400], None, 0o600),  # its owner may always write what is his
        ([0o644, 0o600, 0o644], None, 0o600),
        ([0o600], 0o644, 0o600),
        ([0o644], 0o600, 0o600),
        ([0o640], 0o604, 0o600),
        ([0o644], 0o755, 0o755),
        ([], 0o600, 0o600),
    ],
)
def test_nobody_may_read_an_output_who_may_not_read_what_it_is_made_of(
    tmp_path: Path, sources: list[int], replaced: int | None, right: int
) -> None:
    made_of = [tmp_path / f"{place}.jsonl" for place in range(len(sources))]
    for source, mode in zip(made_of, sources, strict=True):
        source.touch()
        source.chmod(mode)
    path = tmp_path / "out.jsonl"
    if replaced is not None:
        path.touch()
        path.chmod(replaced)
    with open_writer(path, made_of=[*made_of, tmp_path / "gone.jsonl", "/dev/null"]) as writer:
        (partial,) = tmp_path.glob("*.partial")
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600
        writer.write({"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == right


def test_what_a_killed_process_has_left_of_an_output_is_cleared_away_and_nothing_that_is_written(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "out.jsonl", tmp_path / "out.jsonl.00000000.partial.jsonl"
    script = """
import os, sys
from mistill.datasets.writers import open_writer
with open_writer(sys.argv[1]) as writer:
    writer.write({"a": 1})
    os._exit(9)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    of_another = [
        tmp_path / name for name in ("more.out.jsonl.00000000.partial", "out.jsonl.0.partial", other.name)
    ]
    for file in of_another:
        file.touch()
    with open_writer(path) as first:
        assert not left.exists()
        (at_work,) = tmp_path.glob("out.jsonl.????????.partial")
        with open_writer(path) as second:
            assert at_work.exists()
            second.write({"a": 2})
        first.write({"a": 3})
    assert path.read_text() == '{"a":3}\n'
    assert sorted(tmp_path.iterdir()) == sorted([path, *of_another])


def test_a_private_file_on_stdin_makes_a_private_output(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.touch(0o600)
    path = tmp_path / "out.jsonl"
    code = f"from mistill.datasets.writers import open_writer\nwith open_writer({str(path)!r}, made_of=['-']): pass"
    with source.open() as stdin:
        subprocess.run([sys.executable, "-c", code], stdin=stdin, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "a.jsonl"
    link.symlink_to(tmp_path / "there" / "real.jsonl")
    write(link, ROWS)
    assert link.is_symlink()
    assert read(tmp_path / "there" / "real.jsonl") == ROWS


def test_devices_are_written_to_as_they_are() -> None:
    for format_name in ("jsonl", "parquet"):
        write("/dev/null", ROWS, format=format_name)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


# --- stdout ---------------------------------------------------------------------------------------------------------


class FakeStdout(io.TextIOWrapper):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def fake_stdout(monkeypatch: pytest.MonkeyPatch) -> FakeStdout:
    fake = FakeStdout(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", fake)
    return fake


def test_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = fake_stdout(monkeypatch)
    stdout.write("before\n")
    write("-", ROWS[:1])
    write("-", ROWS[:1], format="csv")
    expected = 'before\n{"id":1,"text":"grüß","error":null}\nid,text,error\n1,grüß,\n'
    assert stdout.buffer.getvalue().decode() == expected  # type: ignore[attr-defined]


def test_binary_formats_go_to_pipes_and_not_to_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = fake_stdout(monkeypatch)
    write("-", ROWS, format="parquet")
    written = library("pyarrow").BufferReader(stdout.buffer.getvalue())  # type: ignore[attr-defined]
    assert library("pyarrow.parquet").read_table(written).to_pylist() == ROWS
    stdout.terminal = True
    for format_name in ("parquet", "arrow", "jsonl.gz", "csv.zst"):
        with pytest.raises(InputError, match="garble the terminal"):
            check_target("-", format_name)


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "json.gz", "csv", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_output(tmp_path: Path, suffix: str) -> None:
    tracemalloc.start()
    try:
        with opened(tmp_path / f"a.{suffix}") as writer:
            for n in range(5_000):  # 30 MB
                writer.write({"n": n, "t": "x" * 6000})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


def test_the_same_records_make_the_same_gzip(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write(tmp_path / name, ROWS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).count(b"\n") == 2


def _nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if kind == "lists" or (kind == "both" and level % 2) else {"a": value}
    return value


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
@pytest.mark.parametrize("depth", [1, 32, 33, 49, 50, 64, 65, 90, 130, 400])
def test_a_deep_row_makes_text_of_its_column_and_costs_no_other(
    tmp_path: Path, suffix: str, kind: str, depth: int
) -> None:
    deep = _nested(depth, kind)
    path = tmp_path / f"out.{suffix}"
    write(path, [{"n": 1, "x": None}, {"n": 2, "x": deep}, {"n": 3, "x": None}])
    found = read(path)
    assert [row["n"] for row in found] == [1, 2, 3]
    assert found[0]["x"] is found[2]["x"] is None
    value = found[1]["x"]
    assert isinstance(value, str) == (depth > 32)
    assert (json.loads(value) if isinstance(value, str) else value) == deep
