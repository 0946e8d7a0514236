"""The setting as a user writes it: what is understood, what is refused, and what it makes of a request."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel

from mistill.api.chat import ResponseFormat
from mistill.errors import InputError
from mistill.structured import compile_structured_output, describe_structured_output


class User(BaseModel):
    name: str


def test_a_schema_is_enough() -> None:
    compiled = compile_structured_output({"schema": User})
    assert (compiled.mode, compiled.max_retries, compiled.uses_instructor) == (None, 3, False)
    assert compiled.response_format() is compiled.schema.response_format()
    messages = [{"role": "user", "content": "hi"}]
    assert compiled.messages(messages) == messages


@pytest.mark.parametrize(
    ("mode", "means"),
    [
        ("tools", "tools"),
        ("json_schema", "json_schema"),
        ("md_json", "md_json"),
        ("mistral_tools", "tools"),
        ("mistral_structured_outputs", "json_schema"),
    ],
)
def test_the_modes_of_instructor_and_their_mistral_names(mode: str, means: str) -> None:
    pytest.importorskip("instructor")
    compiled = compile_structured_output({"schema": User, "mode": mode, "max_retries": 0})
    assert (compiled.mode, compiled.max_retries, compiled.uses_instructor) == (means, 0, True)


@pytest.mark.parametrize(
    ("mode", "means"),
    [
        ("tool_call", "tools"),
        ("function_call", "tools"),
        ("tools_strict", "tools"),
        ("json_mode", "json_object"),
        ("markdown_json_mode", "md_json"),
        ("json_schema_mode", "json_schema"),
        ("json_o1", "json_schema"),
        # The same by the names of the members, as distilabel takes them.
        ("TOOLS", "tools"),
        ("JSON", "json_object"),
        ("MD_JSON", "md_json"),
        ("JSON_SCHEMA", "json_schema"),
        ("MISTRAL_TOOLS", "tools"),
        ("MISTRAL_STRUCTURED_OUTPUTS", "json_schema"),
        ("FUNCTIONS", "tools"),
    ],
)
def test_what_instructor_calls_its_modes_elsewhere(mode: str, means: str) -> None:
    instructor = pytest.importorskip("instructor")
    assert compile_structured_output({"schema": User, "mode": mode}).mode == means
    if mode in instructor.Mode.__members__:
        assert compile_structured_output({"schema": User, "mode": instructor.Mode[mode]}).mode == means
    else:
        assert compile_structured_output({"schema": User, "mode": instructor.Mode(mode)}).mode == means


@pytest.mark.parametrize("member", ["ANTHROPIC_TOOLS", "GEMINI_JSON", "COHERE_JSON_SCHEMA", "PARALLEL_TOOLS"])
def test_modes_of_other_providers_and_for_several_answers_are_refused(member: str) -> None:
    instructor = pytest.importorskip("instructor")
    with pytest.raises(InputError, match=f"no mode <Mode.{member}"):
        compile_structured_output({"schema": User, "mode": instructor.Mode[member]})


def test_a_member_of_instructors_modes_is_saved_by_its_name() -> None:
    instructor = pytest.importorskip("instructor")
    setting = {"schema": {"type": "array"}, "mode": instructor.Mode.TOOLS, "max_retries": 2}
    described = {"schema": {"json_schema": {"type": "array"}}, "mode": "tools", "max_retries": 2}
    assert describe_structured_output(setting) == described
    assert describe_structured_output({"schema": {"type": "array"}}) == {"schema": described["schema"]}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schema": User, "max_retrys": 2}, "no key 'max_retrys'.*did you mean \"max_retries\""),
        ({"schema": User, 3: 2}, 'no key 3.*"schema", "mode", "max_retries"'),
        ({}, 'needs a "schema"'),
        ({"schema": None}, 'needs a "schema"'),
        ({"schema": User, "mode": "tool"}, 'no mode \'tool\'.*"json_object", "tools"'),
        ({"schema": User, "mode": ["tools"]}, "no mode"),
        ({"schema": User, "max_retries": -1}, "integer of 0 or more, not -1"),
        ({"schema": User, "max_retries": True}, "integer of 0 or more, not True"),
        ({"schema": User, "max_retries": 1.0}, "integer of 0 or more"),
        ({"schema": {"type": "objekt"}}, r"\$\.type"),
        (User, "must be a dict"),
        ([], "must be a dict, not list"),
    ],
)
def test_what_is_not_understood_is_refused(setting: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compile_structured_output(setting)


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([{"role": "user", "content": "hi"}], ["system", "user"]),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], ["system", "user"]),
        ([{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}], ["system"]),
        ([{"role": "system", "content": ""}], ["system"]),
    ],
)
def test_json_mode_puts_the_schema_into_the_system_message(
    messages: list[dict[str, Any]], roles: list[str]
) -> None:
    before = json.dumps(messages)
    compiled = compile_structured_output({"schema": list[User], "mode": "json_object"})
    assert compiled.response_format() == ResponseFormat(type="json_object")
    assert compiled.uses_instructor is False

    sent = compiled.messages(messages)

    assert json.dumps(messages) == before
    assert [message["role"] for message in sent] == roles
    content = sent[0]["content"]
    text = content if isinstance(content, str) else "\n\n".join(chunk["text"] for chunk in content)
    lead, _, schema = text.rpartition("\n")
    assert json.loads(schema) == compiled.schema.wire_schema
    assert lead.endswith(
        "Answer with one JSON object and nothing else. It must be valid for this JSON schema:"
    )
    assert lead.startswith("Be brief.\n\n" if "Be brief." in before else "Answer with one JSON object")


def test_importing_loads_no_package_of_an_extra() -> None:
    code = "import sys, mistill.structured; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "mistill.structured" in loaded
    assert not loaded & {"instructor", "jsonschema_rs", "jinja2", "openai", "mistralai"}
