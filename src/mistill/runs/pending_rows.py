"""Rows of the input that are still to be asked: read, matched with the ledger, rendered, a window at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeGuard

from mistill.datasets.prefetch import Windows
from mistill.datasets.sources import Row
from mistill.errors import InputError, UnusableRow, WrongFile, WrongParameter, let_interrupt_pass
from mistill.estimates.row_sample import RowSample
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import InputRow, KnownAttempt, RowState
from mistill.progress.progress import Progress
from mistill.prompts.row_errors import change_error, row_error
from mistill.runs.record_shape import RecordShape

_HELD_S = 0.1
"""How long rows may be prepared at a stretch."""


class Matcher(Protocol):
    """Which row of the ledger a row of the input is; see `InputMatcher`."""

    async def known(self, digests: Sequence[bytes]) -> list[RowState | None]: ...
    async def answered(self, rows: Sequence[InputRow]) -> list[RowState | None]: ...
    async def claim(self, rows: Sequence[InputRow]) -> list[RowState]: ...
    async def finish(self) -> int: ...


KnownAttempts = Callable[[Sequence[int]], Awaitable[Mapping[int, Sequence[KnownAttempt]]]]
"""Rows -> what came of their requests before, of those of which something is known; see `Ledger.known_attempts`."""


class PendingRows:
    """An asynchronous iterator for many workers, of the rows that one request asks. At most a window of rows, and what
    one request takes, is in memory.

    Where the input breaks off it ends, with ``error`` set: the rows before were read, and are asked in a later start.

    Args:
        options: which rows are asked again.
        shape: of the output's records, which says what columns a row may not have.
        known_attempts: what the ledger has of rows that were asked before.
        sample: which rows are asked at all; ``None``: every one.
        failed_now: rows that are not asked again, since they have failed in this start.
        first_of_all: reads the first row of the run, where these are a later part of it; else ``None``.
    """

    def __init__(
        self,
        windows: Windows,
        kind: Kind[Any],
        matcher: Matcher,
        progress: Progress,
        options: RunOptions,
        *,
        shape: RecordShape,
        known_attempts: KnownAttempts,
        sample: RowSample | None = None,
        failed_now: frozenset[int] = frozenset(),
        first_of_all: Callable[[], Row | None] = lambda: None,
    ) -> None:
        self._windows = windows
        self._kind = kind
        self._matcher = matcher
        self._progress = progress
        self._options = options
        self._shape = shape
        self._known_attempts = known_attempts
        self._ready: deque[PendingRow] = deque()
        self._filling = asyncio.Lock()
        self._sample = sample
        self._failed_now = failed_now
        self._first_of_all = first_of_all
        self._closed = False
        self.rows_read = 0

    @property
    def read_to_end(self) -> bool:
        return self._windows.ended

    @property
    def error(self) -> Exception | None:
        return self._windows.error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[PendingRow]:
        ready = self._ready
        if len(ready) < self._kind.max_rows_together:
            while self._is_short:
                # Under the lock: while the last window is being matched, the input has ended and its rows are to come.
                async with self._filling:
                    if self._is_over:
                        break
                    if self._is_short:
                        await self._fill()
            if not ready:
                raise StopAsyncIteration
        if self._kind.max_rows_together == 1:
            return [ready.popleft()]
        return [ready.popleft() for _ in range(self._kind.together(ready))]

    @property
    def _is_short(self) -> bool:
        """Another window is needed, for a whole request. What comes when it likes is not waited for."""
        return not self._ready or (
            len(self._ready) < self._kind.max_rows_together and not self._windows.may_wait
        )

    @property
    def _is_over(self) -> bool:
        if self._sample is not None and self.rows_read >= self._sample.end:
            return True
        return self._closed or self.read_to_end or self.error is not None

    def close(self) -> None:
        """Gives out nothing more."""
        self._closed = True
        self._ready.clear()
        self._windows.close()

    async def count_rest(self) -> int:
        """Reads the input to its end, asking nothing. Returns how many rows it has in all."""
        while not (self.read_to_end or self.error):
            self.rows_read += len(await self._windows.next())
            await asyncio.sleep(0)  # others on this loop have work to do
        return self.rows_read

    async def _fill(self) -> None:
        rows = await self._windows.next()
        if self._closed:
            return  # nothing of them is in the ledger yet, so a later start meets them again
        self.rows_read += len(rows)
        digests = await self._digests(rows)
        states = await self._matcher.known(digests)
        prepared: dict[int, Any] = {}
        began_s = time.monotonic()
        for place, state in enumerate(states):
            if state is None:
                prepared[place] = prepare_row(self._kind, rows[place], self._shape)
            if time.monotonic() - began_s > _HELD_S:
                await asyncio.sleep(0)  # templates may take long, and a stop must get through
                if self._closed:
                    return
                began_s = time.monotonic()
        refused = [place for place, one in prepared.items() if isinstance(one, InputError)]
        if refused:
            answered = await self._matcher.answered(
                [self._input_row(rows[place], digests[place], prepared[place]) for place in refused]
            )
            for place, state in zip(refused, answered, strict=True):
                if state is not None:
                    states[place] = state
                    del prepared[place]
        if prepared and rows[0].index == 0:
            await self._check_first(prepared.get(0))
            if good := [one for one in prepared.values() if not isinstance(one, InputError)]:
                self._kind.see_first(good)
        claimed = await self._matcher.claim(
            [self._input_row(rows[place], digests[place], one) for place, one in prepared.items()]
        )
        for place, state in zip(prepared, claimed, strict=True):
            states[place] = state
        if self._closed or self.error is not None:
            return
        due = [
            (place, state) for place, state in enumerate(states) if state is not None and self._is_due(state)
        ]
        known: Mapping[int, Sequence[KnownAttempt]] = {}
        if with_answers := [state.row for _, state in due if state.has_answers]:
            known = await self._known_attempts(with_answers)
            if self._closed:
                return
        for place, state in due:
            one = prepared[place] if place in prepared else prepare_row(self._kind, rows[place], self._shape)
            if state.has_changed and not isinstance(one, InputError) and (files := self._kind.files_of(one)):
                one = change_error(files, rows[place])
            self._ready.append(PendingRow(state, rows[place], one, known.get(state.row, ())))

    async def _check_first(self, first: Any) -> None:
        """Raises what is wrong with all rows, which in a later part of the run is what the first row of the whole has
        too: else only some of its rows are wrong, as anywhere."""
        if not is_of_all_rows(first):
            return
        if (row := await asyncio.to_thread(self._first_of_all)) is not None:
            first = prepare_row(self._kind, row, self._shape)
        if is_of_all_rows(first):
            raise first

    async def _digests(self, rows: Sequence[Row]) -> list[bytes]:
        kind = self._kind
        return await asyncio.to_thread(kind.digests, rows) if kind.reads_files else kind.digests(rows)

    def _is_due(self, state: RowState) -> bool:
        """Whether the row is to be asked in this start; counts it where it is done, or held."""
        if self._sample is not None and state.position not in self._sample.positions:
            return False
        if state.same_as is not None or state.state == "completion":
            if not self._progress.known:
                self._kind.dispatcher.governor.expect_answers()
            self._progress.known += 1
            return False
        if state.is_with_server:
            return False
        if state.state == "failure" and (not self._options.retry_failed or state.row in self._failed_now):
            self._progress.known += 1
            return False
        if state.state == "pending" and state.maybe_billed and self._options.on_unknown == "hold":
            self._progress.held += 1
            return False
        return True

    def _input_row(self, row: Row, own_digest: bytes, prepared: Any) -> InputRow:
        # A row that cannot be asked is known by its own bytes.
        fingerprint = own_digest if isinstance(prepared, InputError) else self._kind.fingerprint(prepared)
        return InputRow(row.index, own_digest, fingerprint, row.raw)


def prepare_row(kind: Kind[Any], row: Row, shape: RecordShape) -> Any:
    """The row made ready to be sent, or why it cannot be.

    Args:
        shape: of the records, whose own columns no row may have.
    """
    if row.problem is not None:
        return UnusableRow(f"{row.where}: {row.problem}", hint=row.hint, index=row.index)
    try:
        if not shape.hints.keys().isdisjoint(row.record):
            shape.check_row(row.record, row.where, row.index)
        return kind.prepare(row)
    except BaseException as error:  # whatever a row holds: it must not hold up the other rows
        let_interrupt_pass(error)
        return _refusal(row, error)


def _refusal(row: Row, error: BaseException) -> InputError:
    """Why a row cannot be asked; it names the row."""
    if not isinstance(error, InputError):
        return row_error(row, f"it cannot be made into a request: {type(error).__name__}: {error}")
    return row_error(row, error.message, error.hint) if error.index is None else error


def is_of_all_rows(first: Any) -> TypeGuard[InputError]:
    """A first row that cannot be rendered means a wrong template or wrong names: nothing is sent."""
    return isinstance(first, InputError) and not isinstance(first, WrongParameter | WrongFile)
