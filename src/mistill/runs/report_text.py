"""A run's report as lines of text for a person: what Python prints of it, and the command line."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from mistill.addresses import scheme_of
from mistill.api.prices import old_prices_note
from mistill.characters import cut
from mistill.errors import MistillError, Stopped
from mistill.estimates.budget import LARGER_BUDGET
from mistill.estimates.forecast import Forecast
from mistill.estimates.lane_quotes import quote_lines
from mistill.estimates.sample_totals import Range
from mistill.finish_reasons import CONTEXT_FULL, GIVE_ROOM, LIMIT_REACHED, MOST_REASON_CHARS
from mistill.jobs.job_report import JobReport, goes_on, job_lines, under_way
from mistill.ledger import Cause
from mistill.progress.formatting import count, latency, moment, money, seconds, time_split, tokens_in
from mistill.records.misfits import misfit_lines
from mistill.runs.run_name import RunName
from mistill.steering.orders import Change, shown_settings
from mistill.wording import START_AGAIN, Part, Phrase, Setting, Wording, Words, worded, words

if TYPE_CHECKING:
    from mistill.runs.report import CutAnswers, RetryRecord, RunReport


class Line(Struct, frozen=True):
    """A line of text. ``label``: how it begins, where that is to be seen at a glance."""

    text: str
    label: str = ""

    def __str__(self) -> str:
        return self.label + self.text


def start_lines(report: RunReport, wording: Wording) -> Iterator[Line]:
    """How the last start of a run ended.

    Args:
        wording: how settings are said, where the lines are read.
    """
    report = report.worded(wording)
    yield Line(f"{_rows(report)}{_running(report)}: {_rows_by_state(report)}")
    if report.last_start.retry is not None:
        yield from _retried(report.last_start.retry)
    yield Line(f"sent now: {_sent(report)} in {seconds(report.seconds)}")
    yield from _changes(report)
    yield Line(f"in all: {_spending(report)}{_of_last_start(report, 'now')}{_saved(report)}")
    if report.cost is not None and (old := _old_prices(report)) is not None:
        yield Line(worded(old, wording), label="prices: ")
    yield from _lanes(report)
    yield from map(Line, job_lines(report.jobs, in_full=False))
    yield from _details(report, wording)
    if report.seconds_by_cause:
        yield Line(f"time: {time_split(report.seconds_by_cause)}")
    if report.advice:
        yield Line(f"advice: {report.advice}")
    if report.forecast is not None:
        yield from _forecast_lines(report.forecast, wording)
    if report.output is not None and report.output != "-":
        yield Line(f"output: {report.output}")
    if report.ledger is not None and not report.is_temporary:
        yield Line(f"ledger: {report.ledger}")
    if (stopped := report.stopped) is not None and not _is_waiting(stopped):
        # What to do after a stop on purpose stands in the next line.
        yield Line(stopped.message if isinstance(stopped, Stopped) else str(stopped), label="stopped: ")
    if (next_step := _next_step(report)) is not None:
        yield Line(wording(next_step))


def note_lines(report: RunReport, wording: Wording) -> Iterator[Line]:
    """What of a run is worth a word beside its figures, and what to do. ``wording`` as for `start_lines`."""
    report = report.worded(wording)
    if report.has_died:
        yield Line(wording(_died(report)), label="died: ")
    if (stopped := report.stopped) is not None and not _is_waiting(stopped):
        yield Line(stopped.message if isinstance(stopped, Stopped) else str(stopped), label="stopped: ")
    if (next_step := _next_step(report)) is not None:
        yield Line(wording(next_step), label="next: ")
    if report.advice:
        yield Line(report.advice, label="advice: ")
    yield from _lanes(report)
    if report.cost is not None and (old := _old_prices(report)) is not None:
        yield Line(worded(old, wording), label="prices: ")
    yield from (line for line in _details(report, wording) if line.label)
    yield from (Line(worded(line, wording)) for line in misfit_lines(report.misfits, _name(report)))
    if report.forecast is not None:
        yield from _forecast_lines(report.forecast, wording)


def cancelled_lines(report: RunReport, failed: MistillError | None, wording: Wording) -> Iterator[Line]:
    """What became of jobs that were to be cancelled.

    Args:
        failed: why that came to an early end. ``wording`` as for `start_lines`.
    """
    report = report.worded(wording)
    yield Line(f"{_rows(report)}: {_rows_by_state(report)}")
    yield Line(f"in all: {_spending(report)}{_saved(report)}")
    given_up = [job for job in report.jobs if job.is_given_up and not job.is_under_way]
    if given_up:
        yield Line(f"{count(len(given_up), 'job')} given up: the server does not know {_them(given_up)}")
    ended = [job for job in report.jobs if job.is_cancelled and not job.is_under_way]
    if ended:
        yield Line(f"{count(len(ended), 'job')} cancelled, and read as far as {_they(ended)} came")
    yield from map(Line, job_lines(report.jobs, in_full=False))
    yield from _details(report, wording)
    if failed is not None:
        yield Line(worded(failed.message, wording), label="stopped: ")
    hint = None if failed is None else failed.hint
    if isinstance(failed, Stopped) and failed.reason == "unknown_jobs" and hint is not None:
        yield Line(worded(hint, wording), label="hint: ")
    elif jobs := under_way(report.jobs):
        told = f"{count(len(jobs), 'job')} of it not ended yet: "
        place = _place(report)
        again = Phrase("cancel_jobs() again", place.command("cancel") if place else "the same command again")
        yield Line(wording(Phrase(told + again.python, told + again.command_line)))
    elif report.to_go:
        yield Line("to go on: the run itself again, in either lane; answered rows cost nothing")
    if report.output is not None and report.output != "-":
        yield Line(f"output: {report.output}")


def _them(jobs: Sequence[JobReport]) -> str:
    return "it" if len(jobs) == 1 else "them"


def _they(jobs: Sequence[JobReport]) -> str:
    return "it" if len(jobs) == 1 else "they"


def hint_of_broken_input(hint: str | None, report: RunReport, *, is_read_once: bool = False) -> Words:
    """Of a run whose input broke off: what is kept, what was paid, and how it goes on.

    Args:
        hint: what to do about the input itself.
        is_read_once: neither can this object read it again, nor would another one find the ledger.
    """
    kept = f"{count(report.completions, 'row')} answered so far, and kept: {_spending(report)}"
    go_on: tuple[Part, ...] = ("once that is mended, ", START_AGAIN, "; answered rows cost nothing")
    if report.out == "-":
        go_on = (START_AGAIN, " with ", Setting("ledger", str(report.ledger)), ", once that is mended")
    elif is_read_once:
        go_on = (
            "they are in its results(); with ",
            Setting("out"),
            " or ",
            Setting("ledger"),
            " another run goes on",
        )
    return words(*((hint, "; ") if hint else ()), kept, "; ", *go_on)


def _is_waiting(stopped: MistillError | None) -> bool:
    """It ended since its jobs go on without it, which is no news beside how far these are."""
    return isinstance(stopped, Stopped) and stopped.reason == "waiting"


def headline(report: RunReport) -> str:
    """A run in a few words."""
    return f"{_rows(report)}: {_rows_by_state(report)}, {money(report.cost)}"


def interrupted_line(report: RunReport, *, is_temporary: bool) -> str:
    """What a run says that Ctrl-C has ended, as the end of its traceback.

    Args:
        is_temporary: its ledger goes with the run.
    """
    billed = f", {count(report.maybe_billed, 'attempt')} maybe billed" if report.maybe_billed else ""
    go_on = f"{START_AGAIN.python} to go on"
    if jobs := under_way(report.jobs):
        go_on = goes_on(jobs).python
    if is_temporary:
        go_on = "what is answered is in results() as long as the run is there, and its start() goes on"
    return f"{_rows_by_state(report)}{billed}: {go_on}; summary has the report"


def status_lines(report: RunReport, wording: Wording) -> Iterator[Line]:
    """How far a run is. ``wording`` as for `start_lines`."""
    report = report.worded(wording)
    yield Line(f"{report.out or 'a run'} by {report.model}: {_rows(report)}{_running(report)}")
    rows = report.input_rows or report.rows
    share = report.completions / rows if rows else 0.0
    of_all = f" ({share:.0%})" if report.input_rows is not None else ""
    left = f"{report.to_go:,} to go" if report.input_rows is not None else f"{report.to_go:,} of these to go"
    again = f", {report.asked_again:,} to ask again" if report.asked_again else ""
    yield Line(f"{report.completions:,} answered{of_all}, {report.failures:,} failed, {left}{again}")
    if (shards := report.shards) is not None:
        begun = shards.begun - shards.finished
        told = f"{shards.finished:,} of {shards.number:,} finished" + (f", {begun:,} begun" if begun else "")
        yield Line(told, label="shards: ")
    last = _of_last_start(report, "now" if report.is_running else "in the last start")
    in_all = "in all: " if last else ""
    yield Line(f"{in_all}{_spending(report)}{last}, {count(report.attempts, 'attempt')}{_saved(report)}")
    yield from _changes(report)
    yield from _lanes(report)
    yield from map(Line, job_lines(report.jobs, in_full=True))
    if report.latency_s is not None:
        within = report.latency_s
        yield Line(f"latency: half within {latency(within.p50)}, 99% within {latency(within.p99)}")
    yield from _details(report, wording)
    if (missing := _missing_output(report)) is not None:
        yield Line(wording(missing))
    if (stopped := report.stopped) is not None and not _is_waiting(stopped):
        yield Line(stopped.headline, label="stopped: ")
    if report.has_died:
        yield Line(wording(_died(report)), label="died: ")
    elif not report.is_running and (jobs := under_way(report.jobs)):
        yield Line(wording(goes_on(jobs)))
    elif not report.is_running and report.goes_on_by_jobs:
        yield Line(wording(to_go_on(report)))
    yield Line(f"ledger: {report.ledger}")


def to_go_on(report: RunReport) -> Phrase:
    """How rows get an answer that nobody asks at the moment."""
    left = f"{count(report.to_go, 'row')} {'is' if report.to_go == 1 else 'are'} left to ask"
    return Phrase(f"{left}: {START_AGAIN.python} to go on", f"{left}: the same command goes on")


def answered_rows(report: RunReport) -> str:
    """How many rows are answered; of how many, where that is known: some that were read may be the first window."""
    if report.input_rows is None:
        return f"{count(report.completions, 'row')} {'is' if report.completions == 1 else 'are'}"
    return f"{report.completions:,} of {count(report.input_rows, 'row')} are"


def _running(report: RunReport) -> str:
    if not report.is_running:
        return ""
    state = "running" if report.paused is None else "paused"
    return f", {state}" if report.process is None else f", {state} (process {report.process})"


_MOST_CHANGES = 20


def _changes(report: RunReport) -> Iterator[Line]:
    """What was done to the last start while it went on."""
    start = report.last_start
    shown = start.changes[-_MOST_CHANGES:]
    if before := start.earlier_changes.count + len(start.changes) - len(shown):
        yield Line(f"{count(before, 'time')} before these", label="changed: ")
    for change in shown:
        at = moment(change.at, to_seconds=True)
        yield Line(f"{what_was_done(change)}, at {at} by {change.by}", label="changed: ")


def what_was_done(change: Change) -> str:
    """``paused``, ``set max_cost $5.00 → $4.00``."""
    return f"set {shown_settings(change.settings)}" if change.do == "set" else _DONE[change.do]


_DONE = {"pause": "paused", "resume": "resumed", "stop": "stopped"}


def _rows(report: RunReport) -> str:
    if report.input_rows is None:
        return f"{count(report.rows, 'row')} read so far"
    return count(report.input_rows, "row")


def _rows_by_state(report: RunReport) -> str:
    parts = [f"{report.completions:,} answered"]
    if report.failures:
        parts.append(f"{report.failures:,} failed")
    if report.to_go:
        parts.append(f"{report.to_go:,} to go")
    if report.asked_again:
        parts.append(f"{report.asked_again:,} to ask again")
    return ", ".join(parts)


def _spending(report: RunReport) -> str:
    read = tokens_in(report.input_tokens, report.cached_tokens, report.saved_by_cache)
    unpriced = ""
    if report.cost is not None and report.unpriced_answers:
        unpriced = f" and {count(report.unpriced_answers, 'answer')} without a known price"
    return f"{read}, {report.output_tokens:,} out, {money(report.cost)}{unpriced}"


def _of_last_start(report: RunReport, when: str) -> str:
    """What of the money is of the last start, where there were others."""
    cost = report.last_start.start_cost
    return "" if cost is None or len(report.starts) < 2 else f" ({money(cost)} of it {when})"


def _old_prices(report: RunReport) -> Words | None:
    """That the last start went by prices that were old then."""
    start = report.starts[-1] if report.starts else None
    if start is None or report.options.get("max_cost") is not None:  # then it was said when the start began
        return None
    return old_prices_note(start.prices_of, datetime.fromtimestamp(start.started_at, UTC).date())


def _sent(report: RunReport) -> str:
    live = count(report.sent, "request")
    since = report.starts[-1].started_at if report.starts else 0.0
    begun = [job for job in report.jobs if job.created_at is not None and job.created_at >= since]
    if not begun:
        return live
    jobs = f"{count(len(begun), 'job')} of {count(sum(job.lines for job in begun), 'request')}"
    return f"{jobs}, and {live} live" if report.sent else jobs


def _saved(report: RunReport) -> str:
    return f"; {money(report.saved)} less by batch jobs than live" if report.saved else ""


def _lanes(report: RunReport) -> Iterator[Line]:
    if report.lanes is not None and report.completions:
        yield Line(str(report.lanes), label="lanes: ")


def _retried(retry: RetryRecord) -> Iterator[Line]:
    if not retry.rows:
        yield Line(f"asked again: no row matches {retry.where}")
        return
    kept = sum(cause.count for cause in retry.unreplaced)
    told = f", {kept:,} of them no better now: these keep the answer that they had" if kept else ""
    yield Line(f"asked again: {count(retry.rows, 'row')} of {retry.where}{told}")
    yield from _cause_lines(retry.unreplaced, "no better, though what was sent was paid:")


WITHOUT_A_WORD = "the last start ended without a word (killed, the machine went down, or the disk was full)"
"""What an end that a ledger does not have comes of."""


def _died(report: RunReport) -> Phrase:
    cut_off = (
        f"; {count(report.open_attempts, 'attempt')} in flight then, maybe billed"
        if report.open_attempts
        else ""
    )
    what = f"{WITHOUT_A_WORD}{cut_off}; "
    return Phrase(
        f"{what}start the same run again; what is answered costs nothing",
        f"{what}the same command goes on; what is answered costs nothing",
    )


def _details(report: RunReport, wording: Wording) -> Iterator[Line]:
    if report.finish_reasons:
        told = ", ".join(
            f"{rows:,} {cut(reason, MOST_REASON_CHARS)}" for reason, rows in report.finish_reasons.items()
        )
        yield Line(f"finish reasons: {told}")
    if any(one.model not in (None, one.asked) for one in report.answers_by_model):
        answers = Counter[str | None]()  # a retry may have asked for a model by another name
        for one in report.answers_by_model:
            answers[one.model] += one.answers
        most = answers.most_common()
        told = [f"{number:,} {model or 'of no name'}" for model, number in most[:_SHOWN_MODELS]]
        others = [f"and {len(most) - len(told):,} others"] if len(most) > len(told) else []
        yield Line(f"answers by model: {', '.join([*told, *others])}")
    if report.cut is not None:
        yield from (Line(text, label="cut off: ") for text in _cut_answers(report, report.cut, wording))
    if report.empty_answers:
        yield Line(_empty_answers(report, wording), label="empty: ")
    if cut_off := report.maybe_billed - report.damaged_attempts:
        yield Line(f"maybe billed: {count(cut_off, 'attempt')} whose answers never came")
    if report.damaged_attempts:
        yield Line(_damaged_attempts(report), label="damaged in the ledger: ")
    if report.no_longer_in_input:
        yield Line(f"no longer in the input, and kept: {count(report.no_longer_in_input, 'row')}")
    yield from _cause_lines(report.causes)
    yield from (Line(worded(line, wording)) for line in misfit_lines(report.misfits, _name(report)))


_SHOWN_MODELS = 8


def _damaged_attempts(report: RunReport) -> str:
    rows = report.rows_of_damaged_attempts
    more = "" if report.damaged_attempts <= len(rows) else ", …"
    of_rows = f" (of {'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows))}{more})" if rows else ""
    return (
        f"{count(report.damaged_attempts, 'attempt')}{of_rows}, counted as maybe billed: what the ledger says of them, "
        "it did not write, and it is in no sum above"
    )


def _cut_answers(report: RunReport, cut: CutAnswers, wording: Wording) -> Iterator[str]:
    """How many there are, and how to ask them again with room."""
    if cut.limit is not None and cut.max_new_tokens is None:
        yield (
            f"{_at_limit(cut)}, though {cut.allowed:,} were allowed: a limit of the server's own or of the model's, "
            "which no setting raises"
        )
    elif cut.limit is not None:
        room = cut.max_new_tokens
        given = Phrase(f"parameters={{'max_new_tokens': {room}}}", f"--max-new-tokens {room}")
        rows = _at_limit(cut)
        again = _retry(report, f"finish_reason={LIMIT_REACHED}", given)
        if again is not None:
            yield f"{rows}; again, with room: {wording(again)}"
        else:
            yield worded(words(rows, "; give them room with ", Setting("max_new_tokens", room)), wording)
    if cut.context_full:
        told = f"{count(cut.context_full, 'answer')} where the context was full; {GIVE_ROOM[CONTEXT_FULL]}"
        given = Phrase("llm={'model': …}", "--model …")
        again = _retry(report, f"finish_reason={CONTEXT_FULL}", given)
        yield told if again is None else f"{told}: {wording(again)}"


def _at_limit(cut: CutAnswers) -> str:
    """How many were cut off at a limit of tokens, and after how many."""
    rows = cut.rows - cut.context_full
    return (
        f"{count(rows, 'answer')} after {count(cut.limit or 0, 'token')}{' at the most' if rows > 1 else ''}"
    )


def _place(report: RunReport) -> RunName | None:
    """``None`` where the run can be found no more."""
    return None if report.ledger is None else RunName.of(report.out, Path(report.ledger))


def _name(report: RunReport) -> str | None:
    """What names a run beside whose files others may be put; ``None`` where there is nothing that stays."""
    place = None if report.is_temporary else _place(report)
    return place and (place.ledger or place.path)


def _place_of_retry(report: RunReport) -> RunName | None:
    """What is retried of a shard is retried of the run."""
    of_all = None if report.ledger is None else RunName.of_all_shards(Path(report.ledger))
    return of_all or _place(report)


def _retry(report: RunReport, where: str, given: Phrase) -> Phrase | None:
    """How rows of a condition are asked again; ``None`` where the run can be found no more."""
    place = _place_of_retry(report)
    if place is None:
        return None
    # The ledger is one process's at a time.
    later = "once the run has ended, " if report.is_running else ""
    return Phrase(
        f"{later}{place.call('Run.retry', repr(where), given.python)}.start()",
        f"{later}{place.command('retry', '--where', shlex.quote(where), given.command_line)}",
    )


def _empty_answers(report: RunReport, wording: Wording) -> str:
    """How many there are, and how to ask them again."""
    told = f"{count(report.empty_answers, 'answer')} without content"
    where = "answer.without_content=true"
    again = _retry(report, where, Phrase("llm={'model': …}", "--model …"))
    return (
        told if again is None else f"{told}; again, by another model, prompt or temperature: {wording(again)}"
    )


def _cause_lines(causes: Iterable[Cause], title: str = "failed:") -> Iterator[Line]:
    """Failures by cause: how many, one of them, and what to do. Rows count from 0, as in ``--where row=…``."""
    for place, cause in enumerate(causes):
        if place == 0:
            yield Line(title)
        row = f"row {cause.row}" + (f" ({cause.row_id})" if cause.row_id else "")
        yield Line(f"  {cause.count:>6,}  {cause.kind}, for example {row}: {cause.error.message}")
        if cause.error.hint:
            of_whom = "" if cause.is_of_all else f" for {cause.alike:,} of them"
            yield Line(f"          hint{of_whom}: {cause.error.hint}")


def _forecast_lines(forecast: Forecast, wording: Wording) -> Iterator[Line]:
    tokens = Range(
        forecast.input_tokens.low + forecast.output_tokens.low,
        forecast.input_tokens.expected + forecast.output_tokens.expected,
        forecast.input_tokens.high + forecast.output_tokens.high,
    )
    left, sample = count(forecast.rows_left, "row"), f"{forecast.sample:,}"
    yield Line(f"the {left} left, forecast from {sample} answered (95% interval):")
    if not forecast.is_random:
        yield Line(
            "  they are the first of the input, since how many rows it has is not known before its end"
        )
    took = forecast.seconds
    if forecast.cost is None:
        missing = words(
            "  cost    no price is known for this model; give your own table with ", Setting("prices")
        )
        yield Line(worded(missing, wording))
    elif forecast.batch_cost is not None:
        yield from (Line(f"  {line}") for line in quote_lines(forecast.lanes, forecast.lane, at_least=False))
    else:
        yield Line(f"  cost    {_interval(forecast.cost)}")
    # Doubt is known of tokens alone: where no quota of them binds, an interval would be of no width.
    between = f" ({seconds(took.low)} to {seconds(took.high)})" if took.low < took.high else ""
    yield Line(f"  time    live {seconds(took.expected)}{between}")
    yield Line(f"  tokens  {tokens.expected:,.0f} ({tokens.low:,.0f} to {tokens.high:,.0f})")


def _interval(cost: Range) -> str:
    return f"{money(cost.expected)} ({money(cost.low)} to {money(cost.high)})"


def _missing_output(report: RunReport) -> Phrase | None:
    """Why the output is not there, and what to do till then."""
    out, place = report.out, _place(report)
    if out is None or out == "-" or place is None:
        return None
    if not report.is_finished:
        if report.shards is not None and Path(out).is_dir():
            waits = f"{out} gets the part of each shard when that has ended; all rows by now: "
        else:
            stale = ", and the one that is there is of before" if _is_there(out) else ""
            waits = f"{out} is written when every row has an outcome{stale}; until then: "
        return Phrase(
            f"{waits}{place.call('Run.open')}.results()",
            f"{waits}{place.command('rows')}, or export --partial",
        )
    if _is_there(out) or scheme_of(out) is not None:  # there, a report does not look
        return None
    return Phrase(
        f"{out} is not there: the same run again, or export_run, writes it for free",
        f"{out} is not there: the same command again, or mistill export, writes it for free",
    )


def _is_there(out: str) -> bool:
    return scheme_of(out) is None and Path(out).exists()


def _next_step(report: RunReport) -> Phrase | None:
    """What to do next; nothing while it goes on."""
    if report.is_running:
        return None
    stopped = report.stopped
    # What is to be done first stands in the hint of who stopped it.
    is_all_right = stopped is None or (
        isinstance(stopped, Stopped) and stopped.reason not in ("budget", "moved", "unknown_jobs")
    )
    if is_all_right and (jobs := under_way(report.jobs)):
        return goes_on(jobs)
    if report.pending or report.stopped is not None:
        if isinstance(stopped, Stopped) and (
            stopped.reason in ("moved", "unknown_jobs")
            or (stopped.reason == "budget" and stopped.hint not in (None, LARGER_BUDGET))
        ):
            told = f"to go on: {stopped.hint}; answered rows cost nothing"
            return Phrase(told, told)
        if report.forecast is not None and report.out != "-":
            done = "those of the sample cost nothing more"
            return Phrase(
                f"to go on: the same run without sample; {done}",
                f"to go on: the same command without --sample; {done}",
            )
        how = _changed_how(report)
        again = f"to go on: start the same run {how.python}; answered rows cost nothing"
        if report.out == "-":
            return Phrase(again, f"to go on: the same command with --ledger {report.ledger}")
        return Phrase(again, f"to go on: the same command {how.command_line}; answered rows cost nothing")
    place, of_all = _place(report), _place_of_retry(report)
    if report.failures and place is not None and of_all is not None:
        other = of_all.call("Run.retry", "failed=True", "…"), of_all.command("retry", "--failed …")
        is_retry = report.last_start.retry is not None
        command = "the command of the run itself" if is_retry else "the same command"
        return Phrase(
            f"the same run again asks failed rows again, {other[0]} by other settings; "
            "all of them are among its results()",
            f"{command} asks failed rows again; by other settings: {other[1]}; "
            f"all of them: {place.command('rows', '--failed')}",
        )
    return None


def _changed_how(report: RunReport) -> Phrase:
    stopped = report.stopped
    how = "again, once that is mended"
    if stopped is None or (isinstance(stopped, Stopped) and stopped.reason != "budget"):
        how = "again"
    elif isinstance(stopped, Stopped):
        how = "again with a larger budget"
    return Phrase(how, how)
