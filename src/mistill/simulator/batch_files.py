"""The files of a server: on disk, in a folder that ends with it."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from mistill.simulator import refusals
from mistill.simulator.payloads import Json


@dataclass(slots=True)
class StoredFile:
    """A file that clients see. Times are Unix times in seconds.

    Attributes:
        sample_type, source: as the API names them: ``batch_request``, ``upload``; ``batch_result``, ``mistral``.
        ends_at: when it is gone; ``None``: never.
    """

    path: Path
    filename: str
    purpose: str
    sample_type: str
    source: str
    size: int
    num_lines: int
    signature: str
    visibility: str = "workspace"
    ends_at: float | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: float = field(default_factory=time.time)

    def card(self) -> Json:
        """A ``FileSchema``."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created_at),
            "filename": self.filename,
            "purpose": self.purpose,
            "sample_type": self.sample_type,
            "source": self.source,
            "num_lines": self.num_lines,
            "mimetype": "application/jsonl",
            "signature": self.signature,
            "expires_at": None if self.ends_at is None else int(self.ends_at),
            "visibility": self.visibility,
        }


class FileStore:
    """The files there are, by their id. One that has expired is gone when somebody looks for it."""

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._files: dict[str, StoredFile] = {}

    def __len__(self) -> int:
        return len(self._files)

    def new_path(self) -> Path:
        """Where a new file can be written."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="mistill-simulator-", ignore_cleanup_errors=True)
        return Path(self._folder.name, uuid.uuid4().hex)

    def add(self, file: StoredFile) -> None:
        self._files[file.id] = file

    def find(self, file_id: str) -> StoredFile | None:
        self._drop_ended()
        return self._files.get(file_id)

    def found(self, file_id: str) -> StoredFile:
        """
        Raises:
            RefusedRequest: there is none.
        """
        if (file := self.find(file_id)) is None:
            raise refusals.no_such("File", file_id)
        return file

    def newest_first(self) -> Iterator[StoredFile]:
        self._drop_ended()
        return reversed(self._files.values())

    def remove(self, file: StoredFile) -> None:
        del self._files[file.id]
        file.path.unlink()

    def close(self) -> None:
        """Removes them all from disk; how many there were can be asked all the same."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _drop_ended(self) -> None:
        now = time.time()
        ended = [file for file in self._files.values() if file.ends_at is not None and file.ends_at <= now]
        for file in ended:
            self.remove(file)


class FileWriter:
    """Writes a file of lines, and knows of it what its card says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._newlines = 0
        self._ends_in_line = False
        self._digest = hashlib.md5(usedforsecurity=False)
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None:
            self.path.unlink()

    @property
    def num_lines(self) -> int:
        return self._newlines + self._ends_in_line

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)
        self._newlines += data.count(b"\n")
        self._ends_in_line = not data.endswith(b"\n")

    def stored(self, filename: str, *, purpose: str, sample_type: str, source: str) -> StoredFile:
        return StoredFile(
            self.path,
            filename,
            purpose,
            sample_type,
            source,
            self.size,
            self.num_lines,
            self._digest.hexdigest()[:16],
        )
