"""The driver of a run in shards: it cuts the input, and gives each shard to a worker, whose `ShardRun` it is."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from mistill.delivery.governors import GovernorDoor, environment_of_sharing, opened_to_others
from mistill.estimates.dry_run import DryRun
from mistill.estimates.forecast import Forecast, forecast
from mistill.estimates.row_sample import draw_rows
from mistill.kinds.options import RunOptions
from mistill.ledger import Counts, LedgerReader, Selection, Spending
from mistill.ledger.files import free_name
from mistill.ledger.shard_files import hand_on_parts, is_in_shards, whole_of
from mistill.progress.progress import Progress
from mistill.runs.driven_run import DrivenRun
from mistill.runs.opening import told_if_interrupted
from mistill.runs.shard_run import NOTHING_SENT, InShards, ShardSettings, work_on
from mistill.runs.shared_budget import SharedBudget
from mistill.runs.starting_over import put_file_aside, refuse_at_work, refuse_taken
from mistill.shards.driver import Driver
from mistill.shards.placement import InProcesses, OnRay, parse_placement
from mistill.shards.plan import Plan, changes_of, make_plan, read_plan
from mistill.shards.processes import OwnMachine
from mistill.shards.ray_cluster import connected
from mistill.shards.workers import Begun, Machines, Workers

_log = logging.getLogger("mistill")


class ShardedRun(DrivenRun, InShards):
    """See `Run`, which makes one where it is given ``on``."""

    def __init__(self, source: Any, **given: Any) -> None:
        super().__init__(source, **given)
        self.ledger_path = self.place.folder  # which is read as one

    def _files(self, options: RunOptions) -> tuple[Path, str | None]:
        assert options.on is not None, "else it is another kind of run"
        self._placement = parse_placement(options.on)
        self._at_once = 1
        return whole_of(self.place.folder), self.place.out

    def dry_run(self) -> DryRun:
        """See `Run`. One that is cut in another way is refused, as its start would be."""
        if not self.options.fresh and not self._is_cut_for_nothing():
            self._known_plan(self.options.shards)
        return super().dry_run()

    # --- one start ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _started(self) -> Generator[Any]:  # a driver, which is stopped and waited for as a runner is
        self.summary = self._broke_off = self._driver = None
        self._make_ready()
        self.progress = Progress(started_at_s=time.monotonic())
        with self._machines() as machines:
            if self.options.fresh or self._is_cut_for_nothing():
                self._set_aside()
            elif not is_in_shards(self.place.folder):
                self.place.refuse_foreign()
            keeper = self._llm.governor_apart()
            # Processes of one machine find each other, and share the quota of the key with all others there.
            has_quota = machines.are_apart and not environment_of_sharing()
            with (
                self._output_held(),
                self._open_whole() as ledger,
                opened_to_others(keeper, machines.host, has_quota=has_quota) as door,
            ):
                with told_if_interrupted(*NOTHING_SENT):
                    plan = self._plan(machines.workers)
                self._say_if_empty(plan)
                self.progress.total = _rows_wanted(plan, self.options.limit)
                with (
                    self._driver_of(plan, machines, door) as driver,
                    self._driven(ledger, driver, keeper),
                ):
                    yield driver

    def _machines(self) -> AbstractContextManager[Machines]:
        match self._placement:
            case InProcesses(workers):
                return nullcontext(OwnMachine(workers))
            case OnRay(address):
                return connected(address)

    def _set_aside(self) -> None:
        """All that is known of an earlier run is kept under another name. Which parts it wrote stays known here."""
        folder = self.place.folder
        anew = folder.with_name(f"{folder.name}.new")  # is there, where a start was killed at this
        refuse_taken(anew)
        if folder.is_file():
            put_file_aside(folder)
        elif folder.exists():
            refuse_at_work(folder)
            hand_on_parts(folder, anew)
            kept = folder.rename(free_name(folder, "bak"))
            if not self.options.fresh:
                _log.warning(
                    "the input is cut anew, since nothing was sent yet: what was there is in %s", kept
                )
        if anew.exists():
            anew.rename(folder)
        # For this start only: the next one goes on.
        self.options = self.options.model_copy(update={"fresh": False})

    def _is_cut_for_nothing(self) -> bool:
        """It is cut otherwise than is wanted now, and nothing was sent yet that anybody would miss."""
        folder, options = self.place.folder, self.options
        plan = read_plan(folder)
        if plan is None or not changes_of(plan, self._whole, options.of_plan(), shards=options.shards):
            return False
        with LedgerReader(folder) as reader:
            return not reader.counts().attempts

    def _plan(self, workers: int) -> Plan:
        """Where the input is cut: as it was, or now."""
        folder, options = self.place.folder, self.options
        plan = self._known_plan(options.shards)
        return plan or make_plan(
            folder, self._whole, options.of_plan(), shards=options.shards, workers=workers
        )

    @contextmanager
    def _driver_of(self, plan: Plan, machines: Machines, door: GovernorDoor) -> Generator[Driver]:
        options = self.options
        samples = self._samples(plan)
        shards = range(len(plan.shards)) if samples is None else sorted(samples)

        before = self._spent_by_shard(len(plan.shards))
        by_all = Spending.together(before or ())
        budget = self._shared_budget = None if before is None else SharedBudget.new(self, by_all)

        def begun(number: int) -> Begun:
            return Begun(
                number,
                sample=None if samples is None else samples[number],
                budget=None if before is None else self._budget_now(before[number], by_all),
                start=self._start_number,
            )

        with closing(self._workers(machines, len(shards), door, budget)) as workers:
            yield Driver(
                workers, shards, begun, self.progress, grace_s=options.grace, deadline_s=options.deadline
            )

    def _workers(
        self, machines: Machines, shards: int, door: GovernorDoor, budget: SharedBudget | None
    ) -> Workers:
        own = {"on", "shards", "fresh", "sample", "sample_seed", "deadline", "max_cost", "max_tokens_total"}
        arguments = {name: value for name, value in self.options.given().items() if name not in own}
        place = self.place.absolute() if machines.are_apart else self.place
        settings = ShardSettings(self._llm, place, arguments, door, budget)
        self._at_once = max(1, min(shards, machines.workers))
        at_most = max(1, min(shards, machines.most_workers))
        return machines.at_work(at_most, partial(work_on, settings), place.folder)

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
            at_once=self._llm.max_concurrent_requests * self._at_once,
            limits=self._governor.snapshot(),
            price=self.kind.server.tariff.price_of(models[-1] if models else None, None),
            cached=reader.cached_shares(),
        )


def _rows_wanted(plan: Plan, limit: int | None) -> int:
    return plan.rows if limit is None else min(plan.rows, limit)
