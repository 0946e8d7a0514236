"""Batch jobs: queued, run line by line, ended. Each is a task of the server's event loop."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from mistill.simulator import refusals
from mistill.simulator.batch_files import FileStore, FileWriter, StoredFile
from mistill.simulator.batch_input import InputLines, Turns
from mistill.simulator.batch_lines import ENDPOINTS, CreateJob, LineRequest, NextUp, answer_line
from mistill.simulator.batch_results import BilledIds, Results
from mistill.simulator.faults import Fault, happens
from mistill.simulator.payloads import Json, encode
from mistill.simulator.prompt_cache import PromptCache
from mistill.simulator.requests import ChatRequest, check_model, invalid_field
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import Traffic

State: TypeAlias = Literal[
    "QUEUED", "RUNNING", "SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLATION_REQUESTED", "CANCELLED"
]
_PENDING: frozenset[State] = frozenset({"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"})
_UNKNOWN_STATES = {"running": ("RUNNING", "VALIDATING"), "ended": ("SUCCESS", "FINALIZED")}
"""The setting → the state, and what is said in its place."""
_RUNNING_AT_ONCE = 64
_LOOK_EVERY_S = 0.02
_SHORTEST_PAUSE_S = 0.002

T = TypeVar("T")


class Job:
    """One batch job. Times are Unix times in seconds, but for ``ends_at``, which is one of the event loop.

    Attributes:
        key: whose job it is.
        ends_at: when it ends at the latest: by its time-out, or since it was cancelled.
    """

    def __init__(self, asked: CreateJob, key: int, inputs: Sequence[StoredFile], hour_s: float) -> None:
        self.id = str(uuid.uuid4())
        self.asked = asked
        self.key = key
        self.inputs = inputs
        self.state: State = "QUEUED"
        self.created_at = time.time()
        self.started_at: float | None = None
        self.completed_at: float | None = None
        self.total = sum(file.num_lines for file in inputs)
        self.succeeded = 0
        self.failed = 0
        self.problems: Counter[str] = Counter()
        self.output: StoredFile | None = None
        self.errors: StoredFile | None = None
        self.ends_at = asyncio.get_running_loop().time() + asked.timeout_hours * hour_s
        self._changed = asyncio.Event()

    @property
    def is_pending(self) -> bool:
        return self.state in _PENDING

    @property
    def is_over(self) -> bool:
        """Whether its time is: it may have to be told yet."""
        return asyncio.get_running_loop().time() >= self.ends_at

    def cancel(self, within_s: float) -> None:
        if self.state in ("QUEUED", "RUNNING"):
            self.state = "CANCELLATION_REQUESTED"
            self.ends_at = min(self.ends_at, asyncio.get_running_loop().time() + within_s)
            self._changed.set()

    async def pause(self, seconds: float) -> None:
        """Sleeps, unless the job is over before."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := min(until, self.ends_at) - loop.time()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def shown(self, settings: Settings) -> Json:
        """A ``BatchJob``."""
        known, unknown = _UNKNOWN_STATES.get(settings.batch_unknown_state or "", ("", ""))
        state = unknown if self.state == known else self.state
        completed, succeeded, failed = self.succeeded + self.failed, self.succeeded, self.failed
        if settings.batch_wrong_counts and not self.is_pending:
            completed, succeeded, failed = self.total // 2, self.total + 1, 1
        return {
            "id": self.id,
            "object": "batch",
            "input_files": [] if self.asked.input_files is None else self.asked.input_files,
            "metadata": self.asked.metadata,
            "endpoint": self.asked.endpoint,
            "model": self.asked.model,
            "agent_id": None,
            "output_file": self.output and self.output.id,
            "error_file": self.errors and self.errors.id,
            "errors": [{"message": message, "count": count} for message, count in self.problems.items()],
            "outputs": None,
            "status": state,
            "created_at": int(self.created_at),
            "total_requests": self.total,
            "completed_requests": completed,
            "succeeded_requests": succeeded,
            "failed_requests": failed,
            "started_at": None if self.started_at is None else int(self.started_at),
            "completed_at": None if self.completed_at is None else int(self.completed_at),
        }


class Jobs:
    """All jobs of a server, and the tasks that run them.

    Args:
        prompts: the cache of prompts, where lines use it.
        settings: those that hold now.
        next_up: what meets a line, as it would meet a request.
    """

    def __init__(
        self,
        files: FileStore,
        traffic: Traffic,
        prompts: PromptCache,
        settings: Callable[[], Settings],
        next_up: NextUp,
    ) -> None:
        self._files = files
        self._traffic = traffic
        self._prompts = prompts
        self._settings = settings
        self._next_up = next_up
        self._jobs: dict[str, Job] = {}
        self._made = 0
        self._billed: list[BilledIds] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._room = asyncio.Semaphore(_RUNNING_AT_ONCE)

    def create(self, asked: CreateJob, key: int) -> Job:
        """A new job, whose task runs from now on.

        Raises:
            RefusedRequest: it cannot be run.
        """
        settings = self._settings()
        _check(asked, settings)
        files = self._input_files(asked)
        requests = len(asked.requests or ()) + sum(file.num_lines for file in files)
        pending = sum(job.total for job in self._jobs.values() if job.is_pending)
        if requests > settings.batch_max_requests:
            raise refusals.bad_request(f"Too many requests in a batch: {requests}", param="input_files")
        if requests + pending > settings.batch_max_pending:
            raise refusals.rate_limited()
        if asked.requests is not None:
            files.append(self._on_disk(asked.requests))
            asked = msgspec.structs.replace(asked, requests=None)
        job = Job(asked, key, files, settings.batch_hour_s)
        self._jobs[job.id] = job
        self._made += 1
        self._started(self._run(job, self._made))
        return job

    def create_later(self, asked: CreateJob, key: int, delay_s: float) -> asyncio.Task[Json]:
        """The same after a while, whoever waits for it: the job as it is shown then."""

        async def create() -> Json:
            await asyncio.sleep(delay_s)
            return self.create(asked, key).shown(self._settings())

        return self._started(create())

    def find(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def newest_first(self) -> Iterator[Job]:
        return reversed(self._jobs.values())

    def remove(self, job: Job) -> None:
        del self._jobs[job.id]

    def outputs(self, job: Job) -> list[Json] | None:
        """What is in its output file, as far as it is JSON; ``None`` where there is none, or it is gone."""
        if job.output is None or self._files.find(job.output.id) is None:
            return None
        outputs: list[Json] = []
        with job.output.path.open("rb") as lines:
            for line in lines:
                with suppress(msgspec.DecodeError):
                    outputs.append(msgspec.json.decode(line))
        return outputs

    def by_state(self) -> dict[str, int]:
        """How many there are in each state. From any thread."""
        return dict(Counter(job.state for job in list(self._jobs.values())))

    def billed_ids(self) -> Counter[str]:
        """How often each ``custom_id`` was billed. From any thread."""
        return sum((ids.times() for ids in list(self._billed)), Counter[str]())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _input_files(self, asked: CreateJob) -> list[StoredFile]:
        files: list[StoredFile] = []
        for file_id in asked.input_files or ():
            file = self._files.found(file_id)
            if file.purpose != "batch":
                raise refusals.bad_request("Input files must have the purpose batch", param="input_files")
            files.append(file)
        return files

    def _on_disk(self, requests: list[LineRequest]) -> StoredFile:
        """A file that nobody sees, which ends with its job."""
        with FileWriter(self._files.new_path()) as writer:
            for request in requests:
                writer.write(encode(request) + b"\n")
        return writer.stored("requests", purpose="batch", sample_type="batch_request", source="mistral")

    async def _run(self, job: Job, number: int) -> None:
        settings = self._settings()
        rng = random.Random(f"{settings.seed} {number}")  # noqa: S311  repeatable, not secret
        lines = InputLines([file.path for file in job.inputs])
        with ExitStack() as opened:
            keeps_input = settings.batch_deleted_input == "runs"
            if keeps_input:
                opened.enter_context(lines)  # so that it can be read whoever deletes it
            await self._queue(job)
            results = None
            if not job.is_over:
                async with self._room:
                    try:
                        if not keeps_input:
                            opened.enter_context(lines)
                        results = await self._answer(job, lines, rng)
                    except FileNotFoundError:
                        job.problems["Input file not found"] += 1
                    except OSError as error:  # of this machine: no disk, no handles
                        job.problems[f"Internal error: {error}"] += 1
        self._end(job, results)

    async def _queue(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not job.is_over:
            left = since + self._settings().batch_queue_s - loop.time()
            if left <= 0 and not self._room.locked():
                return
            await job.pause(min(left, _LOOK_EVERY_S) if left > 0 else _LOOK_EVERY_S)

    async def _answer(self, job: Job, lines: InputLines, rng: random.Random) -> Results | None:
        """The results, as far as the job came; ``None`` where it cannot be run."""
        if job.state == "QUEUED":
            job.state = "RUNNING"
        job.started_at = time.time()
        job.problems = await lines.check()
        if happens(rng, self._settings().batch_failed):
            job.problems["Internal error while the batch was run"] += 1
        if job.problems:
            return None
        job.total = len(lines)
        results = Results(self._files, rng)
        with results:
            await self._answer_lines(job, lines.shuffled(rng), results, rng)
        return results

    async def _answer_lines(
        self, job: Job, requests: Iterator[LineRequest], results: Results, rng: random.Random
    ) -> None:
        loop = asyncio.get_running_loop()
        turns = Turns()

        def cached(request: ChatRequest, tokens: int) -> int:
            return self._prompts.read_line(request, job.key, tokens, self._settings())

        due = loop.time()
        for request in requests:
            settings = self._settings()
            due += settings.batch_line_s
            if (early := due - loop.time()) > _SHORTEST_PAUSE_S:
                await job.pause(early)
            else:
                await turns.take()
            if job.is_over:
                return
            scripted, fault = self._next_up(lambda body=request.body: body)
            if happens(rng, settings.batch_error_line):
                scripted, fault = None, Fault.named("500")
            answer = answer_line(request, job.asked, settings, scripted, fault, cached)
            results.add(request, answer, settings)
            job.succeeded, job.failed = results.succeeded, results.failed

    def _end(self, job: Job, results: Results | None) -> None:
        settings = self._settings()
        job.completed_at = time.time()
        if results is not None:
            job.output, job.errors = results.stored(job.id)
            for file in filter(None, (job.output, job.errors)):
                if settings.batch_retention_s is not None:
                    file.ends_at = job.completed_at + settings.batch_retention_s
                self._files.add(file)
        if job.problems:
            job.state = "FAILED"
        elif job.state == "CANCELLATION_REQUESTED":
            job.state = "CANCELLED"
        elif results is not None and job.succeeded + job.failed == job.total:
            job.state = "SUCCESS"
        else:
            job.state = "TIMEOUT_EXCEEDED"
        if results is not None and (job.state == "SUCCESS" or settings.batch_bills_cancelled):
            self._traffic.bill_lines(results.billed_ids.count, results.bills.values())
            self._billed.append(results.billed_ids)
        if not job.asked.input_files:  # they were in the request that made it
            for file in job.inputs:
                file.path.unlink()


def _check(asked: CreateJob, settings: Settings) -> None:
    """What can be refused of a job before its input is looked at.

    Raises:
        RefusedRequest: it is.
    """
    if settings.batch_needs_billing:
        raise refusals.billing_needed()
    if (asked.input_files is None) is (asked.requests is None) or asked.input_files == []:
        raise invalid_field("input_files", "Exactly one of input_files and requests is needed", settings)
    if asked.agent_id is not None:
        raise invalid_field("agent_id", "Agents are not simulated", settings)
    if asked.endpoint not in ENDPOINTS:
        raise refusals.bad_request(f"Endpoint {asked.endpoint} is not simulated", param="endpoint")
    if asked.model is not None:
        check_model(asked.model, settings, embeds=asked.endpoint == "/v1/embeddings")
