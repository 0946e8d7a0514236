"""The life of a guest: it calls the host, or becomes it; and when the host is gone, all over again."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import weakref
from collections.abc import Callable

from mistill.delivery.admission_queue import LOCK
from mistill.delivery.sharing.frames import (
    CHALLENGE,
    HOST_FRAME,
    VERSION,
    WELCOME,
    Challenge,
    FrameProtocol,
    GuestFrame,
    Hello,
    HostFrame,
    NotOurs,
    is_proof,
    new_nonce,
    proof,
)
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.place import TOKEN_VARIABLE, VARIABLE, Place
from mistill.delivery.sharing.thread import SharingThread
from mistill.delivery.tuning import Tuning

_log = logging.getLogger("mistill")
_LOOK_AGAIN_S = 0.02
"""From one try to the next: a new host needs less to be there."""
_CALL_WITHIN_S = 1.0


class HostConnection(FrameProtocol):
    """The connection to a host.

    Args:
        greeted: called when it has shown that it is one. ``hear``: called with what it says from then on.

    Attributes:
        answered: it has shown that it is one; or has not, and the connection is closed.
        ended: the connection is closed.
        process: the host's number.
        heard_s: when it last said anything, by the loop's clock.
        is_useful: it has lent a permit, or said what came of one.
        why_not: in words, why it is no host for this guest, where that is known.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        calling: socket.socket,
        *,
        greeted: Callable[[HostConnection], None],
        hear: Callable[[HostConnection, HostFrame], None],
    ) -> None:
        super().__init__(calling)
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.process = 0
        self.heard_s = loop.time()
        self.is_useful = False
        self.why_not = ""
        self._loop = loop
        self._place = place
        self._name = name
        self._greeted = greeted
        self._hear = hear
        self._nonce = new_nonce()
        self._hosts_nonce: bytes | None = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio calls it
        self.transport = None
        if not self.answered.done():
            if self._hosts_nonce is not None and not self.is_trusted and not self.why_not:
                self.why_not = f"refused the {TOKEN_VARIABLE} of this process"
            self.answered.set_result(False)
        if not self.ended.done():
            self.ended.set_result(None)

    def received(self, frame: bytes) -> None:
        self.heard_s = self._loop.time()
        if self.is_trusted:
            said = HOST_FRAME.decode(frame)
            if not self.answered.done():  # one that says nothing that is understood here is none
                self.answered.set_result(True)
                self._greeted(self)
            self.is_useful |= bool(said.permits or said.refused or said.verdicts)
            self._hear(self, said)
        elif self._hosts_nonce is None:
            self._say_hello(CHALLENGE.decode(frame))
        else:
            welcome = WELCOME.decode(frame)
            if not is_proof(welcome.proof, self._place.token, b"host", *self._said(self._hosts_nonce)):
                self.why_not = f"does not know the {TOKEN_VARIABLE} of this process"
                raise NotOurs
            self.process = welcome.process
            self.is_trusted = True

    def _say_hello(self, challenge: Challenge) -> None:
        if challenge.version != VERSION:
            self.why_not = "is of another version of mistill"
            raise NotOurs
        self._hosts_nonce = challenge.nonce
        proven = proof(self._place.token, b"guest", *self._said(challenge.nonce))
        self.send(Hello(VERSION, self._name, self._nonce, proven))

    def _said(self, nonce: bytes) -> tuple[bytes, ...]:
        return nonce, self._nonce, self._name.encode()


class Membership:
    """Keeps a guest in touch with a host, until it is the host itself or nobody needs it any more.

    Args:
        take_over: makes the guest the host if the place is free; called with the lock held. True if it is.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        guest: GuestGovernor,
        thread: SharingThread,
        tuning: Tuning,
        *,
        take_over: Callable[[GuestGovernor], bool],
    ) -> None:
        self._place = place
        self._name = name
        self._guest = weakref.ref(guest)
        self._thread = thread
        self._tuning = tuning
        self._take_over = take_over
        self._is_ended = False
        self._link: HostConnection | None = None
        self._is_alone = False
        self._why_not = ""
        weakref.finalize(guest, self.end).atexit = False
        thread.begin(self._live)

    def end(self) -> None:
        """From any thread: it is nobody's guest any more."""
        self._is_ended = True
        self._thread.call(self.hang_up)

    def hang_up(self) -> None:
        """On the thread."""
        if self._link is not None:
            self._link.abort()

    async def _live(self) -> None:
        try:
            await self._keep_in_touch()
        except Exception:  # no work stops for what nobody foresaw here
            _log.warning("the governor is not shared any more, by an error of mistill's", exc_info=True)
            if (guest := self._guest()) is not None:
                guest.take_charge()

    async def _keep_in_touch(self) -> None:
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        while not self._is_ended:
            if self._becomes_host():
                return
            patience_s = self._tuning.come_back_s if self._is_alone else self._left_s(heard_s)
            link = await self._call(min(_CALL_WITHIN_S, max(_LOOK_AGAIN_S, patience_s)))
            if link is not None:
                began_s = loop.time()
                await self._stay(link)
                # A host that is silent has used up the patience; one that has ended has not, unless it has done
                # nothing else.
                if link.transport is not None:
                    heard_s = link.heard_s
                elif self._was_of_use(link, loop.time() - began_s):
                    heard_s = loop.time()
                self._leave(link)
            if not self._is_alone and self._left_s(heard_s) <= 0:
                self._go_alone(loop.time() - heard_s)
            await asyncio.sleep(self._pause_s())

    def _was_of_use(self, link: HostConnection, lasted_s: float) -> bool:
        guest = self._guest()
        is_waiting = guest is not None and guest.is_waiting
        return link.is_useful or not is_waiting or lasted_s > self._tuning.out_of_reach_s

    def _left_s(self, heard_s: float) -> float:
        return heard_s + self._tuning.out_of_reach_s - asyncio.get_running_loop().time()

    def _pause_s(self) -> float:
        longest_s = self._tuning.come_back_s if self._is_alone else _LOOK_AGAIN_S
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, protects nothing

    def _becomes_host(self) -> bool:
        with LOCK:
            guest = self._guest()
            if guest is None:
                self._is_ended = True
            return not self._is_ended and guest is not None and self._take_over(guest)

    async def _call(self, within_s: float) -> HostConnection | None:
        """A connection to a host that has shown that it is one."""
        loop = asyncio.get_running_loop()
        try:
            with LOCK:  # so that no fork falls between
                calling, address = self._place.caller()
                self._thread.sockets.add(calling)
        except OSError:  # too many open files, most likely
            return None
        link = HostConnection(self._place, self._name, calling, greeted=self._greeted, hear=self._hear)
        try:
            async with asyncio.timeout(within_s):
                await loop.sock_connect(calling, address)
                await loop.create_connection(lambda: link, sock=calling)
                if await link.answered:
                    return link
        except (OSError, TimeoutError):
            pass
        except BaseException:  # the process ends
            self._leave(link)
            calling.close()
            raise
        self._why_not = link.why_not
        self._leave(link)
        calling.close()
        return None

    async def _stay(self, link: HostConnection) -> None:
        """As the guest of a host, until it ends or falls silent."""
        while not self._is_ended and not link.ended.done():
            await asyncio.wait([link.ended], timeout=self._tuning.out_of_reach_s / 4)
            if not self._is_heard(link):
                break

    def _greeted(self, link: HostConnection) -> None:
        if (guest := self._guest()) is None or self._is_ended:
            link.abort()
            return
        self._link = link
        if self._is_alone:
            self._is_alone = False
            _log.info("the governor that this quota is shared by (process %d) answers again", link.process)
        guest.link(link)

    def _leave(self, link: HostConnection) -> None:
        link.abort()
        self._link = None
        self._thread.sockets.discard(link.socket)
        if (guest := self._guest()) is not None:
            guest.unlink(link)

    def _is_heard(self, link: HostConnection) -> bool:
        """False: a word is awaited, and has been for too long."""
        guest, now_s = self._guest(), asyncio.get_running_loop().time()
        if guest is None:
            return False
        if guest.is_busy and now_s - link.said_s > self._tuning.silent_for_s / 4:
            link.send(GuestFrame())
        if not guest.is_waiting:
            link.heard_s = now_s
        return now_s - link.heard_s < self._tuning.out_of_reach_s

    def _hear(self, link: HostConnection, frame: HostFrame) -> None:
        if (guest := self._guest()) is not None:
            guest.hear(link, frame)

    def _go_alone(self, waited_s: float) -> None:
        if (guest := self._guest()) is None:
            return
        self._is_alone = True
        shares = guest.go_alone(waited_s)
        share = f"a share of 1 in {shares} of what is known of it" if shares else "what it finds out of it"
        mended = "comes back when it does"
        if self._why_not:
            mended = "is let in once both have the same token, and the same version of mistill"
        elif self._place.is_for_all:
            mended += f". Is {VARIABLE} right, can it be reached from here, and is it no other program's?"
        _log.warning(
            "the governor that this quota is shared by (%s) %s: it goes on alone, with %s, and %s",
            self._place.key,
            self._why_not or "does not answer this process",
            share,
            mended,
        )
