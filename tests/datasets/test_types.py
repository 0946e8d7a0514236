"""Columns that nobody touched keep their type from one Arrow file to the next."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library

from mistill.datasets.sources import Exploded, open_source
from mistill.datasets.writers import Vectors, open_writer

pa = library("pyarrow")
parquet = library("pyarrow.parquet")
feather = library("pyarrow.feather")

MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15, 123456)  # noqa: DTZ001  a column without a zone has such
NS = 1_709_209_815_123_456_789
COLUMNS: dict[str, Any] = {
    "timestamp_s": pa.array([MOMENT.replace(microsecond=0), None], pa.timestamp("s")),
    "timestamp_us": pa.array([MOMENT, None], pa.timestamp("us")),
    "timestamp_ns": pa.array([NS, None], pa.timestamp("ns")),
    "timestamp_before_1970": pa.array([-1, None], pa.timestamp("us")),
    "timestamp_utc": pa.array([MOMENT, None], pa.timestamp("ms", "UTC")),
    "timestamp_zone": pa.array([MOMENT, None], pa.timestamp("us", "Europe/Paris")),
    "date32": pa.array([MOMENT.date(), None], pa.date32()),
    "date64": pa.array([MOMENT.date(), None], pa.date64()),
    "time32": pa.array([MOMENT.time().replace(microsecond=0), None], pa.time32("s")),
    "time64": pa.array([MOMENT.time(), None], pa.time64("us")),
    "duration": pa.array([dt.timedelta(days=3, microseconds=7), None], pa.duration("us")),
    "decimal": pa.array([Decimal("19.90"), None], pa.decimal128(10, 2)),
    "decimal_large": pa.array([Decimal("12345678901234567890.1234567890"), None], pa.decimal128(38, 10)),
    "decimal_whole": pa.array([Decimal(10**24), None], pa.decimal128(38, 0)),
    "binary": pa.array([b"\x00\xff", None], pa.binary()),
    "fixed_binary": pa.array([b"\x00\xff", None], pa.binary(2)),
    "categorical": pa.array(["a", None]).dictionary_encode(),
    "categorical_int8": pa.array(["a", None]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
    "float32": pa.array([0.1, None], pa.float32()),
    "float16": pa.array([0.5, None], pa.float32()).cast(pa.float16()),
    "int8": pa.array([-5, None], pa.int8()),
    "uint64": pa.array([2**64 - 1, None], pa.uint64()),
    "large_string": pa.array(["a", None], pa.large_string()),
    "all_null": pa.array([None, None], pa.int16()),
    "vectors": pa.array([[0.1, 0.2], None], pa.list_(pa.float32())),
    "fixed_vectors": pa.array([[0.1, 0.2], None], pa.list_(pa.float32(), 2)),
    "list_of_dates": pa.array([[MOMENT.date(), None], None], pa.list_(pa.date32())),
    "struct": pa.array(
        [{"at": MOMENT, "price": Decimal("1.50"), "n": 1}, None],
        pa.struct([("at", pa.timestamp("us")), ("price", pa.decimal128(5, 2)), ("n", pa.int32())]),
    ),
    "map": pa.array([[("a", b"x")], None], pa.map_(pa.string(), pa.binary())),
}


def copied(source: Any, path: Path, **options: Any) -> Any:
    """The table that comes out where rows go through JSON, as those of a run do."""
    rows = open_source(source)
    with open_writer(path, types=rows.types(), **options) as writer:
        for row in rows:
            writer.write_raw(row.raw)
    return parquet.read_table(path) if path.suffix == ".parquet" else feather.read_table(path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_keeps_its_type_and_values(tmp_path: Path, name: str, suffix: str) -> None:
    if (name, suffix) == ("float16", "parquet") and int(pa.__version__.partition(".")[0]) < 15:
        pytest.skip("Parquet had no half floats")
    table = pa.table({"column": COLUMNS[name], "n": [1, 2]})
    if suffix == "parquet":
        parquet.write_table(table, tmp_path / "in.parquet")
        table = parquet.read_table(tmp_path / "in.parquet")  # Parquet itself has no seconds
    found = copied(table, tmp_path / f"out.{suffix}")
    assert found.schema.types == table.schema.types
    assert found.equals(table)
    # And through a file.
    feather.write_feather(table, tmp_path / "in.arrow", compression="uncompressed")
    assert copied(str(tmp_path / "in.arrow"), tmp_path / f"again.{suffix}").equals(table)


def test_a_dictionary_is_one_in_many_batches(tmp_path: Path) -> None:
    words = pa.array([f"w{number // 10_000}" for number in range(30_000)]).dictionary_encode()
    table = pa.table({"word": words})
    for suffix in ("arrow", "parquet"):
        found = copied(table, tmp_path / f"out.{suffix}")
        assert found.schema == table.schema
        assert found["word"].to_pylist() == table["word"].to_pylist()


def test_what_does_not_fit_gets_a_type_by_its_values(tmp_path: Path) -> None:
    types = {"small": pa.int8(), "at": pa.timestamp("us"), "price": pa.decimal128(4, 2), "far": pa.int8()}
    rows = [{"small": 1, "at": "2024-01-01T00:00:00", "price": 1.5, "far": 1}] * 9000 + [
        {"small": 1000, "at": "soon", "price": None, "far": 2.5}
    ]
    with open_writer(tmp_path / "out.parquet", types=types) as writer:
        for row in rows:
            writer.write(row)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.types == [pa.int64(), pa.string(), pa.float64(), pa.float64()]
    assert table.to_pylist()[-1] == rows[-1]


def test_a_moment_beyond_the_years_of_python_stays_text(tmp_path: Path) -> None:
    table = pa.table({"at": pa.array([2**60], pa.timestamp("us"))})
    assert copied(table, tmp_path / "out.parquet").schema.types == [pa.string()]


def test_several_inputs_keep_what_all_have(tmp_path: Path) -> None:
    for name, kind in [("a", pa.int8()), ("b", pa.int16())]:
        table = pa.table({"n": pa.array([1], kind), "at": pa.array([MOMENT], pa.timestamp("us"))})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    found = copied([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.parquet")
    assert found.schema.types == [pa.int64(), pa.timestamp("us")]


def test_items_of_a_list_keep_the_type_of_the_list(tmp_path: Path) -> None:
    rows = open_source(pa.table({"days": pa.array([[MOMENT.date()]], pa.list_(pa.date32())), "n": [1]}))
    rows.add(Exploded("days", "day"))
    assert rows.types() == {"day": pa.date32(), "n": pa.int64()}


def test_frames_keep_their_types(tmp_path: Path) -> None:
    pandas, polars = library("pandas"), library("polars")
    frame = pandas.DataFrame(
        {
            "at": pandas.to_datetime(["2024-01-01", None]),
            "kind": pandas.Categorical(["a", None]),
            "price": [Decimal("1.50"), None],
            "small": pandas.array([1, None], dtype="Int8"),
            "score": pandas.Series([0.25, 0.5], dtype="float32"),
        }
    )
    kinds = copied(frame, tmp_path / "pandas.parquet").schema.types
    assert [pa.types.is_timestamp(kinds[0]), pa.types.is_dictionary(kinds[1])] == [True, True]
    assert kinds[2:] == [pa.decimal128(3, 2), pa.int8(), pa.float32()]
    other = polars.DataFrame(
        {"at": [MOMENT], "kind": ["a"]}, schema={"at": polars.Datetime, "kind": polars.Categorical}
    )
    kinds = copied(other, tmp_path / "polars.parquet").schema.types
    assert (kinds[0], pa.types.is_dictionary(kinds[1])) == (pa.timestamp("us"), True)


@pytest.mark.parametrize(
    ("numbers", "values"), [("float32", [0.1, -2.5]), ("int8", [-128, 127]), ("uint8", [255])]
)
def test_vectors_have_the_type_of_their_numbers(tmp_path: Path, numbers: Any, values: list[float]) -> None:
    with open_writer(tmp_path / "out.parquet", types={"v": Vectors(numbers)}) as writer:
        writer.write({"v": values})
        writer.write({"v": None})
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.types == [pa.list_(getattr(pa, numbers)())]
    assert table["v"].to_pylist()[0] == pytest.approx(values)


@pytest.mark.parametrize("odd", [[1e300], [None], ["x"], 7])
def test_what_is_no_vector_of_such_numbers_is_not_bent_into_one(tmp_path: Path, odd: Any) -> None:
    rows = [{"v": [0.5]}, {"v": odd}]
    with open_writer(tmp_path / "out.parquet", types={"v": Vectors("float32")}) as writer:
        for row in rows:
            writer.write(row)
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    read = [json.loads(row["v"]) if isinstance(row["v"], str) else row["v"] for row in found]
    assert read == [row["v"] for row in rows]
