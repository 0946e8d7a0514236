"""What holds for all workers on a run's shards together: budgets, and a quota of the user's own."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mistill import InputError, MistralLLM, Run
from mistill.ledger.shard_files import shard_of
from mistill.progress.view import View
from mistill.runs.report import RunReport
from mistill.simulator import Settings, Simulator
from mistill.steering.client import Control
from mistill.steering.orders import Order

_ROWS = 60
_EACH = 9
"""Tokens that a row takes."""
_DEARLY = {"models": {"mistral-small-latest": {"input": 1e6, "output": 1e6}}}
"""A token costs a dollar."""


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(Settings(latency_s=0.001)) as simulator:
        yield simulator


@pytest.fixture
def start(tmp_path: Path, simulator: Simulator) -> Callable[..., RunReport]:
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {n:02}"}) + "\n" for n in range(_ROWS)))

    def start(llm: dict[str, Any] | None = None, **options: Any) -> RunReport:
        model = MistralLLM(
            model="mistral-small-latest",
            endpoint=simulator.url,
            api_key=SecretStr("a-key-for-tests"),
            prices=_DEARLY,
            **llm or {},
        )
        given = {"on": "processes:2", "shards": 4, "parameters": {"max_new_tokens": 20}, "on_stop": "return"}
        return Run(rows, llm=model, out=tmp_path / "out", prompt="{{ text }}", **given | options).start()

    return start


def _tokens(report: RunReport) -> int:
    return report.input_tokens + report.output_tokens


def test_all_workers_together_keep_to_one_budget_in_all_starts(start: Callable[..., RunReport]) -> None:
    report = start(max_tokens_total=300)
    assert 300 <= _tokens(report) < 300 + _EACH
    assert str(report.stopped).startswith(f"budget: max_tokens_total of 300 are used ({_tokens(report)}) ")
    report = start(max_cost=400)
    assert 400 <= _tokens(report) < 400 + _EACH
    assert f"max_cost of $400.00 is spent (${_tokens(report)}.00)" in str(report.stopped)


def test_what_a_killed_worker_may_have_spent_counts(
    start: Callable[..., RunReport], simulator: Simulator
) -> None:
    start(max_tokens_total=100)
    before = simulator.answered  # as many tokens as these took, one that is not known of is taken to have had
    simulator.change(latency_s=0.1)
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(start(max_tokens_total=400)))
    thread.start()
    simulator.wait_until(lambda: simulator.answered > before, timeout_s=60)
    process = next(child.pid for child in multiprocessing.active_children() if child.name == "mistill-shards")
    assert process is not None
    os.kill(process, signal.SIGKILL)
    thread.join(60)
    (report,) = reports
    spent = _tokens(report) + _EACH * report.maybe_billed
    assert f"max_tokens_total of 400 are used ({spent})" in str(report.stopped)
    assert 400 <= spent < 400 + _EACH
    assert simulator.answered * _EACH <= spent


def test_a_budget_that_ends_the_first_start_names_no_earlier_ones(
    start: Callable[..., RunReport], simulator: Simulator
) -> None:
    simulator.change(faults={"truncate": 0.4})
    report = start(max_tokens_total=200)
    assert (len(report.starts), report.maybe_billed > 0) == (1, True)
    assert str(report.stopped).startswith("budget: max_tokens_total of 200 are used")
    assert "earlier" not in str(report.stopped)


def test_a_budget_is_changed_on_the_way(
    start: Callable[..., RunReport], simulator: Simulator, tmp_path: Path
) -> None:
    simulator.change(latency_s=0.1)
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(start(max_tokens_total=10_000)))
    thread.start()
    simulator.wait_until(lambda: simulator.answered > 5, timeout_s=60)
    control = Run.open(tmp_path / "out").control()
    control.set(max_tokens_total=200)
    thread.join(60)
    (report,) = reports
    assert 200 - _EACH < _tokens(report) < 540  # where the next does not fit it ends as well
    assert f"max_tokens_total of 200 are used ({_tokens(report)})" in str(report.stopped)


def test_what_is_spent_of_a_budget_is_told_of_all_shards_and_set_there_alone(
    start: Callable[..., RunReport], simulator: Simulator, tmp_path: Path
) -> None:
    start(limit=4)
    simulator.change(latency_s=0.05)
    before, reports = simulator.answered, list[RunReport]()
    llm = {"max_concurrent_requests": 1}
    thread = threading.Thread(
        target=lambda: reports.append(start(llm, max_cost=10_000, max_tokens_total=10_000, deadline=600))
    )
    thread.start()
    simulator.wait_until(lambda: simulator.answered > before + 4, timeout_s=60)
    of_all, of_one = Run.open(tmp_path / "out").control(), Control(shard_of(tmp_path / "out.ledger", 0))
    of_all.pause()
    simulator.wait_until(lambda: simulator.in_flight == 0)
    spent = simulator.answered * _EACH
    views = of_all.views(every_s=0.05)
    next(view for view in views if view.completions == simulator.answered - 4)
    told = {one.name: one.told for one in of_all.standing().settings}
    assert (told["max_cost"], told["max_tokens_total"]) == (f"${spent}.00 spent", f"{spent} used")
    assert re.fullmatch(r"[59] min( \d+ s)? left", str(told["deadline"]))
    told = {one.name: one.told for one in of_one.standing().settings}
    assert re.fullmatch(r"of all shards; \d+ used in this one", str(told["max_tokens_total"]))
    for name in ("max_cost", "max_tokens_total"):
        with pytest.raises(
            InputError, match=f"{name} is of all shards.* mistill ctl .*out.ledger set {name}="
        ):
            of_one.set(**{name: 1})
    answer = of_all.send(Order("set", {"max_tokens_total": 10}))
    assert answer.told is not None
    assert answer.told.endswith(f"10,000 → 10; ${spent}.00 and {spent} tokens are spent: the run stops")
    with suppress(InputError):  # a shard may find out, and all end, before they are let go on
        of_all.resume()
    thread.join(60)
    (report,) = reports
    assert f"max_tokens_total of 10 are used ({_tokens(report)})" in str(report.stopped)
    assert (report.failures, _tokens(report)) == (0, spent)


def test_a_quota_of_the_users_own_is_of_all_workers_together(
    start: Callable[..., RunReport], simulator: Simulator, tmp_path: Path
) -> None:
    start(limit=5, on="processes:1")
    assert simulator.answered == 5
    thread = threading.Thread(target=lambda: start({"requests_per_minute": 8}))
    thread.start()
    simulator.wait_until(lambda: simulator.answered >= 8, timeout_s=60)
    control = Run.open(tmp_path / "out").control()
    assert any(view.waiting_for == "quota_requests" for view in control.views(every_s=0.1))
    control.stop()
    thread.join(60)
    assert simulator.answered == 8
    report = Run.open(tmp_path / "out").report()
    split = report.seconds_by_cause
    share = split["quota_requests"] / sum(split.values())
    assert report.advice is not None
    told = re.match(r"(\d+)% of the time waited for your own limit of 8 requests a minute: ", report.advice)
    assert told is not None
    assert int(told[1]) == pytest.approx(100 * share, abs=1)


def test_a_start_that_sends_nothing_is_told_no_advice(start: Callable[..., RunReport]) -> None:
    start(limit=4)
    report = start(limit=4)
    assert report.sent == 0
    assert report.advice is None


def test_a_quota_that_the_server_has_told_a_worker_is_shown(
    start: Callable[..., RunReport], simulator: Simulator, tmp_path: Path
) -> None:
    simulator.change(latency_s=0.1, requests_per_minute=1_200)
    thread = threading.Thread(target=lambda: start({"max_concurrent_requests": 1}))
    thread.start()
    simulator.wait_until(lambda: simulator.answered > 2, timeout_s=60)
    control = Run.open(tmp_path / "out").control()
    told: str | None = None
    for _ in control.views(every_s=0.05):
        told = {one.name: one.told for one in control.standing().settings}["requests_per_minute"]
        if told is not None:
            break
    control.stop()
    thread.join(60)
    assert told == "1,200 by the server's headers"


def test_a_start_that_a_budget_ends_tells_where_it_ended_though_a_quota_is_known(
    start: Callable[..., RunReport], simulator: Simulator
) -> None:
    simulator.change(requests_per_minute=600)
    views: list[View] = []
    start(max_tokens_total=20 * _EACH, on_progress=views.append)
    assert views[-1].is_last
    assert 0 < views[-1].completions < _ROWS
