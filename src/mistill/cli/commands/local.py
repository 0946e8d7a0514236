"""``mistill local serve``: the demo model for other programs on this machine."""

from __future__ import annotations

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.program import Group


@cli_command(
    "serve",
    examples="""
mistill local serve --port 8080
MISTILL_LOCAL_API_KEY=secret mistill local serve --port 8080
""",
)
@option("--port", group="Server", type=click.IntRange(0, 65535), default=0, help="[default: 0, a free one]")
@option(
    "--slots",
    group="Server",
    type=click.IntRange(min=1),
    default=8,
    help="Answers at the same time.  [default: 8]",
)
def serve(port: int, slots: int) -> Exit:
    """Serves the demo model (SmolLM2-135M-Instruct, a toy in quality) on 127.0.0.1, in OpenAI's dialect, until Ctrl-C.

    The key is that of MISTILL_LOCAL_API_KEY, or a random one that is told. The first start fetches 98 MB of weights.
    """
    from mistill.local import serve as serve_model

    serve_model(say=click.echo, port=port, slots=slots)
    return Exit.ANSWERED


command = Group(
    name="local",
    help="The small demo model on this machine: no key, no cost, a toy in quality.",
    commands={"serve": serve},
)
