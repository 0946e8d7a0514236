"""What every command has: help that teaches, options in groups, errors in one or two plain lines."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from mistill.cli.exit_codes import Exit, exit_of_error
from mistill.cli.options.wording import flag_of, on_the_command_line
from mistill.cli.program import write_examples
from mistill.cli.terminal.output import say, say_error, say_traceback, told_of
from mistill.errors import InputError, MistillError
from mistill.wording import Words, worded

F = TypeVar("F", bound=Callable[..., Any])

OTHER = "Other"

_SAME_ELSEWHERE = {"--out": "--to", "--to": "--out"}
"""Where the records go: of a run, and of a command that makes others of what is there."""


class Option(click.Option):
    """An option that knows its group in the help.

    Args:
        in_settings: whether a settings file may have it.
        value_after_equals: it may be given without a value, which is this then; what follows it is never its value.
    """

    def __init__(
        self,
        *args: Any,
        group: str = OTHER,
        in_settings: bool = True,
        value_after_equals: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.group = group
        self.in_settings = in_settings
        self.value_after_equals = value_after_equals

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Python reads the digits of every script as numbers, which people take for others too easily."""
        is_number = isinstance(self.type, click.types.IntParamType | click.types.FloatParamType)
        if is_number and isinstance(value, str) and not value.isascii():
            raise click.BadParameter(
                f"{value!r} is not a number: write it in the digits 0 to 9", ctx=ctx, param=self
            )
        return super().type_cast_value(ctx, value)


class Failure(click.ClickException):
    """An error as the user sees it."""

    def __init__(self, message: str, *, hint: str | None, exit_code: int) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code  # pyright: ignore[reportAttributeAccessIssue]  click reads it from the instance

    def show(self, file: Any = None) -> None:  # noqa: ARG002  click's signature
        say_error(self.message, self.hint)


class Command(click.Command):
    """A command of ours.

    Args:
        asks_one_row: an error may be that of the one row that it asks, see `exit_of_error`.
    """

    def __init__(self, *args: Any, examples: str = "", asks_one_row: bool = False, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._examples = examples
        self._asks_one_row = asks_one_row
        self.params.append(
            Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                in_settings=False,
                callback=_keep_debug,
                help="Show the traceback of an error.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with self._explained_errors(ctx):
            try:
                return super().parse_args(ctx, self._with_values(args))
            except click.NoSuchOption as error:
                # Of several commands, so that one calls --out what another calls --to.
                name = error.option_name
                same = _SAME_ELSEWHERE.get(name)
                if same is None or not any(same in param.opts for param in self.params):
                    raise
                raise click.NoSuchOption(name, possibilities=[same], ctx=ctx) from None

    def _with_values(self, args: list[str]) -> list[str]:
        """The arguments, where an option that may stand alone has its value."""
        alone = {
            name: f"{name}={param.value_after_equals}"
            for param in self.params
            if isinstance(param, Option) and param.value_after_equals is not None
            for name in param.opts
        }
        end = args.index("--") if "--" in args else len(args)
        return [*(alone.get(one, one) for one in args[:end]), *args[end:]]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with self._explained_errors(ctx):
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if error.args and isinstance(error.args[0], Words):
                say(worded(error.args[0], on_the_command_line))
            return Exit.INTERRUPTED

    @contextmanager
    def _explained_errors(self, ctx: click.Context) -> Generator[None]:
        """Errors that the library raises on purpose, and those of the disk, become lines for the user."""
        try:
            yield
        except (MistillError, ValidationError, OSError) as error:
            if isinstance(error.__cause__ or error, BrokenPipeError):
                raise click.exceptions.Exit(Exit.READER_LEFT) from error
            if ctx.meta.get("mistill.debug"):
                say_traceback(error)
            raise failure_of(error, asks_one_row=self._asks_one_row) from error

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        if self._examples:
            write_examples(formatter, self._examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                group = param.group if isinstance(param, Option) else OTHER
                groups.setdefault(group, []).append(record)
        last = groups.pop(OTHER, [])
        for name, records in [*groups.items(), (OTHER, last)]:
            with formatter.section(name):
                formatter.write_dl(records, col_max=32)


def command(
    name: str, *, examples: str = "", asks_one_row: bool = False, **settings: Any
) -> Callable[[Callable[..., Any]], Command]:
    """As ``click.command``. The function returns the exit code. See `Command`."""
    return click.command(name, cls=Command, examples=examples, asks_one_row=asks_one_row, **settings)


def option(*names: str, group: str, **settings: Any) -> Callable[[F], F]:
    """As ``click.option``, in a group of the help."""
    return click.option(*names, cls=Option, group=group, **settings)


def negated(_: click.Context, __: click.Parameter, value: bool) -> bool:
    """Of a flag that makes something false."""
    return not value


def failure_of(error: MistillError | ValidationError | OSError, *, asks_one_row: bool = False) -> Failure:
    """An error of the library, in words for the command line, with the exit code that it means."""
    if isinstance(error, ValidationError):
        return _failure_of_value(error)
    if isinstance(error, OSError):
        message, hint = told_of(error)
        return Failure(message, hint=hint, exit_code=Exit.STOPPED)
    message, hint = worded(error.headline, on_the_command_line), error.hint
    worded_hint = None if hint is None else worded(hint, on_the_command_line)
    return Failure(message, hint=worded_hint, exit_code=exit_of_error(error, asks_one_row=asks_one_row))


def _failure_of_value(error: ValidationError) -> Failure:
    """The first mistake, under the option's name. Its value is not shown, since it may be a key."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return failure_of(cause)
    name = str(first["loc"][0]) if first["loc"] else error.title
    message = f"{flag_of(name)}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return Failure(message, hint=None, exit_code=Exit.USAGE)


def _keep_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["mistill.debug"] = value
