"""Server-sent events, however the network cuts them, and streams as servers really send them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.raw_server import RawServer, answer, chunk, events, response
from tests.api.test_answers import ERRORS_UNDER_200, KEY

from mistill.api.chat import ChatChunk, Delta
from mistill.api.client import MistralClient
from mistill.api.stream import ChunkReader, EventParser
from mistill.errors import (
    APIError,
    AttemptTimeout,
    Disconnected,
    MalformedAnswer,
    MistillError,
    RateLimited,
    ServerError,
)

payloads = st.lists(
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    payloads,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 300), max_size=12),
    st.sampled_from(["data: ", "data:"]),
    st.sampled_from(["", "\ufeff"]),
)
def test_events_come_whole_however_they_were_cut(
    texts: list[str], newline: str, places: list[int], field: str, mark: str
) -> None:
    texts = [text if field == "data: " else text.lstrip(" ") or "x" for text in texts]
    stream = (mark + "".join(f"{field}{text}{newline}{newline}" for text in texts)).encode()
    parser = EventParser()
    events = [event for piece in cut(stream, places) for event in parser.feed(piece)]
    events += parser.feed(b"x\n")  # a carriage return at the end waits for what comes next
    assert [event.decode() for event in events] == texts


@given(payloads, st.sampled_from(["\n", "\r\n", "\r"]), st.integers(0, 4))
def test_the_last_event_needs_no_empty_line_once_the_stream_has_ended(
    texts: list[str], newline: str, missing: int
) -> None:
    stream = "".join(f"data: {text}{newline}{newline}" for text in texts).encode()
    stream = stream[: len(stream) - min(missing, 2 * len(newline))] if texts else stream
    parser = EventParser()
    events = parser.feed(stream) + parser.finish()
    assert [event.decode() for event in events] == texts


def test_comments_and_other_fields_are_passed_over() -> None:
    parser = EventParser()
    assert parser.feed(b": ping\n\nevent: x\nid: 7\nretry: 3\ndata: a\n\n") == [b"a"]


def test_data_lines_of_one_event_are_joined() -> None:
    assert EventParser().feed(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_an_event_without_its_empty_line_has_not_come() -> None:
    assert EventParser().feed(b"data: a\n") == []


def test_an_event_without_data_is_none() -> None:
    assert EventParser().feed(b"data:\n\ndata: \n\ndata: a\n\n") == [b"a"]


@pytest.mark.parametrize("line", [b"x" * 600, b"data: " + b"x" * 595 + b"\n"])
def test_an_event_has_a_largest_size_however_it_comes(line: bytes) -> None:
    parser = EventParser(max_bytes=1000)
    parser.feed(line)
    with pytest.raises(MalformedAnswer, match="larger than 1,000 bytes"):
        parser.feed(line)


def test_whole_events_may_be_many() -> None:
    parser = EventParser(max_bytes=1000)
    assert len([event for _ in range(100) for event in parser.feed(b"data: " + b"x" * 600 + b"\n\n")]) == 100


def test_a_stream_without_end_has_a_largest_size() -> None:
    reader = ChunkReader(max_bytes=1000, max_stream_bytes=10_000)
    event = b"data: " + json.dumps(HI).encode() + b"\n\n"
    for _ in range(10_000 // len(event)):
        assert list(reader.feed(event))
    with pytest.raises(MalformedAnswer, match="the stream is larger than 10,000 bytes"):
        list(reader.feed(event))


# --- chunks -------------------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
HI = chunk({"content": "Hi"})
END = chunk({"content": ""}, "stop", usage=USAGE)
FAILED = {"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "up"}}]}
SECOND = {"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]}
TWICE = {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}


async def streamed(
    raw: bytes, *, hold: bool = False, timeout_s: float = 5
) -> tuple[list[ChatChunk], MistillError | None]:
    """The chunks that came, and how it ended."""
    came: list[ChatChunk] = []
    async with RawServer(raw, hold=hold) as server:
        client = MistralClient(server.url, KEY, timeout_s)
        try:
            async with client.stream(b"{}") as stream:
                async for each in stream:
                    came.append(each)  # noqa: PERF401  what came before an error counts
        except MistillError as error:
            return came, error
        finally:
            await client.close()
    return came, None


def text_of(chunks: list[ChatChunk]) -> str:
    return "".join(str(choice.delta.content or "") for each in chunks for choice in each.choices)


@pytest.mark.parametrize(
    "raw",
    [
        events(HI, END),
        events(HI, END, end="data: [DONE]"),
        events(HI, END, end="data: [DONE]\n"),
        events(HI, END, end="data:  [DONE] \n\n"),
        events(HI, END, end=""),
        events(HI, END, end="data: {"),
        events(HI, END)[:-2].replace(b"\n\n", b"\r\n\r\n"),
        events(HI, END).replace(b"data: ", b"data:"),
        events(HI, "", " ", END),
        events(HI, {"id": "a", "choices": []}, END),
        events(HI, {"id": "a", "usage": None}, END),
        events(HI, {"choices": None}, END),
        events(HI, {"choices": [{"index": 0}]}, END),
        events(HI, chunk(None), END),
        events(HI, chunk({}), END),
        events(HI, {"choices": [{"index": None, "delta": {"content": None}}]}, END),
        events(HI, {"choices": [{"index": "0", "delta": {"role": 5}}]}, END),
        events(chunk({"content": "Hi"}, ""), END),
        events(chunk({"content": "H"}, "stop"), chunk({"content": "i"}, "stop"), END),
        events({"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}, END),
        events(
            {"choices": [{"message": {"content": "H"}}]}, {"choices": [{"message": {"content": "i"}}]}, END
        ),
        events(HI, {"choices": [{"delta": {}, "message": {"content": "Hi"}, "finish_reason": "stop"}]}, END),
        events(
            {"choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "Hi"}}]},
            END,
        ),
        events(SECOND, HI, END),
        events(HI, {"choices": [{"index": 1, "delta": {"content": "B"}}]}, END),
        events(HI, {"choices": [], "error": {}}, {"choices": [{"delta": {}, "error": {"code": None}}]}, END),
        events(HI, END, end="event: done\ndata: [DONE]\n\n"),
        events(HI, END, end="event: error\n\ndata: [DONE]\n\n"),
        events(HI, chunk({}, "stop"), {"choices": [], "usage": USAGE}),
        events(chunk({"content": "Hi"}, usage={"prompt_tokens": -1}, created="now", error=None), END),
        response(
            b"\xef\xbb\xbf" + events(HI, END).partition(b"\r\n\r\n")[2], content_type="text/event-stream"
        ),
        response(b": ping\n\n" + events(HI, END).partition(b"\r\n\r\n")[2], content_type="text/event-stream"),
        response(events(HI, END).partition(b"\r\n\r\n")[2], status=201),
    ],
)
async def test_a_stream_that_has_all_of_its_answer_is_whole(raw: bytes) -> None:
    chunks, error = await streamed(raw)
    assert error is None
    assert text_of(chunks) == "Hi"
    usages = [each.usage.total_tokens for each in chunks if each.usage and each.usage.total_tokens]
    assert usages == [7]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\ud83d", "\ude00b"], "a😀b"),
        (["\ud83d", "\ude00"], "😀"),
        (["a\ud83d", "", "\ude00"], "a😀"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a", "\ude00b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
        (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
        (["é", "\ud83dé\ud83d", "\ude00"], "é\ufffdé😀"),
    ],
)
@pytest.mark.parametrize("between", ["nothing", "empty deltas", "pings"])
@pytest.mark.parametrize(
    "delta",
    [
        lambda piece: {"content": piece},
        lambda piece: {"content": [{"type": "text", "text": piece}]},
        lambda piece: {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]},
        lambda piece: {"content": [{"type": "thinking", "thinking": piece}]},
        lambda piece: {"reasoning": piece},
        lambda piece: {"reasoning_content": piece},
        lambda piece: {
            "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": piece}}]
        },
        lambda piece: {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": piece}}]},
    ],
)
async def test_a_character_that_is_split_over_two_events_comes_whole(
    pieces: list[str], text: str, delta: Callable[[str], dict[str, Any]], between: str
) -> None:
    deltas = [chunk(delta(piece)) for piece in pieces]
    if between == "empty deltas":
        deltas = [one for each in deltas for one in (each, chunk({}), chunk({"content": ""}))]
    if between == "pings":
        deltas = [f"{json.dumps(one)}\n\n: ping" for one in deltas]
    chunks, error = await streamed(events(*deltas, END))
    assert error is None
    assert "".join(said_in(one.delta) for each in chunks for one in each.choices) == text


def said_in(delta: Delta) -> str:
    """Whatever of an answer is in it."""
    content = delta.content or ""
    if not isinstance(content, str):
        content = "".join(one.get("text", "") + thought_in(one.get("thinking", "")) for one in content)
    calls = (call.function.arguments for call in delta.tool_calls or ())
    return content + (delta.reasoning or "") + (delta.reasoning_content or "") + "".join(map(str, calls))


def thought_in(thinking: Any) -> str:
    return thinking if isinstance(thinking, str) else "".join(one["text"] for one in thinking)


async def test_halves_in_other_places_are_replaced_and_texts_are_not_mixed() -> None:
    arguments = {"text": "\ud83d", "more": ["\ude00"]}
    chunks, error = await streamed(
        events(
            chunk({"reasoning": "t\ud83d", "content": [{"type": "reference", "text": "\ud83d"}]}),
            chunk({"content": "\ude00c"}),
            chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": arguments}}]}),
            chunk({"reasoning": "\ude00t"}),
            END,
        )
    )
    assert error is None
    deltas = [one.delta for each in chunks for one in each.choices]
    assert [one.content for one in deltas[:2]] == [[{"type": "reference", "text": "\ufffd"}], "\ufffdc"]
    assert "".join(one.reasoning or "" for one in deltas) == "t😀t"
    assert [call.function.arguments for one in deltas for call in one.tool_calls or ()] == [
        {"text": "\ufffd", "more": ["\ufffd"]}
    ]


async def test_arguments_that_come_from_their_beginning_again_have_no_half_before_them() -> None:
    pieces = ['{"a": "\ud83d', '{"a": "\ud83d\ude00"}']
    calls = [{"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": one}}]} for one in pieces]
    chunks, error = await streamed(events(*map(chunk, calls), END))
    assert error is None
    assert [said_in(one.delta) for each in chunks for one in each.choices][:2] == ['{"a": "', '{"a": "😀"}']


async def test_a_connection_that_breaks_after_the_finish_reason_has_lost_nothing() -> None:
    whole = events(HI, END, end="")
    promised = whole.replace(b"content-length: ", b"content-length: 9")  # and closed long before
    chunks, error = await streamed(promised)
    assert (text_of(chunks), error) == ("Hi", None)


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (events(), MalformedAnswer, "held no answer"),
        (events(chunk({"role": "assistant", "content": ""})), Disconnected, "before its finish reason"),
        (events(SECOND), MalformedAnswer, "no answer"),
        (events(end=""), Disconnected, "before [DONE]"),
        (events({"choices": [], "usage": USAGE}), MalformedAnswer, "held no answer"),
        (response(b"", content_type="text/event-stream"), Disconnected, "before [DONE]"),
        (response(b": ping\n\n"), Disconnected, "before [DONE]"),
        (response(b"<html>Sign in</html>", content_type="text/html"), MalformedAnswer, "a proxy's error page"),
        (response(answer()), MalformedAnswer, "no stream of events"),
        (response({"error": {"message": "Slowly", "code": 429}}), RateLimited, "Slowly"),
        (response(b'error: {"code":500,"message":"Slot gone","type":"server_error"}\n\n'), ServerError, "Slot gone"),
    ],
)  # fmt: skip
async def test_a_stream_without_an_answer_is_none(raw: bytes, kind: type[MistillError], words: str) -> None:
    chunks, error = await streamed(raw)
    assert text_of(chunks) == ""
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (events(HI, end=""), Disconnected, "before [DONE]"),
        (events(HI), Disconnected, "before its finish reason"),
        (events(HI, chunk({}, "")), Disconnected, "before its finish reason"),
        (events(HI, {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}), Disconnected, "finish reason"),
        (events(chunk({"content": "H"}, "stop"), chunk({"content": "i"})), Disconnected, "before its finish reason"),
        (events(chunk({"content": "H"}, "stop"), chunk({"content": "i"}), end=""), Disconnected, "before [DONE]"),
        (events(HI, end='event: error\ndata: {"message": "boom"}\n\ndata: [DONE]\n\n'), ServerError, "boom"),
        (events(HI, end="event: error\ndata: boom\n\ndata: [DONE]\n\n"), ServerError, "boom"),
        (events(HI, end='event:error\ndata: {"code": 429, "reason": "slow"}\n\n'), RateLimited, "slow"),
        (events(HI, end='data: {"detail": "boom"}\nevent: error\n\n'), ServerError, "boom"),
        (events(HI, END, end="error: gone\n\n"), ServerError, "gone"),
        (events(HI, FAILED), ServerError, "up"),
        (events(HI, chunk({}, "abort")), ServerError, "gave up"),
        (events(HI, chunk({}, "ERROR")), ServerError, "gave up"),
        (events(HI, TWICE), MalformedAnswer, "two choices"),
        (events(HI, end='data: {"choices": [{"de'), Disconnected, "in the middle of an event"),
        (events(HI, "not JSON", END), MalformedAnswer, "'not JSON'"),
        (events(HI, [1], END), MalformedAnswer, "no chunk of an answer"),
        (events(HI, chunk({"content": 5}), END), MalformedAnswer, "no chunk of an answer"),
        (events(HI, chunk({"content": ""}, "error")), ServerError, 'finish reason "error"'),
        (events(HI, chunk({"content": ""}, "error"), end=""), ServerError, 'finish reason "error"'),
        (events(HI, chunk({}, "error", error={"code": 502, "message": "worker limit"})), ServerError, "worker limit"),
        (events(HI, '{"z":' + "[" * 100_000 + "]" * 100_000 + "}"), MalformedAnswer, "no chunk of an answer"),
    ],
)  # fmt: skip
async def test_a_stream_that_failed_never_ends_as_if_it_were_whole(
    raw: bytes, kind: type[MistillError], words: str
) -> None:
    chunks, error = await streamed(raw)
    assert text_of(chunks) == "Hi"
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "status", "message": "queued"},
        {"type": "ping"},
        {"object": "status", "message": "place 3 in the queue"},
        {"code": 0, "message": "ok"},
        {"code": "200", "message": "accepted"},
        {"message": "hello"},
        {"event": "progress", "detail": None, "message": "loading the model"},
    ],
)
async def test_an_event_that_says_how_it_goes_is_no_error(event: dict[str, Any]) -> None:
    chunks, error = await streamed(events(event, HI, event, END, event))
    assert error is None
    assert text_of(chunks) == "Hi"


@pytest.mark.parametrize(("body", "kind", "status", "words"), ERRORS_UNDER_200)
async def test_an_error_inside_a_stream_keeps_its_kind_and_words(
    body: Any, kind: type[MistillError], status: int, words: str
) -> None:
    chunks, error = await streamed(events(HI, body))
    assert text_of(chunks) == "Hi"
    assert isinstance(error, APIError)
    assert (type(error), error.status, error.message) == (kind, status, words)


async def test_a_refusal_before_the_stream_is_read_as_any_other() -> None:
    _, error = await streamed(response({"message": "Slowly", "code": "1300"}, 429, [b"retry-after: 3"]))
    assert isinstance(error, RateLimited)
    assert (error.message, error.retry_after_s) == ("Slowly", 3)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_both_names_of_thinking_are_read(name: str) -> None:
    chunks, _ = await streamed(events(chunk({name: "six"}), HI, END))
    assert getattr(chunks[0].choices[0].delta, name) == "six"


async def test_pieces_of_calls_may_lack_what_was_said_before() -> None:
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": None}},
        {"index": 0, "function": None},
    ]
    chunks, error = await streamed(events(chunk({"tool_calls": pieces}), END))
    assert error is None
    calls = chunks[0].choices[0].delta.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["f", None]


async def test_a_stream_that_stalls_is_a_timeout() -> None:
    endless = events(HI, end="").replace(b"content-length: ", b"content-length: 9")
    chunks, error = await streamed(endless, hold=True, timeout_s=0.2)
    assert text_of(chunks) == "Hi"
    assert isinstance(error, AttemptTimeout)


def test_a_stream_cut_anywhere_never_ends_well_without_all_of_its_text() -> None:
    whole = events(HI, chunk({"content": " there"}), END).partition(b"\r\n\r\n")[2]
    for length in range(len(whole)):
        reader = ChunkReader()
        came: list[ChatChunk] = []
        try:
            came += reader.feed(whole[:length])
            came += reader.finish()
        except MistillError:
            continue
        assert text_of(came) == "Hi there"
