"""Where requests go: the address of a server, and whose it is."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from mistill.errors import InputError
from mistill.wording import Setting, words

MISTRAL_ENDPOINT = "https://api.mistral.ai"
_MISTRAL_HOSTS = frozenset({"api.mistral.ai", "codestral.mistral.ai"})
_REGIONAL = re.compile(r"api\.[a-z0-9-]+\.mistral\.ai")


def normalise_endpoint(endpoint: str) -> str:
    """``https://host/v1/`` → ``https://host``. A trailing slash or ``/v1`` is understood.

    Raises:
        InputError: not an absolute http(s) URL, or one with a user, a query or a fragment.
    """
    hint = "give the base URL, for example https://api.mistral.ai"
    shown = endpoint.rpartition("@")[2]  # what stands before may be a password
    try:
        parts = urlsplit(endpoint.strip())
        _ = parts.port  # parsed lazily: a bad port raises here
    except ValueError as error:
        raise InputError(f"endpoint {shown!r} is not a URL: {error}", hint=hint) from error
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InputError("endpoint must have no user, query or fragment", hint=hint)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in parts.netloc):
        raise InputError(f"endpoint {shown!r} is not an http(s) URL", hint=hint)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def is_this_machine(endpoint: str) -> bool:
    """Whether it names the machine that this runs on."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def regional_host(endpoint: str) -> str | None:
    """The host, where it is one of Mistral's that keep data in a region (``api.eu.mistral.ai``): these have neither
    files nor batch jobs, and cost more."""
    host = urlsplit(endpoint).hostname or ""
    return host if _REGIONAL.fullmatch(host) else None


def has_admin_api_elsewhere(endpoint: str) -> bool:
    """Whether it is one of Mistral's hosts beside the first, which is the one that the Admin API is published for."""
    parts = urlsplit(normalise_endpoint(endpoint))
    return parts.scheme == "https" and (
        parts.hostname in _MISTRAL_HOSTS or regional_host(endpoint) is not None
    )


def check_may_have_key(endpoint: str, source: str) -> None:
    """An endpoint that no user named, but something that may be somebody else's, is not sent the user's key.

    Args:
        endpoint: as it stands there.
        source: what named it, for the error: a dump, a settings file, a ledger.

    Raises:
        InputError: it is neither this machine nor Mistral's own.
    """
    parts = urlsplit(normalise_endpoint(endpoint))
    is_mistral = parts.hostname in _MISTRAL_HOSTS or regional_host(endpoint) is not None
    if is_this_machine(endpoint) or (parts.scheme == "https" and is_mistral):
        return
    raise InputError(
        f"{source} names the endpoint {endpoint}, and your key would be sent there",
        hint=words(
            "if that is right, name it yourself: ",
            Setting("endpoint"),
            ", or say that what names it is yours: ",
            Setting("trust", True),
        ),
    )
