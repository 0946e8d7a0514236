"""The driver of a run in shards: it cuts the input, and gives each shard to a worker, whose `ShardRun` it is."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Unpack

from mistill.estimates.forecast import Forecast, forecast
from mistill.estimates.row_sample import draw_rows
from mistill.kinds.options import RunArguments, RunOptions
from mistill.ledger import Counts, LedgerReader, Selection
from mistill.ledger.files import free_name
from mistill.ledger.lock import LedgerLock
from mistill.ledger.shard_files import is_in_shards, whole_of
from mistill.llms.connection import Connection
from mistill.progress.display import OnProgress
from mistill.progress.progress import Progress
from mistill.runs.driven_run import DrivenRun
from mistill.runs.shard_run import InShards, RunPlace, ShardSettings, check_options, work_on
from mistill.shards.driver import Driver
from mistill.shards.placement import Placement
from mistill.shards.plan import Plan, check_plan, make_plan, read_plan
from mistill.shards.processes import Processes
from mistill.shards.workers import Begun, Workers


class ShardedRun(DrivenRun, InShards):
    """See `Run`, which makes one where it is given ``on``."""

    def __init__(
        self,
        source: Any,
        *,
        llm: Connection,
        out: str | Path | None = None,
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **arguments: Unpack[RunArguments],
    ) -> None:
        options = RunOptions.of(arguments)
        check_options(options)
        assert options.on is not None, "else it is another kind of run"
        self._placement = Placement.parse(options.on)
        place = RunPlace.of(out, options)
        super().__init__(
            source,
            llm=llm,
            place=place,
            ledger=whole_of(place.folder),
            out=place.out,
            arguments=arguments,
            progress=progress,
            on_progress=on_progress,
        )
        self.options = options
        self.ledger_path = place.folder

    # --- one start ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _started(self) -> Generator[Any]:  # a driver, which is stopped and waited for as a runner is
        self.summary = self._broke_off = self._driver = None
        self._make_ready()
        self.progress = Progress(started_at_s=time.monotonic())
        if self.options.fresh:
            self._set_aside()
        elif not is_in_shards(self.place.folder):
            self.place.refuse_foreign()
        with self._output_held(), self._open_whole() as ledger:
            plan = self._plan()
            self.progress.total = _rows_wanted(plan, self.options.limit)
            with self._driven(ledger, self._new_driver(plan)) as driver:
                yield driver

    def _set_aside(self) -> None:
        """All that is known of an earlier run is kept under another name."""
        folder = self.place.folder
        if folder.exists():
            LedgerLock(whole_of(folder)).release()  # unless somebody works on it
            folder.rename(free_name(folder, "bak"))
        # For this start only: the next one goes on.
        self.options = self.options.model_copy(update={"fresh": False})

    def _plan(self) -> Plan:
        """Where the input is cut: as it was, or now."""
        folder, options = self.place.folder, self.options
        plan = read_plan(folder)
        if plan is not None:
            check_plan(plan, folder, self._whole, options.of_plan(), shards=options.shards)
            return plan
        return make_plan(
            folder, self._whole, options.of_plan(), shards=options.shards, workers=self._placement.workers
        )

    def _new_driver(self, plan: Plan) -> Driver:
        options, began_s = self.options, time.monotonic()
        samples = self._samples(plan)
        shards = range(len(plan.shards)) if samples is None else sorted(samples)

        def begun(number: int) -> Begun:
            left = None if options.deadline is None else options.deadline - (time.monotonic() - began_s)
            return Begun(
                number,
                sample=None if samples is None else samples[number],
                deadline_s=None if left is None else max(left, 0.001),
            )

        return Driver(self._workers(len(shards)), shards, begun, self.progress, grace_s=options.grace)

    def _workers(self, shards: int) -> Workers:
        own = {"on", "shards", "fresh", "sample", "sample_seed", "deadline"}
        arguments = {name: value for name, value in self.options.given().items() if name not in own}
        settings = ShardSettings(self._llm, self.place, arguments)
        return Processes(max(1, min(shards, self._placement.workers)), partial(work_on, settings))

    def _samples(self, plan: Plan) -> dict[int, int] | None:
        """How many rows of which shards are asked for a sample of all; ``None``: all of all."""
        if self.options.sample is None:
            return None
        drawn = draw_rows(self.options.sample, plan.rows, self.options.sample_seed)
        ends = list(accumulate(shard.rows for shard in plan.shards))
        return Counter(bisect_right(ends, row) for row in drawn.positions)

    def _expected(self, reader: LedgerReader, counts: Counts) -> Forecast | None:
        """Of the rows that are left, after a sample."""
        rows = self.progress.total
        if self.options.sample is None or rows is None:
            return None
        models = [one.model for one in reader.answers_by_model(type(self.kind).model_of)]
        return forecast(
            reader.rows(Selection.parse("state=completion")),
            max(0, rows - counts.completions - counts.failures),
            is_random=True,
            seconds_each=next(iter(reader.latencies_s((0.5,))), 0.0),
            at_once=self._llm.max_concurrent_requests * self._placement.workers,
            limits=self._governor.snapshot(),
            price=self.kind.server.tariff.price_of(models[-1] if models else None, None),
            cached=reader.cached_shares(),
        )


def _rows_wanted(plan: Plan, limit: int | None) -> int:
    return plan.rows if limit is None else min(plan.rows, limit)
