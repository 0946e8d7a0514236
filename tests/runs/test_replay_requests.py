"""What is known of a row's requests comes to the outcome that it would have had, and says which requests are left."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill import MistralEmbeddings, MistralLLM
from mistill.api.chat import decode_response
from mistill.api.client import HTTPAnswer
from mistill.api.embeddings import decode_embeddings
from mistill.api.prices import Price
from mistill.api.usage import Usage, usage_of
from mistill.datasets.sources import open_source
from mistill.delivery.dispatcher import Delivered, Request
from mistill.delivery.retry import classify
from mistill.errors import (
    BadRequest,
    Forbidden,
    InputError,
    MalformedAnswer,
    MistillError,
    RateLimited,
    RateLimits,
    ServerError,
    Stopped,
    Unauthorized,
)
from mistill.kinds.chat import ChatKind
from mistill.kinds.embedding import EmbeddingKind
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import Attempt, ErrorRecord, KnownAttempt, PaidAnswer, RowState
from mistill.llms.types import Outcome
from mistill.runs.lanes.replay import Collected, Replay, replay

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


async def by_jobs(
    kind: Kind[Any], row: PendingRow, server: Server, known: Sequence[KnownAttempt] = ()
) -> tuple[Outcome, list[int]]:
    """A row's outcome where all its requests but the known ones go in jobs, and how many of them each job had."""
    sizes: list[int] = []
    known = list(known)
    while True:
        found = await replay(kind, [with_known(row, known)])
        if not isinstance(found, Collected):
            (outcome,) = found
            return outcome, sizes
        sizes.append(len(found.requests))
        known += [server.attempt(request, job=len(sizes)) for request in found.requests]


async def ended(kind: Kind[Any], row: PendingRow) -> Sequence[Outcome]:
    """The outcome that what is known of the row comes to."""
    found = await replay(kind, [row])
    assert not isinstance(found, Collected), "it has requests left"
    return found


async def uninterrupted(kind: Kind[Any], row: PendingRow, server: Server) -> Outcome:
    (outcome,) = await kind.answer([row.prepared], server.live)
    return outcome


def in_order(*answers: Answer) -> AnswerOf:
    """Those answers, whatever is asked."""
    left = list(answers)
    return lambda _body, _came: left.pop(0)


NO_SENSE = BadRequest("max_tokens is too large", status=422)
NO_KEY = Unauthorized("no such key", status=401)
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
    (again,) = await ended(kind, with_known(row, in_jobs.given))
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


@cache
def seeded_kind(*, schema: bool, generations: int) -> Kind[Any]:
    return chat_kind(schema=schema, num_generations=generations, parameters={"random_seed": 1})


@settings(max_examples=300)
@given(
    answers=st.lists(st.sampled_from(["fits", "misfit", "busy", "refused"]), min_size=1, max_size=12),
    generations=st.integers(1, 3),
    schema=st.booleans(),
    before=st.integers(0, 8),
)
async def test_wherever_a_row_is_cut_off_it_ends_as_if_it_was_not_and_pays_for_nothing_twice(
    answers: list[str], generations: int, *, schema: bool, before: int
) -> None:
    """For all that a server may answer: live, in jobs, and live for a while and in jobs from there."""
    kind = seeded_kind(schema=schema, generations=generations)
    kind.server.refuses_n, row = False, pending(kind)

    def answer_of(body: bytes, came: int) -> Answer:
        number = crc32(body)
        one = answers[number % len(answers)]
        if one == "refused":
            return NO_SENSE
        if one == "busy" and came < number % (MAX_RETRIES + 1):
            return BUSY
        texts = json.loads(body).get("n") or 1 if number % 2 else 1  # else it ignores n
        return [FITS if one == "fits" else f"{MISFIT}, {number}"] * texts

    whole = Server(answer_of)
    expected = await uninterrupted(kind, row, whole)
    paid_for = sorted(one.attempt.asked or 0 for one in whole.answered)

    kind.server.refuses_n = False  # as for a process that begins
    in_jobs = Server(answer_of)
    outcome, _ = await by_jobs(kind, row, in_jobs)
    assert told(outcome) == told(expected)
    assert sorted(one.attempt.asked or 0 for one in in_jobs.answered) == paid_for

    for goes_on_in_jobs in (False, True):
        kind.server.refuses_n, server = False, Server(answer_of)
        server.stop_after(before)
        with suppress(Stopped):
            await kind.answer([row.prepared], server.live)
        server.stop_after(None)
        kind.server.refuses_n, known = False, server.answered
        if goes_on_in_jobs:
            outcome, _ = await by_jobs(kind, row, server, known)
        else:
            (outcome,) = await kind.answer([row.prepared], Replay(kind, known, server.live))
        assert told(outcome) == told(expected)
        assert sorted(one.attempt.asked or 0 for one in server.answered) == paid_for


# --- several generations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["json_schema", "json_object", "md_json", "tools"])
async def test_the_requests_of_all_generations_are_wanted_at_once(mode: str) -> None:
    kind = chat_kind(schema=True, mode=mode, num_generations=3, parameters={"random_seed": 5})
    row = pending(kind)
    (misfit, fits) = (call("{}"), call(FITS)) if mode == "tools" else (MISFIT, FITS)
    found = await replay(kind, [row])
    assert isinstance(found, Collected)
    assert [json.loads(request.body)["random_seed"] for request in found.requests] == [5, 6, 7]
    server = Server(in_order(misfit, fits, misfit))
    known = [server.attempt(request, job=1) for request in found.requests]
    found = await replay(kind, [with_known(row, known)])
    assert isinstance(found, Collected)
    bodies = [json.loads(request.body) for request in found.requests]
    assert [body["random_seed"] for body in bodies] == [5, 7]  # what fitted is not asked for again
    assert all(len(body["messages"]) > 1 for body in bodies)
    server = Server(in_order(fits, fits))
    known += [server.attempt(request, job=2) for request in found.requests]
    (outcome,) = await ended(kind, with_known(row, known))
    assert [one and one.value for one in outcome.completions] == [{"age": 36}] * 3
    assert outcome.usage.input_tokens == 50


async def test_generations_without_a_seed_each_have_an_answer_and_a_failure_of_their_own() -> None:
    kind = chat_kind(schema=True, num_generations=3)
    row = pending(kind)
    server = Server(in_order(BUSY, FITS, BUSY, FITS, BUSY, FITS))
    outcome, sizes = await by_jobs(kind, row, server)
    assert outcome.error is None
    assert sizes == [3, 2, 1]  # one that failed twice is not charged with the other's failure as well
    assert sorted(one.attempts for one in outcome.completions if one is not None) == [1, 2, 3]


@pytest.mark.parametrize("refuses_n", [False, True])
async def test_a_row_goes_on_as_it_was_asked_whatever_was_learned_since(*, refuses_n: bool) -> None:
    """Another row may have taught this process that ``n`` is refused, or nothing did since it began."""
    kind = chat_kind(num_generations=3)
    row = pending(kind)
    kind.server.refuses_n = not refuses_n
    asked = await replay(kind, [row])
    assert isinstance(asked, Collected)
    assert len(asked.requests) == (1 if refuses_n else 3)
    server = Server(in_order(*([["a", "b", "c"]] if refuses_n else ["a", "b"])))
    known = [server.attempt(request) for request in asked.requests[: 1 if refuses_n else 2]]
    kind.server.refuses_n = refuses_n
    found = await replay(kind, [with_known(row, known)])
    if refuses_n:
        (outcome,) = await ended(kind, with_known(row, known))
        assert [one and one.text for one in outcome.completions] == ["a", "b", "c"]
    else:
        assert isinstance(found, Collected)
        assert [request.body for request in found.requests] == [asked.requests[2].body]


# --- what is known of other requests, and of none ---------------------------------------------------------------------


async def test_an_answer_to_another_request_of_the_row_is_none_to_this() -> None:
    kind = chat_kind()
    row = pending(kind)
    asked = await replay(kind, [row])
    assert isinstance(asked, Collected)
    (request,) = asked.requests
    one = Server(in_order("to something else")).attempt(msgspec.structs.replace(request, body=b'{"a": 1}'))
    found = await replay(kind, [with_known(row, [one])])
    assert isinstance(found, Collected)
    assert found.requests == [request]


@pytest.mark.parametrize(
    "name", ["plain", "three in one request", "n is ignored", "fits at the second ask", "never fits"]
)
async def test_answers_of_which_no_version_wrote_what_was_asked_are_taken_in_their_order(name: str) -> None:
    options, answers, _ = CASES[name]
    kind, server = chat_kind(**options), Server(in_order(*answers))
    row = pending(kind)
    expected = await uninterrupted(kind, row, server)
    old = [
        msgspec.structs.replace(one, attempt=msgspec.structs.replace(one.attempt, asked=None))
        for one in server.given
    ]
    kind = chat_kind(**options)
    (outcome,) = await ended(kind, with_known(pending(kind), old))
    assert told(outcome) == told(expected)


async def test_an_answer_that_is_known_by_its_request_goes_before_one_of_which_nothing_is_known() -> None:
    kind = chat_kind(schema=True, num_generations=2, parameters={"random_seed": 1})
    row = pending(kind)
    asked = await replay(kind, [row])
    assert isinstance(asked, Collected)
    server = Server(in_order('{"age": 2}', '{"age": 1}'))
    second, first = [server.attempt(request) for request in reversed(asked.requests)]
    old = msgspec.structs.replace(second, attempt=msgspec.structs.replace(second.attempt, asked=None))
    (outcome,) = await ended(kind, with_known(row, [old, first]))
    assert [one and one.value for one in outcome.completions] == [{"age": 1}, {"age": 2}]


# --- failures of jobs -------------------------------------------------------------------------------------------------


async def test_a_row_that_a_job_refused_fails_with_the_words_of_the_server() -> None:
    kind = chat_kind()
    outcome, _ = await by_jobs(kind, pending(kind), Server(in_order(NO_SENSE)))
    assert isinstance(outcome.error, BadRequest)
    assert (outcome.error.message, outcome.error.status) == ("max_tokens is too large", 422)
    assert outcome.attempts == 1


@pytest.mark.parametrize(
    "over", [Unauthorized("no such key", status=401), RateLimited("none", status=429, limits=RateLimits(0))]
)
async def test_what_ended_a_start_before_is_tried_by_the_next(over: MistillError) -> None:
    kind = chat_kind()
    row = pending(kind)
    outcome, sizes = await by_jobs(kind, row, Server(in_order(over, over, over, over, "hello")))
    assert outcome.error is None
    assert sizes == [1] * 5


async def test_an_answer_that_came_after_all_goes_before_a_failure() -> None:
    kind = chat_kind()
    row = pending(kind)
    asked = await replay(kind, [row])
    assert isinstance(asked, Collected)
    server = Server(in_order("late", NO_SENSE))
    known = [server.attempt(asked.requests[0], job) for job in (1, 2)]
    for order in (known, known[::-1]):
        (outcome,) = await ended(kind, with_known(row, order))
        assert [one and one.text for one in outcome.completions] == ["late"]


async def test_what_cannot_be_sent_and_what_nobody_foresaw_fails_its_row_alone() -> None:
    kind = chat_kind()
    row = msgspec.structs.replace(pending(kind), prepared=InputError("row 0: no text"))
    (outcome,) = await ended(kind, row)
    assert isinstance(outcome.error, InputError)


# --- texts that go together -------------------------------------------------------------------------------------------


def embedded(
    request: Request, kind: EmbeddingKind, first: int = 1, job: int | None = None
) -> list[KnownAttempt]:
    """What a ledger has of a request for embeddings that was answered: a part for each of its rows."""
    texts = json.loads(request.body)["input"]
    data = [{"index": place, "embedding": [len(text), 0.5]} for place, text in enumerate(texts)]
    usage = {"prompt_tokens": 10 * len(texts), "total_tokens": 10 * len(texts)}
    raw = json.dumps({"id": "e", "model": "mistral-embed", "data": data, "usage": usage}).encode()
    response = decode_embeddings(raw)
    answer = HTTPAnswer(response, raw, None, None, 0.0, usage_of(response), PRICE.cost(usage_of(response)))
    parts = kind.split(answer, [1] * len(texts))
    asked = crc32(request.body)
    known: list[KnownAttempt] = []
    for place, part in enumerate(parts):
        assert not isinstance(part, MistillError)
        attempt = Attempt(first + place, place, 0.0, None, first if len(texts) > 1 else None, job, asked)
        used = part.usage
        known.append(
            KnownAttempt(attempt, PaidAnswer(attempt, part.body, used.input_tokens, 0, 0, part.cost))
        )
    return known


def refused(request: Request, error: MistillError, first: int = 1, job: int = 1) -> list[KnownAttempt]:
    classify(error)
    asked, together = crc32(request.body), len(request.places) > 1
    return [
        KnownAttempt(
            Attempt(first + place, place, 0.0, None, first if together else None, job, asked),
            error=ErrorRecord.of(error),
        )
        for place in request.places
    ]


async def test_texts_that_went_together_each_have_their_part_again() -> None:
    kind = embedding_kind()
    rows = [pending(kind, text, number) for number, text in enumerate(["a", "bb", "ccc"])]
    asked = await replay(kind, rows)
    assert isinstance(asked, Collected)
    (request,) = asked.requests
    assert list(request.places) == [0, 1, 2]
    for row, known in zip(rows, embedded(request, kind), strict=True):
        (outcome,) = await ended(kind, row := with_known(row, [known]))
        assert row.stands_alone(kind.dispatcher.max_retries)
        (completion,) = kind.with_values(outcome)
        assert completion is not None
        assert completion.value == [len(row.row.record["text"]), 0.5]
        assert (completion.attempt_id, outcome.usage, outcome.cost) == (known.attempt.id, Usage(10), 1e-5)


async def test_one_text_has_its_vector_again() -> None:
    kind = embedding_kind()
    asked = await replay(kind, [row := pending(kind, "a")])
    assert isinstance(asked, Collected)
    (outcome,) = await ended(kind, with_known(row, embedded(asked.requests[0], kind)))
    assert outcome.usage == Usage(10)


async def test_of_texts_that_were_refused_together_each_is_asked_alone() -> None:
    kind = embedding_kind()
    rows = [pending(kind, text, number) for number, text in enumerate(["a", "bb"])]
    asked = await replay(kind, rows)
    assert isinstance(asked, Collected)
    known = refused(asked.requests[0], NO_SENSE)
    for row, one in zip(rows, known, strict=True):
        row = with_known(row, [one])
        assert kind.together([row, *rows]) == 1
        found = await replay(kind, [row])
        assert isinstance(found, Collected)
        (request,) = found.requests
        assert json.loads(request.body)["input"] == [row.row.record["text"]]
        again = refused(request, NO_SENSE, first=5, job=2)
        (outcome,) = await ended(kind, with_known(row, [one, *again]))
        assert isinstance(outcome.error, BadRequest)


@pytest.mark.parametrize(
    ("error", "failures", "size"),
    [
        (BUSY, 1, 3),
        (BUSY, 2, 1),
        (NO_KEY, 4, 3),
        (Forbidden("no", status=403), 1, 1),
    ],
)
async def test_texts_whose_request_failed_once_go_together_again(
    error: MistillError, failures: int, size: int
) -> None:
    kind = embedding_kind()
    rows = [pending(kind, text, number) for number, text in enumerate(["a", "bb", "ccc"])]
    asked = await replay(kind, rows)
    assert isinstance(asked, Collected)
    jobs = [refused(asked.requests[0], error, first=10 * job, job=job) for job in range(1, failures + 1)]
    rows = [with_known(row, [job[place] for job in jobs]) for place, row in enumerate(rows)]
    assert kind.together(rows) == size
    if size == 3:
        found = await replay(kind, rows)
        assert isinstance(found, Collected)
        assert found.requests[0].body == asked.requests[0].body


def test_an_answer_for_several_texts_is_shared_out_by_their_weights() -> None:
    kind = embedding_kind()
    data = [
        {"index": 0, "embedding": [1.0]},
        {"index": 1, "embedding": None},
        {"index": 2, "embedding": [3.0]},
    ]
    usage = {"prompt_tokens": 100, "total_tokens": 100}
    raw = json.dumps({"id": "e", "model": "m", "data": data, "usage": usage}).encode()
    response = decode_embeddings(raw)
    answer = HTTPAnswer(response, raw, None, None, 0.0, usage_of(response), 50e-6)
    first, second, third = kind.split(answer, [1, 7, 3])
    assert isinstance(second, MalformedAnswer)
    assert not isinstance(first, MistillError)
    assert not isinstance(third, MistillError)
    assert (first.usage, third.usage) == (Usage(25), Usage(75))
    assert (first.cost, third.cost) == (12.5e-6, 37.5e-6)
    assert chat_kind().split(answer, [1]) is None
