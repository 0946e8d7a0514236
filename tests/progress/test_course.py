"""The course of a start: seconds by cause in a bounded number of stretches."""

from __future__ import annotations

import asyncio
from itertools import accumulate, count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.delivery.diagnostics import Snapshot, WaitCause
from mistill.progress.course import CourseRecorder


class Governor:
    """A governor and a clock, whose time is spent on what the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.seconds: dict[WaitCause, float] = {}
        self.quota: float | None = None

    def spend(self, cause: WaitCause, seconds: float) -> None:
        self.now_s += seconds
        self.seconds[cause] = self.seconds.get(cause, 0.0) + seconds

    def snapshot(self) -> Snapshot:
        return Snapshot(
            0, 7, 8, self.quota, "server" if self.quota else None, None, None, 0, 0, dict(self.seconds)
        )


def test_what_is_waited_for_stands_where_it_was() -> None:
    governor = Governor()
    recorder = CourseRecorder(governor.snapshot, lambda: governor.now_s)
    assert recorder.course() is None
    governor.spend("server", 1.0)
    recorder.look()
    governor.quota = 60.0
    governor.spend("quota_requests", 2.0)
    recorder.look()
    course = recorder.course()
    assert course is not None
    assert course.stretch_s == 1.0
    assert course.seconds_by_cause == {"server": [1, 0, 0, 0], "quota_requests": [0, 1, 1, 0]}
    assert course.in_flight[-1] == 7
    assert course.requests_per_minute == [None, None, None, 60.0]


@given(
    st.lists(
        st.tuples(st.sampled_from(["server", "quota_tokens", "idle"]), st.floats(0.001, 500), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_no_second_is_lost_and_no_stretch_has_more_than_its_time(
    spent: list[tuple[WaitCause, float, bool]],
) -> None:
    governor = Governor()
    recorder = CourseRecorder(governor.snapshot, lambda: governor.now_s)
    for cause, seconds, looks in spent:
        governor.spend(cause, seconds)
        if looks:
            recorder.look()
    recorder.look()
    course = recorder.course()
    assert course is not None
    assert 1 <= len(course.in_flight) <= 120
    in_all = list(accumulate(seconds for _, seconds, _ in spent))[-1]
    sums = [sum(stretch) for stretch in zip(*course.seconds_by_cause.values(), strict=True)]
    assert sum(sums) == pytest.approx(in_all, abs=0.3)  # each is rounded to a millisecond
    assert max(sums) <= course.stretch_s + 0.01
    assert len(sums) * course.stretch_s >= in_all - 0.01


async def test_it_is_noted_now_and_then_for_whoever_looks_meanwhile() -> None:
    moments = count(0.0, 20.0)
    recorder = CourseRecorder(Governor().snapshot, lambda: next(moments))
    noted = asyncio.Event()

    async def note() -> None:
        noted.set()

    watching = asyncio.create_task(recorder.watch(note))
    await noted.wait()
    watching.cancel()
    assert recorder.course() is not None
