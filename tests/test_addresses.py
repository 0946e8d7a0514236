"""Addresses, and what of them may be shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mistill import addresses
from mistill.addresses import (
    harmless_words,
    keep_secrets,
    oddity,
    parts_of,
    scheme_of,
    shown,
    whole,
)
from mistill.datasets.names_beside import named_beside
from mistill.errors import InputError
from mistill.same_place import refuse_unclear


@pytest.mark.parametrize(
    ("address", "harmless"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("-", "-"),
        ("C:\\rows.jsonl", "C:\\rows.jsonl"),
        ("s3://bucket/a b/rows.jsonl", "s3://bucket/a b/rows.jsonl"),
        ("s3://bucket/part-?.jsonl", "s3://bucket/part-?.jsonl"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/a/b", "s3://arn:aws:s3:eu-west-1:1:accesspoint/a/b"),
        ("s3://KEY:SECRET@bucket/rows.jsonl", "s3://…"),
        ("s3://KEY:SEC/RET@bucket/rows.jsonl", "s3://…"),
        ("s3://bucket/rows.jsonl?versionId=3", "s3://bucket/rows.jsonl?versionId=3"),
        ("az://container/rows.jsonl?sv=1&sig=SECRET", "az://container/rows.jsonl"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("https://user:SECRET@host/rows.jsonl?X-Amz-Signature=SECRET#x", "https://host/rows.jsonl"),
        ("https://SECRET@host:8080/rows.jsonl", "https://host:8080/rows.jsonl"),
        ("https://host/npm/pkg@1.2.3/rows.jsonl", "https://host/npm/pkg@1.2.3/rows.jsonl"),
        ("https://host/rows.jsonl?SECRET", "https://host/rows.jsonl"),
        ("http://user:SEC/RET@host", "http://…"),
        ("http://user:123/SECRET@host", "http://…"),
        ("http:/user:SECRET@host/f", "http://…"),
        ("postgresql:/me:SECRET@host/db?table=t", "postgresql://…"),
        ("postgresql:me:SECRET@host/db?table=t", "postgresql://…"),
        ("postgresql://me:SECRET@host:5432/db?table=t", "postgresql://me@host:5432/db?table=t"),
        ("postgresql://me:SEC/RET@?@host/db?table=t&password=SECRET", "postgresql://me@host/db?table=t"),
        ("postgresql://host/db?user=me&sslpassword=SECRET&table=t", "postgresql://host/db?user=me&table=t"),
        ("postgresql://host/db?%70assword=SECRET&table=t", "postgresql://host/db?table=t"),
        ("postgresql://me:SECRET/db?table=t", "postgresql://…"),
        (
            "postgresql:///db?host=/run/postgresql&sslmode=require&table=a.b",
            "postgresql:///db?host=/run/postgresql&sslmode=require&table=a.b",
        ),
        ("sqlite:///rows.db?query=SELECT key FROM t", "sqlite:///rows.db?query=SELECT key FROM t"),
        ("sqlite:///a.db?query=SELECT a FROM t WHERE k = 'SECRET'", "sqlite:///a.db?query=SELECT a FROM t WHERE k = …"),
        ("duckdb:///rows.db?table=t&motherduck_token=SECRET", "duckdb:///rows.db?table=t"),
        ("mysql://me:SECRET@host/db", "mysql://…"),
        ("file://me:SECRET@host/f", "file://…"),
        (" http://me:SECRET@host/f", "…http://…"),
        ("./s3://me:SECRET@host/f", "…s3://…"),
        ("simplecache::https://me:SECRET@host/db", "simplecache::https://…"),
    ],
)  # fmt: skip
def test_what_is_shown_of_an_address(address: str, harmless: str) -> None:
    assert shown(address) == harmless
    assert shown(harmless) == harmless


SECRET = st.text(
    st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=4, max_size=12
).map(lambda text: f"s3cr3t{text}s3cr3t")
"""What may stand in an address as it is, whoever takes it for something else."""
PLACES = (
    "http://me:{}@host/a.jsonl",
    "http://{}@host/a.jsonl",
    "http://me:12/{}@host/a.jsonl",
    "http://me:12?{}@host/a.jsonl",
    "https://host/a.jsonl?X-Amz-Signature={}",
    "https://host/a.jsonl?a=1&{}",
    "https://host:1/a.jsonl#{}",
    "https:/me:{}@host/a.jsonl",
    "s3://key:{}@bucket/a.jsonl",
    "s3:/key:{}@bucket/a.jsonl",
    "az://container/a.jsonl?sig={}",
    "az://account:{}@container/a.jsonl",
    "hf://me:{}@datasets/a/b/c.csv",
    "postgresql://me:{}@host/db?table=t",
    "postgres:/me:{}@host/db?table=t",
    "postgresql://host/db?password={}&table=t",
    "postgresql://host/db?table=t&sslpassword={}",
    "postgresql://host/db?%70assword={}&table=t",
    "postgresql://host/db?options=-c%20a.b%3D{}&table=t",
    "postgresql://host/db?query=SELECT f('{}') FROM t",
    "duckdb:///a.duckdb?motherduck_token={}&table=t",
    "sqlite://me:{}@host/a.db?table=t",
    "odd://me:{}@host",
    "filecache::s3://me:{}@bucket/a",
)


@given(st.sampled_from(PLACES), SECRET, st.booleans())
@example("postgresql://host/db?options=-c%20a.b%3D{}&table=t", "s3cr3tV&^ya!A|gJs3cr3t", False)
def test_no_secret_is_shown_wherever_it_stands(place: str, secret: str, is_quoted: bool) -> None:
    # A user alone that is not quoted reads as a host: https://s3cr3t/x@host
    is_quoted = is_quoted or place.startswith("http://{}")
    address = place.format(quote(secret, safe="") if is_quoted else secret)
    harmless = shown(address)
    assert "s3cr3t" not in harmless
    assert shown(harmless) == harmless
    assert whole(keep_secrets(address)) == address
    if parts_of(address) is None:
        assert oddity(address) is None or "s3cr3t" not in " ".join(oddity(address) or ())
    else:
        for told in (secret, quote(secret), f"cannot reach {address!r}", f"bad port {secret[:-3]!r}"):
            assert "s3cr3t" not in (harmless_words(told) or "")


@pytest.mark.parametrize("secret", ["s3cr3t00'\\s3cr3t", "s3cr3t00's3cr3t", 's3cr3t"<s3cr3t', "12'a@s3cr3t"])
def test_a_secret_with_quotes_in_it_is_hidden_whole(secret: str) -> None:
    address = f"http://me:{secret}@host/a.jsonl"
    keep_secrets(address)
    for told in (f"cannot reach {address!r}", f"cannot reach '{address}'", f"{address}: refused"):
        assert "s3cr3t" not in (harmless_words(told) or "")


def test_addresses_that_are_shown_alike_are_opened_each_as_it_is() -> None:
    files = [f"https://alike/rows.jsonl?file={name}" for name in "ab"]
    queries = [f"sqlite:///alike.db?query=SELECT * FROM t WHERE a = '{name}'" for name in "ab"]
    for alike in (files, queries):
        kept = [keep_secrets(address) for address in alike]
        assert [whole(one) for one in kept] == alike
        assert [keep_secrets(one) for one in kept] == kept
        assert kept[1] == keep_secrets(alike[1])


def _lines_of(call: Callable[[], object]) -> int:
    """How many lines of the module a call takes."""
    lines, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace if frame.f_code.co_filename == addresses.__file__ else None

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


def test_one_more_address_that_looks_like_many_takes_no_longer() -> None:
    took = [
        _lines_of(lambda number=number: keep_secrets(f"https://many.example/rows.jsonl?sig={number:016}"))
        for number in range(60)
    ]
    assert took[-1] == took[1]


def test_secrets_are_given_back_to_whoever_opens_an_address() -> None:
    address = "postgresql://me:SECRET@host/db?table=t"
    assert whole(keep_secrets(address)) == address
    assert whole("s3://bucket/rows.jsonl") == "s3://bucket/rows.jsonl"


def test_addresses_in_texts_are_shown_without_their_secrets() -> None:
    told = harmless_words("cannot GET https://host/a?sig=SECRET, message='https://me:SECRET@host/b'")
    assert told == "cannot GET https://host/a message='https://host/b'"
    assert harmless_words("connection  refused\n") == "connection refused"


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to http://127.0.0.1:8799: refused",
        "see http://host:80.",
        "(http://host), s3://b/k; gs://b",
    ],
)
def test_what_ends_a_phrase_is_no_part_of_an_address(text: str) -> None:
    assert harmless_words(text) == text


def test_what_may_be_of_a_secret_is_shown_of_none() -> None:
    assert harmless_words("no https://me:SECRET@host/b: gone") == "no https://host/b: gone"
    assert harmless_words("no https://host/b?sig=SECRET): gone") == "no https://host/b gone"


def test_schemes() -> None:
    names = ("S3://b/k", "s3:/b/k", "a/b", "x:y", "./s3:b", 5, None)
    assert [scheme_of(name) for name in names] == ["s3", "s3", None, None, None, None, None]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s3:/b/k", "two slashes"),
        ("file:///a%20b/c.jsonl", "give its path"),
        (" http://host/c.jsonl", "give the address alone"),
        ("http://me:a/b@host/c", "write / as %2F"),
        ("http://localhost:9000/a@b/c.jsonl", "an @ elsewhere as %40"),
        ("s3://key:secret@bucket/c", "not in the address"),
        ("sqlite://rows.db?table=t", "three slashes"),
    ],
)
def test_what_cannot_be_read_for_sure_says_how_it_is_written(address: str, told: str) -> None:
    assert told in " ".join(oddity(address) or ())
    for named in (address, keep_secrets(address)):
        with pytest.raises(InputError) as refused:
            refuse_unclear(named)
        assert told in str(refused.value)


@pytest.mark.parametrize(
    ("output", "beside"),
    [
        ("here/out.jsonl.gz", "here/out.report.html"),
        ("mails.v1.jsonl", "mails.v1.report.html"),
        ("mails.v1.csv.ZST", "mails.v1.report.html"),
        ("2026.11/mails-0.5", "2026.11/mails-0.5.report.html"),
        (".jsonl", ".jsonl.report.html"),
        ("s3://bucket/a/out.v2.parquet", "out.v2.report.html"),
        ("s3://bucket/a/out.parquet", "out.report.html"),
        ("https://host/out.jsonl?sig=SECRET", "out.report.html"),
        ('postgresql://me@host/db?sslmode=require&table="a/b".answers', "answers.report.html"),
        ("sqlite:///rows.db?table=a%2Fb", "ab.report.html"),
        ("s3://bucket/", "bucket.report.html"),
    ],
)
def test_a_file_beside_an_output_is_on_this_machine(output: str, beside: str) -> None:
    assert str(named_beside(output, ".report.html")) == beside
