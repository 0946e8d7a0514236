"""``structured_output={"schema": …, "mode": …, "max_retries": …}``: checked, and put into a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Literal, NotRequired, cast

import msgspec
from typing_extensions import TypedDict

from mistill.api.chat import ResponseFormat
from mistill.errors import InputError
from mistill.structured.schema import OutputSchema, compile_schema

InstructorMode = Literal["tools", "json_schema", "md_json"]
Message = dict[str, Any]

DEFAULT_MAX_RETRIES = 1

# The names of instructor's Mistral modes mean the same as its own plain ones, which replace them.
_MODES: dict[str | None, Literal["json_object"] | InstructorMode | None] = {
    None: None,
    "json_object": "json_object",
    "tools": "tools",
    "json_schema": "json_schema",
    "md_json": "md_json",
    "mistral_tools": "tools",
    "mistral_structured_outputs": "json_schema",
}

_JSON_OBJECT = ResponseFormat(type="json_object")


class StructuredOutput(TypedDict):
    """What a user writes: ``schema`` (see ``compile_schema``), and if wanted ``mode`` and ``max_retries``.

    ``mode``: left out for native ``response_format: json_schema``, strict; ``"json_object"`` for JSON mode
    with the schema told in the system message; ``"tools"``, ``"json_schema"``, ``"md_json"``,
    ``"mistral_tools"`` or ``"mistral_structured_outputs"`` for the ``instructor`` package. ``max_retries``:
    how often a model whose answer does not fit is asked again; default 1.
    """

    schema: Any
    mode: NotRequired[str | None]
    max_retries: NotRequired[int]


@dataclass(frozen=True, slots=True)
class StructuredOutputPlan:
    """A checked ``StructuredOutput``. Immutable; one can serve every row."""

    schema: OutputSchema
    mode: Literal["json_object"] | InstructorMode | None = None
    max_retries: int = DEFAULT_MAX_RETRIES

    @property
    def uses_instructor(self) -> bool:
        """Whether ``structured.instructor.ask`` makes the requests and reads the answers."""
        return self.mode not in (None, "json_object")

    def response_format(self) -> ResponseFormat:
        """What a request carries in native mode and in JSON mode; instructor makes its own."""
        return _JSON_OBJECT if self.mode == "json_object" else self.schema.response_format()

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages to send: as they are, and in JSON mode with the schema told at the end of the system
        message.

        The messages given are not changed.
        """
        if self.mode != "json_object":
            return list(messages)
        return _told(messages, self.schema.wire_schema)


def compile_structured_output(setting: Any) -> StructuredOutputPlan:
    """``setting``, a ``StructuredOutput``, checked and its schema compiled.

    Raises:
        InputError: a key, a mode or a number that is not understood, or a schema that is none.
    """
    if not isinstance(setting, Mapping):
        raise InputError(
            f"structured_output must be a dict, not {type(setting).__name__}",
            hint='write structured_output={"schema": …}',
        )
    setting = cast("Mapping[str, Any]", setting)
    for key in setting:
        if key not in StructuredOutput.__annotations__:
            raise InputError(
                f"structured_output has no key {key!r}", hint=_nearest(key, StructuredOutput.__annotations__)
            )
    if setting.get("schema") is None:
        raise InputError('structured_output needs a "schema"', hint="a pydantic model class, for example")
    mode = setting.get("mode")
    if not isinstance(mode, str | None) or mode not in _MODES:
        known = ", ".join(f'"{name}"' for name in _MODES if name)
        raise InputError(
            f"structured_output has no mode {mode!r}", hint=f"leave it out, or use one of {known}"
        )
    max_retries = setting.get("max_retries", DEFAULT_MAX_RETRIES)
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise InputError(
            f"structured_output: max_retries must be an integer of 0 or more, not {max_retries!r}"
        )
    plan = StructuredOutputPlan(compile_schema(setting["schema"]), _MODES[mode], max_retries)
    if plan.uses_instructor and find_spec("instructor") is None:
        raise InputError(
            f'structured_output: mode "{mode}" needs the package instructor',
            hint="pip install 'mistill[instructor]', or leave the mode out",
        )
    return plan


def _nearest(key: Any, known: Mapping[str, Any]) -> str:
    names = ", ".join(f'"{name}"' for name in known)
    close = get_close_matches(str(key), known, n=1)
    return f'did you mean "{close[0]}"? It takes {names}' if close else f"it takes {names}"


def _told(messages: Sequence[Message], schema: dict[str, Any]) -> list[Message]:
    """JSON mode promises JSON only if the prompt asks for it; so the schema is told, in these words."""
    told = (
        "Answer with one JSON object and nothing else. It must be valid for this JSON schema:\n"
        + msgspec.json.encode(schema).decode()
    )
    if not messages or messages[0].get("role") != "system":
        return [{"role": "system", "content": told}, *messages]
    first = messages[0]
    content = first.get("content")
    if isinstance(content, list):
        joined: Any = [*cast("list[Any]", content), {"type": "text", "text": told}]
    else:
        joined = f"{content}\n\n{told}" if content else told
    return [{**first, "content": joined}, *messages[1:]]
