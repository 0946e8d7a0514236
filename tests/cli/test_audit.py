"""``mistill audit``."""

from __future__ import annotations

import csv
import io

import pytest
from tests.api.raw_server import RawServer, response
from tests.cli.conftest import Mistill, RunOf
from tests.conftest import Simulate

from mistill.llms.event_loop import background
from mistill.simulator import Simulator
from mistill.testing import without_waiting

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


@pytest.mark.parametrize(
    ("status", "code", "attempts", "said"),
    [
        (401, 3, 1, "check MISTRAL_ADMIN_KEY, or give --admin-key-env: it takes a key of the Admin API"),
        (402, 3, 1, "the account has no balance"),
        (403, 3, 1, "this key may not see it: it takes a key of the Admin API"),
        (404, 3, 1, "this endpoint has no such bill: it takes a key of the Admin API"),
        (422, 3, 1, "its words say what it refuses: mend --month or --workspace;"),
        (429, 3, 8, "hint: ask again later; --no-bill"),
        (500, 3, 8, "the server failed, and not the request: ask again later"),
    ],
)
def test_a_bill_that_does_not_come_is_no_failure_of_a_row(
    mistill: Mistill,
    billing: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: int,
    attempts: int,
    said: str,
) -> None:
    monkeypatch.setenv("MISTRAL_ADMIN_KEY", KEY)
    server = RawServer(response({"detail": "not this"}, status))
    background.run(server.__aenter__())
    with without_waiting():
        ended = mistill("audit", "answers.jsonl", "--endpoint", server.url)
    background.run(server.__aexit__(None, None, None))
    assert (ended.code, server.requests) == (code, attempts)
    assert ended.stdout.startswith("day (UTC)")
    *before, error, hint = ended.stderr.splitlines()
    assert error == f"error: not this [HTTP {status}]"
    assert hint.startswith("hint: ")
    assert said in hint
    assert hint.endswith("; --no-bill leaves the bill out")
    assert len(before) == (attempts > 1)
    assert KEY not in ended.stderr


def test_nothing_that_answers_for_a_bill_is_a_stop(
    mistill: Mistill, billing: Simulator, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("MISTRAL_ADMIN_KEY", KEY)
    with without_waiting():
        ended = mistill("audit", "answers.jsonl", "--endpoint", f"http://127.0.0.1:{unused_tcp_port}")
    assert ended.code == 3
    told, error, hint = ended.stderr.splitlines()
    assert told.startswith("the bill of 20")
    assert " did not come, and is asked for again: " in told
    assert f"cannot connect to http://127.0.0.1:{unused_tcp_port}: " in told
    assert error.startswith("error: cannot connect to")
    assert hint == "hint: is the endpoint right, and up? --no-bill leaves the bill out"
