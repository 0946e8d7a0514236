"""Limits on what a run may spend: money, tokens, time.

The rule that keeps them: another request may leave only while everything in flight, at its worst, still fits in what
is left. Only the one that leaves now may then overrun, so the overrun is less than one answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from threading import Lock

from msgspec import Struct

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.dispatcher import Postponed
from mistill.delivery.governor import AnyGovernor
from mistill.delivery.purse import Amount, PurseMember, SpendingLimit
from mistill.errors import InputError, Stopped
from mistill.ledger import Spending
from mistill.progress.formatting import count, money, seconds
from mistill.wording import START_AGAIN, Setting, words

_LONGEST_ANSWER_TOKENS = 131_072
"""What an answer may take at its worst, while nothing is known: the context length of Mistral's large models."""
_GUESSED_ANSWER_TOKENS = 500
"""What an answer that never came is taken to have had, where none has come yet and nothing bounds them."""
_LONGEST_AUDIO_S = 3600
"""The sound of one request at its worst, where it is billed: what Mistral takes."""
_ANSWERS_TO_TRUST = 20
_TRUST = 2
"""Once so many answers have been seen, one of unlimited length is taken to be at most twice the longest of them, and to
have twice as much sound."""

_FAR = 2
_FAR_INPUT_TOKENS = 2**20
_FAR_OUTPUT_TOKENS = 2**14
"""No answer takes more than twice what its request has and allows, and so much beside. (Images and documents that are
named by their address add to the input.) A server that counts more does not count tokens."""

_log = logging.getLogger(__name__)


LARGER_BUDGET = "run again with a larger one to go on with the rest"
"""What is to be done where it is reached, and nothing else would do."""
_SET_ON_THE_WAY = words(
    START_AGAIN, ": the limit was set while the run went on, and held for that start alone"
)


def longest_answer(answers: int, longest_output_tokens: int) -> int:
    """The most tokens that an answer of unlimited length is taken to have, once so many have been seen, of which the
    longest had so many."""
    if answers < _ANSWERS_TO_TRUST:
        return _LONGEST_ANSWER_TOKENS
    return min(_LONGEST_ANSWER_TOKENS, _TRUST * longest_output_tokens)


class Reservation:
    """What one attempt may cost at its worst. Given back exactly once: settled or refunded."""

    __slots__ = ("cost", "input_tokens", "is_settled", "number", "output_tokens")

    def __init__(self, input_tokens: int, output_tokens: int, cost: float) -> None:
        self.number: int | None = None  # in a purse
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cost = cost
        self.is_settled = False

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class Hold:
    """What the requests of one batch job may cost at their worst, all together, until they have come back."""

    __slots__ = ("cost", "input_tokens", "output_tokens", "requests")

    def __init__(self, input_tokens: int, output_tokens: int, cost: float, requests: int) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cost = cost
        self.requests = requests


def _can_be(usage: Usage, input_tokens: int, output_tokens: int) -> bool:
    """Whether an attempt can have taken so much that was to take so much at its worst."""
    return 1 <= usage.input_tokens <= _FAR * input_tokens + _FAR_INPUT_TOKENS and (
        0 <= usage.output_tokens <= _FAR * output_tokens + _FAR_OUTPUT_TOKENS
    )


class _Dearness:
    """How much more answers cost, sound and all, than their tokens do at the price of the model as it was asked for."""

    def __init__(self, price: Price | None, before: Spending) -> None:
        self._price = price
        self._cost = self._expected = 0.0
        self.add_before(before)

    def add_before(self, before: Spending) -> None:
        priced = Usage(
            before.input_tokens - before.unpriced_input_tokens,
            before.output_tokens - before.unpriced_output_tokens,
        )
        self.add(priced, before.cost)

    def add(self, usage: Usage, cost: float) -> None:
        if self._price is not None:
            self._cost += cost
            self._expected += self._price.cost(usage.without_sound)

    @property
    def factor(self) -> float:
        """1 at the least."""
        return max(1.0, self._cost / self._expected) if self._expected else 1.0


class Spent(Struct, frozen=True):
    """What an attempt counts as: tokens, and US dollars."""

    usage: Usage
    cost: float


class CommonPurse(Struct, frozen=True):
    """What several processes spend together, each a part of it, such as a shard of a run.

    Attributes:
        governor: which all of them share; its host keeps count.
        purse: 32 hexadecimal digits, the same in all of them, and in no other run.
        part: what of the whole this process is; the same in whichever process takes it up again.
        others: what the other parts had spent before, as far as that can be read.
        seen: further answers, of any part, by which it is judged what others may take.
    """

    governor: AnyGovernor
    purse: str
    part: str
    others: dict[str, Amount] = {}
    seen: Spending = Spending()


class Budget:
    """Money, tokens and time that a run may use; reaching one is a clean stop. Thread-safe.

    Args:
        max_cost: US dollars.
        max_tokens_total: input and output together.
        deadline: seconds from now.
        price: of the model; needed with ``max_cost``.
        worst: the most that an answer may cost by what is known then, where that is more than ``price``: another model
            may answer for an alias, or the priority tier.
        before: what was spent before, for a run that goes on.
        common: a purse that other processes spend from too: then ``max_cost`` and ``max_tokens_total`` are of all
            together, ``before`` is of this one. Not for batch jobs.
        clock: seconds that never go back.

    Attributes:
        is_limited: whether money or tokens are, or count is kept in common; if not, nothing need be reserved.
        is_complete: what was spent so far is all in its sums. Without a limit nobody adds it up; see `take_up`.
        deadline: as given, or set since.
        waiting: attempts in `reserve` that wait until what is in flight fits.

    Raises:
        InputError: a limit is not a positive number, or ``max_cost`` comes without a price.
    """

    def __init__(
        self,
        *,
        max_cost: float | None = None,
        max_tokens_total: int | None = None,
        deadline: float | None = None,
        price: Price | None = None,
        worst: Callable[[], Price | None] | None = None,
        before: Spending | None = None,
        common: CommonPurse | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._price = price
        self._check(max_cost=max_cost, max_tokens_total=max_tokens_total, deadline=deadline)
        self.max_cost = max_cost
        self.max_tokens_total = max_tokens_total
        self._limits_at_first = max_cost, max_tokens_total
        is_limited = max_cost is not None or max_tokens_total is not None or common is not None
        self.is_complete = self.is_limited = is_limited
        before = before or Spending()
        self.spent_cost = before.cost
        self.spent_tokens = before.input_tokens + before.output_tokens
        self._before = before
        self._common = common
        self._purse: PurseMember | None = None
        if common is not None:
            spent, limit = Amount(before.cost, self.spent_tokens), SpendingLimit(max_cost, max_tokens_total)
            self._purse = PurseMember(common.purse, common.part, limit, spent=spent, others=common.others)
        self._has_joined = False
        self._unknown_tokens: int | None = (
            None  # what those of before count as, once the first request says how long
        )
        self._worst = worst or (lambda: price)
        self._dearness = _Dearness(price, before)
        self._unpriced: str | None = None
        self._is_spent_by_all = False
        self._clock = clock
        self._began_s = clock()
        self.set_deadline(deadline)
        self._in_flight = 0
        self._reserved_cost = 0.0
        self._reserved_tokens = 0
        seen = Spending() if common is None else common.seen
        self._dearness.add_before(seen)
        self._answers = before.answers + seen.answers
        self._input_tokens = before.input_tokens + seen.input_tokens
        self._output_tokens = before.output_tokens + seen.output_tokens
        self._longest_output = max(before.longest_output_tokens, seen.longest_output_tokens)
        self._longest_audio_s = 0
        self._answers_heard = 0
        self._bytes_heard = self._input_heard = self._cached_heard = 0
        self._has_warned = False
        self._lock = Lock()
        self._is_paused = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.waiting = 0
        self._waited_s = 0.0
        self._waits_since_s = 0.0

    def _check(self, **limits: float | None) -> None:
        for name, limit in limits.items():
            if limit is not None and not 0 < limit < math.inf:
                raise InputError(words(Setting(name), f" must be a positive number, not {limit}"))
        if limits.get("max_cost") is not None and self._price is None:
            raise InputError(
                words(Setting("max_cost"), " needs the price of the model, and none is known"),
                hint=words(
                    "give your own table with ", Setting("prices"), ", or use ", Setting("max_tokens_total")
                ),
            )

    # --- limits that change on the way ------------------------------------------------------------------------------

    def set_deadline(self, deadline: float | None) -> None:
        """Another one: seconds from when the budget was made."""
        self.deadline = deadline
        self._ends_s = math.inf if deadline is None else self._began_s + deadline

    def set_limits(self, max_cost: float | None, max_tokens_total: int | None) -> None:
        """Other limits of money and tokens, from now on; ``None``: none.

        Where nothing was limited before, nothing of what was spent is in its sums, which begin now: whoever is in
        flight is to be held (`hold_open`), and what had been spent by then to be told (`take_up`).

        Raises:
            InputError: as for the budget itself; nothing was changed.
        """
        self._check(max_cost=max_cost, max_tokens_total=max_tokens_total)
        with self._lock:
            self.max_cost, self.max_tokens_total = max_cost, max_tokens_total
            was_limited = self.is_limited
            self.is_limited = max_cost is not None or max_tokens_total is not None or self._purse is not None
            self._is_spent_by_all = False
            if self._purse is not None:
                self._purse.set_limit(SpendingLimit(max_cost, max_tokens_total))
            if not self.is_limited:
                self.is_complete = False
            elif not was_limited:
                self.spent_cost = 0.0
                self.spent_tokens = 0
                self._answers = self._input_tokens = self._output_tokens = self._longest_output = 0
                self._before, self._unknown_tokens = Spending(), 0
                self._dearness = _Dearness(self._price, self._before)
            self._wake()

    def take_up(self, before: Spending) -> None:
        """What had been spent when its sums began."""
        with self._lock:
            self._before, self._unknown_tokens = before, None
            self.spent_cost += before.cost
            self.spent_tokens += before.input_tokens + before.output_tokens
            self._answers += before.answers
            self._input_tokens += before.input_tokens
            self._output_tokens += before.output_tokens
            self._longest_output = max(self._longest_output, before.longest_output_tokens)
            self._dearness.add_before(before)
            self.is_complete = True

    def hold_open(self, input_tokens: int, max_output_tokens: int | None) -> Reservation:
        """The reservation of an attempt that is in flight already, whether or not it fits."""
        with self._lock:
            return self._reservation(input_tokens, max_output_tokens)

    def reached(self) -> Stopped | None:
        """The limit that is reached by now, if one is."""
        with self._lock:
            if self._unknown_tokens is None:
                if self._purse is not None:
                    return None  # the next attempt counts them, and sees
                self._count_unknown(None)
            try:
                self._raise_if_reached()
            except Stopped as reached:
                return reached
            return None

    def pause(self) -> None:
        """Attempts that wait in `reserve` are postponed."""
        with self._lock:
            self._is_paused = True
            self._wake()

    def resume(self) -> None:
        """They may wait again."""
        self._is_paused = False

    def _raise_if_paused(self) -> None:
        if self._is_paused:
            raise Postponed

    # --- attempts ---------------------------------------------------------------------------------------------------

    def time_left_s(self) -> float:
        """Seconds until the deadline, 0 at the least; infinite without one."""
        return max(0.0, self._ends_s - self._clock())

    def waited_s(self) -> float:
        """Seconds in which at least one attempt waited in `reserve`."""
        with self._lock:
            return self._waited_s + (self._clock() - self._waits_since_s if self.waiting else 0.0)

    def times_more(self) -> float:
        """How many times what was spent since it was made may be spent yet; infinite without a limit of its own."""
        before = self._before
        cost = self.spent_cost - before.cost
        tokens = self.spent_tokens - before.input_tokens - before.output_tokens
        more = math.inf
        if self.max_cost is not None and cost > 0:
            more = (self.max_cost - self.spent_cost) / cost
        if self.max_tokens_total is not None and tokens > 0:
            more = min(more, (self.max_tokens_total - self.spent_tokens) / tokens)
        return max(0.0, more)

    def try_reserve(self, input_tokens: int, max_output_tokens: int | None) -> Reservation | None:
        """Before an attempt: its reservation, or None while what is in flight might already use up the rest.

        Args:
            input_tokens: no fewer than it will have; the bytes of the request are such a number.
            max_output_tokens: what bounds the output of all its completions together; None: nothing does.

        Raises:
            Stopped: a limit has been reached.
        """
        with self._lock:
            if self._unknown_tokens is None:
                self._count_unknown(max_output_tokens)
            self._raise_if_reached()
            return self._reservation(input_tokens, max_output_tokens) if self._in_flight_fits() else None

    def _reservation(self, input_tokens: int, max_output_tokens: int | None) -> Reservation:
        output_tokens = self._longest(max_output_tokens)
        cost = self._most(self._worst(), input_tokens, output_tokens)
        self._in_flight += 1
        self._reserved_tokens += input_tokens + output_tokens
        self._reserved_cost += cost
        return Reservation(input_tokens, output_tokens, cost)

    async def reserve(self, input_tokens: int, max_output_tokens: int | None) -> Reservation:
        """As `try_reserve`, but waits until the request may leave. Safe to cancel.

        Raises:
            Stopped: a limit has been reached.
            Postponed: it was paused meanwhile.
        """
        if self._purse is not None:
            return await self._reserve_in(self._purse, input_tokens, max_output_tokens)
        reservation = self.try_reserve(input_tokens, max_output_tokens)
        if reservation is not None:
            return reservation
        self._count_waiting(1)
        try:
            while (reservation := self.try_reserve(input_tokens, max_output_tokens)) is None:
                settled = asyncio.Event()
                with self._lock:
                    self._raise_if_paused()
                    if self._in_flight_fits():  # something has been settled in between
                        continue
                    self._waiting.append((asyncio.get_running_loop(), settled))
                await settled.wait()
                self._raise_if_paused()
        finally:
            self._count_waiting(-1)
        return reservation

    async def _reserve_in(
        self, purse: PurseMember, input_tokens: int, max_output_tokens: int | None
    ) -> Reservation:
        with self._lock:
            self._join(purse, max_output_tokens)
            self._raise_if_reached()
            reservation = self._reservation(input_tokens, max_output_tokens)
        has_to_wait = purse.seems_full  # else it is only a question on its way
        self._count_waiting(int(has_to_wait))
        try:
            reservation.number = await purse.reserve(Amount(reservation.cost, reservation.tokens))
            with self._lock:
                if reservation.number is None:
                    self._is_spent_by_all = True
                self._raise_if_reached()
                self._raise_if_paused()
        except BaseException:
            self.refund(reservation)
            raise
        finally:
            self._count_waiting(-int(has_to_wait))
        return reservation

    def _join(self, purse: PurseMember, max_output_tokens: int | None) -> None:
        """Once it is known what this part had spent before, those of its requests included that may be on the bill."""
        if self._has_joined or self._common is None:
            return
        self._has_joined = True
        if self._unknown_tokens is None:
            spent = Amount(self.spent_cost, self.spent_tokens)
            self._count_unknown(max_output_tokens)
            purse.spend(Amount(self.spent_cost, self.spent_tokens).minus(spent))
        self._common.governor.join_purse(purse)

    def leave_common(self) -> None:
        """Nothing more is spent here; what was reserved and never settled may be on the bill of all."""
        if self._common is not None and self._purse is not None:
            with self._lock:
                self._join(self._purse, None)  # whoever took it up before is waited for by the others
            self._common.governor.leave_purse(self._purse)

    def spent(self) -> Amount:
        """By now, those requests of before included that may be on the bill."""
        with self._lock:
            if self._unknown_tokens is None:
                self._count_unknown(None)
            return Amount(self.spent_cost, self.spent_tokens)

    def _count_waiting(self, change: int) -> None:
        with self._lock:
            now_s = self._clock()
            if self.waiting:
                self._waited_s += now_s - self._waits_since_s
            self._waits_since_s = now_s
            self.waiting += change

    def settle(self, reservation: Reservation, usage: Usage | None, cost: float | None = None) -> Spent:
        """The attempt was answered, and billed so.

        Args:
            cost: US dollars; ``None``: nobody knows, so it counts as what such tokens cost at their worst.
            usage: None, or one that cannot be: the server reported nothing of use, or may have billed an answer that
                never came. The mean of all answers is taken; before there is one, what bounds it, or a guess.
        """
        with self._lock:
            spent = self._taken(usage, cost, reservation.input_tokens, reservation.output_tokens)
            tokens = spent.usage.input_tokens + spent.usage.output_tokens
            self._release(reservation, Amount(spent.cost, tokens))
            self.spent_tokens += tokens
            self.spent_cost += spent.cost
            return spent

    def estimated(
        self, usage: Usage | None, input_bytes: int, max_output_tokens: int | None, *, tokens_a_byte: int = 1
    ) -> Spent | None:
        """What an attempt took that needed no reservation; ``None``: what it says itself.

        Args:
            usage: as in `settle`. ``max_output_tokens``: as in `try_reserve`.
            input_bytes: of what was asked. ``tokens_a_byte``: no more than so many can have come of each.
        """
        input_tokens = input_bytes * tokens_a_byte
        if usage is None or not (
            1 <= usage.input_tokens <= input_tokens and usage.output_tokens <= _FAR_OUTPUT_TOKENS
        ):
            with self._lock:
                worst = _LONGEST_ANSWER_TOKENS if max_output_tokens is None else max_output_tokens
                spent = self._taken(usage, None, input_bytes, worst, tokens_a_byte)
            return None if spent.usage is usage else spent
        self._bytes_heard += input_bytes
        self._input_heard += usage.input_tokens
        self._cached_heard += usage.cached_tokens
        self._answers += 1
        self._input_tokens += usage.input_tokens
        self._output_tokens += usage.output_tokens
        self._answers_heard += 1
        if usage.output_tokens > self._longest_output:
            self._longest_output = usage.output_tokens
        if usage.audio_seconds > self._longest_audio_s:
            self._longest_audio_s = usage.audio_seconds
        return None

    def note_unpriced(self, model: str | None) -> None:
        """An answer came of a model whose price nobody knows: what is still to be spent can be bounded no more."""
        self._unpriced = model or "a model that is not named"

    def _taken(
        self,
        usage: Usage | None,
        cost: float | None,
        input_bytes: int,
        output_tokens: int,
        tokens_a_byte: int = 1,
    ) -> Spent:
        if usage is not None and _can_be(usage, input_bytes * tokens_a_byte, output_tokens):
            self._bytes_heard += input_bytes
            self._input_heard += usage.input_tokens
            self._cached_heard += usage.cached_tokens
            self._answers += 1
            self._input_tokens += usage.input_tokens
            self._output_tokens += usage.output_tokens
            self._longest_output = max(self._longest_output, usage.output_tokens)
            self._answers_heard += 1
            self._longest_audio_s = max(self._longest_audio_s, usage.audio_seconds)
            if cost is None:
                worst = self._worst()
                return Spent(usage, 0.0 if worst is None else worst.cost(usage))
            self._dearness.add(usage, cost)
            return Spent(usage, cost)
        if usage is not None:
            self.warn_of_estimates()
        likely = self._likely(input_bytes, self._expected_output(output_tokens))
        if self._price is None:
            return Spent(likely, 0.0)
        return Spent(likely, self._price.cost(likely) * self._dearness.factor)

    def _likely(self, input_bytes: int, output_tokens: int) -> Usage:
        """As others took, by how long it is; before any is known, a token for each byte."""
        if not self._bytes_heard:
            return Usage(input_bytes, output_tokens)
        tokens = max(1, round(input_bytes * self._input_heard / self._bytes_heard))
        return Usage(tokens, output_tokens, round(tokens * self._cached_heard / self._input_heard))

    def warn_of_estimates(self) -> None:
        """Says, once, that answers do not tell what they took."""
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "an answer does not tell how many tokens it took, or tells a number that cannot be: "
                "an estimate of such answers is counted"
            )

    def refund(self, reservation: Reservation) -> None:
        """The attempt was not billed: never sent, or refused."""
        with self._lock:
            self._release(reservation, Amount())

    # --- batch jobs -------------------------------------------------------------------------------------------------

    def hold(
        self, input_tokens: int = 0, output_tokens: int = 0, cost: float = 0.0, requests: int = 0
    ) -> Hold:
        """What is with the server already, at its worst: it is held whether or not it fits."""
        with self._lock:
            self._in_flight += 1
            self._reserved_tokens += input_tokens + output_tokens
            self._reserved_cost += cost
        return Hold(input_tokens, output_tokens, cost, requests)

    def try_add(
        self, hold: Hold, input_tokens: int, max_output_tokens: int | None, price: Price | None
    ) -> bool:
        """One more request of a job that is being made is held at its worst; ``False`` where that does not fit.

        Other than a request that leaves by itself, it must fit with all of its own: a job is many that leave together.

        Args:
            input_tokens, max_output_tokens: as in `try_reserve`. ``price``: of the model in batch jobs.

        Raises:
            Stopped: a limit has been reached.
        """
        with self._lock:
            if self._unknown_tokens is None:
                self._count_unknown(max_output_tokens)
            self._raise_if_reached()
            output_tokens = self._longest(max_output_tokens)
            cost = self._most(price, input_tokens, output_tokens)
            if self.is_limited and not self._fits(input_tokens + output_tokens, cost):
                return False
            self._reserved_tokens += input_tokens + output_tokens
            self._reserved_cost += cost
            hold.input_tokens += input_tokens
            hold.output_tokens += output_tokens
            hold.cost += cost
            hold.requests += 1
            return True

    def reprice(self, hold: Hold, price: Price) -> None:
        """What a job may cost is more than was held for it, as is known by now."""
        with self._lock:
            now = self._most(price, hold.input_tokens, hold.output_tokens, hold.requests)
            more = max(0.0, now - hold.cost)
            hold.cost += more
            self._reserved_cost += more

    @property
    def holds_so_far(self) -> bool:
        """All that has left, and all that is held for jobs, fits at its worst, as far as that can be bounded."""
        with self._lock:
            is_bounded = self.max_cost is None or self._unpriced is None
            return not self.is_limited or (is_bounded and self._fits(0, 0.0))

    def settle_hold(
        self,
        hold: Hold,
        *,
        answers: int = 0,
        tokens: int = 0,
        longest_output_tokens: int = 0,
        cost: float = 0.0,
        unknown_share: float = 0.0,
    ) -> None:
        """A job has come back: its answers, which `estimated` has seen, took so much.

        Args:
            unknown_share: of its requests, those that may be on the bill though no answer of theirs came: they count at
                the mean, or at their worst where there is none.
        """
        with self._lock:
            self._give_back(hold.input_tokens + hold.output_tokens, hold.cost)
            self._longest_output = max(self._longest_output, longest_output_tokens)
            if unknown_share > 0 and answers:
                known_share = max(1e-9, 1 - unknown_share)
                tokens, cost = round(tokens / known_share), cost / known_share
            elif unknown_share > 0:
                tokens += round((hold.input_tokens + hold.output_tokens) * unknown_share)
                cost += hold.cost * unknown_share
            self.spent_tokens += tokens
            self.spent_cost += cost

    def _fits(self, tokens: int, cost: float) -> bool:
        """So much more fits in what is left, beside what is in flight."""
        if (
            self.max_tokens_total is not None
            and self.spent_tokens + self._reserved_tokens + tokens > self.max_tokens_total
        ):
            return False
        return self.max_cost is None or self.spent_cost + self._reserved_cost + cost <= self.max_cost

    def _count_unknown(self, max_output_tokens: int | None) -> None:
        """Attempts of earlier starts that may be on the bill, and of which no more is known, count at the mean."""
        before = self._before
        output = before.unknown * self._expected_output(self._longest(max_output_tokens))
        inputs = before.unknown_bytes
        if self._answers:
            inputs = min(inputs, math.ceil(before.unknown * self._input_tokens / self._answers))
        self._unknown_tokens = inputs + output
        self.spent_tokens += inputs + output
        self.spent_cost += self._cost(inputs, output)
        self.spent_cost += self._cost(before.unpriced_input_tokens, before.unpriced_output_tokens)
        if before.damaged:
            _log.warning(
                "%s attempts are damaged in the ledger: the budget counts an estimate of them", before.damaged
            )

    def _expected_output(self, most: int) -> int:
        if self._answers:
            return round(self._output_tokens / self._answers)
        return most if most < _LONGEST_ANSWER_TOKENS else _GUESSED_ANSWER_TOKENS

    def _raise_if_reached(self) -> None:
        if self.max_cost is not None and self._unpriced is not None:
            raise self._cannot_be_kept(self._unpriced)
        if self.max_cost is not None and self.spent_cost >= self.max_cost:
            reached = words(
                Setting("max_cost"), f" of {money(self.max_cost)} is spent ({money(self.spent_cost)})"
            )
        elif self.max_tokens_total is not None and self.spent_tokens >= self.max_tokens_total:
            reached = words(
                Setting("max_tokens_total"), f" of {self.max_tokens_total:,} are used ({self.spent_tokens:,})"
            )
        elif self._is_spent_by_all and self._purse is not None:
            reached = self._spent_by_all(self._purse.spent_by_all)
        elif self._clock() >= self._ends_s:
            raise Stopped.at_deadline(seconds(self.deadline or 0.0))
        else:
            return
        if self._before.unknown:
            reached = words(
                reached,
                f", about {self._unknown_tokens:,} tokens of it by "
                f"{count(self._before.unknown, 'request')} without an answer that may be on the bill",
            )
        is_as_at_first = (self.max_cost, self.max_tokens_total) == self._limits_at_first
        hint = LARGER_BUDGET if is_as_at_first else _SET_ON_THE_WAY
        raise Stopped(words("budget: ", reached), reason="budget", hint=hint)

    def _spent_by_all(self, spent: Amount) -> str:
        if self.max_cost is not None and spent.cost >= self.max_cost:
            return words(
                Setting("max_cost"), f" of {money(self.max_cost)} is spent by all parts of the run together"
            )
        return words(
            Setting("max_tokens_total"),
            f" of {self.max_tokens_total:,} are used by all parts of the run together",
        )

    def _cannot_be_kept(self, model: str) -> Stopped:
        return Stopped(
            words(
                "budget: ",
                Setting("max_cost"),
                f" cannot be kept: {model} answers, of which no price is known",
            ),
            reason="budget",
            hint=words("give its price in your own table with ", Setting("prices")),
        )

    def _in_flight_fits(self) -> bool:
        """What is in flight, at its worst, still fits in what is left."""
        # Exactly, where nothing is: sums of floats may leave a speck reserved.
        return not self._in_flight or self._fits(0, 0.0)

    def _longest(self, max_output_tokens: int | None) -> int:
        if max_output_tokens is not None:
            return max_output_tokens
        return longest_answer(self._answers, self._longest_output)

    def _cost(self, input_tokens: int, output_tokens: int) -> float:
        """What an answer costs of which no more is known, by what others cost."""
        if self._price is None:
            return 0.0
        return self._price.most(input_tokens, output_tokens) * self._dearness.factor

    def _most(self, price: Price | None, input_tokens: int, output_tokens: int, answers: int = 1) -> float:
        """What answers may cost, of so many tokens together."""
        if price is None:
            return 0.0
        audio_s = 0
        if price.minute:
            trusted = self._answers_heard >= _ANSWERS_TO_TRUST
            audio_s = min(_LONGEST_AUDIO_S, _TRUST * self._longest_audio_s) if trusted else _LONGEST_AUDIO_S
        return price.most(input_tokens, output_tokens) + answers * audio_s * price.minute / 60

    def _release(self, reservation: Reservation, spent: Amount) -> None:
        if reservation.is_settled:
            raise AssertionError("a reservation is settled or refunded once")
        reservation.is_settled = True
        if self._purse is not None and reservation.number is not None:
            self._purse.settle(reservation.number, spent)
        self._give_back(reservation.tokens, reservation.cost)

    def _give_back(self, tokens: int, cost: float) -> None:
        self._in_flight -= 1
        self._reserved_tokens -= tokens
        self._reserved_cost -= cost
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, settled in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settled.set)
