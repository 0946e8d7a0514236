"""What is printed: lines for a person on stderr, what was asked for on stdout.

What came from elsewhere (an answer, a server's words, a model's name, a row) may hold what a terminal obeys: it is made
visible before it is printed.
"""

from __future__ import annotations

import errno
import io
import sys
import traceback
from typing import Final, NamedTuple, TextIO

import click

from mistill.cli.terminal.standard_streams import drop
from mistill.open_files import MORE, is_shortage, shortage
from mistill.redaction import without_secrets
from mistill.visible import visible


class Colored(NamedTuple):
    """A part of a line in a colour."""

    text: str
    color: str


def say(*parts: str | Colored) -> None:
    """A line for a person, on stderr: stdout is for records. Where stderr takes nothing, the work goes on unsaid."""
    # Something stands in for stderr while a bar is drawn, and prints above it: click would write past it, and takes it
    # for no terminal.
    stderr: TextIO = sys.stderr
    stands_in = None if isinstance(stderr, io.TextIOWrapper) else stderr
    color = None if stands_in is None else _is_terminal(stands_in)
    try:
        click.echo(_line(parts), file=stands_in, err=True, color=color)
    except OSError:
        drop(sys.stderr)


def show(*parts: str | Colored) -> None:
    """A line of what was asked for, on stdout."""
    click.echo(_line(parts))


def say_error(message: str, hint: str | None = None) -> None:
    """One or two lines on stderr."""
    say(Colored("error: ", "red"), message)
    if hint:
        say(Colored("hint: ", "cyan"), hint)


_MAX_NAME: Final = 80
_SHORTER: Final = (
    "give a shorter one: as a rule a name has at most 255 bytes, and that of a ledger is the output's with some more "
    "behind it, unless --ledger names another"
)


def told_of(error: OSError) -> tuple[str, str | None]:
    """What to say of an error of the system's, and what to do. One that names no file is of the one that is not opened
    by name."""
    if is_shortage(error):
        return shortage(), MORE
    if error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        named = name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}…"
        return f"the name of a file is too long: {named}", _SHORTER
    if error.filename:
        return str(error), None
    return f"stdout could not be written: {error.strerror or error}", None


def say_traceback(error: BaseException) -> None:
    """Where an error came from; its words, and those of its causes, may be a server's."""
    say(without_secrets("".join(traceback.format_exception(error)).rstrip("\n")))


def _line(parts: tuple[str | Colored, ...]) -> str:
    return "".join(
        visible(part) if isinstance(part, str) else click.style(visible(part.text), fg=part.color)
        for part in parts
    )


def is_terminal(*, stderr: bool = False) -> bool:
    """Whether somebody looks at stdout, or at stderr. Either may be closed."""
    return _is_terminal(sys.stderr if stderr else sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    """Of what stands in for a stream, it is that stream's to say."""
    stream = getattr(stream, "rich_proxied_file", stream)
    return stream is not None and stream.isatty()
