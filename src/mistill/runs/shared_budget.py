"""What the shards of a run may spend together: a driver knows what they had spent before its start, each what since."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from mistill.delivery.governor import AnyGovernor
from mistill.delivery.purse import Amount
from mistill.estimates.budget import CommonPurse
from mistill.ledger import LedgerReader, Spending
from mistill.runs.run import Run
from mistill.runs.runner import Runner
from mistill.shards.workers import BudgetNow


class SharedBudget(Struct, frozen=True):
    """A budget of all shards together, as each of them is told of it.

    Attributes:
        purse: its name where count is kept of it. ``spent``: by all shards before this start.
    """

    purse: str
    spent: Amount

    @classmethod
    def new(cls, run: Run, before: Spending) -> SharedBudget:
        """Of a start of this run, before which its shards had spent so much."""
        return cls(secrets.token_hex(16), run.budget_after(before).spent())


def spent_by(ledger: Path) -> Spending:
    """What a shard has spent by now."""
    if not ledger.is_file():
        return Spending()
    with LedgerReader(ledger) as reader:
        return reader.spending()


class PartOfBudget(Run):
    """A start on one shard of a run, which spends together with others."""

    _purse: CommonPurse | None = None
    _before = Spending()

    def spend_from(self, budget: SharedBudget, keeper: AnyGovernor, shard: int, now: BudgetNow) -> None:
        """It spends from a budget of which ``keeper`` keeps count.

        Args:
            now: as its driver tells it when the start of the shard begins.
        """
        others = {"before": budget.spent}
        self._purse = CommonPurse(keeper, budget.purse, f"shard {shard}", others, now.seen)
        self._before = now.spent

    def _common_purse(self) -> CommonPurse | None:
        return self._purse

    def _spent_before(self) -> Spending | None:
        if self._purse is None:
            return super()._spent_before()
        return spent_by(self.ledger_path).since(self._before)

    @contextmanager
    def _started(self) -> Generator[Runner]:
        try:
            with super()._started() as runner:
                yield runner
        finally:
            self._budget.leave_common()
