"""Text from elsewhere as a page shows it: nothing in it is obeyed, and a long one is cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from msgspec import Struct

from mistill.characters import whole_characters
from mistill.visible import visible

MAX_SHOWN_CHARS = 50_000
MAX_PREVIEW_CHARS = 300


class Text(Struct, frozen=True):
    """A text, as far as it is shown. ``chars``: how long all of it is."""

    text: str
    chars: int

    @property
    def is_cut(self) -> bool:
        return self.chars > len(self.text)


def page_text(text: str, most: int = MAX_SHOWN_CHARS) -> Text:
    """Its beginning, with what a page would obey or hide (escapes, NUL, turned direction) written out."""
    part = text[:most]
    return Text(visible(whole_characters(part)), len(text) if len(text) > len(part) else len(visible(part)))


def page_json(value: Any, most: int = MAX_SHOWN_CHARS) -> Text:
    """A JSON value for people; a text as it is."""
    return page_text(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2), most
    )


def preview(text: str) -> str:
    """One line of it."""
    line = " ".join(text[: 4 * MAX_PREVIEW_CHARS].split())
    cut = len(line) > MAX_PREVIEW_CHARS or len(text) > 4 * MAX_PREVIEW_CHARS
    return visible(whole_characters(line[:MAX_PREVIEW_CHARS])) + ("…" if cut else "")


def preview_of_record(record: dict[str, Any]) -> str:
    """The columns of a row on one line."""
    if len(record) == 1:
        (value,) = record.values()
        return preview(_flat(value))
    parts = [f"{name}: {_flat(value)[:MAX_PREVIEW_CHARS]}" for name, value in list(record.items())[:20]]
    return preview(" · ".join(parts))


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def texts_in(value: Any) -> Iterator[str]:
    """Every text and number in a JSON value, without the keys."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            pending.extend(cast("dict[str, Any]", one).values())
        elif isinstance(one, list):
            pending.extend(cast("list[Any]", one))
        elif one is not None:
            yield json.dumps(one)
