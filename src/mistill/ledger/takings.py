"""What attempts have taken, by day, model and lane, for whoever holds it against a bill.

An attempt has its tokens and its cost; its model, its tier and its sound stand in the answer's body. So all bodies are
read: nothing is kept for this while a run goes on, and ledgers of any version have it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from mistill.ledger.jobs import read_jobs
from mistill.ledger.model_counts import MOST_NAMES, named
from mistill.ledger.spending import IS_DAMAGED
from mistill.ledger.tables import IS_WITH_SERVER

DAY_S = 86_400
_NEAR_S = 300.0
"""So far the clock of a server may be from ours, and so long after its end an attempt may be billed."""
_LONGEST_S = 3600.0
"""So long a server may go on with what nobody waits for any more."""
_LONGEST_JOB_S = 9 * 86_400.0
"""So long a job that has not ended may answer its lines: its time-out is 168 hours at the most, and it may overrun."""
_LONGEST_DAYS = 366
"""What took longer did so by a clock that was wrong."""
_BYTES_BESIDE = 2000
"""What is asked with an answer that did not do says why, in so many bytes at the most."""

_Name: TypeAlias = "tuple[str | None, str | None]"
"""A model and a tier."""
State: TypeAlias = Literal["answered", "estimated", "maybe_billed", "with_server"]


class AnswerTerms(Struct, frozen=True, gc=False):
    """By what an answer is billed, as it says itself.

    Attributes:
        model: that gave it. ``tier``: at which; ``None``: it does not say.
        audio_seconds: of sound in its prompt.
        input_tokens, output_tokens: as it counts them.
        has_usage: it counts them; ``None``: what is kept of it has no room for that.
    """

    model: str | None
    tier: str | None = None
    audio_seconds: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    has_usage: bool | None = True


TermsOf: TypeAlias = Callable[[bytes], AnswerTerms | None]


class Takings(Struct):
    """What attempts that are alike have taken, in sum. Those that can have been billed on other days are others.

    Attributes:
        day: on which they ended, or were sent where nothing ended them: in UTC, counted from 1970-01-01; ``None``: that
            is damaged.
        days: all on which they can have been billed.
        settings: the number of a retry's settings that they asked with; ``None``: the run's own.
        model, tier: of their answers; ``None``: they name none, or there are too many names.
        in_job: they were lines of batch jobs.
        state: ``answered``; ``estimated``: they were, and did not say what they took, or what cannot be;
            ``maybe_billed``: they were not, and may be on the bill; ``with_server``: they are in jobs that have not
            ended.
        requests: how many; rows that one asks are one.
        input_tokens, output_tokens, cached_tokens: of answers, as the ledger counts them. ``audio_seconds``: of sound.
        cost: US dollars. ``unpriced``: answers that are not in it, since no price was known.
        most_input_tokens: of the others, the most that they can have asked with.
        longest_output_tokens: of one answer.
    """

    day: int | None
    settings: int | None
    model: str | None
    tier: str | None
    in_job: bool
    state: State
    days: set[int] = msgspec.field(default_factory=set[int])
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    audio_seconds: int = 0
    cost: float = 0.0
    unpriced: int = 0
    most_input_tokens: int = 0
    longest_output_tokens: int = 0


class _Line(Struct, frozen=True, gc=False, array_like=True):
    """An attempt, as the query below gives it."""

    id: int
    row: int
    sent_at: float | None
    ended_at: float | None
    is_answered: bool
    is_with_server: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None
    settings: int | None
    request: int | None
    job: int | None
    asked: int | None
    body: bytes | None


_TO_COUNT = f"""SELECT id, row, sent_at, ended_at, status IS 'answered' AND NOT damaged, with_server, input_tokens,
        output_tokens, cached_tokens, cost, settings, request, job, asked, body
    FROM (SELECT *, {IS_DAMAGED} AS damaged, {IS_WITH_SERVER} AS with_server FROM attempts)
        LEFT JOIN answers ON attempt = id AND status = 'answered' AND NOT damaged
    WHERE damaged OR status IS NULL OR status IN ('answered', 'maybe_billed') ORDER BY id"""  # noqa: S608 - our own words
_UNKNOWN = f"""SELECT row, asked FROM attempts
    WHERE {IS_DAMAGED} OR status IS NULL OR status = 'maybe_billed'"""  # noqa: S608 - our own words


_ASKED_BY = """SELECT (SELECT coalesce(max(length(value)), 0) FROM meta WHERE key = 'manifest')
    + (SELECT coalesce(max(length(settings)), 0) FROM settings)"""


def read_takings(connection: sqlite3.Connection, terms_of: TermsOf) -> list[Takings]:
    """See `LedgerReader.takings`."""
    unknown = _Unknown(connection)
    ends = {job.id: job.record.ended_at for job in read_jobs(connection)}
    found: dict[tuple[Any, ...], Takings] = {}
    names: dict[_Name, _Name] = {}
    counted: dict[State, int] = {}
    for values in connection.execute(_TO_COUNT):
        line = _Line(*values)
        terms = None
        if line.is_answered:
            terms = terms_of(line.body) if isinstance(line.body, bytes) else None
            unknown.see(line, terms)
        takings = _like(line, terms, ends, found, names)
        if line.request is None or counted.get(takings.state) != line.request:
            takings.requests += 1
        if line.request is not None:
            counted[takings.state] = line.request
        _add(line, terms, takings)
        if not line.is_answered:
            unknown.wait(line, takings)
    unknown.settle()
    return list(found.values())


def _like(
    line: _Line,
    terms: AnswerTerms | None,
    ends: dict[int, float | None],
    found: dict[tuple[Any, ...], Takings],
    names: dict[_Name, _Name],
) -> Takings:
    ended_at = line.ended_at if line.job is None else ends.get(line.job) or line.ended_at
    at = line.sent_at if ended_at is None or not line.is_answered else ended_at
    day = _day(at)
    said: _Name = (None, None) if terms is None else (terms.model, terms.tier)
    if said not in names and len(names) < MOST_NAMES:
        names[said] = named(said[0]), named(said[1])
    model, tier = names.get(said, (None, None))
    first, last = _first_and_last(line)
    like = (day, line.settings, model, tier, line.job is not None, _state(line, terms))
    takings = found.get((*like, first, last))
    if takings is None:
        takings = found[(*like, first, last)] = Takings(*like, days=_days(first, last))
    return takings


def _first_and_last(line: _Line) -> tuple[int | None, int | None]:
    """The days between which it can have been billed."""
    return _day(_moved(line.sent_at, -_NEAR_S)), _day(_last_moment(line))


def _days(first: int | None, last: int | None) -> set[int]:
    if first is None or last is None:
        return set()
    return {first, last} | (set(range(first, last)) if last - first <= _LONGEST_DAYS else set())


def _state(line: _Line, terms: AnswerTerms | None) -> State:
    if not line.is_answered:
        return "with_server" if line.is_with_server else "maybe_billed"
    if terms is None or terms.has_usage is None:
        return "answered"
    told = terms.has_usage and (terms.input_tokens, terms.output_tokens) == (
        line.input_tokens,
        line.output_tokens,
    )
    return "answered" if told else "estimated"


def _last_moment(line: _Line) -> float | None:
    if line.is_with_server and line.job is not None:
        return _moved(line.sent_at, _LONGEST_JOB_S)
    if line.is_answered or line.job is not None:
        return _moved(line.ended_at or line.sent_at, _NEAR_S)
    return _moved(line.ended_at or line.sent_at, _LONGEST_S)


def _moved(moment: float | None, by_s: float) -> float | None:
    return moment + by_s if isinstance(moment, int | float) else None


_FIRST_S, _LAST_S = 1_577_836_800, 4_102_444_800
"""2020 to 2099: what a clock says beyond is no day on which anything can have been billed."""


def _day(moment: float | None) -> int | None:
    if not isinstance(moment, int | float) or not _FIRST_S <= moment < _LAST_S:
        return None
    return int(moment // DAY_S)


def _add(line: _Line, terms: AnswerTerms | None, takings: Takings) -> None:
    if not line.is_answered:
        return
    takings.input_tokens += line.input_tokens or 0
    takings.output_tokens += line.output_tokens or 0
    takings.cached_tokens += line.cached_tokens or 0
    takings.longest_output_tokens = max(takings.longest_output_tokens, line.output_tokens or 0)
    if terms is not None:
        takings.audio_seconds += terms.audio_seconds
    if line.cost is None:
        takings.unpriced += 1
    else:
        takings.cost += line.cost
    if takings.state == "estimated":
        takings.most_input_tokens += line.input_tokens or 0


class _Unknown:
    """How much attempts can have asked with of which no answer came.

    What a request to the same row asked to the same byte took tells it. Else a token has one byte at least: the row's
    record and what the run asks by, and in a conversation what was answered before.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._told: dict[tuple[int, int], int] = {}
        self._wanted = set[tuple[int, int | None]](connection.execute(_UNKNOWN))
        self._rows = {row: 0 for row, _ in self._wanted}
        self._waiting: list[tuple[int, int | None, Takings]] = []

    def see(self, line: _Line, terms: AnswerTerms | None) -> None:
        """An answer, which may be one to the same."""
        if line.row not in self._rows:
            return
        self._rows[line.row] += len(line.body or b"") + _BYTES_BESIDE
        if line.asked is not None and terms is not None and _state(line, terms) == "answered":
            self._told[line.row, line.asked] = line.input_tokens

    def wait(self, line: _Line, takings: Takings) -> None:
        self._waiting.append((line.row, line.asked, takings))

    def settle(self) -> None:
        """Adds up the most that they can have asked with."""
        self._waiting = [one for one in self._waiting if type(one[0]) is int]  # else it is damaged
        beside = self._connection.execute(_ASKED_BY).fetchone()[0]
        records = self._lengths(row for row, _, _ in self._waiting)
        for row, asked, takings in self._waiting:
            told = None if asked is None else self._told.get((row, asked))
            bound = records.get(row, 0) + beside + self._rows.get(row, 0)
            takings.most_input_tokens += bound if told is None else told

    def _lengths(self, rows: Iterable[int]) -> dict[int, int]:
        found = self._connection.execute(
            "SELECT row, length(record) FROM records WHERE row IN (SELECT value FROM json_each(?))",
            (json.dumps([*set(rows)]),),
        )
        return dict(found)
