"""What drives the shards of a run: it counts, keeps each start, and writes what comes of all. It sees no row."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from mistill.datasets.places.local_file import clear_unfinished
from mistill.delivery.diagnostics import Snapshot, advice
from mistill.delivery.governor import Governor
from mistill.errors import InputError, LedgerError, Stopped
from mistill.estimates.forecast import Forecast
from mistill.ledger import Cause, Counts, ErrorRecord, Ledger, LedgerReader, Spending
from mistill.ledger.shard_files import OUTPUT, read_sizes, shard_of, whole_of
from mistill.llms.event_loop import background
from mistill.process import OwnProcess
from mistill.records.misfits import Misfit
from mistill.runs.opening import output_held
from mistill.runs.report import StartRecord, StartReport, last_start
from mistill.runs.run import Run, end_by, unfinished_output
from mistill.runs.shard_run import RunPlace
from mistill.runs.shared_budget import SharedBudget, spent_by
from mistill.runs.steering import DriverSteering
from mistill.shards.driver import Driver
from mistill.shards.workers import BudgetNow
from mistill.steering.server import OrderServer

_MINUTE_S: Final = 60


class DrivenRun(Run):
    """What the driver of a run and that of a retry over its shards have in common.

    Attributes:
        place: of the run.
    """

    place: RunPlace
    _driver: Driver | None = None
    _shared_budget: SharedBudget | None = None
    _start_number = 0  # of the start, in the ledger of the whole

    def __iter__(self) -> Iterator[Any]:
        raise InputError(
            "rows of a run in shards come to their end in other processes",
            hint="start it, then take its results()",
        )

    @contextmanager
    def _driven(self, ledger: Ledger, driver: Driver, keeper: Governor) -> Generator[Driver]:
        """A start from here to its end, as the ledger of the whole keeps it.

        Args:
            keeper: keeps to what holds for all shards together.
        """
        begun = time.time()
        self._driver = driver
        self._steering = None
        self._budget = self._new_budget()
        self.progress.earlier_cost = self._cost_before()
        if self._llm.requests_per_minute is not None or self._llm.tokens_per_minute is not None:
            self._note_sent(keeper)
        number = self._start_number = background.run(ledger.begin_start(self._told().encode()))
        self._control.take(driver)

        async def keep() -> None:
            await ledger.note_start(number, self._told().encode())

        try:
            steering = self._steering = DriverSteering(
                driver,
                self._llm,
                self._budget,
                keeper,
                before=None if self._shared_budget is None else self._shared_budget.spent,
                note_sent=partial(self._note_sent, keeper),
                watch=self._new_watch(),
                keep=keep,
            )
            with self._control.steered(steering):
                yield driver
            with unfinished_output(OwnProcess()) as cut_off:
                ended = self._finish_all(driver, begun)
            if cut_off:
                ended = msgspec.structs.replace(self._of_shards(begun), stopped=ErrorRecord.of(cut_off[0]))
        except (Exception, KeyboardInterrupt) as error:
            stopped = msgspec.structs.replace(self._told(), stopped=ErrorRecord.of(end_by(error)))
            with suppress(LedgerError):
                background.run(ledger.end_start(number, stopped.encode()))
            if isinstance(error, LedgerError) and not self.place.is_there():
                raise self.place.gone() from error
            raise
        background.run(ledger.end_start(number, ended.encode()))
        self._broke_off = driver.broke_off

    def _note_sent(self, keeper: Governor) -> None:
        """A quota that begins now counts what all shards have sent in the minute before."""
        now = time.time()
        with LedgerReader(self.place.folder) as reader:
            seconds = reader.stretches(now - _MINUTE_S, 1.0, _MINUTE_S)
        ended_ago = [100 * (_MINUTE_S - 1 - place) for place in range(_MINUTE_S)]
        tokens = (one.input_tokens + one.output_tokens for one in seconds)
        keeper.note_sent(
            tuple(zip(ended_ago, (one.sent for one in seconds), strict=True)),
            tuple(zip(ended_ago, tokens, strict=True)),
        )

    async def _work(self, runner: Any) -> None:
        assert self._steering is not None, "a start has begun"
        async with OrderServer(whole_of(self.place.folder), self._steering).serving():
            await runner.run()

    @contextmanager
    def _output_held(self) -> Generator[None]:
        if not self.place.is_one_file:
            if self.place.out is not None:  # nobody starts a shard that has ended
                clear_unfinished(Path(self.place.out), self.place.parts())
            yield  # parts are held with their shards
            return
        self.place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with output_held(self.place.out, self.place.folder / OUTPUT):
            yield

    # --- what is left when it ends ------------------------------------------------------------------------------------

    def _finish_all(self, driver: Driver, begun: float) -> StartRecord:
        """The records, once all are there, and what the ledger keeps of this start."""
        with LedgerReader(self.place.folder) as reader:
            counts = reader.counts()
            expected = self._expected(reader, counts)
            self._tell_of_all(driver, reader)
        ended = self._of_shards(begun)
        if driver.stopped is None and counts.is_finished and self.out is not None:
            if self.place.is_one_file:
                written = self._write_output(self.out)
                ended = msgspec.structs.replace(
                    ended, misfits=written.misfits, empty_answers=written.empty_answers
                )
            else:
                self._remove_other_parts()
            ended = msgspec.structs.replace(ended, output=self.out)
        return msgspec.structs.replace(
            ended,
            stopped=None if driver.stopped is None else ErrorRecord.of(driver.stopped),
            forecast=expected,
        )

    def _tell_of_all(self, driver: Driver, reader: LedgerReader) -> None:
        """Where a budget has ended it, what was spent over all shards is said, and not what one of them knew."""
        stopped = driver.stopped
        if isinstance(stopped, Stopped) and stopped.reason == "budget":
            budget = self.budget_after(reader.spending())
            if budget.is_limited:
                budget.set_limits(
                    self._budget.max_cost, self._budget.max_tokens_total
                )  # they may have changed
            driver.stopped = budget.reached() or stopped

    def _budget_now(self, spent: Spending, spent_by_all: Spending) -> BudgetNow:
        """``spent``: by one shard before this start."""
        return BudgetNow(self._budget.max_cost, self._budget.max_tokens_total, spent, spent_by_all)

    def _spent_by_shard(self, shards: int) -> list[Spending] | None:
        """By now; ``None``: nothing limits it."""
        if self.options.max_cost is None and self.options.max_tokens_total is None:
            return None
        return [spent_by(shard_of(self.place.folder, number)) for number in range(shards)]

    def _remove_other_parts(self) -> None:
        """Those that an earlier plan had more, or in another format: whoever reads the folder would take them for some
        of these."""
        shards = range(len(read_sizes(self.place.folder)))
        parts = {self.place.part(number, self.options).name for number in shards}
        self.place.remove_parts(self.place.parts() - parts)

    def _told(self) -> StartRecord:
        """What is known of this start by now."""
        driver = self._driver
        spent = {} if driver is None else driver.snapshot().seconds
        return msgspec.structs.replace(
            self._record(),
            input_rows=self.progress.total,
            seconds=self.progress.elapsed_s,
            seconds_by_cause={cause: round(seconds, 3) for cause, seconds in spent.items()},
        )

    def _of_shards(self, begun: float) -> StartRecord:
        """The same, with what its shards say of themselves."""
        folder, told = self.place.folder, self._told()
        misfits: dict[str, Misfit] = {}
        unreplaced: dict[str, Cause] = {}
        empty, first_row = 0, 0
        for number, size in enumerate(read_sizes(folder)):
            last = last_start_of(shard_of(folder, number))
            if last is not None and last.part_of == self._start_number:
                empty += last.empty_answers
                for one in last.misfits:
                    misfits[one.kind] = one.after(misfits.get(one.kind), first_row)
                for cause in () if last.retry is None else last.retry.unreplaced:
                    unreplaced[cause.kind] = cause.after(unreplaced.get(cause.kind), first_row)
            first_row += size.rows
        if told.retry is not None:
            causes = sorted(unreplaced.values(), key=lambda one: -one.count)
            told = msgspec.structs.replace(told, retry=msgspec.structs.replace(told.retry, unreplaced=causes))
        found = sorted(misfits.values(), key=lambda one: -one.count)
        with LedgerReader(folder) as reader:
            sent, _, _ = reader.requests_since(begun)
        told = msgspec.structs.replace(told, sent=sent, misfits=found, empty_answers=empty)
        return self._advised(told) if sent else told

    def _advised(self, told: StartRecord) -> StartRecord:
        """With the setting that would have helped most, by where the time of all shards went."""
        driver, steering = self._driver, self._steering
        if driver is None or not isinstance(steering, DriverSteering):
            return told
        at_once = steering.value_of("max_concurrent_requests")
        now = msgspec.structs.replace(driver.quotas(), seconds=driver.snapshot().seconds)
        advised = advice(now, max_concurrent_requests=at_once)
        if advised is None:
            return told
        return msgspec.structs.replace(told, advice=str(advised), advice_parts=list(advised.parts))

    def _expected(self, reader: LedgerReader, counts: Counts) -> Forecast | None:  # noqa: ARG002  a sample has one
        """Of the rows that are left, after a sample."""
        return None

    def _snapshot(self) -> Snapshot:
        return self._governor.snapshot() if self._driver is None else self._driver.snapshot()


def last_start_of(ledger: Path) -> StartReport | None:
    if not ledger.is_file():
        return None
    with LedgerReader(ledger) as reader:
        return last_start(reader)
