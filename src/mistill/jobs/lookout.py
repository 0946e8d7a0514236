"""Finding jobs of ours among those of the server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from mistill.api.batch import BatchJob
from mistill.api.client import MistralClient
from mistill.ledger import Job

TAG_KEY: Final = "mistill_job"
"""Under which a job has its tag in its metadata."""

_CLOCKS_S = 3600.0
"""How far the server's clock may be behind ours."""


async def look_for(client: MistralClient, jobs: Sequence[Job]) -> dict[int, BatchJob]:
    """Those of our jobs that are in the server's list, by their numbers in the ledger.

    A job is ours by its id, by its tag, or by our file, which no other job reads: no filter of the server is trusted.

    Raises:
        MistillError: whatever the server does, if it does not answer.
    """
    by_id = {job.record.job_id: job.id for job in jobs if job.record.job_id is not None}
    by_tag = {job.tag: job.id for job in jobs}
    by_file = {job.record.file_id: job.id for job in jobs if job.record.file_id is not None}
    since = min((job.record.planned_at for job in jobs), default=0.0) - _CLOCKS_S
    found: dict[int, BatchJob] = {}
    async with aclosing(client.jobs(created_after=datetime.fromtimestamp(max(since, 0.0), UTC))) as listed:
        async for seen in listed:
            tag = (seen.metadata or {}).get(TAG_KEY)
            files = (by_file[file] for file in seen.input_files if file in by_file)
            number = (
                by_id.get(seen.id) or (by_tag.get(tag) if isinstance(tag, str) else None) or next(files, None)
            )
            if number is None:
                continue
            if number not in found or seen.id in by_id:
                found[number] = seen
            if len(found) == len(jobs):
                break
    return found
