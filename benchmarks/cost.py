"""``python -m benchmarks.cost``: what each lane costs in the simulator, beside what knowing everything makes of it.

    python -m benchmarks.cost                       five workloads, then 200 random ones; about 15 minutes on two cores
    python -m benchmarks.cost --random 20 --seed 7  twenty other random ones

Each workload is run by each lane, against a simulator of its own; the dollars are what that billed. The *oracle* knows
before the first row how long each answer will be, what of each prompt an earlier one had, and how often the cache will
be hit, and sends each row by the lane that costs it less. It does not know which requests will miss the cache: that is
the moment's, and no row's. For the same reason *above it* is what the rows cost as a mean by the lanes that were chosen
for them: a bill differs by some percent from one run to the next by how often the cache was missed.

Of random ones, what is looked for are totals of more than 3% above the oracle, and those that are above the cheaper
lane alone by more than what the rows cost that were asked live to tell which one that is.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import re
import sqlite3
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import msgspec

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.api.prices import Price, factors_of, price_of
from mistill.api.usage import BLOCK_TOKENS
from mistill.simulator import Settings, Simulator
from mistill.simulator.drafts import compose, count_prompt_tokens
from mistill.simulator.prompt_cache import blocks_of
from mistill.simulator.requests import ChatRequest
from mistill.testing import without_waiting

_SENTENCE = "Decide what the customer wants, and answer in one word. "
_TEXT = "I bought it last week and it does not work any more. "
_MODELS = ("mistral-small-latest", "mistral-medium-latest", "mistral-large-latest", "ministral-8b-latest")
_MOST_ABOVE = 0.03

Lane = Literal["live", "batch", "cheapest"]


class Workload(msgspec.Struct, kw_only=True):
    """Rows, and how they are asked.

    Attributes:
        options: of a run. ``server``: settings of the simulator.
        first_rows: of a start before the one that asks them all, for the cheapest lane; 0: there is none.
    """

    name: str
    rows: list[dict[str, Any]]
    options: dict[str, Any] = {}
    server: dict[str, Any] = {}
    model: str = "mistral-small-latest"
    schema: dict[str, Any] | None = None
    is_embedding: bool = False
    first_rows: int = 0


class Expected(msgspec.Struct):
    """What the rows of a workload cost as a mean, in US dollars: known by who knows all of them.

    Attributes:
        live, in_jobs: of each row, by its place.
        alike: places of rows that begin alike, in the order in which they were asked.
        chosen: places of rows that the user had asked live, whatever they cost: those of a sample.
    """

    live: list[float]
    in_jobs: list[float]
    alike: list[list[int]]
    chosen: frozenset[int] = frozenset()

    @property
    def oracle(self) -> float:
        """Of those that begin alike, either all are in jobs, or the first goes live, so that others find it cached."""
        return sum(map(self._least, self.alike))

    def _least(self, rows: list[int]) -> float:
        if not self.chosen.isdisjoint(rows):
            return sum(map(self._cheaper, rows))
        with_first = self.live[rows[0]] + sum(map(self._cheaper, rows[1:]))
        return min(with_first, sum(self.in_jobs[place] for place in rows))

    def _cheaper(self, place: int) -> float:
        live = self.live[place]
        return live if place in self.chosen else min(live, self.in_jobs[place])

    def of(self, live: set[int]) -> float:
        """Of all rows where these go live, and the others in jobs."""
        return sum(
            self.live[place] if place in live else self.in_jobs[place] for place in range(len(self.live))
        )


class Bill(msgspec.Struct):
    """What a run was billed.

    Attributes:
        live: places of the rows that were asked live. ``sample``: how many of them were to tell which lane is cheaper.
    """

    cost: float
    live: list[int]
    sample: int = 0


class Result(msgspec.Struct):
    """One workload by every lane."""

    workload: Workload
    bills: dict[Lane, Bill]
    expected: Expected

    @property
    def cheapest(self) -> float:
        """What it costs as a mean to send each row by the lane that was chosen for it."""
        return self.expected.of(set(self.bills["cheapest"].live))

    @property
    def above_oracle(self) -> float:
        return self.cheapest / self.expected.oracle - 1

    @property
    def above_lane(self) -> float:
        """US dollars more than the cheaper lane alone and the sample cost."""
        expected, found = self.expected, self.bills["cheapest"]
        sample = found.sample * sum(expected.live[place] for place in found.live) / max(1, len(found.live))
        return self.cheapest - min(sum(expected.live), sum(expected.in_jobs)) - sample


def text(tokens: float, number: int) -> str:
    """The text of a row: about so many tokens, and no other row has the same."""
    return f"row {number:06d}: {_repeated(_TEXT, tokens - 3)}"


def rules(tokens: float) -> str:
    """Instructions of about so many tokens."""
    return _repeated(_SENTENCE, tokens)


def _repeated(sentence: str, tokens: float) -> str:
    chars = max(0, round(4 * tokens))
    return (sentence * (chars // len(sentence) + 1))[:chars]


# --- the five ---------------------------------------------------------------------------------------------------------

_MAIL = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["refund", "repair", "other"]},
        "product": {"type": "string", "maxLength": 40},
        "wish": {"type": "string", "maxLength": 200},
        "urgent": {"type": "boolean"},
    },
    "required": ["kind", "product", "wish", "urgent"],
    "additionalProperties": False,
}


def five(rows: int) -> Iterator[Workload]:
    rng = random.Random("five")
    mails = [{"text": text(rng.lognormvariate(math.log(250), 0.6), number)} for number in range(rows)]
    in_front = {"prompt": "Answer."}
    yield Workload(
        name="labelling: 3,000 tokens of instructions, 5 out",
        rows=mails,
        options={"system": rules(3000) + "\n{{ text }}", **in_front},
        server={"answer_tokens": 5},
    )
    yield Workload(
        name="extraction: 1,000 tokens of instructions, a schema",
        rows=mails,
        options={"system": rules(1000), "prompt": "{{ text }}"},
        schema=_MAIL,
    )
    yield Workload(
        name="long answers: 200 tokens of instructions, 800 out",
        rows=mails,
        options={"system": rules(200) + "\n{{ text }}", **in_front},
        server={"answer_tokens": 800, "answer_spread": 0.5},
    )
    yield Workload(name="embeddings", rows=mails, model="mistral-embed", is_embedding=True)
    pages = [{"text": text(rng.uniform(500, 4000), number)} for number in range(rows)]
    yield Workload(
        name="like OCR: pages of 500 to 4,000 tokens, as much out",
        rows=pages,
        options={"system": rules(500), "prompt": "{{ text }}"},
    )


# --- random ones ------------------------------------------------------------------------------------------------------


def _about(rng: random.Random, least: float, most: float) -> float:
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def random_workload(seed: int, *, most_rows: int = 3000) -> Workload:
    """Instructions, rows, answers, a model and a cache of whatever size, and rows that differ in whatever way."""
    rng = random.Random(f"workload {seed}")
    rows = round(_about(rng, 300, most_rows))
    length, size, spread = _about(rng, 50, 6000), _about(rng, 10, 1000), rng.uniform(0, 1)
    sizes = [min(8000.0, rng.lognormvariate(math.log(size), spread)) for _ in range(rows)]
    answer = _about(rng, 1, 500)
    server: dict[str, Any] = {
        "cache_hits": round(rng.uniform(0.8, 1), 3),
        "seed": seed,
        "answer_tokens": round(answer),
    }
    options: dict[str, Any] = {"system": rules(length) + "\n{{ text }}", "prompt": "Answer."}
    made: list[dict[str, Any]] = [{"text": text(tokens, number)} for number, tokens in enumerate(sizes)]
    how = rng.choice(
        (
            "as it likes",
            "as long as the row",
            "limits",
            "limits that grow",
            "several systems",
            "many systems",
            "instructions last",
            "as it likes",
        )
    )
    if how == "as it likes":
        server["answer_spread"] = round(rng.uniform(0, 0.8), 2)
    elif how == "as long as the row":
        options |= {"system": rules(length), "prompt": "{{ text }}"}
        server["answer_tokens"] = 0
    elif how.startswith("limits"):
        limits = [max(1, round(answer * rng.choice((0.1, 0.5, 3)))) for _ in range(2)]
        if how == "limits that grow":
            limits = [max(1, round(answer * 0.1)), round(answer * _about(rng, 1, 20))]
            made = [row | {"most": limits[number > 0.4 * rows]} for number, row in enumerate(made)]
        else:
            made = [row | {"most": limits[rng.random() < 0.3]} for row in made]
        options["row_parameters"] = {"max_new_tokens": "most"}
        server["answer_tokens"] = 4 * max(limits)
    elif how.endswith("systems"):
        number_of = rng.randint(2, 8) if how == "several systems" else round(rows / _about(rng, 1, 40))
        longest = 4000 if how == "several systems" else 2000
        systems = [f"Shop {number}. " + rules(_about(rng, 20, longest)) for number in range(number_of)]
        chosen = [rng.choice(systems) for _ in made]
        if rng.random() < 0.3:
            chosen.sort()
        made = [
            {"messages": _messages(*pair)} for pair in zip(chosen, (row["text"] for row in made), strict=True)
        ]
        options, server["answer_tokens"] = {"parameters": {"max_new_tokens": math.ceil(answer)}}, 0
    else:
        options = {"prompt": "{{ text }}\n\n" + rules(length)}
        server["answer_tokens"] = 0
    return Workload(
        name=f"{seed}: {how}",
        rows=made,
        options=options,
        server=server,
        model=rng.choice(_MODELS),
        first_rows=rng.randint(5, 40) if rng.random() < 0.25 else 0,
    )


def _messages(system: str, said: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": said}]


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(workload: Workload) -> Result:
    """The workload by every lane."""
    bills: dict[Lane, Bill] = {}
    expected, chosen = Expected([], [], []), frozenset[int]()
    for lane in ("live", "batch", "cheapest"):
        settings = Settings(**{"requests_kept": 2 * len(workload.rows)} | workload.server)
        with tempfile.TemporaryDirectory() as folder, without_waiting(), Simulator(settings) as simulator:
            out = Path(folder) / "out.jsonl"
            if lane == "cheapest" and workload.first_rows:
                chosen = frozenset(_run(workload, lane, out, simulator, sample=workload.first_rows).live)
            bills[lane] = _run(workload, lane, out, simulator)
            bills[lane].sample += len(chosen)
            if lane == "live":
                expected = expect(workload, simulator, settings)
    return Result(workload, bills, msgspec.structs.replace(expected, chosen=chosen))


def _run(workload: Workload, lane: Lane, out: Path, simulator: Simulator, *, sample: int = 0) -> Bill:
    given: dict[str, Any] = {"model": workload.model, "endpoint": simulator.url, "api_key": "any"}
    if workload.schema is not None:
        given["structured_output"] = {"schema": workload.schema}
    llm = (MistralEmbeddings if workload.is_embedding else MistralLLM)(**given)
    run = Run(
        workload.rows, llm=llm, out=out, lane=lane, progress=False, sample=sample or None, **workload.options
    )
    report = run.start()
    assert report.completions == (sample or len(workload.rows)), report
    cost = simulator.stats().cost
    assert report.cost is not None
    assert math.isclose(report.cost, cost, rel_tol=1e-6), (report.cost, cost)
    with closing(sqlite3.connect(out.with_name("out.jsonl.ledger"))) as ledger:
        live = ledger.execute(
            "SELECT position FROM attempts AS a JOIN rows AS r ON r.id = a.row WHERE job IS NULL ORDER BY a.id"
        )
        return Bill(cost, [place for (place,) in live], run.progress.lane_sample)


def expect(workload: Workload, simulator: Simulator, settings: Settings) -> Expected:
    """By the requests of a run in which all of them were live."""
    price, rows = price_of(workload.model), len(workload.rows)
    assert price is not None
    factor, found = factors_of().batch, Expected([0.0] * rows, [0.0] * rows, [])
    if workload.is_embedding:
        each = simulator.stats().cost / rows
        return Expected([each] * rows, [each * factor] * rows, [list(range(rows))])
    hits = _hits(simulator)
    seen, alike = set[int](), dict[str, list[int]]()
    for received in simulator.requests:
        request = msgspec.convert(received.body, ChatRequest)
        read, blocks = count_prompt_tokens(request), blocks_of(request, 0)
        unseen = next((place for place, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
        written = sum(draft.completion_tokens for draft in compose(request, settings, read, None))
        cached = unseen * BLOCK_TOKENS * hits
        place = _place_of(received.body)
        alike.setdefault(received.body.get("prompt_cache_key", ""), []).append(place)
        found.live[place] = _cost(price, read, cached, written)
        in_job = _cost(price, read, cached if settings.batch_caches else 0.0, written)
        found.in_jobs[place] = factor * in_job
    return msgspec.structs.replace(found, alike=[*alike.values()])


def _hits(simulator: Simulator) -> float:
    """Which share of what could be cached was."""
    possible, seen = 0, set[int]()
    for received in simulator.requests:
        blocks = blocks_of(msgspec.convert(received.body, ChatRequest), 0)
        unseen = next((place for place, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
        possible += unseen * BLOCK_TOKENS
    return simulator.stats().cached_tokens / possible if possible else 0.0


def _place_of(body: dict[str, Any]) -> int:
    said = " ".join(message["content"] for message in body["messages"])
    found = re.search(r"row (\d{6}): ", said)
    assert found is not None, said
    return int(found[1])


def _cost(price: Price, read: int, cached: float, written: int) -> float:
    return ((read - cached) * price.input + cached * price.cached_input + written * price.output) / 1_000_000


# --- told -------------------------------------------------------------------------------------------------------------


def _row(result: Result) -> str:
    bills, expected = result.bills, result.expected
    dollars = " | ".join(f"{bill.cost:.4f}" for bill in bills.values())
    found, rows = bills["cheapest"], len(result.workload.rows)
    return (
        f"| {result.workload.name} | {rows:,} | {dollars} | {expected.oracle:.4f} | {result.above_oracle:+.1%} "
        f"| {len(found.live) / rows:.0%} | {found.sample} |"
    )


def _told(results: list[Result]) -> Iterator[str]:
    above = sorted(result.above_oracle for result in results)
    billed = {
        lane: sum(result.bills[lane].cost for result in results) for lane in ("live", "batch", "cheapest")
    }
    oracle = sum(result.expected.oracle for result in results)
    cheapest = sum(result.cheapest for result in results)
    sides = ", ".join(f"{lane} {cost / oracle - 1:+.1%}" for lane, cost in billed.items())
    yield f"{len(results)} random workloads, {sum(len(result.workload.rows) for result in results):,} rows"
    yield f"all together, above the oracle: {cheapest / oracle - 1:+.2%}; as billed: {sides}"
    most = f"{above[int(0.95 * len(above))]:+.2%} (95% of them), {above[-1]:+.2%} (the most)"
    yield f"one of them, above the oracle: {statistics.median(above):+.2%} (median), {most}"
    yield f"more than 3% above it: {sum(one > _MOST_ABOVE for one in above)}"
    dearer = sum(result.above_lane > 0 for result in results)
    yield f"above the cheaper lane alone by more than the sample cost: {dearer}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000, help="of each of the five")
    parser.add_argument("--random", type=int, default=200, help="random workloads; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the first random one")
    given = parser.parse_args()
    logging.getLogger("mistill").setLevel(logging.ERROR)
    print("| workload | rows | live $ | batch $ | cheapest $ | oracle $ | above it | went live | sample |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    if given.rows:
        for workload in five(given.rows):
            print(_row(measure(workload)), flush=True)
    results: list[Result] = []
    for seed in range(given.seed, given.seed + given.random):
        results.append(measure(random_workload(seed)))
        print(_row(results[-1]) + ("" if results[-1].above_lane <= 0 else " !"), flush=True)
    if results:
        print("\n".join(_told(results)))


if __name__ == "__main__":
    main()
