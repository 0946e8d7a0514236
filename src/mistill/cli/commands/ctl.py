"""``mistill ctl``: pauses, resumes or stops a run that goes on, or changes its settings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from mistill.characters import number_in
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import ledger_option
from mistill.cli.options.param_types import Duration, Named, OneOf
from mistill.cli.terminal.output import Colored, say, show
from mistill.errors import InputError
from mistill.kinds.kept_settings import find_run
from mistill.progress.formatting import age, count
from mistill.runs.steering import SETTINGS, checked_settings
from mistill.steering.client import Control
from mistill.steering.orders import Answer, Order, Standing, shown_value

_ORDERS = ("pause", "resume", "stop", "set")
_NO_LIMIT = "none"


@cli_command(
    "ctl",
    examples="""
mistill ctl answers.jsonl                                       # what can be set, and what it is now
mistill ctl answers.jsonl pause
mistill ctl answers.jsonl resume
mistill ctl answers.jsonl set max_concurrent_requests=16 requests_per_minute=300
mistill ctl answers.jsonl set max_cost=20 deadline=2h max_tokens_total=none
mistill ctl answers.jsonl stop                                  # as one Ctrl-C
""",
)
@click.argument("out", type=Named())
@click.argument("order", required=False, type=OneOf(_ORDERS), metavar="[pause|resume|stop|set]")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
@ledger_option
@option("--json", "as_json", group="Run", is_flag=True, help="What is set now, as JSON.")
def command(
    out: str, order: str | None, settings: tuple[str, ...], ledger: str | None, as_json: bool
) -> Exit:
    """Steers the run that writes OUT while it goes on: in another terminal of this machine, by the same user. It
    obeys at once, and its ledger keeps who did what.

    Without an order: what can be set, and what it is now. A pause lets what is in flight come home; nothing more is
    sent and no batch job is made until `resume`. What is set holds for this start:
    max_concurrent_requests, requests_per_minute, tokens_per_minute, max_cost, max_tokens_total, deadline. The value
    none takes a limit away.

    Exit code: 0; 2 if it was refused, or no run goes on; 3 if its ledger is damaged.
    """
    if settings and order != "set":
        raise click.UsageError(f"only set takes settings, such as {settings[0]}", click.get_current_context())
    _, path = find_run(out, ledger)
    asked = Order("show") if order is None else msgspec.convert({"do": order}, Order)
    if order == "set":
        asked = Order("set", checked_settings(_settings(settings)))
    answer = Control(path).send(asked)
    if as_json:
        assert answer.standing is not None, "no view was asked for"
        click.echo(json.dumps(msgspec.to_builtins(answer.standing)))
    elif order is None:
        _show(out, answer)
    else:
        say(answer.told or _nothing_new(order))
    return Exit.ANSWERED


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in map(_setting, texts):
        if name in found:
            raise InputError(f"{name} is set twice", hint="once, and what it is to be from now on")
        found[name] = value
    return found


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if not equals or not name or not value:
        raise InputError(f"{text!r} is not of the form NAME=VALUE", hint=f"there are {', '.join(SETTINGS)}")
    if value == _NO_LIMIT:
        return name, None
    if name not in SETTINGS:  # which is said first, whatever it is to be
        return name, value
    if name == "deadline":
        return name, Duration().convert(value, None, click.get_current_context())
    try:
        number = number_in(value)
    except ValueError:
        raise InputError(f"{name}: {value!r} is no number", hint=f"{_NO_LIMIT} is no limit") from None
    if not math.isfinite(number):
        raise InputError(f"{name} must be a number, not {value}", hint=f"{_NO_LIMIT} is no limit")
    return name, int(number) if number.is_integer() else number


def _nothing_new(order: str) -> str:
    return {
        "pause": "it is paused already",
        "resume": "it was not paused",
        "stop": "it is stopping already; Ctrl-C in its own terminal cuts off what is in flight",
        "set": "it is set so already",
    }[order]


def _show(out: str, answer: Answer) -> None:
    standing = answer.standing
    assert standing is not None, "no view was asked for"
    show(
        f"{out}: {_state(standing)} (process {standing.process}), {count(standing.in_flight, 'request')} in flight"
    )
    width = max(len(one.name) for one in standing.settings)
    for one in standing.settings:
        told = f"  ({one.told})" if one.told else ""
        show(f"  {one.name:{width}}  {shown_value(one.name, one.value)}{told}")
    show(
        Colored("to change one: ", "cyan"),
        f"mistill ctl {out} set {standing.settings[0].name}=…; or pause, resume, stop",
    )


def _state(standing: Standing) -> str:
    if standing.is_stopping:
        return "stopping"
    return "running" if standing.paused_s is None else f"paused for {age(standing.paused_s)}"
