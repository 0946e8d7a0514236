"""Vectors of a dataset: many rows a request, each with a ledger entry of its own."""

from __future__ import annotations

import csv
import datetime
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import Place

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.errors import InputError, MalformedAnswer, ManifestChanged
from mistill.kinds.chat import ChatReader
from mistill.kinds.embedding import EmbeddingReader
from mistill.kinds.kind import AnswerReader
from mistill.runs.export import export_run
from mistill.simulator import Fault, Simulator
from mistill.simulator.catalogue import vector
from mistill.simulator.drafts import count_tokens

TEXTS = [f"text {number}" for number in range(40)]
PRICES = {"models": {"mistral-embed": {"input": 0.1, "output": 0}}}


@pytest.fixture(autouse=True)
def _short_vectors(simulator: Simulator) -> None:
    simulator.change(embedding_dimension=4)


def embeddings(place: Place, **settings: Any) -> MistralEmbeddings:
    return MistralEmbeddings(endpoint=place.endpoint, **settings)


def run(place: Place, source: Any = None, **settings: Any) -> Run:
    llm = embeddings(place, **settings.pop("llm_settings", {}))
    given = {"out": place.out, "grace": 5.0} | settings
    return Run(place.input if source is None else source, llm=llm, **given)


def test_every_row_gets_its_vector_in_few_requests(place: Place, simulator: Simulator) -> None:
    texts = [f"text {number}" for number in range(600)]
    place.write(texts)
    summary = run(place).start()
    assert (summary.completions, summary.sent) == (600, 3)  # 256 texts a request, across windows of rows
    assert [record["embedding"] for record in place.records()] == [vector(text, 4) for text in texts]
    assert list(place.records()[0]) == ["text", "embedding", "input_tokens", "error"]


def test_the_tokens_of_a_request_are_shared_out_and_none_is_lost(place: Place, simulator: Simulator) -> None:
    place.write(["short", "a text that is a good deal longer than the first", *TEXTS])
    summary = run(place, llm_settings={"prices": PRICES}, extra_columns=["cost", "model"]).start()
    records = place.records()
    assert sum(record["input_tokens"] for record in records) == summary.input_tokens
    assert summary.input_tokens == simulator_tokens(simulator)
    assert records[1]["input_tokens"] > records[0]["input_tokens"]
    assert sum(record["cost"] for record in records) == pytest.approx(summary.input_tokens * 0.1 / 1e6)
    assert {record["model"] for record in records} == {"mistral-embed"}


def simulator_tokens(simulator: Simulator) -> int:
    return sum(count_tokens(text) for request in simulator.requests for text in request.body["input"])


def test_a_template_makes_the_text(place: Place, simulator: Simulator) -> None:
    run(place, [{"title": "A", "body": "b"}], prompt="{{ title }}: {{ body }}").start()
    assert simulator.requests[0].body == {"model": "mistral-embed", "input": ["A: b"]}


def test_only_the_difference_is_sent(place: Place, simulator: Simulator) -> None:
    run(place, [{"text": text} for text in TEXTS]).start()
    assert run(place, [{"text": text} for text in reversed(TEXTS)]).start().sent == 0
    run(place, [{"text": text} for text in ["new", *TEXTS[:7]]]).start()
    assert [request.body["input"] for request in simulator.requests[1:]] == [["new"]]
    assert [record["embedding"] for record in place.records()] == [
        vector(text, 4) for text in ["new", *TEXTS[:7]]
    ]


def test_identical_texts_can_share_a_vector(place: Place, simulator: Simulator) -> None:
    summary = run(place, [{"id": number, "text": "same"} for number in range(30)], dedupe=True).start()
    assert (summary.completions, simulator.requests[0].body["input"]) == (30, ["same"])
    assert [record["embedding"] for record in place.records()] == [vector("same", 4)] * 30


@pytest.mark.parametrize("wrong", [{"text": None}, {"text": "  "}, {"text": True}, {"other": "x"}])
def test_a_row_without_a_text_fails_alone(place: Place, wrong: dict[str, Any], simulator: Simulator) -> None:
    place.write_rows([{"text": "a"}, wrong, {"text": "b"}])
    summary = run(place).start()
    assert (summary.completions, summary.failures) == (2, 1)
    assert place.records()[1]["error"].startswith("invalid_input: ")
    assert place.records()[1]["embedding"] is None
    # With the wrong row first, nothing is sent: the template or the column must be wrong.
    with pytest.raises(InputError, match="row 0"):
        run(place, [wrong, {"text": "a"}], out=None).start()


def test_a_refused_text_fails_alone(place: Place, simulator: Simulator) -> None:
    simulator.change(poison="text 17")
    place.write(TEXTS)
    summary = run(place).start()
    assert (summary.completions, summary.failures, summary.pending) == (39, 1, 0)
    assert [record["text"] for record in place.records() if record["error"]] == ["text 17"]
    assert summary.sent == simulator.counts_by_status[200] + simulator.counts_by_status[400]
    # Failed rows are asked again, and no other.
    simulator.change(poison=None)
    assert run(place).start().sent == 1
    assert simulator.requests[-1].body["input"] == ["text 17"]


def test_an_answer_that_leaves_a_text_out_is_none_and_is_asked_for_again(
    place: Place, simulator: Simulator
) -> None:
    data = [{"object": "embedding", "embedding": [1.0], "index": index} for index in (2, 0)]
    simulator.script([Fault.status(200, {"data": data, "usage": {"prompt_tokens": 9}})])
    report = run(place, [{"text": text} for text in "abc"]).start()
    assert (report.completions, report.failures, report.attempts, report.maybe_billed) == (3, 0, 2, 1)
    assert [1.0] not in [record["embedding"] for record in place.records()]


@pytest.mark.parametrize("vector_", ["text", None, [1.0, "x"], {}])
def test_what_is_no_vector_fails_its_row(place: Place, simulator: Simulator, vector_: Any) -> None:
    simulator.script([Fault.status(200, {"data": [{"embedding": vector_, "index": 0}]})] * 3)
    report = run(place, [{"text": "a"}], llm_settings={"max_retries": 2}).start()
    assert (report.failures, report.sent) == (1, 3)
    assert report.maybe_billed == 3  # each may be on the bill, and each is said
    assert place.records()[0]["error"].startswith("malformed_answer: ")


def test_failures_of_the_server_are_retried(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(503), Fault.truncate(), Fault.disconnect()])
    place.write(TEXTS)
    summary = run(place).start()
    assert (summary.completions, summary.sent) == (40, 4)
    # An attempt is one try, however many texts are in it.
    assert (summary.attempts, summary.maybe_billed) == (4, 2)


def test_rows_that_come_one_by_one_are_not_waited_for(place: Place, simulator: Simulator) -> None:
    answered = threading.Event()

    def slowly() -> Iterator[dict[str, str]]:
        yield {"text": "first"}
        assert answered.wait(20), "the first row waited for a whole batch"
        yield {"text": "second"}

    for outcome in run(place, slowly()):
        assert outcome.completions[0] is not None
        assert outcome.completions[0].value == pytest.approx(vector(outcome.record["text"], 4))
        answered.set()


def test_tokens_bound_a_batch(place: Place, simulator: Simulator) -> None:
    simulator.change(embedding_batch_tokens=1000)
    place.write(["word " * 100] * 50)
    run(place, llm_settings={"max_batch_tokens": 1000}).start()
    assert simulator.counts_by_status[400] == 0
    assert max(len(request.body["input"]) for request in simulator.requests) == 5


def test_a_sample_forecasts_the_rest(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    summary = run(place, sample=10, llm_settings={"prices": PRICES}).start()
    assert len(simulator.requests[0].body["input"]) == 10
    assert summary.forecast is not None
    assert summary.forecast.rows_left == 30
    assert summary.forecast.cost is not None
    assert run(place).start().completions == 40
    assert len(simulator.requests[1].body["input"]) == 30


def test_a_budget_stops_it_and_the_rest_goes_on(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    settings = {"max_batch_tokens": 20, "max_concurrent_requests": 1}
    summary = run(place, max_tokens_total=30, llm_settings=settings).start()
    assert summary.stopped is not None
    assert 0 < summary.completions < 40
    assert summary.input_tokens < 30 + 20
    run(place).start()
    assert sorted(text for request in simulator.requests for text in request.body["input"]) == sorted(TEXTS)


def test_a_refused_key_stops_it(place: Place, simulator: Simulator) -> None:
    simulator.change(api_keys=frozenset({"another"}))
    place.write(TEXTS)
    summary = run(place, on_stop="return").start()
    assert (summary.pending, summary.failures) == (40, 0)
    assert "Unauthorized" in str(summary.stopped)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b'{"embedding": '])
@pytest.mark.parametrize("reader", [EmbeddingReader(), ChatReader()])
def test_a_damaged_body_is_an_error_of_ours(reader: AnswerReader, body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        reader.read(body)
    with pytest.raises(MalformedAnswer):
        reader.fields([body], several=False)


# --- the output -----------------------------------------------------------------------------------------------------


def test_other_formats(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    out = place.out.with_suffix(".parquet")
    run(place, out=out, columns={"embedding": "vector"}).start()
    table = library("pyarrow.parquet").read_table(out)
    assert str(table.schema.field("vector").type) == "list<element: float>"
    assert table["vector"].to_pylist() == [pytest.approx(vector(text, 4)) for text in TEXTS[:3]]
    assert export_run(out, place.out.with_suffix(".csv"), extra_columns=["model"]).records == 3
    with place.out.with_suffix(".csv").open(newline="") as file:
        (first, *_) = csv.DictReader(file)
    assert (json.loads(first["vector"]), first["model"]) == (vector("text 0", 4), "mistral-embed")


def test_columns_of_the_input_keep_their_types_in_every_export(place: Place, tmp_path: Path) -> None:
    pa, parquet = library("pyarrow"), library("pyarrow.parquet")
    days = pa.array([datetime.date(2024, 2, 29)], pa.date32())
    rows = pa.table({"text": ["a"], "day": days, "embedding": pa.array([1], pa.int8())})
    parquet.write_table(rows, tmp_path / "in.parquet")
    run(place, tmp_path / "in.parquet", out=tmp_path / "out.parquet", earlier="first_").start()
    (tmp_path / "in.parquet").unlink()  # the ledger has the types
    export_run(tmp_path / "out.parquet", tmp_path / "again.arrow")
    for table in (
        parquet.read_table(tmp_path / "out.parquet"),
        library("pyarrow.feather").read_table(tmp_path / "again.arrow"),
    ):
        types = {field.name: field.type for field in table.schema}
        assert (types["day"], types["first_embedding"]) == (pa.date32(), pa.int8())
        assert types["embedding"] == pa.list_(pa.float32())


def test_vectors_take_four_bytes_a_number(place: Place, simulator: Simulator, tmp_path: Path) -> None:
    library("pyarrow")
    simulator.change(embedding_dimension=1024)
    out = tmp_path / "out.parquet"
    run(place, [{"text": f"text {number}"} for number in range(500)], out=out).start()
    most = 2.5e6  # of 2.05 MB of floats
    assert out.stat().st_size < most
    assert Path(f"{out}.ledger").stat().st_size < most


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": {"type": "object"}}, "vectors, which no schema reads"),
        ({"flatten": True}, "known fields"),
        ({"extra_columns": ["thinking"]}, "no extra column 'thinking'"),
        ({"columns": {"generation": "x"}}, "no output column 'generation'"),
    ],
)
def test_an_export_that_cannot_be_is_refused(place: Place, change: dict[str, Any], words: str) -> None:
    run(place, [{"text": "a"}]).start()
    with pytest.raises(InputError, match=words):
        export_run(place.out, place.out.with_name("other.jsonl"), **change)


def test_a_column_of_the_output_is_reserved(place: Place) -> None:
    with pytest.raises(InputError, match="'embedding'"):
        run(place, [{"text": "a", "embedding": [1]}])
    run(place, [{"text": "a", "generation": "of an earlier run"}]).start()


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"system": "Be brief."},
        {"num_generations": 2},
        {"parameters": {"temperature": 0}},
        {"row_parameters": {"temperature": "temp"}},
        {"flatten": True},
    ],
)
def test_settings_of_completions_are_refused(place: Place, setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        run(place, [{"text": "a"}], **setting)


def test_another_dimension_is_another_run(place: Place, simulator: Simulator) -> None:
    run(place, [{"text": "a"}]).start()
    with pytest.raises(ManifestChanged, match=r"output_dimension: none → 3"):
        run(place, [{"text": "a"}], llm_settings={"output_dimension": 3}).start()
    run(place, [{"text": "a"}], llm_settings={"output_dimension": 3}, fresh=True).start()
    assert place.records()[0]["embedding"] == vector("a", 3)
    with pytest.raises(ManifestChanged):
        place.run([{"text": "a"}], llm=MistralLLM(model="mistral-embed", endpoint=place.endpoint)).start()


def test_integers_stay_integers(place: Place, simulator: Simulator) -> None:
    answer = {"data": [{"embedding": [1, -128], "index": 0}]}
    simulator.script([Fault.status(200, answer), Fault.status(200, answer)])
    (outcome,) = run(place, [{"text": "a"}], llm_settings={"output_dtype": "int8"})
    assert simulator.requests[0].body["output_dtype"] == "int8"
    assert outcome.completions[0] is not None
    assert json.dumps(outcome.completions[0].value) == "[1, -128]"
    assert '"embedding":[1,-128]' in place.out.read_text()
    assert json.dumps(embeddings(place, output_dtype="int8").embed(["a"])) == "[[1, -128]]"


def test_rows_are_retried_from_the_ledger(place: Place, simulator: Simulator) -> None:
    simulator.change(poison="text 3")
    place.write(TEXTS[:5])
    run(place).start()
    simulator.change(poison=None)
    place.input.unlink()
    summary = Run.retry(place.out, "state=failure").start()
    assert (summary.sent, summary.completions, summary.failures) == (1, 5, 0)
    assert place.records()[3]["embedding"] == vector("text 3", 4)
    with pytest.raises(InputError, match="embeddings have no such setting"):
        Run.retry(place.out, "row=1", parameters={"temperature": 0})
