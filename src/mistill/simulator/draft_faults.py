"""Faults of content: good answers bent out of shape, as clients meet them."""

from __future__ import annotations

from mistill.simulator.drafts import DraftedAnswer, count_tokens


def reshape(drafts: list[DraftedAnswer], fault_name: str) -> list[DraftedAnswer]:
    """The drafts with this fault in them; faults of another kind change nothing here."""
    if fault_name == "empty_choices":
        return []
    for draft in drafts:
        _bend(draft, fault_name)
    return drafts


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
