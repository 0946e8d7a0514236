"""The host's end: governors of this process, which others ask too."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress

from mistill.delivery.admission_queue import LOCK, ConcurrencyLimit, Permit, Waiter
from mistill.delivery.governor import Governor
from mistill.delivery.sharing.counts_file import CountsFile
from mistill.delivery.sharing.far_purse import GuestMembers, PurseWishes
from mistill.delivery.sharing.frames import (
    GUEST_FRAME,
    HELLO,
    VERSION,
    Challenge,
    ErrorParts,
    Failed,
    FrameProtocol,
    GuestFrame,
    Hello,
    HostFrame,
    NotOurs,
    Standing,
    Verdict,
    Welcome,
    are_sane,
    is_proof,
    new_nonce,
    proof,
    slices,
)
from mistill.delivery.sharing.place import Place, Seat
from mistill.delivery.sharing.thread import SharingThread
from mistill.delivery.tuning import Tuning
from mistill.errors import NothingAnswers

_log = logging.getLogger("mistill")
_GREETED_WITHIN_S = 5.0
_MAX_STRANGERS = 256
_MAX_OPEN_IDS = 1_000_000
_ACCEPT_AGAIN_S = 1.0


class HostedGovernor:
    """A governor that this process has for others too.

    It is held as long as there are guests; without any, as long as this process itself has a use for it.

    Args:
        forgotten: called, from any thread, when nobody holds it any more.
    """

    def __init__(
        self, name: str, governor: Governor, counts: CountsFile, forgotten: Callable[[], None]
    ) -> None:
        self.name = name
        self.guests: set[GuestConnection] = set()
        self._governor = weakref.ref(governor)
        self._held: Governor | None = None
        self._counts = counts
        self._counted = (governor.has_sent, governor.is_reached)
        self._is_over = False  # the file is another host's
        weakref.finalize(governor, forgotten).atexit = False

    @property
    def governor(self) -> Governor | None:
        """``None``: nobody holds it any more."""
        return self._governor()

    def add(self, guest: GuestConnection) -> None:
        self.guests.add(guest)
        self._held = self.governor

    def remove(self, guest: GuestConnection) -> None:
        self.guests.discard(guest)
        if not self.guests:
            self._held = None

    def write_counts(self, *, is_last: bool = False) -> None:
        """If anything new is to be counted. After the last one the file is another host's."""
        governor = self.governor
        if not self._is_over and governor is not None:
            now = (governor.has_sent, governor.is_reached)
            if now != self._counted or (is_last and governor.has_sent):
                self._counted = now
                self._counts.write(governor.counts())
        self._is_over |= is_last


class Host:
    """This process as the host at one place. On the sharing thread, but for what says otherwise.

    Args:
        make: a governor of that name, which nobody in this process has asked for.
        ended: called, with the lock held, when it is the host no longer.
    """

    def __init__(
        self,
        place: Place,
        seat: Seat,
        thread: SharingThread,
        tuning: Tuning,
        *,
        make: Callable[[str], Governor],
        counts_of: Callable[[str], CountsFile],
        ended: Callable[[Host], None],
    ) -> None:
        self.place = place
        self.thread = thread
        self.tuning = tuning
        self._seat = seat
        self._make = make
        self._counts_of = counts_of
        self._ended = ended
        self._hosted: dict[str, HostedGovernor] = {}
        self._connections: set[GuestConnection] = set()
        self._is_ended = False
        self._is_telling = False
        self._numbers = 0
        thread.call(self._begin)

    # --- from any thread --------------------------------------------------------------------------------------------

    def find(self, name: str) -> Governor | None:
        """The governor of this name, if there is one here that somebody uses."""
        with LOCK:
            hosted = self._hosted.get(name)
            return None if hosted is None else hosted.governor

    def add(self, name: str, governor: Governor) -> None:
        """It is for all from now on."""
        with LOCK:
            self._hosted[name] = HostedGovernor(
                name, governor, self._counts_of(name), lambda: self.thread.call(self._look, name)
            )

    def withdraw(self, governor: Governor) -> None:
        """It is for this process alone from now on: its guests find another."""
        with LOCK:
            for name, hosted in list(self._hosted.items()):
                if hosted.governor is governor:
                    del self._hosted[name]
                    self.thread.call(self._send_away, hosted)

    def forget(self) -> None:
        """In a forked child: the parent is the host, and this process is none."""
        self._is_ended = True
        self._seat.forget()

    # --- on the thread ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._is_ended:
            loop.add_reader(self._seat.listening, self._accept)
            loop.call_later(self.tuning.counts_every_s, self._write_counts)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_ended:
            with LOCK:  # so that no fork falls between
                try:
                    called, _ = self._seat.listening.accept()
                except (BlockingIOError, InterruptedError, ConnectionError):
                    return
                except OSError:  # too many open files, most likely
                    loop.remove_reader(self._seat.listening)
                    loop.call_later(_ACCEPT_AGAIN_S, self._begin_to_accept)
                    return
                called.setblocking(False)
                self.thread.sockets.add(called)
            if called.family != getattr(socket, "AF_UNIX", None):
                with suppress(OSError):  # whoever called has hung up
                    called.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    called.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._numbers += 1
            self.thread.begin(_serve, GuestConnection(self, called, self._numbers), called)

    def _begin_to_accept(self) -> None:
        if not self._is_ended:
            asyncio.get_running_loop().add_reader(self._seat.listening, self._accept)

    def called(self, guest: GuestConnection) -> None:
        """Somebody calls, and has not said who he is.

        Raises:
            NotOurs: too many do.
        """
        if sum(not each.is_trusted for each in self._connections) >= _MAX_STRANGERS:
            raise NotOurs
        self._connections.add(guest)

    def welcome(self, guest: GuestConnection, name: str) -> HostedGovernor:
        """The governor whose guest it is from now on.

        Raises:
            NotOurs: there is no such governor here.
        """
        with LOCK:
            hosted = self._hosted.get(name)
            if hosted is None or hosted.governor is None:
                if self._is_ended or not (self.place.is_for_all or hosted is not None):
                    raise NotOurs
                governor = self._make(name)  # held below
                self.add(name, governor)
                hosted = self._hosted[name]
            hosted.add(guest)
            return hosted

    def left(self, guest: GuestConnection, hosted: HostedGovernor | None) -> None:
        """Its connection is closed."""
        self._connections.discard(guest)
        if hosted is not None:
            with LOCK:
                hosted.write_counts()
                hosted.remove(guest)
            self._look(hosted.name)

    def tell_soon(self) -> None:
        """A guest has something on its way, and is told now and then how all stands."""
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(self.tuning.standing_every_s, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        for hosted in list(self._hosted.values()):
            guests = [guest for guest in hosted.guests if guest.is_due()]
            governor = hosted.governor
            if guests and governor is not None:
                standing = _standing(governor, len(hosted.guests) + 1)
                for guest in guests:
                    guest.tell(standing)
                self.tell_soon()

    def _write_counts(self) -> None:
        self._keep_seat()
        if self._is_ended:
            return
        for hosted in list(self._hosted.values()):
            hosted.write_counts()
        asyncio.get_running_loop().call_later(self.tuning.counts_every_s, self._write_counts)

    def _keep_seat(self) -> None:
        """Where its files were removed, it takes the place again, or finds another host there."""
        if self._is_ended:
            return
        if self._seat.keep():
            self._begin_to_accept()  # it may have been out of reach
            return
        try:
            seat = self.place.take()
        except OSError:  # there is no such folder of ours any more, and so nobody else there: its guests stay
            asyncio.get_running_loop().remove_reader(self._seat.listening)
            return
        if seat is None:
            _log.warning(
                "the files by which the governor of this quota was shared (%s) were removed, and another process "
                "shares it now: this one goes on by itself",
                self.place.key,
            )
            self.end()
            return
        asyncio.get_running_loop().remove_reader(self._seat.listening)
        self._seat.give_up()
        self._seat = seat
        self._begin_to_accept()

    def _look(self, name: str) -> None:
        """Ends it if nobody has a use for it any more."""
        with LOCK:
            hosted = self._hosted.get(name)
            if hosted is not None and hosted.governor is None and not hosted.guests:
                del self._hosted[name]
            if not self._hosted and not self._is_ended:
                self.end()

    def _send_away(self, hosted: HostedGovernor) -> None:
        with LOCK:
            hosted.write_counts(is_last=True)
            if not self._hosted and not self._is_ended:
                self.end()
        for guest in list(hosted.guests):
            guest.abort()

    def end(self) -> None:
        """What was counted is written, the place is free, and then the guests hear of it."""
        with LOCK:
            if self._is_ended:
                return
            self._is_ended = True
            for hosted in self._hosted.values():
                hosted.write_counts(is_last=True)
            self._hosted.clear()
            asyncio.get_running_loop().remove_reader(self._seat.listening)
            self._seat.give_up()
            self._ended(self)
        for guest in list(self._connections):
            guest.abort()


async def _serve(guest: GuestConnection, called: socket.socket) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().connect_accepted_socket(lambda: guest, called)


def _standing(governor: Governor, processes: int) -> Standing:
    now = governor.snapshot()
    return Standing(
        processes,
        governor.cause,
        now.adaptive_limit,
        *(now.requests_per_minute, now.requests_source, now.tokens_per_minute, now.tokens_source),
        *(now.requests_room, now.tokens_room),
        governor.is_reached,
    )


class _Asked(Waiter):
    """A permit that a guest has asked for."""

    __slots__ = ("_guest", "_id")

    def __init__(
        self,
        guest: GuestConnection,
        permit_id: int,
        limit: ConcurrencyLimit,
        tokens: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(limit, tokens, loop)
        self._guest = guest
        self._id = permit_id

    def wake(self) -> bool:
        return self._guest.woken(self._id, self)


class GuestConnection(FrameProtocol):
    """The connection of one guest: its permits, and those that it waits for."""

    def __init__(self, host: Host, called: socket.socket, number: int) -> None:
        super().__init__(called)
        self._host = host
        self._number = number
        self._nonce = new_nonce()
        self._hosted: HostedGovernor | None = None
        self._governor: Governor | None = None
        self._limit = ConcurrencyLimit(0)
        self._waiting: dict[int, _Asked] = {}
        self._granted: dict[int, Permit] = {}
        self._permits: list[int] = []
        self._refused: list[tuple[int, ErrorParts]] = []
        self._verdicts: list[Verdict] = []
        self._members: GuestMembers | None = None
        self._is_flushing = False
        self._has_spoken = False
        self._heard_s = 0.0
        self._loop = asyncio.get_running_loop()

    def is_due(self) -> bool:
        """It has permits, or waits for some, or has had some since this was asked last."""
        has_spoken, self._has_spoken = self._has_spoken, False
        return has_spoken or bool(self._waiting or self._granted)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        try:
            self._host.called(self)
        except NotOurs:
            self.abort()
            return
        self.send(Challenge(VERSION, self._nonce))
        self._loop.call_later(_GREETED_WITHIN_S, self._end_stranger)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio calls it
        self.transport = None
        self.is_trusted = False
        self._host.thread.sockets.discard(self.socket)
        with LOCK:
            governor, self._governor = self._governor, None
            if governor is not None:
                governor.remove_guest(self._number, self._granted.values())
                if self._members is not None:
                    self._members.leave()
                self._waiting.clear()
                self._granted.clear()
        self._host.left(self, self._hosted)

    def received(self, frame: bytes) -> None:
        self._heard_s = self._loop.time()
        if self.is_trusted:
            self._take(GUEST_FRAME.decode(frame))
        else:
            self._greet(HELLO.decode(frame))

    def _greet(self, hello: Hello) -> None:
        token = self._host.place.token
        said = (self._nonce, hello.nonce, hello.name.encode())
        if hello.version != VERSION or not is_proof(hello.proof, token, b"guest", *said):
            raise NotOurs
        self._hosted = self._host.welcome(self, hello.name)
        with LOCK:
            self._governor = self._hosted.governor
            assert self._governor is not None  # held since it is welcome
            self._limit = self._governor.add_guest(self._number, self._loop)
        self.is_trusted = True
        self.send(Welcome(proof(token, b"host", *said), os.getpid()))
        self.send(HostFrame(standing=_standing(self._governor, len(self._hosted.guests) + 1)))

    def _end_stranger(self) -> None:
        if not self.is_trusted:
            self.abort()

    # --- turns ------------------------------------------------------------------------------------------------------

    def _take(self, frame: GuestFrame) -> None:
        with LOCK:
            governor = self._governor
            if governor is None:
                return
            if frame.expects_answers:
                governor.expect_answers()
            for permit_id, tokens, limits in frame.answered:
                if not are_sane(limits):
                    raise NotOurs
                governor.settle(self._permit(permit_id), limits=limits, tokens=tokens)
            for failed in frame.failed:
                self._settle_failure(governor, failed)
            for permit_id in frame.given_back:
                self._give_back(governor, permit_id)
            for permit_id, tokens in frame.asked:
                self._ask(governor, permit_id, tokens)
            if frame.purse is not None:
                self._spend(governor, frame.purse)
        self._has_spoken = True
        self._host.tell_soon()

    def _permit(self, permit_id: int) -> Permit:
        permit = self._granted.pop(permit_id, None)
        if permit is None:
            raise NotOurs
        return permit

    def _settle_failure(self, governor: Governor, failed: Failed) -> None:
        error = failed.failure.error()
        permit = self._permit(failed.id)
        row = None if failed.row is None else (self._number, failed.row)
        is_charged, seen = governor.settle_failed(permit, error, row)
        if failed.is_awaited:
            is_unreachable = isinstance(seen, NothingAnswers)
            self._verdicts.append(Verdict(failed.id, is_charged, permit.stands_alone, is_unreachable))
            self._flush_soon()

    def _give_back(self, governor: Governor, permit_id: int) -> None:
        if (waiting := self._waiting.pop(permit_id, None)) is not None:
            governor.abandon(waiting)
        elif (permit := self._granted.pop(permit_id, None)) is not None:
            governor.refund(permit)
        # Else it was refused just now.

    def _ask(self, governor: Governor, permit_id: int, tokens: int) -> None:
        if permit_id in self._waiting or permit_id in self._granted or len(self._waiting) > _MAX_OPEN_IDS:
            raise NotOurs
        permit = governor.try_admit(self._limit, tokens)
        if permit is not None:
            self._granted[permit_id] = permit
            self._permits.append(permit_id)
            self._flush_soon()
        else:
            self._waiting[permit_id] = asked = _Asked(self, permit_id, self._limit, tokens, self._loop)
            governor.enqueue(asked)

    def _spend(self, governor: Governor, wishes: PurseWishes) -> None:
        if self._members is None:
            self._members = GuestMembers(governor.purse, self._flush_soon)
        try:
            self._members.take(wishes)
        except KeyError:
            raise NotOurs from None

    def woken(self, permit_id: int, asked: _Asked) -> bool:
        """From any thread, with the lock held: it may leave, or may not at all."""
        if self._waiting.pop(permit_id, None) is None or self._governor is None:
            return False
        if asked.permit is not None:
            self._granted[permit_id] = asked.permit
            self._permits.append(permit_id)
        elif asked.error is not None:
            self._refused.append((permit_id, ErrorParts.of(asked.error)))
        self._flush_soon()
        return True

    # --- what it is told ---------------------------------------------------------------------------------------------

    def tell(self, standing: Standing) -> None:
        """How all stands; who says nothing for long, though it has permits, is taken for gone."""
        if self._loop.time() - self._heard_s > self._host.tuning.silent_for_s:
            _log.debug("a guest of the shared governor says nothing, and its permits are taken back")
            self.abort()
        else:
            self.send(HostFrame(standing=standing))

    def _flush_soon(self) -> None:
        """All that one turn of the loop brings goes in one frame. From any thread, with the lock held."""
        if not self._is_flushing:
            self._is_flushing = True
            with suppress(RuntimeError):  # the thread has ended, and with it the process
                if self._loop is asyncio._get_running_loop():  # noqa: SLF001  see WaitingTask.wake
                    self._loop.call_soon(self._flush)
                else:
                    self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        with LOCK:
            self._is_flushing = False
            permits, self._permits = self._permits, []
            refused, self._refused = self._refused, []
            verdicts, self._verdicts = self._verdicts, []
            purse = [] if self._members is None else self._members.take_told()
        if permits or refused or verdicts:
            for part in slices(permits, refused, verdicts):
                self.send(HostFrame(permits[part], refused[part], verdicts[part]))
        for told in purse:
            self.send(HostFrame(purse=told))
