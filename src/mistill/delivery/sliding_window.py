"""How much of one quota (requests, or tokens) is used, by us and by others, in the window that slides.

The server counts what it accepted during the last 60 s. We keep the same count from our side, in buckets of a 600th of
the window, so that memory does not grow with the rate. What others use of the same quota (other processes, other
machines) is only seen in the remaining quota that answers report.
"""

from __future__ import annotations

import math
import random
from collections import deque

from msgspec import Struct

from mistill.delivery.tuning import Tuning


class Bucket:
    """What entered the window in one short stretch of time."""

    __slots__ = ("amount", "ends_s", "is_expired")

    def __init__(self, ends_s: float) -> None:
        self.ends_s = ends_s
        self.amount = 0
        self.is_expired = False


NO_BUCKET = Bucket(-math.inf)
Mark = tuple[int, int, int]
"""A window when a request was sent: its totals (entered, expired), and what had entered but was not answered yet. What
came later, or was still on its way, may be unknown to the request's answer."""
NO_MARK: Mark = (0, 0, 0)

Cells = tuple[tuple[int, int], ...]
"""What is in a window: how many hundredths of a second ago each part of it ended, oldest first, and its amount."""
_CELL_S = 0.2
"""Coarser than a bucket of a minute's window: what one process tells the next of it has to be small."""


_MAX_PARTS = 30
"""In so many is split what others used at unknown moments."""


class Room(Struct, frozen=True):
    """What a quota lets through from one moment on.

    Attributes:
        limit: what one window holds. ``window_s``: how long it is.
        free: what may be used now.
        frees: in how many seconds how much more becomes free, in order: what is in the window now.
        sharers: it is the part of one of so many processes.
    """

    limit: float
    window_s: float
    free: float
    frees: tuple[tuple[float, float], ...] = ()
    sharers: int = 1

    def wait_s(self, amount: float) -> float:
        """In how many seconds the last of ``amount`` may be used, if all is used as early as it may be."""
        in_window = sum(freed for _, freed in self.frees)
        windows = max(0, math.ceil((amount - self.free - in_window) / self.limit))
        missing = amount - windows * self.limit - self.free
        waited_s = 0.0
        for in_s, freed in self.frees:
            if missing <= 0:
                break
            waited_s = in_s
            missing -= freed
        return windows * self.window_s + waited_s

    def shared_by(self, processes: int) -> Room:
        """The part of one of so many processes that use it at the same time."""
        return self if processes <= 1 else self._scaled(1 / processes, processes)

    def of(self, processes: int) -> Room:
        """The part of so many of those that share it, together; of one, where none is at work."""
        return self._scaled(max(1, min(processes, self.sharers)), self.sharers)

    def _scaled(self, by: float, sharers: int) -> Room:
        frees = tuple((in_s, by * freed) for in_s, freed in self.frees)
        return Room(by * self.limit, self.window_s, by * self.free, frees, sharers)


class SlidingWindow:
    """One quota's use. Amounts are requests or tokens.

    An amount counts a little longer here than there, by a margin that grows where the server is seen to count what has
    just expired here (`Tuning.window_margin_share`).

    Attributes:
        window_s: its length.
        limit: what one window may hold; None while unknown.
        used: what is in it now. ``reserved``: what is on its way, and will be used when it is answered.
        entered, expired: totals since the beginning.
    """

    __slots__ = (
        "_bucket_s",
        "_buckets",
        "_hold_s",
        "_lately_expired",
        "_longest_wait_s",
        "_margin_decay",
        "_max_hold_s",
        "_min_hold_s",
        "_newest",
        "_others",
        "_others_grace_s",
        "_others_held_until_s",
        "_others_used",
        "_others_wait_s",
        "_seen_others",
        "_seen_s",
        "_undated",
        "_undated_from_s",
        "_undated_next_s",
        "_undated_wait_s",
        "entered",
        "expired",
        "limit",
        "reserved",
        "used",
        "window_s",
    )

    def __init__(self, window_s: float, tuning: Tuning) -> None:
        self.window_s = window_s
        self.limit: float | None = None
        self.used = 0
        self.reserved = 0
        self.entered = 0
        self.expired = 0
        # What others use: when each part of it is free again, soonest first, and its amount.
        self._others: deque[tuple[float, float]] = deque()
        self._others_used = 0.0  # together
        self._others_held_until_s = -math.inf  # none of it is free before that
        self._others_wait_s = 0.0
        # What they had used before anybody looked, and when it was seen; when some of it may be free.
        self._undated = 0.0
        self._undated_from_s = self._undated_next_s = -math.inf
        self._undated_wait_s = 0.0
        # When the server was last heard, and what of theirs is in no count yet.
        self._seen_s = -math.inf
        self._seen_others = 0.0
        self._others_grace_s = min(tuning.others_grace_s, window_s / 10)
        self._longest_wait_s = window_s * tuning.others_wait_share
        self._bucket_s = window_s / tuning.window_buckets
        self._min_hold_s = self._hold_s = window_s * (1 + tuning.window_margin_share)
        self._max_hold_s = window_s * (1 + tuning.max_window_margin_share)
        self._margin_decay = tuning.window_margin_decay
        self._buckets: deque[Bucket] = deque()
        self._lately_expired: deque[Bucket] = deque()  # the server may count them still
        self._newest = Bucket(-math.inf)

    def add(self, amount: int, now_s: float) -> Bucket:
        """Counts ``amount`` from now on; returns the bucket to `take_back` from."""
        bucket = self._newest
        if now_s >= bucket.ends_s:
            self._expire(now_s)  # here too, so that an unlimited window forgets as well
            bucket = self._newest = Bucket(now_s + self._bucket_s)
            self._buckets.append(bucket)
        bucket.amount += amount
        self.used += amount
        self.entered += amount
        return bucket

    def take_back(self, bucket: Bucket, amount: int) -> None:
        """The server did not count this."""
        amount = min(amount, bucket.amount)
        bucket.amount -= amount
        if not bucket.is_expired:
            self.used -= amount

    def room(self, now_s: float) -> float:
        """What may still be used now; infinite while no limit is known."""
        if self.limit is None:
            return math.inf
        self._expire(now_s)
        return self.limit - self.used - self.reserved - self.others(now_s)

    def room_ahead(self, now_s: float) -> Room | None:
        """What it lets through from now on; ``None`` while no limit is known."""
        if self.limit is None:
            return None
        free = max(0.0, self.room(now_s))
        by_second: dict[int, float] = {}
        for bucket in self._buckets:
            in_s = math.ceil(max(0.0, bucket.ends_s + self._hold_s - now_s))
            by_second[in_s] = by_second.get(in_s, 0.0) + bucket.amount
        for free_s, amount in (*self._others, (self._undated_from_s + self.window_s, self._undated)):
            in_s = math.ceil(max(0.0, free_s - now_s))
            by_second[in_s] = by_second.get(in_s, 0.0) + amount
        frees = [(float(in_s), amount) for in_s, amount in by_second.items() if amount]
        frees.append((self._hold_s, float(self.reserved)))
        return Room(self.limit, self._hold_s, free, tuple(sorted(each for each in frees if each[1] > 0)))

    def has_room(self, amount: float, now_s: float) -> bool:
        """Whether ``amount`` may still be used now."""
        if self.limit is None:
            return True
        # What has left the window since the last look only makes more room, so where there is enough, nobody looks.
        if self.limit - self.used - self.reserved - self._others_used - self._undated >= amount:
            return True
        return self.room(now_s) >= amount

    def next_change_s(self, now_s: float) -> float:
        """The next moment at which time alone makes room; infinite if only an answer can."""
        moment = self._buckets[0].ends_s + self._hold_s if self._buckets else math.inf
        if self.others(now_s) > 0:
            if self._others:
                moment = min(moment, max(self._others[0][0], self._others_held_until_s))
            if self._undated > 0 and self._undated_next_s > now_s:
                moment = min(moment, self._undated_next_s, self._undated_from_s + self.window_s)
        return moment

    def others(self, now_s: float) -> float:
        """What others are thought to use."""
        others = self._others
        if now_s >= self._others_held_until_s:
            while others and others[0][0] <= now_s:
                self._others_used -= others.popleft()[1]
        if not others:
            self._others_used = 0.0
        if not self._undated:
            return self._others_used
        if now_s >= self._undated_from_s + self.window_s:
            self._undated = 0.0
        # One is let through to see whether some of it is free.
        return self._others_used + max(0.0, self._undated - (now_s >= self._undated_next_s))

    def assume(self, used: int, age_s: float, now_s: float) -> None:
        """So much of the window was used by another process, ``age_s`` seconds ago."""
        self._others.clear()
        self._others_used = 0.0
        self._note_undated(float(used), now_s - max(0.0, age_s))

    def _note_undated(self, amount: float, now_s: float) -> None:
        """They have used so much within the last window, nobody knows when.

        Spread evenly, it would leave evenly. So one request is sent as soon as that would be, and if it is refused, the
        next after twice as long.
        """
        self._undated, self._undated_from_s = amount, now_s
        self._undated_wait_s = self.window_s / amount if amount else 0.0
        self._undated_next_s = now_s + self._undated_wait_s

    def _note_others(self, amount: float, from_s: float, now_s: float) -> None:
        """They have used so much more since that moment.

        It is free to us a little later than to them: who goes on at the rate that he has takes again what he had, and
        whoever else reaches for it is refused.
        """
        parts = max(1, min(_MAX_PARTS, math.ceil((now_s - from_s) / self._bucket_s), math.ceil(amount)))
        later_s = self.window_s + self._others_grace_s * random.uniform(0.5, 1.5)  # noqa: S311  spreads load, protects nothing
        for part in range(1, parts + 1):
            self._others.append((from_s + (now_s - from_s) * part / parts + later_s, amount / parts))
        self._others_used += amount
        self._others = deque(sorted(self._others))

    def cells(self, now_s: float) -> Cells:
        """What is in it, for another process that goes on with it."""
        self._expire(now_s)
        found: list[tuple[int, int]] = []
        ends_s = -math.inf
        for bucket in self._buckets:
            if bucket.ends_s < ends_s + _CELL_S and found:
                found[-1] = (found[-1][0], found[-1][1] + bucket.amount)
            elif bucket.amount:
                ends_s = bucket.ends_s
                found.append((max(0, int(100 * (now_s - ends_s))), bucket.amount))  # the newest ends later
        return tuple(found)

    def take_up(self, cells: Cells, age_s: float, now_s: float) -> None:
        """What another process had in it ``age_s`` seconds ago. A part counts as if all of it had come as late as
        any of it may have."""
        for ended_ago, amount in cells:
            bucket = Bucket(now_s - max(0.0, age_s) - ended_ago / 100 + _CELL_S)
            bucket.amount = amount
            self._buckets.append(bucket)
            self.used += amount
            self.entered += amount
        self._buckets = deque(sorted(self._buckets, key=lambda bucket: bucket.ends_s))

    def all_used(self, now_s: float) -> int:
        """What is in the window now, others' use included."""
        self._expire(now_s)
        return self.used + int(self.others(now_s))

    def learn(
        self, server_used: float, mark: Mark, now_s: float, *, is_newest: bool, is_late: bool = False
    ) -> None:
        """Corrects the count by what an answer reported; its request was sent at ``mark``.

        Answers come in any order, and say nothing of what was sent after their request. So ``server_used`` is only a
        lower and an upper bound of what the server counts by now: less what has expired since, and more by what has
        entered since or was still on its way.

        ``is_late``: it was long on its way, and so may be our own that the server counts: nothing of it has a date.
        """
        own = self.used + self.reserved
        counted = own + self._others_used + self._undated
        if self.limit is not None and 2 * max(counted, server_used) < self.limit:
            # Far from the limit by either count: nothing that matters now. But what they use from now on is dated.
            more = server_used - counted
            if more < self._seen_others or now_s - self._seen_s > self.window_s / 2:
                self._seen_s, self._seen_others = now_s, max(0.0, more)
            return
        self._expire(now_s)
        own = self.used + self.reserved
        others, has_tried = self.others(now_s), self._undated > 0 and now_s >= self._undated_next_s
        entered_then, expired_then, unanswered_then = mark
        missing = server_used - (self.expired - expired_then) - own - others
        if missing > 0:
            missing = self._restore(missing, now_s)
            if has_tried:
                missing -= 1
                self._undated_wait_s = min(self._longest_wait_s, 2 * self._undated_wait_s)
            if missing > 0:
                self._note_more(missing, now_s, is_dated=not is_late)
                if self._others_used:
                    # They have taken again what was free to them: they do so the next time, too.
                    self._others_wait_s = min(
                        self._longest_wait_s, max(self._others_grace_s, 2 * self._others_wait_s)
                    )
                    self._others_held_until_s = now_s + self._others_wait_s
        elif is_newest:
            at_most = server_used + (self.entered - entered_then) + unanswered_then + self.reserved
            self._drop(own + others - at_most, now_s)
            if has_tried:
                self._undated = max(0.0, self._undated - 1)
        if has_tried:
            self._undated_next_s = now_s + self._undated_wait_s
        self._seen_s, self._seen_others = now_s, 0.0

    def _note_more(self, missing: float, now_s: float, *, is_dated: bool) -> None:
        """They have used so much that is in no count yet."""
        if not is_dated:
            self._seen_s = -math.inf
        since_s = self._seen_s if now_s - self._seen_s < self.window_s else -math.inf
        undated = missing if since_s == -math.inf else min(missing, self._seen_others)
        if undated > 0:
            self._note_undated(self._undated + undated, now_s)
        if missing > undated:
            self._note_others(missing - undated, since_s, now_s)

    def _drop(self, surplus: float, now_s: float) -> None:
        """The server counts less than we do: what others used goes first, then our oldest."""
        if surplus <= 0:
            return
        self._others_wait_s, self._others_held_until_s = 0.0, -math.inf
        dropped = min(self._undated, surplus)
        self._undated -= dropped
        surplus -= dropped
        while surplus > 0 and self.others(now_s) > 0:
            free_s, amount = self._others.popleft()
            dropped = min(amount, surplus)
            self._others_used -= dropped
            surplus -= dropped
            if amount > dropped:
                self._others.appendleft((free_s, amount - dropped))
        while surplus >= 1 and self._buckets:
            oldest = self._buckets[0]
            dropped = min(oldest.amount, int(surplus))
            oldest.amount -= dropped
            self.used -= dropped
            surplus -= dropped
            if oldest.amount or oldest is self._newest:
                break
            self._buckets.popleft()

    def _restore(self, missing: float, now_s: float) -> float:
        """The server counts more than we do: first of all what has just expired here. Returns the rest."""
        while missing > 0 and self._lately_expired:
            bucket = self._lately_expired.pop()
            bucket.is_expired = False
            self._buckets.appendleft(bucket)
            self.used += bucket.amount
            missing -= bucket.amount
            self._hold_s = max(self._hold_s, now_s - bucket.ends_s + self._bucket_s)
        return missing

    def _expire(self, now_s: float) -> None:
        buckets, lately_expired = self._buckets, self._lately_expired
        while buckets and buckets[0].ends_s + self._hold_s <= now_s:
            expired = buckets.popleft()
            expired.is_expired = True
            self.used -= expired.amount
            self.expired += expired.amount
            lately_expired.append(expired)
            self._hold_s -= (self._hold_s - self._min_hold_s) * self._margin_decay
        while lately_expired and lately_expired[0].ends_s + self._max_hold_s <= now_s:
            lately_expired.popleft()
