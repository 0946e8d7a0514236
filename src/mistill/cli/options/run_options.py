"""The options of a run on the command line, made of `RunOptions`: each field that says how it is written is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from mistill.cli.command import OTHER, negated, option
from mistill.cli.options.model_options import all_of
from mistill.cli.options.param_types import (
    METAVARS,
    Bytes,
    Duration,
    Flatten,
    Named,
    NameList,
    OneOf,
    Pair,
    members_of,
    read_text,
)
from mistill.cli.options.settings_file import settings_option
from mistill.cli.options.wording import shown_value
from mistill.datasets.formats import OUTPUT_FORMATS
from mistill.errors import InputError
from mistill.kinds.kind import Kind
from mistill.kinds.options import OUTPUT_OPTIONS, RunOptions, Written

F = TypeVar("F", bound=Callable[..., Any])

_FROM_FILES = ("prompt", "system")
"""Templates, which may stand in a file: ``--prompt-file``."""

out_option = option(
    "--out",
    "-o",
    type=Named(),
    group="Output",
    metavar="FILE",
    help=f"By suffix: {OUTPUT_FORMATS}; - for stdout. Needed, but for a --dry-run.",
)


def require_out(ctx: click.Context, given: Mapping[str, Any]) -> None:
    """Raises the usage error of a missing option where answers would have no place to go."""
    if given["out"] is None and not given["dry_run"]:
        raise click.MissingParameter(
            ctx=ctx, param=next(one for one in ctx.command.params if one.name == "out")
        )


json_option = option(
    "--json",
    "as_json",
    group=OTHER,
    is_flag=True,
    help="The report as JSON, on stdout (on stderr where stdout has the records).",
)
quiet_option = option("--quiet", "-q", group=OTHER, is_flag=True, help="Say nothing but errors and warnings.")
dry_run_option = option(
    "--dry-run",
    group="Budget",
    is_flag=True,
    in_settings=False,
    help="Send nothing, and need no key: make every row ready, show three prompts, count rows, duplicates, tokens and "
    "cost, and say what would be refused.",
)
report_options = all_of(settings_option, json_option, quiet_option)


def run_options(*kinds: type[Kind[Any]], groups: Iterable[str]) -> Callable[[F], F]:
    """The options in these groups of the help that runs of one of the kinds have."""
    wanted = set(groups)
    made = [
        _option(name, field, written, kinds)
        for name, field in RunOptions.model_fields.items()
        if (written := _written(field)) is not None
        and written.group in wanted
        and any(name not in kind.unused_options for kind in kinds)
    ]
    return all_of(*(one for options in made for one in options))


def option_of_run(name: str, *kinds: type[Kind[Any]]) -> Callable[[F], F]:
    """One option of a run, for a command that has only some of them."""
    field = RunOptions.model_fields[name]
    written = _written(field)
    assert written is not None, name
    return all_of(*_option(name, field, written, kinds))


def _written(field: FieldInfo) -> Written | None:
    return next((one for one in field.metadata if isinstance(one, Written)), None)


def _option(
    name: str, field: FieldInfo, written: Written, kinds: Iterable[type[Kind[Any]]]
) -> list[Callable[[Any], Any]]:
    flag = written.flag or f"--{name.replace('_', '-')}"
    settings = _click_settings(field, written)
    columns = dict.fromkeys(column for kind in kinds for column in kind.row_columns)
    extras = dict.fromkeys(column for kind in kinds for column in kind.extra_columns)
    text = (field.description or "").replace("{columns}", " or ".join(repr(column) for column in columns))
    text = text.replace("{extras}", ", ".join(extras))
    if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
        text += f"  [default: {shown_value(field.default, written)}]"
    if written.either:
        flag = f"{flag}/--no-{flag[2:]}"
    made = [option(flag, name, group=written.group, help=text, in_settings=written.in_settings, **settings)]
    if name in _FROM_FILES:
        made.append(
            option(f"{flag}-file", group=written.group, metavar="FILE", help="The same, from a file.")
        )
    return made


def _click_settings(field: FieldInfo, written: Written) -> dict[str, Any]:
    metavar = {"metavar": written.metavar} if written.metavar else {}
    if written.form == "duration":
        return {"type": Duration()}
    if written.form == "bytes":
        return {"type": Bytes()}
    if written.form == "flattening":
        return {"type": Flatten(), "value_after_equals": "", **metavar}
    (plain,) = members_of(field.annotation)
    origin = get_origin(plain) or plain
    if written.either:
        return {"default": None}
    if origin is bool:
        return {"is_flag": True, "callback": negated} if written.negates else {"is_flag": True}
    if origin is dict:
        return {"multiple": True, "type": Pair(written.metavar or "NAME=VALUE"), **metavar}
    if origin is tuple:
        return {"multiple": True, "type": NameList(written.metavar or "A,B")}
    if origin is Literal:
        return {"type": OneOf(list(get_args(plain)))}
    return {"type": Named() if plain is Path else plain, "metavar": METAVARS[plain]} | metavar


def options_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run among what a command was given, as arguments of `Run`.

    Raises:
        InputError: a name is given twice where each may be given once.
    """
    found: dict[str, Any] = {}
    for name, field in RunOptions.model_fields.items():
        value = given.get(name)
        if name in _FROM_FILES and given.get(f"{name}_file") is not None:
            # The newline with which an editor ends a file is not part of the template.
            value = read_text(given[f"{name}_file"]).removesuffix("\n")
        if value is None or value == ():
            continue
        if (get_origin(field.annotation) or field.annotation) is tuple:
            value = tuple(chain.from_iterable(cast("Iterable[tuple[str, ...]]", value)))
        if (get_origin(field.annotation) or field.annotation) is dict:
            value = _once_each(cast("Iterable[tuple[str, str]]", value), field)
        found[name] = value
    return found


def shape_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command was given of how records look, as arguments of `export_run`."""
    found = {name: value for name, value in options_given(given).items() if name in OUTPUT_OPTIONS}
    if (format_ := found.pop("output_format", None)) is not None:
        found["format"] = format_
    return found


def _once_each(pairs: Iterable[tuple[str, str]], field: FieldInfo) -> dict[str, str]:
    written = _written(field)
    assert written is not None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{written.flag} {written.verb} {name!r} twice")
        found[name] = value
    return found
