"""What several processes may spend together: their purse, kept by the process that has their governor.

The `Budget` of each process has a `PurseMember`, which asks before each attempt for what that may cost at its worst,
and says afterwards what it did cost. The rule is that of one process: an attempt may leave while all that is in
flight, of all members, fits at its worst in what is left; so together they overrun by less than one answer.

Each member knows its own part of what was spent, and says so to whoever keeps the purse, and again to the next keeper.
What the parts of others have spent that cannot speak for themselves, the keeper tells its members, so that they can say
that too. What a process that is gone had in flight stays reserved, until its part is taken up and knows better.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from mistill.delivery.admission_queue import LOCK

_MOST = 1e15
_Cost = Annotated[float, Meta(ge=0, le=_MOST)]
_Tokens = Annotated[int, Meta(ge=0, le=int(_MOST))]
Number = Annotated[int, Meta(ge=0, le=1 << 50)]
PartName = Annotated[str, Meta(max_length=200)]
PurseName = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
_MAX_PARTS = 100_000


class Amount(Struct, frozen=True, array_like=True, gc=False):
    """US dollars, and tokens of input and output together."""

    cost: _Cost = 0.0
    tokens: _Tokens = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.cost + other.cost, self.tokens + other.tokens)

    def minus(self, other: Amount) -> Amount:
        """0 at the least."""
        return Amount(max(0.0, self.cost - other.cost), max(0, self.tokens - other.tokens))

    def at_least(self, other: Amount) -> Amount:
        return Amount(max(self.cost, other.cost), max(self.tokens, other.tokens))


class SpendingLimit(Struct, frozen=True, array_like=True, gc=False):
    """What may be spent; ``None``: as much as anybody likes."""

    cost: _Cost | None = None
    tokens: _Tokens | None = None

    def holds(self, taken: Amount) -> bool:
        """So much is not more."""
        return (self.cost is None or taken.cost <= self.cost) and (
            self.tokens is None or taken.tokens <= self.tokens
        )

    def is_reached(self, spent: Amount) -> bool:
        """Nothing is left."""
        return (self.cost is not None and spent.cost >= self.cost) or (
            self.tokens is not None and spent.tokens >= self.tokens
        )

    def share(self, own: Amount, others: Amount, shares: int) -> SpendingLimit:
        """Of one of so many, that has spent ``own`` and knows no more of the others than this."""
        cost = None if self.cost is None else own.cost + max(0.0, self.cost - own.cost - others.cost) / shares
        left = 0 if self.tokens is None else max(0, self.tokens - own.tokens - others.tokens)
        return SpendingLimit(cost, None if self.tokens is None else own.tokens + left // shares)


class Statement(Struct, frozen=True, array_like=True):
    """What a member says to whoever keeps the purse from now on.

    Attributes:
        member: which one, of those of its process.
        part: what of the whole it is that this member spends, such as a shard of a run; the same in each process that
            takes it up.
        spent: by this part so far. ``in_flight``: what it has, by its own numbers.
        others: what other parts had spent when it last heard.
    """

    member: Number
    purse: PurseName
    part: PartName
    limit: SpendingLimit
    spent: Amount
    in_flight: list[tuple[Number, Amount]]
    others: Annotated[dict[PartName, Amount], Meta(max_length=_MAX_PARTS)]


class Member(Protocol):
    """Who is told what came of a wish: a `PurseMember`, or one in another process."""

    @property
    def is_here(self) -> bool:
        """It is of the keeper's own process."""
        ...

    def may_leave(self, number: int, others: Amount) -> None:
        """The attempt of that number. ``others``: what they have spent by now, and have in flight."""
        ...

    def is_spent(self, number: int, others: Amount) -> None:
        """It may not, ever: nothing is left."""
        ...

    def hear_of(self, part: str, spent: Amount) -> None:
        """So much had been spent by a part that cannot speak for itself, should the keeper be gone."""
        ...


class Purse:
    """What is spent, what is in flight, and who waits until that fits. With `LOCK` held.

    Attributes:
        members: and the part of each. ``spent``: by all parts.
    """

    def __init__(self) -> None:
        self.members: dict[Member, str] = {}
        self._limit = SpendingLimit()
        self._spent: dict[str, Amount] = {}
        self.spent = self._reserved = Amount()
        self._in_flight: dict[Member, dict[int, Amount]] = {}
        self._reserved_by: dict[Member, Amount] = {}
        self._left: dict[str, Amount] = {}
        self._waiting: OrderedDict[tuple[Member, int], Amount] = OrderedDict()

    def state(self, member: Member, statement: Statement) -> None:
        """In place of all that it has said before. The newest limit holds."""
        self._forget(member)
        if (left := self._left.pop(statement.part, None)) is not None:
            self._reserved = self._reserved.minus(left) if self._is_any_in_flight else Amount()
        self._limit = statement.limit
        self.members[member] = statement.part
        self._in_flight[member] = {}
        self._reserved_by[member] = Amount()
        self._spent[statement.part] = statement.spent
        speaking = set(self.members.values())
        for part, spent in statement.others.items():
            if part not in speaking and part not in self._left:
                self._spent[part] = self._spent.get(part, Amount()).at_least(spent)
        self._sum_up()
        for number, amount in statement.in_flight:
            self._take(member, number, amount)
        for part, spent in self._spent.items():
            if part not in speaking:
                member.hear_of(part, spent)
        self._serve()

    def set_limit(self, member: Member, limit: SpendingLimit) -> None:  # noqa: ARG002  each may say it, of all
        """What may be spent from now on."""
        self._limit = limit
        self._serve()

    def reserve(self, member: Member, number: int, amount: Amount) -> None:
        """Its member hears when it may leave, or that it may not."""
        self._waiting[member, number] = amount
        self._serve()

    def abandon(self, member: Member, number: int) -> None:
        """It waits no longer, or has no use for what it was told just now."""
        if self._waiting.pop((member, number), None) is None:
            self.settle(member, number, Amount())

    def settle(self, member: Member, number: int, spent: Amount) -> None:
        """The attempt has ended, and cost so much."""
        self._give_back(member, number)
        self.spend(member, spent)

    def spend(self, member: Member, spent: Amount) -> None:
        """So much was spent that nothing was reserved for."""
        part = self.members[member]
        self._spent[part] = self._spent[part].plus(spent)
        self.spent = self.spent.plus(spent)
        self._serve()

    def leave(self, member: Member) -> None:
        """It is gone. What it had in flight may be on the bill: whoever takes up its part will say."""
        if (part := self.members.get(member)) is None:
            return
        in_all, in_flight = self._of(member, part), self._reserved_by[member]
        self._forget(member)
        if part not in self.members.values():  # else that was done before anybody saw that this one is gone
            self._leave_behind(part, in_flight)
            for each in self.members:
                each.hear_of(part, in_all)
        self._serve()

    def _leave_behind(self, part: str, in_flight: Amount) -> None:
        if in_flight != Amount():
            self._left[part] = in_flight
            self._reserved = self._reserved.plus(in_flight)

    def _serve(self) -> None:
        """First in, first out, over all members."""
        while self._waiting:
            (member, number), amount = next(iter(self._waiting.items()))
            is_spent = self._limit.is_reached(self.spent)
            taken = self.spent.plus(self._reserved)
            if not is_spent and self._is_any_in_flight and not self._limit.holds(taken):
                return
            del self._waiting[member, number]
            others = taken.minus(self._of(member, self.members[member]))
            if is_spent:
                member.is_spent(number, others)
                continue
            self._take(member, number, amount)
            for each, part in self.members.items():
                if each.is_here and not member.is_here:
                    member.hear_of(part, self._of(each, part))
            member.may_leave(number, others)

    @property
    def _is_any_in_flight(self) -> bool:
        return bool(self._left) or any(self._in_flight.values())

    def _of(self, member: Member, part: str) -> Amount:
        """What a part has spent, and its member has in flight."""
        return self._spent[part].plus(self._reserved_by[member])

    def _take(self, member: Member, number: int, amount: Amount) -> None:
        self._in_flight[member][number] = amount
        self._reserved_by[member] = self._reserved_by[member].plus(amount)
        self._reserved = self._reserved.plus(amount)

    def _give_back(self, member: Member, number: int) -> None:
        held = self._in_flight[member]
        amount = held.pop(number, Amount())
        # Exactly, where nothing is: sums of floats may leave a speck reserved.
        self._reserved_by[member] = self._reserved_by[member].minus(amount) if held else Amount()
        self._reserved = self._reserved.minus(amount) if self._is_any_in_flight else Amount()

    def _sum_up(self) -> None:
        amounts = self._spent.values()
        self.spent = Amount(
            math.fsum(amount.cost for amount in amounts), sum(amount.tokens for amount in amounts)
        )

    def _forget(self, member: Member) -> None:
        for number in list(self._in_flight.get(member, ())):
            self._give_back(member, number)
        for key in [key for key in self._waiting if key[0] is member]:
            del self._waiting[key]
        self.members.pop(member, None)
        self._in_flight.pop(member, None)
        self._reserved_by.pop(member, None)


class Keeper(Protocol):
    """Where a member's purse is: a `Purse` of this process, or the way to that of another."""

    def state(self, member: PurseMember, statement: Statement) -> None: ...

    def set_limit(self, member: PurseMember, limit: SpendingLimit) -> None: ...

    def reserve(self, member: PurseMember, number: int, amount: Amount) -> None: ...

    def abandon(self, member: PurseMember, number: int) -> None: ...

    def settle(self, member: PurseMember, number: int, spent: Amount) -> None: ...

    def spend(self, member: PurseMember, spent: Amount) -> None: ...

    def leave(self, member: PurseMember) -> None: ...


_keys = itertools.count()


class PurseMember:
    """This process's part in a purse: what its `Budget` asks. Thread-safe.

    Args:
        purse: its name, 32 hexadecimal digits, the same in all processes that spend from it.
        part: what of the whole this process spends, such as a shard of a run.
        limit: of all together.
        spent: by this part so far. ``others``: by the other parts, as far as that can be read.

    Attributes:
        key: tells it from the other members of this process.
    """

    is_here = True

    def __init__(
        self,
        purse: str,
        part: str,
        limit: SpendingLimit,
        *,
        spent: Amount | None = None,
        others: Mapping[str, Amount] | None = None,
    ) -> None:
        self.key = next(_keys)
        self.purse = purse
        self._part = part
        self._limit = limit
        self._spent = spent or Amount()
        self._others = dict(others or {})
        self._others_in_all = Amount()
        self._numbers = 0
        self._in_flight: dict[int, Amount] = {}
        self._waiting: dict[int, tuple[Amount, asyncio.Future[bool]]] = {}
        self._keeper: Keeper | None = None
        self._shares = 1

    async def reserve(self, worst: Amount) -> int | None:
        """The number of an attempt that may leave now; it is settled exactly once. Safe to cancel. ``None``: nothing is
        left, and nothing will be."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        with LOCK:
            self._numbers = number = self._numbers + 1
            self._waiting[number] = worst, answered
            if self._keeper is not None:
                self._keeper.reserve(self, number, worst)
        try:
            return number if await answered else None
        except BaseException:
            with LOCK:
                if self._waiting.pop(number, None) is None:
                    self.settle(number, Amount())
                elif self._keeper is not None:
                    self._keeper.abandon(self, number)
            raise

    def settle(self, number: int, spent: Amount) -> None:
        """The attempt has ended, and cost so much: nothing, if it was not billed."""
        with LOCK:
            if self._in_flight.pop(number, None) is None:
                return  # it was not to leave at all
            self._spent = self._spent.plus(spent)
            if self._keeper is not None:
                self._keeper.settle(self, number, spent)

    def spend(self, spent: Amount) -> None:
        """So much was spent that nothing was reserved for."""
        with LOCK:
            self._spent = self._spent.plus(spent)
            if self._keeper is not None:
                self._keeper.spend(self, spent)

    def set_limit(self, limit: SpendingLimit) -> None:
        """Another one, of all together: the newest that any member has said holds."""
        with LOCK:
            self._limit = limit
            if self._keeper is None:
                return
            if self._shares == 1:
                # Words may be on their way in both directions, so nothing else is said again.
                self._keeper.set_limit(self, limit)
            else:
                self.is_kept_by(self._keeper, shares=self._shares)

    @property
    def seems_full(self) -> bool:
        """By what is known here an attempt that asks now has to wait."""
        with LOCK:
            taken = self.spent_by_all
            for amount in self._in_flight.values():
                taken = taken.plus(amount)
            return not self._limit.holds(taken)

    @property
    def spent_by_all(self) -> Amount:
        """As far as it is known here; what others have in flight included."""
        with LOCK:
            return self._spent.plus(self._known_of_others())

    # --- of whoever keeps it ----------------------------------------------------------------------------------------

    def is_kept_by(self, keeper: Keeper | None, *, shares: int = 1) -> None:
        """From now on; ``None``: by nobody for now. ``shares``: of so many that do not hear of each other it is one."""
        with LOCK:
            before, self._keeper, self._shares = self._keeper, keeper, shares
            if before is not None and before is not keeper:
                before.leave(self)
            if keeper is not None:
                keeper.state(self, self._statement(shares))
                for number, (amount, _) in list(self._waiting.items()):
                    keeper.reserve(self, number, amount)

    def may_leave(self, number: int, others: Amount) -> None:
        self._others_in_all = others
        if (waited := self._waiting.pop(number, None)) is not None:
            self._in_flight[number] = waited[0]
            _answer(waited[1], value=True)
        elif number not in self._in_flight and self._keeper is not None:
            self._keeper.settle(self, number, Amount())  # nobody waits for it any more

    def is_spent(self, number: int, others: Amount) -> None:
        self._others_in_all = others
        if (waited := self._waiting.pop(number, None)) is not None:
            _answer(waited[1], value=False)

    def hear_of(self, part: str, spent: Amount) -> None:
        if part != self._part:
            self._others[part] = spent

    def _known_of_others(self) -> Amount:
        parts = self._others.values()
        read = Amount(math.fsum(part.cost for part in parts), sum(part.tokens for part in parts))
        return read.at_least(self._others_in_all)

    def _statement(self, shares: int) -> Statement:
        in_flight = list(self._in_flight.items())
        if shares == 1:
            return Statement(
                self.key, self.purse, self._part, self._limit, self._spent, in_flight, dict(self._others)
            )
        own = self._spent
        for _, amount in in_flight:
            own = own.plus(amount)
        limit = self._limit.share(own, self._known_of_others(), shares)
        return Statement(self.key, self.purse, self._part, limit, self._spent, in_flight, {})


def _answer(answered: asyncio.Future[bool], *, value: bool) -> None:
    def here() -> None:
        if not answered.done():
            answered.set_result(value)

    loop = answered.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(here)
