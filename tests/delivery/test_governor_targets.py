"""How near the governor comes to the ideal time, against a model of the server, in fake time: exact and repeatable.

Ideal: a whole quota at once, the next one 60 s later, and so on, each as fast as the slots let it through. The same
targets are measured over real sockets by ``python -m benchmarks.governor``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.delivery.fake_clock import run_in_fake_time
from tests.delivery.model_server import ModelServer, Passage, send_rows

from mistill.delivery.diagnostics import WaitCause, advice
from mistill.delivery.governor import Governor, Snapshot
from mistill.delivery.quotas import LimitSource
from mistill.errors import RateLimited, RateLimits

Event = Callable[[ModelServer], Coroutine[Any, Any, None]]


def simulate(
    rows: int,
    *,
    event: Event | None = None,
    server_kind: type[ModelServer] = ModelServer,
    processes: int = 1,
    max_concurrent_requests: int = 64,
    **server_settings: Any,
) -> tuple[Passage, Snapshot]:
    """All rows through as many governors as there are processes; the slowest passage, and the first's snapshot."""

    async def main() -> tuple[Passage, Snapshot]:
        loop = asyncio.get_running_loop()
        server = server_kind(loop.time, **server_settings)
        governors = [Governor(clock=loop.time) for _ in range(processes)]
        happening = loop.create_task(event(server)) if event is not None else None
        passages = await asyncio.gather(
            *(
                send_rows(
                    server,
                    governor,
                    rows // processes,
                    max_concurrent_requests=max_concurrent_requests,
                    seed=seed,
                )
                for seed, governor in enumerate(governors)
            )
        )
        if happening is not None:
            await happening
        slowest = max(passages, key=lambda passage: passage.took_s)
        slowest.lost = sum(passage.lost for passage in passages)
        return slowest, governors[0].snapshot()

    random.seed(0)  # the jitter of pauses: every run is the same
    return run_in_fake_time(main())


def ideal_s(quota: int, windows: int, slots: int, latency_s: float) -> float:
    return 60 * (windows - 1) + latency_s * max(1, quota / slots)


@pytest.mark.parametrize("latency_s", [0.1, 1.0])
@pytest.mark.parametrize(
    ("quota", "windows", "slots"), [(60, 3, 64), (60, 5, 64), (600, 3, 64), (6_000, 2, 1_024)]
)
def test_a_quota_reported_in_headers(quota: int, windows: int, slots: int, latency_s: float) -> None:
    rows = quota * windows
    passage, _ = simulate(rows, requests_per_minute=quota, latency_s=latency_s, max_concurrent_requests=slots)
    assert passage.lost == 0
    assert passage.took_s <= 1.10 * ideal_s(quota, windows, slots, latency_s)
    assert passage.refused <= 0.02 * rows


@pytest.mark.parametrize("latency_s", [0.1, 1.0])
@pytest.mark.parametrize(
    ("quota", "windows", "slots"), [(60, 3, 64), (60, 5, 64), (600, 3, 64), (6_000, 2, 1_024)]
)
def test_a_quota_that_no_header_reports(quota: int, windows: int, slots: int, latency_s: float) -> None:
    rows = quota * windows
    passage, _ = simulate(
        rows,
        requests_per_minute=quota,
        reports_limits=False,
        latency_s=latency_s,
        max_concurrent_requests=slots,
    )
    assert passage.lost == 0
    assert passage.took_s <= 1.25 * ideal_s(quota, windows, slots, latency_s)
    assert passage.refused <= 0.10 * rows


@pytest.mark.parametrize(("reports_limits", "slack"), [(True, 1.10), (False, 1.25)])
def test_a_token_quota_that_binds_first(reports_limits: bool, slack: float) -> None:
    passage, snapshot = simulate(
        600, requests_per_minute=6_000, tokens_per_minute=15_000, tokens=100, reports_limits=reports_limits
    )
    assert passage.lost == 0
    assert passage.took_s <= slack * 180
    assert passage.refused <= (0.02 if reports_limits else 0.10) * 600
    if reports_limits:
        assert snapshot.tokens_per_minute == 15_000
        assert max(snapshot.seconds, key=lambda cause: snapshot.seconds[cause]) == "quota_tokens"


@pytest.mark.parametrize("reports_limits", [True, False])
def test_a_quota_halved_then_doubled_is_followed(reports_limits: bool) -> None:
    async def change(server: ModelServer) -> None:
        await asyncio.sleep(70)
        server.requests_per_minute = 300
        await asyncio.sleep(150)
        server.requests_per_minute = 1_200

    passage, snapshot = simulate(3_000, requests_per_minute=600, event=change, reports_limits=reports_limits)
    assert passage.lost == 0
    assert passage.refused <= 0.02 * 3_000
    # 1,200 rows by 60 s, 600 more by 210 s, 1,200 after the raise: two more windows at the new rate.
    assert passage.took_s <= 220 + 60 * (1.10 if reports_limits else 1.25)
    assert snapshot.requests_per_minute is not None
    assert snapshot.requests_per_minute > 1_000


def test_an_outage_loses_no_row_and_little_time() -> None:
    without, _ = simulate(4_000, latency_s=1)
    through, snapshot = simulate(4_000, latency_s=1, outage_from_s=20, outage_until_s=50)
    assert through.lost == 0
    assert through.took_s <= without.took_s + 30 + 10
    # Of 64 in flight when it began; nobody after that. How many depends on the moment.
    moments = [
        simulate(1_500, latency_s=1, outage_from_s=10 + each, outage_until_s=40)[0] for each in (0, 0.3, 0.6)
    ]
    assert sorted(passage.charged for passage in [through, *moments])[2] <= 30
    assert all(passage.charged <= 64 for passage in [through, *moments])
    assert through.failed <= 64 + 30  # and few probes
    assert 28 <= snapshot.seconds["outage"] <= 30 + 8


def test_a_full_server_is_kept_nearly_full() -> None:
    passage, snapshot = simulate(2_000, capacity=20, latency_s=1)
    assert passage.lost == 0
    assert passage.took_s <= 1.25 * 100
    assert passage.refused <= 0.02 * 2_000
    assert snapshot.adaptive_limit <= 25


def test_three_processes_share_a_quota() -> None:
    passage, _ = simulate(1_500, requests_per_minute=300, processes=3)
    assert passage.lost == 0
    assert passage.took_s <= 1.25 * 240


class LimitedBySecond(ModelServer):
    """Refuses above five requests a second, whatever its headers tell."""

    _level = 5.0
    _at_s = 0.0

    def _is_used_up(self) -> bool:
        self._level = min(5.0, self._level + 5 * (self.clock() - self._at_s))
        self._at_s = self.clock()
        if self._level < 1 or super()._is_used_up():
            return True
        self._level -= 1
        return False


@pytest.mark.parametrize(("quota", "most_refused"), [(60, 0.5), (600, 0.08)])
def test_processes_that_do_not_share_a_governor_leave_each_other_their_part(
    quota: int, most_refused: float
) -> None:
    """They know of each other by headers alone: what the others have used again and again is theirs."""
    rows = 3 * quota
    passage, _ = simulate(rows, requests_per_minute=quota, processes=4, latency_s=0.2)
    assert passage.lost == 0
    assert passage.took_s <= 1.06 * 120
    assert passage.refused <= most_refused * rows


@pytest.mark.parametrize("reports_limits", [True, False])
def test_a_hidden_limit_by_the_second_is_found(reports_limits: bool) -> None:
    passage, _ = simulate(
        1_500, server_kind=LimitedBySecond, requests_per_minute=6_000, reports_limits=reports_limits
    )
    assert passage.lost == 0
    assert passage.took_s <= 1.25 * 300
    assert passage.refused <= 0.10 * 1_500


def test_a_server_without_limits_gets_all_slots_within_seconds() -> None:
    passage, snapshot = simulate(64, latency_s=5)
    assert passage.took_s <= 7.5 + 3  # the slowest answer, and the slow start
    many, _ = simulate(10_000, latency_s=0.01, max_concurrent_requests=1_024)
    assert many.took_s <= 5
    assert snapshot.requests_per_minute is None


@pytest.mark.parametrize("latency_s", [0.05, 2.0])
def test_all_slots_are_used_where_more_in_flight_is_answered_faster(latency_s: float) -> None:
    rows = 30_000
    passage, snapshot = simulate(rows, latency_s=latency_s, max_concurrent_requests=2_048)
    assert passage.took_s <= rows * (latency_s + 0.035) / 2_048 + 2 * latency_s + 4
    assert snapshot.adaptive_limit >= 2_048


@pytest.mark.parametrize("per_s", [500, 1_000, 2_000])
def test_no_more_are_in_flight_than_are_answered_any_faster(per_s: int) -> None:
    settings = {"latency_s": 0.2, "gets_through_per_s": per_s, "max_concurrent_requests": 2_048}
    passage, snapshot = simulate(20 * per_s, **settings)
    assert passage.took_s <= 20 + 2
    assert snapshot.adaptive_limit <= 1_500  # 2,560 where it grows as long as it is in use
    short, _ = simulate(18_000, **settings, requests_per_minute=6_000, reports_limits=False)
    assert short.lost == 0
    assert short.took_s <= 1.15 * ideal_s(6_000, 3, 2_048, 6_000 / per_s)
    assert short.refused <= 0.05 * 18_000


def test_a_server_that_gets_quicker_is_given_more() -> None:
    async def quicker(server: ModelServer) -> None:
        await asyncio.sleep(20)
        server.gets_through_per_s = 4_000

    settings = {"latency_s": 0.4, "gets_through_per_s": 500, "max_concurrent_requests": 2_048}
    passage, snapshot = simulate(130_000, event=quicker, **settings)
    assert passage.took_s <= 20 + 120_000 / 4_000 + 25
    assert snapshot.adaptive_limit >= 1_500


class BusyMachine(ModelServer):
    """The first burst reaches the server up to two seconds late, and out of order; later ones do not."""

    async def answer(self, rng: random.Random) -> RateLimits | None:
        if self.clock() < 10:
            await asyncio.sleep(rng.uniform(0.8, 2.0))
        return await super().answer(rng)


def test_requests_that_reach_the_server_late_are_not_taken_for_somebody_elses() -> None:
    passage, _ = simulate(
        1_800,
        server_kind=BusyMachine,
        requests_per_minute=600,
        latency_s=0.2,
        max_concurrent_requests=1_024,
    )
    assert passage.lost == 0
    assert passage.took_s <= 1.10 * 120
    assert passage.refused <= 0.02 * 1_800


class LateVerdicts(ModelServer):
    """A refusal is known late and at no certain time, as that of another process is."""

    async def answer(self, rng: random.Random) -> RateLimits | None:
        try:
            return await super().answer(rng)
        except RateLimited:
            await asyncio.sleep(rng.uniform(0.05, 0.9))
            raise


@pytest.mark.parametrize("quota", [600, 1_200])
def test_a_quota_is_found_though_refusals_are_known_late(quota: int) -> None:
    passage, snapshot = simulate(
        3 * quota,
        server_kind=LateVerdicts,
        requests_per_minute=quota,
        reports_limits=False,
        latency_s=0.2,
        max_concurrent_requests=256,
    )
    assert passage.lost == 0
    assert passage.took_s <= 1.10 * 120
    assert passage.refused <= 0.10 * 3 * quota  # what had left before the first was known
    assert snapshot.requests_per_minute == pytest.approx(quota, rel=0.02)


@pytest.mark.parametrize("share", [0.005, 0.04, 0.1])
@pytest.mark.parametrize(("latency_s", "slots"), [(0.2, 64), (2.0, 64), (0.2, 8)])
def test_refusals_scattered_at_random_delay_their_own_rows_only(
    share: float, latency_s: float, slots: int
) -> None:
    settings: dict[str, Any] = {
        "latency_s": latency_s,
        "max_concurrent_requests": slots,
        "reports_limits": False,
    }
    without, _ = simulate(2_000, **settings)
    passage, snapshot = simulate(2_000, stray_share=share, **settings)
    assert passage.lost == 0
    assert snapshot.seconds.get("cool_down", 0.0) <= 6  # until it is known that they are scattered
    assert passage.took_s <= 1.25 * without.took_s + 5  # the last rows back off alone
    told = advice(snapshot, max_concurrent_requests=slots)
    assert told is None or "requests_per_minute" not in told


@pytest.mark.parametrize("reports_limits", [True, False])
def test_a_quota_is_found_among_scattered_refusals(reports_limits: bool) -> None:
    passage, snapshot = simulate(
        1_800, requests_per_minute=600, latency_s=0.2, stray_share=0.04, reports_limits=reports_limits
    )
    assert passage.lost == 0
    assert passage.took_s <= 1.25 * 120
    assert passage.refused <= 0.15 * 1_800
    assert max(snapshot.seconds, key=lambda cause: snapshot.seconds[cause]) == "quota_requests"


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"reports_limits": False}, "a quota of 6"), ({}, "your quota of 600")],  # found within some percent
)
def test_a_quota_that_binds_is_told(settings: dict[str, Any], told: str) -> None:
    _, snapshot = simulate(1_800, latency_s=0.3, requests_per_minute=600, **settings)
    assert told in (advice(snapshot, max_concurrent_requests=64) or "")


def spent(cause: WaitCause, *, quota: float | None = None, source: LimitSource | None = None) -> str:
    """The advice after a minute that was spent on one cause, in which 1,000 were answered."""
    snapshot = Snapshot(
        waiting=0, in_flight=0, adaptive_limit=64, requests_per_minute=quota, requests_source=source,
        tokens_per_minute=None, tokens_source=None, answered=1_000, refused=40, seconds={cause: 60.0},
    )  # fmt: skip
    return advice(snapshot, max_concurrent_requests=64) or ""


def test_advice_that_would_not_help_is_not_given() -> None:
    assert "set requests_per_minute" in spent(
        "cool_down", quota=600, source="inferred"
    )  # 40 s in place of 60
    assert "no setting helps" in spent("cool_down", quota=500, source="inferred")  # as long as now
    assert "no setting helps" in spent("cool_down", quota=600, source="user")
    assert "no setting helps" in spent("cool_down")
    assert "raise max_concurrent_requests" in spent("concurrency")
    assert "raise max_concurrent_requests" in spent("concurrency", quota=4_000, source="server")
    assert spent("concurrency", quota=500, source="server") == ""  # more at once would wait for the quota


def test_a_pause_is_one_whatever_was_waited_for_meanwhile() -> None:
    seconds: dict[WaitCause, float] = {"quota_requests": 30.0, "server": 10.0, "idle": 5.0}
    snapshot = Snapshot(
        waiting=0, in_flight=0, adaptive_limit=64, requests_per_minute=None, requests_source=None,
        tokens_per_minute=None, tokens_source=None, answered=1_000, refused=0, seconds=seconds,
    )  # fmt: skip
    paused = snapshot.beside_pauses({"quota_requests": 12.0, "server": 2.0, "idle": 1.0})
    assert paused.seconds == {"quota_requests": 18.0, "server": 10.0, "idle": 4.0, "paused": 13.0}
    assert snapshot.beside_pauses({}) is snapshot


def test_advice_has_the_shares_that_the_split_of_the_time_has() -> None:
    seconds: dict[WaitCause, float] = {"budget": 30.0, "server": 10.0, "paused": 20.0, "idle": 40.0}
    snapshot = Snapshot(
        waiting=0, in_flight=0, adaptive_limit=64, requests_per_minute=None, requests_source=None,
        tokens_per_minute=None, tokens_source=None, answered=1_000, refused=0, seconds=seconds,
    )  # fmt: skip
    assert str(advice(snapshot, max_concurrent_requests=64)).startswith("30% of the time waited for the bud")
    seconds["paused"] = 200.0  # the rest is not worth a word
    assert advice(snapshot, max_concurrent_requests=64) is None
