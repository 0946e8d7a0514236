"""``mistill mark``: what somebody who looked at a row found, kept beside it."""

from __future__ import annotations

from typing import Literal

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import ledger_option, row_id_option
from mistill.cli.options.param_types import Named, OneOf, RowName
from mistill.cli.terminal.output import say
from mistill.runs.results import RunResults


@cli_command(
    "mark",
    examples="""
mistill mark answers.jsonl 17 bad --note "another language than asked"
mistill retry answers.jsonl --where mark=bad --model mistral-large-latest
mistill export answers.jsonl --to looked_at.csv --where mark=good --extra-column mark,note
mistill mark answers.jsonl mail-17 good --id-column id
mistill mark answers.jsonl 17 none
""",
)
@click.argument("out", type=Named())
@click.argument("row", type=RowName())
@click.argument("mark", type=OneOf(["good", "bad", "none"]))
@option("--note", group="Run", metavar="TEXT", help="And what there is to say of it.")
@row_id_option
@ledger_option
def command(
    out: str,
    row: int | str,
    mark: Literal["good", "bad", "none"],
    note: str | None,
    id_column: str | None,
    ledger: str | None,
) -> Exit:
    """Says of the outcome of a ROW, a number from 0 or an id, that it is good or bad. It is kept in the ledger, while
    the run goes on too.

    'mistill view OUT --annotate' does the same where one looks. An outcome that takes the place of this one, by a
    retry, has no mark.
    """
    results = RunResults.open(out, ledger=ledger)
    position = results.mark(row, None if mark == "none" else mark, note, id_column=id_column)
    say(
        f"row {position} of {out}: "
        + ("no mark" if mark == "none" else mark)
        + ("" if note is None else f", {note}")
    )
    return Exit.ANSWERED
