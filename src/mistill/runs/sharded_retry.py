"""A retry over the shards of a run: each that has chosen rows is retried by itself, some at a time in this process."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Unpack, cast

import msgspec

from mistill.delivery.governor import Governor
from mistill.errors import InputError, MistillError
from mistill.kinds.options import RunArguments
from mistill.ledger import Ledger, LedgerReader, Selection, Spending
from mistill.ledger.shard_files import read_sizes, shard_of, whole_of
from mistill.ledger.shards_reader import ShardsReader, rows_by_shard
from mistill.llms.connection import Connection
from mistill.progress.display import Display
from mistill.progress.progress import Progress
from mistill.runs.driven_run import DrivenRun, last_start_of
from mistill.runs.ledger_run import KnownRun
from mistill.runs.record_shape import shape_of
from mistill.runs.report import StartReport
from mistill.runs.results import RunResults
from mistill.runs.retry import Asked, ChosenAgain, Retry, has_ended
from mistill.runs.shard_run import DrivenStart, RunPlace
from mistill.runs.shared_budget import SharedBudget
from mistill.runs.where import RunFilter
from mistill.shards.driver import Driver
from mistill.shards.here import Here
from mistill.shards.workers import Begun, Link
from mistill.wording import Setting, words

_AT_ONCE: Final = 16
"""Shards: enough that few rows of each are in flight together, and few enough that their ledgers take little memory."""


class ShardedRetry(DrivenRun, Retry):
    """See `Run.retry`, which makes one of a run in shards."""

    def __init__(
        self,
        run: RunResults | str | Path | None,
        where: str | None,
        **asked: Unpack[Asked],
    ) -> None:
        Retry.__init__(self, run, where, **asked)
        if "lane" in self.options.given():
            raise InputError(words(Setting("lane"), " is of one ledger, and this run is in shards"))
        self.place = RunPlace(self._known.path, self._known.out)

    @contextmanager
    def _started(self) -> Generator[Any]:
        self.summary = self._broke_off = self._driver = None
        self._make_ready()
        self.progress = Progress(started_at_s=time.monotonic())
        self._say_no_output()
        with self._output_held(), Ledger.open(whole_of(self.place.folder), self._known.manifest) as ledger:
            done = self._done_before()
            chosen = {shard: rows for shard, rows in self._by_shard().items() if shard not in done}
            self._chosen = self.progress.total = sum(map(len, chosen.values()))
            if not chosen:
                self._say_nothing_chosen()
            keeper, before = Governor(), self._spent_by_shard(self._shards())
            by_all = Spending.together(before or ())
            budget = self._shared_budget = None if before is None else SharedBudget.new(self, by_all)

            def work(begun: Begun, link: Link) -> MistillError | None:
                retry = self._retry_of(begun, chosen[begun.number], link)
                if budget is not None and begun.budget is not None:
                    retry.spend_from(budget, keeper, begun.number, begun.budget)
                return retry.work(begun, link)

            driver = Driver(
                Here(work, min(_AT_ONCE, self._llm.max_concurrent_requests)),
                sorted(chosen),
                lambda number: Begun(
                    number,
                    budget=None if before is None else self._budget_now(before[number], by_all),
                    start=self._start_number,
                ),
                self.progress,
                grace_s=self.options.grace,
                deadline_s=self.options.deadline,
            )
            with ExitStack() as ends:
                ends.callback(self._llm.leave_pace, self)  # shards set it until then
                ends.enter_context(self._driven(ledger, driver, keeper))
                yield driver

    def _shards(self) -> int:
        return len(read_sizes(self.place.folder))

    def _by_shard(self) -> Mapping[int, list[int]]:
        """The chosen rows, by the numbers that they have in the ledgers of their shards."""
        with LedgerReader(self.place.folder) as reader:
            assert isinstance(reader, ShardsReader), "it is a folder"
            self._filter = RunFilter(self._where, reader, shape_of(reader, trust=self._trust))
            return rows_by_shard(reader, (row.row for row in self._filter.rows(reader)))

    def _done_before(self) -> set[int]:
        """Shards that this very retry has come to the end of, in a start that did not come to its own."""
        self._goes_on_from = {start.number for start in self._cut_short()}
        if not self._goes_on_from:
            return set()
        shards = range(self._shards())
        lasts = ((shard, last_start_of(shard_of(self.place.folder, shard))) for shard in shards)
        return {
            shard for shard, last in lasts if last is not None and has_ended(last) and self.goes_on_from(last)
        }

    def goes_on_from(self, part: StartReport) -> bool:
        """Whether a start of a shard was a part of this very retry, which goes on."""
        return part.part_of in self._goes_on_from

    def _retry_of(self, begun: Begun, chosen: list[int], link: Link) -> _ShardRetry:
        number = begun.number
        rows = msgspec.json.encode(chosen).decode()
        retry = _ShardRetry(
            KnownRun(self.place.part_of(number, self.options), shard_of(self.place.folder, number)),
            Selection("id IN (SELECT value FROM json_each(?))", (rows,)),
            llm=self._llm,
            whole=self,
            limits=begun.limits,
            display=Display(False, lambda view: link.see(view, retry.governor_now())),
        )
        return retry


class _ShardRetry(DrivenStart, ChosenAgain):
    """The retry of one shard's rows.

    Args:
        rows: which, in the ledger of the shard. ``whole``: what it is a part of. ``limits``: of money and tokens, of
            all shards together.
    """

    def __init__(
        self,
        known: KnownRun,
        rows: Selection,
        *,
        llm: Connection,
        whole: ShardedRetry,
        limits: Mapping[str, Any],
        display: Display,
    ) -> None:
        told = {"on_stop": "return", "deadline": None, **limits}
        options = cast("RunArguments", whole.options.given() | told)
        self._rows_here = rows
        self._all = whole
        super().__init__(known, whole.asked[0], llm, options, display, trust=whole.trusts)
        self._paced_with = whole

    def _select(self, path: Path) -> tuple[RunFilter, Selection]:
        with LedgerReader(path) as reader:  # a condition on their places is about those in all shards
            return RunFilter(None, reader, shape_of(reader, trust=self._trust)), self._rows_here

    def _cut_short(self) -> list[StartReport]:
        """After another retry of the whole, this one begins anew, as over one ledger."""
        return [start for start in super()._cut_short() if self._all.goes_on_from(start)]

    def _output_held(self) -> AbstractContextManager[None]:
        return nullcontext()  # whoever has the ledger of a shard has its part too
