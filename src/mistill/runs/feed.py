"""Rows of the input that are still to be asked: read, matched with the ledger, rendered, a window at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, TypeGuard

import msgspec
from msgspec import Struct

from mistill.api.errors import InputError
from mistill.llms.generation import Prompt
from mistill.runs.ledger import InputRow, RowState
from mistill.runs.plan import Plan
from mistill.runs.reading import Windows
from mistill.runs.records import check_columns
from mistill.runs.row_parameters import WrongParameter
from mistill.runs.sources import Row
from mistill.runs.summary import Progress

OnUnknown = Literal["retry", "hold"]


class Matcher(Protocol):
    """Which row of the ledger a row of the input is; see `InputMatcher`."""

    async def known(self, digests: Sequence[bytes]) -> list[RowState | None]: ...
    async def claim(self, rows: Sequence[InputRow]) -> list[RowState]: ...
    async def finish(self) -> int: ...


class Task(Struct, frozen=True, gc=False):
    """A row that is to be asked. ``prompt`` is an error where the row cannot be: its outcome, which costs nothing."""

    state: RowState
    row: Row
    prompt: Prompt | InputError


class Feed:
    """An asynchronous iterator of tasks, for many workers. At most one window of rows is in memory.

    Where the input breaks off it ends, with ``error`` set: the rows before were read, and are asked in a later start.

    Args:
        reserved: names of the output's own columns, which no row may have.
        retry_failed: whether rows that failed before are asked again.
        on_unknown: what becomes of rows that were in flight when a run died.
        limit: gives out no more tasks than this.
    """

    def __init__(
        self,
        windows: Windows,
        plan: Plan,
        matcher: Matcher,
        progress: Progress,
        *,
        reserved: frozenset[str],
        retry_failed: bool,
        on_unknown: OnUnknown,
        limit: int | None = None,
    ) -> None:
        self._windows = windows
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
        self.rows_read = 0

    @property
    def read_to_end(self) -> bool:
        return self._windows.ended

    @property
    def error(self) -> Exception | None:
        return self._windows.error

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Task:
        while not self._ready:
            if self._left == 0 or self._is_over:
                raise StopAsyncIteration
            async with self._filling:
                if not self._ready and not self._is_over:
                    await self._fill()
        if self._left is not None:
            if not self._left:
                raise StopAsyncIteration
            self._left -= 1
        return self._ready.popleft()

    @property
    def _is_over(self) -> bool:
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
        digests = [_digest(row.raw) for row in rows]
        states = await self._matcher.known(digests)
        prompts = {place: self._prompt_of(rows[place]) for place, state in enumerate(states) if state is None}
        if prompts and rows[0].index == 0 and _is_of_all_rows(first := prompts.get(0)):
            raise first
        claimed = await self._matcher.claim(
            [self._input_row(rows[place], digests[place], prompt) for place, prompt in prompts.items()]
        )
        for place, state in zip(prompts, claimed, strict=True):
            states[place] = state
        if self._closed or self.error is not None:
            return
        for place, state in enumerate(states):
            assert state is not None
            if self._is_due(state):
                prompt = prompts.get(place) or self._prompt_of(rows[place])
                self._ready.append(Task(state, rows[place], self._with_parameters(prompt, state)))

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
            generation = self._plan.generation
            if self._plan.row_parameters:
                generation = self._plan.row_parameters.apply(generation, row)
            return generation.check(self._plan.prompt.render(row))
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

    def _input_row(self, row: Row, digest: bytes, prompt: Prompt | InputError) -> InputRow:
        if isinstance(prompt, InputError):
            fingerprint = digest  # a row that cannot be asked is known by its own bytes
        elif self._plan.row_parameters:
            fingerprint = _digest(_encode_sorted(_asked_with(prompt)))
        else:
            fingerprint = _digest(prompt.messages)
        return InputRow(row.index, digest, fingerprint, row.raw)


def _asked_with(prompt: Prompt) -> tuple[Any, ...]:
    """What tells a row's request from another's in the same run."""
    return msgspec.Raw(prompt.messages), prompt.generation.parameters, prompt.generation.extra_body


def _is_of_all_rows(first: Prompt | InputError | None) -> TypeGuard[InputError]:
    """A first row that cannot be rendered means a wrong template or wrong names: nothing is sent."""
    return isinstance(first, InputError) and not isinstance(first, WrongParameter)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


_encode_sorted = msgspec.json.Encoder(order="sorted").encode
