"""A run's report as one page: all that there is to look at, of a million rows too.

Counts and sums are of all rows. What takes the rows themselves is of some, drawn at random, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from mistill.addresses import shown
from mistill.api.prices import price_of
from mistill.api.usage import Usage
from mistill.audits.charges import lines_of, takings_in
from mistill.audits.report import AuditLine
from mistill.characters import cut
from mistill.estimates.cache_savings import Savings, savings
from mistill.finish_reasons import MOST_REASON_CHARS
from mistill.jobs.job_report import job_lines
from mistill.kinds.kept_settings import read_batch_factor, read_endpoint, read_prices, read_settings
from mistill.ledger import LedgerReader
from mistill.pages.blocks import (
    Block,
    Chart,
    Example,
    Facts,
    Figure,
    Figures,
    Group,
    Lines,
    Page,
    Section,
    Table,
    Text,
    Tone,
)
from mistill.pages.charts import Colors, bars
from mistill.pages.distribution_blocks import distribution_blocks, spread_chart
from mistill.pages.money_blocks import money_blocks
from mistill.pages.page import subject
from mistill.pages.series_colors import ANSWERED, FAILED, TO_GO
from mistill.pages.time_blocks import TimeOfStart, latency_chart, stretches_of, time_blocks
from mistill.progress.formatting import count, latency, moment, money, rounded, seconds, share, tokens_in
from mistill.runs.drawn_rows import DrawnRows, FailedRow
from mistill.runs.report_text import headline, note_lines, what_was_done
from mistill.steering.orders import EarlierChanges, shown_value
from mistill.wording import Wording

if TYPE_CHECKING:
    from mistill.runs.report import RunReport, StartReport

_LONGEST_SETTING: Final = 2_000
_LONGEST_TEXT: Final = 20_000
_LONGEST_MESSAGE: Final = 2_000
_MOST_STARTS: Final = 100
_MOST_CAUSES: Final = 20
_MOST_REASONS: Final = 20
_MOST_MODELS: Final = 50
_MOST_JOBS: Final = 50
_SHARES: Final = (*(place / 40 for place in range(40)), 0.99, 1.0)
_STATE_COLORS: Final[Colors] = {"answered": ANSWERED, "failed": FAILED, "to go": TO_GO}
_OF_ONE_START: Final = frozenset(("fresh", "retry_failed"))


def report_page(report: RunReport, reader: LedgerReader | None, wording: Wording, *, at: float) -> Page:
    """The page of a run.

    Args:
        reader: of its ledger, from which the report has just been read; ``None``: that is gone, and what only it has is
            left out.
        wording: how settings are said, where the page is read.
        at: when that is, in unix seconds.
    """
    report = report.worded(wording)
    out = None if report.out in (None, "-") else shown(report.out)
    name = "A run without an output" if out is None else Path(out).name
    running = ", and goes on" if report.is_running else ""
    drawn = None if reader is None else DrawnRows(reader, report)
    sections = [
        Section("in-short", "In short", [*_in_short(report, wording)]),
        Section("asked", "What was asked", [*_asked(report, reader)]),
        Section("rows", "How rows ended", [*_rows(report, reader, drawn)]),
        Section("money", "Money and tokens", [*_money(report, reader, drawn)]),
        Section("time", "Time", [*_time(report, reader)]),
        Section("answers", "What the answers are like", [*_answers(drawn)]),
        Section("samples", "Rows to look at", [*_samples(drawn)]),
    ]
    foot = [f"Made of {report.ledger or 'the summary of a run whose ledger is gone'}, {moment(at)}."]
    subtitle = f"{report.kind} by {report.model}: {headline(report)}, {moment(at)}{running}"
    about = subject(None if report.ledger is None else Path(report.ledger))
    return Page(cut(name, 200), cut(subtitle, 400), sections, [cut(line, 500) for line in foot], about)


# --- in short -------------------------------------------------------------------------------------------------------


def _in_short(report: RunReport, wording: Wording) -> Iterator[Block]:
    of = report.input_rows or report.rows
    all_s = sum(start.seconds for start in report.starts)
    bad: Tone = "bad"
    figures = [
        Figure(
            "answered",
            f"{report.completions:,}",
            f"{share(report.completions, of)} of {count(of, 'row')}" if of else "of no row",
            "good" if of and report.completions == of else "plain",
        ),
        Figure(
            "failed", f"{report.failures:,}", _of(report.failures, of), bad if report.failures else "plain"
        ),
    ]
    if report.to_go:
        figures.append(Figure("to go", f"{report.to_go:,}", _of(report.to_go, of)))
    saved = (report.saved_by_cache or 0.0) + (report.saved or 0.0)
    figures.append(Figure("cost", money(report.cost), f"{money(saved)} saved" if saved else ""))
    figures.append(
        Figure(
            "tokens",
            _short(report.input_tokens + report.output_tokens),
            f"{report.input_tokens:,} in, {report.output_tokens:,} out",
        )
    )
    figures.append(Figure("time", seconds(all_s), count(len(report.starts), "start")))
    if report.latency_s is not None:
        figures.append(
            Figure(
                "latency, median",
                latency(report.latency_s.p50),
                f"99% within {latency(report.latency_s.p99)}",
            )
        )
    yield Figures(figures)
    notes = [(line.label, cut(line.text, _LONGEST_MESSAGE)) for line in note_lines(report, wording)]
    if notes:
        yield Lines(notes)


def _short(number: int) -> str:
    """So that it is read at a glance; the digits stand below it."""
    return f"{number:,}" if number < 1_000_000 else rounded(number)


def _of(part: int, whole: int) -> str:
    return share(part, whole) if part and whole else ""


# --- what was asked -------------------------------------------------------------------------------------------------


def _asked(report: RunReport, reader: LedgerReader | None) -> Iterator[Block]:
    own: dict[str, Any] = dict(report.settings)
    llm: dict[str, Any] = {}
    facts = [("model", report.model), ("kind", report.kind)]
    if reader is not None:
        kept = read_settings(reader)
        own, llm = kept.manifest.settings(), kept.llm
        facts.append(("endpoint", read_endpoint(reader) or "Mistral's"))
    prompts = {name: own.pop(name, None) for name in ("prompt", "system")}
    for name in ("model", "kind", "schema"):
        own.pop(name, None)
    facts += [(name, _json(value)) for name, value in own.items() if value not in (None, {}, [])]
    for name in ("max_concurrent_requests", "requests_per_minute", "tokens_per_minute"):
        if llm.get(name) is not None:
            facts.append((name, f"{llm[name]:,}"))
    same = own.keys() | prompts.keys()
    facts += [
        (name, _json(value))
        for name, value in report.options.items()
        if name not in same | _OF_ONE_START and value not in (None, {}, [])
    ]
    told = {
        name: f"{shown_value(name, now)} since it was changed, {shown_value(name, before)} as it began"
        for name, (before, now) in _changed(report).items()
    }
    facts = list((dict(facts) | told).items())
    yield Facts([(name, cut(value, _LONGEST_SETTING)) for name, value in facts])
    for name, text in prompts.items():
        if text:
            yield Text(name, cut(text if isinstance(text, str) else _json(text), _LONGEST_TEXT))
    schema: Any = cast("dict[str, Any]", llm.get("structured_output") or {}).get("schema")
    if schema:
        yield Text("schema", cut(json.dumps(schema, ensure_ascii=False, indent=2), _LONGEST_TEXT))
    if report.starts:
        yield _starts(report.starts, is_running=report.is_running)
        yield from _changes(report.starts)
    if report.jobs:
        lines = [cut(line, _LONGEST_MESSAGE) for line in job_lines(report.jobs, in_full=True)]
        yield Group("Batch jobs", [Lines([("", line) for line in lines[:_MOST_JOBS]])])
    if len(report.answers_by_model) > 1 or any(
        one.model not in (None, one.asked) for one in report.answers_by_model
    ):
        rows = [[one.asked, one.model or "of no name", f"{one.answers:,}"] for one in report.answers_by_model]
        yield Table(
            "Answers by model", ["asked", "answered by", "answers"], rows[-_MOST_MODELS:], frozenset((2,))
        )


def _starts(starts: Sequence[StartReport], *, is_running: bool) -> Table:
    rows = [
        [
            f"{start.number:,}",
            moment(start.started_at),
            seconds(start.seconds),
            f"{start.sent:,}",
            f"{start.sent / start.seconds:,.1f}" if start.seconds and start.sent else "–",
            "–" if start.start_cost is None else money(start.start_cost),
            cut(_how_it_ended(start, goes_on=is_running and start is starts[-1]), _LONGEST_SETTING // 4),
        ]
        for start in starts[-_MOST_STARTS:]
    ]
    title = "Starts" if len(starts) <= _MOST_STARTS else f"The last {_MOST_STARTS} of {len(starts):,} starts"
    columns = ["start", "began", "took", "requests", "a second", "cost", "and"]
    return Table(title, columns, rows, frozenset((2, 3, 4, 5)))


def _changed(report: RunReport) -> dict[str, tuple[float | int | None, float | int | None]]:
    """Settings that were changed while the last start went on: what they were as it began, and in the end."""
    start = report.last_start
    return reduce(EarlierChanges.then, start.changes, start.earlier_changes).settings


def _changes(starts: Sequence[StartReport]) -> Iterator[Table]:
    rows = [
        [
            f"{start.number:,}",
            moment(change.at),
            cut(what_was_done(change), _LONGEST_SETTING // 4),
            cut(change.by, 80),
        ]
        for start in starts
        for change in start.changes
    ]
    if rows:
        title = "What was done while it went on"
        done = len(rows) + sum(start.earlier_changes.count for start in starts)
        if done > len(rows[-_MOST_STARTS:]):
            title = f"The last {len(rows[-_MOST_STARTS:])} of {done:,} things that were done while it went on"
        yield Table(title, ["start", "at", "what", "by"], rows[-_MOST_STARTS:])


def _how_it_ended(start: StartReport, *, goes_on: bool) -> str:
    told: list[str] = []
    if start.retry is not None:
        told.append(
            f"asked again {start.retry.where}"
            + (f" with {_json(start.retry.settings)}" if start.retry.settings else "")
        )
    if start.is_look:
        told.append("looked at batch jobs")
    if start.stopped is not None:
        message = start.stopped.message
        told.append(message if message.startswith("stopped") else f"was stopped: {message}")
    elif goes_on:
        told.append("goes on")
    elif start.ended_at is None:
        told.append("did not say that it ended")
    return "; ".join(told) or "went to its end"


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# --- how rows ended -------------------------------------------------------------------------------------------------


def _rows(report: RunReport, reader: LedgerReader | None, drawn: DrawnRows | None) -> Iterator[Block]:
    of = report.input_rows or report.rows
    states = {"answered": report.completions, "failed": report.failures, "to go": report.to_go}
    if of:
        ended = {name: rows for name, rows in states.items() if rows}
        yield _counted("Rows by how they ended", ended, "rows", _STATE_COLORS)
    else:
        yield Lines([("", "the input has no row")], tone="muted")
    reasons = dict(list(report.finish_reasons.items())[:_MOST_REASONS])
    if reasons:
        yield _counted(
            "Finish reasons: why answers ended",
            {cut(name, MOST_REASON_CHARS): rows for name, rows in reasons.items()},
            "rows",
        )
    beside = [
        (report.maybe_billed, "attempt", "whose answers never came, and which may be on the bill"),
        (report.no_longer_in_input, "row", "no longer in the input, and kept"),
        (report.asked_again, "row", "to be asked again"),
    ]
    told = [("", f"{count(number, what)} {text}") for number, what, text in beside if number]
    marks = {} if reader is None else reader.marks()
    if marks:
        said = ", ".join(f"{rows:,} {mark or 'with a note alone'}" for mark, rows in marks.items())
        told.append(("", f"marked by people who looked: {said}"))
    if told:
        yield Lines(told, tone="muted")
    examples = {} if drawn is None or not report.causes else drawn.failed()
    for cause in report.causes[:_MOST_CAUSES]:
        blocks: list[Block] = [Lines([("", cut(cause.error.message, _LONGEST_MESSAGE))], tone="bad")]
        if cause.error.hint:
            of_whom = "" if cause.is_of_all else f" with {cause.alike:,} of them"
            blocks.append(Lines([(f"what to do{of_whom}:", cut(cause.error.hint, _LONGEST_MESSAGE))]))
        blocks += [_failed_row(one, cause.error.message) for one in examples.get(cause.kind, ())]
        yield Group(f"{count(cause.count, 'row')} failed: {cut(cause.kind, 100)}", blocks)
    if len(report.causes) > _MOST_CAUSES:
        yield Lines(
            [("", f"{count(len(report.causes) - _MOST_CAUSES, 'further cause')} left out here")], tone="muted"
        )


def _failed_row(row: FailedRow, known: str) -> Example:
    """``known``: the error that has been told already."""
    error = "" if row.error == known else row.error
    texts = [("prompt", row.prompt), ("the answer that did not do", row.answer), ("error", error)]
    return Example(row.name, [(name, cut(text, _LONGEST_MESSAGE)) for name, text in texts if text], "bad")


def _counted(title: str, counts: dict[str, int], of: str, colors: Colors | None = None) -> Chart:
    total = sum(counts.values())
    rows = [[name, f"{number:,}", share(number, total)] for name, number in counts.items()]
    told = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    return Chart(
        title,
        f"{told}.",
        bars(counts.items(), of, colors or {}),
        Table.of_numbers(title, ["", of, "share"], rows),
    )


# --- money and tokens -----------------------------------------------------------------------------------------------


def _money(report: RunReport, reader: LedgerReader | None, drawn: DrawnRows | None) -> Iterator[Block]:
    if not report.attempts:
        return
    _, budget = _changed(report).get("max_cost", (None, report.options.get("max_cost")))
    facts = [
        ("cost", money(report.cost)),
        ("saved by the cache", _saved(report.saved_by_cache)),
        ("saved by batch jobs", _saved(report.saved)),
        ("tokens", f"{tokens_in(report.input_tokens, report.cached_tokens)}, {report.output_tokens:,} out"),
    ]
    if report.cost is not None and report.completions:
        facts.append(("an answered row", money(report.cost / report.completions)))
    if isinstance(budget, int | float) and budget > 0 and report.cost is not None:
        facts.append(("of the budget", f"{share(report.cost, budget)} of {money(budget)}"))
    if report.unpriced_answers:
        facts.append(("without a known price", count(report.unpriced_answers, "answer")))
    yield Facts(facts)
    if reader is not None:
        lines = lines_of([takings_in(reader)])
        yield from money_blocks(lines, _savings_by_line(lines, reader))
    if drawn is not None:
        for name, spread in (("tokens in", drawn.input_tokens), ("tokens out", drawn.output_tokens)):
            if spread is not None:
                yield spread_chart(
                    f"How many {name} an answered row took{drawn.of_a_sample}", spread, name, "rows"
                )


def _saved(dollars: float | None) -> str:
    return money(dollars) if dollars else "nothing"


def _savings_by_line(lines: Sequence[AuditLine], reader: LedgerReader) -> list[Savings]:
    prices, batch_factor = read_prices(reader), read_batch_factor(reader)
    return [
        savings(
            price_of(line.model, prices),
            Usage(line.input_tokens, line.output_tokens, line.cached_tokens),
            line.cost,
            in_jobs=line.lane == "batch",
            batch_factor=batch_factor,
        )
        for line in lines
    ]


# --- time -----------------------------------------------------------------------------------------------------------


def _time(report: RunReport, reader: LedgerReader | None) -> Iterator[Block]:
    within = report.latency_s
    if within is not None:
        yield Table.of_numbers(
            "How long answers took that came live",
            ["half of them within", "90%", "99%", "all"],
            [[latency(one) for one in (within.p50, within.p90, within.p99, within.max)]],
        )
        if reader is not None:
            yield latency_chart(_SHARES, reader.latencies_s(_SHARES))
    start = max(report.starts, key=lambda one: (one.sent, one.seconds), default=None)
    if start is None or reader is None or not report.attempts:
        return
    took = max(start.seconds, (start.ended_at or start.started_at) - start.started_at)
    stretch_s, places = stretches_of(took)
    stretches = reader.stretches(start.started_at, stretch_s, places)
    blocks = time_blocks(
        TimeOfStart(start.started_at, took, stretch_s, stretches, start.course, start.seconds_by_cause)
    )
    if len(report.starts) == 1:
        yield from blocks
    else:
        yield Group(f"In the course of start {start.number:,}, which sent most", blocks)


# --- answers --------------------------------------------------------------------------------------------------------


def _answers(drawn: DrawnRows | None) -> Iterator[Block]:
    if drawn is None or not drawn.seen:
        return
    if drawn.is_sample:
        told = f"of {drawn.seen:,} rows, drawn at random of the {drawn.of:,} answered ones, by each report the same"
        yield Lines([("a sample:", told)], tone="muted")
    if drawn.unreadable:
        yield Lines(
            [("", f"{count(drawn.unreadable, 'answer')} could not be read, and left out here")], tone="muted"
        )
    yield from distribution_blocks(drawn.fields, len(drawn.left_out))


def _samples(drawn: DrawnRows | None) -> Iterator[Block]:
    for sample in () if drawn is None else drawn.samples:
        texts = [("prompt", sample.prompt), *(("answer", answer) for answer in sample.answers)]
        yield Example(sample.name, [(name, text or "(nothing)") for name, text in texts])
