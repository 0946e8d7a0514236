"""``mistill push``: the records of a run as a dataset at the Hugging Face Hub."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import fetch_option, ledger_option, where_option
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import option_of_run, shape_given
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import say
from mistill.kinds import KINDS
from mistill.runs.hub import push_run

_DATASET = "Dataset"


@cli_command(
    "push",
    examples="""
mistill push answers.jsonl me/answers --private
mistill push answers.jsonl me/answers --where "score>=4" --split best
""",
)
@click.argument("out", type=Named())
@click.argument("repo")
@option(
    "--split", group=_DATASET, metavar="NAME", default="train", help="The part of the dataset that it is."
)
@option("--private", group=_DATASET, is_flag=True, help="A repository that is made is private.")
@option("--revision", group=_DATASET, metavar="BRANCH", help="A branch other than main, which must be there.")
@option(
    "--overwrite",
    group=_DATASET,
    is_flag=True,
    help="Replace what another run, or somebody else, has put there: the card, and the data of that split. "
    "Other splits stay.",
)
@option(
    "--partial",
    group="Run",
    is_flag=True,
    help="Leave rows out that have no outcome yet, instead of refusing.",
)
@option_of_run("extra_columns", *KINDS.values())
@where_option
@ledger_option
@fetch_option
def command(
    out: str,
    repo: str,
    private: bool,
    fetch: bool,
    ledger: str | None,
    extra_columns: tuple[str, ...],
    **given: Any,
) -> Exit:
    """Pushes the records of the run that writes OUT to REPO (organisation/name) at the Hugging Face Hub.

    Parquet, and a card that says what was asked and how it went, in one commit. The token is that of HF_TOKEN or of
    hf auth login. A repository that holds another dataset is refused.
    """
    if fetch:
        take_over_results(out, ledger)
    try:
        columns = shape_given({"extra_columns": extra_columns})
        say(push_run(out, repo, ledger=ledger, private=private or None, **columns, **given))
    except KeyboardInterrupt:
        say(f"stopped: see at the Hub whether {repo} has the rows; pushing them again does no harm")
        raise
    return Exit.ANSWERED
