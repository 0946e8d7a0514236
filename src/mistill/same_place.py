"""Which place a text names, however it is written: what an output would replace, and where its run remembers."""

from __future__ import annotations

import getpass
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from mistill.addresses import (
    DATABASES,
    KNOWN_ADDRESSES,
    STORES,
    Parts,
    database_file,
    oddity,
    parts_of,
    scheme_of,
    shown,
    whole,
)
from mistill.errors import InputError

_USUAL_PORTS: Final = {"http": "80", "https": "443", "postgresql": "5432", "postgres": "5432"}
_USUAL_SCHEMAS: Final = {"sqlite": "main", "duckdb": "main", "postgresql": "public"}
_LOOPBACK: Final = frozenset({"", "127.0.0.1", "[::1]", "::1"})
_MOST_BYTES: Final = 63
"""Of a name in PostgreSQL, which cuts a longer one; before a character that does not fit, from `_CUT_FROM` on."""
_CUT_FROM: Final = _MOST_BYTES - 3
_NAMES = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')
_WHERE_A_SERVER_IS: Final = ("host", "hostaddr", "port", "dbname", "service")


def refuse_unclear(name: str) -> None:
    """``InputError`` if it is an address that cannot be read for sure: see `oddity`."""
    if (odd := oddity(whole(name))) is not None:  # what is shown of it may well be readable
        raise InputError(odd[0], hint=odd[1])


def refuse_unknown(name: str) -> None:
    """``InputError`` if it is an address of a sort that is neither of files nor of tables."""
    scheme = scheme_of(name)
    if scheme is not None and scheme not in STORES and scheme not in DATABASES:
        raise InputError(f"{scheme}:// is no place of files or tables", hint=f"there are {KNOWN_ADDRESSES}")


def check_is_here(name: str, what: str) -> None:
    """``InputError`` if a file is named by an address, that is read only where it is on this machine."""
    if scheme_of(name) is not None:
        raise InputError(f"{what}: {shown(name)} is an address", hint="name a file of this machine")


def canonical(name: str) -> str:
    """The one text of a place, without secrets: whoever writes it otherwise (``s3a://``, a link, the usual port,
    another case of a table's name) has the same. It names the place too. Of a path, that of the file which a link
    names; of a version of a file, the file."""
    scheme, parts = scheme_of(name), parts_of(name)
    if scheme is None:
        return str(_followed(name))
    if parts is None:
        return shown(name)
    kind = _kind(parts)
    match kind:
        case "sqlite" | "duckdb":
            file = _followed(database_file(name) or "")
            return f"{kind}:///{quote(str(file))}?table={_written(table_names(parts))}"
        case "postgresql":
            user = shown(f"postgresql://{parts.login}@").partition("://")[2] if parts.login else ""
            told = [f"{key}={value}" for key, value in parts.parameters if key in _WHERE_A_SERVER_IS]
            parameters = "&".join([*told, f"table={_written(table_names(parts))}"])
            return f"postgresql://{user}{_without_usual_port(parts)}{parts.path}?{parameters}"
        case "http":
            return f"{parts.scheme}://{_without_usual_port(parts)}{_web_path(parts.path)}"
        case _:
            return f"{kind}://{_container(parts)}{_key(parts)}"


def is_same_file(path: str | Path, other: str | Path) -> bool:
    """Whether both names are of one file, or would be."""
    with suppress(OSError, ValueError):
        return Path(path).samefile(other)
    return os.path.realpath(path) == os.path.realpath(other)


def is_same_place(name: str, other: str) -> bool:
    """Whether writing to one would change the other, as far as their texts and files say. Where these leave it open (a
    table without its schema, a container without its account), it would."""
    first, second = parts_of(name := whole(name)), parts_of(other := whole(other))
    if first is None or second is None:
        # One is a path, which may be that of a database; or an address that nobody opens.
        files = [database_file(one) if scheme_of(one) is not None else one for one in (name, other)]
        return is_same_file(files[0], files[1]) if files[0] and files[1] else shown(name) == shown(other)
    kind = _kind(first)
    if kind != _kind(second):
        return False
    match kind:
        case "sqlite" | "duckdb":
            return is_same_file(database_file(name) or "", database_file(other) or "") and _may_be_one_table(
                first, second
            )
        case "postgresql":
            return _may_be_one_database(first, second) and _may_be_one_table(first, second)
        case "http":
            return canonical(name).partition("://")[2] == canonical(other).partition("://")[2]
        case _:
            return _may_be_one_container(first, second) and _key(first) == _key(second)


def _kind(parts: Parts) -> str:
    return DATABASES.get(parts.scheme) or STORES[parts.scheme]


def _followed(path: str | Path) -> Path:
    """The path of the file that a link names, whether or not it is there; any other as it is."""
    given = Path(path)
    try:
        return Path(os.path.realpath(given)) if given.is_symlink() else given
    except (OSError, ValueError):  # no name that a file can have
        return given


# --- of stores --------------------------------------------------------------------------------------------------------


def _without_usual_port(parts: Parts) -> str:
    return re.sub(rf":{_USUAL_PORTS[parts.scheme]}(?=,|$)", "", parts.host.lower())


def _web_path(path: str) -> str:
    """As RFC 3986 has it, 6.2.2: what is quoted that need not be, and steps to nowhere."""

    def unquoted(found: re.Match[str]) -> str:
        character = chr(int(found[1], 16))
        return character if re.fullmatch(r"[A-Za-z0-9._~-]", character) else found[0].upper()

    steps: list[str] = []
    *folders, last = re.sub(r"%([0-9A-Fa-f]{2})", unquoted, path).split("/")[1:] or [""]
    for step in folders:
        if step == "..":
            del steps[-1:]
        elif step != ".":
            steps.append(step)
    return "/" + "/".join([*steps, last])


def _container(parts: Parts) -> str:
    """Of Azure with its account, where that is said."""
    return re.sub(r"@([\w-]+)\.(?:dfs|blob)\.core\.windows\.net$", r"@\1", parts.host)


def _may_be_one_container(first: Parts, second: Parts) -> bool:
    (one, _, account), (other, _, others) = (_container(parts).partition("@") for parts in (first, second))
    return one == other and (not account or not others or account == others)


def _key(parts: Parts) -> str:
    return re.sub(r"^(/[^/]+/[^/]+)@main(?=/|$)", r"\1", parts.path) if parts.scheme == "hf" else parts.path


# --- of databases -----------------------------------------------------------------------------------------------------


def table_names(parts: Parts) -> tuple[str, ...]:
    """Of a table, as its database knows it, without what it would be taken for anyway; empty where none is named."""
    names = split_names(unquote(parts.table or "")) or ()
    if _kind(parts) != "postgresql":  # there names are taken exactly, as they are quoted
        names = tuple(re.sub("[A-Z]", lambda letter: letter[0].lower(), name) for name in names)
    if len(names) > 1 and _kind(parts) == "duckdb" and names[0] == Path(unquote(parts.path)).stem.lower():
        names = names[1:]
    return names[1:] if len(names) == 2 and names[0] == _USUAL_SCHEMAS[_kind(parts)] else names


def split_names(table: str) -> tuple[str, ...] | None:
    """``schema.name`` → both; a name with a dot in it stands in double quotes, as in SQL. ``None``: it is no name."""
    found: list[str] = []
    at = 0
    while at < len(table):
        one = _NAMES.match(table, at)
        if one is None or (one.end() < len(table) and table[one.end()] != "."):
            return None
        found.append(one[1].replace('""', '"') if one[1] else one[2])
        at = one.end() + 1
    return tuple(found) if at == len(table) + 1 else None


def _written(names: tuple[str, ...]) -> str:
    return ".".join(
        '"' + quote(name.replace('"', '""'), safe=" ") + '"'
        if re.search(r'[."]', name)
        else quote(name, safe=" ")
        for name in names
    )


def _may_be_one_table(first: Parts, second: Parts) -> bool:
    """Whether they are of one table of a database, or a query reads what the other names."""
    names = [table_names(first), table_names(second)]
    for query, table in ((first.query, names[1]), (second.query, names[0])):
        if query is not None:
            return bool(table) and _is_named_in(unquote(query), table[-1])
    one, other = names
    if _kind(first) == "postgresql":  # which schema it is where none is named, the server decides
        return one[-1:] == other[-1:] and (len(one) != len(other) or one == other)
    return one == other


def _is_named_in(query: str, name: str) -> bool:
    end = "" if len(name.encode()) >= _CUT_FROM else r"\b"
    return re.search(rf"\b{re.escape(name)}{end}", query, re.IGNORECASE) is not None


def _may_be_one_database(first: Parts, second: Parts) -> bool:
    one, other = (_servers(parts) for parts in (first, second))
    if one is not None and other is not None and not one & other:
        return False
    databases = {found for parts in (first, second) if (found := _database(parts)) is not None}
    return len(databases) < 2


def _servers(parts: Parts) -> set[tuple[str, str]] | None:
    """Hosts with their ports; ``None`` where a file of the user's says them."""
    told = {key: unquote(value) for key, value in parts.parameters}
    if "service" in told or os.environ.get("PGSERVICE"):
        return None
    hosts, ports = zip(*(_host_and_port(one) for one in unquote(parts.host).split(",")), strict=True)
    named = (
        told.get("hostaddr")
        or told.get("host")
        or (",".join(hosts) if any(hosts) else os.environ.get("PGHOST", ""))
    )
    found = [_plain_host(one) for one in named.split(",")]
    usual = told.get("port") or os.environ.get("PGPORT") or _USUAL_PORTS["postgresql"]
    each = [port or usual.split(",")[0] for port in ports]
    return {(host, each[min(place, len(each) - 1)]) for place, host in enumerate(found)}


def _host_and_port(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.*?)(?::(\d+))?", text)
    return (text, "") if found is None else (found[1], found[2] or "")


def _plain_host(host: str) -> str:
    """A server on this machine, by a socket or an address of its own, is one."""
    plain = host.lower()
    return "localhost" if plain in _LOOPBACK or plain.startswith("/") else plain


def _database(parts: Parts) -> str | None:
    """As `_servers`, of the database's name."""
    told = dict(parts.parameters)
    if "service" in told or os.environ.get("PGSERVICE"):
        return None
    user = parts.login.partition(":")[0] or told.get("user") or os.environ.get("PGUSER")
    found = parts.path[1:] or told.get("dbname") or os.environ.get("PGDATABASE") or user
    if not found:
        with suppress(OSError, KeyError):
            found = getpass.getuser()
    return unquote(found).encode()[:_MOST_BYTES].decode(errors="ignore") if found else None
