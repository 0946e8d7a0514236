"""Addresses of tables: ``postgresql://user@host/db?table=schema.name``, ``sqlite:///rows.db?query=SELECT …``."""

from __future__ import annotations

import re
from urllib.parse import unquote

from msgspec import Struct

from mistill.addresses import DATABASES, database_file, keep_secrets, scheme_of, whole
from mistill.errors import InputError

_PARTS = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')


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
        scheme = scheme_of(address)
        assert scheme is not None, "it is an address"
        kind = DATABASES[scheme]
        rest = address[len(scheme) + 3 :]
        said = re.search(r"[?&](?:table|query)=", rest)
        if said is None:
            raise InputError(
                f"{name} names no table",
                hint=f"put ?table=NAME behind it, or ?query=SELECT …: '{name}?table=rows'",
            )
        user, at, place = rest[: said.start()].rpartition("@")
        parameters, table, query = _parameters(f"{place.partition('?')[2]}&{rest[said.start() + 1 :]}")
        if (table is None) is (query is None) or not (table or query):
            raise InputError(f"{name} names both a table and a query, or neither", hint="give one of them")
        host = place.partition("?")[0] + (f"?{'&'.join(parameters)}" if parameters else "")
        file = database_file(address)
        if file is not None:
            _check_file(name, kind, rest, file, parameters)
        login, _, password = user.partition(":")
        return cls(
            name=name,
            kind=kind,
            file=file,
            host=host,
            user=unquote(login) if at and login else None,
            password=unquote(password) if at and password else None,
            table=() if table is None else _names(table, name),
            query=query,
        )


def _parameters(text: str) -> tuple[list[str], str | None, str | None]:
    """Those of the connection, the table and the query, which may have ``&`` in it: it ends them."""
    before, is_query, query = text.partition("query=")
    table = None
    kept: list[str] = []
    for one in filter(None, before.split("&")):
        if one.startswith("table="):
            table = unquote(one.removeprefix("table="))
        else:
            kept.append(one)
    return kept, table, unquote(query) if is_query else None


def _check_file(name: str, kind: str, rest: str, file: str, parameters: list[str]) -> None:
    if not rest.startswith("/") or not file:
        raise InputError(f"{name} names no file", hint=f"with three slashes: {kind}:///rows.db?table=rows")
    if parameters:
        raise InputError(
            f"{name}: a file has no parameter {parameters[0].partition('=')[0]!r}", hint="leave it out"
        )


def _names(table: str, name: str) -> tuple[str, ...]:
    """``schema.name`` → both; a name with a dot in it stands in double quotes, as in SQL."""
    found: list[str] = []
    at = 0
    while at < len(table):
        one = _PARTS.match(table, at)
        if one is None or (one.end() < len(table) and table[one.end()] != "."):
            break
        found.append(one[1].replace('""', '"') if one[1] else one[2])
        at = one.end() + 1
    if at != len(table) + 1:
        raise InputError(
            f"{name}: {table!r} is no name of a table", hint='for example schema.name, or "a name.with a dot"'
        )
    return tuple(found)
