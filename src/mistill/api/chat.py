"""Wire structs of Mistral's chat completions: what goes out, what comes back. Pure data, no network.

Field names, types and ranges follow Mistral's OpenAPI specification of August 2026 (``ChatCompletionRequest``,
``ChatCompletionResponse``). Out: strict, an unknown key is an error before money is spent. In: tolerant, since servers
add fields, leave some out and send null for others.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

from mistill.api.decoding import Incoming, is_error, tolerant_decoder
from mistill.api.dialects import MISTRAL, Dialect
from mistill.api.operation import Operation
from mistill.api.usage import UsageInfo
from mistill.errors import InputError, InvalidOutput
from mistill.struct_types import look_at

# --- content chunks (out) -------------------------------------------------------------------------------------------


class _Chunk(Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    pass


class TextChunk(_Chunk, tag="text", frozen=True):
    text: str


class ImageURL(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    url: str
    detail: Literal["low", "auto", "high"] | None = None


class ImageURLChunk(_Chunk, tag="image_url", frozen=True):
    image_url: str | ImageURL


class DocumentURLChunk(_Chunk, tag="document_url", frozen=True):
    document_url: str
    document_name: str | None = None


class FileChunk(_Chunk, tag="file", frozen=True):
    file_id: str


class AudioChunk(_Chunk, tag="input_audio", frozen=True):
    input_audio: str


class ReferenceChunk(_Chunk, tag="reference", frozen=True):
    reference_ids: list[int | str]


class ToolReferenceChunk(_Chunk, tag="tool_reference", frozen=True):
    tool: str
    title: str
    url: str | None = None
    favicon: str | None = None
    description: str | None = None


class ThinkChunk(_Chunk, tag="thinking", frozen=True):
    thinking: list[TextChunk | ReferenceChunk | ToolReferenceChunk]
    signature: str | None = None
    closed: bool = True


ContentChunk = (
    TextChunk | ImageURLChunk | DocumentURLChunk | FileChunk | AudioChunk | ReferenceChunk | ThinkChunk
)

# --- messages (out) -------------------------------------------------------------------------------------------------


class FunctionCall(Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    arguments: str | dict[str, Any]


class ToolCall(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    function: FunctionCall
    id: str = "null"
    type: Literal["function"] = "function"
    index: int = 0


class _Message(Struct, tag_field="role", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    pass


class SystemMessage(_Message, tag="system", frozen=True):
    content: str | list[TextChunk | ThinkChunk]


class UserMessage(_Message, tag="user", frozen=True):
    content: str | list[ContentChunk] | None


class AssistantMessage(_Message, tag="assistant", frozen=True):
    content: str | list[ContentChunk] | None = None
    tool_calls: list[ToolCall] | None = None
    prefix: bool = False


class ToolMessage(_Message, tag="tool", frozen=True):
    content: str | list[ContentChunk] | None
    tool_call_id: str | None = None
    name: str | None = None


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage

# --- the request ----------------------------------------------------------------------------------------------------


class JsonSchema(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool = False


class ResponseFormat(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class FunctionName(Struct, forbid_unknown_fields=True, frozen=True):
    name: str


class ToolChoice(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=False):
    function: FunctionName
    type: Literal["function"] = "function"


class Function(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    name: str
    parameters: dict[str, Any]
    description: str = ""
    strict: bool = False


class _Tool(Struct, tag_field="type", forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    pass


class Tool(_Tool, tag="function", frozen=True):
    function: Function


class ToolConfiguration(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    exclude: list[str] | None = None
    include: list[str] | None = None
    requires_confirmation: list[str] | None = None


class WebSearchTool(_Tool, tag="web_search", frozen=True):
    tool_configuration: ToolConfiguration | None = None


class WebSearchPremiumTool(_Tool, tag="web_search_premium", frozen=True):
    tool_configuration: ToolConfiguration | None = None


class CodeInterpreterTool(_Tool, tag="code_interpreter", frozen=True):
    tool_configuration: ToolConfiguration | None = None


class ImageGenerationTool(_Tool, tag="image_generation", frozen=True):
    tool_configuration: ToolConfiguration | None = None


class DocumentLibraryTool(_Tool, tag="document_library", frozen=True):
    library_ids: Annotated[list[str], Meta(min_length=1)]
    tool_configuration: ToolConfiguration | None = None


class ConnectorTool(_Tool, tag="connector", frozen=True):
    """Without the specification's ``authorization``: a secret, which dumps and ledgers would then hold."""

    connector_id: str
    tool_configuration: ToolConfiguration | None = None


AnyTool = (
    Tool
    | WebSearchTool
    | WebSearchPremiumTool
    | CodeInterpreterTool
    | ImageGenerationTool
    | DocumentLibraryTool
    | ConnectorTool
)
"""A function of the caller's, or what Mistral runs itself."""


class Prediction(Struct, forbid_unknown_fields=True, frozen=True):
    content: str
    type: Literal["content"] = "content"


Temperature = Annotated[float, Meta(ge=0, le=1.5)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
NonNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class ChatParameters(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True, kw_only=True):
    """Everything of a chat request but the model and the messages. ``None`` leaves the server's default.

    The last five fields are taken by the newest servers and not yet in the specification.
    """

    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: NonNegative | None = None
    stop: str | list[str] | None = None
    random_seed: NonNegative | None = None
    n: Positive | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_format: ResponseFormat | None = None
    tools: list[AnyTool] | None = None
    tool_choice: Literal["auto", "none", "any", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prediction: Prediction | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    prompt_mode: Literal["reasoning"] | None = None
    guardrails: list[dict[str, Any]] | None = None
    safe_prompt: bool | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    min_tokens: NonNegative | None = None
    top_k: Positive | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=sys.float_info.max)] | None = (
        None  # infinity is no JSON
    )
    logprobs: bool | None = None
    top_logprobs: NonNegative | None = None


class RequestTemplate:
    """A chat request but for its messages, encoded once for many rows.

    Args:
        extra_body: fields that this library does not know, put into the body as they are. A field that it does know is
            refused, so that no value has two places.
        watched: its answers are to be watched as they come.

    Attributes:
        max_output_tokens: bounds all its answers together, where the caller set a bound.
        watching: what makes of a body one whose answer is streamed, to be watched for loops: it goes in the place of
            its last brace. Nothing where it is not to be watched.
    """

    def __init__(
        self,
        model: str,
        parameters: ChatParameters,
        *,
        stream: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        dialect: Dialect = MISTRAL,
        watched: bool = False,
    ) -> None:
        self.parameters = parameters
        most = parameters.max_tokens
        self.max_output_tokens = None if most is None else most * (parameters.n or 1)
        fields = dialect.translate(msgspec.to_builtins(parameters))
        streaming = {"stream": True} | dialect.stream_fields
        if stream:
            fields |= streaming
        self.watching = b"," + msgspec.json.encode(streaming)[1:] if watched else b""
        for name, value in (extra_body or {}).items():
            if name in fields or name in OWN_FIELDS:
                raise InputError(f"extra_body has {name!r}, which has an argument of its own")
            fields[name] = value
        self._head = b'{"model":' + msgspec.json.encode(model) + b',"messages":'
        self._tail = b"," + msgspec.json.encode(fields)[1:] if fields else b"}"

    def encode(self, messages: bytes) -> bytes:
        """The body around messages that are JSON already."""
        return self._head + messages + self._tail


def without_prefix(messages: Sequence[Message]) -> list[Message]:
    """The messages for a server that does not know ``prefix``."""
    return [
        msgspec.structs.replace(message, prefix=False) if isinstance(message, AssistantMessage) else message
        for message in messages
    ]


OWN_FIELDS = frozenset((*ChatParameters.__struct_fields__, "model", "messages", "stream"))

# --- the answer (in) ------------------------------------------------------------------------------------------------


class AnsweredFunction(Incoming, frozen=True, gc=False):
    name: str
    arguments: str | dict[str, Any] = ""

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        return _with_arguments(given)


class AnsweredToolCall(Incoming, frozen=True, gc=False):
    """A call that the model wants made. ``function.arguments`` are as they came: a JSON text or an object."""

    function: AnsweredFunction
    id: str | None = None
    type: str | None = "function"
    index: int | None = 0

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as a dict, in whichever form they came; no text at all, or null, is no arguments.

        Raises:
            InvalidOutput: they are no JSON object.
        """
        given = self.function.arguments
        if isinstance(given, dict):
            return given
        try:
            return _decode_object(given) if given.strip() not in ("", "null") else {}
        except msgspec.DecodeError as error:
            raise InvalidOutput(
                f"the arguments of the call of {self.name} are no JSON object: {error}", text=given
            ) from error


def _with_arguments(function: dict[str, Any]) -> dict[str, Any]:
    """An empty list is how PHP writes an object that is empty. Whatever else it is, whoever reads it is told."""
    arguments = function.get("arguments")
    if arguments is None or isinstance(arguments, str | dict):
        return function
    return function | {"arguments": {} if arguments == [] else msgspec.json.encode(arguments).decode()}


def _with_usable_parts(message: dict[str, Any], *, is_whole: bool) -> dict[str, Any]:
    """A message without chunks and tool calls that say nothing, where others of it do.

    Args:
        is_whole: it is no piece of a message, whose calls may have got their names before.
    """
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        chunks = [
            {"type": "text", "text": chunk} if isinstance(chunk, str) else chunk
            for chunk in cast("list[Any]", content)
            if chunk is not None
        ]
        message = message | {"content": chunks}
    if calls is not None:
        usable = [call for call in _dicts(calls) if _is_usable(call.get("function"), is_whole=is_whole)]
        if usable or message.get("content"):
            message = message | {"tool_calls": usable}
    return message


def _is_usable(function: Any, *, is_whole: bool) -> bool:
    if not is_whole:
        return function is None or isinstance(function, dict)
    return isinstance(function, dict) and isinstance(cast("Any", function).get("name"), str)


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [
        one for one in cast("list[Any]", values if isinstance(values, list) else []) if isinstance(one, dict)
    ]


class AnswerMessage(Incoming, frozen=True, gc=False):
    """What the model says. Its thinking is in ``content``, or in one of the other two, or nowhere."""

    ESSENTIAL = frozenset({"content", "tool_calls"})

    content: str | list[dict[str, Any]] | None = None
    tool_calls: tuple[AnsweredToolCall, ...] | None = None
    role: str | None = "assistant"
    reasoning_content: str | None = None  # llama.cpp, and vLLM until 2025
    reasoning: str | None = None  # vLLM since then, and OpenRouter

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        return _with_usable_parts(given, is_whole=True)


class Choice(Incoming, frozen=True, gc=False):
    """One of the ``n`` answers.

    Attributes:
        finish_reason: why it ended: with Mistral ``stop``, ``length``, ``model_length``, ``tool_calls`` or ``error``.
        error: what went wrong in the middle of it, as OpenRouter says it.
    """

    message: AnswerMessage
    index: int = 0
    finish_reason: str | None = None
    error: Any = None


class ChatResponse(Incoming, frozen=True, gc=False):
    """A whole answer: ``n`` choices, and the tokens of all of them together. With an ``error`` it is none."""

    choices: list[Choice]
    id: str | None = None
    model: str | None = None
    usage: UsageInfo | None = None
    error: Any = None


class DeltaFunction(Incoming, frozen=True, gc=False):
    ESSENTIAL = frozenset({"name"})

    name: str | None = None
    arguments: str | dict[str, Any] | None = None

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        return _with_arguments(given)


class DeltaToolCall(Incoming, frozen=True, gc=False):
    """A call, or a piece of one: Mistral sends calls whole, others their arguments bit by bit under one ``index``."""

    ESSENTIAL = frozenset({"function"})

    function: DeltaFunction = DeltaFunction()
    id: str | None = None
    index: int | None = None


class Delta(Incoming, frozen=True, gc=False):
    ESSENTIAL = frozenset({"content", "tool_calls"})

    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[DeltaToolCall] | None = None
    role: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @classmethod
    def mended(cls, given: dict[str, Any]) -> dict[str, Any]:
        return _with_usable_parts(given, is_whole=False)

    @property
    def says_anything(self) -> bool:
        """It has something of the answer in it. Many streams begin with a chunk that names the role, and no more."""
        return bool(self.content or self.tool_calls or self.reasoning_content or self.reasoning)


class ChunkChoice(Incoming, frozen=True, gc=False):
    """A piece of one of the choices. Some servers put it under ``message``, as they do in an answer that is whole."""

    ESSENTIAL = frozenset({"delta"})

    delta: Delta = Delta()
    index: int = 0
    finish_reason: str | None = None
    message: Delta | None = None
    error: Any = None


class ChatChunk(Incoming, frozen=True, gc=False):
    """One event of a stream. Some have no choices: the usage at the end, a sign of life, an ``error``."""

    ESSENTIAL = frozenset({"choices"})

    choices: tuple[ChunkChoice, ...] = ()
    id: str | None = None
    created: int | None = None
    model: str | None = None
    usage: UsageInfo | None = None
    error: Any = None


_REASONS_OF_FAILURE = (
    *("error", "failed", "abort", "aborted", "cancelled", "canceled", "timeout"),
    *("server_error", "internal_error", "network_error", "insufficient_system_resource"),
)

GAVE_UP = frozenset(
    form for reason in _REASONS_OF_FAILURE for form in (reason, reason.upper(), reason.capitalize())
)
"""Finish reasons of a choice in whose middle the server failed: Mistral's and OpenRouter's (``error``), vLLM's and
SGLang's (``abort``), DeepSeek's (``insufficient_system_resource``), Zhipu's (``network_error``), and others' words."""

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
decode_response = tolerant_decoder(ChatResponse)
decode_chunk = tolerant_decoder(
    ChatChunk,
    pieces=frozenset({"content", "text", "thinking", "reasoning", "reasoning_content", "arguments"}),
)


def _missing(response: ChatResponse) -> str | None:
    return None if response.choices else "the answer has no choices"


def is_given_up(choice: Choice | ChunkChoice) -> bool:
    """Whether the server says that it failed in the middle of it."""
    return choice.finish_reason in GAVE_UP or is_error(choice.error)


def _gave_up(response: ChatResponse) -> Any:
    if response.error is not None and is_error(response.error):
        return response.error
    first = response.choices[0]
    if first.error is None and first.finish_reason not in GAVE_UP:
        return None
    if not all(map(is_given_up, response.choices)):
        return None
    return next((choice.error for choice in response.choices if is_error(choice.error)), first.finish_reason)


CHAT = Operation("/v1/chat/completions", decode_response, _missing, _gave_up)


look_at(ChatParameters, AnyTool, ToolChoice)
