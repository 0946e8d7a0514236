"""The ledgers of a run in shards, read as one: each question is asked of each, and what they say is put together.

A row's place is counted over all shards, and so are the numbers of rows and of settings: a ledger's own number times
the number of shards, and the shard's on top. So each has one, and says whose it is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate, chain, pairwise, repeat
from pathlib import Path
from typing import TypeVar, overload

import msgspec

from mistill.errors import LedgerError
from mistill.ledger.damage import Damage
from mistill.ledger.jobs import Job
from mistill.ledger.lane_usage import NOTHING_CACHED, CachedShares, RowUsage
from mistill.ledger.lock import holder_of, is_held
from mistill.ledger.looks import Stretch
from mistill.ledger.marks import Mark, RowMark
from mistill.ledger.model_counts import AnswersOfModel, ModelOf
from mistill.ledger.reader import (
    Cause,
    Counts,
    EarlierOutcome,
    LedgerReader,
    LedgerRow,
    PastAttempt,
    RowsOf,
    ShardCounts,
    Start,
    latencies_within,
)
from mistill.ledger.selection import EVERYTHING, Selection
from mistill.ledger.shard_files import read_sizes, shard_of, whole_of
from mistill.ledger.spending import Spending
from mistill.ledger.takings import Takings, TermsOf

T = TypeVar("T")


class _Kept(msgspec.Struct):
    """What of the record of a start has to be known here."""

    part_of: int | None = None


_KEPT = msgspec.json.Decoder(_Kept)


def _is_part(start: Start) -> bool:
    """Of a start of the run as a whole."""
    return _KEPT.decode(start.record).part_of is not None


def _last_known_at(start: Start) -> float:
    return start.started_at if start.ended_at is None else start.ended_at


class ShardsReader(LedgerReader):
    """Reads the ledgers of all shards of a run; see `LedgerReader`, which makes one of a folder.

    A ledger is open only while it is asked, so that thousands of them can be read.

    Raises:
        LedgerError: nobody can read the plan; later, from any method: a ledger is damaged or of another format.
    """

    def __init__(self, path: Path | str, *, as_it_is: bool = False) -> None:
        self.path = Path(path)
        self._as_it_is = as_it_is
        self._damages: dict[Damage, None] = {}
        self._sizes = read_sizes(self.path)
        self._firsts = [0, *accumulate(size.rows for size in self._sizes)]
        self._checked: set[int] = set()
        self._manifest: bytes | None = None
        self._held_open: dict[int, LedgerReader] = {}
        self._begun_before: frozenset[int] | None = None  # of a snapshot: the shards that are in it

    def close(self) -> None:
        """Nothing is open between two questions."""

    # --- one of several -----------------------------------------------------------------------------------------------

    def shard(self, number: int) -> Path:
        """The ledger of a shard, whether or not it is there."""
        return shard_of(self.path, number)

    def place_of(self, row: int) -> tuple[int, int]:
        """In which shard a row is (`LedgerRow.row`), and the number that it has there."""
        number, shard = divmod(row, len(self._sizes))
        return shard, number

    @overload
    def _number(self, shard: int, number: int) -> int: ...
    @overload
    def _number(self, shard: int, number: int | None) -> int | None: ...
    def _number(self, shard: int, number: int | None) -> int | None:
        return None if number is None else number * len(self._sizes) + shard

    @contextmanager
    def _opened(self, shard: int) -> Generator[LedgerReader]:
        if (kept := self._held_open.get(shard)) is not None:
            yield kept
            return
        with self._open(shard) as reader:
            yield reader

    def _open(self, shard: int) -> LedgerReader:
        """Its ledger, which may be another's that was put in its place: it is looked at the first time."""
        reader = LedgerReader(self.shard(shard), as_it_is=self._as_it_is)
        if shard not in self._checked:
            try:
                self._check(shard, reader)
            except BaseException:
                reader.close()
                raise
            self._checked.add(shard)
        return reader

    def _check(self, shard: int, reader: LedgerReader) -> None:
        if self._manifest is not None:
            with suppress(LedgerError):
                reader.check_shard(shard, self._manifest)
                return
        with suppress(LedgerError):  # what is wrong with it, whoever asks the whole is told
            self._manifest = self.manifest()  # by now: where nothing was spent, a start may change it
        reader.check_shard(shard, self._manifest)

    def _each(self) -> Iterator[tuple[int, LedgerReader]]:
        """The shards that were begun, with their readers."""
        for shard in range(len(self._sizes)):
            if self._has_begun(shard):
                with self._opened(shard) as reader:
                    yield shard, reader

    def _has_begun(self, shard: int) -> bool:
        """Within a snapshot: at its moment."""
        before = self._begun_before
        return self.shard(shard).is_file() if before is None else shard in before

    def _ask(self, question: Callable[[LedgerReader], T]) -> list[T]:
        return [question(reader) for _, reader in self._each()]

    def _ask_whole(self, question: Callable[[LedgerReader], T]) -> T:
        with LedgerReader(whole_of(self.path), as_it_is=self._as_it_is) as reader:
            return question(reader)

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """Within the block, all that is read of a shard is of one moment, and of each shard of its own.

        A shard that begins within the block is not in it. One that has ended before, and is begun again within the
        block, is read as it is at each question: thousands of them cannot be open at a time.
        """
        if self._begun_before is not None:
            yield  # the block stands in another one
            return
        with ExitStack() as stack:
            try:
                self._begun_before = frozenset(filter(self._has_begun, range(len(self._sizes))))
                for shard in sorted(self._begun_before):
                    if is_held(self.shard(shard)):
                        reader = stack.enter_context(self._open(shard))
                        stack.enter_context(reader.snapshot())
                        self._held_open[shard] = reader
                yield
            finally:
                self._held_open.clear()
                self._begun_before = None

    # --- the run as a whole -------------------------------------------------------------------------------------------

    def writer(self) -> int | None:
        paths = [whole_of(self.path), *map(self.shard, range(len(self._sizes)))]
        return next((holder_of(path) for path in paths if is_held(path)), None)

    def is_being_written(self) -> bool:
        return is_held(whole_of(self.path)) or any(map(is_held, map(self.shard, range(len(self._sizes)))))

    def manifest(self) -> bytes:
        return self._ask_whole(LedgerReader.manifest)

    def settings(self) -> bytes:
        return self._ask_whole(LedgerReader.settings)

    def starts(self) -> list[Start]:
        """Those of the run as a whole; then those of shards that were started by themselves since, and are no parts of
        these. Of them, one that was killed is the last: it is what is to be said of the run."""
        found = self._ask_whole(LedgerReader.starts)
        last = found[-1] if found else None
        if last is not None and last.ended_at is None and is_held(whole_of(self.path)):
            return found  # it goes on, with all shards
        every: list[tuple[bool, Start]] = []
        for starts in self._ask(LedgerReader.starts):
            every += [
                (one is starts[-1] and one.ended_at is None, one)
                for one in starts
                if (last is None or _last_known_at(one) > _last_known_at(last)) and not _is_part(one)
            ]
        every.sort(key=lambda one: (one[0], one[1].started_at))
        number = 1 if last is None else last.number + 1
        return found + [
            msgspec.structs.replace(one, number=place) for place, (_, one) in enumerate(every, number)
        ]

    def shards(self, rows_of: RowsOf) -> ShardCounts:
        counts = self._ask(LedgerReader.counts)
        wanted = self._ask_whole(rows_of)
        return ShardCounts(
            number=len(self._sizes),
            rows=self._firsts[-1],
            wanted=self._wanted(rows_of) if wanted is None else min(wanted, self._firsts[-1]),
            begun=len(counts),
            finished=sum(one.is_finished for one in counts),
        )

    def _wanted(self, rows_of: RowsOf) -> int:
        """Where each is started by itself: of those that were not begun all, unless a limit has ended before them."""
        known = {shard: rows_of(reader) for shard, reader in self._each()}
        wanted = [
            size.rows if (rows := known.get(shard)) is None else rows
            for shard, size in enumerate(self._sizes)
        ]
        cut = [shard for shard, size in enumerate(self._sizes) if wanted[shard] < size.rows]
        return sum(rows for shard, rows in enumerate(wanted) if not cut or shard <= cut[0] or shard in known)

    @property
    def input_rows(self) -> int | None:
        found = self._ask(lambda reader: reader.input_rows)
        known = [rows for rows in found if rows is not None]
        return sum(known) if len(known) == len(self._sizes) else None

    def counts(self) -> Counts:
        found = self._ask(LedgerReader.counts)
        costs = [one.cost for one in found if one.cost is not None]
        special = ("cost", "input_was_read_to_its_end")
        names = [name for name in Counts.__struct_fields__ if name not in special]
        was_read = len(found) == len(self._sizes) and all(one.input_was_read_to_its_end for one in found)
        return Counts(
            **{name: sum(getattr(one, name) for one in found) for name in names},
            cost=sum(costs) if costs or not any(one.unpriced_answers for one in found) else None,
            input_was_read_to_its_end=was_read,
        )

    def spending(self) -> Spending:
        return Spending.together(self._ask(LedgerReader.spending))

    def requests_since(self, started_at: float, until: float = math.inf) -> tuple[int, float, float | None]:
        found = self._ask(lambda reader: reader.requests_since(started_at, until))
        sent, last_at = sum(one[0] for one in found), max((one[1] for one in found), default=started_at)
        return sent, last_at, _sum_of_known(one[2] for one in found)

    def cost(self) -> float | None:
        return _sum_of_known(self._ask(LedgerReader.cost))

    def failures(self) -> list[Cause]:
        causes: dict[str, Cause] = {}
        for shard, reader in self._each():
            for one in reader.failures():
                causes[one.kind] = one.after(causes.get(one.kind), self._firsts[shard])
        return sorted(causes.values(), key=lambda cause: (-cause.count, cause.kind))

    def failed_since(self, at: float) -> frozenset[int]:
        return frozenset(
            self._number(shard, row) for shard, reader in self._each() for row in reader.failed_since(at)
        )

    def finish_reasons(self) -> dict[str, int]:
        total = Counter[str]()
        for one in self._ask(LedgerReader.finish_reasons):
            total.update(one)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))

    def latencies_s(self, shares: Sequence[float]) -> list[float]:
        """As of one, to four digits: of each answer its own would be in memory at the same time."""
        total = Counter[float]()
        for counts in self._ask(LedgerReader.latency_counts):
            total.update(counts)
        every = chain.from_iterable(repeat(s, answers) for s, answers in sorted(total.items()))
        return latencies_within(total.total(), every, shares)

    def longest_cut(self) -> int:
        return max(self._ask(LedgerReader.longest_cut), default=0)

    # --- settings -----------------------------------------------------------------------------------------------------

    def retry_settings(self) -> dict[int, bytes]:
        return {
            self._number(shard, number): text
            for shard, reader in self._each()
            for number, text in reader.retry_settings().items()
        }

    def settings_of(self, finish_reason: str) -> list[int | None]:
        found = {
            self._number(shard, number): None
            for shard, reader in self._each()
            for number in reader.settings_of(finish_reason)
        }
        return list(found)

    def answers_by_model(self, model_of: ModelOf) -> list[AnswersOfModel]:
        return [
            msgspec.structs.replace(one, settings=self._number(shard, one.settings))
            for shard, reader in self._each()
            for one in reader.answers_by_model(model_of)
        ]

    def takings(self, terms_of: TermsOf) -> list[Takings]:
        return [
            msgspec.structs.replace(one, settings=self._number(shard, one.settings))
            for shard, reader in self._each()
            for one in reader.takings(terms_of)
        ]

    def cached_shares(self) -> CachedShares:
        """Of the input of all shards together."""
        found = [(shard, reader.cached_shares()) for shard, reader in self._each()]
        live_tokens = sum(one.live_tokens for _, one in found)
        if not live_tokens:
            return NOTHING_CACHED
        firsts = [self._number(shard, one.first_row) for shard, one in found if one.first_row is not None]
        return CachedShares(
            live=sum(one.live * one.live_tokens for _, one in found) / live_tokens,
            first_row=min(firsts, default=None),
            live_tokens=live_tokens,
        )

    # --- batch jobs: there are none in shards -------------------------------------------------------------------------

    def has_kept_answers(self) -> bool:
        return False

    def retries_in_jobs(self, *, awaited: bool) -> list[int | None]:  # noqa: ARG002  the signature of one
        return []

    def jobs(self) -> list[Job]:
        return []

    def usage_of_jobs(self) -> RowUsage | None:
        return None

    def rows_of_jobs(self) -> Collection[int]:
        return ()

    def rows_by_jobs(self) -> int:
        return 0

    def row_usages(self, settings: int | None) -> list[RowUsage]:  # noqa: ARG002  the signature of one
        return []

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(
        self,
        selection: Selection = EVERYTHING,
        *,
        first: int = 0,
        until: int | None = None,
        with_unfit: bool = False,
        with_marks: bool = False,
    ) -> Iterator[LedgerRow]:
        for shard, begins, here in self._between(first, self._firsts[-1] if until is None else until):
            with self._opened(shard) as reader:
                try:
                    for row in reader.rows(
                        selection.after(begins),
                        first=here.start,
                        until=here.stop,
                        with_unfit=with_unfit,
                        with_marks=with_marks,
                    ):
                        yield self._placed(shard, row)
                finally:
                    self._note_all(begins, reader.damages)

    def _between(self, first: int, until: int) -> Iterator[tuple[int, int, range]]:
        """The shards that were begun with rows between two places of the input: each with its first place, and which of
        its own places lie between."""
        for shard, (begins, ends) in enumerate(pairwise(self._firsts)):
            here = range(max(0, first - begins), min(ends, until) - begins)
            if here and self._has_begun(shard):
                yield shard, begins, here

    def positions_that(self, selection: Selection, first: int, until: int, limit: int) -> list[int]:
        found: list[int] = []
        for shard, begins, here in self._between(first, until):
            if len(found) < limit:
                there, left = selection.after(begins), limit - len(found)
                with self._opened(shard) as reader:
                    found += [
                        begins + one for one in reader.positions_that(there, here.start, here.stop, left)
                    ]
        return found

    def draw_positions(self, most: int, of: int) -> list[int]:
        """As of one: of each shard the same share of its rows."""
        drawn = [(self._firsts[shard], reader.draw_positions(most, of)) for shard, reader in self._each()]
        return [begins + position for begins, positions in drawn for position in positions]

    def first_failures(self, each: int) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for shard, reader in self._each():
            for kind, positions in reader.first_failures(each).items():
                first = found.setdefault(kind, [])
                first += [self._firsts[shard] + position for position in positions][: each - len(first)]
        return found

    def rows_at(self, positions: Sequence[int], *, with_unfit: bool = False) -> Iterator[LedgerRow]:
        for shard, begins, here in self._between(0, self._firsts[-1]):
            there = [position - begins for position in positions if position - begins in here]
            if there:
                with self._opened(shard) as reader:
                    for row in reader.rows_at(there, with_unfit=with_unfit):
                        yield self._placed(shard, row)

    def stretches(self, started_at: float, stretch_s: float, number: int) -> list[Stretch]:
        found = self._ask(lambda reader: reader.stretches(started_at, stretch_s, number))
        names = Stretch.__struct_fields__
        return [
            Stretch(*(sum(getattr(one[place], name) for one in found) for name in names))
            for place in range(number)
        ]

    def positions_of(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for shard, reader in self._each():
            for digest, position in reader.positions_of(digests).items():
                found.setdefault(digest, self._firsts[shard] + position)
        return found

    @property
    def last_position(self) -> int | None:
        lasts = [(shard, reader.last_position) for shard, reader in self._each()]
        return max((self._firsts[shard] + last for shard, last in lasts if last is not None), default=None)

    def has_earlier_outcomes(self) -> bool:
        return any(self._ask(LedgerReader.has_earlier_outcomes))

    def mark_of(self, row: int, outcome_at: float | None) -> RowMark | None:
        shard, number = self.place_of(row)
        with self._opened(shard) as reader:
            return reader.mark_of(number, outcome_at)

    def marks(self) -> dict[Mark | None, int]:
        total = Counter[Mark | None]()
        for one in self._ask(LedgerReader.marks):
            total.update(one)
        return dict(total)

    def _placed(self, shard: int, row: LedgerRow) -> LedgerRow:
        return msgspec.structs.replace(
            row,
            row=self._number(shard, row.row),
            leader=self._number(shard, row.leader),
            position=self._firsts[shard] + row.position,
            settings=self._number(shard, row.settings),
            next_settings=self._number(shard, row.next_settings),
        )

    def _note_all(self, begins: int, damages: Iterable[Damage]) -> None:
        for one in damages:
            self._note(msgspec.structs.replace(one, position=begins + one.position))

    def attempts_of(self, row: int) -> list[PastAttempt]:
        shard, number = self.place_of(row)
        with self._opened(shard) as reader:
            return [
                msgspec.structs.replace(one, settings=self._number(shard, one.settings))
                for one in reader.attempts_of(number)
            ]

    def earlier_outcomes(self, row: int) -> list[EarlierOutcome]:
        shard, number = self.place_of(row)
        with self._opened(shard) as reader:
            return [
                msgspec.structs.replace(one, settings=self._number(shard, one.settings))
                for one in reader.earlier_outcomes(number)
            ]

    def damaged_attempts(self, limit: int) -> list[int]:
        found: list[int] = []
        for shard, reader in self._each():
            if len(found) < limit:
                found += [self._firsts[shard] + row for row in reader.damaged_attempts(limit - len(found))]
        return found

    def leave_to_parent(self) -> None:
        """In a forked child: it opens ledgers of its own."""


def rows_by_shard(reader: ShardsReader, rows: Iterable[int]) -> Mapping[int, list[int]]:
    """Rows (`LedgerRow.row`) by their shards, with the numbers that they have there."""
    found: dict[int, list[int]] = {}
    for row in rows:
        shard, number = reader.place_of(row)
        found.setdefault(shard, []).append(number)
    return found


def _sum_of_known(costs: Iterable[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None
