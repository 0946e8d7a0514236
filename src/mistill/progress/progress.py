"""How far work is while it goes on: counted as rows end, and read by whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from mistill.api.usage import Usage
from mistill.delivery.diagnostics import WaitCause, plus


class Answer(Protocol):
    """What is counted of an answer."""

    @property
    def latency_s(self) -> float: ...


class Ended(Protocol):
    """What is counted of a row that ended."""

    @property
    def completions(self) -> Sequence[Answer | None]: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def attempts(self) -> int: ...
    @property
    def cost(self) -> float | None: ...


class JobAtServer(Protocol):
    """What is counted of a batch job that has not ended. Times in unix seconds."""

    @property
    def lines(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def completed(self) -> int | None: ...
    @property
    def planned_at(self) -> float: ...
    @property
    def job_id(self) -> str | None:
        """The server's name of it, once it has it."""
        ...


def _nothing_told() -> None:
    return None


class Progress(Struct):
    """Counts of rows while they are worked on; one object, updated in place. Times in seconds.

    Attributes:
        total: rows of the input, where that is known.
        known: rows that were done before this start, and cost nothing now.
        completions, failures, held: rows that ended in this start; held ones may have been billed already and wait for
            the user's word.
        attempts: HTTP tries of this start.
        usage: tokens of this start. ``cost``: US dollars of this start, ``None`` while no price is known.
        earlier_cost: US dollars of earlier starts; ``None``: there was none, or no price is known.
        busy_s: what all requests took together. ``requests``: those of rows that ended.
        cut_off_at_s: it was stopped, and what is in flight is waited for until then (a monotonic time).
        interrupted: by Ctrl-C.
        jobs: batch jobs that have not ended, ``unsent_jobs`` of which the server does not have yet. ``with_server``:
            rows that are asked by all of them. ``server_requests``: requests that the server has, and of which it says
            that ``server_done`` are done; ``oldest_job_at``: when the first of its jobs was made, in unix seconds.
        by_jobs: rows that ended in this start by what a job had answered.
        lane_sample: rows that were asked live to learn which lane costs less.
        told_lanes: says how many rows go live and how many in jobs, and why, where each goes by price.
        jobs_s: how long there were any, up to ``jobs_since_s``, a monotonic time, since when there are some now.
        pauses_s: how long it was paused before ``paused_at_s``, a monotonic time, since when it is now.
        in_pauses: what a governor took that time for, by cause; ``at_pause``: its seconds when this pause began.
        changed: the settings that were changed while it went on, as a text.
        time_of_several: how long so many rows will take, in seconds, as far as anybody can say, where several work on
            them, of which each knows its own requests; ``None``: one does.
    """

    total: int | None = None
    known: int = 0
    completions: int = 0
    failures: int = 0
    held: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    earlier_cost: float | None = None
    started_at_s: float = 0.0
    busy_s: float = 0.0
    requests: int = 0
    cut_off_at_s: float | None = None
    interrupted: bool = False
    jobs: int = 0
    unsent_jobs: int = 0
    with_server: int = 0
    server_requests: int = 0
    server_done: int = 0
    oldest_job_at: float | None = None
    by_jobs: int = 0
    lane_sample: int = 0
    told_lanes: Callable[[], str | None] = _nothing_told
    jobs_s: float = 0.0
    jobs_since_s: float | None = None
    pauses_s: float = 0.0
    paused_at_s: float | None = None
    in_pauses: Mapping[WaitCause, float] = {}
    at_pause: Mapping[WaitCause, float] = {}
    changed: str | None = None
    time_of_several: Callable[[float], float | None] | None = None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_at_s

    def waited_for_jobs_s(self) -> float:
        """Seconds of this start in which there were batch jobs."""
        since_s = self.jobs_since_s
        return self.jobs_s + (0.0 if since_s is None else time.monotonic() - since_s)

    def paused_s(self) -> float:
        """Seconds of this start in which it was paused."""
        since_s = self.paused_at_s
        return self.pauses_s + (0.0 if since_s is None else time.monotonic() - since_s)

    def paused_for(self, seconds: Mapping[WaitCause, float]) -> Mapping[WaitCause, float]:
        """What a governor took the pauses of this start for, whose seconds by cause are these by now."""
        if self.paused_at_s is None:
            return self.in_pauses
        spent: dict[WaitCause, float] = {
            cause: now - self.at_pause.get(cause, 0.0) for cause, now in seconds.items()
        }
        return plus(self.in_pauses, spent)

    def pause(self, seconds: Mapping[WaitCause, float]) -> None:
        """It is paused from now on. ``seconds``: of its governor, by cause, since that was made."""
        self.at_pause = dict(seconds)
        self.paused_at_s = time.monotonic()

    def resume(self, seconds: Mapping[WaitCause, float]) -> None:
        """It is paused no more."""
        self.in_pauses = self.paused_for(seconds)
        self.pauses_s, self.paused_at_s = self.paused_s(), None

    def see_jobs(self, jobs: Iterable[JobAtServer]) -> None:
        """How all jobs stand now that have not ended."""
        self.jobs = self.unsent_jobs = self.with_server = self.server_requests = self.server_done = 0
        self.oldest_job_at = None
        for job in jobs:
            self.jobs += 1
            self.with_server += job.rows
            if job.job_id is None:
                self.unsent_jobs += 1
                continue
            self.server_requests += job.lines
            self.server_done += min(job.completed or 0, job.lines)
            if self.oldest_job_at is None or job.planned_at < self.oldest_job_at:
                self.oldest_job_at = job.planned_at
        if self.jobs and self.jobs_since_s is None:
            self.jobs_since_s = time.monotonic()
        elif not self.jobs:
            self.jobs_s, self.jobs_since_s = self.waited_for_jobs_s(), None

    def add(self, outcome: Ended) -> None:
        if outcome.error is None:
            self.completions += 1
        else:
            self.failures += 1
        self.usage = self.usage + outcome.usage
        self.requests += outcome.attempts
        if outcome.attempts:  # of texts that go out together, the first counts for all
            longest_s = 0.0
            for completion in outcome.completions:
                if completion is not None and completion.latency_s > longest_s:
                    longest_s = completion.latency_s
            self.busy_s += longest_s
        if outcome.cost is not None:
            self.cost = (self.cost or 0.0) + outcome.cost
