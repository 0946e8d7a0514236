"""``mistill mark``, and what it changes for the other commands."""

from __future__ import annotations

from tests.cli.conftest import Mistill, RunOf


def test_a_word_that_is_no_mark_is_told_with_the_nearest(mistill: Mistill) -> None:
    assert "Did you mean 'good'?" in mistill("mark", "answers.jsonl", "0", "godo").stderr


def test_a_row_is_marked_shown_chosen_and_marked_no_more(mistill: Mistill, run_of: RunOf) -> None:
    assert mistill(*run_of(3)).code == 0
    marked = mistill("mark", "answers.jsonl", "1", "bad", "--note", "not\x1b[2J so")
    assert (marked.code, marked.stderr) == (0, "row 1 of answers.jsonl: bad, not\\x1b[2J so\n")
    shown = mistill("show", "answers.jsonl", "1").stdout
    assert "marked: bad, not\\x1b[2J so" in shown
    assert "\nattempt 1, " in shown  # of its own, whatever was sent before
    (record,) = mistill("rows", "answers.jsonl", "--where", "mark=bad", "--extra-column", "mark,note").records
    assert (record["mark"], record["note"]) == ("bad", "not\x1b[2J so")
    assert mistill("mark", "answers.jsonl", "1", "none").code == 0
    assert mistill("rows", "answers.jsonl", "--where", "mark=bad").stdout == ""
    refused = mistill("mark", "answers.jsonl", "7", "good")
    assert (refused.code, "there is no row 7" in refused.stderr) == (2, True)
    wrong = mistill("rows", "answers.jsonl", "--where", "mark=fine")
    assert "there are good and bad; a column of the rows is meant by row.mark" in wrong.stderr


def test_a_row_is_marked_by_its_id(mistill: Mistill, run_of: RunOf) -> None:
    assert mistill(*run_of(3)).code == 0
    (record,) = mistill("rows", "answers.jsonl", "--where", "row=1").records
    marked = mistill("mark", "answers.jsonl", record["text"], "good", "--id-column", "text")
    assert (marked.code, marked.stderr) == (0, "row 1 of answers.jsonl: good\n")
    (found,) = mistill("rows", "answers.jsonl", "--where", "mark=good").records
    assert found["text"] == record["text"]
    for row, given, told in [
        ("mail-6", (), "say which column has it: --id-column"),
        ("mail-6", ("--id-column", "text"), "no row has the text 'mail-6'"),
        ("mail-6", ("--id-column", "txt"), "no row has a column 'txt'"),
    ]:
        refused = mistill("mark", "answers.jsonl", row, "good", *given)
        assert (refused.code, told in refused.stderr) == (2, True)
