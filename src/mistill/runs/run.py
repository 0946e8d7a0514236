"""`Run`: a Mistral model over a dataset, durably. The command line is a thin layer over it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, Unpack

import msgspec

from mistill._version import __version__
from mistill.addresses import is_of_table, keep_secrets
from mistill.api.tariff import warn_if_old
from mistill.datasets.input_size import InputSize
from mistill.datasets.sources import Row, Source
from mistill.datasets.writers import check_columns, check_target
from mistill.delivery.diagnostics import Snapshot, advice
from mistill.delivery.governor import AnyGovernor
from mistill.errors import (
    InputError,
    LedgerError,
    ManifestChanged,
    MistillError,
    RunStopped,
    Stopped,
    unforeseen,
)
from mistill.estimates.budget import Budget, CommonPurse
from mistill.estimates.cache_savings import saved_by_cache
from mistill.estimates.dry_run import DryRun
from mistill.estimates.forecast import Forecast, forecast
from mistill.kinds import kind_of
from mistill.kinds.kept_settings import changed_inputs, read_manifest, settings_to_keep
from mistill.kinds.kind import Kind
from mistill.kinds.manifest import changed_settings, shown_changes
from mistill.kinds.options import RunArguments, RunOptions
from mistill.ledger import Counts, ErrorRecord, Ledger, LedgerReader, Selection, Spending
from mistill.ledger.shard_files import is_in_shards
from mistill.ledger.targets import check_targets
from mistill.ledger.temporary_ledger import TemporaryLedger
from mistill.llms.connection import Connection
from mistill.llms.event_loop import LOOK_S, background
from mistill.llms.types import Completion
from mistill.process import OwnProcess
from mistill.progress.course import CourseRecorder
from mistill.progress.display import Display, OnProgress
from mistill.progress.progress import Progress
from mistill.progress.view import Watch
from mistill.runs.control import RunControl
from mistill.runs.export import Exported, read_records, write_records
from mistill.runs.lanes.batch import JobUse
from mistill.runs.lanes.batch_terms import by_price, check_remembers, check_server, has_jobs, warn_of_jobs
from mistill.runs.opening import (
    check_is_one_output,
    make_folder,
    opened_input,
    output_held,
    path_of_ledger,
    refuse_foreign,
)
from mistill.runs.pending_rows import Matcher
from mistill.runs.record_shape import RecordShape, record_shape
from mistill.runs.rehearsal import rehearse
from mistill.runs.report import RetryRecord, RunReport, StartRecord, read_report
from mistill.runs.report_text import answered_rows, hint_of_broken_input, interrupted_line
from mistill.runs.results import RowOutcome, RunResults, collection
from mistill.runs.row_settings import Retried, RowSettings, retried_settings
from mistill.runs.runner import Runner
from mistill.runs.starting_over import put_shards_aside
from mistill.runs.steering import DriverSteering, OfOneShard, Steering
from mistill.runs.where import columns_of
from mistill.steering.orders import Changes, Order, Standing
from mistill.steering.server import OrderServer
from mistill.telemetry import names
from mistill.telemetry.runs import RunSpan
from mistill.wording import START_AGAIN, Phrase, Setting, words

_log = logging.getLogger("mistill")

_MAX_UNREAD_OUTCOMES = 1024
_JUST_BEGUN_S = 0.005


class Run(RunResults):
    """One pass of a model over a dataset. Start it again, in this process or another, and it goes on where it ended.

    Every attempt is on disk before it is sent, and every answer before it is counted, in a ledger beside the output.
    Rows that are answered are never asked again; the output is made from the ledger when every row has an outcome.

    Args:
        source: a path, a glob, ``"-"``, an address (``"s3://…"``, see docs/remote.md), several of these, an iterable of
            dicts, an Arrow table, a pandas or polars frame, or a Hugging Face dataset.
        llm: the model: a `MistralLLM` for completions, or `MistralEmbeddings` for vectors, with which no option may be
            set that is about completions. Its ``max_concurrent_requests`` is the number of requests in flight.
        out: path or address of the output, whose suffix says the format; ``"-"`` for stdout; ``None`` for no output.
        progress: whether the run is shown while it goes on: by default where somebody looks, on a terminal (stderr) and
            in a notebook; ``True``: in a log too, as a line now and then; ``False``: not at all.
        on_progress: is given a `View` a few times a second while the run goes on, and once at its end, from another
            thread.
        arguments: the options below, as `RunOptions` has them.
        prompt, system: Jinja2 templates over a row's columns. Without ``prompt``, a row's ``messages`` or ``prompt``
            column is sent; with embeddings, its ``text`` column.
        images, documents, audio: columns with files that go along with a row's prompt: paths, URLs or bytes, or lists
            of these; see docs/chat-api.md.
        num_generations: completions for each row.
        parameters: generation parameters, over the LLM's own.
        row_parameters: generation parameters that rows bring themselves, ``{"temperature": "temp"}`` from their column
            ``temp``. Where it is null or missing, the run's own holds; a wrong value fails its row, unsent.
        lane: how requests travel, ``"live"``, or ``"batch"``: in Mistral's batch jobs, at half the price and in their
            own time; see docs/batch.md. ``"cheapest"``: each row by whichever costs less, which the first rows tell;
            see docs/cost.md. It may change from start to start.
        wait: whether a start waits for the jobs that it has sent, or ends; the same run started again goes on.
        batch_rows, batch_bytes: the most requests and bytes of one job.
        batch_timeout: seconds that one may take: whole hours, at most a week.
        batch_tail: where no more rows than these are left over when jobs have ended, they are asked live; 0: never.
        prompt_cache: whether the server is told which requests begin alike, by a ``prompt_cache_key``: what they share
            is cached then, and costs a tenth. See docs/cost.md. A key of your own among ``parameters`` goes before it.
        loop_guard: whether answers that are to be JSON are watched as they come, and cut off where they repeat
            themselves without end. ``None``: where Mistral answers and ``max_new_tokens`` is 2,048 or more, or not set.
            See docs/structured-output.md.
        keep_batch_files: the files of jobs stay at Mistral, and here, when they are read.
        ledger: where to remember; beside the output unless given, and for one that is elsewhere in a folder of this
            user's (docs/remote.md). With neither a path nor an output to stand beside, a
            temporary one, which is there as long as this object or one of its reports is: take its `results`.
        explode: ``"instructions"``: a row for each item of the list in that column, with the row's other columns;
            ``"instructions=instruction"``: the column has another name then.
        where: only rows of the input that fulfil it, such as ``"score>=4, error=null"``; see docs/runs.md. The others
            are not asked, and not in the output.
        id_column: a column that names rows in messages.
        limit: at most so many rows, of those that are left.
        input_format, output_format: where the suffix does not tell.
        csv_dialect: ``"excel"``: CSV and TSV as Excel opens them, with texts made harmless that it would take for
            formulas.
        delimiter: between the fields of CSV files: ``";"``, ``"|"``, ``"tab"``.
        encoding: of text files that are not UTF-8: ``"cp1252"``, ``"latin-1"``, ``"utf-16"``; with
            ``-replace`` after it (``"utf-8-replace"``), U+FFFD stands for bytes that are no text.
        columns: renames of the output's columns, ``{"generation": "answer"}``.
        extra_columns: further columns, of ``thinking``, ``tool_calls``, ``cost``, ``model``, ``prompt``, ``raw``,
            ``settings``, ``mark``, ``note``; with embeddings without the first two.
        flatten: fields of a structured answer become columns of their own; ``"deep"``: those of objects in it too, as
            ``address.city``; ``"answer_"``: with that before their names; ``"deep,answer_"``: both.
        keep: only these columns of the output, in this order.
        drop: all columns of the output but these.
        earlier: what becomes of a row's columns that ours would replace, such as those of an earlier run: ``"drop"``
            leaves them out of the output, any other word is put before their names. Prompts see them as they are.
        fresh: put an earlier ledger aside and start over.
        retry_failed: ask rows again that failed in an earlier start.
        on_unknown: ``"retry"`` or ``"hold"`` rows that were in flight when a run died, and may be on the bill.
        dedupe: ask identical requests once, and copy the answer.
        pin: end the start where another model answers than the one that has answered this run so far.
        grace: seconds that requests in flight are waited for when the run is stopped.
        max_cost: US dollars that the whole run may cost, all its starts together.
        max_tokens_total: tokens, input and output, that the whole run may take.
        deadline: seconds that this start may take.
        on_stop: ``"raise"``: what ends the run early though nobody has asked for it raises, see `start`; ``"return"``
            for its report in any case.
        sample: ask only so many rows, taken at random, then forecast the rest (`RunReport.forecast`). Answers are kept,
            and the same sample again asks nothing. Of a stream, whose end nobody knows, it is the first rows.
        sample_seed: another one takes other rows.
        on: work in shards, each a contiguous block of the input with a ledger of its own: ``"processes:4"``, in so
            many processes of this machine; ``"ray"`` or ``"ray://HOST:PORT"``, on a Ray cluster (extra ``ray``).
            ``out`` may be a folder then, which gets a part for each shard. See docs/many-machines.md.
        shards: in how many ``on`` cuts the input; by its rows unless given.
        shard: work on one of them alone, ``"3/16"``, beside other processes that do the others; they count from 0.

    Attributes:
        options: all of them, as `RunOptions`.
        progress: counts of the start that goes on, or of the last one.
        display: who is told how far it is; of ``progress`` and ``on_progress``.
        summary: how the last start ended; ``None`` before the first, and while one goes on.

    Raises:
        InputError: anything above is wrong. Nothing was sent.
    """

    _trust = False
    """Whether what the ledger names is the user's own: classes, and endpoints."""

    _shard: int | None = None
    """Which one its ledger has."""

    def __new__(cls, *_: Any, **arguments: Any) -> Self:
        """``Run(…, on=…)`` is a `ShardedRun`, ``Run(…, shard=…)`` a `ShardRun`."""
        kind: Any = cls
        if cls is Run and arguments.get("on") is not None:
            from mistill.runs.sharded_run import ShardedRun

            kind = ShardedRun
        elif cls is Run and arguments.get("shard") is not None:
            from mistill.runs.shard_run import ShardRun

            kind = ShardRun
        return super().__new__(kind)

    def __init__(
        self,
        source: Any,
        *,
        llm: Connection,
        out: str | Path | None = None,
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **arguments: Unpack[RunArguments],
    ) -> None:
        self.options = options = RunOptions.of(arguments)
        check_is_one_output(options, out)
        self._llm = llm
        self.kind = kind = self._new_kind()
        self._shape = shape = self._shape_of_records()
        self._source = rows = opened_input(source, options)
        name = None if out is None else keep_secrets(str(out))
        if name is not None:
            check_target(name, options.output_format, options.csv_dialect)
        if rows.columns is not None:
            shape.check_row(rows.columns)
        self._check_chosen(shape, rows)
        self._check_columns(name)
        kind.check_source(rows.header, rows.media_kinds)
        path = path_of_ledger(name, options.ledger)
        if path is None:
            temporary = TemporaryLedger(llm)
            path = temporary.path
        super().__init__(path, name)
        self.own_llm = llm
        check_targets(self.out, self.ledger_path, rows.paths)
        self.progress = Progress()
        self.display = Display(progress, on_progress)
        self.summary: RunReport | None = None
        self._control = RunControl()
        self._input_size = InputSize(rows)
        self._unread: SimpleQueue[RowOutcome | None] | None = None
        self._broke_off: Exception | None = None
        self._budget = self._new_budget()  # a wrong limit is refused now
        self._is_ready = llm.is_ready
        self._unsettled: list[int | None] = []
        self._course: CourseRecorder | None = None
        self._number: int | None = None
        self._part_of: int | None = None  # the start of a driver, whose shard it is
        self._paced_with: object | None = None  # what it is a part of, if all the parts use one model
        self._steering: Steering | DriverSteering | None = None
        self._ended_by: MistillError | None = None

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self) -> RunReport:
        """Works through the input and writes the output.

        Ctrl-C stops it as `stop` does, and raises once what was in flight has ended; a second one cuts that off. A stop
        that was asked for (`stop`, a budget, a deadline, a sample) returns. Whatever ends it, what was answered is
        kept, ``summary`` is set, and the same run started again goes on.

        Raises:
            RunStopped: the key is refused, there is no such model, or nothing answers. Raised from that error.
            KeyboardInterrupt: Ctrl-C.
            InputError: the first row cannot be rendered, or the input breaks off: the rows before are answered, and
                kept. What an iterator of yours raises is raised as it is, with a note that says so.
            LedgerError: the ledger is in use, of other settings, damaged, or cannot be written.
            MistillError: the output cannot be written; every answer is in the ledger.
        """
        self._start(object())
        return self._ended()

    async def astart(self) -> RunReport:
        """As `start`, from a coroutine: the loop of the caller goes on meanwhile.

        To be cancelled is a stop as well: what is in flight is waited for, at most ``grace`` seconds, and then
        `asyncio.CancelledError` goes on. To be cancelled once more cuts that off.
        """
        turn = object()
        try:
            self._control.begin(turn)
            working = asyncio.wrap_future(_in_thread(lambda: self._start(turn)))
        except BaseException:
            self._control.end(turn)
            raise
        cancelled: asyncio.CancelledError | None = None
        while not working.done():
            try:
                # A notebook's loop takes note of an interrupt only when something happens on it.
                await asyncio.wait((working,), timeout=LOOK_S)
            except asyncio.CancelledError as error:
                if cancelled is None:
                    self._control.stop("cancelled", "cancelled")
                else:
                    self._control.abandon()
                cancelled = error
        if cancelled is not None:
            with suppress(Exception):  # the caller has left; what failed is in the ledger
                working.result()
            raise cancelled
        working.result()
        return self._ended()

    def dry_run(self) -> DryRun:
        """What a start would ask of the whole input, and about what that would cost. Nothing is sent or written, and no
        key is needed.

        Raises:
            InputError: the input breaks off.
        """
        return rehearse(
            self._source,
            self.kind,
            dedupe=self.options.dedupe,
            lane=self.options.lane,
            batch_tail=self.options.batch_tail,
            shape=self._shape,
            batch_factor=self._batch_factor,
            limits=self._governor.snapshot(),
        )

    def __iter__(self) -> Iterator[RowOutcome]:
        """Starts the run, gives each outcome as it completes, then sets ``summary``, and raises as `start` does.

        Leaving the loop stops the run. A forked child can only leave it.

        Raises:
            LedgerError: this is a fork of the process that began the loop; or as for `start`.
        """
        process, has_left = OwnProcess(), False
        unread = SimpleQueue[RowOutcome | None]()
        # What the loop prints itself would be drawn over, unless that is what is wanted.
        display = msgspec.structs.replace(self.display, progress=self.display.progress or False)
        with (
            self._control.in_turn(object()),
            self._handing_over(unread),
            self._started() as runner,
            self._shown(display),
            self._kept_open(),
            self._control.working(self._work(runner)) as work,
        ):
            try:
                yield from self._control.each(unread, work)
            except GeneratorExit:
                if not process.is_this():
                    raise
                has_left = True
            except KeyboardInterrupt:
                self._control.interrupt()
            finally:
                if process.is_this():  # else the run is the parent's
                    self._unread = None  # nobody waits for more
                    self.stop()
                    self._control.wait(work)
        self._summarize()
        if not has_left:
            self._ended()

    def stop(self, message: str = "stopped") -> None:
        """Sends nothing more; what is in flight is waited for, at most ``grace`` seconds. From any thread."""
        self._control.stop(message, "stopped")

    def pause(self) -> Standing:
        """The start that goes on sends nothing more until `resume`, and makes no batch job; what is in flight comes
        home. From any thread. Another start begins unpaused.

        Raises:
            InputError: no start goes on, or it is stopping.
        """
        return self._control.order(Order("pause"))

    def resume(self) -> Standing:
        """It goes on after a `pause`; raises as that does."""
        return self._control.order(Order("resume"))

    def set(self, **settings: float | None) -> Standing:
        """Changes settings of the start that goes on, all or none; another start has those of this object.

        Args:
            settings: ``max_concurrent_requests``, ``requests_per_minute``, ``tokens_per_minute``, ``max_cost``,
                ``max_tokens_total``, ``deadline``; ``None``: no limit. A limit that is reached already stops it.

        Raises:
            InputError: no start goes on, or a setting cannot be so; nothing was changed.
        """
        return self._control.order(Order("set", settings))

    def _start(self, turn: object) -> None:
        with (
            self._control.in_turn(turn),
            self._started() as runner,
            self._shown(self.display),
            self._control.working(self._work(runner)) as work,
        ):
            self._control.wait(work)
        self._summarize()

    def _ended(self) -> RunReport:
        """The report of the start that has ended. Raises what ended it, where nobody has asked for that."""
        report = self.summary
        assert report is not None, "it has ended"
        if self._broke_off is not None:
            self._raise_broken_input(self._broke_off, report)
        stopped = report.stopped
        if stopped is None or self.options.on_stop == "return":
            return report
        if not isinstance(stopped, Stopped):
            raise RunStopped(
                words(
                    "the run was stopped: ",
                    stopped.headline,
                    f"; {answered_rows(report)} answered, and kept",
                ),
                summary=report,
                hint=stopped.hint,
            ) from stopped
        if stopped.reason == "interrupted":
            raise KeyboardInterrupt(interrupted_line(report, is_temporary=self._temporary is not None))
        return report

    def _raise_broken_input(self, error: Exception, report: RunReport) -> None:
        """Raises what broke off the input, with how to go on; unless the report is wanted, and something was sent.

        An exception of the caller's own iterator is raised in any case, as it is.
        """
        if isinstance(error, InputError):
            if not report.attempts:
                raise error
            if self.options.on_stop == "raise":
                error.hint = self._hint_of_broken_input(error.hint, report)
                raise error
        elif isinstance(error, MistillError):
            raise error
        else:
            error.add_note(self._hint_of_broken_input(None, report))
            raise error

    def _hint_of_broken_input(self, hint: str | None, report: RunReport) -> str:
        is_read_once = self._temporary is not None and not self._source.repeatable
        return hint_of_broken_input(hint, report, is_read_once=is_read_once)

    @contextmanager
    def _shown(self, display: Display) -> Generator[None]:
        if not display.is_wanted:
            yield
            return
        self._input_size.find()
        with display.showing(self._new_watch()):
            yield

    def _new_watch(self) -> Watch:
        return Watch(
            self.progress,
            self._snapshot,
            self._input_size,
            at_once=lambda: self._llm.max_concurrent_requests,
            saved=partial(saved_by_cache, self.kind.server.price),
            times_more=self._budget.times_more,
        )

    def _open_ledger(self) -> Ledger:
        options = self.options
        self._say_changed_inputs()
        if self._temporary is not None:
            self._temporary.make_folder()
        if not options.fresh:
            self._refuse_foreign()
        elif is_in_shards(self.ledger_path):
            put_shards_aside(self.ledger_path)
        make_folder(self.out, self.ledger_path)
        try:
            ledger = Ledger.open(
                self.ledger_path,
                self.kind.manifest.values(),
                settings=settings_to_keep(self.kind.llm_settings, options, self._source, self.out),
                fresh=options.fresh,
                version=__version__,
                shard=self._shard,
            )
        except ManifestChanged as error:
            raise self._other_settings(error) from error
        # For this start only: the next one goes on.
        self.options = options.model_copy(update={"fresh": False})
        if ledger.backup is not None:
            warn_of_jobs(ledger.backup)
        return ledger

    def _say_changed_inputs(self) -> None:
        if not self._source.is_far or not self.ledger_path.is_file():
            return
        with (
            suppress(LedgerError),
            LedgerReader(self.ledger_path) as reader,
        ):  # what is wrong, opening it says
            for name in changed_inputs(reader, self._source):
                _log.warning(
                    "%s is not what it was at the last start: rows that are as they were keep their answers, others "
                    "are asked",
                    name,
                )

    @contextmanager
    def _started(self) -> Generator[Runner]:
        """A start, from opening the ledger to the output and what the ledger keeps of how it ended."""
        process = OwnProcess()
        self.summary = self._broke_off = self._steering = self._ended_by = None
        if self._job_use().plans:
            check_remembers(self.options.lane, is_temporary=self._temporary is not None)
        elif self.options.goes_by_price:
            self._say_all_live()
        if self._job_use().asks:
            for name in self.options.of_new_jobs:
                told = (
                    Setting(name),
                    " is about jobs that are made, and none is without ",
                    Setting("lane", "batch"),
                )
                _log.warning(words(*told))
        self._make_ready()
        self._settle_retries(looks=True)
        if self.options.max_cost is not None:
            warn_if_old(self.kind.server.price, datetime.now(UTC).date())
        self.progress = Progress(total=self._source.total, started_at_s=time.monotonic())
        with self._output_held(), self._open_ledger() as ledger, self._traced():
            background.run(ledger.count_models(self.kind.model_of))
            self._budget = self._new_budget(self._spent_before(), ledger.models)
            self.progress.earlier_cost = self._cost_before()
            before = self._snapshot()
            runner = Runner(
                self.kind,
                self._source,
                ledger,
                self.options,
                self.progress,
                self._budget,
                size=self._llm.max_concurrent_requests,
                shape=self._shape,
                jobs=self._job_use(),
                telemetry=self._telemetry,
                matcher=self._matcher(ledger),
                on_outcome=None if self._unread is None else self._hand_over,
            )
            self._input_size = self._find_input_size()
            self._course = CourseRecorder(self._snapshot)
            self._number = number = self._note_begin(ledger)
            self._control.take(runner)
            expected = output = written = None
            try:
                with self._steered(runner, partial(self._keep_start, ledger, number)):
                    yield runner
                with unfinished_output(process) as cut_off:
                    expected, output, written = self._finish(runner, is_first=number == 1)
            except (Exception, KeyboardInterrupt) as error:
                if process.is_this():  # else it goes on, in the parent
                    ended = self._end_record(before, runner, stopped=end_by(error))
                    with suppress(LedgerError):  # it may be what failed
                        self._note_end(ledger, number, ended)
                raise
            stopped = cut_off[0] if cut_off else runner.stopped
            ended = self._end_record(
                before, runner, stopped=stopped, forecast=expected, output=output, written=written
            )
            self._note_end(ledger, number, ended)
            self._broke_off, self._ended_by = runner.broke_off, stopped
        self._settle_retries(looks=False)

    def _refuse_foreign(self) -> None:
        """``InputError`` if something stands where the output goes that is none of this run."""
        if self.out is not None:
            refuse_foreign(self.out, self.ledger_path)

    def _output_held(self) -> AbstractContextManager[None]:
        """One run at a time writes an output."""
        return output_held(self.out, self.ledger_path)

    @contextmanager
    def _traced(self) -> Generator[None]:
        """OpenTelemetry is told of the start, where anybody wants to know."""
        model = self._llm.model_name
        about = {
            names.MODEL: model,
            names.RUN_KIND: self._llm.kind,
            names.RUN_LANE: self.options.lane,
        }
        self._span = span = RunSpan(self._telemetry, f"run {model}", about)
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
            raise
        finally:
            span.end(self._counts_of_start, error or self._ended_by)

    def _counts_of_start(self) -> dict[str, Any]:
        progress = self.progress
        return {
            names.RUN_ANSWERED: progress.completions,
            names.RUN_FAILED: progress.failures,
            names.RUN_REQUESTS: progress.attempts,
            names.RUN_INPUT_TOKENS: progress.usage.input_tokens,
            names.RUN_OUTPUT_TOKENS: progress.usage.output_tokens,
            names.COST: progress.cost,
        }

    @contextmanager
    def _steered(self, runner: Runner, keep: Callable[[], Awaitable[None]]) -> Generator[None]:
        """Orders are taken, from here and from other processes, and obeyed by the runner."""
        process = OwnProcess()
        steering = self._steering = Steering(
            runner,
            self._llm,
            self._snapshot,
            watch=self._new_watch(),
            find_size=self._input_size.find,
            keep=keep,
            is_part=self._part_of is not None,
            whole=self._paced_with,
        )
        asked = steering if self._part_of is None else OfOneShard(steering, self.ledger_path.parent)
        self._server = OrderServer(self.ledger_path, asked)
        try:
            with self._control.steered(steering), self._input_size.wanted():
                yield
        finally:
            if process.is_this():
                steering.close()

    def _note_size(self, ledger: Ledger, number: int) -> None:
        """The size of the input is known by now: others that look at the run are told."""
        with suppress(LedgerError):  # it has ended meanwhile
            background.run(self._keep_start(ledger, number))

    async def _keep_start(self, ledger: Ledger, number: int | None) -> None:
        """The ledger has what is known of the start that goes on."""
        if number is not None:
            await ledger.note_start(number, self._record().encode())

    def _make_ready(self) -> None:
        """Sees to what a dry run does without: a key, and how the server speaks."""
        is_told = self._telemetry == self._llm.telemetry  # who wants to be told may have said so since
        if not self._is_ready or not is_told:
            self._llm.make_ready()
            self.kind = self._new_kind()
            self._is_ready = True

    def _new_kind(self) -> Kind[Any]:
        kind = kind_of(self._llm)(self._llm, self.options)
        self._telemetry = self._llm.telemetry
        if self.options.lane == "batch":
            check_server(kind, self._llm.endpoint)
        elif self.options.lane == "cheapest":
            by_price(kind, self._llm.endpoint)
        return kind

    def _say_all_live(self) -> None:
        why = by_price(self.kind, self._llm.endpoint)
        if why is not None:
            _log.warning(words("all rows go live: ", why.message))

    async def _work(self, runner: Runner) -> None:
        assert self._course is not None, "a start has begun"
        with self._span.current():
            async with self._server.serving():
                await self._choose_rows(runner.ledger)
                watching = asyncio.create_task(self._course.watch(partial(self._note_course, runner.ledger)))
                try:
                    await runner.run()
                finally:
                    watching.cancel()

    async def _note_course(self, ledger: Ledger) -> None:
        """Others that look at the run are told how it goes; so is whoever looks when it was killed."""
        if self._number is None:
            return
        with suppress(LedgerError):  # whoever writes rows meets it too, and says so
            await ledger.note_start(self._number, self._record().encode())

    def _spent_before(self) -> Spending | None:
        if self.options.max_cost is None and self.options.max_tokens_total is None:
            return None  # nobody asks, and counting takes time
        with LedgerReader(self.ledger_path) as reader:
            return reader.spending()

    def _cost_before(self) -> float | None:
        with LedgerReader(self.ledger_path) as reader:
            return reader.cost() if reader.starts() else None  # a first start counts nothing

    def _new_budget(self, before: Spending | None = None, answered: Iterable[str] = ()) -> Budget:
        """``answered``: the models that have, the last one at the end: what stands behind a name may cost more."""
        options, server = self.options, self.kind.server
        if options.max_cost is not None and server.price is None:
            raise InputError(words(Setting("max_cost"), f": {server.tariff.unknown()}"))
        prices = [(model, server.tariff.price_of(model, None)) for model in answered]
        budget = Budget(
            max_cost=options.max_cost,
            max_tokens_total=options.max_tokens_total,
            deadline=options.deadline,
            price=server.price,
            worst=partial(server.tariff.worst, may_be_priority=self.kind.may_be_priority),
            before=before,
            common=self._common_purse(),
        )
        if prices and prices[-1][1] is None:
            budget.note_unpriced(prices[-1][0])
        return budget

    def budget_after(self, spent: Spending) -> Budget:
        """Its budget, once so much was spent."""
        return self._new_budget(spent)

    def _common_purse(self) -> CommonPurse | None:
        """What it spends from together with others, where it is a part of a run."""
        return None

    @contextmanager
    def _handing_over(self, unread: SimpleQueue[RowOutcome | None]) -> Generator[None]:
        """Outcomes go into the queue."""
        try:
            self._unread = unread
            yield
        finally:
            self._unread = None

    async def _hand_over(
        self, row: Row, completions: tuple[Completion | None, ...], error: MistillError | None
    ) -> None:
        unread = self._unread
        while unread is not None and unread.qsize() >= _MAX_UNREAD_OUTCOMES:
            await asyncio.sleep(0.01)  # a slow reader slows the run, so that memory stays bounded
            unread = self._unread
        if unread is not None:
            unread.put(RowOutcome(row.index, row.record, completions, error, self._record_at))

    # --- what a retry or a collection does in another way -------------------------------------------------------------

    def _settle_retries(self, *, looks: bool) -> bool:
        """Rows that a retry asked in jobs get what these have answered, before another start ends that retry; whether
        there were any.

        Args:
            looks: at its jobs at the server too.
        """
        if self._temporary is not None or self.options.fresh or not self.ledger_path.is_file():
            return False
        try:
            with LedgerReader(self.ledger_path) as reader:
                numbers = [
                    number
                    for number in reader.retries_in_jobs(awaited=looks)
                    if not self._asks_by(reader, number)
                ]
            self._unsettled = [number for number in numbers if not self._settle_retry(number)]
        except LedgerError:  # what is wrong with it, the start itself says
            return False
        return bool(numbers)

    def _asks_by(self, reader: LedgerReader, number: int | None) -> bool:  # noqa: ARG002  a retry has a use for it
        """This start is about the rows that a retry by these settings asks."""
        return False

    def _settle_retry(self, number: int | None) -> bool:
        """Whether it could be done, with settings as the ledger has them. No row is asked."""
        llm: dict[str, Any] = {"endpoint": self._llm.endpoint, "prices": None}
        if (key := self._llm.api_key) is not None:
            llm["api_key"] = key
        given = {"cancels": False, "llm": llm, "trust": self._trust, "display": Display(progress=False)}
        again = words(
            "to take them over, that retry again, in the same words, or ",
            Phrase("collect_jobs(…, trust=True)", "mistill status … --trust"),
            ", where the schema is a class of yours",
        )
        try:
            settling = collection(self.out, ledger=self.ledger_path, retry=Retried(number), **given)
            if settling.settles:
                settling.start()
                return True
        except InputError as error:
            again = words(f"{error.headline}; ", again)
        _log.warning(words("answers of a retry by batch jobs wait: ", again))
        return False

    def _note_begin(self, ledger: Ledger) -> int | None:
        """The ledger knows that a start goes on; gives its number, ``None`` where nobody need know."""
        number = background.run(ledger.begin_start(self._record().encode()))
        self._input_size.on_found = partial(self._note_size, ledger, number)
        return number

    def _note_end(self, ledger: Ledger, number: int | None, ended: StartRecord) -> None:
        """And how it ended."""
        assert number is not None, "it began"
        background.run(ledger.end_start(number, ended.encode()))

    def _shape_of_records(self, reader: LedgerReader | None = None) -> RecordShape:
        """What records look like; with the ledger at hand, those too that a retry asked by other settings."""
        kind = self.kind
        own = RowSettings(type(kind), kind.manifest, kind.reader)
        retried = None if reader is None else retried_settings(reader)
        return record_shape(self.options, kind=type(kind), own=own, retried=retried)

    def _check_chosen(self, shape: RecordShape, rows: Source) -> None:
        """``InputError`` if a column is to be kept or left out that no record will have."""
        if shape.chosen:
            shape.check_chosen(*columns_of(rows, shape.chosen))

    def _check_columns(self, out: str | None) -> None:
        """``InputError`` if what the output is cannot have columns of the names that are known by now."""
        if out is not None and is_of_table(out):
            own = self._shape.of_row(dict.fromkeys(self._source.columns or ()))
            check_columns(out, self._shape.header([*own, *self._shape.columns]))

    def _find_input_size(self) -> InputSize:
        with LedgerReader(self.ledger_path) as reader:
            return InputSize(self._source, reader.input_rows)

    def _matcher(self, ledger: Ledger) -> Matcher | None:  # noqa: ARG002  a retry has a use for it
        """In place of the ledger's own."""
        return None

    def _job_use(self) -> JobUse:
        """What this start does with batch jobs."""
        options = self.options
        plans = options.goes_by_jobs or (options.goes_by_price and has_jobs(self.kind, self._llm.endpoint))
        return JobUse(self._llm.batch_factor, plans=plans)

    async def _choose_rows(self, ledger: Ledger) -> None:
        """Before the first row is read: which of those that the ledger has are asked again."""
        await ledger.end_retry(self._unsettled)

    def _retry_record(self, runner: Runner | None) -> RetryRecord | None:  # noqa: ARG002  the same
        return None

    @property
    def _input_paths(self) -> Sequence[str] | None:
        """The files of the input, where they are at hand."""
        return self._source.paths

    def _other_settings(
        self, error: ManifestChanged, ledger: Path | None = None, out: str | None = None
    ) -> ManifestChanged:
        """The same, in the names of the settings that a user gives; of the run of another ledger, where it is given."""
        with LedgerReader(ledger or self.ledger_path) as reader:
            kind, before = read_manifest(reader)
        if kind is not type(self.kind):
            return error
        changes: dict[str, tuple[object, object]] = dict(changed_settings(before, self.kind.manifest))
        run = out or ledger or self.out or self.ledger_path
        message = words(f"{run} belongs to a run with other settings: ", *shown_changes(changes))
        return ManifestChanged(message, changes=changes, hint=error.hint) if changes else error

    # --- what is left when it ends ----------------------------------------------------------------------------------

    def _finish(
        self, runner: Runner, *, is_first: bool
    ) -> tuple[Forecast | None, str | None, Exported | None]:
        """The forecast after a sample, where the output was written, if it was, and what its records are like, once all
        are there."""
        with LedgerReader(self.ledger_path) as reader:
            counts = reader.counts()
            expected = self._forecast(reader, counts, runner)
        if runner.stopped is not None or not counts.is_finished:
            return expected, None, None
        if self.out is None:
            with LedgerReader(self.ledger_path) as reader:
                shape = self._shape_of_records(reader)
            # Of the first start everything was seen when it came.
            is_known = is_first and counts.completions == runner.answered
            empty_answers = runner.empty_answers if is_known else None
            return expected, None, read_records(self.ledger_path, shape, empty_answers=empty_answers)
        try:
            written = self._write_output(self.out)
        except LedgerError:
            # What cannot be made good now, the next start does.
            damages = background.run(runner.ledger.set_damaged_aside())
            if self.out == "-" or not runner.can_mend(damages):
                raise
            background.run(runner.read_again())
            written = self._write_output(self.out)
            _log.warning(
                "damaged in the ledger, and read again from the input: %s", ", ".join(map(str, damages))
            )
        return expected, self.out, written

    def _write_output(self, out: str) -> Exported:
        with LedgerReader(self.ledger_path) as reader:
            shape = self._shape_of_records(reader)
        return write_records(
            self.ledger_path,
            out,
            shape,
            format=self.options.output_format,
            csv_dialect=self.options.csv_dialect,
            made_of=self._input_paths,
        )

    def _record(self, runner: Runner | None = None) -> StartRecord:
        """What the ledger keeps of this start while it goes on."""
        price = self.kind.server.price
        return StartRecord(
            max_concurrent_requests=self._llm.max_concurrent_requests,
            input_rows=self._input_size(),
            start_cost=self.progress.cost,
            retry=self._retry_record(runner),
            prices_of=None if price is None else price.date,
            course=None if self._course is None else self._course.course(),
            changes=self._changes_made.last[:],
            earlier_changes=self._changes_made.earlier,
            part_of=self._part_of,
        )

    def _end_record(
        self,
        before: Snapshot,
        runner: Runner,
        *,
        stopped: MistillError | None,
        forecast: Forecast | None = None,
        output: str | None = None,
        written: Exported | None = None,
    ) -> StartRecord:
        """The same once it has ended; ``before``: the governor when it began."""
        if self._course is not None:
            self._course.look()  # its course is as long as the start
        now = self._snapshot()
        at_once, sent = runner.size, self.progress.attempts  # the model has its own again
        advised = advice(now, max_concurrent_requests=at_once, earlier=before) if sent else None
        return msgspec.structs.replace(
            self._record(runner),
            sent=sent,
            seconds=self.progress.elapsed_s,
            seconds_by_cause={cause: round(seconds, 3) for cause, seconds in now.since(before).items()},
            advice=None if advised is None else str(advised),
            advice_parts=None if advised is None else list(advised.parts),
            stopped=None if stopped is None else ErrorRecord.of(stopped),
            forecast=forecast,
            output=output,
            misfits=written.misfits if written is not None else [],
            empty_answers=written.empty_answers if written is not None else 0,
        )

    @property
    def _changes_made(self) -> Changes:
        """What was done to this start while it went on."""
        return Changes() if self._steering is None else self._steering.changes

    def _summarize(self) -> None:
        report = read_report(self.out, ledger=self.ledger_path)
        temporary = self._temporary
        if temporary is not None and self.out is not None:
            if report.stopped is not None or not report.is_finished:
                temporary.keep()  # a program that writes to stdout ends, and its answers were paid
            else:
                report = msgspec.structs.replace(report, ledger=None)
            self.summary = report
        else:
            self.summary = self._held(report)

    def _check_started(self) -> None:
        while self._control.goes_on and not self.ledger_path.is_file():
            time.sleep(_JUST_BEGUN_S)  # the ledger is being made
        super()._check_started()

    def _shape_in(self, reader: LedgerReader) -> RecordShape:
        return self._shape_of_records(reader)

    def _forecast(self, reader: LedgerReader, counts: Counts, runner: Runner) -> Forecast | None:
        sample, input_rows = runner.sample, runner.input_rows
        if sample is None or input_rows is None:
            return None
        return forecast(
            reader.rows(Selection.parse("state=completion")),
            max(0, input_rows - counts.completions - counts.failures),
            is_random=sample.is_random,
            seconds_each=self._seconds_each(reader),
            at_once=self._llm.max_concurrent_requests,
            limits=self._governor.snapshot(),
            lane=self.options.lane,
            batch_tail=self.options.batch_tail,
            price=self.kind.server.tariff.price_of(runner.answered_by, None),
            batch_factor=self._batch_factor,
            by_jobs=reader.rows_of_jobs(),
            cached=reader.cached_shares(),
            requests_each=self.progress.requests / max(1, self.progress.completions) or 1.0,
        )

    def _seconds_each(self, reader: LedgerReader) -> float:
        """How long a row is under way: in this start, or in those before where this one had nothing to ask."""
        if self.progress.completions:
            return self.progress.busy_s / self.progress.completions
        return next(iter(reader.latencies_s((0.5,))), 0.0)

    @property
    def _batch_factor(self) -> float | None:
        """What the price is multiplied with in batch jobs, where there are any."""
        return self._llm.batch_factor if has_jobs(self.kind, self._llm.endpoint) else None

    @property
    def _governor(self) -> AnyGovernor:
        return self.kind.dispatcher.governor

    def _snapshot(self) -> Snapshot:
        now = self._governor.snapshot()
        paused = self.progress.paused_for(now.seconds)
        now = now.under_budget(self._budget.waiting, self._budget.waited_s())
        return now.beside_pauses(paused).beside_jobs(self.progress.waited_for_jobs_s())


def end_by(error: Exception | KeyboardInterrupt) -> MistillError:
    """What the ledger keeps of an error that ended a start."""
    if isinstance(error, KeyboardInterrupt):
        return Stopped("interrupted", reason="interrupted", hint=words(START_AGAIN, " to go on"))
    return error if isinstance(error, MistillError) else unforeseen(error)


@contextmanager
def unfinished_output(process: OwnProcess) -> Generator[list[Stopped]]:
    """What stopped the block, in which the output is written: Ctrl-C leaves that as it was, and every answer in the
    ledger."""
    cut_off: list[Stopped] = []
    try:
        yield cut_off
    except KeyboardInterrupt:
        if not process.is_this():
            raise
        hint = words(START_AGAIN, " to write it: no row is asked again")
        cut_off.append(Stopped("interrupted while the output was written", reason="interrupted", hint=hint))


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """Does it in a thread of its own, in the context of this one."""
    future: Future[None] = Future()
    context = copy_context()

    def do() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=context.run, args=(do,), name="mistill-start", daemon=True).start()
    return future
