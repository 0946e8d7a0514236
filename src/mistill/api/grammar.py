"""A JSON schema as a grammar for the local model, so that its answers fit the schema *and end*.

The local server takes ``response_format`` too, but makes a weaker grammar of it: patterns with ``\\d`` or without both
anchors, number ranges, lone bounds and ``multipleOf`` are dropped. Its request field ``grammar`` takes llguidance's
own form, which holds all of these. Two things stand in the way, and are removed here:

- llguidance gives up the *whole* constraint, silently, on a keyword or a regular expression it does not know
  (look-around, external references). Those are left out; validation of the answer remains for them.
- A model this small seldom ends a list, a number or a recursion by itself. What the schema leaves open is closed:
  strings, numbers, lists and depth are bounded. The result only narrows the schema, it never widens what the
  grammar could have held.

Pure functions; https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md lists what it holds.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast

from mistill.json_pointers import look_up

Schema = dict[str, Any]

MAX_CHARS = 120
_MAX_ITEMS = 8
_MAX_DEPTH = 3
_MAX_NUMBER = 1_000_000_000
_MAX_NODES = 20_000

_COPIED = (
    "type", "enum", "const", "required", "format", "minLength", "maxLength", "minItems", "maxItems", "minProperties",
    "maxProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
)  # fmt: skip
_NOT_REGULAR = re.compile(r"\(\?<?[=!]|\\[1-9]|\(\?P=")


def llguidance_grammar(schema: Schema) -> str:
    """``schema`` as the value of the request field ``grammar``.

    Lenient: a ``format`` that llguidance does not know is ignored rather than the whole schema. No flexible white
    space, since a small model can write newlines until its last token.
    """
    try:
        closed = _Closing(schema).close(schema, ())
    except _TooLargeError:
        closed = schema
    # A bare bool (no value fits, or any does) is no schema to write options into: any JSON, then.
    body = closed if isinstance(closed, dict) else {}
    options = {"lenient": True, "whitespace_flexible": False}
    return "%llguidance {}\nstart: %json " + json.dumps(body | {"x-guidance": options})


class _TooLargeError(Exception):
    """References written out grew past any use; the schema is sent as it is."""


class _Closing:
    """Rewrites a schema without references, recursion cut at ``_MAX_DEPTH``; ``False`` is what no value fits."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0

    def close(self, node: Any, refs: tuple[str, ...], *, narrow: bool = True) -> Schema | bool:
        """``refs`` lead here. Not ``narrow`` inside ``allOf``, whose members share one value."""
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            raise _TooLargeError
        if isinstance(node, bool):
            return node
        if "$ref" in node:
            return self._reference(node, refs, narrow=narrow)
        closed: Schema = {key: node[key] for key in _COPIED if key in node}
        if "pattern" in node and not _NOT_REGULAR.search(node["pattern"]):
            closed["pattern"] = node["pattern"]
        fits = (
            self._unions(node, closed, refs)
            and self._properties(node, closed, refs, narrow=narrow)
            and self._items(node, closed, refs)
        )
        if not fits:
            return False
        return _bounded(closed) if narrow else closed

    def _reference(self, node: Schema, refs: tuple[str, ...], *, narrow: bool) -> Schema | bool:
        ref: str = node["$ref"]
        if refs.count(ref) >= _MAX_DEPTH:
            return False
        beside = {
            key: node[key] for key in (*_COPIED, "pattern", "properties", "items", "anyOf") if key in node
        }
        target = _resolve(self._root, ref)
        if not beside:
            return self.close(target, (*refs, ref), narrow=narrow)
        return self.close({"allOf": [target, beside]}, (*refs, ref), narrow=narrow)

    def _unions(self, node: Schema, closed: Schema, refs: tuple[str, ...]) -> bool:
        for key in ("anyOf", "oneOf"):
            if key in node:
                members = [self.close(sub, refs) for sub in node[key]]
                closed[key] = [sub for sub in members if sub is not False]
                if not closed[key]:
                    return False
        if "allOf" in node:
            closed["allOf"] = [self.close(sub, refs, narrow=False) for sub in node["allOf"]]
            return False not in closed["allOf"]
        return True

    def _properties(self, node: Schema, closed: Schema, refs: tuple[str, ...], *, narrow: bool) -> bool:
        for key in ("properties", "patternProperties"):
            if key in node:
                closed[key] = {name: self.close(sub, refs) for name, sub in node[key].items()}
        if "additionalProperties" in node:
            closed["additionalProperties"] = self.close(node["additionalProperties"], refs)
        elif "properties" in node and narrow and "allOf" not in node:
            closed["additionalProperties"] = False
        properties: Schema = closed.get("properties", {})
        return all(properties.get(name) is not False for name in node.get("required", ()))

    def _items(self, node: Schema, closed: Schema, refs: tuple[str, ...]) -> bool:
        items = node.get("items")
        first: list[Any] = (
            cast("list[Any]", items) if isinstance(items, list) else node.get("prefixItems", [])
        )
        if first:
            closed["prefixItems"] = [self.close(sub, refs) for sub in first]
            if False in closed["prefixItems"]:
                return False
        if isinstance(items, dict | bool):
            closed["items"] = self.close(items, refs)
            if closed["items"] is False:
                closed["maxItems"] = len(first)
                return bool(node.get("minItems", 0) <= len(first))
        return True


def _bounded(node: Schema) -> Schema:
    """``node`` with bounds where its author left them open."""
    types = node.get("type", ())
    if "enum" in node or "const" in node or "allOf" in node:
        return node
    if "string" in types and "format" not in node:
        node.setdefault("maxLength", max(MAX_CHARS, node.get("minLength", 0)))
    if "array" in types:
        node.setdefault("maxItems", max(_MAX_ITEMS, node.get("minItems", 0)))
    if "object" in types and "properties" not in node:
        node.setdefault("maxProperties", max(_MAX_ITEMS, node.get("minProperties", 0)))
    if "integer" in types or "number" in types:
        _bound_number(node, whole="number" not in types)
    return node


def _bound_number(node: Schema, *, whole: bool) -> None:
    low = node.get("minimum", node.get("exclusiveMinimum"))
    high = node.get("maximum", node.get("exclusiveMaximum"))
    if high is None:
        high = node["maximum"] = max(_MAX_NUMBER, 2 * abs(low or 0))
    if low is None:
        low = node["minimum"] = -max(_MAX_NUMBER, 2 * abs(high))
    if not whole and high - low >= 1:  # hundredths: digits without end are the usual way to fail
        node.setdefault("multipleOf", 0.01)


def _resolve(root: Schema, ref: str) -> Any:
    """What a local reference names; ``True``, which any value fits, for one that leaves the document."""
    try:
        return look_up(ref, root)
    except LookupError:
        return True
