"""Typed values instead of texts."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from mistill.errors import BadRequest, InputError, InvalidOutput
from mistill.llms import GenerationError, MistralLLM
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]


class Town(BaseModel):
    name: str
    people: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def test_values_come_in_the_order_of_the_inputs(make_llm: MakeLLM) -> None:
    prompts = [f'<<answer: {{"name": "town {number}", "people": {number}}}>>' for number in range(20)]
    towns = make_llm().parse(prompts, Town)
    assert towns == [Town(name=f"town {number}", people=number) for number in range(20)]


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (Colour, Colour),
        (list[int], list),
        ({"type": "object", "required": ["a"], "properties": {"a": {}}}, dict),
    ],
)
def test_any_schema_will_do(make_llm: MakeLLM, schema: Any, kind: type) -> None:
    (value,) = make_llm().parse(["Hello"], schema)
    assert isinstance(value, kind)


async def test_aparse_gives_one_value(make_llm: MakeLLM) -> None:
    assert isinstance(await make_llm().aparse("Hello", Town, temperature=0), Town)


def test_the_objects_own_mode_and_retries_hold(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.named("wrong_json")] * 3)
    llm = make_llm(structured_output={"schema": Colour, "max_retries": 2})
    with pytest.raises(GenerationError):
        llm.parse(["Hello"], Town)
    assert len(simulator.requests) == 3


def test_what_does_not_fit_fails_alone_and_keeps_its_text(simulator: Simulator, make_llm: MakeLLM) -> None:
    prompts = ['<<answer: {"name": "x", "people": 1}>>', '<<answer: {"name": "x"}>>']
    llm = make_llm(structured_output={"schema": Town, "max_retries": 0})
    with pytest.raises(GenerationError) as caught:
        llm.parse(prompts, Town)
    assert caught.value.outputs == [Town(name="x", people=1), None]
    error = caught.value.failures[1]
    assert isinstance(error, InvalidOutput)
    assert error.text == '{"name": "x"}'
    assert llm.parse(prompts, Town, on_error="none")[1] is None


def test_a_wrong_schema_is_refused_before_anything_is_sent(simulator: Simulator, make_llm: MakeLLM) -> None:
    with pytest.raises(InputError, match="not a schema"):
        make_llm().parse(["Hello"], Town(name="x", people=1))
    assert simulator.requests == []


async def test_aparse_raises_the_rows_own_error(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    with pytest.raises(BadRequest):
        await make_llm().aparse("poison", Town)
