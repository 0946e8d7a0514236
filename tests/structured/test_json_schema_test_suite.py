"""JSON-Schema-Test-Suite, in the form that goes out: no answer that does not fit is ever taken for one that does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from mistill.errors import InputError, InvalidOutput
from mistill.structured import OutputSchema, compile_schema

SUITE = Path(__file__).parent / "data" / "json-schema-test-suite"
DRAFTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}

NEEDS_ANOTHER_DOCUMENT = {
    ("draft2020-12/dynamicRef.json", "strict-tree schema, guards against misspelled properties"),
    ("draft2020-12/dynamicRef.json", "tests for implementation dynamic anchor and reference link"),
    ("draft2020-12/dynamicRef.json", "$ref and $dynamicAnchor are independent of order - $defs first"),
    ("draft2020-12/dynamicRef.json", "$ref and $dynamicAnchor are independent of order - $ref first"),
    ("draft2020-12/dynamicRef.json", "$ref to $dynamicRef finds detached $dynamicAnchor"),
}
"""Their references lead to a server of the suite's own, and nothing is ever fetched."""

FORMATS_ARE_CHECKED = "is only an annotation by default"
"""What the suite says of formats: a validator may check them all the same, and ours does."""


def groups(draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((SUITE / draft).rglob("*.json")):
        for group in json.loads(path.read_text("utf-8")):
            yield str(path.relative_to(SUITE)), group


def stated(schema: Any, draft: str) -> Any:
    """``schema`` with the draft that it is of, which the suite leaves out."""
    return {"$schema": DRAFTS[draft], **schema} if isinstance(schema, dict) else schema


def as_sent(schema: OutputSchema, value: Any) -> str:
    return json.dumps({"value": value} if schema.is_wrapped else value)


def fits(schema: OutputSchema, text: str) -> bool:
    try:
        schema.read(text)
    except InvalidOutput:
        return False
    return True


@pytest.mark.parametrize("draft", DRAFTS)
def test_what_fits_is_read_and_what_does_not_is_refused(draft: str) -> None:
    read, wrong = 0, list[str]()
    for file, group in groups(draft):
        if (file, group["description"]) in NEEDS_ANOTHER_DOCUMENT:
            continue
        schema = compile_schema(stated(group["schema"], draft))
        sent = jsonschema_rs.validator_for(schema.wire_schema, validate_formats=True)
        for case in group["tests"]:
            expected = case["valid"] and FORMATS_ARE_CHECKED not in case["description"]
            text = as_sent(schema, case["data"])
            # A server that holds a model to what goes out takes and refuses the same.
            if not (fits(schema, text) == sent.is_valid(json.loads(text)) == expected):
                wrong.append(f"{file}: {group['description']}: {case['description']}")
            read += 1
    assert wrong == []
    assert read > 500, "the suite is there"


def test_only_a_schema_that_needs_another_document_is_refused() -> None:
    refused: dict[tuple[str, str], str] = {}
    for draft in DRAFTS:
        for file, group in groups(draft):
            try:
                compile_schema(stated(group["schema"], draft))
            except InputError as error:
                refused[file, group["description"]] = str(error)
    assert refused.keys() == NEEDS_ANOTHER_DOCUMENT
    assert all("is another document" in message for message in refused.values())


@pytest.mark.parametrize("draft", ["draft2020-12", "draft2019-09"])
def test_a_schema_that_does_not_say_its_draft_refuses_the_same(draft: str) -> None:
    wrong: list[str] = []
    for file, group in groups(draft):
        schema = group["schema"]
        if isinstance(schema, bool) or (file, group["description"]) in NEEDS_ANOTHER_DOCUMENT:
            continue
        if "json-schema.org" in json.dumps({**schema, "$schema": ""}):
            continue  # it refers to the meta-schema of its own draft
        compiled = compile_schema({key: value for key, value in schema.items() if key != "$schema"})
        wrong += [
            f"{file}: {group['description']}: {case['description']}"
            for case in group["tests"]
            if not case["valid"] and fits(compiled, as_sent(compiled, case["data"]))
        ]
    assert wrong == []
