"""The program ``mistill``: finds the command, loads that one only, and ends with its exit code.

A command is a file in ``commands/`` with a ``command`` in it, whose name is the file's. It is imported when it is
called, so that ``mistill --help`` costs next to nothing: what it shows is the first line of each file.
"""

from __future__ import annotations

import ast
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module, resources
from typing import Any

import click

from mistill._version import __version__
from mistill.cli import commands
from mistill.cli.exit_codes import Exit
from mistill.cli.terminal.interrupts import stopped_by_signals
from mistill.cli.terminal.log_lines import logged_lines
from mistill.cli.terminal.output import say_error, say_traceback, told_of
from mistill.cli.terminal.standard_streams import open_closed_streams, settle_streams
from mistill.errors import did_you_mean
from mistill.open_files import raise_limit


class Group(click.Group):
    """A group of commands: without one it shows its help, and a wrong name is answered with the nearest."""

    def __init__(self, *args: Any, examples: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            raise click.UsageError(f"there is no command {name!r}: {did_you_mean(name, known)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._examples:
            write_examples(formatter, self._examples)
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.about(name)) for name in self.list_commands(ctx)])

    def about(self, name: str) -> str:
        """One line on a command."""
        return self.commands[name].get_short_help_str(100)


class Program(Group):
    """The commands in ``commands/``, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        return import_module(f"{commands.__name__}.{cmd_name}").command

    def about(self, name: str) -> str:
        source = resources.files(commands).joinpath(f"{name}.py").read_text("utf-8")
        line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        text = line.partition(": ")[2]
        return text[:1].upper() + text[1:]


def write_examples(formatter: click.HelpFormatter, examples: str) -> None:
    """Examples as they are: a command that is wrapped cannot be copied."""
    with formatter.section("Examples"):
        for line in examples.strip("\n").split("\n"):
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n" if line else "\n")


program = Program(
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
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
click.version_option(__version__, prog_name="mistill", message="%(prog)s %(version)s")(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; its exit code. See `Exit`."""
    open_closed_streams()
    raise_limit()
    try:
        with stopped_by_signals():
            return _run(None if arguments is None else list(arguments))
    except click.UsageError as error:
        say_error(error.format_message(), _usage_hint(error))
        return Exit.USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the latter is click's way to end where it meets the former
        return Exit.READER_LEFT
    except OSError as error:  # all others are explained where they arise
        say_error(*told_of(error))
        return Exit.STOPPED
    except Exception as error:  # a bug: nobody is helped by a page of frames they did not ask for
        if "--debug" in (sys.argv if arguments is None else arguments):
            say_traceback(error)
        say_error(f"internal error: {type(error).__name__}: {error}", "--debug shows where; please report it")
        return Exit.STOPPED
    finally:
        settle_streams()


def _run(arguments: list[str] | None) -> int:
    with logged_lines():
        code = program.main(arguments, prog_name="mistill", standalone_mode=False)
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  None where it is closed
        sys.stdout.flush()
    return int(code or 0)


def _usage_hint(error: click.UsageError) -> str | None:
    return f"{error.ctx.command_path} --help" if error.ctx else None
