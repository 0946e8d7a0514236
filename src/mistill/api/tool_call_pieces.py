"""Tool calls of a streamed answer, put together from their pieces."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mistill.api.chat import AnsweredFunction, AnsweredToolCall, DeltaToolCall


class ToolCallPieces:
    """The calls of one answer, as far as they have come."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []

    @property
    def is_any(self) -> bool:
        """Whether calls have come that are not taken."""
        return bool(self._calls)

    def add(self, piece: DeltaToolCall) -> None:
        """A piece of a call, of one that has begun or of another."""
        for call in reversed(self._calls):
            if call.goes_on_in(piece):
                call.take(piece)
                return
        index = piece.index if piece.index is not None else len(self._calls)
        call = _Call(piece.function.name or "", piece.id, index)
        call.take(piece)
        self._calls.append(call)

    def take(self) -> tuple[AnsweredToolCall, ...]:
        """The calls that have gathered, now whole; they are gone here."""
        calls, self._calls = self._calls, []
        return tuple(
            AnsweredToolCall(AnsweredFunction(call.name, call.arguments), id=call.id, index=call.index)
            for call in calls
        )


class _Call(Struct):
    """A tool call as far as it has come. Some servers send it whole, some its arguments bit by bit; some say its id and
    its name once, some with every bit; some send all of it again, or all that there is so far; some send ``{}`` first,
    in the place of arguments that come.

    Attributes:
        joined: the arguments as their pieces make them together, or an object.
        latest: the last of the pieces.
        is_repeated: every piece began with the whole one before it.
    """

    name: str
    id: str | None
    index: int
    joined: str | dict[str, Any] = ""
    latest: str = ""
    is_repeated: bool = False

    @property
    def arguments(self) -> str | dict[str, Any]:
        """What came bit by bit, joined; or the last piece, if only that is JSON and it begins with all before it."""
        if self.is_repeated and not _is_object(self.joined) and _is_object(self.latest):
            return self.latest
        return self.joined

    def goes_on_in(self, piece: DeltaToolCall) -> bool:
        """Whether ``piece`` is a further piece of this call, or the call once more; else it is another call."""
        name, arguments = piece.function.name, piece.function.arguments
        same_index = piece.index is None or piece.index == self.index
        if piece.id and self.id:
            if piece.id != self.id:
                return False
        elif not same_index:
            return False
        is_marked = bool(piece.id and self.id) or piece.index is not None
        if name and self.name and name != self.name:
            return is_marked and same_index and not self.joined  # the name comes in pieces
        if not _is_object(self.joined):
            return is_marked or not (name and piece.id)
        if not arguments or (isinstance(arguments, str) and not arguments.strip()):
            return is_marked or not name
        if not is_marked or arguments == self.joined:
            return is_marked
        return same_index and (not name or self._is_empty)

    def take(self, piece: DeltaToolCall) -> None:
        """Adds what is new in a piece of it."""
        self.id = self.id or piece.id
        name, arguments = piece.function.name or "", piece.function.arguments
        if name != self.name:
            self.name = name if name.startswith(self.name) else self.name + name
        if not arguments:
            return
        if (
            isinstance(arguments, str)
            and (not arguments.strip() or arguments == self.joined)
            and _is_object(self.joined)
        ):
            return
        if isinstance(arguments, dict) or isinstance(self.joined, dict) or not self.joined or self._is_empty:
            self.joined = arguments
        else:
            self.is_repeated = arguments.startswith(self.latest) and (
                self.is_repeated or self.latest == self.joined
            )
            self.joined += arguments
        self.latest = arguments if isinstance(arguments, str) else ""

    @property
    def _is_empty(self) -> bool:
        return self.joined == {} or (
            isinstance(self.joined, str) and self.joined.split() in (["{}"], ["{", "}"])
        )


def _is_object(arguments: str | dict[str, Any]) -> bool:
    """Whether they are a JSON object, after which no more of them can come."""
    if not isinstance(arguments, str):
        return True
    if not arguments[-9:].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
