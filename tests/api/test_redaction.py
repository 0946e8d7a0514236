"""The key never shows: not where a server echoes it, whole, escaped or in part. And a short one garbles nothing."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.api.raw_server import RawServer, chunk, events, response

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.errors import InvalidModel, MistillError
from mistill.redaction import PLACEHOLDER, Redactor

KEY = "sk-ASecretKey/0123456789abcdef"
ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
SLASHED = KEY.replace("/", "\\/")
PERCENT = "".join(f"%{ord(character):02X}" for character in KEY)
PYTHONS = "".join(f"\\x{ord(character):02x}" for character in KEY)
TWICE = ESCAPED.replace("\\", "\\\\")
ENTITIES = "".join(f"&#{ord(character)};" for character in KEY)
HEX_ENTITIES = "".join(f"&#x{ord(character):X};" for character in KEY)
BASE64 = [b64encode(before + KEY.encode()).decode() for before in (b"", b"a", b"Bearer ", b"user:")]
HEXADECIMAL = KEY.encode().hex()


async def error_of(raw: bytes, key: str = KEY) -> MistillError:
    async with RawServer(raw) as server:
        client = MistralClient(server.url, key, timeout_s=5)
        try:
            with pytest.raises(MistillError) as caught:
                await client.exchange(CHAT, b"{}")
        finally:
            await client.close()
    return caught.value


ECHOES: list[Any] = [
    {"message": f"Invalid key {KEY}, sorry"},
    {"message": {"detail": [{"loc": ["header", KEY], "msg": f"bad {KEY}"}]}},
    {"message": {"key": KEY}},
    {"message": "x", "code": KEY, "type": KEY},
    {"message": f"Invalid key {KEY[:14]}... sorry"},
    {"message": f"Invalid key ...{KEY[-12:]}, sorry"},
    {"message": "x" * 490 + KEY},
    f'{{"message": "Invalid key {ESCAPED}"}}'.encode(),
    json.dumps({"message": json.dumps({"key": KEY}).replace("/", "\\/")}).encode(),
    f"not JSON: {KEY}".encode(),
    f"not JSON: {ESCAPED}".encode(),
    f"not JSON: {SLASHED}".encode(),
    b"y" * 180 + KEY.encode(),
    f"not JSON: {KEY} {ESCAPED} {SLASHED} {PERCENT} {PYTHONS} {TWICE} {KEY}".encode(),
    json.dumps({"message": f"{KEY} and {ESCAPED}, {PERCENT}"}).encode(),
    {"message": f"{ENTITIES} or {HEX_ENTITIES} or {KEY.replace('/', '&sol;')}"},
    {"message": " ".join(BASE64)},
    {"message": urlsafe_b64encode(b">>>" + KEY.encode()).decode()},
    {"message": f"{HEXADECIMAL} {HEXADECIMAL.upper()}"},
]


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("body", ECHOES)
async def test_an_echo_is_cut_out(body: Any, status: int) -> None:
    error = await error_of(response(body, status))
    shown = f"{error} {error.args} {pickle.dumps(error)!r}"
    assert not any(KEY[at : at + 8] in shown for at in range(len(KEY) - 7))
    for escaped in (ESCAPED, SLASHED, PERCENT, PYTHONS, TWICE, ENTITIES, HEX_ENTITIES, HEXADECIMAL):
        assert escaped[:48] not in shown
        assert escaped[-48:] not in shown
    assert not any(encoded[8:32] in shown for encoded in BASE64)


async def test_an_echo_in_a_good_answer_is_cut_out_before_it_is_kept() -> None:
    message = {"content": f"your key is {KEY}"}
    body = {"model": KEY, "choices": [{"message": message, "finish_reason": "stop"}]}
    async with RawServer(response(body, headers=[b"mistral-correlation-id: " + KEY.encode()])) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        answer = await client.exchange(CHAT, b"{}")
        await client.close()
    assert KEY not in f"{answer}"
    assert answer.response.model == PLACEHOLDER
    assert answer.response.choices[0].message.content == f"your key is {PLACEHOLDER}"


async def test_an_echo_in_a_list_of_models_and_in_a_stream_is_cut_out() -> None:
    pieces = events({"model": KEY, "choices": []}, chunk({"content": KEY}, "stop", model=KEY))
    async with RawServer(response({"data": [{"id": KEY}]}), pieces) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        assert [card.id for card in await client.models()] == [PLACEHOLDER]
        async with client.stream(b"{}") as stream:
            came = [each async for each in stream]
        await client.close()
    assert KEY not in f"{came}"


@pytest.mark.parametrize("key", ["embedding", "prompt_tokens_details", "0123456789012345", "x1"])
async def test_a_key_that_could_be_anything_else_changes_no_answer(key: str) -> None:
    body = {"model": key, "choices": [{"message": {"content": key}, "finish_reason": "stop"}]}
    async with RawServer(response(body)) as server:
        client = MistralClient(server.url, key, timeout_s=5)
        answer = await client.exchange(CHAT, b"{}")
        await client.close()
    assert answer.response.choices[0].message.content == key


async def test_an_echo_in_a_header_is_cut_out() -> None:
    for status in (200, 500):
        error = await error_of(response(b"x", status, [b"mistral-correlation-id: " + KEY.encode()]))
        assert KEY not in f"{error} {error.__dict__}"


async def test_an_echo_in_a_stream_is_cut_out() -> None:
    raw = events(chunk({"content": "Hi"}), {"error": {"message": f"bad key {KEY}", "code": 401}})
    async with RawServer(raw) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        with pytest.raises(MistillError) as caught:
            async with client.stream(b"{}") as stream:
                _ = [each async for each in stream]
        await client.close()
    assert caught.value.message == f"bad key {PLACEHOLDER}"


@pytest.mark.parametrize("key", ["sk-made-up-0123", "any", "1", "0"])
async def test_a_short_key_changes_no_word_and_no_code(key: str) -> None:
    body = {"object": "error", "message": "Invalid model: m (there are many)", "code": "1500"}
    error = await error_of(response(body, 400), key)
    assert isinstance(error, InvalidModel)
    assert (error.message, error.code) == ("Invalid model: m (there are many)", "1500")


FORMS = ["\\u%04x", "\\x%02x", "%%%02X", "\\\\u%04X"]
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)


@given(st.text(), keys, st.text())
def test_the_whole_key_is_cut_out_wherever_it_stands(before: str, key: str, after: str) -> None:
    redacted = Redactor(key).redact(before + key + after)
    assert key not in redacted or key in PLACEHOLDER
    assert PLACEHOLDER in redacted


written = st.sampled_from(
    [str, *(lambda key, form=form: "".join(form % ord(one) for one in key) for form in FORMS)]
)


@given(keys, st.lists(written, min_size=1, max_size=4), st.lists(st.text(), min_size=5, max_size=5))
def test_however_often_and_however_written_it_stands_all_of_it_is_cut_out(
    key: str, forms: list[Callable[[str], str]], between: list[str]
) -> None:
    assume("\\" not in key and "%" not in key)
    assume(not any(set(text) & {"\\", "%"} for text in between))
    keys_written = [form(key) for form in forms]
    text = between[0] + "".join(one + more for one, more in zip(keys_written, between[1:], strict=False))
    redacted = Redactor(key).redact(text)
    for one in keys_written:
        assert one not in redacted or one in PLACEHOLDER


@given(st.text(), keys)
def test_a_text_without_it_stays_as_it_is(text: str, key: str) -> None:
    assume("\\" not in text and not any(key[at : at + 8] in text for at in range(len(key) - 7)))
    assert Redactor(key).redact(text) == text
