"""A run started again goes on where it ended, whatever ended it, and pays for the difference only."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.runs.conftest import MODEL, Place, echoes, sent

from mistill.errors import InputError, LedgerError, LedgerInUse, ManifestChanged, Unauthorized
from mistill.ledger import LedgerReader
from mistill.simulator import Fault, Simulator

TEXTS = [f"row {number}" for number in range(30)]


def test_rows_come_out_in_order_with_their_own_columns(place: Place) -> None:
    place.write(TEXTS, kept=[1, {"two": None}])
    summary = place.run().start()
    assert place.answers() == echoes(TEXTS)
    assert place.records()[3] == {
        "text": "row 3",
        "kept": [1, {"two": None}],
        "generation": "Echo: row 3",
        "finish_reason": "stop",
        "input_tokens": 6,
        "output_tokens": 3,
        "error": None,
    }
    assert (summary.rows, summary.completions, summary.sent, summary.pending) == (30, 30, 30, 0)
    assert summary.cost == pytest.approx((summary.input_tokens * 0.15 + summary.output_tokens * 0.60) / 1e6)
    assert summary.output == str(place.out)
    json.dumps(summary.describe())


def test_a_finished_run_leaves_one_file_beside_its_output(place: Place) -> None:
    place.write(["a", "b"])
    place.run().start()
    with LedgerReader(place.ledger) as reader:
        assert reader.counts().completions == 2
    assert {path.name for path in place.out.parent.iterdir()} == {"in.jsonl", "out.jsonl", "out.jsonl.ledger"}


def test_a_finished_run_sends_nothing(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    place.out.unlink()
    summary = place.run().start()
    assert summary.sent == 0
    assert simulator.answered == 30
    assert place.answers() == echoes(TEXTS)  # made again, for free


def test_after_a_refused_key_the_rest_is_asked(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.status(401)], when=lambda body: "row 12" in str(body["messages"]))
    summary = place.run(llm_settings={"max_concurrent_requests": 4}, on_stop="return").start()
    assert isinstance(summary.stopped, Unauthorized)
    assert summary.pending > 0
    assert summary.output is None
    assert not place.out.exists()
    answered = simulator.answered
    assert summary.completions == answered  # what was answered is kept
    summary = place.run().start()
    assert summary.sent == 30 - answered
    assert place.answers() == echoes(TEXTS)


def test_failed_rows_are_tried_again(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(poison="row 7")
    summary = place.run().start()
    assert (summary.completions, summary.failures) == (29, 1)
    (cause,) = summary.causes
    assert (cause.kind, cause.count, cause.row) == ("bad_request", 1, 7)
    record = place.records()[7]
    assert record["generation"] is None
    assert record["error"].startswith("bad_request: ")
    assert place.run(retry_failed=False).start().sent == 0
    simulator.change(poison=None)
    assert place.run().start().sent == 1
    assert place.answers() == echoes(TEXTS)


def test_a_row_whose_retries_are_used_up_counts_every_attempt(place: Place, simulator: Simulator) -> None:
    place.write(["only"])
    simulator.script([Fault.html()] * 3)
    summary = place.run(llm_settings={"max_retries": 2}).start()
    assert (summary.failures, summary.sent, summary.maybe_billed) == (1, 3, 3)
    assert summary.causes[0].kind == "malformed_answer"


@pytest.mark.parametrize(
    ("change", "paid"),
    [
        (lambda rows: [*rows, "new", "newer"], 2),
        (lambda rows: ["new", *rows], 1),
        (lambda rows: rows[:10] + rows[15:], 0),
        (lambda rows: rows[::-1], 0),
        (lambda rows: [*rows[:5], "edited", *rows[6:]], 1),
        (lambda rows: rows + rows[:3], 3),  # three more occurrences
        (lambda rows: sorted(rows, key=lambda text: text[::-1]), 0),
        (lambda rows: [], 0),
    ],
    ids=["add", "add first", "remove", "reverse", "edit", "duplicate", "shuffle", "empty"],
)
def test_only_the_difference_is_paid_for(
    place: Place, change: Callable[[list[str]], list[str]], paid: int
) -> None:
    place.write(TEXTS)
    place.run().start()
    changed = change(TEXTS)
    place.write(changed)
    summary = place.run().start()
    assert (summary.sent, summary.rows) == (paid, len(changed))
    assert place.answers() == echoes(changed)
    place.write(TEXTS)  # and back again: what was paid is still there
    assert place.run().start().sent == 0
    assert place.answers() == echoes(TEXTS)


def test_a_column_that_the_prompt_does_not_use_costs_nothing(place: Place) -> None:
    place.write(TEXTS, label="a")
    place.run().start()
    place.write(TEXTS, label="b")
    assert place.run().start().sent == 0
    assert {record["label"] for record in place.records()} == {"b"}


@pytest.mark.parametrize(
    ("settings", "llm", "key"),
    [
        ({"prompt": "Say: {{ text }}"}, {}, "prompt"),
        ({"system": "Be brief."}, {}, "system"),
        ({"parameters": {"temperature": 0.5}}, {}, "temperature"),
        ({"num_generations": 2}, {}, "num_generations"),
        ({}, {"generation_kwargs": {"max_new_tokens": 5}}, "max_new_tokens"),
        ({}, {"structured_output": {"schema": {"type": "object"}}}, "schema"),
    ],
)
def test_other_settings_are_another_run(
    place: Place, simulator: Simulator, settings: dict[str, Any], llm: dict[str, Any], key: str
) -> None:
    place.write(TEXTS)
    place.run().start()
    with pytest.raises(ManifestChanged) as raised:
        place.run(llm_settings=llm, **settings).start()
    assert key in raised.value.changes
    assert key in str(raised.value)
    assert simulator.answered == 30
    assert place.run().start().sent == 0  # nothing was touched


def test_another_model_is_another_run_and_another_host_or_pace_is_not(place: Place) -> None:
    place.write(TEXTS)
    place.run().start()
    other = place.llm()
    other.model = "mistral-large-latest"
    with pytest.raises(ManifestChanged, match="model"):
        place.run(llm=other).start()
    place.endpoint = place.endpoint.replace("127.0.0.1", "localhost")
    assert place.run(llm_settings={"timeout": 7, "max_concurrent_requests": 3}).start().sent == 0


def test_fresh_starts_over_once_and_keeps_the_old_ledger(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    run = place.run(prompt="Say: {{ text }}", fresh=True)
    assert run.start().sent == 30
    assert place.answers() == echoes([f"Say: {text}" for text in TEXTS])
    assert run.start().sent == 0  # fresh is for one start
    (old,) = [path for path in place.ledger.parent.iterdir() if ".bak-" in path.name]
    with LedgerReader(old) as reader:
        assert reader.counts().completions == 30


def test_a_run_in_use_is_refused(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.2)
    first = place.run()
    for _ in first:
        with pytest.raises(LedgerInUse, match=str(os.getpid())):
            place.run().start()
        break


def test_identical_rows_are_asked_once_if_one_says_so(place: Place, simulator: Simulator) -> None:
    texts = ["a", "b", "a", "a", "c", "b"]
    place.write(texts)
    summary = place.run(dedupe=True).start()
    assert (summary.sent, summary.completions) == (3, 6)
    assert place.answers() == echoes(texts)
    assert [record["input_tokens"] for record in place.records()] == [5, 5, 0, 0, 5, 0]  # copies cost nothing
    assert place.run().start().sent == 3  # without it, each is a row of its own


def test_a_limit_asks_the_first_rows_and_a_larger_one_the_rest(place: Place) -> None:
    place.write(TEXTS)
    assert place.run(limit=4).start().sent == 4
    assert place.answers() == echoes(TEXTS[:4])
    assert place.run(limit=10).start().sent == 6
    assert place.run().start().sent == 20
    assert place.answers() == echoes(TEXTS)


def test_an_answer_that_was_paid_before_a_crash_is_used(place: Place, simulator: Simulator) -> None:
    """A kill between the commits of an answer and of its outcome, as the ledger then looks."""
    place.write(TEXTS)
    place.run().start()
    connection = sqlite3.connect(place.ledger)
    connection.execute("DELETE FROM outcomes WHERE row < 10")
    connection.commit()
    connection.close()
    before = place.records()
    summary = place.run().start()
    assert (summary.sent, simulator.answered) == (0, 30)
    assert place.records() == before
    with LedgerReader(place.ledger) as reader:
        costs = [row.cost for row in reader.rows()]
        assert sum(cost or 0 for cost in costs) == pytest.approx(summary.cost)


def test_what_was_in_flight_at_a_crash_is_counted_and_can_be_held(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    connection = sqlite3.connect(place.ledger)
    for query in (
        "DELETE FROM outcomes WHERE row <= 3",
        "DELETE FROM answers WHERE attempt IN (SELECT id FROM attempts WHERE row <= 3)",
        "UPDATE attempts SET status = NULL, ended_at = NULL, input_tokens = NULL, cost = NULL WHERE row <= 3",
    ):
        connection.execute(query)
    connection.commit()
    connection.close()
    place.out.unlink()
    summary = place.run(on_unknown="hold").start()
    assert (summary.sent, summary.maybe_billed, summary.pending) == (0, 3, 3)
    assert summary.output is None
    assert not place.out.exists()
    summary = place.run().start()
    assert (summary.sent, summary.maybe_billed, summary.completions) == (3, 3, 30)
    assert place.answers() == echoes(TEXTS)


FULL_DISK = """
import resource, signal, sys
from mistill import MistralLLM, Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
llm = MistralLLM(model=sys.argv[3], endpoint=sys.argv[2])
try:
    Run(sys.argv[1] + "/in.jsonl", out=sys.argv[1] + "/out.jsonl", llm=llm, prompt="{{ text }}").start()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def _on_a_small_disk(place: Place, most_bytes: int) -> str:
    command = [sys.executable, "-c", FULL_DISK, place.input.parent, place.endpoint, MODEL, str(most_bytes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


def test_a_full_disk_ends_the_run_and_loses_nothing(place: Place, simulator: Simulator) -> None:
    texts = [f"row {number} " + "x" * 500 for number in range(400)]
    place.write(texts)
    message = _on_a_small_disk(place, 400_000)
    assert "LedgerError" in message
    assert "make room" in message
    assert not place.out.exists()
    with LedgerReader(place.ledger) as reader:
        kept = reader.counts().completions
    assert kept > 0
    summary = place.run().start()
    assert summary.sent <= 400 - kept
    assert place.answers() == echoes(texts)


def test_a_disk_that_is_full_at_the_start_is_told_of_the_ledger(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    message = _on_a_small_disk(place, 0)  # not even the lock's few bytes
    assert f"LedgerError: cannot write the ledger {place.ledger}" in message
    assert "make room" in message
    assert [path.name for path in place.input.parent.iterdir()] == [place.input.name]
    assert place.run().start().sent == len(TEXTS)


def test_a_disk_too_full_for_the_output_keeps_every_answer(place: Place, simulator: Simulator) -> None:
    texts = [f"row {number} " + "x" * 3000 for number in range(200)]
    place.write(texts)
    place.run().start()
    place.out.write_text("what was there before")
    message = _on_a_small_disk(place, 200_000)
    assert "MistillError" in message
    assert "no answer is lost" in message
    assert place.out.read_text() == "what was there before"
    assert list(place.out.parent.glob("*.partial")) == []
    assert place.run().start().sent == 0
    assert place.answers() == echoes(texts)


def test_a_directory_that_is_not_there_is_told_before_anything_is_sent(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    with pytest.raises(InputError, match="mkdir -p"):
        place.run(out=place.out.parent / "none" / "out.jsonl")
    with pytest.raises(LedgerError, match="directory exists"):
        place.run(out=None, ledger=place.out.parent / "none" / "run.ledger").start()
    assert not simulator.requests


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_told_before_anything_is_sent(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.out.parent.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            place.run()
    finally:
        place.out.parent.chmod(0o700)
    assert not simulator.requests


def test_status_can_be_read_while_it_runs(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    seen: list[int] = []
    for _ in place.run(llm_settings={"max_concurrent_requests": 2}):
        with LedgerReader(place.ledger) as reader:
            counts = reader.counts()
            seen.append(counts.completions)
            assert counts.rows == 30
            assert len([row for row in reader.rows() if row.state == "completion"]) >= counts.completions
    assert seen == sorted(seen)
    assert seen[-1] == 30


def test_what_was_sent_is_in_the_ledger(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    assert sorted(sent(simulator)) == sorted(TEXTS)
    with LedgerReader(place.ledger) as reader:
        assert reader.counts().attempts == 30
        assert b"a-key-for-tests" not in place.ledger.read_bytes()


@pytest.mark.parametrize("rows", [60, 511, 512, 600])
def test_a_start_that_goes_on_is_as_wide_as_a_fresh_one(
    place: Place, simulator: Simulator, rows: int
) -> None:
    """While the last window is matched with the ledger, the input has ended: nobody may leave for that."""
    place.write([f"text {number}" for number in range(rows)])
    place.run(sample=rows // 2).start()
    simulator.change(latency_s=0.2)
    thread = threading.Thread(target=place.run(llm_settings={"max_concurrent_requests": 8}).start)
    thread.start()
    simulator.wait_until(lambda: simulator.in_flight == 8)
    simulator.change(latency_s=0.0)
    thread.join()
    assert place.records()[-1]["generation"] == f"Echo: text {rows - 1}"


def test_settings_that_got_no_answer_may_be_changed(place: Place, simulator: Simulator) -> None:
    place.write(["a", "b"])
    simulator.change(poison="Say")
    assert place.run(prompt="Say {{ text }}").start().completions == 0
    simulator.change(poison=None)
    report = place.run(prompt="Tell {{ text }}").start()
    assert (report.completions, len(report.starts)) == (2, 1)
    with pytest.raises(ManifestChanged):
        place.run(prompt="Ask {{ text }}").start()
