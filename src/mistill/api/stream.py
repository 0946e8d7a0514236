"""Streamed answers: the bytes of a stream → server-sent events → chunks of a chat completion. Pure, no network.

Events follow the event stream format of the WHATWG HTML standard (section 9.2) as far as chat completions use it: lines
end with LF, CRLF or CR; several ``data`` lines of one event are joined by LF; of other fields only an ``event`` that is
``error`` counts.

A stream is of one choice, that of index 0: what comes of others is passed over. It is whole once its finish reason has
come, and nothing of an answer after it: some servers give a finish reason with every piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from mistill.api.chat import GAVE_UP, ChatChunk, ChunkChoice, decode_chunk
from mistill.api.decoding import is_error
from mistill.api.error_bodies import error_in_answer, error_of_event
from mistill.api.operation import MAX_BYTES
from mistill.api.split_characters import SplitCharacters
from mistill.errors import Disconnected, MalformedAnswer, MistillError, ServerError

MAX_STREAM_BYTES = 256 * 2**20
"""Of one stream, decompressed: 131,072 tokens, each in an event of its own of 2 kB. One without end is no answer."""
_DONE = b"[DONE]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DATA_FIELDS = (b"data:", b"error:")
_FIELDS = (*_DATA_FIELDS, b"event:", b"id:", b"retry:", b":")
_ERROR_FIELD = b"error:"  # llama.cpp had a field of its own for errors
_EXCERPT_BYTES = 4096
PROXY_HINT = "is the endpoint Mistral's API, or a proxy's error page?"


def begins_stream(body: bytes) -> bool:
    """Whether a body is one of events, by what stands first in it: a field, or a comment."""
    return body.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(_FIELDS)


class ErrorEvent(bytes):
    """The data of an event whose type is ``error``."""


class EventParser:
    """Cuts a byte stream into events, however the network cut it into pieces.

    Args:
        max_bytes: of one event, which is held until its end has come.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._is_error = False
        self._is_first_line = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that this piece completes, in order; of errors as `ErrorEvent`.

        Raises:
            MalformedAnswer: an event is larger than any can be.
        """
        # A CR at the end may be half of a CRLF: it waits for the next piece.
        may_end_a_line = b"\n" in piece or b"\r" in piece or self._rest.endswith(b"\r")
        self._rest += piece
        events = self._take_events() if may_end_a_line else []
        if len(self._rest) + self._data_bytes > self._max_bytes:
            raise MalformedAnswer(f"an event of the stream is larger than {self._max_bytes:,} bytes")
        return events

    def finish(self) -> list[bytes]:
        """The event that stood at the stream's end without an empty line after it, if any."""
        return self.feed(b"\n\n")

    def _take_events(self) -> list[bytes]:
        text = bytes(self._rest)
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(lines.pop() + held)
        if lines and self._is_first_line:
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            self._is_first_line = False
        events: list[bytes] = []
        for line in lines:
            if line.startswith(_DATA_FIELDS):
                self._data.append(line.partition(b":")[2].removeprefix(b" "))
                self._data_bytes += len(line)
                self._is_error = self._is_error or line.startswith(_ERROR_FIELD)
            elif line.startswith(b"event:"):
                self._is_error = line.partition(b":")[2].strip().lower() == b"error"
            elif not line:
                if event := b"\n".join(self._data):
                    events.append(ErrorEvent(event) if self._is_error else event)
                self._data = []
                self._data_bytes = 0
                self._is_error = False
        return events


class ChunkReader:
    """The chunks of one streamed completion. A stream that failed never ends as if it were whole.

    Args:
        raises_failure: of an answer that ends with a finish reason of failure. Else whoever reads it has to look.

    Attributes:
        is_done: nothing more will come: ``[DONE]`` has.
        has_finished: a finish reason has come, so that all of the answer has.
    """

    def __init__(
        self,
        correlation_id: str | None = None,
        max_bytes: int = MAX_BYTES,
        *,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        clean: Callable[[bytes], bytes] = bytes,
        raises_failure: bool = True,
    ) -> None:
        self.is_done = False
        self.has_finished = False
        self._correlation_id = correlation_id
        self._clean = clean
        self._raises_failure = raises_failure
        self._parser = EventParser(max_bytes)
        self._max_stream_bytes = max_stream_bytes
        self._bytes = 0
        self._characters = SplitCharacters()
        self._has_choices = False
        self._has_deltas = False
        self._has_failed = False
        self._head: bytes | None = b""
        """What came before the first event; ``None`` from then on."""

    def feed(self, piece: bytes) -> Iterator[ChatChunk]:
        """The chunks that this piece completes.

        Raises:
            APIError: the server says that it failed.
            MalformedAnswer: an event is no chunk, the end has come and there was no answer, or it does not come.
        """
        self._bytes += len(piece)
        if self._bytes > self._max_stream_bytes:
            raise MalformedAnswer(
                f"the stream is larger than {self._max_stream_bytes:,} bytes",
                correlation_id=self._correlation_id,
            )
        events = self._parser.feed(piece)
        if events:
            self._head = None
        elif self._head is not None and len(self._head) < _EXCERPT_BYTES:
            self._head += piece[:_EXCERPT_BYTES]
        yield from self._chunks(events)

    def finish(self) -> Iterator[ChatChunk]:
        """The stream has ended: what is left of it counts too.

        Raises:
            Disconnected: it ended before its answer did.
            MistillError: as `feed` does.
        """
        if self.is_done:
            return
        try:
            yield from self._chunks(self._parser.finish())
        except MalformedAnswer as error:
            if self.is_done:
                raise
            if not self.has_finished:
                raise Disconnected("the stream ended in the middle of an event") from error
        if not self.is_done and not self.has_finished:
            raise self._broken_off()
        if not self.is_done:
            self._end()

    def _broken_off(self) -> MistillError:
        head = (self._head or b"").lstrip()
        if failure := error_in_answer(head, self._correlation_id):
            return failure
        if head.startswith((b"{", b"<")):
            return MalformedAnswer(
                f"the answer is no stream of events: {head[:200].decode('utf-8', 'replace')!r}",
                correlation_id=self._correlation_id,
                hint=PROXY_HINT,
            )
        return Disconnected("the stream ended before [DONE]")

    def _chunks(self, events: list[bytes]) -> Iterator[ChatChunk]:
        for event in events:
            if isinstance(event, ErrorEvent):
                raise error_of_event(event, self._correlation_id)
            if event.strip() == _DONE:
                self.is_done = True
                self._end()
                return
            if event.strip():
                yield self._chunk(self._clean(event))

    def _chunk(self, event: bytes) -> ChatChunk:
        try:
            chunk = decode_chunk(event)
        except (ValueError, RecursionError) as error:
            if failure := error_in_answer(event, self._correlation_id):
                raise failure from error
            excerpt = event[:200].decode("utf-8", "replace")
            raise MalformedAnswer(
                f"an event of the stream is no chunk of an answer: {error}: {excerpt!r}",
                correlation_id=self._correlation_id,
            ) from error
        if (chunk.error or not chunk.choices) and (failure := error_in_answer(event, self._correlation_id)):
            raise failure
        if not chunk.choices:
            return chunk
        if len(chunk.choices) == 1 and not chunk.choices[0].index:  # as nearly all are
            followed = self._followed(chunk.choices[0])
            return (
                chunk if followed is chunk.choices[0] else msgspec.structs.replace(chunk, choices=(followed,))
            )
        own = [choice for choice in chunk.choices if not choice.index]
        if len(own) > 1:
            raise MalformedAnswer(
                "an event of the stream has two choices of one index", correlation_id=self._correlation_id
            )
        return msgspec.structs.replace(chunk, choices=tuple(map(self._followed, own)))

    def _followed(self, choice: ChunkChoice) -> ChunkChoice:
        """A piece of the answer, noted, with what it says as its delta."""
        if is_error(choice.error):
            body = msgspec.json.encode({"error": choice.error})
            raise error_in_answer(body, self._correlation_id) or error_of_event(body, self._correlation_id)
        self._has_choices = True
        delta = choice.delta
        if delta.says_anything:
            self._has_deltas = True
        elif choice.message is not None and not self._has_deltas:  # else it is all of the answer once more
            delta = choice.message
        delta = self._characters.joined(delta, is_last=bool(choice.finish_reason))
        if delta is not choice.delta:
            choice = msgspec.structs.replace(choice, delta=delta)
        if choice.finish_reason:
            self.has_finished = True
            self._has_failed |= choice.finish_reason in GAVE_UP
        elif choice.delta.says_anything:
            self.has_finished = False
        return choice

    def _end(self) -> None:
        if self._has_failed and self._raises_failure:
            raise ServerError(
                'the server gave up in the middle of its answer: finish reason "error"',
                status=500,
                correlation_id=self._correlation_id,
            )
        if not self._has_choices:
            raise MalformedAnswer("the stream held no answer", correlation_id=self._correlation_id)
        if not self.has_finished:
            raise Disconnected("the stream ended before its finish reason: [DONE] came without one")
