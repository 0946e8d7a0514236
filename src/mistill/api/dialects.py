"""What servers that speak this API call its fields, and which of Mistral's they refuse.

Mistral refuses OpenAI's names, the others ignore or refuse Mistral's. A dialect is a table and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct

DialectName: TypeAlias = Literal["mistral", "openai"]


class Dialect(Struct, frozen=True):
    """``renamed``: our field → theirs. ``refused``: fields that this server does not take, left out of the body."""

    name: DialectName
    renamed: Mapping[str, str] = {}
    refused: frozenset[str] = frozenset()
    stream_fields: dict[str, Any] = {}

    def translate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The body's fields in this dialect."""
        if fields.get("tool_choice") == "any" and self.name == "openai":
            fields = fields | {"tool_choice": "required"}
        return {
            self.renamed.get(name, name): value for name, value in fields.items() if name not in self.refused
        }


MISTRAL = Dialect("mistral")
OPENAI = Dialect(
    "openai",
    renamed={"random_seed": "seed"},
    refused=frozenset({"safe_prompt", "prompt_mode", "guardrails", "prompt_cache_key", "prediction"}),
    stream_fields={"stream_options": {"include_usage": True}},
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (MISTRAL, OPENAI)}
