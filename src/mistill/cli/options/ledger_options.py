"""A run that was started before, found by its output, and rows of it."""

from __future__ import annotations

from pathlib import Path

from mistill.cli.command import option
from mistill.errors import InputError
from mistill.runs.kept_settings import LEDGER_SUFFIX, ledger_beside

ledger_option = option(
    "--ledger", group="Run", metavar="FILE", help="Where the run remembers.  [default: OUT.ledger]"
)
where_option = option(
    "--where",
    group="Run",
    metavar="CONDITION",
    in_settings=False,
    help="Which rows: error=rate_limited, finish_reason=length, output_tokens>=500, row<100, or a column of the row "
    "or of its answer: category=refund, score>=4; a comma means and.",
)
failed_option = option("--failed", group="Run", is_flag=True, in_settings=False, help="Failed rows only.")


def find_ledger(out: str, ledger: str | None) -> Path:
    """The ledger of the run that writes ``out``; ``out`` may be the ledger itself.

    Raises:
        InputError: there is none.
    """
    path = Path(ledger or (out if out.endswith(LEDGER_SUFFIX) else ledger_beside(out)))
    if not path.is_file():
        raise InputError(
            f"no run is known for {out}: there is no file {path}",
            hint="give the --out of the run, or its --ledger",
        )
    return path


def output_of(ledger: Path, out: str) -> str:
    """The output's own name, where the ledger's was given in its place."""
    return str(ledger).removesuffix(LEDGER_SUFFIX) if out.endswith(LEDGER_SUFFIX) else out


def joined_conditions(where: str | None, *, failed: bool = False) -> str | None:
    """``--where``, and ``--failed`` besides; ``None`` where neither is given."""
    terms = [*(["state=failure"] if failed else []), *([where] if where else [])]
    return ",".join(terms) or None
