"""The governor: it decides when the next attempt may leave.

One `Governor` stands for one quota: an (endpoint, key, model), shared by all objects, threads and event loops of the
process, and by other processes that are its guests (`mistill.delivery.sharing`). One `ConcurrencyLimit` stands for one
object's ``max_concurrent_requests``, or for all of a guest's requests. An attempt is admitted (`Governor.try_admit`,
else ``await`` `Governor.admit`), sent, then settled or refunded exactly once:

    permit = governor.try_admit(limit, tokens) or await governor.admit(limit, tokens)
    try:
        answer = ...                                            # one HTTP attempt
    except MistillError as error:
        is_charged, error = await governor.settle_failure(permit, error)
    else:
        governor.settle(permit, limits=answer.limits, tokens=answer.total_tokens)

What may hold a request back, each in its own module: its concurrency limit (`admission_queue`), refusals and outages
(`circuit_breaker`), the quotas of requests and tokens (`quotas`), the adaptive limit of requests in flight
(`adaptive_limit`).
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterable
from enum import Enum, auto
from typing import Protocol

import msgspec

from mistill.delivery.adaptive_limit import AdaptiveLimit
from mistill.delivery.admission_queue import (
    LOCK,
    AdmissionQueue,
    ConcurrencyLimit,
    Permit,
    Waiter,
    WaitingTask,
)
from mistill.delivery.circuit_breaker import CircuitBreaker
from mistill.delivery.diagnostics import Snapshot, TimeByCause, WaitCause
from mistill.delivery.limits_file import LearnedLimits, LimitsFile
from mistill.delivery.purse import Purse, PurseMember
from mistill.delivery.quota_estimate import QuotaHypothesis, Scatter
from mistill.delivery.quotas import LimitSource, Quotas, Share, explains_refusal, is_reported
from mistill.delivery.refused_rows import RefusedRows
from mistill.delivery.sliding_window import Cells, Room
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import (
    APIError,
    CapacityExceeded,
    ConnectFailed,
    MalformedAnswer,
    MistillError,
    NothingAnswers,
    RateLimited,
    RateLimits,
    ServerError,
    Stopped,
    TransportError,
)

__all__ = ["AnyGovernor", "ConcurrencyLimit", "Governor", "Permit", "Snapshot", "WindowCounts"]

_UNAVAILABLE = 503
_FAILED = 500


class Refusal(Enum):
    """What a 429 for lack of quota (code 1300) means: decided by `Governor._judge`, acted upon by `_settle_refusal`."""

    ZERO_LIMIT = auto()
    """The limit is 0: the key may not use this model, so waiting cannot help."""
    UNCERTAIN = auto()
    """Many were sent after it: before a quota is inferred, it is to be seen whether they are refused as well."""
    EVIDENCE = auto()
    """One of those is refused as well."""
    SCATTERED = auto()
    """Refusals that stand alone are known here: its row waits, and all others go on while it is seen how they fare."""
    BEYOND_ESTIMATE = auto()
    """It was sent beyond the estimated quota to find out whether that is right, and it is."""
    STRAGGLER = auto()
    """It was sent before the last refusal was known, and says nothing that this one did not."""
    PROBE = auto()
    """The circuit breaker's probe: the server still refuses, and the next pause is longer."""
    NEW = auto()
    """The first of a stretch, or one that was sent in spite of it: a cool-down begins, or is made longer."""


class AnyGovernor(Protocol):
    """What a dispatcher needs of a governor: its own, or that of another process whose guest this one is."""

    @property
    def in_flight(self) -> int: ...

    def set_quota(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None: ...

    def try_admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit | None: ...

    async def admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit: ...

    def settle(
        self,
        permit: Permit,
        *,
        limits: RateLimits | None = None,
        tokens: int | None = None,
        error: Stopped | None = None,
    ) -> object: ...

    async def settle_failure(
        self, permit: Permit, error: MistillError, row: Hashable = None
    ) -> tuple[bool, MistillError]: ...

    def refund(self, permit: Permit) -> None: ...

    def expect_answers(self) -> None: ...

    def join_purse(self, member: PurseMember) -> None: ...

    def leave_purse(self, member: PurseMember) -> None: ...

    def note_resting(self, more: int) -> None: ...

    def snapshot(self) -> Snapshot: ...


class WindowCounts(msgspec.Struct, frozen=True, array_like=True):
    """What a governor has counted, for the one that goes on in its place.

    Attributes:
        learned: its limits; of what is used, what others are thought to.
        requests, tokens: what is in its windows. ``reserved``: tokens of what is in flight.
        is_reached: the server has answered.
        paused_s: for how long nothing was to be sent, as the server had asked.
        probing: `QuotaEstimate.probing`; ``None``: there is no estimate.
    """

    learned: LearnedLimits
    requests: Cells
    tokens: Cells
    reserved: int
    is_reached: bool = False
    paused_s: float = 0.0
    probing: tuple[float, float] | None = None

    @property
    def age_s(self) -> float:
        """How long ago that was."""
        return time.time() - self.learned.learned_at

    @property
    def is_sane(self) -> bool:
        """It can have been counted."""
        cells = (*self.requests, *self.tokens, (0, self.reserved))
        return (
            self.learned.is_sane
            and all(0 <= seconds <= _MAX_COUNTED for seconds in (self.paused_s, *(self.probing or ())))
            and all(min(cell) >= 0 and max(cell) <= _MAX_COUNTED for cell in cells)
        )


_MAX_COUNTED = 1 << 50
_MAX_FUTURE_S = 60.0
"""What was counted further ahead was counted under another clock."""


class _Timer:
    """The next moment at which time alone may admit someone, on the event loop of who is next."""

    __slots__ = ("at_s", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, at_s: float) -> None:
        self.loop = loop
        self.at_s = at_s


class Governor:
    """Decides when attempts to one (endpoint, key, model) leave. Thread-safe.

    Args:
        clock: seconds that never go back.
        requests_per_minute, tokens_per_minute: as `set_quota`.
        window_s: the window over which the server counts: 60 s with Mistral.
        tuning: the constants of delivery; those in force unless given.
        limits_file: where other processes have left what they learned, and this one leaves it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        window_s: float = 60.0,
        tuning: Tuning | None = None,
        limits_file: LimitsFile | None = None,
    ) -> None:
        self.in_flight = 0
        self._resting = 0
        self._clock = clock
        self._tuning = tuning = tuning or current_tuning()
        self._sequence = 0
        self._answered = 0
        self._answered_at_s = -math.inf
        self._refused = 0
        self._queue = AdmissionQueue(self)
        self._quotas = Quotas(window_s, tuning)
        self._limits_file = limits_file
        self._write_at_s = math.inf
        self._written: LearnedLimits | None = None
        self._widest = 0
        self._was_full = False
        self._adaptive_limit = AdaptiveLimit(tuning)
        self._breaker = CircuitBreaker(tuning)
        self._hypothesis: QuotaHypothesis | None = None
        self._scatter = Scatter(tuning)
        self._refused_rows = RefusedRows(tuning)
        self._refused_probes = 0
        self._time = TimeByCause(clock())
        self._quota_waits: dict[WaitCause, tuple[float | None, LimitSource | None]] = {}
        self._cause: WaitCause = "server"
        self._timer: _Timer | None = None
        self._guests: dict[Hashable, ConcurrencyLimit] = {}
        self._guests_loop: asyncio.AbstractEventLoop | None = None
        self._guests_answered = self._guests_refused = 0
        self._purses: dict[str, Purse] = {}
        learned = None if limits_file is None else limits_file.read()
        if learned is not None:
            self._take_up_limits(learned)
        self.set_quota(requests_per_minute, tokens_per_minute)

    def _take_up_limits(self, learned: LearnedLimits) -> None:
        self._widest, self._was_full = learned.in_flight, learned.was_full
        self._adaptive_limit = AdaptiveLimit(self._tuning, reached=learned.may_be_in_flight)
        self._quotas.take_up(learned, time.time() - learned.learned_at, self._clock())

    def set_quota(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The user's own limits, used in place of what headers report. None: learn it."""
        with LOCK:
            self._quotas.set_by_user(requests_per_minute, tokens_per_minute)
            self.admit_waiting()

    def note_sent(self, requests: Cells, tokens: Cells) -> None:
        """What has left lately without asking it counts, too."""
        with LOCK:
            self._quotas.take_up_counts(requests, tokens, 0, 0.0, self._clock())

    # --- before an attempt ------------------------------------------------------------------------------------

    def try_admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit | None:
        """A permit if one is free now and nobody waits before; else None, and `admit` is the way.

        ``tokens``: the estimated cost of the attempt, input and output.
        """
        with LOCK:
            if concurrency_limit.in_flight >= concurrency_limit.slots:
                return None
            queue = self._queue
            if queue.limits and (concurrency_limit in queue.limits or queue.next_with_slot() is not None):
                return None
            now_s = self._clock()
            if self._blocked_until_s(tokens, now_s):
                return None
            return self._grant(concurrency_limit, tokens, now_s)

    async def admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit:
        """A permit, first in first out. Safe to cancel; while it waits it holds no slot.

        Args:
            concurrency_limit: of the object that sends the attempt.
            tokens: the estimated cost of the attempt, input and output.

        Raises:
            RateLimited: the key may not use this model at all.
            NothingAnswers: no connection to it could be made, ever.
            MistillError: the server's last error, when it has failed for longer than `Tuning.patience_s`.
        """
        waiter = WaitingTask(concurrency_limit, tokens)
        self.enqueue(waiter)
        return await waiter.wait(self)

    def enqueue(self, waiter: Waiter) -> None:
        """It is admitted now, or woken when it is."""
        with LOCK:
            if not self._queue.limits:
                self._breaker.forget_if_old(self._clock())
            self._sequence += 1
            waiter.sequence = self._sequence
            self._queue.add(waiter)
            self.admit_waiting()

    def abandon(self, waiter: Waiter) -> None:
        """It waits no longer, or has no use for the permit that it was given just now."""
        with LOCK:
            if waiter.permit is not None:
                self.refund(waiter.permit)
                return
            self._queue.remove(waiter)
            self.admit_waiting()  # the timer may have been on its event loop

    def take_waiting(self) -> list[Waiter]:
        """All that wait, the oldest first; they no longer wait here."""
        with LOCK:
            waiters = self._queue.take_all()
            self._note_empty_queue()
            return waiters

    # --- after an attempt -------------------------------------------------------------------------------------

    def settle(
        self,
        permit: Permit,
        *,
        limits: RateLimits | None = None,
        tokens: int | None = None,
        error: MistillError | None = None,
        row: Hashable = None,
    ) -> bool:
        """The attempt ended, with a good answer or with ``error``. Exactly once per permit; all learning is here.

        Args:
            permit: what it was sent with.
            limits: what the answer's headers reported; of an error, its own ``limits`` where it has them.
            tokens: the actual total of the answer; None: as estimated.
            error: how it failed.
            row: identifies the row, so that one row's own failures are not taken for an outage.

        Returns:
            Whether to count this against the row's retries: False for a good answer, and for a failure that many
            share (an outage, a cool-down), which is not the row's fault.
        """
        with LOCK:
            _mark_settled(permit)
            now_s = self._clock()
            is_charged = False
            if error is None:
                self._settle_answer(permit, limits, tokens, now_s)
            else:
                if limits is None and isinstance(error, APIError):
                    limits = error.limits
                row = permit.sequence if row is None else row
                is_charged = self._settle_error(permit, limits, error, row, now_s)
            self._release(permit)
            return is_charged

    def settle_failed(
        self, permit: Permit, error: MistillError, row: Hashable = None
    ) -> tuple[bool, MistillError]:
        """`settle` of an attempt that failed.

        Returns:
            Whether to count it against the row's retries; and the error, or what it has shown together with those
            before it.
        """
        with LOCK:
            is_charged = self.settle(permit, error=error, row=row)
            if isinstance(error, ConnectFailed) and self._is_unreachable(self._clock()):
                error = NothingAnswers.after(error)
            return is_charged, error

    async def settle_failure(
        self, permit: Permit, error: MistillError, row: Hashable = None
    ) -> tuple[bool, MistillError]:
        """`settle_failed`, for callers whose governor may be in another process."""
        return self.settle_failed(permit, error, row)

    def refund(self, permit: Permit) -> None:
        """The attempt was never sent: everything is given back."""
        with LOCK:
            _mark_settled(permit)
            self._quotas.cancelled(permit, self._clock())
            if self._guests:
                self._queue.note_given_back(permit.concurrency_limit.owner)
            self._release(permit)

    def expect_answers(self) -> None:
        """The server has answered in an earlier start, so where nothing answers now, it is waited for."""
        with LOCK:
            self._breaker.expect_answers()

    def note_resting(self, more: int) -> None:
        """So many more rows of this process, or fewer, pause by themselves before their next attempt."""
        with LOCK:
            self._resting += more
            if not self._queue.limits:
                self._note_time(self._without_waiting(self.in_flight), self._clock())

    def snapshot(self) -> Snapshot:
        """What goes on in this process, and where its time went; the quotas are those of all."""
        with LOCK:
            quotas, now_s, sharers = self._quotas, self._clock(), self._queue.owners()
            requests, tokens = self._requests_per_minute(), self._tokens_per_minute()
            return Snapshot(
                waiting=self._queue.waiting_of(None),
                in_flight=self._own_in_flight(),
                adaptive_limit=int(self._adaptive_limit.limit),
                requests_per_minute=requests[0],
                requests_source=requests[1],
                tokens_per_minute=tokens[0],
                tokens_source=tokens[1],
                answered=self._answered - self._guests_answered,
                refused=self._refused - self._guests_refused,
                seconds=self._time.seconds(now_s),
                requests_room=_part_of(quotas.requests.room_ahead(now_s), sharers),
                tokens_room=_part_of(quotas.tokens.room_ahead(now_s), sharers),
                quota_waits=dict(self._quota_waits),
            )

    def _requests_per_minute(self) -> tuple[float | None, LimitSource | None]:
        """The quota, and who set it."""
        limit, quotas = self._quotas.requests.limit, self._quotas
        return None if limit is None else limit / quotas.window_s * 60, quotas.requests_source

    def _tokens_per_minute(self) -> tuple[float | None, LimitSource | None]:
        limit, quotas = self._quotas.tokens.limit, self._quotas
        return None if limit is None else limit / quotas.window_s * 60, quotas.tokens_source

    # --- other processes --------------------------------------------------------------------------------------

    @property
    def cause(self) -> WaitCause:
        """What those that wait wait for; ``server``: nobody waits."""
        with LOCK:
            return self._cause if self._queue.limits else "server"

    @property
    def is_reached(self) -> bool:
        """The server has answered, if only with an error."""
        return self._breaker.is_reached

    @property
    def has_sent(self) -> int:
        """How many attempts have left; a number that changes with each."""
        return self._quotas.requests.entered

    def add_guest(self, guest: Hashable, loop: asyncio.AbstractEventLoop | None = None) -> ConcurrencyLimit:
        """What the requests of another process, which is told by ``guest``, are admitted under.

        ``loop`` runs for as long as there are guests, whatever users' loops do: from now on it tells the time.
        """
        with LOCK:
            limit = self._guests[guest] = ConcurrencyLimit(sys.maxsize, owner=guest)
            self._guests_loop = loop
            self.admit_waiting()  # whose timer may be on a loop that stands still
            return limit

    def remove_guest(self, guest: Hashable, permits: Iterable[Permit]) -> None:
        """It is gone, and so is what it waited for. ``permits``: that it had; what came of those is not known."""
        with LOCK:
            self._queue.forget(self._guests[guest])
            for permit in permits:
                self.settle(permit, error=Stopped("its process has gone", reason="cancelled"))
            del self._guests[guest]
            if not self._guests:
                self._guests_loop = None
            self.admit_waiting()

    def join_purse(self, member: PurseMember, *, shares: int = 1) -> None:
        """It spends from its purse, which is kept here. ``shares``: see `PurseMember.is_kept_by`."""
        with LOCK:
            member.is_kept_by(self.purse(member.purse), shares=shares)

    def leave_purse(self, member: PurseMember) -> None:
        """It spends nothing any more."""
        with LOCK:
            member.is_kept_by(None)

    def purse(self, name: str) -> Purse:
        """Of all that share this governor; a new one, where nobody has spent from it yet."""
        return self._purses.setdefault(name, Purse())

    def counts(self) -> WindowCounts:
        """What the next governor of this quota has to know."""
        with LOCK:
            now_s, quotas = self._clock(), self._quotas
            learned = msgspec.structs.replace(
                self._learned(now_s),
                used_requests=math.ceil(quotas.requests.others(now_s)),
                used_tokens=math.ceil(quotas.tokens.others(now_s)),
            )
            return WindowCounts(
                learned,
                quotas.requests.cells(now_s),
                quotas.tokens.cells(now_s),
                quotas.tokens.reserved,
                self._breaker.is_reached,
                self._breaker.paused_s(now_s),
                quotas.estimate.probing(now_s) if quotas.has_estimate else None,
            )

    def take_over(self, counts: WindowCounts | None, limits_file: LimitsFile | None) -> None:
        """It governs for all from now on, and goes on with what was counted; ``None``: with what is in the file."""
        with LOCK:
            self._limits_file = limits_file
            if counts is not None and -_MAX_FUTURE_S <= counts.age_s <= self._quotas.window_s:
                self._take_up_counts(counts)
            elif limits_file is not None and (learned := limits_file.read()) is not None:
                self._take_up_limits(learned)
            self.set_quota(None, None)

    def _take_up_counts(self, counts: WindowCounts) -> None:
        age_s, now_s = max(0.0, counts.age_s), self._clock()
        self._take_up_limits(counts.learned)
        self._quotas.take_up_counts(counts.requests, counts.tokens, counts.reserved, age_s, now_s)
        if counts.is_reached:
            self._breaker.expect_answers()
        if counts.probing is not None and self._quotas.has_estimate:
            in_s, interval_s = counts.probing
            self._quotas.estimate.go_on_probing(max(0.0, in_s - age_s), interval_s, now_s)
        if counts.paused_s > age_s:
            self._pause_all(counts.paused_s - age_s, now_s)

    def go_on_with_share(self, standing: Share, waited_s: float) -> None:
        """It governs one of several processes, each for itself, with its share of what was known ``waited_s`` ago."""
        with LOCK:
            self._quotas.take_share(standing, waited_s, self._clock())
            self.admit_waiting()

    # --- admission --------------------------------------------------------------------------------------------

    def admit_waiting(self) -> None:
        """Admits whoever may leave now, oldest first."""
        with LOCK:
            if not self._queue.limits:
                self._note_empty_queue()
                return
            now_s = self._clock()
            self._fail_if_out_of_patience(now_s)
            while self._queue.limits:
                waiter = self._queue.next_with_slot()
                if waiter is None:
                    self._note_time("concurrency", now_s)
                    return
                if waiter.loop.is_closed():
                    self._queue.remove(waiter)
                    continue
                until_s = self._blocked_until_s(waiter.tokens, now_s)
                if until_s:
                    self._note_time(self._cause, now_s)
                    self._set_timer(min(until_s, self._breaker.patience_ends_s()), waiter, now_s)
                    return
                self._queue.remove(waiter)
                waiter.permit = self._grant(waiter.concurrency_limit, waiter.tokens, now_s)
                if not waiter.wake():
                    self.refund(waiter.permit)
            self._note_empty_queue()

    def _blocked_until_s(self, tokens: int, now_s: float) -> float:
        """0 if nothing but a concurrency limit could hold back a request; else when to look again, the cause noted."""
        hypothesis = self._hypothesis
        if hypothesis is not None:
            if now_s >= hypothesis.decides_at_s:
                self._decide(hypothesis, now_s)
            elif not hypothesis.is_open:
                self._cause = "cool_down"
                return hypothesis.decides_at_s
        breaker = self._breaker
        if breaker.is_tripped and (until_s := breaker.blocked_until_s(now_s)):
            self._cause = breaker.cause
            return until_s
        quotas = self._quotas
        if until_s := quotas.blocked_until_s(tokens, now_s):
            self._cause = quotas.cause
            return until_s
        if self.in_flight < self._adaptive_limit.limit:
            return 0.0
        quota = quotas.requests.limit if quotas.is_known else None
        until_s = self._adaptive_limit.blocked_until_s(self.in_flight, now_s, quota)
        if until_s:
            self._cause = "adaptive_limit"
        return until_s

    def _grant(self, concurrency_limit: ConcurrencyLimit, tokens: int, now_s: float) -> Permit:
        self._sequence += 1
        self.in_flight += 1
        concurrency_limit.in_flight += 1
        if (self.in_flight == 1 or self._guests) and not self._queue.limits:
            self._note_time("server", now_s)
        permit = Permit(concurrency_limit, self._sequence, tokens=tokens)
        permit.is_probe = self._breaker.sent(now_s)
        self._quotas.sent(permit, now_s)
        if self._hypothesis is not None:
            self._hypothesis.sent(self._sequence, now_s)
        if self._guests:
            window = self._quotas.requests.limit
            credit = self._tuning.fair_credit if window is None else min(self._tuning.fair_credit, window / 2)
            self._queue.note_given(concurrency_limit.owner, credit)
        return permit

    def _release(self, permit: Permit) -> None:
        if permit.is_probe:
            self._breaker.probe_ended()
        self.in_flight -= 1
        concurrency_limit = permit.concurrency_limit
        concurrency_limit.in_flight -= 1
        if self._queue.limits or not self.in_flight or self._guests:
            self.admit_waiting()
        if concurrency_limit.waiting_at:
            for governor in tuple(concurrency_limit.waiting_at):
                if governor is not self:
                    governor.admit_waiting()

    def _fail_if_out_of_patience(self, now_s: float) -> None:
        error = self._breaker.last_error
        if error is None or not self._is_out_of_patience(now_s):
            return
        if isinstance(error, ConnectFailed) and self._is_unreachable(now_s):
            error = NothingAnswers.after(error)
        self._breaker.give_up(now_s)
        self._fail_all(error)

    def _fail_all(self, error: MistillError) -> None:
        for waiter in self._queue.take_all():
            waiter.error = error
            waiter.wake()

    def _note_empty_queue(self) -> None:
        if not self._queue.limits:
            now_s = self._clock()
            self._note_time("server" if self.in_flight else self._without_waiting(0), now_s)
            if not self.in_flight and self._answered:
                self._write_down(now_s)

    def _note_time(self, cause: WaitCause, now_s: float) -> None:
        """What the time of this process is spent on from now on, if it is spent on ``cause`` wherever anybody waits."""
        if self._guests and not self._queue.waiting_of(None):
            cause = self._without_waiting(self._own_in_flight())
        if cause == "quota_requests":
            self._quota_waits[cause] = self._requests_per_minute()
        elif cause == "quota_tokens":
            self._quota_waits[cause] = self._tokens_per_minute()
        self._time.switch(cause, now_s)

    def _without_waiting(self, in_flight: int) -> WaitCause:
        """What time is spent on while nobody waits here."""
        return "server" if in_flight else "backoff" if self._resting else "idle"

    def _own_in_flight(self) -> int:
        return self.in_flight - sum(limit.in_flight for limit in self._guests.values())

    def _write_down(self, now_s: float) -> None:
        """Leaves what was learned to other processes; now that nothing is in flight, if that is anything new."""
        if self._limits_file is None:
            return
        learned, before = self._learned(now_s), self._written
        is_due = now_s >= self._write_at_s
        if is_due or before is None or not _are_alike(learned, before):
            self._written = learned
            self._write_at_s = now_s + self._tuning.remember_every_s
            self._limits_file.write_soon(learned)

    def _learned(self, now_s: float) -> LearnedLimits:
        quotas, minutes = self._quotas, self._quotas.window_s / 60
        told, is_inferred = quotas.told, quotas.requests_source == "inferred"
        requests = quotas.requests.limit if is_inferred else None
        return LearnedLimits(
            learned_at=time.time(),
            in_flight=self._widest,
            was_full=self._was_full,
            requests_per_minute=told[0] if requests is None else requests / minutes,
            tokens_per_minute=told[1],
            source="inferred" if is_inferred else "server" if told != (None, None) else None,
            by_second=is_inferred and quotas.estimate.is_rate,
            used_requests=quotas.requests.all_used(now_s),
            used_tokens=quotas.tokens.all_used(now_s),
        )

    def _set_timer(self, at_s: float, waiter: Waiter, now_s: float) -> None:
        """Sees to it that somebody looks again at that moment. An earlier look is harmless, a late one is not."""
        timer, loop = self._timer, self._guests_loop or waiter.loop
        if loop.is_closed():  # of guests whom nobody serves any more: the process ends
            loop = waiter.loop
        if at_s == math.inf or (timer is not None and timer.loop is loop and timer.at_s <= at_s):
            return
        self._timer = timer = _Timer(loop, at_s)
        delay_s = max(self._tuning.min_timer_s, at_s - now_s)
        if loop is asyncio._get_running_loop():  # noqa: SLF001  see Waiter.wake
            loop.call_later(delay_s, self._timer_fired, timer)
            return
        try:
            loop.call_soon_threadsafe(loop.call_later, delay_s, self._timer_fired, timer)
        except RuntimeError:  # closed in this moment: the next look finds it so, and drops the waiter
            self._timer = None

    def _timer_fired(self, timer: _Timer) -> None:
        with LOCK:
            if timer is self._timer:
                self._timer = None
                self.admit_waiting()

    # --- learning ---------------------------------------------------------------------------------------------

    def _settle_answer(
        self, permit: Permit, limits: RateLimits | None, tokens: int | None, now_s: float
    ) -> None:
        self._answered += 1
        if permit.concurrency_limit.owner is not None:
            self._guests_answered += 1
        self._answered_at_s = now_s
        self._breaker.is_reached = True
        if tokens is None:
            tokens = permit.tokens if limits is None else limits.query_cost or permit.tokens
        quotas = self._quotas
        if quotas.is_hearsay:
            quotas.confirm(limits)
        quotas.ended(permit, now_s, tokens=tokens, is_answer=True)
        if limits is not None:
            quotas.learn(permit, permit.sequence, limits, now_s)
        self._adaptive_limit.answered(self.in_flight, now_s, quota_is_known=quotas.is_known)
        self._breaker.answered(permit.sequence, is_probe=permit.is_probe)
        if self._refused:
            self._scatter.accepted(permit.sequence)
            if self._hypothesis is not None:
                self._hypothesis.add_answer(permit.sequence, now_s)
        if self.in_flight > self._widest:
            self._widest = self.in_flight
        if now_s >= self._write_at_s:
            self._write_down(now_s)

    def _settle_error(
        self, permit: Permit, limits: RateLimits | None, error: MistillError, row: Hashable, now_s: float
    ) -> bool:
        """Learns from a failed attempt; True if it is the row's own failure."""
        if not isinstance(error, ConnectFailed | Stopped):
            self._breaker.is_reached = True
        if isinstance(error, RateLimited):
            is_charged = self._settle_refusal(permit, limits, error, row, now_s)
        elif isinstance(error, CapacityExceeded):
            is_charged = self._settle_full_server(permit, error, row, now_s)
        elif isinstance(error, ServerError | TransportError | MalformedAnswer):
            is_charged = self._settle_failure(permit, error, row, now_s)
        else:
            # A sane refusal of this one request shows that the server is well; a `Stopped` shows nothing.
            is_answer = isinstance(error, APIError)
            self._quotas.ended(permit, now_s, tokens=0, is_answer=is_answer)
            if is_answer:
                self._breaker.answered(permit.sequence, is_probe=permit.is_probe)
            is_charged = True
        if limits is not None:
            is_refusal = isinstance(error, RateLimited)
            self._quotas.learn(permit, permit.sequence, limits, now_s, is_refusal=is_refusal)
        if pause_s := self._pause_for_all_s(permit, limits, error, now_s):
            hypothesis = self._hypothesis
            if (
                hypothesis is not None
                and isinstance(error, RateLimited)
                and not explains_refusal(limits, permit.tokens)
            ):
                hypothesis.pause_s = max(hypothesis.pause_s, pause_s)  # of all, if it turns out so
            else:
                self._pause_all(pause_s, now_s)
        return is_charged

    def _pause_all(self, pause_s: float, now_s: float) -> None:
        self._breaker.pause(pause_s, self._sequence, now_s)
        self._adaptive_limit.restart()

    def _pause_for_all_s(
        self, permit: Permit, limits: RateLimits | None, error: MistillError, now_s: float
    ) -> float:
        """How long all wait because of the ``Retry-After`` of one request; 0: they do not.

        Only a refusal for load speaks of more than its own request. No quota takes longer than its window to be free
        again, so what is asked beyond that is of no use to the others; if the answer says itself that the quota is not
        used up, no cool-down is longer. A refusal for longer than any row waits, of a server that answers others, is
        perhaps the row's own: a cool-down's probe tells.
        """
        if not isinstance(error, APIError) or not error.retry_after_s or permit.stands_alone:
            return 0.0
        if not isinstance(error, RateLimited | CapacityExceeded) and error.status != _UNAVAILABLE:
            return 0.0
        longest_s = self._quotas.window_s
        is_odd = isinstance(error, RateLimited) and error.retry_after_s > self._tuning.max_retry_after_s
        if is_odd and self._is_answering(now_s):
            return 0.0
        if (
            isinstance(error, RateLimited)
            and is_reported(limits)
            and not explains_refusal(limits, permit.tokens)
        ):
            longest_s = self._tuning.max_cool_down_s
        return min(error.retry_after_s, longest_s)

    def _judge(self, permit: Permit, limits: RateLimits | None, error: RateLimited) -> Refusal:
        """What this refusal means. Changes nothing."""
        if error.limit_is_zero:
            return Refusal.ZERO_LIMIT
        hypothesis = self._hypothesis
        is_explained = explains_refusal(limits, permit.tokens)
        if hypothesis is not None and hypothesis.concerns(permit.sequence) and not is_explained:
            return Refusal.EVIDENCE
        if not is_explained and self._is_first_of_stretch(permit):
            if self._scatter.is_known:
                return Refusal.SCATTERED
            if hypothesis is None and self._quotas.sent_since(permit) >= self._tuning.hypothesis_min_later:
                return Refusal.UNCERTAIN
        if permit.exceeds_estimate and not permit.is_probe:
            return Refusal.BEYOND_ESTIMATE
        if self._breaker.is_straggler(permit.sequence):
            return Refusal.STRAGGLER
        return Refusal.PROBE if permit.is_probe else Refusal.NEW

    def _is_first_of_stretch(self, permit: Permit) -> bool:
        """All was well when this one was refused, and nothing special was tried with it."""
        return not (permit.is_probe or permit.exceeds_estimate or self._breaker.is_tripped)

    def _settle_refusal(
        self, permit: Permit, limits: RateLimits | None, error: RateLimited, row: Hashable, now_s: float
    ) -> bool:
        """True, and so the row's own, for one of this row alone, and for the first of a stretch while the server
        answers nobody."""
        self._note_refused(permit)
        if self._is_of_this_row(permit, limits, error, row):
            permit.stands_alone = True
            self._quotas.refused(permit, now_s)
            return True
        is_odd = self._is_first_of_stretch(permit) and not explains_refusal(limits, permit.tokens)
        self._scatter.refused(self._sequence, is_odd=is_odd)
        refusal = self._judge(permit, limits, error)
        if refusal is Refusal.ZERO_LIMIT:
            self._quotas.cancelled(permit, now_s)
            self._fail_all(error)
            return True
        self._quotas.refused(permit, now_s)
        if refusal is not Refusal.BEYOND_ESTIMATE:
            self._breaker.last_error = error
        match refusal:
            case Refusal.UNCERTAIN:
                self._hypothesis = self._new_hypothesis(permit, now_s)
                return not self._is_answering(now_s)
            case Refusal.SCATTERED:
                permit.stands_alone = True
                if self._hypothesis is None or permit.sequence > self._hypothesis.newest:
                    self._hypothesis = self._new_hypothesis(permit, now_s)
                return not self._is_answering(now_s)
            case Refusal.EVIDENCE:
                assert self._hypothesis is not None
                self._hypothesis.add_refusal(permit, now_s)
                permit.stands_alone = self._hypothesis.is_open
                return False
            case Refusal.BEYOND_ESTIMATE:
                self._infer_quota(permit, limits, now_s)
                return False
            case Refusal.STRAGGLER | Refusal.PROBE | Refusal.NEW:
                self._refused_probes += refusal is Refusal.PROBE
                if refusal is Refusal.NEW:
                    self._refused_probes = 0
                self._infer_quota(permit, limits, now_s)
                self._breaker.refused(
                    permit.sequence,
                    self._sequence,
                    now_s,
                    probe_after=True,
                    is_explained=explains_refusal(limits, permit.tokens),
                )
        is_own = refusal is Refusal.NEW and not self._is_answering(now_s)
        return is_own or self._is_out_of_patience(now_s)

    def _note_refused(self, permit: Permit) -> None:
        self._refused += 1
        if permit.concurrency_limit.owner is not None:
            self._guests_refused += 1

    def _is_of_this_row(
        self, permit: Permit, limits: RateLimits | None, error: RateLimited, row: Hashable
    ) -> bool:
        if error.limit_is_zero or permit.exceeds_estimate or explains_refusal(limits, permit.tokens):
            return False
        return self._refused_rows.refused(
            row,
            answered=self._answered,
            refused=self._refused,
            nobody_else=self.in_flight == 1 and not self._queue.limits,
            asked_s=error.retry_after_s,
        )

    def _infer_quota(self, permit: Permit, limits: RateLimits | None, now_s: float) -> None:
        """What was accepted is the quota: unless headers explain the refusal, or it is the first, with little sent
        after it. Then the probe will tell.
        """
        breaker, quotas = self._breaker, self._quotas
        if explains_refusal(limits, permit.tokens):
            return
        if self._refused_probes >= 2 or permit.exceeds_estimate or quotas.has_estimate:
            quotas.infer(now_s, is_straggler=breaker.is_straggler(permit.sequence))

    def _new_hypothesis(self, permit: Permit, now_s: float) -> QuotaHypothesis:
        later, is_open = self._quotas.sent_since(permit), self._scatter.is_known
        return QuotaHypothesis(permit, self._sequence, later, now_s, self._tuning, is_open=is_open)

    def _decide(self, hypothesis: QuotaHypothesis, now_s: float) -> None:
        self._hypothesis = None
        self._scatter.decided(is_scatter=not hypothesis.is_confirmed)
        if hypothesis.is_confirmed:
            self._quotas.infer(now_s, is_straggler=False)
            self._breaker.refused(hypothesis.newest, hypothesis.newest, now_s, probe_after=True)
            if hypothesis.pause_s:
                self._pause_all(hypothesis.pause_s, now_s)

    def _settle_full_server(
        self, permit: Permit, error: CapacityExceeded, row: Hashable, now_s: float
    ) -> bool:
        """A 429 for lack of capacity (code 3505). True, and so the row's own, as `_settle_refusal` has it."""
        self._note_refused(permit)
        breaker, newest = self._breaker, self._sequence
        self._quotas.cancelled(permit, now_s)
        self._adaptive_limit.cut(permit.sequence, newest, self.in_flight, now_s)
        self._was_full, self._widest = True, min(self._widest, int(self._adaptive_limit.limit))
        is_new = breaker.refused(permit.sequence, newest, now_s, probe_after=False)
        is_own = is_new and not self._note_failure(permit, error, row, now_s)
        breaker.last_error = error
        is_own = is_own and not permit.is_probe and not self._is_answering(now_s)
        return is_own or self._is_out_of_patience(now_s)

    def _settle_failure(self, permit: Permit, error: MistillError, row: Hashable, now_s: float) -> bool:
        """The server failed, or no whole answer came. True, and so the row's own, unless it is an outage."""
        if isinstance(error, TransportError) and not error.maybe_billed:
            self._quotas.cancelled(permit, now_s)
        else:
            tokens = 0 if isinstance(error, ServerError) else permit.tokens
            self._quotas.ended(permit, now_s, tokens=tokens, is_answer=False)
        self._adaptive_limit.failed(now_s)
        self._breaker.last_error = error
        return not self._note_failure(permit, error, row, now_s) or self._is_out_of_patience(now_s)

    def _note_failure(self, permit: Permit, error: MistillError, row: Hashable, now_s: float) -> bool:
        """True if it is nothing but an outage."""
        breaker = self._breaker
        was_outage = breaker.is_outage
        may_be_own = isinstance(error, ServerError) and error.status == _FAILED
        is_shared = breaker.failed(
            row, permit.sequence, now_s, is_probe=permit.is_probe, may_be_own=may_be_own
        )
        if breaker.is_outage and not was_outage:
            self._adaptive_limit.restart()
        return is_shared

    def _is_answering(self, now_s: float) -> bool:
        """The server answers others: then a refusal is for the governor to deal with, and no row's own failure."""
        return now_s - self._answered_at_s < self._tuning.answering_for_s

    def _is_unreachable(self, now_s: float) -> bool:
        """Nothing has ever answered there, and that was waited for as long as it may be."""
        return not self._breaker.is_reached and self._is_out_of_patience(now_s)

    def _is_out_of_patience(self, now_s: float) -> bool:
        return now_s >= self._breaker.patience_ends_s()


def _are_alike(learned: LearnedLimits, before: LearnedLimits) -> bool:
    """But for when, and how much was used."""
    return (
        msgspec.structs.replace(
            before, in_flight=learned.in_flight, learned_at=0, used_requests=0, used_tokens=0
        )
        == (msgspec.structs.replace(learned, learned_at=0, used_requests=0, used_tokens=0))
        and learned.in_flight <= 1.25 * before.in_flight
    )


def _mark_settled(permit: Permit) -> None:
    if permit.is_settled:
        raise AssertionError("a permit is settled or refunded once")
    permit.is_settled = True


def _part_of(room: Room | None, processes: int) -> Room | None:
    return None if room is None else room.shared_by(processes)
