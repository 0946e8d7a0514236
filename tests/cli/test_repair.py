"""Finding out what went wrong with rows of a run, and mending it, from the command line."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Mistill, RunOf, Spawn
from tests.runs.odd_bodies import good_body

from mistill import MistralLLM, Run
from mistill.errors import InputError, ManifestChanged, MistillError
from mistill.ledger import JobRecord, Ledger, LedgerReader, PlannedAttempt
from mistill.runs.export import export_run
from mistill.runs.report import read_report
from mistill.runs.row_report import read_row
from mistill.simulator import Settings, Simulator
from mistill.simulator.faults import Fault
from mistill.testing import without_waiting

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
PROMPT = "Say {{ text }}"


def run_in_python(simulator: Simulator, rows: int = 4, **settings: Any) -> Run:
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url, **settings.pop("llm_settings", {}))
    data = [{"text": f"word {number} and some more"} for number in range(rows)]
    given: dict[str, Any] = {"out": "out.jsonl", "prompt": PROMPT} | settings
    return Run(data, llm=llm, **given)


def records(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# --- answers that were cut off ----------------------------------------------------------------------------------------


def test_cut_answers_are_counted_and_the_command_that_helps_does(
    mistill: Mistill, simulator: Simulator
) -> None:
    report = run_in_python(simulator, parameters={"max_new_tokens": 3}).start()
    assert report.finish_reasons == {"length": 4}
    assert report.cut is not None
    assert (report.cut.rows, report.cut.limit, report.cut.max_new_tokens) == (4, 3, 6)
    assert "Run.retry('out.jsonl', 'finish_reason=length', parameters={'max_new_tokens': 6}).start()" in str(
        report
    )
    status = mistill("status", "out.jsonl")
    line = next(
        line
        for line in status.stdout.splitlines()
        if line.startswith("cut off: 4 answers after 3 tokens at the most")
    )
    program, *command = shlex.split(line.partition("with room: ")[2])
    assert program == "mistill"
    mended = mistill(*command)
    assert mended.code == 0, mended.stderr
    assert "asked again: 4 rows of finish_reason=length" in mended.stderr
    assert mistill("status", "out.jsonl", "--json").json["finish_reasons"] == {
        "length": 4
    }  # of 7 tokens each
    again = mistill(*command[:-1], "50")
    assert "finish reasons: 4 stop" in again.stderr
    assert "cut off" not in again.stderr


def test_after_a_retry_it_is_the_run_that_asks_failed_rows_again(
    mistill: Mistill, simulator: Simulator
) -> None:
    simulator.script([Fault.status(400)] * 3, when=lambda body: "word 1" in str(body))
    run_in_python(simulator).start()
    ended = mistill("retry", "out.jsonl", "--where", "row=0")
    assert "the command of the run itself asks failed rows again" in ended.stderr
    assert "mistill retry out.jsonl --failed …" in ended.stderr


def test_a_run_that_has_a_ledger_alone_is_retried_by_it(mistill: Mistill, simulator: Simulator) -> None:
    run_in_python(simulator, out=None, ledger="labels.ledger", parameters={"max_new_tokens": 3}).start()
    status = mistill("status", "labels.ledger").stdout
    again = status[status.index("mistill retry ") :].splitlines()[0]
    assert again == "mistill retry labels.ledger --where finish_reason=length --max-new-tokens 6"
    ended = mistill(*shlex.split(again)[1:])
    assert "asked again: 4 rows" in ended.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["labels.ledger"]


def test_a_full_context_is_told_from_a_limit(mistill: Mistill, simulator: Simulator) -> None:
    bodies = [
        good_body("half", finish_reason=reason) for reason in ("model_length", "length", "model_length")
    ]
    simulator.script(Fault.status(200, body) for body in bodies)
    report = run_in_python(simulator, 3, llm_settings={"max_concurrent_requests": 1}).start()
    assert report.cut is not None
    assert (report.cut.rows, report.cut.context_full) == (3, 2)
    lines = [
        line for line in mistill("status", "out.jsonl").stdout.splitlines() if line.startswith("cut off:")
    ]
    assert len(lines) == 2
    assert lines[0].startswith("cut off: 1 answer after ")
    assert lines[1] == (
        "cut off: 2 answers where the context was full; shorten the prompt, or choose a model with a larger context: "
        "mistill retry out.jsonl --where finish_reason=model_length --model …"
    )


def test_chat_says_what_helps_where_an_answer_is_cut_off(mistill: Mistill) -> None:
    with Simulator(Settings(max_context_tokens=10)) as small:
        given = ("chat", "x" * 20, "--model", "mistral-small-latest", "--endpoint", small.url)
        assert "(cut off by the end of the model's context: shorten the prompt" in mistill(*given).stderr
        limited = mistill(*given, "--max-new-tokens", "1")
        assert "(cut off by the token limit: raise --max-new-tokens)" in limited.stderr


def test_a_context_that_is_full_in_one_of_several_generations_counts(simulator: Simulator) -> None:
    simulator.script(
        Fault.status(200, good_body("x", finish_reason=reason)) for reason in ("stop", "model_length")
    )
    report = run_in_python(simulator, 1, num_generations=2).start()
    assert report.cut is not None
    assert (report.cut.rows, report.cut.limit, report.cut.context_full) == (1, None, 1)
    assert "context was full" in str(report)


def test_answers_that_failed_because_they_were_cut_are_counted_too(simulator: Simulator) -> None:
    simulator.script(['{"n": 12345678901234567'] * 8)
    limits = {"max_new_tokens": 2}
    report = run_in_python(
        simulator, 1, llm_settings={"structured_output": {"schema": SCHEMA}}, parameters=limits
    ).start()
    assert (report.failures, report.finish_reasons) == (1, {"length": 1})
    assert report.cut is not None


# --- rows that failed -------------------------------------------------------------------------------------------------


def failed_rows(simulator: Simulator) -> None:
    """A run in which row 1 never answered in its schema."""
    simulator.script(["none \x1b[31m of it"], when=lambda body: "word 1" in str(body["messages"]))
    settings = {"structured_output": {"schema": SCHEMA, "max_retries": 0}}
    assert run_in_python(simulator, llm_settings=settings).start().failures == 1


def test_a_row_that_failed_its_schema_is_one_retry_away(mistill: Mistill, simulator: Simulator) -> None:
    failed_rows(simulator)
    Path("better.txt").write_text("Only JSON: {{ text }}\n")
    ended = mistill(
        "retry", "out.jsonl", "--failed", "--prompt-file", "better.txt", "--model", "mistral-large-latest",
        "--temperature", "0.1", "--max-cost", "5", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.stderr
    assert (ended.json["failures"], ended.json["sent"], ended.json["retry"]["rows"]) == (0, 1, 1)
    body = simulator.requests[-1].body
    assert (body["model"], body["temperature"]) == ("mistral-large-latest", 0.1)
    assert body["messages"][-1]["content"] == "Only JSON: word 1 and some more"
    shown = mistill("rows", "out.jsonl", "--where", "row=1", "--extra-column", "settings").records
    assert shown[0]["settings"] == {
        "model": "mistral-large-latest", "prompt": "Only JSON: {{ text }}", "temperature": 0.1,
    }  # fmt: skip
    assert mistill("show", "out.jsonl", "1", "--json").json["earlier"][0]["error"]["kind"] == "invalid_output"


def test_a_retry_may_have_another_schema_and_settings_from_a_file(
    mistill: Mistill, simulator: Simulator
) -> None:
    failed_rows(simulator)
    other = {
        "type": "object",
        "properties": {"town": {"type": "string"}},
        "required": ["town"],
        "title": "Town",
    }
    Path("town.json").write_text(json.dumps(other))
    Path("retry.toml").write_text('schema = "town.json"\nsystem = "Be brief."\n')
    simulator.script(['{"town": "Paris"}'])
    ended = mistill("retry", "out.jsonl", "--failed", "--settings", "retry.toml")
    assert ended.code == 0, ended.stderr
    assert json.loads(records()[1]["generation"]) == {"town": "Paris"}
    (row,) = mistill("rows", "out.jsonl", "--where", "row=1", "--extra-column", "settings").records
    assert row["settings"] == {"system": "Be brief.", "schema": "Town"}


def test_a_retry_that_matches_nothing_says_so(mistill: Mistill, simulator: Simulator) -> None:
    run_in_python(simulator).start()
    ended = mistill("retry", "out.jsonl", "--where", "finish_reason=lenght")
    assert (ended.code, "no row matches finish_reason=lenght" in ended.stderr) == (0, True)
    rows = mistill("rows", "out.jsonl", "--where", "finish_reason=lenght")
    assert "no row of out.jsonl matches" in rows.stderr
    assert mistill("retry", "out.jsonl").code == 2


# --- one row ----------------------------------------------------------------------------------------------------------


def test_a_row_is_shown_with_its_prompt_its_attempts_and_the_answer_that_did_not_fit(
    mistill: Mistill, simulator: Simulator
) -> None:
    failed_rows(simulator)
    shown = mistill("show", "out.jsonl", "1")
    assert shown.code == 0, shown.stderr
    for part in (
        "row 1 of out.jsonl: failure",
        "user: Say word 1 and some more",
        "answered",
        "invalid_output",
    ):
        assert part in shown.stdout
    assert "none \\x1b[31m of it" in shown.stdout  # what a terminal would obey is written out
    report = read_row("out.jsonl", 1)
    (attempt,) = report.attempts
    assert (attempt.status, attempt.answer) == ("answered", "none \x1b[31m of it")
    assert json.loads(attempt.raw or "")["choices"][0]["message"]["content"] == attempt.answer
    assert mistill("show", "out.jsonl", "1", "--json").json == json.loads(json.dumps(report.describe()))
    assert report.prompt == [{"role": "user", "content": "Say word 1 and some more"}]


def test_of_a_refused_row_nothing_is_shown_as_billed(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([Fault.status(400)])
    run_in_python(simulator, rows=1).start()
    shown = mistill("show", "out.jsonl", "0").stdout
    assert "outcome: failure: bad_request: " in shown
    assert "tokens in" not in shown
    assert "price" not in shown


def test_each_attempt_says_why_it_was_made_and_how_it_ended(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script(
        [Fault.status(503), "no JSON", "none again", '{"n": "x"}', '{"n": 3}', '{"n": 4}'],
        when=lambda body: "word 1" in str(body["messages"]),
    )
    settings = {"structured_output": {"schema": SCHEMA, "max_retries": 1}}
    with without_waiting():
        assert run_in_python(simulator, llm_settings=settings).start().failures == 1
        assert run_in_python(simulator, llm_settings=settings).start().failures == 0
    mistill("retry", "out.jsonl", "--where", "row=1", "--temperature", "0.1")
    misfit = "invalid_output"
    attempts = read_row("out.jsonl", 1).attempts
    assert [(one.status, one.error and one.error.kind, one.since) for one in attempts] == [
        ("failed", "server_error", None),
        ("answered", misfit, "attempt 1 failed (server_error)"),
        ("answered", misfit, "the answer of attempt 2 does not fit (invalid_output)"),
        ("answered", misfit, "the row had failed (invalid_output)"),
        ("answered", None, "the answer of attempt 4 does not fit (invalid_output)"),
        ("answered", None, "the row was to be asked again"),
    ]
    shown = mistill("show", "out.jsonl", "1").stdout
    assert "made since attempt 1 failed (server_error): invalid_output: " in shown
    (only,) = read_row("out.jsonl", 0).attempts
    assert (only.since, only.error) == (None, None)


def test_attempts_of_several_generations_go_on_from_their_own(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([Fault.status(503), Fault.status(503)])
    settings = {"structured_output": {"schema": SCHEMA}}
    with without_waiting():
        run_in_python(simulator, rows=1, llm_settings=settings, num_generations=3).start()
    attempts = read_row("out.jsonl", 0).attempts
    failed = [one.number for one in attempts if one.status == "failed"]
    assert (len(attempts), len(failed)) == (5, 2)
    said = [one.since for one in attempts if one.since is not None]
    assert sorted(said) == [f"attempt {number} failed (server_error)" for number in failed]


def test_an_attempt_says_in_which_job_it_is(mistill: Mistill, simulator: Simulator) -> None:
    failed_rows(simulator)

    with LedgerReader("out.jsonl.ledger") as reader:
        manifest = json.loads(reader.manifest())

    async def in_a_job() -> None:
        with Ledger.open("out.jsonl.ledger", manifest) as ledger:
            record = JobRecord(path="/", model="m", host="h", lines=1, rows=1, bytes=1, timeout_hours=24)
            (number,) = ledger.take_attempt_ids(1)
            await ledger.begin_job("a1b2", record, [PlannedAttempt(number, 2, 0, None, 1)])

    asyncio.run(in_a_job())
    assert re.search(
        r"attempt 2 in job a1b2, .*: no answer yet, made since the row had failed \(invalid_output\)\n",
        mistill("show", "out.jsonl", "1").stdout,
    )
    assert [attempt.job for attempt in read_row("out.jsonl", 1).attempts] == [None, "a1b2"]


def test_a_row_that_is_not_there_is_refused(mistill: Mistill, simulator: Simulator) -> None:
    run_in_python(simulator).start()
    ended = mistill("show", "out.jsonl", "4")
    assert ended.code == 2
    assert "there is no row 4" in ended.stderr
    assert "4 were read, and they count from 0" in ended.stderr


def test_prompts_and_raw_answers_are_columns_of_a_run_of_rows_and_of_an_export(
    mistill: Mistill, simulator: Simulator
) -> None:
    failed_rows(simulator)
    extra = ("--extra-column", "prompt,raw")
    exported = mistill("export", "out.jsonl", "--to", "with.jsonl", *extra)
    assert exported.code == 0, exported.stderr
    read = mistill("rows", "out.jsonl", *extra).records
    assert read == records("with.jsonl")
    for number, record in enumerate(read):
        assert record["prompt"] == [{"role": "user", "content": f"Say word {number} and some more"}]
        text = json.loads(record["raw"])["choices"][0]["message"]["content"]
        assert text == (record["generation"] if record["error"] is None else "none \x1b[31m of it")
    again = run_in_python(simulator, out="own.jsonl", extra_columns=["prompt", "raw", "settings"])
    again.start()
    assert [record["prompt"] for record in records("own.jsonl")] == [record["prompt"] for record in read]
    assert {record["settings"] for record in records("own.jsonl")} == {None}


# --- while it goes on, and after a kill -------------------------------------------------------------------------------


def test_after_a_kill_status_tells_of_it_and_of_what_may_be_billed(
    mistill: Mistill, spawn: Spawn, simulator: Simulator, run_of: RunOf
) -> None:
    simulator.change(latency_s=30.0)
    child = spawn(*run_of(3))
    simulator.wait_until(lambda: simulator.in_flight == 3)
    going = mistill("status", "answers.jsonl")
    assert "mistill rows answers.jsonl" in going.stdout
    assert "died" not in going.stdout
    child.send_signal(signal.SIGKILL)
    child.wait()
    dead = mistill("status", "answers.jsonl")
    assert (
        "died: the last start ended without a word (killed, the machine went down, or the disk" in dead.stdout
    )
    assert "3 attempts in flight then, maybe billed" in dead.stdout
    assert mistill("status", "answers.jsonl", "--json").json["has_died"] is True
    refused = mistill("export", "answers.jsonl", "--to", "part.jsonl")
    assert "mistill rows answers.jsonl" in refused.stderr
    for command, *more in (
        ("run", "--out", "next.jsonl", "--model", "m", "--endpoint", simulator.url),
        ("dedupe", "--to", "next.jsonl"),
    ):
        refused = mistill(command, "answers.jsonl", *more)
        assert (refused.code, "what it has so far: mistill rows answers.jsonl" in refused.stderr) == (2, True)
    simulator.change(latency_s=0.0)
    assert mistill(*run_of(3)).code == 0
    assert not read_report("answers.jsonl.ledger").has_died


# --- exports ----------------------------------------------------------------------------------------------------------


def test_the_output_is_not_replaced_by_a_part_of_it_unasked(mistill: Mistill, simulator: Simulator) -> None:
    run_in_python(simulator).start()
    before = Path("out.jsonl").read_bytes()
    for part in (("--where", "row<2"), ("--partial",)):
        ended = mistill("export", "out.jsonl", "--to", "out.jsonl", *part)
        assert (ended.code, Path("out.jsonl").read_bytes()) == (2, before)
        assert "--overwrite" in ended.stderr
    with pytest.raises(InputError, match="some of its rows"):
        export_run("out.jsonl", "out.jsonl", where="row<2")
    assert mistill("export", "out.jsonl", "--to", "out.jsonl").code == 0
    assert mistill("export", "out.jsonl", "--to", "out.jsonl", "--where", "row<2", "--overwrite").code == 0
    assert len(records()) == 2


def test_a_part_says_what_is_left_out_of_it(mistill: Mistill, simulator: Simulator) -> None:
    run_in_python(simulator, sample=3).start()
    ended = mistill("export", "out.jsonl", "--to", "part.jsonl", "--partial")
    assert "3 records to part.jsonl; left out: 1 row without an outcome" in ended.stderr


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.status(401), Fault.status(404), Fault.status(400)])
def test_a_run_that_got_no_answer_at_all_gives_way(simulator: Simulator, fault: Fault) -> None:
    simulator.script([fault] * 50, when=lambda body: "Say" in str(body))
    with suppress(MistillError):  # what was refused may be raised
        run_in_python(simulator, 20).start()
    report = run_in_python(simulator, prompt="Another: {{ text }}", parameters={"temperature": 0.3}).start()
    assert (report.rows, report.completions, report.failures) == (4, 4, 0)


def test_a_run_with_answers_refuses_other_settings_by_their_names(
    mistill: Mistill, simulator: Simulator
) -> None:
    run_in_python(simulator, parameters={"max_new_tokens": 30}).start()
    with pytest.raises(ManifestChanged) as refused:
        run_in_python(simulator, prompt="Tell {{ text }}", parameters={"max_new_tokens": 40}).start()
    assert set(refused.value.changes) == {"prompt", "max_new_tokens"}
    assert "max_new_tokens: 30 → 40" in str(refused.value)
    Path("in.jsonl").write_text('{"text": "a"}\n')
    ended = mistill(
        "run", "in.jsonl", "--out", "out.jsonl", "--model", "mistral-small-latest", "--prompt", "Tell {{ text }}",
        "--endpoint", simulator.url,
    )  # fmt: skip
    assert ended.code == 2
    assert '--prompt: "Say {{ text }}" → "Tell {{ text }}"' in ended.stderr
    assert "--max-new-tokens: 30 → none" in ended.stderr


def test_a_row_is_found_and_named_by_its_id(mistill: Mistill, simulator: Simulator) -> None:
    rows = [
        {"text": "a", "id": "x"},
        {"text": "b", "id": "7"},
        {"text": "c", "id": 0},
        {"text": "d", "id": "x"},
    ]
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    Run(rows, llm=llm, prompt="{{ text }}", out="named.jsonl", id_column="id").start()
    Run(rows, llm=llm, prompt="{{ text }}", out="plain.jsonl").start()
    for arguments, place in (
        (("named.jsonl", "1"), 1),
        (("named.jsonl", "7", "--id-column", "id"), 1),
        (("named.jsonl", "0", "--id-column", "id"), 2),
        (("plain.jsonl", "c", "--id-column", "text"), 2),
        (("named.jsonl", "c", "--id-column", "text"), 2),
    ):
        assert mistill("show", *arguments, "--json").json["row"] == place
    assert mistill("show", "named.jsonl", "1").stdout.startswith("row 1 (id '7') of named.jsonl: completion")
    assert read_row("named.jsonl", 0, id_column="id").row_id == read_row("named.jsonl", 2).row_id == "id 0"
    for arguments, said in (
        (("named.jsonl", "x"), "2 rows have the id 'x': 0, 3"),
        (("named.jsonl", "y"), "no row has the id 'y'"),
        (("plain.jsonl", "x"), "to find one by its id, say which column has it: --id-column"),
        (("plain.jsonl", "x", "--id-column", "idd"), "--id-column: no row has a column 'idd'"),
    ):
        ended = mistill("show", *arguments)
        assert (ended.code, said in ended.stderr) == (2, True), ended.stderr
