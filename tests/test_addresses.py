"""Addresses, and what of them may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.addresses import (
    keep_secrets,
    named_beside,
    scheme_of,
    whole,
    without_secrets,
    without_secrets_in,
)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("-", "-"),
        ("C:\\rows.jsonl", "C:\\rows.jsonl"),
        ("s3://bucket/a b/rows.jsonl", "s3://bucket/a b/rows.jsonl"),
        ("s3://KEY:SECRET@bucket/rows.jsonl", "s3://KEY@bucket/rows.jsonl"),
        ("s3://bucket/rows.jsonl?versionId=3", "s3://bucket/rows.jsonl?versionId=3"),
        ("az://container/rows.jsonl?sv=1&sig=SECRET", "az://container/rows.jsonl?sv=1"),
        (
            "abfs://container@account.dfs.core.windows.net/a",
            "abfs://container@account.dfs.core.windows.net/a",
        ),
        ("https://user:SECRET@host/rows.jsonl?X-Amz-Signature=SECRET#x", "https://host/rows.jsonl"),
        ("https://SECRET@host:8080/rows.jsonl", "https://host:8080/rows.jsonl"),
        ("postgresql://me:SECRET@host:5432/db?table=t", "postgresql://me@host:5432/db?table=t"),
        ("postgresql://me:SEC/RET@?@host/db?table=t&password=SECRET", "postgresql://me@host/db?table=t"),
        ("postgresql://host/db?user=me&sslpassword=SECRET&table=t", "postgresql://host/db?user=me&table=t"),
        ("sqlite:///rows.db?query=SELECT key FROM t", "sqlite:///rows.db?query=SELECT key FROM t"),
        ("mysql://me:SECRET@host/db", "mysql://host/db"),
    ],
)
def test_what_is_shown_of_an_address(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    assert without_secrets(shown) == shown


@given(
    st.sampled_from(["https", "s3", "postgresql", "hf", "odd"]),
    st.text(st.characters(codec="ascii", exclude_characters="\r\n\t "), min_size=8).map("SECRET".__add__),
)
def test_no_password_is_shown(scheme: str, password: str) -> None:
    for secret in (password.replace("/", "").replace("@", "").replace("?", "").replace("#", ""), password):
        if secret != password or scheme == "postgresql":
            table = "?table=t" if scheme == "postgresql" else ""
            assert "SECRET" not in without_secrets(f"{scheme}://me:{secret}@host/rows.jsonl{table}")


def test_secrets_are_given_back_to_whoever_opens_an_address() -> None:
    address = "postgresql://me:SECRET@host/db?table=t"
    assert whole(keep_secrets(address)) == address
    assert whole("s3://bucket/rows.jsonl") == "s3://bucket/rows.jsonl"


def test_addresses_in_texts_are_shown_without_their_secrets() -> None:
    told = without_secrets_in("cannot GET https://host/a?sig=SECRET, message='https://me:SECRET@host/b'")
    assert told == "cannot GET https://host/a message='https://host/b'"


def test_schemes() -> None:
    assert [scheme_of(name) for name in ("S3://b/k", "a/b", "x:y", 5, None)] == ["s3", None, None, None, None]


@pytest.mark.parametrize(
    ("output", "beside"),
    [
        ("here/out.jsonl.gz", "here/out.report.html"),
        ("s3://bucket/a/out.parquet", "out.report.html"),
        ("https://host/out.jsonl?sig=SECRET", "out.report.html"),
        ('postgresql://me@host/db?sslmode=require&table="a/b".answers', "answers.report.html"),
        ("sqlite:///rows.db?table=a%2Fb", "ab.report.html"),
        ("s3://bucket/", "bucket.report.html"),
    ],
)
def test_a_file_beside_an_output_is_on_this_machine(output: str, beside: str) -> None:
    assert str(named_beside(output, ".report.html")) == beside
