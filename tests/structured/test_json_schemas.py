"""Schemas given as JSON: which are understood, of which draft, and that nothing is fetched for them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.errors import InputError, InvalidOutput
from mistill.structured import compile_schema, describe_schema, restore_schema
from mistill.structured.keywords import ANNOTATIONS, ASSERTIONS

PERSON: dict[str, Any] = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
LIST: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}


def refuses(schema: Any, text: str) -> bool:
    try:
        compile_schema(schema).read(text)
    except InvalidOutput:
        return True
    return False


# --- in the field of a request ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_schema", "json_schema": {"name": "Person", "schema": PERSON, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "Person", "description": "d", "schema": PERSON}},
        {"type": "json_schema", "name": "Person", "schema": PERSON, "strict": False},
        {"name": "Person", "strict": True, "schema": PERSON},
        {"name": "Person", "schema_definition": PERSON},
        {"json_schema": {"name": "Person", "schema": PERSON}},
        {"name": "Person", "schema": PERSON, "type": "object"},
        {"name": "Person", "description": "d", "parameters": PERSON},
        {"type": "function", "function": {"name": "Person", "parameters": PERSON, "strict": True}},
        {"format": "json", "schema": {"title": "Person", **PERSON}},
    ],
)
def test_a_schema_is_taken_out_of_the_field_of_a_request(given: dict[str, Any]) -> None:
    for schema in (given, json.dumps(given)):
        compiled = compile_schema(schema)
        assert compiled.wire_schema == {"title": "Person", **PERSON}
        assert compiled.name == "Person"
        assert compiled.parse('{"age": 3}') == {"age": 3}
        assert refuses(schema, '{"age": "x"}')
        assert refuses(schema, '"no object at all"')
        again = compile_schema(restore_schema(describe_schema(schema)))
        assert again.fingerprint() == compiled.fingerprint(), "a saved configuration is of the same run"


def test_its_own_title_stays() -> None:
    given = {"name": "other", "schema": {"title": "Mine", **LIST}}
    assert compile_schema(given).json_schema == {"title": "Mine", **LIST}
    assert compile_schema({"schema": LIST}).json_schema == LIST
    assert compile_schema({"json_schema": LIST}).json_schema == LIST
    assert compile_schema({"name": "n", "schema": True}).json_schema == {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"schema": {"type": "string"}, "name": {"type": "string"}}},
        {"type": "object", "properties": {"a": {}}, "parameters": {"type": "array"}},
        {"title": "t", "schema": {"type": "array"}, "properties": {"a": {}}},
    ],
)
def test_what_only_looks_like_such_a_field_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert compile_schema(schema).json_schema == schema


@pytest.mark.parametrize(
    "schema",
    [
        {"age": "integer"},
        {"name": {"type": "string"}, "age": {"type": "integer"}},
        {"title": "T", "fields": {"age": "integer"}},
        {"name": "n", "schema": "Person"},
    ],
)
def test_a_schema_that_would_let_everything_pass_by_mistake_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r'no keyword of JSON Schema.*"properties"'):
        compile_schema(schema)


@pytest.mark.parametrize("key", ["$defs", "definitions"])
def test_definitions_that_nothing_uses_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f'uses none.*"#/{re.escape(key)}/Person"'):
        compile_schema({key: {"Person": PERSON}})
    assert refuses({key: {"Person": PERSON}, "$ref": f"#/{key}/Person"}, '{"age": "x"}')


@pytest.mark.parametrize("schema", [{}, {"title": "T"}, {"description": "Whatever you like", "x-order": 3}])
def test_a_schema_that_lets_everything_pass_on_purpose_is_taken(schema: dict[str, Any]) -> None:
    assert compile_schema(schema).parse('{"value": [1]}') == [1]


# --- drafts -----------------------------------------------------------------------------------------------------------


def test_a_boolean_is_a_schema() -> None:
    for true in (True, "true", {"schema": True}):
        assert compile_schema(true).parse('{"value": [1]}') == [1]
        assert compile_schema(restore_schema(describe_schema(true))).parse('{"value": 1}') == 1
    for false in (False, "false"):
        assert refuses(false, '{"value": [1]}')
        assert refuses(false, "null")


@pytest.mark.parametrize(
    "uri",
    [
        "https://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/draft/2020-12/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/schema#",
    ],
)
def test_every_draft_is_known_by_every_spelling_of_its_name(uri: str) -> None:
    schema = {"$schema": uri, **LIST}
    compiled = compile_schema(schema)
    assert compiled.parse('{"value": [1]}') == [1]
    assert refuses(schema, '{"value": ["x"]}')
    assert compiled.wire_schema["$schema"] == uri


TUPLE = {"type": "array", "items": [{"type": "integer"}, {"$ref": "#/items/0"}], "additionalItems": False}
EXCLUSIVE = {"type": "integer", "minimum": 3, "exclusiveMinimum": True}
NAMED = {
    "id": "http://example.com/root.json",
    "type": "array",
    "items": {"$ref": "item.json"},
    "definitions": {"item": {"id": "item.json", "type": "integer"}},
}
RECURSIVE = {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$recursiveRef": "#"}]}}


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    ("uri", "schema", "good", "wrong"),
    [
        ("http://json-schema.org/draft-07/schema#", TUPLE, [1, 2], [1, "x"]),
        ("http://json-schema.org/draft-07/schema#", TUPLE, [], [1, 2, 3]),
        ("http://json-schema.org/draft-04/schema#", EXCLUSIVE, 4, 3),
        ("http://json-schema.org/draft-04/schema#", NAMED, [1], ["x"]),
        ("https://json-schema.org/draft/2019-09/schema", RECURSIVE, [1, [2, []]], [1, ["x"]]),
    ],
)
def test_a_form_that_only_older_drafts_have_is_understood(
    uri: str, schema: dict[str, Any], good: Any, wrong: Any, stated: bool
) -> None:
    given = {"$schema": uri, **schema} if stated else schema
    assert compile_schema(given).parse(json.dumps({"value": good})) == good
    assert refuses(given, json.dumps({"value": wrong}))
    assert refuses(given, json.dumps(wrong))


@pytest.mark.parametrize(
    "schema",
    [
        {"items": [{"type": "integer"}], "prefixItems": [{"type": "string"}]},
        {"minimum": 3, "exclusiveMinimum": True, "const": 4},
        {"properties": {"a": {"id": "a", "$ref": "#/$defs/gone"}}, "$defs": {}},
    ],
)
def test_no_older_draft_is_guessed_that_would_drop_a_newer_keyword(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not a JSON schema"):
        compile_schema(schema)


# --- nothing is fetched -----------------------------------------------------------------------------------------------


@pytest.fixture
def fetched() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and the paths that were asked for there."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            body = json.dumps({"type": "object"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", paths
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "schema",
    [
        '{"$schema": "URLdialect", "type": "object"}',
        '{"type": "object", "properties": {"a": {"$ref": "URLother#/$defs/x"}}}',
        '{"$id": "URLme", "type": "object", "properties": {"a": {"$ref": "sibling.json"}}}',
        '{"type": "array", "items": {"$dynamicRef": "URLdynamic"}}',
        '{"$schema": "http://json-schema.org/draft-04/schema#", "id": "URLme", "items": {"$ref": "sibling.json"}}',
        '{"name": "n", "schema": {"$schema": "URLdialect", "type": "object"}}',
    ],
)
def test_an_address_in_a_schema_is_refused_and_not_asked(schema: str, fetched: tuple[str, list[str]]) -> None:
    url, paths = fetched
    with pytest.raises(InputError, match=r"another document|no draft that is known|Resource"):
        compile_schema(schema.replace("URL", url))
    assert paths == []


@pytest.mark.parametrize(
    "schema",
    [
        '{"$id": "URLme", "type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"const": 1}}}',
        '{"type": "object", "properties": {"a": {"$id": "URLa", "$schema": "URLdialect", "const": 1}}}',
        '{"type": "object", "properties": {"a": {"const": 1}}, "$defs": {"b": {"$ref": "#/properties/a"}}}',
        '{"type": "object", "properties": {"a": {"const": 1}}, "default": {"$ref": "URLdefault"}}',
        '{"type": "object", "properties": {"b": {"$recursiveRef": "URLrecursive"}}}',
    ],
)
def test_an_address_that_is_only_a_name_is_not_asked_either(
    schema: str, fetched: tuple[str, list[str]]
) -> None:
    url, paths = fetched
    compiled = compile_schema(schema.replace("URL", url))
    assert compiled.parse('{"a": 1}') == {"a": 1}
    assert paths == []


def test_an_unknown_draft_is_named_with_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r'\$\["\$schema"\]: .*draft-03.* is no draft that is known.*leave "\$schema" out'
    ):
        compile_schema({"$schema": "http://json-schema.org/draft-03/schema#", "type": "object"})


# --- odd schemas ------------------------------------------------------------------------------------------------------


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"title": "\ud800", "type": "object"},
        {"type": "object", "properties": {"\ud800": {}}},
        '{"title": "\\ud800", "type": "object"}',
        '{"maximum": NaN}',
        '{"maximum": 1e400}',
        '{"maximum": ' + "9" * 5000 + "}",
        deep(600),
        '{"items": ' * 100_000,
        {"$schema": 5, "type": "object"},
        {"$defs": 5, "type": "object"},
        {"definitions": [], "type": "array"},
        {"$id": 5, "type": "array"},
        {"type": "object", "properties": []},
        '"integer"',
        "5",
        "null",
    ],
)
def test_an_odd_schema_is_an_input_error(schema: Any) -> None:
    with pytest.raises(InputError, match="not a JSON schema"):
        compile_schema(schema)


def test_large_numbers_in_a_schema_go_out_as_they_are() -> None:
    compiled = compile_schema({"type": "integer", "maximum": 2**70})
    assert compiled.parse(f'{{"value": {2**70}}}') == 2**70
    assert refuses(compiled, f'{{"value": {2**70 + 1}}}')
    assert compiled.wire_schema["properties"]["value"]["maximum"] == 2**70


_KEYS = st.sampled_from(sorted(ASSERTIONS | ANNOTATIONS | {"json_schema", "schema", "name", "strict", "a"}))
_WORDS = st.sampled_from(
    ["#", "#/$defs/a", "a", "object", "array", "json_schema", "http://json-schema.org/draft-04/schema#"]
)
_SCHEMAS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(_SCHEMAS)
def test_whatever_is_given_is_a_schema_or_an_input_error(schema: Any) -> None:
    try:
        compiled = compile_schema(json.dumps(schema))
    except InputError:
        return
    assert (
        json.loads(msgspec.json.encode(compiled.response_format()))["json_schema"]["schema"]
        == compiled.wire_schema
    )
    assert compile_schema(restore_schema(describe_schema(compiled))).fingerprint() == compiled.fingerprint()


@pytest.mark.parametrize("levels", [110, 300, 3000])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_schema_that_is_nested_too_deep_is_called_that(levels: int, as_text: bool) -> None:
    schema: Any = {"type": "string", "description": "a [ and a { count for nothing: \\" + '"' + "[" * 300}
    text = json.dumps(schema)
    compile_schema(schema)
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
        text = f'{{"type":"object","properties":{{"a":{text}}}}}'
    with pytest.raises(InputError, match="it is nested more than 200 levels deep"):
        compile_schema(text if as_text else schema)
