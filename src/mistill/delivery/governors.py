"""The governors of this process: one for each (endpoint, key, model), shared with other processes where it can be."""

from __future__ import annotations

import atexit
import hashlib
import os
import secrets
import weakref
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from mistill.delivery.admission_queue import LOCK
from mistill.delivery.governor import AnyGovernor, Governor
from mistill.delivery.limits_file import LimitsFile
from mistill.delivery.sharing.participant import Participant
from mistill.delivery.sharing.place import TOKEN_VARIABLE, VARIABLE, Door, place_of
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import InputError

_Identity = tuple[str, bytes, str, Tuning]
_governors: weakref.WeakValueDictionary[_Identity, AnyGovernor] = weakref.WeakValueDictionary()
_behind_doors: weakref.WeakValueDictionary[str, AnyGovernor] = weakref.WeakValueDictionary()
_participant = Participant()


def governor_for(
    endpoint: str,
    api_key: str,
    model: str,
    tuning: Tuning | None = None,
    *,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
) -> AnyGovernor:
    """The process-wide governor of this quota. It is forgotten when nobody holds it; the key is kept as a hash.

    One that was made under another ``tuning`` (that in force unless given) is another: a test that switched waiting off
    must not get a governor that waits, nor leave one behind that does not.

    Args:
        requests_per_minute, tokens_per_minute: the user's own limits. They are this process's, not the key's, so a
            governor that has any is shared with no other process.

    Raises:
        InputError: what the environment says of sharing is wrong.
    """
    tuning = tuning or current_tuning()
    identity = (endpoint, hashlib.blake2b(api_key.encode(), digest_size=16).digest(), model, tuning)
    has_own_limits = requests_per_minute is not None or tokens_per_minute is not None
    shared_name = _name_of(identity, of_tuning=True)
    place = place_of(shared_name) if tuning.is_shared and not has_own_limits else None
    with LOCK:
        governor = _governors.get(identity)
        if governor is None:
            file = LimitsFile(_name_of(identity), tuning.remember_for_s) if tuning.remember_for_s else None
            if place is None:
                governor = Governor(tuning=tuning, limits_file=file)
            else:
                governor = _participant.governor(place, shared_name, tuning, file)
            _governors[identity] = governor
        if has_own_limits:
            limit(governor, requests_per_minute, tokens_per_minute)
        return governor


def limit(governor: AnyGovernor, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
    """The user's own limits from now on, which are this process's alone; ``None``: none."""
    with LOCK:
        if requests_per_minute is not None or tokens_per_minute is not None:
            _participant.withdraw(governor)
        governor.set_quota(requests_per_minute, tokens_per_minute)


class GovernorDoor(Struct, frozen=True):
    """Where a process has a governor for some others, which it tells of this.

    Attributes:
        address, port: where it listens. ``name``: of the governor, 32 hexadecimal digits.
        token: proves that one was told.
        has_quota: that of the key is behind it too, not only limits of the user's own.
    """

    address: str
    port: int
    name: str
    token: bytes
    has_quota: bool

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address}:{self.port})"

    def governor(self) -> AnyGovernor:
        """What is behind it: in the process that has it, the governor itself."""
        tuning = current_tuning()
        with LOCK:
            governor = _behind_doors.get(self.name)
            if governor is None:
                door = Door(self.address, self.port, self.token)
                governor = _behind_doors[self.name] = _participant.governor(door, self.name, tuning, None)
            return governor


@contextmanager
def opened_to_others(governor: Governor, address: str, *, has_quota: bool) -> Generator[GovernorDoor]:
    """This process has a governor of its own making for others too, by an address of this machine.

    Args:
        has_quota: see `GovernorDoor`.

    Raises:
        InputError: it cannot listen there.
    """
    name, token = secrets.token_hex(16), secrets.token_bytes(32)
    door = Door(address, 0, token)
    try:
        _participant.open(door, name, governor, current_tuning())
    except OSError as error:
        raise InputError(
            f"the workers of a run in shards ask this process by {address}, where it cannot listen: {error.strerror}"
        ) from error
    try:
        yield GovernorDoor(address, door.port, name, token, has_quota)
    finally:
        _participant.withdraw(governor)


def environment_of_sharing() -> dict[str, str]:
    """What the environment says of how governors are shared, for processes that have another; empty: nothing."""
    names = (VARIABLE, TOKEN_VARIABLE) if os.environ.get(VARIABLE) else ()
    return {name: os.environ[name] for name in names if name in os.environ}


def apart_governor(
    endpoint: str,
    api_key: str,
    model: str,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
) -> Governor:
    """One of its own for this quota, which begins with what was learned here, and leaves what it learns.

    Args:
        requests_per_minute, tokens_per_minute: limits of the user's own; with any, nothing learned is of use.
    """
    tuning = current_tuning()
    identity = (endpoint, hashlib.blake2b(api_key.encode(), digest_size=16).digest(), model, tuning)
    has_own_limits = requests_per_minute is not None or tokens_per_minute is not None
    is_learned = tuning.remember_for_s and not has_own_limits
    return Governor(
        tuning=tuning,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        limits_file=LimitsFile(_name_of(identity), tuning.remember_for_s) if is_learned else None,
    )


def _name_of(identity: _Identity, *, of_tuning: bool = False) -> str:
    """Of its files, the same in every process. ``of_tuning``: another where the constants are not everybody's."""
    endpoint, key, model, tuning = identity
    parts = [endpoint.encode(), key, model.encode()]
    if of_tuning and tuning != Tuning():
        parts.append(msgspec.json.encode(tuning))
    return hashlib.blake2b(
        b"".join(len(part).to_bytes(4) + part for part in parts), digest_size=16
    ).hexdigest()


def _forget() -> None:
    _governors.clear()
    _behind_doors.clear()
    _participant.forget()


atexit.register(_participant.end)
if hasattr(os, "register_at_fork"):
    # What they have in flight will never be settled in a forked child, nor will those that wait there wake up.
    os.register_at_fork(after_in_child=_forget)
