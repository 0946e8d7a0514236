"""Misfits: answered rows of which no record can be made as it was asked for. They are paid and kept, so each is counted
and named, and none is asked again unless somebody says so."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, structs

from mistill.datasets.names_beside import named_beside
from mistill.datasets.sources import name_of
from mistill.errors import MistillError
from mistill.ledger import LedgerRow
from mistill.progress.formatting import count
from mistill.wording import Part, Phrase, Setting, words

_MAX_NAMED = 3

_HINTS: Final[dict[str, str]] = {
    "answer_without_fields": words(
        "without ", Setting("flatten"), " such an answer is the column generation: "
    ),
    "field_left_out": words("a prefix keeps the names of fields apart from others: "),
    "unwritable_answer": words(
        "mend its class; without ", Setting("flatten"), " the answer is written as it came: "
    ),
    "invalid_output": "another schema reads it, or the run's own, where none is given: ",
}


class Misfit(Struct, frozen=True):
    """Answered rows of which no record could be made as it was asked for, all for one kind of reason.

    Attributes:
        kind: why: ``answer_without_fields``, ``field_left_out``, ``unwritable_answer``, ``invalid_output``,
            ``malformed_answer``.
        count: how many rows. ``rows``: the first of them, from 0.
        row_ids: what these call themselves, where the run has a column for that.
        message: what is wrong with the first.
    """

    kind: str
    count: int
    rows: list[int]
    row_ids: list[str]
    message: str

    def after(self, earlier: Misfit | None, rows: int) -> Misfit:
        """Together with those of the same kind among so many rows that stand before."""
        placed = structs.replace(self, rows=[rows + row for row in self.rows])
        if earlier is None:
            return placed
        return structs.replace(
            earlier,
            count=earlier.count + self.count,
            rows=[*earlier.rows, *placed.rows][:_MAX_NAMED],
            row_ids=[*earlier.row_ids, *self.row_ids][:_MAX_NAMED],
        )


class Misfits:
    """Counts them, and answers without content, while records are made.

    Args:
        id_column: names rows.

    Attributes:
        empty: answered rows with nothing in some generation, neither a text nor a tool call.
    """

    def __init__(self, id_column: str | None = None) -> None:
        self.empty = 0
        self._id_column = id_column
        self._rows: dict[str, list[int]] = {}
        self._row_ids: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}
        self._messages: dict[str, str] = {}
        self._last: int | None = None

    def note(self, row: LedgerRow, error: MistillError) -> None:
        """A row of which no record can be made; one has one reason."""
        if row.position == self._last:
            return
        self._last, kind = row.position, error.kind
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._messages.setdefault(kind, error.message)
        rows = self._rows.setdefault(kind, [])
        if len(rows) < _MAX_NAMED:
            rows.append(row.position)
            if name := name_of(row.record, self._id_column):
                self._row_ids.setdefault(kind, []).append(name)

    def note_empty(self) -> None:
        """A row whose record is as asked, and whose answer has nothing in it."""
        self.empty += 1

    def found(self) -> list[Misfit]:
        """All of them by kind, the most frequent first."""
        kinds = sorted(self._counts, key=lambda kind: (-self._counts[kind], kind))
        return [
            Misfit(
                kind, self._counts[kind], self._rows[kind], self._row_ids.get(kind, []), self._messages[kind]
            )
            for kind in kinds
        ]


def number_of(misfits: Iterable[Misfit]) -> int:
    """How many rows they are."""
    return sum(misfit.count for misfit in misfits)


def misfit_lines(misfits: Iterable[Misfit], out: str | None) -> Iterator[str]:
    """What they are and what can be done, as lines for a person, which name settings; none where there are none.

    Args:
        out: the run's output, or its ledger; ``None`` or ``"-"``: nothing that could be named.
    """
    found = list(misfits)
    if not found:
        return
    answers = count(number_of(found), "record")
    yield f"not written as asked: {answers}; the answers are kept, and not asked again:"
    for misfit in found:
        names = misfit.row_ids if len(misfit.row_ids) == len(misfit.rows) else map(str, misfit.rows)
        more = ", …" if misfit.count > len(misfit.rows) else ""
        noun = "row" if misfit.count == 1 else "rows"
        yield f"  {misfit.count:>6,}  {misfit.kind}, {noun} {', '.join(names)}{more}: {misfit.message}"
        if (hint := _HINTS.get(misfit.kind)) is not None:
            yield words("          hint: ", hint, _export_again(misfit.kind, out))


def _export_again(kind: str, out: str | None) -> Part:
    """How the answers come out all the same, beside what is there."""
    of_run, to = ("out", "OUT"), ("to", "FILE")
    if out not in (None, "-"):
        beside = str(named_beside(out, "-again.jsonl"))
        of_run, to = (repr(out), shlex.quote(out)), (repr(beside), shlex.quote(beside))
    if kind == "invalid_output":
        return Phrase(
            f"export_run({of_run[0]}, {to[0]}, schema=…)",
            f"mistill export {of_run[1]} --to {to[1]} --schema …",
        )
    if kind == "field_left_out":
        return Phrase(
            f"export_run({of_run[0]}, {to[0]}, flatten='answer_')",
            f"mistill export {of_run[1]} --to {to[1]} --flatten=answer_",
        )
    return Phrase(
        f"export_run({of_run[0]}, {to[0]}, flatten=False)",
        f"mistill export {of_run[1]} --to {to[1]} --no-flatten",
    )
