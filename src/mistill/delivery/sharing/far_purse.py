"""Both ends of a purse that another process keeps: what its members say, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from mistill.delivery.purse import Amount, Number, PartName, Purse, PurseMember, SpendingLimit, Statement

MAX_ITEMS = 1_000
"""Of one list in a frame: who has more to say sends several."""
_list = Meta(max_length=MAX_ITEMS)


T = TypeVar("T")


class PurseWishes(Struct, frozen=True, array_like=True):
    """What the members of one process say, each by its key; in this order.

    Attributes:
        stated: by those that begin.
        settled: attempts by their numbers, and what they cost; ``None``: what nothing was reserved for.
        abandoned: attempts that need not leave any more.
        reserved: attempts that are to leave, and what each may cost at its worst.
        left: members that are gone.
        limited: what may be spent by all together from now on.
    """

    stated: Annotated[list[Statement], _list] = []
    settled: Annotated[list[tuple[Number, Number | None, Amount]], _list] = []
    abandoned: Annotated[list[tuple[Number, Number]], _list] = []
    reserved: Annotated[list[tuple[Number, Number, Amount]], _list] = []
    left: Annotated[list[Number], _list] = []
    limited: Annotated[list[tuple[Number, SpendingLimit]], _list] = []


class PurseAnswers(Struct, frozen=True, array_like=True):
    """What the members of one process are told, each by its key.

    Attributes:
        answers: an attempt's number, whether it may leave, and what all others have taken.
        heard: what a part has taken that cannot speak for itself.
    """

    heard: Annotated[list[tuple[Number, PartName, Amount]], _list] = []
    answers: Annotated[list[tuple[Number, Number, bool, Amount]], _list] = []


class FarPurse:
    """A guest's way to the purses that its host keeps. With the lock held.

    Args:
        say_soon: called when there is anything to say.
    """

    def __init__(self, say_soon: Callable[[], None]) -> None:
        self._say_soon = say_soon
        self._members: dict[int, PurseMember] = {}
        self._unsaid = _nothing_said()
        self._has_unsaid = False

    def state(self, member: PurseMember, statement: Statement) -> None:
        self._members[member.key] = member
        self._unsaid.stated.append(statement)
        self._note_unsaid()

    def set_limit(self, member: PurseMember, limit: SpendingLimit) -> None:
        self._unsaid.limited.append((member.key, limit))
        self._note_unsaid()

    def reserve(self, member: PurseMember, number: int, amount: Amount) -> None:
        self._unsaid.reserved.append((member.key, number, amount))
        self._note_unsaid()

    def abandon(self, member: PurseMember, number: int) -> None:
        self._unsaid.abandoned.append((member.key, number))
        self._note_unsaid()

    def settle(self, member: PurseMember, number: int, spent: Amount) -> None:
        self._unsaid.settled.append((member.key, number, spent))
        self._note_unsaid()

    def spend(self, member: PurseMember, spent: Amount) -> None:
        self._unsaid.settled.append((member.key, None, spent))
        self._note_unsaid()

    def leave(self, member: PurseMember) -> None:
        if self._members.pop(member.key, None) is not None:
            self._unsaid.left.append(member.key)
            self._note_unsaid()

    def take_unsaid(self) -> list[PurseWishes]:
        """What is to be said, in as many parts as it needs."""
        if not self._has_unsaid:
            return []
        unsaid, self._unsaid = self._unsaid, _nothing_said()
        self._has_unsaid = False
        # One kind after the other, as they are taken.
        return [
            *(PurseWishes(stated=part) for part in _parts(unsaid.stated)),
            *(PurseWishes(limited=part) for part in _parts(unsaid.limited)),
            *(PurseWishes(settled=part) for part in _parts(unsaid.settled)),
            *(PurseWishes(reserved=part) for part in _parts(unsaid.reserved)),
            # After those: what was abandoned before it was even said is both.
            *(PurseWishes(abandoned=part) for part in _parts(unsaid.abandoned)),
            *(PurseWishes(left=part) for part in _parts(unsaid.left)),
        ]

    def hear(self, told: PurseAnswers) -> None:
        for key, part, spent in told.heard:
            if (member := self._members.get(key)) is not None:
                member.hear_of(part, spent)
        for key, number, may_leave, others in told.answers:
            if (member := self._members.get(key)) is not None:
                (member.may_leave if may_leave else member.is_spent)(number, others)

    def _note_unsaid(self) -> None:
        self._has_unsaid = True
        self._say_soon()


class _GuestMember:
    """One of a guest's, at its host."""

    is_here = False

    def __init__(self, key: int, purse: Purse, told: PurseAnswers, tell_soon: Callable[[], None]) -> None:
        self.purse = purse
        self._key = key
        self._told = told
        self._tell_soon = tell_soon

    def may_leave(self, number: int, others: Amount) -> None:
        self._told.answers.append((self._key, number, True, others))
        self._tell_soon()

    def is_spent(self, number: int, others: Amount) -> None:
        self._told.answers.append((self._key, number, False, others))
        self._tell_soon()

    def hear_of(self, part: str, spent: Amount) -> None:
        self._told.heard.append((self._key, part, spent))
        self._tell_soon()


class GuestMembers:
    """The members of one guest, at its host. With the lock held.

    Args:
        purse_of: the purse of a name. ``tell_soon``: called when there is anything to tell.
    """

    def __init__(self, purse_of: Callable[[str], Purse], tell_soon: Callable[[], None]) -> None:
        self._purse_of = purse_of
        self._tell_soon = tell_soon
        self._members: dict[int, _GuestMember] = {}
        self._told = PurseAnswers([], [])

    def take(self, wishes: PurseWishes) -> None:
        """What they say.

        Raises:
            KeyError: somebody of whom nobody has heard.
        """
        for statement in wishes.stated:
            member = self._members.get(statement.member)
            if member is None:
                purse = self._purse_of(statement.purse)
                member = _GuestMember(statement.member, purse, self._told, self._tell_soon)
                self._members[statement.member] = member
            member.purse.state(member, statement)
        for key, limit in wishes.limited:
            self._members[key].purse.set_limit(self._members[key], limit)
        for key, number, spent in wishes.settled:
            member = self._members[key]
            if number is None:
                member.purse.spend(member, spent)
            else:
                member.purse.settle(member, number, spent)
        for key, number, amount in wishes.reserved:
            self._members[key].purse.reserve(self._members[key], number, amount)
        for key, number in wishes.abandoned:
            self._members[key].purse.abandon(self._members[key], number)
        for key in wishes.left:
            member = self._members.pop(key)
            member.purse.leave(member)

    def leave(self) -> None:
        """Their process is gone."""
        for member in self._members.values():
            member.purse.leave(member)
        self._members.clear()

    def take_told(self) -> list[PurseAnswers]:
        """What they are to be told, in as many parts as it needs."""
        heard, answers = list(self._told.heard), list(self._told.answers)
        self._told.heard.clear()
        self._told.answers.clear()
        # Of a part, the newest word is enough.
        heard = [(key, part, spent) for (key, part), spent in {(k, p): s for k, p, s in heard}.items()]
        longest = max(len(heard), len(answers))
        return [
            PurseAnswers(heard[start : start + MAX_ITEMS], answers[start : start + MAX_ITEMS])
            for start in range(0, longest, MAX_ITEMS)
        ]


def _nothing_said() -> PurseWishes:
    return PurseWishes([], [], [], [], [], [])


def _parts(items: list[T]) -> list[list[T]]:
    return [items[start : start + MAX_ITEMS] for start in range(0, len(items), MAX_ITEMS)]
