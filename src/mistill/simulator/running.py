"""Running the simulator: in a thread of this process, or alone in the foreground."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from mistill.errors import InputError
from mistill.extras import install_command
from mistill.open_files import check_limit
from mistill.signals import stopped_by_signals
from mistill.simulator.faults import Scripted, When
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import Received, Stats

if TYPE_CHECKING:
    # Loaded where they are first used: aiohttp is an extra, and without it the names here can still be imported.
    from mistill.simulator.service import Service
    from mistill.simulator.site import Site

_START_TIMEOUT_S = 30.0
_POLL_S = 0.002


class Simulator:
    """A simulated Mistral API in a thread of this process, for as long as the ``with`` block lasts.

    Listens on 127.0.0.1, on a free port. Every attribute may be read, and every method called, from any
    thread. Changes and scripts hold from the moment when the call returns.

    Raises:
        InputError: the extra ``simulator`` is not installed.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._service = _make_service(settings or Settings())
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._site: Site | None = None
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="mistill-simulator", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT_S):
            raise RuntimeError(f"the simulator did not start within {_START_TIMEOUT_S:g} s")
        if self._failure is not None:
            raise RuntimeError("the simulator could not start") from self._failure
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its thread. Twice is fine.

        Raises:
            RuntimeError: the server had failed meanwhile.
        """
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None
        if self._failure is not None:
            raise RuntimeError("the simulator failed while it ran") from self._failure

    @property
    def url(self) -> str:
        """Its address, without ``/v1``.

        Raises:
            RuntimeError: it is not running.
        """
        if self._site is None:
            raise RuntimeError("the simulator runs inside its `with` block only")
        return f"http://127.0.0.1:{self._site.port}"

    @property
    def settings(self) -> Settings:
        return self._service.settings

    @property
    def requests(self) -> list[Received]:
        """The newest requests, oldest first; at most ``Settings.requests_kept`` of them."""
        return list(self._service.traffic.requests)

    @property
    def in_flight(self) -> int:
        """How many requests have come and are not answered yet."""
        return self._service.traffic.in_flight

    @property
    def peak_in_flight(self) -> int:
        """The most that were ever in flight at once."""
        return self._service.traffic.peak_in_flight

    @property
    def counts_by_status(self) -> Counter[int]:
        """How many requests ended with each status; 0 stands for those that got no whole answer."""
        return Counter(self._service.traffic.counts_by_status)

    @property
    def answered(self) -> int:
        """How many whole answers of the API were sent: with status 200, and no page of HTML."""
        return self._service.traffic.answered

    def stats(self) -> Stats:
        """All its counts at once."""
        return self._service.stats()

    def billed_ids(self) -> Counter[str]:
        """How often the line of each ``custom_id`` was billed, over all batch jobs."""
        return self._service.billed_ids()

    @property
    def script_left(self) -> int:
        """How many scripted items no request has taken yet."""
        return self._service.script.left

    @property
    def outage_is_on(self) -> bool:
        return self._service.outage_is_on

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Block until ``condition`` holds, such as ``lambda: simulator.in_flight == 64``.

        Raises:
            TimeoutError: it did not within ``timeout_s``.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the condition did not come true within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def script(self, items: Iterable[Scripted | str], *, when: When | None = None) -> None:
        """Say what comes next, in order: faults, answers or texts, one for each chat or embedding request, and each
        line of a batch job.

        ``when`` is given the decoded body and says whether the request is meant. It runs in the server's
        thread.
        """
        self._service.script.add(items, when)

    def change(self, **changes: Any) -> Settings:
        """Change these settings from the next request on; the new settings.

        Raises:
            ValueError: as `Settings` does.
        """
        changed = self.settings.changed(changes)
        if self._loop is None or self._site is None:
            self._service.adopt(changed)
        else:
            asyncio.run_coroutine_threadsafe(self._site.adopt(changed), self._loop).result()
        return changed

    def _run(self) -> None:
        from mistill.simulator.site import run_in_new_loop

        try:
            run_in_new_loop(self._main())
        except BaseException as error:  # __enter__ raises it where it can be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        from mistill.simulator.site import Site

        site = Site(self._service, "127.0.0.1", 0)
        await site.open()
        self._loop, self._stop, self._site = asyncio.get_running_loop(), asyncio.Event(), site
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            await site.close()


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8080,
    on_ready: Callable[[str], None] | None = None,
) -> Stats:
    """Serve in the foreground until SIGINT or SIGTERM, then return what was answered.

    ``on_ready`` is called with the URL.

    Raises:
        InputError: the extra ``simulator`` is not installed, or too few files may be open.
        OSError: the port is taken, or the host is not ours.
    """
    service = _make_service(settings)

    from mistill.simulator.site import run_in_new_loop

    run_in_new_loop(_serve(service, host, port, on_ready))
    return service.stats()


def _make_service(settings: Settings) -> Service:
    if find_spec("aiohttp") is None:
        raise InputError("the simulator needs the package aiohttp", hint=install_command("simulator"))
    check_limit()

    from mistill.simulator.service import Service

    return Service(settings)


async def _serve(service: Service, host: str, port: int, on_ready: Callable[[str], None] | None) -> None:
    from mistill.simulator.site import Site

    site = Site(service, host, port)
    await site.open()
    try:
        with stopped_by_signals() as stop:
            if on_ready is not None:
                on_ready(f"http://{f'[{host}]' if ':' in host else host}:{site.port}")
            await stop.wait()
    finally:
        await site.close()
