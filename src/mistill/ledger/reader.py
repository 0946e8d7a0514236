"""The reading side of a ledger: for the output, for status, for whoever picks rows; while a run writes, and after."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, cast

import msgspec

from mistill.errors import LedgerError
from mistill.finish_reasons import LIMIT_REACHED
from mistill.ledger import database
from mistill.ledger.checksums import answer_sum, error_sum, record_sum
from mistill.ledger.damage import Damage, DamagedMeta, Part, SQLiteErrors, damage_at, means_damage
from mistill.ledger.error_record import ErrorRecord, decode_error
from mistill.ledger.files import main_name
from mistill.ledger.forks import forget, of_another_process, register_for_forks
from mistill.ledger.jobs import Job, has_jobs, read_jobs
from mistill.ledger.lane_usage import CachedShares, RowUsage, cached_shares, row_usages, rows_by_jobs
from mistill.ledger.lock import holder_of, is_held
from mistill.ledger.looks import Stretch, draw_positions, first_failures, read_stretches
from mistill.ledger.marks import MARK_OF_OUTCOME, MARKED_ROWS, RowMark
from mistill.ledger.model_counts import AnswersOfModel, ModelOf, count_bodies, read_model_counts
from mistill.ledger.row_set import RowSet
from mistill.ledger.selection import EVERYTHING, Selection
from mistill.ledger.shard_files import is_in_shards
from mistill.ledger.spending import IS_DAMAGED, Spending, read_spending
from mistill.ledger.tables import (
    ATTEMPT_IS_SOUND,
    IS_WITH_SERVER,
    NOT_IN_INDEX,
    OUTCOME_IS_SOUND,
    ROW_IS_SOUND,
    SETTINGS_SUM,
    START_SUM,
    WAITS,
    WITH_SERVER,
    Mark,
)
from mistill.ledger.takings import Takings, TermsOf, read_takings
from mistill.process import OwnProcess, keep_unused
from mistill.wording import words

_MAX_NAMED = 5
_MAX_POSITION = 2**63 - 1
_IS_FIRST = "coalesce(request, id) = id"
"""An attempt as it is counted: rows that one request asks have a line each, and are asked by one attempt."""

_TOOK_INPUT = "CASE status WHEN 'answered' THEN input_tokens END"
"""Of others in jobs it is what they weigh."""

_HAS_LATENCY = (
    f"status = 'answered' AND job IS NULL AND typeof(ended_at - sent_at) = 'real' AND {ATTEMPT_IS_SOUND}"
)


class LedgerRow(msgspec.Struct, frozen=True, gc=False):
    """A row of the current input with its outcome.

    ``record``: the row of the input, JSON; ``answers``: the raw bodies of its generations; ``error``: the
    JSON of an `ErrorRecord`; ``settings``: the number of the retry's settings that it was asked with, see
    `LedgerReader.retry_settings`, and ``None`` for the run's own; ``asked_again``: a retry of it is due, with
    ``next_settings``, and this is still the earlier outcome;
    ``copied``: it shares the outcome of an identical row, ``leader``, and cost nothing; ``ended_at``: unix seconds;
    ``cost``: US dollars; ``damaged``: the part of it that is damaged in the ledger. Such a row is a failure with an
    error that says so, and a damaged record is an empty one. ``digest``: of the row and the files that it names, as
    they were read; ``None`` where it could not be asked then. ``unfit``: the last answer to a row that failed, and
    ``said``: what somebody said of the outcome, where that was asked for.
    """

    row: int
    position: int
    record: bytes
    state: Literal["completion", "failure", "pending"]
    answers: tuple[bytes, ...]
    finish_reason: str | None
    error: str | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float | None
    settings: int | None
    next_settings: int | None
    maybe_billed: bool
    asked_again: bool
    copied: bool
    leader: int
    damaged: Part | None = None
    digest: bytes | None = None
    unfit: bytes | None = None
    said: RowMark | None = None


class EarlierOutcome(msgspec.Struct, frozen=True):
    """An outcome that a later one replaced; fields as in ``LedgerRow``."""

    state: Literal["completion", "failure"]
    answers: tuple[bytes, ...]
    finish_reason: str | None
    error: str | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float
    settings: int | None


class PastAttempt(msgspec.Struct, frozen=True):
    """An attempt at a row as the ledger has it. Times in unix seconds; ``cost`` in US dollars.

    Attributes:
        body: the answer as it came.
        status: how it ended; ``None`` where nothing has ended it: it is in flight, or was when the process died.
        error: the JSON of an `ErrorRecord`, where it failed.
        settings: as in `LedgerRow`.
        request: the first attempt of those that left in one request; ``None`` where that asked one row.
        job: the number of its `Job`; ``None``: it was a request of its own.
        damaged: the ledger did not write its figures or its error so. Then an error that cannot be read is ``None``.
    """

    body: bytes | None
    number: int
    sent_at: float
    ended_at: float | None
    status: Literal["answered", "failed", "maybe_billed", "not_sent"] | None
    error: str | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    cost: float | None
    settings: int | None
    request: int | None
    job: int | None = None
    damaged: bool = False


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the current input by state (``rows`` is their sum), and the attempts of all rows ever.

    An attempt is one HTTP try, however many rows it asks. ``maybe_billed`` are some of them, ``damaged_attempts`` some
    of these: what the ledger says of them, it did not write, so it is in no sum. ``open_attempts``: those
    that nothing has ended: in flight, or cut off when the process died, and maybe billed, as the next start counts
    them. ``with_server``: those that wait in jobs, which are none of them.
    ``asked_again``: rows that a retry is to ask and did not come to yet; they count by the outcome that they have.
    ``cached_tokens`` are some of ``input_tokens``. ``cost``: US
    dollars, of attempts whose price is known; ``None`` where there are answers and none has
    one. ``unpriced_answers``: requests that were answered and are not in it.
    """

    rows: int
    completions: int
    failures: int
    pending: int
    asked_again: int
    no_longer_in_input: int
    attempts: int
    maybe_billed: int
    damaged_attempts: int
    open_attempts: int
    with_server: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None
    unpriced_answers: int
    input_was_read_to_its_end: bool

    @property
    def is_finished(self) -> bool:
        """Every row of the input has an outcome."""
        return self.input_was_read_to_its_end and not self.pending


class Cause(msgspec.Struct, frozen=True):
    """Failures of one kind. Rows count from 0.

    Attributes:
        count: how many.
        row: the first of those that most of them are like, by the hint: what one of them says to do may be of no help
            to the others. ``error``: its error. ``row_id``: what it calls itself, where the run has a column for that.
        alike: how many have that hint; 0: nobody has counted them.
    """

    kind: str
    count: int
    row: int
    error: ErrorRecord
    row_id: str | None = None
    alike: int = 0

    @property
    def is_of_all(self) -> bool:
        """All of them have the hint of ``error``, as far as anybody knows."""
        return self.alike in (0, self.count)

    def after(self, earlier: Cause | None, rows: int) -> Cause:
        """Together with those of the same kind among so many rows that stand before."""
        mine = msgspec.structs.replace(self, row=self.row + rows)
        if earlier is None:
            return mine
        total = earlier.count + self.count
        if earlier.error.hint == self.error.hint:
            return msgspec.structs.replace(earlier, count=total, alike=earlier.alike + self.alike)
        return msgspec.structs.replace(mine if self.alike > earlier.alike else earlier, count=total)


class Start(msgspec.Struct, frozen=True):
    """One start of the run: a process that worked on it. Times in unix seconds.

    ``ended_at`` is ``None`` while it goes on, and for ever where it was killed. ``record`` is what it said of itself,
    as JSON.
    """

    number: int
    started_at: float
    ended_at: float | None
    record: bytes


class ShardCounts(msgspec.Struct, frozen=True):
    """Shards of a run: in how many it is cut, and of how many rows; how many of them were begun, and are finished.

    ``wanted``: of these rows, those that it is about; the others a limit leaves out.
    """

    number: int
    rows: int
    wanted: int
    begun: int
    finished: int


RowsOf: TypeAlias = "Callable[[LedgerReader], int | None]"


class LedgerReader:
    """Reads a ledger, never writes it, whether or not a run is writing it; and all ledgers of a run in shards as one.

    ``LedgerReader(path)`` of a folder, where such a run remembers, is a `ShardsReader`: whoever reads a run need not
    know in how many ledgers it is.

    A ledger of an older format becomes one of the newest first; ``as_it_is``: a copy of it does, and it stays so.

    What does not fit its checksum is never given for what it was: it is left out or reported as damaged.

    Raises:
        LedgerError: there is none, it is of another format, or it is damaged.
    """

    def __new__(cls, path: Path | str, *, as_it_is: bool = False) -> Self:  # noqa: ARG004  `__init__` has a use for it
        if cls is LedgerReader and is_in_shards(Path(path)):
            from mistill.ledger.shards_reader import ShardsReader

            return super().__new__(cast("type[Self]", ShardsReader))
        return super().__new__(cls)

    def __init__(self, path: Path | str, *, as_it_is: bool = False) -> None:
        self.path = Path(path)
        self._as_it_is = as_it_is
        self._connected: sqlite3.Connection | None = database.open_to_read(self.path, as_it_is=as_it_is)
        self._process = OwnProcess()
        self._damages: dict[Damage, None] = {}
        register_for_forks(self)

    def close(self) -> None:
        forget(self)
        if self._connected is not None:
            self._connected.close()

    def busy(self) -> AbstractContextManager[object]:
        """Whoever reads in one thread does not fork in another; see `Forkable`."""
        return nullcontext()

    def leave_to_parent(self) -> None:
        """In a forked child: it reads through a connection of its own, from its next question on."""
        if self._connected is not None:
            keep_unused(self._connected)
            self._connected = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._connected is None:
            self._connected = database.open_to_read(self.path, as_it_is=self._as_it_is)
        return self._connected

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def damages(self) -> list[Damage]:
        """What was found damaged in what was read so far."""
        return list(self._damages)

    def check_damages(self, done: str = "") -> None:
        """Call this when all has been read.

        Args:
            done: what was made of the rest, for the message.

        Raises:
            LedgerError: something was damaged; names the rows, and says how each becomes whole again.
        """
        if not self._damages:
            return
        damages = sorted(self._damages, key=lambda damage: damage.position)
        named = ", ".join(str(damage) for damage in damages[:_MAX_NAMED])
        if len(damages) > _MAX_NAMED:
            named += f" and {len(damages) - _MAX_NAMED} more"
        hints = {damage.part: damage.hint for damage in damages}
        parts = [part for name, hint in hints.items() for part in ("; ", f"{name}: ", hint)]
        raise LedgerError(
            f"{done}{'; but ' if done else ''}{len(damages)} rows are damaged in the ledger {self.path}: {named}",
            hint=words(*parts[1:]),
        )

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """Within the block, all that is read is of one moment, whatever a run writes meanwhile."""
        if self._connection.in_transaction:
            yield  # the block stands in another one
            return
        with database.explained(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def writer(self) -> int | None:
        """The process whose run is on the ledger now, where there is one that says who it is."""
        return holder_of(main_name(self.path)[0])

    def is_being_written(self) -> bool:
        """Whether a run is on the ledger now."""
        return is_held(main_name(self.path)[0])

    def requests_since(self, started_at: float, until: float = math.inf) -> tuple[int, float, float | None]:
        """How many requests left by themselves in a stretch of time (unix seconds), the last moment of which one knows,
        and what was asked in it has cost; ``None``: nobody knows that."""
        with database.explained(self.path):
            requests, sent_at, ended_at, cost = self._connection.execute(
                f"""SELECT coalesce(sum(job IS NULL AND {_IS_FIRST}), 0), max(sent_at), max(ended_at),
                       sum(CASE WHEN NOT {IS_DAMAGED} THEN cost END)
                   FROM attempts
                   WHERE sent_at >= ? AND sent_at < ?""",  # noqa: S608 - our own words
                (started_at, until),
            ).fetchone()
        return requests, max(started_at, sent_at or 0.0, min(ended_at or 0.0, until)), cost

    def cost(self) -> float | None:
        """US dollars of all answers of all starts; ``None``: nobody knows the price of any."""
        with database.explained(self.path):
            return self._connection.execute(
                f"""SELECT CASE WHEN count(cost) OR NOT count({_TOOK_INPUT}) THEN total(cost) END
                    FROM attempts WHERE NOT {IS_DAMAGED}"""  # noqa: S608 - our own words
            ).fetchone()[0]

    def manifest(self) -> bytes:
        """What makes it the same run, as JSON, as ``Ledger.open`` was given it."""
        return self._meta("manifest")

    def settings(self) -> bytes:
        """What the last start was set to beside the manifest, as JSON, as ``Ledger.open`` was given it."""
        return self._meta("settings")

    def check_shard(self, shard: int, manifest: bytes | None) -> None:
        """``LedgerError`` if it stands in the place of a shard of the run with this manifest, and is another's."""
        with database.explained(self.path):
            database.check_shard(self.path, self._connection, shard, manifest)

    def _meta(self, key: str) -> bytes:
        with database.explained(self.path):
            value = database.read_meta(self._connection, key)
            if value is None:
                raise DamagedMeta(f"its {key} is lost")
        return value.encode()

    def retry_settings(self) -> dict[int, bytes]:
        """Number → what a retry asked with in place of the run's own settings, as JSON. Damaged ones are left out."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"SELECT id, settings FROM settings WHERE checksum IS {SETTINGS_SUM} ORDER BY id"  # noqa: S608 - our own words
            ).fetchall()
        return {number: text.encode() for number, text in found}

    def has_kept_answers(self) -> bool:
        """Whether rows wait that no job asks any more, and that have answers of jobs in the ledger already."""
        return bool(self._kept("a.status = 'answered'"))

    def retries_in_jobs(self, *, awaited: bool) -> list[int | None]:
        """The numbers of settings (``None``: the run's own) by which a retry that goes on has asked rows in jobs whose
        answers, or refusals, wait in the ledger.

        Args:
            awaited: or are awaited from the server.
        """
        ended = "(a.status = 'answered' OR (a.status = 'failed' AND a.error IS NOT NULL))"
        found = {settings for is_retry, settings in self._kept(ended) if is_retry}
        if awaited:
            query = f"SELECT DISTINCT settings FROM rows WHERE asked_again AND id IN {WITH_SERVER}"  # noqa: S608 - our own words
            with database.explained(self.path):
                found.update(settings for (settings,) in self._connection.execute(query))
        return sorted(found, key=lambda number: number or 0)

    def _kept(self, condition: str) -> list[tuple[bool, int | None]]:
        """How rows are asked that wait for an outcome and are in no job any more, where an attempt of a job fulfils a
        condition: by a retry or not, and with what settings."""
        with database.explained(self.path):
            if not has_jobs(self._connection):
                return []
            return self._connection.execute(
                f"""SELECT DISTINCT r.asked_again, r.settings
                    FROM rows AS r LEFT JOIN outcomes AS o ON o.row = r.id JOIN attempts AS a ON a.row = r.id
                    WHERE (o.row IS NULL OR r.asked_again OR o.state = 'failure') AND r.position IS NOT NULL
                        AND a.job IS NOT NULL AND {condition} AND a.settings IS r.settings AND {WAITS}
                        AND r.id NOT IN {WITH_SERVER}"""  # noqa: S608 - our own words
            ).fetchall()

    def longest_cut(self) -> int:
        """The most output tokens of one generation that was cut off: of a row that ended at the limit of tokens."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"""SELECT max(output_tokens) FROM attempts
                    WHERE status = 'answered' AND EXISTS (
                        SELECT 1 FROM outcomes AS o WHERE o.row = attempts.row AND o.finish_reason = ?
                            AND o.settings IS attempts.settings) AND {ATTEMPT_IS_SOUND}""",  # noqa: S608 - our own words
                (LIMIT_REACHED,),
            ).fetchone()[0]
        return found or 0

    def settings_of(self, finish_reason: str) -> list[int | None]:
        """The numbers of the settings that rows were asked with which ended so; ``None``: the run's own."""
        with database.explained(self.path):
            found = self._connection.execute(
                "SELECT DISTINCT settings FROM outcomes WHERE finish_reason = ?", (finish_reason,)
            ).fetchall()
        return [number for (number,) in found]

    def attempts_of(self, row: int) -> list[PastAttempt]:
        """All attempts at a row (``LedgerRow.leader``), the oldest first; of a damaged answer, there is no body."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"""SELECT id, sent_at, ended_at, status, CAST(error AS BLOB),
                       CASE status WHEN 'answered' THEN input_tokens END, cached_tokens, output_tokens, cost,
                       settings, request, job, damaged, error_checksum, body, answers.checksum
                   FROM (SELECT *, {IS_DAMAGED} AS damaged, checksum >> 32 AS error_checksum FROM attempts) AS a
                       LEFT JOIN answers ON attempt = id WHERE row = ? ORDER BY id""",  # noqa: S608 - our own words
                (row,),
            ).fetchall()
        return [_past_attempt(row, *line) for line in found]

    def damaged_attempts(self, limit: int) -> list[int]:
        """Rows of the current input (by position) of which attempts are damaged: so many, the first ones."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"""SELECT DISTINCT position FROM rows JOIN attempts AS a ON a.row = rows.id
                    WHERE position IS NOT NULL AND a.id IN (SELECT id FROM attempts WHERE {IS_DAMAGED})
                    ORDER BY position LIMIT ?""",  # noqa: S608 - our own words
                (limit,),
            ).fetchall()
        return [position for (position,) in found]

    def _unfit_answers(self) -> dict[int, int]:
        """Row (``LedgerRow.leader``) → its last answered attempt, of rows that failed though they were answered."""
        with database.explained(self.path):
            found = self._connection.execute(
                # With max(), SQLite takes the others from the row that has the maximum.
                """SELECT a.row, max(a.id) FROM attempts AS a JOIN outcomes AS o ON o.row = a.row
                   WHERE o.state = 'failure' AND a.status = 'answered' AND a.settings IS o.settings GROUP BY a.row"""
            ).fetchall()
        return dict(found)

    def _answer(self, row: int, attempt: int) -> bytes | None:
        """The answer of an attempt at a row, as it came; ``None`` where it is damaged."""
        with database.explained(self.path):
            bodies = self._bodies(row, [attempt])
        return bodies[0] if bodies else None

    def starts(self) -> list[Start]:
        """The starts of the run, the oldest first. Those of before format 2 are not known, nor are damaged ones."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"SELECT id, started_at, ended_at, record FROM starts WHERE checksum IS {START_SUM} ORDER BY id"  # noqa: S608 - our own words
            ).fetchall()
        return [Start(number, started, ended, record.encode()) for number, started, ended, record in found]

    def shards(self, rows_of: RowsOf) -> ShardCounts | None:  # noqa: ARG002  each of several is asked
        """How its shards stand; ``None``: it is not in shards.

        Args:
            rows_of: how many rows the starts that a ledger knows of are about; ``None``: they do not say.
        """
        return None

    def jobs(self) -> list[Job]:
        """The jobs of the run, the oldest first. Damaged ones are left out."""
        with database.explained(self.path):
            return read_jobs(self._connection)

    def answers_by_model(self, model_of: ModelOf) -> list[AnswersOfModel]:
        """How many answers came of which model, the one that answered last at the end.

        Args:
            model_of: reads it out of an answer's body, where an earlier version did not count.
        """
        with database.explained(self.path):
            found = read_model_counts(self._connection)
            return count_bodies(self._connection, model_of) if found is None else found

    def takings(self, terms_of: TermsOf) -> list[Takings]:
        """What all attempts of all starts have taken, by day, model and lane. Reads every answer.

        Args:
            terms_of: reads out of an answer's body by what it is billed.
        """
        with self.snapshot():
            return read_takings(self._connection, terms_of)

    def usage_of_jobs(self) -> RowUsage | None:
        """What all answers of jobs took together; ``None``: there are no jobs."""
        with database.explained(self.path):
            if not has_jobs(self._connection):
                return None
            read, written, cached, cost = self._connection.execute(
                f"""SELECT total(input_tokens), total(output_tokens), total(cached_tokens), sum(cost) FROM attempts
                    WHERE job IS NOT NULL AND status = 'answered' AND NOT {IS_DAMAGED}"""  # noqa: S608 - our own words
            ).fetchone()
        return RowUsage(True, int(read), int(written), int(cached), cost, is_first=False)

    def rows_of_jobs(self) -> Collection[int]:
        """The rows (``LedgerRow.leader``) that jobs have answered."""
        with database.explained(self.path):
            found = self._connection.execute(
                "SELECT DISTINCT row FROM attempts WHERE job IS NOT NULL AND status = 'answered' ORDER BY row"
            )
            return RowSet(row for (row,) in found)

    def rows_by_jobs(self) -> int:
        """Rows of the current input whose answer came in a job."""
        with database.explained(self.path):
            return rows_by_jobs(self._connection) if has_jobs(self._connection) else 0

    def row_usages(self, settings: int | None) -> list[RowUsage]:
        """What rows took by each lane, of the newest answers to these settings; ``None``: the run's own."""
        with database.explained(self.path):
            return row_usages(self._connection, settings)

    def cached_shares(self) -> CachedShares:
        """Which share of the input was cached by each lane."""
        with database.explained(self.path):
            return cached_shares(self._connection)

    def failed_since(self, at: float) -> frozenset[int]:
        """The rows (`LedgerRow.row`) that have failed since then, in unix seconds, and were not answered after that."""
        with database.explained(self.path):
            found = self._connection.execute(
                "SELECT row FROM outcomes WHERE state = 'failure' AND ended_at >= ?", (at,)
            ).fetchall()
        return frozenset(row for (row,) in found)

    def finish_reasons(self) -> dict[str, int]:
        """Why answers ended → how many rows of the current input, the most frequent first.

        Rows are among them that failed with an answer that did not do: one that was cut off fits no schema.
        """
        with database.explained(self.path):
            found = self._connection.execute(
                """SELECT finish_reason, count(*) AS rows FROM row_states
                   WHERE position IS NOT NULL AND typeof(finish_reason) = 'text'
                   GROUP BY finish_reason ORDER BY rows DESC, finish_reason"""
            ).fetchall()
        return dict(found)

    def latencies_s(self, shares: Sequence[float]) -> list[float]:
        """Seconds within which such shares (0 to 1) of all answers came; empty where there is no answer yet."""
        with database.explained(self.path):
            answers = self._connection.execute(
                f"SELECT count(*) FROM attempts WHERE {_HAS_LATENCY}"  # noqa: S608 - our own words
            ).fetchone()[0]
            # No generator of ours: it would be resumed for each row.
            each = map(
                itemgetter(0),
                self._connection.execute(
                    f"SELECT ended_at - sent_at AS s FROM attempts WHERE {_HAS_LATENCY} ORDER BY s"  # noqa: S608 - our own words
                ),
            )
            return latencies_within(answers, each, shares)

    def latency_counts(self) -> dict[float, int]:
        """How many answers took how many seconds, to four digits: some thousands of numbers, however many answers."""
        with database.explained(self.path):
            found = self._connection.execute(
                f"""SELECT CASE WHEN s < 0.1 THEN round(s, 5) WHEN s < 1 THEN round(s, 4) WHEN s < 10 THEN round(s, 3)
                        ELSE round(s, 2) END AS about, count(*)
                    FROM (SELECT ended_at - sent_at AS s FROM attempts WHERE {_HAS_LATENCY}) GROUP BY about"""  # noqa: S608 - our own words
            )
            return dict(found.fetchall())

    def rows(
        self,
        selection: Selection = EVERYTHING,
        *,
        first: int = 0,
        until: int | None = None,
        with_unfit: bool = False,
        with_marks: bool = False,
    ) -> Iterator[LedgerRow]:
        """The selected rows of the current input from the position ``first`` on, in its order, one in memory at a time.

        Rows of which nobody can say whether they are selected, because they are damaged, are given too. One of which
        nothing is known is in `damages` only.

        Args:
            until: the position before which they end; ``None``: all of them.
            with_unfit: rows that failed bring the last answer that they got.
            with_marks: rows bring what was said of their outcomes.
        """
        found = self._rows(selection, first, until)
        if with_unfit:
            found = self._with_unfit(found, self._unfit_answers())
        return self._with_marks(found) if with_marks else found

    def _with_unfit(self, rows: Iterator[LedgerRow], unfit: Mapping[int, int]) -> Iterator[LedgerRow]:
        for row in rows:
            if row.state == "failure" and row.leader in unfit:
                yield msgspec.structs.replace(row, unfit=self._answer(row.leader, unfit[row.leader]))
            else:
                yield row

    def _with_marks(self, rows: Iterator[LedgerRow]) -> Iterator[LedgerRow]:
        for row in rows:
            said = self.mark_of(row.row, row.ended_at)
            yield row if said is None else msgspec.structs.replace(row, said=said)

    def mark_of(self, row: int, outcome_at: float | None) -> RowMark | None:
        """What somebody said of an outcome of a row (``LedgerRow.row``), by when it came; a damaged mark is none."""
        with database.explained(self.path):
            found = self._read_or_none(MARK_OF_OUTCOME, (row, outcome_at))
        return RowMark(*found[0]) if found else None

    def marks(self) -> dict[Mark | None, int]:
        """How many rows of the current input are marked so; ``None``: those that have a note alone."""
        with database.explained(self.path):
            return dict(self._read_or_none(MARKED_ROWS, ()) or ())

    def positions_that(self, selection: Selection, first: int, until: int, limit: int) -> list[int]:
        """The positions of the first selected rows between two, without what is damaged in them being looked for: ten
        times as fast as `rows` where few are selected."""
        query = f"""SELECT position FROM row_states
            WHERE position >= ? AND position < ? AND ({selection.sql}) ORDER BY position LIMIT ?"""  # noqa: S608 - our own words
        with database.explained(self.path):
            found = self._connection.execute(query, (first, until, *selection.values, limit)).fetchall()
        return [position for (position,) in found]

    def positions_of(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """Where rows of the current input stand that have these digests, each at its first place. Looks at all rows."""
        marks = ", ".join("?" * len(digests))
        query = f"""SELECT digest, min(position) FROM rows
            WHERE position IS NOT NULL AND digest IN ({marks}) GROUP BY digest"""  # noqa: S608 - our own words
        with database.explained(self.path):
            return dict(self._connection.execute(query, digests).fetchall())

    def draw_positions(self, most: int, of: int) -> list[int]:
        """Places of answered rows of the current input, in order: all ``of`` them, or about ``most`` drawn at random,
        by each look the same ones."""
        with database.explained(self.path):
            return draw_positions(self._connection, most, of)

    def first_failures(self, each: int) -> dict[str, list[int]]:
        """Kind of error → so many places of rows that failed so, the first ones."""
        with database.explained(self.path):
            return first_failures(self._connection, each)

    def rows_at(self, positions: Sequence[int], *, with_unfit: bool = False) -> Iterator[LedgerRow]:
        """The rows at some places, in order, one in memory at a time. Those that cannot be read are left out.

        Args:
            with_unfit: as for `rows`.
        """
        found = self._rows_at(positions)
        return self._with_unfit(found, self._unfit_answers()) if with_unfit else found

    def _rows_at(self, positions: Sequence[int]) -> Iterator[LedgerRow]:
        query = _rows_query(EVERYTHING, *_FAT, "position = ?")
        with database.explained(self.path):
            for position in positions:
                for _, *line in self._read_or_none(query, (position,)) or ():
                    if (row := self._row(position, line)) is not None:
                        yield row

    def stretches(self, started_at: float, stretch_s: float, number: int) -> list[Stretch]:
        """What went on since a moment (unix seconds), in so many stretches of time of that length."""
        with database.explained(self.path):
            return read_stretches(self._connection, started_at, stretch_s, number)

    def _rows(self, selection: Selection, first: int, until: int | None) -> Iterator[LedgerRow]:
        last = _MAX_POSITION if until is None else until
        query = _rows_query(selection, *_FAT, "position >= ? AND position < ?")
        with database.explained(self.path):
            if first == 0 and until is None:
                for (position,) in self._read_or_none(NOT_IN_INDEX, ()) or ():
                    self._note(Damage(position, "row"))
            next_position = first
            gaps: list[range] = []
            try:
                connection = self._connection
                for position, *line in connection.execute(query, (first, last, *selection.values)):
                    if not isinstance(position, int) or position < next_position:
                        raise DamagedMeta("its index is out of order")
                    row = self._row(position, line)
                    if row is None:
                        continue  # nor can its position be believed
                    if position > next_position:
                        gaps.append(range(next_position, position))
                    next_position = position + 1
                    yield row
                    if self._connected is not connection:
                        raise of_another_process(self.path, self._process)
            except SQLiteErrors as error:
                if not means_damage(error):
                    raise
                for position in chain.from_iterable(gaps if selection is EVERYTHING else ()):
                    self._note(Damage(position, "row"))
                yield from self._rows_one_by_one(selection, next_position, last)
                return
            if selection is EVERYTHING:
                self._note_lost([*gaps, range(next_position, min(self.input_rows or 0, last))])

    def _note_lost(self, gaps: list[range]) -> None:
        """Only in an input that was not read to its end, rows may be missing."""
        if any(gaps) and self.counts().input_was_read_to_its_end:
            for position in chain.from_iterable(gaps):
                self._note(Damage(position, "row"))

    @property
    def last_position(self) -> int | None:
        """The place of the last row that was read of the input; ``None`` where none was."""
        with database.explained(self.path):
            return self._connection.execute("SELECT max(position) FROM rows").fetchone()[0]

    @property
    def input_rows(self) -> int | None:
        """Rows of the input, where a start has read it to its end."""
        with database.explained(self.path), suppress(DamagedMeta):
            return database.read_number(self._connection, "input_rows")
        return None

    def _rows_one_by_one(self, selection: Selection, first: int, last: int) -> Iterator[LedgerRow]:
        """The same where some page of the file cannot be read: what is not on it."""
        query = _rows_query(selection, "NULL, NULL, NULL, NULL", "", "position = ?")
        without_outcome = f"""SELECT position, NULL, NULL, NULL, NULL, id, coalesce(same_as, id), NULL, NULL,
                {ROW_IS_SOUND}, 0, 'failure', NULL, NULL, 0, 0, NULL, NULL, NULL, next_settings, maybe_billed,
                asked_again, same_as, nullif(digest, fingerprint)
            FROM row_states WHERE position = ?"""  # noqa: S608 - our own words
        for position in range(first, min(self._max_positions(), last)):
            lines = self._read_or_none(query, (position, *selection.values))
            if lines is None and damage_at(self._connection, position).part == "outcome":
                lines = self._read_or_none(without_outcome, (position,))
            is_there = lines or self._read_or_none("SELECT 1 FROM rows WHERE position = ?", (position,))
            if lines is None or len(lines) > 1 or not is_there:
                self._note(Damage(position, "row"))
                continue
            for _, *line in lines:
                line[:2] = self._fat("record, checksum FROM records WHERE row = ?", line[4])
                line[2:4] = self._fat("body, checksum FROM answers WHERE attempt = ?", line[6])
                if (row := self._row(position, line)) is not None:
                    yield row

    def _max_positions(self) -> int:
        """So many positions there may be, by what can be read: as many as rows, at the most."""
        queries = (
            "SELECT max(position) + 1 FROM rows",
            "SELECT max(id) FROM rows",
            "SELECT max(row) FROM records",
        )
        found = [lines[0][0] for query in queries if (lines := self._read_or_none(query, ()))]
        return min((number for number in found if isinstance(number, int)), default=0)

    def _read_or_none(self, query: str, values: Sequence[Any]) -> list[Any] | None:
        """What a query gives; ``None`` where the file is damaged there."""
        try:
            return self._connection.execute(query, values).fetchall()
        except SQLiteErrors as error:
            if not means_damage(error):
                raise
            return None

    def _fat(self, columns: str, key: int | None) -> Sequence[Any]:
        found = None if key is None else self._read_or_none(f"SELECT {columns}", (key,))
        return found[0] if found else (None, None)

    def earlier_outcomes(self, row: int) -> list[EarlierOutcome]:
        """How a row (``LedgerRow.row``) ended before it was asked again or tried again, the oldest first.

        A damaged one is left out; of a damaged answer, there are no bytes.
        """
        with database.explained(self.path):
            found = self._connection.execute(
                """SELECT state, answer, more_answers, finish_reason, error, input_tokens, output_tokens, cost,
                       ended_at, settings
                   FROM earlier_outcomes WHERE row = ? AND checksum IS checksum(
                       'outcomes', row, state, answer, more_answers, finish_reason, error_kind, error,
                       input_tokens, output_tokens, cost, ended_at, settings)
                   ORDER BY rowid""",
                (row,),
            ).fetchall()
            return [
                EarlierOutcome(state, self._bodies(row, _attempts(answer, more_answers)) or (), *rest)
                for state, answer, more_answers, *rest in found
            ]

    def has_earlier_outcomes(self) -> bool:
        """Whether an outcome took the place of an earlier one."""
        with database.explained(self.path):
            return self._connection.execute("SELECT 1 FROM earlier_outcomes LIMIT 1").fetchone() is not None

    def counts(self) -> Counts:
        """How far the run is. Reads every row's state: about 0.5 s for a million."""
        with database.explained(self.path):
            return count_rows(self._connection)

    def spending(self) -> Spending:
        """What all attempts have taken, and how many may have taken something that nobody knows."""
        with database.explained(self.path):
            return read_spending(self._connection)

    def failures(self) -> list[Cause]:
        """Failures of the current input by kind of error, the most frequent first."""
        with database.explained(self.path):
            found = self._connection.execute(
                # With min(), SQLite takes the error from the row that has the minimum
                # (https://www.sqlite.org/lang_select.html#bareagg).
                """SELECT error_kind, failed, alike, first, error FROM (
                       SELECT *, sum(alike) OVER (PARTITION BY error_kind) AS failed,
                           row_number() OVER (PARTITION BY error_kind ORDER BY alike DESC, first) AS place
                       FROM (
                           SELECT error_kind, count(*) AS alike, min(position) AS first, error
                           FROM row_states WHERE position IS NOT NULL AND state = 'failure'
                           GROUP BY error_kind, CASE WHEN typeof(error) = 'text' AND json_valid(error)
                               THEN json_extract(error, '$.hint') END))
                   WHERE place = 1 ORDER BY failed DESC, error_kind"""
            ).fetchall()
        return [
            Cause(str(kind), failed, row, _error_of(kind, error), alike=alike)
            for kind, failed, alike, row, error in found
        ]

    def _row(self, position: int, line: list[Any]) -> LedgerRow | None:
        """A line of the query as a row; ``None`` where nothing is known of it."""
        (
            record, record_checksum, body, body_checksum, row, outcome_row, answer, more_answers, row_is_sound,
            outcome_is_sound, state, finish_reason, error, input_tokens, output_tokens, cost, ended_at,
            settings, next_settings, maybe_billed, asked_again, same_as, digest,
        ) = line  # fmt: skip
        if not row_is_sound:
            self._note(Damage(position, "row"))
            return None
        damage: Damage | None = None
        answers: tuple[bytes, ...] = ()
        if not outcome_is_sound:
            damage = self._note(Damage(position, "outcome", outcome_row))
            finish_reason, input_tokens, output_tokens, cost, ended_at, settings = (
                None,
                0,
                0,
                None,
                None,
                None,
            )
        elif answer is not None:
            if _is_sound(answer, outcome_row, body, body_checksum):
                answers = (body,)
            if more_answers is not None or not answers:
                found = self._bodies(outcome_row, _attempts(answer, more_answers), answers)
                answers = found or ()
                damage = None if found else self._note(Damage(position, "answer", outcome_row))
        if not isinstance(record, bytes) or record_sum(row, record) != record_checksum:
            damage = self._note(Damage(position, "record", row))
            record = b"{}"
        if damage is not None:
            state, answers, error = "failure", (), damage.to_error()
        copied = same_as is not None
        if copied:  # its leader paid
            input_tokens, output_tokens, cost = 0, 0, 0.0
        return LedgerRow(
            row, position, record, state, answers, finish_reason, error, input_tokens, output_tokens, cost,
            ended_at, settings, next_settings, bool(maybe_billed), bool(asked_again), copied,
            row if same_as is None else same_as, None if damage is None else damage.part, digest,
        )  # fmt: skip

    def _note(self, damage: Damage) -> Damage:
        self._damages[damage] = None
        return damage

    def _bodies(
        self, row: int, attempts: list[int], known: tuple[bytes, ...] = ()
    ) -> tuple[bytes, ...] | None:
        """The answers of some attempts at a row, of which the first are ``known``; ``None`` if one is damaged."""
        found = [*known]
        for attempt in attempts[len(known) :]:
            body, checksum = self._fat("body, checksum FROM answers WHERE attempt = ?", attempt)
            if not _is_sound(attempt, row, body, checksum):
                return None
            found.append(body)
        return tuple(found)


def latencies_within(answers: int, sorted_s: Iterator[float], shares: Sequence[float]) -> list[float]:
    """Of so many latencies, the quickest first, within which such shares of them lie; empty where there is none."""
    if not answers:
        return []
    places = [max(0, math.ceil(share * answers) - 1) for share in shares]
    wanted = set(places)
    found = {place: max(0.0, s) for place, s in enumerate(sorted_s) if place in wanted}
    return [found[place] for place in places]


_FAT = (
    "record, records.checksum, body, answers.checksum",
    "LEFT JOIN records ON records.row = id LEFT JOIN answers ON attempt = answer",
)


def _rows_query(selection: Selection, fat: str, joins: str, place: str) -> str:
    return f"""SELECT position, {fat}, id, outcome_row, answer, more_answers, {ROW_IS_SOUND}, {OUTCOME_IS_SOUND}, state,
            finish_reason, error, coalesce(input_tokens, 0), coalesce(output_tokens, 0), cost, ended_at, settings,
            next_settings, maybe_billed, asked_again, same_as, nullif(digest, fingerprint)
        FROM row_states {joins}
        WHERE {place} AND (({selection.sql}) OR NOT ({ROW_IS_SOUND} AND {OUTCOME_IS_SOUND})) ORDER BY position"""  # noqa: S608 - our own words


def _is_sound(attempt: int, row: int, body: object, checksum: object) -> bool:
    return isinstance(body, bytes) and answer_sum(attempt, row, body) == checksum


def _attempts(answer: int | None, more_answers: str | None) -> list[int]:
    return [] if answer is None else [answer, *json.loads(more_answers or "[]")]


def _error_of(kind: object, error: object) -> ErrorRecord:
    try:
        return decode_error(error)  # pyright: ignore[reportArgumentType]  what is no text is caught
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return ErrorRecord(kind=str(kind), message="what it said is damaged in the ledger")


def _past_attempt(
    row: int,
    number: int,
    sent_at: float,
    ended_at: float | None,
    status: Any,
    error: bytes | None,
    *rest: Any,
) -> PastAttempt:
    *figures, damaged, error_checksum, body, checksum = rest
    text: str | None = None
    if error is not None:
        if error_sum(error) == error_checksum:
            text = error.decode()
        else:
            damaged = True
    sound_body = body if _is_sound(number, row, body, checksum) else None
    return PastAttempt(sound_body, number, sent_at, ended_at, status, text, *figures, damaged=bool(damaged))


def count_rows(connection: sqlite3.Connection) -> Counts:
    """``LedgerReader.counts`` on any connection."""
    completions, failures, asked_again, rows = connection.execute(
        """SELECT
               coalesce(sum(state = 'completion'), 0),
               coalesce(sum(state NOT IN ('completion', 'pending')), 0),
               coalesce(sum(asked_again AND state != 'pending'), 0),
               count(*)
           FROM row_states WHERE position IS NOT NULL"""
    ).fetchone()
    no_longer = connection.execute(
        # Looked up once, and only where rows were removed. What nothing was paid for is nothing that is kept.
        f"""SELECT count(*) FROM rows WHERE position IS NULL AND id IN (SELECT row FROM attempts
            WHERE coalesce(status NOT IN ('failed', 'not_sent'), 1) OR NOT {ATTEMPT_IS_SOUND})"""  # noqa: S608 - our own words
    ).fetchone()[0]
    sound, *took = connection.execute(
        # total(), since sum() fails on integers that overflow.
        f"""SELECT count(*), coalesce(sum({_IS_FIRST}), 0), coalesce(sum(status = 'maybe_billed' AND {_IS_FIRST}), 0),
               coalesce(sum(status IS NULL AND {_IS_FIRST}), 0), coalesce(sum({IS_WITH_SERVER} AND {_IS_FIRST}), 0),
               CAST(total({_TOOK_INPUT}) AS INTEGER), CAST(total(output_tokens) AS INTEGER),
               CAST(total(cached_tokens) AS INTEGER),
               CASE WHEN count(cost) OR NOT count({_TOOK_INPUT}) THEN total(cost) END,
               coalesce(sum(status = 'answered' AND cost IS NULL AND {_IS_FIRST}), 0)
           FROM attempts WHERE NOT {IS_DAMAGED}"""  # noqa: S608 - our own words
    ).fetchone()
    damaged_attempts = connection.execute("SELECT count(*) FROM attempts").fetchone()[0] - sound
    try:
        total = database.read_number(connection, "input_rows")
    except DamagedMeta:
        total = None  # the next start reads the input to its end once more
    attempts, maybe_billed, open_attempts, with_server, *tokens, cost, unpriced = took
    input_tokens, output_tokens, cached_tokens = tokens
    return Counts(
        rows=rows,
        completions=completions,
        failures=failures,
        pending=rows - completions - failures,
        asked_again=asked_again,
        no_longer_in_input=no_longer,
        attempts=attempts + damaged_attempts,
        maybe_billed=maybe_billed + damaged_attempts,
        damaged_attempts=damaged_attempts,
        open_attempts=open_attempts - with_server,
        with_server=with_server,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        cost=cost,
        unpriced_answers=unpriced,
        input_was_read_to_its_end=total is not None and int(total) == rows,
    )
