"""Text from elsewhere made visible: what a terminal would obey, and what nobody sees, is written out."""

from __future__ import annotations

import json
import re

# Control characters but for line feed and tab (C0, DEL, C1, where ESC and its one-byte twin CSI are), line separators,
# and those that turn the direction of text (https://www.unicode.org/reports/tr9, explicit formatting characters).
_OBEYED = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
# What has no shape (https://www.unicode.org/reports/tr44, Default_Ignorable_Code_Point), but for joiners and selectors.
_UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Joiners make one emoji of several, and shape letters of Arabic and Indic scripts; a selector makes an emoji of a sign.
_EMOJI = "\u203c\u2049\u2100-\u2bff\u3030\u303d\u3297\u3299\ufe0f\U0001f000-\U0001faff"
_JOINED = f"{_EMOJI}\u0600-\u109f\u1700-\u1cff"
_WRITTEN_OUT = re.compile(
    f"[{_OBEYED}{_UNSEEN}]"
    f"|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])"
    f"|(?<![{_EMOJI}0-9#*\u00a9\u00ae])[\ufe00-\ufe0f]"
)
_LINE_END = re.compile("\r\n")


def visible(text: str) -> str:
    """The text with what a terminal would obey, or nobody sees, written out: ``\\x1b`` for an escape."""
    return _WRITTEN_OUT.sub(lambda found: f"{found[0]!a}"[1:-1], text)


def visible_json(text: str) -> str:
    """JSON whose strings hold nothing that a terminal would obey, or nobody sees; it means the same."""
    return _WRITTEN_OUT.sub(lambda found: _in_json(found[0]), text)


def _in_json(character: str) -> str:
    """As an escape, of a pair beyond 16 bits."""
    return f"\\u{ord(character):04x}" if character.isascii() else json.dumps(character)[1:-1]


def visible_records(lines: bytes) -> bytes:
    """Whole lines of JSON or CSV, in UTF-8, for a terminal; JSON means the same."""
    text = lines.decode("utf-8", "replace")
    return "\r\n".join(map(visible_json, _LINE_END.split(text))).encode()
