"""What is to be seen of work at one moment, as numbers and in words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, to_builtins

from mistill.api.usage import Usage
from mistill.delivery.diagnostics import Snapshot, WaitCause, time_left_s
from mistill.progress.formatting import (
    age,
    count,
    jobs_at_server,
    money,
    rounded,
    seconds,
    time_split,
    tokens_in,
    wait,
)
from mistill.progress.progress import Progress


class View(Struct, frozen=True, kw_only=True):
    """How far work is at one moment; what ``on_progress`` is given. Times in seconds, costs in US dollars.

    Attributes:
        total: rows of the input; ``None`` while that is not known.
        known: rows that were done before, and cost nothing now; ``done`` has them too.
        completions, failures, held: rows that ended since it began; held ones may have been billed already.
        usage, cost: tokens and money since it began; ``cost`` is ``None`` while no price is known.
        earlier_cost: US dollars of earlier starts; ``None``: there was none, or no price is known.
        saved_by_cache: US dollars that cached tokens would have cost more; ``None`` while no price is known.
        elapsed_s: since it began. ``left_s``: to go, by what binds: quota, requests at once, latency; ``None`` while
            nobody can say: before the first row has ended, while the server fails, while nothing ends and no quota
            that is known explains it. ``still_s``: for how long no row has ended.
        busy_s: what all requests took together. ``requests``: those of rows that ended since it began.
        in_flight: requests. ``waiting_for``: what held the work back lately; ``seconds_by_cause``: since it began.
        cut_off_in_s: it was stopped: how long what is in flight is still waited for. ``None`` while it goes on.
        interrupted: Ctrl-C stopped it.
        jobs: batch jobs that have not ended, ``unsent_jobs`` of which the server does not have yet; ``with_server``:
            the rows that they ask. ``server_requests``: those that it has, of which ``server_done`` are done, by what
            it says. ``oldest_job_s``: for how long it has had one.
        paused_s: for how long it has been paused; ``None``: it is not. ``changed``: the settings that were changed
            since it began.
        lanes: how many rows go live, and how many in jobs, and why; ``None``: that is not by price.
        is_last: the work has ended.
    """

    total: int | None = None
    known: int = 0
    completions: int = 0
    failures: int = 0
    held: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    earlier_cost: float | None = None
    saved_by_cache: float | None = None
    elapsed_s: float = 0.0
    left_s: float | None = None
    still_s: float = 0.0
    busy_s: float = 0.0
    requests: int = 0
    in_flight: int = 0
    waiting_for: WaitCause = "idle"
    seconds_by_cause: Mapping[WaitCause, float] = {}
    cut_off_in_s: float | None = None
    interrupted: bool = False
    jobs: int = 0
    unsent_jobs: int = 0
    with_server: int = 0
    server_requests: int = 0
    server_done: int = 0
    oldest_job_s: float | None = None
    lanes: str | None = None
    paused_s: float | None = None
    changed: str | None = None
    is_last: bool = False

    @property
    def ended(self) -> int:
        """Rows that ended since it began."""
        return self.completions + self.failures

    @property
    def done(self) -> int:
        """Rows of the input that need nothing more."""
        return self.known + self.ended + self.held

    @property
    def left(self) -> int | None:
        """Rows to go."""
        return None if self.total is None else max(0, self.total - self.done)

    @property
    def rows_per_s(self) -> float:
        return self.ended / max(self.elapsed_s, 1e-9)

    @property
    def expected_cost(self) -> float | None:
        """What all of it costs since it began, if the rows to come are like those so far."""
        if self.cost is None or self.left is None or not self.ended:
            return None
        return self.cost * (1 + self.left / self.ended)

    @property
    def _is_ending(self) -> bool:
        """What is left is not begun any more: it was stopped, or the work has ended."""
        return self.is_last or self.cut_off_in_s is not None

    @property
    def waits_for_jobs_alone(self) -> bool:
        """Batch jobs are at the server, and nothing is asked beside them."""
        return bool(self.jobs) and not self.in_flight

    @property
    def is_paused(self) -> bool:
        """Nothing is sent until somebody lets it go on. Once it is stopped, it is paused no more."""
        return self.paused_s is not None and not self._is_ending

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        known = {
            "done": self.done,
            "rows_per_s": round(self.rows_per_s, 3),
            "expected_cost": self.expected_cost,
        }
        return to_builtins(self) | known

    # --- in words ---------------------------------------------------------------------------------------------------

    def rows(self) -> str:
        return f"{self.done:,} rows" if self.total is None else f"{self.done:,} of {count(self.total, 'row')}"

    def failed(self) -> str | None:
        return f"{self.failures:,} failed" if self.failures else None

    def time_left(self) -> str | None:
        """How long it will take yet; at the end, how long it took."""
        if self.is_last:
            return f"in {seconds(self.elapsed_s)}"
        return None if self.left_s is None or self._is_ending else f"{seconds(self.left_s)} left"

    def speed(self) -> str | None:
        """How fast it goes; nothing where answers come by the file."""
        if self.waits_for_jobs_alone or self.is_paused:
            return None
        return f"{self.rows_per_s:.1f} rows/s"

    def at_server(self) -> str | None:
        """How far its batch jobs are."""
        if not self.jobs or self.is_last:
            return None
        return self._jobs(self.oldest_job_s)

    def at_server_in_short(self) -> str:
        return self._jobs(None)

    def _jobs(self, oldest_s: float | None) -> str:
        sent, unsent = self.jobs - self.unsent_jobs, self.unsent_jobs
        return jobs_at_server(sent, self.server_done, self.server_requests, unsent=unsent, oldest_s=oldest_s)

    def money(self) -> str | None:
        """What it cost so far, and will in the end; with earlier starts, what all of them cost too."""
        if self.cost is None:
            return None if not self.earlier_cost else f"{money(self.earlier_cost)} in all"
        of = f" of about {money(self.expected_cost)}"
        if self.expected_cost is None or not self.left or self._is_ending:
            of = ""
        in_all = f", {money(self.earlier_cost + self.cost)} in all" if self.earlier_cost else ""
        return f"{self._now}{money(self.cost)}{of}{in_all}"

    @property
    def _now(self) -> str:
        """Before money and tokens, which are of this start, where rows are of earlier ones too."""
        return "now " if self.known or self.earlier_cost else ""

    def tokens(self) -> str:
        """How many, what of them was cached, and what that has saved."""
        return f"{self._now_of_tokens}{self._tokens_in(is_short=False)}, {self.usage.output_tokens:,} out"

    def tokens_in_short(self) -> str:
        return (
            f"{self._now_of_tokens}{self._tokens_in(is_short=True)}, {rounded(self.usage.output_tokens)} out"
        )

    @property
    def _now_of_tokens(self) -> str:
        return self._now if self.cost is None else ""  # else it stands before the money

    def _tokens_in(self, *, is_short: bool) -> str:
        usage = self.usage
        return tokens_in(usage.input_tokens, usage.cached_tokens, self.saved_by_cache, is_short=is_short)

    def waiting(self) -> str | None:
        """What is waited for, or what becomes of what is in flight when it was stopped; at the end, nothing."""
        if self.is_paused:
            come = "comes" if self.in_flight == 1 else "come"
            flying = f": {self.in_flight:,} in flight {come} home" if self.in_flight else ""
            return f"paused for {age(self.paused_s or 0.0)}{flying}, nothing more is sent"
        if self.is_last or (self.waits_for_jobs_alone and self.cut_off_in_s is None):
            return None
        if self.waits_for_jobs_alone:
            sent = self.jobs - self.unsent_jobs
            stays = f"{count(sent, 'job')} {'stays' if sent == 1 else 'stay'} at Mistral"
            return f"stopping: {stays}" if sent else "stopping"
        if self.cut_off_in_s is None:
            waits = f"{self.in_flight:,} in flight, waiting for: {wait(self.waiting_for)}"
            if self.waiting_for == "outage":
                waits += f", nothing answered for {age(self.still_s)}"
            return waits
        if not self.in_flight:
            return "stopping"
        flying = f"stopping: {self.in_flight:,} in flight, up to {seconds(self.cut_off_in_s)}"
        return f"{flying}; Ctrl-C {'again ' if self.interrupted else ''}cuts them off"

    def settings(self) -> str | None:
        """What was changed while it went on."""
        return None if self.changed is None or self.is_last else f"set: {self.changed}"

    def time(self) -> str | None:
        """Where the time went."""
        split = time_split(self.seconds_by_cause)
        return f"time: {split}" if split else None

    def texts(self) -> list[str]:
        """All of it, the most important first."""
        texts = [
            self.rows(),
            self.failed(),
            self.time_left(),
            self.speed(),
            self.money(),
            self.tokens(),
            self.lanes,
            self.at_server(),
            self.settings(),
            self.waiting(),
        ]
        return [text for text in texts if text is not None]


class Watch:
    """Looks at work from the outside: it only reads what is counted anyway.

    Args:
        progress: its counts.
        snapshot: how its governor stands; called now and then.
        total: rows of the input where ``progress`` does not know it, if anybody does by now.
        at_once: how many rows may be under way together.
        began: how its governor stood when the work began; unless given, now.
        saved: tokens and what they cost → what cached ones would have cost more.
        times_more: how many times what was spent since it began may be spent yet.
    """

    def __init__(
        self,
        progress: Progress,
        snapshot: Callable[[], Snapshot],
        total: Callable[[], int | None] = lambda: None,
        *,
        at_once: Callable[[], int],
        began: Snapshot | None = None,
        saved: Callable[[Usage, float | None], float | None] = lambda _usage, _cost: None,
        times_more: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._progress = progress
        self._snapshot = snapshot
        self._total = total
        self._last = snapshot()
        self._began = began or self._last
        self._cause: WaitCause = "idle"
        self._at_once = at_once
        self._saved = saved
        self._times_more = times_more
        self._ended = 0
        self._ended_at = self._began
        self._pace_s = 0.0

    def view(self, *, is_last: bool = False) -> View:
        """How far it is now.

        Args:
            is_last: the work has ended.
        """
        now = self._snapshot()
        progress = self._progress
        lately = now.since(self._last)
        self._last = now
        if progress.paused_at_s is None:  # a pause that is over holds nothing back
            lately.pop("paused", None)
        if lately:
            self._cause = max(lately, key=lambda cause: lately[cause])
        elif self._cause == "paused":
            self._cause = "idle"
        ended = progress.completions + progress.failures
        if ended != self._ended:
            self._note_ended(ended, now)
        total = progress.total if progress.total is not None else self._total()
        cut_off_at_s = progress.cut_off_at_s
        return View(
            total=total,
            known=progress.known,
            completions=progress.completions,
            failures=progress.failures,
            held=progress.held,
            usage=progress.usage,
            cost=progress.cost,
            earlier_cost=progress.earlier_cost,
            saved_by_cache=self._saved(progress.usage, progress.cost),
            elapsed_s=progress.elapsed_s,
            left_s=None if total is None else self._left_s(total, now),
            still_s=self._still_s(now),
            busy_s=progress.busy_s,
            requests=progress.requests,
            in_flight=now.in_flight,
            waiting_for=self._cause,
            seconds_by_cause=now.since(self._began),
            cut_off_in_s=None if cut_off_at_s is None else max(0.0, cut_off_at_s - time.monotonic()),
            interrupted=progress.interrupted,
            jobs=progress.jobs,
            unsent_jobs=progress.unsent_jobs,
            with_server=progress.with_server,
            server_requests=progress.server_requests,
            server_done=progress.server_done,
            oldest_job_s=_age_s(progress.oldest_job_at),
            lanes=progress.told_lanes(),
            paused_s=None if (at_s := progress.paused_at_s) is None else time.monotonic() - at_s,
            changed=progress.changed,
            is_last=is_last,
        )

    def _note_ended(self, ended: int, now: Snapshot) -> None:
        """Only then: while a row is waited for, it would seem slower and slower."""
        self._ended, self._ended_at = ended, now
        if live := max(0, ended - self._progress.by_jobs):
            spent = now.since(self._began)
            # A quota that is known would tell what a cool-down waits for.
            at_work = _AT_WORK if now.has_room else (*_AT_WORK, "cool_down")
            self._pace_s = sum(spent.get(cause, 0.0) for cause in at_work) / live

    def _still_s(self, now: Snapshot) -> float:
        """For how long no row has ended, by the governor's clock."""
        still = now.since(self._ended_at)
        still.pop("paused", None)
        return sum(still.values())

    def _left_s(self, total: int, now: Snapshot) -> float | None:
        progress = self._progress
        # Answers of jobs come by the file, and when the server likes: nothing is told by their number.
        ended = progress.completions + progress.failures
        live = ended - progress.by_jobs
        if live <= 0 or progress.jobs or progress.paused_at_s is not None or self._cause == "outage":
            return None
        left = min(max(0, total - progress.known - progress.held - ended), ended * self._times_more())
        if progress.time_of_several is not None:
            return progress.time_of_several(left)
        seconds_each = progress.busy_s / max(1, progress.completions - progress.by_jobs)
        tokens = (progress.usage.input_tokens + progress.usage.output_tokens) / ended
        is_still = self._still_s(now) > max(_PATIENCE_S, _PATIENCE * seconds_each)
        if is_still and not now.quota_wait_s(1, tokens):
            return None
        at_once = self._at_once()
        requests = max(1, progress.requests) / ended
        unsent = max(0.0, left - now.in_flight / requests)
        if not unsent:
            return min(left, 1) * seconds_each
        return time_left_s(
            now,
            rows=unsent,
            requests=unsent * requests,
            tokens=unsent * tokens,
            seconds_each=seconds_each,
            at_once=max(1, now.in_flight) if self._cause == "budget" else at_once,
            # At first its latency says how long a row takes; later, what this machine makes of it.
            pace_s=self._pace_s if live >= 2 * at_once else 0.0,
        )


def _age_s(unix_s: float | None) -> float | None:
    return None if unix_s is None else max(0.0, time.time() - unix_s)


_AT_WORK: tuple[WaitCause, ...] = ("server", "concurrency", "adaptive_limit", "budget", "backoff", "idle")
"""What time is spent on that is no waiting for a quota or for a server that is not there."""

_PATIENCE, _PATIENCE_S = 3.0, 2.0
"""Where no row ends for longer than this many times what one takes, and than this many seconds, something is the matter
that the numbers so far do not know of: a server that hangs, a cool-down, a row that waits for its next try."""
