"""Mistral's API as far as the tests check it: every object that goes over the wire, field by field.

This is our own table, written after Mistral's OpenAPI specification of August 2026, which cannot be copied here. Tests
check requests and answers against the table wherever they run. Where the specification is at hand, ``test_fields.py``
checks the table against it.

``validator("ChatCompletionRequest")`` is a JSON Schema validator of one of the objects, under the specification's name.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jsonschema_rs

from mistill.simulator import Received


class Values:
    """What a field may hold: one of these JSON Schemas."""

    def __init__(self, *choices: dict[str, Any]) -> None:
        self.choices = choices

    def __or__(self, other: Values) -> Values:
        return Values(*self.choices, *other.choices)

    @property
    def schema(self) -> dict[str, Any]:
        return self.choices[0] if len(self.choices) == 1 else {"anyOf": list(self.choices)}


class Shape(NamedTuple):
    """An object: what it must have, what it may have, and whether it may have more.

    A ``tag``, by which one tells the members of a union apart, is always there. The specification calls it optional,
    and could then not tell them apart itself.
    """

    needs: dict[str, Values]
    may: dict[str, Values]
    is_open: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {name: values.schema for name, values in (self.needs | self.may).items()},
            "required": list(self.needs),
            "additionalProperties": self.is_open,
        }


def number(**bounds: float) -> Values:
    return Values({"type": "number"} | bounds)


def integer(**bounds: int) -> Values:
    return Values({"type": "integer"} | bounds)


def one_of(*words: str) -> Values:
    return Values({"type": "string", "enum": list(words)})


def tag(word: str) -> Values:
    return one_of(word)


def ref(*shapes: str) -> Values:
    """An object of one of these shapes."""
    return Values(*({"$ref": f"#/$defs/{shape}"} for shape in shapes))


def list_of(values: Values, **bounds: int) -> Values:
    return Values({"type": "array", "items": values.schema} | bounds)


TEXT = Values({"type": "string"})
FLAG = Values({"type": "boolean"})
NUMBER, INTEGER = number(), integer()
JSON_OBJECT = Values({"type": "object"})
NULL = Values({"type": "null"})
ANYTHING = Values({})

CHUNK = ref(
    "TextChunk",
    "ImageURLChunk",
    "DocumentURLChunk",
    "ReferenceChunk",
    "FileChunk",
    "ThinkChunk",
    "AudioChunk",
)
CONTENT = TEXT | list_of(CHUNK) | NULL
MESSAGE = ref("SystemMessage", "UserMessage", "AssistantMessage", "ToolMessage")
OF_MISTRAL = ("web_search", "web_search_premium", "code_interpreter", "image_generation", "document_library")
TOOL = ref(
    "Tool",
    "WebSearchTool",
    "WebSearchPremiumTool",
    "CodeInterpreterTool",
    "ImageGenerationTool",
    "DocumentLibraryTool",
    "CustomConnector",
)
SETTINGS_OF_TOOL = {"tool_configuration": ref("ToolConfiguration") | NULL}
PENALTY = number(minimum=-2, maximum=2) | NULL
BATCH_ENDPOINT = one_of(
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/fim/completions",
    "/v1/moderations",
    "/v1/chat/moderations",
    "/v1/ocr",
    "/v1/classifications",
    "/v1/chat/classifications",
    "/v1/conversations",
    "/v1/audio/transcriptions",
)

REQUESTS: dict[str, Shape] = {
    "ChatCompletionRequest": Shape(
        needs={"model": TEXT, "messages": list_of(MESSAGE)},
        may={
            "temperature": number(minimum=0, maximum=1.5) | NULL,
            "top_p": number(exclusiveMinimum=0, maximum=1) | NULL,
            "max_tokens": integer(minimum=0) | NULL,
            "stream": FLAG,
            "stop": TEXT | list_of(TEXT) | NULL,
            "random_seed": integer(minimum=0) | NULL,
            "metadata": JSON_OBJECT | NULL,
            "response_format": ref("ResponseFormat"),
            "tools": list_of(TOOL) | NULL,
            "tool_choice": ref("ToolChoice") | one_of("auto", "none", "any", "required"),
            "presence_penalty": PENALTY,
            "frequency_penalty": PENALTY,
            "n": integer(minimum=1) | NULL,
            "prediction": ref("Prediction"),
            "parallel_tool_calls": FLAG,
            "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh") | NULL,
            "prompt_mode": one_of("reasoning") | NULL,
            "guardrails": list_of(ref("GuardrailConfig")) | NULL,
            "prompt_cache_key": TEXT | NULL,
            "service_tier": one_of("auto", "standard_only") | NULL,
            "safe_prompt": FLAG,
        },
    ),
    "EmbeddingRequest": Shape(
        needs={"model": TEXT, "input": TEXT | list_of(TEXT)},
        may={
            "metadata": JSON_OBJECT | NULL,
            "output_dimension": integer(exclusiveMinimum=0) | NULL,
            "output_dtype": one_of("float", "int8", "uint8", "binary", "ubinary"),
            "encoding_format": one_of("float", "base64"),
        },
    ),
    "CreateBatchJobRequest": Shape(
        needs={"endpoint": BATCH_ENDPOINT},
        may={
            "input_files": list_of(TEXT) | NULL,
            "requests": list_of(ref("BatchRequest"), maxItems=10_000) | NULL,
            "model": TEXT | NULL,
            "agent_id": TEXT | NULL,
            "metadata": JSON_OBJECT | NULL,
            "timeout_hours": integer(minimum=1, maximum=168),
        },
        is_open=True,
    ),
}

MESSAGES: dict[str, Shape] = {
    "SystemMessage": Shape(
        needs={"role": tag("system"), "content": TEXT | list_of(ref("TextChunk", "ThinkChunk"))}, may={}
    ),
    "UserMessage": Shape(needs={"role": tag("user"), "content": CONTENT}, may={}),
    "AssistantMessage": Shape(
        needs={"role": tag("assistant")},
        may={"content": CONTENT, "tool_calls": list_of(ref("ToolCall")) | NULL, "prefix": FLAG},
    ),
    "ToolMessage": Shape(
        needs={"role": tag("tool"), "content": CONTENT},
        may={"tool_call_id": TEXT | NULL, "name": TEXT | NULL},
    ),
    "ToolCall": Shape(
        needs={"function": ref("FunctionCall")},
        may={"id": TEXT, "type": one_of("function"), "index": INTEGER},
    ),
    "FunctionCall": Shape(needs={"name": TEXT, "arguments": JSON_OBJECT | TEXT}, may={}),
}

CHUNKS: dict[str, Shape] = {
    "TextChunk": Shape(needs={"type": tag("text"), "text": TEXT}, may={}),
    "ImageURLChunk": Shape(needs={"type": tag("image_url"), "image_url": ref("ImageURL") | TEXT}, may={}),
    "ImageURL": Shape(needs={"url": TEXT}, may={"detail": one_of("low", "auto", "high") | NULL}),
    "DocumentURLChunk": Shape(
        needs={"type": tag("document_url"), "document_url": TEXT}, may={"document_name": TEXT | NULL}
    ),
    "ReferenceChunk": Shape(
        needs={"type": tag("reference"), "reference_ids": list_of(INTEGER | TEXT)}, may={}
    ),
    "FileChunk": Shape(needs={"type": tag("file"), "file_id": TEXT}, may={}),
    "ThinkChunk": Shape(
        needs={
            "type": tag("thinking"),
            "thinking": list_of(ref("TextChunk", "ToolReferenceChunk", "ReferenceChunk")),
        },
        may={"signature": TEXT | NULL, "closed": FLAG},
    ),
    "ToolReferenceChunk": Shape(
        needs={"type": tag("tool_reference"), "tool": one_of(*OF_MISTRAL) | TEXT, "title": TEXT},
        may={"url": TEXT | NULL, "favicon": TEXT | NULL, "description": TEXT | NULL},
    ),
    "AudioChunk": Shape(needs={"type": tag("input_audio"), "input_audio": TEXT}, may={}),
}

TOOLS: dict[str, Shape] = {
    "Tool": Shape(needs={"type": tag("function"), "function": ref("Function")}, may={}),
    "Function": Shape(
        needs={"name": TEXT, "parameters": JSON_OBJECT}, may={"description": TEXT, "strict": FLAG}
    ),
    "WebSearchTool": Shape(needs={"type": tag("web_search")}, may=SETTINGS_OF_TOOL),
    "WebSearchPremiumTool": Shape(needs={"type": tag("web_search_premium")}, may=SETTINGS_OF_TOOL),
    "CodeInterpreterTool": Shape(needs={"type": tag("code_interpreter")}, may=SETTINGS_OF_TOOL),
    "ImageGenerationTool": Shape(needs={"type": tag("image_generation")}, may=SETTINGS_OF_TOOL),
    "DocumentLibraryTool": Shape(
        needs={"type": tag("document_library"), "library_ids": list_of(TEXT, minItems=1)},
        may=SETTINGS_OF_TOOL,
    ),
    "CustomConnector": Shape(needs={"type": tag("connector"), "connector_id": TEXT}, may=SETTINGS_OF_TOOL),
    "ToolConfiguration": Shape(
        needs={},
        may=dict.fromkeys(("exclude", "include", "requires_confirmation"), list_of(TEXT) | NULL),
    ),
    "ToolChoice": Shape(needs={"function": ref("FunctionName")}, may={"type": one_of("function")}),
    "FunctionName": Shape(needs={"name": TEXT}, may={}),
}

MODERATION = {
    "model_name": TEXT,
    "ignore_other_categories": FLAG,
    "action": one_of("none", "block"),
}
CATEGORIES = (
    "sexual",
    "hate_and_discrimination",
    "violence_and_threats",
    "selfharm",
    "health",
    "financial",
    "law",
    "pii",
)

PARTS_OF_REQUESTS: dict[str, Shape] = {
    "ResponseFormat": Shape(
        needs={},
        may={"type": one_of("text", "json_object", "json_schema"), "json_schema": ref("JsonSchema") | NULL},
    ),
    "JsonSchema": Shape(
        needs={"name": TEXT, "schema": JSON_OBJECT}, may={"description": TEXT | NULL, "strict": FLAG}
    ),
    "BatchRequest": Shape(needs={"body": JSON_OBJECT}, may={"custom_id": TEXT | NULL}, is_open=True),
    "Prediction": Shape(needs={}, may={"type": one_of("content"), "content": TEXT}),
    "GuardrailConfig": Shape(
        needs={},
        may={
            "block_on_error": FLAG,
            "moderation_llm_v1": ref("ModerationLLMV1Config") | NULL,
            "moderation_llm_v2": ref("ModerationLLMV2Config") | NULL,
        },
        is_open=True,
    ),
    "ModerationLLMV1Config": Shape(
        needs={},
        may=MODERATION | {"custom_category_thresholds": ref("ModerationLLMV1CategoryThresholds") | NULL},
        is_open=True,
    ),
    "ModerationLLMV2Config": Shape(
        needs={},
        may=MODERATION | {"custom_category_thresholds": ref("ModerationLLMV2CategoryThresholds") | NULL},
        is_open=True,
    ),
    "ModerationLLMV1CategoryThresholds": Shape(
        needs={},
        may=dict.fromkeys((*CATEGORIES, "dangerous_and_criminal_content"), NUMBER | NULL),
        is_open=True,
    ),
    "ModerationLLMV2CategoryThresholds": Shape(
        needs={},
        may=dict.fromkeys((*CATEGORIES, "dangerous", "criminal", "jailbreaking"), NUMBER | NULL),
        is_open=True,
    ),
}

MODEL_CARD = {
    "object": TEXT,
    "created": INTEGER,
    "owned_by": TEXT,
    "name": TEXT | NULL,
    "description": TEXT | NULL,
    "max_context_length": INTEGER,
    "aliases": list_of(TEXT),
    "deprecation": TEXT | NULL,
    "deprecation_replacement_model": TEXT | NULL,
    "default_model_temperature": NUMBER | NULL,
    "internal": FLAG,
}

FILE = {
    "id": TEXT,
    "object": TEXT,
    "bytes": INTEGER,
    "created_at": INTEGER,
    "filename": TEXT,
    "purpose": one_of("fine-tune", "batch", "ocr"),
    "sample_type": one_of("pretrain", "instruct", "batch_request", "batch_result", "batch_error"),
    "source": one_of("upload", "repository", "mistral"),
}
MORE_OF_FILE = {
    "num_lines": INTEGER | NULL,
    "mimetype": TEXT | NULL,
    "signature": TEXT | NULL,
    "expires_at": INTEGER | NULL,
    "visibility": one_of("workspace", "user") | NULL,
}

ANSWERS: dict[str, Shape] = {
    "CreateFileResponse": Shape(needs=FILE, may=MORE_OF_FILE, is_open=True),
    "FileSchema": Shape(needs=FILE, may=MORE_OF_FILE, is_open=True),
    "GetFileResponse": Shape(needs=FILE | {"deleted": FLAG}, may=MORE_OF_FILE, is_open=True),
    "ListFilesResponse": Shape(
        needs={"data": list_of(ref("FileSchema")), "object": TEXT},
        may={"total": INTEGER | NULL},
        is_open=True,
    ),
    "DeleteFileResponse": Shape(needs={"id": TEXT, "object": TEXT, "deleted": FLAG}, may={}, is_open=True),
    "GetSignedUrlResponse": Shape(needs={"url": TEXT}, may={}, is_open=True),
    "BatchError": Shape(needs={"message": TEXT}, may={"count": INTEGER}, is_open=True),
    "BatchJob": Shape(
        needs={
            "id": TEXT,
            "input_files": list_of(TEXT),
            "endpoint": TEXT,
            "errors": list_of(ref("BatchError")),
            "status": one_of(
                "QUEUED",
                "RUNNING",
                "SUCCESS",
                "FAILED",
                "TIMEOUT_EXCEEDED",
                "CANCELLATION_REQUESTED",
                "CANCELLED",
            ),
            "created_at": INTEGER,
            "total_requests": INTEGER,
            "completed_requests": INTEGER,
            "succeeded_requests": INTEGER,
            "failed_requests": INTEGER,
        },
        may={
            "object": one_of("batch"),
            "metadata": JSON_OBJECT | NULL,
            "model": TEXT | NULL,
            "agent_id": TEXT | NULL,
            "output_file": TEXT | NULL,
            "error_file": TEXT | NULL,
            "outputs": list_of(JSON_OBJECT) | NULL,
            "started_at": INTEGER | NULL,
            "completed_at": INTEGER | NULL,
        },
        is_open=True,
    ),
    "ListBatchJobsResponse": Shape(
        needs={"total": INTEGER},
        may={"data": list_of(ref("BatchJob")), "object": one_of("list")},
        is_open=True,
    ),
    "DeleteBatchJobResponse": Shape(
        needs={"id": TEXT}, may={"object": one_of("batch"), "deleted": FLAG}, is_open=True
    ),
    "ChatCompletionResponse": Shape(
        needs={
            "id": TEXT,
            "object": TEXT,
            "model": TEXT,
            "usage": ref("UsageInfo"),
            "created": INTEGER,
            "choices": list_of(ref("ChatCompletionChoice")),
        },
        may={},
        is_open=True,
    ),
    "ChatCompletionChoice": Shape(
        needs={
            "index": INTEGER,
            "finish_reason": one_of("stop", "length", "model_length", "error", "tool_calls"),
        },
        may={"message": ref("AssistantMessage"), "messages": list_of(ref("DeltaMessage"))},
        is_open=True,
    ),
    "UsageInfo": Shape(
        needs={"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER},
        may={"prompt_audio_seconds": INTEGER | NULL, "service_tier": TEXT | NULL},
    ),
    "CompletionEvent": Shape(needs={"data": ref("CompletionChunk")}, may={}, is_open=True),
    "CompletionChunk": Shape(
        needs={"id": TEXT, "model": TEXT, "choices": list_of(ref("CompletionResponseStreamChoice"))},
        may={"object": TEXT, "created": INTEGER, "usage": ref("UsageInfo")},
        is_open=True,
    ),
    "CompletionResponseStreamChoice": Shape(
        needs={
            "index": INTEGER,
            "delta": ref("DeltaMessage"),
            "finish_reason": one_of("stop", "length", "error", "tool_calls") | NULL,
        },
        may={},
        is_open=True,
    ),
    "DeltaMessage": Shape(
        needs={},
        may={
            "role": TEXT | NULL,
            "content": CONTENT,
            "tool_calls": list_of(ref("ToolCall")) | NULL,
            "tool_call_id": TEXT | NULL,
            "index": integer(minimum=0) | NULL,
            "metadata": JSON_OBJECT | NULL,
        },
        is_open=True,
    ),
    "EmbeddingResponse": Shape(
        needs={
            "id": TEXT,
            "object": TEXT,
            "model": TEXT,
            "usage": ref("UsageInfo"),
            "data": list_of(ref("EmbeddingResponseData")),
        },
        may={},
        is_open=True,
    ),
    "EmbeddingResponseData": Shape(
        needs={}, may={"object": TEXT, "embedding": list_of(NUMBER), "index": INTEGER}, is_open=True
    ),
    "ModelList": Shape(
        needs={},
        may={"object": TEXT, "data": list_of(ref("BaseModelCard", "FTModelCard"))},
        is_open=True,
    ),
    "BaseModelCard": Shape(
        needs={"id": TEXT, "capabilities": ref("ModelCapabilities"), "type": tag("base")},
        may=MODEL_CARD,
        is_open=True,
    ),
    "FTModelCard": Shape(
        needs={
            "id": TEXT,
            "capabilities": ref("ModelCapabilities"),
            "type": tag("fine-tuned"),
            "job": TEXT,
            "root": TEXT,
        },
        may=MODEL_CARD | {"archived": FLAG},
        is_open=True,
    ),
    "ModelCapabilities": Shape(
        needs={},
        may=dict.fromkeys(
            (
                "completion_chat",
                "completion_fim",
                "function_calling",
                "reasoning",
                "fine_tuning",
                "vision",
                "ocr",
                "classification",
                "moderation",
                "audio",
                "audio_transcription",
                "audio_transcription_realtime",
                "audio_speech",
                "unified_resources",
            ),
            FLAG,
        ),
        is_open=True,
    ),
    "HTTPValidationError": Shape(needs={}, may={"detail": list_of(ref("ValidationError"))}, is_open=True),
    "ValidationError": Shape(
        needs={"loc": list_of(TEXT | INTEGER), "msg": TEXT, "type": TEXT},
        may={"input": ANYTHING, "ctx": JSON_OBJECT},
        is_open=True,
    ),
}

SHAPES: dict[str, Shape] = REQUESTS | MESSAGES | CHUNKS | TOOLS | PARTS_OF_REQUESTS | ANSWERS

NEVER_SENT = {("CustomConnector", "authorization")}
"""Fields of the specification that are left out on purpose: a secret, which dumps and ledgers would then hold."""

BEYOND_THE_SPEC = {"min_tokens", "top_k", "repetition_penalty", "logprobs", "top_logprobs"}
"""Fields of a chat request that the newest servers take, and that the specification does not have yet."""

BODIES = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/embeddings": "EmbeddingRequest",
    "/v1/batch/jobs": "CreateBatchJobRequest",
}
"""Path → what is posted to it."""

_REFUSED = frozenset({400, 404, 422})


@cache
def validator(shape: str) -> jsonschema_rs.Validator:
    """A validator of one of ``SHAPES``."""
    definitions = {name: one.schema for name, one in SHAPES.items()}
    return jsonschema_rs.validator_for({"$ref": f"#/$defs/{shape}", "$defs": definitions})


def problems(shape: str, value: Any) -> list[str]:
    """Where the value is not of that shape; nothing where it is."""
    return [str(error) for error in validator(shape).iter_errors(value)]


def problems_of_request(received: Received) -> list[str]:
    """Where a request of our client goes beyond the table, and the server took it all the same."""
    is_ours = received.headers.get("user-agent") == "mistill"
    is_posted = received.method == "POST" and received.path in BODIES
    if not is_ours or not is_posted or received.status in _REFUSED:
        return []
    return problems(BODIES[received.path], received.body)
