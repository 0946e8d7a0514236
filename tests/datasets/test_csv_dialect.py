"""CSV for spreadsheets: what they open well, and nothing that they would run."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.datasets.sources import open_source
from mistill.datasets.writers import check_target, open_writer
from mistill.datasets.writers.csv_writer import CsvWriter
from mistill.datasets.writers.destination import Destination
from mistill.errors import InputError

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")
NEGATIVE = re.compile(r"-(1|,1)*")  # of the characters that stand in the texts below


class Memory:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


@given(st.lists(st.text(alphabet=st.sampled_from("=+-@\t\r\n,;\"'a1é")), min_size=2, max_size=2))
def test_no_cell_of_text_begins_like_a_formula_and_none_is_lost(texts: list[str]) -> None:
    memory = Memory()
    writer = CsvWriter(Destination(memory, ["=a", "b"], lambda: pytest.fail("no spool"), csv_dialect="excel"))
    writer.write(dict(zip(["=a", "b"], texts, strict=True)))
    assert memory.data.startswith(b"\xef\xbb\xbf")
    lines = memory.data.decode("utf-8-sig").splitlines(keepends=True)
    (header, cells) = csv.reader(lines)
    assert header == ["'=a", "b"]
    assert not any(cell.startswith(DANGEROUS) for cell in cells if not NEGATIVE.fullmatch(cell))
    assert [cell.removeprefix("'") for cell in cells] == [text.removeprefix("'") for text in texts]


def test_numbers_stay_numbers_and_lines_end_as_in_windows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with open_writer(path, csv_dialect="excel") as writer:
        writer.write({"n": -5, "text": "-x", "list": [-1], "nothing": None})
    assert path.read_bytes() == b"\xef\xbb\xbfn,text,list,nothing\r\n-5,'-x,[-1],\r\n"
    assert next(iter(open_source(path))).record["n"] == "-5"


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        (text, True)
        for text in ("-7.25", "-3,5", "-1.234,56", "-1'000", "-1 000", "-.5", "-2e-05", "-3 %", "-€5", "-")
    ]
    + [
        (text, False)
        for text in ("-1+1", "-cmd|x", "-A1", "-(1)", "--1", "-1-1", "-5*2", "=-5", "- x", "+4917012345")
    ],
)
def test_a_text_that_is_a_negative_number_stays_one(tmp_path: Path, text: str, is_number: bool) -> None:
    path = tmp_path / "a.csv"
    with open_writer(path, csv_dialect="excel") as writer:
        writer.write({"n": text})
    assert next(iter(open_source(path))).record["n"] == (text if is_number else f"'{text}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz"])
def test_it_is_for_csv_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="csv_dialect='excel'"):
        check_target(tmp_path / name, None, "excel")
