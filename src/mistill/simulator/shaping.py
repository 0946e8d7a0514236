"""Faults of content: good answers bent out of shape, as clients meet them."""

from __future__ import annotations

from mistill.simulator.answers import Draft, count_tokens


def reshape(drafts: list[Draft], fault_name: str) -> list[Draft]:
    """The drafts with this fault in them; faults of another kind change nothing here."""
    if fault_name == "empty_choices":
        return []
    for draft in drafts:
        _bend(draft, fault_name)
    return drafts


def _bend(draft: Draft, fault_name: str) -> None:
    match fault_name:
        case "null_content":
            draft.no_content = True
        case "chunked_content":
            draft.chunked = True
        case "length":
            _replace(draft, draft.text[: len(draft.text) // 2])
            draft.finish_reason = "length"
        case "invalid_json" if draft.is_json:
            _replace(draft, draft.text[:-1])
        case "wrong_json" if draft.is_json:
            _replace(draft, '{"unexpected": true}')
        case "fenced_json" if draft.is_json:
            _replace(draft, f"Here it is:\n```json\n{draft.text}\n```\n")
        case _:
            pass


def _replace(draft: Draft, text: str) -> None:
    draft.completion_tokens += count_tokens(text) - count_tokens(draft.text)
    draft.text = text
