"""Faults of content: good answers bent out of shape, as clients meet them."""

from __future__ import annotations

from mistill.simulator.drafts import TOKEN_CHARS, DraftedAnswer, count_tokens, limit

_LOOPS = {"loop_space": "\n" + " " * 7, "loop_digits": "3", "loop_text": "and so on, "}
"""What repeats itself until an answer may have no more tokens."""


def reshape(
    drafts: list[DraftedAnswer], fault_name: str, *, max_tokens: int | None = None, room: int
) -> list[DraftedAnswer]:
    """The drafts with this fault in them; faults of another kind change nothing here.

    Args:
        max_tokens: of an answer, where the request bounds it. ``room``: how many the context has for it.
    """
    if fault_name == "empty_choices":
        return []
    for draft in drafts:
        if fault_name not in _LOOPS:
            _bend(draft, fault_name)
        elif draft.is_json and draft.text:
            _replace(draft, _looping(draft.text, fault_name, room if max_tokens is None else max_tokens))
            limit(draft, max_tokens, "length")
            limit(draft, room, "model_length")
    return drafts


def _looping(json_text: str, fault_name: str, tokens: int) -> str:
    """JSON that gets no further than its first value: so many tokens and more of it."""
    begun = json_text[: json_text.find(":") + 1] or json_text[:1]
    begun += {"loop_digits": "0.", "loop_text": '"'}.get(fault_name, "")
    again = _LOOPS[fault_name]
    return begun + again * (tokens * TOKEN_CHARS // len(again) + 1)


def _bend(draft: DraftedAnswer, fault_name: str) -> None:
    match fault_name:
        case "null_content":
            draft.no_content = True
        case "chunked_content":
            draft.chunked = True
        case "length":
            _replace(draft, draft.text[: len(draft.text) // 2])
            draft.finish_reason = "length"
        case "invalid_json" | "wrong_json" | "fenced_json":
            if draft.is_json:
                _replace(draft, _spoil(draft.text, fault_name))
            for call in draft.tool_calls:
                if isinstance(arguments := call["function"]["arguments"], str):
                    call["function"]["arguments"] = _spoil(arguments, fault_name)
        case _:
            pass


def _spoil(json_text: str, fault_name: str) -> str:
    """JSON without its end, of another shape, or inside a code fence with a word before it."""
    if fault_name == "invalid_json":
        return json_text[:-1]
    if fault_name == "wrong_json":
        return '{"unexpected": true}'
    return f"Here it is:\n```json\n{json_text}\n```\n"


def _replace(draft: DraftedAnswer, text: str) -> None:
    draft.completion_tokens += count_tokens(text) - count_tokens(draft.text)
    draft.text = text
