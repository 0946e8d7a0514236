"""Addresses of tables: ``postgresql://user@host/db?table=schema.name``, ``sqlite:///rows.db?query=SELECT …``."""

from __future__ import annotations

from urllib.parse import quote, unquote

from msgspec import Struct

from mistill.addresses import DATABASES, Parts, database_file, keep_secrets, parts_of, whole
from mistill.errors import InputError
from mistill.same_place import refuse_unclear, split_names


class TableAddress(Struct, frozen=True):
    """Where a table is.

    Attributes:
        name: as it may be shown.
        kind: of database: ``sqlite``, ``postgresql``, ``duckdb``.
        file: its path, where it is one.
        host: what stands for server and database, with parameters of the connection; ``user``, ``password``: of it.
        table: its names, from the outermost. ``query``: in its place.
    """

    name: str
    kind: str
    file: str | None
    host: str
    user: str | None
    password: str | None
    table: tuple[str, ...]
    query: str | None

    @classmethod
    def of(cls, address: str) -> TableAddress:
        """
        Raises:
            InputError: it names no table, or no database.
        """
        name, address = keep_secrets(address), whole(address)
        refuse_unclear(address)
        parts = parts_of(address)
        assert parts is not None, "it is an address, and not an odd one"
        if parts.table is None and parts.query is None:
            raise InputError(
                f"{name} names no table",
                hint=f"put ?table=NAME behind it, or ?query=SELECT …: '{name}?table=rows'",
            )
        if (parts.table is None) is (parts.query is None) or not (parts.table or parts.query):
            raise InputError(f"{name} names both a table and a query, or neither", hint="give one of them")
        file = database_file(address)
        if file is not None:
            _check_file(name, parts, file)
        parameters = "&".join(f"{quote(key, safe='')}={value}" for key, value in parts.parameters)
        login, _, password = parts.login.partition(":")
        return cls(
            name=name,
            kind=DATABASES[parts.scheme],
            file=file,
            host=f"{parts.host}{parts.path}{'?' if parameters else ''}{parameters}",
            user=unquote(login) if login else None,
            password=unquote(password) if password else None,
            table=() if parts.table is None else _names(unquote(parts.table), name),
            query=None if parts.query is None else unquote(parts.query),
        )


def _check_file(name: str, parts: Parts, file: str) -> None:
    if not file:
        raise InputError(
            f"{name} names no file", hint=f"with three slashes: {parts.scheme}:///rows.db?table=rows"
        )
    if parts.parameters:
        raise InputError(
            f"{name}: a file has no other parameters than a table or a query", hint="leave them out"
        )


def _names(table: str, name: str) -> tuple[str, ...]:
    found = split_names(table)
    if found is None:
        raise InputError(
            f"{name}: {table!r} is no name of a table", hint='for example schema.name, or "a name.with a dot"'
        )
    return found
