"""References to a place within a JSON document (``#/$defs/Name``), as JSON schemas have them."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote


def look_up(reference: str, document: Any) -> Any:
    """What stands at a place of a document; ``#`` is the whole.

    Source: RFC 6901, its form for URI fragments.

    Raises:
        LookupError: there is no such place, or the reference is no pointer: an anchor, or another document.
    """
    pointer = unquote(reference)
    if pointer != "#" and not pointer.startswith("#/"):
        raise LookupError(reference)
    target = document
    for part in pointer.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = cast("dict[str, Any]", target)[step]
        elif isinstance(target, list) and step.isascii() and step.isdecimal():
            target = cast("list[Any]", target)[int(step)]
        else:
            raise LookupError(reference)
    return target
