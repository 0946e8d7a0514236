"""What a row's answers can be: several, structured, asked for again with other parameters."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runs.conftest import Place, echoes

from mistill import MistralLLM, Run
from mistill.errors import InputError
from mistill.ledger import LedgerReader
from mistill.simulator import Fault, Simulator

TEXTS = [f"row {number}" for number in range(12)]


class User(BaseModel):
    name: str
    age: int


SCHEMA = {"structured_output": {"schema": User}}


def test_several_generations_a_row(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    summary = place.run(num_generations=3).start()
    assert summary.sent == 3  # one request each, whose input is billed once
    assert place.records()[1]["generation"] == ["Echo: row 1", "Echo 2: row 1", "Echo 3: row 1"]
    assert place.records()[1]["output_tokens"] == 11
    place.out.unlink()
    assert place.run(num_generations=3).start().sent == 0
    assert place.records()[2]["generation"][2] == "Echo 3: row 2"


@pytest.mark.parametrize(
    ("first", "generations"),
    [
        (
            [("a", "stop", 0), ("b", "stop", 1), ("c", "stop", 2), ("d", "stop", 3), ("e", "stop", 4)],
            ["a", "b", "c"],
        ),
        ([("c", "stop", 2), ("a", "stop", 0), ("b", "stop", 1)], ["a", "b", "c"]),
        ([("a", "stop", 0), ("b", "stop", 1)], ["a", "b", "x"]),
        ([("a", "stop", 0), ("b", "error", 1), ("c", "stop", 2)], ["a", "c", "x"]),
        ([("a", "stop", 0)], ["a", "x", "x"]),
    ],
)
def test_a_row_has_as_many_generations_as_were_asked_for_however_many_come(
    place: Place, simulator: Simulator, first: list[tuple[str, str, int]], generations: list[str]
) -> None:
    def body(choices: list[tuple[str, str, int]]) -> dict[str, Any]:
        return {
            "choices": [
                {"index": index, "message": {"content": text}, "finish_reason": reason}
                for text, reason, index in choices
            ]
        }

    two = body([("y", "stop", 1), ("x", "stop", 0)])  # of which one was asked for
    place.write(["row"])
    simulator.script([Fault.status(200, body(first)), Fault.status(200, two), Fault.status(200, two)])
    place.run(num_generations=3).start()
    [record] = place.records()
    assert record["generation"] == generations


def test_several_generations_from_a_server_that_refuses_n(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:4])
    llm = place.llm()
    llm.model = "mistral-large-2512"
    summary = place.run(llm=llm, num_generations=2).start()
    assert summary.completions == 4
    assert simulator.answered == 8
    assert [len(record["generation"]) for record in place.records()] == [2] * 4
    with LedgerReader(place.ledger) as reader:
        assert [len(row.answers) for row in reader.rows()] == [2] * 4


def test_structured_answers(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    assert place.run(llm_settings=SCHEMA).start().completions == 12
    users = [User.model_validate_json(answer or "") for answer in place.answers()]
    place.out.unlink()
    assert place.run(llm_settings=SCHEMA, flatten=True).start().sent == 0
    assert [(record["name"], record["age"]) for record in place.records()] == [
        (user.name, user.age) for user in users
    ]
    assert "generation" not in place.records()[0]


def test_outcomes_of_structured_rows_have_typed_values(place: Place) -> None:
    place.write(TEXTS)
    for outcome in place.run(llm_settings=SCHEMA):
        (completion,) = outcome.completions
        assert completion is not None
        assert isinstance(completion.value, User)


def test_an_answer_that_was_asked_for_again_is_counted_twice_and_kept_once(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:1])
    simulator.script(["no JSON", '{"name": "Ada", "age": 36}'])
    summary = place.run(llm_settings=SCHEMA).start()
    assert (summary.sent, summary.completions) == (2, 1)
    assert json.loads(place.answers()[0] or "") == {"name": "Ada", "age": 36}
    record = place.records()[0]
    with LedgerReader(place.ledger) as reader:
        counts = reader.counts()
        assert counts.attempts == 2
        assert (record["input_tokens"], record["output_tokens"]) == (
            counts.input_tokens,
            counts.output_tokens,
        )


def test_an_answer_that_never_fits_is_a_failure_that_keeps_its_tokens(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:1])
    simulator.script(["no JSON"] * 4)
    summary = place.run(llm_settings=SCHEMA).start()
    assert [cause.kind for cause in summary.causes] == ["invalid_output"]
    assert summary.output_tokens > 0
    assert place.records()[0]["output_tokens"] == summary.output_tokens
    with LedgerReader(place.ledger) as reader:
        assert reader.counts().attempts == 4  # all paid answers are kept
    connection = sqlite3.connect(place.ledger)
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (4,)
    connection.close()


def test_of_500_rows_of_which_a_fifth_come_wrong_all_are_answered(place: Place, simulator: Simulator) -> None:
    """Wrong once, twice or three times in a row: what no more than one further ask would leave as failures."""
    texts = [f"row {number}." for number in range(500)]
    place.write(texts)
    wrong = {text: 1 + number % 3 for number, text in enumerate(texts[::5])}

    def is_wrong(body: dict[str, Any]) -> bool:
        text = body["messages"][0]["content"]
        wrong[text] = wrong.get(text, 0) - 1
        return wrong[text] >= 0

    simulator.script(['{"name": "Ada"}'] * sum(wrong.values()), when=is_wrong)
    summary = place.run(llm_settings=SCHEMA).start()
    assert (summary.completions, summary.failures) == (500, 0)
    assert summary.sent == simulator.answered == 500 + sum(1 + n % 3 for n in range(100))
    asked_again = [
        len(request.body["messages"]) for request in simulator.requests if len(request.body["messages"]) > 1
    ]
    assert set(asked_again) == {
        3
    }  # the prompt, the last answer, what is wrong with it: at the third ask as at the first


def test_paid_answers_that_do_not_fit_are_not_taken_for_the_outcome(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:2])
    simulator.script(["no JSON", '{"name": "Ada", "age": 36}'], when=lambda body: "row 0" in str(body))
    settings = {"llm_settings": SCHEMA | {"max_concurrent_requests": 1}}
    place.run(**settings).start()
    connection = sqlite3.connect(place.ledger)  # as after a kill between the two answers of row 0
    row = connection.execute("SELECT id FROM rows WHERE position = 0").fetchone()
    last = connection.execute("SELECT max(id) FROM attempts WHERE row = ?", row).fetchone()
    connection.execute("DELETE FROM outcomes WHERE row = ?", row)
    connection.execute("DELETE FROM answers WHERE attempt = ?", last)
    connection.execute("DELETE FROM attempts WHERE id = ?", last)
    connection.commit()
    connection.close()
    assert place.run(**settings).start().sent == 1
    assert User.model_validate_json(place.answers()[0] or "")


# --- retries --------------------------------------------------------------------------------------------------------


def test_a_selection_is_asked_again_with_other_parameters(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.named("length")] * 2, when=lambda body: "row 1" in str(body["messages"]))
    place.run().start()
    cut = [record["text"] for record in place.records() if record["finish_reason"] == "length"]
    assert len(cut) == 2
    summary = Run.retry(place.out, "finish_reason=length", parameters={"max_new_tokens": 500}).start()
    assert (summary.sent, summary.completions) == (2, 12)
    assert place.answers() == echoes(TEXTS)
    assert [request.body.get("max_tokens") for request in simulator.requests].count(500) == 2
    with LedgerReader(place.ledger) as reader:
        asked_again = [row for row in reader.rows() if row.settings]
        (settings,) = reader.retry_settings().values()
        assert json.loads(settings)["manifest"]["parameters"] == {"max_tokens": 500}
        assert [one.finish_reason for one in reader.earlier_outcomes(asked_again[0].row)] == ["length"]
    assert place.run().start().sent == 0  # the retry is part of the run


def test_a_retry_of_an_unfinished_run_asks_only_its_selection(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(poison="row 2")
    place.run(sample=6).start()
    assert simulator.answered == 5
    simulator.change(poison=None)
    run = Run.retry(place.out, "state=failure")
    summary = run.start()
    assert summary.sent == 1
    assert run.progress.total == 1
    assert summary.output is None  # half of the rows are not asked yet
    assert not place.out.exists()
    assert run.start().sent == 0
    assert place.run().start().sent == 6
    assert place.answers() == echoes(TEXTS)
    assert set(Counter(place.answers()).values()) == {1}


def test_a_retry_that_does_not_get_better_keeps_what_there_was(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    simulator.change(poison="row 3")
    assert Run.retry(place.out, "row=3").start().sent == 1
    assert place.answers() == echoes(TEXTS)


def test_a_retry_goes_on_where_it_was_stopped(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run(columns={"generation": "answer"}, llm_settings={"max_concurrent_requests": 2}).start()
    retry = Run.retry(place.out, "state=completion", parameters={"random_seed": 7})
    for _ in retry:
        break
    answered = simulator.answered
    assert answered < 24
    summary = retry.start()
    assert summary.sent == 24 - answered
    seeds = [request.body.get("random_seed") for request in simulator.requests]
    assert seeds.count(7) == 12
    assert place.records()[0]["answer"] == "Echo: row 0"  # the shape of the output is remembered


def test_a_retry_of_structured_rows_by_another_host(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:2])
    place.run(llm_settings=SCHEMA).start()
    other = place.endpoint.replace("127.0.0.1", "localhost")
    assert Run.retry(place.out, "row=1", llm={"endpoint": other}).start().sent == 1
    assert simulator.requests[-1].headers["host"].startswith("localhost")
    assert User.model_validate_json(place.answers()[1] or "")


@pytest.mark.parametrize(
    ("where", "parameters", "message"),
    [
        ("colour=red", {}, "no column 'colour'"),
        ("row=1", {"max_tokens": 3}, "max_new_tokens"),
        ("row=1", {"temperature": 9}, "temperature"),
    ],
)
def test_a_wrong_retry_is_refused_at_once(
    place: Place, where: str, parameters: dict[str, Any], message: str
) -> None:
    place.write(TEXTS)
    place.run().start()
    with pytest.raises(InputError, match=message):
        Run.retry(place.out, where, parameters=parameters)
    with pytest.raises(InputError, match="no run is known"):
        Run.retry(place.out.with_name("other.jsonl"), "row=1")


def test_the_model_of_a_retry_is_made_from_the_ledger_without_a_secret(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(TEXTS)
    llm = MistralLLM(model="mistral-small-latest", endpoint=place.endpoint, api_key="a-secret-of-mine")  # type: ignore[arg-type]
    place.run(llm=llm).start()
    assert b"a-secret-of-mine" not in place.ledger.read_bytes()
    monkeypatch.delenv("MISTRAL_API_KEY")
    with pytest.raises(InputError, match="MISTRAL_API_KEY"):
        Run.retry(place.out, "row=1").start()
