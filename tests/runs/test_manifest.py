"""The fingerprint of a run: the same for what gives the same answers, another for what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from mistill import MistralLLM
from mistill.errors import InputError
from mistill.kinds.chat import ChatKind
from mistill.kinds.options import RunOptions

MODEL = "mistral-small-latest"


class User(BaseModel):
    name: str


class Named(BaseModel):
    name: str
    age: int


def fingerprint(prompt: str = "{{ text }}", *, parameters: dict[str, Any] | None = None, **llm: Any) -> str:
    attributes: dict[str, Any] = {"model": MODEL} | llm
    made = MistralLLM(**attributes)
    manifest = ChatKind(made, RunOptions(prompt=prompt, parameters=parameters or {})).manifest
    return msgspec.json.encode(manifest, order="sorted").decode()


@pytest.mark.parametrize(
    "llm",
    [
        {"endpoint": "http://127.0.0.1:1"},
        {"api_key": "another"},
        {"timeout": 3},
        {"max_retries": 1},
        {"max_concurrent_requests": 2},
        {"requests_per_minute": 60},
    ],
)
def test_how_answers_are_fetched_does_not_matter(llm: dict[str, Any]) -> None:
    assert fingerprint(**llm) == fingerprint()


@pytest.mark.parametrize(
    "llm",
    [
        {"model": "mistral-large-latest"},
        {"generation_kwargs": {"temperature": 0.1}},
        {"generation_kwargs": {"extra_body": {"x": 1}}},
        {"structured_output": {"schema": User}},
        {"structured_output": {"schema": Named}},
        {"structured_output": {"schema": User, "mode": "json_object"}},
    ],
)
def test_what_is_asked_matters(llm: dict[str, Any]) -> None:
    assert fingerprint(**llm) != fingerprint()


def test_all_of_them_differ_from_each_other() -> None:
    schemas = [{"schema": User}, {"schema": Named}, {"schema": User, "mode": "json_object"}]
    assert len({fingerprint(structured_output=one) for one in schemas}) == 3


def test_a_parameter_counts_the_same_wherever_it_is_given() -> None:
    one = fingerprint(generation_kwargs={"temperature": 0.1, "top_p": 0.5})
    assert one == fingerprint(parameters={"top_p": 0.5, "temperature": 0.1})
    assert one == fingerprint(
        generation_kwargs={"temperature": 1.0}, parameters={"top_p": 0.5, "temperature": 0.1}
    )


def test_it_is_the_same_in_every_process() -> None:
    script = "from tests.runs.test_manifest import *; print(fingerprint(structured_output={'schema': Named}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {fingerprint(structured_output={"schema": Named}) + "\n"}


def test_no_secret_is_in_a_manifest() -> None:
    made = MistralLLM(model=MODEL, api_key="a-secret-of-mine")  # type: ignore[arg-type]
    kind = ChatKind(made, RunOptions(prompt="{{ text }}"))
    assert "a-secret-of-mine" not in f"{kind.manifest.values()} {kind.llm_settings} {kind.manifest} {kind}"


def test_wrong_settings_are_refused_before_there_is_a_manifest() -> None:
    with pytest.raises(InputError, match="temperature"):
        fingerprint(parameters={"temperature": 3})
    with pytest.raises(InputError, match="num_generations"):
        ChatKind(MistralLLM(model=MODEL), RunOptions.of({"prompt": "x", "num_generations": 0}))
