"""``mistill report``: the page of a run, beside its output or where it is wanted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Mistill, RunOf
from tests.pages.html_page import checked


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def test_it_is_beside_the_output_and_in_the_words_of_the_command_line(
    mistill: Mistill, run_of: RunOf
) -> None:
    mistill(*run_of(5, "--limit", "3"))
    ended = mistill("report", "answers.jsonl")
    assert (ended.code, ended.stdout) == (0, "")
    assert "report: answers.report.html" in ended.stderr
    assert "pip install" in ended.stderr
    page = checked(Path("answers.report.html").read_text())
    assert "--prices" in page.text
    assert mistill("report", "answers.jsonl.ledger", "--to", "other.html").code == 0
    assert Path("other.html").is_file()


def test_it_goes_to_stdout_too(mistill: Mistill, run_of: RunOf) -> None:
    mistill(*run_of(2))
    ended = mistill("report", "answers.jsonl", "--to", "-")
    assert "100% of 2 rows" in " ".join(checked(ended.stdout).text.split())


def test_it_takes_the_place_of_nothing_that_is_no_report(mistill: Mistill, run_of: RunOf) -> None:
    mistill(*run_of(2))
    Path("mine.html").write_text("<p>mine</p>")
    ended = mistill("report", "answers.jsonl", "--to", "mine.html")
    assert (ended.code, Path("mine.html").read_text()) == (2, "<p>mine</p>")
    assert "--overwrite" in ended.stderr
    assert mistill("report", "answers.jsonl", "--to", "mine.html", "--overwrite").code == 0
    assert mistill("report", "answers.jsonl", "--to", "mine.html").code == 0
    before = Path("prompts.jsonl").read_text()
    assert mistill("report", "answers.jsonl", "--to", "prompts.jsonl", "--overwrite").code == 2
    assert Path("prompts.jsonl").read_text() == before


def test_the_output_of_the_run_stays_whatever_link_names_it(mistill: Mistill, run_of: RunOf) -> None:
    mistill(*run_of(2))
    mistill(*run_of(2, "--on", "processes:1", "--shards", "2", out="parts"))
    for name, out in (("answers.jsonl", "answers.jsonl"), ("parts/part-00001.jsonl", "parts")):
        before = Path(name).read_text()
        Path("link.html").unlink(missing_ok=True)
        Path("link.html").symlink_to(name)
        ended = mistill("report", out, "--to", "link.html", "--overwrite")
        assert (ended.code, Path(name).read_text()) == (2, before)
        assert "link.html is the output of this run" in ended.stderr


def test_a_run_that_is_none_is_told(mistill: Mistill) -> None:
    ended = mistill("report", "nothing.jsonl")
    assert ended.code == 2
    assert "nothing.jsonl" in ended.stderr


def test_a_folder_has_no_ledger_that_is_called_after_it(mistill: Mistill) -> None:
    told = mistill("report", ".")
    assert (told.code, "no run is known for .: it is a folder" in told.stderr) == (2, True)


def test_the_report_of_another_run_is_not_taken_the_place_of(mistill: Mistill, run_of: RunOf) -> None:
    """Outputs that differ by their suffix alone have reports of one name."""
    mistill(*run_of(2))
    Path("other").mkdir()
    assert mistill("report", "answers.jsonl").code == 0
    first = Path("answers.report.html").read_bytes()
    Path("answers.jsonl").rename("other/answers.jsonl")
    Path("answers.jsonl.ledger").rename("other/answers.jsonl.ledger")
    refused = mistill("report", "other/answers.jsonl", "--to", "answers.report.html")
    assert refused.code == 2
    assert "answers.report.html is the report of another run" in refused.stderr
    assert "write another file with --to FILE.html, or replace this one with --overwrite" in refused.stderr
    assert Path("answers.report.html").read_bytes() == first
    assert mistill("report", "other/answers.jsonl", "--to", "answers.report.html", "--overwrite").code == 0
