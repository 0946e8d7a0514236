"""``mistill retry``: some rows of a run once more, with other parameters."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import (
    find_ledger,
    ledger_option,
    output_of,
    required_where_option,
)
from mistill.cli.options.model_options import (
    attributes_of,
    connection_options,
    generation_options,
    pace_options,
    parameters_of,
    prices_option,
    refuse_beside_local,
    served,
)
from mistill.cli.options.run_options import json_option, option_of_run, quiet_option
from mistill.cli.terminal.output import say
from mistill.cli.terminal.start import start
from mistill.runs.kinds import KINDS
from mistill.runs.run import Run


@cli_command(
    "retry",
    examples="""
mistill retry answers.jsonl --where finish_reason=length --max-new-tokens 500
mistill retry answers.jsonl --where error=invalid_output --temperature 0
mistill retry answers.jsonl --where "state=failure, row<100" --endpoint https://api.mistral.ai
""",
)
@click.argument("out")
@required_where_option
@ledger_option
@connection_options
@prices_option
@generation_options
@pace_options
@option_of_run("grace", *KINDS.values())
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Asks rows of the run that writes OUT again, with generation parameters over the run's own, and writes OUT anew.

    The rows come from the ledger, so the input is not needed. An earlier answer stays until a better one comes, and in
    the ledger for ever. The model and the prompt stay; another of them is another run.
    """
    refuse_beside_local(ctx, given)
    path = find_ledger(given["out"], given["ledger"])
    out = output_of(path, given["out"])
    with served(attributes_of(ctx, given), local=given["local"], say=say) as attributes:
        run = Run.retry(
            out,
            given["where"],
            parameters=parameters_of(given),
            llm=attributes,
            ledger=path,
            grace=given["grace"],
            trust=given["trust"],
        )
        return start(run, given, out=out)
