"""Server-sent events: bytes of a stream in, the payloads of its ``data:`` fields out. Pure, no network.

Follows the event stream format of the WHATWG HTML standard (section 9.2) as far as chat completions use it: lines end
with LF, CRLF or CR; several ``data`` lines of one event are joined by LF; comments and other fields are passed over.
"""

from __future__ import annotations

DONE = b"[DONE]"


class EventParser:
    """Cuts a byte stream into events, however the network cut it into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the events that this piece completes, in order."""
        text = self._rest + piece
        # A CR at the end may be half of a CRLF: it waits for the next piece.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
