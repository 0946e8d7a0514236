from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.errors import InputError
from mistill.records.columns import check_columns, column_names, make_line, make_record
from mistill.runs.kinds.chat import ChatKind

OUTPUT_COLUMNS = ChatKind.columns
OUTCOME = {"generation": "hi", "finish_reason": "stop", "input_tokens": 3, "output_tokens": 1}


def test_a_record_is_the_row_and_then_our_columns() -> None:
    record = make_record({"id": 1, "text": "x"}, OUTCOME, column_names([], OUTPUT_COLUMNS))
    assert list(record) == ["id", "text", *OUTPUT_COLUMNS]
    assert record == {"id": 1, "text": "x", **OUTCOME, "error": None}


def test_columns_can_be_renamed() -> None:
    names = column_names(["generation=answer", "error=why = not"], OUTPUT_COLUMNS)
    assert list(make_record({}, OUTCOME, names)) == ["answer", *OUTPUT_COLUMNS[1:-1], "why = not"]


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("generatoin=answer", "no output column 'generatoin' to rename .*did you mean 'generation'"),
        ("zebra=answer", "ours are generation, finish_reason"),
        ("generation", "cannot rename a column with 'generation' .*generation=answer"),
        ("generation=", "cannot rename"),
        ("generation=error", "two output columns would be called 'error'"),
    ],
)
def test_a_rename_that_cannot_be(rename: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        column_names([rename], OUTPUT_COLUMNS)


def test_a_column_of_the_input_with_our_name_is_refused() -> None:
    check_columns(["id", "generations"], OUTPUT_COLUMNS)
    with pytest.raises(
        InputError, match=r"the input: it has a column 'error', .* columns=\{'error': 'new_error'\}"
    ):
        check_columns(["id", "error"], OUTPUT_COLUMNS)
    with pytest.raises(InputError, match=r"a\.jsonl line 7: it has a column 'generation'"):
        check_columns(["generation"], OUTPUT_COLUMNS, "a.jsonl line 7")


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.sampled_from([None, 2]))
def test_a_line_is_the_record_without_decoding(row: dict[str, int | str], indent: int | None) -> None:
    raw = json.dumps(row, indent=indent, ensure_ascii=False).encode()
    names = column_names([f"{column}=our {column}" for column in OUTPUT_COLUMNS], OUTPUT_COLUMNS)
    assert json.loads(make_line(raw, OUTCOME, names)) == make_record(row, OUTCOME, names)


def test_a_line_keeps_the_rows_own_digits() -> None:
    line = make_line(b'{"n": 1.10, "big": 1e2}', {"generation": "x"}, column_names([], OUTPUT_COLUMNS))
    assert line.startswith(b'{"n": 1.10, "big": 1e2,"generation":"x",')
