"""Damage inside files: found where it can be, named by row and column, and never an exception that nobody expects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistill.datasets.sources import open_source
from mistill.errors import InputError

pytest.importorskip("pyarrow", reason="needs pip install 'mistill[arrow]'")

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
PLACE = 1500


def strings(values: list[bytes]) -> Any:
    """A column of text made of bytes that may be no text."""
    data = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), data.buffers())


def table_with_latin1() -> Any:
    values = [b"ok"] * 3000
    values[PLACE] = "café".encode("latin-1")
    return pa.table({"text": ["a"] * 3000, "note": strings(values)})


def write_parquet(table: Any, path: Path) -> None:
    pq.write_table(table, path)


def write_arrow(table: Any, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def test_a_bad_word_of_a_dictionary_names_its_column(tmp_path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array(["good", "evil"]))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": ["x"] * 3, "c": words}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"evil", b"ev\xffl"))
    with pytest.raises(InputError, match=r"a.parquet: column 'c' cannot be read: it is not UTF-8"):
        list(open_source(path))


@pytest.mark.parametrize(("name", "write"), [("a.parquet", write_parquet), ("a.arrow", write_arrow)])
def test_text_that_is_not_utf8_is_named_by_row_and_column(tmp_path: Path, name: str, write: Any) -> None:
    write(table_with_latin1(), tmp_path / name)
    with pytest.raises(
        InputError,
        match=rf"{name} row {PLACE} .record {PLACE + 1}, counted from 1.: column 'note' .*not UTF-8",
    ) as caught:
        list(open_source(tmp_path / name))
    assert caught.value.index == PLACE


def test_text_that_is_not_utf8_inside_of_lists(tmp_path: Path) -> None:
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2]), strings([b"ok", b"\xff"]))
    pq.write_table(pa.table({"tags": nested}), tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"row 1 .record 2, counted from 1.: column 'tags' cannot be read: it is not UTF-8"
    ):
        list(open_source(tmp_path / "a.parquet"))


def test_a_word_that_is_not_utf8_concerns_the_rows_that_have_it() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 0, 1]), strings([b"ok", b"\xff"]))
    rows = iter(open_source(pa.table({"word": words})))
    with pytest.raises(
        InputError, match=r"row 2 of the Table .record 3, .*: column 'word' cannot be read: it is not UTF-8"
    ):
        list(rows)


def test_an_arrow_table_in_memory_is_looked_at_too() -> None:
    with pytest.raises(InputError, match=f"row {PLACE} of the Table .*column 'note'"):
        list(open_source(table_with_latin1()))


def test_a_page_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = "twelve bytes"
    table = pa.table({"text": [text, "b"]})
    pq.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(text.encode(), b"Twelve bytes"))
    with pytest.raises(InputError, match=r"a.parquet: column .* cannot be read: .*CRC"):
        list(open_source(path))


def test_offsets_beyond_the_data_do_not_end_the_process(tmp_path: Path) -> None:
    """Arrow files have no checksums, and pyarrow follows whatever stands in them."""
    path = tmp_path / "a.arrow"
    write_arrow(pa.table({"text": ["one", "two", "three"]}), path)
    data = path.read_bytes()
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 3, 6, 11))
    assert data.count(offsets) == 1
    for wrong in ((0, 3, 6, 2**30), (0, 3, 2**30, 11), (0, 3, 2, 11)):
        path.write_bytes(data.replace(offsets, b"".join(number.to_bytes(4, "little") for number in wrong)))
        with pytest.raises(InputError, match=r"a.arrow.* cannot be read: "):
            list(open_source(path))


def test_objects_with_a_key_twice_are_named(tmp_path: Path) -> None:
    double = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(InputError, match=r"row 0 of the Table .*column 'object' .*two of its fields"):
        list(open_source(pa.table({"object": double})))


def test_damaged_files_end_in_rows_or_in_an_input_error() -> None:
    """``python -m tests.datasets.fuzz_readers`` tries more."""
    command = [sys.executable, "-m", "tests.datasets.fuzz_readers", "--tries", "490"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    assert done.stdout == "490 tries, 0 unexpected exceptions\n"
