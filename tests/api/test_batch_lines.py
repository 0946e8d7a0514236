"""Result files of batch jobs: each line is told as what it is, and ends as a live answer would have."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.api.raw_server import RawServer, answer, response
from tests.api.test_answers import ERRORS_UNDER_200

from mistill.api.batch_lines import ResultLine, read_lines
from mistill.api.chat import CHAT
from mistill.api.client import HTTPAnswer, MistralClient
from mistill.api.embeddings import EMBEDDINGS
from mistill.api.operation import MAX_BYTES
from mistill.api.prices import price_of
from mistill.errors import (
    BadRequest,
    CapacityExceeded,
    MalformedAnswer,
    MistillError,
    RateLimited,
    ServerError,
)

KEY = "sk-0123456789abcdefghij"


@pytest.fixture(scope="module")
def client() -> MistralClient:
    return MistralClient("http://127.0.0.1:9", KEY, 5)


def line(custom_id: Any = "7", status: Any = 200, body: Any = None, error: Any = None, **more: Any) -> Any:
    reply = {"status_code": status, "body": answer() if body is None else body}
    return {"id": "batch-1", "custom_id": custom_id, "response": reply, "error": error} | more


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def read(path: Path, *lines: Any) -> list[ResultLine]:
    """Lines that are bytes are written as they are, all others as JSON."""
    raw = [each if isinstance(each, bytes) else compact(each) for each in lines]
    path.write_bytes(b"\n".join(raw))
    return list(read_lines(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


# --- what a line is ---------------------------------------------------------------------------------------------------


def test_a_good_line_is_the_answer_of_its_request(client: MistralClient, path: Path) -> None:
    (one,) = read(path, line())
    assert (one.index, one.custom_id, one.line_id, one.status, one.broken) == (0, "7", "batch-1", 200, None)
    price = price_of("mistral-small-latest")
    assert price is not None
    got = client.answer_of_line(CHAT, one, price=price.times(0.5))
    assert got.response.choices[0].message.content == "ok"
    assert json.loads(got.raw) == answer()
    assert (got.usage.input_tokens, got.usage.output_tokens) == (5, 3)
    assert got.cost == pytest.approx(price.cost(got.usage) / 2)
    assert got.correlation_id == "batch-1"
    assert client.answer_of_line(CHAT, one).cost is None


def test_lines_come_in_their_order_and_as_often_as_they_are_there(path: Path) -> None:
    lines = read(path, line("b"), b"", line("a"), b"  \r", line("b"), line("never sent"))
    assert [(one.index, one.custom_id) for one in lines] == [(0, "b"), (1, "a"), (2, "b"), (3, "never sent")]


@pytest.mark.parametrize(
    ("custom_id", "read_as"),
    [
        ("7", "7"),
        (7, "7"),
        ("", None),
        (None, None),
        (True, None),
        (1.5, None),
        ({"a": 1}, None),
        (["7"], None),
    ],
)
def test_ids_that_can_be_one(path: Path, custom_id: Any, read_as: str | None) -> None:
    (one,) = read(path, line(custom_id))
    assert one.custom_id == read_as
    assert one.failure() is None


def test_a_line_may_lack_its_id(client: MistralClient, path: Path) -> None:
    (one,) = read(path, {"response": {"status_code": 200, "body": answer()}})
    assert one.custom_id is None
    assert client.answer_of_line(CHAT, one).response.choices


@pytest.mark.parametrize("status", [200, 201, "200", 200.0, None, 0, "fine", True])
def test_an_answer_counts_whatever_its_status_says_of_success(
    client: MistralClient, path: Path, status: Any
) -> None:
    (one,) = read(path, line(status=status))
    assert client.answer_of_line(CHAT, one).response.choices[0].message.content == "ok"


@pytest.mark.parametrize("error", [None, {}, "", False, [], {"message": None}])
def test_nothing_under_error_is_no_error(path: Path, error: Any) -> None:
    (one,) = read(path, line(error=error))
    assert one.failure() is None


def test_a_body_may_be_a_text_with_json_in_it(client: MistralClient, path: Path) -> None:
    (one,) = read(path, line(body=json.dumps(answer({"role": "assistant", "content": 'é "\ud83d\ude00"'}))))
    assert client.answer_of_line(CHAT, one).response.choices[0].message.content == 'é "😀"'


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"null",
        b"[]",
        b'"a text"',
        b"<html>",
        b"\x00",
        b"\xff\xfe",
        b'{"custom_id": "7", "response": {"status_code": 200, "body": {"choices"',
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_a_broken_line_costs_itself_alone(client: MistralClient, path: Path, raw: bytes) -> None:
    before, broken, after = read(path, line("a"), raw, line("b"))
    assert (before.custom_id, after.custom_id) == ("a", "b")
    assert (broken.index, broken.custom_id, broken.body) == (1, None, raw[:4096])
    with pytest.raises(MalformedAnswer, match="line 1 of the results is broken"):
        client.answer_of_line(CHAT, broken)


def test_a_file_that_breaks_off_has_its_whole_lines(path: Path) -> None:
    raw = b"\n".join(json.dumps(line(str(number))).encode() for number in range(3))
    lines = read(path, raw[:-20])
    assert [one.custom_id for one in lines] == ["0", "1", None]
    assert lines[2].broken is not None


@pytest.mark.parametrize("is_last", [False, True])
def test_a_line_beyond_the_bound_is_broken_and_the_next_is_not(path: Path, is_last: bool) -> None:
    large = json.dumps(line("large", body={"a": "x" * (MAX_BYTES + 2**16)})).encode()
    broken, *others = read(path, large, *([] if is_last else [line("next")]))
    assert broken.broken == "it is larger than 16,842,752 bytes"
    assert len(broken.body or b"") == 4096
    assert [one.custom_id for one in others] == ([] if is_last else ["next"])


def test_an_empty_file_has_no_lines(path: Path) -> None:
    assert read(path, b"") == read(path, b"\n\n  \n") == []


# --- what it ends in --------------------------------------------------------------------------------------------------


async def live(raw: bytes) -> HTTPAnswer[Any] | MistillError:
    async with RawServer(raw) as server:
        there = MistralClient(server.url, KEY, timeout_s=5)
        try:
            return await there.exchange(CHAT, b"{}")
        except MistillError as error:
            return error
        finally:
            await there.close()


def told(error: Any) -> Any:
    names = ("status", "code", "error_type", "maybe_billed")
    return type(error), error.message, error.hint, *(getattr(error, name, None) for name in names)


MISTRALS = {"object": "error", "message": "m", "type": "t", "param": None, "code": "1300"}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}),
        (400, MISTRALS | {"code": "3230"}),
        (401, {"detail": "Unauthorized"}),
        (402, {"detail": "Billing"}),
        (403, {"detail": "guardrail"}),
        (404, {"detail": "none"}),
        (413, "too large"),
        (
            422,
            {"detail": [{"type": "missing", "loc": ["body", "x"], "msg": "Field required", "input": None}]},
        ),
        (422, {"message": {"detail": [{"loc": ["body"], "msg": "m"}]}}),
        (429, MISTRALS),
        (429, MISTRALS | {"code": "3505", "type": "service_tier_capacity_exceeded"}),
        (500, MISTRALS | {"code": "3000"}),
        (503, "upstream connect error"),
        (529, {}),
        (302, {}),
        (200, "<html>wait</html>"),
        (200, {"choices": []}),
        (200, []),
        (200, {"choices": [{"index": 0, "message": {"content": [["x"]]}}], "x": f"key {KEY}"}),
        *((200, body) for body, *_ in ERRORS_UNDER_200),
    ],
)
async def test_a_line_ends_in_the_error_of_a_live_answer(
    client: MistralClient, path: Path, status: int, body: Any
) -> None:
    sent = body.encode() if isinstance(body, str) else compact(body)
    (one,) = read(path, line(status=status, body=body))
    error = await live(response(sent, status))
    with pytest.raises(MistillError) as caught:
        client.answer_of_line(CHAT, one)
    assert told(caught.value) == told(error)
    assert KEY not in str(caught.value)


async def test_an_answer_that_gave_up_says_so_as_a_live_one_does(client: MistralClient, path: Path) -> None:
    body = answer()
    body["choices"][0]["finish_reason"] = "error"
    (one,) = read(path, line(body=body))
    there = await live(response(body))
    assert isinstance(there, HTTPAnswer)
    here = client.answer_of_line(CHAT, one)
    assert here.usage == there.usage
    assert told(here.failure) == told(there.failure)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"message": "upstream died", "type": "upstream_error"}, ServerError, "upstream died"),
        ({"message": "slowly", "code": 1300}, RateLimited, "slowly"),
        ({"message": "full", "code": "3505"}, CapacityExceeded, "full"),
        ({"message": "bad", "type": "invalid_request_error"}, BadRequest, "bad"),
        ("timed out", ServerError, "timed out"),
        ([{"loc": ["body"], "msg": "m"}], ServerError, "m"),
        (5, ServerError, "5"),
        ({"message": f"your key {KEY}"}, ServerError, "your key [api key]"),
    ],
)
@pytest.mark.parametrize("has_answer", [False, True])
def test_what_stands_under_error_is_the_error(
    client: MistralClient, path: Path, error: Any, kind: type[MistillError], words: str, has_answer: bool
) -> None:
    (one,) = read(path, line(error=error) if has_answer else line(error=error) | {"response": None})
    with pytest.raises(kind) as caught:
        client.answer_of_line(CHAT, one)
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"response": None}, {"response": "x"}, {"response": {"body": None}}])
def test_a_line_without_an_answer_may_have_been_billed(
    client: MistralClient, path: Path, given: dict[str, Any]
) -> None:
    (one,) = read(path, {"custom_id": "7"} | given)
    with pytest.raises(MalformedAnswer, match="no answer") as caught:
        client.answer_of_line(CHAT, one)
    assert caught.value.maybe_billed


def test_a_body_has_the_bound_of_its_operation(client: MistralClient) -> None:
    large = b'{"data": [' + b" " * MAX_BYTES + b'{"embedding": [1]}]}'
    assert client.answer_of_line(EMBEDDINGS, ResultLine(0, body=large)).response.data
    with pytest.raises(MalformedAnswer, match="larger than 16,777,216 bytes"):
        client.answer_of_line(CHAT, ResultLine(0, body=large))


def test_a_key_in_an_answer_is_cut_out(client: MistralClient, path: Path) -> None:
    (one,) = read(path, line(body=answer(model=KEY)))
    assert KEY.encode() not in client.answer_of_line(CHAT, one).raw


# --- whatever is in it ------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["\ud800", KEY, "200", "{}", 10**400, 2**63, 200, 400, 500])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "code", "type", "choices", "error", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
RESPONSES = st.fixed_dictionaries({}, optional={"status_code": VALUES, "body": VALUES | st.just(answer())})
LINES = st.fixed_dictionaries(
    {}, optional={"id": VALUES, "custom_id": VALUES, "response": RESPONSES | VALUES, "error": VALUES}
)
JUNK = st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")) | LINES.map(
    lambda each: json.dumps(each).encode()
)


@st.composite
def cut(draw: st.DrawFn) -> bytes:
    raw = json.dumps(draw(LINES)).encode()
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.binary(max_size=2)).replace(b"\n", b"")


def outcome(client: MistralClient, one: ResultLine) -> HTTPAnswer[Any] | MistillError:
    try:
        return client.answer_of_line(CHAT, one)
    except MistillError as error:
        return error


@settings(max_examples=50)
@given(
    junk=st.lists(JUNK | cut(), max_size=8),
    ids=st.lists(st.text(string.digits, min_size=1).map("row {}".format), max_size=4),
    rng=st.randoms(),
)
def test_good_lines_are_read_and_every_other_costs_itself_alone(
    tmp_path_factory: pytest.TempPathFactory,
    client: MistralClient,
    junk: list[bytes],
    ids: list[str],
    rng: random.Random,
) -> None:
    is_good = [True] * len(ids) + [False] * len(junk)
    rng.shuffle(is_good)
    good, bad = map(compact, map(line, ids)), iter(junk)
    mixed = [next(good if each else bad) for each in is_good]
    path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    path.write_bytes(b"\n".join(mixed))
    lines = list(read_lines(path))
    assert [one.index for one in lines] == list(range(sum(1 for each in mixed if each.strip())))
    assert [one.custom_id for one in lines if (one.custom_id or "").startswith("row ")] == ids
    for one in lines:
        ended = outcome(client, one)
        if isinstance(ended, MistillError):
            assert ended.message
            assert KEY not in f"{ended} {ended.__dict__}"
        else:
            assert ended.response.choices
