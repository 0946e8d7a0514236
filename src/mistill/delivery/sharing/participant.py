"""This process among those that share: its thread, the places where it is the host, and whose guest it is."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from mistill.delivery.admission_queue import LOCK
from mistill.delivery.governor import AnyGovernor, Governor
from mistill.delivery.limits_file import LimitsFile
from mistill.delivery.sharing.counts_file import CountsFile
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.host import Host
from mistill.delivery.sharing.membership import Membership
from mistill.delivery.sharing.place import Door, Place, Seat, close_here
from mistill.delivery.sharing.thread import SharingThread
from mistill.delivery.tuning import Tuning
from mistill.process import keep_unused

_log = logging.getLogger("mistill")


class Participant:
    """What one process shares with others. Thread-safe."""

    def __init__(self) -> None:
        self._thread = SharingThread()
        self._hosts: dict[str, Host] = {}
        self._memberships: weakref.WeakKeyDictionary[GuestGovernor, Membership] = weakref.WeakKeyDictionary()
        self._is_ended = False

    def governor(
        self, place: Place, name: str, tuning: Tuning, limits_file: LimitsFile | None
    ) -> AnyGovernor:
        """The plain governor of the host, where this process is it or becomes it; else a guest of the one that is."""
        with LOCK:
            if self._is_ended:
                return Governor(tuning=tuning, limits_file=limits_file)
            try:
                host = self._host_at(place, tuning)
            except OSError as error:
                _log.info("the governor is not shared: %s", error)
                return Governor(tuning=tuning, limits_file=limits_file)
            if host is None:
                return self._guest(place, name, tuning, limits_file)
            governor = host.find(name)
            if governor is None:
                governor = Governor(tuning=tuning)
                governor.take_over(_counts_of(place, name).read(), limits_file)
                host.add(name, governor)
            return governor

    def open(self, door: Door, name: str, governor: Governor, tuning: Tuning) -> None:
        """This process has the governor for those that it tells of the door, until it is withdrawn.

        Raises:
            OSError: there can be no such door.
        """
        with LOCK:
            self._host(door, door.open(), tuning).add(name, governor)

    def withdraw(self, governor: AnyGovernor) -> None:
        """It is for this process alone from now on."""
        with LOCK:
            own = governor
            if isinstance(governor, GuestGovernor):
                own = governor.own  # by which it may be the host
                if (membership := self._memberships.get(governor)) is not None:
                    membership.end()
            if isinstance(own, Governor):
                for host in list(self._hosts.values()):
                    host.withdraw(own)

    def end(self) -> None:
        """At the end of the process: what was counted is handed over, and others take the places.

        What it does from then on it decides by itself.
        """
        with LOCK:
            self._is_ended = True
        self._thread.end(self._say_farewell)

    def forget(self) -> None:
        """In a forked child: all of it is the parent's, who goes on with it."""
        for host in self._hosts.values():
            host.forget()
        for of_parent in self._thread.sockets:
            close_here(of_parent)
        self._thread.forget()
        keep_unused((self._thread, self._hosts, list(self._memberships.items())))
        self.__init__()

    def _say_farewell(self) -> None:
        for guest, membership in list(self._memberships.items()):
            membership.hang_up()
            guest.take_charge()
        for host in list(self._hosts.values()):
            host.end()

    def _host_at(self, place: Place, tuning: Tuning) -> Host | None:
        host = self._hosts.get(place.key)
        if host is None and (seat := place.take()) is not None:
            host = self._host(place, seat, tuning)
        return host

    def _host(self, place: Place, seat: Seat, tuning: Tuning) -> Host:
        host = self._hosts[place.key] = Host(
            place,
            seat,
            self._thread,
            tuning,
            make=lambda name: _governor_for_others(place, name, tuning),
            counts_of=lambda name: _counts_of(place, name),
            ended=self._ended,
        )
        return host

    def _ended(self, host: Host) -> None:
        if self._hosts.get(host.place.key) is host:
            del self._hosts[host.place.key]

    def _guest(
        self, place: Place, name: str, tuning: Tuning, limits_file: LimitsFile | None
    ) -> GuestGovernor:
        guest = GuestGovernor(self._thread, make_own=lambda: Governor(tuning=tuning), leave=self.withdraw)
        membership = Membership(
            place,
            name,
            guest,
            self._thread,
            tuning,
            take_over=self._taking_over(place, name, tuning, limits_file),
        )
        self._memberships[guest] = membership
        return guest

    def _taking_over(
        self, place: Place, name: str, tuning: Tuning, limits_file: LimitsFile | None
    ) -> Callable[[GuestGovernor], bool]:
        def take_over(guest: GuestGovernor) -> bool:
            try:
                host = self._host_at(place, tuning)
            except OSError as error:  # the folder is gone, say; whoever waits for a host goes on alone
                _log.debug("the governor is not shared: %s", error)
                return False
            if host is None or host.find(name) is not None:
                return False  # of a host in this process, too, it may be a guest
            own = guest.take_charge()
            own.take_over(_counts_of(place, name).read(), limits_file)
            host.add(name, own)
            return True

        return take_over


def _counts_of(place: Place, name: str) -> CountsFile:
    return CountsFile(place.counts_path(name))


def _governor_for_others(place: Place, name: str, tuning: Tuning) -> Governor:
    """Of a quota that this process does not use itself."""
    governor = Governor(tuning=tuning)
    file = LimitsFile(name, tuning.remember_for_s) if tuning.remember_for_s else None
    governor.take_over(_counts_of(place, name).read(), file)
    return governor
