"""A schema that is given as JSON: taken out of its envelope, of a known draft, checked. Nothing is ever fetched.

Only the drafts that ``jsonschema_rs`` brings along are known, so that an address in a schema, which may come from
foreign data, is never asked for anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

from mistill.errors import InputError
from mistill.structured.keywords import ANNOTATIONS, ASSERTIONS, Schema, all_subschemas
from mistill.structured.readers import json_path
from mistill.structured.strict_json import TOO_DEEP, decode_json


@dataclass(frozen=True, slots=True)
class SchemaDraft:
    """A version of JSON Schema.

    Attributes:
        uri: what ``$schema`` says of it.
        validator: the class of ``jsonschema_rs`` that checks by it.
        id_keyword: what makes a schema in a schema a resource of its own.
    """

    uri: str
    validator: str
    id_keyword: Literal["$id", "id"] = "$id"


_DRAFT_2019_09 = SchemaDraft("https://json-schema.org/draft/2019-09/schema", "Draft201909Validator")
_DRAFT_4 = SchemaDraft("http://json-schema.org/draft-04/schema", "Draft4Validator", "id")
_DRAFTS = (
    SchemaDraft("https://json-schema.org/draft/2020-12/schema", "Draft202012Validator"),
    _DRAFT_2019_09,
    SchemaDraft("http://json-schema.org/draft-07/schema", "Draft7Validator"),
    SchemaDraft("http://json-schema.org/draft-06/schema", "Draft6Validator"),
    _DRAFT_4,
)
_SINCE_2020_12 = {"$dynamicAnchor", "$dynamicRef", "prefixItems"}
_SINCE_DRAFT_6 = _SINCE_2020_12 | {
    "$anchor", "$defs", "$id", "$recursiveRef", "const", "contains", "dependentRequired", "dependentSchemas", "else",
    "if", "maxContains", "minContains", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
}  # fmt: skip
_NEWEST_URI = "http://json-schema.org/schema"


# --- what is given ----------------------------------------------------------------------------------------------------


def decode_schema(text: str) -> Schema:
    """The JSON schema in ``text``; ``true`` and ``false`` as the objects that mean the same.

    Raises:
        InputError: it is no JSON, no schema, or one that lets every answer pass because its keys are not understood.
    """
    try:
        given = json.loads(text)
        given = decode_json(text)
    except RecursionError as error:
        raise InputError(f"not a JSON schema: {TOO_DEEP}") from error
    except ValueError as error:
        raise InputError(
            f"not a JSON schema: {error}", hint="a schema given as a string is the JSON of a JSON schema"
        ) from error
    schema = _out_of_its_envelope(cast("Schema", given)) if isinstance(given, dict) else given
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise InputError(f"not a JSON schema: $: an object is needed, not {type(schema).__name__}")
    schema = cast("Schema", schema)
    _refuse_what_says_nothing(schema)
    return schema


_ENVELOPE = {"type", "name", "description", "strict", "format"}
_IN_ENVELOPE = ("schema", "schema_definition", "json_schema", "parameters", "function")
"""What holds the schema in it: none of these is a keyword of JSON Schema."""


def _out_of_its_envelope(given: Schema) -> Any:
    """The schema itself, where it is given as what would hold it: a field of a request, a tool, or a setting of ours.

    That is ``{"type": "json_schema", "json_schema": {"name", "schema", …}}``, ``{"format": "json", "schema": …}``,
    ``{"type": "function", "function": {"name", "parameters", …}}``, or one of the objects in it. The name becomes the
    title of a schema that has none.
    """
    held = [key for key in _IN_ENVELOPE if isinstance(given.get(key), dict | bool)]
    if len(held) != 1 or not given.keys() <= {*_ENVELOPE, *held}:
        return given
    schema: Any = given[held[0]]
    if isinstance(schema, dict):
        schema = _out_of_its_envelope(cast("Schema", schema))
    name = given.get("name")
    if isinstance(schema, dict) and isinstance(name, str) and "title" not in schema:
        return {"title": name, **cast("Schema", schema)}
    return cast("Any", schema)


_DEFINITIONS = ("$defs", "definitions")


def _refuse_what_says_nothing(schema: Schema) -> None:
    """Unknown keywords are allowed, but such a schema, ``{"age": "integer"}``, was meant to say something."""
    meant = [key for key in schema if key not in ANNOTATIONS and not key.startswith("x-")]
    if meant and not ASSERTIONS.intersection(meant):
        names = ", ".join(json.dumps(key, ensure_ascii=False) for key in meant[:8])
        raise InputError(
            f"not a JSON schema: $: it has no keyword of JSON Schema, so every answer would fit: {names}",
            hint='fields stand under "properties": {"type": "object", "properties": {…}}',
        )
    for key in _DEFINITIONS:
        if not ASSERTIONS.intersection(schema) and isinstance(schema.get(key), dict) and schema[key]:
            name = next(iter(schema[key]))
            raise InputError(
                f"not a JSON schema: $: it has definitions and uses none, so every answer would fit: {key}",
                hint=f'say which is meant: "$ref": "#/{key}/{name}"',
            )


# --- checked ----------------------------------------------------------------------------------------------------------


def compile_validator(schema: Schema) -> tuple[Any, SchemaDraft]:
    """What checks answers by ``schema``, formats (``date``, ``email`` …) too, and the draft that it is of.

    A schema without ``$schema`` is of the newest draft, unless it is written in a form that only older ones had.

    Raises:
        InputError: ``schema`` is no JSON schema (with the path of the mistake), of an unknown draft, or it needs
            another document.
    """
    if isinstance(schema.get("$schema"), str):
        draft = _stated_draft(schema["$schema"])
        return _validator(schema, draft), draft
    draft = _draft_by_form(schema)
    try:
        return _validator(schema, draft), draft
    except InputError as error:
        # References are by "id" in draft 4; elsewhere that is a word like any other, and many schemas have it.
        if not _is_of_draft_4(schema) or draft is _DRAFT_4:
            raise
        try:
            return _validator(schema, _DRAFT_4), _DRAFT_4
        except InputError:
            raise error from error.__cause__


def _stated_draft(uri: str) -> SchemaDraft:
    stated = _comparable(uri)
    for draft in _DRAFTS:
        if stated == _comparable(draft.uri):
            return draft
    if stated == _comparable(_NEWEST_URI):
        return _DRAFTS[0]
    raise InputError(
        f'not a JSON schema: $["$schema"]: {uri[:200]!r} is no draft that is known here, and no schema is ever fetched',
        hint=f'leave "$schema" out, or write "{_DRAFTS[0].uri}"',
    )


def _comparable(uri: str) -> str:
    return uri.rstrip("#").removeprefix("https:").removeprefix("http:")


def _draft_by_form(schema: Schema) -> SchemaDraft:
    """The draft of a schema that does not say it. A form that was given up leads to the last draft that had it, if
    nothing newer stands beside it, which that draft would let pass unchecked."""
    nodes = list(all_subschemas(schema))
    exclusive = (node.get(key) for node in nodes for key in ("exclusiveMinimum", "exclusiveMaximum"))
    if any(isinstance(bound, bool) for bound in exclusive) and _is_of_draft_4(schema):
        return _DRAFT_4
    old_form = any(isinstance(node.get("items"), list) or "$recursiveRef" in node for node in nodes)
    return (
        _DRAFT_2019_09 if old_form and not any(_SINCE_2020_12 & node.keys() for node in nodes) else _DRAFTS[0]
    )


def _is_of_draft_4(schema: Schema) -> bool:
    return not any(_SINCE_DRAFT_6 & node.keys() for node in all_subschemas(schema))


def _validator(schema: Schema, draft: SchemaDraft) -> Any:
    import jsonschema_rs  # only schemas given as JSON Schema need it

    checks = getattr(jsonschema_rs, draft.validator)
    try:
        checks(
            schema, retriever=_refuse_to_fetch
        )  # its mistakes show what is written there; a mask would hide that
        return checks(schema, validate_formats=True, retriever=_refuse_to_fetch, mask="the value")
    except jsonschema_rs.ValidationError as error:
        path = json_path(error.instance_path) if error.instance_path else _path_of_ref(schema, error.message)
        raise InputError(f"not a JSON schema: {path}: {error.message}") from error
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise InputError(f"not a JSON schema: {error}") from error


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is another document; put it under $defs")


def _path_of_ref(schema: Schema, message: str) -> str:
    """Where the reference stands that ``message`` complains of: the library says its target only."""
    stack: list[tuple[list[str | int], Any]] = [([], schema)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            ref = cast("dict[str, Any]", node).get("$ref")
            if isinstance(ref, str) and ref.strip("#") and ref.strip("#") in message:
                return json_path([*path, "$ref"])
            stack.extend(([*path, key], value) for key, value in cast("dict[str, Any]", node).items())
        elif isinstance(node, list):
            stack.extend(([*path, index], value) for index, value in enumerate(cast("list[Any]", node)))
    return "$"
