"""The program ``mistill``: finds the command, loads that one only, and ends with its exit code.

Commands live in modules of their own, imported when they are called, so that ``mistill --help`` costs next to nothing.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click

from mistill._version import __version__
from mistill.cli.exit_codes import Exit


class Lazy(NamedTuple):
    """``home``: ``module:attribute`` of a command; ``about`` its one line in the list of commands."""

    home: str
    about: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def __init__(self, *, lazy: Mapping[str, Lazy], examples: str = "", **settings: Any) -> None:
        super().__init__(**settings)
        self._lazy = lazy
        self._examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name].home.partition(":")
        return getattr(import_module(module), attribute)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._lazy and not name.startswith("-"):
            near = get_close_matches(name, self._lazy, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._lazy)}"
            raise click.UsageError(f"there is no command {name!r}: {meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        if self._examples:
            write_examples(formatter, self._examples)
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.about) for name, lazy in self._lazy.items()])


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Examples as they are: a command that is wrapped cannot be copied."""
    with formatter.section("Examples"):
        for line in examples.strip("\n").split("\n"):
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n" if line else "\n")


program = LazyGroup(
    name="mistill",
    help="A Mistral model over a dataset: as fast as the quota allows, nothing lost, nothing paid twice.",
    examples="""
mistill run prompts.jsonl --out answers.jsonl --model mistral-small-latest \\
    --prompt "Summarise: {{ text }}"
mistill run prompts.csv --out answers.csv --local      # a small model on this machine, no key
mistill status answers.jsonl                           # how far it is, and what failed
""",
    epilog="The key is read from the environment variable MISTRAL_API_KEY. "
    "'mistill COMMAND --help' tells more of a command.",
    lazy={
        "run": Lazy(
            "mistill.cli.commands.run:command",
            "Answer every row of a dataset; the same command again goes on.",
        ),
        "embed": Lazy(
            "mistill.cli.commands.embed:command", "The vector of every row of a dataset, in the same way."
        ),
        "status": Lazy("mistill.cli.commands.status:status", "How far a run is, and what failed, by cause."),
        "rows": Lazy("mistill.cli.commands.status:rows", "Rows of a run as JSONL, while it runs or after."),
        "retry": Lazy(
            "mistill.cli.commands.retry:command", "Ask some rows of a run again, with other parameters."
        ),
        "export": Lazy(
            "mistill.cli.commands.export:command", "A run's answers in another format or schema, for free."
        ),
        "models": Lazy("mistill.cli.commands.models:command", "What the endpoint serves."),
        "chat": Lazy("mistill.cli.commands.chat:command", "Answer one prompt."),
        "simulate": Lazy(
            "mistill.cli.commands.simulate:command",
            "A fake Mistral API on this machine, to rehearse against.",
        ),
        "local": Lazy("mistill.cli.commands.local:group", "The small demo model on this machine."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
click.version_option(__version__, prog_name="mistill", message="%(prog)s %(version)s")(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; its exit code. See `Exit`."""
    try:
        given = None if arguments is None else list(arguments)
        code = program.main(given, prog_name="mistill", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except click.UsageError as error:
        say_error(error.format_message(), _usage_hint(error))
        return Exit.USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return Exit.SOME_FAILED
    except Exception as error:  # a bug: nobody is helped by a page of frames they did not ask for
        if "--debug" in (sys.argv if arguments is None else arguments):
            traceback.print_exc()
        say_error(f"internal error: {type(error).__name__}: {error}", "--debug shows where; please report it")
        return Exit.STOPPED


def say_error(message: str, hint: str | None = None) -> None:
    """One or two lines on stderr."""
    click.echo(click.style("error: ", fg="red") + message, err=True)
    if hint:
        click.echo(click.style("hint: ", fg="cyan") + hint, err=True)


def _usage_hint(error: click.UsageError) -> str | None:
    return f"{error.ctx.command_path} --help" if error.ctx else None


def _drop_stdout() -> None:
    """Whoever read our stdout has left: what is still buffered must not fail again when the interpreter ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is no file of the operating system
        return
