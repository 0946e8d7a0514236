"""Files and batch jobs by our client, against everything that the simulator can do wrong with them."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.api.raw_server import RawServer, response
from tests.conftest import Simulate

from mistill.api import client as client_module
from mistill.api.batch import BatchJob, request_line
from mistill.api.batch_lines import ResultLine, read_lines
from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.errors import (
    APIError,
    AttemptTimeout,
    BadRequest,
    Disconnected,
    InputError,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
)
from mistill.simulator import Fault, Simulator

KEY = "sk-0123456789abcdefghij"
MODEL = "mistral-small-latest"


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[MistralClient]:
    there = MistralClient(simulator.url, KEY, timeout_s=5)
    yield there
    await there.close()


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"".join(INPUT))
    return path


def input_line(custom_id: str) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": f"row {custom_id}"}]}).encode()
    return request_line(custom_id, body)


INPUT = [input_line(str(number)) for number in range(20)]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def submit(client: MistralClient, path: Path, **settings: Any) -> BatchJob:
    sent = await client.upload_file(path, name="mistill-tag.jsonl")
    return await client.create_job("/v1/chat/completions", [sent.id], model=MODEL, **settings)


async def ended(client: MistralClient, job: BatchJob) -> BatchJob:
    while not job.has_ended:
        await asyncio.sleep(0.002)
        job = await client.job(job.id)
    return job


async def downloaded(client: MistralClient, job: BatchJob, folder: Path) -> list[ResultLine]:
    """The lines of both files of results."""
    lines: list[ResultLine] = []
    for name, file_id in (("output", job.output_file), ("error", job.error_file)):
        if file_id is not None:
            await client.download_file(file_id, folder / name)
            lines += read_lines(folder / name)
    return lines


def told(client: MistralClient, lines: list[ResultLine]) -> Counter[str]:
    """What became of the lines: the text of each answer, the kind of each error."""
    outcomes: Counter[str] = Counter()
    for line in lines:
        try:
            message = client.answer_of_line(CHAT, line).response.choices[0].message
            outcomes[str(message.content)] += 1
        except MistillError as error:
            outcomes[error.kind] += 1
    return outcomes


# --- a job from the beginning to the end ------------------------------------------------------------------------------


async def test_a_job_is_sent_watched_and_fetched(
    client: MistralClient, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    job = await submit(client, input_file, metadata={"mistill_job": "tag"}, timeout_hours=48)
    assert (job.status, job.has_ended, job.total_requests) == ("QUEUED", False, 20)
    assert job.metadata == {"mistill_job": "tag"}
    job = await ended(client, job)
    assert (job.status, job.succeeded_requests, job.error_file) == ("SUCCESS", 20, None)
    lines = await downloaded(client, job, tmp_path)
    answers = {line.custom_id: client.answer_of_line(CHAT, line) for line in lines}
    assert {custom_id: got.response.choices[0].message.content for custom_id, got in answers.items()} == {
        str(number): f"Echo: row {number}" for number in range(20)
    }
    stats = simulator.stats().batch
    assert (stats.lines_billed, stats.output_tokens) == (
        20,
        sum(got.usage.output_tokens for got in answers.values()),
    )
    for file_id in (*job.input_files, job.output_file):
        assert file_id is not None
        await client.delete_file(file_id)
    assert simulator.stats().batch.files == 0


async def test_an_upload_is_the_file_byte_by_byte(
    client: MistralClient, simulator: Simulator, tmp_path: Path
) -> None:
    path = tmp_path / "with é.jsonl"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    sent = await client.upload_file(path, name='a "name", é; filename=x.jsonl', expiry_hours=48)
    assert (sent.size, sent.filename, sent.purpose) == (
        len(content),
        'a "name", é; filename=x.jsonl',
        "batch",
    )
    assert sent.expires_at is not None
    assert sent.created_at is not None
    assert sent.expires_at - sent.created_at in (48 * 3600, 48 * 3600 - 1)
    assert await client.download_file(sent.id, tmp_path / "back") == len(content)
    assert (tmp_path / "back").read_bytes() == content
    assert (await client.file(sent.id)) == sent
    assert "batch" in simulator.requests[0].body.values()


async def test_files_are_found_by_their_name(client: MistralClient, input_file: Path) -> None:
    ids = [
        (await client.upload_file(input_file, name=f"mistill-{number % 2}-{number}.jsonl")).id
        for number in range(4)
    ]
    assert [file.id async for file in client.files(search="mistill-1")] == [ids[3], ids[1]]
    assert [file.id async for file in client.files()] == ids[::-1]


async def test_a_job_is_cancelled_and_gives_what_it_has(
    client: MistralClient, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    simulator.change(batch_line_s=0.02)
    job = await submit(client, input_file)
    while not job.completed_requests:
        await asyncio.sleep(0.002)
        job = await client.job(job.id)
    assert (await client.cancel_job(job.id)).status == "CANCELLATION_REQUESTED"
    job = await ended(client, job)
    assert job.status == "CANCELLED"
    assert 0 < len(await downloaded(client, job, tmp_path)) == job.completed_requests != 20


async def test_a_failed_job_says_why(client: MistralClient, tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(input_line("a") * 3)
    job = await ended(client, await submit(client, path))
    assert (job.status, job.output_file) == ("FAILED", None)
    assert job.errors is not None
    assert [(error.message, error.count) for error in job.errors] == [("Duplicate custom_id", 2)]


# --- lists ------------------------------------------------------------------------------------------------------------


async def test_all_jobs_are_listed_page_by_page(
    client: MistralClient, input_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_PAGE_SIZE", 2)
    sent = await client.upload_file(input_file, name="a.jsonl")
    jobs = [await client.create_job("/v1/chat/completions", [sent.id], model=MODEL) for _ in range(5)]
    assert [job.id async for job in client.jobs()] == [job.id for job in jobs[::-1]]


@pytest.mark.parametrize("batch_filter", ["metadata", "ignored"])
async def test_jobs_made_before_are_left_out_whatever_the_server_does(
    client: MistralClient, simulator: Simulator, input_file: Path, batch_filter: str
) -> None:
    simulator.change(batch_filter=batch_filter)
    job = await submit(client, input_file)
    now = datetime.now(UTC)
    assert [each.id async for each in client.jobs(created_after=now - timedelta(seconds=1))] == [job.id]
    assert [each.id async for each in client.jobs(created_after=now + timedelta(seconds=2))] == []
    assert simulator.requests[-1].query.startswith("order_by=-created&created_after=")


JOB = {"id": "a", "status": "RUNNING"}


async def listed(*pages: Any) -> tuple[list[BatchJob], int]:
    """The jobs that are listed by a server with these pages, the last for ever, and how many it was asked for."""
    async with RawServer(*(response(page) for page in pages)) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        jobs = [job async for job in there.jobs()]
        await there.close()
        return jobs, server.requests


async def test_a_server_that_has_one_page_for_ever_is_read_once() -> None:
    jobs, requests = await listed({"data": [JOB, JOB | {"id": "b"}]})
    assert ([job.id for job in jobs], requests) == (["a", "b"], 2)


async def test_a_job_that_moves_to_the_next_page_meanwhile_is_listed_once() -> None:
    pages = [{"data": [{**JOB, "id": name} for name in names], "total": 4} for names in ("dc", "cb", "ba")]
    jobs, _ = await listed(*pages)
    assert [job.id for job in jobs] == ["d", "c", "b", "a"]


async def test_a_total_of_the_page_alone_ends_no_list() -> None:
    ids = list(map(str, range(101)))
    pages = [
        {"data": [JOB | {"id": each} for each in some], "total": len(some)} for some in (ids[:100], ids[100:])
    ]
    jobs, requests = await listed(*pages)
    assert ([job.id for job in jobs], requests) == (ids, 2)


async def test_one_odd_job_does_not_hide_the_others() -> None:
    odd: list[Any] = [None, 5, {}, {"id": "x"}, {"id": "", "status": "RUNNING"}, JOB | {"output_file": 5}]
    jobs, _ = await listed({"data": [*odd, JOB], "total": 7})
    assert [job.id for job in jobs] == ["a"]


async def test_a_list_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_PAGES", 2)
    with pytest.raises(MalformedAnswer, match="does not end"):
        await listed({"data": [JOB]}, {"data": [JOB | {"id": "b"}]})


@pytest.mark.parametrize(
    "page", [{"data": None}, {"total": 1}, [], b"<html>", {"data": [], "error": "broken"}]
)
async def test_a_list_that_is_none_is_an_error_of_its_kind(page: Any) -> None:
    with pytest.raises((MalformedAnswer, ServerError)):
        await listed(page)


# --- what servers say of a job ----------------------------------------------------------------------------------------


async def shown(body: Any) -> BatchJob:
    (job,), _ = await listed({"data": [body], "total": 1})
    return job


@pytest.mark.parametrize("state", ["VALIDATING", "finalizing", "CANCELLATION_REQUESTED", "QUEUED", "RUNNING"])
async def test_a_job_in_any_other_state_has_not_ended(state: str) -> None:
    job = await shown(JOB | {"status": state})
    assert (job.status, job.has_ended) == (state, False)


async def test_what_is_of_no_importance_costs_nothing() -> None:
    job = await shown(
        JOB
        | {
            "object": 5,
            "errors": ["a word", {"message": "m", "count": "3"}, {"message": {"a": 1}}, None],
            "metadata": "none",
            "total_requests": "20",
            "completed_requests": 2**70,
            "failed_requests": -1,
            "succeeded_requests": 5.0,
            "created_at": "2026-11-26T10:00:00Z",
            "outputs": [1],
        }
    )
    assert job.errors is not None
    assert [(error.message, error.count) for error in job.errors] == [
        ("a word", 1),
        ("m", 3),
        ("{'a': 1}", 1),
        ("None", 1),
    ]
    assert (job.metadata, job.created_at, job.total_requests) == (None, None, 20)
    assert (job.completed_requests, job.failed_requests, job.succeeded_requests) == (None, None, 5)


@pytest.mark.parametrize(
    "body", [{"id": "a"}, {"status": "RUNNING"}, JOB | {"error_file": {"id": "f"}}, {"error": "broken"}, b""]
)
async def test_a_job_that_cannot_be_read_is_an_error(body: Any) -> None:
    async with RawServer(response(body)) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        with pytest.raises((MalformedAnswer, ServerError)) as caught:
            await there.job("a")
        assert not caught.value.maybe_billed
        await there.close()


# --- downloads --------------------------------------------------------------------------------------------------------


async def test_a_download_that_is_cut_leaves_nothing_and_what_was_there(
    client: MistralClient, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    simulator.change(batch_download_cut=1)
    path = tmp_path / "results"
    path.write_bytes(b"of before")
    words: set[str] = set()
    for _ in range(12):
        with pytest.raises(Disconnected) as caught:
            await client.download_file(sent.id, path)
        assert not caught.value.maybe_billed
        words.add(caught.value.message.split(":")[-1].split(" of ")[-1])
    assert len(words) == 2  # by the connection, and as if it were whole
    assert path.read_bytes() == b"of before"
    assert names_in(tmp_path) == ["input.jsonl", "results"]


async def test_a_download_replaces_what_a_killed_one_left_and_is_private(
    client: MistralClient, input_file: Path, tmp_path: Path
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    path = tmp_path / "results"
    path.with_name("results.part").symlink_to(victim)
    await client.download_file(sent.id, path)
    assert path.read_bytes() == b"".join(INPUT)
    assert victim.read_bytes() == b"mine"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("size", [None, 1000, 999])
async def test_a_compressed_download_is_measured_by_its_card(tmp_path: Path, size: int | None) -> None:
    content = response(gzip.compress(b"x" * 1000), headers=[b"content-encoding: gzip"])
    async with RawServer(content, response({"id": "f", "bytes": size})) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        if size == 999:
            with pytest.raises(Disconnected, match="1,000 of 999 bytes"):
                await there.download_file("f", tmp_path / "results")
        else:
            assert await there.download_file("f", tmp_path / "results") == 1000
        await there.close()


async def test_a_download_has_a_bound(tmp_path: Path) -> None:
    content = response(gzip.compress(b"x" * 10_000_000), headers=[b"content-encoding: gzip"])
    async with RawServer(content) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        with pytest.raises(MalformedAnswer, match="larger than 1,000,000 bytes"):
            await there.download_file("f", tmp_path / "results", max_bytes=1_000_000)
        await there.close()
    assert names_in(tmp_path) == []


async def test_a_page_in_the_place_of_a_file_is_none(tmp_path: Path) -> None:
    async with RawServer(response(b"<html>wait</html>", content_type="text/html; charset=utf-8")) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        with pytest.raises(MalformedAnswer, match="a page came"):
            await there.download_file("f", tmp_path / "results")
        await there.close()
    assert names_in(tmp_path) == []


async def test_a_download_that_stands_still_ends(tmp_path: Path) -> None:
    async with RawServer(response(b"x" * 100_000)[:-1], hold=True) as server:
        there = MistralClient(server.url, KEY, timeout_s=0.2)
        with pytest.raises(AttemptTimeout, match=r"stood still for 0\.2 s"):
            await there.download_file("f", tmp_path / "results")
        await there.close()
    assert names_in(tmp_path) == []


async def test_results_that_are_gone_are_not_found(
    client: MistralClient, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    simulator.change(batch_retention_s=0)
    job = await ended(client, await submit(client, input_file))
    assert job.output_file is not None
    with pytest.raises(NotFound):
        await client.download_file(job.output_file, tmp_path / "results")
    assert not (tmp_path / "results").exists()


async def test_where_nothing_can_be_written_the_system_says_so(
    client: MistralClient, input_file: Path, tmp_path: Path
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    with pytest.raises(FileNotFoundError):
        await client.download_file(sent.id, tmp_path / "no" / "folder")
    with pytest.raises(FileNotFoundError):
        await client.upload_file(tmp_path / "no file", name="a.jsonl")


# --- what is lost or refused ------------------------------------------------------------------------------------------


async def test_a_lost_upload_is_found_by_its_name(
    client: MistralClient, simulator: Simulator, input_file: Path
) -> None:
    simulator.change(batch_upload_lost=1)
    with pytest.raises(Disconnected) as caught:
        await client.upload_file(input_file, name="mistill-tag.jsonl")
    assert not caught.value.maybe_billed
    assert [file.filename async for file in client.files(search="mistill-tag")] == ["mistill-tag.jsonl"]


async def test_a_lost_job_may_be_billed_and_is_found_by_tag_and_file(
    client: MistralClient, simulator: Simulator, input_file: Path
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    simulator.change(batch_create_lost=1, batch_list_lag_s=0.1)
    with pytest.raises(Disconnected) as caught:
        await client.create_job("/v1/chat/completions", [sent.id], model=MODEL, metadata={"tag": "x"})
    assert caught.value.maybe_billed
    assert [job async for job in client.jobs()] == []
    simulator.change(batch_list_lag_s=0)
    (found,) = [job async for job in client.jobs()]
    assert (found.metadata, found.input_files) == ({"tag": "x"}, (sent.id,))


async def test_a_deleted_input_is_a_fence(
    client: MistralClient, simulator: Simulator, input_file: Path
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    simulator.change(batch_create_s=0.1)
    creation = asyncio.create_task(client.create_job("/v1/chat/completions", [sent.id], model=MODEL))
    await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight == 1)
    await client.delete_file(sent.id)
    with pytest.raises(NotFound):
        await creation
    assert [job async for job in client.jobs()] == []


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"batch_needs_billing": True}, Unauthorized),
        ({"batch_max_requests": 1}, BadRequest),
        ({"batch_max_pending": 1}, RateLimited),
        ({"batch_busy": 1}, ServerError),
        ({"batch_absent": True}, NotFound),
        ({"outage": "drop"}, Disconnected),
    ],
)
async def test_a_job_is_refused(
    client: MistralClient, simulator: Simulator, input_file: Path, settings: Any, kind: type[MistillError]
) -> None:
    sent = await client.upload_file(input_file, name="a.jsonl")
    simulator.change(**settings)
    with pytest.raises(kind) as caught:
        await client.create_job("/v1/chat/completions", [sent.id], model=MODEL)
    assert type(caught.value) is kind
    assert caught.value.maybe_billed is (kind is Disconnected)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"batch_max_bytes": 100}, BadRequest),
        ({"batch_busy": 1}, ServerError),
        ({"batch_absent": True}, NotFound),
        ({"api_keys": frozenset({"another"})}, Unauthorized),
        ({"outage": "503"}, ServerError),
    ],
)
async def test_an_upload_is_refused(
    client: MistralClient, simulator: Simulator, input_file: Path, settings: Any, kind: type[MistillError]
) -> None:
    simulator.change(**settings)
    with pytest.raises(kind):
        await client.upload_file(input_file, name="a.jsonl")
    assert simulator.stats().batch.files == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_files": []}, "needs an input file"),
        ({"timeout_hours": 0}, "from 1 to 168 hours"),
        ({"timeout_hours": 169}, "from 1 to 168 hours"),
        ({"metadata": {"k" * 33: "v"}}, "keys of 1 to 32 characters"),
        ({"metadata": {"k": ""}}, "values of 1 to 512"),
    ],
)
async def test_what_mistral_would_refuse_is_not_sent(
    client: MistralClient, simulator: Simulator, settings: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"input_files": ["f"]} | settings
    with pytest.raises(InputError, match=words):
        await client.create_job("/v1/chat/completions", **given)
    assert simulator.requests == []


@pytest.mark.parametrize("file_id", ["", "..", "../models", "a/b?c=d#e", "%2e%2e"])
async def test_an_id_is_never_another_path(client: MistralClient, simulator: Simulator, file_id: str) -> None:
    for call in (client.file, client.delete_file, client.job, client.cancel_job):
        with pytest.raises((APIError, InputError)):
            await call(file_id)
    assert all(each.path.startswith(("/v1/files/", "/v1/batch/jobs/")) for each in simulator.requests)


async def test_what_is_not_deleted_is_an_error() -> None:
    async with RawServer(response({"id": "f", "deleted": False})) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        with pytest.raises(MalformedAnswer, match="did not delete"):
            await there.delete_file("f")
        await there.close()


async def test_a_server_that_says_the_key_is_not_repeated() -> None:
    said = {"object": "error", "message": f"key {KEY}", "type": "x", "code": "1"}
    async with RawServer(response(said, 500)) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        for call in (there.file, there.delete_file, there.job):
            with pytest.raises(ServerError) as caught:
                await call("f")
            assert KEY not in f"{caught.value}{caught.value.__dict__}"
        await there.close()


# --- results that are not as they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "outcomes", "ids"),
    [
        ({"batch_error_line": 1}, {"server_error": 20}, 20),
        ({"batch_error_line": 1, "batch_errors_in": "output_file"}, {"server_error": 20}, 20),
        ({"batch_text_body": 1}, {"Echo": 20}, 20),
        ({"batch_missing": 1}, {}, 0),
        ({"batch_duplicate": 1}, {"Echo": 40}, 20),
        ({"batch_no_id": 1}, {"Echo": 20}, 0),
        ({"batch_unknown_id": 1}, {"Echo": 20}, 0),
        ({"batch_broken_line": 1}, {"malformed_answer": 20}, 0),
        ({"batch_wrong_counts": True}, {"Echo": 20}, 20),
        ({"poison": "row 1"}, {"Echo": 9, "bad_request": 11}, 20),
        ({"faults": {"html": 1}}, {"malformed_answer": 20}, 20),
        ({"faults": {"disconnect": 1}}, {"server_error": 20}, 20),
        ({"faults": {"capacity": 1}}, {"capacity_exceeded": 20}, 20),
        ({"faults": {"empty_choices": 1}}, {"malformed_answer": 20}, 20),
    ],
)
async def test_each_line_is_told_as_what_it_is(
    client: MistralClient,
    simulator: Simulator,
    input_file: Path,
    tmp_path: Path,
    settings: Any,
    outcomes: dict[str, int],
    ids: int,
) -> None:
    simulator.change(**settings)
    job = await ended(client, await submit(client, input_file))
    assert job.status == "SUCCESS"
    lines = await downloaded(client, job, tmp_path)
    found = Counter(text.split(":")[0] for text in told(client, lines).elements())
    assert found == outcomes
    assert len({line.custom_id for line in lines} & {str(number) for number in range(20)}) == ids


async def test_a_job_out_of_time_and_one_of_a_state_that_nobody_knows(
    simulate: Simulate, input_file: Path, tmp_path: Path
) -> None:
    simulator = simulate(batch_hour_s=0.15, batch_line_s=0.02, batch_unknown_state="running")
    client = MistralClient(simulator.url, KEY, timeout_s=5)
    job = await submit(client, input_file, timeout_hours=1)
    states = {job.status}
    while not job.has_ended:
        job = await client.job(job.id)
        states.add(job.status)
    assert "VALIDATING" in states
    assert job.status == "TIMEOUT_EXCEEDED"
    assert 0 < len(await downloaded(client, job, tmp_path)) == job.completed_requests != 20
    await client.close()


async def test_faults_of_all_kinds_at_once_lose_no_line_silently(
    client: MistralClient, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    rates = dict.fromkeys(
        (
            "batch_error_line",
            "batch_text_body",
            "batch_duplicate",
            "batch_no_id",
            "batch_unknown_id",
            "batch_broken_line",
        ),
        0.2,
    )
    simulator.change(**rates, faults={"html": 0.1, "503_text": 0.1, "truncate": 0.1})
    simulator.script([Fault.status(422)], when=lambda body: "row 7" in str(body))
    job = await ended(client, await submit(client, input_file))
    lines = await downloaded(client, job, tmp_path)
    assert sum(told(client, lines).values()) == len(lines) >= 20


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_cancellation_is_not_lost_to_an_answer_that_came_just_before(
    client: MistralClient, simulator: Simulator, turns: int
) -> None:
    async def wait_for_ever() -> None:
        with suppress(NotFound):
            await client.delete_file("none")
        await asyncio.Event().wait()

    for asked in range(4):
        task = asyncio.ensure_future(wait_for_ever())
        for _ in range(turns):
            await asyncio.sleep(0)
        # The loop stands still meanwhile, so that the answer is there and nobody has taken it.
        simulator.wait_until(lambda asked=asked: simulator.counts_by_status[404] > asked)
        for _ in range(asked):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
