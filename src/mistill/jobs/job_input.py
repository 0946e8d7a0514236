"""The lines of a job while they are written down, before anybody is told of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from secrets import token_hex
from zlib import crc32

from mistill.api.batch import request_line
from mistill.directories import sync_directory
from mistill.jobs.job_files import JobFiles
from mistill.ledger import PlannedAttempt

_TAG_BYTES = 12


class JobInput:
    """One file of lines, and the attempts that they are.

    Attributes:
        tag: the name of the job, which no other has.
        lines, size: so many lines, of so many bytes. ``checksum``: the CRC-32 of them all.
        attempts: one for each row that a line asks.
    """

    def __init__(self, files: JobFiles) -> None:
        self.tag = token_hex(_TAG_BYTES)
        self.lines = self.size = self.checksum = 0
        self.attempts: list[PlannedAttempt] = []
        files.make()
        self._files = files
        self._part = files.input(self.tag).with_suffix(".part")
        with files.explained():
            self._file = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    @staticmethod
    def line(attempts: Sequence[PlannedAttempt], body: bytes) -> bytes:
        """A request as a line of such a file; it goes by its first attempt's number."""
        return request_line(str(attempts[0].id), body)

    def add(self, line: bytes, attempts: Sequence[PlannedAttempt]) -> None:
        """One more line, which is of these attempts.

        Raises:
            LedgerError: it cannot be written.
        """
        with self._files.explained():
            self._file.write(line)
        self.attempts += attempts
        self.lines += 1
        self.size += len(line)
        self.checksum = crc32(line, self.checksum)

    def finish(self) -> None:
        """All of it is on disk, under its name.

        Raises:
            LedgerError: it cannot be written.
        """
        with self._files.explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._files.input(self.tag))
        sync_directory(self._files.folder)

    def discard(self) -> None:
        """Nothing of it is wanted; nobody knows of it."""
        self._file.close()
        self._part.unlink(missing_ok=True)
