"""The one way to a place."""

from __future__ import annotations

import os

from mistill.addresses import is_of_table, scheme_of
from mistill.datasets.places.local_file import LocalFile
from mistill.datasets.places.place import Place, Target
from mistill.datasets.places.remote_file import RemoteFile
from mistill.datasets.places.standard_stream import StandardStream
from mistill.datasets.places.table_place import TablePlace
from mistill.errors import InputError
from mistill.same_place import refuse_unclear, refuse_unknown


def place_of(target: str | os.PathLike[str]) -> Place:
    """The place of a path, of ``"-"`` (stdin or stdout), or of an address.

    Raises:
        InputError: nothing is known of addresses of that sort, or what reaches them is not installed.
    """
    name = os.fspath(target)
    scheme = scheme_of(name)
    if scheme is None:
        return StandardStream() if name == "-" else LocalFile(name)
    refuse_unclear(name)
    refuse_unknown(name)
    if is_of_table(name):
        raise InputError(
            f"{scheme}:// is no place that files are read from", hint="a table is an input or an output"
        )
    return RemoteFile(name)


def target_of(target: str | os.PathLike[str]) -> Target:
    """As `place_of`, for an output, which may be a table too."""
    return TablePlace(os.fspath(target)) if is_of_table(target) else place_of(target)


def expand(pattern: str) -> list[str]:
    """The files and folders that a glob at a store matches, sorted, as addresses; what is no glob as it is.

    Raises:
        InputError: the store cannot be asked.
    """
    return RemoteFile(pattern).matches()
