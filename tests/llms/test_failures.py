"""Failures: one row's loses no other's answer, what can be retried is, and what no row survives ends the call."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from mistill.errors import (
    AttemptTimeout,
    BadRequest,
    Disconnected,
    MistillError,
    NothingAnswers,
    RateLimited,
    Stopped,
    Unauthorized,
)
from mistill.llms import GenerationError, MistralLLM
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]


def test_a_poisoned_row_leaves_the_other_40_answered(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    inputs = [f"row {number}" if number != 17 else "poison" for number in range(41)]
    with pytest.raises(GenerationError, match="1 of 41 rows failed; the first is row 17") as caught:
        make_llm().generate(inputs)
    assert isinstance(caught.value, ExceptionGroup)
    assert caught.value.outputs == [[f"Echo: {text}"] if text != "poison" else None for text in inputs]
    assert list(caught.value.failures) == [17]
    error = caught.value.failures[17]
    assert isinstance(error, BadRequest)
    assert error.status == 400
    assert error.correlation_id
    assert simulator.counts_by_status == {200: 40, 400: 1}


def test_on_error_none_returns_instead(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    assert make_llm().generate(["a", "poison", "b"], on_error="none") == [["Echo: a"], None, ["Echo: b"]]


def test_a_generation_error_survives_pickling(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    with pytest.raises(GenerationError) as caught:
        make_llm().generate(["a", "poison"])
    copy: Any = pickle.loads(pickle.dumps(caught.value))
    assert copy.outputs == [["Echo: a"], None]
    poisoned: Any = caught.value.failures[1]
    assert copy.failures[1].correlation_id == poisoned.correlation_id


def test_a_mix_of_faults_at_40_percent_loses_nothing(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(faults={"429": 0.1, "503": 0.1, "disconnect": 0.1, "truncate": 0.1})
    inputs = [f"row {number}" for number in range(200)]
    assert make_llm(max_retries=20).generate(inputs) == [[f"Echo: {text}"] for text in inputs]
    assert simulator.counts_by_status[429]
    assert simulator.counts_by_status[503]


@pytest.mark.parametrize("form", ["detail", "message"])
def test_a_refused_key_stops_the_call_at_once(simulator: Simulator, make_llm: MakeLLM, form: str) -> None:
    simulator.change(api_keys=frozenset({"another"}), unauthorized_form=form)
    llm = make_llm(max_concurrent_requests=2)
    with pytest.raises(GenerationError) as caught:
        llm.generate([f"row {number}" for number in range(100)], on_error="none")
    first_two = [type(caught.value.failures[row]) for row in (0, 1)]
    assert Unauthorized in first_two  # both are in flight, and either may be the first to be refused
    assert isinstance(caught.value.failures[99], Stopped)
    assert isinstance(caught.value.failures[99].__cause__, Unauthorized)
    assert len(caught.value.failures) == 100
    assert len(simulator.requests) <= 2


@pytest.mark.parametrize("num_generations", [1, 2])
def test_a_wrong_model_stops_the_call_at_once(
    simulator: Simulator, make_llm: MakeLLM, num_generations: int
) -> None:
    llm = make_llm(model="mistral-smal-latest", max_concurrent_requests=2)
    with pytest.raises(GenerationError) as caught:
        llm.generate(["row"] * 50, num_generations, on_error="none")
    # Of two that are under way at once either may be the one that ends the call.
    ended = "\n".join(f"{failure} {failure.__cause__}" for failure in caught.value.failures.values())
    assert re.search(r"Invalid model: mistral-smal-latest.*llm.models\(\) lists the models", ended)
    assert len(simulator.requests) <= 2


def test_a_key_that_may_never_use_the_model_stops_the_call(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(requests_per_minute=0)
    with pytest.raises(GenerationError, match="may not use it") as caught:
        make_llm(max_concurrent_requests=2).generate(["row"] * 20)
    assert isinstance(caught.value.failures[0], RateLimited)
    assert len(simulator.requests) <= 2


def test_retries_end_at_max_retries(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.status(503)] * 10)
    with pytest.raises(GenerationError, match="503"):
        make_llm(max_retries=2).generate(["Hello"])
    assert len(simulator.requests) == 3


def test_the_attempts_of_a_failed_row_are_counted(simulator: Simulator, make_llm: MakeLLM) -> None:
    llm = make_llm(max_retries=2)
    simulator.script([Fault.disconnect()] * 3)
    (plain,) = llm.outcomes(["Hello"])
    simulator.script(['{"a": 1}', *[Fault.disconnect()] * 3])
    (asked_again,) = llm.outcomes([("Hello", {"schema": {"type": "string"}, "max_retries": 1})])
    assert [plain.attempts, asked_again.attempts] == [3, 4]
    assert [type(outcome.error) for outcome in (plain, asked_again)] == [Disconnected, Disconnected]


def test_no_retries_are_no_retries(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.disconnect()])
    with pytest.raises(GenerationError):
        make_llm(max_retries=0).generate(["Hello"])
    assert len(simulator.requests) == 1


def test_a_timeout_of_half_a_second_is_kept(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.delay(30), Fault.stall(), "late but whole"])
    assert make_llm(timeout=0.5).generate(["Hello"]) == [["late but whole"]]
    assert [request.status for request in simulator.requests] == [0, 0, 200]


def test_a_timeout_says_what_to_do(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.delay(30)])
    with pytest.raises(GenerationError) as caught:
        make_llm(timeout=0.2, max_retries=0).generate(["Hello"])
    error = caught.value.failures[0]
    assert isinstance(error, AttemptTimeout)
    assert "no answer within 0.2 s (raise timeout" in str(error)


def test_where_nothing_ever_answered_a_call_ends_at_once(make_llm: MakeLLM, unused_tcp_port: int) -> None:
    endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(GenerationError) as caught:
        make_llm(endpoint=endpoint, max_retries=1_000).generate(["Hello"] * 100)
    told = {str(error) for error in caught.value.failures.values() if isinstance(error, NothingAnswers)}
    assert len(caught.value.failures) == 100
    assert all(text.startswith(f"nothing answers at {endpoint}: ") for text in told)
    assert any("refused" in text and "is the endpoint right" in text for text in told)


def test_nobody_listening_is_told_with_the_address(make_llm: MakeLLM, unused_tcp_port: int) -> None:
    endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(GenerationError, match=f"cannot connect to {endpoint}"):
        make_llm(endpoint=endpoint, max_retries=1).generate(["Hello"])


async def test_an_error_names_no_key(simulator: Simulator, make_llm: MakeLLM) -> None:
    echo = {"message": "the key a-key-for-tests is not known", "type": "auth"}
    simulator.script([Fault.status(401, echo)])
    with pytest.raises(MistillError) as caught:
        await make_llm().agenerate("Hello")
    assert "[api key] is not known" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "a-key-for-tests" not in f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__


class Odd(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def _stumbles(cls, text: str) -> str:
        raise ZeroDivisionError(text)


def test_whatever_reading_an_answer_comes_to_costs_one_row(simulator: Simulator, make_llm: MakeLLM) -> None:
    odd: Any = ('<<answer: {"text": "b"}>>', {"schema": Odd})
    first, second, third = make_llm().outcomes(["a", odd, "c"])
    assert first.error is None
    assert third.error is None
    assert isinstance(second.error, MistillError)
    assert "ZeroDivisionError" in str(second.error)
    assert second.usage.input_tokens > 0  # it was paid


@pytest.mark.parametrize("seconds", ["1e300", "99999999999999999999", "-5", "soon", "nan", "inf", "0x10"])
@pytest.mark.parametrize("status", [400, 422, 500])
def test_one_rows_odd_retry_after_holds_no_other_row(
    simulator: Simulator, make_llm: MakeLLM, seconds: str, status: int
) -> None:
    simulator.script([Fault.status(status, None, {"retry-after": seconds})])
    outcomes = make_llm(max_concurrent_requests=1, max_retries=0).outcomes([f"row {n}" for n in range(20)])
    assert [outcome.error is None for outcome in outcomes].count(False) == 1
