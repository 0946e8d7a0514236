"""Every constant of delivery, in one struct: what it is, in which unit, and why it has the value it has.

`current_tuning` is what governors, dispatchers and pools take where no other is given. `use_tuning` replaces it for the
whole process, for as long as a ``with`` block lasts.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock

from msgspec import Struct
from msgspec.structs import replace


class Tuning(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delivery's constants. ``_s`` is seconds, ``_share`` a part of 1; the rest says its unit."""

    # --- adaptive_limit: requests in flight -------------------------------------------------------------------------

    initial_limit: int = 8
    """Requests in flight at first, and again after each pause. What is in flight when an unknown quota ends is refused,
    so few; but not one, which would take round trips to grow."""

    growth_unknown_quota: float = 0.15
    """By how many requests an answer raises the limit in slow start while no quota is known: ×1.15 a round trip, beside
    its growth by time. What is in flight when an unknown quota ends is refused, so that growth is what the discovery
    costs."""

    growth_known_quota: float = 1.0
    """The same where the quota is known, or the limit was higher before a pause: ×2 a round trip, as TCP grows."""

    growth_after_cut: float = 0.05
    """By how many requests an answer raises the limit after slow start: additive increase."""

    saturated_share: float = 0.8
    """The limit grows only while this share of it is in flight: an unused limit says nothing about what the server can
    do."""

    growth_after_s: float = 0.05
    """A refusal comes at once, an answer after seconds. So after this long without one, what has left counts as
    accepted, and slow start goes on without waiting for slow answers: one request after the other."""

    quick_start_limit: int = 56
    """Up to here growth by time is quick. The smallest quota that is common is 60 a minute: what leaves before the
    first answer has told it does not exceed it."""

    quick_growth_per_s: float = 5.0
    """By which share of itself the limit grows a second up to there. What leaves within a refusal's round trip is
    refused with it, so it grows slowly while it is small, as small quotas end there; and evenly, since a step of many
    is refused whole."""

    max_quick_growth_per_s: float = 110.0
    """The most requests by which it grows a second up to there: 50 are in flight within half a second, and a refusal
    that takes 50 ms finds six too many on their way."""

    growth_per_s: float = 1.2
    """By which share of itself it grows a second beyond."""

    growth_pause_quick_s: float = 0.2
    """How long it stands between the two."""

    cut_factor: float = 0.8
    """What a full server (429, code 3505) leaves of the limit. TCP's half left more of the server unused, for the limit
    is found again in small steps; a request that is refused for capacity costs little."""

    growth_pause_s: float = 2.0
    """After a cut, or while most requests fail, the limit does not grow for this long."""

    yield_from: int = 128
    """From here on slow start looks whether more in flight is answered any faster. One process asks for less as a rule,
    and what is to be won by less does not pay for the doubt."""

    yield_growth: float = 1.5
    """It compares stretches in which the limit has grown so many times at least. BBR's 1.25 is a fifth of a second
    here, in which a busy machine answers a third more or less by chance."""

    yield_answers: int = 256
    """The answers that a stretch or a step has at least: by chance it has a sixteenth more or less. With 64, servers of
    2 s and a long tail of slow answers were given too little, and took a fifth longer. So the limit grows as ever where
    less than some 300 rows a second are answered: they are too few until it is at its end."""

    yield_share: float = 0.25
    """What is answered a second must have grown by this share of the limit's growth (of its logarithm). A server of
    models that takes twice as many for a fifth more is worth it; one that has them queue up is not: they are refused
    when an unknown quota ends. Then the limit goes back to where that stretch began, and rests for ``growth_pause_s``,
    and each time for twice as long."""

    max_yield_rest_s: float = 15.0
    """The longest of these rests: a server that takes more by now is soon found out, and a try costs little."""

    failing_share: float = 0.5
    """Growth stops while more than this share of the newest requests fail. Fewer are the noise of a long run: a server
    that drops one in ten would else be asked for ``initial_limit`` at a time for ever."""

    failure_smoothing: float = 1 / 32
    """Weight of one request in that share: it looks back over some thirty requests."""

    # --- circuit_breaker: refusals and outages ----------------------------------------------------------------------

    cool_down_s: float = 0.5
    """The pause after the first refusal (429) without ``Retry-After``."""

    max_cool_down_s: float = 15.0
    """The longest of these pauses. A quota of a minute frees within a minute, and should not be missed by much."""

    max_explained_cool_down_s: float = 1.0
    """The longest after a refusal whose headers say that the quota is used up: when there is room again the count of
    the quota says. Others use it too, then, and whoever pauses for 15 s leaves it to them; with no pause at all two of
    three requests were refused."""

    outage_rows: int = 5
    """So many different rows must fail, and none be answered in between, to make an outage. With three, scattered
    failures were taken for one."""

    doubtful_rows: int = 10
    """An outage of no more different rows, each failed by the server in its own words (500), may be of these rows. With
    more, it is the server: rows that always fail are few, and seldom all that is left."""

    doubtful_probe_interval_s: float = 0.5
    """The longest pause between the probes of such an outage: what is of the rows themselves should not hold a run up
    for long."""

    unreachable_attempts: int = 3
    """Where nothing ever answered, so many failed connections are an outage too: a wrong address fails every row."""

    unreachable_patience_s: float = 2.0
    """How long such an outage is waited for, from the first of them on: a server that is just being started may need a
    moment; a wrong address needs its user."""

    probe_interval_s: float = 0.25
    """The first pause before a request probes whether an outage is over."""

    max_probe_interval_s: float = 5.0
    """The longest of these pauses: what an outage may cost beyond its own length."""

    pause_growth: float = 2.0
    """Each further pause of a cool-down or an outage is so many times the one before."""

    pause_jitter: float = 0.2
    """Pauses vary by this share either way, so that processes that were refused together do not come back together."""

    probe_accepted_after_s: float = 1.0
    """A cool-down's probe that has not been refused for this long was accepted: refusals come at once."""

    patience_s: float = 300.0
    """How long the server may refuse or fail everything before waiting rows fail with its last error."""

    forget_after_s: float = 120.0
    """When nothing has been sent for so long, patience is counted anew from the next request on: an outage that an
    earlier call met must not fail a later one at once."""

    answering_for_s: float = 60.0
    """A server that gave a good answer this lately is answering: then a refusal is no row's own failure. One quota
    window."""

    # --- quota_estimate: is a refusal a quota, and how large is it ----------------------------------------------------

    hypothesis_wait_s: float = 0.15
    """How long later requests are given to be refused too, from the last refusal on that was known. Refusals come at
    once: a round trip with room to spare."""

    hypothesis_round_trips: float = 2.0
    """Where refusals take long to be known (a server far away, requests of other processes, a busy machine), so many
    times as long as they took."""

    max_hypothesis_wait_s: float = 3.0
    """The longest that is waited for them."""

    hypothesis_min_later: int = 4
    """So many requests must have left after a refused one to judge by; with fewer, the cool-down's probe decides."""

    hypothesis_refused_share: float = 0.5
    """A quota is used up if at least this share of the later ones was refused too."""

    scatter_accepted: int = 8
    """Where so many that left after a refusal were accepted, and no quota was found, it stood alone."""

    scatter_max_share: float = 0.3
    """Refusals of more than this share of the newest requests are not scattered: a limit by the second refuses most."""

    scatter_doubt: int = 4
    """Each time that it turned out so, so many times as many must be accepted between two refusals to believe it."""

    scatter_min_later: int = 8
    """Where refusals that stand alone are known, a quota is inferred from no fewer later requests than this. Nobody
    waits for it meanwhile."""

    scatter_refused_share: float = 0.75
    """So many of them must be refused too: with a tenth refused at random, once in 40,000 refusals they are."""

    estimate_probe_s: float = 2.0
    """The first request beyond a new estimate leaves so long after it was made."""

    estimate_probe_after_success_s: float = 1.0
    """The next one after an accepted one: an estimate that is too low is left in seconds."""

    estimate_probe_growth: float = 3.0
    """After a refused one, the next is so many times as far away, up to one quota window: an estimate that is right
    then costs one refusal a window."""

    rate_cut_factor: float = 0.8
    """The most that one refusal takes from an estimate of a rate by the second, where a full window proves nothing."""

    # --- quotas: how a known quota is spent --------------------------------------------------------------------------

    burst_requests: int = 8
    """So many requests may leave ahead of an even spacing."""

    burst_window_share: float = 0.05
    """A whole quota leaves spread over this share of the window: as early as the quota allows at little cost in time,
    and gentle to servers that also limit by the second."""

    rate_burst_requests: int = 1
    """In place of ``burst_requests`` where the server was found to limit by the second."""

    # --- sliding_window: what the server counts -----------------------------------------------------------------------

    window_buckets: int = 600
    """A window is counted in so many buckets, so that memory does not grow with the rate. 0.1 s each, of 60."""

    window_margin_share: float = 0.01
    """A request counts so much longer here than there, as a share of the window: requests reach the server with
    changing delays, and one that arrives too early costs more than one that leaves a little late."""

    max_window_margin_share: float = 0.06
    """How far that margin may grow where the server is seen to count what has just left the window here: a busy machine
    delays bursts."""

    window_margin_decay: float = 0.001
    """The share of a grown margin that each expired bucket takes back."""

    others_grace_s: float = 1.0
    """What others have used is free to us so much later than it leaves the window (half to three halves of it, and no
    more than a tenth of a window): they use it again themselves, as a rule."""

    others_wait_share: float = 1 / 8
    """Where others are seen to use again what they had, each look whether some of it is free comes after twice as long,
    up to this share of a window: without that, processes with a governor each, 60 a minute together, were refused more
    often than answered. Those that hardly ever look leave all of it to the others."""

    late_refusal_s: float = 0.8
    """A refusal that takes longer is of a machine that is busy: what the server counts more may be our own, late."""

    # --- limits_file: what was learned, for the next process ----------------------------------------------------------

    remember_for_s: float = 86_400.0
    """How long what was learned of an endpoint, key and model is taken up by other processes; 0: nothing is kept, and
    nothing read."""

    remember_every_s: float = 30.0
    """How often it is written down while answers come; besides, when the last of them has come."""

    # --- sharing: one governor for several processes -----------------------------------------------------------------

    is_shared: bool = True
    """Whether processes with the same endpoint, key, model and tuning share a governor."""

    out_of_reach_s: float = 2.0
    """A process that the shared governor does not answer for so long goes on alone."""

    come_back_s: float = 2.0
    """How often it tries to come back, on its own."""

    standing_every_s: float = 0.2
    """How often the guests of a governor are told how it stands, which is also the sign that it is there: as often as a
    screen is drawn anew, and ten times before it is taken for lost."""

    counts_every_s: float = 1.0
    """How often a governor that may be shared writes down what is in its windows. What left since then its successor
    does not know of."""

    silent_for_s: float = 20.0
    """A guest that holds permits and says nothing for so long has been stopped, or its machine is gone: its permits are
    taken back. It speaks up each quarter of that."""

    fair_credit: float = 64.0
    """So many permits, or half of what a window holds where that is less, may a process be behind the one that has had
    most, and still be first until they are even. Who was idle for an hour is not owed an hour."""

    # --- governor, diagnostics ----------------------------------------------------------------------------------------

    min_timer_s: float = 0.001
    """Timers may fire a little early; without a floor the next one would then be set for almost no time."""

    notable_share: float = 0.2
    """A cause that took less of the time than this is not worth advice."""

    # --- retry: pauses of one row -------------------------------------------------------------------------------------

    backoff_base_s: float = 0.5
    """Ceiling of the random pause after a row's first failure; each further one doubles it."""

    max_backoff_s: float = 30.0
    """Ceiling of these ceilings."""

    max_retry_after_s: float = 3600.0
    """A row waits no longer than this because a server asks it to (``Retry-After``): asked for more, it fails at once,
    and can be asked again another day. One odd number must not hold a call for ever."""

    # --- dispatcher: the tokens of a request, before they are known --------------------------------------------------

    bytes_per_token: int = 4
    """Of a request: a rule of thumb for English text. The real usage settles it afterwards."""

    first_guess_output_tokens: float = 256.0
    """What an answer is taken to cost before any has come."""

    output_smoothing: float = 0.05
    """Weight of one answer in the mean of output tokens: it looks back over some twenty answers."""

    # --- worker_pool --------------------------------------------------------------------------------------------------

    max_workers_each: int = 4
    """Workers for each row at work at once, those that rest between attempts included: a few cooling rows do not hold
    back the rest, and many do not fill the memory."""

    linger_from_workers: int = 16
    """Pools of so many workers linger: with fewer, answers do not come by the thousand."""

    haste_s: float = 0.001
    """Where rows end as close together as this, the pool lingers."""

    linger_s: float = 0.0002
    """Where answers come by the thousand a second, the transport's thread would wake the event loop for each of them,
    and fight it for the interpreter's lock. So the loop lies still for a moment now and then, a thousandth of what a
    model takes to answer, and finds several at once: less CPU, more answers a second. `benchmarks.gathering` measures
    it."""

    first_of_prompt_s: float = 1.0
    """How long requests that begin alike wait for the first of them, whose prompt is in the cache then."""

    # --- batch jobs -------------------------------------------------------------------------------------------------

    first_poll_s: float = 2.0
    """From one look at jobs to the next, at first: small ones have been seen to end within seconds."""

    poll_growth: float = 1.5
    """By how much longer each pause between two looks is than the one before, as long as no job ends."""

    max_poll_s: float = 60.0
    """The longest pause between two looks; jobs take minutes to hours, and a look is one request for all of them."""

    look_s: float = 60.0
    """How long a job that may have been made is looked for: how soon a new job is listed is not published."""

    least_looks: int = 3
    """How often, at the least, before what is not seen is taken for not there."""

    canary_requests: int = 100
    """Requests of a run's first job: a wrong parameter fails every line, and shows in these."""

    canary_wait_s: float = 600.0
    """How long other jobs wait for it. Where it is not back by then, the queue is long, and they may stand in it."""

    first_job_requests: int = 1000
    """Requests of the next job; each later one has twice as many, so that the first answers come early."""

    max_pending_requests: int = 1_000_000
    """Requests that may be in jobs which have not ended, as inspect_ai has found it for a workspace."""

    uploads_at_once: int = 4
    """Jobs that are on their way to the server together."""

    job_hour_s: float = 3600.0
    """Seconds of an hour, as time-outs of jobs have them: fewer at a simulator whose hours are shorter."""

    live_requests_per_s: float = 10.0
    """How fast requests go live where no quota says it, to know when a deadline leaves no more time for jobs."""

    deadline_margin_s: float = 60.0
    """How much sooner jobs are cancelled than the rows that are left then seem to take: they must end, and be read."""

    def without_waiting(self) -> Tuning:
        """The same with pauses of a hundredth and almost no backoff; what it observes is observed for as long, kept
        nowhere, and shared with no other process.
        """
        shorter = {name: getattr(self, name) / 100 for name in _PAUSES}
        return replace(
            self, **shorter, backoff_base_s=0.001, max_backoff_s=0.01, remember_for_s=0.0, is_shared=False
        )


_PAUSES = (
    "growth_pause_s",
    "cool_down_s",
    "max_cool_down_s",
    "max_explained_cool_down_s",
    "probe_interval_s",
    "max_probe_interval_s",
    "doubtful_probe_interval_s",
    "patience_s",
    "unreachable_patience_s",
    "estimate_probe_s",
    "estimate_probe_after_success_s",
    "first_poll_s",
    "max_poll_s",
    "look_s",
    "canary_wait_s",
    "deadline_margin_s",
)

_lock = RLock()  # re-entrant, since a signal's handler may fork
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_in_use: dict[object, Tuning] = {
    object(): Tuning()
}  # a key each: blocks of several threads may end in any order


def current_tuning() -> Tuning:
    """What is in force now, in all threads: the defaults, or what the innermost `use_tuning` set."""
    with _lock:
        return next(reversed(_in_use.values()))


@contextmanager
def use_tuning(tuning: Tuning) -> Generator[None]:
    """Within the block, whatever is made takes ``tuning``, in all threads. What was made before keeps its own."""
    key = object()
    with _lock:
        _in_use[key] = tuning
    try:
        yield
    finally:
        with _lock:
            del _in_use[key]
