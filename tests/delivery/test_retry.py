"""The table of errors, row by row: what a server does → which error it is → what is done about it."""

from __future__ import annotations

from typing import Any

import pytest

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.delivery.dispatcher import Dispatcher, Request
from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.delivery.retry import Decision, backoff_s, classify
from mistill.delivery.tuning import Tuning
from mistill.errors import (
    AttemptTimeout,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Disconnected,
    Forbidden,
    InvalidModel,
    InvalidOutput,
    LedgerError,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    ServerError,
    Stopped,
    Unauthorized,
)
from mistill.simulator import Fault, Simulator

GIVE_UP = Decision(retry=False)
STOP_ALL = Decision(retry=False, fatal=True)
BACK_OFF = Decision(retry=True, wait="backoff")
ASK_GOVERNOR = Decision(retry=True, wait="governor")

NEVER = {"x-ratelimit-limit-req-minute": "0"}
KEY = "a-key-for-tests"
BODY = b'{"model":"mistral-small-latest","messages":[{"role":"user","content":"Hello"}]}'
DETAIL = [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": {}}]


def error(message: Any, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


@pytest.mark.parametrize(
    ("fault", "kind", "decision", "words"),
    [
        (Fault.status(400, error("Invalid model: x", "invalid_model", "1500")), InvalidModel, STOP_ALL, "1500"),
        (Fault.status(400, error("Wrong order", "invalid_request_message_order", "3230")), BadRequest, GIVE_UP, "3230"),
        (Fault.status(401, {"detail": "Unauthorized"}), Unauthorized, STOP_ALL, "set MISTRAL_API_KEY, or give api_key"),
        (Fault.status(401, {"message": "Unauthorized", "request_id": "r"}), Unauthorized, STOP_ALL, "Unauthorized"),
        (Fault.status(402, {"detail": "Payment required"}), Unauthorized, STOP_ALL, "no balance"),
        (Fault.status(403, error("Blocked by guardrail", "guardrail")), Forbidden, GIVE_UP, "Blocked by guardrail"),
        (Fault.status(404, {"detail": "Not Found"}), NotFound, GIVE_UP, "is the endpoint right"),
        (Fault.status(413, "too large"), BadRequest, GIVE_UP, "too large for this server"),
        (Fault.status(422, {"detail": DETAIL}), BadRequest, GIVE_UP, "body.messages: Field required"),
        (Fault.status(422, error({"detail": DETAIL}, "invalid_request_error")), BadRequest, GIVE_UP, "body.messages: "),
        (Fault.status(422, {"detail": "Extra inputs"}), BadRequest, GIVE_UP, "Extra inputs"),
        (Fault.status(422, {"error": {"message": "OpenAI's form", "code": 422}}), BadRequest, GIVE_UP, "OpenAI's form"),
        (Fault.status(429, error("Rate limit exceeded", "rate_limited", "1300")), RateLimited, ASK_GOVERNOR, "1300"),
        (Fault.status(429, {"message": "Requests rate limit exceeded"}), RateLimited, ASK_GOVERNOR, "429"),
        (Fault.status(429, "slow down"), RateLimited, ASK_GOVERNOR, "slow down"),
        (
            Fault.status(429, error("Service tier capacity exceeded", "service_tier_capacity_exceeded", "3505")),
            CapacityExceeded,
            BACK_OFF,
            "3505",
        ),
        (
            Fault.status(429, error("Rate limit exceeded", "rate_limited", "1300"), NEVER),
            RateLimited,
            STOP_ALL,
            "the limit of this key for this model is 0",
        ),
        (Fault.status(408, "timeout"), ServerError, BACK_OFF, "408"),
        (Fault.status(500, error("Internal", "internal_server_error", "3000")), ServerError, BACK_OFF, "Internal"),
        (Fault.status(502, "<html>Bad Gateway</html>"), ServerError, BACK_OFF, "502"),
        (Fault.named("503_text"), ServerError, BACK_OFF, "upstream connect error"),
        (Fault.status(529, ""), ServerError, BACK_OFF, "the server gave no reason"),
        (Fault.status(301, "", {"location": "/"}), BadRequest, GIVE_UP, "give its final URL"),
        (Fault.disconnect(), Disconnected, BACK_OFF, "the connection ended before an answer"),
        (Fault.truncate(), Disconnected, BACK_OFF, "the answer was cut off"),
        (Fault.stall(), AttemptTimeout, BACK_OFF, "no answer within 0.3 s"),
        (Fault.delay(30), AttemptTimeout, BACK_OFF, "no answer within 0.3 s"),
        (Fault.html(), MalformedAnswer, BACK_OFF, "or a proxy's error page"),
        (Fault.status(200, '{"id": "x", "choices": [{"mess'), MalformedAnswer, BACK_OFF, "the body is no answer"),
        (Fault.named("empty_choices"), MalformedAnswer, BACK_OFF, "no choices"),
    ],
)  # fmt: skip
async def test_what_a_server_does(
    simulator: Simulator, fault: Fault, kind: type[MistillError], decision: Decision, words: str
) -> None:
    simulator.script([fault])
    client = MistralClient(simulator.url, KEY, timeout_s=0.3 if kind is AttemptTimeout else 30.0)
    with pytest.raises(MistillError) as caught:
        await client.exchange(CHAT, BODY)
    assert type(caught.value) is kind
    assert not caught.value.retryable  # nobody has decided yet
    assert classify(caught.value) == decision
    assert caught.value.retryable is decision.retry
    assert words in str(caught.value)


async def test_nobody_listening_is_known_to_cost_nothing(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await MistralClient(f"http://127.0.0.1:{unused_tcp_port}", KEY, timeout_s=1).exchange(CHAT, BODY)
    assert not caught.value.maybe_billed
    assert classify(caught.value) == BACK_OFF


@pytest.mark.parametrize("fault", [Fault.disconnect(), Fault.truncate(), Fault.stall(), Fault.html()])
async def test_what_had_left_may_be_billed(simulator: Simulator, fault: Fault) -> None:
    simulator.script([fault])
    with pytest.raises(MistillError) as caught:
        await MistralClient(simulator.url, KEY, timeout_s=0.3).exchange(CHAT, BODY)
    assert caught.value.maybe_billed  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
async def test_the_correlation_id_is_on_every_error(simulator: Simulator, status: int) -> None:
    simulator.script([Fault.status(status)])
    with pytest.raises(MistillError, match=r"correlation id [0-9a-f-]{36}"):
        await MistralClient(simulator.url, KEY, timeout_s=5).exchange(CHAT, BODY)


@pytest.mark.parametrize(
    ("given", "decision"),
    [
        (InvalidOutput("x", text="x"), GIVE_UP),
        (Stopped("x"), STOP_ALL),
        (LedgerError("x"), STOP_ALL),
        (MistillError("x"), GIVE_UP),
    ],
)
def test_what_is_no_servers_doing(given: MistillError, decision: Decision) -> None:
    assert classify(given) == decision


@pytest.mark.parametrize(
    ("fault", "could_help"),
    [
        (Fault.status(503), True),
        (Fault.status(429), True),
        (Fault.status(429, None, NEVER), False),
        (Fault.status(400), False),
    ],
)
async def test_a_sent_requests_error_says_whether_another_attempt_could_help(
    simulator: Simulator, fault: Fault, could_help: bool
) -> None:
    simulator.script([fault])
    client = MistralClient(simulator.url, KEY, timeout_s=5)
    dispatcher = Dispatcher(client, Governor(), ConcurrencyLimit(1), operation=CHAT, max_retries=0)
    with pytest.raises(MistillError) as caught:
        await dispatcher.send(Request(BODY))
    assert caught.value.retryable is could_help


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry-After": "7"}, 7), ({"retry-after-ms": "250"}, 0.25), ({}, None)]
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_read(
    simulator: Simulator, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    simulator.script([Fault.status(status, None, headers)])
    with pytest.raises(MistillError) as caught:
        await MistralClient(simulator.url, KEY, timeout_s=5).exchange(CHAT, BODY)
    assert caught.value.retry_after_s == seconds  # type: ignore[attr-defined]


def test_pauses_grow_twofold_with_full_jitter_to_a_cap() -> None:
    for failures, ceiling in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (5000, 30.0)):
        pauses = [backoff_s(failures) for _ in range(300)]
        assert all(0 <= pause <= ceiling for pause in pauses)
        assert max(pauses) > 0.8 * ceiling
        assert min(pauses) < 0.2 * ceiling


def test_its_base_and_its_cap_can_be_tuned() -> None:
    tuning = Tuning(backoff_base_s=10.0, max_backoff_s=15.0)
    for failures, ceiling in ((1, 10.0), (2, 15.0), (9, 15.0)):
        pauses = [backoff_s(failures, tuning=tuning) for _ in range(300)]
        assert 0.8 * ceiling < max(pauses) <= ceiling


def test_a_pause_is_never_shorter_than_retry_after() -> None:
    assert all(3600 <= backoff_s(1, retry_after_s=3600) <= 3600.5 for _ in range(50))
