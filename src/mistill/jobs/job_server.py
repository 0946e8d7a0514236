"""What is asked of a server about files and jobs, with patience."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from mistill.api.client import MistralClient
from mistill.delivery.persistence import persistently
from mistill.delivery.tuning import Tuning
from mistill.errors import APIError, MistillError, NotFound, RateLimited, Unauthorized
from mistill.jobs.lookout import Found, look_for
from mistill.ledger import Job

T = TypeVar("T")

_log = logging.getLogger("mistill")


class JobServer:
    """A server that has batch jobs.

    Args:
        max_retries: tries after the first, of what is refused and may succeed then.
    """

    def __init__(self, client: MistralClient, *, max_retries: int, tuning: Tuning) -> None:
        self.client = client
        self.tuning = tuning
        self._max_retries = max_retries
        self._told: set[type[MistillError]] = set()
        self._refused_to_end: set[str] = set()

    async def look_for(self, jobs: Sequence[Job]) -> Found:
        """Those of ours that are in its list, see there. One attempt."""
        return await look_for(self.client, jobs)

    async def has_list(self) -> None:
        """Returns if it can be asked for its jobs.

        Raises:
            MistillError: it cannot.
        """
        async with aclosing(self.client.jobs()) as listed:
            async for _ in listed:
                return

    async def ask_to_end(self, job_id: str) -> bool:
        """Whether the server has agreed. It refuses where the job has just ended, say: a look tells.

        Raises:
            NotFound: it does not know the job.
            MistillError: it does not answer.
        """
        try:
            await self.persistently(lambda: self.client.cancel_job(job_id))
        except APIError as error:
            if error.status >= 500 or isinstance(error, Unauthorized | RateLimited | NotFound):
                raise
            if job_id not in self._refused_to_end:
                self._refused_to_end.add(job_id)
                told = "the server does not cancel batch job %s, which may have ended: %s"
                _log.warning(told, job_id, error.headline)
            return False
        return True

    async def delete_input(self, job: Job) -> None:
        """All files of its name: an upload whose answer was lost, or came to nobody, was repeated."""
        await self.delete(job.record.file_id)
        name = name_of(job)
        for file_id in [card.id async for card in self.client.files(search=name) if card.filename == name]:
            await self.delete(file_id)

    async def delete(self, file_id: str | None) -> None:
        """Has it forget a file, if there is one."""
        if file_id is not None:
            with suppress(NotFound):
                await self.client.delete_file(file_id)

    async def persistently(
        self,
        call: Callable[[], Awaitable[T]],
        *,
        only: tuple[type[MistillError], ...] = (MistillError,),
    ) -> T:
        """Until it is answered, or has failed for as long as an outage is waited for. ``only``: such failures."""

        def may_retry(error: MistillError, failures: int) -> bool:
            of_row = failures > self._max_retries and not _is_outage(error)
            return isinstance(error, only) and not of_row

        return await persistently(
            call,
            may_retry=may_retry,
            patience_s=self.tuning.patience_s,
            longest_wait_s=self.tuning.max_retry_after_s,
            tell=lambda error: self.tell(
                error, "the server of the batch jobs does not answer as it should, and is asked again"
            ),
            tuning=self.tuning,
        )

    def tell(self, error: MistillError, what: str) -> None:
        """Once for each kind of error."""
        if type(error) not in self._told:
            self._told.add(type(error))
            _log.warning("%s: %s", what, error.headline)

    def heeded_s(self, error: MistillError) -> float:
        """How long it wants us to wait, in seconds, as far as that is heeded."""
        said_s = error.retry_after_s if isinstance(error, APIError) else None
        return min(said_s or 0.0, self.tuning.max_retry_after_s)


def name_of(job: Job) -> str:
    """What the server calls the file of its lines."""
    return f"mistill-{job.tag}.jsonl"


def _is_outage(error: MistillError) -> bool:
    return not isinstance(error, APIError) or error.status >= 500
