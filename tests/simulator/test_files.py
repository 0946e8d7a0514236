"""Files: kept, listed, downloaded, gone."""

from __future__ import annotations

import http.client
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Simulate
from tests.contract.fields import problems
from tests.simulator.batch_requests import FILES, chat_line, get, jsonl, upload
from tests.simulator.conftest import Ask, ask_simulator

from mistill.simulator import Simulator

pytestmark = pytest.mark.usefixtures("ask")  # skipped where the extra is missing


def test_a_file_comes_back_as_it_was_sent(simulator: Simulator) -> None:
    content = jsonl(chat_line(str(number), "é" * 1000) for number in range(300))
    sent = upload(simulator, content, "a file.jsonl", expiry=48).json
    assert problems("CreateFileResponse", sent) == []
    assert (sent["bytes"], sent["num_lines"], sent["filename"]) == (len(content), 300, "a file.jsonl")
    assert sent["expires_at"] - sent["created_at"] in (48 * 3600, 48 * 3600 - 1)
    shown = get(simulator, f"{FILES}/{sent['id']}").json
    assert problems("GetFileResponse", shown) == []
    assert get(simulator, f"{FILES}/{sent['id']}/content").text.encode() == content
    assert simulator.requests[0].body == {"purpose": "batch", "expiry": "48", "file": "a file.jsonl"}


def test_files_are_listed_by_page_and_filter(simulator: Simulator) -> None:
    ids = [upload(simulator, b"{}\n", f"mistill-{number}.jsonl").json["id"] for number in range(5)]
    upload(simulator, b"{}\n", "other.jsonl", purpose="ocr")
    pages = [get(simulator, f"{FILES}?search=MISTILL&page_size=2&page={page}").json for page in range(4)]
    for page in pages:
        assert problems("ListFilesResponse", page) == []
    assert [file["id"] for page in pages for file in page["data"]] == ids[::-1]
    assert {page["total"] for page in pages} == {5}
    for query, count in {
        "purpose=ocr": 1,
        "purpose=batch": 5,
        "sample_type=batch_request": 5,
        "source=mistral": 0,
        "source=mistral&source=upload": 6,
        "mimetypes=text/csv": 0,
        "include_total=false": 6,
    }.items():
        found = get(simulator, f"{FILES}?{query}").json
        assert len(found["data"]) == count, query
        assert found["total"] == (None if "total" in query else count)
    simulator.change(batch_filter="ignored")
    assert get(simulator, f"{FILES}?search=mistill").json["total"] == 6


def test_a_deleted_file_is_gone(simulator: Simulator) -> None:
    sent = upload(simulator, b"{}\n").json
    deleted = ask_simulator(simulator, path=f"{FILES}/{sent['id']}", method="DELETE").json
    assert problems("DeleteFileResponse", deleted) == []
    assert deleted["deleted"]
    for path in ("", "/content", "/url"):
        assert get(simulator, f"{FILES}/{sent['id']}{path}").status == 404
    assert get(simulator, FILES).json["total"] == 0


def test_a_file_expires(simulate: Simulate) -> None:
    simulator = simulate(batch_hour_s=0.02)
    sent = upload(simulator, b"{}\n", expiry=1).json
    simulator.wait_until(lambda: get(simulator, f"{FILES}/{sent['id']}").status == 404)
    assert simulator.stats().batch.files == 0


def test_a_signed_address_needs_no_key_and_ends(simulate: Simulate) -> None:
    simulator = simulate(batch_hour_s=0.2)
    sent = upload(simulator, b'{"a": 1}\n').json
    signed = get(simulator, f"{FILES}/{sent['id']}/url?expiry=1").json
    assert problems("GetSignedUrlResponse", signed) == []
    path = signed["url"].removeprefix(simulator.url)
    assert ask_simulator(simulator, path=path, method="GET", key=None).text == '{"a": 1}\n'
    simulator.wait_until(lambda: get(simulator, path).status == 404)
    assert get(simulator, f"{FILES}/{sent['id']}/url?expiry=169").status == 422


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "spying"},
        {"expiry": "soon"},
        {"expiry": "0"},
        {"expiry": "٣"},
        {"visibility": "all"},
        {"tag": "x"},
    ],
)
def test_a_form_beyond_the_api_is_refused_and_not_kept(simulator: Simulator, fields: Any) -> None:
    got = upload(simulator, b"{}\n", **fields)
    assert got.status == 422
    assert got.json["detail"][0]["loc"] == ["body", next(iter(fields))]
    assert simulator.stats().batch.files == 0


def test_an_upload_is_a_form_with_a_file(simulator: Simulator, ask: Ask) -> None:
    assert ask(simulator, path=FILES, raw=b"{}").status == 422
    no_file = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    got = ask(simulator, path=FILES, raw=no_file, content_type="multipart/form-data; boundary=b")
    assert (got.status, got.json["detail"][0]["type"]) == (422, "missing")


def test_a_file_that_is_too_large_gets_413(simulate: Simulate) -> None:
    simulator = simulate(batch_max_bytes=1000)
    assert upload(simulator, b"x" * 1000).status == 200
    assert upload(simulator, b"x" * 1001).status == 413
    assert simulator.stats().batch.files == 1


def test_an_upload_whose_answer_is_lost_is_kept(simulate: Simulate) -> None:
    simulator = simulate(batch_upload_lost=1)
    with pytest.raises(http.client.RemoteDisconnected):
        upload(simulator, b"{}\n")
    assert get(simulator, FILES).json["total"] == 1


def test_downloads_are_cut_in_two_ways(simulate: Simulate) -> None:
    simulator = simulate(batch_download_cut=1)
    sent = upload(simulator, b"0123456789").json
    ends = set()
    for _ in range(20):
        try:
            ends.add(get(simulator, f"{FILES}/{sent['id']}/content").text)
        except http.client.IncompleteRead as error:
            ends.add(error.partial)
    assert ends == {"01234", b"01234"}


def test_a_busy_server_does_nothing(simulate: Simulate) -> None:
    simulator = simulate(batch_busy=1)
    assert upload(simulator, b"{}\n").status == 503
    assert simulator.stats().batch.files == 0


def test_regional_hosts_have_no_files(simulate: Simulate) -> None:
    simulator = simulate(batch_absent=True)
    assert upload(simulator, b"{}\n").status == 404
    assert get(simulator, "/v1/batch/jobs").status == 404


def test_files_end_with_their_simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Simulator() as simulator:
        assert not list(tmp_path.iterdir())
        upload(simulator, b"{}\n")
        assert len(list(tmp_path.glob("mistill-simulator-*/*"))) == 1
    assert not list(tmp_path.iterdir())
