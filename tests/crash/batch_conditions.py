"""What may happen to a run of batch jobs, beside being killed: of its server, and of its user."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.crash.batch_harness import POISON, BatchRun, Condition, Result, Starter, make_texts

from mistill.cli.exit_codes import Exit
from mistill.simulator import Settings, Simulator
from mistill.simulator.settings import FaultName

_FAULTS: dict[FaultName, float] = {"503": 0.03, "429": 0.01, "disconnect": 0.02, "missing_usage": 0.02}
_SMALL = {"canary_requests": 20, "first_job_requests": 20}
_HOUR_S = 0.12
_BY_PRICE = ("--lane", "cheapest")
_RULES = "Answer as the rules say. " * 40


def _lanes(number: int) -> tuple[str, ...]:
    return ("--lane", ("batch", "live")[number % 2])


PLAIN = Condition("nothing else")
FAULTS = Condition("faults of lines and requests", {"faults": _FAULTS, "batch_busy": 0.02}, has_faults=True)
HIDDEN = Condition("the list lags for ever", {"batch_create_lost": 0.3, "batch_list_lag_s": 60.0}, hides=True)
CONDITIONS = (
    PLAIN,
    FAULTS,
    Condition("half of the answers to create are lost", {"batch_create_lost": 0.5}),
    Condition("and every filter is ignored", {"batch_create_lost": 0.5, "batch_filter": "ignored"}),
    Condition("and the list lags, within the look", {"batch_create_lost": 0.5, "batch_list_lag_s": 0.3}),
    Condition("the list lags beyond the look", {"batch_create_lost": 0.5, "batch_list_lag_s": 1.5}, hides=True),
    HIDDEN,
    Condition("a lost job runs without its file", {
        "batch_create_lost": 0.5, "batch_create_s": 0.3, "batch_deleted_input": "runs", "batch_list_lag_s": 0.7
    }, hides=True),
    Condition("half of the uploads are lost", {"batch_upload_lost": 0.5}),
    Condition("half of the downloads are cut", {"batch_download_cut": 0.5}),
    Condition("10% of the lines fail, one row is poisoned", {"batch_error_line": 0.1, "poison": POISON}, fails=POISON),
    Condition("failed lines stand in the output", {"batch_error_line": 0.1, "batch_errors_in": "output_file"}),
    Condition("2% of the lines are missing", {"batch_missing": 0.02}, hides=True),
    Condition("5% of the lines come twice", {"batch_duplicate": 0.05}),
    Condition("lines are broken, or nobody's", {
        "batch_broken_line": 0.03, "batch_no_id": 0.02, "batch_unknown_id": 0.02, "batch_text_body": 0.1
    }, hides=True),
    Condition(
        "time is out after 60% of the lines",
        {"batch_hour_s": _HOUR_S, "batch_line_s": 0.005},
        options=("--batch-rows", "40", "--batch-timeout", "1h"),
        tuning={"job_hour_s": _HOUR_S, "first_job_requests": 40},
    ),
    Condition("20% of the answers do not fit", {"faults": {"wrong_json": 0.2}},
              options=("--schema-retries", "8"), misfits=True),
    Condition("a state that nobody knows, running", {"batch_unknown_state": "running"}),
    Condition("a state that nobody knows, ended", {"batch_unknown_state": "ended"}),
    Condition("counts that do not add up", {"batch_wrong_counts": True}),
    Condition("402 at first", {"batch_needs_billing": True}, {3: {"batch_needs_billing": False}}, stops=True),
    Condition("413 at first", {"batch_max_bytes": 1000}, {3: {"batch_max_bytes": 10**9}}, stops=True),
    Condition("FAILED at first", {"batch_failed": 1.0}, {2: {"batch_failed": 0.0}}, stops=True),
    Condition("FAILED now and then", {"batch_failed": 0.3}, {9: {"batch_failed": 0.0}}, stops=True),
    Condition("503 in half of the answers", {"batch_busy": 0.5}),
    Condition("results are gone", {"batch_retention_s": 0.05}, {4: {"batch_retention_s": None}},
              hides=True, pause_s=0.2),
    Condition("two processes on one ledger", two_at_once=True),
    Condition("the lane changes", {"batch_line_s": 0.002}, options_of=_lanes),
    Condition("the lane changes, and stays live", {"batch_line_s": 0.002},
              options_of=lambda number: _lanes(number) if number >= 0 else ("--lane", "live")),
    Condition("each row by its price", {"batch_line_s": 0.002}, options=(*_BY_PRICE, "--batch-tail", "0")),
    Condition("each row by its price, most of them live", {"batch_line_s": 0.002, "cache_hits": 1.0},
              options=(*_BY_PRICE, "--batch-tail", "0", "--system", _RULES)),
    Condition("each row by its price, and half of the answers to create are lost", {"batch_create_lost": 0.5},
              options=(*_BY_PRICE, "--batch-tail", "20")),
    Condition("each row by its price, and the server makes no jobs", {"batch_needs_billing": True},
              options=(*_BY_PRICE, "--batch-tail", "0")),
    Condition("nothing is waited for", {"batch_line_s": 0.002},
              options_of=lambda number: ("--no-wait",) if number >= 0 else ()),
    Condition(
        "the deadline comes while jobs run",
        {"batch_line_s": 0.1},
        options_of=lambda number: ("--deadline", "1s" if number >= 0 else "2s"),
        tuning={"deadline_margin_s": 0.3},
        stops=True,
    ),
    Condition("cancelled half-way", {"batch_line_s": 0.01},
              command_of=lambda number: "cancel" if number in (1, 3, 5) else None),
    Condition("cancelled half-way, slowly", {"batch_line_s": 0.02, "batch_cancel_s": 0.2},
              command_of=lambda number: "cancel" if number % 2 else None),
    Condition("an hour is 50 ms", {"batch_hour_s": 0.05}, tuning={"job_hour_s": 0.05}),
    Condition("what may be billed is held", {"batch_create_lost": 0.3},
              options_of=lambda number: ("--on-unknown", "hold") if number >= 0 else ()),
    Condition("tails never go live", {"batch_error_line": 0.1}, options=("--batch-tail", "0")),
)  # fmt: skip


def settings_of(condition: Condition, *, seed: int = 0) -> Settings:
    return Settings(
        **{"seed": seed, "batch_bills_cancelled": True, "requests_kept": 1_000_000} | condition.settings
    )


def texts_of(condition: Condition, rows: int, *, seed: int = 0) -> list[str]:
    texts = make_texts(rows, seed=seed)
    if condition.fails is not None:
        texts[rows // 2] = condition.fails
    return texts


def killed_at_random(
    starter: Starter, condition: Condition, *, rows: int, kills: int, seed: int, job_rows: int = 20
) -> Result:
    """A run of so many rows, killed at random again and again, and ended."""
    rng = random.Random(seed)
    with TemporaryDirectory() as directory, Simulator(settings_of(condition, seed=seed)) as simulator:
        small = _SMALL if job_rows == 20 else {}
        run = BatchRun(
            Path(directory), simulator, starter, condition, texts_of(condition, rows, seed=seed),
            options=("--batch-rows", str(job_rows)), tuning=small,
        )  # fmt: skip
        for _ in range(3 * kills):
            if run.result.kills >= kills or _start(run, rng) in (Exit.ANSWERED, Exit.SOME_FAILED):
                break
        run.finish()
        return run.result


def _start(run: BatchRun, rng: random.Random) -> int:
    """One that is killed somewhere: after some points, at one that has been seen before, or at any moment."""
    seen = sorted(set(run.points()))
    how = rng.random()
    if seen and how < 0.4:
        return run.start(point=(rng.choice(seen), rng.randint(1, 3)))
    if how < 0.7:
        return run.start(kill_after_s=rng.uniform(0.05, 0.4))
    return run.start(crossing=int(2 ** rng.uniform(0, 9)))


def killed_at(starter: Starter, condition: Condition, point: tuple[str, int], *, rows: int) -> Result:
    """A run that is killed once, at this point, where it comes there."""
    with TemporaryDirectory() as directory, Simulator(settings_of(condition)) as simulator:
        run = BatchRun(
            Path(directory), simulator, starter, condition, texts_of(condition, rows),
            options=("--batch-rows", "20"), tuning=_SMALL,
        )  # fmt: skip
        run.start(point=point)
        run.finish()
        return run.result


def points_of(starter: Starter, condition: Condition, *, rows: int) -> Iterator[tuple[str, int]]:
    """Each point that a run passes, for the first time, and for the last time."""
    with TemporaryDirectory() as directory, Simulator(settings_of(condition)) as simulator:
        run = BatchRun(
            Path(directory), simulator, starter, condition, texts_of(condition, rows),
            options=("--batch-rows", "20"), tuning=_SMALL,
        )  # fmt: skip
        run.start()
        names = run.points()
    for name in dict.fromkeys(names):
        yield name, 1
        if (times := names.count(name)) > 1:
            yield name, times


def killed_in_turn(
    starter: Starter,
    condition: Condition,
    points: Sequence[tuple[str, int]],
    *,
    rows: int,
    changes: Mapping[int, dict[str, Any]] | None = None,
) -> Result:
    """One run that is killed at each of these points, one start after the other.

    Args:
        changes: number of a point → settings of the simulator from then on.
    """
    with TemporaryDirectory() as directory, Simulator(settings_of(condition)) as simulator:
        run = BatchRun(
            Path(directory), simulator, starter, condition, texts_of(condition, rows),
            options=("--batch-rows", "20", "--batch-tail", "0"), tuning=_SMALL | {"look_s": 0.1},
        )  # fmt: skip
        for number, point in enumerate(points):
            if changes is not None and number in changes:
                simulator.change(**changes[number])
            code = run.start(point=point)
            if code != -signal.SIGKILL:
                run.result.problems.append(f"it never came to {point}: {code}")
        if changes is not None and len(points) in changes:
            simulator.change(**changes[len(points)])
        run.finish()
        return run.result


LIFE_OF_A_JOB = (
    ("before commit planned", 1), ("after commit planned", 1), ("before upload", 1), ("after upload", 1),
    ("after commit uploaded", 1), ("before create", 1), ("after commit creating", 1), ("after create", 1),
    ("after commit running", 1), ("before commit ended", 1), ("after commit ended", 1),
    ("before rename of output", 1), ("after download", 1), ("after commit fetched", 1), ("before answer of a job", 4),
    ("after flush", 1), ("before commit read, attempts ended", 1), ("after commit read, attempts ended", 1),
    ("before outcome", 7), ("after delete", 1), ("before commit read cleaned", 1), ("after commit read cleaned", 2),
)  # fmt: skip
"""Where a run is killed that meets nothing else."""
LOST = Condition("lost", {"batch_create_lost": 1.0, "batch_line_s": 0.5}, hides=True)
LIFE_OF_A_DOUBT = (
    ("after look for creating", 1), ("before commit running", 1),  # found, and not adopted yet
    ("after look for creating", 2), ("after delete", 1), ("after commit doubtful, attempts ended", 1),
    ("before cancel", 1), ("after cancel", 1), ("after commit running cancelled", 1),
)  # fmt: skip
"""Where a run is killed whose jobs are lost."""
WHILE_LOST = {
    2: {"batch_list_lag_s": 60.0},
    5: {"batch_list_lag_s": 0.0, "batch_create_lost": 0.0},
    8: {"batch_line_s": 0.0},
}
"""What the server does meanwhile: it hides them from the third kill to the sixth."""
