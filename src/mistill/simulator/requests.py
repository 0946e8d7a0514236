"""What a client may ask: decoding and checking of request bodies, with Mistral's own refusals."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from mistill.api.chat import AssistantMessage, ChatParameters, Message, ToolMessage, UserMessage
from mistill.api.embeddings import Dtype
from mistill.simulator import refusals
from mistill.simulator.settings import Settings
from mistill.simulator.vectors import Encoding

MODELS_WITHOUT_N = frozenset({"mistral-large-2512"})
MAX_CHOICES: Final = 128
MAX_DIMENSION: Final = 8192

_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")
_TOOL_CALL_ID = re.compile("[a-zA-Z0-9]{9}")
_NO_ID = "null"  # as the API's own default has it
_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_PATH_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")

S = TypeVar("S", bound=msgspec.Struct)


class ChatRequest(ChatParameters, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A chat request as it arrives: the fields of the API, nothing else."""

    model: str
    messages: list[Message]
    stream: bool | None = None


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A request for embeddings. ``input``: one text or a list of them."""

    model: str
    input: str | list[str]
    metadata: dict[str, Any] | None = None
    output_dimension: Annotated[int, Meta(ge=1, le=MAX_DIMENSION)] | None = None
    output_dtype: Dtype | None = None
    encoding_format: Encoding | None = None


_chat_decoder = msgspec.json.Decoder(ChatRequest)
_embedding_decoder = msgspec.json.Decoder(EmbeddingRequest)


def decode_chat(raw: bytes, settings: Settings) -> ChatRequest:
    """A chat request.

    Raises:
        RefusedRequest: 422 for its form, 400 for what it asks.
    """
    request = decode_body(_chat_decoder, raw, settings)
    if settings.cache_key_refused and request.prompt_cache_key is not None:
        unknown = detail("extra_forbidden", ["prompt_cache_key"], request.prompt_cache_key)
        raise refusals.invalid_fields([unknown], settings)
    check_model(request.model, settings, embeds=False)
    _check_order(request.messages)
    _check_tool_calls(request.messages)
    _check_choices(request)
    if (fmt := request.response_format) and fmt.type == "json_schema" and fmt.json_schema is None:
        raise refusals.invalid_fields([detail("missing", ["response_format", "json_schema"], None)], settings)
    if settings.poison and settings.poison in prompt_text(request):
        raise refusals.poisoned()
    return request


def decode_embedding(raw: bytes, settings: Settings) -> EmbeddingRequest:
    """A request for embeddings.

    Raises:
        RefusedRequest: 422 for its form, 400 for what it asks.
    """
    request = decode_body(_embedding_decoder, raw, settings)
    check_model(request.model, settings, embeds=True)
    texts = [request.input] if isinstance(request.input, str) else request.input
    if settings.poison and any(settings.poison in text for text in texts):
        raise refusals.poisoned()
    return request


def check_model(model: str, settings: Settings, *, embeds: bool) -> None:
    """Raises `RefusedRequest` (400) for a model that does not exist, or not for this."""
    if settings.any_model:
        return
    if model not in settings.models or ("embed" in model) is not embeds:
        raise refusals.invalid_model(model)


def prompt_text(request: ChatRequest) -> str:
    """The text of all messages, a line each."""
    return "\n".join(content_text(message.content) for message in request.messages)


def last_user_text(request: ChatRequest) -> str:
    for message in reversed(request.messages):
        if isinstance(message, UserMessage):
            return content_text(message.content)
    return ""


def content_text(content: str | list[Any] | None) -> str:
    """The text of a content: itself, or its text chunks run together."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(chunk.text for chunk in content if hasattr(chunk, "text"))


def _check_order(messages: list[Message]) -> None:
    if not messages:
        raise refusals.wrong_order("Conversation must have at least one message")
    last = messages[-1]
    if not (
        isinstance(last, (UserMessage, ToolMessage)) or (isinstance(last, AssistantMessage) and last.prefix)
    ):
        raise refusals.wrong_order(
            "Expected last role User or Tool (or Assistant with prefix True) for serving "
            f"but got {role_of(last)}"
        )
    before: Message | None = None
    for message in messages:
        if isinstance(message, ToolMessage) and not (
            isinstance(before, ToolMessage) or (isinstance(before, AssistantMessage) and before.tool_calls)
        ):
            place = f"after role '{role_of(before)}'" if before else "as first message"
            raise refusals.wrong_order(f"Unexpected role 'tool' {place}")
        if isinstance(message, AssistantMessage) and not (
            message.content or message.tool_calls or message.prefix
        ):
            raise refusals.RefusedRequest(
                400,
                refusals.error_body(
                    "Assistant message must have either content or tool_calls, but not none.",
                    "invalid_request_assistant_message",
                    "3240",
                ),
            )
        before = message


def _check_tool_calls(messages: list[Message]) -> None:
    """Ids have Mistral's form, and results are those of the calls before them."""
    called: set[str] = set()
    for message in messages:
        if isinstance(message, AssistantMessage):
            called = {call.id for call in message.tool_calls or ()}
            for call_id in called:
                if call_id == _NO_ID:
                    raise refusals.bad_tool_call("Tool call id has to be defined in serving mode.")
                _check_tool_call_id(call_id)
        elif isinstance(message, ToolMessage):
            if message.tool_call_id is None:
                raise refusals.bad_request("Tool call id has to be defined.")
            _check_tool_call_id(message.tool_call_id)
            if message.tool_call_id not in called:
                raise refusals.wrong_order(f"Unexpected tool call id {message.tool_call_id} in tool results")


def _check_tool_call_id(call_id: str) -> None:
    if not _TOOL_CALL_ID.fullmatch(call_id):
        raise refusals.bad_tool_call(
            f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9."
        )


def _check_choices(request: ChatRequest) -> None:
    if request.n is None or request.n == 1:
        return
    if request.n > MAX_CHOICES:
        raise refusals.bad_request(f"n must be at most {MAX_CHOICES}", param="n")
    if request.model in MODELS_WITHOUT_N:
        raise refusals.bad_request(f"n > 1 is not supported by model {request.model}", param="n")
    if request.prediction is not None:
        raise refusals.bad_request("n > 1 is not supported with prediction", param="n")


def role_of(message: Message) -> str:
    return str(message.__struct_config__.tag)


def decode_body(decoder: msgspec.json.Decoder[S], raw: bytes, settings: Settings) -> S:
    """The body of a request.

    Raises:
        RefusedRequest: 422: it is not of that form, or no JSON.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise refusals.invalid_fields([_describe(str(error), raw)], settings) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        invalid = detail("json_invalid", [0], {}) | {"ctx": {"error": str(error)}}
        raise refusals.invalid_fields([invalid], settings) from error


def _describe(message: str, raw: bytes) -> dict[str, Any]:
    """msgspec's sentence as one entry of the ``detail`` list that FastAPI servers send."""
    located = _PATH.search(message)
    steps: list[str | int] = []
    if located:
        message = message[: located.start()]
        steps = [name or int(index) for name, index in _PATH_STEP.findall(located[1])]
    if unknown := _UNKNOWN_FIELD.search(message):
        steps.append(unknown[1])
        return detail("extra_forbidden", steps, _at(raw, steps))
    if missing := _MISSING_FIELD.search(message):
        return detail("missing", [*steps, missing[1]], _at(raw, steps))
    return detail("value_error", steps, _at(raw, steps)) | {"msg": message}


def detail(kind: str, steps: list[Any], value: Any, *, place: str = "body") -> dict[str, Any]:
    """An entry of the ``detail`` list of a 422."""
    messages = {
        "extra_forbidden": "Extra inputs are not permitted",
        "missing": "Field required",
        "json_invalid": "JSON decode error",
    }
    return {"type": kind, "loc": [place, *steps], "msg": messages.get(kind, "Invalid value"), "input": value}


def invalid_field(
    field: str, message: str, settings: Settings, *, value: Any = None, place: str = "body"
) -> refusals.RefusedRequest:
    """The 422 of one field that is not as it must be."""
    entry = detail("value_error", [field], value, place=place) | {"msg": message}
    return refusals.invalid_fields([entry], settings)


def _at(raw: bytes, steps: list[Any]) -> Any:
    try:
        value = msgspec.json.decode(raw)
        for step in steps:
            value = value[step]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return value
