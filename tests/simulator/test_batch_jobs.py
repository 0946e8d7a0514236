"""Batch jobs: their states, their results, and each thing that can be wrong with them."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from tests.conftest import Simulate
from tests.contract.fields import problems
from tests.simulator.batch_requests import (
    FILES,
    JOBS,
    chat_line,
    content_of,
    create,
    ended,
    get,
    job_of,
    results,
    upload,
)
from tests.simulator.conftest import ask_simulator

from mistill.api.prices import price_of
from mistill.api.usage import Usage
from mistill.simulator import LINES_PATH, STATS_PATH, Fault, Simulator

pytestmark = pytest.mark.usefixtures("ask")  # skipped where the extra is missing

TEN = [chat_line(str(number), f"row {number}") for number in range(10)]
COUNTS = ("total_requests", "completed_requests", "succeeded_requests", "failed_requests")


def counts_of(job: Any) -> tuple[int, ...]:
    return tuple(job[name] for name in COUNTS)


def cancel(simulator: Simulator, job: Any) -> Any:
    return ask_simulator(simulator, path=f"{JOBS}/{job['id']}/cancel", raw=b"").json


# --- from the beginning to the end ------------------------------------------------------------------------------------


def test_every_line_is_answered_as_its_request_would_be_in_any_order(simulator: Simulator) -> None:
    created = create(simulator, TEN, metadata={"tag": "x"}).json
    assert problems("BatchJob", created) == []
    assert (created["status"], created["metadata"], created["total_requests"]) == ("QUEUED", {"tag": "x"}, 10)
    job = ended(simulator, created["id"])
    assert problems("BatchJob", job) == []
    assert (job["status"], counts_of(job), job["error_file"]) == ("SUCCESS", (10, 10, 10, 0), None)
    lines = results(simulator, job)
    for line in lines:
        body = line["response"]["body"]
        assert problems("ChatCompletionResponse", body) == []
        assert body["choices"][0]["message"]["content"] == f"Echo: row {line['custom_id']}"
    ids = [line["custom_id"] for line in lines]
    assert sorted(ids) == [line["custom_id"] for line in TEN]
    assert ids != sorted(ids)
    card = get(simulator, f"{FILES}/{job['output_file']}").json
    assert (card["sample_type"], card["source"], card["num_lines"]) == ("batch_result", "mistral", 10)


def test_a_job_is_queued_then_runs_line_by_line(simulate: Simulate) -> None:
    simulator = simulate(batch_queue_s=0.1, batch_line_s=0.02)
    created = create(simulator, TEN).json
    seen: list[Any] = []

    def has_ended() -> bool:
        seen.append(job_of(simulator, created["id"]))
        return seen[-1]["status"] == "SUCCESS"

    simulator.wait_until(has_ended)
    assert list(dict.fromkeys(job["status"] for job in seen)) == ["QUEUED", "RUNNING", "SUCCESS"]
    done = [job["completed_requests"] for job in seen]
    assert done == sorted(done)
    assert any(0 < number < 10 for number in done)
    assert all(job["output_file"] is None for job in seen[:-1])


def test_requests_may_be_in_the_request_for_the_job(simulator: Simulator) -> None:
    created = create(simulator, requests=TEN).json
    job = ended(simulator, created["id"])
    assert (job["input_files"], counts_of(job)) == ([], (10, 10, 10, 0))
    assert len(results(simulator, job)) == 10
    inline = get(simulator, f"{JOBS}/{job['id']}?inline=true").json
    assert problems("BatchJob", inline) == []
    assert inline["outputs"] == results(simulator, job)
    assert job["outputs"] is None


def test_embeddings_in_a_job(simulator: Simulator) -> None:
    lines = [{"custom_id": None, "body": {"input": ["a", "b"], "model": "mistral-embed"}}]
    job = ended(simulator, create(simulator, lines, endpoint="/v1/embeddings", model=None).json["id"])
    (line,) = results(simulator, job)
    assert line["custom_id"] is None
    assert problems("EmbeddingResponse", line["response"]["body"]) == []
    assert len(line["response"]["body"]["data"]) == 2


def test_several_files_are_one_job(simulator: Simulator) -> None:
    ids = [upload(simulator, [chat_line(name)]).json["id"] for name in ("a", "b")]
    job = ended(simulator, create(simulator, input_files=ids).json["id"])
    assert sorted(line["custom_id"] for line in results(simulator, job)) == ["a", "b"]


def test_lines_meet_scripts_and_faults_as_requests_do_and_no_quota(simulate: Simulate) -> None:
    simulator = simulate(requests_per_minute=0, poison="arsenic")
    simulator.script(["as it was dictated"], when=lambda body: "row 3" in str(body))
    simulator.script([Fault.html()], when=lambda body: "row 4" in str(body))
    simulator.script([Fault.disconnect()], when=lambda body: "row 5" in str(body))
    simulator.script([Fault.status(429)], when=lambda body: "row 6" in str(body))
    lines = [*TEN, chat_line("a", "arsenic"), chat_line("b", temperature=9), chat_line("c", stream=True)]
    job = ended(simulator, create(simulator, lines).json["id"])
    assert counts_of(job) == (13, 13, 8, 5)
    by_id = {line["custom_id"]: line for line in results(simulator, job)}
    assert by_id["3"]["response"]["body"]["choices"][0]["message"]["content"] == "as it was dictated"
    assert by_id["4"]["response"]["status_code"] == 200
    assert by_id["4"]["response"]["body"].startswith("<!DOCTYPE html>")
    assert by_id["5"]["response"] is None
    assert "disconnect" in by_id["5"]["error"]["message"]
    statuses = {name: by_id[name]["response"]["status_code"] for name in ("6", "a", "b", "c")}
    assert statuses == {"6": 429, "a": 400, "b": 422, "c": 400}
    assert len(content_of(simulator, job["output_file"])) == 8
    assert len(content_of(simulator, job["error_file"])) == 5


def test_a_job_may_have_an_error_file_alone(simulate: Simulate) -> None:
    simulator = simulate(batch_error_line=1)
    job = ended(simulator, create(simulator, TEN).json["id"])
    assert (job["status"], job["output_file"], counts_of(job)) == ("SUCCESS", None, (10, 10, 0, 10))
    assert {line["response"]["status_code"] for line in results(simulator, job)} == {500}


def test_what_is_billed_is_half_the_price_and_known_by_id(simulator: Simulator) -> None:
    job = ended(simulator, create(simulator, [*TEN, chat_line("bad", temperature=9)]).json["id"])
    bodies = [line["response"]["body"] for line in results(simulator, job)]
    tokens = Usage()
    for usage in (body["usage"] for body in bodies if "usage" in body):
        tokens += Usage(usage["prompt_tokens"], usage["completion_tokens"])
    stats = simulator.stats()
    assert (stats.batch.lines_billed, stats.input_tokens) == (10, 0)
    assert (stats.batch.input_tokens, stats.batch.output_tokens) == (
        tokens.input_tokens,
        tokens.output_tokens,
    )
    price = price_of("mistral-small-latest")
    assert price is not None
    assert stats.cost == pytest.approx(price.cost(tokens) / 2)
    ended(simulator, create(simulator, TEN[:2]).json["id"])
    assert simulator.billed_ids() == Counter({line["custom_id"]: 1 for line in TEN}) + Counter("01")
    with urllib.request.urlopen(f"{simulator.url}{LINES_PATH}") as answer:
        assert json.loads(answer.read()) == simulator.billed_ids()
    with urllib.request.urlopen(f"{simulator.url}{STATS_PATH}") as answer:
        assert json.loads(answer.read())["batch"] == msgspec.to_builtins(simulator.stats().batch)
    assert simulator.stats().batch.jobs == {"SUCCESS": 2}


# --- jobs that end early ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_billed", [False, True])
def test_a_job_out_of_time_gives_what_it_has(simulate: Simulate, is_billed: bool) -> None:
    simulator = simulate(batch_hour_s=0.25, batch_line_s=0.05, batch_bills_cancelled=is_billed)
    job = ended(simulator, create(simulator, TEN, timeout_hours=1).json["id"])
    assert job["status"] == "TIMEOUT_EXCEEDED"
    assert 0 < job["completed_requests"] < 10
    assert len(results(simulator, job)) == job["completed_requests"]
    assert simulator.stats().batch.lines_billed == (job["completed_requests"] if is_billed else 0)


def test_a_cancelled_job_gives_what_it_has(simulate: Simulate) -> None:
    simulator = simulate(batch_line_s=0.01, batch_cancel_s=0.05)
    created = create(simulator, [chat_line(str(number)) for number in range(1000)]).json
    simulator.wait_until(lambda: job_of(simulator, created["id"])["completed_requests"] >= 3)
    asked = cancel(simulator, created)
    assert problems("BatchJob", asked) == []
    assert asked["status"] == "CANCELLATION_REQUESTED"
    job = ended(simulator, created["id"])
    assert job["status"] == "CANCELLED"
    assert asked["completed_requests"] <= job["completed_requests"] < 1000
    assert len(results(simulator, job)) == job["completed_requests"]
    assert cancel(simulator, job)["status"] == "CANCELLED"


def test_a_queued_job_is_cancelled_with_nothing_answered(simulate: Simulate) -> None:
    simulator = simulate(batch_queue_s=60)
    created = create(simulator, TEN).json
    cancel(simulator, created)
    job = ended(simulator, created["id"])
    assert (job["status"], job["output_file"], counts_of(job)) == ("CANCELLED", None, (10, 0, 0, 0))


@pytest.mark.parametrize(
    ("lines", "message", "count"),
    [
        (b"", "The input has no requests", 1),
        (b'{"custom_id": "a", "body": {}}\n{"custom_id": "b", "bo', "Invalid JSON line", 1),
        ([chat_line("a"), {"custom_id": "b"}], "Invalid request: Object missing required field `body`", 1),
        ([chat_line("a"), chat_line("a"), chat_line("a"), chat_line("b")], "Duplicate custom_id", 2),
    ],
)
def test_a_file_with_a_wrong_line_fails_its_job(
    simulator: Simulator, lines: Any, message: str, count: int
) -> None:
    job = ended(simulator, create(simulator, lines).json["id"])
    assert problems("BatchJob", job) == []
    assert (job["status"], job["errors"]) == ("FAILED", [{"message": message, "count": count}])
    assert job["output_file"] is job["error_file"] is None


@pytest.mark.parametrize(("becomes", "state"), [("fails", "FAILED"), ("runs", "SUCCESS")])
def test_a_queued_job_whose_file_is_deleted(simulate: Simulate, becomes: str, state: str) -> None:
    simulator = simulate(batch_queue_s=0.1, batch_deleted_input=becomes)
    created = create(simulator, TEN).json
    ask_simulator(simulator, path=f"{FILES}/{created['input_files'][0]}", method="DELETE")
    assert ended(simulator, created["id"])["status"] == state


def test_a_job_fails_for_no_fault_of_its_lines(simulate: Simulate) -> None:
    simulator = simulate(batch_failed=1)
    job = ended(simulator, create(simulator, TEN).json["id"])
    assert (job["status"], len(job["errors"]), job["output_file"]) == ("FAILED", 1, None)
    assert simulator.stats().batch.lines_billed == 0


def test_results_are_gone_after_a_while(simulate: Simulate) -> None:
    simulator = simulate(batch_retention_s=0.05)
    job = ended(simulator, create(simulator, TEN).json["id"])
    content = f"{FILES}/{job['output_file']}/content"
    simulator.wait_until(lambda: get(simulator, content).status == 404)
    assert job_of(simulator, job["id"])["output_file"] == job["output_file"]


# --- jobs that are not made -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"requests": TEN, "endpoint": "/v1/nothing"}, 422),
        ({"requests": TEN, "endpoint": "/v1/ocr"}, 400),
        ({"requests": TEN, "model": "no-such-model"}, 400),
        ({"requests": TEN, "model": "mistral-embed"}, 400),
        ({"input_files": ["8c83706f-994b-401c-a8cb-b882cc652c84"]}, 404),
        ({"input_files": []}, 422),
        ({"input_files": ["a"], "requests": TEN}, 422),
        ({"requests": [{"custom_id": "a"}]}, 422),
        ({"requests": TEN, "timeout_hours": 0}, 422),
        ({"requests": TEN, "timeout_hours": 169}, 422),
        ({"requests": TEN, "metadata": {"k" * 33: "v"}}, 422),
        ({"requests": TEN, "metadata": {"k": "v" * 513}}, 422),
        ({"requests": TEN, "metadata": {"k": ""}}, 422),
        ({"requests": TEN, "agent_id": "a"}, 422),
        ({"requests": TEN, "priority": 1}, 422),
        ({"requests": [{"body": {}}] * 10_001}, 422),
        ({}, 422),
    ],
)
def test_what_mistral_would_refuse(simulator: Simulator, fields: Any, status: int) -> None:
    assert create(simulator, **fields).status == status
    assert get(simulator, JOBS).json["total"] == 0


def test_files_of_another_purpose_are_refused(simulator: Simulator) -> None:
    file_id = upload(simulator, TEN, purpose="ocr").json["id"]
    assert create(simulator, input_files=[file_id]).status == 400


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"batch_needs_billing": True}, 402),
        ({"batch_max_requests": 9}, 400),
        ({"batch_max_pending": 9}, 429),
        ({"batch_max_bytes": 500}, 413),
        ({"batch_busy": 1}, 503),
        ({"batch_absent": True}, 404),
    ],
)
def test_limits_of_an_account(simulate: Simulate, settings: Any, status: int) -> None:
    assert create(simulate(**settings), requests=TEN).status == status


def test_pending_requests_are_those_of_jobs_that_have_not_ended(simulate: Simulate) -> None:
    simulator = simulate(batch_max_pending=15, batch_queue_s=60)
    first = create(simulator, requests=TEN).json
    assert create(simulator, requests=TEN).status == 429
    cancel(simulator, first)
    ended(simulator, first["id"])
    assert create(simulator, requests=TEN).status == 200


def test_a_job_whose_answer_is_lost_is_made(simulate: Simulate) -> None:
    simulator = simulate(batch_create_lost=1)
    with pytest.raises(http.client.RemoteDisconnected):
        create(simulator, TEN)
    assert get(simulator, JOBS).json["total"] == 1


def test_a_job_whose_client_goes_away_is_made_later(simulate: Simulate) -> None:
    simulator = simulate(batch_create_s=0.2)
    with pytest.raises(TimeoutError):
        ask_simulator(
            simulator, path=JOBS, body={"endpoint": "/v1/chat/completions", "requests": TEN}, timeout_s=0.05
        )
    assert get(simulator, JOBS).json["total"] == 0
    simulator.wait_until(lambda: get(simulator, JOBS).json["total"] == 1)


def test_a_body_may_have_to_name_its_model(simulate: Simulate) -> None:
    simulator = simulate(batch_body_needs_model=True)
    lines = [chat_line("with", model="mistral-small-latest"), chat_line("without")]
    job = ended(simulator, create(simulator, lines).json["id"])
    statuses = {line["custom_id"]: line["response"]["status_code"] for line in results(simulator, job)}
    assert statuses == {"with": 200, "without": 422}


# --- the list ---------------------------------------------------------------------------------------------------------


def test_jobs_are_found_by_each_filter_and_page(simulator: Simulator) -> None:
    ids = [
        create(simulator, requests=TEN[:1], metadata={"n": str(n), "all": "x"}).json["id"] for n in range(5)
    ]
    for job_id in ids:
        ended(simulator, job_id)
    pages = [get(simulator, f"{JOBS}?page_size=2&page={page}").json for page in range(4)]
    for page in pages:
        assert problems("ListBatchJobsResponse", page) == []
    assert [job["id"] for page in pages for job in page["data"]] == ids[::-1]
    assert {page["total"] for page in pages} == {5}
    soon, before = (quote((datetime.now(UTC) + timedelta(hours=hours)).isoformat()) for hours in (1, -1))
    for query, found in {
        "order_by=created": ids,
        "n=3": [ids[3]],
        f"metadata={quote(json.dumps({'n': '3', 'all': 'x'}))}": [ids[3]],
        "all=x&model=mistral-small-latest&status=SUCCESS&status=FAILED": ids[::-1],
        "status=QUEUED": [],
        "model=mistral-large-latest": [],
        "agent_id=a": [],
        f"created_after={soon}": [],
        f"created_after={before}&created_by_me=true": ids[::-1],
    }.items():
        assert [job["id"] for job in get(simulator, f"{JOBS}?{query}").json["data"]] == found, query
    others = ask_simulator(simulator, path=f"{JOBS}?created_by_me=true", method="GET", key="another key")
    assert others.json["total"] == 0
    simulator.change(batch_filter="ignored")
    assert get(simulator, f"{JOBS}?n=3&status=QUEUED&order_by=created").json["total"] == 5


@pytest.mark.parametrize(
    "query",
    [
        "page=x",
        "page=%D9%A1",
        "page=-1",
        "page_size=0",
        "page_size=101",
        "order_by=name",
        "created_after=soon",
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(simulator: Simulator, query: str) -> None:
    got = get(simulator, f"{JOBS}?{query}")
    assert got.status == 422
    assert got.json["detail"][0]["loc"] == ["query", query.split("=")[0]]


def test_a_new_job_is_in_the_list_after_a_while(simulate: Simulate) -> None:
    simulator = simulate(batch_list_lag_s=0.2)
    created = create(simulator, requests=TEN).json
    assert job_of(simulator, created["id"])["id"] == created["id"]
    assert get(simulator, JOBS).json["total"] == 0
    simulator.wait_until(lambda: get(simulator, JOBS).json["total"] == 1)


def test_a_job_that_has_ended_can_be_deleted(simulate: Simulate) -> None:
    simulator = simulate(batch_queue_s=60)
    created = create(simulator, requests=TEN).json
    path = f"{JOBS}/{created['id']}"
    assert ask_simulator(simulator, path=path, method="DELETE").status == 400
    cancel(simulator, created)
    ended(simulator, created["id"])
    deleted = ask_simulator(simulator, path=path, method="DELETE").json
    assert problems("DeleteBatchJobResponse", deleted) == []
    assert get(simulator, path).status == 404


# --- results that are not as they should be ---------------------------------------------------------------------------


def raw_results(simulator: Simulator, **settings: Any) -> list[bytes]:
    simulator.change(**settings)
    job = ended(simulator, create(simulator, requests=TEN).json["id"])
    assert counts_of(job) == (10, 10, 10, 0)
    return content_of(simulator, job["output_file"])


def test_lines_are_missing(simulator: Simulator) -> None:
    assert raw_results(simulator, batch_missing=1) == []
    assert simulator.stats().batch.lines_billed == 10


def test_lines_are_doubled(simulator: Simulator) -> None:
    ids = [json.loads(line)["custom_id"] for line in raw_results(simulator, batch_duplicate=1)]
    assert Counter(ids) == {line["custom_id"]: 2 for line in TEN}
    assert simulator.stats().batch.lines_billed == 10


def test_lines_have_no_id(simulator: Simulator) -> None:
    assert all("custom_id" not in json.loads(line) for line in raw_results(simulator, batch_no_id=1))


def test_lines_have_an_id_that_nobody_gave(simulator: Simulator) -> None:
    ids = {json.loads(line)["custom_id"] for line in raw_results(simulator, batch_unknown_id=1)}
    assert len(ids) == 10
    assert not ids & {line["custom_id"] for line in TEN}


def test_lines_are_broken(simulator: Simulator) -> None:
    lines = raw_results(simulator, batch_broken_line=1)
    assert len(lines) == 10
    for line in lines:
        with pytest.raises(json.JSONDecodeError):
            json.loads(line)


def test_bodies_are_texts(simulator: Simulator) -> None:
    for line in raw_results(simulator, batch_text_body=1):
        assert "choices" in json.loads(json.loads(line)["response"]["body"])


def test_some_lines_of_many(simulator: Simulator) -> None:
    simulator.change(batch_missing=0.3)
    lines = [chat_line(str(number)) for number in range(300)]
    job = ended(simulator, create(simulator, lines).json["id"])
    assert 180 < len(results(simulator, job)) < 240


def test_refused_lines_may_be_in_the_output(simulate: Simulate) -> None:
    simulator = simulate(batch_errors_in="output_file", poison="row 3")
    job = ended(simulator, create(simulator, TEN).json["id"])
    assert job["error_file"] is None
    assert Counter(line["response"]["status_code"] for line in results(simulator, job)) == {200: 9, 400: 1}


def test_counts_do_not_add_up(simulate: Simulate) -> None:
    simulator = simulate(batch_wrong_counts=True)
    total, completed, succeeded, failed = counts_of(ended(simulator, create(simulator, TEN).json["id"]))
    assert succeeded + failed != completed != total


@pytest.mark.parametrize(("when", "state"), [("running", "VALIDATING"), ("ended", "FINALIZED")])
def test_a_state_that_nobody_knows(simulate: Simulate, when: str, state: str) -> None:
    simulator = simulate(batch_unknown_state=when, batch_line_s=60 if when == "running" else 0)
    created = create(simulator, TEN).json
    simulator.wait_until(lambda: job_of(simulator, created["id"])["status"] == state)


def test_the_same_seed_gives_the_same_results() -> None:
    def ids_in_order() -> list[Any]:
        with Simulator() as simulator:
            job = ended(simulator, create(simulator, TEN).json["id"])
            return [line["custom_id"] for line in results(simulator, job)]

    assert ids_in_order() == ids_in_order()
