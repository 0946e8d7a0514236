"""Records to JSON Lines, and to a JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistill.datasets.encoding import encode_record
from mistill.datasets.writers.destination import Destination


class JsonLinesWriter:
    """One record a line."""

    def __init__(self, destination: Destination) -> None:
        self._put = destination.stream.write

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_raw(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._put(line + b"\n")

    def finish(self) -> None:
        pass


class JsonArrayWriter:
    """One JSON list, a record on each line."""

    def __init__(self, destination: Destination) -> None:
        self._put = destination.stream.write
        self._lead = b"[\n"

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_raw(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._put(self._lead + line)
        self._lead = b",\n"

    def finish(self) -> None:
        self._put(b"\n]\n" if self._lead == b",\n" else b"[]\n")
