"""Error bodies: a status, and whatever a server or a proxy sends with it → one error, in the server's words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.api.error_bodies import error_in_answer, error_of_status
from mistill.errors import (
    APIError,
    BadRequest,
    CapacityExceeded,
    Forbidden,
    InvalidModel,
    NotFound,
    RateLimited,
    ServerError,
    Unauthorized,
)


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"object": "error", "message": "Invalid model: x", "code": "1500"}, InvalidModel, "Invalid model: x"),
        (400, {"object": "error", "message": "Invalid model: x", "code": 1500}, InvalidModel, "Invalid model: x"),
        (400, {"message": "No", "type": "invalid_model"}, InvalidModel, "No"),
        (401, {"detail": "Unauthorized"}, Unauthorized, "Unauthorized"),
        (401, {"message": "Unauthorized", "request_id": "x"}, Unauthorized, "Unauthorized"),
        (402, b"", Unauthorized, "the server gave no reason"),
        (403, {"error": {"message": "Not here"}}, Forbidden, "Not here"),
        (404, {"error": "no such model"}, NotFound, "no such model"),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "too many"}]}, BadRequest, "body.n: too many"),
        (422, {"message": {"detail": [{"loc": ["body", 0], "msg": "no"}]}}, BadRequest, "body.0: no"),
        (422, {"detail": [{"loc": 5, "msg": "no"}]}, BadRequest, "5: no"),
        (422, {"detail": [{"loc": "body", "msg": "no"}]}, BadRequest, "body: no"),
        (422, {"detail": [{"loc": True, "msg": "no"}]}, BadRequest, "True: no"),
        (422, {"detail": [{"loc": None, "msg": 7}]}, BadRequest, "7"),
        (422, {"detail": [{"loc": [{"a": 1}], "msg": "no"}]}, BadRequest, "{'a': 1}: no"),
        (422, {"detail": [1, None, [2], {}]}, BadRequest, "1; None; [2]; {}"),
        (400, {"message": 123}, BadRequest, "123"),
        (400, {"message": {"a": 1}}, BadRequest, '{"a":1}'),
        (400, {"message": ["a", "b"]}, BadRequest, "a; b"),
        (400, {"message": "x", "code": 1.5, "type": ["t"]}, BadRequest, "x"),
        (400, {"message": "x", "code": 10**400}, BadRequest, "x"),
        (400, {"message": "", "detail": None}, BadRequest, '{"message": "", "detail": null}'),
        (400, {}, BadRequest, "{}"),
        (400, [], BadRequest, "[]"),
        (400, b"\xef\xbb\xbf" + b'{"message":"marked"}', BadRequest, "marked"),
        (400, rb'{"message":"half \ud800"}', BadRequest, "half �"),
        (400, b'{"message":"latin \xe9"}', BadRequest, "latin �"),
        (400, b'{"message":NaN}', BadRequest, "null"),
        (429, {"message": "Slowly", "code": "1300"}, RateLimited, "Slowly"),
        (429, {"message": "Busy", "code": "3505"}, CapacityExceeded, "Busy"),
        (429, {"message": "Busy", "type": "service_tier_capacity_exceeded"}, CapacityExceeded, "Busy"),
        (429, {"message": "Both", "code": "1300", "type": "service_tier_capacity_exceeded"}, RateLimited, "Both"),
        (500, b"upstream connect error", ServerError, "upstream connect error"),
        (503, b"<html>Bad gateway</html>", ServerError, "<html>Bad gateway</html>"),
        (599, b"  \n", ServerError, "the server gave no reason"),
        (999, b"x", ServerError, "x"),
        (301, b"", BadRequest, "the server gave no reason"),
    ],
)  # fmt: skip
def test_a_status_and_a_body_are_one_error(status: int, body: Any, kind: type[APIError], words: str) -> None:
    error = error_of_status(status, encoded(body), "an-id")
    assert type(error) is kind
    assert (error.message, error.status, error.correlation_id) == (words, status, "an-id")


@pytest.mark.parametrize("name", ["detail", "message", "error"])
@pytest.mark.parametrize("depth", [900, 1_000, 100_000])
def test_a_body_nested_without_end_is_told_as_it_is(name: str, depth: int) -> None:
    raw = b'{"%b":' % name.encode() + b"[" * depth + b"]" * depth + b"}"
    error = error_of_status(422, raw)
    assert type(error) is BadRequest
    assert "[[[[" in error.message
    assert len(error.message) <= 500


NAMES = st.sampled_from(
    ["error", "message", "detail", "code", "type", "error_type", "object", "loc", "msg", "choices"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(st.integers(100, 999), JSON.map(lambda body: json.dumps(body).encode()) | st.binary())
def test_nothing_that_a_server_sends_breaks_it(status: int, raw: bytes) -> None:
    error = error_of_status(status, raw)
    assert error.message
    assert error.status == status
    inside = error_in_answer(raw)
    assert inside is None or 400 <= inside.status < 600


@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"message": "hello"}, {"choices": []}, [], b"<html>", b""])
def test_what_is_no_error_is_none(body: Any) -> None:
    assert error_in_answer(encoded(body)) is None
