"""The page of a run: whatever became of it, all of it can be looked at, and nothing in it does anything."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.libraries import library
from tests.pages.html_page import HtmlPage, checked
from tests.runs.conftest import Place

from mistill import MistralEmbeddings, Run
from mistill.errors import InputError, LedgerError
from mistill.ledger import LedgerReader
from mistill.runs.report import RunReport, read_report
from mistill.simulator import Fault, Simulator

SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": ["refund", "praise"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "reply": {"type": "string"},
        "tags": {"type": "array", "items": {"enum": ["urgent", "polite"]}},
    },
    "required": ["category", "score", "reply", "tags"],
    "additionalProperties": False,
}
MOST_BYTES = 2_000_000
SECTIONS = (
    "In short",
    "What was asked",
    "How rows ended",
    "Money and tokens",
    "Time",
    "What the answers are like",
    "Rows to look at",
)


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Drawing takes a second; what is in a chart is in its table."""
    if request.node.get_closest_marker("charts") is None:
        monkeypatch.setitem(sys.modules, "vl_convert", None)


def page_of(report: RunReport) -> HtmlPage:
    html = report.to_html()
    assert len(html.encode()) <= MOST_BYTES
    page = checked(html)
    page.text = re.sub(r"\s+", " ", page.text)
    return page


def test_it_has_all_that_there_is_to_look_at(place: Place, simulator: Simulator) -> None:
    simulator.change(cache_hits=1, latency_s=0.01)
    place.write([f"text {n} of some words" for n in range(40)])
    report = place.run(
        system="You are brief. " * 40,
        parameters={"temperature": 0.25},
        max_cost=5.0,
        llm_settings={"structured_output": {"schema": SCHEMA}, "requests_per_minute": 90_000},
    ).start()
    page = page_of(report)
    for section in SECTIONS:
        assert section in page.text
    for told in (
        "40 answered", "mistral-small-latest", "temperature 0.25", "max_cost 5.0", "You are brief.", "{{ text }}",
        "requests_per_minute 90,000", '"refund"', "100% of 40 rows", "stop 40 100%", "saved by the cache",
        "category: how often each value came", "score: how often each value came", "reply: how many characters",
        "tags: how many items", "tags[]: how often each value came", "half of them within", "of the budget under 1% of",
    ):  # fmt: skip
        assert told in page.text, told
    samples = re.findall(r"row \d+ prompt system: You are brief\.", page.text)
    assert len(samples) == 20


def test_it_is_the_same_page_on_another_day(place: Place) -> None:
    place.write(["a", "b", "c"])
    report = place.run().start()
    moments = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC")
    again = moments.sub("", read_report(place.ledger).to_html())
    assert again == moments.sub("", report.to_html())


def test_failures_have_examples_and_what_to_do(place: Place, simulator: Simulator) -> None:
    place.write([f"text {n}" for n in range(8)], id="a-name")
    simulator.script([Fault.status(400, {"message": "no such thing", "code": "1"})] * 4)
    report = place.run(id_column="id", llm_settings={"max_concurrent_requests": 1}).start()
    page = page_of(report)
    assert "4 rows failed: bad_request no such thing what to do: its words say what it refuses" in page.text
    assert "no such thing" in page.text
    assert page.text.count("(id 'a-name') prompt") == 3 + 4  # of the failed ones three are enough
    assert "next: the same run again asks failed rows again" in page.text


def test_an_answer_that_did_not_do_is_shown(place: Place, simulator: Simulator) -> None:
    place.write(["one"])
    simulator.script(["no JSON at all"] * 10)
    structured = {"schema": SCHEMA, "max_retries": 0}
    report = place.run(llm_settings={"structured_output": structured}).start()
    page = page_of(report)
    assert "1 row failed: invalid_output" in page.text
    assert "the answer that did not do no JSON at all" in page.text


def test_a_run_that_failed_wholly_an_empty_one_and_one_that_nobody_answers(
    place: Place, simulator: Simulator
) -> None:
    place.write(["one", "two"])
    simulator.change(api_keys=["another"])
    page = page_of(place.run(on_stop="return").start())
    assert "stopped:" in page.text
    assert "0% of 2 rows" in page.text
    place.input.write_text("")
    page = page_of(place.run(fresh=True).start())
    assert "the input has no row" in page.text
    assert "Rows to look at" not in page.text


def test_while_it_goes_on_it_is_of_the_moment(place: Place, simulator: Simulator) -> None:
    place.write([f"text {n}" for n in range(30)])
    run = place.run(llm_settings={"max_concurrent_requests": 2})
    outcomes = iter(run)
    next(outcomes)
    report = run.report()
    assert "and goes on" in page_of(report).text
    assert len(list(outcomes)) == 29
    assert "30 answered" in page_of(report).text  # the report is of before, the page of now


def test_embeddings_are_vectors_of_a_length(place: Place) -> None:
    place.write(["one text", "another text"])
    llm = MistralEmbeddings(model="mistral-embed", endpoint=place.endpoint)
    page = page_of(Run(place.input, llm=llm, out=place.out).start())
    assert "embedding by mistral-embed" in page.text
    assert "the whole answer: how many items" in page.text
    assert "a vector of 1,024 numbers" in page.text


def test_several_generations_several_models_and_a_retry(place: Place, simulator: Simulator) -> None:
    place.write(["one", "two"])
    first = place.run(num_generations=2, parameters={"max_new_tokens": 1}).start()
    assert first.finish_reasons == {"length": 2}
    again = Run.retry(
        place.out,
        "finish_reason=length",
        llm={"model": "mistral-large-latest"},
        parameters={"max_new_tokens": 50},
    )
    page = page_of(again.start())
    assert "mistral-large-latest" in page.text
    assert "asked again finish_reason=length" in page.text
    assert "In the course of start" in page.text
    assert "4 values" in page.text


def test_batch_jobs_have_saved_half(place: Place, simulator: Simulator) -> None:
    place.write([f"text {n}" for n in range(6)])
    report = place.run(lane="batch", batch_tail=0).start()
    page = page_of(report)
    assert report.saved
    assert "Batch jobs" in page.text
    assert re.search(r"batch jobs mistral-small-latest 6 [\d, ]+ \$0\.\d+ – \$0\.\d+", page.text)


def test_a_run_without_files_has_its_page(place: Place) -> None:
    run = place.run([{"text": "one"}], out=None)
    assert "A run without an output" in page_of(run.start()).text


def test_what_is_left_of_a_run_to_stdout_has_its_page(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.write(["one"])
    report = place.run(out="-").start()
    assert report.ledger is None
    page = page_of(report)
    assert "100% of 1 row" in page.text
    assert "whose ledger is gone" in page.text


HOSTILE = (
    "</pre></article><script>alert(1)</script><img src=x onerror=alert(1)> \x1b[2J \u202efdp.exe \u2066 \x00"
)


def test_answers_are_text_and_never_markup(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"text": HOSTILE, HOSTILE: HOSTILE, "id": HOSTILE}] * 3)
    simulator.script([Fault.status(400, {"message": HOSTILE, "code": "1"})])
    page = page_of(place.run(prompt="{{ text }} " + HOSTILE, system=HOSTILE, id_column="id").start())
    assert "<script>alert(1)</script>" in page.text
    assert r"\x1b[2J \u202efdp.exe \u2066" in page.text


def test_fields_and_values_of_answers_are_text_too(place: Place, simulator: Simulator) -> None:
    place.write([f"{n}" for n in range(4)])
    said = json.dumps({HOSTILE: HOSTILE, "number": 1})
    simulator.script([said] * 4)
    schema = {"type": "object", "additionalProperties": True}
    page = page_of(place.run(llm_settings={"structured_output": {"schema": schema}}).start())
    assert "<script>alert(1)</script>" in page.text


def test_the_largest_page_can_be_sent_by_mail(place: Place, simulator: Simulator) -> None:
    long = '"\x1b' * 4_000  # each character is five in HTML
    names = [f"{n}{long}"[:300] for n in range(60)]
    place.write_rows([{"text": f"{n}{long}", "id": long} for n in range(24)])
    said = json.dumps({name: [name, name] for name in names})
    simulator.script([said] * 12 + [Fault.status(400, {"message": long, "code": "1"})] * 12)
    schema = {"type": "object", "description": long, "additionalProperties": True}
    report = place.run(
        system=long * 2,
        prompt=f"{{{{ text }}}} {long}",
        id_column="id",
        loop_guard=False,
        llm_settings={"structured_output": {"schema": schema}, "max_concurrent_requests": 1},
    ).start()
    assert (report.completions, report.failures) == (12, 12)
    page = page_of(report)
    assert "more characters" in page.text
    assert "40 further fields of the answers left out here" in page.text


def test_many_rows_are_drawn_at_random_and_it_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistill.runs.drawn_rows._MOST_DRAWN", 50)
    place.write([f"text {n}" for n in range(300)])
    report = place.run().start()
    with LedgerReader(place.ledger) as reader:
        drawn = reader.draw_positions(50, 300)
    assert 30 <= len(drawn) <= 70
    page = page_of(report)
    assert f"of {len(drawn)} rows, drawn at random of the 300 answered ones" in page.text
    assert page_of(read_report(place.out)).text.count("drawn at random") == page.text.count("drawn at random")


def test_a_schema_that_is_not_here_any_more_takes_nothing_away(place: Place) -> None:
    class Mail(BaseModel):
        topic: str

    place.write(["one", "two"])
    report = place.run(llm_settings={"structured_output": {"schema": Mail}}).start()
    assert "topic: how" in page_of(report).text


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_ledger_has_a_page_or_says_what_is_wrong(place: Place, seed: int) -> None:
    place.write([f"text {n}" for n in range(200)])
    report = place.run(parameters={"max_new_tokens": 5}).start()
    rng = random.Random(seed)
    data = bytearray(place.ledger.read_bytes())
    for _ in range(30):
        data[rng.randrange(4096, len(data))] = rng.randrange(256)
    place.ledger.write_bytes(data)
    problem = ""
    try:
        page_of(report)
    except LedgerError as error:
        problem = str(error)
    assert not problem or str(place.ledger) in problem


def test_it_is_saved_whole_or_not_at_all(place: Place, tmp_path: Path) -> None:
    place.write(["one"])
    report = place.run().start()
    with pytest.raises(InputError, match="in HTML"):
        report.save(tmp_path / "report.pdf")
    target = tmp_path / "report.html"
    report.save(target)
    report.save(target)
    checked(target.read_text())
    assert target.stat().st_mode & 0o077 == place.ledger.stat().st_mode & 0o077
    place.ledger.unlink()
    with pytest.raises(LedgerError):
        report.save(target)
    checked(target.read_text())
    assert [path.name for path in tmp_path.glob("*.partial")] == []


@pytest.mark.charts
def test_charts_are_drawn_of_all_of_it(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    library("vl_convert")
    monkeypatch.setattr("mistill.pages.time_blocks._SHORTEST_S", 0.05)
    simulator.change(latency_s=0.02)
    place.write([f"text {n}" for n in range(40)])
    llm: dict[str, Any] = {"structured_output": {"schema": SCHEMA}, "max_concurrent_requests": 2}
    report = place.run(llm_settings=llm | {"requests_per_minute": 50_000}).start()
    page = page_of(report)
    assert {"What was waited for", "Quota of requests a minute, and what was used of it"} <= set(
        re.findall(r"What was waited for|Quota of requests a minute, and what was used of it", page.text)
    )
    assert page.all_of("role").count("img") >= 10
    assert "pip install" not in page.text


def test_the_course_of_a_start_is_kept(place: Place, simulator: Simulator) -> None:
    simulator.change(latency_s=0.05)
    place.write(["one", "two"])
    report = place.run(llm_settings={"max_concurrent_requests": 1}).start()
    course = report.starts[0].course
    assert course is not None
    assert sum(map(sum, course.seconds_by_cause.values())) == pytest.approx(
        sum(report.seconds_by_cause.values()), abs=0.02
    )
    assert read_report(place.ledger).starts[0].course == course
    assert "course" in report.describe()["starts"][0]


def test_rows_to_look_at_are_drawn_at_random_and_the_same_by_each_look(place: Place) -> None:
    """Data that is made in turn, of thirty templates, shows more than one of them."""
    place.write([f"template {n % 30}: number {n}" for n in range(600)])
    report = place.run().start()
    found = set(re.findall(r"template (\d+): number", page_of(report).text))
    assert len(found) > 8
    assert found == set(re.findall(r"template (\d+): number", page_of(report).text))
