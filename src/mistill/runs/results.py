"""`RunResults`: what a run has answered, read from its ledger, while it goes on and after. No model is needed."""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import msgspec
from pydantic import SecretStr

from mistill.audits.audit import Audited, find_admin_key, no_admin_key
from mistill.audits.report import Audit
from mistill.datasets.optional_library import PYARROW
from mistill.errors import InputError, LedgerError, MistillError
from mistill.kinds.kept_settings import find_run
from mistill.kinds.options import RetryArguments
from mistill.ledger import LedgerReader, Mark
from mistill.ledger.marks import write_mark
from mistill.ledger.shard_files import is_in_shards, is_memory
from mistill.ledger.temporary_ledger import TemporaryLedger
from mistill.llms.connection import Connection
from mistill.llms.types import Completion
from mistill.progress.display import Display, OnProgress
from mistill.runs.chat_lines import ChatLines, Turns
from mistill.runs.export import warn_of_misfits, write_records
from mistill.runs.record_lines import record_line
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.report import RunReport, read_report
from mistill.runs.report_html import report_html
from mistill.runs.row_report import position_of
from mistill.runs.where import RunFilter
from mistill.steering.client import Control
from mistill.wording import Setting, words

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs]  the same
    import polars

    import datasets  # pyright: ignore[reportMissingTypeStubs]  for those who have stubs of it
    from mistill.runs.collection import Collection
    from mistill.runs.run import Run

_log = logging.getLogger("mistill")

_PAGE_ROWS = 1000


class RunResults:
    """What a run has answered so far, whatever start of it, in whatever process, has got the answers.

    Attributes:
        out: where its records go; ``None``: nowhere, or it is not known.
        ledger_path: where it remembers.
        own_llm: the model, where it is at hand.
    """

    def __init__(self, ledger: Path, out: str | None) -> None:
        self.ledger_path = ledger
        self.out = out
        self._temporary = TemporaryLedger.at(ledger)
        self.own_llm: Connection | None = None if self._temporary is None else self._temporary.llm
        self._reader: LedgerReader | None = None
        self._reading = threading.Lock()
        self._kept_shape: tuple[tuple[int, ...], RecordShape] | None = (
            None  # with the retries that it knows of
        )

    @staticmethod
    def open(path: str | Path, *, ledger: str | Path | None = None) -> RunResults:
        """The results of a run that was started before, here or anywhere. Nothing is sent, and no key is needed.

        Args:
            path: its output, or its ledger.
            ledger: where it remembers, if not beside its output.

        Raises:
            InputError: there is no such run.
            LedgerError: the ledger is none, is damaged, or is of a newer format.
        """
        out, found = find_run(path, ledger)
        with LedgerReader(found):
            return RunResults(found, out)

    # --- records ----------------------------------------------------------------------------------------------------

    def results(self) -> Iterator[dict[str, Any]]:
        """The records of all rows that have an outcome, in the order of the input: each as it stands in the output.

        They are read as they are asked for, some at a time: a run may go on meanwhile, and no more than these are in
        memory.

        Raises:
            LedgerError: it was never started. On iterating, at the end: some rows are damaged in the ledger; the others
                were given.
        """
        self._check_started()
        return self._records()

    def _records(self) -> Iterator[dict[str, Any]]:
        first = 0
        with LedgerReader(self.ledger_path) as reader:
            shape = self._shape_in(reader)
            # A page at a time, since a read that goes on keeps SQLite from folding its log into the file.
            while page := list(islice(shape.rows_of(reader, first=first), _PAGE_ROWS)):
                for row in page:
                    if row.state != "pending":
                        yield json.loads(record_line(row, shape))
                first = page[-1].position + 1
            reader.check_damages("the others were given")

    def to_arrow(self) -> Any:
        """The records as an Arrow table; its types are those that Parquet and Arrow files have (see docs/formats.md).

        Raises:
            InputError: pyarrow is not installed.
            LedgerError: it was never started, or some rows are damaged.
        """
        arrow: Any = PYARROW.load("to_arrow()")
        self._check_started()
        with tempfile.TemporaryDirectory(prefix="mistill-") as folder:
            path = Path(folder, "results.arrow")
            with LedgerReader(self.ledger_path) as reader:
                shape = self._shape_in(reader)
            warn_of_misfits(write_records(self.ledger_path, path, shape).misfits, self.out)
            return arrow.ipc.open_file(path.read_bytes()).read_all()

    def to_pandas(self) -> pandas.DataFrame:
        """The records as a pandas frame. Whole numbers and booleans with nulls among them stay what they are
        (``Int64``, ``boolean``).

        Raises:
            InputError: pandas or pyarrow is not installed.
            LedgerError: it was never started, or some rows are damaged.
        """
        pandas = _library("pandas", "to_pandas()")
        table: Any = self.to_arrow()
        frame = table.to_pandas()
        exact = {"int64": pandas.Int64Dtype(), "bool": pandas.BooleanDtype()}
        for column, values in zip(table.schema, table.columns, strict=True):
            if values.null_count and (kind := exact.get(str(column.type))) is not None:
                frame[column.name] = values.to_pandas(types_mapper={column.type: kind}.get)
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The records as a polars frame.

        Raises:
            InputError: polars or pyarrow is not installed.
            LedgerError: it was never started, or some rows are damaged.
        """
        return _library("polars", "to_polars()").from_arrow(self.to_arrow())

    def to_dataset(self) -> datasets.Dataset:
        """The records as a Hugging Face dataset.

        Raises:
            InputError: datasets or pyarrow is not installed.
            LedgerError: it was never started, or some rows are damaged.
        """
        return _library("datasets", "to_dataset()").Dataset(self.to_arrow())

    def to_chat(self, turns: Turns | None = None, *, where: str | None = None) -> list[dict[str, Any]]:
        """Conversations for fine-tuning, ``{"messages": […]}``, as ``export_run(…, as_="chat")`` writes them: one for
        each answer. Rows that failed and answers that were cut off are left out, which is said.

        Args:
            turns: who says what, such as ``{"user": "question", "assistant": "answer"}``; what the run asked and what
                was answered, unless given.
            where: of which rows, such as ``"score>=3"``; see docs/runs.md.

        Raises:
            InputError: a role or a column is none, or some would be no conversation; it names them.
            LedgerError: it was never started, or some rows are damaged.
        """
        self._check_started()
        name = self.out or "the run"
        with LedgerReader(self.ledger_path) as reader, reader.snapshot():
            shape = self._shape_in(reader)
            chosen, chat = RunFilter(where, reader, shape), ChatLines(reader, shape, turns)
            rows = (row for row in chosen.rows(reader) if row.state != "pending")
            lines = [json.loads(line) for row in rows for line in chat(row)]
            chat.check(name)
            reader.check_damages()
        if where is not None and not lines and not chat.left_out:
            _log.warning("%s", chosen.nothing(name))
        if chat.left_out:
            _log.warning("left out of the conversations: %s", chat.left_out)
        return lines

    # --- what people say of it --------------------------------------------------------------------------------------

    def mark(
        self, row: int | str, mark: Mark | None, note: str | None = None, *, id_column: str | None = None
    ) -> int:
        """Says of a row's outcome what somebody found who looked at it. It is kept in the ledger, in the place of what
        was said of it before; a run may be going on.

        It goes out in the columns ``mark`` and ``note`` where these are asked for, and ``mark=bad`` is a condition. An
        outcome that takes the place of this one has no mark: nobody has looked at it.

        Args:
            row: its place in the input, from 0; or its id, where it is a text, or where ``id_column`` is given.
            mark: ``"good"`` or ``"bad"``; ``None``: neither.
            note: at most 10,000 characters.
            id_column: which column has ids; that of the run, if it has one, unless given.

        Returns:
            The row's place in the input.

        Raises:
            InputError: there is no such mark, or no such row, or several of that id, or it has no outcome yet.
            LedgerError: it was never started, or its ledger cannot be written.
        """
        self._check_started()
        with LedgerReader(self.ledger_path) as reader:
            position = position_of(row, id_column, reader)
        write_mark(self.ledger_path, position, mark, note)
        return position

    def push_to_hub(
        self,
        repo: str,
        *,
        where: str | None = None,
        extra_columns: Iterable[str] = (),
        partial: bool = False,
        private: bool | None = None,
        revision: str | None = None,
        split: str = "train",
        overwrite: bool = False,
        token: str | None = None,
    ) -> str:
        """The records as a dataset at the Hugging Face Hub: Parquet, and a card that says what was asked and how it
        went, in one commit. See docs/remote.md.

        Args:
            repo: ``"org/name"``, or ``"name"`` in the name of whoever the token is of. It is made unless it is there.
            where: of which rows, such as ``"score>=3"``. ``partial``: rows without an outcome yet are left out, instead
                of refused.
            extra_columns: further columns of ours, as for `Run`: ``"mark"`` and ``"note"``, say.
            private: whether a repository that is made is; as the Hub's account has it unless given.
            revision: a branch other than ``main``, which must be there. ``split``: the part of the dataset that it is.
            overwrite: replace what another run, or somebody else, has put there: the card, and the data of that split.
            token: of the Hub; from ``HF_TOKEN`` or ``hf auth login`` unless given. It is kept nowhere.

        Returns:
            The address of the commit.

        Raises:
            InputError: the repository holds another dataset, the Hub refuses, or a library is missing.
            LedgerError: it was never started, or is not finished and ``partial`` is not wanted.
        """
        from mistill.runs.hub import push_run

        self._check_started()
        return push_run(
            self.out,
            repo,
            ledger=self.ledger_path,
            where=where,
            extra_columns=extra_columns,
            partial=partial,
            private=private,
            revision=revision,
            split=split,
            overwrite=overwrite,
            token=token,
        )

    def _record_at(self, position: int) -> dict[str, Any]:
        """The record of one row that has an outcome; rows count from 0."""
        with self._reading, self._open_reader() as reader:
            retries = tuple(reader.retry_settings())
            if self._kept_shape is None or self._kept_shape[0] != retries:
                self._kept_shape = retries, self._shape_in(reader)
            shape = self._kept_shape[1]
            return json.loads(record_line(next(shape.rows_of(reader, first=position)), shape))

    @contextmanager
    def _open_reader(self) -> Generator[LedgerReader]:
        """The reader that is open while somebody iterates, or one for this time."""
        if self._reader is not None:
            yield self._reader
            return
        with LedgerReader(self.ledger_path) as reader:
            yield reader

    @contextmanager
    def _kept_open(self) -> Generator[None]:
        """Within the block, records of single rows are read without opening the ledger for each."""
        with LedgerReader(self.ledger_path) as reader:
            self._reader, self._kept_shape = reader, None
            try:
                yield
            finally:
                with self._reading:
                    self._reader = None

    def _shape_in(self, reader: LedgerReader) -> RecordShape:
        """What its records look like."""
        return shape_of(reader)

    def _check_started(self) -> None:
        if not is_memory(self.ledger_path):
            raise LedgerError("this run has no results: it was never started", hint="start it: run.start()")

    # --- steering -----------------------------------------------------------------------------------------------------

    def control(self) -> Control:
        """What steers the start of this run that goes on in whichever process of this user on this machine:
        ``Run.open("answers.jsonl").control().pause()``."""
        return Control(self.ledger_path)

    # --- asking again -------------------------------------------------------------------------------------------------

    def retry(  # its first argument is `self` where it is called on a run
        out: RunResults | str | Path | None,  # noqa: N805 # pyright: ignore[reportSelfClsParameterName]  the same
        where: str | None = None,
        *,
        failed: bool = False,
        llm: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
        trust: bool = False,
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **changes: Unpack[RetryArguments],
    ) -> Run:
        """A run that asks some rows of an earlier one again, to be started like any other.

        ``run.retry("finish_reason=length", …)`` of a `Run`, or of what `Run.open` gives;
        ``Run.retry("answers.jsonl", "finish_reason=length", …)`` of one that was started anywhere.

        A better outcome replaces an earlier one: a completion a failure, a whole completion one that was cut off, and a
        later one one that is as good. What is replaced stays in the ledger. The rows come from the ledger, so the input
        is not needed. One that was stopped goes on when it is retried in the same words.

        Args:
            out: the earlier run: its output, which is written anew, or its ledger; ``None``: it is the run of
                ``ledger``, and has no output.
            where: which rows, such as ``"finish_reason=length"``; see docs/runs.md.
            failed: only rows that failed.
            llm: attributes of the LLM to change, such as ``model``, ``structured_output`` or ``endpoint``. The others
                are those of the run's own LLM, where that is at hand, else as its ledger has them.
            ledger: where the run remembers, if not beside ``out``.
            trust: the ledger is your own: the key goes to the endpoint that it names, and classes that it names are
                imported. Without it, only this machine and Mistral's own endpoint are, and a schema is its JSON schema.
            progress, on_progress: as for `Run`.
            changes: options for these rows, in place of the run's own: ``prompt``, ``system``, ``parameters`` and
                ``row_parameters`` over the run's, ``extra_columns`` beside its own; budgets, ``grace`` and ``on_stop``
                as for a start of the run.

        Raises:
            InputError: there is no such run, no rows are chosen, a setting is wrong, or the ledger names an endpoint
                that needs ``trust``.
            LedgerError: its ledger cannot be read.
        """
        from mistill.runs.retry import Retry
        from mistill.runs.sharded_retry import ShardedRetry

        kind = ShardedRetry if is_in_shards(_ledger_of(out, ledger)) else Retry
        return kind(
            out,
            where,
            failed=failed,
            llm=llm,
            ledger=ledger,
            trust=trust,
            display=Display(progress, on_progress),
            changes=changes,
        )

    # --- batch jobs -----------------------------------------------------------------------------------------------

    def collect_jobs(
        out: RunResults | str | Path | None,  # noqa: N805 # pyright: ignore[reportSelfClsParameterName]  as in `retry`
        *,
        llm: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
        trust: bool = False,
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> Collection:
        """A start that takes over what batch jobs of an earlier run have answered by now, and asks nothing.

        ``Run.collect_jobs("answers.jsonl").start()``: the input is not needed. Results may be gone a day after a job
        has ended, so that this is worth a look a day, where nobody waits for the jobs. It returns at once; the run
        itself goes on with what is left.

        Args:
            out: the earlier run: its output, or its ledger; or itself, or what `Run.open` gives.
            llm: attributes of the LLM to change, such as ``endpoint``.
            ledger: where the run remembers, if not beside ``out``.
            trust: the ledger is your own, as for `retry`. Without it, rows whose schema is a class get no outcome yet:
                their answers are kept, and the run itself reads them for free.
            progress, on_progress: as for `Run`.

        Raises:
            InputError: there is no such run, or the ledger names an endpoint that needs ``trust``.
            LedgerError: its ledger cannot be read.
        """
        display = Display(progress, on_progress)
        return collection(out, cancels=False, llm=llm, ledger=ledger, trust=trust, display=display)

    def cancel_jobs(
        out: RunResults | str | Path | None,  # noqa: N805 # pyright: ignore[reportSelfClsParameterName]  the same
        *,
        llm: Mapping[str, Any] | None = None,
        ledger: str | Path | None = None,
        trust: bool = False,
        give_up: bool = False,
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> Collection:
        """A start that cancels the batch jobs of an earlier run, waits for their end, and takes over what they came to.

        ``Run.cancel_jobs("answers.jsonl").start()``. Rows that are left without an answer are asked when the run goes
        on, in whichever lane. Arguments and errors are those of `collect_jobs`; and

        Args:
            give_up: jobs as well that the server does not know, or not to this key: nobody waits for them any more,
                whatever they answer, and their rows may be billed. Without it, these stop the start.
        """
        display = Display(progress, on_progress)
        return collection(
            out, cancels=True, gives_up=give_up, llm=llm, ledger=ledger, trust=trust, display=display
        )

    # --- the bill -------------------------------------------------------------------------------------------------

    def audit(  # its first argument is `self` where it is called on a run
        out: RunResults | str | Path | Sequence[RunResults | str | Path],  # noqa: N805 # pyright: ignore[reportSelfClsParameterName]  as in `retry`
        *,
        bill: bool | None = None,
        admin_key: SecretStr | str | None = None,
        month: str | Sequence[str] | None = None,
        workspace: str | None = None,
        endpoint: str | None = None,
        allow_http: bool = False,
        ledger: str | Path | None = None,
        trust: bool = False,
    ) -> Audit:
        """What attempts have taken by day, model and lane, from the ledger; and how that differs from Mistral's bill.

        ``run.audit()``; ``Run.audit("answers.jsonl")``; ``Run.audit(["a.jsonl", "b.jsonl"])`` of several runs, of one
        workspace say. With a key of the Admin API, the bill is asked for (``GET /v1/admin/usage``); see docs/audit.md.

        Args:
            out: the run: its output, or its ledger; or itself, or what `Run.open` gives; or several of these.
            bill: whether the bill is asked for; by default where there is a key.
            admin_key: of the Admin API; from the environment variable ``MISTRAL_ADMIN_KEY`` unless given. In no repr,
                log or error.
            month: of the bill, such as ``"2026-11"``, or several; those in which the run has asked, unless given.
            workspace: the id of the one that the run's key is of; the whole organisation, unless given.
            endpoint: the server that is asked, where it is not the run's own.
            allow_http: whether the key may go to another machine over plain http.
            ledger: where the run remembers, if not beside ``out``.
            trust: the ledger is your own: the key goes to the endpoint that it names. Without it, only this machine and
                Mistral's own are sent it.

        Raises:
            InputError: there is no such run; there is no key, though ``bill`` is ``True``; a month is none; or the
                ledger names an endpoint that needs ``trust``.
            LedgerError: its ledger cannot be read.
            MistillError: the server refuses the key, or does not answer.
        """
        several: list[RunResults | str | Path] = (
            [out] if isinstance(out, RunResults | str | Path) else list(out)
        )
        if ledger is not None and len(several) > 1:
            raise InputError(
                words(Setting("ledger"), " is of one run, and several are named"),
                hint="name the ledgers in their place",
            )
        audited = Audited([_ledger_of(one, ledger) for one in several])
        key = find_admin_key(admin_key)
        if key is None and bill is None and (month or workspace):
            raise no_admin_key()
        if bill is False or (bill is None and key is None):
            return audited.audit()
        if key is None:
            raise no_admin_key()
        return audited.against_bill(
            key,
            months=[month] if isinstance(month, str) else month,
            workspace=workspace,
            endpoint=endpoint,
            allow_http=allow_http,
            trust=trust,
        )

    # --- the run as a whole -----------------------------------------------------------------------------------------

    def report(self) -> RunReport:
        """How far it is, what it cost, what failed.

        Raises:
            LedgerError: it was never started, or its ledger cannot be read.
        """
        self._check_started()
        return self._held(read_report(self.out, ledger=self.ledger_path))

    def _held(self, report: RunReport) -> RunReport:
        """The report, which keeps a temporary ledger as long as there is nobody else who does."""
        temporary = self._temporary
        if temporary is None or self.out is not None:
            return report
        report = msgspec.structs.replace(report, is_temporary=True)
        temporary.held_by(report)
        return report

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.out or 'without an output'}>"

    def _repr_html_(self) -> str:
        if not is_memory(self.ledger_path):
            return report_html(None)
        try:
            return report_html(self.report())
        except MistillError as error:  # a display of a cell must not hide what the cell has done
            return report_html(None, problem=str(error))


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """A row that ended.

    Attributes:
        position: its place in the input, from 0.
        record: the row itself.
        completions: its answers; ``None`` in the place of one that failed.
        error: why it failed; ``None`` where it was answered.
        read_record: reads the record of the row at a position.
    """

    position: int
    record: dict[str, Any]
    completions: tuple[Completion | None, ...]
    error: MistillError | None
    read_record: Callable[[int], dict[str, Any]] = field(repr=False, compare=False)

    def to_record(self) -> dict[str, Any]:
        """The row as it goes out: its own columns, and those of the run.

        Raises:
            LedgerError: the ledger is gone by now.
        """
        return self.read_record(self.position)


def _ledger_of(run: RunResults | str | Path | None, ledger: str | Path | None) -> Path:
    if isinstance(run, RunResults):
        return find_run(run.out, ledger or run.ledger_path)[1]
    return find_run(run, ledger)[1]


def collection(out: RunResults | str | Path | None, **settings: Any) -> Collection:
    """A start without an input, which imports what imports this."""
    from mistill.runs.collection import Collection

    return Collection(out, **settings)


def _library(name: str, call: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{call} needs {name}", hint=f"pip install {name}") from error
