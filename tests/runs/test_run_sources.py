"""What a run can read, and what happens where a row or a file is not as it should be."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from tests.libraries import library
from tests.runs.conftest import MODEL, Place, echoes, sent

from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.ledger import LedgerReader
from mistill.simulator import Simulator

TEXTS = [f"row {number}" for number in range(12)]
ROWS = [{"text": text} for text in TEXTS]


def arrow_table() -> Any:
    return library("pyarrow").Table.from_pylist(ROWS)


def parquet(place: Place) -> Path:
    path = place.input.with_suffix(".parquet")
    library("pyarrow.parquet").write_table(arrow_table(), path)
    return path


def several_files(place: Place) -> str:
    for part in range(3):
        path = place.input.with_name(f"part-{part}.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[4 * part : 4 * part + 4]))
    return str(place.input.with_name("part-*.jsonl"))


def hugging_face_dataset(place: Place) -> Any:
    """As a ``datasets.Dataset`` is used: that library is too large to install for one test."""
    table = arrow_table()
    batches = SimpleNamespace(iter=lambda batch_size: iter([table.slice(0, 5), table.slice(5)]))
    members = {
        "column_names": ["text"],
        "with_format": lambda self, _: batches,
        "__len__": lambda self: len(ROWS),
        "__module__": "datasets.arrow_dataset",
    }
    return type("Dataset", (), members)()


SOURCES: dict[str, Callable[[Place], Any]] = {
    "list": lambda _: ROWS,
    "generator": lambda _: iter(ROWS),
    "arrow": lambda _: arrow_table(),
    "pandas": lambda _: library("pandas").DataFrame(ROWS),
    "polars": lambda _: library("polars").DataFrame(ROWS),
    "hugging face": hugging_face_dataset,
    "parquet": parquet,
    "glob": several_files,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_rows_come_from_anything_and_are_the_same_rows(place: Place, kind: str) -> None:
    assert place.run(SOURCES[kind](place)).start().sent == 12
    assert place.answers() == echoes(TEXTS)
    place.write(TEXTS)
    assert place.run().start().sent == 0  # a file of the same rows


def test_rows_come_from_stdin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(TEXTS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(place.input.read_bytes())))
    assert place.run("-").start().sent == 12
    assert place.answers() == echoes(TEXTS)


def test_records_go_to_stdout(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    script = (
        "import sys; from mistill import MistralLLM, Run\n"
        "llm = MistralLLM(model=sys.argv[2], endpoint=sys.argv[1])\n"
        "Run('-', out='-', llm=llm, prompt='{{ text }}').start()"
    )
    command = [sys.executable, "-W", "error", "-c", script, simulator.url, MODEL]
    done = subprocess.run(command, input=place.input.read_bytes(), capture_output=True, timeout=60)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["generation"] for record in records] == echoes(TEXTS), done.stderr


def test_with_no_output_the_outcomes_are_there_to_be_read(place: Place) -> None:
    run = place.run(ROWS, out=None)
    assert len(list(run)) == 12
    assert run.summary is not None
    assert run.summary.ledger == str(run.ledger_path)  # a temporary one, there as long as the run is
    assert run.summary.is_temporary
    assert str(run.ledger_path) not in str(run.summary) + str(run.report())  # nobody need remember it


def test_a_slow_generator_holds_up_nobody(place: Place, simulator: Simulator) -> None:
    go_on = threading.Event()

    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS[:5]
        assert go_on.wait(30)
        yield from ROWS[5:]

    run = place.run(rows())
    outcomes = iter(run)
    first = [next(outcomes) for _ in range(5)]  # answered, though the sixth row is not there yet
    assert sorted(outcome.position for outcome in first) == [0, 1, 2, 3, 4]
    other = place.run(ROWS, out=place.out.with_name("other.jsonl"))
    assert other.start().completions == 12  # nor does another run wait
    go_on.set()
    assert len(list(outcomes)) == 7
    assert place.answers() == echoes(TEXTS)


def test_a_run_that_waits_for_rows_can_be_stopped(place: Place, simulator: Simulator) -> None:
    never = threading.Event()

    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS[:5]
        never.wait(30)

    run = place.run(rows())
    outcomes: Any = iter(run)
    for _ in range(5):
        next(outcomes)
    outcomes.close()
    never.set()
    assert run.summary is not None
    assert run.summary.completions == 5


def test_a_run_that_waits_for_stdin_can_be_interrupted(place: Place, simulator: Simulator) -> None:
    command = [sys.executable, "-c", STDIN, place.out, place.endpoint, MODEL]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write('{"text": "first"}\n')
            process.stdin.flush()
            simulator.wait_until(lambda: simulator.answered == 1, timeout_s=30)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 7
        finally:
            process.kill()
        assert process.stdout.read() == "interrupted 1\n"
        assert process.stderr.read() == ""


STDIN = """
import sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[3], endpoint=sys.argv[2])
summary = Run("-", out=sys.argv[1], llm=llm, prompt="{{ text }}", on_stop="return").start()
print(summary.stopped.message, summary.completions)
sys.exit(7)
"""


# --- what is wrong with the input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["in.jsonl", "./link.jsonl", "*.jsonl"])
def test_an_output_that_is_an_input_is_refused(place: Place, simulator: Simulator, source: str) -> None:
    place.write(TEXTS)
    before = place.input.read_bytes()
    place.input.with_name("link.jsonl").symlink_to(place.input)
    with pytest.raises(InputError, match=r"in\.jsonl is an input of this run"):
        place.run(str(place.input.parent / source), out=place.input)
    assert place.input.read_bytes() == before
    assert simulator.requests == []


@pytest.mark.parametrize("column", ["generation", "error"])
def test_a_column_of_the_name_of_ours_is_refused(place: Place, simulator: Simulator, column: str) -> None:
    place.write(TEXTS, **{column: "mine"})
    with pytest.raises(InputError, match=column):
        place.run()
    assert place.run(columns={column: "answer"}).start().sent == 12
    assert place.records()[0][column] == "mine"


def test_a_first_row_that_cannot_be_asked_means_a_wrong_template(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    with pytest.raises(InputError, match="did you mean 'text'") as raised:
        place.run(prompt="{{ txt }}").start()
    assert "line 1" in str(raised.value)
    assert not simulator.requests
    assert place.run().start().sent == 12


def test_a_later_row_that_cannot_be_asked_fails_alone_and_costs_nothing(
    place: Place, simulator: Simulator
) -> None:
    place.write_rows([*ROWS[:5], {"other": 1}, {"text": None}, {"text": " "}, *ROWS[5:]])
    summary = place.run().start()
    assert (summary.sent, summary.completions, summary.failures) == (12, 12, 3)
    assert [cause.kind for cause in summary.causes] == ["invalid_input"]
    assert summary.causes[0].row == 5
    assert place.answers() == [*echoes(TEXTS[:5]), None, None, None, *echoes(TEXTS[5:])]
    record = place.records()[5]
    assert record["error"].startswith(f"invalid_input: {place.input} line 6: ")
    assert (record["input_tokens"], record["output_tokens"]) == (0, 0)
    assert place.run().start().sent == 0
    place.write_rows([*ROWS[:5], {"text": "mended"}, *ROWS[5:]])
    assert place.run().start().sent == 1


def good_lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b'{"text": "to', "line 13, the last, has no end"),
        (b'{"text": "caf\xe9"}\n', "line 13: not UTF-8: byte 0xe9"),
        (b"[1, 2]\n", "line 13: a list, where a row must be an object"),
        (b'"text"\n', "line 13: a string, where a row must be an object"),
        (b'{"text": NaN}\n', "NaN"),
    ],
    ids=["torn", "encoding", "list", "string", "NaN"],
)
def test_a_broken_line_is_named_and_nothing_is_lost(
    place: Place, simulator: Simulator, tail: bytes, message: str
) -> None:
    place.input.write_bytes(good_lines())
    place.run(limit=5).start()
    place.input.write_bytes(good_lines() + tail)
    with pytest.raises(InputError, match=message) as raised:
        place.run().start()
    assert str(place.input) in str(raised.value)
    assert place.answers() == echoes(TEXTS[:5])  # the output is that of before
    place.input.write_bytes(good_lines())
    assert place.run().start().sent == 7
    assert place.answers() == echoes(TEXTS)


def test_rows_in_flight_are_answered_before_a_broken_line_is_told(place: Place, simulator: Simulator) -> None:
    texts = [f"row {number}" for number in range(600)]
    place.write(texts)
    with place.input.open("ab") as file:
        file.write(b"[]\n")
    run = place.run()
    with pytest.raises(
        InputError, match=r"line 601.*512 rows answered so far, and kept: .* start the same run again"
    ):
        run.start()
    report = run.summary
    assert report is not None
    assert (report.completions, type(report.stopped)) == (512, InputError)
    with LedgerReader(place.ledger) as reader:
        counts = reader.counts()
    assert counts.completions == simulator.answered == 512  # the windows before; nothing cut off
    assert counts.maybe_billed == 0
    place.write(texts)
    assert place.run().start().sent == 88


def test_an_iterable_that_raises_is_told_as_it_is(place: Place, simulator: Simulator) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS[:5]
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as raised:
        place.run(rows(), on_stop="return").start()
    (note,) = raised.value.__notes__
    assert "rows answered so far, and kept" in note
    assert "once that is mended, start the same run again" in note
    assert place.run(ROWS).start().completions == 12
    assert place.answers() == echoes(TEXTS)


def test_a_run_without_an_output_keeps_what_it_has_of_an_input_that_breaks_off(
    place: Place, simulator: Simulator
) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield from ROWS[:5]
        simulator.wait_until(lambda: simulator.answered == 5, timeout_s=30)
        raise ZeroDivisionError("mine")

    run = place.run(rows(), out=None)
    with pytest.raises(ZeroDivisionError) as raised:
        run.start()
    assert "5 rows answered so far" in raised.value.__notes__[0]
    assert "they are in its results(); with out or ledger another run goes on" in raised.value.__notes__[0]
    assert [record["generation"] for record in run.results()] == echoes(TEXTS[:5])


def test_what_breaks_off_while_columns_are_looked_for_is_raised_when_the_rows_are_read() -> None:
    source = open_source(iter([{"text": "a"}, {"text": "b"}, "no row"]))
    assert list(source.records_until(lambda: False)) == [{"text": "a"}, {"text": "b"}]
    read: list[Any] = []
    with pytest.raises(InputError, match="row 2 of the list_iterator"):
        read.extend(row.record for row in source)
    assert read == [{"text": "a"}, {"text": "b"}]


def test_a_row_of_50_mb(place: Place, simulator: Simulator) -> None:
    """Longer than any window, and longer than the model takes: it fails alone."""
    huge = "x" * 50_000_000
    place.write([*TEXTS[:6], huge, *TEXTS[6:]])
    summary = place.run().start()
    assert (summary.completions, summary.failures) == (12, 1)
    assert place.answers() == [*echoes(TEXTS[:6]), None, *echoes(TEXTS[6:])]
    assert place.records()[6]["text"] == huge
    assert "bad_request" in place.records()[6]["error"]


def test_a_template_may_use_all_that_a_row_has(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"first name": "Ada", "tags": ["a", "b"]}])
    place.run(prompt='{{ row["first name"] }}: {{ tags | join(", ") }}', system="Be brief.").start()
    assert sent(simulator) == ["Ada: a, b"]
    assert simulator.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_messages_of_the_row_are_sent_as_they_are(place: Place, simulator: Simulator) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Oh", "prefix": True}]
    place.write_rows([{"messages": messages}])
    place.run(prompt=None).start()
    assert simulator.requests[0].body["messages"] == messages


class Said(BaseModel):
    """A message of a library whose fields have other names in JSON."""

    model_config = ConfigDict(populate_by_name=True)

    speaker: str = Field(serialization_alias="role")
    words: str = Field(serialization_alias="content")


def test_a_message_of_another_library_is_the_same_in_a_run_and_in_a_call(place: Place) -> None:
    messages: Any = [Said(speaker="user", words="Hello")]
    assert place.llm().generate([messages]) == [["Echo: Hello"]]
    assert place.run([{"messages": messages}], prompt=None).start().completions == 1
    assert place.records()[0]["messages"] == [{"role": "user", "content": "Hello"}]
