"""What a run, an export, a retry or a dedupe may write over, decided by which file it is and not by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mistill.addresses import database_file, scheme_of
from mistill.errors import InputError
from mistill.ledger.files import files_of, is_ledger, owner_of
from mistill.same_place import is_same_file, is_same_place
from mistill.wording import Setting, words


def check_targets(out: str | Path | None, ledger: Path | None, inputs: Iterable[str | Path]) -> None:
    """Refuses an output or a ledger that would take the place of something else. Nothing is written.

    What counts is the place, however it is written (see `is_same_place`). That a file exists is no reason here: see
    `writers.check_no_loss`.

    Args:
        out: where records go; ``None`` or ``"-"``: to no file.
        ledger: where the run remembers; ``None`` where nothing is remembered.
        inputs: what is read: paths, or addresses without their secrets.

    Raises:
        InputError: one file would be two of these, or belongs to another ledger.
    """
    named = [str(one) for one in inputs]
    read = [Path(one) for one in named if scheme_of(one) is None]
    if ledger is not None:
        _check_ledger(ledger, read)
    if out is None or str(out) == "-":
        return
    if any(is_same_place(str(out), one) for one in named):
        raise _is_input(out, ledger)
    if scheme_of(str(out)) is not None:
        file = database_file(str(out))
        if file is not None and (
            is_ledger(Path(file)) or (ledger is not None and is_same_file(file, ledger))
        ):
            raise InputError(
                f"{out}: {file} is a ledger, which has no other tables", hint="name another file"
            )
        return
    target = Path(out)
    if ledger is not None and _same(target, files_of(ledger)) is not None:
        raise InputError(
            f"{out} is the ledger of this run or belongs to it, and the output would replace it",
            hint="give the output another name",
        )
    if (owner := owner_of(target)) is not None:
        what = (
            "is a ledger or another database"
            if is_same_file(owner, target)
            else f"belongs to the ledger {owner}"
        )
        raise InputError(
            f"{out} {what}, and the output would replace it", hint="give the output another name"
        )


def _is_input(out: str | Path, ledger: Path | None) -> InputError:
    whose = "of this run, and its" if ledger is not None else "itself, and the"
    return InputError(
        f"{out} is an input {whose} output would replace it",
        hint="give the output another name, or a glob that does not match it",
    )


def _check_ledger(ledger: Path, inputs: Iterable[Path]) -> None:
    for path in files_of(ledger):
        if (one := _same(path, inputs)) is not None:
            raise _ledger_is(ledger, f"{one} is an input of this run", path)
    if (owner := owner_of(ledger)) is not None and not is_same_file(owner, ledger):
        raise _ledger_is(ledger, f"it belongs to the ledger {owner}", ledger)


def _same(path: Path, others: Iterable[Path]) -> Path | None:
    return next((other for other in others if is_same_file(path, other)), None)


def _ledger_is(ledger: Path, reason: str, path: Path) -> InputError:
    beside = "" if path == ledger else f" would write {path} beside itself, and"
    return InputError(
        f"the ledger {ledger} cannot be there:{beside} {reason}",
        hint=words("give another path with ", Setting("ledger", "answers.ledger")),
    )
