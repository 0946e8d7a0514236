"""A structured answer as one value of a column."""

from __future__ import annotations

from typing import Any

import msgspec


def column_value(text: str | None, value: Any) -> Any:
    """What stands in a record for a structured answer: a text without its quotes, a number to the digit, a boolean or
    null; of an object or a list its JSON text.

    Args:
        text: the answer, JSON. ``value``: as it was validated.
    """
    if text is None or not (json := text.strip()) or json[0] in "{[":
        return text
    if json[0] == '"':  # a number may have been read out of a text
        return value if type(value) in (bool, int, float) else msgspec.json.decode(json)
    return None if json == "null" else msgspec.Raw(json.encode())
