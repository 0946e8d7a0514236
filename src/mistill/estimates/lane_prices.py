"""What rows cost by each lane: by what is known of them before they are asked, and by what other rows have taken.

Live, what a prompt has in common with earlier ones costs a tenth; in a batch job all costs half. So with ``n`` tokens
of input, of which ``c`` are cached, and ``o`` of output,

    live = in·(n - c) + cached_in·c + out·o        in a job = batch·(in·(n - c') + cached_in·c' + out·o)

where ``c'`` is what is cached in jobs: nothing, until their own answers say otherwise. With the factors of Mistral's
table, and ``h = c / n``, live is cheaper where ``out·o < in·n·(1.8·h - 1)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from mistill.api.prices import MILLION, Price
from mistill.api.usage import BLOCK_TOKENS, Usage
from mistill.estimates.sample_totals import Doubt, SampleTotal
from mistill.ledger import RowUsage

_EXPECTED_HITS, _EXPECTED_ROWS = 0.9, 4
"""Before any answer, and as much as so many answers weigh: a few misses are no reason to give up the cache."""
_LEAST_COMPARED = 4
_MOST_COMPARED = 200
_LEAST_IN_TREND = 6
_MOST_BEYOND = 2.0
"""Times as long as any row that was answered, or half as long as any: of others nobody knows how they are answered."""
_PLAIN = 0.9
"""A trend that is so strong holds beyond what was answered."""
_LEAST_F = 4.0
"""A trend whose F is below that is chance, as likely as not; above it, it counts by how far it is."""


class RowSize(Struct, frozen=True, gc=False):
    """What is known of a row before it is asked. Tokens are estimated, see ``mistill.api.token_estimate``.

    Attributes:
        most_output_tokens: what its answers may have; ``None``: nothing bounds them.
        shared_tokens: those at its beginning that an earlier prompt had; ``None``: nobody has looked.
        is_first: no earlier one had its cache key, so that nothing of it can be cached.
    """

    input_tokens: float
    most_output_tokens: int | None = None
    shared_tokens: int | None = None
    is_first: bool = False


def _own_tokens(size: RowSize) -> float | None:
    """Those that no earlier prompt had, which is what differs from row to row; ``None``: nobody knows."""
    return None if size.shared_tokens is None or size.is_first else size.input_tokens - size.shared_tokens


def usage_of(one: RowUsage) -> Usage:
    """What a row took that the ledger knows."""
    return Usage(one.input_tokens, one.output_tokens, one.cached_tokens)


class RowPrices(NamedTuple):
    """US dollars that a row costs by each lane."""

    live: float
    in_job: float

    @property
    def is_live_cheaper(self) -> bool:
        """Or as cheap: then it need not wait."""
        return self.live <= self.in_job


class LanePrices:
    """Prices of rows by lane, the better known the more rows were answered.

    Args:
        price: of the model that answers, at the standard tier, by what is known of it when it is called.
        batch_factor: what prices are multiplied with in jobs.

    Attributes:
        live, in_jobs: what was measured in each lane.
    """

    def __init__(self, price: Callable[[], Price], batch_factor: float) -> None:
        self._price = price
        self._factor = batch_factor
        self._input = _Ratio()
        self._outputs = _Outputs()
        self.live, self.in_jobs = Measured(is_live=True), Measured(is_live=False)
        self._compared: list[tuple[RowSize, Usage]] = []
        self._missed: float | None = None

    def add_live(self, size: RowSize, usage: Usage, cost: float | None) -> None:
        """A row was answered live, and billed so."""
        self._see(size, usage)
        self.live.add(size, usage, cost, self._price())
        prices = self.of_answer(size, usage, live=cost)
        self.live.compare(prices.live, prices.in_job)
        if not size.is_first and len(self._compared) < _MOST_COMPARED:
            self._compared.append((size, usage))
            self._missed = None

    def add_in_job(self, size: RowSize, usage: Usage, cost: float | None) -> None:
        """A row was answered in a job, and billed so."""
        self._see(size, usage)
        self.in_jobs.add(size, usage, cost, self._price().times(self._factor))
        prices = self.of_answer(size, usage)
        self.in_jobs.compare(prices.in_job, prices.live)

    def add_known(self, one: RowUsage, *, may_have_limit: bool = False) -> None:
        """The same of a row that the ledger knows.

        Args:
            may_have_limit: its answer may have had a limit of its own, which is not known.
        """
        usage = usage_of(one)
        size = RowSize(one.input_tokens, one.output_tokens if may_have_limit else None, is_first=one.is_first)
        (self.add_in_job if one.in_job else self.add_live)(size, usage, one.cost)

    def of(self, size: RowSize) -> RowPrices:
        """What a row costs that is still to be asked."""
        input_tokens = size.input_tokens * self._input.value
        return self._with_answer(size, self._outputs.of(input_tokens, size.most_output_tokens))

    def is_like_others(self, size: RowSize) -> bool:
        """Such a row was answered; or it is no matter how it is, since one lane is cheaper for the shortest answer and
        for the longest."""
        if self._outputs.are_known_for(
            size.input_tokens * self._input.value, _own_tokens(size), size.most_output_tokens
        ):
            return True
        shortest, most = self._with_answer(size, 0.0), size.most_output_tokens
        if not shortest.is_live_cheaper:  # a longer answer makes a job the cheaper one yet
            return True
        return most is not None and self._with_answer(size, most).is_live_cheaper

    def _with_answer(self, size: RowSize, output_tokens: float) -> RowPrices:
        return self._prices(size, size.input_tokens * self._input.value, output_tokens)

    def of_answer(self, size: RowSize, usage: Usage, *, live: float | None = None) -> RowPrices:
        """What an answered row would have cost by each lane; ``live``: what it did cost there."""
        prices = self._prices(size, usage.input_tokens, usage.output_tokens)
        return prices if live is None else prices._replace(live=live)

    def uncached(self, usage: Usage) -> float:
        """What an answer would have cost live if nothing had been cached."""
        return self._price().most(usage.input_tokens, usage.output_tokens) * self.live.dearness

    @property
    def mean_in_job(self) -> float:
        """US dollars of a row in a job, as a mean of those that went live."""
        return self.live.cost_there / self.live.rows if self.live.rows else 0.0

    @property
    def doubt_of_cache(self) -> Doubt:
        """US dollars of a row live, since nobody knows how often the cache is hit."""
        live = self.live
        hit = live.tokens_of_hit * self._price().cache_saves / MILLION * live.dearness
        return Doubt(live.doubt_of_hits * hit, (1 - live.share_of_hits) * hit, live.share_of_hits * hit)

    def is_certain_for(self, size: RowSize) -> bool:
        """Which lane is cheaper for a row is no matter of chance any more."""
        rows = len(self._compared)
        if rows < _LEAST_COMPARED:  # what nothing of can be cached is dearer live in any case
            return size.is_first
        # Of so few, the spread itself is uncertain: Student's t, about.
        certain = 2.0 + 6.0 / rows
        prices, price = self.of(size), self._price()
        loss = prices.live - prices.in_job
        of_answers = certain * self._missed_share() * prices.in_job / math.sqrt(rows)
        shared, hits = size.shared_tokens or 0, self.live.hits
        # No more can be cached than all of it, and no less than nothing.
        most = min(certain * self.live.doubt_of_hits, 1 - hits if loss > 0 else hits)
        of_hits = most * shared * price.cache_saves / MILLION
        return abs(loss) > math.hypot(of_answers, of_hits)

    def _missed_share(self) -> float:
        """By how much it is missed what rows cost, since their answers are longer or shorter: a standard deviation."""
        if self._missed is None:
            missed = SampleTotal()
            for size, usage in self._compared:
                found, told = self.of_answer(size, usage), self.of(size)
                missed.add(found.in_job / told.in_job - 1 if told.in_job else 0.0)
            self._missed = math.sqrt(missed.variance)
        return self._missed

    def _see(self, size: RowSize, usage: Usage) -> None:
        if size.shared_tokens is not None:  # else it is no estimate
            self._input.add(usage.input_tokens, size.input_tokens)
        self._outputs.add(usage.input_tokens, _own_tokens(size), size.most_output_tokens, usage.output_tokens)

    def _prices(self, size: RowSize, input_tokens: float, output_tokens: float) -> RowPrices:
        price = self._price()
        live, in_jobs = self.live, self.in_jobs

        def cost(cached: float) -> float:
            fresh = input_tokens - cached
            dollars = fresh * price.input + cached * price.cached_input + output_tokens * price.output
            return dollars / MILLION

        # Sound is billed beside tokens, and no less in a job than live; a dearer tier there is live alone.
        in_job = in_jobs.dearness if in_jobs.rows or not price.minute else live.dearness
        return RowPrices(
            cost(min(input_tokens, live.cached_tokens(size))) * live.dearness,
            cost(min(input_tokens, in_jobs.cached_tokens(size))) * in_job * self._factor,
        )


class Measured:
    """What the answers of one lane say.

    Args:
        is_live: what prompts share with earlier ones is cached there; in jobs it is if their answers say so.

    Attributes:
        rows: answered in it. ``followers``: those of them that were not the first of their key, so that the cache may
            have had something of them.
        cost_there: US dollars that they would have cost by the other lane.
    """

    def __init__(self, *, is_live: bool) -> None:
        self._is_live = is_live
        self.rows = 0
        self._usage = Usage()
        self.followers = self._follower_hits = self._cached = 0
        self._looked_at = self._hits = 0  # of rows of which it is known what they share with earlier ones
        self._found = _Ratio()
        self._cost, self._beside = _Ratio(), _Ratio()
        self.cost_there = 0.0

    def compare(self, here: float, there: float) -> None:
        """What a row cost here, and would have by the other lane."""
        self._beside.add(here, there)
        self.cost_there += there

    @property
    def saves(self) -> float | None:
        """By which share its rows cost less than they would have by the other lane; ``None``: there are none."""
        return 1.0 - self._beside.value if self._beside.is_known else None

    def add(self, size: RowSize, usage: Usage, cost: float | None, price: Price) -> None:
        self.rows += 1
        self._usage += usage
        if cost is not None:
            self._cost.add(cost, price.cost(usage.without_sound))
        if size.is_first:  # it says nothing of those that follow
            return
        self.followers += 1
        self._follower_hits += usage.cached_tokens > 0
        self._cached += usage.cached_tokens
        if size.shared_tokens:
            self._looked_at += 1
            if usage.cached_tokens:
                self._hits += 1
                self._found.add(usage.cached_tokens, size.shared_tokens)

    @property
    def cached_share(self) -> float | None:
        """Of all its input; ``None`` before the first answer."""
        usage = self._usage
        return usage.cached_tokens / usage.input_tokens if usage.input_tokens else None

    @property
    def dearness(self) -> float:
        """How many times what their tokens cost at the standard tier answers cost."""
        return self._cost.value

    def cached_tokens(self, size: RowSize) -> float:
        """About how many of a row's input will be cached."""
        if size.is_first:
            return 0.0
        if size.shared_tokens is None or not self._is_live:
            return self._cached / self.followers if self.followers else 0.0
        return size.shared_tokens * self.hits * self._found.value

    @property
    def hits(self) -> float:
        """How often what prompts share is cached live: as Mistral says of requests with a key, until answers tell."""
        return self._counted[0]

    @property
    def _counted(self) -> tuple[float, int]:
        """How often, and of how many rows that is known.

        Of rows of earlier starts it is not known what they shared, nor which of them were the first of their key: they
        count where the cache was hit as often as by the rows of this start, or more.
        """
        of_all, of_looked = ((self._follower_hits, self.followers), (self._hits, self._looked_at))
        return max(_with_expected(*of_all), _with_expected(*of_looked))

    @property
    def share_of_hits(self) -> float:
        """In how many rows some tokens were cached."""
        return self._follower_hits / self.followers if self.followers else 0.0

    @property
    def tokens_of_hit(self) -> float:
        """Tokens that were cached of a row where any were, as a mean."""
        return self._cached / self._follower_hits if self._follower_hits else 0.0

    @property
    def doubt_of_hits(self) -> float:
        """How uncertain it is how often the cache is hit, by so few rows: a standard deviation.

        By Laplace's rule, so that it is no certainty that it was hit four times out of four.
        """
        hits, rows = self._counted
        hits = (hits * rows + 1) / (rows + 2)
        return math.sqrt(hits * (1 - hits) / (rows + 3))


def _with_expected(hits: int, rows: int) -> tuple[float, int]:
    return (hits + _EXPECTED_HITS * _EXPECTED_ROWS) / (rows + _EXPECTED_ROWS), rows


class _Ratio:
    """One sum by another; 1 while nothing is known."""

    def __init__(self) -> None:
        self._part = self._whole = 0.0

    def add(self, part: float, whole: float) -> None:
        self._part += part
        self._whole += whole

    @property
    def is_known(self) -> bool:
        return self._whole > 0

    @property
    def value(self) -> float:
        return self._part / self._whole if self._whole > 0 else 1.0


class _Outputs:
    """How long answers are: as a mean, and as far as that can be told from a row's prompt, or its own limit."""

    def __init__(self) -> None:
        self._by_input, self._by_limit = _Trend(), _Trend()
        self.count = 0
        self.mean = 0.0
        self._inputs, self._own = _Seen(), _Seen()
        self._most_limit = 0.0

    def add(
        self, input_tokens: float, own_tokens: float | None, limit: int | None, output_tokens: float
    ) -> None:
        self.count += 1
        self.mean += (output_tokens - self.mean) / self.count
        self._by_input.add(input_tokens, output_tokens)
        self._inputs.add(input_tokens)
        if own_tokens is not None:
            self._own.add(own_tokens)
        self._most_limit = max(self._most_limit, math.inf if limit is None else limit)
        if limit is not None:
            self._by_limit.add(limit, output_tokens)

    def are_known_for(self, input_tokens: float, own_tokens: float | None, limit: int | None) -> bool:
        """Rows about as long were answered, with answers that might be about as long; or it is plain how answers grow
        with them."""
        if limit is not None and self._by_limit.strength > _PLAIN:
            return True
        if (math.inf if limit is None else limit) > self._most_limit * _MOST_BEYOND:
            return False
        if self._by_input.strength > _PLAIN:
            return True
        is_own_near = own_tokens is None or not self._own.count or self._own.is_near(own_tokens)
        return is_own_near and self._inputs.is_near(input_tokens)

    def of(self, input_tokens: float, limit: int | None) -> float:
        found = self.mean
        by_limit = self._by_limit.strength if limit is not None else 0.0
        if by_limit and by_limit >= self._by_input.strength:
            found = self._by_limit.of(limit or 0)
        elif self._by_input.strength:
            found = self._by_input.of(input_tokens)
        found = max(0.0, found)
        return found if limit is None else min(found, limit)


class _Seen:
    """Which numbers were met, from the least to the most."""

    def __init__(self) -> None:
        self.count = 0
        self._least, self._most = math.inf, 0.0

    def add(self, number: float) -> None:
        self.count += 1
        self._least, self._most = min(self._least, number), max(self._most, number)

    def is_near(self, number: float) -> bool:
        return (
            (self._least - BLOCK_TOKENS) / _MOST_BEYOND <= number <= self._most * _MOST_BEYOND + BLOCK_TOKENS
        )


class _Trend:
    """How one number goes with another, in a straight line, as far as that is more than chance."""

    def __init__(self) -> None:
        self._count = 0
        self._x = self._y = self._xx = self._xy = self._yy = 0.0

    def add(self, x: float, y: float) -> None:
        self._count += 1
        from_x, from_y = x - self._x, y - self._y
        self._x += from_x / self._count
        self._y += from_y / self._count
        self._xx += from_x * (x - self._x)
        self._xy += from_x * (y - self._y)
        self._yy += from_y * (y - self._y)

    @property
    def strength(self) -> float:
        """0: it is chance; 1: there is nothing else."""
        if self._count < _LEAST_IN_TREND or not self._xx or not self._yy:
            return 0.0
        explained = self._xy**2 / self._xx
        left = max(self._yy - explained, 1e-9 * self._yy)
        return max(0.0, 1.0 - _LEAST_F * left / (self._count - 2) / explained) if explained else 0.0

    def of(self, x: float) -> float:
        return self._y + self.strength * self._xy / self._xx * (x - self._x) if self._xx else self._y
