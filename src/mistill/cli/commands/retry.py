"""``mistill retry``: some rows of a run once more, with other settings."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import (
    failed_option,
    ledger_option,
    where_option,
)
from mistill.cli.options.model_options import (
    all_of,
    as_the_run_has_it,
    attributes_of,
    choose_one,
    connection_options,
    generation_options,
    model_name_option,
    pace_options,
    parameters_of,
    prices_option,
    refuse_beside_local,
    served,
    structured_changes_of,
    structured_options,
    trace_content_option,
)
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import option_of_run, options_given, report_options
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import say
from mistill.cli.terminal.start import start
from mistill.kinds import KINDS
from mistill.kinds.options import LANE_OPTIONS, RETRY_OPTIONS
from mistill.runs.run import Run


def _options(*names: str) -> Any:
    return all_of(*(option_of_run(name, *KINDS.values()) for name in names))


@cli_command(
    "retry",
    examples="""
mistill retry answers.jsonl --failed --model mistral-large-latest
mistill retry answers.jsonl --where finish_reason=length --max-new-tokens 500
mistill retry answers.jsonl --where error=invalid_output --prompt-file better.txt --max-cost 1
mistill retry answers.jsonl --where "state=failure, row<100" --endpoint https://api.mistral.ai
""",
)
@as_the_run_has_it
@click.argument("out", type=Named())
@failed_option
@where_option
@ledger_option
@_options("prompt", "system")
@model_name_option
@connection_options
@prices_option
@trace_content_option
@structured_options
@generation_options
@_options("row_parameters", "extra_columns")
@pace_options
@_options(*LANE_OPTIONS)
@_options("max_cost", "max_tokens_total", "deadline", "pin", "grace")
@report_options
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Asks rows of the run that writes OUT again, by other settings where they are given, and writes OUT anew. --failed
    or --where says which.

    The rows come from the ledger, so the input is not needed. Prompt, model, schema, parameters and pace are as the run
    has them unless given; lane and budget are those of this start. A better outcome replaces an earlier one: no failure
    takes the place of an answer, nor does an answer that was cut off take that of a whole one. What is replaced stays
    in the ledger.

    Exit code: as of run.
    """
    choose_one(ctx, given, "prompt", "prompt_file")
    choose_one(ctx, given, "system", "system_file")
    refuse_beside_local(ctx, given)
    changes = {name: value for name, value in options_given(given).items() if name in RETRY_OPTIONS}
    structured = structured_changes_of(ctx, given)
    attributes = attributes_of(ctx, given)
    key = {name: value for name, value in attributes.items() if name == "api_key"}
    take_over_results(given["out"], given["ledger"], llm=key, trust=given["trust"])
    with served(attributes, local=given["local"], say=say) as attributes:
        run = Run.retry(
            given["out"],
            given["where"],
            failed=given["failed"],
            llm=attributes | ({} if structured is None else {"structured_output": structured}),
            ledger=given["ledger"],
            trust=given["trust"],
            parameters=parameters_of(given),
            **changes,
            on_stop="return",
        )
        return start(run, given)
