"""The options that say which columns of ours a record has, and what they are called."""

from __future__ import annotations

import click

from mistill.cli.command import option
from mistill.cli.values import Pair
from mistill.runs.answers import ChatReader

column_option = option(
    "--column",
    group="Output",
    multiple=True,
    type=Pair("OURS=NAME"),
    metavar="OURS=NAME",
    help="Rename a column of ours, such as generation=answer. Repeatable.",
)

extra_column_option = option(
    "--extra-column",
    group="Output",
    multiple=True,
    type=click.Choice(ChatReader.extra_columns),
    help="A further column. Repeatable.",
)
