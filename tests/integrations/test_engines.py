"""A stage of other engines: tables of columns in, the same with what a model said beside them out."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.conftest import Simulate
from tests.libraries import library, need_modules
from tests.test_examples import lines_of_code

from mistill import InputError, MistralEmbeddings, MistralLLM, NoRowAnswered, Unauthorized
from mistill.integrations.engines import COLUMNS, Stage
from mistill.simulator import Fault, Simulator

pa = library("pyarrow")
EXAMPLES = Path(__file__).parents[2] / "examples"
TYPES = ["string", "string", "int64", "int64", "double", "string"]


def stage_at(simulator: Simulator, **settings: Any) -> Stage:
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url, max_retries=0)
    given: dict[str, Any] = {"prompt": "Sum up: {{ text }}"} | settings
    return Stage(llm, **given)


def types_of(table: Any) -> list[str]:
    return [str(field.type) for field in table.schema]


def test_what_came_of_each_row_stands_beside_its_own_columns(simulator: Simulator) -> None:
    table = stage_at(simulator)(pa.table({"text": ["a tide", "a marathon"], "id": [b"7", None]}))
    assert table.column_names == ["text", "id", *COLUMNS]
    assert types_of(table)[2:] == TYPES
    first, second = table.to_pylist()
    assert (first["text"], first["id"], first["generation"]) == ("a tide", b"7", "Echo: Sum up: a tide")
    assert (second["generation"], second["finish_reason"]) == ("Echo: Sum up: a marathon", "stop")
    assert first["error"] is None
    assert first["input_tokens"] > 0 < first["cost"]


def test_one_bad_row_costs_one_row(simulate: Simulate) -> None:
    simulator = simulate(poison="poison")
    table = stage_at(simulator)(pa.table({"text": ["fine", None, "poison", "fine too"]}))
    assert table["generation"].to_pylist() == ["Echo: Sum up: fine", None, None, "Echo: Sum up: fine too"]
    no, null, refused, neither = table["error"].to_pylist()
    assert no is neither is None
    assert null.startswith("invalid_input: row 1 of the Table: the column 'text' is null")
    assert refused.startswith("bad_request: ")


def test_its_columns_have_one_type_whatever_came_of_the_rows(simulate: Simulate) -> None:
    stage = stage_at(simulate(poison="poison"))
    tables = [stage.answers(pa.table({"text": pa.array(texts, pa.string())})) for texts in (["poison"], [])]
    assert [types_of(table) for table in tables] == [TYPES, TYPES]
    assert [table.num_rows for table in tables] == [1, 0]
    assert stage.type == pa.struct(list(stage.schema))


def test_of_bytes_it_is_said_what_to_do_in_an_engine(simulator: Simulator) -> None:
    table = stage_at(simulator)(pa.table({"text": [b"1"], "id": [1]}))
    (error,) = table["error"].to_pylist()
    assert "row 0 of the Table: the column 'text' holds bytes" in error
    assert error.endswith("(make text of them in a step before)")


def test_messages_of_the_rows_are_sent_as_they_are(simulator: Simulator) -> None:
    messages = [[{"role": "user", "content": "Hello", "name": None}], None]
    table = stage_at(simulator, prompt=None, system="Be brief.")(
        pa.table({"messages": messages, "prompt": [None, "Bye"]})
    )
    assert table["generation"].to_pylist() == ["Echo: Hello", "Echo: Bye"]


def test_columns_may_have_other_names(simulator: Simulator) -> None:
    stage = stage_at(simulator, columns={"generation": "summary", "error": "why_not"})
    table = stage(pa.table({"text": ["a"], "generation": ["of an earlier step"]}))
    assert table.column_names[2:] == [
        "summary",
        "finish_reason",
        "input_tokens",
        "output_tokens",
        "cost",
        "why_not",
    ]
    with pytest.raises(InputError, match="there is no output column 'generatoin' to rename"):
        stage_at(simulator, columns={"generatoin": "summary"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"text": ["a"], "error": ["b"]}, "columns that the stage adds too: 'error'"),
        ({"txt": ["a", "b"]}, "the prompt template needs a column 'text'; it has 'txt'"),
    ],
)
def test_a_table_of_which_no_row_can_be_asked_is_refused(
    simulator: Simulator, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        stage_at(simulator)(pa.table(table))
    assert len(simulator.requests) == 0


def test_a_column_that_only_some_rows_need_may_be_missing(simulator: Simulator) -> None:
    stage = stage_at(simulator, prompt="{{ text }}{% if note is defined %} ({{ note }}){% endif %}")
    assert stage(pa.table({"text": ["a"]}))["generation"].to_pylist() == ["Echo: a"]


def test_a_model_that_answers_no_prompts_is_refused_when_the_stage_is_made() -> None:
    embeddings: Any = MistralEmbeddings(model="mistral-embed")
    with pytest.raises(InputError, match=r"a stage is of a MistralLLM, not of a MistralE.*mistill embed"):
        Stage(embeddings)


def test_what_is_no_table_is_refused_with_what_makes_it_one(simulator: Simulator) -> None:
    with pytest.raises(InputError, match='batch_format="pyarrow"'):
        stage_at(simulator)({"text": ["a"]})  # pyright: ignore[reportArgumentType]  Ray's default


def test_a_key_that_is_refused_ends_the_work_before_it_begins_and_not_later(simulate: Simulate) -> None:
    simulator = simulate(api_keys=["another"])
    stage, table = stage_at(simulator), pa.table({"text": ["a", "b"]})
    with pytest.raises(Unauthorized):
        stage(table)
    simulator.change(api_keys=None)
    stage(table)
    simulator.change(api_keys=["another"])
    errors = stage(table)["error"].to_pylist()
    assert {error.partition(":")[0] for error in errors} <= {"unauthorized", "stopped"}
    assert any(error.startswith("unauthorized") for error in errors)


def test_first_rows_that_all_fail_alike_end_the_work(simulate: Simulate) -> None:
    simulator = simulate(poison="up")
    stage = stage_at(simulator)
    assert stage(pa.table({"text": ["a"] * 19}))["generation"].null_count == 19
    with pytest.raises(NoRowAnswered, match="none of the first 20 rows was answered"):
        stage(pa.table({"text": ["a"]}))


def test_it_can_be_sent_to_another_process_and_makes_its_own_connections(simulator: Simulator) -> None:
    stage = stage_at(simulator, columns={"generation": "summary"})
    stage(pa.table({"text": ["a"]}))
    arrived = pickle.loads(pickle.dumps(stage))
    assert arrived(pa.table({"text": ["b"]}))["summary"].to_pylist() == ["Echo: Sum up: b"]


def test_an_answer_that_no_arrow_text_can_hold_is_mended(simulator: Simulator) -> None:
    body = simulator_answer("half \\ud83d of it")
    simulator.script([Fault.status(200, body)])
    assert stage_at(simulator)(pa.table({"text": ["a"]}))["generation"].to_pylist() == ["half \ufffd of it"]


def simulator_answer(content: str) -> str:
    return (
        '{"id": "a", "object": "chat.completion", "created": 1, "model": "mistral-small-latest", "choices": '
        f'[{{"index": 0, "message": {{"role": "assistant", "content": "{content}"}}, "finish_reason": "stop"}}], '
        '"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}'
    )


def test_several_threads_may_use_one_and_keep_to_what_it_may_have_in_flight(simulate: Simulate) -> None:
    simulator = simulate(latency_s=0.02)
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url, max_concurrent_requests=8)
    stage = Stage(llm, prompt="{{ text }}")
    batches = [[f"{batch}.{row}" for row in range(12)] for batch in range(4)]
    with ThreadPoolExecutor(4) as threads:
        tables = list(threads.map(lambda texts: stage(pa.table({"text": texts})), batches))
    for table, texts in zip(tables, batches, strict=True):
        assert table["generation"].to_pylist() == [f"Echo: {text}" for text in texts]
    assert simulator.peak_in_flight <= 8


@pytest.fixture(scope="module")
def echo() -> Iterator[Stage]:
    library("aiohttp")
    with Simulator() as running:
        llm = MistralLLM(model="mistral-small-latest", endpoint=running.url, api_key=SecretStr("any"))
        yield Stage(llm)


@settings(max_examples=20)
@given(texts=st.lists(st.none() | st.text(max_size=8), max_size=12))
def test_every_row_has_either_its_own_answer_or_an_error(echo: Stage, texts: list[str | None]) -> None:
    table = echo(pa.table({"prompt": pa.array(texts, pa.string())}))
    assert table["prompt"].to_pylist() == texts
    ends = zip(texts, table["generation"].to_pylist(), table["error"].to_pylist(), strict=True)
    for text, answer, error in ends:
        assert (answer is None) != (error is None)
        assert (answer is None) == (text is None or not text.strip())
        assert answer is None or answer.startswith("Echo: ")


def run_script(name: str, simulator: Simulator, tmp_path: Path, rows: int) -> Any:
    """Its output; what it says is none of an event loop's."""
    mails = [None if number == 7 else f"mail {number}" for number in range(rows)]
    library("pyarrow.parquet").write_table(pa.table({"text": mails}), tmp_path / "mails.parquet")
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, tmp_path / "mails.parquet", tmp_path / "answers", simulator.url],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Exception" not in done.stderr + done.stdout
    return library("pyarrow.parquet").read_table(tmp_path / "answers").sort_by("text").to_pydict()


@pytest.mark.parametrize(
    ("name", "modules"),
    [("daft_stage.py", ["daft"]), ("ray_data_stage.py", ["ray", "numpy", "pandas", "fsspec"])],
)
def test_the_scripts_for_engines_do_what_they_say(
    name: str, modules: list[str], simulator: Simulator, tmp_path: Path, runtime_dir: Path
) -> None:
    need_modules(*modules)
    script = EXAMPLES / name
    assert f" {lines_of_code(script)} lines." in script.read_text("utf-8").partition("\n")[0]
    answers = run_script(name, simulator, tmp_path, 250)
    assert len(simulator.requests) == 249
    assert len(set(answers["text"])) == 250
    for text, answer, error in zip(answers["text"], answers["generation"], answers["error"], strict=True):
        if text is None:
            assert error.startswith("invalid_input: ")
        else:
            assert answer.endswith(f"\n{text}")
