"""The files of jobs on this machine: what is to be uploaded, and what came back."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mistill.errors import LedgerError
from mistill.ledger import Job
from mistill.ledger.files import jobs_of
from mistill.wording import START_AGAIN, words

_INPUT = ".jsonl"
_OUTPUT = ".output.jsonl"
_ERRORS = ".errors.jsonl"
_OURS = re.compile(r"(?P<tag>[0-9a-f]{24})(?P<result>\.output|\.errors)?(\.jsonl)?(\.part)?")


class JobFiles:
    """A folder beside the ledger, which only its owner may read: prompts and answers are in it for a while."""

    def __init__(self, ledger: Path) -> None:
        self.folder = jobs_of(ledger)

    def make(self) -> None:
        """Makes the folder.

        Raises:
            LedgerError: it cannot be made.
        """
        with self.explained():
            self.folder.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def explained(self) -> Generator[None]:
        """What the disk refuses inside is a `LedgerError`: these files are as dear as the ledger."""
        try:
            yield
        except OSError as error:
            raise LedgerError(
                f"the files of batch jobs in {self.folder} cannot be written or read: {error}",
                hint=words("mend that, and ", START_AGAIN, ": what is with the server stays there"),
            ) from error

    def input(self, tag: str) -> Path:
        """The lines of a job, until the server has it."""
        return self.folder / f"{tag}{_INPUT}"

    def output(self, tag: str) -> Path:
        """Its results as they were downloaded."""
        return self.folder / f"{tag}{_OUTPUT}"

    def errors(self, tag: str) -> Path:
        """The results of lines that failed, where the server keeps these apart."""
        return self.folder / f"{tag}{_ERRORS}"

    def results(self, tag: str) -> list[Path]:
        """Those of the two files of results that are there."""
        return [path for path in (self.output(tag), self.errors(tag)) if path.exists()]

    def drop_input(self, tag: str) -> None:
        """The server has it."""
        self.input(tag).unlink(missing_ok=True)

    def drop_results(self, tag: str) -> None:
        """They are in the ledger."""
        for path in (self.output(tag), self.errors(tag)):
            path.unlink(missing_ok=True)

    def sweep(self, jobs: Sequence[Job]) -> None:
        """Leaves what such jobs still need, and results that were to be kept; an empty folder goes.

        Args:
            jobs: all that the ledger has. What is of others, or half written, a killed process has left.
        """
        needed = {job.tag for job in jobs if job.is_under_way}
        kept = {job.tag for job in jobs if job.is_over and job.record.is_clean}
        if not self.folder.is_dir():
            return
        with self.explained():
            for path in self.folder.iterdir():
                ours = _OURS.fullmatch(path.name)
                if ours is None or path.is_dir():
                    continue
                is_result = ours["result"] is not None and ours["tag"] in kept
                if path.suffix == ".part" or not (ours["tag"] in needed or is_result):
                    path.unlink(missing_ok=True)
        with suppress(OSError):  # something is in it
            self.folder.rmdir()
