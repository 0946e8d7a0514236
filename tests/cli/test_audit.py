"""``mistill audit``."""

from __future__ import annotations

import csv
import io

import pytest
from tests.cli.conftest import Mistill, RunOf
from tests.conftest import Simulate

from mistill.simulator import Simulator

KEY = "an-admin-key-1234567890"


@pytest.fixture
def billing(mistill: Mistill, run_of: RunOf, simulate: Simulate) -> Simulator:
    """Its run of six rows is answered."""
    simulator = simulate(admin_keys=[KEY])
    assert mistill(*run_of(6, at=simulator)).code == 0
    return simulator


def test_the_table_is_of_the_ledger_alone_where_there_is_no_key(mistill: Mistill, billing: Simulator) -> None:
    before = len(billing.requests)
    ended = mistill("audit", "answers.jsonl")
    assert ended.code == 0
    head, line, total = ended.stdout.splitlines()
    assert head.split() == [
        "day",
        "(UTC)",
        "model",
        "lane",
        "requests",
        "tokens",
        "in",
        "cached",
        "tokens",
        "out",
        "$",
    ]
    assert line.split()[1:4] == ["mistral-small-latest", "live", "6"]
    assert total.split()[:3] == ["in", "all", "6"]
    assert mistill("audit", "answers.jsonl.ledger") == ended
    assert len(billing.requests) == before


def test_with_a_key_the_bill_is_split(
    mistill: Mistill, billing: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_ADMIN_KEY", KEY)
    ended = mistill("audit", "answers.jsonl")
    assert ended.code == 0
    lines = [line.strip().rsplit(maxsplit=3) for line in ended.stdout.splitlines()]
    split = {line[0]: line[1] for line in lines if len(line) == 4}
    assert split["on the bill"] == split["answers in the ledger"] != "0.000000"
    assert split["unexplained"] == split["other programs"] == split["maybe billed"] == "0.000000"
    assert KEY not in ended.stdout + ended.stderr
    assert (
        mistill("audit", "answers.jsonl", "--no-bill").stdout
        == "\n".join(ended.stdout.splitlines()[:3]) + "\n"
    )
    found = mistill("audit", "answers.jsonl", "--json").json
    assert found["difference"]["unexplained"] == {"amount": 0, "input_tokens": 0, "output_tokens": 0}
    assert found["total"]["requests"] == 6


def test_the_key_may_stand_in_another_variable(
    mistill: Mistill, billing: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_ADMIN_KEY", KEY)
    ended = mistill("audit", "answers.jsonl", "--admin-key-env", "TEAM_ADMIN_KEY", "--json")
    assert ended.json["difference"]["currency"] == "USD"
    wrong = mistill("audit", "answers.jsonl", "--admin-key-env", KEY)
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "that --admin-key-env names is not set" in wrong.stderr
    assert KEY not in wrong.stderr


def test_the_table_as_csv(mistill: Mistill, billing: Simulator) -> None:
    (row,) = csv.DictReader(io.StringIO(mistill("audit", "answers.jsonl", "--csv").stdout))
    assert (row["model"], row["lane"], row["requests"]) == ("mistral-small-latest", "live", "6")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--month", "2026-11"], "there is no key of the Admin API"),
        (["--json", "--csv"], "exclude each other"),
        (["other.jsonl"], "no run is known for other.jsonl"),
        (["answers.jsonl", "--ledger", "answers.jsonl.ledger"], "--ledger is of one run"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    mistill: Mistill, billing: Simulator, given: list[str], said: str
) -> None:
    ended = mistill("audit", "answers.jsonl", *given)
    assert ended.code == 2
    assert said in ended.stderr


def test_a_refused_key_is_an_error_below_the_table(
    mistill: Mistill, billing: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_ADMIN_KEY", "another-key-1234567890")
    ended = mistill("audit", "answers.jsonl")
    assert ended.code == 3
    assert ended.stdout.startswith("day (UTC)")
    assert "Unauthorized" in ended.stderr
    assert "it takes a key of the Admin API" in ended.stderr
    assert mistill("audit", "answers.jsonl", "--month", "11").stderr.startswith(
        "error: --month: '11' is no month"
    )
