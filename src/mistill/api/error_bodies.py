"""Error bodies, in any of the shapes that Mistral, other servers and proxies give → one error of the tree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from mistill.api.decoding import load_json
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
from mistill.wording import Phrase, Setting, words

_QUOTA_CODE: Final = "1300"
_CAPACITY_CODE: Final = "3505"
_CAPACITY_TYPE: Final = "service_tier_capacity_exceeded"
_MODEL_CODE: Final = "1500"
_MODEL_TYPE: Final = "invalid_model"
_EXCERPT_BYTES = 4096
_MAX_BYTES = 2**20  # no error has so many words
_MAX_CODE = 2**63

_KIND_OF_STATUS: dict[int, type[APIError]] = {
    401: Unauthorized,
    402: Unauthorized,  # no balance: like a refused key, no row can survive it
    403: Forbidden,
    404: NotFound,
    408: ServerError,
    425: ServerError,
    429: RateLimited,
}

_STATUS_OF_TYPE = (
    ("ratelimit", 429),
    ("capacity", 429),
    ("authentication", 401),
    ("unauthorized", 401),
    ("permission", 403),
    ("notfound", 404),
    ("invalid", 400),
    ("badrequest", 400),
    ("validation", 422),
)
"""What is in an error's type → the status that it stands for: types of Mistral, vLLM, SGLang, TGI and OpenRouter."""


_FAILURE = re.compile(
    "error|exception|fail|invalid|bad|exceed|limit|quota|capacity|overload|unavailable|timeout|timed|denied|forbidden"
    "|permission|auth|not.?found|unknown|unsupported|refus|reject|abort|cancel|missing|billing|balance",
    re.IGNORECASE,
)


class _ErrorBody(Struct, frozen=True):
    """What is known of a body; ``reason`` is in one of the three forms of `_words`."""

    reason: Any = None
    code: str | None = None
    type: str | None = None
    is_error: bool = False


def error_of_status(status: int, raw: bytes, correlation_id: str | None = None) -> APIError:
    """The error of an answer with any other status than success. ``raw`` is its body."""
    return _error(status, _read(raw), raw, correlation_id)


def error_in_answer(raw: bytes, correlation_id: str | None = None) -> APIError | None:
    """The error that a server sends with a status of success, alone or as an event of a stream.

    Its status is the one that it should have come with: 500 where nothing says another. ``None`` where it is no error.
    """
    body = _read(raw)
    return _error(_status_of(body), body, raw, correlation_id) if body.is_error else None


def error_of_event(data: bytes, correlation_id: str | None = None) -> APIError:
    """The error that is the data of an event whose type says that it is one, in whatever form that is."""
    body = _read(data)
    return _error(_status_of(body), body, data, correlation_id)


def _error(status: int, body: _ErrorBody, raw: bytes, correlation_id: str | None) -> APIError:
    return _kind_of(status, body)(
        _words(body.reason)
        or raw[:_EXCERPT_BYTES].decode("utf-8", "replace").strip()
        or "the server gave no reason",
        status=status,
        code=body.code,
        error_type=body.type,
        correlation_id=correlation_id,
        hint=_hint(status, body),
    )


def _read(raw: bytes) -> _ErrorBody:
    if len(raw) > _MAX_BYTES:
        return _ErrorBody()
    try:
        body: Any = load_json(raw.decode("utf-8", "replace").encode())
    except ValueError:
        return _ErrorBody()
    if not isinstance(body, dict):
        return _ErrorBody()
    outer = cast("dict[str, Any]", body)
    error = outer.get("error")
    fields = outer
    if isinstance(error, dict):  # nested, as OpenAI-compatible servers do
        error = fields = cast("dict[str, Any]", error)
    code = _code(fields.get("code"))
    kind: Any = fields.get("type") or fields.get("error_type")
    reason: Any = fields.get("message") or fields.get("detail") or error
    is_error = bool(
        error
        or fields.get("detail")
        or outer.get("object") == "error"
        or _means_failure(code)
        or _means_failure(kind)
    )
    return _ErrorBody(reason, code, kind if isinstance(kind, str) else None, is_error and bool(reason))


def _means_failure(word: Any) -> bool:
    """Whether a code or a type says that something failed: a message of a status, say, has a type too."""
    if not isinstance(word, str):
        return False
    if word.isdecimal():  # an HTTP status, or one of Mistral's own codes
        return (len(word) == 3 and word[0] in "45") or len(word) == 4
    return _FAILURE.search(word) is not None


def _code(code: Any) -> str | None:
    if isinstance(code, int) and not isinstance(code, bool):
        return str(code) if abs(code) < _MAX_CODE else None
    return code if isinstance(code, str) and code else None


def _words(reason: Any) -> str:
    """The server's reason: a text, a list of what is wrong where, or that list nested once more, under ``detail``."""
    try:
        if isinstance(reason, dict):
            nested = cast("dict[str, Any]", reason)
            reason = nested.get("detail", nested)
        if isinstance(reason, list):
            return "; ".join(map(_validation_detail, cast("list[Any]", reason)))
        if not reason or isinstance(reason, str):
            return reason or ""
        return msgspec.json.encode(reason).decode()
    except (
        RecursionError,
        ValueError,
    ):  # nested too deeply to be written, or a number too long: the body says it
        return ""


def _validation_detail(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    detail = cast("dict[str, Any]", item)
    location: Any = detail.get("loc")
    steps = cast(
        "Iterable[Any]", location if isinstance(location, list) else () if location is None else (location,)
    )
    place = ".".join(map(str, steps))
    reason = str(detail.get("msg", detail))
    return f"{place}: {reason}" if place else reason


def _kind_of(status: int, body: _ErrorBody) -> type[APIError]:
    is_capacity = body.code == _CAPACITY_CODE or body.type == _CAPACITY_TYPE
    if status == 429 and is_capacity and body.code != _QUOTA_CODE:
        return CapacityExceeded
    if status == 400 and _names_no_model(body):
        return InvalidModel
    return _KIND_OF_STATUS.get(status) or (ServerError if status >= 500 else BadRequest)


def _names_no_model(body: _ErrorBody) -> bool:
    return body.code == _MODEL_CODE or body.type == _MODEL_TYPE


def _status_of(body: _ErrorBody) -> int:
    if body.code in (_QUOTA_CODE, _CAPACITY_CODE):
        return 429
    if body.code == _MODEL_CODE:
        return 400
    if body.code is not None and len(body.code) == 3 and body.code.isdecimal() and body.code[0] in "45":
        return int(body.code)
    name = (body.type or body.code or "").replace("_", "").replace(" ", "").lower()
    return next((status for part, status in _STATUS_OF_TYPE if part in name), 500)


_MODELS = Phrase("llm.models()", "`mistill models`")


def _hint(status: int, body: _ErrorBody) -> str:
    if status == 401:
        return words("check the key: set MISTRAL_API_KEY, or give ", Setting("api_key"))
    if status == 402:
        return "the account has no balance or no plan"
    if status == 404:
        return words("is the endpoint right? ", _MODELS, " lists what it serves")
    if _names_no_model(body):
        return words(_MODELS, " lists the models of this endpoint")
    if 300 <= status < 400:
        return "the endpoint redirects: give its final URL"
    if status == 403:
        return words("this key may not do that; one that may is given as ", Setting("api_key"))
    if status == 413:
        return "the request is too large for this server"
    if status == 429:
        return words(
            "ask again later; ", Setting("requests_per_minute"), " keeps below a quota that you know"
        )
    if status >= 500:
        return "the server failed, and not the request: ask again later"
    return "its words say what it refuses: mend the prompt, a parameter or the row, and ask again"
