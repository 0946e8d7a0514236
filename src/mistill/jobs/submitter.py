"""Jobs on their way to the server, whatever it answers."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final
from uuid import uuid4
from zlib import crc32

from mistill.api.batch import BatchJob
from mistill.delivery.pausable import Pausable
from mistill.delivery.retry import classify
from mistill.errors import (
    APIError,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Disconnected,
    Forbidden,
    MistillError,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
)
from mistill.jobs.book import KEPT_HOURS, JobBook
from mistill.jobs.job_server import JobServer, name_of
from mistill.jobs.lookout import TAG_KEY
from mistill.ledger import Job
from mistill.wording import Setting, words

_PROBE_KEY: Final = "mistill_probe"
_LIVE = Setting("lane", "live")
_NO_BILLING = words("batch jobs need a plan that is paid for: see console.mistral.ai; or go on with ", _LIVE)
_NO_JOBS_HERE = words(
    "this endpoint has no batch jobs, as regional hosts have none: use https://api.mistral.ai, or ", _LIVE
)
_READ_BYTES = 2**20


class JobSubmitter(Pausable):
    """Carries jobs on until the server has them. While it is paused, none is uploaded or made.

    Args:
        waits: for a server that takes no further job for now.

    Attributes:
        being_created: numbers of those of which a creation is on its way.
        has_leave: the server makes jobs for this key.
    """

    def __init__(self, book: JobBook, server: JobServer, *, waits: bool) -> None:
        self.being_created: set[int] = set()
        self.has_leave = False
        self._book = book
        self._server = server
        self._waits = waits
        self._asking = asyncio.Lock()

    async def ask_leave(self, job: Job) -> None:
        """Before anything is uploaded: whether the server has batch jobs, and makes some for this key.

        It is asked for a job of a file that is not there, once: who has no billing is told so before it is missed.

        Raises:
            MistillError: it has none, or makes none; says what to do.
        """
        async with self._asking:
            if not self.has_leave and job.state in ("planned", "uploaded"):
                await self._ask_leave(job)
                self.has_leave = True

    async def _ask_leave(self, job: Job) -> None:
        try:
            await self._server.persistently(self._server.has_list)
        except NotFound as error:
            error.hint = _NO_JOBS_HERE
            raise
        except APIError as error:
            raise _with_way_out(error) from None
        try:
            seen = await self._server.client.create_job(
                job.record.path,
                [str(uuid4())],
                model=job.record.model,
                metadata={_PROBE_KEY: job.tag},
                timeout_hours=1,
            )
        except APIError as error:
            if _needs_billing(error) or isinstance(error, Unauthorized | Forbidden):
                raise _with_way_out(error) from None
        except MistillError:
            pass  # the file is not there, whatever else
        else:
            with suppress(MistillError):
                await self._server.client.cancel_job(seen.id)

    async def submit(self, job: Job) -> Job:
        """Carries it on until the server has it, from whatever state before that.

        Gives it as it is then; it may be doubtful. Safe to cancel at any moment.

        Raises:
            MistillError: the server does not take it; it can be submitted again.
        """
        if job.state == "creating":
            job = await self.look_for(job)
        refused, was_asked = 0, True
        while job.state in ("planned", "uploaded"):
            while self.resumed is not None:
                await self.resumed.wait()
            if job.state == "planned":
                job, was_asked = await self._upload(job), False
                continue
            # Whoever says that it made nothing is believed once it would be listed, and is not.
            if was_asked and (found := await self._found(job)) is not None:
                return await self._adopt(job, found)
            was_asked = True
            try:
                job = await self._create(job)
                if job.state == "uploaded" and not self._waits:
                    return job
            except NotFound:
                refused += 1
                if refused > 1:  # it is not the file that is not found
                    await self._book.drop(job, "the server refused it")
                    raise
                job = await self._book.note(job, "planned", file_id=None)
        return job

    async def _upload(self, job: Job) -> Job:
        path = self._book.files.input(job.tag)
        if not await asyncio.to_thread(self._is_as_written, job):
            return await self._book.drop(job, "its file is not there any more, or not as it was written")
        hours = job.record.timeout_hours + KEPT_HOURS
        try:
            with self._book.files.explained():
                card = await self._server.persistently(
                    lambda: self._server.client.upload_file(path, name=name_of(job), expiry_hours=hours)
                )
        except APIError as error:
            if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                error.hint = words("make jobs smaller: ", Setting("batch_bytes", job.record.bytes // 2))
                await self._book.drop(job, "the server takes no file of its size")
            raise
        return await self._book.note(job, "uploaded", file_id=card.id)

    def _is_as_written(self, job: Job) -> bool:
        path = self._book.files.input(job.tag)
        if not path.is_file() or path.stat().st_size != job.record.bytes:
            return False
        checksum = 0
        with self._book.files.explained(), path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                checksum = crc32(data, checksum)
        return checksum == job.record.checksum

    async def _create(self, job: Job) -> Job:
        """Gives it as running or doubtful; or as uploaded, where it was not made for now.

        Raises:
            MistillError: it was not made, and will not be.
        """
        self.being_created.add(job.id)
        try:
            job = await self._book.note(job, "creating")
            # After other failures, it may be made.
            ask = partial(self._ask_to_create, job)
            seen = await self._server.persistently(ask, only=(ConnectFailed, CapacityExceeded))
        except MistillError as error:
            refusal = error
        else:
            return await self._adopt(job, seen)
        finally:
            self.being_created.discard(job.id)
        return await self._not_created(job, refusal)

    async def _ask_to_create(self, job: Job) -> BatchJob:
        record = job.record
        assert record.file_id is not None, "it is uploaded"
        return await self._server.client.create_job(
            record.path,
            [record.file_id],
            model=record.model,
            metadata={TAG_KEY: job.tag},
            timeout_hours=record.timeout_hours,
        )

    async def _not_created(self, job: Job, error: MistillError) -> Job:
        """What is to be done about a creation that came to an error; as `_create`."""
        is_unavailable = isinstance(error, APIError) and error.status == HTTPStatus.SERVICE_UNAVAILABLE
        is_busy = is_unavailable or (isinstance(error, RateLimited) and not error.limit_is_zero)
        if error.maybe_billed or (isinstance(error, ServerError) and not is_unavailable):
            return await self.look_for(job)
        job = await self._book.note(job, "uploaded")
        if not is_busy:
            is_conflict = isinstance(error, APIError) and error.status == HTTPStatus.CONFLICT
            if (found := await self._found(job, at_once=not is_conflict)) is not None:
                return await self._adopt(job, found)
            if isinstance(error, BadRequest):
                await self._book.drop(job, "the server refused it")  # another start makes another one
            raise error
        self._server.tell(error, "Mistral takes no further batch job for now, which waits")
        if self._waits:
            tuning = self._server.tuning
            pause_s = tuning.first_poll_s if is_unavailable else tuning.max_poll_s
            await asyncio.sleep(max(self._server.heeded_s(error), pause_s))
        return job

    async def _found(self, job: Job, *, at_once: bool = False) -> BatchJob | None:
        """A job that is not there by what the server says: one look, unless it may be listed late."""
        pause_s, until_s = self._server.tuning.first_poll_s, self._listed_by_s(job)
        while True:
            found = (await self._server.persistently(lambda: self._server.look_for([job]))).jobs.get(job.id)
            left_s = until_s - time.monotonic()
            if found is not None or at_once or left_s <= 0:
                return found
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * self._server.tuning.poll_growth, self._server.tuning.max_poll_s)

    def _listed_by_s(self, job: Job) -> float:
        """When a job that may be there since its last change is in the list for sure, by the clock of this process."""
        look_s = self._server.tuning.look_s
        return time.monotonic() + look_s - min(max(time.time() - job.changed_at, 0.0), look_s)

    async def look_for(self, job: Job) -> Job:
        """It may be there: adopted if it is found, doubtful if it is not."""
        tuning = self._server.tuning
        looks, pause_s, until_s = 0, tuning.first_poll_s, self._listed_by_s(job)
        while True:
            try:
                found = (await self._server.look_for([job])).jobs.get(job.id)
            except MistillError as error:  # an outage says nothing of the job
                if classify(error).fatal:
                    raise
                self._server.tell(
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
        job = await self._book.note(
            job,
            "running",
            job_id=seen.id,
            created_at=time.time(),
            status=seen.status,
            file_id=job.record.file_id,
        )
        self._book.files.drop_input(job.tag)
        return job

    async def _doubt(self, job: Job) -> Job:
        await self._fence(job)
        error = Disconnected(
            "nobody knows whether the batch job of this row was made: its creation was not answered, "
            "and it was not found",
            maybe_billed=True,
        )
        return await self._book.doubt(job, error)

    async def _fence(self, job: Job) -> None:
        """Without its file, a job that is still on its way to the server has nothing to do."""
        with suppress(MistillError):
            await self._server.persistently(lambda: self._server.delete_input(job))


def _with_way_out(error: APIError) -> APIError:
    if _needs_billing(error):
        error.hint = _NO_BILLING
    return error


def _needs_billing(error: APIError) -> bool:
    return error.status == HTTPStatus.PAYMENT_REQUIRED
