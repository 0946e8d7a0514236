"""Jobs: what the server answers in its own time, each a file of requests, with the attempts that they are.

A job and its attempts are one commit, before the server hears of it; and so are the end of its attempts and what it is
then. Between them the ledger says of any row whether it is with the server, in whichever process, and whenever, the
next start is.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mistill.characters import whole_characters
from mistill.ledger.attempts import Attempt, attempts_insert
from mistill.ledger.tables import (
    ATTEMPT_IS_SOUND,
    IS_WITH_SERVER,
    JOB_INDEXES,
    JOB_SUM,
    OVER,
    JobState,
    end_attempts,
)

_log = logging.getLogger(__name__)


class JobRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a job, beside its state; kept as JSON.

    Attributes:
        path: that its lines are requests to, such as ``/v1/chat/completions``.
        host: the base URL of the server.
        lines: requests in it. ``rows``: that they ask. ``bytes``: of the file; ``checksum``: the CRC-32 of it.
        timeout_hours: what it may take the server.
        price: US dollars for a million tokens: input, output, cached input. ``None``: not known.
        most_input_tokens, most_output_tokens: of all lines together, at their worst.
        settings: the number of a retry's settings; ``None``: the run's own.
        planned_at: unix seconds, as are ``created_at`` and ``ended_at``, which are by our clock.
        file_id, job_id, status: as the server calls them.
        total, completed, succeeded, failed: requests, as the server counts them.
        output_file, error_file: the server's files with the answers.
        errors: what the server says of the job as a whole.
        is_cancelled: we asked for that, and the server has agreed.
        is_given_up: we asked for that, the server does not know the job, and nobody waits for it any more.
        is_clean: our files are deleted from the server.
        looked: how often one that may not be there was looked for.
        kept: lines that were taken over. ``answered``: rows that these have answered.
        broken: lines that are no JSON. ``unknown``: of no attempt of the job.
        missing: lines that never came.
    """

    path: str
    model: str
    host: str
    lines: int
    rows: int
    bytes: int
    timeout_hours: int
    checksum: int = 0
    price: tuple[float, float, float] | None = None
    most_input_tokens: int = 0
    most_output_tokens: int = 0
    settings: int | None = None
    planned_at: float = 0.0
    file_id: str | None = None
    job_id: str | None = None
    status: str | None = None
    total: int | None = None
    completed: int | None = None
    succeeded: int | None = None
    failed: int | None = None
    created_at: float | None = None
    ended_at: float | None = None
    output_file: str | None = None
    error_file: str | None = None
    errors: tuple[str, ...] = ()
    is_cancelled: bool = False
    is_given_up: bool = False
    is_clean: bool = False
    looked: int = 0
    kept: int = 0
    answered: int = 0
    broken: int = 0
    unknown: int = 0
    missing: int = 0


def is_under_way(state: JobState) -> bool:
    """Whether the answers of a job in such a state are awaited."""
    return state not in (*OVER, "doubtful")


class Job(Struct, frozen=True):
    """A job as it is on disk.

    Attributes:
        id: its number in the ledger, from 1.
        tag: our own name for it, by which the server can be asked whether it is there.
        state: ``planned``: its attempts are in the ledger; ``uploaded``: and its file is at the server; ``creating``:
            it may be there; ``running``: it is; ``ended``: it has come to an end there; ``fetched``: its answers are in
            files beside the ledger; ``read``: in the ledger, and no attempt of it is open; ``doubtful``: it may be
            there though nobody has seen it; ``dropped``: it was never made, or nothing of it can come any more.
        changed_at: unix seconds.
    """

    id: int
    tag: str
    state: JobState
    changed_at: float
    record: JobRecord

    @property
    def is_over(self) -> bool:
        """Nothing of it comes any more."""
        return self.state in OVER

    @property
    def is_under_way(self) -> bool:
        """Its answers are awaited."""
        return is_under_way(self.state)


class PlannedAttempt(Struct, frozen=True, gc=False):
    """An attempt that a job is begun with.

    Attributes:
        id: from `Ledger.take_attempt_ids`; those of one request follow one another.
        asked: the CRC-32 of the request's body.
        request: the first attempt of those that are one request; ``None`` where it asks one row.
        weight: about how many tokens it asks with: its share of an answer to several rows.
    """

    id: int
    row: int
    asked: int
    request: int | None
    weight: int


class LineAttempt(Struct, frozen=True, gc=False):
    """An attempt of a line of a job.

    Attributes:
        weight: as it was planned; at least 1.
        awaits_answer: it may still get one: it has none yet, whatever else has become of it. Another is damaged.
    """

    attempt: Attempt
    weight: int
    awaits_answer: bool


_IS_DAMAGED = f"checksum IS NOT {JOB_SUM}"
_COLUMNS = "id, tag, state, changed_at, record"
_OF_ONE = attempts_insert("id, row, sent_at, job, asked, input_tokens", replaces=False)
_OF_ANY = attempts_insert("id, row, sent_at, job, asked, input_tokens, settings, request", replaces=False)


def begin_job(
    connection: sqlite3.Connection,
    tag: str,
    record: JobRecord,
    attempts: Sequence[PlannedAttempt],
    settings: int | None,
) -> Job:
    """A job that is planned, with its attempts."""
    for index in JOB_INDEXES:
        connection.execute(index)
    now = time.time()
    found = connection.execute(
        "SELECT max((SELECT coalesce(max(id), 0) FROM jobs), (SELECT coalesce(max(job), 0) FROM attempts"
        " WHERE job IS NOT NULL))"
    )
    job = Job(
        found.fetchone()[0] + 1, tag, "planned", now, replace(record, settings=settings, planned_at=now)
    )
    connection.execute(
        "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, 0)", (job.id, tag, job.state, now, encode_record(job.record))
    )
    _sum_up(connection, job.id)
    if settings is None and not any(attempt.request is not None for attempt in attempts):
        _OF_ONE.write(connection, [(a.id, a.row, now, job.id, a.asked, a.weight) for a in attempts])
    else:
        lines = [(a.id, a.row, now, job.id, a.asked, a.weight, settings, a.request) for a in attempts]
        _OF_ANY.write(connection, lines)
    return job


def note_job(connection: sqlite3.Connection, job: Job) -> Job:
    job = replace(job, changed_at=time.time())
    connection.execute(
        "UPDATE jobs SET state = ?, changed_at = ?, record = ? WHERE id = ?",
        (job.state, job.changed_at, encode_record(job.record), job.id),
    )
    _sum_up(connection, job.id)
    return job


def _sum_up(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(f"UPDATE jobs SET checksum = {JOB_SUM} WHERE id = ?", (number,))  # noqa: S608 - our own words


def read_jobs(connection: sqlite3.Connection) -> list[Job]:
    """All, the oldest first. Damaged ones are left out."""
    query = f"SELECT {_COLUMNS} FROM jobs WHERE checksum IS {JOB_SUM} ORDER BY id"  # noqa: S608 - our own words
    found = connection.execute(query)
    return [Job(number, tag, state, at, decode_record(record)) for number, tag, state, at, record in found]


def end_open_attempts(
    connection: sqlite3.Connection, job: Job, status: Literal["maybe_billed", "not_sent"], error: str | None
) -> int:
    """All open attempts of the job end, and it is what it is now. Returns how many there were."""
    if status == "maybe_billed":
        connection.execute(
            "UPDATE rows SET maybe_billed = 1 WHERE id IN (SELECT row FROM attempts WHERE job = ? AND status IS NULL)",
            (job.id,),
        )
    ended = end_attempts(
        "job = :job AND status IS NULL", status=":status", ended_at=":ended_at", error=":error"
    )
    values = {"job": job.id, "status": status, "ended_at": time.time(), "error": error}
    count = connection.execute(ended, values).rowcount
    note_job(connection, job)
    return count


def attempts_of_lines(
    connection: sqlite3.Connection, job: int, numbers: Sequence[int]
) -> dict[int, list[LineAttempt]]:
    """Number of a line → its attempts; see `Ledger.attempts_of_lines`."""
    query = f"""SELECT id, row, sent_at, settings, request, job, asked, input_tokens, status, {ATTEMPT_IS_SOUND}
        FROM attempts WHERE id >= ? ORDER BY id"""  # noqa: S608 - our own words
    found: dict[int, list[LineAttempt]] = {}
    for number in numbers:
        line = list(_line(connection.execute(query, (number,)), job, number))
        if any(attempt.awaits_answer for attempt in line):
            found[number] = line
    return found


def _line(lines: Iterator[Any], job: int, number: int) -> Iterator[LineAttempt]:
    """The attempts of one line, which follow one another."""
    damaged: list[LineAttempt] = []
    for place, (*values, weight, status, is_sound) in enumerate(lines):
        attempt = Attempt(*values)
        if attempt.id != number + place:
            return
        if not is_sound:  # of this line only if more of it follows
            damaged.append(LineAttempt(attempt, 1, awaits_answer=False))
            continue
        is_alone = attempt.request is None and not place
        if attempt.job != job or not (is_alone or attempt.request == number):
            return
        yield from damaged
        damaged.clear()
        is_open = status in (None, "maybe_billed", "failed")
        yield LineAttempt(attempt, max(weight or 1, 1), awaits_answer=is_open)
        if is_alone:
            return


def results_of_job(connection: sqlite3.Connection, job: int) -> tuple[int, int]:
    """Lines that were answered or refused, and rows that were answered; see `Ledger.results_of_job`."""
    query = """SELECT count(*) FILTER (WHERE request IS NULL OR request = id),
            count(*) FILTER (WHERE status = 'answered')
        FROM attempts WHERE job = ? AND status IN ('answered', 'failed')"""
    lines, rows = connection.execute(query, (job,)).fetchone()
    return lines, rows


def has_jobs(connection: sqlite3.Connection) -> bool:
    """Whether there is any job, or has been."""
    return connection.execute("SELECT 1 FROM jobs LIMIT 1").fetchone() is not None


def positions_of_job(connection: sqlite3.Connection, job: int) -> tuple[int, int]:
    """The first and the last place in the input of rows that a job asks; see `Ledger.positions_of_job`."""
    query = """SELECT coalesce(min(position), 0), coalesce(max(position), -1)
        FROM rows WHERE id IN (SELECT row FROM attempts WHERE job = ?)"""
    first, last = connection.execute(query, (job,)).fetchone()
    return first, last


def rows_with_server(connection: sqlite3.Connection) -> Iterator[int]:
    """Rows with an open attempt in a job that has not ended, again for each."""
    if not has_jobs(connection):
        return iter(())
    return (row for (row,) in connection.execute(f"SELECT row FROM attempts WHERE {IS_WITH_SERVER}"))  # noqa: S608 - our own words


def rows_by_server(connection: sqlite3.Connection, job: int) -> dict[int, bool]:
    """Row that the job asked → whether it is still with the server, in this job or another."""
    query = f"""SELECT row, EXISTS (SELECT 1 FROM attempts WHERE row = a.row AND {IS_WITH_SERVER})
        FROM attempts AS a WHERE job = ?"""  # noqa: S608 - our own words
    return {row: bool(is_with_server) for row, is_with_server in connection.execute(query, (job,))}


def mend_jobs(connection: sqlite3.Connection) -> None:
    """Jobs of which nobody can say what they are become doubtful, since the server may have them by their tag; where
    not even that can be read, they are dropped. Their attempts may be billed."""
    damaged = connection.execute(
        f"SELECT id, CAST(tag AS BLOB), CAST(record AS BLOB) FROM jobs WHERE {_IS_DAMAGED}"  # noqa: S608 - our own words
    ).fetchall()
    for number, tag_bytes, text in damaged:
        try:
            tag, record = tag_bytes.decode(), _trusted(decode_record(text))
        except (AttributeError, UnicodeDecodeError, msgspec.DecodeError):
            tag, record = f"damaged-{number}", _NOTHING
        state: JobState = "dropped" if record is _NOTHING else "doubtful"
        connection.execute("UPDATE jobs SET tag = ? WHERE id = ?", (tag, number))
        end_open_attempts(connection, Job(number, tag, state, 0.0, record), "maybe_billed", None)
    if damaged:
        _log.warning("%s jobs are damaged in the ledger: their attempts may be billed", len(damaged))


_DAMAGED = ("what the ledger had of this job is damaged",)
_NOTHING = JobRecord(path="", model="", host="", lines=0, rows=0, bytes=0, timeout_hours=0, errors=_DAMAGED)


def _trusted(record: JobRecord) -> JobRecord:
    """What one may go by in a record that is perhaps another than was written: nothing that names what is deleted."""
    return replace(
        record, file_id=None, job_id=None, status=None, output_file=None, error_file=None, errors=_DAMAGED
    )


def encode_record(record: JobRecord) -> str:
    """As JSON. What no text can hold (half a character of UTF-16) is replaced."""
    try:
        return msgspec.json.encode(record).decode()
    except UnicodeEncodeError:
        return whole_characters(json.dumps(msgspec.to_builtins(record), ensure_ascii=False))


decode_record = msgspec.json.Decoder(JobRecord).decode
