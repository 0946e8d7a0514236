"""What the library, and the libraries under it, log: on stderr, visible, and each line once."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress

from mistill.cli.terminal.output import say
from mistill.redaction import shown_words
from mistill.wording import Words, worded


@contextmanager
def logged_lines() -> Generator[None]:
    """Shows the warnings that are logged within the block. What is wrong with a thousand rows is told once."""
    # The root's, since Python shows no logger's filter the records of the loggers below it.
    root, handler = logging.getLogger(), _OnceEach(logging.WARNING)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _OnceEach(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Words):
            from mistill.cli.options.wording import (
                on_the_command_line,
            )  # loads what the program's help need not

            record.msg = worded(record.msg, on_the_command_line)
        line = _without_secrets(self.format(record))
        if line not in self._seen:
            self._seen.add(line)
            with suppress(OSError):  # a stderr that takes nothing must not fail whoever warns
                say(line)


def _without_secrets(line: str) -> str:
    """What a library says, who knows of addresses more than is shown of them."""
    told = shown_words(line)
    return (
        line
        if told == " ".join(line.split())
        else told or "a library warns of what cannot be shown: it has a secret in it"
    )
