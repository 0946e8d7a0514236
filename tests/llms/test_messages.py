"""Messages: no key dropped, and the order that Mistral wants, in its own words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.libraries import library

from mistill.errors import InputError
from mistill.llms.messages import check_messages, encode_messages, mistrals_id

USER = {"role": "user", "content": "x"}
SYSTEM = {"role": "system", "content": "x"}
ASSISTANT = {"role": "assistant", "content": "x"}
PREFIX = ASSISTANT | {"prefix": True}
CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
TOOL = {"role": "tool", "content": "x", "tool_call_id": "abcdefghi"}


def call_with(arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [SYSTEM, USER],
        [SYSTEM, SYSTEM, USER, USER],
        [USER, ASSISTANT, USER],
        [USER, ASSISTANT, SYSTEM, USER],
        [ASSISTANT, USER],
        [USER, PREFIX],
        [USER, CALLS, TOOL, TOOL],
        [USER, CALLS, TOOL, TOOL, ASSISTANT, USER],
        [USER, CALLS, TOOL, TOOL, CALLS, TOOL, TOOL],
        [USER, CALLS, TOOL, TOOL, PREFIX],
        (USER,),
    ],
)
def test_good_orders_pass(messages: Any) -> None:
    assert len(check_messages(messages)) == len(messages)


EXPECTED_LAST = r"Expected last role User or Tool \(or Assistant with prefix True\) for serving but got "


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "Conversation must have at least one message"),
        ([USER, ASSISTANT], EXPECTED_LAST + "assistant"),
        ([SYSTEM], EXPECTED_LAST + "system"),
        ([TOOL], "Unexpected role 'tool' as first message"),
        ([TOOL, USER], "Unexpected role 'tool' as first message"),
        ([USER, TOOL], "Unexpected role 'tool' after role 'user'"),
        ([USER, ASSISTANT, TOOL], "Unexpected role 'tool' after role 'assistant'"),
        ([USER, CALLS, TOOL, TOOL, USER], "Unexpected role 'user' after role 'tool'"),
        ([USER, CALLS, TOOL], "Not the same number of function calls and responses"),
        ([USER, CALLS, USER], "Not the same number of function calls and responses"),
        ([USER, CALLS, TOOL, TOOL, TOOL], "Not the same number of function calls and responses"),
        ([USER, CALLS, TOOL, ASSISTANT, USER], "Not the same number of function calls and responses"),
        ([USER, PREFIX, USER], "prefix True is for the last message only"),
        ([USER, {"role": "assistant"}, USER], "must have either content or tool_calls, but not none"),
        ([USER, {"role": "assistant", "content": ""}, USER], "must have either content or tool_calls"),
    ],
)
def test_bad_orders_are_told_in_mistrals_words(messages: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"input 3: .*{words}"):
        check_messages(messages, 3)


def test_other_servers_have_other_orders() -> None:
    assert len(check_messages([USER, CALLS, TOOL, USER], in_order=False)) == 4
    with pytest.raises(InputError, match="at least one message"):
        check_messages([], in_order=False)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (USER | {"name": "Jo"}, r"messages\[1\]: .*unknown field `name`"),
        (USER | {"prefix": True}, "unknown field `prefix`"),
        (TOOL | {"id": 1}, "unknown field `id`"),
        (PREFIX | {"prefix": "yes"}, r"messages\[1\].prefix: Expected `bool`, got `str`"),
        ({"role": "developer", "content": "x"}, "developer"),
        ({"content": "x"}, "role"),
        ({"role": "user", "content": 3}, r"messages\[1\].content"),
        ({"role": "user", "content": [{"type": "video"}]}, r"messages\[1\].content\[0\].*video"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]}, "unknown field `cache`"),
        ({"role": "system", "content": [{"type": "file", "file_id": "x"}]}, "file"),
        (CALLS | {"tool_calls": [{"id": "x"}]}, r"messages\[1\].tool_calls\[0\]: .*`function`"),
        ("user", r"messages\[1\]"),
    ],
)
def test_no_key_is_dropped_and_the_place_is_named(message: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_messages([USER, message])


# --- of other libraries -----------------------------------------------------------------------------------------------


def as_sent(messages: Any, *, in_order: bool = True) -> Any:
    return json.loads(encode_messages(check_messages(messages, in_order=in_order)))


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([USER | {"name": None, "tool_calls": None, "prefix": None}], [USER]),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "x", "image_url": None, "content": None}],
                }
            ],
            [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        ),
        (
            [
                {
                    "role": "user",
                    "content": [IMAGE | {"text": None, "image_url": IMAGE["image_url"] | {"b": None}}],
                }
            ],
            [{"role": "user", "content": [IMAGE]}],
        ),
        (
            [USER, CALLS | {"content": None, "tool_calls": [CALL | {"type": None, "extra": None}]}, TOOL],
            [USER, {"role": "assistant", "tool_calls": [CALL]}, TOOL],
        ),
        (
            # What is in the arguments is the caller's own: null may be what was meant.
            [USER | {"name": None}, call_with({"a": None, "b": [None, {"c": None}]}), TOOL],
            [USER, call_with({"a": None, "b": [None, {"c": None}]}), TOOL],
        ),
    ],
)
def test_a_key_whose_value_is_null_says_nothing(given: Any, sent: Any) -> None:
    assert as_sent(given) == sent


def test_a_null_does_not_stand_for_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"messages\[0\]"):
        check_messages([{"role": None, "content": "x"}])
    with pytest.raises(InputError, match="unknown field `cache`"):
        check_messages([USER | {"name": None, "cache": 1}])


def test_messages_of_mistrals_sdk() -> None:
    sdk: Any = library("mistralai.client").models
    call = sdk.ToolCall(id="abcdefghi", function=sdk.FunctionCall(name="f", arguments={"a": None}))
    given = [
        sdk.SystemMessage(content="x"),
        sdk.UserMessage(content=[sdk.TextChunk(text="x")]),
        sdk.AssistantMessage(content="", tool_calls=[call]),
        sdk.ToolMessage(content="x", tool_call_id="abcdefghi"),
    ]
    assert as_sent(given) == as_sent(
        [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "x"}]}, call_with({"a": None}), TOOL]
    )


def test_messages_of_openais_sdk() -> None:
    message: Any = library("openai.types.chat").ChatCompletionMessage
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL | {"type": "function"}]}
    given = message.model_validate(answer | {"annotations": []})
    assert as_sent([USER, given, TOOL]) == as_sent([USER, answer, TOOL])


def test_an_array_of_messages_is_a_list_of_them() -> None:
    numpy: Any = library("numpy")
    assert as_sent(numpy.array([USER | {"name": None}], dtype=object)) == [USER]


# --- ids of tool calls ------------------------------------------------------------------------------------------------

FOREIGN = [
    *("call_abc123", "chatcmpl-tool-9f8e7d", "toolu_01A09q90qw90lq917835lq9"),
    *("abcdefgh", "abcdefghij", "ab-defghi", "é23456789", "\ud83d"),
]


def conversation(first: str, second: str) -> list[dict[str, Any]]:
    calls = [CALL | {"id": first}, CALL | {"id": second}]
    return [
        USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        TOOL | {"tool_call_id": second},
        TOOL | {"tool_call_id": first},
    ]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_ids_of_other_providers_fit_and_stay_together(foreign: str) -> None:
    _, assistant, *results = as_sent(conversation(foreign, "abcdefghi"))
    first, second = (call["id"] for call in assistant["tool_calls"])
    assert re.fullmatch("[a-zA-Z0-9]{9}", first)
    assert second == "abcdefghi"
    assert [result["tool_call_id"] for result in results] == [second, first]
    assert as_sent(conversation(foreign, "abcdefghi")) == [USER, assistant, *results]  # the same every time


def test_other_servers_get_the_ids_as_they_are() -> None:
    assert as_sent(conversation("call_abc123", "abcdefghi"), in_order=False) == [
        *(USER, conversation("call_abc123", "abcdefghi")[1] | {"content": ""}),
        *conversation("call_abc123", "abcdefghi")[2:],
    ]


@given(st.lists(st.text(max_size=12), min_size=2, max_size=30, unique=True))
def test_different_ids_stay_different(ids: list[str]) -> None:
    fitting = {mistrals_id(each) for each in ids}
    assert len(fitting) == len(ids)
    assert {mistrals_id(each) for each in fitting} == fitting


@pytest.mark.parametrize(
    ("called", "answered", "words"),
    [
        ("abcdefghi", None, r"messages\[2\]: Tool call id has to be defined"),
        ("abcdefghi", "", r"messages\[2\]: Tool call id has to be defined"),
        (None, "abcdefghi", r"messages\[1\]: Tool call id has to be defined"),
        ("null", "null", r"messages\[1\]: Tool call id has to be defined"),
        ("abcdefghi", "z9y8x7w6v", r"messages\[2\]: Unexpected tool call id z9y8x7w6v in tool results"),
        ("call_1", "call_2", r"messages\[2\]: Unexpected tool call id call_2 in tool results"),
    ],
)
def test_a_call_without_its_id_is_refused_in_mistrals_words(
    called: str | None, answered: str | None, words: str
) -> None:
    messages = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL | {"id": called}]},
        TOOL | {"tool_call_id": answered},
    ]
    with pytest.raises(InputError, match=f"input 4: {words}"):
        check_messages(messages, 4)
