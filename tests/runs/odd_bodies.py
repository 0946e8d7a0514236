"""Bodies of answers that no server should send: a good one, mutated."""

from __future__ import annotations

import json
import random
from typing import Any

_DEEP = "@deep@"

_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 5.0, -(10**9), 2**53 + 1, 2**63, 2**64, 10**30, 1e300, "", " ", "7", "null", "@1e400@", "@NaN@",
    "half \ud83d", "\udfff", "nul \x00", "\x1b]52;c;aGk=\x07", "x" * 10_000, [], {}, [None], {"\ud83d": 1}, [[[]]],
    {"type": "text", "text": None}, [{"type": "text", "text": 5}], [{"type": "thinking", "thinking": [None, 3]}],
    [{"function": {"name": "f", "arguments": {"n": 10**30, "\udc00": "\ud800"}}}], [{"function": None}], _DEEP,
)  # fmt: skip


def good_body(text: str = "fine", finish_reason: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "tool_calls": None}
    return {
        "id": "an-id",
        "object": "chat.completion",
        "created": 1,
        "model": "mistral-small-latest",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def odd_body(rng: random.Random, text: str = "fine") -> str:
    """A good body in which some values are others, or gone, or whose text is cut, doubled or has a byte changed."""
    body: Any = good_body(text)
    for _ in range(rng.randint(1, 3)):
        _mutate(body, rng)
    raw = json.dumps(body, ensure_ascii=rng.random() < 0.9 or _has_surrogates(body))
    raw = raw.replace('"@1e400@"', "1e400").replace('"@NaN@"', "NaN").replace(f'"{_DEEP}"', _deep(rng))
    place = rng.randrange(len(raw))
    match rng.randrange(12):
        case 0:
            return raw[:place]
        case 1:
            return raw + raw
        case 2:
            return raw[:place] + chr(rng.randrange(1, 0x300)) + raw[place + 1 :]
        case 3:
            return "\ufeff" + raw
        case _:
            return raw


def _mutate(node: Any, rng: random.Random) -> None:
    while True:
        places: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return
        place = rng.choice(places)
        inner = node[place]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            node = inner
            continue
        if isinstance(node, dict) and rng.random() < 0.2:
            del node[place]
        else:
            node[place] = rng.choice(_ODD)
        return


def _deep(rng: random.Random) -> str:
    levels = rng.choice((150, 900, 1500, 100_000))
    return "[" * levels + "]" * levels


def _has_surrogates(body: Any) -> bool:
    return "\\ud" in json.dumps(body)
