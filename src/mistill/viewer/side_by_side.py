"""Two answers to each row, side by side: of two runs, or of two settings of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct

from mistill.datasets.sources import name_of
from mistill.errors import InputError
from mistill.ledger import EarlierOutcome, ErrorRecord, LedgerRow, Selection
from mistill.ledger.error_record import decode_error
from mistill.viewer.one_row import shown_error
from mistill.viewer.pages import Page, RunRows, page_of
from mistill.viewer.texts import Text, preview_of_record, shown

_MAX_SIDE_CHARS = 5000
_THIN_WINDOW = 50_000
_REPLACED = Selection("coalesce(same_as, id) IN (SELECT row FROM earlier_outcomes)", ())

EARLIER, NOW, OWN = "earlier", "now", "own"
"""Which of a row's outcomes: the one before, the one that it has, the last one by the run's own settings. The number of
a retry's settings says: the last one by these."""


class Side(Struct, frozen=True, kw_only=True):
    """One of the two. ``row``: its place in the input of its run."""

    row: int
    state: str
    answer: Text
    error: ErrorRecord | None
    finish_reason: str | None
    output_tokens: int
    cost: float | None
    settings: int | None
    mark: str | None
    note: str | None


class Pair(Struct, frozen=True, kw_only=True):
    """Two outcomes of a row.

    Attributes:
        input: the row at a glance.
        right: ``None``: the other run has no such row.
        differs: they ended otherwise, or with other answers.
    """

    row: int
    input: str
    left: Side
    right: Side | None
    differs: bool


class _Found(NamedTuple):
    position: int
    pair: Pair


def compare_runs(left: RunRows, right: RunRows, first: int, limit: int, *, differing: bool) -> Page[Pair]:
    """Rows of one run beside the same rows of another: the row at the same place where it is the same (by the column
    with ids, where both runs have one), or else the one of the same content.

    Args:
        differing: only those whose outcomes differ.
    """
    return _page(_beside(left, right, first, limit), left, limit, differing=differing)


def compare_settings(
    rows: RunRows, left: str, right: str, first: int, limit: int, *, differing: bool
) -> Page[Pair]:
    """Two outcomes of each row that had several, by words as `EARLIER`.

    Raises:
        InputError: there are no such settings.
    """
    for side in (left, right):
        if side not in (EARLIER, NOW, OWN) and side not in map(str, rows.reader.retry_settings()):
            raise InputError(
                f"there are no settings {side!r}", hint="the run's page has those that there are"
            )
    return _page(_of_settings(rows, left, right, first, limit), rows, limit, differing=differing)


def _page(
    windows: Iterator[tuple[Iterable[_Found], int]], rows: RunRows, limit: int, *, differing: bool
) -> Page[Pair]:
    wanted = (
        (filter(lambda found: found.pair.differs or not differing, window), until)
        for window, until in windows
    )
    return page_of(wanted, limit, rows.reader.last_position, lambda found: found.pair)


def _beside(left: RunRows, right: RunRows, first: int, limit: int) -> Iterator[tuple[Iterable[_Found], int]]:
    last = left.reader.last_position
    while last is not None and first <= last:
        until = first + limit + 1
        of_left = list(left.reader.rows(first=first, until=until))
        at_place = {row.position: row for row in right.reader.rows(first=first, until=until)}
        elsewhere = [row for row in of_left if not _is_same(left, row, right, at_place.get(row.position))]
        found = _elsewhere(right, elsewhere)
        lost = {row.position for row in elsewhere}
        yield (
            [
                _found(
                    left,
                    row,
                    right,
                    found.get(row.position) if row.position in lost else at_place[row.position],
                )
                for row in of_left
            ],
            until,
        )
        first = until


def _is_same(left: RunRows, row: LedgerRow, right: RunRows, other: LedgerRow | None) -> bool:
    if other is None:
        return False
    if left.id_column is not None and right.id_column is not None:
        return name_of(row.record, left.id_column) == name_of(other.record, right.id_column)
    return row.record == other.record


def _elsewhere(right: RunRows, rows: list[LedgerRow]) -> dict[int, LedgerRow]:
    """Position of a row → the row of the same content that the other run has at another place."""
    digests = [row.digest for row in rows if row.digest is not None]
    if not digests:
        return {}
    places = right.reader.positions_of(digests)
    return {
        row.position: other
        for row in rows
        if row.digest in places
        for other in right.reader.rows(first=places[row.digest], until=places[row.digest] + 1)
    }


def _of_settings(
    rows: RunRows, left: str, right: str, first: int, limit: int
) -> Iterator[tuple[Iterable[_Found], int]]:
    last = rows.reader.last_position
    while last is not None and first <= last:
        until = min(first + _THIN_WINDOW, last + 1)
        positions = rows.reader.positions_that(_REPLACED, first, until, limit + 1)
        if len(positions) > limit:
            until = positions[-1] + 1
        yield _with_both(rows, positions, left, right), until
        first = until


def _with_both(rows: RunRows, positions: list[int], left: str, right: str) -> Iterator[_Found]:
    for position in positions:
        for row in rows.reader.rows(first=position, until=position + 1):
            outcomes = [*rows.reader.earlier_outcomes(row.leader), row]
            one, other = _choose(outcomes, left), _choose(outcomes, right)
            if one is not None and other is not None:
                sides = _side(rows, row, one), _side(rows, row, other)
                yield _Found(position, _pair(row, *sides, differs=_differs(rows, one, rows, other)))


def _choose(outcomes: list[EarlierOutcome | LedgerRow], side: str) -> EarlierOutcome | LedgerRow | None:
    if side in (EARLIER, NOW):
        place = -1 if side == NOW else -2
        return outcomes[place] if len(outcomes) >= -place else None
    number = None if side == OWN else int(side)
    fitting = [one for one in outcomes if one.settings == number and one.state != "pending"]
    return fitting[-1] if fitting else None


def _found(left: RunRows, row: LedgerRow, right: RunRows, other: LedgerRow | None) -> _Found:
    one = _side(left, row, row)
    if other is None:
        return _Found(row.position, _pair(row, one, None, differs=True))
    differs = _differs(left, row, right, other)
    return _Found(row.position, _pair(row, one, _side(right, other, other), differs=differs))


def _pair(row: LedgerRow, left: Side, right: Side | None, *, differs: bool) -> Pair:
    seen = preview_of_record(msgspec.json.decode(row.record))
    return Pair(row=row.position, input=seen, left=left, right=right, differs=differs)


Outcome = EarlierOutcome | LedgerRow


def _differs(left: RunRows, one: Outcome, right: RunRows, other: Outcome) -> bool:
    if one.state != other.state:
        return True
    if one.state == "failure":
        return _kind_of(one) != _kind_of(other)
    return left.answer_of(one) != right.answer_of(other)


def _kind_of(outcome: Outcome) -> str | None:
    return None if outcome.error is None else decode_error(outcome.error).kind


def _side(rows: RunRows, row: LedgerRow, outcome: Outcome) -> Side:
    said = rows.reader.mark_of(row.row, outcome.ended_at)
    return Side(
        row=row.position,
        state=outcome.state,
        answer=shown(rows.answer_of(outcome), _MAX_SIDE_CHARS),
        error=None if outcome.error is None else shown_error(decode_error(outcome.error)),
        finish_reason=None if outcome.finish_reason is None else shown(outcome.finish_reason, 100).text,
        output_tokens=outcome.output_tokens,
        cost=outcome.cost,
        settings=outcome.settings,
        mark=None if said is None else said.mark,
        note=None if said is None else said.note,
    )
