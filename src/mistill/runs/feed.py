"""Rows of the input that are still to be asked: read, matched with the ledger, rendered, a window at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Literal, Self

import msgspec
from msgspec import Struct

from mistill.api.errors import InputError
from mistill.llms.generation import Prompt
from mistill.runs.ledger import InputMatcher, InputRow, RowState
from mistill.runs.plan import Plan
from mistill.runs.records import check_columns
from mistill.runs.sources import Row, Source
from mistill.runs.summary import Progress

_WINDOW_ROWS = 512

OnUnknown = Literal["retry", "hold"]


class Task(Struct, frozen=True):
    """A row that is to be asked. ``prompt`` is an error where the row cannot be: its outcome, which costs nothing."""

    state: RowState
    row: Row
    prompt: Prompt | InputError


class Feed:
    """An asynchronous iterator of tasks, for many workers. At most one window of rows is in memory.

    Args:
        reserved: names of the output's own columns, which no row may have.
        retry_failed: whether rows that failed before are asked again.
        on_unknown: what becomes of rows that were in flight when a run died.
        limit: gives out no more tasks than this.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        matcher: InputMatcher,
        progress: Progress,
        *,
        reserved: frozenset[str],
        retry_failed: bool,
        on_unknown: OnUnknown,
        limit: int | None = None,
    ) -> None:
        self._rows: Iterator[Row] = iter(source)
        self._plan = plan
        self._matcher = matcher
        self._progress = progress
        self._reserved = reserved
        self._retry_failed = retry_failed
        self._on_unknown = on_unknown
        self._ready: deque[Task] = deque()
        self._filling = asyncio.Lock()
        self._left = limit
        self._closed = False
        self.read_to_end = False
        self.error: InputError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Task:
        while not self._ready:
            async with self._filling:
                if not self._ready and not (self._closed or self.read_to_end):
                    await self._fill()
            if not self._ready and (self._closed or self.read_to_end):
                raise StopAsyncIteration
        if self._left is not None:
            if not self._left:
                raise StopAsyncIteration
            self._left -= 1
        return self._ready.popleft()

    def close(self) -> None:
        """Gives out nothing more."""
        self._closed = True
        self._ready.clear()

    async def _fill(self) -> None:
        rows = self._read_window()
        digests = [_digest(row.raw) for row in rows]
        states = await self._matcher.known(digests)
        prompts = {place: self._prompt_of(rows[place]) for place, state in enumerate(states) if state is None}
        if prompts and rows[0].index == 0 and isinstance(first := prompts.get(0), InputError):
            # A first row that cannot be rendered means a wrong template or wrong names: nothing is sent.
            raise first
        claimed = await self._matcher.claim(
            [_input_row(rows[place], digests[place], prompt) for place, prompt in prompts.items()]
        )
        for place, state in zip(prompts, claimed, strict=True):
            states[place] = state
        for place, state in enumerate(states):
            assert state is not None
            if self._is_due(state):
                prompt = prompts.get(place) or self._prompt_of(rows[place])
                self._ready.append(Task(state, rows[place], self._with_parameters(prompt, state)))
        if self._closed:
            self._ready.clear()

    def _read_window(self) -> list[Row]:
        rows: list[Row] = []
        try:
            for row in islice(self._rows, _WINDOW_ROWS):
                rows.append(row)  # noqa: PERF402  what was read before an error counts
        except InputError as error:
            self.error = error
            self._closed = True
        else:
            self.read_to_end = len(rows) < _WINDOW_ROWS
        return rows

    def _is_due(self, state: RowState) -> bool:
        """Whether the row is to be asked in this start; counts it where it is not."""
        if state.same_as is not None or state.state == "completion":
            self._progress.known += 1
            return False
        if state.state == "failure" and not self._retry_failed:
            self._progress.known += 1
            return False
        if state.state == "pending" and state.maybe_billed and self._on_unknown == "hold":
            self._progress.held += 1
            return False
        return True

    def _prompt_of(self, row: Row) -> Prompt | InputError:
        try:
            if not self._reserved.isdisjoint(row.record):
                check_columns(row.record, self._reserved, row.where)
            return self._plan.generation.check(self._plan.prompt.render(row))
        except InputError as error:
            if not error.message.startswith(row.where):
                error = InputError(f"{row.where}: {error.message}", hint=error.hint, index=row.index)
            return error

    def _with_parameters(self, prompt: Prompt | InputError, state: RowState) -> Prompt | InputError:
        """The prompt with what this row is asked again with, where it is a retry."""
        if state.parameters is None or isinstance(prompt, InputError):
            return prompt
        changed = prompt.generation.with_parameters(msgspec.json.decode(state.parameters))
        return Prompt(prompt.messages, changed)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _input_row(row: Row, digest: bytes, prompt: Prompt | InputError) -> InputRow:
    # A row that cannot be asked is known by its own bytes.
    fingerprint = digest if isinstance(prompt, InputError) else _digest(msgspec.json.encode(prompt.messages))
    return InputRow(row.index, digest, fingerprint, row.raw)
