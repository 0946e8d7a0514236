"""Faults, one by one and by rate; scripts; outages."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from pydantic import ValidationError
from tests.conftest import Simulate
from tests.simulator.conftest import Ask

from mistill.simulator import Answer, Fault, Settings, Simulator

JSON_MODE = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("429", 429, "1300"), ("capacity", 429, "3505"), ("500", 500, "3000"), ("503", 503, "3000")],
)
def test_error_statuses_have_mistrals_bodies(
    simulate: Simulate, ask: Ask, name: str, status: int, code: str
) -> None:
    got = ask(simulate(faults={name: 1}))
    assert (got.status, got.json["code"]) == (status, code)
    assert got.headers["mistral-correlation-id"]


def test_plain_text_503(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(faults={"503_text": 1}))
    assert got.status == 503
    assert got.headers["content-type"] == "text/plain"
    assert got.text.startswith("upstream connect error")


def test_html_with_status_200(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(faults={"html": 1}))
    assert (got.status, got.headers["content-type"]) == (200, "text/html")
    assert got.text.startswith("<!DOCTYPE html>")


def test_disconnect_before_the_answer(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(faults={"disconnect": 1})
    with pytest.raises(http.client.RemoteDisconnected):
        ask(simulator)
    assert simulator.counts_by_status == {0: 1}
    assert simulator.answered == 0


@pytest.mark.parametrize("stream", [False, True])
def test_truncated_body(simulate: Simulate, ask: Ask, stream: bool) -> None:
    simulator = simulate(faults={"truncate": 1})
    with pytest.raises(http.client.IncompleteRead):
        ask(simulator, stream=stream)
    assert simulator.counts_by_status == {0: 1}


@pytest.mark.parametrize("stream", [False, True])
def test_stalled_body(simulate: Simulate, ask: Ask, stream: bool) -> None:
    simulator = simulate(faults={"stall": 1})
    with pytest.raises(TimeoutError):
        ask(simulator, stream=stream, timeout_s=0.2)


def test_a_cut_stream_ends_cleanly_before_done(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(faults={"cut_stream": 1}), "a message of some length", stream=True)
    assert got.status == 200
    assert got.events
    assert "[DONE]" not in got.text
    assert all(event["choices"][0]["finish_reason"] is None for event in got.events)


def test_answers_bent_out_of_shape(simulate: Simulate, ask: Ask) -> None:
    assert ask(simulate(faults={"empty_choices": 1})).json["choices"] == []
    assert ask(simulate(faults={"null_content": 1})).content is None
    assert "usage" not in ask(simulate(faults={"missing_usage": 1})).json
    chunks = ask(simulate(faults={"chunked_content": 1})).content
    assert [chunk["type"] for chunk in chunks] == ["text", "text"]
    assert "".join(chunk["text"] for chunk in chunks) == "Echo: Hello"
    cut = ask(simulate(faults={"length": 1})).json["choices"][0]
    assert (cut["finish_reason"], cut["message"]["content"]) == ("length", "Echo:")


def test_bent_streams(simulate: Simulate, ask: Ask) -> None:
    (only,) = ask(simulate(faults={"empty_choices": 1}), stream=True).events
    assert only["choices"] == []
    assert all(
        "usage" not in event for event in ask(simulate(faults={"missing_usage": 1}), stream=True).events
    )


def test_spoilt_json(simulate: Simulate, ask: Ask) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask(simulate(faults={"invalid_json": 1}), **JSON_MODE).content)
    assert json.loads(ask(simulate(faults={"wrong_json": 1}), **JSON_MODE).content) == {"unexpected": True}
    fenced = ask(simulate(faults={"fenced_json": 1}), **JSON_MODE).content
    assert fenced == 'Here it is:\n```json\n{"echo":"Hello"}\n```\n'


def test_spoilt_json_leaves_plain_text_alone_and_reaches_tool_arguments(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(faults={"invalid_json": 1})
    assert ask(simulator).content == "Echo: Hello"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    message = ask(simulator, tools=tools, tool_choice="any").json["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{"


def test_rates_are_met_and_repeat_with_the_seed(simulate: Simulate, ask: Ask) -> None:
    settings = {"faults": {"503": 0.3, "429": 0.2}, "seed": 4}
    first, again = simulate(**settings), simulate(**settings)
    statuses = [ask(first).status for _ in range(200)]
    assert statuses == [ask(again).status for _ in range(200)]
    assert 35 <= statuses.count(503) <= 85
    assert 20 <= statuses.count(429) <= 60
    assert statuses.count(200) == 200 - statuses.count(503) - statuses.count(429)


def test_settings_refuse_what_cannot_be() -> None:
    for settings in (
        {"faults": {"503": 0.7, "429": 0.7}},
        {"faults": {"nonsense": 0.1}},
        {"faults": {"503": 1.1}},
        {"latency": 1},
        {"latency_s": -1},
        {"outage": "sometimes"},
    ):
        with pytest.raises(ValidationError):
            Settings.model_validate(settings)


def test_a_script_is_followed_in_order_then_forgotten(simulator: Simulator, ask: Ask) -> None:
    simulator.script(
        [Fault.status(503), Answer("first"), "second", Fault.status(429, headers={"Retry-After": "3"})]
    )
    assert simulator.script_left == 4
    got = [ask(simulator) for _ in range(5)]
    assert [each.status for each in got] == [503, 200, 200, 429, 200]
    assert [got[1].content, got[2].content, got[4].content] == ["first", "second", "Echo: Hello"]
    assert got[3].headers["retry-after"] == "3"
    assert simulator.script_left == 0


def test_a_script_for_some_requests_only(simulator: Simulator, ask: Ask) -> None:
    def about_fish(body: dict[str, Any]) -> bool:
        return "fish" in body["messages"][-1]["content"]

    simulator.script([Fault.status(500)], when=about_fish)
    assert [ask(simulator, text).status for text in ("meat", "fish", "fish")] == [200, 500, 200]


def test_scripted_statuses_with_a_body_of_ones_own(simulator: Simulator, ask: Ask) -> None:
    simulator.script(
        [Fault.status(418, "short and stout"), Fault.status(403, {"detail": "no"}), Fault.status(404)]
    )
    first, second, third = (ask(simulator) for _ in range(3))
    assert (first.status, first.text) == (418, "short and stout")
    assert (second.status, second.json) == (403, {"detail": "no"})
    assert third.json == {"detail": "Not Found"}


def test_a_scripted_delay_is_longer_than_an_impatient_client_waits(simulator: Simulator, ask: Ask) -> None:
    simulator.script([Fault.delay(30)])
    with pytest.raises(TimeoutError):
        ask(simulator, timeout_s=0.1)
    assert ask(simulator).status == 200


def test_a_scripted_fault_beats_the_dice_but_not_the_key(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(faults={"503": 1})
    simulator.script(["spoken"])
    assert ask(simulator, key=None).status == 401
    assert ask(simulator).content == "spoken"
    assert ask(simulator).status == 503


def test_embeddings_have_faults_too(simulator: Simulator, ask: Ask) -> None:
    simulator.script([Fault.status(503), Fault.truncate()])
    body = {"model": "mistral-embed", "input": "a"}
    assert ask(simulator, path="/v1/embeddings", body=body).status == 503
    with pytest.raises(http.client.IncompleteRead):
        ask(simulator, path="/v1/embeddings", body=body)
    assert ask(simulator, path="/v1/embeddings", body=body).status == 200


def test_outages_begin_and_end_with_a_change(simulator: Simulator, ask: Ask) -> None:
    for _ in range(5):
        simulator.change(outage="refuse")
        with pytest.raises(ConnectionRefusedError):
            ask(simulator)
        simulator.change(outage="drop")
        with pytest.raises(http.client.RemoteDisconnected):
            ask(simulator)
        simulator.change(outage="503")
        assert ask(simulator).status == 503
        simulator.change(outage=None)
        assert ask(simulator).status == 200


def test_an_outage_ends_by_itself(simulator: Simulator, ask: Ask) -> None:
    simulator.change(outage="refuse", outage_for_s=0.2)
    with pytest.raises(ConnectionRefusedError):
        ask(simulator)
    simulator.wait_until(lambda: not simulator.outage_is_on, timeout_s=5)
    assert ask(simulator).status == 200


def test_an_outage_begins_by_itself_and_other_changes_leave_it_alone(simulator: Simulator, ask: Ask) -> None:
    simulator.change(outage="503", outage_after_s=0.1)
    simulator.wait_until(lambda: simulator.outage_is_on, timeout_s=5)
    simulator.change(latency_s=0.001)
    assert simulator.outage_is_on
    assert ask(simulator).status == 503
