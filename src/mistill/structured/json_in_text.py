"""Where in an answer a JSON value stands by itself: the rules of local repair. Pure, and linear in the text's length.

A value is taken whole or not at all. It stands by itself where

- nothing else in the answer is JSON, unless it is the same value again: of two, nobody knows which is meant;
- it is no part of anything larger: not of JSON that is broken or cut short, a string, a comment, code, markup, a list,
  or the thinking of a model;
- it begins its line, or follows words that lead to it: a sentence, or what ends with a colon; and it ends its line, or
  a new sentence begins behind it. In the middle of a sentence it is what the sentence is about, and not the answer.

A code fence, backticks or one pair of tags may stand around the value, if nothing else is in there.

What is around the values is looked at as one text, in which each value is one mark.
"""

from __future__ import annotations

import json
import re

from msgspec import Struct

_MARK = "\0"
_MAX_PIECES = 1000
"""More JSON and brackets than that are no answer in prose, and would take long to look through."""


class StandingValue(Struct, frozen=True, gc=False):
    """A value of JSON in a text.

    Attributes:
        start, end: where it stands.
        has_own_lines: nothing but a fence stands beside it: a ``[1]`` in a sentence may be a footnote.
    """

    start: int
    end: int
    has_own_lines: bool


def standing_values(text: str) -> list[StandingValue]:
    """Each JSON value that stands in ``text`` by itself, as said above; none where any of them does not."""
    start = _end_of_thinking(text)
    if start is None:
        return []
    if whole := _whole_value(text, start):
        return [whole]
    found = _objects_and_arrays(text, start)
    if found is None:
        return []
    spans, around = found
    own_lines = _own_lines(around)
    return (
        [StandingValue(*span, own) for span, own in zip(spans, own_lines, strict=True)] if own_lines else []
    )


# --- the values -------------------------------------------------------------------------------------------------------

_BRACKET = re.compile(r"[{}\[\]]")
_BRACKETED_WORDS = re.compile(r"""(?:\[(?!\s*\])[^{}\[\]":\n]*\]|\{(?!\s*\})[^{}\[\]",:\n]*\})""")
_FENCE_OPENING = re.compile(r"\s*(```|~~~)[^\n`]*\n\s*")
_REST_OF_LINE_IS_BLANK = re.compile(r"[ \t\r]*(?:\n|\Z)")
_decoder = json.JSONDecoder()


def _whole_value(text: str, start: int) -> StandingValue | None:
    """All that comes after the thinking, or all of one code fence, where that is a value of any kind."""
    end = len(text.rstrip())
    opening = _FENCE_OPENING.match(text, start)
    if opening is not None and text.endswith(opening[1], opening.end(), end):
        start, end = opening.end(), end - len(opening[1])
    elif not start:
        return None  # has been read as it is
    value = text[start:end].strip()
    start = text.index(value, start)
    return StandingValue(start, start + len(value), has_own_lines=True) if _is_json(value) else None


def _is_json(text: str) -> bool:
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _objects_and_arrays(text: str, start: int) -> tuple[list[tuple[int, int]], str] | None:
    """Their spans, and what is around them; ``None`` where a bracket belongs to none of them, nor to words."""
    spans: list[tuple[int, int]] = []
    around: list[str] = []
    position = start
    while bracket := _BRACKET.search(text, position):
        begin = bracket.start()
        around.append(text[position:begin].replace(_MARK, " "))
        position, is_value = _bracketed(text, begin)
        if not position or len(around) > _MAX_PIECES:
            return None
        if is_value:
            spans.append((begin, position))
        around.append(_MARK if is_value else _WORDS)
    around.append(text[position:].replace(_MARK, " "))
    return spans, "".join(around)


def _bracketed(text: str, begin: int) -> tuple[int, bool]:
    """Where that which begins with a bracket ends, 0 if nowhere; and whether it is a value, or words in brackets.

    ``[1]`` and ``[2, 3]`` on a line with others are words: a footnote, as a rule.
    """
    words = _BRACKETED_WORDS.match(text, begin)
    if words is not None and not _is_alone_on_its_line(text, begin, words.end()):
        return words.end(), False
    try:
        return _decoder.raw_decode(text, begin)[1], True
    except (ValueError, RecursionError):
        return (words.end(), False) if words is not None else (0, False)


def _is_alone_on_its_line(text: str, begin: int, end: int) -> bool:
    is_first = not text[text.rfind("\n", 0, begin) + 1 : begin].strip()
    return is_first and _REST_OF_LINE_IS_BLANK.match(text, end) is not None


# --- what stands around them ------------------------------------------------------------------------------------------

_THINK = r"think|thinking|thoughts?|reasoning|reflection|scratchpad"
_THINKING_BEGINS = re.compile(rf"\s*(?:<(?:{_THINK})>|\[THINK\])", re.IGNORECASE)
_THINKING_ENDS = re.compile(rf"</(?:{_THINK})>|\[/THINK\]", re.IGNORECASE)
_THINKING_ENDS_ALONE = re.compile(
    rf"^[ \t]*(?:</(?:{_THINK})>|\[/THINK\])[ \t\r]*$", re.IGNORECASE | re.MULTILINE
)

_WORDS = "[]"
_STOP_TOKEN = re.compile(r"(?:<\|[^|<>\n]{1,40}\|>|</s>)\Z")
_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n`\0]*\n\s*\0\s*?(?:\1[ \t\r]*$|\Z)", re.MULTILINE)
_BACKTICKS = re.compile(r"(?<!`)(`{1,3})\0\1(?!`)")
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]*)>\s*\0\s*</\1>")
_QUOTED_WORDS = re.compile(r"""(?<![^\s(])"(?=\S)[^"\\\n\0]*(?<=\S)"(?=[\s.!?;)]|\Z)""")
_NO_PROSE = re.compile(r"""["`]|'''|~~~|(?<!:)//|/\*|<!--|</?[A-Za-z?!][^<>\n]*>|\[/?THINK""")
_PARENTHESIS_OR_MARK = re.compile(r"[()\0]")
_BLANK = " \t\r\ufeff\u200b"

_TIED_BEFORE = tuple("\"'“„«‘‚‹`(=,\\|&+<>")
_TIED_AFTER = tuple("\"'”“»’‘›`),=|&+:;")
"""What a value belongs to, if it ends the line before it, or begins the one after it."""

_FIRST_OF_LEAD_IN = re.compile(r"[*_]*[\w(\[¡¿\u2190-\U0010ffff]")  # no mark of a comment or of a list
_LAST_OF_LEAD_IN = tuple(":.!?…。：！")
_A_WORD = re.compile(r"[^\W\d_]{2}")
_SHORT_FORM = re.compile(r"\b\w\.\s?\w\.\Z")  # "e.g.": an example is no answer

_NEW_SENTENCE = re.compile(r"\.?\s+(?![\w.-]+\s*[:=])([^\W\d_])")  # and no further key

_KEY = re.compile(r"\s*(?:- )?[\w.-]+:(?=\s|\Z)")
_KEY_OF_VALUE = re.compile(r"\s*(?:- )?[\w.-]+:\s*\0")


def _end_of_thinking(text: str) -> int | None:
    """Where the answer begins after the thinking that a server has left in it; ``None``: it is all thinking.

    Where the prompt had the opening mark already, the answer has the closing one alone, on a line of its own: no JSON
    string has lines.
    """
    begins = _THINKING_BEGINS.match(text)
    ends = [end.end() for end in (_THINKING_ENDS if begins else _THINKING_ENDS_ALONE).finditer(text)]
    return ends[-1] if ends else None if begins else 0


def _own_lines(around: str) -> list[bool]:
    """For each marked value whether its lines are its own; nothing where one does not stand by itself."""
    around = _undressed(around)
    if _NO_PROSE.search(around) or _has_open_parenthesis(around):
        return []
    lines = around.split("\n")
    filled = [number for number, line in enumerate(lines) if line.strip(_BLANK)]
    own_lines: list[bool] = []
    for place, number in enumerate(filled):
        line = lines[number]
        if _MARK not in line:
            continue
        before, _, after = line.strip(_BLANK).partition(_MARK)
        before = before.rstrip(_BLANK)
        above = lines[filled[place - 1]] if place else ""
        below = lines[filled[place + 1]] if place + 1 < len(filled) else ""
        is_led = _leads(before) if before else not above.rstrip(_BLANK).endswith(_TIED_BEFORE)
        if not is_led or not _may_follow(after) or below.lstrip(_BLANK).startswith(_TIED_AFTER):
            return []
        if _is_one_of_several_keys(line, *_next_lines(lines, number)):
            return []
        own_lines.append(not before and not after)
    return own_lines


def _undressed(around: str) -> str:
    """Without fences, backticks and tags that have a value and nothing else in them, and with quoted words as words."""
    around = _STOP_TOKEN.sub("", around.rstrip())
    for dress in (_FENCE, _BACKTICKS, _ELEMENT, _FENCE):
        around = dress.sub(_MARK, around)
    return _QUOTED_WORDS.sub(_WORDS, around)


def _has_open_parenthesis(around: str) -> bool:
    depth = 0
    for part in _PARENTHESIS_OR_MARK.findall(around):
        if part == _MARK and depth:
            return True
        depth = max(0, depth + (part == "(") - (part == ")"))
    return False


def _leads(words: str) -> bool:
    """Whether ``words`` lead to what follows them: a sentence does, and what ends with a colon."""
    words = words.rstrip("*_")
    return (
        words.endswith(_LAST_OF_LEAD_IN)
        and _FIRST_OF_LEAD_IN.match(words) is not None
        and _A_WORD.search(words) is not None
        and _SHORT_FORM.search(words) is None
    )


def _next_lines(lines: list[str], number: int) -> tuple[str, str]:
    above = lines[number - 1] if number else ""
    return above, lines[number + 1] if number + 1 < len(lines) else ""


def _may_follow(words: str) -> bool:
    """Whether ``words`` on its line leave a value as it is: none do, a full stop, and sentences of their own."""
    sentence = _NEW_SENTENCE.match(words)
    return words in ("", ".") or (sentence is not None and not sentence[1].islower())


def _is_one_of_several_keys(line: str, above: str, below: str) -> bool:
    """Whether it is a part of YAML: the value of a key right beside other keys."""
    if _KEY_OF_VALUE.match(line):
        return bool(_KEY.match(above) or _KEY.match(below))
    return bool(_KEY.fullmatch(above.rstrip(_BLANK)) and _KEY.match(below))
