"""A run that was started before, found by its output, and rows of it."""

from __future__ import annotations

from mistill.cli.command import negated, option
from mistill.cli.options.param_types import Named

ledger_option = option(
    "--ledger",
    type=Named(),
    group="Run",
    metavar="FILE",
    help="Where the run remembers.  [default: OUT.ledger]",
)
row_id_option = option(
    "--id-column",
    group="Run",
    metavar="COLUMN",
    help="ROW is an id, which this column has.  [default: that of the run, where ROW is no number]",
)
fetch_option = option(
    "--no-fetch",
    "fetch",
    group="Run",
    is_flag=True,
    callback=negated,
    help="Do not look at Mistral whether batch jobs of the run have ended.",
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


def joined_conditions(where: str | None, *, failed: bool = False) -> str | None:
    """``--where``, and ``--failed`` besides; ``None`` where neither is given."""
    terms = [*(["state=failure"] if failed else []), *([where] if where else [])]
    return ",".join(terms) or None
