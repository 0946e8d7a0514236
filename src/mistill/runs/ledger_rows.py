"""Rows that stand in a ledger already, as an input of their own: what a retry asks, and what batch jobs leave over."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import msgspec

from mistill.addresses import scheme_of
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources import Row, UntypedInput
from mistill.errors import UnusableRow
from mistill.finish_reasons import CUT_OFF
from mistill.kinds.kept_settings import read_inputs, read_types
from mistill.ledger import InputRow, Ledger, LedgerReader, LedgerRow, RowState, Selection
from mistill.ledger.error_record import decode_error

_PAGE_ROWS = 1000
_BYTES = re.compile(r"(large_|fixed_size_)?binary(_view|\[\d+\])?")
"""What pyarrow calls types of bytes."""


ASKED_AGAIN = Selection("asked_again", ())
"""Those that a retry asks."""


class LedgerRows(UntypedInput):
    """The rows of a ledger that fulfil a condition, in the order of the input.

    It is both the source and the matcher of a run: each row is met just as it stands in the ledger, and the input as a
    whole is not touched, read to its end or not.

    Args:
        only: which rows. ``first``: their first position, where that is known.

    Attributes:
        with_answers: rows of which answers may be known. ``with_server``: those in jobs that have not ended.
    """

    def __init__(self, ledger: Path, only: Selection, first: int = 0) -> None:
        self._ledger = ledger
        self._only = only
        self._first = first
        self._met: deque[LedgerRow] = deque()
        self.with_answers: Collection[int] = ()
        self.with_server: Collection[int] = ()
        self._folders: Sequence[Path] | None = None

    def follow(self, ledger: Ledger) -> None:
        """Takes from the open ledger which rows have answers, and which are with the server."""
        self.with_answers, self.with_server = ledger.rows_with_answers, ledger.rows_with_server

    # --- as a source ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return str(self._ledger)

    @property
    def repeatable(self) -> bool:
        return True

    @property
    def folders(self) -> Sequence[Path]:
        """Those of the input's files, wherever this process works."""
        if self._folders is None:
            with LedgerReader(self._ledger) as reader:
                files = [path for path in read_inputs(reader) if scheme_of(path) is None]
                self._folders = tuple(dict.fromkeys(Path(path).parent for path in files))
        return self._folders

    def columns(self) -> tuple[str, ...] | None:
        return None

    def total(self) -> int | None:
        return None

    def rows(self, first_index: int) -> Iterator[Row]:
        self._met.clear()
        for row in self._pages():
            self._met.append(msgspec.structs.replace(row, record=b"", answers=(), error=None))
            yield msgspec.structs.replace(self.row_of(row), index=first_index + row.position)

    def row_of(self, row: LedgerRow) -> Row:
        """A row as its input gave it, whose files begin where they did."""
        problem, hint = self._problem_of(row)
        return Row(
            row.position,
            row.record,
            self,
            row.position,
            problem=problem,
            hint=hint,
            binary=self._binary,
        )

    def where(self, place: int) -> str:
        return f"{self._ledger} row {place}"

    def _problem_of(self, row: LedgerRow) -> tuple[str | None, str | None]:
        """Why it was no row of a run when it was read, and what to do: what the ledger has is not what it held."""
        if row.error is None or (error := decode_error(row.error)).kind != UnusableRow.kind:
            return None, None
        message, hint = error.words
        return message.removeprefix(f"{self.where(row.position)}: "), hint

    @cached_property
    def _binary(self) -> Sequence[str]:
        """Columns of bytes, where the input had types."""
        if not PYARROW.is_there:
            return ()
        with LedgerReader(self._ledger) as reader:
            types, _ = read_types(reader)
        return [name for name, kind in types.items() if _BYTES.fullmatch(str(kind))]

    def _pages(self) -> Iterator[LedgerRow]:
        # A page at a time, since a read that goes on keeps SQLite from folding its log into the file.
        start = self._first
        with LedgerReader(self._ledger) as reader:
            while page := list(islice(reader.rows(self._only, first=start), _PAGE_ROWS)):
                # What is damaged comes along unasked, and a damaged record cannot be asked.
                yield from (
                    row
                    for row in page
                    if row.damaged is None or (row.asked_again and row.damaged != "record")
                )
                start = page[-1].position + 1

    # --- as a matcher -----------------------------------------------------------------------------------------------

    async def known(self, digests: Sequence[bytes]) -> list[RowState | None]:
        return [self._state(self._met.popleft(), digest) for digest in digests]

    def _state(self, row: LedgerRow, digest: bytes) -> RowState:
        return RowState(
            row.row,
            row.position,
            maybe_billed=row.maybe_billed,
            has_answers=row.row in self.with_answers,
            is_answered=row.state == "completion",
            whole_tokens=None
            if row.state != "completion" or row.finish_reason in CUT_OFF
            else row.output_tokens,
            has_changed=row.digest is not None and row.digest != digest,
            is_with_server=row.row in self.with_server,
        )

    async def answered(self, rows: Sequence[InputRow]) -> list[RowState | None]:
        assert not rows, "every row is known"
        return []

    async def claim(self, rows: Sequence[InputRow]) -> list[RowState]:
        assert not rows, "every row is known"
        return []

    async def finish(self) -> int:
        return 0
