"""Dates and times of any year, from every library that has them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.datasets.iso_dates import iso_date, iso_datetime, iso_duration, with_signed_year
from mistill.datasets.sources import open_source

pytest.importorskip("numpy", reason="needs pip install numpy")
pytest.importorskip("pandas", reason="needs pip install pandas")
pytest.importorskip("polars", reason="needs pip install polars")
pytest.importorskip("pyarrow", reason="needs pip install 'mistill[arrow]'")

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

EPOCH = datetime.datetime.fromisoformat("1970-01-01")
MICROSECOND = datetime.timedelta(microseconds=1)
YEAR_10000_S = 253_402_300_800
YEAR_10000_DAYS = 2_932_897
YEAR_0_S = -62_135_596_801  # its last second
YEAR_0_DAYS = -719_163


@given(st.dates())
def test_a_date_that_python_has_reads_as_python_writes_it(date: datetime.date) -> None:
    assert iso_date((date - EPOCH.date()).days) == date.isoformat()


@given(st.datetimes())
def test_a_time_reads_as_of_rows_that_are_in_range(moment: datetime.datetime) -> None:
    ticks = (moment - EPOCH) // MICROSECOND
    assert iso_datetime(ticks, 10**6, utc=False) == msgspec.json.decode(msgspec.json.encode(moment))


@given(st.timedeltas())
def test_a_duration_reads_as_of_rows_that_are_in_range(length: datetime.timedelta) -> None:
    assert iso_duration(length // MICROSECOND, 10**6) == msgspec.json.decode(msgspec.json.encode(length))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (iso_date(YEAR_10000_DAYS), "+10000-01-01"),
        (iso_date(YEAR_0_DAYS), "0000-12-31"),
        (iso_date(-719_529), "-0001-12-31"),
        (iso_date(-(2**31)), "-5877641-06-23"),
        (iso_datetime(2**63 - 1, 10**6, utc=True), "+294247-01-10T04:00:54.775807Z"),
        (iso_datetime(-1, 10**9, utc=False), "1969-12-31T23:59:59.999999999"),
        (iso_duration(2**62, 1), "P53375995583650DT27904S"),
        (iso_duration(-1, 10**9), "-PT0.000000001S"),
        (with_signed_year("10000-01-01T00:00:00"), "+10000-01-01T00:00:00"),
        (with_signed_year("-001-01-01"), "-0001-01-01"),
        (with_signed_year("2026-01-01"), "2026-01-01"),
    ],
)
def test_years_beyond_four_digits_have_a_sign(text: str, expected: str) -> None:
    assert text == expected


COLUMNS = [
    (pa.time64("ns"), 1, "00:00:00.000000001"),
    (pa.time64("ns"), 86_399_999_999_999, "23:59:59.999999999"),
    (pa.time64("ns"), 3_600_000_000_000, "01:00:00"),
    (pa.timestamp("s"), YEAR_10000_S, "+10000-01-01T00:00:00"),
    (pa.timestamp("us"), YEAR_10000_S * 10**6, "+10000-01-01T00:00:00"),
    (pa.timestamp("us"), YEAR_0_S * 10**6, "0000-12-31T23:59:59"),
    (pa.timestamp("us"), 2**63 - 1, "+294247-01-10T04:00:54.775807"),
    (pa.timestamp("us", "UTC"), YEAR_10000_S * 10**6, "+10000-01-01T00:00:00Z"),
    (pa.timestamp("us", "Europe/Paris"), YEAR_10000_S * 10**6, "+10000-01-01T00:00:00Z"),
    (pa.timestamp("us", "No/Such_Zone"), 0, "1970-01-01T00:00:00Z"),
    (pa.date32(), YEAR_10000_DAYS, "+10000-01-01"),
    (pa.date32(), YEAR_0_DAYS, "0000-12-31"),
    (pa.date64(), YEAR_10000_DAYS * 86_400_000, "+10000-01-01"),
    (pa.duration("s"), 2**62, "P53375995583650DT27904S"),
]


@pytest.mark.parametrize(("kind", "value", "expected"), COLUMNS)
def test_an_arrow_column_beyond_what_python_has(kind: Any, value: int, expected: str) -> None:
    table = pa.table({"text": ["a", "b", "c"], "when": pa.array([value, 86_400_000, None], kind)})
    rows = [row.record for row in open_source(table)]
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert [rows[0]["when"], rows[2]["when"]] == [expected, None]
    in_range = table.slice(1, 1)
    if "No/Such" not in str(kind):  # what is in range reads the same, whatever stands beside it
        assert rows[1] == next(row.record for row in open_source(in_range))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_with_such_a_column(tmp_path: Path, name: str) -> None:
    when = pa.array([0, YEAR_10000_S * 10**6], pa.timestamp("us"))
    table = pa.table({"text": ["a", "b"], "valid_to": when})
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    assert [row.record for row in open_source(tmp_path / name)] == [
        {"text": "a", "valid_to": "1970-01-01T00:00:00"},
        {"text": "b", "valid_to": "+10000-01-01T00:00:00"},
    ]


def test_such_dates_at_any_depth() -> None:
    day = pa.date32()
    dates = pa.array([YEAR_10000_DAYS], day)
    table = pa.table(
        {
            "list": pa.array([[YEAR_10000_DAYS, None]], pa.list_(day)),
            "fixed": pa.array([[YEAR_10000_DAYS]], pa.list_(day, 1)),
            "object": pa.array(
                [{"a": [{"b": YEAR_10000_DAYS}]}], pa.struct({"a": pa.list_(pa.struct({"b": day}))})
            ),
            "map": pa.array([[("k", YEAR_10000_DAYS)]], pa.map_(pa.string(), day)),
            "dictionary": dates.dictionary_encode(),
            "union": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [dates]),
            "runs": pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), dates),
        }
    )
    assert [row.record for row in open_source(table)] == [
        {
            "list": ["+10000-01-01", None],
            "fixed": ["+10000-01-01"],
            "object": {"a": [{"b": "+10000-01-01"}]},
            "map": [["k", "+10000-01-01"]],
            "dictionary": "+10000-01-01",
            "union": "+10000-01-01",
            "runs": "+10000-01-01",
        }
    ]


def test_pandas() -> None:
    numbers = np.array(["10000-01-01", "-0001-01-01", "2026-01-01"], dtype="datetime64[s]")
    lengths = np.array([2**62, 0, 1], dtype="timedelta64[s]")
    frame = pd.DataFrame(
        {
            "when": numbers,
            "length": lengths,
            "arrow": pd.array(
                pa.array([YEAR_10000_DAYS, None, 0], pa.date32()), dtype=pd.ArrowDtype(pa.date32())
            ),
        }
    )
    assert [row.record for row in open_source(frame)] == [
        {"when": "+10000-01-01T00:00:00", "length": "P53375995583650DT27904S", "arrow": "+10000-01-01"},
        {"when": "-0001-01-01T00:00:00", "length": "P0D", "arrow": None},
        {"when": "2026-01-01T00:00:00", "length": "PT1S", "arrow": "1970-01-01"},
    ]


def test_polars() -> None:
    table = pa.table(
        {
            "text": ["a", "b"],
            "when": pa.array([YEAR_10000_S * 10**6, 0], pa.timestamp("us")),
            "day": pa.array([YEAR_10000_DAYS, 0], pa.date32()),
        }
    )
    assert [row.record for row in open_source(pl.from_arrow(table))] == [
        {"text": "a", "when": "+10000-01-01T00:00:00", "day": "+10000-01-01"},
        {"text": "b", "when": "1970-01-01T00:00:00", "day": "1970-01-01"},
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.datetime64("10000-01-01"), "+10000-01-01"),
        (np.datetime64("-0001-01-01"), "-0001-01-01"),
        (np.timedelta64(1, "D"), "P1D"),
        (np.timedelta64(1, "ns"), "PT0.000000001S"),
        (np.timedelta64(2**62, "s"), "P53375995583650DT27904S"),
        (np.timedelta64("NaT", "s"), None),
        (pd.Timedelta(1, "ns"), "PT0.000000001S"),
    ],
)
def test_numpy_and_pandas_values(value: Any, expected: str | None) -> None:
    assert [row.record for row in open_source([{"v": value}])] == [{"v": expected}]
