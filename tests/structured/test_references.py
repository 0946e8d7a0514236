"""A schema by name: on the command line, and in a saved configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mistill.errors import InputError
from mistill.structured import compile_schema, describe_schema, load_schema, restore_schema

MODULE = """
from pydantic import BaseModel
class User(BaseModel):
    name: str
    class Address(BaseModel):
        street: str
Users = list[User]
secret = "not a type"
class NoSchema:
    pass
"""


@pytest.fixture
def schemas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "some_schemas.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import some_schemas  # type: ignore[import-not-found]

    yield some_schemas
    monkeypatch.delitem(__import__("sys").modules, "some_schemas")


def test_a_name_in_a_module(schemas: Any) -> None:
    assert load_schema("some_schemas:User") is schemas.User
    assert load_schema("some_schemas:User.Address") is schemas.User.Address
    assert compile_schema(load_schema("some_schemas:Users")).parse('[{"name": "A"}]') == [
        schemas.User(name="A")
    ]


def test_a_file_and_a_schema_itself(tmp_path: Path) -> None:
    schema = {"type": "object", "title": "Größe"}
    file = tmp_path / "schema.json"
    file.write_text("\ufeff" + json.dumps(schema, ensure_ascii=False), encoding="utf-8")
    assert load_schema(str(file)) == schema
    assert load_schema(" " + json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("some_schemas:Usr", "no 'Usr' in some_schemas.*did you mean 'User'"),
        ("some_schemas:User.Adress", "no 'Adress' in User.*did you mean 'Address'"),
        ("no_such_module_here:User", "no_such_module_here"),
        ("User", "module:Name"),
        (":User", "module:Name"),
        ("some_schemas:", "module:Name"),
        ("gone.json", "cannot be read"),
        ("broken.json", "not JSON: .*line 1"),
        ("latin.json", "cannot be read"),
        ('{"type"', "not JSON"),
    ],
)
def test_a_reference_to_nothing_says_what_is_wrong(
    reference: str, message: str, schemas: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.json").write_text("{,}")
    (tmp_path / "latin.json").write_bytes(b'{"title": "Gr\xf6\xdfe"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load_schema(reference)


def through_json(schema: Any) -> Any:
    return restore_schema(json.loads(json.dumps(describe_schema(schema))))


def test_a_class_that_can_be_imported_comes_back_as_the_class(schemas: Any) -> None:
    assert through_json(schemas.User) is schemas.User
    assert through_json(schemas.User.Address) is schemas.User.Address


def test_what_cannot_be_imported_comes_back_as_its_json_schema(schemas: Any) -> None:
    class Local(BaseModel):
        a: int

    for schema in (Local, schemas.Users, {"type": "object", "title": "T"}, '{"type": "array"}'):
        again = through_json(schema)
        assert isinstance(again, dict)
        assert compile_schema(again).wire_schema == compile_schema(schema).wire_schema


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("gone_module", "User"),
        ("some_schemas", "Gone"),
        ("some_schemas", "secret"),
        ("some_schemas", "NoSchema"),
        ("os", "system"),
        (None, None),
        (3, "User"),
    ],
)
def test_only_a_class_that_is_a_schema_is_taken_by_name(module: Any, name: Any, schemas: Any) -> None:
    json_schema = {"type": "object"}
    assert restore_schema({"module": module, "name": name, "json_schema": json_schema}) == json_schema


@pytest.mark.parametrize(
    "description", [{}, {"module": "os", "name": "system"}, {"json_schema": {}, "type": "object"}]
)
def test_what_is_no_description_is_refused(description: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="not a saved schema"):
        restore_schema(description)


def test_a_schema_as_the_field_of_a_request_is_no_saved_one() -> None:
    field = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}
    assert compile_schema(restore_schema(field)).json_schema == {"title": "n", "type": "array"}
