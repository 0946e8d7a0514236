"""The results of a batch job: files of lines, read one by one, whatever is in them.

    {"id": "batch-…", "custom_id": "17", "response": {"status_code": 200, "body": {…}}, "error": null}

Servers have been seen to send lines in any order, twice, without an id, with a body that is a text, with a status of
400 and more in the file of the good ones, and broken off. Each is told as what it is; nothing is left out but empty
lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct

from mistill.api.decoding import Incoming, is_error, load_json, tolerant_decoder
from mistill.api.error_bodies import error_in_answer, error_of_event, error_of_status
from mistill.api.operation import MAX_BYTES
from mistill.characters import whole_characters
from mistill.errors import MalformedAnswer, MistillError

_ENVELOPE_BYTES = 2**16
_EXCERPT_BYTES = 2**12
_CHUNK_BYTES = 2**18
_NULL = Raw(b"null")
_STATUSES = range(100, 1000)
_GOOD = range(200, 300)


class ResultLine(Struct, frozen=True, gc=False):
    """One line of a result file.

    Attributes:
        index: which line of the file it is, from 0.
        custom_id: whose answer it is; ``None`` where it has none that can be one.
        line_id: the server's own id of it, for its support.
        status: the HTTP status of the answer, where it has one.
        body: of the answer, as it would have come live; ``None`` where the line has none.
        error: what the line says beside or in the place of an answer, as JSON; ``None`` where it says nothing.
        broken: why this is no line of results at all; ``None`` where it is one. ``body`` is then its beginning.
    """

    index: int
    custom_id: str | None = None
    line_id: str | None = None
    status: int | None = None
    body: bytes | None = None
    error: bytes | None = None
    broken: str | None = None

    @property
    def has_failed(self) -> bool:
        """It says so of itself: by its status, or by an error."""
        return self.error is not None or (self.status is not None and self.status not in _GOOD)

    def failure(self) -> MistillError | None:
        """The error that a live request would have ended in; ``None`` where the line has an answer, good or not."""
        if self.broken is not None:
            return MalformedAnswer(f"line {self.index} of the results is broken: {self.broken}")
        if self.status is not None and self.status not in _GOOD:
            return error_of_status(self.status, self.body or self.error or b"", self.line_id)
        if self.error is not None:
            said = b'{"error":' + self.error + b"}"
            return error_in_answer(said, self.line_id) or error_of_event(said, self.line_id)
        if self.body is None:
            return MalformedAnswer("the line of the results has no answer", correlation_id=self.line_id)
        return None


class _Response(Incoming, frozen=True, gc=False):
    status_code: int | None = None
    body: Raw = _NULL


class _Line(Incoming, frozen=True, gc=False):
    custom_id: Any = None
    id: Any = None
    response: _Response | None = None
    error: Raw = _NULL


_decode = tolerant_decoder(_Line)


def read_lines(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[ResultLine]:
    """The lines of a result file, in its order. In memory is one at a time.

    Args:
        max_bytes: of an answer, as its `Operation` has it; a line with more is broken.

    Raises:
        OSError: the file cannot be read.
    """
    most = max_bytes + _ENVELOPE_BYTES
    index = 0
    with path.open("rb") as file:
        while raw := file.readline(most + 1):
            if len(raw) > most and not raw.endswith(b"\n"):
                while (rest := file.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield _broken(index, raw, f"it is larger than {most:,} bytes")
            elif raw.strip():
                yield _read(index, raw)
            else:
                continue
            index += 1


def _read(index: int, raw: bytes) -> ResultLine:
    try:
        line = _decode(raw)
        response = line.response or _Response()
        body = _body(response.body)
    except Exception as error:
        return _broken(index, raw, str(error))
    line_id = line.id if isinstance(line.id, str) and line.id else None
    status = response.status_code if response.status_code in _STATUSES else None
    return ResultLine(index, _id(line.custom_id), line_id, status, body, _said(line.error))


def _broken(index: int, raw: bytes, reason: str) -> ResultLine:
    return ResultLine(index, body=raw.rstrip(b"\n")[:_EXCERPT_BYTES], broken=reason)


def _id(given: Any) -> str | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    return given if isinstance(given, str) and given else None


def _body(given: Raw) -> bytes | None:
    """The JSON of a body; of one that is a text, the text."""
    raw = bytes(given)
    if raw.startswith(b'"'):
        return whole_characters(load_json(raw)).encode()
    return None if raw == b"null" else raw


def _said(given: Raw) -> bytes | None:
    raw = bytes(given)
    try:
        return raw if is_error(load_json(raw)) else None
    except ValueError:  # it says something, whatever that is
        return raw
