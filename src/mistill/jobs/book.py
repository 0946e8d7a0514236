"""The jobs of a run: as they are on disk, and what is held of the budget for them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from mistill.api.prices import Price
from mistill.errors import MistillError, Stopped
from mistill.estimates.budget import Budget, Hold
from mistill.jobs.job_files import JobFiles
from mistill.jobs.job_input import JobInput
from mistill.jobs.results import Taken, price_of
from mistill.ledger import Job, JobRecord, JobState, Ledger

KEPT_HOURS: Final = 48
"""How long after its time-out the server keeps the file of a job, should we never come back."""


class JobBook:
    """Each change of a job is one commit; what is here is what is on disk.

    Attributes:
        files: of the jobs, on this machine.
        jobs: those that are not at their end, doubtful ones too, by their number in the ledger.
        unclean: those that are, and of which files may still be at the server.
    """

    def __init__(self, ledger: Ledger, budget: Budget) -> None:
        self.files = JobFiles(ledger.path)
        self.jobs: dict[int, Job] = {}
        self.unclean: dict[int, Job] = {}
        self.ledger = ledger
        self._budget = budget
        self._holds: dict[int, Hold] = {}

    @property
    def under_way(self) -> list[Job]:
        """Those that answers are still awaited of."""
        return [job for job in self.jobs.values() if job.is_under_way]

    @property
    def with_server(self) -> list[Job]:
        """Those of them that the server has, or may have."""
        return [job for job in self.under_way if job.state in ("creating", "running")]

    async def plan(self, given: JobInput, record: JobRecord, hold: Hold) -> Job:
        """The job and all its attempts are on disk: from now on it is carried on, whatever happens."""
        await asyncio.to_thread(given.finish)
        job = await self.ledger.begin_job(given.tag, record, given.attempts)
        self._holds[job.id] = hold
        self.jobs[job.id] = job
        return job

    def take(self, job: Job) -> None:
        """One that an earlier start has left: what is awaited of it is held of the budget, at its worst."""
        self.jobs[job.id] = job
        if job.is_under_way:
            self._holds[job.id] = self._budget.hold(*_at_most(job.record), job.record.lines)

    async def note(self, job: Job, state: JobState, **changes: Any) -> Job:
        """It is in such a state now, with such changes of what is known of it."""
        return await self.write(changed(job, state, **changes))

    async def write(self, job: Job) -> Job:
        job = await self.ledger.note_job(job)
        self.jobs[job.id] = job
        return job

    def forget(self, job: Job) -> None:
        """Nothing more is to be done about it."""
        self.jobs.pop(job.id, None)

    async def doubt(self, job: Job, error: MistillError) -> Job:
        """It may be there though nobody has seen it: its attempts may be on the bill."""
        doubtful = changed(job, "doubtful")
        await self.ledger.end_open_attempts(doubtful, "maybe_billed", error)
        self.settle(job, Taken(), missing=job.record.rows)
        self.jobs[job.id] = doubtful
        self.files.drop_input(job.tag)
        return doubtful

    async def drop(self, job: Job, why: str) -> Job:
        """It was never made, and never will be."""
        dropped = changed(job, "dropped", errors=(*job.record.errors, why))
        error = Stopped(f"the batch job of this row was not made: {why}", reason="stopped")
        await self.ledger.end_open_attempts(dropped, "not_sent", error)
        self.settle(job, Taken())
        self.forget(dropped)
        self.unclean[job.id] = dropped
        self.files.drop_input(job.tag)
        return dropped

    async def drop_unsent(self, why: str) -> int:
        """Jobs that the server does not have yet are never made. Returns their rows."""
        dropped = 0
        for job in [*self.under_way]:
            if job.state in ("planned", "uploaded"):
                await self.drop(job, why)
                dropped += job.record.rows
        return dropped

    def reprice(self, price: Price) -> None:
        """Lines of all jobs may cost so much, as is known by now."""
        for hold in self._holds.values():
            self._budget.reprice(hold, price)

    def settle(self, job: Job, taken: Taken, *, missing: int = 0) -> None:
        """What was held for it is given back, and what its answers took is spent. ``missing``: rows that may have taken
        something that nobody knows."""
        hold = self._holds.pop(job.id, None)
        if hold is not None:
            self._budget.settle_hold(
                hold,
                answers=taken.answers,
                tokens=taken.tokens,
                longest_output_tokens=taken.longest_output_tokens,
                cost=taken.cost,
                unknown_share=missing / max(1, job.record.rows),
            )


def changed(job: Job, state: JobState, **changes: Any) -> Job:
    """The job in another state, with changes of its record; nothing is written."""
    record = msgspec.structs.replace(job.record, **changes) if changes else job.record
    return msgspec.structs.replace(job, state=state, record=record)


def _at_most(record: JobRecord) -> tuple[int, int, float]:
    """What the lines of a job may take at their worst: tokens in and out, dollars."""
    tokens, price = (record.most_input_tokens, record.most_output_tokens), price_of(record)
    return *tokens, 0.0 if price is None else price.most(*tokens)
