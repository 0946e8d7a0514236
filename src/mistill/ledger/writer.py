"""The writing side of a ledger: what a run promises to remember, and when it is on disk."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mistill.characters import whole_characters
from mistill.errors import LedgerError, MalformedAnswer, MistillError
from mistill.finish_reasons import CUT_OFF
from mistill.ledger import database
from mistill.ledger.attempts import Attempt, KnownAttempt, KnownAttempts, Tokens, attempts_insert
from mistill.ledger.checksums import MASK, ODD, crc32, pack
from mistill.ledger.commits import EPOCH, CommitQueue, Insert, Update
from mistill.ledger.copies import part_copies
from mistill.ledger.damage import Damage, drop_lost_outcomes, mend_indexes, set_damage_aside
from mistill.ledger.error_record import encode_error
from mistill.ledger.files_in_use import FilesInUse
from mistill.ledger.forks import forget, register_for_forks
from mistill.ledger.jobs import (
    Job,
    JobRecord,
    LineAttempt,
    PlannedAttempt,
    attempts_of_lines,
    begin_job,
    end_open_attempts,
    mend_jobs,
    note_job,
    positions_of_job,
    read_jobs,
    results_of_job,
    rows_by_server,
    rows_with_server,
)
from mistill.ledger.lock import LedgerLock
from mistill.ledger.matching import InputMatcher
from mistill.ledger.model_counts import ModelCounts, ModelOf, PinnedModels
from mistill.ledger.reader import LedgerReader
from mistill.ledger.row_set import RowSet
from mistill.ledger.selection import Selection
from mistill.ledger.spending import MOST, Spending, read_spending
from mistill.ledger.tables import (
    IS_WITH_SERVER,
    SETTINGS_SUM,
    START_SUM,
    WITH_SERVER,
    end_attempts,
)

# An attempt that was cancelled as it began may be in one group with its own end, so neither minds the other.
_BEGUN = attempts_insert("id, row, sent_at, asked", replaces=False)
_TOOK = "id, row, sent_at, ended_at, input_tokens, output_tokens, cost, cached_tokens, asked"
_ANSWERED = attempts_insert(_TOOK, status="answered")
_UNANSWERED = attempts_insert("id, row, sent_at, ended_at, status, error, settings, request, job, asked")
# The same of a retry's attempts, of several rows' in one request, and of a job's. Most attempts are none of these, and
# NULL costs time.
_BEGUN_WITH = attempts_insert("id, row, sent_at, asked, settings, request", replaces=False)
_ANSWERED_WITH = attempts_insert(f"{_TOOK}, settings, request, job", status="answered")
_ANSWERS = Insert("INSERT INTO answers", "(?, ?, ?)")
_ANSWERS_OF_JOB = Insert("INSERT OR REPLACE INTO answers", "(?, ?, ?)")  # a server may send a line twice
# A completion is replaced only where the row was asked again, and only by one that is as whole: no failure takes its
# place, nor does an answer that was cut off take that of one that was not.
_CUT_OFF = ", ".join(f"'{reason}'" for reason in CUT_OFF)
_REPLACING = f"""ON CONFLICT (row) DO UPDATE SET
        state = excluded.state, answer = excluded.answer, more_answers = excluded.more_answers,
        finish_reason = excluded.finish_reason, error_kind = excluded.error_kind, error = excluded.error,
        input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens, cost = excluded.cost,
        ended_at = excluded.ended_at, settings = excluded.settings, checksum = excluded.checksum
    WHERE outcomes.state = 'failure' OR (
        excluded.state = 'completion' AND (SELECT asked_again FROM rows WHERE id = excluded.row)
        AND (coalesce(excluded.finish_reason, '') NOT IN ({_CUT_OFF})
            OR outcomes.finish_reason IN ({_CUT_OFF})))"""  # noqa: S608 - our own words
_OUTCOMES = Insert("INSERT INTO outcomes", f"({', '.join('?' * 13)})", _REPLACING)
_PLAIN_COMPLETIONS = Insert(
    "INSERT INTO outcomes (row, state, answer, finish_reason, input_tokens, output_tokens, cost, ended_at, checksum)",
    "(?, 'completion', ?, ?, ?, ?, ?, ?, ?)",
    _REPLACING,
)
_MAYBE_BILLED = Update("UPDATE rows SET maybe_billed = 1 WHERE id = ?")
# Of a job, what was given up as maybe billed may be answered later.
_KNOWN_AFTER_ALL = Update(
    """UPDATE rows SET maybe_billed = 0 WHERE id = ? AND maybe_billed
        AND NOT EXISTS (SELECT 1 FROM attempts WHERE row = rows.id AND status = 'maybe_billed')"""
)
_NOT_ASKED_AGAIN = Update("UPDATE rows SET asked_again = 0 WHERE id = ? AND asked_again")
# The same once more, since statements of a group are done one after the other: this one after `_OUTCOMES`.
_ASKED = Update("UPDATE rows SET asked_again = 0 WHERE id = ? AND asked_again")

# What a line has beside its text or blob, generously.
_LINE_BYTES = 1000


class Ledger:
    """A run's memory on disk. Open one with ``Ledger.open``; one run at a time may.

    Methods that give a future have put their write in the queue when they return; the future is done once it
    is on disk. What the methods that give nothing write is on disk before the next such future is done. Call
    them on a running event loop; several loops may share a ledger.

    After a failed write (a full disk) every waiter and every later call gets the same ``LedgerError``; what
    was committed before stays, and a later run resumes from it.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: LedgerLock, backup: Path | None
    ) -> None:
        self.path = path
        self.backup = backup
        self._lock = lock
        with database.explained(path):
            mend_indexes(connection)
            drop_lost_outcomes(connection)
            epoch = _take_over(connection)
            self._known = KnownAttempts(connection)
            self._with_server = RowSet(rows_with_server(connection))
            self._by_model = ModelCounts(connection)
            self._pinned = PinnedModels(connection)
            self._settings: int | None = None
            self._is_retry = False
            # A count, because loops in several threads take from it.
            self._attempt_ids = itertools.count(
                _next_id(connection, ("attempts", "id"), ("answers", "attempt"))
            )
            self._next_row = _next_id(connection, ("rows", "id"), ("records", "row"))
            commits = database.count_commits(connection)
            self._max_bytes = connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - _LINE_BYTES
        self._commits = CommitQueue(
            path,
            connection,
            FilesInUse(path, connection, lock.path),
            commits=commits,
            epoch=epoch,
            note_commits=lock.note_commits,
        )
        register_for_forks(self)

    @classmethod
    def open(
        cls,
        path: Path | str,
        manifest: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        fresh: bool = False,
        version: str = "",
        shard: int | None = None,
    ) -> Self:
        """The ledger of the run with this manifest, to resume from or new.

        ``settings`` are kept beside it for whoever reads the ledger; unlike the manifest, they may change between
        starts.

        ``fresh`` puts an old ledger aside, whatever is in it, and ``backup`` says where: paid answers are not
        deleted. Attempts that were in flight when the last run died are marked maybe billed here. ``shard``: which
        one of its run it has.

        Raises:
            LedgerInUse: another run holds it.
            ManifestChanged: it belongs to other settings; says which.
            LedgerError: it is damaged, of another format, no ledger at all, or cannot be written; it is
                left as it was. Later, from any method: it was deleted, moved, replaced, cut or overwritten.
        """
        path = database.name_to_write(Path(path))
        lock = LedgerLock(path)
        try:
            if fresh:
                lock.note_commits(0)  # it is of the one that is put aside
            is_new, backup = database.make_ledger(path, manifest, settings or {}, version, fresh=fresh)
            connection = database.open_to_write(
                path, manifest, version, commits=0 if is_new else lock.commits_before
            )
            try:
                with database.explained(path):
                    if shard is not None:
                        database.note_shard(path, connection, shard)
                    if settings is not None and not is_new:
                        database.write_settings(connection, settings)
                return cls(path, connection, lock, backup)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            with suppress(LedgerError):  # of a full disk it is the first error that tells
                lock.note_commits(lock.commits_before)
            lock.release(keep=lock.commits_before > 0)
            raise

    def close(self) -> None:
        """Commit what was asked for, end the writer thread, let go of the lock. Waits for the disk."""
        if not self._commits.closed:
            self._commits.close()
            self._lock.release(keep=self._commits.files_were_hurt)
            forget(self)

    def busy(self) -> AbstractContextManager[object]:
        """Nothing but its queue uses SQLite; see `Forkable`."""
        return nullcontext()

    def leave_to_parent(self) -> None:
        """In a forked child: every later call is refused."""
        self._lock.leave_to_parent()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def match_input(self, *, dedupe: bool = False) -> InputMatcher:
        """Begin a pass over the input. ``dedupe``: identical requests are asked once and share an outcome."""
        return await InputMatcher.begin(
            self._commits,
            self._take_rows,
            self._known.rows,
            self._with_server,
            dedupe=dedupe,
            max_record_bytes=self._max_bytes,
        )

    async def begin_attempts(self, rows: Sequence[int], asked: int | None = None) -> list[Attempt]:
        """Leave to send: an attempt for each of the rows, which go out in one request, is on disk.

        When this is cancelled, they count as not sent.

        Args:
            asked: the CRC-32 of the request's body, by which a later start knows what was answered.
        """
        sent_at = time.time()
        settings = self._settings
        # As `take_attempt_ids` does: this is called for every request.
        numbers = list(itertools.islice(self._attempt_ids, len(rows)))
        request = numbers[0] if len(rows) > 1 else None
        attempts = [
            Attempt(number, row, sent_at, settings, request, None, asked)
            for number, row in zip(numbers, rows, strict=True)
        ]
        begun: tuple[Insert, list[tuple[Any, ...]]]
        if settings is None and request is None:
            begun = _BEGUN, [(attempt.id, attempt.row, sent_at, asked) for attempt in attempts]
        else:
            begun = (
                _BEGUN_WITH,
                [(attempt.id, attempt.row, sent_at, asked, settings, request) for attempt in attempts],
            )
        try:
            return await self._commits.commit(attempts, begun)
        except asyncio.CancelledError:
            with suppress(LedgerError):  # closed or broken: the cancellation is what the task must see
                for attempt in attempts:
                    self.end_attempt(attempt, "not_sent")
            raise

    def answer(
        self, attempt: Attempt, body: bytes, tokens: Tokens, cost: float | None, model: str | None = None
    ) -> None:
        """The attempt was answered and paid for: keep the answer as it came, whether or not it will do.

        ``cost``: US dollars, where the price is known. ``model``: which one gave it, as it says.

        Raises:
            MalformedAnswer: it is larger than a ledger can hold. Its attempt has ended.
        """
        if len(body) > self._max_bytes:
            raise self._too_large(attempt, body)
        row, cached_tokens = attempt.row, tokens.cached_tokens
        input_tokens, output_tokens = tokens.input_tokens, tokens.output_tokens
        # None is negative or too large if all their bits together are neither.
        if not (
            0 <= input_tokens | output_tokens | cached_tokens < MOST and (cost is None or 0 <= cost < MOST)
        ):
            input_tokens, output_tokens, cached_tokens = map(
                _clamped, (input_tokens, output_tokens, cached_tokens)
            )
            cost = _possible(cost)
        took = (input_tokens, output_tokens, cost, cached_tokens)
        checksum = crc32(body, (attempt.id * ODD ^ row) & MASK)
        answered = (attempt.id, row, attempt.sent_at, time.time(), *took, attempt.asked)
        answers = [(attempt.id, bytearray(body), checksum)]
        settings, request, job = attempt.settings, attempt.request, attempt.job
        counted = (self._by_model, [(settings, model)])
        if settings is None and request is None and job is None:
            self._commits.put((_ANSWERED, [answered]), (_ANSWERS, answers), counted)
            return
        answered = (*answered, settings, request, job)
        if job is None:
            self._commits.put((_ANSWERED_WITH, [answered]), (_ANSWERS, answers), counted)
        else:
            self._commits.put(
                (_ANSWERED_WITH, [answered]), (_ANSWERS_OF_JOB, answers), counted, *_known_after_all(attempt)
            )

    async def count_models(self, model_of: ModelOf) -> None:
        """Counts the answers of earlier versions by their models, where that was not done: one look at each body."""
        if not self._by_model.is_known:
            await self._commits.run(lambda connection: self._by_model.count(connection, model_of))

    @property
    def models(self) -> dict[str, int]:
        """Which models have answered what this start asks, and how often, as far as it is on disk; the last one at the
        end."""
        return self._by_model.of(self._settings)

    @property
    def pinned(self) -> str | None:
        """The model whose answers alone are taken for what this start asks, if a start has said so."""
        return self._pinned.of(self._settings)

    def pin(self, model: str | None) -> None:
        """Answers of this model alone are taken from now on; ``None``: of any."""
        self._pinned.note(self._settings, model)
        self._commits.put((self._pinned, [(self._settings, model)]))

    def end_attempt(
        self,
        attempt: Attempt,
        status: Literal["failed", "maybe_billed", "not_sent"],
        error: MistillError | None = None,
    ) -> None:
        """The attempt ended with no answer. ``maybe_billed``: it had left, so it may cost money anyway."""
        text = None if error is None else encode_error(error)
        line = (attempt.id, attempt.row, attempt.sent_at, time.time(), status, text)
        ended = (_UNANSWERED, [(*line, attempt.settings, attempt.request, attempt.job, attempt.asked)])
        if status == "maybe_billed":
            self._commits.put(ended, (_MAYBE_BILLED, [(attempt.row,)]))
        else:
            self._commits.put(ended, *_known_after_all(attempt))

    def complete(
        self,
        row: int,
        attempts: Sequence[int],
        *,
        finish_reason: str | None,
        tokens: Tokens,
        cost: float | None,
    ) -> asyncio.Future[None]:
        """The row is done. One that was asked again keeps its earlier answer where that is the better one.

        ``attempts``: those whose answers are its generations, in order, each once. ``tokens``, ``cost``: all that it
        took.
        """
        input_tokens, output_tokens, ended_at = tokens.input_tokens, tokens.output_tokens, time.time()
        if finish_reason is not None and not finish_reason.isascii():
            finish_reason = whole_characters(finish_reason)
        if not (0 <= input_tokens | output_tokens < MOST and (cost is None or 0 <= cost < MOST)):
            input_tokens, output_tokens, cost = (
                _clamped(input_tokens),
                _clamped(output_tokens),
                _possible(cost),
            )
        if cost is not None:
            cost += 0.0  # as it is read again, for the checksum
        if len(attempts) != 1 or self._is_retry:
            first = attempts[0] if attempts else None
            more = json.dumps(list(attempts[1:])) if len(attempts) > 1 else None
            values = (
                row, "completion", first, more, finish_reason, None, None,
                input_tokens, output_tokens, cost, ended_at, self._settings,
            )  # fmt: skip
            outcome = (_OUTCOMES, [_with_checksum(values)])
            return self._commits.commit(None, outcome, *([(_ASKED, [(row,)])] if self._is_retry else ()))
        answer = attempts[0]
        values = (
            "outcomes", row, "completion", answer, None, finish_reason, None, None,
            input_tokens, output_tokens, cost, ended_at, None,
        )  # fmt: skip
        checksum = crc32(pack(values))
        plain = (row, answer, finish_reason, input_tokens, output_tokens, cost, ended_at, checksum)
        return self._commits.commit(None, (_PLAIN_COMPLETIONS, [plain]))

    def fail(
        self,
        row: int,
        error: MistillError,
        *,
        finish_reason: str | None = None,
        tokens: Tokens,
        cost: float | None = None,
    ) -> asyncio.Future[None]:
        """The row is given up for this run. A later one tries it again, unless the user says otherwise.

        ``finish_reason``: of its last answer, where it had one that did not do.
        """
        values = (
            row, "failure", None, None, finish_reason, error.kind, encode_error(error),
            _clamped(tokens.input_tokens), _clamped(tokens.output_tokens), _possible(cost), time.time(), self._settings,
        )  # fmt: skip
        return self._commits.commit(None, (_NOT_ASKED_AGAIN, [(row,)]), (_OUTCOMES, [_with_checksum(values)]))

    async def begin_start(self, record: bytes) -> int:
        """A start begins; ``record`` is what is known of it, as JSON. Returns its number, from 1."""
        return await self._commits.run(lambda connection: _begin_start(connection, record.decode()))

    async def note_start(self, number: int, record: bytes) -> None:
        """More is known of a start that goes on; ``record`` is all of it."""
        await self._commits.run(lambda connection: _note_start(connection, number, record.decode()))

    async def end_start(self, number: int, record: bytes) -> None:
        """The start has ended, and ``record`` is how."""
        await self._commits.run(lambda connection: _end_start(connection, number, record.decode()))

    def take_attempt_ids(self, count: int) -> Sequence[int]:
        """Numbers that so many planned attempts will have, one after the other."""
        return list(itertools.islice(self._attempt_ids, count))  # at once, whatever other threads take

    async def begin_job(self, tag: str, record: JobRecord, attempts: Sequence[PlannedAttempt]) -> Job:
        """A job is planned: it and its attempts are on disk, together or not at all.

        Args:
            tag: our name for it, that no other job has.
            record: gets the settings of this start, and when it was planned.
            attempts: with numbers from `take_attempt_ids`.
        """

        def begin(connection: sqlite3.Connection) -> Job:
            job = begin_job(connection, tag, record, attempts, self._settings)
            self._known.index_is_made()
            self._with_server.update(attempt.row for attempt in attempts)
            return job

        return await self._commits.run(begin)

    async def note_job(self, job: Job) -> Job:
        """What a job is now, state and record. Gives it with the time of this."""

        def note(connection: sqlite3.Connection) -> Job:
            noted = note_job(connection, job)
            if job.is_over:
                self._follow(connection, job)
            return noted

        return await self._commits.run(note)

    async def jobs(self) -> list[Job]:
        """All jobs of the run, the oldest first."""
        return await self._commits.run(read_jobs)

    async def attempts_of_lines(self, job: int, numbers: Sequence[int]) -> dict[int, list[LineAttempt]]:
        """Number of a line of the job (its first attempt's) → all its attempts, in the order of what it asks.

        Lines that nobody waits for any more, and numbers that are no line's of this job, are not in it.
        """
        return await self._commits.run(lambda connection: attempts_of_lines(connection, job, numbers))

    async def results_of_job(self, job: int) -> tuple[int, int]:
        """Lines of the job whose answer, or error, has been kept; and rows that it has answered."""
        return await self._commits.run(lambda connection: results_of_job(connection, job))

    async def end_open_attempts(
        self, job: Job, status: Literal["maybe_billed", "not_sent"], error: MistillError | None = None
    ) -> int:
        """All attempts of the job that are open end so, and the job is what it is now: one commit.

        Returns how many attempts there were.
        """
        text = None if error is None else encode_error(error)

        def end(connection: sqlite3.Connection) -> int:
            count = end_open_attempts(connection, job, status, text)
            self._follow(connection, job)
            return count

        return await self._commits.run(end)

    @property
    def settings(self) -> int | None:
        """The number of those that this start asks with, where it is a retry with others than the run's own."""
        return self._settings

    @property
    def is_retry(self) -> bool:
        """This start asks chosen rows again, and no others."""
        return self._is_retry

    async def rows_that(self, only: Selection, limit: int) -> list[int]:
        """The first rows of the input that fulfil a condition, as far as they are on disk."""
        query = f"SELECT id FROM row_states WHERE position IS NOT NULL AND ({only.sql}) LIMIT ?"  # noqa: S608 - our own words
        return await self._commits.run(
            lambda connection: [row for (row,) in connection.execute(query, (*only.values, limit))]
        )

    async def positions_of_job(self, job: int) -> tuple[int, int]:
        """Between which places of the input, these included, the rows stand that a job asks; its last is -1 where none
        is in the input any more."""
        return await self._commits.run(lambda connection: positions_of_job(connection, job))

    async def known_attempts(self, rows: Sequence[int]) -> dict[int, list[KnownAttempt]]:
        """Row → what is known of it though it has no outcome since: answers, and errors of jobs, oldest first.

        Only by the settings of this start: another prompt's answer is none to this. An answer that is damaged is left
        out: it has to be paid for again.
        """
        return await self._commits.run(lambda connection: self._known.read(connection, rows, self._settings))

    async def spending(self) -> Spending:
        """What all attempts have taken that have ended by now, those of this start too. Of those that are in flight,
        nothing is known yet."""
        return await self._commits.run(lambda connection: read_spending(connection, open_is_free=True))

    async def has_completions(self) -> bool:
        """Whether a row has ever been answered."""
        query = "SELECT EXISTS (SELECT 1 FROM outcomes WHERE state = 'completion')"
        return bool(await self._commits.run(lambda connection: connection.execute(query).fetchone()[0]))

    async def begin_retry(
        self, selection: Selection | None, settings: Mapping[str, Any] | None = None
    ) -> int:
        """Makes the selected rows pending again, and asks in this start by other settings than the run's own.

        Their outcomes stay in the output until better ones replace them, and in the lineage after that. One retry goes
        on at a time: rows that an earlier one was to ask, and did not come to, are left as they are. Rows that are with
        the server stay as they were asked there. Where damaged rows are asked for, the ledger is read for them first.

        Args:
            selection: which rows; ``None``: those that the last retry, of the same settings, did not come to.
            settings: what they are asked with, a JSON object whose ``manifest`` says whether it is the same as
                another; ``None``: the run's own.

        Returns how many rows are to be asked.
        """
        if selection is not None and selection.wants_damaged:
            await self.set_damaged_aside()

        def begin(connection: sqlite3.Connection) -> tuple[int | None, int]:
            begun = _begin_retry(connection, selection, settings, self._attempt_ids.__next__)
            self._known.look_again(connection)  # rows that wait only now may have answers of before, too
            return begun

        self._settings, count = await self._commits.run(begin)
        self._is_retry = True
        return count

    async def end_retry(self, spared: Collection[int | None] = ()) -> None:
        """Rows that a retry was to ask, and did not come to, are again what they were before it.

        Args:
            spared: the numbers of settings whose answers wait for somebody who can read them: rows that are to be asked
                so are left alone, as if they were with the server; by the run's own (``None``), this start reads them.
        """

        def end(connection: sqlite3.Connection) -> None:
            wait = [row for number in spared for (row,) in connection.execute(_TO_ASK_BY, (number,))]
            _end_retry(connection, spared)
            self._with_server.update(wait)

        await self._commits.run(end)

    @property
    def rows_with_answers(self) -> Collection[int]:
        """Rows of which `known_attempts` may have some."""
        return self._known.rows

    @property
    def rows_with_server(self) -> Collection[int]:
        """Rows that a job asks which has not ended: with the server, or on their way there."""
        return self._with_server

    async def set_damaged_aside(self) -> list[Damage]:
        """Reads all rows of the current input, so that what is damaged of them can be made good. Returns what was.

        A damaged answer or outcome becomes a failure of the kind ``damaged_answer`` or ``damaged_outcome``, and is
        asked again like any other. A damaged record is written anew when the run next reads its input, and a row of
        which nothing is known any more is asked again then.
        """
        await self.flush()

        def find() -> list[Damage]:
            with LedgerReader(self.path) as reader:
                for _ in reader.rows():
                    pass
                return reader.damages

        damages = await asyncio.to_thread(find)
        await self._commits.run(
            lambda connection: [set_damage_aside(connection, damage) for damage in damages]
        )
        return damages

    async def flush(self) -> None:
        """Returns once all that was asked for before is on disk."""
        await self._commits.run(lambda _: None)

    def _too_large(self, attempt: Attempt, body: bytes) -> MalformedAnswer:
        error = MalformedAnswer(
            f"the answer of {len(body):,} bytes is more than a ledger can hold ({self._max_bytes:,})"
        )
        self.end_attempt(attempt, "maybe_billed", error)
        return error

    def _follow(self, connection: sqlite3.Connection, job: Job) -> None:
        """Rows of a job whose attempts have ended: they are no longer with the server, and perhaps answered.

        What was asked by other settings than this start's is for another one: the rows are left alone in this.
        """
        rows = rows_by_server(connection, job.id)
        self._known.rows.update(rows)
        if job.state == "read" and job.record.settings != self._settings:
            return
        self._with_server.difference_update(row for row, is_with_server in rows.items() if not is_with_server)

    def _take_rows(self, count: int) -> int:
        """Reserve ``count`` row ids; returns the first."""
        first = self._next_row
        self._next_row += count
        return first


def _take_over(connection: sqlite3.Connection) -> int:
    """A new owner: the number of its epoch, by which an earlier one finds that it is one no more, wherever that was
    stopped meanwhile, and though a network file system has given its lock to another.

    Attempts that nothing ended were in flight when the process died: sent, perhaps answered and billed. Those in
    jobs are with the server, unless their job is over without them, or is not there."""
    interrupted = f"status IS NULL AND NOT {IS_WITH_SERVER}"
    connection.execute("BEGIN IMMEDIATE")
    epoch = (database.read_number(connection, EPOCH) or 0) + 1
    database.write_meta(connection, EPOCH, str(epoch))
    mend_jobs(connection)
    connection.execute(
        f"UPDATE rows SET maybe_billed = 1 WHERE id IN (SELECT row FROM attempts WHERE {interrupted})"  # noqa: S608 - our own words
    )
    connection.execute(end_attempts(interrupted, status="'maybe_billed'"))
    connection.execute("COMMIT")
    return epoch


def _known_after_all(attempt: Attempt) -> Sequence[tuple[Update, list[tuple[Any, ...]]]]:
    return () if attempt.job is None else ((_KNOWN_AFTER_ALL, [(attempt.row,)]),)


def _begin_start(connection: sqlite3.Connection, record: str) -> int:
    number = _next_id(connection, ("starts", "id"))
    connection.execute("INSERT INTO starts VALUES (?, ?, NULL, ?, 0)", (number, time.time(), record))
    _sum_up_start(connection, number)
    return number


def _note_start(connection: sqlite3.Connection, number: int, record: str) -> None:
    connection.execute("UPDATE starts SET record = ? WHERE id = ? AND ended_at IS NULL", (record, number))
    _sum_up_start(connection, number)


def _end_start(connection: sqlite3.Connection, number: int, record: str) -> None:
    connection.execute(
        "UPDATE starts SET ended_at = ?, record = ? WHERE id = ?", (time.time(), record, number)
    )
    _sum_up_start(connection, number)


def _sum_up_start(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(f"UPDATE starts SET checksum = {START_SUM} WHERE id = ?", (number,))  # noqa: S608 - our own words


def _begin_retry(
    connection: sqlite3.Connection,
    selection: Selection | None,
    settings: Mapping[str, Any] | None,
    take_attempt: Callable[[], int],
) -> tuple[int | None, int]:
    number = None if settings is None else _number_of(connection, settings)
    if selection is not None:
        _end_retry(connection)
        chosen = f"({selection.sql}) AND coalesce(same_as, id) NOT IN {WITH_SERVER}"
        asked = part_copies(connection, chosen, selection.values, take_attempt)
        connection.executemany(
            "UPDATE rows SET asked_again = 1, settings = ? WHERE id = ?", [(number, row) for row in asked]
        )
    query = "SELECT count(*) FROM rows WHERE asked_again AND settings IS ?"
    return number, connection.execute(query, (number,)).fetchone()[0]


_TO_ASK_BY = "SELECT id FROM rows WHERE asked_again AND settings = ?"


def _end_retry(connection: sqlite3.Connection, spared: Collection[int | None] = ()) -> None:
    connection.execute(
        f"""UPDATE rows SET asked_again = 0, settings = NULL
            WHERE (asked_again OR settings IS NOT NULL) AND id NOT IN {WITH_SERVER}
                AND NOT (asked_again AND EXISTS (SELECT 1 FROM json_each(?) WHERE value IS rows.settings))""",  # noqa: S608 - our own words
        (json.dumps(list(spared)),),
    )


def _number_of(connection: sqlite3.Connection, settings: Mapping[str, Any]) -> int:
    """The number of the settings, kept if they are new. Where the model is, and how fast, is no difference."""
    query = f"SELECT id, settings FROM settings WHERE checksum IS {SETTINGS_SUM}"  # noqa: S608 - our own words
    for number, text in connection.execute(query):
        if json.loads(text)["manifest"] == settings["manifest"]:
            return number
    number = _next_id(connection, ("settings", "id"), ("outcomes", "settings"))
    connection.execute(
        "INSERT INTO settings VALUES (?, ?, 0)", (number, json.dumps(settings, ensure_ascii=False))
    )
    connection.execute(f"UPDATE settings SET checksum = {SETTINGS_SUM} WHERE id = ?", (number,))  # noqa: S608 - our own words
    return number


def _next_id(connection: sqlite3.Connection, *columns: tuple[str, str]) -> int:
    """One more than the largest number in any of the columns, so that even of a damaged table none is given twice."""
    largest = (
        connection.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0]  # noqa: S608 - our own words
        for table, column in columns
    )
    return max(largest) + 1


def _with_checksum(outcome: tuple[Any, ...]) -> tuple[Any, ...]:
    try:
        return (*outcome, crc32(pack(("outcomes", *outcome))))
    except UnicodeEncodeError:
        whole = (whole_characters(value) if isinstance(value, str) else value for value in outcome)
        return _with_checksum(tuple(whole))


def _clamped(tokens: int) -> int:
    """A number of tokens that SQLite can hold, and add up."""
    return min(max(tokens, 0), MOST)


def _possible(cost: float | None) -> float | None:
    """Dollars as they are read again; ``None`` where nothing can cost that."""
    return cost + 0.0 if cost is not None and 0 <= cost < MOST else None
