"""Where a run remembers whose output is elsewhere: in a folder of this user's, by a path that says the address."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from mistill.addresses import scheme_of
from mistill.user_folders import state_dir

_PLAIN: Final = " !#$&'()+,-.=@[]^_`{}~"
"""Stand for themselves in names of files, of Windows too."""
_ODD: Final = {"": "%", ".": "%2E", "..": "%2E%2E"}
"""Names that are none, or none of a file."""
_LONGEST: Final = 220
"""Of a file's name, which has 255 bytes at most: what stands beside a ledger has more behind its name."""
_GOES_ON: Final = "%+"
"""At the end of a folder's name: what follows belongs to the same step. No quoted text has it."""


def folder_of_ledgers() -> Path:
    """The folder, which need not be there."""
    return state_dir() / "ledgers"


def ledger_of_address(address: str, suffix: str) -> Path:
    """The ledger of the run that writes to an address; whoever starts the run again, from wherever, finds it.

    Args:
        address: without its secrets. ``suffix``: of ledgers.
    """
    scheme = scheme_of(address)
    assert scheme is not None, "it is an address"
    steps = address[len(scheme) + 3 :].split("/")
    *folders, name = [part for step in steps for part in _parts(_ODD.get(step) or quote(step, safe=_PLAIN))]
    return folder_of_ledgers().joinpath(scheme, *folders, name + suffix)


def _parts(step: str) -> list[str]:
    """A step of an address as names that files can have: one, if it is not too long."""
    parts = [step[begin : begin + _LONGEST] for begin in range(0, len(step), _LONGEST)]
    return [part + _GOES_ON for part in parts[:-1]] + parts[-1:]


def address_of_ledger(ledger: Path, suffix: str) -> str | None:
    """The address that the run writes to which remembers here; ``None``: it is no such place."""
    try:
        scheme, *parts = ledger.absolute().relative_to(folder_of_ledgers().absolute()).parts
    except ValueError:
        return None
    if not parts or not parts[-1].endswith(suffix):
        return None
    steps = "/".join(parts).removesuffix(suffix).replace(f"{_GOES_ON}/", "").split("/")
    names = {written: name for name, written in _ODD.items()}
    return f"{scheme}://{'/'.join(names.get(step, unquote(step)) for step in steps)}"
