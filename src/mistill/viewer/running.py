"""Running the viewer: in a thread of this process, for a notebook, or alone in the foreground."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mistill.errors import InputError
from mistill.extras import install_command
from mistill.open_files import check_limit, explain_shortages
from mistill.signals import stopped_by_signals
from mistill.viewer.access import Access
from mistill.viewer.catalogue import Catalogue
from mistill.wording import Setting, words

if TYPE_CHECKING:
    import socket

    from aiohttp import web

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 30.0
_CLOSE_S = 1.0
_MAX_LINE_BYTES = 2**16
"""Of an address, which has conditions in it that may be long."""

_log = logging.getLogger("mistill")


class Viewer:
    """A page over ledgers, at `url` on this machine alone, until ``close`` or the end of a ``with`` block.

    Attributes:
        url: the page's address, with the token that lets a browser in. Whoever has it may look.
    """

    def __init__(self, catalogue: Catalogue, port: int, *, annotate: bool) -> None:
        self._place = _Place(catalogue, port, annotate=annotate)
        self.url = self._place.url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="mistill-viewer", daemon=True
        )
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise RuntimeError(f"the viewer did not start within {_START_TIMEOUT_S:g} s")
        if self._failure is not None:
            raise RuntimeError("the viewer could not start") from self._failure

    def close(self) -> None:
        """Ends it. Twice is fine."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Viewer at {self.url}>"  # as a terminal and a notebook make a link of it

    def _repr_html_(self) -> str:
        url = escape(self.url, quote=True)
        return f'<a href="{url}" target="_blank" rel="noreferrer">{url.partition("?")[0]}</a>'

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # the constructor raises it where it can be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        explain_shortages(self._loop)
        async with self._place:
            self._ready.set()
            await self._stop.wait()


def view(
    path: str | Path = ".", *, ledger: str | Path | None = None, annotate: bool = False, port: int = 0
) -> Viewer:
    """A local page to look at runs: their rows, each with its prompt, attempts and answers, and two side by side. It is
    live while a run goes on.

    ``viewer = mistill.view("answers.jsonl")``, then open ``viewer.url``; ``viewer.close()`` ends it. It listens on
    127.0.0.1, and answers who has the token in that address.

    Args:
        path: the output of a run, its ledger, or a folder with some.
        ledger: where the run remembers, if not beside its output.
        annotate: rows may be marked good or bad there, with a note; else nothing is written.
        port: where it listens; 0 takes a free one.

    Raises:
        InputError: there is no such run or folder, the port is taken, or the extra ``view`` is not installed.
    """
    _check_can_serve()
    return Viewer(Catalogue(path, ledger), port, annotate=annotate)


def serve(
    path: str | Path,
    *,
    ledger: str | Path | None,
    annotate: bool,
    port: int,
    on_ready: Callable[[str], None],
) -> None:
    """The same in the foreground, until SIGINT or SIGTERM. ``on_ready`` is called with the page's address.

    Raises:
        InputError: as `view`.
    """
    _check_can_serve()
    asyncio.run(_serve(_Place(Catalogue(path, ledger), port, annotate=annotate), on_ready))


async def _serve(place: _Place, on_ready: Callable[[str], None]) -> None:
    explain_shortages(asyncio.get_running_loop())
    async with place:
        with stopped_by_signals() as stop:
            on_ready(place.url)
            await stop.wait()


def _check_can_serve() -> None:
    if find_spec("aiohttp") is None:
        raise InputError("the viewer needs the package aiohttp", hint=install_command("view"))
    check_limit()


class _Place:
    """An address that is ours, and what answers there."""

    def __init__(self, catalogue: Catalogue, port: int, *, annotate: bool) -> None:
        self._catalogue = catalogue
        self._annotate = annotate
        self._bound = _bind(port)
        bound_port = self._bound.getsockname()[1]
        self._access = Access(bound_port)
        self.url = f"http://{_HOST}:{bound_port}/?token={self._access.token}"
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> None:
        from aiohttp import web

        from mistill.viewer.service import Service

        try:
            app = Service(self._catalogue, self._access, annotate=self._annotate).app()
            self._runner = web.AppRunner(
                app,
                access_log=None,
                logger=_server_log(),
                max_line_size=_MAX_LINE_BYTES,
                shutdown_timeout=_CLOSE_S,
            )
            await self._runner.setup()
            await web.SockSite(self._runner, self._bound).start()
        except BaseException:
            await self._close()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._bound.close()


def _server_log() -> logging.Logger:
    """Of what goes wrong in the server itself: that somebody asks what is no HTTP is answered, and no news."""
    from aiohttp.http_exceptions import HttpProcessingError

    def is_news(record: logging.LogRecord) -> bool:
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)

    log = logging.Logger("mistill.viewer")
    log.parent = _log
    log.addFilter(is_news)
    return log


def _bind(port: int) -> socket.socket:
    import socket

    bound = socket.socket(socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((_HOST, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise InputError(
            words(
                Setting("port"),
                f": cannot listen at {_HOST}, port {port}: {getattr(error, 'strerror', None) or error}",
            ),
            hint="0 takes a free one",
        ) from error
    return bound
