"""A service at an address: listening, outages, and the event loop underneath."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web

from mistill.open_files import explain_shortages
from mistill.simulator.service import Service
from mistill.simulator.settings import Settings

_BACKLOG = 1024
_HANDLER_END_S = 0.05


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
        await self._service.close()
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
        self._http.pre_shutdown()  # idle connections end at once; without it, after the time that handlers have
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


def run_in_new_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run in uvloop where it is installed: it is worth about half of the speed."""
    try:
        import uvloop  # an extra

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        explain_shortages(runner.get_loop())
        runner.run(main)
