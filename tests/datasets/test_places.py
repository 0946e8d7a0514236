"""Files at a store and on the web, read and written as those of this machine are."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library, need_library_of
from tests.stores import BUCKET, S3, Web

from mistill.datasets import far_places
from mistill.datasets.prefetch import StreamedWindows, open_windows
from mistill.datasets.sources import open_source
from mistill.datasets.writers import check_no_loss, check_target, open_writer
from mistill.errors import InputError, MistillError

ROWS = [{"id": number, "text": f"row {number} é"} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SECRET = "s3cr3t-of-a-signature"


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far_places, "WAITS_S", (0.0, 0.0, 0.0))


def records(source: Any, **settings: Any) -> list[dict[str, Any]]:
    return [row.record for row in open_source(source, **settings)]


def write(target: str, rows: list[dict[str, Any]] = ROWS) -> None:
    with open_writer(target, columns=list(ROWS[0])) as writer:
        for row in rows:
            writer.write(row)


@pytest.mark.parametrize(
    "suffix", ["jsonl", "json", "csv", "tsv.gz", "jsonl.zst", "parquet", "arrow", "feather", "xlsx"]
)
def test_every_format_goes_to_a_store_and_comes_back(s3: S3, tmp_path: Path, suffix: str) -> None:
    need_library_of(suffix)
    if suffix == "xlsx":
        library("openpyxl")
    here = tmp_path / f"rows.{suffix}"
    write(f"s3://{BUCKET}/out/rows.{suffix}")
    write(str(here))
    assert records(f"s3://{BUCKET}/out/rows.{suffix}") == records(here)


def test_globs_and_several_inputs_are_read_in_order(s3: S3, tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        s3.put(f"in/part-{number}.jsonl", json.dumps(row).encode())
    s3.put("in/part-9.txt", b"no rows")
    here = tmp_path / "here.jsonl"
    here.write_bytes(LINES)
    assert records([f"s3://{BUCKET}/in/part-*.jsonl", here]) == ROWS + ROWS
    source = open_source(f"s3://{BUCKET}/in/**/part-[12].jsonl")
    assert [row.where for row in source] == [
        f"s3://{BUCKET}/in/part-{number}.jsonl line 1" for number in (1, 2)
    ]


def test_what_is_elsewhere_is_read_by_a_thread_and_never_only_to_count(s3: S3) -> None:
    library("pyarrow")
    write(f"s3://{BUCKET}/rows.parquet")
    lines, table = open_source(s3.put("rows.jsonl", LINES)), open_source(f"s3://{BUCKET}/rows.parquet")
    assert isinstance(open_windows(lines), StreamedWindows)
    assert lines.count(lambda: True) is None
    assert table.count(lambda: True) == 3  # its footer says it


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (f"s3://{BUCKET}/none.jsonl", "s3://bucket/none.jsonl: no such file"),
        ("s3://no-bucket/none.jsonl", "no such file"),
        (f"s3://{BUCKET}/*.csv", "no file matches"),
        (f"s3://{BUCKET}/in/", "is a directory (name its files: 's3://bucket/in/*.jsonl')"),
        (f"s3://{BUCKET}/tables/", "is a directory (name its files: 's3://bucket/tables/*.parquet')"),
        (f"s3://{BUCKET}/in/a.png", "copy them here"),
        ("ftp://host/rows.jsonl", "ftp:// is no place of files or tables (there are s3://"),
    ],
)
def test_what_cannot_be_read_is_said(s3: S3, address: str, told: str) -> None:
    s3.put("in/a.jsonl", LINES)
    s3.put("tables/a.parquet", LINES)
    with pytest.raises(InputError) as refused:
        records(address, format="jsonl" if address.endswith("/") else None)
    assert told in str(refused.value)


def test_an_address_that_was_made_a_path_is_told_from_one(s3: S3) -> None:
    with pytest.raises(InputError, match="with two slashes behind the colon, as text"):
        check_target(Path(f"s3://{BUCKET}/out.jsonl"))
    with pytest.raises(InputError, match="with two slashes behind the colon, as text"):
        records(Path(f"s3://{BUCKET}/in.jsonl"))


def test_settings_that_a_store_lacks_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    library("adlfs")
    for name in ("CONNECTION_STRING", "ACCOUNT_NAME", "ACCOUNT_KEY", "SAS_TOKEN"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(InputError, match=r"account_name.*set AZURE_STORAGE_CONNECTION_STRING"):
        records("az://container/rows.jsonl")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("s3://no-bucket/out.jsonl", "there is no bucket or container no-bucket"),
        ("s3://out.jsonl", "there is no bucket"),
        (f"s3://{BUCKET}/in.jsonl", "is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before(s3: S3, target: str, told: str) -> None:
    s3.put("in.jsonl/a.jsonl", LINES)
    with pytest.raises(InputError) as refused:
        check_target(target)
    assert told in str(refused.value)


def test_an_output_that_exists_is_not_lost(s3: S3) -> None:
    address = s3.put("out.jsonl", LINES)
    check_no_loss(f"s3://{BUCKET}/other.jsonl", "overwrite")
    with pytest.raises(InputError, match="exists"):
        check_no_loss(address, "overwrite")


def test_missing_credentials_say_how_they_are_given(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("rows.jsonl", LINES)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr(library("s3fs").S3FileSystem, "_cache", {})  # else one that has them is found
    for attempt in (
        lambda: records(f"s3://{BUCKET}/rows.jsonl"),
        lambda: check_target(f"s3://{BUCKET}/o.jsonl"),
    ):
        with pytest.raises(InputError, match=r"no credentials were found \(set AWS_ACCESS_KEY_ID"):
            attempt()


def test_a_missing_library_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"needs (s3fs|fsspec) \(pip install .*\[remote\]"):
        records("s3://bucket/rows.jsonl")


def test_an_output_is_whole_or_not_there(s3: S3) -> None:
    address = s3.put("out.jsonl", b"before\n")
    with pytest.raises(TypeError):
        write(address, [ROWS[0], {"id": object()}])
    assert (s3.get("out.jsonl"), s3.uploads()) == (b"before\n", [])
    with open_writer(address) as writer:
        writer.write(ROWS[0])
        assert s3.get("out.jsonl") == b"before\n"
    assert json.loads(s3.get("out.jsonl")) == ROWS[0]


def test_a_large_output_goes_in_parts_and_one_that_is_cut_off_is_aborted(
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3fs = library("s3fs")
    row = {"text": "x" * 1000}
    # Parts of 5 MB, the least that S3 takes, in place of 50.
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: 5 << 20)
    address = f"s3://{BUCKET}/large.jsonl"
    write(address, [row] * 11_000)
    assert s3.get("large.jsonl").count(b"\n") == 11_000
    assert s3.client.head_object(Bucket=BUCKET, Key="large.jsonl")["ETag"].endswith('-3"')

    call = s3fs.S3FileSystem._call_s3

    async def failing(self: Any, method: str, *args: Any, **settings: Any) -> Any:
        if method == "upload_part" and settings["PartNumber"] == 2:
            raise PermissionError("cut off")
        return await call(self, method, *args, **settings)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", failing)
    with pytest.raises(MistillError, match=r"could not be written: the store refuses it \(no answer is lost"):
        write(f"s3://{BUCKET}/cut.jsonl", [row] * 11_000)
    assert (s3.names(), s3.uploads()) == (["large.jsonl"], [])


# --- the web ----------------------------------------------------------------------------------------------------------


def test_files_of_the_web_are_read_with_and_without_parts(web: Web) -> None:
    library("pyarrow")
    table = io.BytesIO()
    library("pyarrow.parquet").write_table(library("pyarrow").Table.from_pylist(ROWS), table)
    addresses = [
        web.has("/rows.jsonl", LINES),
        web.has("/rows.jsonl.gz", gzip.compress(LINES)),
        web.has("/rows.parquet", table.getvalue()),
    ]
    for gives_parts in (True, False):
        web.gives_parts = gives_parts
        assert records(addresses) == ROWS * 3


def test_a_broken_connection_is_read_on(web: Web) -> None:
    many = LINES * 5_000
    address = web.has("/rows.jsonl", many)
    for gives_parts in (True, False):
        web.gives_parts, web.breaks = gives_parts, 2
        assert len(records(address)) == 15_000
        assert web.breaks == 0


def test_a_connection_that_stays_broken_says_how_far_it_came(web: Web) -> None:
    address = web.has("/rows.jsonl", LINES * 60_000)
    given = iter(open_source(address))
    next(given)
    web.breaks = 1_000
    with pytest.raises(
        InputError, match=r"the connection broke after [\d,]+ bytes.*start the same run again"
    ):
        list(given)


def test_a_file_that_changes_while_it_is_read_is_refused(web: Web) -> None:
    given = iter(open_source(web.has("/rows.jsonl", LINES)))
    next(given)
    web.version = 2
    with pytest.raises(InputError, match="was changed while it was read"):
        list(given)


@pytest.mark.parametrize(
    ("status", "told"), [(403, "the store refuses access"), (404, "no such file"), (503, "503")]
)
def test_what_a_server_says_is_told_without_what_is_secret(web: Web, status: int, told: str) -> None:
    web.has("/rows.jsonl", LINES)
    web.statuses["/rows.jsonl"] = status
    address = f"{web.url}/rows.jsonl?X-Amz-Signature={SECRET}"
    with pytest.raises(InputError, match=told) as refused:
        records(address)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


def test_who_may_write_to_a_bucket_and_not_read_is_told_which_right_is_missing(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library("s3fs").S3FileSystem, "_cache", {})
    for name, value in {
        "AWS_ENDPOINT_URL": web.url,
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    web.has("/bucket/rows.jsonl", LINES)
    web.statuses["/bucket/rows.jsonl"] = web.statuses["/bucket"] = 403
    with pytest.raises(InputError) as refused:
        check_target("s3://bucket/rows.jsonl")
    assert refused.value.message == "s3://bucket/rows.jsonl: the store refuses to say whether it is there"
    right = r"needs the right to read there \(s3:GetObject and s3:ListBucket\)"
    assert re.search(rf"{right}, beside that to write", refused.value.hint or "")
    with pytest.raises(InputError, match=rf"the store refuses access \(who asks {right}; if that is another"):
        records("s3://bucket/rows.jsonl")
    web.statuses.clear()
    web.while_put = lambda: web.statuses.update({"/bucket/rows.jsonl": 403})
    with pytest.raises(MistillError, match=r"needs the right to write there \(s3:PutObject\)"):
        write("s3://bucket/rows.jsonl")


def test_nothing_secret_of_an_address_is_told(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="mistill")
    web.has("/rows.jsonl", LINES)
    host = web.url.removeprefix("http://")
    source = open_source(f"http://user:{SECRET}@{host}/rows.jsonl?sig={SECRET}%2F")
    assert [row.record for row in source] == ROWS
    assert web.asked[-1][1] == f"/rows.jsonl?sig={SECRET}%2F"
    told = f"{source.name} {source.paths} {[row.where for row in source]} {caplog.text}"
    assert SECRET not in told
    assert source.paths == [f"{web.url}/rows.jsonl"]


def test_an_address_that_is_signed_for_it_is_written_by_one_put(web: Web) -> None:
    address = f"{web.url}/out.jsonl?X-Amz-Signature={SECRET}"
    web.statuses["/out.jsonl"] = 201
    write(address)
    assert records(f"{web.url}/out.jsonl") == ROWS if web.statuses.pop("/out.jsonl") else False
    web.statuses["/out.jsonl"] = 403
    with pytest.raises(MistillError, match="the store refuses it") as refused:
        write(address)
    assert SECRET not in str(refused.value)
