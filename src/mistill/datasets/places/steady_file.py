"""A file at a store, read on where a connection breaks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mistill.datasets import far_places
from mistill.datasets.places.store_errors import problem_of


class SteadyFile(io.RawIOBase):
    """A file object that is opened anew, and goes on where it was, when its connection breaks.

    Args:
        open_anew: gives a file object of the store's library, with ``seek``.
        check: raises where the file is not the one any more that was opened first.
        refusal: the error for one that stays, at so many bytes.
    """

    def __init__(
        self,
        open_anew: Callable[[], Any],
        check: Callable[[], object],
        refusal: Callable[[Exception, int], Exception],
    ) -> None:
        super().__init__()
        self._open_anew = open_anew
        self._check = check
        self._refusal = refusal
        self._at = 0
        self._file: Any = self._tried(open_anew)
        self._size: int = self._file.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        data = self._tried(lambda: self._read(wanted))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._let_go()
        super().close()

    def _read(self, wanted: int) -> bytes:
        if self._file is None:
            self._check()
            self._file = self._open_anew()
        self._file.seek(self._at)
        data: bytes = self._file.read(wanted)
        if len(data) < wanted:
            raise ConnectionError(f"the file ends after {self._at + len(data):,} of {self._size:,} bytes")
        return data

    def _tried(self, attempt: Callable[[], Any]) -> Any:
        waits = iter(far_places.WAITS_S)
        while True:
            try:
                return attempt()
            except Exception as error:
                wait = next(waits, None)
                if wait is None or problem_of(error) != "broken":
                    raise self._refusal(error, self._at) from None  # what is in it is secret
            self._let_go()
            time.sleep(wait)

    def _let_go(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            with suppress(Exception):  # it is broken
                file.close()
