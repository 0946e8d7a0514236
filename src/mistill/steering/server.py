"""Orders come in: the socket of a start that goes on, on mistill's own event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from mistill.errors import InputError, MistillError, unforeseen
from mistill.ledger import ErrorRecord
from mistill.process import OwnProcess
from mistill.steering.address import make_address, sweep
from mistill.steering.orders import MAX_LINE_BYTES, Answer, Order, Steered, decode_order
from mistill.steering.peer import Peer, peer_of, shown_peer
from mistill.wording import Phrase, words

_log = logging.getLogger("mistill")

_IDLE_S = 60.0
"""How long a connection may say nothing."""
_OFTEN_S = 0.05
"""How often one who watches is told at the most."""
_LAST_ANSWER_S = 5.0
"""How long one that is being obeyed as the start ends may take."""
_MAX_CONNECTIONS = 64


class OrderServer:
    """Takes orders of the user whose process this is, and of nobody else.

    Args:
        ledger: of the start. Its lock is held: no other start of it is there.
        steered: obeys.
    """

    def __init__(self, ledger: Path, steered: Steered) -> None:
        self._ledger = ledger
        self._steered = steered
        self._process = OwnProcess()
        self._listening: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._obeying: set[asyncio.Task[None]] = set()
        self._address: Path | None = None
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Orders are taken within the block."""
        await self.open()
        try:
            yield
        finally:
            await self.close()

    async def open(self) -> None:
        """Orders are taken from now on. Where there can be no socket the work goes on without, which the log says."""
        try:
            address = make_address(self._ledger) if hasattr(socket, "AF_UNIX") else None
            if address is None:
                _log.info("no orders are taken: there is no folder of this user's own for a socket")
                return
            sweep(address.parent)
            self._listening = _listen(address)
        except OSError as error:
            _log.info("no orders are taken: no socket can be made: %s", error)
            return
        self._address = address
        self._task = asyncio.create_task(self._accept(self._listening))

    async def close(self) -> None:
        """None is taken any more; those that are being obeyed are answered."""
        if self._listening is None or not self._process.is_this():
            return
        assert self._task is not None, "it listens"
        self._closing.set()
        self._task.cancel()
        if self._obeying:
            await asyncio.wait(self._obeying, timeout=_LAST_ANSWER_S)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(self._task, *self._connections, return_exceptions=True)
        listening, self._listening = self._listening, None
        listening.close()
        # It is still this one's: the ledger's lock is let go of later.
        if self._address is not None:
            self._address.unlink(missing_ok=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # too many open files: it is tried again
                _log.info("an order was not taken: %s", error)
                await asyncio.sleep(1)
                continue
            peer = peer_of(connection)
            if peer is None or peer.user != os.getuid():
                connection.close()
                continue
            if len(self._connections) >= _MAX_CONNECTIONS:
                _refuse(connection)
                continue
            task = asyncio.create_task(self._serve(connection, peer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        connection.setblocking(False)
        try:
            reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_LINE_BYTES)
        except OSError:
            connection.close()
            return
        task = asyncio.current_task()
        assert task is not None
        try:
            while True:
                async with asyncio.timeout(_IDLE_S):
                    line = await reader.readline()
                if not line:
                    return
                self._obeying.add(task)
                async for answer in self._answers(line, peer):
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()
                self._obeying.discard(task)
                if self._closing.is_set():
                    return
        except (OSError, ValueError, TimeoutError):  # it has left, says nothing, or says too much at once
            pass
        finally:
            self._obeying.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answers(self, line: bytes, peer: Peer) -> AsyncGenerator[Answer]:
        try:
            order = _read(line)
        except MistillError as error:
            yield Answer(error=ErrorRecord.of(error))
            return
        if order.do != "view":
            yield await self._obey(order, peer)
            return
        while not self._closing.is_set() and order.every_s is not None:
            yield Answer(view=self._steered.view())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(_OFTEN_S, order.every_s)):
                    await self._closing.wait()
        yield Answer(view=self._steered.view(is_last=self._closing.is_set()))

    async def _obey(self, order: Order, peer: Peer) -> Answer:
        try:
            return await self._steered.obey(order, shown_peer(peer))
        except MistillError as error:
            return Answer(error=ErrorRecord.of(error))
        except Exception as error:
            _log.exception("an order failed; the work goes on")
            return Answer(error=ErrorRecord.of(unforeseen(error)))


def _read(line: bytes) -> Order:
    try:
        return decode_order(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # the last one: it is nested too deep
        raise InputError(
            f"the run does not know this order: {error}",
            hint="give it by the version of mistill that runs it",
        ) from error


def _refuse(connection: socket.socket) -> None:
    """One too many is told so, and has left then."""
    refusal = InputError(
        f"the run is watched or steered by {_MAX_CONNECTIONS} others, which is as many as it answers at once",
        hint=words(
            "end some of them (",
            Phrase("the views of a control", "`mistill status --watch`"),
            "), and order it again",
        ),
    )
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.sendall(msgspec.json.encode(Answer(error=ErrorRecord.of(refusal))) + b"\n")


def _listen(address: Path) -> socket.socket:
    """A socket at the address, in whose place one of a start that was killed may stand."""
    listening = socket.socket(socket.AF_UNIX)
    try:
        address.unlink(missing_ok=True)
        listening.bind(str(address))
        address.chmod(0o600)
        listening.listen()
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening
