"""One shard of a run: a run of its own, with a ledger of its own in the folder of the whole.

Whoever starts it: a worker of a driver (`work_on`), or a user with ``shard="3/16"``.
"""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, Unpack

from msgspec import Struct

from mistill._version import __version__
from mistill.addresses import is_of_table, keep_secrets, scheme_of
from mistill.datasets.formats import format_by_suffix
from mistill.datasets.places import target_of
from mistill.datasets.sources import Row, Source
from mistill.datasets.writers import check_target
from mistill.delivery.diagnostics import Snapshot
from mistill.delivery.governors import GovernorDoor
from mistill.errors import InputError, LedgerError, LedgerInUse, ManifestChanged, MistillError
from mistill.estimates.dry_run import DryRun
from mistill.kinds.kept_settings import ledger_beside, read_manifest, settings_to_keep
from mistill.kinds.manifest import changed_settings
from mistill.kinds.options import RunArguments, RunOptions
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.lock import LedgerLock
from mistill.ledger.shard_files import (
    OUTPUT,
    SETTINGS,
    is_in_shards,
    note_part,
    note_written,
    read_parts,
    remove_part,
    run_of_shard,
    shard_of,
    whole_of,
    whole_run,
)
from mistill.ledger.targets import check_targets
from mistill.llms.connection import Connection
from mistill.progress.display import OnProgress
from mistill.runs.export import Exported, write_records
from mistill.runs.opening import output_held, told_if_interrupted
from mistill.runs.record_shape import shape_of
from mistill.runs.report import start_reports
from mistill.runs.run import Run
from mistill.runs.runner import Runner
from mistill.runs.shared_budget import PartOfBudget, SharedBudget
from mistill.runs.starting_over import can_be_put_aside, refuse_foreign_folder, refuse_shards_at_work
from mistill.shards.placement import OneShard
from mistill.shards.plan import Plan, check_plan, make_plan, read_plan
from mistill.shards.workers import Begun, Link
from mistill.steering.orders import Order
from mistill.wording import START_AGAIN, Setting, Words, words

_log = logging.getLogger("mistill")
_PLANNING_S: Final = 600.0
"""How long another one may take to cut the input."""
_LOOK_S: Final = 0.1
NOTHING_SENT: Final = ("nothing was sent; ", START_AGAIN)
"""Of a start that is interrupted while the input is cut."""
_SAY_AFTER_S: Final = 1.0


class RunPlace(Struct, frozen=True):
    """Where a run in shards remembers, and where its records go.

    Attributes:
        folder: of its plan and ledgers.
        out: one file, or a folder for the parts; ``None``: no output.
    """

    folder: Path
    out: str | None

    @classmethod
    def of(cls, out: str | Path | None, options: RunOptions) -> RunPlace:
        """Raises:
        InputError: nothing says where it remembers, or it cannot be there.
        """
        name = None if out is None else keep_secrets(str(out).rstrip("/") or str(out))
        if name == "-":
            raise InputError(
                words(Setting("out", "-"), ": records of a run in shards come in no stream"),
                hint="name a file, or a folder for a part of each shard",
            )
        if options.ledger is None and name is None:
            raise InputError(
                "a run in shards has to remember where each of its workers sees it",
                hint=words("give ", Setting("out"), ", or ", Setting("ledger"), " as a folder"),
            )
        if name is not None and scheme_of(name) is not None and not _is_one_output(name):
            raise InputError(
                words(Setting("out"), f": {name} is no folder of files, and parts go to one"),
                hint="name a folder that all workers see, or one file",
            )
        folder = whole_run(options.ledger) if options.ledger is not None else ledger_beside(name or "")
        if (whole := run_of_shard(folder)) is not None:
            raise InputError(
                f"{folder} is the ledger of one shard", hint=words("give ", Setting("ledger", str(whole)))
            )
        if folder.is_file() and not (options.fresh and options.on):
            over = (Setting("fresh", True),) if options.on else _OVER_AGAIN
            raise InputError(
                f"{folder} is the ledger of a run that is not in shards",
                hint=words("go on with that as it began, give another output, or start over with ", *over),
            )
        if folder.is_file() and not can_be_put_aside(folder):
            raise InputError(
                f"{folder} is a file, and no ledger that could be put aside",
                hint="give another output or ledger",
            )
        refuse_foreign_folder(folder)
        place = cls(folder, name)
        if name is not None:
            target = name if place.is_one_file else str(Path(name).with_name(place.part(0, options).name))
            check_target(target, options.output_format, options.csv_dialect)
        return place

    def is_there(self) -> bool:
        """Whether it remembers a run."""
        return is_in_shards(self.folder) and whole_of(self.folder).is_file()

    def gone(self) -> LedgerError:
        """Somebody took away what the run remembers, while it goes on."""
        return LedgerError(
            f"{self.folder}, where this run remembers, was deleted, moved or replaced while it went on",
            hint=words("nothing more is sent; if it was moved, put it back and ", START_AGAIN),
        )

    def absolute(self) -> RunPlace:
        """The same, for processes that work in other directories."""
        is_path = self.out is not None and scheme_of(self.out) is None
        return RunPlace(self.folder.absolute(), str(Path(self.out or "").absolute()) if is_path else self.out)

    @property
    def is_one_file(self) -> bool:
        """Its suffix says a format; else it is a folder, which gets a part for each shard."""
        return self.out is not None and _is_one_output(self.out)

    def part(self, number: int, options: RunOptions) -> Path:
        """The part of a shard."""
        return Path(self.out or "", f"part-{number:05}.{options.output_format or 'jsonl'}")

    def refuse_foreign(self) -> None:
        """``InputError`` if something is where the output goes, and no run is known that made it."""
        if self.out is None:
            return
        target, known = Path(self.out), self.parts()
        if (
            any(path.name not in known for path in target.iterdir())
            if target.is_dir()
            else target_of(self.out).holds_something()
        ):
            raise InputError(
                f"{self.out} exists, and {self.folder} does not, so it is no output of this run",
                hint=words("choose another output, or replace it with ", Setting("fresh", True)),
            )

    def part_of(self, number: int, options: RunOptions) -> str | None:
        """What a shard writes itself; ``None``: nothing."""
        return None if self.out is None or self.is_one_file else str(self.part(number, options))

    def parts(self) -> frozenset[str]:
        """The names of the parts that starts of the run may have written here."""
        return frozenset() if self.out is None else frozenset(read_parts(self.folder, self.out))

    def remove_parts(self, names: Iterable[str]) -> None:
        """They are not of the run any more. What is not as it has left them stays: it may be somebody's."""
        left = [name for name in names if not remove_part(self.folder, Path(self.out or "", name))]
        if left:
            _log.warning(
                "%s: %s stay, which an earlier cut of the run had and somebody has changed since: remove them, or "
                "whoever reads the folder takes them for some of its parts",
                self.out,
                ", ".join(sorted(left)),
            )


def _is_one_output(name: str) -> bool:
    return is_of_table(name) or format_by_suffix(name) is not None


def check_options(options: RunOptions, *, is_driven: bool = False) -> None:
    """``InputError`` for what cannot be had in shards; ``is_driven``: a driver has said what of it is a shard's."""
    how = Setting("on") if options.on is not None else Setting("shard")
    if options.on is not None and options.shard is not None:
        raise InputError(
            words(Setting("on"), " works on all shards, and ", Setting("shard"), " on one of them")
        )
    if options.lane != "live":
        raise InputError(
            words(
                Setting("lane", options.lane),
                ": batch jobs are the server's work, which one process can wait for",
            ),
            hint=words("leave ", how, " out"),
        )
    if options.shard is None or is_driven:
        return
    for name in ("fresh", "sample", "max_cost", "max_tokens_total"):
        if getattr(options, name):
            hint = words("with ", Setting("on"), " it can be had")
            if name == "fresh":
                hint = words("give another output, or start over with ", *_OVER_AGAIN)
            raise InputError(
                words(Setting(name), " is of the whole run, and ", Setting("shard"), " of a part of it"),
                hint=hint,
            )


_OVER_AGAIN: Final = (Setting("on"), " and ", Setting("fresh", True))


@contextmanager
def _of_one_shard() -> Generator[None]:
    """Who is told to start over is told how, where ``fresh`` alone is refused."""
    try:
        yield
    except MistillError as error:
        if isinstance(error.hint, Words):
            parts = (_OVER_AGAIN if part == _OVER_AGAIN[-1] else (part,) for part in error.hint.parts)
            error.hint = words(*chain.from_iterable(parts))
        raise


class _WholeInUse(LedgerInUse):
    """Somebody has the ledger of the run as a whole, and may be cutting the input."""


class InShards(Run):
    """What the run of a shard and the driver of all have in common: the place, the plan, what makes it the same run."""

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
        options = RunOptions.of(arguments)
        self._is_driven = isinstance(source, Source)
        check_options(options, is_driven=self._is_driven)
        self.place = RunPlace.of(out, options)
        ledger, own_out = self._files(options)
        super().__init__(
            source,
            llm=llm,
            progress=progress,
            on_progress=on_progress,
            **(arguments | {"ledger": ledger}),
        )
        self.out = own_out
        self._whole = self._source
        if self.place.is_one_file:
            self._check_columns(self.place.out)
        check_targets(self.out, ledger, self._whole.paths)

    @property
    def _batch_factor(self) -> float | None:
        """None: no shard's rows go in batch jobs, see `check_options`."""
        return None

    @abstractmethod
    def _files(self, options: RunOptions) -> tuple[Path, str | None]:
        """The ledger that it writes, and its output."""

    def _known_plan(self, shards: int | None) -> Plan | None:
        """Where the input was cut; ``None``: it is not yet. ``InputError`` where another cut is wanted."""
        plan = read_plan(self.place.folder)
        if plan is not None:
            check_plan(plan, self.place.folder, self._whole, self.options.of_plan(), shards=shards)
        return plan

    def _open_whole(self) -> Ledger:
        """The ledger of the run as a whole, which one process has at a time.

        Raises:
            LedgerInUse: another one has it. ManifestChanged: it is of other settings.
        """
        folder = self.place.folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._settings_held():
            if not self._check_same_run():  # they become those of this one
                refuse_shards_at_work(folder)
            try:
                return Ledger.open(
                    whole_of(folder),
                    self.kind.manifest.values(),
                    settings=settings_to_keep(
                        self.kind.llm_settings, self.options, self._whole, self.place.out
                    ),
                    version=__version__,
                )
            except LedgerInUse as error:
                raise _WholeInUse(
                    words("another process drives this run: ", error.message), hint=error.hint
                ) from error

    @contextmanager
    def _settings_held(self) -> Generator[None]:
        """Within the block nobody changes what makes it the same run: for a moment, so whoever has it is waited for."""
        give_up_at_s = time.monotonic() + _PLANNING_S
        while True:
            try:
                lock = LedgerLock(self.place.folder / SETTINGS)
                break
            except LedgerInUse:
                if time.monotonic() > give_up_at_s:
                    raise
                time.sleep(_LOOK_S)
        try:
            yield
        finally:
            lock.release()

    def _say_if_empty(self, plan: Plan) -> None:
        """As a run in one ledger does. A shard without a row says nothing of the input."""
        if not plan.rows:
            self._whole.say_empty()

    def _check_same_run(self) -> bool:
        """Whether it is known to be this run. ``ManifestChanged`` where rows were asked by other settings."""
        if not self.place.is_there():
            return False
        with LedgerReader(self.place.folder) as reader:
            if self._is_run_of(reader):
                return True
            spent = reader.spending()
        if not (spent.answers or spent.unknown):
            return False
        raise self._of_another_run()

    def _is_run_of(self, reader: LedgerReader) -> bool:
        kind, before = read_manifest(reader)
        return kind is type(self.kind) and not changed_settings(before, self.kind.manifest)

    def _of_another_run(self) -> ManifestChanged:
        changed = ManifestChanged(
            f"{self.place.folder} belongs to a run with other settings",
            changes={},
            hint=words(
                "go back to those settings to resume, choose another output, or start over with ",
                Setting("fresh", True),
                ", which keeps what is answered under another name",
            ),
        )
        return self._other_settings(changed, self.place.folder, self.place.out)


class DrivenStart(PartOfBudget):
    """The start of a shard, which a driver steers. It is the `Control` of it."""

    def work(self, begun: Begun, link: Link) -> MistillError | None:
        """One start; why it has ended early."""
        self._part_of = begun.start
        turn = object()
        with self._control.in_turn(turn):  # from here on, what it is told waits until it can be done
            link.take(self)
            self._start(turn)
        return self._ended().stopped

    def governor_now(self) -> Snapshot:
        """What is known of quotas, where this shard asks."""
        return self._governor.snapshot()

    def _write_output(self, out: str) -> Exported:
        written = super()._write_output(out)
        note_written(self.ledger_path.parent, Path(out))
        return written

    def abandon(self) -> None:
        """Waits for nothing any more: what is in flight is marked as maybe billed."""
        self._control.abandon()

    def obey(self, order: Order, by: str) -> None:
        """See `Control`."""
        self._control.order(order, by)


class ShardRun(DrivenStart, InShards):
    """The run of one shard."""

    def _files(self, options: RunOptions) -> tuple[Path, str | None]:
        assert options.shard is not None, "else it is another kind of run"
        self._one = OneShard.parse(options.shard)
        number = self._shard = self._one.number
        return shard_of(self.place.folder, number), self.place.part_of(number, options)

    def dry_run(self) -> DryRun:
        """See `Run`: of the rows of the shard, once the input is cut."""
        with _of_one_shard():
            plan = self._known_plan(self._one.of)
        if plan is None:
            _log.warning(
                "the input is cut by the first start: this is of all its rows, in %s shards", self._one.of
            )
        else:
            self._source = plan.source(self._one.number, self._whole, self.options.limit)
        return super().dry_run()

    @contextmanager
    def _started(self) -> Generator[Runner]:
        with nullcontext() if self._is_driven else _of_one_shard(), self._start_of_shard() as runner:
            yield runner

    @contextmanager
    def _start_of_shard(self) -> Generator[Runner]:
        self._make_ready()
        with told_if_interrupted(*NOTHING_SENT):
            plan = self._plan()
        if not self._is_driven:
            self._say_if_empty(plan)
        self._source = plan.source(self._one.number, self._whole, self.options.limit)
        if self.out is not None:
            part = Path(self.out)
            note_part(self.place.folder, part)  # first: what is not noted is nobody's to remove
            part.parent.mkdir(parents=True, exist_ok=True)
        failed_now = self._failed_now()
        with super()._started() as runner:
            runner.has_answers_elsewhere = self._has_answers
            runner.first_of_all = partial(self._first_of_all, plan)
            runner.failed_now = failed_now
            yield runner
        if runner.stopped is None and not self._is_driven:
            if self.place.is_one_file:
                self._write_if_last()
            elif self.out is not None:
                self._remove_other_parts(Path(self.out).name, len(plan.shards))

    def _plan(self) -> Plan:
        """The plan, made by this process if it is the first."""
        folder = self.place.folder
        if not self._whole.repeatable:
            raise InputError(
                f"{self._whole.name} can be read only once, and each process for a shard needs it",
                hint=words(
                    "write it into a file that all of them see, or let one process work on all shards: ",
                    Setting("on", "processes:4"),
                ),
            )
        if self._is_driven and not self.place.is_there():
            raise self.place.gone()
        give_up_at_s = time.monotonic() + _PLANNING_S
        while (plan := read_plan(folder)) is None or not self._check_same_run():
            try:
                with self._open_whole():
                    if plan is None and read_plan(folder) is None:
                        self.place.refuse_foreign()
                        make_plan(
                            folder,
                            self._whole,
                            self.options.of_plan(),
                            shards=self._one.of,
                            workers=self._one.of,
                            by_number=True,
                        )
            except _WholeInUse:
                if time.monotonic() > give_up_at_s:
                    raise
                time.sleep(_LOOK_S)  # another one cuts the input
        source = None if self._is_driven else self._whole
        check_plan(plan, folder, source, self.options.of_plan(), shards=self._one.of)
        return plan

    def _open_ledger(self) -> Ledger:
        ledger = super()._open_ledger()
        try:
            # Only now does whoever would change the run see that this shard is at work.
            self._check_settings()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _check_settings(self) -> None:
        with self._settings_held():
            if not self.place.is_there():
                raise self.place.gone()
            with LedgerReader(self.place.folder) as reader:
                is_same = self._is_run_of(reader)
        if not is_same:
            raise self._of_another_run()

    def _failed_now(self) -> frozenset[int]:
        """Rows that have failed in starts of this shard which died: to the user they are this one, where they are parts
        of the same start of the run."""
        path = shard_of(self.place.folder, self._one.number)
        if self._part_of is None or not path.is_file():
            return frozenset()
        with LedgerReader(path) as reader:
            starts = start_reports(reader)
            began = next((one.started_at for one in starts if one.part_of == self._part_of), None)
            return frozenset() if began is None else reader.failed_since(began)

    def _first_of_all(self, plan: Plan) -> Row | None:
        """The first row of the whole run, which another shard has."""
        return None if self._one.number == 0 else next(iter(plan.source(0, self._whole, 1)), None)

    def _has_answers(self) -> bool:
        """Whether a row of any shard has been answered: then what refuses all of this one is not the server."""
        with LedgerReader(self.place.folder) as reader:
            return reader.counts().completions > 0

    def _write_if_last(self) -> None:
        """Whoever finishes the last shard writes the one file; of several that do at once, one after the other.

        What another one writes was read before this shard had ended, maybe: the last one to write has all of them.
        """
        assert self.place.out is not None, "it is one file"
        if not self._is_all_finished():
            return
        told = f"all rows have an outcome, and {self.place.out} is not written yet; "
        with told_if_interrupted(told, START_AGAIN), self._turn_to_write():
            if (
                not self._is_all_finished()
            ):  # somebody asks rows again meanwhile, and writes when they are answered
                return
            with LedgerReader(self.place.folder) as reader:
                shape = shape_of(reader, live=self.kind)
            write_records(
                self.place.folder,
                self.place.out,
                shape,
                format=self.options.output_format,
                csv_dialect=self.options.csv_dialect,
                made_of=self._whole.paths,
            )

    def _is_all_finished(self) -> bool:
        with LedgerReader(self.place.folder) as reader:
            return reader.counts().is_finished

    @contextmanager
    def _turn_to_write(self) -> Generator[None]:
        """Waits for whoever writes the one file, for as long as that one lives."""
        say_at_s = time.monotonic() + _SAY_AFTER_S
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(output_held(self.place.out, self.place.folder / OUTPUT))
                    break
                except LedgerInUse as error:
                    if time.monotonic() >= say_at_s:
                        _log.warning("%s: this one waits for it, and then writes what it has", error.message)
                        say_at_s = math.inf
                    time.sleep(_LOOK_S)
            yield

    def _remove_other_parts(self, own: str, shards: int) -> None:
        """Those that this shard wrote in another format; by whoever finishes the last, those that an earlier plan had
        more."""
        number = own.partition(".")[0]
        of_plan = {self.place.part(one, self.options).name.partition(".")[0] for one in range(shards)}
        by_number = [(name.partition(".")[0], name) for name in self.place.parts() - {own}]
        self.place.remove_parts(name for one, name in by_number if one == number)
        more = [name for one, name in by_number if one not in of_plan]
        if more and self._is_all_finished():
            self.place.remove_parts(more)

    def _refuse_foreign(self) -> None:
        pass  # that of the whole was looked at when it was cut

    @contextmanager
    def _output_held(self) -> Generator[None]:
        if self.out is not None:
            target_of(self.out).clear_away()
        yield  # whoever has the ledger of a shard has its part too


class ShardSettings(Struct, frozen=True):
    """What a worker needs to know of a run, to work on any of its shards.

    Attributes:
        door: behind which its driver has the governor that keeps to what holds for all workers together: ``budget``,
            and a quota of the user's own.
    """

    llm: Connection
    place: RunPlace
    arguments: dict[str, Any]
    door: GovernorDoor
    budget: SharedBudget | None


def work_on(settings: ShardSettings, begun: Begun, link: Link) -> MistillError | None:
    """Works on one shard; why that has ended early."""
    plan = read_plan(settings.place.folder)
    assert plan is not None, "it is made before anybody works"
    told: dict[str, Any] = {
        "shard": f"{begun.number}/{len(plan.shards)}",
        "sample": begun.sample,
        "on_stop": "return",
        "ledger": settings.place.folder,
        **begun.limits,
    }
    settings.llm.keep_limits_behind(settings.door)
    run = ShardRun(
        plan.whole(),
        llm=settings.llm,
        out=settings.place.out,
        progress=False,
        on_progress=lambda view: link.see(view, run.governor_now()),
        **settings.arguments | told,
    )
    if settings.budget is not None and begun.budget is not None:
        run.spend_from(settings.budget, settings.door.governor(), begun.number, begun.budget)
    return run.work(begun, link)
