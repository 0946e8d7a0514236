"""Some rows of a run once more, by other settings: what they are asked with, what stays, and what replaces it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runs.conftest import Place, echoes, sent

from mistill import Run
from mistill.datasets.sources import open_source
from mistill.errors import InputError, RunStopped
from mistill.ledger import LedgerReader
from mistill.runs.export import export_run
from mistill.runs.report import read_report
from mistill.simulator import Simulator
from mistill.simulator.faults import Fault

TEXTS = [f"row {number}" for number in range(8)]


class User(BaseModel):
    name: str


class Town(BaseModel):
    town: str


def failed_run(place: Place, simulator: Simulator, **settings: Any) -> None:
    """A run of which rows 2 and 5 failed."""
    place.write(TEXTS)
    simulator.script(
        [Fault.status(400)] * 2, when=lambda body: any(name in str(body) for name in ("row 2", "row 5"))
    )
    report = place.run(**settings).start()
    assert (report.completions, report.failures) == (6, 2)


def test_failed_rows_are_asked_by_another_model_prompt_and_parameters(
    place: Place, simulator: Simulator
) -> None:
    failed_run(place, simulator, extra_columns=["settings"], parameters={"temperature": 0.1})
    report = Run.retry(
        place.out,
        failed=True,
        llm={"model": "mistral-large-latest"},
        prompt="Please: {{ text }}",
        system="Be brief.",
        parameters={"max_new_tokens": 50},
    ).start()
    assert (report.sent, report.completions, report.failures) == (2, 8, 0)
    assert sorted(sent(simulator)[8:]) == ["Please: row 2", "Please: row 5"]
    for request in simulator.requests[8:]:
        body = request.body
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("mistral-large-latest", 50, 0.1)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    changed = {
        "model": "mistral-large-latest",
        "prompt": "Please: {{ text }}",
        "system": "Be brief.",
        "max_new_tokens": 50,
    }
    told = [record["settings"] for record in place.records()]
    assert told == [changed if row in (2, 5) else None for row in range(8)]
    assert report.starts[-1].retry is not None
    assert (report.starts[-1].retry.rows, report.starts[-1].retry.settings) == (2, changed)


def test_the_run_itself_goes_on_as_before_and_leaves_what_a_retry_answered(
    place: Place, simulator: Simulator
) -> None:
    failed_run(place, simulator)
    Run.retry(place.out, failed=True, prompt="Please: {{ text }}").start()
    asked = len(simulator.requests)
    before = place.records()
    assert place.run().start().sent == 0
    assert (len(simulator.requests), place.records()) == (asked, before)
    place.write([*TEXTS, "a new row"])
    assert place.run().start().sent == 1
    assert sent(simulator)[-1] == "a new row"  # by the run's own prompt


def test_what_a_retry_changed_is_no_change_of_the_run(place: Place, simulator: Simulator) -> None:
    failed_run(place, simulator)
    Run.retry(place.out, failed=True, llm={"model": "mistral-large-latest"}).start()
    with LedgerReader(place.ledger) as reader:
        assert json.loads(reader.manifest())["model"] == "mistral-small-latest"
    assert place.run().start().model == "mistral-small-latest"


@pytest.mark.parametrize("worse", [Fault.status(400), Fault.named("length")])
def test_a_whole_answer_is_not_replaced_by_a_worse_one(
    place: Place, simulator: Simulator, worse: Fault
) -> None:
    place.write(TEXTS)
    place.run().start()
    simulator.script([worse])
    report = Run.retry(place.out, "row=3", parameters={"max_new_tokens": 2}).start()
    assert (report.sent, report.completions, report.pending, report.failures) == (1, 8, 0, 0)
    assert place.answers() == echoes(TEXTS)
    assert {record["finish_reason"] for record in place.records()} == {"stop"}


def test_an_answer_that_is_no_better_is_named_with_what_helps(place: Place) -> None:
    place.write(["a marathon and a sprint", "b"])
    place.run(parameters={"max_new_tokens": 3}).start()
    Run.retry(place.out, "row=0", parameters={"max_new_tokens": 20}).start()
    before = place.answers()
    report = Run.retry(
        place.out, "row=0", prompt="Please: {{ text }}"
    ).start()  # by the run's own three tokens
    (cause,) = report.unreplaced
    assert (report.sent, cause.kind, cause.count, cause.row) == (1, "cut_off", 1, 0)
    assert place.answers() == before
    told = str(report)
    assert "asked again: 1 row of row=0, 1 of them no better now: these keep the answer that they had" in told
    assert "the new answer was cut off by the token limit, at 3 tokens, and the earlier one was not" in told
    assert cause.error.hint == "to replace it: max_new_tokens=8"  # as long as the earlier one
    given = {"prompt": "Please: {{ text }}", "parameters": {"max_new_tokens": 20}}
    assert Run.retry(place.out, "row=0", **given).start().unreplaced == []


def test_a_limit_that_is_given_is_above_the_one_that_was_in_force(place: Place, simulator: Simulator) -> None:
    place.write(["a b c d e f g h i j"])
    simulator.script([Fault.named("length")] * 2)
    cut = place.run().start().cut
    assert cut is not None
    assert cut.limit is not None
    assert (cut.max_new_tokens or 0) >= 2 * cut.limit  # none was given: the server has one of its own
    report = Run.retry(place.out, "row=0", parameters={"max_new_tokens": 200}).start()
    assert report.cut is not None
    assert (report.cut.limit, report.cut.max_new_tokens, report.cut.allowed) == (cut.limit, None, 200)
    assert f"1 answer after {cut.limit} tokens, though 200 were allowed" in str(report)


def test_a_cut_answer_is_replaced_by_a_later_one_and_stays_in_the_lineage(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:1])
    simulator.script([Fault.named("length")] * 2)
    place.run().start()
    for tokens, settings in ((3, {"max_new_tokens": 3}), (None, None)):
        Run.retry(place.out, "row=0", parameters={"max_new_tokens": tokens}).start()
        with LedgerReader(place.ledger) as reader:
            (row,) = reader.rows()
            earlier = reader.earlier_outcomes(row.row)
        assert (row.settings is None) == (settings is None)
    assert [(one.finish_reason, one.settings) for one in earlier] == [("length", None), ("length", 1)]
    assert place.records()[0]["finish_reason"] == "stop"


def test_each_answer_is_read_by_the_schema_that_it_was_asked_for(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    place.run(llm_settings={"structured_output": {"schema": User}}, flatten=True).start()
    simulator.script(['{"town": "Paris"}'])
    retry = Run.retry(place.out, "row=1", llm={"structured_output": {"schema": Town}})
    assert retry.start().sent == 1
    names = [(record["name"], record["town"]) for record in place.records()]
    assert [(name is not None, town) for name, town in names] == [
        (True, None),
        (False, "Paris"),
        (True, None),
    ]
    other = place.out.with_name("other.jsonl")
    export_run(place.out, other)
    assert [json.loads(line) for line in other.read_text().splitlines()] == place.records()
    place.out.unlink()
    place.run(llm_settings={"structured_output": {"schema": User}}, flatten=True).start()
    assert [(record["name"], record["town"]) for record in place.records()] == names


def test_a_retry_cut_short_is_gone_on_with_by_the_same_words_and_by_no_other(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    place.run(llm_settings={"max_concurrent_requests": 1}).start()
    words: dict[str, Any] = {"parameters": {"random_seed": 7}}
    for _ in Run.retry(place.out, "row<6", **words):
        break
    asked = Counter(request.body.get("random_seed") for request in simulator.requests)[7]
    assert 0 < asked < 6
    report = Run.retry(place.out, "row<6", **words).start()
    assert (report.sent, report.pending) == (6 - asked, 0)
    assert Run.retry(place.out, "row<6", **words).start().sent == 6  # it had come to its end


def test_a_run_ends_a_retry_that_was_cut_short(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run(llm_settings={"max_concurrent_requests": 1}).start()
    for _ in Run.retry(place.out, "row<6", prompt="Please: {{ text }}"):
        break
    asked = len(simulator.requests)
    report = place.run().start()
    assert (report.sent, report.pending, len(simulator.requests)) == (0, 0, asked)


def test_what_is_given_goes_before_what_rows_bring_themselves(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"text": "a", "most": 2, "temp": 0.5}])
    own = {"max_new_tokens": "most", "temperature": "temp"}
    place.run(row_parameters=own).start()
    Run.retry(place.out, "row=0", parameters={"max_new_tokens": 40}).start()
    assert [(request.body["max_tokens"], request.body["temperature"]) for request in simulator.requests] == [
        (2, 0.5),
        (40, 0.5),
    ]


def test_a_budget_stops_a_retry(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    spent = place.run().start()
    tokens = spent.input_tokens + spent.output_tokens
    report = Run.retry(place.out, "row<8", max_tokens_total=tokens).start()
    assert report.stopped is not None
    assert report.sent == 0
    assert place.answers() == echoes(TEXTS)
    assert (report.completions, report.pending, report.asked_again) == (8, 0, 8)
    assert "8 answered, 8 to ask again" in str(report)
    assert export_run(place.out, place.out.with_name("other.jsonl")).records == 8
    assert place.run().start().asked_again == 0


@pytest.mark.parametrize("kept_in", [{}, {"ledger"}, {"out", "ledger"}, {"out"}])
def test_the_retry_that_a_report_names_works_wherever_the_run_is_kept(
    place: Place, kept_in: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    places = {"out": str(place.out), "ledger": str(place.out.with_name("other.ledger"))}
    llm = place.llm(api_key="of this process alone")
    run = place.run(
        [{"text": "one two three four"}] * 2,
        llm=llm,
        parameters={"max_new_tokens": 2},
        **({"out": None} | {name: places[name] for name in kept_in}),
    )
    told = str(run.start())
    advice = next(line for line in told.splitlines() if line.startswith("cut off: "))
    if "out" in kept_in or "ledger" in kept_in:  # in another process, the key is in the environment
        monkeypatch.setenv("MISTRAL_API_KEY", "any")
    report = eval(advice[advice.index("Run.retry(") :])
    assert (report.sent, report.cut.limit, report.out) == (2, 4, run.out)
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    assert run.retry("row=1", parameters={"max_new_tokens": 20}).start().finish_reasons == {
        "length": 1,
        "stop": 1,
    }
    assert [record["generation"] for record in run.results()][1] == "Echo: one two three four"
    for earlier in (run, run.ledger_path):
        opened = earlier if isinstance(earlier, Run) else Run.open(earlier)
        again = opened.retry("row=0", llm={"api_key": "another"}, progress=False).start()
        assert (again.sent, again.last_start.retry is not None) == (1, True)


@pytest.mark.parametrize(
    ("out", "ledger"),
    [
        ("out.jsonl", "kept/by.ledger"),
        ("out.jsonl", "kept/other.jsonl.ledger"),
        ("out", "kept/by"),
        ("sqlite:///pl/crm.db?table=labels", None),
        ("sqlite:///pl/crm.db?table=labels", "by.ledger"),
    ],
)
def test_a_retry_by_the_ledger_writes_what_its_run_writes(
    place: Place, out: str, ledger: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("pl", "kept", "away"):
        Path(folder).mkdir()
    place.write(["one", "two"])
    place.run(out=out, ledger=ledger, output_format=None if ":" in out else "jsonl").start()
    by = ledger or "pl/crm.db.labels.ledger"
    assert Run.open(by).out == read_report(by).out == out
    report = Run.retry(by, "row=1", prompt="new {{ text }}").start()
    assert report.last_start.output == out
    where = out.replace(":///", f":///{tmp_path}/") if ":" in out else str(tmp_path / out)
    monkeypatch.chdir(tmp_path / "away")
    assert Run.open(tmp_path / by).out == where
    rows = open_source(where, format=None if ":" in out else "jsonl").records_until(lambda: False)
    assert [row["generation"] for row in rows] == echoes(["one", "new two"])


def test_a_run_that_was_renamed_writes_its_new_output(place: Place) -> None:
    place.write(["one"])
    place.run().start()
    out = place.out.rename(place.out.with_name("renamed.jsonl"))
    ledger = place.ledger.rename(place.ledger.with_name("renamed.jsonl.ledger"))
    Run.retry(ledger, "row=0", prompt="new {{ text }}").start()
    assert json.loads(out.read_text())["generation"] == "Echo: new one"
    assert not place.out.exists()


def test_a_ledger_that_was_moved_with_its_output_writes_it_there(place: Place, tmp_path: Path) -> None:
    place.write(["one"])
    out = f"sqlite:///{tmp_path}/before/crm.db?table=labels"
    (tmp_path / "before").mkdir()
    place.run(out=out).start()
    (tmp_path / "before").rename(tmp_path / "after")
    found = Run.open(tmp_path / "after" / "crm.db.labels.ledger").out
    assert found == out.replace("before", "after")


@pytest.mark.parametrize("why", ["elsewhere", "stdout", "another run's"])
def test_a_retry_says_before_it_asks_that_nothing_is_written(
    place: Place, simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    place.write(["one"])
    ledger, folder = tmp_path / "by.ledger", tmp_path / "there"
    folder.mkdir()
    out = folder / "out.jsonl"
    place.run(out="-" if why == "stdout" else out, ledger=ledger).start()
    if why == "elsewhere":
        folder.rename(tmp_path / "gone")
    elif why == "another run's":
        place.run(out=out, fresh=True).start()
    simulator.requests.clear()
    said_before: list[str] = []

    def reply(body: Any) -> bool:
        said_before.extend(caplog.messages)
        return False

    caplog.clear()
    simulator.script([Fault.status(503)], when=reply)
    report = Run.retry(ledger, "row=0", prompt="new {{ text }}").start()
    assert report.out is None
    told = (
        f"no output is written: {ledger} does not say which one is its own. To have one, name it: Run.retry("
    )
    assert any(message.startswith(told) for message in said_before)
    caplog.clear()
    named = tmp_path / "named.jsonl"
    Run.retry(named, "row=0", prompt="newer {{ text }}", ledger=ledger).start()
    assert json.loads(named.read_text())["generation"] == "Echo: newer one"
    assert not caplog.messages


def test_a_run_without_an_output_is_retried_without_a_word(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(["one"])
    ledger = place.ledger.with_name("by.ledger")
    place.run(out=None, ledger=ledger).start()
    caplog.clear()
    Run.retry(ledger, "row=0", prompt="new {{ text }}").start()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no rows are chosen"),
        ({"failed": True, "limit": 3}, "a retry has no option 'limit'"),
        ({"failed": True, "max_new_tokens": 9}, re.escape("parameters={'max_new_tokens': …}")),
        ({"failed": True, "model": "x"}, re.escape("llm={'model': …}")),
        ({"failed": True, "prompt": "{{ text"}, "prompt"),
        ({"failed": True, "llm": {"modell": "x"}}, "modell"),
    ],
)
def test_a_retry_that_cannot_be_is_refused_at_once(
    place: Place, simulator: Simulator, changes: dict[str, Any], message: str
) -> None:
    failed_run(place, simulator)
    with pytest.raises((InputError, ValueError), match=message):
        Run.retry(place.out, **changes)
    assert len(simulator.requests) == 8


def test_a_retry_may_add_columns_to_those_of_the_run(place: Place) -> None:
    place.write(["a", "b"])
    place.run(extra_columns=["model"]).start()
    Run.retry(place.out, "row=0", llm={"model": "mistral-large-latest"}, extra_columns="settings").start()
    first, second = place.records()
    assert first["settings"]["model"] == "mistral-large-latest"
    assert (second["settings"], second["model"]) == (None, "mistral-small-latest")


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"keep": ["text", "generation"]}, ["text", "generation"]),
        ({"drop": ["text", "error"]}, ["generation", "finish_reason", "input_tokens", "output_tokens"]),
        ({"keep": ["part", "generation"], "explode": "text=part"}, ["part", "generation"]),
    ],
)
def test_a_run_with_chosen_columns_is_retried_and_keeps_them(
    place: Place, settings: dict[str, Any], columns: list[str]
) -> None:
    explodes = "explode" in settings
    place.write_rows([{"text": ["a", "b"] if explodes else "a"}])
    place.run(**settings, prompt="{{ part }}" if explodes else "{{ text }}").start()
    assert Run.retry(place.out, "row=0").start().sent == 1
    assert list(place.records()[0]) == columns


def test_a_column_that_is_added_stands_beside_those_that_a_run_keeps(place: Place) -> None:
    place.write(["a"])
    place.run(keep=["text", "generation"]).start()
    Run.retry(place.out, "row=0", prompt="Please: {{ text }}", extra_columns="settings").start()
    assert list(place.records()[0]) == ["text", "generation", "settings"]
    other = place.out.with_name("other.jsonl")
    export_run(place.out, other, extra_columns=["cost"])
    assert list(json.loads(other.read_text())) == ["text", "generation", "cost"]


def test_a_refused_retry_leaves_what_is_answered_answered(place: Place, simulator: Simulator) -> None:
    failed_run(place, simulator)
    simulator.script([Fault.status(401)] * 8)
    with pytest.raises(RunStopped, match="6 of 8 rows are answered, and kept"):
        Run.retry(place.out, "row<8").start()
    report = Run.open(place.out).report()
    assert (report.completions, report.failures, report.pending, report.asked_again) == (6, 2, 0, 8)


@pytest.mark.parametrize(("where", "asked"), [("id<3", [0, 1, 2]), ("id>=3", [3, 4, 5]), ("id=4", [4])])
def test_a_retry_changes_no_copied_row_that_was_not_chosen(
    place: Place, simulator: Simulator, where: str, asked: list[int]
) -> None:
    place.write_rows([{"id": number, "text": "same"} for number in range(6)])
    place.run(dedupe=True).start()
    report = Run.retry(place.out, where, prompt="Please: {{ text }}").start()
    told = ["Echo: Please: same" if row in asked else "Echo: same" for row in range(6)]
    assert (place.answers(), report.sent, report.attempts, len(simulator.requests)) == (told, 1, 2, 2)
    again = place.run(dedupe=True).start()
    assert (again.sent, place.answers()) == (0, told)
    simulator.script([Fault.status(400)])
    Run.retry(place.out, where).start()
    assert place.answers() == told
