"""Whatever a server answers, it costs its own row at most: never the run, nor its output."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from pydantic import BaseModel, model_serializer
from tests.libraries import library
from tests.runs.conftest import Place
from tests.runs.odd_bodies import good_body, odd_body

from mistill.errors import InputError
from mistill.kinds.chat import ChatKind
from mistill.ledger import LedgerReader
from mistill.ledger.checksums import answer_sum
from mistill.runs.export import export_run
from mistill.runs.record_lines import record_line
from mistill.runs.record_shape import shape_of
from mistill.simulator import Fault, Simulator

CASES = 300
SCHEMA = {"type": "object", "properties": {"a": {}}, "required": ["a"]}


@pytest.mark.parametrize("structured", [False, True], ids=["text", "structured"])
def test_an_odd_body_costs_its_row_at_most(place: Place, simulator: Simulator, *, structured: bool) -> None:
    rng = random.Random(20261125)
    texts = [f"row {number}" for number in range(CASES)]
    place.write(texts)
    good = '{"a": [1.10, 18446744073709551616, "\\ud83d\\ude00"]}' if structured else "fine"
    simulator.script(Fault.status(200, odd_body(rng, good)) for _ in range(CASES))
    settings: dict[str, Any] = {"max_retries": 0, "max_concurrent_requests": 16}
    if structured:
        settings["structured_output"] = {"schema": SCHEMA, "max_retries": 0}
    extra = {"flatten": structured, "extra_columns": ChatKind.extra_columns}
    report = place.run(llm_settings=settings, **extra).start()
    assert report.stopped is None
    assert report.completions + report.failures == CASES
    assert report.completions > CASES / 10
    assert report.failures > CASES / 10
    assert {cause.kind for cause in report.causes} <= {"malformed_answer", "invalid_output"}
    assert 0 <= report.input_tokens < CASES * 2**32
    assert report.cost is not None
    assert report.cost >= 0
    assert _query(place, "SELECT count(*) FROM attempts WHERE status IS NULL") == 0
    assert [record["text"] for record in place.records()] == texts
    for suffix in ("csv", "parquet", "json"):
        if suffix == "parquet":
            library("pyarrow")
        assert export_run(place.out, place.out.with_suffix(f".{suffix}")).records == CASES
    again = place.run(llm_settings=settings, **extra).start()
    assert again.sent == report.failures
    if not structured:
        assert (again.completions, again.failures) == (CASES, 0)


def _query(place: Place, query: str) -> Any:
    connection = sqlite3.connect(place.ledger)
    try:
        return connection.execute(query).fetchone()[0]
    finally:
        connection.close()


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(
    "content",
    ["half \\ud83d", "\\udc00", "nul \\u0000", "\\ud83d\\ude00"],
    ids=["high half", "low half", "NUL", "a pair"],
)
def test_half_a_character_becomes_the_replacement_character(
    place: Place, simulator: Simulator, content: str, suffix: str
) -> None:
    if suffix == "parquet":
        library("pyarrow")
    place.write(["a", "b"])
    body = json.dumps(good_body("@")).replace("@", content)
    simulator.script([Fault.status(200, body)])
    out = place.out.with_suffix(f".{suffix}")
    report = place.run(out=out, llm_settings={"max_concurrent_requests": 1}).start()
    assert (report.completions, report.failures) == (2, 0)
    read = json.loads(f'"{content}"').encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ledger = out.with_name(out.name + ".ledger")
    with LedgerReader(ledger) as reader:
        first, second = (json.loads(record_line(row, shape_of(reader))) for row in reader.rows())
    assert first["generation"] == read
    assert second["generation"] == "Echo: b"
    if suffix == "jsonl":
        assert [record["generation"] for record in place.records()] == [read, "Echo: b"]


def test_arguments_of_tool_calls_keep_their_large_numbers(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    body = good_body("")
    arguments = {"n": 10**30, "small": 1}
    body["choices"][0]["message"]["tool_calls"] = [
        {"id": "c", "function": {"name": "f", "arguments": arguments}}
    ]
    simulator.script([Fault.status(200, body)])
    place.run(extra_columns=["tool_calls"]).start()
    assert place.records()[0]["tool_calls"][0]["function"]["arguments"] == arguments


class Picky(BaseModel):
    a: int

    @model_serializer
    def write(self) -> Any:
        if self.a == 1:
            raise ZeroDivisionError("no one")
        if self.a == 2:
            return {"a": "half \ud83d", "\udc00": 0}
        return object() if self.a == 3 else {"a": self.a}


def test_a_value_that_cannot_be_written_is_its_own_rows_error(place: Place, simulator: Simulator) -> None:
    place.write(["a", "b", "c", "d"])
    simulator.script([f'{{"a": {number}}}' for number in range(4)])
    settings = {"structured_output": {"schema": Picky}, "max_concurrent_requests": 1}
    report = place.run(llm_settings=settings, flatten=True).start()
    assert (report.completions, report.output) == (4, str(place.out))
    zero, one, two, three = place.records()
    assert (zero["a"], zero["error"]) == (0, None)
    assert one["a"] is None
    assert "no one" in one["error"]
    for record in (two, three):
        assert record["a"] is None
        assert record["error"].startswith("unwritable_answer: the answer cannot be written")


def test_an_unforeseen_error_of_one_row_ends_its_attempt_and_nothing_else(
    place: Place, simulator: Simulator
) -> None:
    class BreaksOnce(ChatKind):
        async def answer(self, prepared: Any, send: Any) -> Any:
            outcomes = await super().answer(prepared, send)
            if b"row 2" in prepared[0].messages:
                raise KeyError("nobody thought of this")
            return outcomes

        def prepare(self, row: Any) -> Any:
            if row.record["text"] == "row 4":
                raise RecursionError("nor of this")
            return super().prepare(row)

    place.write([f"row {number}" for number in range(6)])
    run = place.run()
    run.kind.__class__ = BreaksOnce
    report = run.start()
    assert (report.completions, report.failures, report.stopped) == (4, 2, None)
    assert _query(place, "SELECT count(*) FROM attempts WHERE status IS NULL") == 0
    errors = [record["error"] for record in place.records()]
    assert "KeyError" in errors[2]
    assert "row 4" not in errors[4]
    assert "line 5: it cannot be made into a request: RecursionError: nor of this" in errors[4]
    assert place.run().start().completions == 6


def test_an_error_that_nobody_foresaw_is_logged_once_with_its_traceback(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(ChatKind):
        async def answer(self, prepared: Any, send: Any) -> Any:
            raise ArithmeticError("a fault of ours")

    place.write([f"row {number}" for number in range(6)])
    run = place.run()
    run.kind.__class__ = Breaks
    assert run.start().failures == 6
    (told,) = [one for one in caplog.records if "nobody foresaw" in one.message]
    assert told.exc_info is not None
    assert told.exc_info[0] is ArithmeticError


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b'{"choices": 5}', b'{"choices": []}', b"[" * 100_000, b"\xff"],
    ids=lambda body: repr(body[:20]),
)
def test_an_answer_kept_that_is_none_is_asked_again(place: Place, simulator: Simulator, body: bytes) -> None:
    place.write(["a"])
    place.run().start()
    with closing(sqlite3.connect(place.ledger)) as connection, connection:
        ((attempt, row),) = connection.execute("SELECT id, row FROM attempts").fetchall()
        values = (body, answer_sum(attempt, row, body))
        connection.execute("UPDATE answers SET body = ?, checksum = ?", values)
        connection.execute("DELETE FROM outcomes")
    assert place.run().start().sent == 1
    assert place.answers() == ["Echo: a"]


def test_a_wrong_first_row_is_refused_and_nothing_sent(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    with pytest.raises(InputError, match="goes on beyond"):
        place.run(
            prompt="{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}"
        ).start()
    assert not simulator.requests
