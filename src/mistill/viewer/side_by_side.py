"""Two answers to each row, side by side: of two runs, or of two settings of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeAlias, cast

import msgspec
from msgspec import Struct

from mistill.datasets.sources import name_of
from mistill.errors import InputError
from mistill.ledger import EarlierOutcome, ErrorRecord, LedgerRow, Selection
from mistill.ledger.error_record import decode_error
from mistill.viewer.one_row import shown_error
from mistill.viewer.pages import Page, RunRows, page_of
from mistill.viewer.texts import Text, page_json, page_text, preview_of_record

_MAX_SIDE_CHARS = 5000
_MAX_FIELDS = 200
_DEEPEST = 8
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


class FieldPair(Struct, frozen=True, kw_only=True):
    """A field of two structured answers. ``name``: its way from the top, with dots, as it is shown. ``None``:
    an answer has none."""

    name: str
    left: Text | None
    right: Text | None
    differs: bool


class Pair(Struct, frozen=True, kw_only=True):
    """Two outcomes of a row.

    Attributes:
        input: the row at a glance.
        right: ``None``: the other run has no such row.
        fields: those of the answers, where both are objects of JSON; ``None``: they are compared as texts.
        differs: they ended otherwise, or with other answers; of objects, with other values, in whatever order.
    """

    row: int
    input: str
    left: Side
    right: Side | None
    fields: list[FieldPair] | None
    differs: bool


Outcome: TypeAlias = "EarlierOutcome | LedgerRow"
_Way: TypeAlias = tuple[str | int, ...]
"""From the top of an answer to a value: names of fields, and places in lists."""


class _Answered(NamedTuple):
    """An outcome of a row, and where it stands."""

    rows: RunRows
    row: LedgerRow
    outcome: Outcome

    def fields(self) -> dict[_Way, Any] | None:
        """Of its answers, by their ways from the top; ``None``: it was not answered with objects of JSON, or with
        larger ones than anybody compares field by field."""
        if self.outcome.state != "completion":
            return None
        values = self.rows.values_of(self.row, self.outcome)
        if not values or not all(isinstance(value, dict) for value in values):
            return None
        leaves = list(islice(_leaves(values[0] if len(values) == 1 else values), _MAX_FIELDS + 1))
        return dict(leaves) if len(leaves) <= _MAX_FIELDS else None


class _Found(NamedTuple):
    """A row with the two that are beside each other. ``position``: by which pages are made."""

    position: int
    left: _Answered
    right: _Answered | None

    def differs(self) -> bool:
        if self.right is None or not _is_same(self.left, self.right):
            fields = self.field_pairs()
            return fields is None or any(field.differs for field in fields)
        return False

    def field_pairs(self) -> list[FieldPair] | None:
        left, right = self.left.fields(), None if self.right is None else self.right.fields()
        return None if left is None or right is None else _field_pairs(left, right)

    def pair(self) -> Pair:
        return Pair(
            row=self.position,
            input=preview_of_record(msgspec.json.decode(self.left.row.record)),
            left=_side(self.left),
            right=None if self.right is None else _side(self.right),
            fields=self.field_pairs(),
            differs=self.differs(),
        )


def compare_runs(left: RunRows, right: RunRows, first: int, limit: int, *, differing: bool) -> Page[Pair]:
    """Rows of one run beside the same rows of another: the row at the same place where it is the same (by the column
    with ids, where both runs have one), or else the one of the same content.

    Args:
        differing: only those whose outcomes differ.
    """
    return _page(_beside(left, right, first, limit), left, first, limit, differing=differing)


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
    return _page(_of_settings(rows, left, right, first, limit), rows, first, limit, differing=differing)


def _page(
    windows: Iterator[tuple[Iterable[_Found], int]], rows: RunRows, first: int, limit: int, *, differing: bool
) -> Page[Pair]:
    wanted = (
        (filter(lambda found: not differing or found.differs(), window), until) for window, until in windows
    )
    return page_of(wanted, first, limit, rows.reader.last_position, _Found.pair)


def _beside(left: RunRows, right: RunRows, first: int, limit: int) -> Iterator[tuple[Iterable[_Found], int]]:
    last = left.reader.last_position
    while last is not None and first <= last:
        until = first + limit + 1
        of_left = list(left.reader.rows(first=first, until=until))
        at_place = {row.position: row for row in right.reader.rows(first=first, until=until)}
        elsewhere = [row for row in of_left if not _is_same_row(left, row, right, at_place.get(row.position))]
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


def _is_same_row(left: RunRows, row: LedgerRow, right: RunRows, other: LedgerRow | None) -> bool:
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
                yield _Found(position, _Answered(rows, row, one), _Answered(rows, row, other))


def _choose(outcomes: list[EarlierOutcome | LedgerRow], side: str) -> EarlierOutcome | LedgerRow | None:
    if side in (EARLIER, NOW):
        place = -1 if side == NOW else -2
        return outcomes[place] if len(outcomes) >= -place else None
    number = None if side == OWN else int(side)
    fitting = [one for one in outcomes if one.settings == number and one.state != "pending"]
    return fitting[-1] if fitting else None


def _found(left: RunRows, row: LedgerRow, right: RunRows, other: LedgerRow | None) -> _Found:
    beside = None if other is None else _Answered(right, other, other)
    return _Found(row.position, _Answered(left, row, row), beside)


def _leaves(value: Any, *way: str | int) -> Iterator[tuple[_Way, Any]]:
    """What is in objects and in lists of objects, each with its way; a list of anything else is one value."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(cast("dict[str, Any]", value).items())
    elif isinstance(value, list) and any(isinstance(one, dict) for one in cast("list[Any]", value)):
        inner = list(enumerate(cast("list[Any]", value)))
    if inner and len(way) < _DEEPEST:
        for step, one in inner:
            yield from _leaves(one, *way, step)
    elif way:
        yield way, value


def _field_pairs(left: dict[_Way, Any], right: dict[_Way, Any]) -> list[FieldPair]:
    return [
        FieldPair(
            name=page_text(".".join(map(str, way)), 300).text,
            left=page_json(left[way], _MAX_SIDE_CHARS) if way in left else None,
            right=page_json(right[way], _MAX_SIDE_CHARS) if way in right else None,
            differs=way not in left or way not in right or _as_json(left[way]) != _as_json(right[way]),
        )
        for way in {**left, **right}
    ]


def _as_json(value: Any) -> bytes:
    """In Python ``True`` is 1, and in JSON it is not."""
    return msgspec.json.encode(value, order="sorted")


def _is_same(one: _Answered, other: _Answered) -> bool:
    left, right = one.outcome, other.outcome
    if left.state != right.state:
        return False
    if left.state == "failure":
        return _kind_of(left) == _kind_of(right)
    return one.rows.answer_of(left) == other.rows.answer_of(right)


def _kind_of(outcome: Outcome) -> str | None:
    return None if outcome.error is None else decode_error(outcome.error).kind


def _side(answered: _Answered) -> Side:
    rows, row, outcome = answered
    said = rows.reader.mark_of(row.row, outcome.ended_at)
    return Side(
        row=row.position,
        state=outcome.state,
        answer=page_text(rows.answer_of(outcome), _MAX_SIDE_CHARS),
        error=None if outcome.error is None else shown_error(decode_error(outcome.error)),
        finish_reason=None if outcome.finish_reason is None else page_text(outcome.finish_reason, 100).text,
        output_tokens=outcome.output_tokens,
        cost=outcome.cost,
        settings=outcome.settings,
        mark=None if said is None else said.mark,
        note=None if said is None else said.note,
    )
