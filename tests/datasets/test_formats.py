"""The table of formats: every entry is whole, and is all that a format needs."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

from mistill.datasets.compression import COMPRESSIONS
from mistill.datasets.formats import FORMATS, KNOWN_FORMATS, FileFormat, format_of, parse_format
from mistill.errors import InputError
from mistill.extras import install_command

BINARY = ("parquet", "arrow", "xlsx")


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
def test_the_classes_of_an_entry_are_there(entry: FileFormat) -> None:
    for path in filter(None, (entry.reader, entry.writer)):
        assert inspect.isclass(pkgutil.resolve_name(path))


def test_no_suffix_means_two_formats() -> None:
    suffixes = [suffix for entry in FORMATS for suffix in (entry.name, *entry.aliases)]
    suffixes += [compression.suffix for compression in COMPRESSIONS]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(
    ("text", "name", "compression"),
    [
        ("jsonl", "jsonl", None),
        (".JSONL", "jsonl", None),
        ("ndjson.gz", "jsonl", "gz"),
        (".csv.zst", "csv", "zst"),
        ("feather", "arrow", None),
    ],
)
def test_a_format_is_named_by_suffixes(text: str, name: str, compression: str | None) -> None:
    found = parse_format(text)
    assert found is not None
    assert found.name == name
    assert (found.compression.suffix if found.compression else None) == compression


@pytest.mark.parametrize(
    "text", ["", ".", "yaml", "gz", "csv.", "csv.bz2", "csv.gz.gz", "parquet.gz", "arrow.zst"]
)
def test_what_names_no_format(text: str) -> None:
    assert parse_format(text) is None


def test_a_format_says_what_a_writer_needs() -> None:
    assert [entry.name for entry in FORMATS if entry.needs_header] == ["csv", "tsv"]
    assert format_of("answers.csv.gz").needs_header
    assert tuple(entry.name for entry in FORMATS if entry.is_binary) == BINARY


def test_the_formats_in_words() -> None:
    assert KNOWN_FORMATS == (
        "jsonl, ndjson, json, csv, tsv (each also with .gz or .zst), parquet, arrow, feather, xlsx"
    )


def test_a_missing_library_is_asked_for_by_its_extra() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from mistill.datasets.formats import format_of\n"
        "from mistill.errors import InputError\n"
        "try: format_of('a.parquet').load_libraries('writing a.parquet')\n"
        "except InputError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == f"writing a.parquet needs pyarrow ({install_command('arrow')})"


def test_the_table_loads_no_reader_and_no_library() -> None:
    code = "import sys, mistill.datasets.formats; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert [name for name in loaded if name.startswith(("pyarrow", "mistill.datasets.sources"))] == []


def test_an_unknown_format_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(InputError, match=r"a.docx: its suffix names no known format .*jsonl.*feather"):
        format_of("a.docx")
    with pytest.raises(InputError, match=r"unknown format 'docx' .*jsonl.*feather"):
        format_of("a.jsonl", "docx")


@pytest.mark.parametrize("name", ["mysql://me@h/x?table=t", "ftp://h/x.jsonl"])
def test_an_address_of_an_unknown_sort_is_told_as_that_and_not_as_a_suffix(name: str) -> None:
    with pytest.raises(InputError, match=r"is no place of files or tables .*s3://.*sqlite://, postgresql://"):
        format_of(name)
