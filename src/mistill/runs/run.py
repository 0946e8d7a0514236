"""`Run`: a Mistral model over a dataset, durably. The command line is a thin layer over it."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
from msgspec import Struct

from mistill._version import __version__
from mistill.api.prices import shipped_prices
from mistill.datasets.sources import Source, open_source
from mistill.datasets.writers import check_target
from mistill.delivery.diagnostics import Snapshot, advice
from mistill.delivery.governor import Governor
from mistill.errors import InputError, Stopped
from mistill.ledger import Counts, Ledger, LedgerReader, Selection
from mistill.llms import MistralEmbeddings, MistralLLM
from mistill.llms.connection import Connection
from mistill.llms.event_loop import background
from mistill.runs.budget import Budget
from mistill.runs.export import Output, RecordShape, write_records
from mistill.runs.forecast import Forecast, forecast
from mistill.runs.manifest import Plan, make_embedding_plan, make_plan
from mistill.runs.pending_rows import OnUnknown
from mistill.runs.prompts import PromptTemplate, TextTemplate
from mistill.runs.records import check_columns
from mistill.runs.retried_rows import AskedAgain
from mistill.runs.runner import RowOutcome, Runner
from mistill.runs.summary import Progress, Summary

_MOST_UNREAD_OUTCOMES = 1024


class Run:
    """One pass of a model over a dataset. Start it again, in this process or another, and it goes on where it ended.

    Every attempt is on disk before it is sent, and every answer before it is counted, in a ledger beside the output.
    Rows that are answered are never asked again; the output is made from the ledger when every row has an outcome.

    Args:
        source: a path, a glob, ``"-"``, several of these, an iterable of dicts, an Arrow table, a pandas or polars
            frame, or a Hugging Face dataset.
        out: path of the output, whose suffix says the format; ``"-"`` for stdout; ``None`` for no output.
        llm: the model: a `MistralLLM` for completions, or `MistralEmbeddings` for vectors, with which nothing below
            may be set that is about completions. Its ``max_concurrent_requests`` is the number of requests in flight.
        prompt, system: Jinja2 templates over a row's columns. Without ``prompt``, a row's ``messages`` or ``prompt``
            column is sent; with embeddings, its ``text`` column.
        num_generations: completions for each row.
        parameters: generation parameters, over the LLM's own.
        row_parameters: generation parameters that rows bring themselves, ``{"temperature": "temp"}`` from their column
            ``temp``. Where it is null or missing, the run's own holds; a wrong value fails its row, unsent.
        ledger: where to remember; beside the output unless given. With neither a path nor an output to stand beside, a
            temporary one, deleted when the run is finished.
        limit: at most so many rows of the input.
        input_format, output_format: where the suffix does not tell.
        columns: renames of the output's columns, ``{"generation": "answer"}``.
        extra_columns: further columns, of ``thinking``, ``tool_calls``, ``cost``, ``model``; of the last two with
            embeddings.
        flatten: fields of a structured answer become columns of their own.
        fresh: put an earlier ledger aside and start over.
        retry_failed: ask rows again that failed in an earlier start.
        on_unknown: ``"retry"`` or ``"hold"`` rows that were in flight when a run died, and may be on the bill.
        dedupe: ask identical requests once, and copy the answer.
        grace: seconds that requests in flight are waited for when the run is stopped.
        max_cost: US dollars that the whole run may cost, all its starts together.
        max_tokens_total: tokens, input and output, that the whole run may take.
        deadline: seconds that this start may take.
        sample: ask only so many rows in this start, then forecast the rest (`Summary.forecast`). Answers are kept.

    Raises:
        InputError: anything above is wrong. Nothing was sent.
    """

    def __init__(
        self,
        source: Any,
        *,
        llm: MistralLLM | MistralEmbeddings,
        out: str | Path | None = None,
        prompt: str | None = None,
        system: str | None = None,
        num_generations: int = 1,
        parameters: Mapping[str, Any] | None = None,
        row_parameters: Mapping[str, str] | None = None,
        ledger: str | Path | None = None,
        limit: int | None = None,
        input_format: str | None = None,
        output_format: str | None = None,
        columns: Mapping[str, str] | None = None,
        extra_columns: Iterable[str] = (),
        flatten: bool = False,
        fresh: bool = False,
        retry_failed: bool = True,
        on_unknown: OnUnknown = "retry",
        dedupe: bool = False,
        grace: float = 30.0,
        max_cost: float | None = None,
        max_tokens_total: int | None = None,
        deadline: float | None = None,
        sample: int | None = None,
    ) -> None:
        if isinstance(llm, MistralEmbeddings):
            plan = make_embedding_plan(
                llm,
                TextTemplate(prompt),
                system=system,
                num_generations=None if num_generations == 1 else num_generations,
                parameters=parameters,
                row_parameters=row_parameters,
                flatten=flatten,
            )
        else:
            plan = make_plan(
                llm,
                PromptTemplate(prompt=prompt, system=system),
                num_generations=num_generations,
                parameters=dict(parameters or {}),
                row_parameters=row_parameters,
            )
        self._output = Output(
            format=output_format,
            columns=dict(columns or {}),
            extra_columns=list(extra_columns),
            flatten=flatten,
        )
        shape = self._output.shape(plan.work.reader, num_generations)
        rows = source if isinstance(source, Source) else open_source(source, format=input_format, limit=limit)
        if out is not None:
            check_target(out, output_format)
            if rows.reads(out):
                raise InputError(
                    f"{out} is an input of this run, and its output would replace it",
                    hint="give the output another name, or a glob that does not match it",
                )
        if rows.columns is not None:
            check_columns(rows.columns, shape.columns)
        if rows.header is not None:
            plan.work.row_parameters.check_columns(rows.header)
        self._begin(plan, rows, shape, llm)
        self.out = None if out is None else str(out)
        self.ledger_path, self._ledger_is_temporary = _ledger_path(self.out, ledger)
        self._options = _Options(
            fresh=fresh,
            retry_failed=retry_failed,
            on_unknown=on_unknown,
            dedupe=dedupe,
            grace_s=grace,
            max_cost=max_cost,
            max_tokens=max_tokens_total,
            deadline_s=deadline,
            sample=sample,
        )
        self._new_budget(0, 0.0)  # a wrong limit is refused now

    def _begin(
        self, plan: Plan, source: Source, shape: RecordShape, llm: MistralLLM | MistralEmbeddings
    ) -> None:
        self.plan = plan
        self.progress = Progress()
        self.summary: Summary | None = None
        self._source = source
        self._shape = shape
        self._llm = llm
        self._runner: Runner | None = None
        self._again: AskedAgain | None = None
        self._unread: SimpleQueue[RowOutcome | None] | None = None

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self) -> Summary:
        """Works through the input and writes the output.

        Ctrl-C stops it as `stop` does; a second one cuts off what is in flight. Either way this returns a summary, with
        ``stopped`` set, and the same run started again goes on.

        Raises:
            InputError: the first row cannot be rendered, or the input breaks off.
            LedgerError: the ledger is in use, of other settings, damaged, or cannot be written.
            MistillError: the output cannot be written; every answer is in the ledger.
        """
        before = self._governor.snapshot()
        with self._open_ledger() as ledger:
            runner = self._new_runner(ledger)
            self._wait(background.submit(self._work(runner)))
        return self._end(runner, before)

    def __iter__(self) -> Iterator[RowOutcome]:
        """Starts the run, gives each outcome as it completes, then sets ``summary``. Leaving the loop stops the run."""
        unread: SimpleQueue[RowOutcome | None] = SimpleQueue()
        before = self._governor.snapshot()
        with self._open_ledger() as ledger:
            self._unread = unread
            runner = self._new_runner(ledger)
            future = background.submit(self._work(runner))
            future.add_done_callback(lambda _: unread.put(None))
            try:
                while (outcome := unread.get()) is not None:
                    yield outcome
            except GeneratorExit:
                pass  # the reader has enough: a stop like any other, with a summary
            finally:
                self._unread = None
                self.stop()
                self._wait(future)
        self._end(runner, before)

    def stop(self, reason: str = "stopped") -> None:
        """Sends nothing more; what is in flight is waited for, at most ``grace`` seconds. From any thread."""
        runner = self._runner
        if runner is not None:
            background.call(lambda: runner.stop(Stopped(reason, hint="start the same run again to go on")))

    def _wait(self, future: Future[None]) -> None:
        interrupts = 0
        while True:
            try:
                return future.result()
            except KeyboardInterrupt:
                interrupts += 1
                runner = self._runner
                if runner is None:
                    continue  # it is just ending
                if interrupts == 1:
                    self.stop("interrupted")
                else:
                    background.call(runner.abandon)

    def _open_ledger(self) -> Ledger:
        options = self._options
        if self._ledger_is_temporary:
            self.ledger_path.parent.mkdir(mode=0o700, exist_ok=True)
        if self.out is not None and not options.fresh:
            _refuse_foreign(self.out, self.ledger_path)
        ledger = Ledger.open(
            self.ledger_path,
            self.plan.fingerprint,
            self.plan.settings,
            details={"llm": self.plan.llm, "output": msgspec.to_builtins(self._output)},
            fresh=options.fresh,
            version=__version__,
        )
        # For this start only: the next one goes on.
        self._options = msgspec.structs.replace(options, fresh=False)
        return ledger

    def _new_runner(self, ledger: Ledger) -> Runner:
        options = self._options
        self.summary = None
        self.progress = Progress(total=self._source.total, started_at_s=time.monotonic())
        self._runner = Runner(
            self.plan.work,
            self._source,
            ledger,
            self.progress,
            self._new_budget(*self._spent_before()),
            sample=options.sample,
            size=self._llm.max_concurrent_requests,
            reserved=frozenset(self._shape.columns),
            retry_failed=options.retry_failed,
            on_unknown=options.on_unknown,
            dedupe=options.dedupe,
            grace_s=options.grace_s,
            matcher=self._again,
            tell=None if self._unread is None else self._tell,
        )
        return self._runner

    async def _work(self, runner: Runner) -> None:
        try:
            if self._options.again is not None:
                selection, parameters = self._options.again
                self.progress.total = await runner.ledger.reopen(selection, parameters)
                self._options = msgspec.structs.replace(self._options, again=None)
            await runner.run()
        finally:
            self._runner = None

    def _spent_before(self) -> tuple[int, float]:
        if self._options.max_cost is None and self._options.max_tokens is None:
            return 0, 0.0  # nobody asks, and counting takes time
        with LedgerReader(self.ledger_path) as reader:
            counts = reader.counts()
        return counts.input_tokens + counts.output_tokens, counts.cost

    def _new_budget(self, tokens: int, cost: float) -> Budget:
        options, server = self._options, self.plan.work.server
        if options.max_cost is not None and server.price is None:
            raise InputError(f"max_cost: {shipped_prices().unknown(server.model)}")
        return Budget(
            max_cost=options.max_cost,
            max_tokens=options.max_tokens,
            deadline_s=options.deadline_s,
            price=server.price,
            spent_tokens=tokens,
            spent_cost=cost,
        )

    async def _tell(self, outcome: RowOutcome) -> None:
        unread = self._unread
        while unread is not None and unread.qsize() >= _MOST_UNREAD_OUTCOMES:
            await asyncio.sleep(0.01)  # a slow reader slows the run, so that memory stays bounded
            unread = self._unread
        if unread is not None:
            unread.put(outcome)

    # --- what is left when it ends ----------------------------------------------------------------------------------

    def _end(self, runner: Runner, before: Snapshot) -> Summary:
        with LedgerReader(self.ledger_path) as reader:
            counts, causes = reader.counts(), reader.failures()
            expected = self._forecast(reader, counts, runner.input_rows)
        written = self.out is not None and runner.stopped is None and counts.is_finished
        if written:
            assert self.out is not None
            write_records(self.ledger_path, self.out, self._shape, format=self._output.format)
        now = self._governor.snapshot()
        is_kept = not (self._ledger_is_temporary and counts.is_finished and runner.stopped is None)
        if not is_kept:
            shutil.rmtree(self.ledger_path.parent)
        self.summary = Summary(
            rows=counts.rows,
            completions=counts.completions,
            failures=counts.failures,
            pending=counts.pending,
            sent=self.progress.attempts,
            seconds=self.progress.elapsed_s,
            maybe_billed=counts.maybe_billed,
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            cost=counts.cost if self.plan.work.server.price else None,
            causes=[
                {"kind": cause.kind, "count": cause.count, "row": cause.position, "error": cause.error}
                for cause in causes
            ],
            forecast=expected,
            stopped=runner.stopped,
            output=self.out if written else None,
            ledger=str(self.ledger_path) if is_kept else None,
            slowness={cause: round(seconds, 3) for cause, seconds in now.since(before).items()},
            advice=advice(now, max_concurrent_requests=self._llm.max_concurrent_requests, earlier=before),
        )
        return self.summary

    def _forecast(self, reader: LedgerReader, counts: Counts, input_rows: int | None) -> Forecast | None:
        if input_rows is None:
            return None
        return forecast(
            reader.rows(Selection.parse("state=completion")),
            max(0, input_rows - counts.completions - counts.failures),
            seconds_each=self.progress.busy_s / max(1, self.progress.completions),
            at_once=self._llm.max_concurrent_requests,
            limits=self._governor.snapshot(),
        )

    @property
    def _governor(self) -> Governor:
        return self.plan.work.governor

    # --- triage -----------------------------------------------------------------------------------------------------

    @classmethod
    def retry(
        cls,
        out: str | Path,
        where: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        llm: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
        grace: float = 30.0,
    ) -> Run:
        """A run that asks some rows of an earlier one again, to be started like any other.

        Earlier outcomes are kept in the ledger, and in the output until better ones come. The rows come from the
        ledger, so the input is not needed.

        Args:
            out: the output of the earlier run; it is written anew.
            where: which rows, such as ``"finish_reason=length"``; see docs/runs.md.
            parameters: generation parameters for these rows, over the run's own.
            llm: attributes of the LLM to change, such as ``endpoint``.

        Raises:
            InputError: ``where`` or a parameter is wrong.
            LedgerError: there is no such run.
        """
        path, _ = _ledger_path(str(out), ledger)
        selection = Selection.parse(where)
        with LedgerReader(path) as reader:
            settings, details = reader.plan(), reader.details()
        output = details["output"]
        rows = AskedAgain(path)
        run = cls(
            Source([rows], None),
            llm=_restored(details["llm"] | dict(llm or {})),
            out=out,
            prompt=settings["prompt"]["prompt"],
            system=settings["prompt"].get("system"),
            num_generations=settings.get("num_generations", 1),
            row_parameters=settings.get("row_parameters"),
            ledger=path,
            output_format=output["format"],
            columns=output["columns"],
            extra_columns=output["extra_columns"],
            flatten=output["flatten"],
            retry_failed=False,
            grace=grace,
        )
        # A wrong one is refused now, not at the first row.
        again = (selection, run.plan.work.check_parameters(parameters or {}))
        run._options = msgspec.structs.replace(run._options, again=again)
        run._again = rows
        return run


def _restored(dumped: Mapping[str, Any]) -> MistralLLM | MistralEmbeddings:
    restored = Connection.from_dict(dumped)
    assert isinstance(restored, MistralLLM | MistralEmbeddings)
    return restored


class _Options(Struct, frozen=True, kw_only=True):
    """How one start goes about its rows."""

    fresh: bool = False
    retry_failed: bool = True
    on_unknown: OnUnknown = "retry"
    dedupe: bool = False
    grace_s: float = 30.0
    max_cost: float | None = None
    max_tokens: int | None = None
    deadline_s: float | None = None
    sample: int | None = None
    again: tuple[Selection, dict[str, Any]] | None = None


def _refuse_foreign(out: str, ledger: Path) -> None:
    """``InputError`` if the output exists and no run is known that made it: it may be dear to somebody."""
    if Path(out).is_file() and Path(out).stat().st_size and not ledger.exists():
        raise InputError(
            f"{out} exists, and {ledger} does not, so it is no output of this run",
            hint="choose another output, or replace it with --fresh",
        )


def _ledger_path(out: str | None, ledger: str | Path | None) -> tuple[Path, bool]:
    """Where a run remembers, and whether that is only for now."""
    if ledger is not None:
        return Path(ledger), False
    if out is not None and out != "-":
        return Path(f"{out}.ledger"), False
    return Path(tempfile.gettempdir(), f"mistill-{secrets.token_hex(8)}", "run.ledger"), True
