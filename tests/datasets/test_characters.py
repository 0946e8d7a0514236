"""Texts that UTF-8 or JSON have trouble with: lone surrogates, byte order marks, NUL, line ends, types of text."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.characters import whole_characters
from mistill.datasets.encoding import encode_record
from mistill.datasets.sources import open_source
from mistill.datasets.sources.csv_reader import delimiter_hint
from mistill.datasets.sources.json_text import check_object, repair_line
from mistill.errors import InputError

pytest.importorskip("numpy", reason="needs pip install numpy")
pytest.importorskip("pandas", reason="needs pip install pandas")

import numpy as np
import pandas as pd

BOM = b"\xef\xbb\xbf"
REPLACED = "\ufffd"
ANY_TEXT = st.text(st.characters(), max_size=6)  # surrogates too


def put(directory: Path, name: str, data: bytes) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def records(source: Any, **options: Any) -> list[dict[str, Any]]:
    return [row.record for row in open_source(source, **options)]


# --- lone surrogates ------------------------------------------------------------------------------------------------

HALVES = [
    ("half \ud83d", "half \ufffd"),
    ("\ude00 half", "\ufffd half"),
    ("\ude00\ud83d", "\ufffd\ufffd"),
    ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ("\ud83d\ude00", "😀"),
]


@pytest.mark.parametrize(("text", "expected"), HALVES)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "inner.json"])
def test_half_a_character_in_a_file_becomes_the_replacement_character(
    tmp_path: Path, name: str, text: str, expected: str
) -> None:
    rows = [{"t": "a"}, {"t": text, text: [{"in": text}]}, {"t": "c"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    document = {
        "a.jsonl": lines,
        "a.json": json.dumps(rows),
        "inner.json": json.dumps({text: 1, "rows": rows}),
    }
    path = put(tmp_path, name, document[name].encode())
    assert records(path) == [{"t": "a"}, {"t": expected, expected: [{"in": expected}]}, {"t": "c"}]


@pytest.mark.parametrize(("text", "expected"), HALVES)
def test_half_a_character_in_memory(text: str, expected: str) -> None:
    row = {"t": text, text: [{"in": text}], "array": np.array([text]), "n": np.int64(1)}
    assert records([row]) == [{"t": expected, expected: [{"in": expected}], "array": [expected], "n": 1}]
    frame = pd.DataFrame([[text, 1]], columns=pd.Index(["t", text], dtype=object), dtype=object)
    source = open_source(frame)
    assert source.columns == ("t", expected)
    assert [one.record for one in source] == [{"t": expected, expected: 1}]


@given(st.dictionaries(ANY_TEXT, ANY_TEXT | st.lists(ANY_TEXT, max_size=2), max_size=3))
def test_a_row_is_the_same_from_a_file_as_from_memory(row: dict[str, Any]) -> None:
    line = json.dumps(row).encode()
    repaired = repair_line(line)
    check_object(repaired)
    assert json.loads(repaired) == json.loads(encode_record(json.loads(line)))


@given(st.text())
def test_whole_text_is_left_alone(text: str) -> None:
    assert whole_characters(text) == text
    line = json.dumps({"t": text}).encode()
    assert repair_line(line) == line


def test_a_backslash_before_an_escape_is_no_escape(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", rb'{"path": "C:\\ud800", "half": "\ud800"}' + b"\n")
    assert records(path) == [{"path": r"C:\ud800", "half": REPLACED}]


def test_all_else_of_a_repaired_line_keeps_its_digits(tmp_path: Path) -> None:
    (row,) = open_source(put(tmp_path, "a.jsonl", rb'{"price": 19.90, "half": "\udfff"}'))
    assert row.raw == rb'{"price": 19.90, "half": "\ufffd"}'


# --- other characters -----------------------------------------------------------------------------------------------


def test_a_byte_order_mark_between_joined_files_is_dropped(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", BOM + b'{"t":"a"}\n' + BOM + b'{"t":"b"}\n' + BOM + b"\n")
    assert [(row.record, row.raw) for row in open_source(path)] == [
        ({"t": "a"}, b'{"t":"a"}'),
        ({"t": "b"}, b'{"t":"b"}'),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.jsonl",
            b'{"t":"a"}' + BOM + b'{"t":"b"}\n',
            "line 1: not JSON: a byte order mark, column 10 .*a line end is missing",
        ),
        (
            "a.jsonl",
            b'{"t":"a"}\n' + bytes(50),
            "line 2: NUL bytes from column 1 on: .*not written to its end",
        ),
        ("a.jsonl", b'{"t":"a"}\n{"t":"\xc3\xa9' + bytes(50), "line 2: NUL bytes from column 8 on"),
        ("a.csv", b"t\nhello\n" + bytes(64), "line 3: NUL bytes from column 1 on: .*not written to its end"),
        ("a.csv", b"t\nhel" + bytes(64), "line 2: NUL bytes from column 4 on"),
        (
            "a.json",
            b'[{"t":"a"}]' + bytes(64),
            "line 1: NUL bytes from column 12 on: .*not written to its end",
        ),
        ("a.json", b'[{"t":"a"}' + bytes(64), "line 1: NUL bytes from column 11 on"),
        ("a.jsonl", b'{"t":"a\x00b"}\n', "line 1: not JSON: a NUL byte, column 8"),
        ("a.jsonl", b'{"t":"a"}\r{"t":"b"}\r', r"line 1: its lines end with CR alone .*tr '\\r' '\\n'"),
        ("a.csv", b"t,u\ra,1\rb,2\r", r"line 1: it holds a CR without LF.*tr '\\r' '\\n'"),
        ("a.csv", b"text;id\nhello, world;1\n", "line 2: 2 fields where the header has 1 .*by semicolons"),
        ("a.csv", b"text\tid\na,b\t1\n", "line 2: 2 fields where the header has 1 .*by tabs"),
    ],
)
def test_words_for_bad_lines(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(open_source(put(tmp_path, name, data)))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [(["text;id"], "semicolons"), (["a\tb\tc"], "tabs"), (["text"], None), (["a;b", "c"], None), ([], None)],
)
def test_a_table_of_one_column_may_be_of_another_delimiter(columns: list[str], expected: str | None) -> None:
    hint = delimiter_hint(columns)
    assert hint is None if expected is None else hint is not None and expected in hint


def test_nul_is_a_character_like_any_other(tmp_path: Path) -> None:
    rows = [{"a\0": "x\0y"}]
    assert records(rows) == rows
    assert records(put(tmp_path, "a.jsonl", json.dumps(rows[0]).encode())) == rows
    assert records(put(tmp_path, "a.json", json.dumps(rows).encode())) == rows
    assert records(put(tmp_path, "a.csv", b"a\0\nx\0y\n")) == rows


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**200])
def test_integers_of_any_size(tmp_path: Path, number: int) -> None:
    assert records([{"n": number}]) == [{"n": number}]
    assert records(put(tmp_path, "a.jsonl", json.dumps({"n": number}).encode())) == [{"n": number}]
    assert records(put(tmp_path, "a.json", json.dumps([{"n": number}]).encode())) == [{"n": number}]


def test_an_integer_beyond_every_use_is_refused(tmp_path: Path) -> None:
    digits = "9" * 5000
    (row,) = open_source(put(tmp_path, "a.jsonl", f'{{"n": {digits}}}'.encode()))
    with pytest.raises(InputError, match=r"line 1: not JSON: the number 9+… of 5000 digits is out of range"):
        _ = row.record
    with pytest.raises(InputError, match=r"the number 9+… of 5000 digits is out of range"):
        records(put(tmp_path, "a.json", f'[{{"n": {digits}}}]'.encode()))


# --- types of text --------------------------------------------------------------------------------------------------


class Label(str):
    """A type of text as libraries make them."""

    __slots__ = ()


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize("make", [np.str_, Label])
def test_text_of_another_type_is_text(make: Any) -> None:
    assert records([{make("a"): make("b"), "in": [{make("c"): make("\ud800")}]}]) == [
        {"a": "b", "in": [{"c": REPLACED}]}
    ]


def test_keys_of_numpy_and_of_enums() -> None:
    assert records([{np.int64(1): "a", Colour.RED: Colour.RED, 2: "c"}]) == [
        {"1": "a", "red": "red", "2": "c"}
    ]
    assert records([{"in": {np.int64(1): {np.str_("x"): 1}}}]) == [{"in": {"1": {"x": 1}}}]


def test_a_value_whose_own_conversion_fails_is_named() -> None:
    class Lazy:
        def tolist(self) -> list[int]:
            raise RuntimeError("not loaded yet")

    _, row = open_source([{"b": 1}, {"a": 1, "b": Lazy()}])
    assert re.match("column 'b' .*: not loaded yet; convert it", row.problem or "")
    assert row.record == {"a": 1, "b": None}
