"""Where rows cannot go by batch jobs is told before anything is sent, and what a person is told of jobs there are."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.runs.conftest import MODEL, Place

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.api.usage import Usage
from mistill.cli.exit_codes import Exit, exit_of_start, exit_of_status
from mistill.cli.options.wording import on_the_command_line
from mistill.errors import InputError, MistillError, Stopped, Unauthorized
from mistill.kinds.chat import ChatKind
from mistill.ledger import ErrorRecord, Job, JobRecord, JobState, Ledger, LedgerReader, PlannedAttempt
from mistill.llms.event_loop import background
from mistill.runs.report import RunReport, read_report
from mistill.runs.report_text import start_lines, status_lines
from mistill.simulator import Simulator
from mistill.wording import worded


def llm_at(endpoint: str, **settings: Any) -> MistralLLM:
    return MistralLLM(model=MODEL, endpoint=endpoint, **settings)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        (
            llm_at("https://api.eu.mistral.ai/v1"),
            "lane='batch': api.eu.mistral.ai is a regional host of Mistral's, and these have no batch jobs",
        ),
        (
            MistralEmbeddings(endpoint="https://api.us.mistral.ai"),
            "api.us.mistral.ai is a regional host",
        ),
        (
            llm_at("http://127.0.0.1:9", dialect="openai"),
            "batch jobs are Mistral's, and http://127.0.0.1:9 speaks the dialect 'openai'",
        ),
        (
            llm_at("http://127.0.0.1:9", dialect="local"),
            "speaks the dialect 'local'",
        ),
    ],
)
def test_a_server_without_batch_jobs_is_refused_before_anything_is_sent(
    llm: Any, message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"llm": llm, "out": tmp_path / "out.jsonl"}
    with pytest.raises(InputError) as caught:
        Run([{"text": "x", "prompt": "x"}], lane="batch", **given)
    assert message in caught.value.message
    assert worded(caught.value.hint or "", on_the_command_line).startswith("ask live: --lane live")
    Run([{"text": "x", "prompt": "x"}], **given)
    assert not list(tmp_path.iterdir())


def test_no_other_host_of_mistral_is_taken_for_a_regional_one(tmp_path: Path) -> None:
    for host in (
        "api.mistral.ai",
        "codestral.mistral.ai",
        "api.eu.mistral.ai.example.com",
        "api.mistral.ai.eu",
    ):
        llm = llm_at(f"https://{host}")
        Run([{"prompt": "x"}], llm=llm, out=tmp_path / "out.jsonl", lane="batch")


def test_a_kind_without_batch_jobs_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChatKind, "batch_path", None)  # as a kind has it that names no endpoint
    place.write(["a"])
    with pytest.raises(InputError, match="have no batch jobs"):
        place.run(lane="batch")
    assert place.run().dry_run().batch_cost is None


@pytest.mark.parametrize("out", [None, "-"])
def test_jobs_want_a_ledger_that_stays(place: Place, simulator: Simulator, out: str | None) -> None:
    place.write(["a", "b"])
    run = place.run(out=out, lane="batch")
    assert run.dry_run().asked == 2  # which forgets nothing
    with pytest.raises(InputError, match="this run would have forgotten them") as caught:
        run.start()
    assert caught.value.hint == "say where it remembers, with ledger or an out"
    assert simulator.requests == []


# --- told before ------------------------------------------------------------------------------------------------------


def test_a_dry_run_quotes_both_lanes(place: Place) -> None:
    place.write([f"{number} " + "word " * 100 for number in range(10)])
    live, batch = (
        place.run(lane=lane, batch_tail=0, parameters={"max_new_tokens": 100}).dry_run()
        for lane in ("live", "batch")
    )
    assert (live.lane, batch.lane) == ("live", "batch")
    told = [line for line in batch.lines(on_the_command_line) if line.startswith(("cost", "  "))][-5:]
    assert told == [
        "cost and time, by lane:",
        "    live with the cache   $0.00019 to $0.00079",
        "  > in batch jobs         $0.000097 to $0.00040  as Mistral has room for jobs, hours as a rule",
        "    cheapest              $0.000097 to $0.00040  with jobs, hours as a rule",
        "  by what the first rows take: --lane cheapest",
    ]
    assert "  > live with the cache   $0.00019 to $0.00079" in live.lines(on_the_command_line)
    assert (live.cost, live.batch_cost) == (batch.cost, batch.batch_cost)
    assert json.loads(json.dumps(batch.describe()))["lane"] == "batch"


def test_where_there_are_no_batch_jobs_none_are_quoted(place: Place) -> None:
    place.write(["word"])
    llm = llm_at("https://api.eu.mistral.ai")
    found = place.run(llm=llm).dry_run()
    assert found.cost is not None
    assert found.batch_cost is None
    assert "batch" not in str(found)


@pytest.mark.parametrize("lane", ["live", "batch", "cheapest"])
def test_a_sample_is_asked_at_once_and_forecasts_both_lanes(
    place: Place, simulator: Simulator, lane: str
) -> None:
    place.write(["word " * 10] * 30)
    report = place.run(sample=10, lane=lane).start()
    assert (report.completions, len(simulator.requests)) == (10, 10)
    assert {request.path for request in simulator.requests} == {"/v1/chat/completions"}
    forecast = report.forecast
    assert forecast is not None
    assert forecast.cost is not None
    assert forecast.batch_cost is not None
    assert forecast.batch_cost.expected == pytest.approx(forecast.cost.expected / 2)
    lines = [line.text for line in start_lines(report, on_the_command_line)]
    first = lines.index("the 20 rows left, forecast from 10 answered (95% interval):") + 1
    names = {"live": "live with the cache", "batch": "in batch jobs", "cheapest": "cheapest"}
    assert [line[:26].rstrip() for line in lines[first : first + 3]] == [
        f"  {'>' if way == lane else ' '} {name}" for way, name in names.items()
    ]
    assert lines[first + 3].startswith("  time    live ")
    assert forecast.lane == lane


# --- told while, and after --------------------------------------------------------------------------------------------

RECORD = JobRecord(
    path="/v1/chat/completions",
    model=MODEL,
    host="http://127.0.0.1",
    lines=100,
    rows=100,
    bytes=99,
    timeout_hours=24,
    price=(0.075, 0.3, 0.0075),
)


async def _begin_jobs(path: Path, jobs: list[tuple[JobState, dict[str, Any]]]) -> None:
    with LedgerReader(path) as reader:
        manifest = json.loads(reader.manifest())
        rows = [row.row for row in reader.rows() if row.state == "pending"]
    with Ledger.open(path, manifest) as ledger:
        for place, (state, changes) in enumerate(jobs):
            (number,) = ledger.take_attempt_ids(1)
            attempts = [PlannedAttempt(number, rows[place], 0, None, 5)]
            job = await ledger.begin_job(f"tag-{place}", RECORD, attempts)
            record = structs.replace(job.record, **changes)
            if state == "read":
                for line in (await ledger.attempts_of_lines(job.id, [number]))[number]:
                    ledger.answer(line.attempt, b"{}", Usage(10, 5), 0.25)
            await ledger.note_job(Job(job.id, job.tag, state, 0.0, record))


@pytest.fixture
def with_jobs(place: Place) -> Any:
    """A run of which one row is answered, and jobs have asked others; called with the jobs."""

    def make(*jobs: tuple[JobState, dict[str, Any]]) -> RunReport:
        place.write([f"text {number}" for number in range(9)])
        place.run(sample=1).start()
        background.run(_begin_jobs(place.ledger, list(jobs)))
        return read_report(place.out)

    return make


RUNNING: tuple[JobState, dict[str, Any]] = (
    "running",
    {"job_id": "6f1c", "status": "RUNNING", "completed": 45, "failed": 2},
)
READ: tuple[JobState, dict[str, Any]] = (
    "read",
    {"job_id": "0a0a", "status": "SUCCESS", "completed": 100, "failed": 3, "missing": 1, "broken": 2},
)


def test_status_lists_jobs_and_what_they_saved(with_jobs: Any) -> None:
    report = with_jobs(READ, RUNNING, ("planned", {}), ("doubtful", {}))
    lines = [str(line) for line in status_lines(report, on_the_command_line)]
    told = lines[lines.index(next(line for line in lines if "at Mistral:" in line)) :]
    assert told[:5] == [
        "1 job at Mistral: 45 of 100 requests done; 1 not sent yet",
        "  RUNNING: 100 rows, 45 done, 2 failed, 0 s of 24 h, 6f1c",
        "  planned: 100 rows, 0 s of 24 h, tag-2",
        "1 job read: 100 requests, 3 failed, 1 without a line in the results, 2 lines that cannot be read",
        (
            "1 job that may be at Mistral, and that its list does not have: the 100 rows of it may be on the bill "
            "twice; still looked for"
        ),
    ]
    assert any(line.endswith("; $0.25 less by batch jobs than live") for line in lines)
    assert (
        lines[-2]
        == "1 job is at Mistral, and 1 more is not sent yet; the same command goes on, on another day too"
    )
    assert report.saved == 0.25
    described = json.loads(json.dumps(report.describe()))
    assert [job["state"] for job in described["jobs"]] == ["read", "running", "planned", "doubtful"]
    assert (
        described["jobs"][1].items() >= {"id": "6f1c", "done": 45, "failed": 2, "timeout_s": 86400.0}.items()
    )
    assert described["with_server"] == 3  # a doubtful one may still be answered
    assert "1 job at Mistral" in str(report)
    assert "1 job at Mistral" in report._repr_html_()


def test_many_jobs_are_counted_and_some_are_listed(with_jobs: Any) -> None:
    report = structs.replace(with_jobs(RUNNING), jobs=with_jobs_of(20, RUNNING))
    lines = [str(line) for line in status_lines(report, on_the_command_line)]
    assert sum(line.startswith("  RUNNING") for line in lines) == 12
    assert "  and 8 more jobs" in lines


def with_jobs_of(number: int, kind: tuple[JobState, dict[str, Any]]) -> Any:
    from mistill.jobs.job_report import JobReport

    record = structs.replace(RECORD, planned_at=time.time(), **kind[1])
    return [JobReport.of(Job(place, f"tag-{place}", kind[0], 0.0, record)) for place in range(number)]


STOPS: list[tuple[MistillError | None, Exit, Exit]] = [
    (None, Exit.WAITING, Exit.ANSWERED),
    (Stopped("2 batch jobs are at the server", reason="waiting"), Exit.WAITING, Exit.STOPPED),
    (Stopped("interrupted", reason="interrupted"), Exit.WAITING, Exit.INTERRUPTED),
    (Stopped("budget: …", reason="budget"), Exit.STOPPED, Exit.STOPPED),
    (Unauthorized("no", status=401), Exit.STOPPED, Exit.STOPPED),
    (InputError("no"), Exit.USAGE, Exit.USAGE),
]


@pytest.mark.parametrize(("stopped", "waiting", "not_waiting"), STOPS)
def test_the_exit_code_says_that_jobs_go_on_unless_something_worse_happened(
    with_jobs: Any, stopped: MistillError | None, waiting: Exit, not_waiting: Exit
) -> None:
    report: RunReport = with_jobs(RUNNING, RUNNING)
    record = None if stopped is None else ErrorRecord.of(stopped)
    start = structs.replace(report.starts[-1], stopped=record)
    report = structs.replace(report, starts=[start])
    assert exit_of_start(report) == waiting
    assert exit_of_status(report) == Exit.WAITING
    without = structs.replace(report, jobs=[], pending=0)
    assert exit_of_start(without) == not_waiting
    lines = [str(line) for line in start_lines(report, on_the_command_line)]
    if waiting is Exit.WAITING:
        assert lines[-1] == "2 jobs are at Mistral; the same command goes on, on another day too"
    assert any(line.startswith("stopped:") for line in lines) == (
        stopped is not None and getattr(stopped, "reason", None) != "waiting"
    )


def test_jobs_that_nobody_has_sent_go_on_by_nobody(with_jobs: Any) -> None:
    report: RunReport = with_jobs(("planned", {}), ("uploaded", {}))
    start = structs.replace(
        report.starts[-1], stopped=ErrorRecord.of(Stopped("interrupted", reason="interrupted"))
    )
    report = structs.replace(report, starts=[start])
    assert exit_of_start(report) == Exit.INTERRUPTED
    assert exit_of_status(report) == Exit.WAITING  # a loop on that code must not end while rows are unsent
    lines = [str(line) for line in start_lines(report, on_the_command_line)]
    assert "2 jobs not sent yet" in lines
    assert lines[-1] == "2 jobs are not sent yet; the same command goes on, on another day too"


def test_the_end_of_a_start_tells_what_it_sent(with_jobs: Any) -> None:
    state, record = RUNNING
    sent: tuple[JobState, dict[str, Any]] = (state, record | {"created_at": time.time() + 60})
    report: RunReport = with_jobs(sent, sent, ("planned", {}))
    lines = [str(line) for line in start_lines(report, on_the_command_line)]
    assert lines[1].startswith("sent now: 2 jobs of 200 requests, and 1 request live in ")
