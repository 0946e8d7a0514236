"""An error comes out of the ledger as it went in."""

from __future__ import annotations

from typing import Any

import pytest

from mistill import errors
from mistill.delivery.retry import classify
from mistill.errors import MistillError, RateLimits
from mistill.ledger.error_record import ErrorRecord, decode_error, encode_error

API = {
    "status": 429,
    "code": "1300",
    "error_type": "rate_limited",
    "correlation_id": "abc",
    "retry_after_s": 2.5,
    "limits": RateLimits(requests_limit=0),
}
PARTICULARS: dict[str, dict[str, Any]] = {
    "InputError": {"index": 3},
    "WrongParameter": {"index": 3},
    "TransportError": {"maybe_billed": True},
    "MalformedAnswer": {"correlation_id": "abc"},
    "InvalidOutput": {"text": "raw", "path": "$.age"},
    "RepeatedAnswer": {"text": "raw", "path": "$.age"},
    "AnswerWithoutFields": {"text": "raw", "path": "$.age"},
    "FieldLeftOut": {"text": "raw", "path": "$.age"},
    "UnwritableAnswer": {"text": "raw", "path": "$.age"},
    "Stopped": {"reason": "deadline"},
    "ManifestChanged": {"changes": {"model": ("a", "b")}},
}
NOT_KEPT = {"text", "changes"}


def every_kind(kind: type[MistillError] = MistillError) -> list[type[MistillError]]:
    ours = [one for one in kind.__subclasses__() if one.__module__ == errors.__name__]
    return [kind, *(below for one in ours for below in every_kind(one))]


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_what_comes_out_is_what_went_in(kind: type[MistillError]) -> None:
    given = PARTICULARS.get(kind.__name__, API if issubclass(kind, errors.APIError) else {})
    error = kind("it went wrong", hint="do this", **given)
    decision = classify(error)
    again = decode_error(encode_error(error)).to_error()
    assert type(again).kind == error.kind
    assert (str(again), again.headline, again.hint) == (str(error), error.headline, error.hint)
    assert again.retryable is decision.retry
    for name, value in given.items():
        if name not in NOT_KEPT:
            assert getattr(again, name) == value, name
    assert classify(again) == decision


def test_an_error_of_a_later_version_is_still_one() -> None:
    record = ErrorRecord(kind="of_tomorrow", message="something new", hint="update")
    assert str(record.to_error()) == "something new (update)"
