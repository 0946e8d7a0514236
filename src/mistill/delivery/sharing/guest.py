"""The guest's end: a governor that asks the one of another process.

A request takes its slot of `ConcurrencyLimit` here and then asks the host, so that no more is asked for than may be in
flight. What is asked and settled in one turn of an event loop goes to the host in one frame, from the sharing thread.

It decides itself, by a `Governor` of its own, when it has become the host; and for as long as no host answers, with its
share of what is known of the quota, so that no work ever stops for want of a host.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence

import msgspec

from mistill.delivery.admission_queue import (
    LOCK,
    AdmissionQueue,
    ConcurrencyLimit,
    Permit,
    Waiter,
    WaitingTask,
)
from mistill.delivery.diagnostics import Snapshot, TimeByCause, WaitCause, plus
from mistill.delivery.governor import Governor
from mistill.delivery.purse import PurseMember
from mistill.delivery.sharing.far_purse import FarPurse
from mistill.delivery.sharing.frames import (
    MAX_AMOUNT,
    ErrorParts,
    Failed,
    FrameProtocol,
    GuestFrame,
    HostFrame,
    Standing,
    Verdict,
    are_sane,
    is_sane,
    slices,
)
from mistill.delivery.sharing.thread import SharingThread
from mistill.errors import (
    CapacityExceeded,
    ConnectFailed,
    MistillError,
    NothingAnswers,
    RateLimited,
    RateLimits,
    Stopped,
)

_UNKNOWN_SHARES = 16
"""Of what is left of a purse, where no host has ever said how many spend from it."""
_FIRST_ID = 1 << 31
"""Rows are told by the ids of their first permits: none is a sequence of the governor of its own."""


class BorrowedPermit(Permit, eq=False, gc=False):
    """A permit of the host. ``sequence`` is its id."""


class _AwaitedVerdict:
    """A failure whose verdict is awaited."""

    __slots__ = ("future", "is_charged", "loop", "permit", "seen_as_unreachable")

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self.is_charged = False
        self.seen_as_unreachable = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def hear(self, verdict: Verdict) -> None:
        self.is_charged = verdict.is_charged
        self.permit.stands_alone = verdict.stands_alone
        self.seen_as_unreachable = verdict.is_unreachable

    def wake_here(self) -> None:
        """On its own event loop."""
        if not self.future.done():
            self.future.set_result(None)


class GuestGovernor:
    """A `Governor` that is in another process, as long as that answers. Thread-safe.

    Args:
        make_own: the governor of its own, made at most once, when it is needed.
        leave: called with itself when it is not shared any more, since its user has set a quota.

    Attributes:
        decides_itself: no other process is asked: this one is the host, or goes on alone.
    """

    def __init__(
        self,
        thread: SharingThread,
        *,
        make_own: Callable[[], Governor],
        leave: Callable[[GuestGovernor], None],
    ) -> None:
        self._thread = thread
        self._make_own = make_own
        self._leave = leave
        self._own: Governor | None = None
        self._has_left = False
        self.decides_itself = False
        self._link: FrameProtocol | None = None
        self._queue = AdmissionQueue(self)
        self._sequence = _FIRST_ID
        self._asked: dict[int, Waiter] = {}
        self._lent: dict[int, Permit] = {}
        self._verdicts: dict[int, _AwaitedVerdict] = {}
        self._borrowed_in_flight = self._resting = 0
        self._answered = self._refused = 0
        # What goes in the next frame.
        self._next_answered: list[tuple[int, int | None, RateLimits | None]] = []
        self._next_failed: list[Failed] = []
        self._next_given_back: list[int] = []
        self._next_asked: dict[int, int] = {}
        self._far_purse = FarPurse(self._flush_soon)
        self._purse_members: list[PurseMember] = []
        self._shares = 1
        self._is_flushing = False
        self._expects_answers = False
        self._standing: Standing | None = None
        # Where the time went: as a guest, and in each stretch in which its own governor was in charge.
        self._time = TimeByCause(time.monotonic())
        self._past_seconds: dict[WaitCause, float] = {}
        self._own_began: Snapshot | None = None
        self._alone_s = 0.0
        self._alone_since_s: float | None = None

    # --- what a dispatcher needs ------------------------------------------------------------------------------------

    @property
    def own(self) -> Governor | None:
        """Its own, by which it decides where no other process does; ``None``: it was not needed yet."""
        return self._own

    @property
    def in_flight(self) -> int:
        with LOCK:
            return self._borrowed_in_flight + (0 if self._own is None else self._own.in_flight)

    def set_quota(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """As `Governor.set_quota`. The user's own limits are not those of the key: with them it is shared no longer;
        without any, now and before, it is shared as it was."""
        with LOCK:
            if requests_per_minute is None and tokens_per_minute is None and not self._has_left:
                return
            self._has_left = True
            self._leave(self)
            own = self.take_charge()
            own.set_quota(requests_per_minute, tokens_per_minute)

    def try_admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit | None:
        """As `Governor.try_admit`: always ``None`` as long as another process is asked."""
        with LOCK:
            if self._own is None or not self.decides_itself:
                return None
            return self._own.try_admit(concurrency_limit, tokens)

    async def admit(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> Permit:
        """As `Governor.admit`."""
        waiter = WaitingTask(concurrency_limit, tokens)
        with LOCK:
            if self._own is not None and self.decides_itself:
                self._own.enqueue(waiter)
            else:
                self._add(waiter)
                self.admit_waiting()
        return await waiter.wait(self)

    def settle(
        self,
        permit: Permit,
        *,
        limits: RateLimits | None = None,
        tokens: int | None = None,
        error: Stopped | None = None,
    ) -> None:
        """As `Governor.settle`, of good answers and of attempts that were cut off."""
        with LOCK:
            if not isinstance(permit, BorrowedPermit):
                self._given_by_own().settle(permit, limits=limits, tokens=tokens, error=error)
                return
            if self._take_back(permit):
                if error is None:  # what a server has made up is no use to the host
                    tokens = tokens if tokens is not None and is_sane(tokens) else None
                    limits = limits if are_sane(limits) else None
                    self._next_answered.append((permit.sequence, tokens, limits))
                else:
                    self._next_failed.append(Failed(permit.sequence, ErrorParts.of(error), None, False))
            self._answered += error is None
            self._release(permit)

    async def settle_failure(
        self, permit: Permit, error: MistillError, row: Hashable = None
    ) -> tuple[bool, MistillError]:
        """As `Governor.settle_failure`. What the host's end does not tell any more is not counted against the row."""
        awaited: _AwaitedVerdict | None = None
        with LOCK:
            if not isinstance(permit, BorrowedPermit):
                return self._given_by_own().settle_failed(permit, error, row)
            if self._take_back(permit):
                awaited = self._verdicts[permit.sequence] = _AwaitedVerdict(permit)
                number = row if isinstance(row, int) else None
                self._next_failed.append(Failed(permit.sequence, ErrorParts.of(error), number, True))
            self._refused += isinstance(error, RateLimited | CapacityExceeded)
            self._release(permit)
        if awaited is None:
            return False, error
        await awaited.future
        if awaited.seen_as_unreachable and isinstance(error, ConnectFailed):
            error = NothingAnswers.after(error)
        return awaited.is_charged, error

    def refund(self, permit: Permit) -> None:
        """As `Governor.refund`."""
        with LOCK:
            if not isinstance(permit, BorrowedPermit):
                self._given_by_own().refund(permit)
                return
            if self._take_back(permit):
                self._next_given_back.append(permit.sequence)
            self._release(permit)

    def expect_answers(self) -> None:
        """As `Governor.expect_answers`."""
        with LOCK:
            self._expects_answers = True
            if self._own is not None:
                self._own.expect_answers()
            self._flush_soon()

    def join_purse(self, member: PurseMember) -> None:
        """As `Governor.join_purse`. While nobody decides, it waits."""
        with LOCK:
            self._purse_members.append(member)
            if self._own is not None and self.decides_itself:
                self._own.join_purse(member, shares=self._shares)
            else:
                member.is_kept_by(self._far_purse if self._link is not None else None)

    def leave_purse(self, member: PurseMember) -> None:
        """As `Governor.leave_purse`."""
        with LOCK:
            self._purse_members.remove(member)
            member.is_kept_by(None)

    def note_resting(self, more: int) -> None:
        """As `Governor.note_resting`."""
        with LOCK:
            self._resting += more
            if self._own is not None:
                self._own.note_resting(more)
            self._note_time()

    def snapshot(self) -> Snapshot:
        """As `Governor.snapshot`: what waits here, where this process's time went, and what the host knows."""
        with LOCK:
            own = None if self._own is None else self._own.snapshot()
            alone_s = self._alone_s
            if self._alone_since_s is not None:
                alone_s += time.monotonic() - self._alone_since_s
            standing = self._standing
            now = own
            if now is None or not self.decides_itself:
                now = Snapshot(0, 0, 0, None, None, None, None, 0, 0, {})
                if standing is not None:
                    now = msgspec.structs.replace(
                        now,
                        adaptive_limit=standing.adaptive_limit,
                        requests_per_minute=standing.requests_per_minute,
                        requests_source=standing.requests_source,
                        tokens_per_minute=standing.tokens_per_minute,
                        tokens_source=standing.tokens_source,
                        requests_room=standing.requests_room,
                        tokens_room=standing.tokens_room,
                    )
            return msgspec.structs.replace(
                now,
                waiting=len(self._queue) + len(self._asked) + (0 if own is None else own.waiting),
                in_flight=self._borrowed_in_flight + (0 if own is None else own.in_flight),
                answered=self._answered + (0 if own is None else own.answered),
                refused=self._refused + (0 if own is None else own.refused),
                seconds=self._seconds(),
                alone_s=alone_s,
            )

    # --- waiting ----------------------------------------------------------------------------------------------------

    def admit_waiting(self) -> None:
        """Asks the host for permits for those that have a slot."""
        with LOCK:
            if self._link is not None:
                while (waiter := self._queue.next_with_slot()) is not None:
                    self._queue.remove(waiter)
                    if waiter.loop.is_closed():
                        continue
                    waiter.concurrency_limit.in_flight += 1
                    self._asked[waiter.sequence] = waiter
                    self._next_asked[waiter.sequence] = min(waiter.tokens, MAX_AMOUNT)
                self._flush_soon()
            self._note_time()

    def abandon(self, waiter: Waiter) -> None:
        """It waits no longer, or has no use for the permit that it was given just now."""
        with LOCK:
            if waiter.permit is not None:
                self.refund(waiter.permit)
            elif self._asked.get(waiter.sequence) is waiter:
                del self._asked[waiter.sequence]
                if self._next_asked.pop(waiter.sequence, None) is None:  # else it was not even said
                    self._next_given_back.append(waiter.sequence)
                self._free_slot(waiter.concurrency_limit)
            elif self._own is not None and self.decides_itself:
                self._own.abandon(waiter)
            else:
                self._queue.remove(waiter)
                self.admit_waiting()

    def _add(self, waiter: Waiter) -> None:
        self._sequence += 1
        waiter.sequence = self._sequence
        self._queue.add(waiter)

    def _take_back(self, permit: Permit) -> bool:
        """It is used up. True if the host that gave it is still there, to be told."""
        if permit.is_settled:
            raise AssertionError("a permit is settled or refunded once")
        permit.is_settled = True
        return self._lent.pop(permit.sequence, None) is permit

    def _release(self, permit: Permit) -> None:
        self._borrowed_in_flight -= 1
        self._free_slot(permit.concurrency_limit)

    def _free_slot(self, limit: ConcurrencyLimit) -> None:
        limit.in_flight -= 1
        for governor in tuple(limit.waiting_at):
            if governor is not self:
                governor.admit_waiting()
        self.admit_waiting()

    def _given_by_own(self) -> Governor:
        assert self._own is not None  # it gave the permit
        return self._own

    # --- time -------------------------------------------------------------------------------------------------------

    def _note_time(self) -> None:
        if self.decides_itself:
            return
        cause: WaitCause = "idle"
        if self._borrowed_in_flight:
            cause = "server"
        elif self._resting:
            cause = "backoff"
        if self._asked and self._standing is not None:
            cause = self._standing.cause
        elif self._queue.limits and self._link is not None:
            cause = "concurrency"
        self._time.switch(cause, time.monotonic())

    def _seconds(self) -> dict[WaitCause, float]:
        if self._own is None or self._own_began is None:
            return plus(self._past_seconds, self._time.seconds(time.monotonic()))
        return plus(self._past_seconds, self._own.snapshot().since(self._own_began))

    # --- who is in charge; on the sharing thread --------------------------------------------------------------------

    def take_charge(self, *, shares: int = 1) -> Governor:
        """Its own governor decides from now on, which is returned. Whoever waits, waits there.

        ``shares``: it spends one of so many of what is left in the purses that others spend from as well.
        """
        with LOCK:
            own = self._own
            if own is None:
                own = self._own = self._make_own()
                own.note_resting(self._resting)
            if self._expects_answers or self._answered:
                own.expect_answers()
            self._shares = shares
            if not self.decides_itself:
                self._unlink()
                self._past_seconds = self._seconds()
                self._own_began = own.snapshot()
                self.decides_itself = True
                for waiter in self._queue.take_all():
                    own.enqueue(waiter)
            for member in self._purse_members:
                own.join_purse(member, shares=shares)
            self._end_alone()
            return own

    def go_alone(self, waited_s: float) -> int:
        """It decides itself until a host answers, with its share of what is known of the quota. Of how many shares it
        has one is returned; 0: nothing is known. ``waited_s``: for how long none has answered."""
        with LOCK:
            standing = self._standing
            own = self.take_charge(shares=_UNKNOWN_SHARES if standing is None else standing.processes)
            self._alone_since_s = time.monotonic() - waited_s
            if standing is None:
                return 0
            own.go_on_with_share(standing.share, waited_s)
            is_known = standing.requests_per_minute is not None or standing.tokens_per_minute is not None
            return standing.processes if is_known else 0

    def _end_alone(self) -> None:
        if self._alone_since_s is not None:
            self._alone_s += time.monotonic() - self._alone_since_s
            self._alone_since_s = None

    def link(self, link: FrameProtocol) -> None:
        """A host answers, which decides from now on."""
        with LOCK:
            self._link = link
            if self._own is not None and self.decides_itself:
                self._end_alone()
                self._past_seconds = self._seconds()
                self._own_began = None
                self.decides_itself = False
                self._time = TimeByCause(time.monotonic())
                for waiter in self._own.take_waiting():
                    self._add(waiter)
            for member in self._purse_members:
                member.is_kept_by(self._far_purse)
            self._flush_soon()
            self.admit_waiting()

    def unlink(self, link: FrameProtocol) -> None:
        """The host does not answer any more: what was asked is asked of the next, and its permits are nobody's."""
        with LOCK:
            if link is self._link:
                self._unlink()

    def _unlink(self) -> None:
        with LOCK:
            self._link = None
            for unsaid in (self._next_answered, self._next_failed, self._next_given_back, self._next_asked):
                unsaid.clear()
            for member in self._purse_members:
                member.is_kept_by(None)
            self._far_purse.take_unsaid()
            self._lent.clear()
            asked, self._asked = self._asked, {}
            waiting = self._queue.take_all()
            for waiter in (*asked.values(), *waiting):  # those that have asked were there before
                self._add(waiter)
            for waiter in asked.values():
                waiter.concurrency_limit.in_flight -= 1
            verdicts, self._verdicts = self._verdicts, {}
            self._wake(list(verdicts.values()))
            self._note_time()

    @property
    def is_waiting(self) -> bool:
        """A word of the host is awaited."""
        with LOCK:
            return bool(self._asked or self._verdicts)

    @property
    def is_busy(self) -> bool:
        """The host has lent it permits, or is asked for some."""
        with LOCK:
            return bool(self._asked or self._lent)

    # --- what is said; on the sharing thread ------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._is_flushing and self._link is not None:
            self._is_flushing = True
            self._thread.call(self._flush)

    def _flush(self) -> None:
        with LOCK:
            self._is_flushing = False
            link = self._link
            if link is None:
                return
            answered, self._next_answered = self._next_answered, []
            failed, self._next_failed = self._next_failed, []
            given_back, self._next_given_back = self._next_given_back, []
            asked, self._next_asked = list(self._next_asked.items()), {}
            expects_answers = (
                self._expects_answers or self._answered > 0
            )  # also where the last host has not heard it
            wishes = self._far_purse.take_unsaid()
        for each in wishes:
            link.send(GuestFrame(purse=each))
        if answered or failed or given_back or asked or expects_answers:
            for part in slices(answered, failed, given_back, asked):
                frame = GuestFrame(
                    answered[part], failed[part], given_back[part], asked[part], expects_answers
                )
                link.send(frame)

    def hear(self, link: FrameProtocol, frame: HostFrame) -> None:
        """What the host says."""
        with LOCK:
            if link is not self._link:
                return
            woken: list[WaitingTask | _AwaitedVerdict] = []
            if frame.standing is not None:
                self._standing = frame.standing
                self._expects_answers |= frame.standing.is_reached
            for verdict in frame.verdicts:
                awaited = self._verdicts.pop(verdict.id, None)
                if awaited is not None:
                    awaited.hear(verdict)
                    woken.append(awaited)
            for permit_id, failure in frame.refused:
                if (waiter := self._pop_asked(permit_id)) is not None:
                    waiter.error = failure.error()
                    woken.append(waiter)
                    self._free_slot(waiter.concurrency_limit)
            for permit_id in frame.permits:
                if (waiter := self._pop_asked(permit_id)) is not None:
                    limit = waiter.concurrency_limit
                    waiter.permit = self._lent[permit_id] = BorrowedPermit(
                        limit, permit_id, tokens=waiter.tokens
                    )
                    self._borrowed_in_flight += 1
                    woken.append(waiter)
            if frame.purse is not None:
                self._far_purse.hear(frame.purse)
            self._wake(woken)
            self._note_time()

    def _pop_asked(self, permit_id: int) -> WaitingTask | None:
        """``None``: it was abandoned, of which the host hears."""
        waiter = self._asked.pop(permit_id, None)
        assert waiter is None or isinstance(waiter, WaitingTask)
        return waiter

    def _wake(self, woken: Sequence[WaitingTask | _AwaitedVerdict]) -> None:
        """Each on its event loop; all of one loop at once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[WaitingTask | _AwaitedVerdict]] = {}
        for each in woken:
            by_loop.setdefault(each.loop, []).append(each)
        for loop, those in by_loop.items():
            try:
                loop.call_soon_threadsafe(_wake_all, those)
            except RuntimeError:  # closed, and whoever waited there is gone
                for each in those:
                    if isinstance(each, WaitingTask) and each.permit is not None:
                        self.refund(each.permit)


def _wake_all(woken: Sequence[WaitingTask | _AwaitedVerdict]) -> None:
    for each in woken:
        each.wake_here()
