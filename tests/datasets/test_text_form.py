"""Text files that are not UTF-8, and tables whose fields are not separated by what their suffix says."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from mistill.datasets.sources import open_source
from mistill.errors import InputError

ROWS = [{"name": "Zoë", "price": "5 €"}, {"name": 'a "b"; c', "price": ""}]
TABLE = 'name;price\nZoë;5 €\n"a ""b""; c";\n'


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    return [row.record for row in open_source(path, **options)]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be", "utf-8", "utf-8-sig", "iso8859-15"])
def test_an_encoding_that_is_named_is_read(tmp_path: Path, encoding: str) -> None:
    data = TABLE.encode(encoding)
    (tmp_path / "a.csv").write_bytes(data)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    for name in ("a.csv", "a.csv.gz"):
        assert read(tmp_path / name, encoding=encoding, delimiter=";") == ROWS
    (tmp_path / "a.jsonl").write_bytes('{"name": "Zoë"}\n'.encode(encoding))
    assert read(tmp_path / "a.jsonl", encoding=encoding) == [{"name": "Zoë"}]


def test_characters_that_a_chunk_cuts_are_whole(tmp_path: Path) -> None:
    rows = [f"ré{number}" * 10 for number in range(60_000)]
    (tmp_path / "a.csv").write_bytes(("text\n" + "\n".join(rows)).encode("utf-16"))
    assert [row["text"] for row in read(tmp_path / "a.csv", encoding="utf-16")] == rows


@pytest.mark.parametrize(
    ("told", "written"), [("tab", "\t"), ("\\t", "\t"), ("|", "|"), (";", ";"), ("~", "~")]
)
def test_a_delimiter_that_is_named_is_used(tmp_path: Path, told: str, written: str) -> None:
    (tmp_path / "a.csv").write_text(f"a{written}b\n1{written}2\n")
    assert read(tmp_path / "a.csv", delimiter=told) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("suffix", "written", "hint"), [("csv", ";", ";"), ("csv", "\t", "tab"), ("tsv", ",", ",")]
)
def test_another_delimiter_is_guessed_in_the_hint(
    tmp_path: Path, suffix: str, written: str, hint: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(f"a{written}b\n1{written}2\n")
    with pytest.raises(InputError, match=f"delimiter={hint!r}"):
        read(path)
    assert read(path, delimiter=hint) == [{"a": "1", "b": "2"}]


def test_one_column_with_such_a_character_in_its_name_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question; answer\nyes\n")
    assert read(tmp_path / "a.csv") == [{"question; answer": "yes"}]
    (tmp_path / "b.csv").write_text("a;b\nc;d\n")
    assert read(tmp_path / "b.csv", delimiter=",") == [{"a;b": "c;d"}]  # whoever says so is believed


@pytest.mark.parametrize(
    ("data", "hint"),
    [("text\ncafé".encode("cp1252"), "cp1252"), ("text\ncafé".encode("utf-16"), "utf-16")],
)
def test_an_encoding_is_guessed_in_the_hint(tmp_path: Path, data: bytes, hint: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    for named in (None, "utf-8", "UTF8"):
        with pytest.raises(InputError, match=f"encoding={hint!r}"):
            read(tmp_path / "a.csv", encoding=named)
    assert read(tmp_path / "a.csv", encoding=hint) == [{"text": "café"}]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a.csv", {"encoding": "klingon"}, "encoding: there is no encoding 'klingon'"),
        ("a.csv", {"encoding": "base64"}, "there is no encoding"),
        ("a.csv", {"delimiter": ";;"}, "not one character"),
        ("a.csv", {"delimiter": '"'}, "not one character"),
        ("a.jsonl", {"delimiter": ";"}, "is jsonl, which has none"),
        ("a.csv", {"encoding": "ascii"}, "not ascii"),
        ("a.csv", {"encoding": "utf-16"}, "not utf-16"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, options: Any, words: str) -> None:
    (tmp_path / name).write_bytes("text\né\nx".encode())
    with pytest.raises(InputError, match=words):
        read(tmp_path / name, **options)


def test_rows_in_memory_have_neither() -> None:
    with pytest.raises(InputError, match="for files only"):
        open_source([{"a": 1}], encoding="cp1252")


LINES = {
    "a.jsonl": b'{"text": "Gr\xc3\xbc\xc3\x9fe"}\n{"text": "f\xf6\xff"}\n{"text": "caf\xc3\xa9"}\n',
    "a.csv": b'text\nGr\xc3\xbc\xc3\x9fe\n"f\xf6\xff"\ncaf\xc3\xa9\n',
}


@pytest.mark.parametrize("name", LINES)
def test_bytes_that_are_no_text_are_their_rows_trouble_in_a_file_that_is_utf8(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(LINES[name])
    before, row, after = open_source(path)
    assert (before.record, after.record) == ({"text": "Grüße"}, {"text": "café"})
    assert (before.problem, after.problem) == (None, None)
    assert (row.problem or "").startswith("not UTF-8: byte 0xf6 at offset ")
    assert "encoding='utf-8-replace'" in (row.hint or "")
    assert read(path, encoding="utf-8-replace") == [
        {"text": "Grüße"},
        {"text": "f\ufffd\ufffd"},
        {"text": "café"},
    ]


def test_bytes_that_are_no_text_are_refused_in_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"Gr\xc3\xb6\xc3\x9fe,b\xff\n1,2\n")
    with pytest.raises(InputError, match=r"line 1: not UTF-8: byte 0xff .*utf-8-replace"):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "cp932"])
@pytest.mark.parametrize(
    "text", ["café", "Größe, Maß und Übermut: 3 € für 5 °C", "Œuvres de Molière » l’été"]
)
def test_another_encoding_is_not_taken_for_utf8(tmp_path: Path, encoding: str, text: str) -> None:
    data = text.encode(encoding, errors="ignore")
    if not data.isascii():
        (tmp_path / "a.csv").write_bytes(b"text\n" + data + b"\n")
        with pytest.raises(InputError, match="cp1252"):
            read(tmp_path / "a.csv")


def test_what_another_encoding_has_not_can_be_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\ncafé ".encode("cp1252") + b"\x81\n")
    with pytest.raises(InputError, match=r"not cp1252.*encoding='cp1252-replace'"):
        read(tmp_path / "a.csv", encoding="cp1252")
    assert read(tmp_path / "a.csv", encoding="cp1252-replace") == [{"text": "café \ufffd"}]
