"""The life of a job, one commit a step, so that whoever dies in the middle is followed by somebody who goes on.

    planned → uploaded → creating → running → ended → fetched → read
                            ↓          ↑ (found after all)
                         doubtful ─────┘

There is no key that makes it safe to create a job twice. So "creating" is on disk before the request leaves, and a job
that may be there is looked for: by its tag, and by our file, which no other job reads. If it is not found, its file is
deleted, so that a request still on its way finds nothing to do; its attempts may be on the bill, and it stays doubtful:
looked for to the end, and cancelled and read if it turns up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

import msgspec

from mistill.api.batch import BatchJob
from mistill.api.client import MistralClient
from mistill.delivery.retry import classify
from mistill.delivery.tuning import current_tuning
from mistill.errors import (
    APIError,
    Disconnected,
    InputError,
    LedgerError,
    MalformedAnswer,
    MistillError,
    NotFound,
    Stopped,
    TransportError,
    Unauthorized,
)
from mistill.estimates.budget import Budget
from mistill.jobs.book import KEPT_HOURS, JobBook, changed
from mistill.jobs.job_server import JobServer
from mistill.jobs.lookout import Found
from mistill.jobs.results import LineReader, ResultReader, Split, Taken
from mistill.jobs.submitter import JobSubmitter
from mistill.ledger import Job, JobRecord, Ledger
from mistill.telemetry import names
from mistill.telemetry.providers import Wanted
from mistill.telemetry.runs import tell_of_job
from mistill.wording import Setting, words

OnRead = Callable[[Job], None]

_ENDED_WITH_NOTHING: Final = frozenset({"FAILED", "CANCELLED", "TIMEOUT_EXCEEDED"})
"""States in which lines may have been left undone."""
_PENDING: Final = frozenset({"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"})
_OVERDUE_HOURS = 24
"""How long after its time-out a job is waited for that its server has not ended."""

_log = logging.getLogger("mistill")


class JobSender(LineReader, Protocol):
    """What sends the requests of a run: a `Dispatcher`."""

    @property
    def client(self) -> MistralClient: ...
    @property
    def max_retries(self) -> int:
        """Tries after the first of what may succeed then."""
        ...


class JobKeeper:
    """Looks after the jobs of a run, and takes over what they have come to.

    Args:
        sender: of the run's requests: it knows the server, and reads its answers. ``split``: see `ResultReader`.
        budget: what is with the server is held of it at its worst.
        waits: for a server that takes no further job for now.
        note_model: is told which model gave an answer.
        keeps_files: our files stay at the server, and the results on this machine.
        telemetry: who is told of the jobs that were read.

    Attributes:
        book: the jobs. ``submitter``: carries them to the server.
        fatal: a failure in some job that no other row can survive.
        strange: jobs that are not known to the server any more, or not to this key.
    """

    def __init__(
        self,
        ledger: Ledger,
        sender: JobSender,
        split: Split,
        budget: Budget,
        *,
        note_model: Callable[[str | None], object],
        keeps_files: bool = False,
        waits: bool = True,
        telemetry: Wanted | None = None,
    ) -> None:
        self.book = book = JobBook(ledger, budget)
        self._server = JobServer(sender.client, max_retries=sender.max_retries, tuning=current_tuning())
        self.submitter = JobSubmitter(book, self._server, waits=waits)
        self.fatal: MistillError | None = None
        self.strange: dict[int, Job] = {}
        self._strays: set[str] = set()
        self._reader = ResultReader(ledger, book.files, sender, split, budget, note_model)
        self._keeps_files = keeps_files
        self._telemetry = telemetry
        self._refusals = 0
        self._refused: Unauthorized | None = None

    async def open(self) -> None:
        """What earlier starts have left."""
        book, host = self.book, self._server.client.endpoint
        jobs = await book.ledger.jobs()
        book.files.sweep(jobs)
        for job in jobs:
            if job.record.host != host and not job.is_over:
                job = await self._moved(job)
                if job is None:
                    continue
            if job.record.job_id is not None:
                self.submitter.has_leave = True
            if not job.is_over:
                book.take(job)
            elif not job.record.is_clean and job.record.host == host:
                book.unclean[job.id] = job

    async def _moved(self, job: Job) -> Job | None:
        """A job of another server than the run goes to by now; ``None``: it is left there, where alone it is known.

        What needs that server no more is as any other. In the end, nobody can come back for it in time.
        """
        record = job.record
        if job.state == "fetched":
            return job
        if job.state == "planned":
            return await self.book.note(job, "planned", host=self._server.client.endpoint)
        hours = record.timeout_hours + KEPT_HOURS
        if time.time() > record.planned_at + hours * self._server.tuning.job_hour_s:
            error = Disconnected(
                f"nobody has asked {record.host} for the batch job of this row in time", maybe_billed=True
            )
            await self.book.ledger.end_open_attempts(changed(job, "dropped"), "maybe_billed", error)
        elif job.state != "doubtful":
            _log.warning(
                words(
                    f"a batch job of {record.rows:,} rows is at {record.host}, and is left there: ",
                    "it is taken over by a start with ",
                    Setting("endpoint", record.host),
                )
            )
        return None

    # --- from the server --------------------------------------------------------------------------------------------

    async def poll(self, on_read: OnRead) -> None:
        """Looks at all jobs once, and takes over the results of those that have ended.

        What goes wrong on the way waits for the next time: jobs go on without us.

        Args:
            on_read: is told of each job whose lines are all in the ledger.

        Raises:
            Unauthorized: the key is refused, again and again.
            LedgerError: the ledger cannot be written.
            OSError: the results cannot be kept.
        """
        self._refused = None
        await self._attempted(self._look_at_all)
        for job in [*self.book.jobs.values()]:
            if job.state in ("ended", "fetched") and await self._attempted(partial(self._take_over, job)):
                read = self.book.jobs[job.id]
                self.book.forget(job)
                on_read(read)
        for job in [*self.book.unclean.values()]:
            await self._attempted(partial(self._clean, job))
        self._refusals = 0 if self._refused is None else self._refusals + 1
        if self._refused is not None and self._refusals >= self._server.tuning.least_looks:
            raise self._refused

    async def _attempted(self, work: Callable[[], Awaitable[object]]) -> bool:
        """Whether it came to its end: what goes wrong with one job is no matter of the others."""
        try:
            await work()
        except (LedgerError, Stopped):
            raise
        except MistillError as error:
            if isinstance(error, Unauthorized):
                self._refused = error
            self._server.tell(error, "a look at the batch jobs failed, and is repeated")
            return False
        return True

    async def _look_at_all(self) -> None:
        watched = [job for job in self.book.jobs.values() if job.state in ("running", "doubtful")]
        if not watched:
            return
        found = Found()

        async def look() -> None:
            nonlocal found
            found = await self._server.look_for(watched)

        await self._attempted(look)  # without the list, those that are known are asked for by their ids
        for job in watched:
            look_at = self._look_at_doubtful if job.state == "doubtful" else self._look_at_running
            await self._attempted(partial(look_at, job, found.jobs.get(job.id)))
        for stray in found.strays:
            if stray.id not in self._strays:
                self._strays.add(stray.id)
                await self._attempted(partial(self._end_stray, stray))

    async def _end_stray(self, stray: BatchJob) -> None:
        _log.warning(
            "a batch job was made twice, by whatever stands between us and the server, and may be billed twice: "
            "%s (%s)",
            stray.id,
            stray.status,
        )
        if not stray.has_ended:
            await self._server.ask_to_end(stray.id)

    async def _look_at_running(self, job: Job, seen: BatchJob | None) -> None:
        if seen is None or (seen.has_ended and seen.output_file is None and seen.error_file is None):
            seen = await self._ask(job) or seen  # a list may say less than the job itself
        if seen is not None:
            await self._update(job, seen)

    async def _look_at_doubtful(self, job: Job, seen: BatchJob | None) -> None:
        if seen is None:
            hours = job.record.timeout_hours + KEPT_HOURS
            if time.time() - job.changed_at > hours * self._server.tuning.job_hour_s:
                self.book.forget(await self.book.note(job, "dropped"))
            return
        if not seen.has_ended:
            await self._server.ask_to_end(seen.id)
        await self.book.note(job, "running", job_id=seen.id, status=seen.status, is_cancelled=True)

    async def _ask(self, job: Job) -> BatchJob | None:
        """A job that is not in the list, by its id; ``None``: it is not there, which is perhaps not the last word."""
        assert job.record.job_id is not None, "it is running"
        try:
            return await self._server.client.job(job.record.job_id)
        except NotFound:
            job = await self.book.note(job, "running", looked=job.record.looked + 1)
            is_new = time.time() < job.record.planned_at + self._server.tuning.look_s
            if job.record.looked <= self._server.tuning.least_looks or is_new:
                return None
            if not job.record.is_given_up:  # perhaps it is the key that does not know it
                self.strange[job.id] = job
                return None
            await self.book.note(job, "ended", errors=("the server does not know the job any more",))
            return None

    async def _update(self, job: Job, seen: BatchJob) -> None:
        record = msgspec.structs.replace(
            job.record,
            status=seen.status,
            total=seen.total_requests,
            completed=seen.completed_requests,
            succeeded=seen.succeeded_requests,
            failed=seen.failed_requests,
            output_file=seen.output_file or None,
            error_file=seen.error_file or None,
            errors=tuple(f"{one.message} ({one.count:,})" for one in seen.errors or ()),
            looked=0,
        )
        state = job.state
        if self._has_ended(job, seen):
            ended_at = record.ended_at or time.time()
            record = msgspec.structs.replace(record, ended_at=ended_at)
            is_told = record.output_file is not None or record.error_file is not None
            # The files of one that has answered lines may be told a moment later than its end.
            if is_told or not seen.completed_requests or time.time() >= ended_at + self._server.tuning.look_s:
                state = "ended"
        if state != job.state or record != job.record:
            await self.book.write(msgspec.structs.replace(job, state=state, record=record))

    def _has_ended(self, job: Job, seen: BatchJob) -> bool:
        """Also in a state that nobody knows: where it has results and no more to do, or its time is long over."""
        if seen.has_ended:
            return True
        is_done = seen.total_requests is not None and seen.completed_requests == seen.total_requests
        has_results = seen.output_file is not None or seen.error_file is not None
        if seen.status not in _PENDING and is_done and has_results:
            return True
        began = job.record.created_at or job.record.planned_at
        most_hours = job.record.timeout_hours + _OVERDUE_HOURS
        return time.time() - began > most_hours * self._server.tuning.job_hour_s

    async def _take_over(self, job: Job) -> None:
        job = await self._fetch(job)
        taken = await self._reader.read(job)
        missing = await self._end(job, taken)
        self.book.settle(job, taken, missing=missing + taken.unread)
        self._tell(self.book.jobs[job.id].record, taken)
        if taken.fatal is not None:
            self.fatal = taken.fatal

    def _tell(self, record: JobRecord, taken: Taken) -> None:
        about = {
            names.MODEL: record.model,
            names.LANE: "batch",
            names.JOB_ID: record.job_id,
            names.JOB_LINES: record.lines,
            names.JOB_ANSWERED: record.answered,
            names.COST: taken.cost or None,
        }
        tell_of_job(
            self._telemetry,
            record.model,
            about,
            began_at=record.created_at or record.planned_at,
            ended_at=record.ended_at or time.time(),
            failed=not record.answered,
        )

    async def _fetch(self, job: Job) -> Job:
        record = job.record
        self.book.files.make()
        wanted = (
            (record.output_file, self.book.files.output(job.tag)),
            (record.error_file, self.book.files.errors(job.tag)),
        )
        for file_id, path in wanted:
            if not file_id or path.exists():
                continue
            try:
                with self.book.files.explained():
                    await self._server.client.download_file(file_id, path)
            except (APIError, InputError) as error:
                is_new = time.time() < (record.ended_at or 0.0) + self._server.tuning.look_s
                if is_new or isinstance(error, Unauthorized) or classify(error).retry:
                    raise
                said = f"its results are not there any more: file {file_id}"
                _log.warning("batch job %s: %s", record.job_id, said)
                job = await self.book.note(job, "ended", errors=(*job.record.errors, said))
        return job if job.state == "fetched" else await self.book.note(job, "fetched")

    async def _end(self, job: Job, taken: Taken) -> int:
        """All its lines are in the ledger: what never came has an end as well. Gives how many rows that are."""
        record = job.record
        # Those as well that a start took over which was killed then, for which nobody waits any more.
        lines, answered = await self.book.ledger.results_of_job(job.id)
        kept = max(taken.kept, lines)
        unknown = max(0, taken.unknown - (kept - taken.kept))
        adds_up = record.total == record.lines and record.completed == kept
        was_undone = record.status in _ENDED_WITH_NOTHING and adds_up
        error = Disconnected(
            f"the batch job {record.job_id} ({record.status}) has no line for this row",
            maybe_billed=not was_undone,
        )
        is_strange = not kept and (unknown or taken.broken)
        errors = record.errors
        if is_strange:
            lines = unknown + taken.broken
            errors = (
                *errors,
                f"{lines:,} lines came, none with an id of ours: see {self.book.files.output(job.tag)}",
            )
        if kept and not answered and taken.failure is not None:
            errors = (*errors, f"none of its {kept:,} lines has an answer: {taken.failure.headline}")
        # Files that are to be kept are as clean as they shall be.
        keeps = bool(self._keeps_files or is_strange)
        read = changed(
            job,
            "read",
            kept=kept,
            answered=answered,
            broken=taken.broken,
            unknown=unknown,
            is_clean=keeps,
            errors=errors,
        )
        missing = await self.book.ledger.end_open_attempts(
            read, "not_sent" if was_undone else "maybe_billed", error
        )
        if missing:
            read = msgspec.structs.replace(read, record=msgspec.structs.replace(read.record, missing=missing))
            read = await self.book.ledger.note_job(read)
        self.book.jobs[job.id] = read
        if not keeps:
            self.book.files.drop_results(job.tag)
            self.book.unclean[job.id] = read
        return 0 if was_undone else missing

    async def _clean(self, job: Job) -> None:
        """Our files are of no more use to anybody: the server forgets them."""
        for file_id in (job.record.output_file, job.record.error_file):
            await self._server.delete(file_id)
        await self._server.delete_input(job)
        await self.book.ledger.note_job(changed(job, job.state, is_clean=True))
        self.book.unclean.pop(job.id, None)

    async def tidy(self) -> None:
        """Nothing of ours that is of no more use stays at the server, as far as it answers; files expire."""
        for job in [*self.book.unclean.values()]:
            with suppress(APIError, TransportError, MalformedAnswer):
                await self._clean(job)
        self.book.files.sweep(await self.book.ledger.jobs())

    # --- ending early -----------------------------------------------------------------------------------------------

    async def cancel(self, *, gives_up: bool = False) -> int:
        """Ends all jobs early: those that the server has not yet are dropped, the others asked to end.

        These have not ended when this returns: `poll` sees that, and takes over what they came to.

        Args:
            gives_up: those as well that the server does not know; else they stay `strange`.

        Returns the rows of those that were dropped.

        Raises:
            MistillError: the server does not answer.
        """
        for job in [*self.book.under_way]:
            if job.state == "creating":
                job = await self.submitter.look_for(job)
            if job.state == "running" and not job.record.is_cancelled:
                await self._cancel(job, gives_up=gives_up)
        return await self.book.drop_unsent("it was cancelled before it was sent")

    async def _cancel(self, job: Job, *, gives_up: bool) -> None:
        try:
            if await self._server.ask_to_end(job.record.job_id or ""):
                await self.book.note(job, "running", is_cancelled=True)
        except NotFound:
            if gives_up:
                await self.book.note(job, "running", is_given_up=True)
