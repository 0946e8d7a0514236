"""The framework's class without a pipeline around it: attributes, dumps, generations, statistics."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mistill import llms
from mistill.errors import InputError, Unauthorized
from mistill.simulator import Fault, Simulator

pytest.importorskip("distilabel", reason="distilabel is an extra: pip install 'mistill[distilabel]'")

from distilabel.models import llms as theirs
from distilabel.models.llms.base import AsyncLLM

from mistill.integrations.distilabel import MistralLLM

pytestmark = pytest.mark.filterwarnings(
    # The framework asks objects for their fields, which pydantic wants asked of classes.
    "ignore:Accessing the 'model_fields' attribute on the instance:DeprecationWarning"
)

MODEL = "mistral-small-latest"
HELLO: Any = [{"role": "user", "content": "Hello world!"}]


class User(BaseModel):
    name: str
    last_name: str
    id: int


@pytest.fixture
def llm(simulator: Simulator) -> MistralLLM:
    return MistralLLM(model=MODEL, endpoint=simulator.url)


def errors(output: Any) -> list[str]:
    return output["statistics"]["error"]


# --- the interface ----------------------------------------------------------------------------------------------------


def test_it_is_a_class_of_the_framework_with_its_attributes() -> None:
    assert issubclass(MistralLLM, AsyncLLM)
    assert set(theirs.MistralLLM.model_fields) <= set(MistralLLM.model_fields)
    assert {"_api_key_env_var"} <= set(MistralLLM.__private_attributes__)


@pytest.mark.parametrize("name", ["endpoint", "max_retries", "timeout", "max_concurrent_requests", "dialect"])
def test_defaults_are_those_of_our_own_class(name: str) -> None:
    assert getattr(MistralLLM(model=MODEL), name) == getattr(llms.MistralLLM(model=MODEL), name)


def test_runtime_parameters_are_those_of_the_original_and_more() -> None:
    names: Any = MistralLLM(model=MODEL).runtime_parameters_names
    original: Any = theirs.MistralLLM(model=MODEL).runtime_parameters_names
    assert set(original) <= set(names)
    assert set(original["generation_kwargs"]) <= set(names["generation_kwargs"])
    assert "random_seed" in names["generation_kwargs"]
    assert all(names["generation_kwargs"].values()), "every one is optional"
    assert all(names[name] for name in names if name != "generation_kwargs"), "every one is optional"


def test_runtime_parameters_say_what_they_are() -> None:
    info = {entry["name"]: entry for entry in MistralLLM(model=MODEL).get_runtime_parameters_info()}
    assert "description" in info["max_concurrent_requests"]
    keys = {key["name"]: key for key in info["generation_kwargs"]["keys"]}
    assert "0 to 1.5" in keys["temperature"]["description"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_retries": -1}, "greater than or equal to 0"),
        ({"timeout": 0}, "greater than 0"),
        ({"endpoint": "ftp://x"}, "not an http"),
        ({"structured_output": {"schema": "{"}}, "schema"),
        ({"structured_output": {"format": "regex", "schema": "a+"}}, "no mode 'regex'"),
        ({"generation_kwargs": {"temprature": 1}}, "did you mean 'temperature'"),
        ({"max_tokens": 5}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_attribute_is_refused_when_it_is_set(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        MistralLLM(model=MODEL, **wrong)


def test_a_dump_makes_an_equal_object_and_holds_no_key() -> None:
    llm = MistralLLM(
        model=MODEL,
        api_key="a-secret",  # type: ignore[arg-type]  text is taken
        structured_output={"schema": User},
        requests_per_minute=60.0,
    )
    dumped = llm.dump()
    assert "a-secret" not in yaml.safe_dump(dumped)
    assert dumped["type_info"] == {"module": "mistill.integrations.distilabel", "name": "MistralLLM"}
    again = MistralLLM.from_dict(yaml.safe_load(yaml.safe_dump(dumped)))
    assert again.dump() == llm.dump()
    assert again.api_key is not None
    assert again.api_key.get_secret_value() == "a-key-for-tests"


def test_a_loaded_object_can_be_pickled(llm: MistralLLM) -> None:
    llm.load()
    copy = pickle.loads(pickle.dumps(llm))
    copy.load()
    assert copy.generate(inputs=[HELLO])[0]["generations"] == ["Echo: Hello world!"]


# --- loading ----------------------------------------------------------------------------------------------------------


def test_no_key_is_told_when_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    with pytest.raises(ValueError, match=r"MistralLLM has no api_key.*MISTRAL_API_KEY"):
        MistralLLM(model=MODEL).load()


def test_a_refused_key_is_told_when_it_loads(simulate: Callable[..., Simulator]) -> None:
    simulator = simulate(api_keys={"another-key"})
    with pytest.raises(Unauthorized):
        MistralLLM(model=MODEL, endpoint=simulator.url).load()


@pytest.mark.parametrize("outage", ["503", "drop", "refuse"])
def test_a_server_that_cannot_check_the_key_stops_nothing(
    simulate: Callable[..., Simulator], outage: str
) -> None:
    simulator = simulate(outage=outage)
    llm = MistralLLM(model=MODEL, endpoint=simulator.url)
    llm.load()
    simulator.change(outage=None)
    assert llm.generate(inputs=[HELLO])[0]["generations"] == ["Echo: Hello world!"]


# --- generating -------------------------------------------------------------------------------------------------------


def test_generations_stand_in_order_beside_their_statistics(llm: MistralLLM) -> None:
    llm.load()
    outputs: Any = llm.generate_outputs(
        inputs=["one", [{"role": "user", "content": "two"}]], num_generations=2
    )
    assert [output["generations"] for output in outputs] == [
        ["Echo: one", "Echo 2: one"],
        ["Echo: two", "Echo 2: two"],
    ]
    for output in outputs:
        statistics = output["statistics"]
        assert {len(values) for values in statistics.values()} == {2}
        assert sum(statistics["input_tokens"]) > 0
        assert statistics["finish_reason"] == ["stop", "stop"]
        assert errors(output) == ["", ""]


async def test_one_input_can_be_awaited(llm: MistralLLM) -> None:
    output = await llm.agenerate(HELLO, temperature=0.1)
    assert output["generations"] == ["Echo: Hello world!"]


def test_a_failed_row_is_none_and_its_error_stands_beside_it(
    llm: MistralLLM, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.change(poison="POISON")
    llm.load()
    inputs: Any = ["POISON", "fine", [{"role": "nobody", "content": ""}]]
    outputs: Any = llm.generate(inputs=inputs, num_generations=2)
    assert [output["generations"] for output in outputs] == [
        [None, None],
        ["Echo: fine", "Echo 2: fine"],
        [None, None],
    ]
    assert all(error.startswith("bad_request: ") for error in errors(outputs[0]))
    assert errors(outputs[1]) == ["", ""]
    assert all(error.startswith("invalid_input: input 2: ") for error in errors(outputs[2]))
    assert {len(values) for output in outputs for values in output["statistics"].values()} == {2}
    assert "2 of 3 rows failed" in caplog.text


def test_what_a_failed_generation_has_cost_is_counted(llm: MistralLLM, simulator: Simulator) -> None:
    llm.structured_output = {"schema": User, "max_retries": 1}
    llm.load()
    simulator.script(["no JSON", "no JSON either"])
    [output] = llm.generate(inputs=["who?"])
    assert output["generations"] == [None]
    assert errors(output)[0].startswith("invalid_output: ")
    assert output["statistics"]["input_tokens"][0] > 0
    assert output["statistics"]["output_tokens"][0] > 0


def test_a_key_that_is_refused_midway_keeps_what_was_answered(llm: MistralLLM, simulator: Simulator) -> None:
    llm.max_concurrent_requests = 1
    llm.load()
    simulator.script(["answered", Fault.status(401)])
    outputs = llm.generate(inputs=["1", "2", "3"])
    assert [output["generations"] for output in outputs] == [["answered"], [None], [None]]
    assert [errors(output)[0].partition(":")[0] for output in outputs] == ["", "unauthorized", "stopped"]


def test_a_wrong_argument_is_told_before_anything_is_sent(llm: MistralLLM, simulator: Simulator) -> None:
    with pytest.raises(InputError, match="temperature"):
        llm.generate(inputs=[HELLO], temperature=9)
    assert simulator.requests == []


def test_a_parameter_that_changes_after_loading_counts_from_the_next_call(
    llm: MistralLLM, simulator: Simulator
) -> None:
    llm.load()
    llm.set_runtime_parameters(
        {"api_key": "another-key", "max_concurrent_requests": 2, "generation_kwargs": {"random_seed": 7}}
    )
    simulator.change(api_keys={"another-key"}, latency_s=0.01)
    llm.generate(inputs=["x"] * 20, **llm.get_generation_kwargs())
    assert simulator.peak_in_flight == 2
    assert {request.body["random_seed"] for request in simulator.requests if request.body} == {7}


# --- schemas ----------------------------------------------------------------------------------------------------------


def test_a_row_can_have_a_schema_of_its_own(llm: MistralLLM, simulator: Simulator) -> None:
    schema = User.model_json_schema()
    through_arrow = schema | {"enum": None, "properties": schema["properties"] | {"wings": None}}
    settings: list[Any] = [
        {"format": "json", "schema": schema},
        {"format": None, "schema": through_arrow, "mode": None},
        {"schema": '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'},
        None,
        {"schema": None},
        {"format": "regex", "schema": "a+"},
    ]
    llm.load()
    outputs: Any = llm.generate_outputs(inputs=[(HELLO, setting) for setting in settings])
    first, second, third, fourth, fifth, sixth = outputs
    for output in (first, second):
        User.model_validate_json(output["generations"][0])
    assert '"n"' in third["generations"][0]
    assert fourth["generations"] == fifth["generations"] == ["Echo: Hello world!"]
    assert "no mode 'regex'" in errors(sixth)[0]
    sent = [
        request.body["response_format"]
        for request in simulator.requests
        if "response_format" in (request.body or {})
    ]
    assert sent[0]["json_schema"]["schema"] == sent[1]["json_schema"]["schema"] == schema


# --- the examples of the framework's documentation --------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_the_documented_examples_run_with_the_import_changed(simulator: Simulator, number: int) -> None:
    """As they stand in the framework; only the endpoint is given besides, since a test sends nothing to Mistral."""
    simulator.change(any_model=True)  # they ask one that was retired since
    documented = inspect.getdoc(theirs.MistralLLM)
    assert documented is not None
    examples = re.findall(r"```python\n(.*?)(?=```|Generate structured|\Z)", documented, re.DOTALL)
    source = inspect.cleandoc("\n" + examples[number])
    changed, imports = re.subn(
        r"from distilabel\S* import MistralLLM",
        "from mistill.integrations.distilabel import MistralLLM",
        source,
    )
    assert imports == 1
    scope: dict[str, Any] = {}
    exec(
        changed.replace("MistralLLM(model", f"MistralLLM(endpoint={simulator.url!r}, model").replace(
            "MistralLLM(\n", f"MistralLLM(\n    endpoint={simulator.url!r},\n"
        ),
        scope,
    )
    [text] = scope["output"][0]["generations"]
    if number == 0:
        assert text == "Echo: Hello world!"
    else:
        scope["User"].model_validate_json(text)
