"""Addresses of what is no file of this machine: ``s3://bucket/rows.jsonl``, ``postgresql://host/db?table=rows``.

What of an address is secret, a password or a signature, is needed where something is opened, and nowhere else. So an
address is taken apart where it comes in, and goes on as `shown`: put together anew from those of its parts that are
known to be harmless. The rest stays in this process alone (`keep_secrets`), for whoever opens it (`whole`), and for
`harmless_words`, which lets no text of a library through that has some of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final, NamedTuple
from urllib.parse import unquote

STORES: Final = {
    "s3": "s3", "s3a": "s3",
    "gs": "gs", "gcs": "gs",
    "az": "az", "abfs": "az", "abfss": "az",
    "hf": "hf",
    "http": "http", "https": "http",
}  # fmt: skip
"""Where whole files are, by the schemes of their addresses."""

DATABASES: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "duckdb": "duckdb",
}
"""Where tables are."""

KNOWN_ADDRESSES: Final = (
    "s3://, gs://, az://, hf://, https://; of databases sqlite://, postgresql://, duckdb://"
)
"""All of them in words, for messages."""

_KNOWN = "|".join(sorted([*STORES, *DATABASES, "file"], key=len, reverse=True))
# A known scheme makes an address of a text however many slashes follow: a path that loses one is of the same secrets.
_ADDRESS = re.compile(
    rf"((?:{_KNOWN})(?=:)|[A-Za-z][A-Za-z0-9+.:-]+(?=:/)):(/*)(.*)", re.IGNORECASE | re.DOTALL
)
# What has one in it, behind a blank or a folder, is none, and no path either.
_INSIDE = re.compile(rf"((?:{_KNOWN})(?=:/)|[A-Za-z][A-Za-z0-9+.-]+(?=://))", re.IGNORECASE)
_HIDDEN: Final = "…"


class Parts(NamedTuple):
    """What an address is made of.

    Attributes:
        login: what stands before the ``@``. ``host``: a server, several, a bucket, a container.
        path: from its ``/`` on.
        parameters: those that are neither a table nor a query, by their names.
        table, query: as written. ``rest``: what else there is.
    """

    scheme: str
    login: str
    host: str
    path: str
    parameters: tuple[tuple[str, str], ...] = ()
    table: str | None = None
    query: str | None = None
    rest: str = ""


def scheme_of(name: object) -> str | None:
    """``s3`` of ``"s3://bucket/key"``, in small letters; ``None`` of what is no address: a path, ``"-"``."""
    if not isinstance(name, str) or ":" not in name:
        return None
    found = _ADDRESS.match(name) or _INSIDE.search(name)
    return None if found is None else found[1].lower()


def is_of_table(name: object) -> bool:
    """Whether it is the address of a table, or of what a query gives."""
    return scheme_of(name) in DATABASES


def is_of_store(name: object) -> bool:
    """Whether it is the address of a file that is elsewhere."""
    return scheme_of(name) in STORES


# --- taking one apart -------------------------------------------------------------------------------------------------


def parts_of(name: str) -> Parts | None:
    """The parts of an address; ``None`` where one cannot be sure which is which: see `oddity`."""
    found = _ADDRESS.match(name)
    if found is None or len(found[2]) < 2 or any(character < " " for character in name):
        return None
    scheme, rest = found[1].lower(), found[2][2:] + found[3]
    kind = DATABASES.get(scheme) or STORES.get(scheme)
    match kind:
        case "sqlite" | "duckdb":
            return _of_file(scheme, rest)
        case "postgresql":
            return _of_server(scheme, rest)
        case "http":
            return _of_web(scheme, rest)
        case None:
            return None
        case _:
            return _of_store(scheme, rest)


_WEB_HOST = re.compile(r"(?:[\w.%~-]+|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?")
_SERVER = r"(?:[\w.%~-]*|\[[0-9A-Fa-f:.%]+\])(?::\d{1,5})?"
_SERVERS = re.compile(rf"{_SERVER}(?:,{_SERVER})*")
_LOOKS_LIKE_SERVER = re.compile(rf"{_SERVER}/[^/?]*\?\w+=")
_CONTAINER = re.compile(r"(?:arn:[^@/\s]+|[^:@/\s]*)")
_AZURE_CONTAINER = re.compile(r"[^:@/\s]*(?:@[\w.-]+)?")


def _of_web(scheme: str, rest: str) -> Parts | None:
    place, tail = _split(rest, r"[?#]")
    authority, slash, path = place.partition("/")
    login, _, host = authority.rpartition("@")
    # http://me:pass/word@host is one of a host "me" to a library, and of a password to whoever wrote it.
    if (":" in authority and "@" in path + tail) or _WEB_HOST.fullmatch(host) is None:
        return None
    return Parts(scheme, login, host, slash + path, rest=tail)


def _of_store(scheme: str, rest: str) -> Parts | None:
    # Keys may have any character: what stands behind a ? is a parameter where it looks like one.
    place, tail = _split(rest, r"[?#](?=[^/]*=)")
    container, slash, path = place.partition("/")
    pattern = _AZURE_CONTAINER if STORES[scheme] == "az" else _CONTAINER
    if pattern.fullmatch(container) is None:
        return None
    return Parts(scheme, "", container, slash + path, _pairs(tail[1:]))


def _of_file(scheme: str, rest: str) -> Parts | None:
    place, tail = _split(rest, r"\?")
    if not place.startswith("/"):
        return None
    parameters, table, query = _told(tail[1:])
    return Parts(scheme, "", "", place, parameters, table, query)


def _of_server(scheme: str, rest: str) -> Parts | None:
    """A password may have any character, written as it is too: only what says the table or query ends it for sure."""
    said = re.search(r"[?&](?:table|query)=", rest)
    end = len(rest) if said is None else said.start()
    login, _, place = rest[:end].rpartition("@")
    place, more = _split(place, r"\?")
    hosts, slash, database = place.partition("/")
    if (
        _SERVERS.fullmatch(hosts) is None
        or "/" in database
        or re.search(r"[/?]", login.partition(":")[0])
        or _LOOKS_LIKE_SERVER.match(login)
    ):
        return None
    parameters, table, query = _told(f"{more[1:]}&{rest[end + 1 :]}")
    return Parts(scheme, login, hosts, slash + database, parameters, table, query)


def _split(text: str, pattern: str) -> tuple[str, str]:
    """Before what matches first, and from there on."""
    found = re.search(pattern, text)
    return (text, "") if found is None else (text[: found.start()], text[found.start() :])


def _told(text: str) -> tuple[tuple[tuple[str, str], ...], str | None, str | None]:
    """The parameters of a connection, the table and the query, which may have ``&`` in it: it ends them."""
    before, is_query, query = text.partition("query=")
    if before and before[-1] != "&":
        before, is_query, query = text, "", ""
    pairs = _pairs(before)
    tables = [value for name, value in pairs if name == "table"]
    others = tuple(pair for pair in pairs if pair[0] != "table")
    return others, tables[-1] if tables else None, query if is_query else None


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (one.partition("=") for one in text.split("&") if one)
    return tuple((unquote(name), value) for name, _, value in pairs)


# --- what may be shown ------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[\w.,:/%+~-]*")
_NUMBER = re.compile(r"[0-9,]*")
_OF_STORES: Final[Mapping[str, re.Pattern[str]]] = {
    **dict.fromkeys(("versionId", "versionid", "generation", "snapshot"), _NAME)
}
_OF_CONNECTIONS: Final[Mapping[str, re.Pattern[str]]] = {
    **dict.fromkeys(("host", "hostaddr", "dbname", "user", "service"), _NAME),
    **dict.fromkeys(("port", "connect_timeout"), _NUMBER),
    "sslmode": re.compile("disable|allow|prefer|require|verify-ca|verify-full"),
}
"""Parameters that are no secrets, and what their values look like."""
_PLAIN_LOGIN = re.compile(r"[\w.%+~-]*")
# What follows may be a text, which is somebody's data: in SQL quotes of several sorts begin one, comments too.
_NOT_PLAIN_SQL = re.compile(r"['\"$%&;\\`…]|--|/\*|://")


def shown(name: str) -> str:
    """The address as it may be shown: made of those of its parts that are known to be harmless. What is no address is
    given back as it is.

    A password is not among them, nor of the web's addresses whatever stands before the host and after the path: what
    signs one (``?X-Amz-Signature=…``, ``?sig=…``) has other names at every store. Of others, parameters by a list of
    those that are no secrets, and of a query what stands before its first text. Where one cannot be sure which part is
    which, only the scheme is.
    """
    scheme = scheme_of(name)
    if scheme is None:
        return name
    parts = parts_of(name)
    if _ADDRESS.match(name) is None:
        return f"{_HIDDEN}{scheme}://{_HIDDEN}"
    start = f"{name[: len(scheme)]}://"
    if parts is None:
        return f"{start}{_HIDDEN}"
    kind = DATABASES.get(scheme)
    if kind is None:
        known = [f"{key}={value}" for key, value in parts.parameters if _is_plain(key, value, _OF_STORES)]
        return f"{start}{parts.host}{parts.path}{'?' if known else ''}{'&'.join(known)}"
    known = [f"{key}={value}" for key, value in parts.parameters if _is_plain(key, value, _OF_CONNECTIONS)]
    known += [] if parts.table is None else [f"table={parts.table}"]
    known += [] if parts.query is None else [f"query={_plain_sql(parts.query)}"]
    return f"{start}{_user(parts)}{parts.host}{parts.path}{'?' if known else ''}{'&'.join(known)}"


def _is_plain(name: str, value: str, known: Mapping[str, re.Pattern[str]]) -> bool:
    return name in known and known[name].fullmatch(value) is not None


def _user(parts: Parts) -> str:
    user = parts.login.partition(":")[0]
    return "" if not user else f"{user if _PLAIN_LOGIN.fullmatch(user) else _HIDDEN}@"


def _plain_sql(query: str) -> str:
    found = _NOT_PLAIN_SQL.search(query)
    return query if found is None else f"{query[: found.start()]}{_HIDDEN}"


def oddity(name: str) -> tuple[str, str] | None:
    """Why an address cannot be opened as it is written, and how it is to be written; ``None``: it can."""
    if scheme_of(name) is None:
        return None
    found = _ADDRESS.match(name)
    if found is None:
        return f"{shown(name)} has an address in it, and is none", "give the address alone"
    scheme, kind = found[1].lower(), STORES.get(found[1].lower()) or DATABASES.get(found[1].lower())
    if scheme == "file":
        return "file:// is the address of a file that is here", "give its path"
    if kind is None or parts_of(name) is not None:
        return None
    if len(found[2]) < 2:
        return (
            f"{shown(name)} is written as a path",
            f"with two slashes behind the colon, as text: {scheme}://…; a file of that name: ./{scheme}:…",
        )
    if kind in ("sqlite", "duckdb"):
        return f"{shown(name)} names no file", f"with three slashes: {kind}:///rows.db?table=rows"
    if kind in ("http", "postgresql"):
        told = f"in a user or password write {_QUOTED}; an @ elsewhere as %40"
        return (
            f"{shown(name)} cannot be read for sure: which part of it is a host, and which a password",
            told,
        )
    return (
        f"{shown(name)} begins with what can be no bucket or container",
        "give credentials as docs/remote.md says, not in the address",
    )


_QUOTED: Final = "/ as %2F, ? as %3F, # as %23, : as %3A, @ as %40"


# --- what is secret ---------------------------------------------------------------------------------------------------

_whole: dict[str, str] = {}
_kept: dict[str, str] = {}
"""Addresses by those as which they may be shown, and the other way round."""
_alike: dict[str, int] = {}
"""How many were kept that look alike but for a number."""
_hidden: set[str] = set()
_PIECE = 8
"""Characters of a secret by which it is known, cut or not. Of a shorter one that is all of it."""
_SHORTEST_PASSWORD = 3
_SHORTEST_VALUE = 5
"""Of parameters: shorter ones are words of other texts too."""


def keep_secrets(name: str) -> str:
    """The address as it may be shown, with which `whole` and `harmless_words` know the rest from now on, in this
    process. Where that is the same of several addresses of the web, or queries, a number tells them apart."""
    if name in _whole or (harmless := shown(name)) == name:
        return name
    if (kept := _kept.get(name)) is None:
        kept = _kept[name] = _apart(name, harmless)
    _whole[kept] = name
    _hidden.update(_pieces(name, harmless))
    return kept


def _apart(name: str, harmless: str) -> str:
    is_of_web = STORES.get(scheme_of(name) or "") == "http"
    if not is_of_web and not harmless.endswith(_HIDDEN):
        return harmless
    number = _alike[harmless] = _alike.get(harmless, 0) + 1
    return harmless if number == 1 else f"{harmless}{f'?{_HIDDEN}' if is_of_web else ''}{number}"


def whole(name: str) -> str:
    """An address with its secrets, where they were given with it."""
    return _whole.get(name, name)


def _pieces(name: str, harmless: str) -> Iterator[str]:
    """What of an address is not shown, as a text of somebody else's may have it."""
    parts = parts_of(name)
    if parts is None:
        return
    login, colon, password = parts.login.partition(":")
    texts = re.findall(r"'([^']+)'|\$\$(.+?)\$\$", unquote(parts.query or ""), re.DOTALL)
    values = [
        value or key for key, value in parts.parameters
    ]  # what has no = may be the rest of a secret with &
    values += [value.rpartition("=")[2] for value in map(unquote, values)]  # options=-c%20a.b%3DSECRET
    for secret in (password if colon else login, *values, *re.split(r"[&=?#]", parts.rest), *chain(*texts)):
        shortest = _SHORTEST_PASSWORD if secret in (login, password) else _SHORTEST_VALUE
        for form in {secret, unquote(secret), secret.replace("\\", ""), " ".join(unquote(secret).split())}:
            if len(form) >= shortest:
                windows = range(max(1, len(form) - _PIECE + 1))
                yield from (piece for at in windows if (piece := form[at : at + _PIECE]) not in harmless)


_ENDS: Final = ".,:;!?)]}"
_IN_TEXT = re.compile(
    rf"((?:(?:{_KNOWN}):/|[A-Za-z][A-Za-z0-9+.-]*://)[^\s'\"<>]+)(['\"<>]\S*)?", re.IGNORECASE
)


def _shown_in_text(found: re.Match[str]) -> str:
    """What ends a phrase is no part of an address before it; of one that has secrets it might be, and a secret may have
    quotes in it."""
    address, rest = found[1], found[2] or ""
    bare = address.rstrip(_ENDS)
    is_harmless = shown(bare) == bare
    if re.search("[@=&]" if is_harmless else r"\w", rest):
        rest = "…"
    return (address if is_harmless else shown(address)) + rest


def harmless_words(text: str) -> str | None:
    """What a library or a server says, in one line: each address in it as it may be shown; ``None`` where something of
    a secret is left in it, however it is written there."""
    for harmless, name in _whole.items():
        text = text.replace(name, harmless)
    line = " ".join(_IN_TEXT.sub(_shown_in_text, text).split())
    seen = "\n".join((line, unquote(line), line.replace("\\", "")))
    return None if any(piece in seen for piece in _hidden) else line


# --- where it is ------------------------------------------------------------------------------------------------------

_IN_FILES: Final = ("sqlite", "duckdb")


def is_elsewhere(name: object) -> bool:
    """Whether it is the address of what is not on this machine; a database in a file is, as a rule."""
    scheme = scheme_of(name)
    return scheme is not None and scheme not in _IN_FILES


def database_file(name: str) -> str | None:
    """The path of a database that is a file: ``rows.db`` of ``sqlite:///rows.db?table=t``; ``None`` of any other."""
    parts = parts_of(name)
    return None if parts is None or parts.scheme not in _IN_FILES else unquote(parts.path[1:])
