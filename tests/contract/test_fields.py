"""The table of fields: it refuses what it should, knows every field of ours, and says what the specification says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.contract.fields import BEYOND_THE_SPEC, BODIES, NEVER_SENT, REQUESTS, SHAPES, Shape, problems

from mistill.api.chat import ChatParameters
from mistill.api.embeddings import EmbeddingParameters

SPEC = Path(__file__).parents[3] / "shared" / "openapi" / "mistral-2026-08.yaml"

USER = {"role": "user", "content": "Hello"}
CHAT = {"model": "m", "messages": [USER]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 1.5, "top_p": None, "max_tokens": 0, "n": 1},
        {"stop": ["a"], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"guardrails": [{"block_on_error": True, "moderation_llm_v3": {}}]},
    ],
)
def test_a_request_by_the_table_has_no_problems(fields: dict[str, Any]) -> None:
    assert problems("ChatCompletionRequest", CHAT | fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"temperature": 1.6},
        {"top_p": 0},
        {"max_tokens": -1},
        {"n": 0},
        {"stop": 3},
        {"seed": 7},
        {"reasoning_effort": "huge"},
        {"tool_choice": "some"},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "robot", "content": "Hello"}]},
        {"messages": [USER | {"name": "a user has none"}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"text": "no type"}]}]},
        {"tools": [{"type": "document_library", "library_ids": []}]},
        {"tools": [{"type": "connector", "connector_id": "7", "authorization": {"value": "secret"}}]},
        {"guardrails": [{"moderation_llm_v1": {"action": "shout"}}]},
    ],
)
def test_a_request_beyond_the_table_has_problems(fields: dict[str, Any]) -> None:
    assert problems("ChatCompletionRequest", CHAT | fields)


def test_what_a_body_must_have_is_missed() -> None:
    assert problems("ChatCompletionRequest", {"model": "m"})
    assert problems("EmbeddingRequest", {"model": "m"})


def test_every_parameter_of_ours_is_in_the_table() -> None:
    chat, embedding = (set(REQUESTS[name].may) for name in ("ChatCompletionRequest", "EmbeddingRequest"))
    assert set(ChatParameters.__struct_fields__) - chat == BEYOND_THE_SPEC
    assert set(EmbeddingParameters.__struct_fields__) <= embedding


# --- the table against the specification ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def specification() -> Any:
    if not SPEC.exists():
        pytest.skip(f"Mistral's specification is not at {SPEC}; the table stands for it")
    return yaml.safe_load(SPEC.read_text("utf-8"))


@pytest.mark.parametrize("name", SHAPES)
def test_the_table_says_what_the_specification_says(specification: Any, name: str) -> None:
    schemas = specification["components"]["schemas"]
    assert _of_table(SHAPES[name]) == _of_specification(name, schemas)


@pytest.mark.parametrize("path", BODIES)
def test_the_table_knows_what_each_path_takes(specification: Any, path: str) -> None:
    content = specification["paths"][path]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["$ref"].endswith(f"/{BODIES[path]}")


def _of_table(shape: Shape) -> dict[str, Any]:
    fields = {name: _choices(values.schema, {}) for name, values in (shape.needs | shape.may).items()}
    required = {name for name, found in fields.items() if name in shape.needs and not _is_tag(found)}
    return {"fields": fields, "required": required, "is_open": shape.is_open}


def _of_specification(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, frozenset[str]] = {}
    required: set[str] = set()
    is_open = True
    for part in _parts(schemas[name], schemas):
        fields |= {field: _choices(schema, schemas) for field, schema in part.get("properties", {}).items()}
        required |= set(part.get("required", ()))
        is_open = is_open and part.get("additionalProperties", True)
    fields = {field: found for field, found in fields.items() if (name, field) not in NEVER_SENT}
    return {"fields": fields, "required": required, "is_open": is_open}


def _parts(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema, or those that together make it."""
    if "$ref" in schema:
        schema = schemas[_name_of(schema)]
    if "allOf" not in schema:
        return [schema]
    return [part for one in schema["allOf"] for part in _parts(one, schemas)]


def _choices(schema: dict[str, Any], schemas: dict[str, Any]) -> frozenset[str]:
    """What a field may hold, in one way of writing: named words and named unions are written out."""
    if "$ref" in schema:
        name = _name_of(schema)
        named = schemas.get(name, {"type": "object"})
        return frozenset({name}) if named.get("type") == "object" else _choices(named, schemas)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return frozenset[str]().union(*(_choices(one, schemas) for one in schema[union]))
    if isinstance(schema.get("type"), list):
        words = [word for word in schema["enum"] if word is not None]
        return _choices({"type": "string", "enum": words}, schemas) | _choices({"type": "null"}, schemas)
    kept = {key: _plain(schema[key]) for key in _TELLING & schema.keys()}
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    if "items" in schema:
        kept["items"] = sorted(_choices(schema["items"], schemas))
    return frozenset({json.dumps(kept, sort_keys=True)})


_TELLING = {
    "type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    "minLength", "maxLength", "pattern",
}  # fmt: skip


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name_of(schema: dict[str, Any]) -> str:
    return schema["$ref"].rpartition("/")[2]


def _is_tag(choices: frozenset[str]) -> bool:
    """One word and no other: by it the members of a union are told apart."""
    (first, *others) = choices
    return not others and len(json.loads(first).get("enum", ()) if first.startswith("{") else ()) == 1
