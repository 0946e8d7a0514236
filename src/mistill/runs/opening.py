"""What a run stands on: its input with its steps, and the place of its ledger."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistill.addresses import is_elsewhere, keep_secrets, scheme_of
from mistill.datasets.places import target_of
from mistill.datasets.sources import Exploded, Filtered, Named, Source, open_source
from mistill.errors import InputError, LedgerError, LedgerInUse
from mistill.kinds.kept_settings import ledger_beside, refuse_unwritten
from mistill.kinds.options import RunOptions
from mistill.ledger.files import main_name
from mistill.ledger.lock import LedgerLock
from mistill.ledger.permissions import permission_denied
from mistill.ledger.shard_files import is_in_shards, read_sizes
from mistill.process import OwnProcess
from mistill.runs.where import InputFilter, require_columns
from mistill.same_place import canonical, check_is_here, is_same_file
from mistill.wording import Part, Setting, words

_log = logging.getLogger("mistill")


def opened_input(source: Any, options: RunOptions) -> Source:
    """The rows of a run, with the steps that its options ask for."""
    refuse_unwritten(source)
    rows = source if isinstance(source, Source) else open_source(source, **options.of_input())
    if options.id_column is not None:
        require_columns(rows, [options.id_column], "id_column")
        rows.add(Named(options.id_column))
    if options.explode is not None:
        column, _, name = options.explode.partition("=")
        require_columns(rows, [column], "explode")
        rows.add(Exploded(column, name or None))
    if options.where is not None:
        rows.add(Filtered(InputFilter(options.where, rows)))
    return rows


def check_is_one_output(options: RunOptions, out: str | Path | None) -> None:
    """``InputError`` for what only a run in shards has, where nothing says who works on these."""
    if options.on is not None:
        return
    if options.shards is not None:
        raise InputError(
            words(Setting("shards"), " says in how many ", Setting("on"), " cuts the input"),
            hint=words("add it, or start each shard: ", Setting("shard", f"0/{options.shards}")),
        )
    name = "" if out is None else str(out)
    memory = (
        path_of_ledger(keep_secrets(name), options.ledger) if name else None
    )  # else a retry has the ledger
    if memory is not None and is_in_shards(memory) and not options.fresh:
        shards = len(read_sizes(memory))
        raise InputError(
            f"{memory} is the ledger of a run in shards",
            hint=words(
                *(
                    "to go on with it, add ",
                    Setting("on", "processes:2"),
                    " or ",
                    Setting("shard", f"0/{shards}"),
                ),
                "; else choose another output or ledger, or start over with ",
                Setting("fresh", True),
                ", which keeps what is answered under another name",
            ),
        )
    if scheme_of(name) is None and (name.endswith(("/", os.sep)) or (name and Path(name).is_dir())):
        example = Path(name, f"answers.{options.output_format or 'jsonl'}")
        raise InputError(
            words(Setting("out"), f": {name} is a folder, and this run writes one file"),
            hint=words(
                f"name it, such as {example}; a folder has the parts of a run in shards: add ",
                *(Setting("on", "processes:2"), " or ", Setting("shard", "0/16")),
            ),
        )


def refuse_foreign(out: str, ledger: Path) -> None:
    """``InputError`` if the output exists and no run is known that made it: it may be dear to somebody."""
    if ledger.exists() or not target_of(out).holds_something():
        return
    hint = words("choose another output, or replace it with ", Setting("fresh", True))
    if is_elsewhere(out):
        elsewhere = "if its run was started on another machine, bring its ledger from there (status says where it is): "
        hint = words(elsewhere, Setting("ledger", "answers.ledger"), "; else ", hint)
    raise InputError(f"{out} exists, and {ledger} does not, so it is no output of this run", hint=hint)


def make_folder(out: str | None, ledger: Path) -> None:
    """The folder of the ledger of an output that is elsewhere, which nobody else may read; a first start says where, as
    it does of one whose output is a table."""
    if out is None or scheme_of(out) is None or ledger != ledger_beside(out):
        return
    if not is_elsewhere(out):
        if not ledger.exists():
            _log.warning("%s is a table, and its run remembers in %s", out, ledger)
        return
    try:
        ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{ledger.parent} cannot be made: {error.strerror}",
            hint=words("name a place for the ledger with ", Setting("ledger", "answers.ledger")),
        ) from error
    if not ledger.exists():
        other = words("; to go on from another one, take that file along: ", Setting("ledger", ledger.name))
        _log.warning(words(f"{out} is elsewhere, and its run remembers on this machine, in {ledger}", other))


@contextmanager
def output_held(out: str | None, ledger: Path) -> Generator[None]:
    """One run at a time writes an output: one that remembers elsewhere holds the place of the ledger beside it too.

    Raises:
        LedgerInUse: another run is about to write it.
    """
    if out is None or out == "-":
        yield
        return
    beside = ledger_beside(canonical(out))
    if is_same_file(beside, ledger):
        target_of(out).clear_away()
        yield
        return
    process, lock = OwnProcess(), None
    try:
        lock = LedgerLock(main_name(beside)[0])
    except LedgerInUse as error:
        raise LedgerInUse(
            f"another run writes {out}: {error.message}", hint="wait for that run, or give another output"
        ) from error
    except LedgerError:
        pass  # its folder has no locks; whether it can be written, its writer says
    try:
        target_of(out).clear_away()
        yield
    finally:
        if lock is not None and process.is_this():
            lock.release(keep=lock.commits_before > 0)


@contextmanager
def told_if_interrupted(*told: Part) -> Generator[None]:
    """Ctrl-C where there is no report yet, or no more, is one with words: what was done, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(words("interrupted: ", *told)) from error


def _check_path(ledger: Path) -> None:
    """``InputError`` if no file of this machine can have that name."""
    check_is_here(str(ledger), "ledger")
    try:
        is_possible = bool(ledger.name) and (not ledger.is_dir() or is_in_shards(ledger))
    except PermissionError as error:
        raise permission_denied(ledger) from error
    except (OSError, ValueError) as error:  # a name that is too long, or no text of a file system
        raise InputError(f"ledger: {str(ledger)[:80]!r} can be no file: {error}") from error
    if not is_possible:
        raise InputError(f"ledger: {str(ledger)!r} names no file", hint="for example answers.ledger")


def path_of_ledger(out: str | None, ledger: str | Path | None) -> Path | None:
    """Where a run remembers; ``None`` where it has no place for that."""
    if ledger is not None:
        _check_path(Path(ledger))
        return Path(ledger)
    return None if out is None or out == "-" else ledger_beside(out)
