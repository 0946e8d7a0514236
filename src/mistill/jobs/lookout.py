"""Finding jobs of ours among those of the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct, field

from mistill.api.batch import BatchJob
from mistill.api.client import MistralClient
from mistill.ledger import Job

TAG_KEY: Final = "mistill_job"
"""Under which a job has its tag in its metadata."""

_CLOCKS_S = 26 * 3600.0
"""How far the server's clock, or its idea of a time zone, may be behind ours."""


class Found(Struct):
    """What a walk through the server's list has met.

    Attributes:
        jobs: those of ours, by their numbers in the ledger.
        strays: others that read a file of ours, or have a tag of ours: made twice, by whatever stands between.
    """

    jobs: dict[int, BatchJob] = field(default_factory=dict[int, BatchJob])
    strays: list[BatchJob] = field(default_factory=list[BatchJob])


async def look_for(client: MistralClient, jobs: Sequence[Job]) -> Found:
    """Those of our jobs that are in the server's list.

    A job whose id is known is ours by that alone. Another is ours by its tag, or by our file, which no other job reads:
    no filter of the server is trusted. The walk ends when all are found; where one of them has ended, it goes to the
    end of the list, so that another that was made of the same file is met before answers are taken over.

    Raises:
        MistillError: whatever the server does, if it does not answer.
    """
    by_id = {job.record.job_id: job.id for job in jobs if job.record.job_id is not None}
    unseen = [job for job in jobs if job.record.job_id is None]
    by_tag = {job.tag: job.id for job in jobs}
    by_file = {job.record.file_id: job.id for job in jobs if job.record.file_id is not None}
    waits_for_id = {job.id for job in unseen}
    since = min((job.record.planned_at for job in jobs), default=0.0) - _CLOCKS_S
    found = Found()
    async with aclosing(client.jobs(created_after=datetime.fromtimestamp(max(since, 0.0), UTC))) as listed:
        async for seen in listed:
            number = by_id.get(seen.id) or _by_marks(seen, by_tag, by_file)
            if number is None:
                continue
            if seen.id in by_id or (number in waits_for_id and number not in found.jobs):
                found.jobs[number] = seen
            else:
                found.strays.append(seen)
            if len(found.jobs) == len(jobs) and not any(mine.has_ended for mine in found.jobs.values()):
                break
    return found


def _by_marks(seen: BatchJob, by_tag: dict[str, int], by_file: dict[str, int]) -> int | None:
    tag = (seen.metadata or {}).get(TAG_KEY)
    files = (by_file[file] for file in seen.input_files if file in by_file)
    return (by_tag.get(tag) if isinstance(tag, str) else None) or next(files, None)
