"""Attributes, runtime parameters, saving and copying."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from mistill.errors import InputError
from mistill.llms import LLM, MistralEmbeddings, MistralLLM
from mistill.simulator import Simulator

MakeLLM = Callable[..., MistralLLM]


class Review(BaseModel):
    stars: Literal[1, 2, 3]


def rate(stars: int) -> None:
    """Rates."""


def test_defaults_are_the_seeds() -> None:
    llm = MistralLLM(model="m")
    assert llm.endpoint == "https://api.mistral.ai"
    assert llm.max_retries == 5
    assert llm.timeout == 120
    assert llm.max_concurrent_requests == 64
    assert llm.structured_output is None
    assert llm.generation_kwargs == {}
    assert llm.model_name == "m"
    assert llm._api_key_env_var == "MISTRAL_API_KEY"
    assert llm._aclient is None
    llm.load()
    assert llm._aclient is not None
    llm.unload()
    assert llm._aclient is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://api.mistral.ai/", "https://api.mistral.ai"),
        ("https://api.mistral.ai/v1", "https://api.mistral.ai"),
        ("https://api.mistral.ai/v1/", "https://api.mistral.ai"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://gateway.example/mistral/v1", "https://gateway.example/mistral"),
    ],
)
def test_an_endpoint_is_understood(given: str, kept: str) -> None:
    assert MistralLLM(model="m", endpoint=given).endpoint == kept


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "api.mistral.ai",
        "ftp://x",
        "http://",
        "http://x:port",
        "https://a b",
        "https://u:p@x",
        "https://x?y",
    ],
)
def test_a_malformed_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        MistralLLM(model="m", endpoint=endpoint)


@pytest.mark.parametrize(
    "attributes",
    [
        {"model": ""},
        {"max_retries": -1},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"max_concurrent_requests": 0},
        {"generation_kwargs": {"temperature": 9}},
        {"structured_output": {"schema": 3}},
        {"dialect": "klingon"},
        {"unknown": 1},
    ],
)
def test_wrong_attributes_are_refused(attributes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": "m"} | attributes
    with pytest.raises(ValidationError):
        MistralLLM(**given)


def test_attributes_are_checked_when_set() -> None:
    llm = MistralLLM(model="m")
    with pytest.raises(ValidationError):
        llm.timeout = -1


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_names_the_class_the_attribute_and_the_variable(
    monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "")
    monkeypatch.setenv("OPENAI_API_KEY", "not this one")
    llm = MistralLLM(model="m", api_key=key)  # type: ignore[arg-type]  text is taken
    for use in (llm.load, lambda: llm.generate(["Hello"])):
        with pytest.raises(ValueError, match=r"MistralLLM has no api_key.*MISTRAL_API_KEY"):
            use()


def test_a_key_may_come_to_the_environment_later(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    monkeypatch.setenv("MISTRAL_API_KEY", "later")
    assert llm.generate(["Hello"]) == [["Echo: Hello"]]


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(InputError, match="characters that no HTTP header can hold") as caught:
        MistralLLM(model="m", api_key="secret\n").load()  # type: ignore[arg-type]  text is taken
    assert caught.value.__cause__ is None


def test_the_key_is_shown_nowhere(make_llm: MakeLLM, caplog: pytest.LogCaptureFixture) -> None:
    llm = make_llm(api_key="s3cret")
    with caplog.at_level(logging.DEBUG):
        llm.generate(["Hello"])
    shown = [repr(llm), str(llm), str(llm.dump()), str(llm.model_dump()), llm.model_dump_json()]
    shown += [repr(llm._session), repr(llm._aclient), repr(vars(llm)), caplog.text]
    assert "s3cret" not in "".join(shown)
    assert "api_key" not in llm.dump()


@pytest.mark.parametrize(
    "attributes",
    [{"apikey": "s3cret"}, {"api_key": ["s3cret"]}, {"endpoint": "https://user:s3cret@host"}],
    ids=["misspelt", "wrong type", "in a URL"],
)
def test_a_refused_attribute_does_not_show_the_key(attributes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": "m"} | attributes
    with pytest.raises(ValidationError) as caught:
        MistralLLM(**given)
    assert next(iter(attributes)) in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


# --- runtime parameters -----------------------------------------------------------------------------------------------


def test_runtime_parameters_are_listed() -> None:
    llm = MistralLLM(model="m")
    names = llm.runtime_parameters_names
    assert {"api_key", "max_retries", "timeout", "max_concurrent_requests", "generation_kwargs"} <= set(names)
    assert names["timeout"] is True
    assert names["generation_kwargs"]["max_new_tokens"] is True
    assert "model" not in names
    info = {entry["name"]: entry for entry in llm.get_runtime_parameters_info()}
    assert info["max_retries"]["optional"] is True
    assert "Tries" in info["max_retries"]["description"]
    keys = {key["name"]: key for key in info["generation_kwargs"]["keys"]}
    assert keys["temperature"]["description"].startswith("sampling temperature")


@pytest.mark.parametrize("loaded", [True, False])
def test_a_changed_parameter_counts_from_the_next_call(
    simulator: Simulator, make_llm: MakeLLM, loaded: bool
) -> None:
    simulator.change(api_keys=frozenset({"right"}))
    llm = make_llm(api_key="wrong")
    if loaded:
        llm.load()
    llm.set_runtime_parameters({"api_key": "right", "timeout": 5, "generation_kwargs": {"max_new_tokens": 2}})
    assert llm.generate(["Hello"]) == [["Echo: He"]]
    llm.set_runtime_parameters({"generation_kwargs": {"max_new_tokens": 1}})
    assert llm.generate(["Hello"]) == [["Echo"]]


def test_an_unknown_parameter_offers_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no runtime parameter 'time_out' \(did you mean 'timeout'\?\)"):
        MistralLLM(model="m").set_runtime_parameters({"time_out": 3})


def test_parameters_are_set_all_or_none() -> None:
    llm = MistralLLM(model="m")
    with pytest.raises(ValidationError):
        llm.set_runtime_parameters({"timeout": 3, "max_retries": -1})
    assert llm.timeout == 120


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_context_manager_loads_and_unloads(make_llm: MakeLLM) -> None:
    with make_llm() as llm:
        assert llm._aclient is not None
        assert llm.generate(["Hello"]) == [["Echo: Hello"]]
    assert llm._aclient is None
    assert llm.generate(["again"]) == [["Echo: again"]]


# --- saving and copying -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_what_is_saved_comes_back(tmp_path: Path, suffix: str) -> None:
    llm = MistralLLM(
        model="m",
        endpoint="http://127.0.0.1:1",
        api_key="s3cret",  # type: ignore[arg-type]  text is taken
        timeout=0.5,
        structured_output={"schema": Review, "max_retries": 3},
        generation_kwargs={"temperature": 0.5, "tools": [rate], "tool_choice": "rate"},
    )
    path = tmp_path / f"llm.{suffix}"
    llm.save(path)
    assert "s3cret" not in path.read_text("utf-8")
    restored = LLM.from_file(path, trust=True)
    assert isinstance(restored, MistralLLM)
    assert restored.structured_output == {"schema": Review, "max_retries": 3}
    assert restored.timeout == 0.5
    assert restored.api_key is not None
    assert restored.api_key.get_secret_value() == "a-key-for-tests"
    assert restored.dump() == llm.dump()


def test_a_schema_of_json_comes_back_as_json() -> None:
    schema = {"type": "object", "properties": {"json_schema": {"type": "string"}}}
    llm = MistralLLM(model="m", structured_output={"schema": schema})
    restored = MistralLLM.from_dict(json.loads(json.dumps(llm.dump())))
    assert restored.structured_output == {"schema": schema}


def test_a_schema_named_without_its_json_schema_is_refused_rather_than_taken_for_one() -> None:
    named = {"schema": {"module": "models", "name": "User"}}
    with pytest.raises(InputError, match="not a saved schema"):
        MistralLLM.from_dict({"model": "m", "structured_output": named})


def test_a_dump_may_be_written_by_hand() -> None:
    assert MistralLLM.from_dict({"model": "m", "timeout": 3}).timeout == 3


@pytest.mark.parametrize(
    "kind", ["nowhere:Nothing", "mistill.llms:Nothing", "pathlib:Path", "mistill.llms:MistralEmbeddings"]
)
def test_a_dump_of_another_class_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="dump's type"):
        MistralLLM.from_dict({"type": kind, "model": "m"})


def test_embeddings_are_saved_the_same_way() -> None:
    dumped = MistralEmbeddings(output_dimension=8).dump()
    assert MistralEmbeddings.from_dict(dumped).output_dimension == 8


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))])
def test_a_copy_works_on_its_own(
    simulator: Simulator, make_llm: MakeLLM, loaded: bool, copied: Callable[[MistralLLM], MistralLLM]
) -> None:
    llm = make_llm(api_key="k", structured_output={"schema": Review}, generation_kwargs={"max_new_tokens": 9})
    if loaded:
        llm.generate(["Hello"])
    twin = copied(llm)
    assert twin == llm
    assert twin._concurrency is not llm._concurrency
    assert twin.generate(["Hello"])
    assert llm.generate(["Hello"])


# --- dumps of others --------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that leaves a mark when it is imported, with a class and a schema in it."""
    name = f"foreign_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "from pydantic import BaseModel\n"
        "from mistill.llms import MistralLLM\n"
        "class Own(MistralLLM): pass\n"
        "class Answer(BaseModel):\n    a: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_dump_imports_no_module_that_is_not_ours(foreign: str, tmp_path: Path) -> None:
    dumped = {"type": f"{foreign}:Own", "model": "m"}
    path = tmp_path / "llm.json"
    path.write_text(json.dumps(dumped))
    for load in (lambda: MistralLLM.from_dict(dumped), lambda: LLM.from_file(path)):
        with pytest.raises(InputError, match=r"none of mistill's own.*trust=True"):
            load()
    assert not (tmp_path / "imported").exists()
    own = LLM.from_file(path, trust=True)
    assert type(own).__name__ == "Own"
    assert type(own).from_dict(own.dump()) == own  # who calls it on a class of their own has named it


@pytest.mark.parametrize(
    "kind", ["mistill.llmsx:Own", "mistill:Run", "os:system", "mistill.llms.connection:os.system", ":", ""]
)
def test_what_only_looks_like_ours_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="dump's type"):
        LLM.from_dict({"type": kind, "model": "m"})


@pytest.mark.parametrize(
    "text", ["5", "[]", "null", '"x"', "{", "[" * 20_000, "{}", '{"structured_output": 5}', "\xff"]
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("kind", [MistralLLM, LLM])
def test_a_file_that_holds_no_dump_is_refused(
    kind: type[LLM], suffix: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"llm.{suffix}"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises((InputError, ValidationError)):
        kind.from_file(path)


def test_a_schema_in_a_dump_is_its_json_schema_unless_that_is_trusted(foreign: str, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    named = {"schema": {"module": foreign, "name": "Answer", "json_schema": schema}}
    dumped = {"model": "m", "structured_output": named}
    assert MistralLLM.from_dict(dumped).structured_output == {"schema": schema}
    assert MistralLLM.restore_attribute("structured_output", named) == {"schema": schema}
    assert not (tmp_path / "imported").exists()
    trusted = MistralLLM.from_dict(dumped, trust=True).structured_output
    assert trusted is not None
    assert trusted["schema"].__name__ == "Answer"
