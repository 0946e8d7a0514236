"""Which keywords JSON Schema has, in all its drafts, and where in a schema other schemas stand.

Everything that is not under one of these keywords is data, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

Schema = dict[str, Any]

_ONE_SCHEMA = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LIST_OF_SCHEMAS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAP_OF_SCHEMAS = (
    "$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties",
)  # fmt: skip

# fmt: off
ANNOTATIONS = frozenset((
    "$anchor", "$comment", "$defs", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema", "$vocabulary", "default",
    "definitions", "deprecated", "description", "examples", "id", "readOnly", "title", "writeOnly",
))
"""The keywords that refuse no answer."""

ASSERTIONS = frozenset((
    *_ONE_SCHEMA, *_LIST_OF_SCHEMAS, *_MAP_OF_SCHEMAS, "$dynamicRef", "$recursiveRef", "$ref", "const",
    "contentEncoding", "contentMediaType", "dependentRequired", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "format", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems",
    "minLength", "minProperties", "minimum", "multipleOf", "pattern", "required", "type", "uniqueItems",
)) - ANNOTATIONS
"""The keywords that may refuse one."""
# fmt: on


def map_subschemas(schema: Schema, change: Callable[[Any], Any]) -> Schema:
    """A copy of ``schema`` with ``change`` done to each schema that stands directly in it."""
    changed: Schema = {}
    for key, value in schema.items():
        if key in _LIST_OF_SCHEMAS and isinstance(value, list):
            changed[key] = [change(one) for one in cast("list[Any]", value)]
        elif key in _MAP_OF_SCHEMAS and isinstance(value, dict):
            changed[key] = {name: change(one) for name, one in cast("Schema", value).items()}
        elif key in _ONE_SCHEMA:
            changed[key] = change(value)
        else:
            changed[key] = value
    return changed


def direct_subschemas(schema: Schema) -> Iterator[Any]:
    """Every schema that stands directly in ``schema``."""
    for key, value in schema.items():
        if key in _LIST_OF_SCHEMAS and isinstance(value, list):
            yield from cast("list[Any]", value)
        elif key in _MAP_OF_SCHEMAS and isinstance(value, dict):
            yield from cast("Schema", value).values()
        elif key in _ONE_SCHEMA:
            yield value


def all_subschemas(schema: Schema) -> Iterator[Schema]:
    """``schema``, and every schema inside it that is an object."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            node = cast("Schema", node)
            yield node
            waiting.extend(direct_subschemas(node))
