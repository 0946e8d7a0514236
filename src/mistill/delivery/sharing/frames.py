"""What host and guest say to each other: frames of four bytes of length and one message, in msgpack.

    host  → guest   Challenge     at once
    guest → host    Hello         which governor it wants, and a proof that it knows the token
    host  → guest   Welcome       the host's own proof
    guest → host    GuestFrame …  all that has happened since the last one
    host  → guest   HostFrame …   the same

On a user's own socket the token is empty: who can open it is the user. Over TCP both sides prove that they know it,
and it is never sent. Whatever is said otherwise than here ends the connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mistill import errors
from mistill.characters import whole_characters
from mistill.delivery.diagnostics import WaitCause
from mistill.delivery.quotas import LimitSource, Share
from mistill.delivery.sharing.far_purse import MAX_ITEMS, PurseAnswers, PurseWishes
from mistill.delivery.sliding_window import Room
from mistill.errors import (
    APIError,
    ConnectFailed,
    MalformedAnswer,
    MistillError,
    RateLimits,
    Stopped,
    TransportError,
)
from mistill.wording import Part, parts_of, words

_log = logging.getLogger("mistill")

VERSION = 1
_MAX_BYTES = 16 << 20
_MAX_STRANGE_BYTES = 1024
"""Of a frame from somebody who has not yet proved who he is."""
_MAX_BACKLOG_BYTES = 64 << 20
"""Who does not read for so long is not there."""
_NONCE_BYTES = 32


class NotOurs(Exception):
    """What came is not what a host or a guest of this version says."""


class _Frame(Struct, frozen=True, array_like=True, gc=False):
    pass


MAX_AMOUNT = 1 << 50
_Number = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
_Nonce = Annotated[bytes, Meta(min_length=_NONCE_BYTES, max_length=_NONCE_BYTES)]
_Proof = Annotated[bytes, Meta(max_length=64)]


class Challenge(_Frame, frozen=True):
    version: int
    nonce: _Nonce


class Hello(_Frame, frozen=True):
    """``name``: of the governor that it wants."""

    version: int
    name: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    nonce: _Nonce
    proof: _Proof


class Welcome(_Frame, frozen=True):
    """``process``: the host's number, for messages."""

    proof: _Proof
    process: _Number


class ErrorParts(_Frame, frozen=True):
    """How an attempt failed, as much of the error as a governor looks at, and whoever waits is told.

    Attributes:
        kind: of the error's class.
        hint: the parts of its words.
        why, endpoint: of a connection that could not be made.
    """

    kind: str
    message: str
    hint: tuple[Part, ...] | None = None
    status: int = 0
    code: str | None = None
    error_type: str | None = None
    correlation_id: str | None = None
    retry_after_s: float | None = None
    limits: RateLimits | None = None
    maybe_billed: bool = False
    why: str = ""
    endpoint: str = ""

    @classmethod
    def of(cls, error: MistillError) -> ErrorParts:
        """From the error that an attempt ended in."""
        api = error if isinstance(error, APIError) else _NOTHING_SAID
        connecting = error if isinstance(error, ConnectFailed) else None
        asked_s = api.retry_after_s
        return cls(
            error.kind,
            whole_characters(error.message[:_MAX_CHARS]),
            None if error.hint is None else parts_of(error.hint),
            *(api.status, _clean(api.code), _clean(api.error_type), _clean(api.correlation_id)),
            asked_s if asked_s is not None and is_sane(asked_s) else None,
            api.limits if are_sane(api.limits) else None,
            error.maybe_billed,
            "" if connecting is None else whole_characters(connecting.why[:_MAX_CHARS]),
            "" if connecting is None else whole_characters(connecting.endpoint[:_MAX_CHARS]),
        )

    def error(self) -> MistillError:
        """The error again.

        Raises:
            NotOurs: no attempt ends so.
        """
        hint = None if self.hint is None else words(*self.hint)
        if not are_sane(self.limits) or not is_sane(self.retry_after_s or 0.0):
            raise NotOurs
        kind = _KINDS.get(self.kind, MistillError)
        if issubclass(kind, APIError):
            return kind(
                self.message,
                status=self.status,
                code=self.code,
                error_type=self.error_type,
                correlation_id=self.correlation_id,
                retry_after_s=self.retry_after_s,
                limits=self.limits,
                hint=hint,
            )
        if issubclass(kind, ConnectFailed):
            return kind(self.message, endpoint=self.endpoint, why=self.why, hint=hint)
        if issubclass(kind, TransportError):
            return kind(self.message, maybe_billed=self.maybe_billed, hint=hint)
        return kind(self.message, hint=hint)


_MAX_CHARS = 2_000


def _clean(text: str | None) -> str | None:
    """As much of it as is of use, and as can be encoded."""
    return None if text is None else whole_characters(text[:_MAX_CHARS])


_NOTHING_SAID = APIError("", status=0)
_KINDS: dict[str, type[MistillError]] = {
    kind.kind: kind
    for kind in (
        *(errors.APIError, errors.BadRequest, errors.InvalidModel, errors.Unauthorized, errors.Forbidden),
        *(errors.NotFound, errors.RateLimited, errors.CapacityExceeded, errors.ServerError),
        *(TransportError, ConnectFailed, errors.NothingAnswers, errors.Disconnected, errors.AttemptTimeout),
        *(MalformedAnswer, Stopped),
    )
}


class Failed(_Frame, frozen=True):
    """An attempt that failed. ``row``: whose it was, in words of the guest. ``is_awaited``: its verdict is."""

    id: _Number
    failure: ErrorParts
    row: int | None
    is_awaited: bool


class GuestFrame(_Frame, frozen=True):
    """What a guest has to say; an empty one: that it is there.

    Attributes:
        answered: attempts with a good answer: their ids, the tokens they took, and what the headers reported.
        failed: attempts without.
        given_back: ids of permits that were not used, or are not waited for any more.
        asked: ids of permits that it would like, and the estimated tokens.
        expects_answers: the server answered it in an earlier start.
        purse: what those say who spend from a common purse.
    """

    answered: Annotated[
        list[tuple[_Number, _Number | None, RateLimits | None]], Meta(max_length=MAX_ITEMS)
    ] = []
    failed: Annotated[list[Failed], Meta(max_length=MAX_ITEMS)] = []
    given_back: Annotated[list[_Number], Meta(max_length=MAX_ITEMS)] = []
    asked: Annotated[list[tuple[_Number, _Number]], Meta(max_length=MAX_ITEMS)] = []
    expects_answers: bool = False
    purse: PurseWishes | None = None


class Verdict(_Frame, frozen=True):
    """On an attempt that failed: see `Governor.settle_failure`. ``stands_alone``: as in its permit."""

    id: _Number
    is_charged: bool
    stands_alone: bool
    is_unreachable: bool


class Standing(_Frame, frozen=True):
    """How the governor stands, of all that share it.

    Attributes:
        processes: that share it. The other fields are those of a `Snapshot`; a room is the part of one process.
        cause: what holds back those that wait.
        is_reached: the server has answered.
    """

    processes: Annotated[int, Meta(ge=1)]
    cause: WaitCause
    adaptive_limit: int
    requests_per_minute: float | None = None
    requests_source: LimitSource | None = None
    tokens_per_minute: float | None = None
    tokens_source: LimitSource | None = None
    requests_room: Room | None = None
    tokens_room: Room | None = None
    is_reached: bool = False

    @property
    def share(self) -> Share:
        """What is known of the quotas."""
        return Share(
            self.processes,
            *(self.requests_per_minute, self.requests_source, self.tokens_per_minute, self.tokens_source),
            *(self.requests_room, self.tokens_room),
        )


class HostFrame(_Frame, frozen=True):
    """What a host has to say.

    Attributes:
        permits: ids of those that may be sent now.
        refused: ids of those that may not be sent at all, and why.
        verdicts: on failures.
        standing: now and then.
        purse: what those are told who spend from a common purse.
    """

    permits: Annotated[list[_Number], Meta(max_length=MAX_ITEMS)] = []
    refused: Annotated[list[tuple[_Number, ErrorParts]], Meta(max_length=MAX_ITEMS)] = []
    verdicts: Annotated[list[Verdict], Meta(max_length=MAX_ITEMS)] = []
    standing: Standing | None = None
    purse: PurseAnswers | None = None


# Made here, where one thread imports: msgspec looks at a type when it first decodes one, and two threads that do so at
# the same time bring the process down.
CHALLENGE = msgspec.msgpack.Decoder(Challenge)
HELLO = msgspec.msgpack.Decoder(Hello)
WELCOME = msgspec.msgpack.Decoder(Welcome)
GUEST_FRAME = msgspec.msgpack.Decoder(GuestFrame)
HOST_FRAME = msgspec.msgpack.Decoder(HostFrame)


def are_sane(limits: RateLimits | None) -> bool:
    """Whether a server can have reported them."""
    if limits is None:
        return True
    amounts = (
        *(limits.requests_limit, limits.requests_remaining, limits.tokens_limit),
        *(limits.tokens_remaining, limits.query_cost, limits.retry_after_s),
    )
    return all(amount is None or is_sane(amount) for amount in amounts)


def is_sane(amount: float) -> bool:
    """Whether it can be one of tokens, requests or seconds."""
    return 0 <= amount <= MAX_AMOUNT


def slices(*lists: Sequence[object]) -> Iterator[slice]:
    """What of each list goes in one message after the other; at least one."""
    for start in range(0, max(1, *map(len, lists)), MAX_ITEMS):
        yield slice(start, start + MAX_ITEMS)


class FrameProtocol(asyncio.Protocol, ABC):
    """One end of a connection, on the event loop of the sharing thread. What comes is told to `received`.

    Attributes:
        transport: ``None``: it is closed.
        is_trusted: who is at the other end has proved who he is.
        said_s: when something was last sent, by the loop's clock.
    """

    def __init__(self, own: socket.socket) -> None:
        self.socket = own
        self.transport: asyncio.Transport | None = None
        self.is_trusted = False
        self.said_s = 0.0
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4 and self.transport is not None:
            end = 4 + int.from_bytes(buffer[:4])
            if end > (_MAX_BYTES if self.is_trusted else _MAX_STRANGE_BYTES):
                self.abort()
                return
            if len(buffer) < end:
                return
            frame = bytes(buffer[4:end])
            del buffer[:end]
            try:
                self.received(frame)
            except (msgspec.MsgspecError, NotOurs, ValueError):
                self.abort()

    @abstractmethod
    def received(self, frame: bytes) -> None:
        """One message, encoded.

        Raises:
            NotOurs, msgspec.MsgspecError: it is none; the connection ends.
        """

    def send(self, message: _Frame) -> None:
        transport = self.transport
        if transport is None:
            return
        self.said_s = asyncio.get_running_loop().time()
        try:
            frame = msgspec.msgpack.encode(message)
        except (
            ValueError,
            OverflowError,
        ):  # who waits for it hears that the connection is closed
            _log.debug("a message of the shared governor cannot be encoded", exc_info=True)
            self.abort()
            return
        transport.write(len(frame).to_bytes(4) + frame)
        if transport.get_write_buffer_size() > _MAX_BACKLOG_BYTES:
            self.abort()

    def abort(self) -> None:
        """Ends the connection, now."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()


def new_nonce() -> bytes:
    """That nobody has seen before."""
    return secrets.token_bytes(_NONCE_BYTES)


def proof(token: bytes, who: bytes, *said: bytes) -> bytes:
    """That ``who`` knows the token, for one conversation."""
    return hmac.new(token, b"mistill" + who + b"".join(said), hashlib.sha256).digest()


def is_proof(given: bytes, token: bytes, who: bytes, *said: bytes) -> bool:
    """In a time that tells nothing."""
    return hmac.compare_digest(given, proof(token, who, *said))
