"""What servers that speak this API call its fields, and which of Mistral's they refuse.

Mistral refuses OpenAI's names, the others ignore or refuse Mistral's. A dialect is a table and nothing else;
docs/chat-api.md says what each entry does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

from mistill.errors import InputError

DialectName: TypeAlias = Literal["mistral", "openai", "local", "auto"]


class Dialect(Struct, frozen=True):
    """What a server calls Mistral's fields.

    Attributes:
        renamed: our field → theirs.
        refused: fields that this server does not take, left out of the body.
        stream_fields: what a streamed request has besides.
        unsupported: fields whose absence would change what is asked; a request with one is refused before it leaves.
        has_prefix: whether an assistant message may have ``prefix``; else it is left out of the message.
        has_order: whether Mistral's rules for the order of messages hold.
        has_n: whether ``n`` gives several answers that are counted right; else each generation is a request.
        has_built_in_tools: whether the server runs tools of its own, such as ``web_search``.
        text_only: whether other content chunks than text are refused before the request leaves.
        takes_grammar: whether schemas go out as llguidance grammars, not as ``response_format``.
    """

    name: DialectName
    renamed: Mapping[str, str] = {}
    refused: frozenset[str] = frozenset()
    stream_fields: dict[str, Any] = {}
    unsupported: frozenset[str] = frozenset()
    has_prefix: bool = True
    has_order: bool = True
    has_n: bool = True
    has_built_in_tools: bool = True
    text_only: bool = False
    takes_grammar: bool = False

    def translate(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The body's fields in this dialect.

        Raises:
            InputError: one of them is unsupported.
        """
        if missing := self.unsupported.intersection(fields):
            raise InputError(f"this server knows no {min(missing)}", hint="use a Mistral model for it")
        if not self.has_built_in_tools:
            _refuse_built_in_tools(fields.get("tools") or ())
        if self.takes_grammar:
            fields = _with_grammar(fields)
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
    has_order=False,
    has_built_in_tools=False,
)

# What the demo model's server does with each field was tried, see docs/local-model.md.
LOCAL = Dialect(
    "local",
    renamed={"random_seed": "seed"},
    refused=OPENAI.refused
    | {"min_tokens", "repetition_penalty", "reasoning_effort", "metadata", "service_tier"},
    stream_fields=OPENAI.stream_fields,
    unsupported=frozenset({"tools", "tool_choice"}),
    has_n=False,
    text_only=True,
    takes_grammar=True,
)

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (MISTRAL, OPENAI, LOCAL)}


def _refuse_built_in_tools(tools: Sequence[dict[str, Any]]) -> None:
    kind = next((tool["type"] for tool in tools if tool["type"] != "function"), None)
    if kind is not None:
        raise InputError(f"this server has no tool {kind!r} of its own", hint="use a Mistral model for it")


def _with_grammar(fields: dict[str, Any]) -> dict[str, Any]:
    form = fields.get("response_format")
    if form is None or form["type"] != "json_schema":
        return fields
    from mistill.api.grammar import llguidance_grammar  # only the demo model's server takes one

    rest = {name: value for name, value in fields.items() if name != "response_format"}
    return rest | {"grammar": llguidance_grammar(form["json_schema"]["schema"])}


class _Model(Protocol):
    @property
    def capabilities(self) -> Any: ...


def dialect_of(models: Sequence[_Model]) -> Dialect:
    """The dialect of a server, by its list of models: Mistral's alone says which of them complete chats."""
    return MISTRAL if any(_completes_chats(model.capabilities) for model in models) else OPENAI


def _completes_chats(capabilities: Any) -> bool:
    return isinstance(capabilities, dict) and "completion_chat" in capabilities
