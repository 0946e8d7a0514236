"""What is known of a row's requests comes to the outcome that it would have had, and says which requests are left."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec
import pytest

from mistill import MistralEmbeddings, MistralLLM
from mistill.api.chat import decode_response
from mistill.api.client import HTTPAnswer
from mistill.api.prices import Price
from mistill.api.usage import usage_of
from mistill.datasets.sources import open_source
from mistill.delivery.dispatcher import Delivered, Request
from mistill.delivery.retry import classify
from mistill.errors import (
    BadRequest,
    MistillError,
    ServerError,
    Stopped,
)
from mistill.ledger import Attempt, ErrorRecord, KnownAttempt, PaidAnswer, RowState
from mistill.llms.types import Outcome
from mistill.runs.kinds.chat import ChatKind
from mistill.runs.kinds.embedding import EmbeddingKind
from mistill.runs.kinds.kind import Kind, PendingRow
from mistill.runs.lanes.replay import Collected, Replay, replay
from mistill.runs.options import RunOptions

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
FITS, MISFIT = '{"age": 36}', "I am 36"
PRICE = Price(input=1.0, output=2.0, cached_input=1.0)
MAX_RETRIES = 2

Answer = str | dict[str, Any] | list[str] | MistillError
AnswerOf = Callable[[bytes, int], Answer]


def chat_kind(*, schema: bool = False, mode: str | None = None, **options: Any) -> Kind[Any]:
    structured: dict[str, Any] | None = {"schema": SCHEMA, "max_retries": 2} if schema else None
    if structured is not None and mode is not None:
        structured["mode"] = mode
    llm = MistralLLM(
        model="mistral-small-latest",
        api_key="k",  # type: ignore[arg-type]
        max_retries=MAX_RETRIES,
        structured_output=structured,  # type: ignore[arg-type]
        prices={"models": {"mistral-small-latest": {"input": 1, "output": 2}}},
    )
    return ChatKind(llm, RunOptions(prompt="{{ text }}", **options))


def embedding_kind() -> EmbeddingKind:
    return EmbeddingKind(
        MistralEmbeddings(api_key="k", max_retries=MAX_RETRIES),  # type: ignore[arg-type]
        RunOptions(prompt="{{ text }}"),
    )


def pending(kind: Kind[Any], text: str = "Ada", number: int = 0, **columns: Any) -> PendingRow:
    (row,) = open_source([{"text": text} | columns])
    return PendingRow(RowState(number, number), row, kind.prepare(row))


def with_known(row: PendingRow, known: Sequence[KnownAttempt]) -> PendingRow:
    return msgspec.structs.replace(row, known=known)


def call(arguments: str) -> dict[str, Any]:
    """A message that calls the tool that instructor asks with."""
    function = {"name": "answer", "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "function": function}]}


def body_of(*messages: str | dict[str, Any]) -> bytes:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": one} if isinstance(one, str) else one,
            "finish_reason": "stop",
        }
        for index, one in enumerate(messages)
    ]
    texts = messages
    usage = {"prompt_tokens": 10, "completion_tokens": 3 * len(texts), "total_tokens": 10 + 3 * len(texts)}
    return json.dumps({"id": "x", "model": "m", "choices": choices, "usage": usage}).encode()


class Server:
    """Answers by the request and how often it came, and remembers what it gave, as a ledger does.

    Args:
        answer: a request's body, and how often it came before → the messages of its answer, or the failure.

    Attributes:
        given: its attempts, oldest first.
    """

    def __init__(self, answer: AnswerOf) -> None:
        self.given: list[KnownAttempt] = []
        self._answer = answer
        self._came = Counter[bytes]()
        self._attempts_left: int | None = None

    @property
    def asked(self) -> list[int | None]:
        return [one.attempt.asked for one in self.given]

    @property
    def answered(self) -> list[KnownAttempt]:
        return [one for one in self.given if one.answer is not None]

    def attempt(self, request: Request, job: int | None = None) -> KnownAttempt:
        came, self._came[request.body] = self._came[request.body], self._came[request.body] + 1
        number = len(self.given) + 1
        attempt = Attempt(number, 0, 0.0, job=job, asked=crc32(request.body))
        answer = self._answer(request.body, came)
        if isinstance(answer, MistillError):
            classify(answer)
            one = KnownAttempt(attempt=attempt, error=ErrorRecord.of(answer))
        else:
            messages = answer if isinstance(answer, list) else [answer]
            one = KnownAttempt(attempt=attempt, answer=paid(attempt, body_of(*messages)))
        self.given.append(one)
        return one

    def stop_after(self, attempts: int | None) -> None:
        self._attempts_left = attempts

    async def live(self, request: Request) -> Delivered[Any]:
        """A `Send` as the dispatcher's: a request is tried until there is no sense in it any more."""
        for tries in itertools.count(1):
            if self._attempts_left is not None:
                if not self._attempts_left:
                    raise Stopped("the process dies", reason="stopped")
                self._attempts_left -= 1
            one = self.attempt(request)
            if one.answer is not None:
                return delivered(one.answer, tries)
            assert one.error is not None
            error = one.error.to_error()
            if not error.retryable or tries > MAX_RETRIES:
                error.attempts = tries
                raise error
        raise AssertionError


def paid(attempt: Attempt, body: bytes) -> PaidAnswer:
    usage = usage_of(decode_response(body))
    return PaidAnswer(
        attempt, body, usage.input_tokens, usage.output_tokens, usage.cached_tokens, PRICE.cost(usage)
    )


def delivered(answer: PaidAnswer, tries: int) -> Delivered[Any]:
    response = decode_response(answer.body)
    usage = usage_of(response)
    http = HTTPAnswer(response, answer.body, None, "correlation", 0.3, usage, PRICE.cost(usage))
    return Delivered(http, tries, (answer.attempt,))


def told(outcome: Outcome) -> Any:
    """All of an outcome but the ways of its attempts."""
    completions = [
        one and msgspec.structs.replace(one, latency_s=0.0, correlation_id=None, attempts=0, attempt_id=0)
        for one in outcome.completions
    ]
    error = None if outcome.error is None else (outcome.error.kind, outcome.error.message, outcome.error.hint)
    return completions, error, outcome.finish_reason, outcome.usage, outcome.cost


def attempts_of(outcome: Outcome) -> Any:
    return outcome.attempts, [one and (one.attempts, one.attempt_id) for one in outcome.completions]


async def by_jobs(kind: Kind[Any], row: PendingRow, server: Server) -> tuple[Outcome, list[int]]:
    """A row's outcome where all its requests go in jobs, and how many of them each job had."""
    sizes: list[int] = []
    known: list[KnownAttempt] = []
    while True:
        found = await replay(kind, [with_known(row, known)])
        if not isinstance(found, Collected):
            (outcome,) = found
            return outcome, sizes
        sizes.append(len(found.requests))
        known += [server.attempt(request, job=len(sizes)) for request in found.requests]


async def uninterrupted(kind: Kind[Any], row: PendingRow, server: Server) -> Outcome:
    (outcome,) = await kind.answer([row.prepared], server.live)
    return outcome


def in_order(*answers: Answer) -> AnswerOf:
    """Those answers, whatever is asked."""
    left = list(answers)
    return lambda _body, _came: left.pop(0)


NO_SENSE = BadRequest("max_tokens is too large", status=422)
BUSY = ServerError("try again", status=503)
CASES: dict[str, tuple[dict[str, Any], list[Answer], list[int]]] = {
    # name: the kind's settings, the answers in the order in which they are asked for, the requests of each job
    "plain": ({}, ["hello"], [1]),
    "three in one request": ({"num_generations": 3}, [["a", "b", "c"]], [1]),
    "n is refused": ({"num_generations": 3}, [NO_SENSE, "a", "b", "c"], [1, 3]),
    "the row is refused, with n and without": ({"num_generations": 2}, [NO_SENSE] * 3, [1, 2]),
    "n is ignored": ({"num_generations": 3}, ["a", "b", "c"], [1, 2]),
    "more come than were asked for": ({"num_generations": 2}, [["a", "b", "c"]], [1]),
    "fits at once": ({"schema": True}, [FITS], [1]),
    "fits at the second ask": ({"schema": True}, [MISFIT, FITS], [1, 1]),
    "never fits": ({"schema": True}, [MISFIT] * 3, [1, 1, 1]),
    "a schema in words": ({"schema": True, "mode": "json_object"}, [MISFIT, FITS], [1, 1]),
    "instructor, markdown": ({"schema": True, "mode": "md_json"}, [MISFIT, FITS], [1, 1]),
    "instructor, markdown, never": ({"schema": True, "mode": "md_json"}, [MISFIT] * 3, [1, 1, 1]),
    "instructor, a tool": ({"schema": True, "mode": "tools"}, [call("{}"), call(FITS)], [1, 1]),
    "refused": ({}, [NO_SENSE], [1]),
    "fails, then is answered": ({}, [BUSY, "hello"], [1, 1]),
    "fails too often": ({}, [BUSY] * 3, [1, 1, 1]),
    "the re-ask is refused": ({"schema": True}, [MISFIT, NO_SENSE], [1, 1]),
    "the re-ask fails once": ({"schema": True}, [MISFIT, BUSY, FITS], [1, 1, 1]),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_row_whose_requests_go_in_jobs_ends_as_it_would_live(name: str) -> None:
    options, answers, jobs = CASES[name]
    row = pending(kind := chat_kind(**options))
    live, in_jobs = Server(in_order(*answers)), Server(in_order(*answers))
    expected = await uninterrupted(kind, row, live)
    kind = chat_kind(**options)  # what was learned of the server is the first one's
    row = pending(kind)
    outcome, sizes = await by_jobs(kind, row, in_jobs)
    assert told(outcome) == told(expected)
    assert attempts_of(outcome) == attempts_of(expected)
    assert in_jobs.asked == live.asked
    assert sizes == jobs
    # And once more by a process that has learned otherwise of the server.
    kind.server.refuses_n = not kind.server.refuses_n
    (again,) = await replay(kind, [with_known(row, in_jobs.given)])  # type: ignore[misc]
    assert told(again) == told(expected)


@pytest.mark.parametrize("name", CASES)
async def test_a_row_that_was_cut_off_anywhere_goes_on_from_there(name: str) -> None:
    options, answers, _ = CASES[name]
    kind, whole = chat_kind(**options), Server(in_order(*answers))
    expected = await uninterrupted(kind, pending(kind), whole)
    for before in range(len(answers)):
        kind, server = chat_kind(**options), Server(as_given(whole, answers))
        server.stop_after(before)
        with pytest.raises(Stopped):
            await kind.answer([pending(kind).prepared], server.live)
        server.stop_after(None)
        kind, known = chat_kind(**options), server.answered  # failures of live attempts are not replayed
        (outcome,) = await kind.answer([pending(kind).prepared], Replay(kind, known, server.live))
        assert told(outcome) == told(expected)
        assert [one.attempt.asked for one in server.answered] == [one.attempt.asked for one in whole.answered]


def as_given(server: Server, answers: Sequence[Answer]) -> AnswerOf:
    """The same answers to the same requests; to one more of them, its last."""
    by_request: dict[int | None, list[Answer]] = {}
    for one, answer in zip(server.given, answers, strict=True):
        by_request.setdefault(one.attempt.asked, []).append(answer)

    def answer_of(body: bytes, came: int) -> Answer:
        of_it = by_request[crc32(body)]
        return of_it[min(came, len(of_it) - 1)]

    return answer_of
