"""``mistill models``: what an endpoint serves."""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from mistill.api.models import ModelCard
from mistill.api.prices import Price, Prices, load_prices, price_of
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.model_options import (
    attributes_of,
    connection_options,
    prices_option,
    refuse_beside_local,
    served,
)
from mistill.cli.terminal.output import is_terminal, say
from mistill.llms import MistralLLM
from mistill.llms.event_loop import background
from mistill.visible import visible, visible_json

_NO_MODEL = "-"  # listing models needs the connection of an LLM, and none of its models


@cli_command(
    "models",
    examples="""
mistill models
mistill models --endpoint http://127.0.0.1:8080 --json | jq -r .[].id
""",
)
@connection_options
@prices_option
@option("--timeout", group="Model", type=float, metavar="SECONDS", help="For the request.  [default: 120]")
@option("--json", "as_json", group="Other", is_flag=True, help="All that the endpoint tells, as JSON.")
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """The models that the endpoint serves: name, context length, price where it is known, description.

    Prices are US dollars per million tokens, input and output.
    """
    refuse_beside_local(ctx, given)
    with served(attributes_of(ctx, given), local=given["local"], say=say) as attributes:
        settings: dict[str, Any] = {"model": _NO_MODEL, **attributes}
        cards = background.run(MistralLLM(**settings).amodels())
    cards.sort(key=lambda card: card.id)
    prices = None if given["prices"] is None else load_prices(given["prices"])
    if given["as_json"]:
        click.echo(visible_json(json.dumps([_described(card, prices) for card in cards], ensure_ascii=False)))
    else:
        _show([_row(card, prices) for card in cards])
    return Exit.ANSWERED


def _described(card: ModelCard, prices: Prices | None) -> dict[str, Any]:
    price = _price(card, prices)
    per_million = None if price is None else {"input": price.input, "output": price.output}
    return msgspec.to_builtins(card) | {"usd_per_million_tokens": per_million}


def _row(card: ModelCard, prices: Prices | None) -> tuple[str, str, str, str]:
    price = _price(card, prices)
    context = "" if card.max_context_length is None else f"{card.max_context_length:,}"
    notes = [card.description or "", f"deprecated: {card.deprecation}" if card.deprecation else ""]
    cost = "" if price is None else f"{price.input:g} / {price.output:g}"
    return card.id, context, cost, "; ".join(filter(None, notes))


def _price(card: ModelCard, prices: Prices | None) -> Price | None:
    names = [card.id, *(card.aliases or ())]
    return next((price for name in names if (price := price_of(name, prices))), None)


def _show(rows: list[tuple[str, str, str, str]]) -> None:
    if not is_terminal():
        for row in rows:
            click.echo("\t".join(map(visible, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "context", "$ in / out", "description", box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console().print(table)
