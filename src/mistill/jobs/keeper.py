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

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4
from zlib import crc32

import msgspec

from mistill.api.batch import BatchJob
from mistill.api.client import MistralClient
from mistill.delivery.retry import backoff_s, classify
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import (
    APIError,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Disconnected,
    Forbidden,
    InputError,
    LedgerError,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    ServerError,
    Stopped,
    TransportError,
    Unauthorized,
)
from mistill.estimates.budget import Budget, Hold
from mistill.jobs.job_files import JobFiles
from mistill.jobs.job_input import JobInput
from mistill.jobs.lookout import TAG_KEY, Found, look_for
from mistill.jobs.results import LineReader, ResultReader, Split, Taken
from mistill.ledger import Job, JobRecord, JobState, Ledger
from mistill.wording import Setting, words

T = TypeVar("T")

OnRead = Callable[[Job], None]

_ENDED_WITH_NOTHING: Final = frozenset({"FAILED", "CANCELLED", "TIMEOUT_EXCEEDED"})
"""States in which lines may have been left undone."""
_PENDING: Final = frozenset({"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"})
_PROBE_KEY: Final = "mistill_probe"
_LIVE = Setting("lane", "live")
_NO_BILLING = words("batch jobs need a plan that is paid for: see console.mistral.ai; or go on with ", _LIVE)
_NO_JOBS_HERE = words(
    "this endpoint has no batch jobs, as regional hosts have none: use https://api.mistral.ai, or ", _LIVE
)
_READ_BYTES = 2**20
_OVERDUE_HOURS = 24
"""How long after its time-out a job is waited for that its server has not ended."""
_KEPT_HOURS = 48
"""How long after its time-out the server keeps the file of a job, should we never come back."""

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
    """All jobs of a run, and what is to be done about each.

    Args:
        sender: of the run's requests: it knows the server, and reads its answers. ``split``: see `ResultReader`.
        budget: what is with the server is held of it at its worst.
        waits: for a server that takes no further job for now.
        keeps_files: our files stay at the server, and the results on this machine.

    Attributes:
        jobs: those that are not at their end, doubtful ones too, by their number in the ledger.
        fatal: a failure in some job that no other row can survive.
        strange: jobs that are not known to the server any more, or not to this key.
        being_created: numbers of those of which a creation is on its way.
    """

    def __init__(
        self,
        ledger: Ledger,
        sender: JobSender,
        split: Split,
        budget: Budget,
        *,
        keeps_files: bool = False,
        waits: bool = True,
        tuning: Tuning | None = None,
    ) -> None:
        self.files = JobFiles(ledger.path)
        self.jobs: dict[int, Job] = {}
        self.fatal: MistillError | None = None
        self.strange: dict[int, Job] = {}
        self.being_created: set[int] = set()
        self.waits = waits
        self._strays: set[str] = set()
        self._ledger = ledger
        self._client = sender.client
        self._budget = budget
        self._reader = ResultReader(ledger, self.files, sender, split, budget)
        self._max_retries = sender.max_retries
        self._keeps_files = keeps_files
        self._tuning = tuning or current_tuning()
        self._holds: dict[int, Hold] = {}
        self._has_leave = False
        self._asking = asyncio.Lock()
        self._unclean: dict[int, Job] = {}
        self._refusals = 0
        self._refused: Unauthorized | None = None
        self._told: set[type[MistillError]] = set()

    async def open(self) -> None:
        """What earlier starts have left."""
        jobs = await self._ledger.jobs()
        self.files.sweep(jobs)
        for job in jobs:
            if job.record.host != self._client.endpoint and not job.is_over:
                job = await self._moved(job)
                if job is None:
                    continue
            self._has_leave = self._has_leave or job.record.job_id is not None
            if not job.is_over:
                self.jobs[job.id] = job
                if job.state != "doubtful":
                    self._holds[job.id] = self._budget.hold(*_at_most(job.record))
            elif not job.record.is_clean and job.record.host == self._client.endpoint:
                self._unclean[job.id] = job

    async def _moved(self, job: Job) -> Job | None:
        """A job of another server than the run goes to by now; ``None``: it is left there, where alone it is known.

        What needs that server no more is as any other. In the end, nobody can come back for it in time.
        """
        record = job.record
        if job.state == "fetched":
            return job
        if job.state == "planned":
            return await self._note(job, "planned", host=self._client.endpoint)
        hours = record.timeout_hours + _KEPT_HOURS
        if time.time() > record.planned_at + hours * self._tuning.job_hour_s:
            error = Disconnected(
                f"nobody has asked {record.host} for the batch job of this row in time", maybe_billed=True
            )
            await self._ledger.end_open_attempts(_changed(job, "dropped"), "maybe_billed", error)
        elif job.state != "doubtful":
            _log.warning(
                words(
                    f"a batch job of {record.rows:,} rows is at {record.host}, and is left there: ",
                    "it is taken over by a start with ",
                    Setting("endpoint", record.host),
                )
            )
        return None

    @property
    def under_way(self) -> list[Job]:
        """Those that answers are still awaited of."""
        return [job for job in self.jobs.values() if job.state != "doubtful"]

    @property
    def with_server(self) -> list[Job]:
        """Those of them that the server has, or may have."""
        return [job for job in self.under_way if job.state in ("creating", "running")]

    def state_of(self, job: Job) -> JobState:
        """As it is by now."""
        return self.jobs.get(job.id, job).state

    # --- to the server ----------------------------------------------------------------------------------------------

    async def plan(self, given: JobInput, record: JobRecord, hold: Hold) -> Job:
        """The job and all its attempts are on disk: from now on it is carried on, whatever happens."""
        await asyncio.to_thread(given.finish)
        job = await self._ledger.begin_job(given.tag, record, given.attempts)
        self._holds[job.id] = hold
        self.jobs[job.id] = job
        return job

    async def ask_leave(self, job: Job) -> None:
        """Before anything is uploaded: whether the server has batch jobs, and makes some for this key.

        It is asked for a job of a file that is not there, once: who has no billing is told so before it is missed.

        Raises:
            MistillError: it has none, or makes none; says what to do.
        """
        async with self._asking:
            if not self._has_leave and job.state in ("planned", "uploaded"):
                await self._ask_leave(job)
                self._has_leave = True

    async def _ask_leave(self, job: Job) -> None:
        try:
            await self._persistently(self._first_job)
        except NotFound as error:
            error.hint = _NO_JOBS_HERE
            raise
        except APIError as error:
            if error.status == HTTPStatus.PAYMENT_REQUIRED:
                error.hint = _NO_BILLING
            raise
        try:
            seen = await self._client.create_job(
                job.record.path,
                [str(uuid4())],
                model=job.record.model,
                metadata={_PROBE_KEY: job.tag},
                timeout_hours=1,
            )
        except APIError as error:
            if error.status == HTTPStatus.PAYMENT_REQUIRED:
                error.hint = _NO_BILLING
                raise
            if isinstance(error, Unauthorized | Forbidden):
                raise
        except MistillError:
            pass  # the file is not there, whatever else
        else:
            with suppress(MistillError):
                await self._client.cancel_job(seen.id)

    async def _first_job(self) -> None:
        async with aclosing(self._client.jobs()) as listed:
            async for _ in listed:
                return

    async def submit(self, job: Job) -> Job:
        """Carries it on until the server has it, from whatever state before that.

        Gives it as it is then; it may be doubtful. Safe to cancel at any moment.

        Raises:
            MistillError: the server does not take it; it can be submitted again.
        """
        if job.state == "creating":
            job = await self._look_for(job)
        refused = 0
        while job.state in ("planned", "uploaded"):
            if job.state == "planned":
                job = await self._upload(job)
                continue
            try:
                job = await self._create(job)
                if job.state == "uploaded" and not self.waits:
                    return job
            except NotFound:
                refused += 1
                if refused > 1:  # it is not the file that is not found
                    await self.drop(job, "the server refused it")
                    raise
                job = await self._note(job, "planned", file_id=None)
        return job

    async def _upload(self, job: Job) -> Job:
        path = self.files.input(job.tag)
        if not await asyncio.to_thread(self._is_as_written, job):
            return await self.drop(job, "its file is not there any more, or not as it was written")
        hours = job.record.timeout_hours + _KEPT_HOURS
        try:
            with self.files.explained():
                card = await self._persistently(
                    lambda: self._client.upload_file(path, name=_name_of(job), expiry_hours=hours)
                )
        except APIError as error:
            if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                error.hint = words("make jobs smaller: ", Setting("batch_bytes", job.record.bytes // 2))
                await self.drop(job, "the server takes no file of its size")
            raise
        return await self._note(job, "uploaded", file_id=card.id)

    def _is_as_written(self, job: Job) -> bool:
        path = self.files.input(job.tag)
        if not path.is_file() or path.stat().st_size != job.record.bytes:
            return False
        checksum = 0
        with self.files.explained(), path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                checksum = crc32(data, checksum)
        return checksum == job.record.checksum

    async def _create(self, job: Job) -> Job:
        """Gives it as running or doubtful; or as uploaded, where it was not made for now.

        Raises:
            MistillError: it was not made, and will not be.
        """
        record = job.record
        assert record.file_id is not None, "it is uploaded"
        file_ids = [record.file_id]
        self.being_created.add(job.id)
        try:
            job = await self._note(job, "creating")
            seen = await self._persistently(
                lambda: self._client.create_job(
                    record.path,
                    file_ids,
                    model=record.model,
                    metadata={TAG_KEY: job.tag},
                    timeout_hours=record.timeout_hours,
                ),
                only=(ConnectFailed, CapacityExceeded),  # after others, it may be made
            )
        except MistillError as error:
            self.being_created.discard(job.id)
            if _is_unavailable(error):
                return await self._after_refusal(job, error)
            if error.maybe_billed or isinstance(error, ServerError):
                return await self._look_for(job)
            job = await self._note(job, "uploaded")
            if isinstance(error, BadRequest):
                await self.drop(job, "the server refused it")  # another start makes another one
            if not isinstance(error, RateLimited) or error.limit_is_zero:
                raise
            self._tell(error, "Mistral takes no further batch job for now, which waits")
            if self.waits:
                await asyncio.sleep(max(self._bounded(error.retry_after_s), self._tuning.max_poll_s))
            return job
        finally:
            self.being_created.discard(job.id)
        return await self._adopt(job, seen)

    def _bounded(self, said_s: float | None) -> float:
        """What a server wants us to wait, as far as that is heeded."""
        return min(said_s or 0.0, self._tuning.max_retry_after_s)

    async def _after_refusal(self, job: Job, error: MistillError) -> Job:
        """A server that is not available says that it made nothing. It is asked again, once a look has seen nothing."""
        self._tell(error, "a batch job was not made, and waits")
        said_s = error.retry_after_s if isinstance(error, APIError) else None
        await asyncio.sleep(max(self._bounded(said_s), self._tuning.first_poll_s))
        found = (await self._persistently(lambda: look_for(self._client, [job]))).jobs.get(job.id)
        return await self._note(job, "uploaded") if found is None else await self._adopt(job, found)

    async def _look_for(self, job: Job) -> Job:
        """It may be there: adopted if it is found, doubtful if it is not."""
        tuning = self._tuning
        looks, pause_s = 0, tuning.first_poll_s
        looked_for_s = min(max(time.time() - job.changed_at, 0.0), tuning.look_s)
        until_s = time.monotonic() + tuning.look_s - looked_for_s
        while True:
            try:
                found = (await look_for(self._client, [job])).jobs.get(job.id)
            except MistillError as error:  # an outage says nothing of the job
                if classify(error).fatal:
                    raise
                self._tell(
                    error, "a batch job that may have been made is looked for, and the server does not answer"
                )
            else:
                if found is not None:
                    return await self._adopt(job, found)
                looks += 1
            if looks >= tuning.least_looks and time.monotonic() >= until_s:
                return await self._doubt(job)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * tuning.poll_growth, tuning.max_poll_s)

    async def _adopt(self, job: Job, seen: BatchJob) -> Job:
        job = await self._note(
            job,
            "running",
            job_id=seen.id,
            created_at=time.time(),
            status=seen.status,
            file_id=job.record.file_id,
        )
        self.files.drop_input(job.tag)
        return job

    async def _doubt(self, job: Job) -> Job:
        await self._fence(job)
        doubtful = _changed(job, "doubtful")
        error = Disconnected(
            "nobody knows whether the batch job of this row was made: its creation was not answered, "
            "and it was not found",
            maybe_billed=True,
        )
        await self._ledger.end_open_attempts(doubtful, "maybe_billed", error)
        self._settle(job, Taken(), missing=job.record.rows)
        self._keep(doubtful)
        self.files.drop_input(job.tag)
        return doubtful

    async def _fence(self, job: Job) -> None:
        """Without its file, a job that is still on its way to the server has nothing to do."""
        with suppress(MistillError):
            await self._persistently(lambda: self._delete_input(job))

    async def drop(self, job: Job, why: str) -> Job:
        """It was never made, and never will be."""
        dropped = _changed(job, "dropped", errors=(*job.record.errors, why))
        error = Stopped(f"the batch job of this row was not made: {why}", reason="stopped")
        await self._ledger.end_open_attempts(dropped, "not_sent", error)
        self._settle(job, Taken())
        self._forget(dropped)
        self._unclean[job.id] = dropped
        self.files.drop_input(job.tag)
        return dropped

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
        for job in [*self.jobs.values()]:
            if job.state in ("ended", "fetched") and await self._attempted(partial(self._take_over, job)):
                read = self.jobs[job.id]
                self._forget(job)
                on_read(read)
        for job in [*self._unclean.values()]:
            await self._attempted(partial(self._clean, job))
        self._refusals = 0 if self._refused is None else self._refusals + 1
        if self._refused is not None and self._refusals >= self._tuning.least_looks:
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
            self._tell(error, "a look at the batch jobs failed, and is repeated")
            return False
        return True

    async def _look_at_all(self) -> None:
        watched = [job for job in self.jobs.values() if job.state in ("running", "doubtful")]
        if not watched:
            return
        found = Found()

        async def look() -> None:
            nonlocal found
            found = await look_for(self._client, watched)

        await self._attempted(look)  # without the list, those that are known are asked for by their ids
        for job in watched:
            look_at = self._look_at_doubtful if job.state == "doubtful" else self._look_at_running
            await self._attempted(partial(look_at, job, found.jobs.get(job.id)))
        for stray in found.strays:
            if not stray.has_ended and stray.id not in self._strays:
                self._strays.add(stray.id)
                _log.warning(
                    "a batch job was made twice, by whatever stands between us and the server: %s", stray.id
                )
                await self._attempted(partial(self._ask_to_end, stray.id))

    async def _look_at_running(self, job: Job, seen: BatchJob | None) -> None:
        if seen is None or (seen.has_ended and seen.output_file is None and seen.error_file is None):
            seen = await self._ask(job) or seen  # a list may say less than the job itself
        if seen is not None:
            await self._update(job, seen)

    async def _look_at_doubtful(self, job: Job, seen: BatchJob | None) -> None:
        if seen is None:
            hours = job.record.timeout_hours + _KEPT_HOURS
            if time.time() - job.changed_at > hours * self._tuning.job_hour_s:
                self._forget(await self._note(job, "dropped"))
            return
        if not seen.has_ended:
            await self._ask_to_end(seen.id)
        await self._note(job, "running", job_id=seen.id, status=seen.status, is_cancelled=True)

    async def _ask(self, job: Job) -> BatchJob | None:
        """A job that is not in the list, by its id; ``None``: it is not there, which is perhaps not the last word."""
        assert job.record.job_id is not None, "it is running"
        try:
            return await self._client.job(job.record.job_id)
        except NotFound:
            job = await self._note(job, "running", looked=job.record.looked + 1)
            is_new = time.time() < job.record.planned_at + self._tuning.look_s
            if job.record.looked <= self._tuning.least_looks or is_new:
                return None
            if not job.record.is_cancelled:  # perhaps it is the key that does not know it
                self.strange[job.id] = job
                return None
            await self._note(job, "ended", errors=("the server does not know the job any more",))
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
            if is_told or not seen.completed_requests or time.time() >= ended_at + self._tuning.look_s:
                state = "ended"
        if state != job.state or record != job.record:
            await self._write(msgspec.structs.replace(job, state=state, record=record))

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
        return time.time() - began > most_hours * self._tuning.job_hour_s

    async def _take_over(self, job: Job) -> None:
        job = await self._fetch(job)
        taken = await self._reader.read(job)
        missing = await self._end(job, taken)
        self._settle(job, taken, missing=missing)
        if taken.fatal is not None:
            self.fatal = taken.fatal

    async def _fetch(self, job: Job) -> Job:
        record = job.record
        self.files.make()
        wanted = (
            (record.output_file, self.files.output(job.tag)),
            (record.error_file, self.files.errors(job.tag)),
        )
        for file_id, path in wanted:
            if not file_id or path.exists():
                continue
            try:
                with self.files.explained():
                    await self._client.download_file(file_id, path)
            except (APIError, InputError) as error:
                is_new = time.time() < (record.ended_at or 0.0) + self._tuning.look_s
                if is_new or isinstance(error, Unauthorized) or classify(error).retry:
                    raise
                said = f"its results are not there any more: file {file_id}"
                _log.warning("batch job %s: %s", record.job_id, said)
                job = await self._note(job, "ended", errors=(*job.record.errors, said))
        return job if job.state == "fetched" else await self._note(job, "fetched")

    async def _end(self, job: Job, taken: Taken) -> int:
        """All its lines are in the ledger: what never came has an end as well. Gives how many rows that are."""
        record = job.record
        # Those as well that a start took over which was killed then, for which nobody waits any more.
        kept = max(taken.kept, await self._ledger.lines_with_results(job.id))
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
                f"{lines:,} lines came, none with an id of ours: see {self.files.output(job.tag)}",
            )
        # Files that are to be kept are as clean as they shall be.
        keeps = bool(self._keeps_files or is_strange)
        read = _changed(
            job, "read", kept=kept, broken=taken.broken, unknown=unknown, is_clean=keeps, errors=errors
        )
        missing = await self._ledger.end_open_attempts(
            read, "not_sent" if was_undone else "maybe_billed", error
        )
        if missing:
            read = msgspec.structs.replace(read, record=msgspec.structs.replace(read.record, missing=missing))
            read = await self._ledger.note_job(read)
        self._keep(read)
        if not keeps:
            self.files.drop_results(job.tag)
            self._unclean[job.id] = read
        return 0 if was_undone else missing

    async def _clean(self, job: Job) -> None:
        """Our files are of no more use to anybody: the server forgets them."""
        for file_id in (job.record.output_file, job.record.error_file):
            await self._delete(file_id)
        await self._delete_input(job)
        await self._ledger.note_job(_changed(job, job.state, is_clean=True))
        self._unclean.pop(job.id, None)

    async def _delete_input(self, job: Job) -> None:
        """All files of its name: an upload whose answer was lost, or came to nobody, was repeated."""
        await self._delete(job.record.file_id)
        name = _name_of(job)
        for file_id in [card.id async for card in self._client.files(search=name) if card.filename == name]:
            await self._delete(file_id)

    async def tidy(self) -> None:
        """Nothing of ours that is of no more use stays at the server, as far as it answers; files expire."""
        for job in [*self._unclean.values()]:
            with suppress(APIError, TransportError, MalformedAnswer):
                await self._clean(job)
        self.files.sweep(await self._ledger.jobs())

    async def _delete(self, file_id: str | None) -> None:
        if file_id is not None:
            with suppress(NotFound):
                await self._client.delete_file(file_id)

    # --- ending early -----------------------------------------------------------------------------------------------

    async def cancel(self) -> int:
        """Ends all jobs early: those that the server has not yet are dropped, the others asked to end.

        These have not ended when this returns: `poll` sees that, and takes over what they came to.

        Returns the rows of those that were dropped.

        Raises:
            MistillError: the server does not answer.
        """
        for job in [*self.under_way]:
            if job.state == "creating":
                job = await self._look_for(job)
            if job.state == "running" and not job.record.is_cancelled:
                await self._ask_to_end(job.record.job_id or "")
                await self._note(job, "running", is_cancelled=True)
        return await self.drop_unsent("it was cancelled before it was sent")

    async def _ask_to_end(self, job_id: str) -> None:
        """The server may refuse: the job has just ended, say. A look tells."""
        try:
            await self._persistently(lambda: self._client.cancel_job(job_id))
        except APIError as error:
            if error.status >= 500 or isinstance(error, Unauthorized | RateLimited):
                raise

    async def drop_unsent(self, why: str) -> int:
        """Jobs that the server does not have yet are never made. Returns their rows."""
        dropped = 0
        for job in [*self.under_way]:
            if job.state in ("planned", "uploaded"):
                await self.drop(job, why)
                dropped += job.record.rows
        return dropped

    # --- what is known of them --------------------------------------------------------------------------------------

    async def _note(self, job: Job, state: JobState, **changes: Any) -> Job:
        return await self._write(_changed(job, state, **changes))

    async def _write(self, job: Job) -> Job:
        job = await self._ledger.note_job(job)
        self._keep(job)
        return job

    def _keep(self, job: Job) -> None:
        self.jobs[job.id] = job

    def _forget(self, job: Job) -> None:
        self.jobs.pop(job.id, None)

    def _settle(self, job: Job, taken: Taken, *, missing: int = 0) -> None:
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

    # --- requests ---------------------------------------------------------------------------------------------------

    async def _persistently(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        only: tuple[type[MistillError], ...] = (MistillError,),
    ) -> T:
        """Until it is answered, or has failed for as long as an outage is waited for. ``only``: such failures."""
        give_up_at = time.monotonic() + self._tuning.patience_s
        failures = 0
        while True:
            try:
                return await call()
            except MistillError as error:
                failures += 1
                of_row = failures > self._max_retries and not _is_outage(error)
                can_help = isinstance(error, only) and classify(error).retry
                if not can_help or of_row or time.monotonic() > give_up_at:
                    raise
                said_s = error.retry_after_s if isinstance(error, APIError) else None
                if said_s is not None and said_s > self._tuning.max_retry_after_s:
                    raise
                self._tell(
                    error, "the server of the batch jobs does not answer as it should, and is asked again"
                )
                await asyncio.sleep(backoff_s(failures, said_s, tuning=self._tuning))

    def _tell(self, error: MistillError, what: str) -> None:
        if type(error) not in self._told:
            self._told.add(type(error))
            _log.warning("%s: %s", what, error.headline)


def _changed(job: Job, state: JobState, **changes: Any) -> Job:
    record = msgspec.structs.replace(job.record, **changes) if changes else job.record
    return msgspec.structs.replace(job, state=state, record=record)


def _at_most(record: JobRecord) -> tuple[int, int, float]:
    """What the lines of a job may take at their worst: tokens in and out, dollars."""
    tokens = record.most_input_tokens, record.most_output_tokens
    if record.price is None:
        return *tokens, 0.0
    return *tokens, (tokens[0] * record.price[0] + tokens[1] * record.price[1]) / 1e6


def _is_unavailable(error: MistillError) -> bool:
    return isinstance(error, APIError) and error.status == HTTPStatus.SERVICE_UNAVAILABLE


def _is_outage(error: MistillError) -> bool:
    return not isinstance(error, APIError) or error.status >= 500


def _name_of(job: Job) -> str:
    """What the server calls the file of its lines."""
    return f"mistill-{job.tag}.jsonl"
