"""What was learned of an (endpoint, key, model), kept in the user's cache for the next process.

One file each, ``limits/HASH.json`` in `cache_dir`: a JSON object of the fields of `LearnedLimits`, as UTF-8. ``HASH``
is of endpoint, key and model together, so neither the key nor anything else that is secret can be read there. It may
be missing, damaged or of another version at any time: then nothing was learned.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct

from mistill.struct_types import look_at
from mistill.user_folders import cache_dir

VERSION = 1
_MAX_BYTES = 4096
_MAX_FUTURE_S = 60.0
"""A file from further ahead was written under a clock that was wrong."""


_MAX_IN_FLIGHT = 100_000
_MIN_PER_MINUTE = 0.1
_MAX_PER_MINUTE = 1e12
"""What is beyond these no process has learned: a quota of one request in years would hold a start for ever."""


class LearnedLimits(Struct, frozen=True, kw_only=True):
    """What one process has learned. A reader takes a file of its own ``version`` only; unknown fields are passed over.

    Attributes:
        learned_at: when, in unix seconds.
        in_flight: requests that were in flight at once without being too many.
        was_full: more of them were too many: the server said that it was full.
        requests_per_minute, tokens_per_minute: the quotas; ``None`` where none was found.
        source: ``server``: it told them; ``inferred``: refusals showed the one of requests.
        by_second: the server was found to limit by the second, so that requests are best spread evenly.
        used_requests, used_tokens: of the quotas, in the window that ended at ``learned_at``.
    """

    version: int = VERSION
    learned_at: float
    in_flight: int
    was_full: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    source: Literal["server", "inferred"] | None = None
    by_second: bool = False
    used_requests: int = 0
    used_tokens: int = 0

    @property
    def may_be_in_flight(self) -> int:
        """Requests that may leave at once: twice as many where nothing was too many, since rows may have run short."""
        return self.in_flight if self.was_full or self.source is not None else 2 * self.in_flight

    @property
    def is_sane(self) -> bool:
        """It can have been learned."""
        quotas = (self.requests_per_minute, self.tokens_per_minute)
        return (
            self.version == VERSION
            and 0 <= self.in_flight <= _MAX_IN_FLIGHT
            and min(self.used_requests, self.used_tokens) >= 0
            and max(self.used_requests, self.used_tokens) <= _MAX_PER_MINUTE
            and all(quota is None or _MIN_PER_MINUTE <= quota <= _MAX_PER_MINUTE for quota in quotas)
        )


class LimitsFile:
    """Reads and writes it. Nothing that fails here is anybody's failure.

    Args:
        name: stands for endpoint, key and model, and tells none of them.
        max_age_s: what is older was not learned.
    """

    def __init__(self, name: str, max_age_s: float) -> None:
        self._path = cache_dir() / "limits" / f"{name}.json"
        self._max_age_s = max_age_s
        self._lock = threading.Lock()

    def read(self) -> LearnedLimits | None:
        """What is in it, unless it is too old."""
        try:
            with self._path.open("rb") as file:
                found = msgspec.json.decode(file.read(_MAX_BYTES), type=LearnedLimits)
        except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        age_s = time.time() - found.learned_at
        return found if found.is_sane and -_MAX_FUTURE_S <= age_s <= self._max_age_s else None

    def write_soon(self, learned: LearnedLimits) -> None:
        """From a thread of its own: a home directory may be slow. The interpreter does not end before it has."""
        with suppress(RuntimeError):  # no thread can be started any more: the interpreter ends
            threading.Thread(target=self._write, args=(learned,), name="mistill-limits").start()

    def _write(self, learned: LearnedLimits) -> None:
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        with suppress(OSError), self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(msgspec.json.encode(learned))
                beside.replace(self._path)
            finally:
                beside.unlink(missing_ok=True)
            self._forget_others()

    def _forget_others(self) -> None:
        """Deletes what is too old for anybody: one endpoint may be there for an hour only."""
        oldest_s = time.time() - self._max_age_s
        for path in self._path.parent.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < oldest_s:
                    path.unlink()


look_at(LearnedLimits)
