"""Instances of a JSON schema, made up at random: what a model that keeps to its schema would answer.

Kept: type, enum, const, ranges and multipleOf, lengths, pattern, the usual formats, items, prefixItems,
uniqueItems, properties, required, additionalProperties, patternProperties, propertyNames, local $ref, allOf,
anyOf, oneOf. Not kept: not, if/then/else, contains, dependent*, $dynamicRef; of oneOf, that only one branch
may fit.
"""

from __future__ import annotations

import math
import random
import re
from typing import Any, cast

from mistill.simulator import schema_merge
from mistill.simulator.patterns import NoMatch, sample_match
from mistill.simulator.schema_merge import Schema, Unsatisfiable
from mistill.simulator.text_formats import TEXT_FORMATS, words

_DEEP = 5
_TOO_DEEP = 60
_TRIES = 50
MAX_LENGTH = 100_000
MAX_ITEMS = 1_000
MAX_VALUES = 100_000
_TYPES_BY_KEYWORD = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "patternProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}


def sample(schema: Schema | bool, rng: random.Random) -> Any:
    """One instance of ``schema`` (JSON Schema 2020-12, or 7).

    Raises:
        Unsatisfiable: none was found.
    """
    try:
        return _Sampler(schema, rng).value(schema, 0)
    except Unsatisfiable:
        raise
    except (TypeError, AttributeError, LookupError, ArithmeticError, ValueError, RecursionError) as error:
        # A keyword's value is of a type, or a size, that it cannot have.
        raise Unsatisfiable(f"it is no JSON schema: {error}") from error


class _Sampler:
    def __init__(self, root: Schema | bool, rng: random.Random) -> None:
        self._root = root if isinstance(root, dict) else {}
        self._rng = rng
        self._values = 0

    def value(self, schema: Schema | bool, depth: int) -> Any:
        if depth > _TOO_DEEP:
            raise Unsatisfiable("the schema asks for itself without end")
        self._values += 1
        if self._values > MAX_VALUES:
            raise Unsatisfiable("the schema asks for more than this simulator makes up")
        schema = self._one_branch(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._member(schema)
        kind = self._type_of(schema)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                raise Unsatisfiable(f"unknown type {kind!r}")

    def _one_branch(self, schema: Schema | bool, depth: int) -> Schema:
        """The schema with its references, allOf, anyOf and oneOf resolved into plain keywords."""
        merged = schema_merge.resolve(schema, self._root)
        for keyword in ("anyOf", "oneOf"):
            branches = merged.pop(keyword, None)
            if branches is None:
                continue
            merged = self._pick(merged, branches, depth)
        if "anyOf" in merged or "oneOf" in merged or "$ref" in merged or "allOf" in merged:
            return self._one_branch(merged, depth)
        return merged

    def _pick(self, base: Schema, branches: list[Schema | bool], depth: int) -> Schema:
        if depth >= _DEEP:
            branches = sorted(branches, key=lambda branch: schema_merge.depth_needed(branch, self._root))
        else:
            branches = self._rng.sample(branches, len(branches))
        for branch in branches:
            try:
                return schema_merge.merge(base, schema_merge.resolve(branch, self._root))
            except Unsatisfiable:
                continue
        raise Unsatisfiable("no branch of anyOf or oneOf can be met")

    def _type_of(self, schema: Schema) -> str:
        kinds = schema.get("type")
        if isinstance(kinds, str):
            return kinds
        if isinstance(kinds, list):
            options: list[str] = [str(kind) for kind in kinds]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  JSON
            fuller = [kind for kind in options if kind != "null"]
            if not fuller or self._rng.random() < 0.2:
                return self._rng.choice(options)
            return self._rng.choice(fuller)
        return next((kind for word, kind in _TYPES_BY_KEYWORD.items() if word in schema), "string")

    def _member(self, schema: Schema) -> Any:
        members = [member for member in schema["enum"] if schema_merge.is_of_type(member, schema.get("type"))]
        if not members:
            raise Unsatisfiable("an enum without a member of its type")
        return self._rng.choice(members)

    # --- scalars ------------------------------------------------------------------------------------------

    def _string(self, schema: Schema) -> str:
        least = _least(schema, "minLength", MAX_LENGTH)
        most = None if "maxLength" not in schema else int(schema["maxLength"])
        if most is not None and most < least:
            raise Unsatisfiable(f"maxLength {most} is below minLength {least}")
        if pattern := schema.get("pattern"):
            return self._matching(pattern, least, most)
        if make := TEXT_FORMATS.get(schema.get("format", "")):
            return make(self._rng)
        text = words(self._rng, max(least, 1))
        return text if most is None else text[:most].ljust(least, "x")

    def _matching(self, pattern: str, least: int = 0, most: int | None = None) -> str:
        try:
            return sample_match(pattern, self._rng, least, most)
        except NoMatch as error:
            raise Unsatisfiable(str(error)) from error

    def _integer(self, schema: Schema) -> int:
        low, high = _bounds(schema)
        step = schema.get("multipleOf", 1)
        if step != int(step):
            step = 1
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last:
            raise Unsatisfiable(f"no integer between {low} and {high}")
        return int(step) * self._rng.randint(first, last)

    def _number(self, schema: Schema) -> float:
        low, high = _bounds(schema)
        if low > high:
            raise Unsatisfiable(f"no number between {low} and {high}")
        if step := schema.get("multipleOf"):
            return self._multiple(low, high, step)
        value = self._rng.uniform(low, high)
        rounded = round(value, 3)
        return rounded if low <= rounded <= high else value

    def _multiple(self, low: float, high: float, step: float) -> float:
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last:
            raise Unsatisfiable(f"no multiple of {step} between {low} and {high}")
        for _ in range(_TRIES):
            value = round(step * self._rng.randint(first, last), 10)
            if value / step == int(value / step):  # as validators check it, in floating point
                return value
        return step * first

    # --- containers ---------------------------------------------------------------------------------------

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        prefix, rest = _items_of(schema)
        least = _least(schema, "minItems", MAX_ITEMS)
        most = min(int(schema.get("maxItems", max(least, len(prefix), 3))), MAX_ITEMS)
        if most < least:
            raise Unsatisfiable(f"maxItems {most} is below minItems {least}")
        if rest is False:
            most = min(most, len(prefix))
        wanted = least if depth >= _DEEP else self._rng.randint(max(least, min(1, most)), most)
        wanted = max(wanted, min(len(prefix), most))
        items: list[Any] = []
        for _ in range(wanted * (_TRIES if schema.get("uniqueItems") else 1)):
            if len(items) == wanted:
                break
            item = self.value(prefix[len(items)] if len(items) < len(prefix) else rest, depth + 1)
            if not (schema.get("uniqueItems") and item in items):
                items.append(item)
        if len(items) < least:
            raise Unsatisfiable(f"found {len(items)} different items, not {least}")
        return items

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties: dict[str, Schema | bool] = schema.get("properties", {})
        required: list[str] = schema.get("required", [])
        made: dict[str, Any] = {}
        for name, inner in properties.items():
            if name in required:
                made[name] = self.value(inner, depth + 1)
            elif depth < _DEEP and self._rng.random() < 0.75:
                self._try_optional(made, name, inner, depth)
        for name in required:
            if name not in made:
                made[name] = self.value(self._extra_schema(schema), depth + 1)
        self._fill_up(schema, made, depth)
        return made

    def _try_optional(self, made: dict[str, Any], name: str, inner: Schema | bool, depth: int) -> None:
        try:
            made[name] = self.value(inner, depth + 1)
        except Unsatisfiable:
            return  # an optional property may be left out

    def _fill_up(self, schema: Schema, made: dict[str, Any], depth: int) -> None:
        """Properties without a fixed name: of a mapping, or to reach minProperties."""
        least = _least(schema, "minProperties", _TRIES)
        is_mapping = not schema.get("properties") and (
            isinstance(schema.get("additionalProperties"), dict) or "patternProperties" in schema
        )
        wanted = max(least, self._rng.randint(1, 3) if is_mapping and depth < _DEEP else 0)
        wanted = min(wanted, int(schema.get("maxProperties", wanted)))
        for _ in range(_TRIES):
            if len(made) >= wanted:
                return
            name, inner = self._new_property(schema)
            made.setdefault(name, self.value(inner, depth + 1))
        if len(made) < least:
            raise Unsatisfiable(f"found {len(made)} properties, not {least}")

    def _new_property(self, schema: Schema) -> tuple[str, Schema | bool]:
        if patterns := schema.get("patternProperties"):
            pattern = self._rng.choice(list(patterns))
            name = self._matching(pattern)
            longer = name + words(self._rng, 1)  # a pattern with an open end has more than one match
            return longer if re.search(pattern, longer) else name, patterns[pattern]
        names = schema.get("propertyNames")
        name = self.value({"type": "string"} | names, 0) if isinstance(names, dict) else words(self._rng, 1)
        return str(name), self._extra_schema(schema)

    @staticmethod
    def _extra_schema(schema: Schema) -> Schema | bool:
        extra = schema.get("additionalProperties", True)
        if extra is False:
            raise Unsatisfiable("a property is required that additionalProperties forbids")
        return extra


def _least(schema: Schema, keyword: str, largest: int) -> int:
    least = int(schema.get(keyword, 0))
    if least > largest:
        raise Unsatisfiable(f"{keyword} {least} is more than this simulator makes up")
    return least


def _items_of(schema: Schema) -> tuple[list[Schema | bool], Schema | bool]:
    """The schemas of an array's first items and of all others; draft 7 has the first ones under ``items``."""
    items: Any = schema.get("items", True)
    if isinstance(items, list):
        return cast("list[Schema | bool]", items), schema.get("additionalItems", True)
    return schema.get("prefixItems", []), items


def _bounds(schema: Schema) -> tuple[float, float]:
    """The closed range of a number; an exclusive bound moves by the smallest step that matters."""
    is_integer = schema.get("type") == "integer"
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is not None and (low is None or above >= low):
        low = math.floor(above) + 1 if is_integer else math.nextafter(above, math.inf)
    if below is not None and (high is None or below <= high):
        high = math.ceil(below) - 1 if is_integer else math.nextafter(below, -math.inf)
    span = 1000 * max(1, schema.get("multipleOf", 1))
    if low is None:
        low = min(0, high - span) if high is not None else 0
    return low, low + span if high is None else high
