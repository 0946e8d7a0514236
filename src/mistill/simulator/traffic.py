"""What the server saw and did: the requests it received and the counts that tests and people read."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec
from msgspec import Struct

NO_WHOLE_ANSWER = 0
STATS_PATH = "/simulator/stats"
"""No path of Mistral's: it needs no key, and is not counted."""


class Received:
    """One request as it arrived.

    ``received_at`` is the Unix time in seconds. ``headers`` have lower-case names, and no key in them:
    authorization is ``"present"`` or absent. ``status`` is what was answered: ``None`` while in flight, 0 if
    no whole answer left.
    """

    __slots__ = ("_raw", "headers", "method", "path", "received_at", "status")

    def __init__(
        self, method: str, path: str, headers: dict[str, str], raw: bytes, received_at: float
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.received_at = received_at
        self.status: int | None = None
        self._raw = raw

    @property
    def body(self) -> Any:
        """The decoded JSON; ``None`` if there was none, or none that could be read."""
        try:
            return msgspec.json.decode(self._raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def __repr__(self) -> str:
        return f"Received({self.method} {self.path}, status={self.status}, {len(self._raw)} bytes)"


class Stats(Struct, frozen=True):
    """What a simulator has answered since it began; ``GET /simulator/stats`` gives it as JSON.

    Attributes:
        requests: those that came, the ones in flight too.
        answered: whole answers of the API. ``pages``: pages of HTML in their place, with status 200.
        counts_by_status: ends by status, "0" for those cut or dropped.
        input_tokens, output_tokens: of answers, whole or cut: what a server bills.
    """

    requests: int
    answered: int
    pages: int
    in_flight: int
    peak_in_flight: int
    counts_by_status: dict[str, int]
    input_tokens: int
    output_tokens: int


class Traffic:
    """Counts. Written by the server's thread, read by any."""

    def __init__(self, requests_kept: int) -> None:
        self.requests: deque[Received] = deque(maxlen=requests_kept)
        self.counts_by_status: Counter[int] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.pages = 0
        self.input_tokens = 0
        self.output_tokens = 0

    def keep(self, requests_kept: int) -> None:
        if requests_kept != self.requests.maxlen:
            self.requests = deque(self.requests, maxlen=requests_kept)

    @property
    def answered(self) -> int:
        return self.counts_by_status[200] - self.pages

    def stats(self) -> Stats:
        counts = dict(self.counts_by_status)
        return Stats(
            requests=sum(counts.values()) + self.in_flight,
            answered=self.answered,
            pages=self.pages,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            counts_by_status={str(status): count for status, count in sorted(counts.items())},
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )

    def bill(self, input_tokens: int, output_tokens: int) -> None:
        """An answer was made, whatever becomes of it on its way."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def enter(self, received: Received) -> None:
        self.requests.append(received)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def leave(self, received: Received, status: int) -> None:
        """Called before the last byte is written, so that the next request cannot overlap this one."""
        if received.status is None:
            received.status = status
            self.in_flight -= 1
            self.counts_by_status[status] += 1
