"""`RunReport`: everything that is said about a run, from its ledger alone, while it goes on and after.

The summary of a start, ``mistill status``, their ``--json`` and whatever else shows a run show this, under these names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from mistill._version import __version__
from mistill.api.prices import price_of
from mistill.api.usage import Usage
from mistill.datasets.encoding import encode_record
from mistill.datasets.sources import name_of
from mistill.errors import InputError, MistillError, Stopped
from mistill.estimates.cache_savings import Savings, savings
from mistill.estimates.forecast import Forecast
from mistill.estimates.lane_prices import LanePrices, usage_of
from mistill.estimates.lane_use import LaneUse, lane_use
from mistill.finish_reasons import CUT_OFF, LIMIT_REACHED, more_room
from mistill.jobs.job_report import JobReport, under_way
from mistill.kinds.kept_settings import (
    explained_meta,
    find_run,
    read_batch_factor,
    read_inputs,
    read_manifest,
    read_options,
    read_prices,
    read_retried_manifests,
)
from mistill.kinds.kind import Kind
from mistill.kinds.manifest import RunManifest
from mistill.ledger import Cause, Counts, ErrorRecord, LedgerReader, Selection, ShardCounts
from mistill.pages.page import page_html, page_target
from mistill.progress.course import Course
from mistill.records.misfits import Misfit
from mistill.runs.record_lines import record_line
from mistill.runs.record_shape import shape_of
from mistill.runs.report_html import report_html
from mistill.runs.report_page import report_page
from mistill.runs.report_text import headline, start_lines
from mistill.steering.orders import Change, EarlierChanges, paused_by
from mistill.wording import Part, Wording, Words, in_python, worded

_SAMPLES = 3
_MAX_SAMPLE_CHARS = 500
_MAX_SAMPLE_ITEMS = 16
_MAX_NAMED = 5
_PERCENTILES: Final = (0.5, 0.9, 0.99, 1.0)


class RetryRecord(Struct, frozen=True):
    """What a start asked that was a retry.

    Attributes:
        where: which rows were chosen. ``rows``: how many are to be asked; ``None`` before they are counted.
        settings: what differs from the run's own settings.
        unreplaced: why rows keep the answer that they had, the most frequent first: the errors of those that failed
            now, by kind, and ``cut_off`` where the new answer was cut off and theirs was not. What came was paid, and
            is among their attempts.
    """

    where: str
    settings: dict[str, Any]
    rows: int | None = None
    unreplaced: list[Cause] = []


class StartRecord(Struct, frozen=True, kw_only=True):
    """What a start says of itself, as the ledger keeps it: who it is when it begins, the rest when it ends.

    Attributes:
        version: of mistill.
        max_concurrent_requests: as it was set.
        input_rows: rows of the input, where that was known before it was read to its end.
        sent: HTTP requests.
        start_cost: US dollars of rows that ended in it; ``None``: no price is known, or an earlier version wrote it.
        seconds: how long it took, or is under way; until its last sign of life, if it was killed.
        seconds_by_cause: how many of them were spent waiting for what.
        advice: the one setting that would have helped most. ``advice_parts``: what it is made of, where it names some.
        stopped: why it ended early; ``None`` where the input was worked through.
        forecast: of the rows that are left, after a sample.
        output: where the records were written.
        misfits: answered rows whose records could not be made as they were asked for, by kind, the most frequent
            first; found where the records are written, or would be.
        empty_answers: answered rows with nothing in their answer, found there too.
        retry: what it asked, if it was a retry. ``is_look``: it only took over what batch jobs had answered.
        prices_of: when the price was published that costs come of; ``None`` where none is known, or no date.
        course: what it waited for, and by what quotas it went, in the course of time; ``None``: nobody has looked.
        part_of: of a shard, where a driver has it worked on: the number of the start of the run as a whole.
        changes: what was done to it while it went on, by whom and when: pauses, and settings that were changed;
            the last hundred. ``earlier_changes``: how many came before them, and what they changed.
    """

    version: str = __version__
    max_concurrent_requests: int
    input_rows: int | None = None
    sent: int = 0
    start_cost: float | None = None
    seconds: float = 0.0
    seconds_by_cause: dict[str, float] = {}
    advice: str | None = None
    advice_parts: list[Part] | None = None
    stopped: ErrorRecord | None = None
    forecast: Forecast | None = None
    output: str | None = None
    misfits: list[Misfit] = []
    empty_answers: int = 0
    retry: RetryRecord | None = None
    is_look: bool = False
    prices_of: date | None = None
    course: Course | None = None
    changes: list[Change] = []
    part_of: int | None = None
    earlier_changes: EarlierChanges = EarlierChanges()

    def encode(self) -> bytes:
        try:
            return msgspec.json.encode(self)
        except UnicodeEncodeError:  # a file has a name that is no text
            return encode_record(msgspec.to_builtins(self))


_decode_start = msgspec.json.Decoder(StartRecord).decode


class StartReport(StartRecord, frozen=True, kw_only=True):
    """One start with its times, in unix seconds. ``ended_at`` is ``None`` while it goes on, and if it was killed."""

    number: int
    started_at: float
    ended_at: float | None


class Latency(Struct, frozen=True):
    """Seconds from sending to the end of an answer: within how many a half, nine tenths, 99% and all of them came."""

    p50: float
    p90: float
    p99: float
    max: float


class CutAnswers(Struct, frozen=True):
    """Answers that were cut off: at the most tokens that they might have, or where the model's context was full.

    Attributes:
        rows: how many rows ended so, those that failed for it too.
        limit: the largest limit that was seen; ``None``: no answer ended at one.
        max_new_tokens: what to ask those again with: twice as much, rounded up to two digits; ``None`` likewise, and
            where that would be no help.
        allowed: how many tokens they might have had, where that was more: it is the server's own limit, or the model's,
            that cut them.
        context_full: of how many rows the context was full, which no limit helps.
    """

    rows: int
    limit: int | None
    max_new_tokens: int | None
    context_full: int
    allowed: int | None = None


class AnsweredBy(Struct, frozen=True):
    """How many answers came of one model.

    Attributes:
        asked: the model that was asked for. ``model``: the one that answered, as it says; ``None``: it says none.
    """

    asked: str
    model: str | None
    answers: int


class RunReport(Counts, frozen=True, kw_only=True, weakref=True):
    """A run, all its starts together, and how the last one ended. The counts of rows and tokens are those of `Counts`.

    Attributes:
        kind: of which kind it is. ``model``: as it was given.
        settings: what makes it the same run: prompt, parameters, schema. ``options``: those of the last start.
        finish_reasons: why answers ended → how many rows, those too that failed with an answer that did not do.
        cut: those of them that were cut off; ``None``: no row was.
        is_running: a start goes on. ``process``: in which process, where that is known.
        causes: failures by kind of error, the most frequent first.
        latency_s: of all answers ever; ``None`` before the first.
        starts: the oldest first. `describe` has the last one's particulars at its top level too.
        answers_by_model: how many answers, those too that did not do, came of which model, the one that answered last
            at the end.
        jobs: its batch jobs, the oldest first. ``saved``: US dollars that their answers would have cost more live;
            ``None``: there are none, or no price is known. ``saved_by_cache``: those that the cached tokens would have
            cost more; ``None``: no price is known.
        lanes: how many rows went live and how many in jobs, where each goes by price (``lane="cheapest"``), and what
            that saved; ``None``: it was not so in the last start.
        samples: the first answered rows as records, long values cut.
        rows_of_damaged_attempts: the first rows, by their place in the input, that have some of `damaged_attempts`.
        ledger: where all this was read; ``None`` if it is gone by now.
        is_temporary: the ledger goes with the last object that holds it: the run, and its reports.
        out: where the records go, ``"-"`` for stdout; ``None``: nowhere, or it is not known.
        shards: how they stand, where it is a run in shards.
    """

    kind: str
    model: str
    settings: dict[str, Any]
    options: dict[str, Any]
    finish_reasons: dict[str, int]
    cut: CutAnswers | None
    is_running: bool
    causes: list[Cause]
    latency_s: Latency | None
    starts: list[StartReport]
    answers_by_model: list[AnsweredBy]
    jobs: list[JobReport]
    saved: float | None
    saved_by_cache: float | None
    lanes: LaneUse | None
    samples: list[dict[str, Any]]
    rows_of_damaged_attempts: list[int]
    ledger: str | None
    out: str | None
    is_temporary: bool = False
    process: int | None = None
    shards: ShardCounts | None = None

    @property
    def last_start(self) -> StartRecord:
        return self.starts[-1] if self.starts else _NO_START

    @property
    def input_rows(self) -> int | None:
        """Rows of the input, those that no start has read yet too; ``None`` where nobody knows."""
        if self.shards is not None and not self.input_was_read_to_its_end:
            return max(self.shards.wanted, self.rows)
        return _rows_of_input(self, self.starts)

    @property
    def to_go(self) -> int:
        """Rows without an outcome, of all that are known of."""
        return (self.input_rows or self.rows) - self.completions - self.failures

    @property
    def has_jobs(self) -> bool:
        """Batch jobs are at the server, and their answers are awaited."""
        return any(job.is_sent for job in self.jobs)

    @property
    def goes_on_by_jobs(self) -> bool:
        """The same run started again sends batch jobs: some are not sent yet, or rows are left that none asks."""
        if under_way(self.jobs):
            return True
        is_waiting = self.stopped is None or (
            isinstance(self.stopped, Stopped) and self.stopped.reason == "waiting"
        )
        return bool(self.pending) and self.options.get("lane") in ("batch", "cheapest") and is_waiting

    @property
    def has_died(self) -> bool:
        """The last start ended without a word: it was killed, its machine went down, or its disk was full."""
        return bool(self.starts) and self.starts[-1].ended_at is None and not self.is_running

    @property
    def sent(self) -> int:
        """HTTP attempts of the last start."""
        return self.last_start.sent

    @property
    def seconds(self) -> float:
        """How long the last start took."""
        return self.last_start.seconds

    @property
    def seconds_by_cause(self) -> dict[str, float]:
        """How many of the last start's seconds were spent waiting for what."""
        return self.last_start.seconds_by_cause

    @property
    def advice(self) -> str | None:
        """The one setting that would have helped the last start most."""
        return self.last_start.advice

    @property
    def stopped(self) -> MistillError | None:
        """Why the last start ended early; ``None`` where the input was worked through."""
        stopped = self.last_start.stopped
        return None if stopped is None else stopped.to_error()

    @property
    def forecast(self) -> Forecast | None:
        """Of the rows that are left, after a sample."""
        return self.last_start.forecast

    @property
    def output(self) -> str | None:
        """Where the last start wrote the records, if it did."""
        return self.last_start.output

    @property
    def misfits(self) -> list[Misfit]:
        """Answered rows whose records the last start could not make as they were asked for, by kind."""
        return self.last_start.misfits

    @property
    def empty_answers(self) -> int:
        """Answered rows with nothing in their answer, as the last start found them: no text, and no tool call."""
        return self.last_start.empty_answers

    @property
    def paused(self) -> Change | None:
        """Who has paused the start that goes on, and when; ``None``: it is not paused."""
        return paused_by(self.last_start.changes) if self.is_running else None

    @property
    def unreplaced(self) -> list[Cause]:
        """Why rows of the last start, where it was a retry, keep the answer that they had, by kind."""
        retry = self.last_start.retry
        return [] if retry is None else retry.unreplaced

    def worded(self, wording: Wording) -> RunReport:
        """The same in the words of a place, all its texts plain."""
        return msgspec.structs.replace(
            self,
            causes=_worded_causes(self.causes, wording),
            starts=[_worded_start(start, wording) for start in self.starts],
        )

    def __str__(self) -> str:
        """How the last start ended, as the command line says it, in Python's words."""
        return "\n".join(map(str, start_lines(self, in_python)))

    def __repr__(self) -> str:
        """In one line; `str` says all of it."""
        return f"{type(self).__name__}({headline(self)})"

    def _repr_html_(self) -> str:
        return report_html(self)

    def to_html(self, *, wording: Wording = in_python) -> str:
        """All that there is to look at as one HTML file: no script, and nothing that is fetched. Charts are drawn where
        the extra ``report`` is installed; else their tables stand in their place.

        It is of the moment: of a run that goes on, the figures are those that its ledger has by now.

        Args:
            wording: how settings are said in it.

        Raises:
            LedgerError: its ledger cannot be read any more.
        """
        now = time.time()
        if self.ledger is None:
            return page_html(report_page(self, None, wording, at=now))
        with LedgerReader(self.ledger) as reader, explained_meta(reader):
            is_running = reader.is_being_written()
            with reader.snapshot():
                report = self
                if is_running or self._is_of_before(reader):
                    now_so = _read(reader, self.out, is_running=is_running)
                    report = msgspec.structs.replace(now_so, is_temporary=self.is_temporary)
                page = report_page(report, reader, wording, at=now)
        return page_html(page)  # what fails here is no fault of the ledger

    def _is_of_before(self, reader: LedgerReader) -> bool:
        """Whether a start has worked on the run since it was read."""
        known = [(start.number, start.ended_at) for start in self.starts]
        return self.is_running or known != [(start.number, start.ended_at) for start in reader.starts()]

    def save(self, path: str | Path, *, overwrite: bool = False, wording: Wording = in_python) -> None:
        """Writes `to_html` to a file, which appears whole or not at all; ``"-"``: to stdout.

        Args:
            path: its name ends in ``.html``.
            overwrite: replace a file that is there and is none of our pages; those are replaced in any case.
            wording: as for `to_html`.

        Raises:
            InputError: nothing can be written there, or what is there would be lost.
            LedgerError: the ledger cannot be read any more.
            MistillError: it cannot be written to its end.
        """
        ledger = None if self.ledger is None else Path(self.ledger)
        inputs: list[str] = []
        if ledger is not None:
            with LedgerReader(ledger) as reader:
                inputs = read_inputs(reader)
        place = page_target(path, ledger, inputs, out=self.out, overwrite=overwrite)
        page = self.to_html(wording=wording)
        with place.writing([] if ledger is None else [ledger]) as file:
            file.write(page.encode())

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        report = self.worded(in_python)
        values = msgspec.to_builtins(report)
        values["starts"] = [_start_values(start) for start in report.starts]
        for cause in values["causes"]:
            del cause["error"]["parts"]
        last = _start_values(report.last_start)
        values |= {name: last[name] for name in StartRecord.__struct_fields__ if name in last}
        values["input_rows"] = self.input_rows
        values["has_died"] = self.has_died
        for name in ("cost", "saved", "saved_by_cache"):  # a sum of floats has digits that mean nothing
            values[name] = None if values[name] is None else round(values[name], 9)
        for job, described in zip(self.jobs, values["jobs"], strict=True):
            described["age_s"] = round(job.age_s, 3)
        return values


def _worded_causes(causes: list[Cause], wording: Wording) -> list[Cause]:
    return [msgspec.structs.replace(cause, error=cause.error.worded(wording)) for cause in causes]


def _worded_start(start: StartReport, wording: Wording) -> StartReport:
    advice, stopped, retry = start.advice, start.stopped, start.retry
    if start.advice_parts is not None:
        advice = worded(Words(start.advice_parts), wording)
    if stopped is not None:
        stopped = stopped.worded(wording)
    if retry is not None:
        retry = msgspec.structs.replace(retry, unreplaced=_worded_causes(retry.unreplaced, wording))
    return msgspec.structs.replace(start, advice=advice, advice_parts=None, stopped=stopped, retry=retry)


def _start_values(start: StartRecord) -> dict[str, Any]:
    """As JSON values, worded."""
    values = msgspec.to_builtins(start)
    del values["advice_parts"]
    if values["stopped"] is not None:
        del values["stopped"]["parts"]
    retry: dict[str, Any] = values["retry"] or {}
    for cause in retry.get("unreplaced", ()):
        del cause["error"]["parts"]
    return values


_NO_START = StartRecord(version="", max_concurrent_requests=0)


def read_report(path: str | Path | None, *, ledger: str | Path | None = None) -> RunReport:
    """The report of a run, whether or not it goes on.

    Args:
        path: its output, or its ledger; ``None``: it has no output.
        ledger: where it remembers, if not beside its output.

    Raises:
        InputError: there is no such run.
        LedgerError: its ledger cannot be read.
    """
    out, found = find_run(path, ledger)
    with LedgerReader(found) as reader, explained_meta(reader):
        is_running = reader.is_being_written()
        process = reader.writer() if is_running else None
        with reader.snapshot():
            return msgspec.structs.replace(_read(reader, out, is_running=is_running), process=process)


def _read(reader: LedgerReader, out: str | None, *, is_running: bool) -> RunReport:
    kind, manifest = read_manifest(reader)
    options = read_options(reader)
    latencies = reader.latencies_s(_PERCENTILES)
    finish_reasons = reader.finish_reasons()
    counts = reader.counts()
    damaged = reader.damaged_attempts(_MAX_NAMED) if counts.damaged_attempts else []
    answers = _answers_by_model(reader, kind, manifest)
    saved = _savings(reader, counts, manifest.model)
    return RunReport(
        **msgspec.structs.asdict(counts),
        kind=manifest.kind,
        model=manifest.model,
        settings=manifest.values(),
        options=options,
        finish_reasons=finish_reasons,
        cut=_cut_answers(reader, manifest, finish_reasons),
        is_running=is_running,
        causes=[_with_id(cause, reader, options.get("id_column")) for cause in reader.failures()],
        latency_s=Latency(*latencies) if latencies else None,
        starts=list(start_reports(reader)),
        answers_by_model=answers,
        jobs=[JobReport.of(job) for job in reader.jobs()],
        saved=saved.by_jobs,
        saved_by_cache=saved.by_cache,
        lanes=_lanes(reader, counts, answers, manifest.model) if options.get("lane") == "cheapest" else None,
        samples=list(_samples(reader)),
        rows_of_damaged_attempts=damaged,
        ledger=str(reader.path),
        out=out,
        shards=reader.shards(rows_of_starts),
    )


def _answers_by_model(reader: LedgerReader, kind: type[Kind[Any]], manifest: RunManifest) -> list[AnsweredBy]:
    retried = read_retried_manifests(reader)
    answers: dict[tuple[str, str | None], int] = {}
    for one in reader.answers_by_model(kind.model_of):
        asked = manifest if one.settings is None else retried.get(one.settings, manifest)
        answers[asked.model, one.model] = answers.get((asked.model, one.model), 0) + one.answers
    return [AnsweredBy(*names, number) for names, number in answers.items()]


def _savings(reader: LedgerReader, counts: Counts, model: str) -> Savings:
    """Of each lane for itself: they have other prices, and what is cached live may not be in jobs."""
    price, in_jobs = price_of(model, read_prices(reader)), reader.usage_of_jobs()
    saved_of = partial(savings, price, batch_factor=read_batch_factor(reader))
    usage, cost = Usage(counts.input_tokens, counts.output_tokens, counts.cached_tokens), counts.cost
    if in_jobs is None or in_jobs.cost is None or cost is None:
        return saved_of(usage, cost, in_jobs=False)
    jobs = usage_of(in_jobs)
    live = Usage(
        usage.input_tokens - jobs.input_tokens,
        usage.output_tokens - jobs.output_tokens,
        usage.cached_tokens - jobs.cached_tokens,
    )
    return saved_of(live, cost - in_jobs.cost, in_jobs=False) + saved_of(jobs, in_jobs.cost, in_jobs=True)


def _lanes(reader: LedgerReader, counts: Counts, answers: Sequence[AnsweredBy], model: str) -> LaneUse:
    """By the newest answers of each lane to the run's own settings, at the price of the model that answered most."""
    in_jobs = reader.rows_by_jobs()
    most = max((one for one in answers if one.asked == model), key=lambda one: one.answers, default=None)
    prices = read_prices(reader)
    price = price_of((most and most.model) or model, prices) or price_of(model, prices)
    live = counts.completions - in_jobs
    if price is None:
        return LaneUse(live=live, in_jobs=in_jobs)
    by_lane = LanePrices(lambda: price, read_batch_factor(reader))
    for one in reader.row_usages(None):
        by_lane.add_known(one)
    return lane_use(live, in_jobs, by_lane)


def _cut_answers(
    reader: LedgerReader, own: RunManifest, finish_reasons: Mapping[str, int]
) -> CutAnswers | None:
    at_limit, context_full = (finish_reasons.get(reason, 0) for reason in CUT_OFF)
    if not at_limit:
        return CutAnswers(context_full, None, None, context_full) if context_full else None
    # What an answer took that was cut off is its limit.
    limit = max(1, reader.longest_cut())
    allowed = _limit_set(reader, own)
    if allowed is not None and limit < _AS_GOOD_AS * allowed:
        return CutAnswers(at_limit + context_full, limit, None, context_full, allowed)
    room = more_room(max(limit, allowed or 0))
    return CutAnswers(at_limit + context_full, limit, room, context_full)


_AS_GOOD_AS: Final = 0.9
"""A server may count an answer's tokens a little otherwise than it limits them."""


def _limit_set(reader: LedgerReader, own: RunManifest) -> int | None:
    """The largest limit that answers were given which were cut off at one; ``None``: they were given none, or each row
    had its own."""
    by_number, limits = read_retried_manifests(reader), list[int]()
    for number in reader.settings_of(LIMIT_REACHED):
        settings = (own if number is None else by_number.get(number, own)).settings()
        limit = settings.get("max_new_tokens")
        if limit is None or "max_new_tokens" in (settings.get("row_parameters") or ()):
            return None
        limits.append(limit)
    return max(limits, default=None)


def last_start(reader: LedgerReader, *, asks: bool = False) -> StartReport | None:
    """The newest start that the ledger knows of.

    Args:
        asks: one that was no mere look at batch jobs.
    """
    starts = reversed(list(start_reports(reader)))
    return next((start for start in starts if not (asks and start.is_look)), None)


def start_reports(reader: LedgerReader) -> Iterator[StartReport]:
    """All starts that the ledger knows of, the oldest first."""
    starts = reader.starts()
    for place, start in enumerate(starts):
        is_last = place == len(starts) - 1
        next_began_at = math.inf if is_last else starts[place + 1].started_at
        with explained_meta(reader):
            said = msgspec.structs.asdict(_decode_start(start.record))
        if start.ended_at is None:  # it goes on, or was killed: what its attempts say of it
            sent, last_seen_at, cost = reader.requests_since(start.started_at, next_began_at)
            said |= {"sent": sent, "seconds": last_seen_at - start.started_at, "start_cost": cost}
        yield StartReport(**said, number=start.number, started_at=start.started_at, ended_at=start.ended_at)


def rows_of_input(reader: LedgerReader, counts: Counts) -> int | None:
    """Rows of the input of a run, those that no start has read yet too; ``None`` where nobody knows."""
    if counts.input_was_read_to_its_end:
        return counts.rows
    if (shards := reader.shards(rows_of_starts)) is not None:
        return max(shards.wanted, counts.rows)
    return _rows_of_input(counts, _starts(reader))


def rows_of_starts(reader: LedgerReader) -> int | None:
    """Rows of the input, as the starts in one ledger say it; ``None``: none does."""
    return _rows_of_input(reader.counts(), _starts(reader))


def _starts(reader: LedgerReader) -> list[StartRecord]:
    with explained_meta(reader):
        return [_decode_start(start.record) for start in reader.starts()]


def rows_left(reader: LedgerReader, counts: Counts) -> int | None:
    """Rows of the input without an outcome, those that no start has read yet too; ``None`` where nobody knows."""
    rows = rows_of_input(reader, counts)
    return None if rows is None else rows - counts.completions - counts.failures


def _rows_of_input(counts: Counts, starts: Sequence[StartRecord]) -> int | None:
    if counts.input_was_read_to_its_end:
        return counts.rows
    known = [start.input_rows for start in starts if start.input_rows is not None and start.retry is None]
    return max(known[-1], counts.rows) if known else None


def _with_id(cause: Cause, reader: LedgerReader, id_column: str | None) -> Cause:
    if id_column is None:
        return cause
    row = next(reader.rows_at([cause.row]), None)
    return cause if row is None else msgspec.structs.replace(cause, row_id=name_of(row.record, id_column))


def _samples(reader: LedgerReader) -> Iterator[dict[str, Any]]:
    try:
        shape = shape_of(reader)
    except InputError:  # its schema is a class that is not here
        return
    for row in islice(reader.rows(Selection.parse("state=completion")), _SAMPLES):
        try:
            record: dict[str, Any] = msgspec.json.decode(record_line(row, shape))
        except InputError:  # it has a column of the name of one of ours
            continue
        yield {name: _cut(value) for name, value in record.items()}


def _cut(value: Any) -> Any:
    """A value short enough to be looked at."""
    if isinstance(value, str) and len(value) > _MAX_SAMPLE_CHARS:
        return value[:_MAX_SAMPLE_CHARS] + "…"
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [*map(_cut, items[:_MAX_SAMPLE_ITEMS]), *(["…"] if len(items) > _MAX_SAMPLE_ITEMS else [])]
    if isinstance(value, dict):
        return {name: _cut(one) for name, one in cast("dict[str, Any]", value).items()}
    return value
