"""Workbooks in and out."""

from __future__ import annotations

import datetime as dt
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libraries import library

from mistill.datasets.sources import open_source
from mistill.datasets.writers import open_writer
from mistill.errors import InputError

openpyxl = library("openpyxl")


def book(path: Path, rows: list[list[Any]], *others: str) -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    for title in others:
        workbook.create_sheet(title)
    workbook.save(path)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [row.record for row in open_source(path)]


def test_cells_are_read_as_what_they_are(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 2, 29, 12, 30)  # noqa: DTZ001  Excel has no zones
    rows = [
        ["text", "n", "x", "yes", "day", "at", "gone"],
        ["é = 1", 5, 0.25, True, moment.date(), moment, None],
        [],
        [None, None, None, None, None, None, "last"],
    ]
    source = open_source(book(tmp_path / "a.xlsx", rows))
    assert [row.record for row in source] == [
        {
            "text": "é = 1",
            "n": 5,
            "x": 0.25,
            "yes": True,
            "day": "2024-02-29",
            "at": "2024-02-29T12:30:00",
            "gone": None,
        },
        dict.fromkeys(rows[0][:-1]) | {"gone": "last"},
    ]
    assert source.columns == tuple(rows[0])
    assert [row.where for row in source][-1].endswith("a.xlsx sheet row 4")


def test_the_first_sheet_is_read_and_the_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read(book(tmp_path / "a.xlsx", [["a"], [1]], "Prices")) == [{"a": 1}]
    assert "not Prices" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "a"], [1, 2]], "'a' stands twice"),
        ([["a", None, "b"], [1, 2, 3]], "column 2 of the header is empty"),
    ],
)
def test_a_sheet_that_is_no_table_is_refused(tmp_path: Path, rows: list[list[Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(book(tmp_path / "a.xlsx", rows))


def test_a_row_that_is_too_long_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = list(open_source(book(tmp_path / "a.xlsx", [["a"], [1], [2, 3], [4]])))
    assert [row.record for row in rows] == [{"a": 1}, {"a": 2}, {"a": 4}]
    assert [row.problem is None for row in rows] == [True, False, True]
    assert "more cells than the header" in str(rows[1].problem)


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(InputError, match=r"a\.xlsx: cannot be read"):
        read(tmp_path / "a.xlsx")
    book(tmp_path / "b.xlsx", [["a"], [1]]).rename(tmp_path / "b.csv")
    with pytest.raises(InputError, match="input_format='xlsx'"):
        read(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("a\n1\n")
    assert read(book(tmp_path / "d.xlsx", [])) == []


def test_text_is_never_a_formula(tmp_path: Path) -> None:
    record = {"a": "=1+1", "b": "-5", "c": "\x01", "d": 10**17, "e": [1], "f": None, "=g": 1.5, "h": 12}
    with open_writer(tmp_path / "a.xlsx") as writer:
        writer.write(record)
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx").active
    assert {cell.data_type for cell in sheet[1]} == {"s"}
    assert [cell.data_type for cell in sheet[2]] == ["s", "s", "s", "s", "s", "n", "n", "n"]
    assert read(tmp_path / "a.xlsx") == [record | {"c": "\ufffd", "d": "100000000000000000", "e": "[1]"}]


cells = (
    st.none()
    | st.booleans()
    | st.integers(-(10**14), 10**14)
    | st.text(
        alphabet=st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn")), min_size=1, max_size=8
    )
)


@settings(max_examples=30)
@given(st.lists(st.fixed_dictionaries({"first": st.just("x"), "a": cells, "b": cells}), max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("excel") / "a.xlsx"
    with open_writer(path, columns=["first", "a", "b"]) as writer:
        for row in rows:
            writer.write(row)
    assert read(path) == rows


def test_what_a_cell_cannot_hold_is_cut_and_said_since_its_answers_are_paid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_writer(tmp_path / "a.xlsx") as writer:
        writer.write({"a": "y" * 32_767, "b": "x" * 32_768})
        writer.write({"a": 1, "b": list(range(10_000))})
    first, second = read(tmp_path / "a.xlsx")
    assert first["a"] == "y" * 32_767
    assert first["b"] == "x" * (32_767 - 33) + "… [cut: it has 32,768 characters]"
    assert second["b"].startswith("[0,1,2,")
    assert second["b"].endswith("… [cut: it has 48,891 characters]")
    assert {len(first["b"]), len(second["b"])} == {32_767}
    assert "2 cells were cut, since Excel takes 32,767 characters in one: B2, B3;" in caplog.text


def test_columns_that_come_later_are_columns(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.xlsx") as writer:
        writer.write({"a": 1})
        writer.write({"b": 2})
    assert read(tmp_path / "a.xlsx") == [{"a": 1, "b": None}, {"a": None, "b": 2}]


@pytest.mark.parametrize("bad", ["\ufffe", "\uffff", "\x0b", "\x00", "\ud800", "\x1f"])
def test_what_xml_forbids_is_replaced_in_texts_and_names(tmp_path: Path, bad: str) -> None:
    with open_writer(tmp_path / "a.xlsx") as writer:
        writer.write({"a": f"x{bad}y", f"n{bad}": "\U0001fffe\x85\t"})
    assert read(tmp_path / "a.xlsx") == [{"a": "x\ufffdy", "n\ufffd": "\U0001fffe\x85\t"}]


def test_formulas_that_were_never_calculated_are_told_once_a_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = book(
        tmp_path / "a.xlsx", [["n", "double", "b"], [1, "=A2*2", None], [2, "=A3*2", "=A2"], [3, 4, "x"]]
    )
    assert [row["double"] for row in read(path)] == [None, None, 4]
    assert [record.getMessage().partition(" has a formula")[0] for record in caplog.records] == [
        f"{path} sheet row 2: column 'double'",
        f"{path} sheet row 3: column 'b'",
    ]


@pytest.mark.parametrize("saved", ["<v>2</v>", "<v></v>"])
def test_formulas_with_a_value_are_that_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, saved: str
) -> None:
    """Also where it is an empty text, which reads as null."""
    path = book(tmp_path / "a.xlsx", [["n", "f"], [1, "=A2&A9"]])
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    was = b'<c r="B2"><f>A2&amp;A9</f><v /></c>'
    assert was in sheet
    now = f'<c r="B2" t="str"><f>A2&amp;A9</f>{saved}</c>'.encode()
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(was, now)
    with zipfile.ZipFile(path, "w") as new:
        for name, data in parts.items():
            new.writestr(name, data)
    assert read(path) == [{"n": 1, "f": "2" if "2" in saved else None}]
    assert not caplog.text


def test_a_first_sheet_that_is_empty_is_refused_where_another_is_not(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    workbook.create_sheet("Prices").append(["a"])
    workbook.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match=r"its first sheet, 'Sheet', is empty.* 'Prices'"):
        read(tmp_path / "a.xlsx")
    assert read(book(tmp_path / "b.xlsx", [], "Empty too")) == []


@pytest.mark.parametrize("with_chart", [True, False])
def test_sheets_that_are_charts_are_passed_over(tmp_path: Path, *, with_chart: bool) -> None:
    workbook = openpyxl.Workbook()
    for row in (["a"], [1]):
        workbook.active.append(row)
    chart = workbook.create_chartsheet("Chart", 0)
    if with_chart:
        bars = openpyxl.chart.BarChart()
        bars.add_data(openpyxl.chart.Reference(workbook["Sheet"], min_col=1, min_row=1, max_row=2))
        chart.add_chart(bars)
    workbook.save(tmp_path / "a.xlsx")
    assert read(tmp_path / "a.xlsx") == [{"a": 1}]
    workbook.remove(workbook["Sheet"])
    workbook.active = 0
    workbook.save(tmp_path / "b.xlsx")
    with pytest.raises(InputError, match=r"b\.xlsx: no sheet of it has cells"):
        read(tmp_path / "b.xlsx")
