"""``python -m benchmarks.audit``: random runs, everything going wrong, and whether their audit explains the bill.

    python -m benchmarks.audit --runs 1000            a table, and exit code 1 if anything is unexplained
    python -m benchmarks.audit --first 17 --runs 1    the run of one seed, with its audit

Each seed is another simulator with other faults (of requests, of their delivery, of content, of batch jobs), latency,
tiers, caches, models that move, sound; another run (chat or vectors, live or by jobs, limits or none), in one start or
several, some stopped at once or killed, with retries by another model, and now and then other programs on the same key.
Then the bill is asked for, and must be, token by token, the answers of the ledger, what answers took that did not say
it, what may be billed, and what the other programs really used; nothing may be left, below or above.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from msgspec import Struct
from pydantic import BaseModel

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.audits.report import Audit, Difference, Share
from mistill.errors import GenerationError, MistillError
from mistill.llms.connection import Connection
from mistill.simulator import Settings, Simulator
from mistill.testing import without_waiting

ADMIN_KEY = "an-admin-key-for-tests"
_SMALL, _OTHER = "mistral-small-latest", "mistral-large-latest"
_SPECK = 1e-9
"""Of dollars: sums of floats may be off by so much."""


class Label(BaseModel):
    kind: str
    urgent: bool


class Checked(Struct):
    """What became of one seed.

    Attributes:
        wrong: what of its audit is not as it must be.
        others: what other programs used, as the simulator counted it.
    """

    seed: int
    audit: Audit
    others: Share
    wrong: list[str]

    @property
    def difference(self) -> Difference:
        assert self.audit.difference is not None
        return self.audit.difference


def fault_run(seed: int, folder: Path, *, kills: bool = True) -> Checked:
    """The run of one seed, and its audit held against what the simulator knows.

    Args:
        kills: some starts are processes of their own, which are killed.
    """
    rng = random.Random(seed)
    with Simulator(_settings(rng)) as simulator:
        out = folder / f"{seed}.jsonl"
        others = _use(simulator, rng) if rng.random() < 0.3 else Share()
        _starts(simulator, rng, out, kills=kills)
        others += _use(simulator, rng) if rng.random() < 0.2 else Share()
        audit = Run.audit(out, admin_key=ADMIN_KEY)
        return Checked(seed, audit, others, list(_wrong(audit, others, simulator)))


def _settings(rng: random.Random) -> Settings:
    def rate(most: float) -> float:
        return rng.choice((0.0, rng.uniform(0, most)))

    names = ("429", "503", "disconnect", "truncate", "html", "empty_choices", "null_content", "missing_usage",
             "length", "cut_stream", "invalid_json", "wrong_json")  # fmt: skip
    batch = ("busy", "upload_lost", "create_lost", "download_cut", "failed", "error_line", "text_body", "missing",
             "duplicate", "no_id", "unknown_id", "broken_line")  # fmt: skip
    return Settings(
        seed=rng.randrange(10**6),
        admin_keys=frozenset({ADMIN_KEY}),
        latency_s=rng.choice((0, 0.002, 0.01)),
        latency_distribution=rng.choice(("fixed", "lognormal")),
        faults={name: rate(0.08) for name in names},
        bills_undelivered=rng.choice((0.0, 0.5, 1.0)),
        answer_tokens=rng.choice((0, 40, 300)),
        audio_seconds=rng.choice((0, 0, 7)),
        service_tier=rng.choice(("none", "standard", "priority")),
        answered_by=rng.choice(({}, {_SMALL: "mistral-small-2603"}, {_SMALL: "mistral-medium-3-5"})),
        cached_share=rng.choice((None, None, 0.5)),
        cached_place=rng.choice(("prompt_tokens_details", "prompt_token_details", "num_cached_tokens")),
        batch_hour_s=20,
        batch_bills_cancelled=rng.choice((False, True)),
        batch_caches=rng.choice((False, True)),
        batch_errors_in=rng.choice(("error_file", "output_file")),
        **{f"batch_{name}": rate(0.1) for name in batch},
    )


def _llm(simulator: Simulator, rng: random.Random, model: str = _SMALL) -> Connection:
    common: dict[str, Any] = {
        "endpoint": simulator.url,
        "api_key": "any",
        "max_retries": rng.choice((1, 3)),
        "timeout": rng.choice((0.2, 5)),
    }
    if rng.random() < 0.15:
        return MistralEmbeddings(model="mistral-embed", **common)
    schema = {"schema": Label} if rng.random() < 0.25 else None
    limit = {"max_new_tokens": rng.choice((50, 400))} if rng.random() < 0.5 else {}
    return MistralLLM(model=model, structured_output=schema, generation_kwargs=limit, **common)


def _starts(simulator: Simulator, rng: random.Random, out: Path, *, kills: bool) -> None:
    """One start or several of one run, and perhaps a retry."""
    llm = _llm(simulator, rng, rng.choice((_SMALL, "voxtral-small-latest")))
    words = rng.choice((1, 12, 80))
    rows = [{"text": f"row {number}: " + "mail " * words} for number in range(rng.choice((5, 25, 60)))]
    settings: dict[str, Any] = {"prompt": "{{ text }}"}
    if isinstance(llm, MistralLLM) and rng.random() < 0.3:
        settings["system"] = "Decide what the customer wants. " * rng.choice((1, 40))
    if isinstance(llm, MistralLLM) and rng.random() < 0.2:
        settings["num_generations"] = 2
    lanes = rng.choice((["live"], ["live"], ["batch"], ["batch", "live"], ["live", "batch"]))
    for number in range(rng.choice((1, 2, 3))):
        settings |= {"out": out, "lane": lanes[number % len(lanes)], "batch_rows": rng.choice((10, 100))}
        settings |= {"grace": rng.choice((0.0, 2.0)), "on_stop": "return"}
        stop_after_s, is_killed = rng.choice((None, None, 0.01, 0.05)), rng.random() < 0.02
        if kills and is_killed:
            _kill(simulator, rng.randrange(1, 12), rows, llm, settings)
        else:
            _start(Run(rows, llm=llm, **settings), stop_after_s)
        if rng.random() < 0.2:
            simulator.change(answered_by={_SMALL: "mistral-large-2512"})
    if isinstance(llm, MistralLLM) and rng.random() < 0.3:
        with_other = {"llm": {"model": _OTHER}} if rng.random() < 0.5 else {}
        try:
            chosen, failed = rng.choice((None, "row<4")), rng.random() < 0.5
            retry = Run.retry(out, chosen, failed=failed, on_stop="return", **with_other)
        except MistillError:
            return  # there are no such rows
        _start(retry, stop_after_s=None)


def _start(run: Run, stop_after_s: float | None) -> None:
    timer = threading.Timer(stop_after_s or 60, run.stop)
    timer.daemon = True
    timer.start()
    try:
        run.start()
    except MistillError:
        pass  # a server that fails everything; what it has taken is in the ledger
    finally:
        timer.cancel()


def _kill(
    simulator: Simulator, requests: int, rows: list[dict[str, Any]], llm: Connection, settings: dict[str, Any]
) -> None:
    """A start that is killed when it has sent so many requests."""
    before = len(simulator.requests)
    process = multiprocessing.get_context("spawn").Process(target=_begin, args=(rows, llm, settings))
    process.start()
    simulator.wait_until(
        lambda: len(simulator.requests) >= before + requests or not process.is_alive(), timeout_s=60
    )
    process.kill()
    process.join()


def _begin(rows: list[dict[str, Any]], llm: Connection, settings: dict[str, Any]) -> None:
    logging.disable(logging.WARNING)
    with without_waiting():
        _start(Run(rows, llm=llm, **settings), None)


def _use(simulator: Simulator, rng: random.Random) -> Share:
    """Another program, which keeps no ledger. Gives what was billed for it."""
    _settled(simulator)
    before = simulator.stats()
    model = rng.choice((_SMALL, _OTHER, "ministral-8b-latest"))
    llm = MistralLLM(model=model, endpoint=simulator.url, api_key="any", max_retries=0, timeout=0.2)
    for number in range(rng.choice((1, 8))):
        try:
            llm.generate(
                inputs=[[{"role": "user", "content": f"{number} " + "word " * rng.choice((5, 200))}]]
            )
        except (MistillError, GenerationError):
            continue
    _settled(simulator)
    after = simulator.stats()
    return Share(
        after.cost - before.cost,
        after.input_tokens - before.input_tokens,
        after.output_tokens - before.output_tokens,
    )


def _settled(simulator: Simulator) -> None:
    """Waits until what nobody waits for any more has ended there."""
    simulator.wait_until(lambda: simulator.in_flight == 0)


def _wrong(audit: Audit, others: Share, simulator: Simulator) -> list[str]:
    """What of an audit is not as it must be."""
    _settled(simulator)
    found, stats = audit.difference, simulator.stats()
    assert found is not None
    batch, wrong = stats.batch, list[str]()

    def must(holds: bool, what: str) -> None:
        if not holds:
            wrong.append(what)

    tokens = stats.input_tokens + batch.input_tokens, stats.output_tokens + batch.output_tokens
    must(
        (found.billed.input_tokens, found.billed.output_tokens) == tokens,
        f"the bill has other tokens: {tokens}",
    )
    must(abs(found.billed.amount - stats.cost) < _SPECK, f"the bill has other dollars: {stats.cost}")
    parts = found.answers + found.estimates + found.maybe_billed + found.other_programs + found.unexplained
    must(found.prices is not None and abs(found.prices) < _SPECK, f"prices differ: {found.prices}")
    must(abs(parts.amount + (found.prices or 0) - found.billed.amount) < _SPECK, "amounts do not add up")
    of_parts = parts.input_tokens, parts.output_tokens
    must(of_parts == tokens, f"tokens do not add up: {of_parts}")
    must(_is_nothing(found.unexplained), f"unexplained: {found.unexplained}")
    unknown = found.unanswered or audit.total.estimated
    for name in ("input_tokens", "output_tokens"):
        truth, told, billed = (
            getattr(others, name),
            getattr(found.other_programs, name),
            getattr(found.billed, name),
        )
        must(told <= truth, f"other programs: {told} {name} in place of {truth}")
        must(
            unknown or told == truth,
            f"other programs: {told} {name} in place of {truth}, and nothing is unknown",
        )
        must(billed >= truth, f"{name} of other programs are not on the bill")
    return wrong


def _is_nothing(share: Share) -> bool:
    return abs(share.amount) < _SPECK and not share.input_tokens and not share.output_tokens


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--first", type=int, default=0)
    given = arguments.parse_args()
    logging.disable(logging.WARNING)
    began_at, checked = time.perf_counter(), list[Checked]()
    with tempfile.TemporaryDirectory() as folder, without_waiting():
        for seed in range(given.first, given.first + given.runs):
            checked.append(fault_run(seed, Path(folder)))
            for wrong in checked[-1].wrong:
                print(f"seed {seed}: {wrong}", flush=True)
    if given.runs == 1:
        print(checked[0].audit, end="\n\n")
    _show(checked, time.perf_counter() - began_at)
    return 1 if any(one.wrong for one in checked) else 0


def _show(checked: list[Checked], seconds: float) -> None:
    totals, found = [one.audit.total for one in checked], [one.difference for one in checked]
    others = sum((one.others for one in checked), Share())
    print(
        f"{len(checked):,} runs in {seconds:.0f} s, {sum(1 for one in checked if one.wrong):,} of them wrong"
    )
    print(f"requests answered: {sum(one.requests for one in totals):,}, "
          f"maybe billed: {sum(one.unanswered for one in found):,}, "
          f"without usage: {sum(one.estimated for one in totals):,}")  # fmt: skip
    for name in ("billed", "answers", "estimates", "maybe_billed", "other_programs", "unexplained"):
        share = sum((getattr(one, name) for one in found), Share())
        print(
            f"{name:15} {share.input_tokens:>12,} tokens in {share.output_tokens:>12,} out {share.amount:>14.9f} $"
        )
    print(f"{'truly others':15} {others.input_tokens:>12,} tokens in {others.output_tokens:>12,} out")
    print(f"prices          {sum(one.prices or 0 for one in found):.9f} $")


if __name__ == "__main__":
    sys.exit(main())
