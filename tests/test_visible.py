"""What came from elsewhere, on a terminal: nothing in it is obeyed."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.datasets.writers.open_writer import open_writer
from mistill.visible import visible, visible_records

OBEYED = {*map(chr, (*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)))}
OBEYED |= set(map(chr, range(0x2066, 0x206A)))
OBEYED |= set("\u00ad\u034f\u061c\u180e\u200b\u200e\u2060\u3164\ufeff\U000e0041\U000e0100")
TEXTS = st.text(st.sampled_from([*sorted(OBEYED), "a", "é", "\n", "😀"]))


@given(TEXTS)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    assert not OBEYED & set(visible(text))
    line = json.dumps({"x": text}, ensure_ascii=False).encode() + b"\n"
    shown = visible_records(line)
    assert not OBEYED & set(shown.decode())
    assert json.loads(shown) == {"x": text}


@given(TEXTS)
def test_lines_of_csv_stay_lines(text: str) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["x"], [text]])
    shown = visible_records(written.getvalue().encode()).decode()
    assert not (OBEYED - {"\r"}) & set(shown)
    assert shown.startswith("x\r\n")
    assert "\r" not in shown.replace("\r\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u2764\ufe0f\u200d\U0001f525",
        "1\ufe0f\u20e3",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ],
)
def test_joiners_of_emoji_and_of_letters_stay(text: str) -> None:
    assert visible(text) == text
    assert visible_records(text.encode()) == text.encode()


@pytest.mark.parametrize("joiner", ["\u200c", "\u200d", "\ufe0f"])
def test_joiners_that_join_nothing_are_written_out(joiner: str) -> None:
    assert visible(f"pay{joiner}pal") == f"pay\\u{ord(joiner):04x}pal"
    assert visible(f"{joiner}a") == f"\\u{ord(joiner):04x}a"


@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_records_on_a_terminal_move_no_cursor(
    monkeypatch: pytest.MonkeyPatch, file_format: str, is_terminal: bool
) -> None:
    class Stdout(io.TextIOWrapper):
        def isatty(self) -> bool:
            return is_terminal

    stdout = Stdout(written := io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    with open_writer("-", format=file_format, columns=["x"]) as writer:
        writer.write({"x": "a\x7f\x9b\u202eb😀"})
    shown = written.getvalue().decode()
    assert ("a\\u007f\\u009b\\u202eb😀" if is_terminal else "a\x7f\x9b\u202eb😀") in shown
