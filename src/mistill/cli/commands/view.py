"""``mistill view``: a local page to look at runs and their rows, and to mark them."""

from __future__ import annotations

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import ledger_option
from mistill.cli.options.param_types import Named
from mistill.cli.terminal.output import say, show
from mistill.viewer.running import serve

_PAGE = "Page"


@cli_command(
    "view",
    examples="""
mistill view                            # the runs of this folder
mistill view answers.jsonl --annotate   # one run, whose rows may be marked good or bad
mistill view results --port 8090        # from elsewhere: ssh -L 8090:127.0.0.1:8090 HOST
""",
)
@click.argument("path", metavar="[OUT|FOLDER]", default=".", type=Named())
@option(
    "--annotate", group=_PAGE, is_flag=True, help="Rows may be marked, with a note; else nothing is written."
)
@option(
    "--port",
    group=_PAGE,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=0,
    help="Where it listens.  [default: a free one]",
)
@ledger_option
def command(path: str, annotate: bool, port: int, ledger: str | None) -> Exit:
    """A page on this machine to look at runs, their rows, one row with its attempts, and two side by side. Live while
    they go on.

    It listens on 127.0.0.1, and lets in who has the token in the address that it shows. Nothing is sent anywhere.
    """
    serve(path, ledger=ledger, annotate=annotate, port=port, on_ready=_show_address)
    return Exit.ANSWERED


def _show_address(url: str) -> None:
    show(url)
    say("open it in a browser; Ctrl-C ends it")
