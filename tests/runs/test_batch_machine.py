"""Whatever one does to a run of batch jobs, in any order: a state machine. ``python -m tests.runs.test_batch_machine``
runs it for longer."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.crash.batch_harness import BatchRun, Condition, Starter
from tests.libraries import library

from mistill.simulator import Settings, Simulator

_TUNING = {"canary_requests": 5, "first_job_requests": 5, "look_s": 0.1}
_QUIET: dict[str, Any] = {
    "batch_create_lost": 0.0, "batch_upload_lost": 0.0, "batch_download_cut": 0.0, "batch_error_line": 0.0,
    "batch_missing": 0.0, "batch_duplicate": 0.0, "batch_list_lag_s": 0.0, "batch_unknown_state": None,
    "batch_wrong_counts": False, "batch_busy": 0.0, "batch_line_s": 0.0, "batch_bills_cancelled": True,
}  # fmt: skip
_HIDING = ("batch_missing", "batch_list_lag_s")
_FAULTS: dict[str, Any] = {
    "batch_create_lost": 0.7, "batch_upload_lost": 0.7, "batch_download_cut": 0.5, "batch_error_line": 0.3,
    "batch_missing": 0.2, "batch_duplicate": 0.3, "batch_list_lag_s": 0.6, "batch_unknown_state": "ended",
    "batch_wrong_counts": True, "batch_busy": 0.3, "batch_line_s": 0.02,
}  # fmt: skip
_crossings = st.none() | st.integers(1, 120)
"""A command is killed after so many points, or not at all."""


class BatchMachine(RuleBasedStateMachine):
    """One run. What a person, a server, or a power cut may do to it are its rules."""

    starter: Starter

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        directory = Path(self._open.enter_context(TemporaryDirectory()))
        self._simulator = self._open.enter_context(Simulator(Settings(**_QUIET, requests_kept=1_000_000)))
        texts = [f"text {number}" for number in range(12)]
        self._run = BatchRun(
            directory, self._simulator, self.starter, Condition("a machine"), texts,
            options=("--batch-rows", "5"), tuning=_TUNING,
        )  # fmt: skip
        self._names = len(texts)

    @initialize()
    def begin(self) -> None:
        self._simulator.change(batch_line_s=0.02)
        self.submit(crossing=None)

    @rule(crossing=_crossings)
    def submit(self, crossing: int | None) -> None:
        self._run.start("--no-wait", crossing=crossing)

    @rule(crossing=_crossings)
    def wait(self, crossing: int | None) -> None:
        self._run.start(crossing=crossing)

    @rule(crossing=_crossings)
    def go_live(self, crossing: int | None) -> None:
        self._run.start("--lane", "live", crossing=crossing)

    @rule(tail=st.sampled_from(["0", "3"]), crossing=_crossings)
    def wait_with_another_tail(self, tail: str, crossing: int | None) -> None:
        self._run.start("--batch-tail", tail, crossing=crossing)

    @rule(crossing=_crossings)
    def cancel(self, crossing: int | None) -> None:
        self._run.call("cancel", crossing=crossing)

    @rule(crossing=_crossings)
    def look(self, crossing: int | None) -> None:
        self._run.call("status", crossing=crossing)

    @rule(
        where=st.sampled_from(["row<4", "state=failure"]),
        lane=st.sampled_from(["batch", "live"]),
        crossing=_crossings,
    )
    def retry(self, where: str, lane: str, crossing: int | None) -> None:
        self._run.hides = True  # it is paid again
        self._run.call("retry", "--where", where, "--lane", lane, crossing=crossing)

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """Some rows go, some change, some are new."""
        rows = dict(self._run.rows)
        ids = st.lists(st.sampled_from(list(rows)), max_size=3, unique=True) if rows else st.just([])
        for number in data.draw(ids, "removed"):
            del rows[number]
        for number in data.draw(st.lists(st.sampled_from(list(rows)), max_size=3), "changed") if rows else []:
            rows[number] = f"text {self._name()}"
        for _ in range(data.draw(st.integers(0 if rows else 1, 3), "added")):
            name = self._name()
            rows[name] = f"text {name}"
        self._run.edit(rows)

    @rule(fault=st.sampled_from(sorted(_FAULTS)))
    def meet(self, fault: str) -> None:
        self._run.hides = self._run.hides or fault in _HIDING
        self._simulator.change(**{fault: _FAULTS[fault]})

    @rule()
    def recover(self) -> None:
        self._simulator.change(**_QUIET)

    @invariant()
    def what_is_promised_holds(self) -> None:
        self._run.check_ledger()
        assert not self._run.result.problems

    def teardown(self) -> None:
        try:
            self._simulator.change(**_QUIET)
            self._run.finish()
            assert not self._run.result.problems
        finally:
            self._open.close()

    def _name(self) -> int:
        self._names += 1
        return self._names


def run_machine(examples: int, steps: int, *, derandomize: bool = False) -> None:
    with Starter() as BatchMachine.starter:
        run_state_machine_as_test(
            BatchMachine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=derandomize,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
                phases=[Phase.generate],  # a smaller example of a failure would take minutes
            ),
        )


def test_whatever_is_done_to_a_run_of_batch_jobs_its_promises_hold() -> None:
    library("aiohttp")
    run_machine(examples=5, steps=8, derandomize=True)


if __name__ == "__main__":
    run_machine(*map(int, sys.argv[1:] or ("100", "20")))
