"""Spans and metrics of requests, attempts, jobs and runs, by the conventions for generative AI."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from tests.conftest import Simulate
from tests.runs.conftest import MODEL, Place
from tests.telemetry.conftest import Told

from mistill import InputError, MistralEmbeddings, MistralLLM, Run
from mistill.api.chat import Delta
from mistill.delivery.dispatcher import Delivered, Dispatcher, Request
from mistill.delivery.observers import ObserversTogether
from mistill.errors import BadRequest, MistillError, Stopped
from mistill.simulator import Fault, Simulator
from mistill.telemetry import names, slowness
from mistill.telemetry.content import StreamedMessage
from mistill.telemetry.providers import CONTENT_VARIABLE, PROPAGATORS_VARIABLE, wanted
from mistill.testing import without_waiting

CHAT = f"chat {MODEL}"
POST = "POST /v1/chat/completions"
SECRET = "what nobody else may read"


def llm_of(simulator: Simulator, **settings: Any) -> MistralLLM:
    return MistralLLM(model=MODEL, endpoint=simulator.url, **settings)


def parents(told: Told) -> set[tuple[str, str | None]]:
    """Each span's name, and its parent's."""
    by_id = {span.context.span_id: span.name for span in told.spans()}
    return {(span.name, by_id.get(span.parent.span_id) if span.parent else None) for span in told.spans()}


def test_a_request_has_a_span_with_what_was_asked_and_answered(told: Told, simulator: Simulator) -> None:
    llm_of(simulator).generate(["Hello"], temperature=0.5, max_new_tokens=20, random_seed=7, stop=["."])
    span = told.span(CHAT)
    host, port = simulator.url.removeprefix("http://").split(":")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": (".",),
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "server.address": host,
        "server.port": int(port),
        "mistill.attempts": 1,
        "mistill.lane": "live",
    }
    attributes = dict(span.attributes)
    assert attributes.pop("gen_ai.response.id")
    assert attributes.pop("mistill.cost") > 0
    usage = {
        name: attributes.pop(name) for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    }
    assert min(usage.values()) > 0
    assert attributes == {name: value for name, value in expected.items() if name not in usage}
    assert (span.kind.name, span.status.status_code.name) == ("CLIENT", "UNSET")
    attempt = told.span(POST)
    assert attempt.parent.span_id == span.context.span_id
    assert attempt.attributes["http.response.status_code"] == 200
    assert attempt.attributes["url.full"] == simulator.url + "/v1/chat/completions"
    assert attempt.attributes["mistill.queue_time"] >= 0
    assert "http.request.resend_count" not in attempt.attributes
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="input") == usage["gen_ai.usage.input_tokens"]
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="output") == usage["gen_ai.usage.output_tokens"]
    assert told.count(names.OPERATION_DURATION, RESPONSE_MODEL=MODEL) == 1
    assert told.count(names.ATTEMPT_DURATION, STATUS_CODE=200) == 1


def test_each_attempt_says_why_it_was_made(told: Told, simulator: Simulator) -> None:
    simulator.script([Fault.status(503), Fault.status(429)])
    with without_waiting():
        llm_of(simulator).generate(["Hello"])
    attempts = told.spans(POST)
    seen = [
        (
            span.attributes["http.response.status_code"],
            span.attributes.get("http.request.resend_count"),
            span.attributes.get("mistill.retry.cause"),
            span.attributes.get("error.type"),
            span.status.status_code.name,
        )
        for span in attempts
    ]
    assert seen == [
        (503, None, None, "server_error", "ERROR"),
        (429, 1, "server_error", "rate_limited", "ERROR"),
        (200, 2, "rate_limited", None, "UNSET"),
    ]
    assert told.span(CHAT).attributes["mistill.attempts"] == 3
    assert told.count(names.RETRIES, ERROR_TYPE="server_error") == 1
    assert told.count(names.RETRIES, ERROR_TYPE="rate_limited") == 1
    assert told.count(names.QUEUE_DURATION) == 3


def test_what_fails_is_told_by_its_kind_and_not_in_words_that_may_be_a_prompts(
    told: Told, simulator: Simulator
) -> None:
    simulator.script([Fault.status(400, {"message": f"cannot read {SECRET!r}"})])
    outcome = llm_of(simulator).outcomes([SECRET])[0]
    assert isinstance(outcome.error, BadRequest)
    for span in told.spans():
        assert span.attributes["error.type"] == "bad_request"
        assert span.status.status_code.name == "ERROR"
        assert SECRET not in span.to_json()
    assert told.count(names.OPERATION_DURATION, ERROR_TYPE="bad_request") == 1
    assert told.points(names.TOKEN_USAGE) == []


@pytest.mark.parametrize(
    ("variable", "given", "is_told"),
    [
        (None, None, False),
        ("SPAN_ONLY", None, True),
        ("span_and_event", None, True),
        ("true", None, True),
        ("EVENT_ONLY", None, False),
        ("NO_CONTENT", None, False),
        (None, True, True),
        ("SPAN_ONLY", False, False),
    ],
)
def test_prompts_and_answers_are_told_where_that_is_asked_for(
    told: Told,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    given: bool | None,
    is_told: bool,
) -> None:
    if variable is not None:
        monkeypatch.setenv(CONTENT_VARIABLE, variable)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SECRET}]
    llm_of(simulator, trace_content=given).generate([messages])
    span = told.span(CHAT)
    assert (SECRET in "".join(one.to_json() for one in told.spans())) is is_told
    if is_told:
        assert json.loads(span.attributes["gen_ai.input.messages"]) == [
            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
            {"role": "user", "parts": [{"type": "text", "content": SECRET}]},
        ]
        assert json.loads(span.attributes["gen_ai.output.messages"]) == [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": f"Echo: {SECRET}"}],
                "finish_reason": "stop",
            }
        ]


def test_pictures_are_no_part_of_a_trace(told: Told, simulator: Simulator) -> None:
    chunks = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": "https://example.org/cat.png"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    llm_of(simulator, trace_content=True).generate([[{"role": "user", "content": chunks}]])
    (message,) = json.loads(told.span(CHAT).attributes["gen_ai.input.messages"])
    assert message["parts"] == [
        {"type": "text", "content": "What is it?"},
        {"type": "uri", "modality": "image", "uri": "https://example.org/cat.png"},
        {"type": "blob", "modality": "image"},
    ]


class Reply(BaseModel):
    text: str


def test_an_answer_by_a_schema_is_of_the_type_json(told: Told, simulator: Simulator) -> None:
    llm_of(simulator).generate(["Hello"], structured_output={"schema": Reply})
    assert told.span(CHAT).attributes["gen_ai.output.type"] == "json"


def test_a_stream(told: Told, simulator: Simulator) -> None:
    pieces = list(llm_of(simulator, trace_content=True).stream("Hello"))
    assert "".join(piece.text for piece in pieces) == "Echo: Hello"
    span = told.span(CHAT)
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert "Echo: Hello" in span.attributes["gen_ai.output.messages"]
    assert told.span(POST).parent.span_id == span.context.span_id
    assert told.count(names.FIRST_CHUNK_DURATION) == 1
    assert told.count(names.TOKEN_USAGE) == 2


def test_a_stream_that_is_left_has_its_spans_ended(told: Told, simulator: Simulator) -> None:
    stream = llm_of(simulator).stream("Hello, tell me of the sea, and of the ships on it.")
    next(stream)
    stream.close()
    simulator.wait_until(lambda: bool(told.spans(CHAT)))
    for span in told.spans():  # it is no failure
        assert "error.type" not in span.attributes
        assert span.status.status_code.name == "UNSET"
    assert "gen_ai.response.finish_reasons" not in told.span(CHAT).attributes


def test_a_streamed_answer_is_told_with_its_reasoning_and_calls_as_a_whole_one_is() -> None:
    message = StreamedMessage()
    for delta in (
        {"content": ""},
        {"reasoning_content": "why"},
        {"reasoning": " not"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "; hm"}]}]},
        {"content": [{"type": "text", "text": "forty"}]},
        {"content": "-two"},
        {"content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "!"}]},
        {"tool_calls": [{"id": "c1", "index": 0, "function": {"name": "f", "arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    ):
        message.add(msgspec.convert(delta, Delta))
    assert json.loads(message.messages("stop")) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "why not; hm"},
                {"type": "text", "content": "forty-two"},
                {"type": "reference"},
                {"type": "text", "content": "!"},
                {"type": "tool_call", "id": "c1", "name": "f", "arguments": '{"a": 1}'},
            ],
            "finish_reason": "stop",
        }
    ]


def test_embeddings(told: Told, simulator: Simulator) -> None:
    llm = MistralEmbeddings(model="mistral-embed", endpoint=simulator.url, output_dimension=8)
    llm.embed(["a", "b", "c"])
    span = told.span("embeddings mistral-embed")
    assert span.attributes["gen_ai.operation.name"] == "embeddings"
    assert span.attributes["gen_ai.embeddings.dimension.count"] == 8
    assert span.attributes["mistill.rows"] == 3
    assert told.count(names.TOKEN_USAGE, TOKEN_TYPE="output") == 0
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="input") > 0


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_has_a_span_above_those_of_its_requests(told: Told, place: Place, simulator: Simulator) -> None:
    place.write([f"row {number}" for number in range(5)])
    from opentelemetry import trace

    with trace.get_tracer("mine").start_as_current_span("mine"):
        report = place.run().start()
    assert parents(told) == {("mine", None), (f"run {MODEL}", "mine"), (CHAT, f"run {MODEL}"), (POST, CHAT)}
    span = told.span(f"run {MODEL}")
    assert span.attributes["mistill.run.answered"] == len(told.spans(CHAT)) == 5
    assert span.attributes["mistill.run.input_tokens"] == report.input_tokens
    assert not any(name.startswith("gen_ai") for name in span.attributes), "else they are counted twice"
    assert span.attributes["mistill.run.kind"] == "chat"
    assert span.status.status_code.name == "UNSET"
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="input") == report.input_tokens
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="output") == report.output_tokens


async def test_a_run_of_a_coroutine_is_below_its_callers_span(told: Told, place: Place) -> None:
    place.write(["row"])
    from opentelemetry import trace

    with trace.get_tracer("mine").start_as_current_span("mine"):
        await place.run().astart()
    assert (f"run {MODEL}", "mine") in parents(told)


def test_the_journal_of_a_run_is_the_same_with_somebody_who_looks(
    told: Told, place: Place, simulator: Simulator
) -> None:
    place.write([f"row {number}" for number in range(8)])
    simulator.script([Fault.status(503), Fault.status(400), Fault.disconnect()])
    watched = place.run(llm_settings={"max_concurrent_requests": 1}).start()
    assert len(told.spans(POST)) == watched.attempts == len(simulator.requests)
    assert (watched.completions, watched.failures, watched.maybe_billed) == (7, 1, 1)
    again = place.run().start()
    assert again.completions == 8


def test_a_run_that_is_stopped_says_why(told: Told, place: Place, simulator: Simulator) -> None:
    place.write(["row"] * 5)
    place.run(max_tokens_total=1).start()
    span = told.span(f"run {MODEL}")
    assert span.attributes["mistill.run.stopped"] == "budget"
    assert span.status.status_code.name == "UNSET"


def test_a_key_that_is_refused_is_an_error_of_the_run(told: Told, place: Place, simulate: Simulate) -> None:
    other = simulate(api_keys=["another"])
    place.write(["row"])
    run = Run(place.input, llm=llm_of(other), prompt="{{ text }}", out=place.out, on_stop="return")
    run.start()
    assert told.span(f"run {MODEL}").attributes["error.type"] == "unauthorized"


def test_a_batch_job_has_a_span(told: Told, place: Place, simulator: Simulator) -> None:
    place.write([f"row {number}" for number in range(5)])
    report = place.run(lane="batch").start()
    span = told.span(f"batch {MODEL}")
    assert span.attributes["mistill.job.lines"] == span.attributes["mistill.job.answered"] == 5
    assert span.attributes["mistill.job.id"] == report.jobs[0].id
    assert (f"batch {MODEL}", f"run {MODEL}") in parents(told)
    assert not any(name.startswith("gen_ai") for name in span.attributes)
    assert span.end_time >= span.start_time
    assert told.total(names.TOKEN_USAGE, TOKEN_TYPE="input", LANE="batch") == report.input_tokens


def test_who_is_told_may_be_configured_after_the_run_was_made(
    place: Place, simulator: Simulator, request: pytest.FixtureRequest
) -> None:
    place.write(["row"])
    run = place.run()
    told: Told = request.getfixturevalue("told")
    run.start()
    assert len(told.spans(CHAT)) == 1


# --- where the trace goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "goes"), [(None, False), ("none", False), ("tracecontext", True)])
def test_the_trace_goes_to_the_server_where_a_propagator_is_asked_for(
    told: Told,
    place: Place,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    goes: bool,
) -> None:
    if variable is not None:
        monkeypatch.setenv(PROPAGATORS_VARIABLE, variable)
    place.write(["row"])
    place.run().start()
    (request,) = simulator.requests
    header = {name.lower(): value for name, value in request.headers.items()}.get("traceparent")
    attempt = told.span(POST).context
    expected = f"00-{attempt.trace_id:032x}-{attempt.span_id:016x}-{attempt.trace_flags:02x}"
    assert header == (expected if goes else None)


# --- nobody is told ---------------------------------------------------------------------------------------------------


def test_nobody_is_told_where_nobody_has_configured_anything(simulator: Simulator) -> None:
    assert wanted() is None
    llm = llm_of(simulator)
    assert type(llm.generation().dispatcher) is Dispatcher


def test_nothing_of_it_is_loaded(simulator: Simulator, tmp_path: Path) -> None:
    code = f"""
import sys
from mistill import MistralLLM, Run
llm = MistralLLM(model={MODEL!r}, endpoint={simulator.url!r})
Run([{{"text": "a"}}], llm=llm, prompt="{{{{ text }}}}", out={str(tmp_path / "out.jsonl")!r}).start()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


# --- observers --------------------------------------------------------------------------------------------------------


class Numbered:
    def __init__(self, number: int) -> None:
        self.id = number


class Notes:
    """An observer that notes what it sees."""

    def __init__(self, number: int, fails: str | None = None) -> None:
        self.headers: Mapping[str, str] | None = {f"x-{number}": "1"}
        self.seen: list[str] = []
        self._number = number
        self._fails = fails

    async def sending(self, request: Request) -> list[Numbered]:
        self._note("sending")
        return [Numbered(self._number)]

    def answered(self, recorded: Sequence[Any], delivered: Delivered[Any]) -> Delivered[Any]:
        assert [one.id for one in recorded] == [self._number]
        self._note("answered")
        return delivered

    def ended(self, recorded: Sequence[Any], error: MistillError) -> None:
        assert [one.id for one in recorded] == [self._number]
        self._note(f"ended: {error.kind}")

    def _note(self, what: str) -> None:
        self.seen.append(what)
        if self._fails == what:
            raise InputError(f"no {what}")


def sent(simulator: Simulator, *observers: Notes) -> Delivered[Any]:
    first, second, third = observers
    together = ObserversTogether(ObserversTogether(first, second), third)
    dispatcher = llm_of(simulator).generation().dispatcher
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
    return asyncio.run(dispatcher.send(Request(json.dumps(body).encode()), observer=together))


def test_observers_see_the_same_and_the_first_keeps_the_journal(simulator: Simulator) -> None:
    simulator.script([Fault.status(503)])
    notes = [Notes(number) for number in (1, 2, 3)]
    with without_waiting():
        delivered = sent(simulator, *notes)
    assert [one.id for one in delivered.recorded] == [1]
    assert {tuple(one.seen) for one in notes} == {("sending", "ended: server_error", "sending", "answered")}
    headers = {name.lower() for name in simulator.requests[0].headers}
    assert {"x-1", "x-2", "x-3"} <= headers


@pytest.mark.parametrize(
    ("place", "fails", "expected"),
    [
        (0, "sending", [["sending"], [], []]),
        (1, "sending", [["sending", "ended: stopped"], ["sending"], []]),
        (2, "sending", [["sending", "ended: stopped"], ["sending", "ended: stopped"], ["sending"]]),
        (
            0,
            "answered",
            [["sending", "answered"], ["sending", "ended: bad_input"], ["sending", "ended: bad_input"]],
        ),
    ],
)
def test_where_one_of_them_fails_the_others_hear_of_the_end(
    simulator: Simulator, place: int, fails: str, expected: list[list[str]]
) -> None:
    notes = [Notes(number, fails if number == place else None) for number in range(3)]
    with pytest.raises(InputError, match=f"no {fails}"):
        sent(simulator, *notes)
    found = [[re.sub("ended: (?!stopped).*", "ended: bad_input", what) for what in one.seen] for one in notes]
    assert found == expected


def test_a_request_that_is_cancelled_ends_its_spans(told: Told, simulator: Simulator) -> None:
    simulator.change(latency_s=3600.0)
    llm = llm_of(simulator)

    async def leave() -> None:
        task = asyncio.create_task(llm.agenerate("Hello"))
        await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert told.span(CHAT).attributes["error.type"] == "CancelledError"
    assert told.span(POST).attributes["error.type"] == Stopped.kind


@pytest.mark.parametrize("when", ["on_start", "on_end"])
def test_whoever_is_told_and_fails_costs_no_answer(
    told: Told, place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor

    class Fails(SpanProcessor):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("somebody's own fault")

    setattr(Fails, when, fail)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Fails())
    place.write(["one", "two", "three"])
    report = place.run().start()
    assert (report.completions, report.failures, len(simulator.requests)) == (3, 0, 3)


@pytest.mark.parametrize("seconds", [0.0, 0.006])
def test_a_processor_that_holds_up_the_requests_is_said_once(
    told: Told,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor

    class Slow(SpanProcessor):
        def on_end(self, span: Any) -> None:
            time.sleep(seconds)

    monkeypatch.setattr(slowness, "_ends", slowness._Ends())
    trace.get_tracer_provider().add_span_processor(Slow())  # pyright: ignore[reportAttributeAccessIssue]  of the SDK
    llm_of(simulator).generate(["Hello"] * 20)
    assert caplog.text.count("give your exporter to a BatchSpanProcessor") == bool(seconds)


def test_an_exporter_that_becomes_slow_is_said_too_and_one_halt_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = slowness._Ends()
    for seconds in [0.0] * 40 + [60.0] + [0.0] * 40:
        ends.note(seconds)
    assert caplog.text == ""
    for _ in range(100):
        ends.note(0.02)
    assert caplog.text.count("takes 20 ms to be told of each span") == 1
