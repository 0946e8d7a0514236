from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.errors import InputError
from mistill.kinds.chat import ChatKind
from mistill.records.columns import add_columns, check_columns, column_names

OUTPUT_COLUMNS = ChatKind.columns
OUTCOME = {"generation": "hi", "finish_reason": "stop", "input_tokens": 3, "output_tokens": 1}


def test_columns_can_be_renamed() -> None:
    names = column_names({"generation": "answer", "error": "why = not"}, OUTPUT_COLUMNS)
    assert list(names) == list(OUTPUT_COLUMNS)
    assert list(names.values()) == ["answer", *OUTPUT_COLUMNS[1:-1], "why = not"]


@pytest.mark.parametrize(
    ("column", "name", "message"),
    [
        ("generatoin", "answer", "no output column 'generatoin' to rename .*did you mean 'generation'"),
        ("zebra", "answer", "ours are generation, finish_reason"),
        ("generation", " ", "cannot rename the column 'generation' to ' ' .*'generation': 'answer'"),
        ("generation", "", "cannot rename"),
        ("generation", "error", "two output columns would be called 'error'"),
    ],
)
def test_a_rename_that_cannot_be(column: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        column_names({column: name}, OUTPUT_COLUMNS)


def test_a_column_of_the_input_with_our_name_is_refused() -> None:
    check_columns(["id", "generations"], OUTPUT_COLUMNS)
    with pytest.raises(
        InputError, match=r"the input: it has a column 'error', .* columns=\{'error': 'new_error'\}"
    ):
        check_columns(["id", "error"], OUTPUT_COLUMNS)
    with pytest.raises(InputError, match=r"a\.jsonl line 7: it has a column 'generation'"):
        check_columns(["generation"], OUTPUT_COLUMNS, "a.jsonl line 7")


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.sampled_from([None, 2]))
def test_columns_are_added_to_a_line_without_decoding_it(
    row: dict[str, int | str], indent: int | None
) -> None:
    raw = json.dumps(row, indent=indent, ensure_ascii=False).encode()
    columns = {f"our {name}": value for name, value in OUTCOME.items()}
    assert list(json.loads(add_columns(raw, columns)).items()) == [*row.items(), *columns.items()]


def test_a_line_keeps_the_rows_own_digits() -> None:
    line = add_columns(b'{"n": 1.10, "big": 1e2}', {"generation": "x"})
    assert line == b'{"n": 1.10, "big": 1e2,"generation":"x"}'
