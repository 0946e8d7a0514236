"""Digits of numbers: those of the input are those of the output, in every format."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.datasets.sources import open_source
from mistill.datasets.writers import open_writer
from mistill.datasets.writers.exact_records import INEXACT, decode, decode_exactly

pytest.importorskip("pyarrow", reason="needs pip install 'mistill[arrow]'")

import pyarrow as pa
import pyarrow.parquet as pq

DIGITS = ["19.90", "12345678901234567890.12"]


def inputs(directory: Path) -> dict[str, Any]:
    amounts = [Decimal(digits) for digits in DIGITS]
    pq.write_table(pa.table({"n": pa.array(amounts, pa.decimal128(38, 2))}), directory / "a.parquet")
    lines = [f'{{"n": {digits}}}' for digits in DIGITS]
    (directory / "a.jsonl").write_text("\n".join(lines))
    (directory / "a.json").write_text(f"[{', '.join(lines)}]")
    return {
        "parquet": directory / "a.parquet",
        "jsonl": directory / "a.jsonl",
        "json": directory / "a.json",
        "list": [{"n": amount} for amount in amounts],
    }


def written(path: Path) -> list[str]:
    if path.suffix in (".parquet", ".arrow"):
        return [row.record["n"] for row in open_source(path)]
    text = path.read_text().replace("{", "").replace("}", "").replace('"n":', "")
    lines = [line.strip(" ,") for line in text.splitlines()]
    return [line for line in lines if line not in ("n", "[", "]")]


@pytest.mark.parametrize("source", ["parquet", "jsonl", "json", "list"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_digits_go_from_input_to_output(tmp_path: Path, source: str, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    with open_writer(path) as writer:
        for row in open_source(inputs(tmp_path)[source]):
            writer.write_raw(row.raw)
    assert written(path) == DIGITS


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_digits_of_decimals_that_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    with open_writer(path) as writer:
        for digits in DIGITS:
            writer.write({"n": Decimal(digits)})
    assert written(path) == DIGITS


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("0.1", True),
        ("19.90", True),
        ("-0.0", True),
        ("0.10000000000000000555", True),  # as printf writes the double
        ("0.1000000000000000055511151231257827021181583404541015625", True),
        ("1e5", True),
        ("1.5E+300", True),
        ("5e-324", True),
        ("5.684341886080801e-14", True),
        ("1234567890.12345", True),
        ("12345678901234567890.12", False),
        ("0.1234567890123456789", False),
        ("1e999", False),
        ("1e-999", False),
        ("1e99999999999999999999", False),
    ],
)
def test_which_fractions_a_double_keeps(number: str, kept: bool) -> None:
    value = decode_exactly(f'{{"n":[{number}, 1]}}'.encode())["n"]
    if kept:
        assert value == [float(number), 1]
    else:
        assert value is INEXACT or value[0] is INEXACT


@given(
    st.dictionaries(
        st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
    )
)
def test_what_python_writes_is_kept(record: dict[str, Any]) -> None:
    line = json.dumps(record).encode()
    assert decode_exactly(line) == decode(line) == record


def types_of(path: Path, lines: list[str]) -> dict[str, str]:
    with open_writer(path) as writer:
        for line in lines:
            writer.write_raw(line.encode())
    return {field.name: str(field.type) for field in pq.read_schema(path)}


def test_prices_are_doubles(tmp_path: Path) -> None:
    assert types_of(tmp_path / "a.parquet", ['{"n": 19.90}', '{"n": 5.00}']) == {"n": "double"}


@pytest.mark.parametrize("number", ["1e999", "1e99999999999999999999", "9" * 5000])
def test_a_number_beyond_every_range_is_written_as_it_stands(tmp_path: Path, number: str) -> None:
    """Such a row has failed, and is part of the output all the same."""
    lines = [f'{{"n":{number},"deep":[{{"n": {number}}}],"t":"x"}}', '{"n":1,"deep":[],"t":"y"}']
    assert types_of(tmp_path / "a.parquet", lines) == {"n": "string", "deep": "string", "t": "string"}
    assert [row.record for row in open_source(tmp_path / "a.parquet")] == [
        {"n": number, "deep": f'[{{"n":{number}}}]', "t": "x"},
        {"n": "1", "deep": "[]", "t": "y"},
    ]
    with open_writer(tmp_path / "a.csv") as writer:
        for line in lines:
            writer.write_raw(line.encode())
    assert (tmp_path / "a.csv").read_text() == f'n,deep,t\n{number},"[{{""n"":{number}}}]",x\n1,[],y\n'


def test_digits_inside_of_lists_and_objects(tmp_path: Path) -> None:
    line = '{"o": {"price": 19.90, "sum": 12345678901234567890.12}, "l": [1.10, 2]}'
    with open_writer(tmp_path / "a.csv") as writer:
        writer.write_raw(line.encode())
    cells = '"{""price"":19.90,""sum"":12345678901234567890.12}","[1.10,2]"'
    assert (tmp_path / "a.csv").read_text() == f"o,l\n{cells}\n"
    assert types_of(tmp_path / "a.parquet", [line]) == {"o": "string", "l": "list<element: double>"}
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == [
        {"o": '{"price":19.90,"sum":12345678901234567890.12}', "l": [1.1, 2.0]}
    ]
