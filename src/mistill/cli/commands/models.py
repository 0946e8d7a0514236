"""``mistill models``: what an endpoint serves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from mistill.api.models import ModelCard
from mistill.api.prices import Price, Prices, load_prices, retired_note
from mistill.api.tariff import price_at, warn_if_old
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

    Prices are US dollars: for a million tokens, input / output; for 1,000 pages; for a minute of sound.
    """
    refuse_beside_local(ctx, given)
    with served(attributes_of(ctx, given), local=given["local"], say=say) as attributes:
        settings: dict[str, Any] = {"model": _NO_MODEL, **attributes}
        llm = MistralLLM(**settings)
        cards = background.run(llm.amodels())
    cards.sort(key=lambda card: card.id)
    own = None if given["prices"] is None else load_prices(given["prices"])
    priced = [(card, _price(card, llm.endpoint, own)) for card in cards]
    for _, price in priced:
        warn_if_old(price, datetime.now(UTC).date())
    if given["as_json"]:
        click.echo(visible_json(json.dumps([_described(*each) for each in priced], ensure_ascii=False)))
    else:
        _show([_row(*each) for each in priced])
    return Exit.ANSWERED


def _described(card: ModelCard, price: Price | None) -> dict[str, Any]:
    tokens = pages = minute = dated = None
    if price is not None:
        dated = None if price.date is None else price.date.isoformat()
        if price.has_tokens:
            tokens = {"input": price.input, "output": price.output, "cached_input": price.cached_input}
        if price.page:
            pages = {"plain": price.page * 1000, "annotated": price.annotated_page * 1000}
        minute = price.minute or None
    return msgspec.to_builtins(card) | {
        "usd_per_million_tokens": tokens,
        "usd_per_1000_pages": pages,
        "usd_per_minute": minute,
        "prices_of": dated,
    }


def _row(card: ModelCard, price: Price | None) -> tuple[str, str, str, str]:
    context = "" if card.max_context_length is None else f"{card.max_context_length:,}"
    notes = [card.description or "", retired_note(card.id) or ""]
    if card.deprecation:
        successor = card.deprecation_replacement_model
        notes.append(f"deprecated: {card.deprecation}" + (f", then {successor}" if successor else ""))
    return card.id, context, "" if price is None else _cost(price), "; ".join(filter(None, notes))


def _cost(price: Price) -> str:
    parts = [f"{price.input:g} / {price.output:g}"] if price.has_tokens else []
    if price.page:
        annotated = (
            "" if price.annotated_page == price.page else f" ({price.annotated_page * 1000:g} annotated)"
        )
        parts.append(f"{price.page * 1000:g} / 1,000 pages{annotated}")
    if price.minute:
        parts.append(f"{price.minute:g} / min")
    return ", ".join(parts)


def _price(card: ModelCard, endpoint: str, own: Prices | None) -> Price | None:
    names = [card.id, *(card.aliases or ())]
    return next((price for name in names if (price := price_at(endpoint, name, own))), None)


def _show(rows: list[tuple[str, str, str, str]]) -> None:
    if not is_terminal():
        for row in rows:
            click.echo("\t".join(map(visible, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "context", "$", "description", box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    Console().print(table)
