"""How many files and connections this process may have open, and what is said where they are too few."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mistill.errors import InputError

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("mistill")

_LEAST: Final = 48
"""An event loop, a ledger, a server or a few connections, and the modules that are loaded meanwhile. With fewer, what
fails is what comes last, libuv ends the process, or nothing is answered at all."""
_ENOUGH: Final = 4096
MORE: Final = "raise how many there may be (ulimit -n 1024), or take fewer processes and connections"


def raise_limit() -> None:
    """As many as the system allows this user, and no more than are of use: shells and macOS give few at first."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_limit() -> None:
    """
    Raises:
        InputError: so few may be open that no event loop can work.
    """
    limit = _limit()
    if limit is not None and limit < _LEAST:
        raise InputError(
            f"only {limit} files may be open in this process, and it takes {_LEAST} at the least", hint=MORE
        )


def is_shortage(error: object) -> bool:
    """Whether something could not be opened since too many files are open."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def shortage() -> str:
    """What is said of it."""
    limit = _limit()
    return "too many files are open" + ("" if limit is None else f": this process may have {limit}")


def is_short_now() -> bool:
    """Whether nothing more can be opened: some libraries do not say that it is this."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return is_shortage(error)
    return False


def explain_shortages(loop: asyncio.AbstractEventLoop) -> None:
    """A connection that a server of this loop cannot take is said in words; it waits until another one ends."""
    loop.set_exception_handler(_tell)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if is_shortage(context.get("exception")):
        _log.warning("%s: who connects has to wait; %s", shortage(), MORE)
    else:
        loop.default_exception_handler(context)


def _limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
