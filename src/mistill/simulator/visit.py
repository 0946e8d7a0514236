"""One request on its way through the service."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp.web_request import BaseRequest

from mistill.simulator.queries import Query
from mistill.simulator.reply import Reply
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import Received


@dataclass(frozen=True, slots=True)
class Visit:
    """What a handler is given.

    Attributes:
        path: without a slash at its end.
        raw: the body; nothing where it is a form, which is read as it comes.
        key: a number that stands for the key.
        settings: those that held when the request came.
    """

    request: BaseRequest
    path: str
    raw: bytes
    key: int
    received: Received
    reply: Reply
    settings: Settings

    @property
    def query(self) -> Query:
        return Query(self.request.query, self.settings)

    def id_after(self, prefix: str) -> tuple[str, str]:
        """What the path names below ``prefix``, and what of it: ``("abc", "content")``, ``("abc", "")``."""
        its_id, _, part = self.path.removeprefix(prefix).strip("/").partition("/")
        return its_id, part
