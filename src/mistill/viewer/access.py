"""Who may look: whoever has the address that was shown to the user who started it, from a page of its own."""

from __future__ import annotations

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

_OWN_NAMES = frozenset({"127.0.0.1", "localhost"})
_OWN_SITES = frozenset({"same-origin", "none"})

HEADERS = {
    # Nothing but what this server has itself, and no script or style that stands in a page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""


class Access:
    """The token of a viewer, and the cookie that its page gets for it.

    The cookie holds another secret, so that it says nothing of the address; its name has the port, since cookies of one
    host are sent to all its ports.
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._cookie = f"mistill_view_{port}"

    @property
    def cookie(self) -> str:
        """As a ``Set-Cookie`` header."""
        return f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict"

    def is_token(self, given: str | None) -> bool:
        return given is not None and _is_same(given, self.token)

    def has_cookie(self, header: str | None) -> bool:
        """Whether a ``Cookie`` header has it."""
        try:
            found = SimpleCookie(header or "").get(self._cookie)
        except CookieError:
            return False
        return found is not None and _is_same(found.value, self._session)


def _is_same(given: str, secret: str) -> bool:
    """Whatever bytes there are in what somebody has given."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())


def is_own_host(header: str | None) -> bool:
    """Whether a ``Host`` header names this machine as itself: a name that a stranger lets stand for 127.0.0.1 does not.
    Any port may be, since one may be forwarded."""
    try:
        return urlsplit(f"//{header or ''}").hostname in _OWN_NAMES
    except ValueError:
        return False


def is_own_page(site: str | None, origin: str | None, host: str | None) -> bool:
    """Whether a request comes of a page of this very server, by its ``Sec-Fetch-Site`` and ``Origin``, where it has
    them: a page of another port of this machine would be sent with our cookie too."""
    return (site is None or site in _OWN_SITES) and (origin is None or origin == f"http://{host}")
