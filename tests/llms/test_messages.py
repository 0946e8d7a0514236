"""Messages: no key dropped, and the order that Mistral wants, in its own words."""

from __future__ import annotations

from typing import Any

import pytest

from mistill.errors import InputError
from mistill.llms.messages import check_messages

USER = {"role": "user", "content": "x"}
SYSTEM = {"role": "system", "content": "x"}
ASSISTANT = {"role": "assistant", "content": "x"}
PREFIX = ASSISTANT | {"prefix": True}
CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
TOOL = {"role": "tool", "content": "x", "tool_call_id": "abcdefghi"}


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
