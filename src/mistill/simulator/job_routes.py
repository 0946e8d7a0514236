"""The paths of batch jobs: ``/v1/batch/jobs`` and below."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Final

import msgspec
from aiohttp import web
from multidict import MultiMapping

from mistill.simulator import refusals
from mistill.simulator.batch_jobs import Job, Jobs
from mistill.simulator.batch_lines import CreateJob
from mistill.simulator.faults import happens
from mistill.simulator.payloads import Json
from mistill.simulator.requests import decode_body
from mistill.simulator.visit import Visit

JOBS: Final = "/v1/batch/jobs"
_FILTERS = frozenset(
    {"page", "page_size", "model", "agent_id", "created_after", "created_by_me", "status", "order_by"}
)
_decoder = msgspec.json.Decoder(CreateJob)


class JobRoutes:
    """Answers what is asked of batch jobs."""

    def __init__(self, jobs: Jobs, rng: random.Random) -> None:
        self._jobs = jobs
        self._rng = rng

    async def answer(self, visit: Visit) -> web.StreamResponse:
        job_id, part = visit.id_after(JOBS)
        match visit.request.method, bool(job_id), part:
            case "POST", False, "":
                return await self._create(visit)
            case "GET", False, "":
                return visit.reply.whole(self._list(visit), {})
            case "GET", True, "":
                return visit.reply.whole(self._show(self._found(job_id, visit), visit), {})
            case "POST", True, "cancel":
                job = self._found(job_id, visit)
                if happens(self._rng, visit.settings.batch_cancel_refused):
                    raise refusals.conflict("The job cannot be cancelled now")
                job.cancel(visit.settings.batch_cancel_s)
                return visit.reply.whole(job.shown(visit.settings), {})
            case "DELETE", True, "":
                return visit.reply.whole(self._delete(self._found(job_id, visit)), {})
            case _:
                raise refusals.not_found(visit.path)

    def _found(self, job_id: str, visit: Visit) -> Job:
        job = self._jobs.find(job_id)
        if job is None or not _is_known(job, visit):
            raise refusals.no_such("Batch job", job_id)
        return job

    async def _create(self, visit: Visit) -> web.StreamResponse:
        settings = visit.settings
        if len(visit.raw) > settings.batch_max_bytes:
            raise refusals.too_large(settings.batch_max_bytes)
        asked = decode_body(_decoder, visit.raw, settings)
        # A task of its own, which a client that goes away does not end.
        created = await asyncio.shield(self._jobs.create_later(asked, visit.key, settings.batch_create_s))
        if happens(self._rng, settings.batch_create_lost):
            return visit.reply.disconnect()
        if happens(self._rng, settings.batch_create_denied):
            raise refusals.rate_limited()
        return visit.reply.whole(created, {})

    def _list(self, visit: Visit) -> Json:
        query, settings = visit.query, visit.settings
        page, page_size = query.number("page", 0), query.number("page_size", 100, least=1, most=100)
        jobs = list(self._asked_for(visit))
        if query.word("order_by", "-created", "created") == "created" and settings.batch_filter != "ignored":
            jobs.reverse()
        shown = [job.shown(settings) for job in jobs[page * page_size : (page + 1) * page_size]]
        return {"object": "list", "data": shown, "total": len(jobs)}

    def _asked_for(self, visit: Visit) -> Iterator[Job]:
        """Those of the list, newest first."""
        query, given, settings = visit.query, visit.request.query, visit.settings
        after, is_mine = query.moment("created_after"), query.flag("created_by_me", default=False)
        metadata = _metadata(given)
        now = time.time()
        for job in self._jobs.newest_first():
            if now < job.created_at + settings.batch_list_lag_s or not _is_known(job, visit):
                continue
            if settings.batch_filter == "ignored" or (
                (after is None or job.created_at > after)
                and (not is_mine or job.key == visit.key)
                and given.get("model") in (None, job.asked.model)
                and "agent_id" not in given
                and ("status" not in given or job.shown(settings)["status"] in given.getall("status"))
                and metadata.items() <= (job.asked.metadata or {}).items()
            ):
                yield job

    def _show(self, job: Job, visit: Visit) -> Json:
        shown = job.shown(visit.settings)
        if visit.query.flag("inline", default=False) and not job.is_pending:
            shown["outputs"] = self._jobs.outputs(job)
        return shown

    def _delete(self, job: Job) -> Json:
        if job.is_pending:
            raise refusals.bad_request("The job has not ended: cancel it first")
        self._jobs.remove(job)
        return {"id": job.id, "object": "batch", "deleted": True}


def _is_known(job: Job, visit: Visit) -> bool:
    return not visit.settings.batch_key_apart or job.key == visit.key


def _metadata(given: MultiMapping[str]) -> dict[str, str]:
    """What a filter says of metadata: under that name as JSON, or each key as a parameter, as the SDK sends it."""
    asked = {name: value for name, value in given.items() if name not in _FILTERS | {"metadata"}}
    try:
        return asked | msgspec.json.decode(given.get("metadata", "{}"), type=dict[str, str])
    except msgspec.DecodeError:
        return asked
