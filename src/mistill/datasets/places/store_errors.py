"""What the libraries of stores raise, told apart: each has errors of its own, and wraps those of others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from mistill.datasets.far_places import told

Problem = Literal["missing", "denied", "credentials", "changed", "broken"]

_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
        "CredentialUnavailableError",
        "LocalTokenNotFoundError",
    }
)
"""Of botocore, google.auth, azure.core and huggingface_hub, by name: none of them is imported to be compared with."""
_BY_STATUS: Final[dict[int, Problem]] = {
    401: "denied", 403: "denied", 404: "missing", 410: "missing", 412: "changed", 416: "changed",
}  # fmt: skip
_PASSING_STATUS: Final = frozenset((408, 425, 429))


def problem_of(error: BaseException) -> Problem | None:
    """What is wrong; ``"broken"`` where another try may help, ``None`` of any other error."""
    chain = list(_chain(error))
    if any(type(one).__name__ in _CREDENTIALS for one in chain):
        return "credentials"
    for one in chain:
        status = _status_of(one)
        if status is not None and (status in _BY_STATUS or status >= 500 or status in _PASSING_STATUS):
            return _BY_STATUS.get(status, "broken")
    if any(type(one).__name__ == "FileExpired" for one in chain):
        return "changed"
    if any(_is_of_connection(one) for one in chain):
        return "broken"
    if any(isinstance(one, FileNotFoundError) for one in chain):
        return "missing"
    if any(isinstance(one, PermissionError) for one in chain):
        return "denied"
    return None


def is_of_nothing_known(error: BaseException) -> bool:
    """Whether an answer was none of the store's: it is no JSON, or has not what is read of it."""
    return problem_of(error) is None and any(
        isinstance(one, (json.JSONDecodeError, KeyError)) for one in _chain(error)
    )


def told_by(error: BaseException) -> str:
    """The library's own words for what is at the bottom of it, in one line; its error's name, and the status of HTTP,
    where they have something secret in them, or there are none."""
    chain = _chain(error)
    error = next((one for one in chain if _status_of(one) is not None or _is_of_connection(one)), error)
    status = _status_of(error)
    return told(str(error), " ".join([type(error).__name__, *([] if status is None else [str(status)])]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status_of(error: Any) -> int | None:
    for name in ("status", "status_code", "code"):
        if (status := _status(getattr(error, name, None))) is not None:
            return status
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        return _status(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return _status(getattr(response, "status_code", None))


def _status(value: object) -> int | None:
    return value if isinstance(value, int) and 400 <= value < 600 else None


def _is_of_connection(error: BaseException) -> bool:
    """Of the socket, of time, or of a library of HTTP, whose own trees have nothing else in common."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint(
        {
            "ClientConnectionError",
            "ClientPayloadError",
            "HTTPClientError",
            "EndpointConnectionError",
            "TransportError",
            "HttpRequestException",
            "ServiceRequestError",
            "ServiceResponseError",
            "IncompleteRead",
            "IncompleteReadError",
        }
    )
