"""``mistill status`` and ``mistill rows``: a run seen from its ledger, while it goes on and after."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import click
import msgspec

from mistill.cli.command import command, option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger import find_ledger, ledger_option, output_of, selection_of, where_option
from mistill.cli.terminal.formatting import count, money
from mistill.cli.terminal.summary import cause_lines
from mistill.ledger import Cause, Counts, LedgerReader
from mistill.runs.export import record_line, shape_of


@command(
    "status",
    examples="""
mistill status answers.jsonl
watch -n 10 mistill status answers.jsonl
mistill status answers.jsonl --json | jq .failures
""",
)
@click.argument("out")
@ledger_option
@option("--json", "as_json", group="Run", is_flag=True, help="Tell it as JSON.")
def status(out: str, ledger: str | None, as_json: bool) -> Exit:
    """How far the run that writes OUT is: rows, tokens, money, and what failed, by cause. Works while it runs.

    Exit code: 0 if no row failed so far, else 1.
    """
    path = find_ledger(out, ledger)
    with LedgerReader(path) as reader:
        counts, causes, model = reader.counts(), reader.failures(), str(reader.plan().get("model"))
    if as_json:
        told = {"ledger": str(path), "model": model} | msgspec.to_builtins(counts)
        told["causes"] = [msgspec.to_builtins(cause) for cause in causes]
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        _tell(output_of(path, out), path, model, counts, causes)
    return Exit.SOME_FAILED if counts.failures else Exit.ANSWERED


def _tell(out: str, path: Path, model: str, counts: Counts, causes: list[Cause]) -> None:
    read = "" if counts.input_was_read_to_its_end else " read so far"
    click.echo(f"{out} by {model}: {count(counts.rows, 'row')}{read}")
    share = counts.completions / counts.rows if counts.rows else 0.0
    click.echo(
        f"{counts.completions:,} answered ({share:.0%}), {counts.failures:,} failed, {counts.pending:,} to go"
    )
    tokens = f"{counts.input_tokens:,} tokens in, {counts.output_tokens:,} out"
    cost = f", {money(counts.cost)}" if counts.cost else ""
    click.echo(f"{tokens}{cost}, {count(counts.attempts, 'attempt')}")
    if counts.maybe_billed:
        click.echo(f"maybe billed: {count(counts.maybe_billed, 'attempt')} cut off before the answer came")
    if counts.no_longer_in_input:
        click.echo(f"no longer in the input, and kept: {count(counts.no_longer_in_input, 'row')}")
    for line in cause_lines([msgspec.to_builtins(cause) for cause in causes]):
        click.echo(line)
    if not Path(out).exists():
        click.echo(
            f"{out} is written when every row has an outcome; until then: mistill rows, or export --partial"
        )
    click.echo(f"ledger: {path}")


@command(
    "rows",
    examples="""
mistill rows answers.jsonl | head
mistill rows answers.jsonl --failed | jq -r .error
mistill rows answers.jsonl --where finish_reason=length --limit 10
""",
)
@click.argument("out")
@option("--failed", group="Run", is_flag=True, help="Failed rows only.")
@where_option
@option("--limit", group="Run", type=click.IntRange(min=0), metavar="N", help="At most so many.")
@ledger_option
def rows(out: str, failed: bool, where: str | None, limit: int | None, ledger: str | None) -> Exit:
    """Records of the run that writes OUT, as JSONL on stdout, in the order of its input. Works while it runs.

    Rows without an outcome yet are left out, unless --where state=pending asks for them.
    """
    selection = selection_of(where, failed=failed)
    wants_pending = where is not None and "pending" in where
    with LedgerReader(find_ledger(out, ledger)) as reader:
        shape = shape_of(reader)
        found = (row for row in reader.rows(selection) if wants_pending or row.state != "pending")
        for row in islice(found, limit):
            sys.stdout.buffer.write(record_line(row, shape) + b"\n")
    sys.stdout.buffer.flush()
    return Exit.ANSWERED
