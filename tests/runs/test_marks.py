"""What people say of rows: in records, in reports of a row, and as a choice of what is asked again."""

from __future__ import annotations

import json

import pytest
from tests.runs.conftest import Place

from mistill import Run, read_row
from mistill.errors import InputError, LedgerError
from mistill.runs.export import export_run
from mistill.simulator import Simulator

TEXTS = [f"row {number}" for number in range(4)]


def test_rows_that_were_marked_bad_are_asked_again_and_what_was_said_goes_out(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    run = place.run()
    run.start()
    run.mark(1, "good")
    run.mark(3, "bad", "in another language")
    to = place.out.with_name("looked_at.csv")
    export_run(
        place.out, to, where="mark!=null", extra_columns=["mark", "note"], keep=["text", "mark", "note"]
    )
    assert to.read_text().splitlines() == [
        "text,mark,note",
        "row 1,good,",
        "row 3,bad,in another language",
    ]
    report = Run.retry(place.out, "mark=bad", prompt="In English: {{ text }}").start()
    assert report.sent == 1
    assert place.answers()[3] == "Echo: In English: row 3"
    shown = read_row(place.out, 3)
    assert (shown.outcome.mark, shown.outcome.note) == (None, None)
    assert (shown.earlier[0].mark, shown.earlier[0].note) == ("bad", "in another language")
    Run.open(place.out).mark(3, None, "better now")
    with pytest.raises(InputError, match="no column 'mark'"):
        export_run(place.out, to, where="row.mark=bad", overwrite=True)
    export_run(place.out, to.with_suffix(".jsonl"), extra_columns=["note", "mark"])
    records = [json.loads(line) for line in to.with_suffix(".jsonl").read_text().splitlines()]
    assert [(record["mark"], record["note"]) for record in records] == [
        (None, None),
        ("good", None),
        (None, None),
        (None, "better now"),
    ]


def test_a_run_that_was_never_started_has_no_row_to_mark(place: Place) -> None:
    place.write(TEXTS)
    with pytest.raises(LedgerError, match="never started"):
        place.run().mark(0, "good")


def test_copied_rows_are_marked_each_for_itself(place: Place) -> None:
    place.write(["same", "same", "other"])
    run = place.run(dedupe=True)
    run.start()
    run.mark(1, "bad")
    assert [read_row(place.out, row).outcome.mark for row in range(3)] == [None, "bad", None]
    assert Run.retry(place.out, "mark=bad", prompt="Again: {{ text }}").start().sent == 1
    assert place.answers() == ["Echo: same", "Echo: Again: same", "Echo: other"]
