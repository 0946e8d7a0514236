"""What a run stands on: its input with its steps, and the place of its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mistill.datasets.sources import Exploded, Filtered, Named, Source, open_source
from mistill.errors import InputError
from mistill.runs.kept_settings import ledger_beside, refuse_unwritten
from mistill.runs.options import RunOptions
from mistill.runs.where import InputFilter, require_columns
from mistill.wording import Setting, words


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


def refuse_foreign(out: str, ledger: Path) -> None:
    """``InputError`` if the output exists and no run is known that made it: it may be dear to somebody."""
    if Path(out).is_file() and Path(out).stat().st_size and not ledger.exists():
        raise InputError(
            f"{out} exists, and {ledger} does not, so it is no output of this run",
            hint=words("choose another output, or replace it with ", Setting("fresh", True)),
        )


def _check_path(ledger: Path) -> None:
    """``InputError`` if no file can have that name."""
    try:
        is_possible = bool(ledger.name) and not ledger.is_dir()
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
