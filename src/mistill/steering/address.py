"""Where a start takes orders: a socket of its user's own, found by the ledger's path alone.

It stands in no folder of the ledger's, whose file system may have no sockets (a share of another machine), whose path
may be longer than the 107 bytes that the address of one may have, and into which others may write.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mistill.ledger.files import main_name
from mistill.runtime_folder import is_our_folder, runtime_folders

MAX_ADDRESS_BYTES = 103
"""Of the address of a Unix socket: 107 on Linux, 103 elsewhere."""


_PREFIX = "orders-"
_OLD_S = 60.0


def sweep(folder: Path) -> None:
    """Removes the sockets of starts that were killed: nobody listens there."""
    for address in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as one:
            # A new one may be about to listen.
            if _is_socket(address) and time.time() - address.lstat().st_mtime > _OLD_S:
                one.settimeout(0)
                try:
                    one.connect(str(address))
                except ConnectionRefusedError:
                    address.unlink(missing_ok=True)


def make_address(ledger: Path) -> Path | None:
    """Where the start of a run takes orders, its folder made if need be.

    ``None``: nowhere, since there is no folder of this user's own that nobody else can look into.
    """
    return next((address for address in addresses(ledger) if is_our_folder(address.parent, make=True)), None)


def find_address(ledger: Path) -> Path | None:
    """Where the start of a run takes orders that goes on here, if one does."""
    return next(
        (
            address
            for address in addresses(ledger)
            if is_our_folder(address.parent, make=False) and _is_socket(address)
        ),
        None,
    )


def addresses(ledger: Path) -> Iterator[Path]:
    """Where it may be: in one of the user's runtime folders."""
    path = os.path.realpath(main_name(ledger)[0])
    name = f"{_PREFIX}{hashlib.blake2b(os.fsencode(path), digest_size=10).hexdigest()}"
    for address in dict.fromkeys(folder / name for folder in runtime_folders()):
        if address.is_absolute() and len(os.fsencode(address)) <= MAX_ADDRESS_BYTES:
            yield address


def _is_socket(address: Path) -> bool:
    try:
        found = address.lstat()
    except OSError:
        return False
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid()
