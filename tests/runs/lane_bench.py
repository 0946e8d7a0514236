"""The choice of a lane without a run around it: rows of a real kind, answered by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import SecretStr

from mistill import MistralLLM
from mistill.api.prices import Price, price_of
from mistill.api.usage import Usage
from mistill.datasets.sources.in_memory import Items
from mistill.datasets.sources.row import Row
from mistill.errors import ServerError
from mistill.kinds.chat import ChatKind
from mistill.kinds.kind import PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import RowUsage
from mistill.ledger.matching import RowState
from mistill.llms.types import Completion, Outcome
from mistill.progress.progress import Progress
from mistill.runs.lanes.lane_choice import LaneChoice

MODEL = "mistral-small-latest"
RULES = "Decide what the customer wants, and answer in one word. " * 60
"""840 tokens that are the same in all rows; 13 blocks of 64 are cached of them."""
TOKENS, CACHED = 860, 832
HALF = 0.5


def price() -> Price:
    """0.15 and 0.60 dollars a million tokens; cached 0.015."""
    found = price_of(MODEL)
    assert found is not None
    return found


@cache
def kind_of(*, prompt_cache: bool = True) -> ChatKind:
    options = RunOptions(
        prompt="Answer.", system=RULES + "{{ text }}", lane="cheapest", prompt_cache=prompt_cache
    )
    return ChatKind(MistralLLM(model=MODEL, api_key=SecretStr("a-key")), options)


def outcome_of(usage: Usage, latency_s: float = 1.0, cost: float | None = None) -> Outcome:
    """Of a row that was answered live; its cost is that of its tokens unless it is given."""
    first = Completion(text="an answer", usage=usage, latency_s=latency_s)
    return Outcome(completions=(first,), usage=usage, cost=price().cost(usage) if cost is None else cost)


FAILED = Outcome(completions=(), error=ServerError("unavailable", status=503))


@dataclass
class Bench:
    """A choice, and the rows that it is asked about.

    Attributes:
        answers: what a row takes, by its number and whether something of it is cached.
        under_way: rows that went live and have no outcome yet. ``lanes``: whether each row went live, in their order.
        settled: rows that went live and have their outcome.
    """

    choice: LaneChoice
    kind: ChatKind
    progress: Progress
    answers: Callable[[int], Usage]

    def __post_init__(self) -> None:
        self.lanes: list[bool] = []
        self.under_way: list[PendingRow] = []
        self.settled = 0

    @property
    def told(self) -> str:
        """How many rows go which way, as it is shown."""
        return str(self.progress.told_lanes())

    def row(self, number: int) -> PendingRow:
        raw = b'{"text": "mail %06d"}' % number
        row = Row(number, raw, Items([]), number + 1)
        return PendingRow(RowState(number, number), row, self.kind.prepare(row))

    async def groups(self, rows: int) -> AsyncIterator[list[PendingRow]]:
        for number in range(rows):
            yield [self.row(number)]

    async def ask(self, pending: PendingRow) -> bool:
        """Which way a row goes, where that is known without an answer of another."""
        goes_live = await asyncio.wait_for(self.choice.goes_live([pending]), 5)
        self.lanes.append(goes_live)
        if goes_live:
            self.under_way.append(pending)
        return goes_live

    def settle(self, outcome: Callable[[int], Outcome] | None = None) -> None:
        """All rows that are under way have their outcomes."""
        for pending in self.under_way:
            number = pending.state.row
            found = outcome_of(self.answers(number)) if outcome is None else outcome(number)
            self.settled += 1
            self.choice.note_live([pending], [found])
        self.under_way = []

    async def work_through(self, rows: int, *, at_once: int = 1) -> None:
        """All of a start's rows, so many under way at once at the most."""
        async for (pending,) in self.choice.ahead(self.groups(rows)):
            deciding = asyncio.ensure_future(self.ask(pending))
            await asyncio.sleep(0)
            while not deciding.done():
                if self.under_way:
                    self.settle()
                await asyncio.wait([deciding], timeout=0.001)
            if len(self.under_way) >= at_once:
                self.settle()
        self.settle()


def bench(
    *,
    output_tokens: int | Callable[[int], int] = 5,
    rows: int | None = 300,
    known: Sequence[RowUsage] = (),
    answered: int = 0,
    factor: float = HALF,
    prompt_cache: bool = True,
    size: int = 1,
    has_jobs: bool = True,
    time_left_s: Callable[[], float] = lambda: float("inf"),
    **options: Any,
) -> Bench:
    """A start of which the first row finds nothing cached, and all others do."""
    kind, progress = kind_of(prompt_cache=prompt_cache), Progress(total=rows)
    given = RunOptions(prompt="Answer.", lane="cheapest", **options)
    choice = LaneChoice(
        kind,
        given,
        price,
        factor,
        known=known,
        progress=progress,
        rows=rows,
        answered=answered,
        size=size,
        has_jobs=has_jobs,
        time_left_s=time_left_s,
    )

    def answers(number: int) -> Usage:
        written = output_tokens if isinstance(output_tokens, int) else output_tokens(number)
        return Usage(TOKENS, written, CACHED if number else 0)

    return Bench(choice, kind, progress, answers)
