"""The batch jobs of a run, told: what each is about, how far it is, what came of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from msgspec import Struct

from mistill.ledger import Job, JobState
from mistill.ledger.jobs import is_under_way
from mistill.progress.formatting import age, count, jobs_at_server
from mistill.wording import START_AGAIN, Phrase

_SHOWN = 12
"""More jobs than that are not listed for a person, but counted."""
_SHOWN_ERRORS = 3


class JobReport(Struct, frozen=True, kw_only=True):
    """One batch job. Times in unix seconds, by our clock.

    Attributes:
        tag: our own name of it, which stands in its metadata (``mistill_job``) and in the name of its file. ``id``: the
            server's.
        state: how far we are with it: ``planned``, ``uploaded``, ``creating``, ``running``; ``ended``, ``fetched``: its
            results are on their way into the ledger; ``read``: they are there; ``doubtful``: it may be at the server
            though nobody has seen it; ``dropped``: it was never made. ``status``: the server's own word.
        lines: its requests. ``rows``: that these ask.
        done, failed: of its requests, as the server counted them when it was last asked; ``None``: it has not said.
        begun_at: when it was planned. ``created_at``: when the server had it. ``ended_at``: when we saw that it had
            ended. ``timeout_s``: how long it may take there.
        is_given_up: we were to cancel it, the server does not know it, and nobody waits for it any more.
        unseen: how often the server was asked for it in vain since it last knew it: it is gone, or another key's.
        missing: rows of which no line came. ``broken``, ``unknown``: lines that could not be read, and that nobody
            waits for, such as those that came twice.
        errors: why it failed, in the server's words; or what became of its results.
    """

    tag: str
    id: str | None
    state: JobState
    status: str | None
    model: str
    lines: int
    rows: int
    done: int | None
    failed: int | None
    begun_at: float
    created_at: float | None
    ended_at: float | None
    timeout_s: float
    is_cancelled: bool
    is_given_up: bool
    unseen: int
    missing: int
    broken: int
    unknown: int
    errors: list[str]

    @classmethod
    def of(cls, job: Job) -> JobReport:
        record = job.record
        return cls(
            tag=job.tag,
            id=record.job_id,
            state=job.state,
            status=record.status,
            model=record.model,
            lines=record.lines,
            rows=record.rows,
            done=record.completed,
            failed=record.failed,
            begun_at=record.planned_at,
            created_at=record.created_at,
            ended_at=record.ended_at,
            timeout_s=record.timeout_hours * 3600.0,
            is_cancelled=record.is_cancelled,
            is_given_up=record.is_given_up,
            unseen=record.looked,
            missing=record.missing,
            broken=record.broken,
            unknown=record.unknown,
            errors=list(record.errors),
        )

    @property
    def is_under_way(self) -> bool:
        """Answers of it are awaited."""
        return is_under_way(self.state)

    @property
    def is_sent(self) -> bool:
        """The server has it, or may have it."""
        return self.is_under_way and self.state not in ("planned", "uploaded")

    @property
    def age_s(self) -> float:
        """How long the server has had it, or took; 0 before that."""
        if self.created_at is None:
            return 0.0
        return max(0.0, (time.time() if self.ended_at is None else self.ended_at) - self.created_at)


def under_way(jobs: Sequence[JobReport]) -> list[JobReport]:
    """Those of which answers are awaited."""
    return [job for job in jobs if job.is_under_way]


def goes_on(jobs: Sequence[JobReport]) -> Phrase:
    """How a run goes on some of whose jobs are under way: these."""
    sent = sum(job.is_sent for job in jobs)
    unsent = len(jobs) - sent
    at_mistral = f"{count(sent, 'job')} {_are(sent)} at Mistral"
    if unsent:
        there = f"{at_mistral}, and {unsent:,} more" if sent else count(unsent, "job")
        at_mistral = f"{there} {_are(unsent)} not sent yet"
    return Phrase(
        f"{at_mistral}: {START_AGAIN.python} to go on, on another day too",
        f"{at_mistral}; the same command goes on, on another day too",
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def job_lines(jobs: Sequence[JobReport], *, in_full: bool) -> Iterator[str]:
    """How far the jobs of a run are.

    Args:
        in_full: each that is under way is a line.
    """
    awaited = under_way(jobs)
    if awaited:
        sent = [job for job in awaited if job.is_sent]
        done = sum(min(job.done or 0, job.lines) for job in sent)
        requests = sum(job.lines for job in sent)
        yield jobs_at_server(len(sent), done, requests, unsent=len(awaited) - len(sent))
        if in_full:
            yield from (f"  {_job_line(job)}" for job in awaited[:_SHOWN])
            if len(awaited) > _SHOWN:
                yield f"  and {count(len(awaited) - _SHOWN, 'more job', 'more jobs')}"
    if read := [job for job in jobs if job.state == "read"]:
        yield _read_line(read)
    if doubtful := [job for job in jobs if job.state == "doubtful"]:
        yield (
            f"{count(len(doubtful), 'job')} that may be at Mistral, and that its list does not have: the "
            f"{count(sum(job.rows for job in doubtful), 'row')} of it may be on the bill twice; still looked for"
        )
    said = dict.fromkeys(error for job in jobs if job.state != "dropped" for error in job.errors)
    yield from (f"  reason: {error}" for error in list(said)[:_SHOWN_ERRORS])


def _job_line(job: JobReport) -> str:
    status = job.status or job.state
    done = "" if job.done is None else f", {job.done:,} done"
    failed = f", {job.failed:,} failed" if job.failed else ""
    cancelled = ", cancelled by us" if job.is_cancelled else ""
    unseen = f", not known to this key ({count(job.unseen, 'look')})" if job.unseen else ""
    since = f"{age(job.age_s)} of {job.timeout_s / 3600:g} h"
    return (
        f"{status}: {count(job.rows, 'row')}{done}{failed}{cancelled}{unseen}, {since}, {job.id or job.tag}"
    )


def _read_line(read: Sequence[JobReport]) -> str:
    failed = sum(job.failed or 0 for job in read)
    missing = sum(job.missing for job in read)
    broken = sum(job.broken for job in read)
    parts = [
        f"{count(sum(job.lines for job in read), 'request')}",
        *([f"{failed:,} failed"] if failed else []),
        *([f"{missing:,} without a line in the results"] if missing else []),
        *([f"{count(broken, 'line')} that cannot be read"] if broken else []),
    ]
    return f"{count(len(read), 'job')} read: {', '.join(parts)}"
