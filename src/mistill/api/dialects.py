"""What servers that speak this API call its fields, and which of Mistral's they refuse.

Mistral refuses OpenAI's names, the others ignore or refuse Mistral's. A dialect is a table and nothing else; what each
entry does is told in docs/chat-api.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

DialectName: TypeAlias = Literal["mistral", "openai", "auto"]


class Dialect(Struct, frozen=True):
    """What a server calls Mistral's fields.

    Attributes:
        renamed: our field → theirs.
        refused: fields that this server does not take, left out of the body.
        stream_fields: what a streamed request has besides.
        has_prefix: whether an assistant message may have ``prefix``; else it is left out of the message.
    """

    name: DialectName
    renamed: Mapping[str, str] = {}
    refused: frozenset[str] = frozenset()
    stream_fields: dict[str, Any] = {}
    has_prefix: bool = True

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
    has_prefix=False,
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (MISTRAL, OPENAI)}


class _Model(Protocol):
    @property
    def capabilities(self) -> Any: ...


def dialect_of(models: Sequence[_Model]) -> Dialect:
    """The dialect of a server, by its list of models: Mistral's alone tells which of them complete chats."""
    return MISTRAL if any(_completes_chats(model.capabilities) for model in models) else OPENAI


def _completes_chats(capabilities: Any) -> bool:
    return isinstance(capabilities, dict) and "completion_chat" in capabilities
