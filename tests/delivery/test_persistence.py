"""What is no row's, asked again where that can help."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from mistill.delivery.persistence import ask_patiently, persistently
from mistill.delivery.tuning import Tuning
from mistill.errors import (
    AttemptTimeout,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Disconnected,
    Forbidden,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    RateLimits,
    ServerError,
    Unauthorized,
)
from mistill.testing import without_waiting


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with without_waiting():
        yield


class Server:
    """Fails with each of these, and answers then."""

    def __init__(self, *errors: MistillError) -> None:
        self.errors = errors
        self.asked = 0

    async def answer(self) -> str:
        self.asked += 1
        if self.asked <= len(self.errors):
            raise self.errors[self.asked - 1]
        return "yes"


def refused(retry_after_s: float | None = None) -> RateLimited:
    return RateLimited("slow down", status=429, retry_after_s=retry_after_s)


def failed() -> ServerError:
    return ServerError("Internal", status=500)


async def test_what_passes_is_asked_again_and_said_once_for_each_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "mistill")
    passing = (refused(), failed(), failed(), CapacityExceeded("full", status=429), Disconnected("cut"))
    server = Server(*passing)
    assert await ask_patiently(server.answer, "the bill") == "yes"
    assert server.asked == 6
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the bill did not come, and is asked for again"
    ] * 4


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (refused(), 8),
        (failed(), 8),
        (AttemptTimeout("late"), 8),
        (ConnectFailed("nobody"), 3),
        (MalformedAnswer("a page"), 1),
        (BadRequest("no", status=422), 1),
        (Unauthorized("no", status=401), 1),
        (Forbidden("no", status=403), 1),
        (NotFound("no", status=404), 1),
        (refused(61), 1),
        (RateLimited("never", status=429, limits=RateLimits(requests_limit=0)), 1),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, MistillError) else "",
)
async def test_how_often_it_is_asked(error: MistillError, attempts: int) -> None:
    server = Server(*[error] * 20)
    with pytest.raises(type(error)) as caught:
        await ask_patiently(server.answer, "the bill")
    assert caught.value is error
    assert server.asked == attempts


async def test_no_attempt_comes_before_the_server_wants_it() -> None:
    server = Server(refused(0.05))
    began = time.monotonic()
    await ask_patiently(server.answer, "the bill")
    assert time.monotonic() - began >= 0.05


async def test_nothing_is_asked_again_when_patience_is_over() -> None:
    server = Server(*[failed()] * 20)
    with pytest.raises(ServerError):
        await persistently(
            server.answer,
            may_retry=lambda _, __: True,
            patience_s=0.0,
            longest_wait_s=60.0,
            tell=lambda _: None,
            tuning=Tuning(),
        )
    assert server.asked == 1
