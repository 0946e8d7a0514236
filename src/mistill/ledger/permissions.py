"""Whether this user may read the files of a run, which are another's as a rule where not, and what is said then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mistill.errors import LedgerError

Access = Literal["read", "written"]

_MODES: dict[Access, int] = {"read": os.R_OK, "written": os.W_OK}


def is_denied(path: Path, what: Access = "read") -> bool:
    """Whether it is there, as far as can be seen, and this user may not read it, or not write it.

    Nothing is opened to see that: whoever closes a ledger drops the locks that this process has on it.
    """
    try:
        if not path.exists():
            return False
        mode = _MODES[what] | (os.X_OK if path.is_dir() else 0)
    except PermissionError:  # of a folder on the way
        return True
    except (OSError, ValueError):  # no name that a file can have
        return False
    return not _may(path, mode)


def check_may_read(path: Path) -> None:
    """
    Raises:
        LedgerError: `is_denied`.
    """
    if is_denied(path):
        raise permission_denied(path)


def permission_denied(path: Path, what: Access = "read") -> LedgerError:
    """The error of what `is_denied`: it names the file, or the folder into which this user may not go."""
    folders = reversed(path.absolute().parents)
    closed = next((folder for folder in folders if not _may(folder, os.X_OK)), None)
    named = path if closed is None else closed
    owner = owner_of(named)
    whose = "" if owner is None else f", which is {owner}'s,"
    return LedgerError(
        f"permission denied: {named}{whose} may not be {what} by this user",
        hint=f"do it as {owner or 'its owner'}, or have that user allow it (chmod, setfacl)",
    )


def owner_of(path: Path) -> str | None:
    """Whose a file is, by name or else by number; ``None``: that cannot be seen."""
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)
    except (OSError, NotImplementedError):  # the latter on Windows
        return None


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
