"""A start over where the ledger is of the other layout: a folder of shards for a run in one file, or the other way
round. What is put aside is a ledger of ours, whole, and nothing else."""

from __future__ import annotations

from pathlib import Path

from mistill.errors import InputError, LedgerInUse
from mistill.ledger.database import set_aside
from mistill.ledger.files import free_name, is_ledger, main_name
from mistill.ledger.lock import LedgerLock, holder_of, is_held
from mistill.ledger.permissions import check_may_read
from mistill.ledger.shard_files import is_foreign, is_in_shards, read_sizes, shard_of, takes_parts, whole_of
from mistill.runs.lanes.batch_terms import warn_of_jobs
from mistill.wording import Setting, words


def refuse_foreign_folder(folder: Path) -> None:
    """``InputError`` where somebody has something else: nothing is put there, and a fresh start puts nothing aside."""
    check_may_read(folder)
    if is_foreign(folder):
        raise InputError(
            f"{folder} has files in it, and is no folder of a run in shards",
            hint=words("name one that is not there yet with ", Setting("ledger"), ", or move that one away"),
        )


def refuse_taken(anew: Path) -> None:
    """``InputError`` where something is at the name from which a fresh folder takes the ledger's: it would be moved."""
    refuse_foreign_folder(anew)
    if not takes_parts(anew):
        raise InputError(
            f"{anew} is there, and a start over would take it for what it has begun itself",
            hint=words("name another one with ", Setting("ledger"), ", or move that away"),
        )


def can_be_put_aside(ledger: Path) -> bool:
    """Whether a file is a ledger, and no other name of one: a folder could not take the place of both."""
    return is_ledger(ledger) and main_name(ledger) == (ledger, True) and not ledger.is_symlink()


def put_file_aside(ledger: Path) -> None:
    """For a folder of shards to take its place.

    Raises:
        LedgerInUse: a run is on it.
    """
    lock = LedgerLock(ledger)
    try:
        backup = set_aside(ledger)
    finally:
        lock.release(keep=ledger.exists() and lock.commits_before > 0)
    if backup is not None:
        warn_of_jobs(backup)


def put_shards_aside(folder: Path) -> None:
    """For one file to take their place.

    Raises:
        InputError: the folder is somebody's, and no run in shards has made it.
        LedgerInUse: a driver or a shard is at work.
    """
    refuse_foreign_folder(folder)
    refuse_at_work(folder)
    folder.rename(free_name(folder, "bak"))


def refuse_at_work(folder: Path) -> None:
    """``LedgerInUse`` while somebody drives a run in shards, or works on one of them."""
    LedgerLock(whole_of(folder)).release()
    refuse_shards_at_work(folder)


def refuse_shards_at_work(folder: Path) -> None:
    """``LedgerInUse`` where the run is about to be another one; also while nothing of them is answered yet."""
    if not is_in_shards(folder):
        return
    ledgers = (shard_of(folder, number) for number in range(len(read_sizes(folder))))
    if (ledger := next(filter(is_held, ledgers), None)) is not None:
        raise LedgerInUse(
            f"a shard of {folder} is at work in process {holder_of(ledger)}",
            hint="wait until it has ended, or stop it: until then its run stays what it is",
        )
