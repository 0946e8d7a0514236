"""Running the simulator: in a thread of this process, or alone in the foreground."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self

from aiohttp import web

from mistill.simulator.faults import Scripted, When
from mistill.simulator.service import Service
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import Received

_BACKLOG = 1024
_START_TIMEOUT_S = 30.0
_HANDLER_END_S = 0.05
_POLL_S = 0.002


class Site:
    """A service that listens. The port stays ours through an outage of kind ``refuse``."""

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        self._host = host
        self._http = web.Server(service.handle, handler_cancellation=True, access_log=None)
        self._bound = _bind(host, port)
        self._listener: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._turning: asyncio.Task[None] | None = None
        self.port: int = self._bound.getsockname()[1]

    async def open(self) -> None:
        await self._listen()
        await self._begin_outage(self._service.settings)

    async def close(self) -> None:
        self._drop_timers()
        if self._turning is not None:
            await self._turning
        await self._silence()
        self._bound.close()

    async def adopt(self, settings: Settings) -> None:
        """Take over changed settings. An outage that they change begins, or ends, now."""
        before = self._service.settings
        self._service.adopt(settings)
        if _outage_of(settings) != _outage_of(before):
            await self._begin_outage(settings)

    async def _begin_outage(self, settings: Settings) -> None:
        self._drop_timers()
        begins_now = settings.outage is not None and settings.outage_after_s == 0
        await self._turn_outage(on=begins_now)
        if settings.outage is None:
            return
        loop = asyncio.get_running_loop()
        if not begins_now:
            self._timers.append(loop.call_later(settings.outage_after_s, self._turn_later, True))
        if settings.outage_for_s is not None:
            until_s = settings.outage_after_s + settings.outage_for_s
            self._timers.append(loop.call_later(until_s, self._turn_later, False))

    def _turn_later(self, on: bool) -> None:
        self._turning = asyncio.get_running_loop().create_task(self._turn_outage(on=on))

    async def _turn_outage(self, *, on: bool) -> None:
        self._service.outage_is_on = on
        if on and self._service.settings.outage == "refuse":
            await self._silence()
        elif self._listener is None:
            await self._listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._http, sock=self._bound, backlog=_BACKLOG)

    async def _silence(self) -> None:
        """Stop listening and end all connections, but keep the port: bound, not listening, it refuses."""
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        self._bound = _bind(self._host, self.port)
        await self._http.shutdown(_HANDLER_END_S)

    def _drop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


def _outage_of(settings: Settings) -> tuple[str | None, float, float | None]:
    return settings.outage, settings.outage_after_s, settings.outage_for_s


def _bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Simulator:
    """A simulated Mistral API in a thread of this process, for as long as the ``with`` block lasts.

    Listens on 127.0.0.1, on a free port. Every attribute may be read, and every method called, from any
    thread. Changes and scripts hold from the moment when the call returns.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._service = Service(settings or Settings())
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
        """End the server and its thread. Twice is fine."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    @property
    def url(self) -> str:
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
        return self._service.traffic.in_flight

    @property
    def peak_in_flight(self) -> int:
        return self._service.traffic.peak_in_flight

    @property
    def counts_by_status(self) -> Counter[int]:
        """How many requests ended with each status; 0 stands for those that got no whole answer."""
        return Counter(self._service.traffic.counts_by_status)

    @property
    def answered(self) -> int:
        """How many whole answers with status 200 were sent."""
        return self._service.traffic.counts_by_status[200]

    @property
    def script_left(self) -> int:
        """How many scripted items no request has taken yet."""
        return self._service.script.left

    @property
    def outage_is_on(self) -> bool:
        return self._service.outage_is_on

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        """Block until ``condition`` holds, such as ``lambda: simulator.in_flight == 64``.

        Raises ``TimeoutError`` after ``timeout_s``.
        """
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the condition did not come true within {timeout_s:g} s")
            time.sleep(_POLL_S)

    def script(self, items: Iterable[Scripted | str], *, when: When | None = None) -> None:
        """Say what comes next, in order: faults, answers or texts, one for each chat or embedding request.

        ``when`` is given the decoded body and says whether the request is meant. It runs in the server's
        thread.
        """
        self._service.script.add(items, when)

    def clear_script(self) -> None:
        self._service.script.clear()

    def change(self, **changes: Any) -> Settings:
        """Change these settings from the next request on; the new settings. Raises as ``Settings`` does."""
        changed = self.settings.changed(changes)
        if self._loop is None or self._site is None:
            self._service.adopt(changed)
        else:
            asyncio.run_coroutine_threadsafe(self._site.adopt(changed), self._loop).result()
        return changed

    def _run(self) -> None:
        try:
            run_in_new_loop(self._main())
        except BaseException as error:  # __enter__ raises it where it can be seen
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
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
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; then return. ``on_ready`` is told the URL.

    Raises ``OSError`` when the port is taken or the host is not ours.
    """
    run_in_new_loop(_serve(settings, host, port, on_ready))


async def _serve(settings: Settings, host: str, port: int, on_ready: Callable[[str], None] | None) -> None:
    site = Site(Service(settings), host, port)
    await site.open()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if on_ready is not None:
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{site.port}")
    try:
        await stop.wait()
    finally:
        await site.close()


def run_in_new_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run in uvloop where it is installed: it is worth about half of the speed."""
    try:
        import uvloop  # an extra

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
