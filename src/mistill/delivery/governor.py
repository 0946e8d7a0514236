"""The governor: it decides when the next attempt may leave.

One `Governor` stands for one quota: an (endpoint, key, model), shared by all objects, threads and event loops of the
process. One `ConcurrencyLimit` stands for one object's ``max_concurrent_requests``. An attempt is admitted
(`Governor.try_admit`, else ``await`` `Governor.admit`), sent, then settled or refunded exactly once:

    permit = governor.try_admit(concurrency, tokens) or await governor.admit(concurrency, tokens)
    try:
        answer = ...                                            # one HTTP attempt
    except MistillError as error:
        is_charged = governor.settle(permit, error=error)
    else:
        governor.settle(permit, limits=answer.limits, tokens=answer.total_tokens)

What may hold a request back, each in its own module: its concurrency (`waiting`), refusals and outages (`trouble`), the
adaptive limit of requests in flight (`ramp`), the quotas of requests and tokens (`pacing`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
import weakref
from collections.abc import Callable, Hashable
from copy import copy

from mistill.delivery.adaptive_limit import AdaptiveLimit
from mistill.delivery.admission_queue import LOCK, AdmissionQueue, ConcurrencyLimit, Permit, Waiter
from mistill.delivery.circuit_breaker import CircuitBreaker, QuotaHypothesis
from mistill.delivery.diagnostics import Cause, Clock, Snapshot
from mistill.delivery.quotas import Quotas, explains_refusal
from mistill.errors import (
    APIError,
    CapacityExceeded,
    MalformedAnswer,
    MistillError,
    RateLimited,
    RateLimits,
    ServerError,
    Stopped,
    TransportError,
)

__all__ = ["ConcurrencyLimit", "Governor", "Permit", "Snapshot", "governor_for"]

_ANSWERS_FOR_S = 60.0
"""A server that gave a good answer this lately is answering; one quota window."""
_SHORTEST_TIMER_S = (
    0.001  # timers may ring a little early; without a floor one would then be set for almost 0 s
)


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
        patience_s: how long the server may refuse or fail everything before waiting rows fail with its last error.
        window_s: the window over which the server counts: 60 s with Mistral.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        patience_s: float = 300.0,
        window_s: float = 60.0,
    ) -> None:
        self.patience_s = patience_s
        self.in_flight = 0
        self._clock = clock
        self._sequence = 0
        self._answered = 0
        self._answered_at_s = -math.inf
        self._refused = 0
        self._waiting = AdmissionQueue(self)
        self._quotas = Quotas(window_s)
        self._adaptive_limit = AdaptiveLimit()
        self._breaker = CircuitBreaker()
        self._hypothesis: QuotaHypothesis | None = None
        self._spent = Clock(clock())
        self._cause: Cause = "server"
        self._timer: _Timer | None = None
        self.set_quota(requests_per_minute, tokens_per_minute)

    def set_quota(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The user's own limits, used in place of what headers tell. None: learn it."""
        with LOCK:
            self._quotas.set_users(requests_per_minute, tokens_per_minute)
            self.pump()

    # --- before an attempt ------------------------------------------------------------------------------------

    def try_admit(self, concurrency: ConcurrencyLimit, tokens: int) -> Permit | None:
        """A permit if one is free now and nobody waits before; else None, and `admit` is the way.

        ``tokens``: the estimated cost of the attempt, input and output.
        """
        with LOCK:
            if concurrency.in_flight >= concurrency.slots:
                return None
            waiting = self._waiting
            if waiting.limits_waited_at and (
                concurrency in waiting.limits_waited_at or waiting.oldest_with_room() is not None
            ):
                return None
            now_s = self._clock()
            if self._blocked_until_s(tokens, now_s):
                return None
            return self._grant(concurrency, tokens, now_s)

    async def admit(
        self, concurrency: ConcurrencyLimit, tokens: int, *, deadline_s: float | None = None
    ) -> Permit:
        """A permit, first in first out. Safe to cancel; while it waits it holds no slot.

        Args:
            tokens: the estimated cost of the attempt, input and output.
            deadline_s: seconds from now that this may wait at most.

        Raises:
            Stopped: the deadline has passed.
            RateLimited: the key may not use this model at all.
            MistillError: the server's last error, when it has failed for longer than ``patience_s``.
        """
        with LOCK:
            if not self._waiting.limits_waited_at:
                self._breaker.somebody_comes(self._clock())
            self._sequence += 1
            waiter = Waiter(concurrency, tokens, self._sequence)
            self._waiting.add(waiter)
            self.pump()
        try:
            if deadline_s is None:
                await waiter.wait()
            else:
                async with asyncio.timeout(deadline_s):
                    await waiter.wait()
        except BaseException as error:
            self._abandon(waiter)
            if isinstance(error, TimeoutError):
                raise Stopped(
                    f"deadline: this request could not be sent within {deadline_s:g} s",
                    hint=f"it waited for: {self._cause}; allow more time, or raise that limit",
                ) from None
            raise
        if waiter.error is not None:
            raise copy(waiter.error) from waiter.error  # many may raise it, and each adds to its traceback
        assert waiter.permit is not None
        return waiter.permit

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
            limits: what the answer's headers told; of an error, its own ``limits`` where it has them.
            tokens: the actual total of the answer; None: as estimated.
            row: identifies the row, so that one row's own failures are not taken for an outage.

        Returns:
            Whether to count this against the row's retries: False for a good answer, and for a failure that many
            share (an outage, a cool-down), which is not the row's fault.
        """
        with LOCK:
            _end(permit)
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

    def refund(self, permit: Permit) -> None:
        """The attempt never left: everything is given back."""
        with LOCK:
            _end(permit)
            self._quotas.cancel(permit, self._clock())
            self._release(permit)

    def snapshot(self) -> Snapshot:
        """What goes on, and where the time went."""
        with LOCK:
            quotas = self._quotas
            minutes = quotas.window_s / 60
            requests, tokens = quotas.requests.limit, quotas.tokens.limit
            return Snapshot(
                waiting=len(self._waiting),
                in_flight=self.in_flight,
                concurrency_limit=int(self._adaptive_limit.limit),
                requests_per_minute=None if requests is None else requests / minutes,
                requests_source=quotas.requests_source,
                tokens_per_minute=None if tokens is None else tokens / minutes,
                tokens_source=quotas.tokens_source,
                answered=self._answered,
                refused=self._refused,
                seconds=self._spent.split(self._clock()),
            )

    # --- admission --------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Admits whoever may leave now, oldest first."""
        with LOCK:
            if not self._waiting.limits_waited_at:
                self._turn_if_nobody_waits()
                return
            now_s = self._clock()
            self._fail_if_out_of_patience(now_s)
            while self._waiting.limits_waited_at:
                waiter = self._waiting.oldest_with_room()
                if waiter is None:
                    self._spent.turn("concurrency", now_s)
                    return
                if waiter.loop.is_closed():
                    self._waiting.remove(waiter)
                    continue
                until_s = self._blocked_until_s(waiter.tokens, now_s)
                if until_s:
                    self._spent.turn(self._cause, now_s)
                    self._ring_at(min(until_s, self._breaker.gives_up_at_s(self.patience_s)), waiter, now_s)
                    return
                self._waiting.remove(waiter)
                waiter.permit = self._grant(waiter.concurrency, waiter.tokens, now_s)
                if not waiter.wake():
                    self.refund(waiter.permit)
            self._turn_if_nobody_waits()

    def _blocked_until_s(self, tokens: int, now_s: float) -> float:
        """0 if nothing but a concurrency could hold back a request; else when to look again, with the cause noted."""
        hypothesis = self._hypothesis
        if hypothesis is not None:
            if now_s < hypothesis.decides_at_s:
                self._cause = "cool_down"
                return hypothesis.decides_at_s
            self._settle_suspicion(hypothesis, now_s)
        breaker = self._breaker
        if breaker.is_on and (until_s := breaker.blocked_until_s(now_s)):
            self._cause = breaker.cause
            return until_s
        quotas = self._quotas
        if until_s := quotas.blocked_until_s(tokens, now_s):
            self._cause = quotas.cause
            return until_s
        if self.in_flight < self._adaptive_limit.limit:
            return 0.0
        until_s = self._adaptive_limit.blocked_until_s(self.in_flight, now_s)
        if until_s:
            self._cause = "adaptive_limit"
        return until_s

    def _grant(self, concurrency: ConcurrencyLimit, tokens: int, now_s: float) -> Permit:
        if not self.in_flight and not self._waiting.limits_waited_at:
            self._spent.turn("server", now_s)
        self._sequence += 1
        self.in_flight += 1
        concurrency.in_flight += 1
        permit = Permit(concurrency, self._sequence, tokens=tokens)
        permit.is_probe = self._breaker.entered(now_s)
        self._quotas.enter(permit, now_s)
        return permit

    def _release(self, permit: Permit) -> None:
        if permit.is_probe:
            self._breaker.probe_ended()
        self.in_flight -= 1
        concurrency = permit.concurrency
        concurrency.in_flight -= 1
        if self._waiting.limits_waited_at or not self.in_flight:
            self.pump()
        if concurrency.waiting_at:
            for governor in tuple(concurrency.waiting_at):
                if governor is not self:
                    governor.pump()

    def _abandon(self, waiter: Waiter) -> None:
        with LOCK:
            if waiter.permit is not None:
                self.refund(waiter.permit)
                return
            self._waiting.remove(waiter)
            self.pump()  # the timer may have been on its event loop

    def _fail_if_out_of_patience(self, now_s: float) -> None:
        error = self._breaker.last_error
        if error is None or now_s < self._breaker.gives_up_at_s(self.patience_s):
            return
        self._breaker.give_up(now_s)
        self._fail_all(error)

    def _fail_all(self, error: MistillError) -> None:
        for waiter in self._waiting.take_all():
            waiter.error = error
            waiter.wake()

    def _turn_if_nobody_waits(self) -> None:
        if not self._waiting.limits_waited_at:
            self._spent.turn("server" if self.in_flight else "idle", self._clock())

    def _ring_at(self, at_s: float, waiter: Waiter, now_s: float) -> None:
        """Sees to it that somebody looks again at that moment. An earlier look is harmless, a late one is not."""
        timer = self._timer
        if at_s == math.inf or (timer is not None and timer.loop is waiter.loop and timer.at_s <= at_s):
            return
        self._timer = timer = _Timer(waiter.loop, at_s)
        delay_s = max(_SHORTEST_TIMER_S, at_s - now_s)
        if waiter.loop is asyncio._get_running_loop():  # noqa: SLF001  see Waiter.wake
            waiter.loop.call_later(delay_s, self._ring, timer)
            return
        try:
            waiter.loop.call_soon_threadsafe(waiter.loop.call_later, delay_s, self._ring, timer)
        except RuntimeError:  # closed in this moment: the next look finds it so, and drops the waiter
            self._timer = None

    def _ring(self, timer: _Timer) -> None:
        with LOCK:
            if timer is self._timer:
                self._timer = None
                self.pump()

    # --- learning ---------------------------------------------------------------------------------------------

    def _settle_answer(
        self, permit: Permit, limits: RateLimits | None, tokens: int | None, now_s: float
    ) -> None:
        self._answered += 1
        self._answered_at_s = now_s
        if tokens is None:
            tokens = permit.tokens if limits is None else limits.query_cost or permit.tokens
        quotas = self._quotas
        quotas.leave(permit, now_s, tokens=tokens, is_answer=True)
        if limits is not None:
            quotas.learn(permit, permit.sequence, limits, now_s)
        self._adaptive_limit.answered(self.in_flight, now_s, quota_is_known=quotas.is_known)
        self._breaker.answered(permit.sequence, is_probe=permit.is_probe)

    def _settle_error(
        self, permit: Permit, limits: RateLimits | None, error: MistillError, row: Hashable, now_s: float
    ) -> bool:
        """Learns from a failed attempt; True if it is the row's own failure."""
        if isinstance(error, RateLimited | CapacityExceeded):
            is_charged = self._settle_refusal(permit, limits, error, row, now_s)
        elif isinstance(error, ServerError | TransportError | MalformedAnswer):
            is_charged = self._settle_failure(permit, error, row, now_s)
        else:
            # A sane refusal of this one request shows that the server is well; a `Stopped` shows nothing.
            is_answer = isinstance(error, APIError)
            self._quotas.leave(permit, now_s, tokens=0, is_answer=is_answer)
            if is_answer:
                self._breaker.answered(permit.sequence, is_probe=permit.is_probe)
            is_charged = True
        if limits is not None:
            self._quotas.learn(permit, permit.sequence, limits, now_s)
        if isinstance(error, APIError) and error.retry_after_s:
            self._breaker.wait_for(error.retry_after_s, self._sequence, now_s)
            self._adaptive_limit.restart()
        return is_charged

    def _settle_refusal(
        self,
        permit: Permit,
        limits: RateLimits | None,
        error: RateLimited | CapacityExceeded,
        row: Hashable,
        now_s: float,
    ) -> bool:
        """A 429. True, and so the row's own, for the first of a stretch while the server answers nobody.

        Probes, and what had left before that first one, are never the row's own.
        """
        self._refused += 1
        breaker, newest = self._breaker, self._sequence
        if isinstance(error, CapacityExceeded):
            self._quotas.cancel(permit, now_s)
            self._adaptive_limit.cut(permit.sequence, newest, self.in_flight, now_s)
            is_new = breaker.refused(permit.sequence, newest, now_s, probe_after=False)
            if is_new and self._fails(permit, row, now_s):
                is_new = False
        elif error.limit_is_zero:
            self._quotas.cancel(permit, now_s)
            self._fail_all(error)
            return True
        else:
            is_beyond = permit.is_beyond
            self._quotas.refused(permit, now_s)
            if not explains_refusal(limits, permit.tokens):
                is_suspected, is_new = self._suspects(permit, now_s)
                if is_suspected:
                    breaker.last_error = error
                    return is_new and not self._answers_others(now_s)
                if breaker.is_on or is_beyond or self._quotas.has_inferred:
                    self._quotas.infer(now_s, is_straggler=breaker.is_straggler(permit.sequence))
                # Else a first refusal with little sent after it: the probe will tell whether it stands alone.
            if is_beyond and not permit.is_probe:
                return False  # it was sent to find out, and it did: no trouble
            is_new = breaker.refused(permit.sequence, newest, now_s, probe_after=True)
        breaker.last_error = error
        is_own = is_new and not permit.is_probe and not self._answers_others(now_s)
        return is_own or self._is_out_of_patience(now_s)

    def _answers_others(self, now_s: float) -> bool:
        """The server answers: then a refusal is for the governor to deal with, and no row's own failure."""
        return now_s - self._answered_at_s < _ANSWERS_FOR_S

    def _suspects(self, permit: Permit, now_s: float) -> tuple[bool, bool]:
        """Whether it is still to be seen if this refusal tells of a quota, and whether it is the first of those."""
        hypothesis = self._hypothesis
        if hypothesis is not None:
            if permit.sequence > hypothesis.newest:
                return False, False
            hypothesis.refused()
            return True, False
        later = self._quotas.left_since(permit)
        if later < QuotaHypothesis.LEAST_LATER or permit.is_probe or permit.is_beyond or self._breaker.is_on:
            return False, False
        self._hypothesis = QuotaHypothesis(self._sequence, later, now_s)
        return True, True

    def _settle_suspicion(self, hypothesis: QuotaHypothesis, now_s: float) -> None:
        self._hypothesis = None
        if hypothesis.is_confirmed:
            self._quotas.infer(now_s, is_straggler=False)
            self._breaker.refused(hypothesis.newest, hypothesis.newest, now_s, probe_after=True)

    def _settle_failure(self, permit: Permit, error: MistillError, row: Hashable, now_s: float) -> bool:
        if isinstance(error, TransportError) and not error.maybe_billed:
            self._quotas.cancel(permit, now_s)
        else:
            tokens = 0 if isinstance(error, ServerError) else permit.tokens
            self._quotas.leave(permit, now_s, tokens=tokens, is_answer=False)
        self._adaptive_limit.failed(now_s)
        self._breaker.last_error = error
        return not self._fails(permit, row, now_s) or self._is_out_of_patience(now_s)

    def _fails(self, permit: Permit, row: Hashable, now_s: float) -> bool:
        """Notes the failure; True if it is an outage."""
        was_outage = self._breaker.is_outage
        is_outage = self._breaker.failed(row, permit.sequence, now_s, is_probe=permit.is_probe)
        if is_outage and not was_outage:
            self._adaptive_limit.restart()
        return is_outage

    def _is_out_of_patience(self, now_s: float) -> bool:
        return now_s >= self._breaker.gives_up_at_s(self.patience_s)


def _end(permit: Permit) -> None:
    if permit.is_settled:
        raise AssertionError("a permit is settled or refunded once")
    permit.is_settled = True


_governors: weakref.WeakValueDictionary[tuple[str, bytes, str], Governor] = weakref.WeakValueDictionary()


def governor_for(endpoint: str, api_key: str, model: str) -> Governor:
    """The process-wide governor of this quota. It is forgotten when nobody holds it; the key is kept as a hash."""
    identity = (endpoint, hashlib.blake2b(api_key.encode(), digest_size=16).digest(), model)
    with LOCK:
        governor = _governors.get(identity)
        if governor is None:
            governor = _governors[identity] = Governor()
        return governor
