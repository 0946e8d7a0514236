"""The lines that a batch job is to answer: read from disk one by one, checked first, in any order."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from mistill.simulator.batch_lines import LineRequest

_TURN_S = 0.005
_decode = msgspec.json.Decoder(LineRequest).decode


class Turns:
    """Lets the event loop do something else now and then, in work that never waits."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _TURN_S

    async def take(self) -> None:
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + _TURN_S


class InputLines:
    """The lines of some files, open for as long as the ``with`` block lasts, whoever deletes them meanwhile.

    In memory are their places alone.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open = ExitStack()
        self._files: list[IO[bytes]] = []
        self._places = array("Q")
        self._file_of = array("H")

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._files = [opened.enter_context(path.open("rb")) for path in self._paths]
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._places)

    async def check(self) -> Counter[str]:
        """Finds the lines. What is wrong with them, and how often: with any such line, none can be answered."""
        problems: Counter[str] = Counter()
        seen: set[bytes] = set()
        turns = Turns()
        for number, file in enumerate(self._files):
            place = 0
            for raw in file:
                if raw.strip():
                    problems.update(_problems_of(raw, seen))
                    self._places.append(place)
                    self._file_of.append(number)
                place += len(raw)
                await turns.take()
        if not self._places:
            problems["The input has no requests"] += 1
        return problems

    def shuffled(self, rng: random.Random) -> Iterator[LineRequest]:
        """All lines, in any order. They have been checked."""
        order = array("Q", range(len(self)))
        rng.shuffle(order)
        for index in order:
            file = self._files[self._file_of[index]]
            file.seek(self._places[index])
            yield _decode(file.readline())


def _problems_of(raw: bytes, seen: set[bytes]) -> Iterator[str]:
    try:
        line = _decode(raw)
    except msgspec.ValidationError as error:
        yield f"Invalid request: {error}"
        return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield "Invalid JSON line"
        return
    if line.custom_id is None:
        return
    digest = blake2b(line.custom_id.encode(errors="surrogatepass"), digest_size=8).digest()
    if digest in seen:
        yield "Duplicate custom_id"
    seen.add(digest)
