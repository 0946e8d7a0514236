"""How long it still takes: what binds says so, and it goes down with the clock."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time
from tests.delivery.model_server import ModelServer, send_rows

from mistill.delivery.governor import Governor
from mistill.delivery.sliding_window import SlidingWindow
from mistill.delivery.tuning import Tuning
from mistill.progress.progress import Progress
from mistill.progress.view import View, Watch


@given(
    limit=st.integers(1, 30),
    sent_s=st.lists(st.floats(0, 59), max_size=30),
    more=st.integers(1, 100),
)
def test_a_window_knows_when_the_last_of_many_may_leave(limit: int, sent_s: list[float], more: int) -> None:
    window = SlidingWindow(60.0, Tuning())
    window.limit = limit
    for at_s in sorted(sent_s)[:limit]:
        window.add(1, at_s)
    ahead = window.room_ahead(59.0)
    assert ahead is not None
    now_s = 59.0
    for _ in range(more):
        while not window.has_room(1, now_s):
            now_s = window.next_change_s(now_s)
        window.add(1, now_s)
    # Told by the second; a window is counted in tenths of a second here, and half a second longer than there.
    assert ahead.wait_s(more) == pytest.approx(now_s - 59.0, abs=1.5 + 0.2 * more / limit)


def watched(rows: int, slots: int = 64, **server: Any) -> tuple[list[tuple[float, View]], float]:
    """Looks at a call each second, with when they were taken, and how long it took."""

    async def main() -> tuple[list[tuple[float, View]], float]:
        loop = asyncio.get_running_loop()
        governor = Governor(clock=loop.time)
        progress = Progress(total=rows)
        watch = Watch(progress, governor.snapshot, at_once=lambda: slots)
        sending = asyncio.create_task(
            send_rows(
                ModelServer(loop.time, **server),
                governor,
                rows,
                max_concurrent_requests=slots,
                progress=progress,
            )
        )
        views: list[tuple[float, View]] = []
        while not sending.done():
            await asyncio.sleep(1)
            views.append((loop.time(), watch.view()))
        return views, (await sending).took_s

    random.seed(0)
    return run_in_fake_time(main())


@pytest.mark.parametrize("quota", [60, 600])
@pytest.mark.parametrize("reports_limits", [True, False])
def test_while_the_quota_is_waited_for_the_time_left_goes_down_and_is_right(
    quota: int, reports_limits: bool
) -> None:
    rows = int(2.5 * quota)  # not just a window's: an estimate that is one too low would need another
    views, took_s = watched(rows, requests_per_minute=quota, latency_s=0.5, reports_limits=reports_limits)
    told = [
        (at_s, view.left_s)
        for at_s, view in views
        if view.waiting_for == "quota_requests" and view.left_s is not None
    ][5:]
    assert len(told) > 70
    for at_s, left_s in told:
        assert left_s == pytest.approx(took_s - at_s, abs=0.15 * took_s)
    rises = [later - sooner for (_, sooner), (_, later) in pairwise(told)]
    assert sum(rise > 1.5 for rise in rises) <= 3  # an estimate that turned out too high
    assert max(rises) <= 0.1 * took_s


def test_without_a_quota_it_is_width_and_latency() -> None:
    views, took_s = watched(2_000, latency_s=1.0)
    for at_s, view in views[3:-2]:
        assert view.left_s == pytest.approx(took_s - at_s, abs=0.2 * took_s)


def test_an_outage_does_not_make_it_longer() -> None:
    views, _ = watched(4_000, latency_s=1.0, outage_from_s=20, outage_until_s=40)
    during = [view.left_s for at_s, view in views if 25 < at_s < 39]
    assert during
    assert None not in during
    assert max(each for each in during if each) <= 1.05 * (during[0] or 0.0)
