"""The results of a batch job, written to disk line by line, with all that can be wrong with them."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from mistill.simulator.batch_files import FileStore, FileWriter, StoredFile
from mistill.simulator.batch_lines import LineAnswer, LineRequest
from mistill.simulator.bills import Bills, add_bill
from mistill.simulator.faults import happens
from mistill.simulator.payloads import encode
from mistill.simulator.settings import Settings


class Results:
    """Takes the answers of a job; a ``with`` block closes its files.

    Attributes:
        succeeded, failed: how many lines did.
        bills: what they cost in sum.
    """

    def __init__(self, files: FileStore, rng: random.Random) -> None:
        self.succeeded = 0
        self.failed = 0
        self.bills: Bills = {}
        self.billed_ids = BilledIds(files.new_path())
        self._rng = rng
        self._open = ExitStack()
        self._output = FileWriter(files.new_path())
        self._errors = FileWriter(files.new_path())

    def __enter__(self) -> Self:
        for each in (self._output, self._errors, self.billed_ids):
            self._open.enter_context(each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def add(self, request: LineRequest, answer: LineAnswer, settings: Settings) -> None:
        if answer.is_good:
            self.succeeded += 1
        else:
            self.failed += 1
        if answer.bill is not None:
            add_bill(self.bills, answer.bill)
            self.billed_ids.add(request.custom_id or "")
        into_output = answer.is_good or settings.batch_errors_in == "output_file"
        writer = self._output if into_output else self._errors
        for line in self._lines(request, answer, settings):
            writer.write(line)

    def _lines(self, request: LineRequest, answer: LineAnswer, settings: Settings) -> Iterator[bytes]:
        """None, one or two."""
        if self._happens(settings.batch_missing):
            return
        line = answer.line(request.custom_id, as_text=self._happens(settings.batch_text_body))
        if self._happens(settings.batch_no_id):
            del line["custom_id"]
        elif self._happens(settings.batch_unknown_id):
            line["custom_id"] = str(uuid.UUID(int=self._rng.getrandbits(128)))
        raw = encode(line)
        if self._happens(settings.batch_broken_line):
            raw = raw[: len(raw) // 2]
        yield raw + b"\n"
        if self._happens(settings.batch_duplicate):
            yield raw + b"\n"

    def _happens(self, rate: float) -> bool:
        return happens(self._rng, rate)

    def stored(self, job_id: str) -> tuple[StoredFile | None, StoredFile | None]:
        """The output and the error file, as far as there is something in them."""
        return (
            _stored(self._output, f"{job_id}_output.jsonl", "batch_result"),
            _stored(self._errors, f"{job_id}_error.jsonl", "batch_error"),
        )


def _stored(writer: FileWriter, name: str, sample_type: str) -> StoredFile | None:
    if not writer.size:
        writer.path.unlink()
        return None
    return writer.stored(name, purpose="batch", sample_type=sample_type, source="mistral")


class BilledIds:
    """The ids of the lines that a job has answered, kept on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, custom_id: str) -> None:
        self._file.write(msgspec.json.encode(custom_id) + b"\n")
        self.count += 1

    def times(self) -> Counter[str]:
        with self._path.open("rb") as lines:
            return Counter(map(msgspec.json.Decoder(str).decode, lines))
