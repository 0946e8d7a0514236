"""An audit of runs, with the simulator's bill."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.api.raw_server import RawServer, response
from tests.conftest import Simulate
from tests.libraries import library

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.api.admin import Pile
from mistill.audits.report import Audit, AuditLine, Difference, Share
from mistill.audits.split import price_by_table
from mistill.errors import APIError, Forbidden, InputError, MistillError, NotFound, Unauthorized
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.checksums import add_checksum
from mistill.ledger.tables import ATTEMPT_SUM
from mistill.llms.event_loop import background
from mistill.simulator import Fault, Simulator
from mistill.testing import without_waiting

KEY = "an-admin-key-1234567890"
ALIAS, SMALL, MEDIUM = "mistral-small-latest", "mistral-small-2603", "mistral-medium-3-5"
OLD_LEDGERS = Path(__file__).parents[1] / "ledger" / "data"
ROWS = [{"text": f"row {number}"} for number in range(10)]


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with without_waiting():
        yield


@pytest.fixture
def billing(simulate: Simulate) -> Simulator:
    return simulate(admin_keys=[KEY], answered_by={ALIAS: SMALL}, batch_hour_s=20)


def run_at(simulator: Simulator, out: Path, rows: Any = ROWS, **settings: Any) -> Run:
    llm = settings.pop("llm", None) or MistralLLM(model=ALIAS, endpoint=simulator.url)
    given: dict[str, Any] = {"prompt": "{{ text }}"} | settings
    return Run(rows, llm=llm, out=out, **given)


def by_lane(audit: Audit) -> dict[tuple[str, str], AuditLine]:
    return {(line.model, line.lane): line for line in audit.lines}


def difference(audit: Audit) -> Difference:
    assert audit.difference is not None
    return audit.difference


def test_the_ledger_by_day_model_and_lane(billing: Simulator, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run_at(billing, out, limit=4).start()
    run_at(billing, out, lane="batch", batch_tail=0, limit=7).start()
    billing.change(answered_by={ALIAS: MEDIUM})
    run = run_at(billing, out)
    run.start()
    audit, report = run.audit(), run.report()
    lines = by_lane(audit)
    assert {place: line.requests for place, line in lines.items()} == {
        (SMALL, "live"): 4,
        (SMALL, "batch"): 3,
        (MEDIUM, "live"): 3,
    }
    assert lines[SMALL, "batch"].cost == pytest.approx((18 * 0.15 + 9 * 0.6) / 2e6, abs=1e-9)
    total = audit.total
    assert (total.requests, total.input_tokens, total.output_tokens) == (10, 60, 30)
    assert total.cost == pytest.approx(report.cost)
    assert all(line.day is not None and line.day.startswith("20") for line in audit.lines)
    assert audit.difference is None
    assert audit == Run.audit(out) == Run.audit(f"{out}.ledger") == Run.open(out).audit()


def test_the_bill_of_several_runs_is_that_of_their_answers(billing: Simulator, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    run_at(billing, first).start()
    run_at(billing, second, lane="batch", prompt="{{ text }} again").start()
    found = difference(Run.audit([first, second], admin_key=KEY))
    assert (found.currency, found.workspace, found.tells_lanes) == ("USD", None, True)
    assert found.billed.amount == pytest.approx(billing.stats().cost)
    assert (found.billed.input_tokens, found.billed.output_tokens) == (60 + 70, 30 + 50)
    assert found.other_programs == found.unexplained == found.maybe_billed == Share()
    assert found.prices == pytest.approx(0, abs=1e-12)
    alone = difference(Run.audit(first, admin_key=KEY))
    assert (alone.other_programs.input_tokens, alone.other_programs.output_tokens) == (70, 50)


def test_what_was_cut_off_is_on_the_bill_and_told(billing: Simulator, tmp_path: Path) -> None:
    billing.script([Fault.truncate(), Fault.disconnect(), Fault.html(), Fault.status(503)])
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    audit = run.audit(admin_key=SecretStr(KEY))
    assert audit.total.maybe_billed == 3
    found = difference(audit)
    assert (found.unanswered, found.likely_tokens) == (3, 27)
    assert (found.maybe_billed.input_tokens, found.maybe_billed.output_tokens) == (18, 9)
    assert found.other_programs == found.unexplained == Share()
    text = str(audit)
    assert (
        "3 requests without an answer may be on the bill; if they are like the others, with about 27" in text
    )
    assert "maybe billed" in text.splitlines()[0]


def test_answers_that_do_not_say_what_they_took_give_way_to_the_bill(
    simulate: Simulate, tmp_path: Path
) -> None:
    silent = simulate(faults={"missing_usage": 1.0})
    run = run_at(silent, tmp_path / "out.jsonl", llm=MistralLLM(model=SMALL, endpoint=silent.url))
    run.start()
    audit = run.audit(admin_key="any")
    assert audit.total.estimated == 10
    found = difference(audit)
    assert (found.billed.input_tokens, found.billed.output_tokens) == (60, 30)
    assert found.answers.input_tokens + found.estimates.input_tokens == 60
    assert found.other_programs == found.unexplained == Share()
    assert "10 answers did not say what they took: an estimate is counted" in str(audit)


def test_minutes_of_sound_and_vectors_are_on_it_too(simulate: Simulate, tmp_path: Path) -> None:
    loud = simulate(audio_seconds=30)
    voxtral = MistralLLM(model="voxtral-small-latest", endpoint=loud.url)
    heard = run_at(loud, tmp_path / "heard.jsonl", llm=voxtral)
    heard.start()
    vectors = MistralEmbeddings(model="mistral-embed", endpoint=loud.url)
    Run(ROWS, llm=vectors, out=tmp_path / "vectors.jsonl").start()
    audit = Run.audit([heard, tmp_path / "vectors.jsonl"], admin_key="any")
    lines = by_lane(audit)
    assert lines["voxtral-small-latest", "live"].minutes == 5
    assert (lines["mistral-embed", "live"].requests, lines["mistral-embed", "live"].input_tokens) == (1, 20)
    found = difference(audit)
    assert found.billed.amount == pytest.approx(loud.stats().cost)
    assert found.prices == pytest.approx(0, abs=1e-12)
    assert found.other_programs == found.unexplained == Share()
    assert "minutes" in str(audit)


def test_a_table_of_prices_of_ones_own_is_held_against_the_bill(billing: Simulator, tmp_path: Path) -> None:
    own = {"models": {SMALL: {"input": 0.3, "output": 1.2, "aliases": [ALIAS]}}}
    run = run_at(
        billing, tmp_path / "out.jsonl", llm=MistralLLM(model=ALIAS, endpoint=billing.url, prices=own)
    )
    report = run.start()
    found = difference(run.audit(admin_key=KEY))
    assert report.cost is not None
    assert found.prices == pytest.approx(-report.cost / 2)
    assert found.unexplained == found.other_programs == Share()


def test_a_ledger_that_claims_too_much_is_unexplained(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    elsewhere = run_at(billing, tmp_path / "other.jsonl", prompt="{{ text }} elsewhere")
    elsewhere.start()
    bill_of_one = difference(run.audit(admin_key=KEY, workspace=billing.settings.workspace_id))
    assert bill_of_one.unexplained == Share()
    nothing = difference(run.audit(admin_key=KEY, workspace="00000000-0000-4000-8000-000000000000"))
    assert (nothing.unexplained.input_tokens, nothing.unexplained.output_tokens) == (-60, -30)
    assert nothing.unexplained.amount == pytest.approx(-nothing.answers.amount)
    assert nothing.prices == pytest.approx(0)
    assert "unexplained: the ledger has answers that are not on the bill" in str(
        run.audit(admin_key=KEY, workspace="00000000-0000-4000-8000-000000000000")
    )


def test_a_month_in_which_nothing_was_asked_has_other_programs_only(
    billing: Simulator, tmp_path: Path
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    (line,) = run.audit().lines
    assert line.day is not None
    found = difference(run.audit(admin_key=KEY, month="2024-02"))
    assert (found.months, found.billed, found.answers, found.last_day) == (
        ["2024-02"],
        Share(),
        Share(),
        None,
    )
    both = difference(run.audit(admin_key=KEY, month=["2024-02", line.day[:7]]))
    assert (both.billed.input_tokens, both.unexplained) == (60, Share())


def test_a_run_that_has_asked_nothing_has_an_audit(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl", rows=[])
    run.start()
    audit = run.audit(admin_key=KEY)
    assert audit.lines == []
    assert difference(audit).billed == Share()
    assert "nothing was asked yet" in str(audit)


def test_the_key_of_requests_is_no_admin_key(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with pytest.raises(Unauthorized, match="Unauthorized") as refused:
        run.audit(admin_key="another-key-1234567890")
    assert "Enterprise" in str(refused.value.hint)
    assert "another-key" not in repr(refused.value)
    with pytest.raises(InputError, match="there is no key of the Admin API"):
        run.audit(bill=True)
    with pytest.raises(InputError, match="is no month"):
        run.audit(admin_key=KEY, month="november")


def test_the_key_of_the_environment_is_used_and_shown_nowhere(
    billing: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MISTRAL_ADMIN_KEY", KEY)
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    audit = run.audit()
    assert difference(audit).unexplained == Share()
    assert run.audit(bill=False).difference is None
    asked = billing.requests[-1]
    assert (asked.method, asked.path) == ("GET", "/v1/admin/usage")
    assert "authorization" not in asked.headers
    kept = repr(audit) + str(audit) + str(audit.describe()) + caplog.text
    assert KEY not in kept
    assert KEY.encode() not in (tmp_path / "out.jsonl.ledger").read_bytes()


def test_a_ledger_of_somebody_else_is_not_sent_the_key(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with LedgerReader(run.ledger_path) as reader:
        manifest = json.loads(reader.manifest())
    with Ledger.open(run.ledger_path, manifest, settings={"llm": {"endpoint": "https://gateway.example"}}):
        pass
    before = len(billing.requests)
    with pytest.raises(InputError, match=r"names the endpoint https://gateway\.example"):
        run.audit(admin_key=KEY)
    with pytest.raises(InputError, match="is not encrypted"):
        run.audit(admin_key=KEY, endpoint="http://203.0.113.7")
    assert len(billing.requests) == before
    assert difference(run.audit(admin_key=KEY, endpoint=billing.url)).unexplained == Share()


def test_a_server_without_an_admin_api_says_so(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with pytest.raises(MistillError) as nobody:
        run.audit(admin_key=KEY, endpoint=f"{billing.url}/elsewhere")
    assert "a key of the Admin API" in str(nobody.value.hint)


EMPTY_BILL = {"completion": {"models": {}}, "prices": [], "currency": "USD"}


@pytest.fixture
def server() -> Iterator[RawServer]:
    """One in the place of the simulator's, for the bill alone."""
    raw = RawServer(response(EMPTY_BILL))
    background.run(raw.__aenter__())
    yield raw
    background.run(raw.__aexit__(None, None, None))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_bill_that_does_not_come_at_once_is_asked_for_again(
    billing: Simulator, server: RawServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    server.answers = [response({"detail": "not now"}, status)] * 2 + [response(EMPTY_BILL)]
    found = difference(run.audit(admin_key=KEY, endpoint=server.url, month="2026-10"))
    assert (found.currency, found.billed, server.requests) == ("USD", Share(), 3)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("the bill of 2026-10 did not come, and is asked for again: not now [HTTP")
    server.answers = [response({"detail": "not now"}, status)]
    with pytest.raises(APIError, match="not now") as given_up:
        run.audit(admin_key=KEY, endpoint=server.url, month="2026-10")
    assert server.requests == 3 + 8
    assert "later; bill=False leaves the bill out" in str(given_up.value.hint)
    assert "requests_per_minute" not in str(given_up.value.hint)  # no setting of an audit


@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (401, Unauthorized, "check MISTRAL_ADMIN_KEY, or give admin_key: it takes a key of the Admin API"),
        (402, Unauthorized, "no balance"),
        (
            403,
            Forbidden,
            "this key may not see it, or not that of this workspace: it takes a key of the Admin",
        ),
        (404, NotFound, "no such bill, or not that of this workspace: it takes a key of the Admin API"),
    ],
)
def test_a_bill_that_is_refused_is_asked_for_once(
    billing: Simulator, server: RawServer, tmp_path: Path, status: int, error: type[APIError], hint: str
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl", rows=[])
    run.start()
    server.answers = [response({"detail": "no"}, status)]
    with pytest.raises(error) as refused:
        run.audit(admin_key=KEY, endpoint=server.url, month="2026-10", workspace="w")
    assert server.requests == 1
    assert hint in str(refused.value.hint)


def at(moment: str) -> float:
    return datetime.fromisoformat(f"{moment}+00:00").timestamp()


def moved(run: Run, *moments: tuple[str, str]) -> Run:
    """The run, as if its attempts had been sent and had ended then."""
    with closing(sqlite3.connect(run.ledger_path)) as ledger:
        for number, (sent, ended) in enumerate(moments, 1):
            ledger.execute(
                "UPDATE attempts SET sent_at = ?, ended_at = ? WHERE id = ?", (at(sent), at(ended), number)
            )
        add_checksum(ledger)
        ledger.execute(f"UPDATE attempts SET checksum = {ATTEMPT_SUM}")  # as if it had been written so
        ledger.commit()
    return run


@pytest.mark.parametrize(
    ("ended", "month", "beside"),
    [
        ("2025-12-31T23:59:59.999", "2025-12", "2026-01"),
        ("2026-01-01T00:00:00", "2026-01", "2025-12"),
        ("2024-02-29T23:59:59", "2024-02", "2024-03"),
        ("2026-10-01T00:00:01", "2026-10", "2026-09"),
    ],
)
def test_answers_at_the_edge_of_a_month_are_of_it_and_told(
    billing: Simulator, server: RawServer, tmp_path: Path, ended: str, month: str, beside: str
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl", rows=ROWS[:3])
    run.start()
    inside = (f"{month}-15T12:00:00", f"{month}-15T12:00:01")
    moved(run, inside, inside, (ended, ended))
    assert {line.day for line in run.audit().lines} == {f"{month}-15", ended[:10]}

    def found(*months: str) -> Difference:
        return difference(run.audit(admin_key=KEY, endpoint=server.url, month=months))

    assert (found(month).answers.input_tokens, found(month).at_edge, found(month).beside) == (18, 1, [beside])
    assert (found(beside).answers.input_tokens, found(beside).at_edge, found(beside).beside) == (
        0,
        1,
        [month],
    )
    both = found(beside, month)
    assert (both.answers.input_tokens, both.at_edge, both.beside) == (18, 0, [])
    told = "1 answer came near midnight between months, and may be on the other bill: ask for that of "
    text = str(run.audit(admin_key=KEY, endpoint=server.url, month=month))
    assert f"{told}{beside} too" in text
    asked_by_itself = difference(run.audit(admin_key=KEY, endpoint=server.url))
    assert (asked_by_itself.months, asked_by_itself.at_edge) == (sorted([month, beside]), 0)


def test_what_nobody_knows_of_may_be_on_the_bill_of_the_month_that_follows(
    billing: Simulator, server: RawServer, tmp_path: Path
) -> None:
    billing.script([Fault.disconnect()])
    run = run_at(billing, tmp_path / "out.jsonl", rows=ROWS[:1])
    run.start()
    moved(run, ("2026-09-30T23:50:00", "2026-09-30T23:50:01"), ("2026-09-30T23:50:02", "2026-09-30T23:50:03"))
    used = {"input": [{"timestamp": "2026-10-01", "value": 6, "event_type": "api_tokens"}]}
    bill = EMPTY_BILL | {"completion": {"models": {f"{ALIAS}::{SMALL}": used}}}
    server.answers = [response(bill)]
    october = difference(run.audit(admin_key=KEY, endpoint=server.url, month="2026-10"))
    assert (october.unanswered, october.maybe_billed.input_tokens) == (1, 6)
    assert october.other_programs == october.unexplained == october.answers == Share()
    server.answers = [response(EMPTY_BILL)]
    november = difference(run.audit(admin_key=KEY, endpoint=server.url, month="2026-11"))
    assert november.unanswered == 0


def test_a_job_that_has_not_ended_may_be_billed_in_the_month_that_follows(
    simulate: Simulate, tmp_path: Path
) -> None:
    slow = simulate(batch_queue_s=3600)
    given = {"lane": "batch", "batch_tail": 0, "wait": False, "on_stop": "return"}
    run = run_at(slow, tmp_path / "out.jsonl", rows=ROWS[:1], **given)
    run.start()
    with closing(sqlite3.connect(run.ledger_path)) as ledger:
        ledger.execute("UPDATE attempts SET sent_at = ?", (at("2026-09-29T12:00:00"),))
        add_checksum(ledger)
        ledger.execute(f"UPDATE attempts SET checksum = {ATTEMPT_SUM}")
        ledger.commit()
    (line,) = run.audit().lines
    assert (line.day, line.with_server) == ("2026-09-29", 1)
    assert difference(run.audit(admin_key="any")).months == ["2026-09", "2026-10"]
    assert difference(run.audit(admin_key="any", month="2026-10")).unanswered == 1


@pytest.mark.parametrize("month", ["20٢٦-11", "2026-13", "2026-1", "2026-11-01", "2099-12", "٢٠٢٦-11"])
def test_a_month_that_is_none_or_has_no_bill_is_refused(
    billing: Simulator, tmp_path: Path, month: str
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl", rows=[])
    run.start()
    with pytest.raises(InputError, match="has not begun yet" if month == "2099-12" else "is no month"):
        run.audit(admin_key=KEY, month=month)
    assert not [request for request in billing.requests if request.path == "/v1/admin/usage"]


def test_what_an_audit_is_as_json_and_as_csv(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    audit = run.audit(admin_key=KEY)
    described = audit.describe()
    assert described["total"]["requests"] == described["lines"][0]["requests"] == 10
    assert described["difference"]["total"] == {"amount": 0, "input_tokens": 0, "output_tokens": 0}
    assert described["difference"]["months"] == [described["lines"][0]["day"][:7]]
    (row,) = csv.DictReader(io.StringIO(audit.to_csv()))
    assert (row["model"], row["lane"], row["requests"], row["input_tokens"]) == (SMALL, "live", "10", "60")


@pytest.mark.parametrize("seed", range(8))
def test_nothing_of_a_random_bill_is_unexplained(seed: int, tmp_path: Path) -> None:
    library("aiohttp")
    from benchmarks.audit import fault_run

    assert fault_run(seed, tmp_path, kills=False).wrong == []


@pytest.mark.parametrize("path", sorted(OLD_LEDGERS.glob("*.ledger")), ids=lambda path: path.stem)
def test_ledgers_of_every_format_have_an_audit(path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(path, tmp_path))
    with LedgerReader(path) as reader:
        counts = reader.counts()
    audit = Run.audit(path)
    total = audit.total
    assert (total.input_tokens, total.output_tokens) == (counts.input_tokens, counts.output_tokens)
    assert total.requests > 0
    assert total.maybe_billed == counts.maybe_billed + counts.open_attempts
    assert total.cost == (None if counts.cost is None else pytest.approx(counts.cost))
    assert all(line.model.startswith("mistral-") for line in audit.lines)


def test_a_server_that_names_each_answer_otherwise_makes_no_endless_table(
    billing: Simulator, tmp_path: Path
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl", rows=[{"text": f"row {number}"} for number in range(300)])
    billing.change(any_model=True)
    run.start()
    with closing(sqlite3.connect(run.ledger_path)) as ledger:
        ledger.execute(
            "UPDATE answers SET body = replace(CAST(body AS TEXT), ?, 'node-' || attempt)", (SMALL,)
        )
        ledger.commit()
    audit = run.audit()
    assert len(audit.lines) <= 257
    assert audit.total.requests == 300


def test_what_is_damaged_may_be_billed_and_is_in_no_sum(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with closing(sqlite3.connect(run.ledger_path)) as ledger:
        ledger.execute("UPDATE attempts SET input_tokens = 'many', sent_at = 'then' WHERE id = 3")
        ledger.execute("UPDATE attempts SET cost = 1e9 WHERE id = 4")
        ledger.execute("UPDATE answers SET body = x'00' WHERE attempt = 5")
        ledger.commit()
    audit = run.audit(admin_key=KEY)
    total = audit.total
    assert (total.requests, total.maybe_billed, total.input_tokens) == (8, 2, 48)
    found = difference(audit)
    assert found.maybe_billed == Share(found.maybe_billed.amount, 12, 6)
    assert found.unexplained == found.other_programs == Share()


def test_a_run_is_counted_once_whatever_it_is_called(
    billing: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    monkeypatch.chdir(tmp_path)
    Path("link.jsonl.ledger").symlink_to("out.jsonl.ledger")
    names = ["out.jsonl", tmp_path / "out.jsonl", Path("link.jsonl.ledger")]
    assert Run.audit(names).total.requests == run.audit().total.requests == 10


def test_what_cannot_be_is_refused(billing: Simulator, tmp_path: Path) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with pytest.raises(InputError, match="no run is named"):
        Run.audit([])
    with pytest.raises(InputError, match="key of the Admin API"):
        run.audit(month="2026-11")
    with pytest.raises(InputError, match="of one run"):
        Run.audit([run, tmp_path / "out.jsonl"], ledger=tmp_path / "out.jsonl.ledger")


@pytest.mark.parametrize("moment", [5e11, 1e10, 1.0, -5.0])
def test_a_moment_that_cannot_be_ends_no_audit(billing: Simulator, tmp_path: Path, moment: float) -> None:
    run = run_at(billing, tmp_path / "out.jsonl")
    run.start()
    with closing(sqlite3.connect(tmp_path / "out.jsonl.ledger")) as ledger, ledger:
        ledger.execute("UPDATE attempts SET sent_at = ?, ended_at = ? WHERE id = 2", (moment, moment))
    audit = run.audit(admin_key=KEY)
    assert audit.total.requests + audit.total.maybe_billed >= 10
    assert difference(audit).months == [datetime.now(UTC).strftime("%Y-%m")]


def test_a_bill_without_prices_has_those_of_the_table() -> None:
    pile = Pile("mistral-small-2603", "batch", "priority", "output")
    assert price_by_table(pile) == pytest.approx(0.6e-6 * 0.5 * 1.75)
    assert price_by_table(Pile("nobody-knows", "live", "standard", "output")) == 0
