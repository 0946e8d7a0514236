"""What the client has to know of an operation of the API: where it is, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from mistill.api.usage import Answered

R = TypeVar("R", bound=Answered)
"""What a good answer of an operation holds."""

MAX_BYTES: Final = 16 * 2**20
"""No answer is larger, unless its operation says so: a broken server must not fill this machine's memory."""


class Operation(Struct, Generic[R], frozen=True):
    """One path that takes a JSON body by POST and answers with JSON. Each has a constant in its own file.

    Attributes:
        path: behind the base URL: ``/v1/…``.
        decode: an answer's body → the answer. Raises `ValueError` for a body that is none.
        check: what a decoded answer lacks to be of any use, in words; ``None`` where it lacks nothing.
        gave_up: what a decoded answer says of a failure in its middle, or beside it; anything that is false where it
            says nothing of the kind.
        max_bytes: of an answer's body, decompressed.
    """

    path: str
    decode: Callable[[bytes], R]
    check: Callable[[R], str | None] | None = None
    gave_up: Callable[[R], Any] | None = None
    max_bytes: int = MAX_BYTES
