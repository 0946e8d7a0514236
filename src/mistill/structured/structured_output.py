"""``structured_output={"schema": …, "mode": …, "max_retries": …}``: checked, and put into a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from typing import Any, Literal, NotRequired, cast

import msgspec
from typing_extensions import TypedDict

from mistill.api.chat import ResponseFormat
from mistill.errors import InputError, nearest_name
from mistill.extras import install_command
from mistill.structured.schema import OutputSchema, compile_schema

InstructorMode = Literal["tools", "json_schema", "md_json"]
Mode = Literal["json_object"] | InstructorMode
MessageDict = dict[str, Any]

DEFAULT_MAX_RETRIES = 3
"""Where a fifth of the answers are wrong, one further ask leaves 40 of 1,000 rows, three leave 2. Each is paid, but
none grows: it has the row's own messages, the last answer and its mistakes."""

_MODES: dict[str, Mode] = {
    "json_object": "json_object",
    "tools": "tools",
    "json_schema": "json_schema",
    "md_json": "md_json",
    "mistral_tools": "tools",
    "mistral_structured_outputs": "json_schema",
}
"""The modes as this package calls them, and instructor's names for them with Mistral, which mean the same."""

_MODES_ELSEWHERE: dict[str, Mode] = {
    "json": "json_object",
    "json_mode": "json_object",
    "json_o1": "json_schema",
    "json_schema_mode": "json_schema",
    "markdown_json_mode": "md_json",
    "tool_call": "tools",
    "tools_strict": "tools",
    "functions": "tools",
    "function_call": "tools",
}
"""Names and values of other members of ``instructor.Mode``, as distilabel takes them too. Those of other providers, and
those for more than one answer, are unknown."""

_JSON_OBJECT = ResponseFormat(type="json_object")


class StructuredOutput(TypedDict):
    """What a user writes.

    Attributes:
        schema: see `compile_schema`.
        mode: left out for native ``response_format: json_schema``, strict; ``"json_object"`` for JSON mode with the
            schema in the system message; ``"tools"``, ``"json_schema"`` or ``"md_json"`` for the ``instructor``
            package. Its own names of these, and members of ``instructor.Mode``, are understood.
        max_retries: how often a model whose answer does not fit is asked again; default 3. Each ask is billed.
    """

    schema: Any
    mode: NotRequired[str | Enum | None]
    max_retries: NotRequired[int]


@dataclass(frozen=True, slots=True)
class StructuredOutputPlan:
    """A checked ``StructuredOutput``. Immutable; one can serve every row."""

    schema: OutputSchema
    mode: Mode | None = None
    max_retries: int = DEFAULT_MAX_RETRIES

    @property
    def uses_instructor(self) -> bool:
        """Whether ``structured.instructor.ask`` makes the requests and reads the answers."""
        return self.mode not in (None, "json_object")

    def response_format(self) -> ResponseFormat:
        """What a request carries in native mode and in JSON mode; instructor makes its own."""
        return _JSON_OBJECT if self.mode == "json_object" else self.schema.response_format()

    def messages(self, messages: Sequence[MessageDict]) -> list[MessageDict]:
        """The messages to send: as they are, and in JSON mode with the schema at the end of the system message.

        The messages given are not changed.
        """
        if self.mode != "json_object":
            return list(messages)
        return _with_schema(messages, self.schema.wire_schema)


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
    mode = _mode(setting.get("mode"))
    max_retries = setting.get("max_retries", DEFAULT_MAX_RETRIES)
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise InputError(
            f"structured_output: max_retries must be an integer of 0 or more, not {max_retries!r}"
        )
    plan = StructuredOutputPlan(compile_schema(setting["schema"]), mode, max_retries)
    if plan.uses_instructor and find_spec("instructor") is None:
        raise InputError(
            f'structured_output: mode "{mode}" needs the package instructor',
            hint=f"{install_command('instructor')}, or leave the mode out",
        )
    return plan


def _mode(given: Any) -> Mode | None:
    if given is None:
        return None
    # instructor is not imported for this: it takes half a second.
    name = given.name if isinstance(given, Enum) else given
    found = (_MODES | _MODES_ELSEWHERE).get(name.lower()) if isinstance(name, str) else None
    if found is None:
        known = ", ".join(f'"{name}"' for name in _MODES)
        raise InputError(
            f"structured_output has no mode {given!r}", hint=f"leave it out, or use one of {known}"
        )
    return found


def _nearest(key: Any, known: Mapping[str, Any]) -> str:
    names = ", ".join(f'"{name}"' for name in known)
    near = nearest_name(key, known)
    return f'did you mean "{near}"? It takes {names}' if near else f"it takes {names}"


def _with_schema(messages: Sequence[MessageDict], schema: dict[str, Any]) -> list[MessageDict]:
    """JSON mode gives JSON only if the prompt asks for it; so the schema is in the prompt, in these words."""
    request = (
        "Answer with one JSON object and nothing else. It must be valid for this JSON schema:\n"
        + msgspec.json.encode(schema).decode()
    )
    if not messages or messages[0].get("role") != "system":
        return [{"role": "system", "content": request}, *messages]
    first = messages[0]
    content = first.get("content")
    if isinstance(content, list):
        joined: Any = [*cast("list[Any]", content), {"type": "text", "text": request}]
    else:
        joined = f"{content}\n\n{request}" if content else request
    return [{**first, "content": joined}, *messages[1:]]
