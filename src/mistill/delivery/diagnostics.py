"""Why it is slow: where a governor's time went, and the one setting that would help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, structs

from mistill.delivery.quotas import LimitSource
from mistill.delivery.sliding_window import Room
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.wording import Setting, Words, words

_WORTH_SHARE = 0.9
"""Advice must take more than the rest of the time away."""

WaitCause = Literal[
    "quota_requests",
    "quota_tokens",
    "cool_down",
    "outage",
    "backoff",
    "concurrency",
    "adaptive_limit",
    "budget",
    "jobs",
    "paused",
    "server",
    "idle",
]
"""What the oldest waiting request waits for; with none waiting, ``server`` while any is in flight, else ``backoff``
while a row pauses by itself before its next try, after a failure or a refusal of its own, else ``idle``.

``concurrency``: all slots of ``max_concurrent_requests`` are in use. ``adaptive_limit``: the limit of requests in
flight that is found by trying holds them back, since it still grows, or since the server said that it is full.
``budget``: what is in flight, at its worst, has to fit in what is left; see `Snapshot.under_budget`. ``jobs``: batch
jobs, of which the governor knows nothing; see `Snapshot.beside_jobs`. ``paused``: somebody has paused the run; see
`Snapshot.beside_pauses`.
"""


class TimeByCause:
    """Splits wall time by cause: one is in force at any moment."""

    __slots__ = ("_cause", "_seconds", "_since_s")

    def __init__(self, now_s: float) -> None:
        self._cause: WaitCause = "idle"
        self._since_s = now_s
        self._seconds: dict[WaitCause, float] = {}

    def switch(self, cause: WaitCause, now_s: float) -> None:
        """From now on, time is spent on ``cause``."""
        if cause == self._cause:
            return
        self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now_s - self._since_s
        self._cause = cause
        self._since_s = now_s

    def seconds(self, now_s: float) -> dict[WaitCause, float]:
        """By cause, up to now."""
        seconds = dict(self._seconds)
        seconds[self._cause] = seconds.get(self._cause, 0.0) + now_s - self._since_s
        return seconds


def plus(seconds: Mapping[WaitCause, float], more: Mapping[WaitCause, float]) -> dict[WaitCause, float]:
    """Both together, by cause."""
    summed = dict(seconds)
    for cause, spent in more.items():
        summed[cause] = summed.get(cause, 0.0) + spent
    return summed


class Snapshot(Struct, frozen=True):
    """A governor at one moment.

    Attributes:
        waiting, in_flight: requests, over all objects of this process that use it.
        adaptive_limit: the requests in flight that it allows by now, whatever slots the objects have.
        requests_per_minute, tokens_per_minute: the quotas; None while none is known.
        requests_source, tokens_source: who set them.
        answered, refused: good answers and 429s, since the governor was made.
        seconds: wall time by cause, since the governor was made.
        requests_room, tokens_room: what the quotas let through from now on, or this process's part of it; None while
            none is known.
        quota_waits: each quota that was waited for, as it was then, and who had set it; by now it may be another.
        alone_s: seconds in which it went on without the other processes that share the quota, since none answered.
    """

    waiting: int
    in_flight: int
    adaptive_limit: int
    requests_per_minute: float | None
    requests_source: LimitSource | None
    tokens_per_minute: float | None
    tokens_source: LimitSource | None
    answered: int
    refused: int
    seconds: dict[WaitCause, float]
    requests_room: Room | None = None
    tokens_room: Room | None = None
    quota_waits: dict[WaitCause, tuple[float | None, LimitSource | None]] = {}
    alone_s: float = 0.0

    @property
    def has_room(self) -> bool:
        """A quota is known."""
        return self.requests_room is not None or self.tokens_room is not None

    def quota_wait_s(self, requests: float, tokens: float) -> float:
        """In how many seconds the last of so many may leave, as the known quotas have it."""
        rooms = (self.requests_room, requests), (self.tokens_room, tokens)
        return max((room.wait_s(amount) for room, amount in rooms if room is not None), default=0.0)

    def of_processes(self, count: int) -> Snapshot:
        """What it is for so many processes together that share the quotas, where it has the part of one."""
        requests, tokens = self.requests_room, self.tokens_room
        return structs.replace(
            self,
            requests_room=None if requests is None else requests.of(count),
            tokens_room=None if tokens is None else tokens.of(count),
        )

    def since(self, earlier: Snapshot) -> dict[WaitCause, float]:
        """Seconds by cause between an earlier snapshot and this one: how one run's time was spent."""
        return {
            cause: spent
            for cause, seconds in self.seconds.items()
            if (spent := seconds - earlier.seconds.get(cause, 0.0)) > 0
        }

    def under_budget(self, waiting: int, waited_s: float) -> Snapshot:
        """What it is for a run whose budget holds back requests that the governor has let go.

        Args:
            waiting: requests that it holds back: they have a slot, and are not in flight.
            waited_s: seconds in which it held back any, and which the governor takes for the server's.
        """
        seconds = dict(self.seconds)
        left = waited_s
        for cause in _SEEMING:
            taken = min(left, seconds.get(cause, 0.0))
            if taken:
                seconds[cause] -= taken
                left -= taken
        if waited_s > left:
            seconds["budget"] = waited_s - left
        return structs.replace(
            self,
            waiting=self.waiting + waiting,
            in_flight=max(0, self.in_flight - waiting),
            seconds=seconds,
        )

    def beside_jobs(self, waited_s: float) -> Snapshot:
        """What it is for a run that has batch jobs at the server.

        Args:
            waited_s: seconds in which it had any: in which the governor had nothing to do, they were waited for.
        """
        idle = self.seconds.get("idle", 0.0)
        waited = min(waited_s, idle)
        if not waited:
            return self
        return structs.replace(self, seconds=self.seconds | {"idle": idle - waited, "jobs": waited})

    def beside_pauses(self, meanwhile: Mapping[WaitCause, float]) -> Snapshot:
        """What it is for a run that was paused.

        Args:
            meanwhile: what the governor takes the time of pauses for. Whatever was waited for, nothing would have left;
                what was in flight was the server's.
        """
        seconds, paused = dict(self.seconds), 0.0
        for cause, spent in meanwhile.items():
            taken = 0.0 if cause == "server" else min(spent, seconds.get(cause, 0.0))
            if taken:
                seconds[cause] -= taken
                paused += taken
        return structs.replace(self, seconds=seconds | {"paused": paused}) if paused else self

    def quota_waited_for(
        self, cause: Literal["quota_requests", "quota_tokens"]
    ) -> tuple[float | None, LimitSource | None]:
        """What the quota was when it was last waited for, and who had set it."""
        now = (
            (self.requests_per_minute, self.requests_source)
            if cause == "quota_requests"
            else (self.tokens_per_minute, self.tokens_source)
        )
        return self.quota_waits.get(cause, now)


_SEEMING: tuple[WaitCause, ...] = ("concurrency", "server", "adaptive_limit")
"""What seems to be waited for while a budget holds back requests that have a slot."""


def time_left_s(
    snapshot: Snapshot,
    *,
    rows: float,
    requests: float,
    tokens: float,
    seconds_each: float,
    at_once: float,
    pace_s: float = 0.0,
) -> float:
    """Seconds that further rows take, by whatever binds: the quotas, or width and latency.

    While the quota is waited for it goes down with the clock, and while a row is waited for it stands: it does not ask
    how fast it went so far.

    Args:
        rows: of which none has been sent yet. ``requests``, ``tokens``: that they take.
        seconds_each: that a row is under way; of rows that are asked together, each one's share.
        at_once: requests that are in flight together.
        pace_s: from one row's end to the next one's, without waits for a quota, as it was seen; 0: not yet.
    """
    if rows <= 0:
        return 0.0
    if snapshot.refused and snapshot.requests_room is None and not pace_s:
        at_once = min(at_once, max(1, snapshot.adaptive_limit))  # what a full server takes
    by_quota = snapshot.quota_wait_s(requests, tokens)
    by_width = rows * max(seconds_each / at_once, pace_s) - seconds_each
    return max(by_quota, by_width, 0.0) + seconds_each


def advice(
    snapshot: Snapshot,
    *,
    max_concurrent_requests: int,
    earlier: Snapshot | None = None,
    tuning: Tuning | None = None,
) -> Words | None:
    """The one setting that would help most, or None if nothing in the user's hands slows it notably.

    Args:
        snapshot: the governor now.
        max_concurrent_requests: the object's own setting, for the text.
        earlier: the governor when the run began; without it, its whole life counts. Shares are of all its time, as
            `seconds` has it, pauses included.
        tuning: the constants of delivery; those in force unless given.
    """
    spent = dict(snapshot.seconds if earlier is None else snapshot.since(earlier))
    total = sum(spent.values())  # of which shares are told wherever time is
    for cause in ("idle", "paused"):
        spent.pop(cause, None)
    at_work_s = sum(spent.values())
    if at_work_s <= 0:
        return None
    cause = max(spent, key=lambda each: spent[each])
    alone_s = snapshot.alone_s - (0.0 if earlier is None else earlier.alone_s)
    if min(1.0, alone_s / total) >= (tuning or current_tuning()).notable_share:
        return words(f"{min(1.0, alone_s / total):.0%} of the time ", _ALONE)
    share = spent[cause] / total
    if share < (tuning or current_tuning()).notable_share:
        return None
    answered = snapshot.answered - (0 if earlier is None else earlier.answered)
    text = _advice_for(cause, snapshot, max_concurrent_requests, answered=answered, total_s=at_work_s)
    return None if text is None else words(f"{share:.0%} of the time ", text)


_ALONE = (
    "was without the process that has the shared governor, which did not answer, or did not let this one in: it went "
    "on alone, with its share of the quota. See whether that process is stopped, computes without a pause, or has "
    "another MISTILL_GOVERNOR_TOKEN; and where MISTILL_GOVERNOR names an address, whether that is right, can be "
    "reached from here, and is no other program's"
)


def _advice_for(
    cause: WaitCause, snapshot: Snapshot, max_concurrent_requests: int, *, answered: int, total_s: float
) -> str | None:
    match cause:
        case "quota_requests":
            return _quota_advice("requests", *snapshot.quota_waited_for(cause))
        case "quota_tokens":
            return _quota_advice("tokens", *snapshot.quota_waited_for(cause))
        case "cool_down":
            rate = snapshot.requests_per_minute
            paused = "went into cool-downs after refusals (HTTP 429)"
            if (
                rate is None
                or snapshot.requests_source != "inferred"
                or not _is_worth_it(rate, answered, total_s)
            ):
                return f"{paused} that no known quota explains: no setting helps"
            setting = Setting("requests_per_minute")
            return words(
                f"{paused}: set ", setting, f" to your quota (about {math.floor(rate)} was accepted)"
            )
        case "outage":
            if not answered:
                return None  # whether it ever comes back is not known
            return (
                "the server was failing: no setting helps, and the work goes on by itself when it comes back"
            )
        case "concurrency":
            quota = snapshot.requests_per_minute
            if quota is not None and not _is_worth_it(quota, answered, total_s):
                return None  # more at once would only wait for the quota
            return words(
                f"all {max_concurrent_requests} slots waited for the server: raise ",
                Setting("max_concurrent_requests"),
                " if it can answer more at once",
            )
        case "adaptive_limit":
            if not snapshot.refused:
                return None  # it still grew: short runs end before it is done
            return (
                f"was held at {snapshot.adaptive_limit} requests in flight, found by trying: "
                "a server that says it is full (code 3505) is less so at another hour or with another model"
            )
        case "budget":
            return words(
                "waited for the budget, in which all that is in flight has to fit at its longest: a larger one, or ",
                "a lower ",
                Setting("max_new_tokens"),
                ", lets more leave at once",
            )
        case "backoff" | "jobs" | "paused" | "server" | "idle":
            return None


def _is_worth_it(per_minute: float, answered: int, total_s: float) -> bool:
    """Whether as many answers would have taken notably less time, had this quota been all that held them back."""
    return max(0.0, answered - per_minute) / per_minute * 60 < _WORTH_SHARE * total_s


def _quota_advice(what: str, per_minute: float | None, source: LimitSource | None) -> str:
    amount = "" if per_minute is None else f" of {per_minute:,.0f} {what} a minute"
    if source == "user":
        setting = Setting(f"{what}_per_minute")
        return words(f"waited for your own limit{amount}: raise ", setting, " if your quota allows more")
    shorter = words(", or set a lower ", Setting("max_new_tokens")) if what == "tokens" else ""
    found = "your quota" if source == "server" else "a quota"
    text = f"waited for {found}{amount}: ask Mistral to raise it, or use a model with a larger one"
    return words(text, shorter)
