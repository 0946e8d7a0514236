"""Answers that repeat themselves without end: cut off while they come, asked again once, and counted."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.conftest import Simulate
from tests.runs.conftest import MODEL, Place

from mistill import InputError, MistralLLM, RepeatedAnswer, Run, Stopped
from mistill.runs.report import RunReport
from mistill.simulator import Simulator

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}, "n": {"type": "integer"}},
    "required": ["name", "n"],
}
GOOD = '{"name": "Ada", "n": 1}'
DIGITS = '{"n": 0.' + "3" * 60_000
SPACE = '{"name":' + "\n    " * 12_000
WORDS = '{"name": "' + "and so on, " * 6_000
LOOPS = pytest.mark.parametrize("loop", [DIGITS, SPACE, WORDS], ids=["digits", "space", "words"])


def structured(place: Place, texts: list[str], **settings: Any) -> Run:
    given = {"schema": SCHEMA} | settings.pop("structured_output", {})
    place.write(texts)
    return place.run(llm_settings={"structured_output": given}, **settings)


def streamed(simulator: Simulator) -> list[bool]:
    return [request.body.get("stream", False) for request in simulator.requests if request.body]


@LOOPS
def test_an_answer_that_repeats_itself_is_cut_off_and_asked_again(
    place: Place, simulator: Simulator, loop: str
) -> None:
    simulator.script([loop], when=lambda body: body["messages"][-1]["content"] == "Ada")
    report = structured(place, ["Ada", "Bea"]).start()
    assert report.failures == 0
    assert all(json.loads(answer or "")["n"] is not None for answer in place.answers())
    again = next(request.body for request in simulator.requests if len(request.body["messages"]) > 1)
    first, correction = again["messages"]
    assert first == {"role": "user", "content": "Ada"}
    assert correction["role"] == "user"
    assert correction["content"].startswith("the answer repeats itself: cut after ")
    assert max(record["output_tokens"] for record in place.records()) > 100  # with what was cut off


@LOOPS
def test_one_that_repeats_itself_twice_fails(
    place: Place, simulator: Simulator, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.script([loop] * 4)
    report = structured(place, ["Ada"]).start()
    assert (report.failures, len(simulator.requests)) == (1, 2)
    (record,) = place.records()
    assert record["generation"] is None
    assert record["finish_reason"] == "repetition"
    assert record["error"].startswith("repeated_answer: the answer repeats itself: cut after ")
    assert "loop_guard=False" in record["error"]
    assert "the answer repeats itself" in str(report)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


def test_one_that_may_not_be_asked_again_fails_at_once(place: Place, simulator: Simulator) -> None:
    simulator.script([DIGITS] * 2)
    report = structured(place, ["Ada"], structured_output={"max_retries": 0}).start()
    assert (report.failures, len(simulator.requests)) == (1, 1)


def test_a_misfit_and_a_loop_are_asked_again_together_as_often_as_may_be(
    place: Place, simulator: Simulator
) -> None:
    simulator.script(["{}", DIGITS, "{}", "{}", GOOD])
    structured(place, ["Ada"], structured_output={"max_retries": 2}).start()
    assert len(simulator.requests) == 3


def test_white_space_behind_a_whole_answer_does_no_harm(place: Place, simulator: Simulator) -> None:
    simulator.script([GOOD + " " * 60_000])
    structured(place, ["Ada"]).start()
    assert place.answers() == [GOOD]
    assert len(simulator.requests) == 1


def test_a_number_that_was_cut_is_no_answer(place: Place, simulator: Simulator) -> None:
    simulator.script(["1" * 60_000] * 2)
    place.write(["Ada"])
    place.run(llm_settings={"structured_output": {"schema": {"type": "integer"}}}).start()
    assert place.records()[0]["error"].startswith("repeated_answer")


def test_json_without_a_schema_fails_too(place: Place, simulator: Simulator) -> None:
    simulator.script([SPACE, GOOD + "\n" * 60_000, GOOD])
    place.write(["Ada", "Bea", "Cleo"])
    form = {"response_format": {"type": "json_object"}}
    report = place.run(parameters=form, llm_settings={"max_concurrent_requests": 1}).start()
    assert report.failures == 1
    first, second, third = place.records()
    assert first["error"].startswith("repeated_answer")
    assert (second["generation"].strip(), third["generation"]) == (GOOD, GOOD)


# --- which requests are watched -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "guard", "watched"),
    [
        ({}, None, True),
        ({"max_new_tokens": 2048}, None, True),
        ({"max_new_tokens": 2047}, None, False),
        ({"max_new_tokens": 500}, True, True),
        ({}, False, False),
        ({"logprobs": True}, None, False),
    ],
)
@pytest.mark.beyond_the_spec("logprobs")
def test_what_may_be_long_is_watched(
    place: Place, simulator: Simulator, parameters: dict[str, Any], guard: bool | None, watched: bool
) -> None:
    structured(place, ["Ada"], parameters=parameters, loop_guard=guard).start()
    assert streamed(simulator) == [watched]


def test_what_is_no_json_is_not(place: Place, simulator: Simulator) -> None:
    place.write(["Ada"])
    place.run().start()
    assert streamed(simulator) == [False]


@pytest.mark.beyond_the_spec("stream_options is of another dialect")
@pytest.mark.parametrize(("guard", "options"), [(None, None), (True, {"include_usage": True})])
def test_other_servers_are_asked_for_streams_only_where_somebody_says_so(
    place: Place, simulate: Simulate, guard: bool | None, options: Any
) -> None:
    bodies: list[Any] = []
    simulator = simulate()
    simulator.script([GOOD], when=lambda body: bool(bodies.append(body)))
    place.write(["Ada"])
    llm = MistralLLM(
        model=MODEL,
        endpoint=simulator.url,
        dialect="openai",
        structured_output={"schema": SCHEMA},
        max_retries=0,
    )
    Run(place.input, llm=llm, prompt="{{ text }}", out=place.out, loop_guard=guard).start()
    assert bodies[0].get("stream_options") == options


@pytest.mark.parametrize("mode", [None, "tools", "md_json"])
def test_a_guard_with_nothing_to_watch_is_refused(place: Place, mode: str | None) -> None:
    settings: dict[str, Any] = {} if mode is None else {"structured_output": {"schema": SCHEMA, "mode": mode}}
    place.write(["Ada"])
    with pytest.raises(InputError, match="loop_guard=True watches"):
        place.run(llm_settings=settings, loop_guard=True)


def test_batch_jobs_are_not_streamed(place: Place, simulator: Simulator) -> None:
    report = structured(place, ["Ada", "Bea"], lane="batch", batch_tail=0, loop_guard=True).start()
    assert report.completions == 2
    assert not any(streamed(simulator))


# --- the same run, and the same bill ---------------------------------------------------------------------------------


def summed(report: RunReport) -> Any:
    return (
        report.input_tokens,
        report.output_tokens,
        report.cached_tokens,
        report.cost,
        report.answers_by_model,
    )


@pytest.mark.parametrize("guard", [None, False])
def test_a_watched_run_costs_what_the_server_bills(
    simulate: Simulate, tmp_path: Path, guard: bool | None
) -> None:
    simulator = simulate(cache_hits=1, service_tier="priority", answered_by={MODEL: "mistral-small-2603"})
    place = Place(tmp_path, simulator.url)
    texts = [f"row {number}" for number in range(30)]
    report = structured(place, texts, system="Be brief. " * 60, loop_guard=guard).start()
    billed = simulator.stats()
    assert summed(report)[:3] == (billed.input_tokens, billed.output_tokens, billed.cached_tokens)
    assert report.cached_tokens > 0
    assert report.cost == pytest.approx(billed.cost)
    assert [(one.model, one.answers) for one in report.answers_by_model] == [("mistral-small-2603", 30)]


def test_a_run_goes_on_with_the_guard_or_without(place: Place, simulator: Simulator) -> None:
    structured(place, ["Ada", "Bea", "Cleo"], limit=1, loop_guard=False).start()
    structured(place, ["Ada", "Bea", "Cleo"], limit=2).start()
    report = structured(place, ["Ada", "Bea", "Cleo"], loop_guard=False).start()
    assert (report.completions, len(simulator.requests)) == (3, 3)
    assert streamed(simulator) == [False, True, False]


def test_a_budget_of_tokens_counts_what_was_cut_off(place: Place, simulator: Simulator) -> None:
    simulator.script([WORDS] * 40)
    texts = [f"row {number}" for number in range(20)]
    given = {"structured_output": {"schema": SCHEMA, "max_retries": 0}, "max_concurrent_requests": 1}
    place.write(texts)
    report = place.run(llm_settings=given, max_tokens_total=8_000).start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert 2 <= len(simulator.requests) <= 5  # each takes more than 2,000 until it is cut
    report = place.run(llm_settings=given, max_tokens_total=8_000).start()
    assert 2 <= len(simulator.requests) <= 5


def test_a_killed_run_does_not_pay_for_a_loop_again(place: Place, simulator: Simulator) -> None:
    """It is killed as the second question leaves, and knows what the first was cut off for."""
    simulator.script([DIGITS])
    place.write(["Ada"])
    code = f"""
import os
from mistill import MistralLLM, Run
from mistill.estimates.attempt_recorder import AttemptRecorder
sending, seen = AttemptRecorder.sending, []
async def killed(self, request):
    seen.append(request)
    recorded = await sending(self, request)
    if len(seen) == 2:
        os.kill(os.getpid(), 9)
    return recorded
AttemptRecorder.sending = killed
llm = MistralLLM(model={MODEL!r}, endpoint={place.endpoint!r}, structured_output={{"schema": {SCHEMA!r}}})
Run({str(place.input)!r}, llm=llm, prompt="{{{{ text }}}}", out={str(place.out)!r}).start()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(simulator.requests) == 1
    report = structured(place, ["Ada"]).start()
    assert (report.completions, len(simulator.requests)) == (1, 2)
    assert len(simulator.requests[1].body["messages"]) == 2


def test_the_error_is_one_that_can_be_caught_and_chosen(place: Place, simulator: Simulator) -> None:
    simulator.script([DIGITS] * 2)
    run = structured(place, ["Ada"])
    (outcome,) = list(run)
    assert isinstance(outcome.error, RepeatedAnswer)
    report = run.retry("error=repeated_answer", loop_guard=False).start()
    assert report.completions == 1
    assert streamed(simulator) == [True, True, False]


@pytest.mark.parametrize("mode", ["json_schema"])
def test_the_mode_of_instructor_fails_at_once(
    place: Place, simulator: Simulator, mode: Literal["json_schema"]
) -> None:
    pytest.importorskip("instructor")
    simulator.script([DIGITS, GOOD + " " * 60_000])
    settings = {"structured_output": {"schema": SCHEMA, "mode": mode}, "max_concurrent_requests": 1}
    place.write(["Ada", "Bea"])
    place.run(llm_settings=settings).start()
    first, second = place.records()
    assert first["error"].startswith("repeated_answer")
    assert json.loads(second["generation"]) == json.loads(GOOD)
    assert len(simulator.requests) == 2


def test_an_audit_finds_nothing_of_it_unexplained(place: Place, simulator: Simulator) -> None:
    simulator.change(token_time_s=0.0002)
    simulator.script([WORDS, DIGITS, SPACE])
    run = structured(place, [f"row {number}" for number in range(6)])
    run.start()
    simulator.wait_until(lambda: simulator.in_flight == 0)
    audit = run.audit(admin_key="an-admin-key")
    assert audit.difference is not None
    assert audit.difference.unexplained.amount == 0
    assert audit.difference.estimates.output_tokens >= 0  # the server had made more by the time it saw us go
