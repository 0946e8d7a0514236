"""A start is as wide as there is work for, in whatever order rows are read, matched and answered. In fake time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time

from mistill import MistralLLM
from mistill.datasets.prefetch import Windows
from mistill.datasets.sources import Row, open_source
from mistill.delivery.worker_pool import WorkerPool
from mistill.kinds.chat import ChatKind
from mistill.kinds.kind import PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import InputRow, KnownAttempt, RowState
from mistill.progress.progress import Progress
from mistill.runs.pending_rows import PendingRows
from mistill.runs.record_shape import record_shape

TICK_S = 0.1
"""Everything here takes a whole number of these, so that half a tick later all has happened."""
OPTIONS = RunOptions(prompt="{{ n }}")
KIND = ChatKind(MistralLLM(model="mistral-small-latest", api_key="k"), OPTIONS)  # type: ignore[arg-type]


class SlowWindows(Windows):
    """Windows of any size, each of which takes a while."""

    def __init__(self, rows: int, rng: random.Random) -> None:
        super().__init__(open_source([{"n": number} for number in range(rows)]))
        self._rng = rng

    async def next(self) -> list[Row]:
        await asyncio.sleep(TICK_S * self._rng.randint(0, 5))
        rows: list[Row] = []
        for _ in range(self._rng.randint(1, 30)):
            row = next(self._rows, None)
            if row is None:
                self.ended = True
                break
            rows.append(row)
        return rows


class SlowMatcher:
    """A ledger that knows some of the rows: some are answered, some not yet. It counts those that are to be asked."""

    def __init__(self, share_known: float, rng: random.Random) -> None:
        self.due = 0
        self._share_known = share_known
        self._rng = rng
        self._read = 0
        self._found = 0

    async def known(self, digests: Sequence[bytes]) -> list[RowState | None]:
        await asyncio.sleep(TICK_S * self._rng.randint(0, 5))
        states: list[RowState | None] = []
        for number in range(self._read, self._read + len(digests)):
            is_known = self._rng.random() < self._share_known
            state: Literal["completion", "pending"] = self._rng.choice(["completion", "pending"])
            states.append(RowState(number, number, state=state) if is_known else None)
        self._read += len(digests)
        self._found = sum(state is None or state.state == "pending" for state in states)
        return states

    async def answered(self, rows: Sequence[InputRow]) -> list[RowState | None]:
        raise AssertionError("only rows that cannot be asked are looked up so, and here every row can")

    async def claim(self, rows: Sequence[InputRow]) -> list[RowState]:
        await asyncio.sleep(TICK_S * self._rng.randint(0, 5))
        self.due += self._found
        return [RowState(row.position, row.position) for row in rows]

    async def finish(self) -> int:
        return 0


SHAPE = record_shape()


async def nothing_is_known(_: Sequence[int]) -> dict[int, list[KnownAttempt]]:
    raise AssertionError("only rows with answers are looked up so, and here none has one")


async def narrow_moments(rng: random.Random, *, rows: int, size: int, share_known: float, rests: bool) -> int:
    """At how many moments a row waited although fewer than ``size`` were at work."""
    matcher = SlowMatcher(share_known, rng)
    windows = SlowWindows(rows, rng)
    feed = PendingRows(
        windows, KIND, matcher, Progress(), OPTIONS, shape=SHAPE, known_attempts=nothing_is_known
    )
    pool: WorkerPool[list[PendingRow]] = WorkerPool(feed, size=size)
    begun: list[int] = []
    at_work = resting = narrow = 0

    async def work(pending: list[PendingRow]) -> None:
        nonlocal at_work, resting
        begun.append(pending[0].state.row)
        at_work += 1
        await asyncio.sleep(TICK_S * rng.randint(1, 20))
        if rests and rng.random() < 0.3:
            at_work, resting = at_work - 1, resting + 1
            with pool.resting():
                await asyncio.sleep(TICK_S * rng.randint(1, 20))
            at_work, resting = at_work + 1, resting - 1
            await asyncio.sleep(TICK_S)
        at_work -= 1

    async def watch() -> None:
        nonlocal narrow
        await asyncio.sleep(TICK_S / 2)
        while True:
            is_full = at_work >= size or at_work + resting >= 4 * size
            narrow += matcher.due > len(begun) and not is_full
            await asyncio.sleep(TICK_S)

    watching = asyncio.create_task(watch())
    await pool.run(work)
    watching.cancel()
    assert sorted(begun) == sorted(set(begun))
    assert len(begun) == matcher.due
    return narrow


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 200),
    size=st.integers(1, 40),
    share_known=st.sampled_from([0.0, 0.2, 0.9]),
    rests=st.booleans(),
)
def test_no_row_waits_while_fewer_than_size_are_at_work(
    seed: int, rows: int, size: int, share_known: float, rests: bool
) -> None:
    rng = random.Random(seed)
    coroutine = narrow_moments(rng, rows=rows, size=size, share_known=share_known, rests=rests)
    assert run_in_fake_time(coroutine) == 0


@pytest.mark.parametrize("rows", [0, 1, 50])
async def test_a_pool_of_ten_thousand_starts_no_more_workers_than_there_are_rows(rows: int) -> None:
    feed = PendingRows(
        Windows(open_source([{"n": number} for number in range(rows)])),
        KIND, SlowMatcher(0.0, random.Random(0)), Progress(), OPTIONS,
        shape=SHAPE, known_attempts=nothing_is_known,
    )  # fmt: skip
    all_at_work = asyncio.Event()
    most = at_work = 0

    async def work(_: list[PendingRow]) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, len(asyncio.all_tasks()))
        if at_work == rows:
            all_at_work.set()
        await all_at_work.wait()

    await WorkerPool(feed, size=10_000).run(work)
    assert at_work == rows
    assert most <= rows + 2  # and one that looks for more rows, and this test
