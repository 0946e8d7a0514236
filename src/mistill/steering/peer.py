"""Who is at the other end of a Unix socket, as the operating system says."""

from __future__ import annotations

import os
import socket
import struct
import sys

from msgspec import Struct

_UCRED = struct.Struct("3i")  # process, user, group
_LOCAL_PEERCRED = 1
_SOL_LOCAL = 0
_XUCRED = struct.Struct("=II")  # version, user


class Peer(Struct, frozen=True):
    """The process at the other end. ``process``: ``None`` where the system does not say it."""

    user: int
    process: int | None


def peer_of(connection: socket.socket) -> Peer | None:
    """Who has connected; ``None``: the system does not say, or there is nobody any more."""
    try:
        if sys.platform == "linux":
            process, user, _ = _UCRED.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            )
            return Peer(user, process)
        _, user = _XUCRED.unpack_from(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, 128))
        return Peer(user, None)
    except (OSError, struct.error):
        return None


def shown_peer(peer: Peer) -> str:
    """``alice (process 4711)``."""
    return user_name(peer.user) + ("" if peer.process is None else f" (process {peer.process})")


def user_name(user: int) -> str:
    """What a user is called; the number where that is not known."""
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return f"user {user}"


def this_process() -> str:
    """This one, in the same words."""
    return shown_peer(Peer(os.getuid() if hasattr(os, "getuid") else 0, os.getpid()))
