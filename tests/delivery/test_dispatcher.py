"""The attempts of one request, and bounded fan-out over many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from mistill.api.batch_lines import ResultLine
from mistill.api.chat import CHAT, ChatResponse
from mistill.api.client import MistralClient
from mistill.api.prices import Price
from mistill.delivery.dispatcher import Delivered, Dispatcher, Request
from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.delivery.tuning import Tuning
from mistill.delivery.worker_pool import SharedIterator, WorkerPool
from mistill.errors import BadRequest, MalformedAnswer, MistillError, ServerError, Stopped
from mistill.simulator import Fault, Simulator

BODY = b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"Hello"}]}'


def dispatcher_to(
    simulator: Simulator, *, at_once: int = 8, max_retries: int = 5, backoff_base_s: float = 0.001
) -> Dispatcher[ChatResponse]:
    client = MistralClient(simulator.url, "k", timeout_s=5)
    return Dispatcher(
        client,
        Governor(),
        ConcurrencyLimit(at_once),
        operation=CHAT,
        max_retries=max_retries,
        tuning=replace(Tuning(), backoff_base_s=backoff_base_s),
    )


class Numbered(NamedTuple):
    id: int


class Notes:
    """An observer of attempts, in memory."""

    headers: Mapping[str, str] | None = None

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, str]] = []
        self._attempts = 0

    async def sending(self, request: Request) -> Sequence[Numbered]:
        self._attempts += 1
        self.entries.append(("sending", self._attempts, ""))
        return [Numbered(self._attempts)]

    def answered(self, recorded: Sequence[Numbered], delivered: Delivered[Any]) -> Delivered[Any]:
        assert delivered.recorded == recorded
        self.entries.append(("answered", recorded[0].id, ""))
        return delivered

    def ended(self, recorded: Sequence[Numbered], error: MistillError) -> None:
        self.entries.append(("ended", recorded[0].id, error.kind))


async def test_every_attempt_is_observed_before_it_leaves(simulator: Simulator) -> None:
    simulator.script([Fault.status(503), Fault.truncate()])
    notes = Notes()
    delivered = await dispatcher_to(simulator).send(Request(BODY), observer=notes)
    assert delivered.attempts == 3
    assert notes.entries == [
        ("sending", 1, ""),
        ("ended", 1, "server_error"),
        ("sending", 2, ""),
        ("ended", 2, "disconnected"),
        ("sending", 3, ""),
        ("answered", 3, ""),
    ]


async def test_the_pause_before_a_retry_has_a_name(simulator: Simulator) -> None:
    simulator.script([Fault.status(503)] * 4)
    dispatcher = dispatcher_to(simulator)
    await dispatcher.send(Request(BODY))
    before = dispatcher.governor.snapshot()
    assert before.seconds["backoff"] > 0
    simulator.script([Fault.status(503)])
    streamed = Request(BODY[:-1] + b',"stream":true}')
    assert [chunk async for chunk in dispatcher.stream(streamed)]
    now = dispatcher.governor.snapshot()
    assert now.seconds["backoff"] > before.seconds["backoff"]
    assert now.since(before).keys() <= {"server", "backoff", "idle"}


async def test_what_the_observer_raises_keeps_the_attempt_from_leaving(simulator: Simulator) -> None:
    class Full(Notes):
        async def sending(self, request: Request) -> Sequence[Numbered]:
            raise Stopped("the disk is full")

    with pytest.raises(Stopped, match="disk is full"):
        await dispatcher_to(simulator).send(Request(BODY), observer=Full())
    assert simulator.requests == []


async def test_a_cancelled_attempt_is_observed_and_gives_its_slot_back(simulator: Simulator) -> None:
    simulator.script([Fault.delay(30)])
    dispatcher, notes = dispatcher_to(simulator, at_once=1), Notes()
    task = asyncio.create_task(dispatcher.send(Request(BODY), observer=notes))
    await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes.entries[-1] == ("ended", 1, "stopped")
    assert (await dispatcher.send(Request(BODY))).attempts == 1


@pytest.mark.parametrize("max_retries", [0, 1, 4])
async def test_tries_after_the_first_are_counted(simulator: Simulator, max_retries: int) -> None:
    simulator.script([Fault.status(503)] * 10)
    with pytest.raises(ServerError):
        await dispatcher_to(simulator, max_retries=max_retries).send(Request(BODY))
    assert len(simulator.requests) == 1 + max_retries


async def test_what_no_retry_can_help_is_not_retried(simulator: Simulator) -> None:
    simulator.script([Fault.status(400)])
    with pytest.raises(BadRequest):
        await dispatcher_to(simulator).send(Request(BODY))
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed(simulator: Simulator, status: int) -> None:
    simulator.script([Fault.status(status, None, {"retry-after-ms": "300"})])
    await dispatcher_to(simulator).send(Request(BODY))
    first, second = (request.received_at for request in simulator.requests)
    assert second - first >= 0.3


async def test_a_row_that_rests_holds_no_slot(simulator: Simulator) -> None:
    dispatcher = dispatcher_to(simulator, at_once=1, backoff_base_s=1000.0)
    simulator.script([Fault.status(503)])
    resting = asyncio.create_task(dispatcher.send(Request(BODY)))
    await asyncio.to_thread(simulator.wait_until, lambda: simulator.counts_by_status[503] == 1)
    assert (await dispatcher.send(Request(BODY))).attempts == 1
    resting.cancel()


# --- whatever an exchange comes to ------------------------------------------------------------------------------------


class Stumbling:
    """A client whose every exchange raises the next of these, and then hangs."""

    def __init__(self, *errors: BaseException) -> None:
        self._errors = list(errors)

    async def exchange(self, operation: Any, body: bytes, *, watched: Any = None, headers: Any = None) -> Any:
        if not self._errors:
            await asyncio.Event().wait()
        raise self._errors.pop(0)

    @asynccontextmanager
    async def stream(self, body: bytes, *, headers: Any = None) -> AsyncGenerator[Any]:
        await self.exchange(None, body)
        yield None


def stumbling(*errors: BaseException, max_retries: int = 2) -> Dispatcher[ChatResponse]:
    client: Any = Stumbling(*errors)
    return Dispatcher(
        client,
        Governor(),
        ConcurrencyLimit(1),
        operation=CHAT,
        max_retries=max_retries,
        tuning=replace(Tuning(), backoff_base_s=0.001),
    )


UNFORESEEN = [
    *(
        TypeError("x"),
        KeyError("x"),
        RecursionError("x"),
        OverflowError("x"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "x"),
    ),
    *(
        RuntimeError("x"),
        AssertionError(),
        MemoryError(),
        ZeroDivisionError("x"),
        OSError("x"),
        TimeoutError(),
    ),
]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
async def test_any_exception_of_an_exchange_is_a_failure_of_its_row(error: Exception) -> None:
    dispatcher, notes = stumbling(*[error] * 3), Notes()
    with pytest.raises(MalformedAnswer, match=type(error).__name__) as caught:
        await dispatcher.send(Request(BODY), observer=notes)
    assert caught.value.__cause__ is error
    assert (caught.value.retryable, caught.value.maybe_billed, caught.value.attempts) == (True, True, 3)
    assert [what for what, _, _ in notes.entries] == ["sending", "ended"] * 3
    assert dispatcher.governor.in_flight == 0


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
async def test_any_exception_of_a_stream_is_too(error: Exception) -> None:
    dispatcher = stumbling(*[error] * 3)
    with pytest.raises(MalformedAnswer, match=type(error).__name__):
        _ = [chunk async for chunk in dispatcher.stream(Request(BODY))]
    assert dispatcher.governor.in_flight == 0


async def test_an_answer_that_cannot_be_shared_out_or_is_refused_is_a_failed_attempt(
    simulator: Simulator,
) -> None:
    tries = 0

    def third_time_lucky(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise KeyError("index")
        return []

    notes = Notes()
    delivered = await dispatcher_to(simulator).send(Request(BODY, split=third_time_lucky), observer=notes)
    assert (delivered.attempts, delivered.parts) == (3, [])
    assert [what for what, _, _ in notes.entries] == [*["sending", "ended"] * 2, "sending", "answered"]
    tries = 0
    checked = Dispatcher(
        MistralClient(simulator.url, "k", timeout_s=5),
        Governor(),
        ConcurrencyLimit(1),
        operation=replace(CHAT, gave_up=lambda _: True),
        refuse=third_time_lucky,
        max_retries=2,
        tuning=replace(Tuning(), backoff_base_s=0.001),
    )
    assert (await checked.send(Request(BODY))).attempts == 3


async def test_what_is_asked_for_beyond_all_measure_is_not_waited_for() -> None:
    patient, absurd = (ServerError("x", status=503, retry_after_s=seconds) for seconds in (0.001, 3601.0))
    with pytest.raises(ServerError) as caught:
        await stumbling(patient, absurd, patient, max_retries=5).send(Request(BODY))
    assert caught.value is absurd
    assert (absurd.attempts, absurd.retryable) == (2, True)


async def test_one_row_that_is_told_to_wait_for_ever_holds_no_other(simulator: Simulator) -> None:
    dispatcher = dispatcher_to(simulator)
    for status in (400, 500, 422, 404):
        simulator.script([Fault.status(status, None, {"retry-after": "99999999999"})])
        with pytest.raises(MistillError):
            await dispatcher.send(Request(BODY))
        assert (await dispatcher.send(Request(BODY))).attempts == 1


# --- the pool ---------------------------------------------------------------------------------------------------------


async def test_a_pool_does_each_row_once_and_never_more_than_its_size_at_a_time() -> None:
    done: list[int] = []
    at_work = most = 0

    async def work(row: int) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        for _ in range(row % 3):
            await asyncio.sleep(0)
        at_work -= 1
        done.append(row)

    await WorkerPool(SharedIterator(range(100)), size=7).run(work)
    assert sorted(done) == list(range(100))
    assert most == 7


async def test_rows_that_rest_are_stood_in_for() -> None:
    """All but the last row rest until the last is done: without stand-ins nobody would ever get to it."""
    woken = asyncio.Event()
    pool = WorkerPool(SharedIterator(range(4)), size=1)

    async def work(row: int) -> None:
        if row == 3:
            woken.set()
        else:
            with pool.resting():
                await woken.wait()

    async with asyncio.timeout(5):
        await pool.run(work)


async def test_the_first_error_ends_the_pool_and_leaves_no_task() -> None:
    async def work(row: int) -> None:
        if row == 2:
            raise Stopped("enough")
        await asyncio.Event().wait()

    with pytest.raises(Stopped, match="enough"):
        await WorkerPool(SharedIterator(range(10)), size=3).run(work)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_pool_leaves_no_task() -> None:
    begun = asyncio.Event()

    async def work(row: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(WorkerPool(SharedIterator(range(10)), size=3).run(work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_stopped_pool_finishes_what_it_began() -> None:
    done: list[int] = []

    async def rows() -> AsyncIterator[int]:
        for row in range(100):
            yield row

    pool = WorkerPool(rows(), size=1)

    async def work(row: int) -> None:
        if row == 0:
            pool.stop()
        await asyncio.sleep(0)
        done.append(row)

    await pool.run(work)
    assert done == [0]


# --- lines of jobs ----------------------------------------------------------------------------------------------------


def answer_body(finish_reason: str) -> bytes:
    message = {"role": "assistant", "content": "half of"}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


async def test_a_line_of_a_job_is_read_as_the_answer_that_it_would_have_been(simulator: Simulator) -> None:
    line = ResultLine(0, "1", "line-1", 200, answer_body("stop"))
    answer = dispatcher_to(simulator).read_line(line, Price(1.0, 2.0, 0.5))
    assert answer.response.choices[0].message.content == "half of"
    assert (answer.usage.input_tokens, answer.cost, answer.correlation_id) == (1000, 0.002, "line-1")


@pytest.mark.parametrize(
    ("line", "kind", "retryable"),
    [
        (ResultLine(0, "1", status=422, body=b'{"message": "too long"}'), "bad_request", False),
        (ResultLine(0, "1", status=500, body=b"{}"), "server_error", True),
        (ResultLine(0, "1", status=429, body=b"{}"), "rate_limited", True),
        (ResultLine(0, "1", status=200, body=b"no JSON"), "malformed_answer", True),
        (ResultLine(0, "1", status=200), "malformed_answer", True),
        (ResultLine(0, broken="it is no JSON"), "malformed_answer", True),
        (ResultLine(0, "1", status=200, body=answer_body("error")), "malformed_answer", True),
    ],
)
async def test_the_failure_of_a_line_says_whether_another_attempt_could_help(
    simulator: Simulator, line: ResultLine, kind: str, *, retryable: bool
) -> None:
    with pytest.raises(MistillError) as raised:
        dispatcher_to(simulator).read_line(line, None)
    assert (raised.value.kind, raised.value.retryable, raised.value.attempts) == (kind, retryable, 1)
