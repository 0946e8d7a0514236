"""``mistill simulate``: a fake Mistral API on this machine, to rehearse against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from mistill.characters import number_in
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.param_types import OneOf, Pair
from mistill.cli.terminal.output import say, show
from mistill.errors import InputError, did_you_mean
from mistill.progress.formatting import count, tokens_in
from mistill.simulator import STATS_PATH, FaultName, Settings, Stats, serve
from mistill.simulator.batch_settings import BatchFaults, BatchSettings

F = TypeVar("F", bound=Callable[..., Any])

_GROUPS = {
    "Latency": ("latency_s", "latency_distribution", "latency_spread", "token_time_s"),
    "Quota": (
        "requests_per_minute",
        "tokens_per_minute",
        "quota_window_s",
        "quota_headers",
        "quota_counts_refusals",
        "retry_after",
        "max_in_flight",
    ),
    "Answers": (
        "any_model",
        "max_context_tokens",
        "answer_tokens",
        "audio_seconds",
        "service_tier",
        "arguments_form",
        "unauthorized_form",
        "validation_form",
        "embedding_dimension",
        "embedding_batch_tokens",
        "embedding_batch_texts",
    ),
    "Cache of prompts": (
        "cache_tokens",
        "cache_for_s",
        "cache_hits",
        "cache_hits_without_key",
        "cached_share",
        "cached_place",
        "cache_key_refused",
    ),
    "Faults": ("outage", "outage_after_s", "outage_for_s", "poison"),
    "Batch jobs": tuple(BatchSettings.model_fields),
    "Faults of batch jobs": tuple(BatchFaults.model_fields),
}
_FAULTS: tuple[str, ...] = get_args(FaultName)
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def _scalar_of(annotation: Any) -> Any:
    """``Annotated[float, …] | None`` → ``float``; ``None`` where it is no scalar."""
    if get_origin(annotation) is Annotated:
        return _scalar_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if len(kinds) == 1 and NoneType in get_args(annotation):
        return _scalar_of(kinds[0])
    return annotation if annotation in (bool, int, float, str) else None


def _setting_options(function: F) -> F:
    """An option for each setting that is one word or number, in the order of the groups."""
    order = ["Server", *_GROUPS]
    fields = sorted(Settings.model_fields.items(), key=lambda item: order.index(_group_of(item[0])))
    for name, field in reversed(fields):
        scalar = _scalar_of(field.annotation)
        if scalar is not None:
            function = _setting_option(name, field, scalar)(function)
    return function


def _group_of(name: str) -> str:
    return next((group for group, names in _GROUPS.items() if name in names), "Server")


def _setting_option(name: str, field: FieldInfo, scalar: Any) -> Callable[[F], F]:
    settings: dict[str, Any] = {"group": _group_of(name), "help": _help(field)}
    if scalar is bool:
        settings |= {"is_flag": True, "default": None}
    elif get_origin(scalar) is Literal:
        settings |= {"type": OneOf(get_args(scalar))}
    else:
        settings |= {"type": scalar, "metavar": _METAVARS[scalar]}
    return option(f"--{name.replace('_', '-')}", **settings)


def _help(field: FieldInfo) -> str:
    description = " ".join((field.description or "").replace("``", "").split())
    return description if field.default in (None, False) else f"{description}  [default: {field.default}]"


@cli_command(
    "simulate",
    examples="""
mistill simulate --port 8080 --latency-s 0.2
mistill simulate --requests-per-minute 600 --fault 503=0.05 --fault disconnect=0.01
mistill simulate --batch-hour-s 5 --batch-line-s 0.01 --batch-missing 0.02     # jobs, with an hour in five seconds
mistill run prompts.jsonl --out trial.jsonl --model mistral-small-latest \\
    --endpoint http://127.0.0.1:8080 --prompt "Summarise: {{ text }}"      # in another terminal
""",
)
@option(
    "--port",
    group="Server",
    type=click.IntRange(0, 65535),
    default=8080,
    help="0 takes a free one.  [default: 8080]",
)
@option(
    "--host",
    group="Server",
    default="127.0.0.1",
    metavar="HOST",
    help="Address to listen at.  [default: 127.0.0.1]",
)
@option(
    "--fault",
    group="Faults",
    multiple=True,
    type=Pair("NAME=RATE", number_in),
    metavar="NAME=RATE",
    help=f"Share of requests that meet it, such as 503=0.1. Repeatable. Faults: {', '.join(_FAULTS)}.",
)
@option(
    "--answered-by",
    group="Answers",
    multiple=True,
    type=Pair("NAME=MODEL", str),
    metavar="NAME=MODEL",
    help="Another model answers for a name, such as mistral-small-latest=mistral-small-2603. Repeatable.",
)
@_setting_options
def command(
    port: int,
    host: str,
    fault: tuple[tuple[str, float], ...],
    answered_by: tuple[tuple[str, str], ...],
    **settings: Any,
) -> Exit:
    """A fake Mistral API with the latency, quotas and faults that you choose, to rehearse runs for free.

    Its answers follow rules; no model is behind them. docs/simulator.md says which.
    """
    for name, _ in fault:
        if name not in _FAULTS:
            raise InputError(f"--fault: there is no fault {name!r}", hint=did_you_mean(name, _FAULTS))
    given = {name: value for name, value in settings.items() if value is not None}
    settled = Settings(**given, faults=dict(fault), answered_by=dict(answered_by))  # pyright: ignore[reportArgumentType]  pydantic checks the names
    try:
        stats = serve(settled, host, port, on_ready=_show_address)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="is another simulator running? --port 0 takes a free one",
        ) from error
    for line in _stats_lines(stats):
        say(line)
    return Exit.ANSWERED


def _show_address(url: str) -> None:
    show(f"simulating Mistral's API at {url}")
    say(f"point a run at it:  MISTRAL_API_KEY=any mistill run … --endpoint {url}")
    say(f"what it has answered so far:  {url}{STATS_PATH}")
    say("Ctrl-C ends it")


def _stats_lines(stats: Stats) -> Iterator[str]:
    yield f"{count(stats.requests, 'request')}, at most {stats.peak_in_flight:,} at once"
    read = tokens_in(stats.input_tokens, stats.cached_tokens)
    yield f"{count(stats.answered, 'answer')}: {read}, {stats.output_tokens:,} out"
    if batch := stats.batch.jobs:
        jobs = count(sum(batch.values()), "batch job")
        yield f"{jobs}: " + ", ".join(f"{number:,} {state}" for state, number in batch.items())
        yield (
            f"{count(stats.batch.lines_billed, 'line')} billed at half the price: "
            f"{tokens_in(stats.batch.input_tokens, stats.batch.cached_tokens)}, {stats.batch.output_tokens:,} out"
        )
    if stats.batch.files:
        yield f"{count(stats.batch.files, 'file')} never deleted"
    if stats.pages:
        yield f"{count(stats.pages, 'page')} of HTML"
    for status, number in stats.counts_by_status.items():
        if status == "0":
            yield f"{number:,} cut or dropped"
        elif status != "200":
            yield f"{number:,} refused with {status}"
