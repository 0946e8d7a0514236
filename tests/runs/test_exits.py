"""What would end a program, raised by code of the user's own: it costs the row that it is about, as anything does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator, model_serializer
from tests.runs.conftest import Place

from mistill.errors import GenerationError, InputError, InvalidOutput
from mistill.simulator import Simulator

EXITS: list[type[BaseException]] = [SystemExit, KeyboardInterrupt, GeneratorExit]


def strict(exit_: type[BaseException]) -> type[BaseModel]:
    """A model whose validator raises at an age of 13."""

    class Person(BaseModel):
        age: int

        @field_validator("age")
        @classmethod
        def check(cls, value: int) -> int:
            if value == 13:
                raise exit_("unlucky")
            return value

    return Person


TEXTS = [f'<<answer: {{"age": {age}}}>>' for age in (12, 13, 14)]


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("mode", ["json_schema", "md_json"])
def test_a_validator_that_ends_the_program_costs_its_row(
    place: Place, exit_: type[BaseException], mode: str
) -> None:
    place.write(TEXTS)
    output = {"schema": strict(exit_), "mode": mode, "max_retries": 0}
    report = place.run(llm_settings={"structured_output": output}).start()
    assert (report.completions, report.failures) == (2, 1)
    assert report.causes[0].kind == "invalid_output"
    assert exit_.__name__ in place.records()[1]["error"]


@pytest.mark.parametrize("exit_", EXITS)
def test_it_costs_one_input_of_a_call_too(place: Place, exit_: type[BaseException]) -> None:
    llm = place.llm(structured_output={"schema": strict(exit_), "max_retries": 0})
    with pytest.raises(GenerationError) as caught:
        llm.generate(TEXTS)
    assert list(caught.value.failures) == [1]
    assert isinstance(caught.value.failures[1], InvalidOutput)
    assert len(llm.generate(TEXTS[:1])) == 1  # nothing is left broken


@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("as_stream", [False, True])
def test_an_input_that_ends_the_program_breaks_off(
    place: Place, simulator: Simulator, exit_: type[BaseException], as_stream: bool
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"text": "a"}
        raise exit_("enough")

    class Rows:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return rows()

    # In place, nothing of a window that breaks off is asked; of a stream, what has come.
    with pytest.raises(InputError, match=f"ended in {exit_.__name__}: enough"):
        place.run(rows() if as_stream else Rows()).start()
    assert len(simulator.requests) <= 1
    assert not place.out.exists()


@pytest.mark.parametrize("exit_", [SystemExit, GeneratorExit])
def test_a_serializer_that_ends_the_program_costs_its_record(
    place: Place, exit_: type[BaseException]
) -> None:
    class Person(BaseModel):
        age: int

        @model_serializer
        def serialize(self) -> dict[str, Any]:
            if self.age == 13:
                raise exit_("unlucky")
            return {"age": self.age}

    place.write(TEXTS)
    place.run(llm_settings={"structured_output": {"schema": Person}}, flatten=True).start()
    records = place.records()
    assert [record.get("age") for record in records] == [12, None, 14]
    assert exit_.__name__ in records[1]["error"]


def test_who_is_told_of_progress_may_end_the_program_and_the_run_goes_on(place: Place) -> None:
    place.write(["a", "b"])
    report = place.run(on_progress=lambda _: sys.exit("enough")).start()
    assert report.completions == 2


CTRL_C = """
import sys
from pydantic import BaseModel, field_validator
from mistill.structured import compile_schema

class Person(BaseModel):
    age: int
    @field_validator("age")
    @classmethod
    def check(cls, value):
        raise KeyboardInterrupt  # as Ctrl-C is raised in the main thread
try:
    compile_schema(Person).parse('{"age": 1}')
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_in_the_main_thread_goes_on(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert ended.stdout == "interrupted\n", ended.stderr
