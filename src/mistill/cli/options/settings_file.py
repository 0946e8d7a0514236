"""``--settings FILE``: options that one does not want to type. TOML or YAML; the command line goes first."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from mistill.cli.command import OTHER, Option, option
from mistill.cli.options.param_types import Json, TextOrJson, read_text
from mistill.errors import InputError, did_you_mean
from mistill.foreign_text import read_toml, read_yaml


def _load(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is not None:
        ctx.default_map = options_of(read_settings_file(path), ctx.command, path)


settings_option = option(
    "--settings",
    group=OTHER,
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    in_settings=False,
    callback=_load,
    help="TOML or YAML with any of these options by name; the command line goes before it.",
)


def read_settings_file(path: str) -> dict[str, Any]:
    """The table in a TOML or YAML file.

    Raises:
        InputError: it cannot be read, or holds no table.
    """
    text = read_text(path)
    if path.endswith((".yaml", ".yml")):
        return _read_yaml(text, path)
    if not path.endswith(".toml"):
        raise InputError(f"{path}: settings are TOML or YAML", hint="name the file .toml, .yaml or .yml")
    return read_toml(text, path)


def _read_yaml(text: str, path: str) -> dict[str, Any]:
    table = read_yaml(text, path)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise InputError(f"{path} holds no settings", hint="write NAME: VALUE on each line")
    return cast("dict[str, Any]", table)


def options_of(settings: dict[str, Any], command: click.Command, path: str) -> dict[str, Any]:
    """Settings by option names (``max-cost`` or ``max_cost``) → values by the parameters' own names.

    Raises:
        InputError: a name that no option has, or one that is for the command line only.
    """
    known = _names(command)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        name = str(key).replace("_", "-")
        param = known.get(name)
        if param is None:
            raise InputError(f"{path}: there is no option {name!r}", hint=did_you_mean(name, known))
        if isinstance(param, Option) and not param.in_settings:
            raise InputError(
                f"{path}: {name!r} is for the command line only",
                hint="a settings file is used again and again",
            )
        if value is not None:
            values[str(param.name)] = _value(value, param, f"{path}: {name}")
    return values


def _names(command: click.Command) -> dict[str, click.Parameter]:
    """``{"max-cost": …, "no-dedupe": …}``: what options are called, without their dashes."""
    return {
        name.lstrip("-").replace("_", "-"): param
        for param in command.params
        for name in param.opts
        if not name.startswith("-") or name.startswith("--")
    }


def _value(value: Any, param: click.Parameter, where: str) -> Any:
    """The value as the command line would give it, since click checks text and trusts the rest."""
    if isinstance(param.type, Json | TextOrJson):
        return value
    if param.name == "schema" and isinstance(value, dict):
        try:
            return json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:  # a date, say, which TOML and YAML have
            raise InputError(f"{where} has what JSON has not: {error}") from error
    if param.multiple or param.nargs == -1:
        if isinstance(value, dict):
            return [f"{name}={one}" for name, one in cast("dict[str, Any]", value).items()]
        return [str(one) for one in cast("list[Any]", value if isinstance(value, list) else [value])]
    if isinstance(value, list | dict):
        raise InputError(f"{where} takes one value, not a {'list' if isinstance(value, list) else 'table'}")
    return value if isinstance(value, bool) else str(value)
