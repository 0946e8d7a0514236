"""The options that say which columns of ours a record has, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mistill.cli.command import option
from mistill.cli.options.param_types import Pair
from mistill.runs.answers import AnswerReader

F = TypeVar("F", bound=Callable[..., Any])

column_option = option(
    "--column",
    group="Output",
    multiple=True,
    type=Pair("OURS=NAME"),
    metavar="OURS=NAME",
    help="Rename a column of ours, such as generation=answer or embedding=vector. Repeatable.",
)


def extra_column_option(*readers: type[AnswerReader]) -> Callable[[F], F]:
    """The option, for records whose answers one of these reads."""
    columns = dict.fromkeys(column for reader in readers for column in reader.extra_columns)
    return option(
        "--extra-column",
        group="Output",
        multiple=True,
        type=click.Choice(list(columns)),
        help="A further column. Repeatable.",
    )
