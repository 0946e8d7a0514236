"""What the server saw and did: the requests it received and the counts that tests and people read."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from mistill.api.prices import factors_of
from mistill.simulator.bills import Bill, Bills, add_bill, cost_of

NO_WHOLE_ANSWER = 0
STATS_PATH = "/simulator/stats"
LINES_PATH = "/simulator/lines"
"""No paths of Mistral's: they need no key, and are not counted."""

_DAY_S = 86_400
BillsByDay: TypeAlias = Mapping[int, Bills]
"""The bills of each day in UTC, counted from 1970-01-01."""


class Received:
    """One request as it arrived.

    ``received_at`` is the Unix time in seconds. ``query`` is what stood behind the path, without its question
    mark. ``headers`` have lower-case names, and no key in them: those that had one are ``"present"``. ``status``
    is what was answered: ``None`` while in flight, 0 if no whole answer left.
    """

    __slots__ = ("_raw", "headers", "method", "path", "query", "received_at", "status")

    def __init__(
        self, method: str, path: str, query: str, headers: dict[str, str], raw: bytes, received_at: float
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.received_at = received_at
        self.status: int | None = None
        self._raw = raw

    def note_form(self, form: dict[str, str]) -> None:
        """The fields of an upload are its ``body``: ``file`` is the file's name, its content is not kept."""
        self._raw = msgspec.json.encode(form)

    @property
    def body(self) -> Any:
        """The decoded JSON; ``None`` if there was none, or none that could be read."""
        try:
            return msgspec.json.decode(self._raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def __repr__(self) -> str:
        return f"Received({self.method} {self.path}, status={self.status}, {len(self._raw)} bytes)"


class BatchStats(Struct, frozen=True):
    """Of files and batch jobs.

    Attributes:
        files: those kept now.
        jobs: how many are in each state.
        lines_billed: lines of jobs that are on the bill; ``input_tokens``, ``output_tokens``: their tokens, at half the
            price. ``cached_tokens``: those of the input that cost a tenth of that.
    """

    files: int
    jobs: dict[str, int]
    lines_billed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int


class Stats(Struct, frozen=True):
    """What a simulator has answered since it began; ``GET /simulator/stats`` gives it as JSON.

    Attributes:
        requests: those that came, the ones in flight too.
        answered: whole answers of the API. ``pages``: pages of HTML in their place, with status 200.
        counts_by_status: ends by status, "0" for those cut or dropped.
        input_tokens, output_tokens: of answers to requests, whole or cut: what a server bills. ``cached_tokens``: those
            of the input that were cached, and cost less.
        cost: US dollars for all tokens, by the prices that mistill is shipped with; models that have none cost nothing.
        batch: files and batch jobs.
    """

    requests: int
    answered: int
    pages: int
    in_flight: int
    peak_in_flight: int
    counts_by_status: dict[str, int]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float
    batch: BatchStats


class Traffic:
    """Counts. Written by the server's thread, read by any."""

    def __init__(self, requests_kept: int) -> None:
        self.requests: deque[Received] = deque(maxlen=requests_kept)
        self.counts_by_status: Counter[int] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.pages = 0
        self.lines_billed = 0
        self._bills: defaultdict[int, Bills] = defaultdict(dict)
        self._bills_of_lines: defaultdict[int, Bills] = defaultdict(dict)

    def keep(self, requests_kept: int) -> None:
        if requests_kept != self.requests.maxlen:
            self.requests = deque(self.requests, maxlen=requests_kept)

    @property
    def answered(self) -> int:
        return self.counts_by_status[200] - self.pages

    def stats(self, files: int, jobs: dict[str, int]) -> Stats:
        """All counts, with those of files and jobs that others keep."""
        counts = dict(self.counts_by_status)
        bills, bills_of_lines = map(_all_of, self.bills_by_day())
        return Stats(
            requests=sum(counts.values()) + self.in_flight,
            answered=self.answered,
            pages=self.pages,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            counts_by_status={str(status): count for status, count in sorted(counts.items())},
            input_tokens=sum(bill.input_tokens for bill in bills),
            output_tokens=sum(bill.output_tokens for bill in bills),
            cached_tokens=sum(bill.cached_tokens for bill in bills),
            cost=round(cost_of(bills) + cost_of(bills_of_lines) * factors_of().batch, 12),
            batch=BatchStats(
                files=files,
                jobs=jobs,
                lines_billed=self.lines_billed,
                input_tokens=sum(bill.input_tokens for bill in bills_of_lines),
                output_tokens=sum(bill.output_tokens for bill in bills_of_lines),
                cached_tokens=sum(bill.cached_tokens for bill in bills_of_lines),
            ),
        )

    def bill(self, bill: Bill) -> None:
        """An answer was made, whatever becomes of it on its way."""
        add_bill(self._bills[_today()], bill)

    def bill_lines(self, lines: int, bills: Iterable[Bill]) -> None:
        """So many lines of a job were answered, at half the price."""
        self.lines_billed += lines
        for bill in bills:
            add_bill(self._bills_of_lines[_today()], bill)

    def bills_by_day(self) -> tuple[BillsByDay, BillsByDay]:
        """Of requests, and of lines of jobs. From any thread."""
        return _copied(self._bills), _copied(self._bills_of_lines)

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


def _today() -> int:
    return int(time.time() // _DAY_S)


def _copied(bills: dict[int, Bills]) -> BillsByDay:
    return {day: dict(of_day) for day, of_day in list(bills.items())}


def _all_of(bills: BillsByDay) -> list[Bill]:
    return list(chain.from_iterable(of_day.values() for of_day in bills.values()))
