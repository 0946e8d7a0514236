"""A run that was cut off between the requests of a row goes on with the next of them, over a real server."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runs.conftest import MODEL, Place
from tests.runs.test_attachments import png

from mistill import MistralEmbeddings, Run
from mistill.ledger import LedgerReader
from mistill.simulator import Fault, Simulator

RIGHT, WRONG, YOUNG = '{"name": "Ada", "age": 36}', '{"name": "Ada"}', '{"name": "Ada", "age": 3}'


class User(BaseModel):
    name: str
    age: int


SCHEMA: dict[str, Any] = {"schema": User}
ONE_CHOICE = Fault.status(
    200,
    {
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    },
)


def cut_off(ledger: Path, answers: int) -> None:
    """Leaves a ledger as a kill does after so many answers, of which no outcome was made."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("DELETE FROM outcomes")
        query = "SELECT id FROM attempts WHERE status = 'answered' ORDER BY id LIMIT -1 OFFSET ?"
        for (attempt,) in connection.execute(query, (answers,)).fetchall():
            connection.execute("DELETE FROM answers WHERE attempt = ?", (attempt,))
            connection.execute("DELETE FROM attempts WHERE id = ?", (attempt,))


def outcomes(ledger: Path) -> list[Any]:
    """What the rows came to. Of their answers how many there are: each new one has an id of its own."""
    with LedgerReader(ledger) as reader:
        return [
            (
                row.state,
                len(row.answers),
                row.finish_reason,
                row.error,
                row.input_tokens,
                row.output_tokens,
                row.cost,
            )
            for row in reader.rows()
        ]


def text(place: Place, **settings: Any) -> Run:
    place.write(["Ada"])
    return place.run(**settings)


def structured(place: Place, mode: str = "json_schema", **settings: Any) -> Run:
    place.write(["Ada"])
    return place.run(llm_settings={"structured_output": SCHEMA | {"mode": mode}}, **settings)


def refusing_n(place: Place) -> Run:
    place.write(["Ada"])
    llm = place.llm()
    llm.model = "mistral-large-2512"
    return place.run(llm=llm, num_generations=3)


def with_own_parameters(place: Place) -> Run:
    place.write_rows([{"text": "Ada", "t": 0.25}])
    settings = {"structured_output": SCHEMA}
    return place.run(llm_settings=settings, row_parameters={"temperature": "t"})


def with_an_image(place: Place) -> Run:
    place.input.parent.joinpath("ada.png").write_bytes(png())
    place.write_rows([{"text": "Ada", "image": "ada.png"}])
    return place.run(llm_settings={"structured_output": SCHEMA}, images=["image"])


def vectors(place: Place) -> Run:
    place.write(["Ada"])
    return Run(place.input, llm=MistralEmbeddings(endpoint=place.endpoint), out=place.out)


def two_seeds(place: Place) -> Run:
    return structured(place, num_generations=2, parameters={"random_seed": 1})


CASES: dict[str, tuple[Callable[[Place], Run], list[Any]]] = {
    "plain": (text, ["hello"]),
    "three in one request": (lambda place: text(place, num_generations=3), []),
    "n is refused": (refusing_n, []),
    "n is ignored": (lambda place: text(place, num_generations=3), [ONE_CHOICE, "two", "three"]),
    "fits at the second ask": (structured, [WRONG, RIGHT]),
    "never fits": (structured, [WRONG, WRONG, "no JSON", "none at all"]),
    "two generations that each fit at once": (two_seeds, [RIGHT, RIGHT]),
    "a schema in words": (lambda place: structured(place, "json_object"), [WRONG, RIGHT]),
    "instructor": (lambda place: structured(place, "md_json"), [WRONG, RIGHT]),
    "a tool of instructor": (lambda place: structured(place, "tools"), []),
    "parameters of its own": (with_own_parameters, [WRONG, RIGHT]),
    "an image": (with_an_image, [WRONG, RIGHT]),
    "embeddings": (vectors, []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_cut_off_after_any_answer_ends_as_if_it_was_not(
    place: Place, simulator: Simulator, name: str
) -> None:
    make, script = CASES[name]
    simulator.change(cache_tokens=0)  # what it costs would depend on what was cached when
    simulator.script(script)
    make(place).start()
    whole, records, answered = outcomes(place.ledger), place.records(), simulator.answered
    assert answered
    for before in range(answered + 1):
        cut_off(place.ledger, before)
        simulator.script(script[before:])
        came = simulator.answered
        make(place).start()
        assert simulator.answered - came == answered - before
        assert outcomes(place.ledger) == whole
        assert place.records() == records


def test_of_two_generations_each_goes_on_with_its_own_re_ask(place: Place, simulator: Simulator) -> None:
    def script() -> None:
        simulator.script([WRONG, RIGHT], when=lambda body: body["random_seed"] == 1)
        simulator.script([RIGHT.replace("36", "37")], when=lambda body: body["random_seed"] == 2)

    script()
    run = two_seeds(place)
    run.start()
    records = place.records()
    cut_off(place.ledger, 2)
    simulator.script([RIGHT], when=lambda body: len(body["messages"]) > 1)
    assert two_seeds(place).start().sent == 1
    assert place.records() == records
    assert "36" in records[0]["generation"][0]


def test_texts_that_went_together_and_of_which_some_are_done(place: Place, simulator: Simulator) -> None:
    place.write(["a", "b", "c"])

    def run() -> Run:
        return Run(place.input, llm=MistralEmbeddings(endpoint=place.endpoint), out=place.out)

    simulator.script([Fault.status(400)])  # so that they go again in halves
    run().start()
    whole, records = outcomes(place.ledger), place.records()
    for before in (3, 2, 1):
        cut_off(place.ledger, before)
        run().start()
        assert [row[:2] for row in outcomes(place.ledger)] == [row[:2] for row in whole]
        assert [record["embedding"] for record in place.records()] == [one["embedding"] for one in records]
    assert sorted(len(request.body["input"]) for request in simulator.requests) == [1, 1, 2, 2, 3]


def test_a_stop_between_an_answer_that_does_not_fit_and_its_re_ask(
    place: Place, simulator: Simulator
) -> None:
    simulator.script([WRONG, RIGHT])
    simulator.change(latency_s=0.2)
    run = structured(place, on_stop="return")
    thread = threading.Thread(target=run.start)
    thread.start()
    simulator.wait_until(lambda: simulator.in_flight > 0)
    run.stop()
    thread.join(30)
    assert len(simulator.requests) == 1
    simulator.change(latency_s=0)
    report = structured(place).start()
    assert (report.sent, len(simulator.requests), report.maybe_billed) == (1, 2, 0)
    assert_both_asks_count(place, simulator)


A_RUN = """
import os, signal, sqlite3, sys
from mistill import MistralLLM, Run
from pydantic import BaseModel, model_validator

place, endpoint, model, dies = sys.argv[1:]

class User(BaseModel):
    name: str
    age: int

    @model_validator(mode="after")
    def check(self):
        if not dies:
            if self.age < 30:
                raise ValueError("too young")
            return self
        ledger = sqlite3.connect(place + "/out.jsonl.ledger")
        while not ledger.execute("SELECT count(*) FROM answers").fetchone()[0]:
            pass
        os.kill(os.getpid(), signal.SIGKILL)

llm = MistralLLM(model=model, endpoint=endpoint, structured_output={"schema": User})
Run(place + "/in.jsonl", llm=llm, prompt="{{ text }}", out=place + "/out.jsonl").start()
"""


def test_a_kill_between_an_answer_that_does_not_fit_and_its_re_ask(
    place: Place, simulator: Simulator
) -> None:
    place.write(["Ada"])
    simulator.script([YOUNG, RIGHT])
    command = [sys.executable, "-c", A_RUN, str(place.input.parent), place.endpoint, MODEL]
    killed = subprocess.run([*command, "now"], capture_output=True, text=True, timeout=60)
    assert (killed.returncode, len(simulator.requests)) == (-signal.SIGKILL, 1), killed.stderr
    went_on = subprocess.run([*command, ""], capture_output=True, text=True, timeout=60)
    assert (went_on.returncode, len(simulator.requests)) == (0, 2), went_on.stderr
    assert_both_asks_count(place, simulator)


def assert_both_asks_count(place: Place, simulator: Simulator) -> None:
    first, second = simulator.requests
    assert second.body["messages"][0] == first.body["messages"][0]
    assert [message["role"] for message in second.body["messages"]] == ["user", "assistant", "user"]
    (record,) = place.records()
    assert User.model_validate_json(record["generation"]) == User(name="Ada", age=36)
    with LedgerReader(place.ledger) as reader:
        counts = reader.counts()
    took = (record["input_tokens"], record["output_tokens"])
    assert took == (counts.input_tokens, counts.output_tokens)
    assert counts.attempts == 2
