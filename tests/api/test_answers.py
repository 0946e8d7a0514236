"""Answers as servers really send them: a paid answer is never lost to a field that nobody needs."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from tests.api.raw_server import RawServer, answer, response

from mistill.api.chat import CHAT, ChatResponse
from mistill.api.client import HTTPAnswer, MistralClient
from mistill.api.embeddings import EMBEDDINGS
from mistill.api.models import ModelCard
from mistill.api.operation import MAX_BYTES, Operation
from mistill.api.usage import MAX_COUNT, Usage, usage_of
from mistill.errors import (
    BadRequest,
    CapacityExceeded,
    Forbidden,
    InvalidModel,
    InvalidOutput,
    MalformedAnswer,
    MistillError,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
)
from mistill.llms.completions import split_content

KEY = "a-key-for-tests"


async def exchanged(raw: bytes, operation: Operation[Any] = CHAT) -> HTTPAnswer[Any]:
    async with RawServer(raw) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        try:
            return await client.exchange(operation, b"{}")
        finally:
            await client.close()


async def answered(body: Any, status: int = 200) -> ChatResponse:
    return (await exchanged(response(body, status))).response


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
async def test_every_status_of_success_is_good(status: int) -> None:
    good = await answered(answer(), status)
    assert good.choices[0].message.content == "ok"


@pytest.mark.parametrize("status", [200, 203, 204, 205, 206])
async def test_a_success_without_an_answer_is_malformed(status: int) -> None:
    with pytest.raises(MalformedAnswer, match=f"HTTP {status}, but the body is no answer") as caught:
        await answered(b"", status)
    assert caught.value.maybe_billed


CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "body",
    [
        answer(created="yesterday"),
        answer(created=1e300),
        answer(id=7),
        answer(model=["m"]),
        answer(object=None, service_tier={"deep": [1]}, prompt_filter_results=7),
        answer({"role": 5, "content": "ok"}),
        answer({"role": None, "content": "ok", "tool_calls": None, "refusal": None, "audio": {"id": 1}}),
        answer({"content": "ok", "reasoning_content": 5, "reasoning": {"effort": "high"}}),
        answer(choices=[{"message": {"content": "ok"}}]),
        answer(choices=[{"index": None, "message": {"content": "ok"}, "finish_reason": None}]),
        answer(choices=[{"index": "0", "message": {"content": "ok"}, "finish_reason": "stop"}]),
        answer(choices=[{"index": 10**30, "message": {"content": "ok"}, "finish_reason": 7, "logprobs": 5}]),
        answer(usage=None),
        answer(usage=[1]),
        answer(usage={"prompt_tokens": {"text": 5}}),
        b"\xef\xbb\xbf" + json.dumps(answer()).encode(),
        json.dumps(answer(created=float("nan"))).encode(),
        json.dumps(answer()).encode() + b" \n",
        json.dumps(answer(logprobs=None))[:-1].encode() + b',"x":' + b"9" * 5000 + b',"created":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
async def test_a_field_that_nobody_needs_costs_no_answer(body: Any) -> None:
    assert (await answered(body)).choices[0].message.content == "ok"


@pytest.mark.parametrize(
    ("usage", "billed"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}, Usage(5, 3, 0)),
        ({"prompt_tokens": 5.0, "completion_tokens": "3", "total_tokens": 8}, Usage(5, 3, 0)),
        ({"prompt_tokens": 5.5, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": True, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": None, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": -1, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": MAX_COUNT, "completion_tokens": 3}, Usage(MAX_COUNT, 3, 0)),
        ({"prompt_tokens": MAX_COUNT + 1, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": 2**53 + 1, "completion_tokens": 3}, Usage(0, 3, 0)),
        ({"prompt_tokens": 2**63, "completion_tokens": 2**64, "total_tokens": 10**400}, Usage(0, 0, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "num_cached_tokens": 4}, Usage(5, 3, 4)),
        ({"prompt_tokens": 5, "prompt_token_details": {"cached_tokens": 4}}, Usage(5, 0, 4)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(5, 0, 4)),
        (
            {"prompt_tokens": 5, "num_cached_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}},
            Usage(5, 0, 4),
        ),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": -4}}, Usage(5, 0, 0)),
        ({"prompt_tokens": 5, "num_cached_tokens": 9}, Usage(5, 0, 5)),
        ({}, Usage()),
        (None, Usage()),
    ],
)
async def test_tokens_that_can_be_are_counted_and_others_are_not(usage: Any, billed: Usage) -> None:
    assert usage_of(await answered(answer(usage=usage))) == billed


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (None, {}), ("null", {}), ("", {}), (" ", {}), ("{}", {}), ({}, {}), ([], {}),
        ('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1}),
    ],
)  # fmt: skip
async def test_a_call_may_have_no_arguments(arguments: Any, read: dict[str, Any]) -> None:
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    message = (await answered(answer({"content": "", "tool_calls": [call]}))).choices[0].message
    assert message.tool_calls is not None
    assert message.tool_calls[0].arguments == read


@pytest.mark.parametrize("arguments", [5, [1], True, "[1]", "no"])
async def test_arguments_that_are_none_are_told_to_whoever_reads_them(arguments: Any) -> None:
    call = CALL | {"function": {"name": "f", "arguments": arguments}}
    message = (await answered(answer({"content": "", "tool_calls": [call]}))).choices[0].message
    assert message.tool_calls is not None
    with pytest.raises(InvalidOutput, match="no JSON object"):
        _ = message.tool_calls[0].arguments


@pytest.mark.parametrize(
    "calls", [{}, [], [None], "x", 5, [5], [{}], [{"id": "a"}], [{"function": {"arguments": "{}"}}]]
)
async def test_calls_that_are_none_cost_no_text(calls: Any) -> None:
    message = (await answered(answer({"content": "x", "tool_calls": calls}))).choices[0].message
    assert (message.content, message.tool_calls) == ("x", ())


@pytest.mark.parametrize(
    ("content", "text"), [(["x"], "x"), ([None, {"type": "text", "text": "x"}], "x"), (["a", "b"], "ab")]
)
async def test_content_may_be_a_list_of_anything(content: Any, text: str) -> None:
    response = await answered(answer({"content": content}))
    assert split_content(response.choices[0].message) == (text, None)


async def test_a_call_keeps_what_is_right_of_it() -> None:
    call = {"id": None, "type": 5, "index": "first", "function": {"name": "f"}}
    message = (await answered(answer({"content": None, "tool_calls": [call]}))).choices[0].message
    assert message.tool_calls is not None
    assert (message.tool_calls[0].name, message.tool_calls[0].id, message.tool_calls[0].index) == (
        "f",
        None,
        0,
    )


async def test_half_a_character_is_replaced() -> None:
    raw = rb'{"choices":[{"message":{"content":"half \ud83d of \ud83d\ude00"}}]}'
    assert (await answered(raw)).choices[0].message.content == "half � of \U0001f600"


async def test_a_finish_reason_comes_through_as_it_is() -> None:
    body = answer(choices=[{"index": 0, "message": {"content": "Hal"}, "finish_reason": "error"}])
    assert (await answered(body)).choices[0].finish_reason == "error"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_both_names_of_thinking_are_read(name: str) -> None:
    message = (await answered(answer({"content": "42", name: "six times seven"}))).choices[0].message
    assert getattr(message, name) == "six times seven"


async def test_a_vector_is_kept_as_it_came_even_beside_a_wrong_field() -> None:
    body = b'{"data":[{"embedding":[0.10,2.5e-3],"index":"0","object":5},{"embedding":"AACAPw==","index":null}],"id":5}'
    good = (await exchanged(response(body), EMBEDDINGS)).response
    assert [json.loads(bytes(each.embedding)) for each in good.data] == [[0.1, 0.0025], "AACAPw=="]
    assert [each.index for each in good.data] == [0, None]


async def test_headers_that_are_no_text_cost_no_answer() -> None:
    headers = [
        b"mistral-correlation-id: \xff\xe9",
        b"x-ratelimit-limit-req-minute: \xff",
        b"retry-after: \xb2",
    ]
    good = await exchanged(response(answer(), headers=headers))
    assert (good.correlation_id, good.limits) == (None, None)


# --- no answer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is no answer"),
        (b"null", "the body is no answer"),
        (b"[]", "the body is no answer"),
        (b'{"choices":', "the body is no answer"),
        (b"<html>Sign in</html>", "a proxy's error page"),
        (json.dumps(answer()).encode()[:-5], "the body is no answer"),
        (json.dumps(answer()).encode("utf-16"), "the body is no answer"),
        ({"choices": None}, "the body is no answer"),
        ({"choices": []}, "no choices"),
        ({"choices": [{"message": None}]}, "the body is no answer"),
        (answer({"content": 5}), "the body is no answer"),
        (answer({"content": "", "tool_calls": [{"function": {"arguments": "{}"}}]}), "the body is no answer"),
        (b'{"choices":[{"message":{"content":"\xff\xfe"}}]}', "the body is no answer"),
        (b'{"z":' + b"[" * 100_000 + b"]" * 100_000 + b',"choices":[]}', "the body is no answer"),
        (b'{"choices":[{"message":{"content":[{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}}]}", "no answer"),
        (b" " * (MAX_BYTES + 1), "larger than 16,777,216 bytes"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_an_error_of_its_kind(body: Any, words: str) -> None:
    with pytest.raises(MalformedAnswer, match=words):
        await answered(body)


async def test_vectors_have_to_be_there() -> None:
    with pytest.raises(MalformedAnswer, match="no vectors"):
        await exchanged(response({"data": []}), EMBEDDINGS)


async def test_size_is_counted_decompressed() -> None:
    packed = gzip.compress(b" " * 200_000_000, 1)
    assert len(packed) < MAX_BYTES
    with pytest.raises(MalformedAnswer, match="larger than"):
        await exchanged(response(packed, headers=[b"content-encoding: gzip"]))


async def test_an_operation_has_a_size_of_its_own() -> None:
    large = response({"data": [{"embedding": [0.123456789012345] * 1_500_000}]})
    assert len(large) > MAX_BYTES
    assert len((await exchanged(large, EMBEDDINGS)).response.data) == 1


# --- errors with a status of success ------------------------------------------------------------------------------

ERRORS_UNDER_200 = [
    (
        {"object": "error", "message": "Too busy", "type": "service_tier_capacity_exceeded", "code": "3505"},
        CapacityExceeded, 429, "Too busy",
    ),
    ({"object": "error", "message": "Slowly", "type": "rate_limited", "code": "1300"}, RateLimited, 429, "Slowly"),
    ({"object": "error", "message": "No", "type": "invalid_model", "code": "1500"}, InvalidModel, 400, "No"),
    (
        {"object": "error", "message": "Order", "type": "invalid_request_message_order", "code": "3230"},
        BadRequest, 400, "Order",
    ),
    ({"choices": [], "error": {"code": 502, "message": "worker limit"}}, ServerError, 502, "worker limit"),
    ({"error": {"message": "Died", "type": "InternalServerError", "code": 500}}, ServerError, 500, "Died"),
    ({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, BadRequest, 400, "too long"),
    ({"error": {"message": "Who?", "type": "AuthenticationError"}}, Unauthorized, 401, "Who?"),
    ({"error": {"message": "Not yours", "code": "403"}}, Forbidden, 403, "Not yours"),
    ({"error": {"message": "m", "type": "NotFoundError"}}, NotFound, 404, "m"),
    ({"error": "Input is too long", "error_type": "validation"}, BadRequest, 422, "Input is too long"),
    ({"error": "overloaded"}, ServerError, 500, "overloaded"),
    ({"detail": [{"loc": ["body", "x"], "msg": "no"}]}, ServerError, 500, "body.x: no"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "kind", "status", "words"), ERRORS_UNDER_200)
async def test_an_error_with_a_status_of_success_keeps_its_kind_and_words(
    body: Any, kind: type[MistillError], status: int, words: str
) -> None:
    with pytest.raises(MistillError) as caught:
        await answered(body)
    assert type(caught.value) is kind
    assert caught.value.message == words
    assert getattr(caught.value, "status", None) == status


async def test_such_an_error_has_the_limits_of_its_headers() -> None:
    headers = [b"retry-after: 7", b"mistral-correlation-id: abc"]
    with pytest.raises(RateLimited) as caught:
        await exchanged(response({"error": {"code": 429, "message": "m"}}, headers=headers))
    assert (caught.value.retry_after_s, caught.value.correlation_id) == (7, "abc")


@pytest.mark.parametrize("error", [None, {}, "", False])
async def test_an_answer_beside_an_empty_error_is_good(error: Any) -> None:
    assert (await answered(answer(error=error))).choices[0].message.content == "ok"


# --- the list of models -------------------------------------------------------------------------------------------


async def models_of(raw: bytes) -> list[ModelCard]:
    async with RawServer(raw) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        try:
            return await client.models()
        finally:
            await client.close()


async def test_models_are_listed_whatever_else_a_server_says_of_them() -> None:
    cards = [
        {
            "id": "a",
            "max_context_length": "32768",
            "aliases": None,
            "description": 5,
            "deprecation": {"at": 1},
        },
        {"id": "b", "max_context_length": {"tokens": 5}, "capabilities": [], "created": "now"},
    ]
    listed = await models_of(response({"data": cards}))
    assert [(card.id, card.max_context_length, card.description) for card in listed] == [
        ("a", 32768, None),
        ("b", None, None),
    ]


@pytest.mark.parametrize("body", [{"data": None}, {"data": [{"name": "a"}]}, {"data": {"a": 1}}, b"<html>"])
async def test_a_list_of_models_that_is_none_is_an_error_of_its_kind(body: Any) -> None:
    with pytest.raises(MalformedAnswer):
        await models_of(response(body))


async def test_a_list_of_models_may_be_refused() -> None:
    with pytest.raises(Unauthorized, match="Who"):
        await models_of(response({"message": "Who?"}, 401))


async def test_a_list_of_models_that_is_too_large_is_called_so() -> None:
    with pytest.raises(MalformedAnswer, match="larger than 16,777,216 bytes"):
        await models_of(response(b'{"data": [' + b" " * 2**24 + b"]}"))
