"""Streamed answers, whole and broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from mistill.errors import AttemptTimeout, Disconnected, InputError, ServerError, Unauthorized
from mistill.llms import MistralLLM, StreamChunk
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]
LONG = "x" * 400


async def gathered(chunks: AsyncIterator[StreamChunk]) -> list[StreamChunk]:
    return [chunk async for chunk in chunks]


def text_of(chunks: list[StreamChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_text_comes_piece_by_piece(simulator: Simulator, make_llm: MakeLLM) -> None:
    chunks = await gathered(make_llm().astream("Hello", max_new_tokens=2))
    assert text_of(chunks) == "Echo: He"
    assert len([chunk for chunk in chunks if chunk.text]) == 2
    last = chunks[-1]
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert (last.usage.input_tokens, last.usage.output_tokens) == (6, 2)
    assert last.model == "mistral-small-latest"
    body = simulator.requests[0].body
    assert body["stream"] is True
    assert "stream_options" not in body


def test_the_blocking_stream_gives_the_same(make_llm: MakeLLM) -> None:
    chunks = list(make_llm().stream("Hello"))
    assert text_of(chunks) == "Echo: Hello"
    assert chunks[-1].finish_reason == "stop"


async def test_the_blocking_stream_works_inside_a_running_loop(make_llm: MakeLLM) -> None:
    assert text_of(list(make_llm().stream("Hello"))) == "Echo: Hello"


async def test_the_first_piece_does_not_wait_for_the_last(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(token_time_s=0.05)
    async with aclosing(make_llm().astream(LONG)) as chunks:
        async for chunk in chunks:
            if chunk.text:
                assert simulator.in_flight == 1
                break


async def test_thinking_comes_apart(make_llm: MakeLLM) -> None:
    chunks = await gathered(make_llm(model="magistral-medium-latest").astream("Hello"))
    assert "".join(chunk.thinking for chunk in chunks) == "The user says: Hello"
    assert text_of(chunks) == "Echo: Hello"


async def test_tool_calls_come_whole(make_llm: MakeLLM) -> None:
    def add(a: int, b: int) -> int:
        raise AssertionError("never called")

    chunks = await gathered(make_llm().astream('add <<answer: {"a": 1, "b": 2}>>', tools=[add]))
    (call,) = [call for chunk in chunks for call in chunk.tool_calls]
    assert (call.name, call.arguments) == ("add", {"a": 1, "b": 2})
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("fault", [Fault.status(503), Fault.disconnect(), Fault.html()])
async def test_a_failure_before_the_first_piece_is_retried(
    simulator: Simulator, make_llm: MakeLLM, fault: Fault
) -> None:
    simulator.script([fault])
    assert text_of(await gathered(make_llm().astream("Hello"))) == "Echo: Hello"
    assert len(simulator.requests) == 2


async def test_retries_of_a_stream_end_too(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.status(503)] * 9)
    with pytest.raises(ServerError):
        await gathered(make_llm(max_retries=2).astream("Hello"))
    assert len(simulator.requests) == 3


@pytest.mark.parametrize("fault", [Fault.cut_stream(), Fault.truncate()])
async def test_a_stream_cut_before_done_carries_what_came(
    simulator: Simulator, make_llm: MakeLLM, fault: Fault
) -> None:
    simulator.script([fault])
    chunks: list[StreamChunk] = []

    async def read() -> None:
        async for chunk in make_llm().astream(LONG):
            chunks.append(chunk)  # noqa: PERF401  what came before the error is wanted

    with pytest.raises(Disconnected) as caught:
        await read()
    assert "Echo: xxx".startswith(text_of(chunks)[:9])
    assert 0 < len(text_of(chunks)) < len(LONG)
    assert caught.value.partial.text == text_of(chunks)
    assert len(simulator.requests) == 1


async def test_a_stream_that_stalls_runs_into_the_timeout(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.stall()])
    with pytest.raises(AttemptTimeout) as caught:
        await gathered(make_llm(timeout=0.5).astream(LONG))
    assert caught.value.partial.text


def test_the_blocking_stream_raises_the_same(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.cut_stream()])
    with pytest.raises(Disconnected, match="before \\[DONE\\]"):
        list(make_llm().stream(LONG))


async def test_a_refused_key_is_an_error_of_the_stream(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(api_keys=frozenset({"another"}))
    with pytest.raises(Unauthorized):
        await gathered(make_llm().astream("Hello"))


async def test_closing_a_stream_closes_its_connection_and_frees_its_slot(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    simulator.script([Fault.stall()])
    llm = make_llm(max_concurrent_requests=1)
    async with aclosing(llm.astream(LONG)) as chunks:
        await anext(chunks)
        assert simulator.in_flight == 1
    await _closed(simulator)
    assert text_of(await gathered(llm.astream("next"))) == "Echo: next"


async def test_cancelling_the_task_of_a_stream_closes_its_connection(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    simulator.script([Fault.stall()])
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in make_llm().astream(LONG):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _closed(simulator)


async def test_leaving_the_blocking_stream_closes_its_connection(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    simulator.script([Fault.stall()])
    chunks = make_llm().stream(LONG)
    next(chunks)
    chunks.close()
    await _closed(simulator)


async def _closed(simulator: Simulator) -> None:
    async with asyncio.timeout(20):  # a stalled stream does not end by itself
        while simulator.in_flight:  # noqa: ASYNC110  another thread's counter
            await asyncio.sleep(0.001)
    assert simulator.requests[-1].status == 0


async def test_a_stream_holds_its_slot(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(token_time_s=0.002)
    llm = make_llm(max_concurrent_requests=2)
    await asyncio.gather(*(gathered(llm.astream("Hello")) for _ in range(10)))
    assert simulator.peak_in_flight == 2


async def test_what_cannot_be_streamed_is_refused(simulator: Simulator, make_llm: MakeLLM) -> None:
    with pytest.raises(InputError, match="cannot be streamed"):
        await gathered(make_llm().astream(("Hello", {"schema": {"type": "object"}, "mode": "tools"})))
    with pytest.raises(InputError, match="temperature"):
        await gathered(make_llm().astream("Hello", temperature=3))
    assert simulator.requests == []
