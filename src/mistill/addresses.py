"""Addresses of what is no file of this machine: ``s3://bucket/rows.jsonl``, ``postgresql://host/db?table=rows``.

What of an address is secret, a password or a signature, is needed where something is opened, and nowhere else. So it is
cut out where an address comes in, and kept in this process alone (`keep_secrets`): whatever shows, logs or remembers an
address has none to tell. `whole` gives it back to whoever opens it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
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

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_COLLAPSED = re.compile(rf"({'|'.join([*STORES, *DATABASES])}):/(?!/)")
_SECRET = re.compile(r"pass|pwd|secret|token|key|sig|credential|auth", re.IGNORECASE)
_whole: dict[str, str] = {}


def scheme_of(name: object) -> str | None:
    """``s3`` of ``"s3://bucket/key"``, in small letters; ``None`` of what is no address: a path, ``"-"``."""
    found = _SCHEME.match(name) if isinstance(name, str) else None
    return None if found is None else found[1].lower()


def is_of_table(name: object) -> bool:
    """Whether it is the address of a table, or of what a query gives."""
    return scheme_of(name) in DATABASES


def is_of_store(name: object) -> bool:
    """Whether it is the address of a file that is elsewhere."""
    return scheme_of(name) in STORES


def meant_address(path: object) -> str | None:
    """The address that was made a path of, which takes two slashes for one; ``None`` where it is a path."""
    found = _COLLAPSED.match(str(path))
    return None if found is None else f"{found[1]}://{str(path)[found.end() :]}"


def without_secrets(name: str) -> str:
    """The address as it may be shown; what is no address is given back as it is.

    A password is left out, and of the web's addresses whatever stands before the host and after the path: what signs
    one (``?X-Amz-Signature=…``, ``?sig=…``) has other names at every store. Of the others, parameters by whose names
    one sees that they are secret.
    """
    scheme = scheme_of(name)
    if scheme is None:
        return name
    start, rest = name[: len(scheme) + 3], name[len(scheme) + 3 :]
    if scheme in DATABASES:
        return start + _of_database(rest)
    if STORES.get(scheme, "http") == "http":
        place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{start}{place.rpartition('@')[2]}{slash}{path}"
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    path, _, parameters = path.partition("?")
    return f"{start}{user.partition(':')[0]}{at}{host}{slash}{path}{_without_secret(parameters)}"


def _of_database(rest: str) -> str:
    """A password may have any character, written as it is too: only what says the table or query ends it for sure."""
    said = re.search(r"[?&](?:table|query)=", rest)
    end = len(rest) if said is None else said.start()
    user, at, place = rest[:end].rpartition("@")
    place, _, parameters = (place + rest[end:]).partition("?")
    return f"{user.partition(':')[0]}{at}{place}{_without_secret(parameters)}"


def _without_secret(parameters: str) -> str:
    before, query, sql = parameters.partition("query=") if "query=" in parameters else (parameters, "", "")
    kept = [one for one in before.split("&") if one and not _SECRET.search(one.partition("=")[0])]
    kept += [query + sql] if query else []
    return f"?{'&'.join(kept)}" if kept else ""


def keep_secrets(name: str) -> str:
    """The address without its secrets, which `whole` knows from now on, in this process."""
    shown = without_secrets(name)
    if shown != name:
        _whole[shown] = name
    return shown


def whole(name: str) -> str:
    """An address with its secrets, where they were given with it."""
    return _whole.get(name, name)


_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def without_secrets_in(text: str) -> str:
    """A text of somebody else's, such as an error of a library, with each address in it as it may be shown."""
    return _IN_TEXT.sub(lambda found: without_secrets(found[0]), text)


_IN_FILES: Final = ("sqlite", "duckdb")


def is_elsewhere(name: object) -> bool:
    """Whether it is the address of what is not on this machine; a database in a file is, as a rule."""
    scheme = scheme_of(name)
    return scheme is not None and scheme not in _IN_FILES


def database_file(name: str) -> str | None:
    """The path of a database that is a file: ``rows.db`` of ``sqlite:///rows.db?table=t``; ``None`` of any other."""
    scheme = scheme_of(name)
    if scheme not in _IN_FILES:
        return None
    return unquote(re.split(r"\?", name[len(scheme) + 3 :], maxsplit=1)[0].removeprefix("/"))


def named_beside(output: str, ending: str) -> Path:
    """A file of this machine that is called as an output is, up to its first dot: beside it; in the working directory
    where the output has an address."""
    path = Path(output)
    if scheme_of(output) is not None:
        place, _, parameters = without_secrets(output).partition("?")
        table = re.search(r"(?:^|&)table=([^&]*)", parameters)
        name = place.rstrip("/").rpartition("/")[2] if table is None else unquote(table[1]).rpartition(".")[2]
        path = Path(re.sub(r'[/\\"]', "", name) or "output")
    return path.with_name(f"{path.name.partition('.')[0] or path.name}{ending}")
