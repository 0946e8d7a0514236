"""Text from elsewhere made visible: what a terminal would obey is written out, and moves no cursor."""

from __future__ import annotations

import re

# Control characters but for line feed and tab (C0, DEL, C1, where ESC and its one-byte twin CSI are), line separators,
# and those that turn the direction of text (https://www.unicode.org/reports/tr9, explicit formatting characters).
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LINE_END = re.compile("\r\n")


def visible(text: str) -> str:
    """The text with what a terminal would obey written out: ``\\x1b`` for an escape."""
    return _OBEYED.sub(lambda found: f"{found[0]!a}"[1:-1], text)


def visible_json(text: str) -> str:
    """JSON whose strings hold nothing that a terminal would obey; it means the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible_records(lines: bytes) -> bytes:
    """Whole lines of JSON or CSV, in UTF-8, for a terminal; JSON means the same."""
    text = lines.decode("utf-8", "replace")
    return "\r\n".join(map(visible_json, _LINE_END.split(text))).encode()
