"""``python -m benchmarks.prompt_cache``: what runs have cached, of what they could have, and what that saves.

Each workload is run twice against the simulator, with caching by itself and with ``prompt_cache=False``. What could
have been cached is counted afterwards, from the requests as they came: whole blocks of 64 tokens at the beginning of a
prompt that an earlier one had begun with, whatever the keys and whenever it came. The cache is hit by 98% of
the requests with a key, and by 2% of those without.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from mistill import MistralLLM, Run
from mistill.api.usage import BLOCK_TOKENS
from mistill.runs.report import RunReport
from mistill.simulator import Settings, Simulator
from mistill.simulator.prompt_cache import blocks_of
from mistill.simulator.requests import ChatRequest

_MODEL = "mistral-small-latest"
_LATENCY_S = 0.03
_RULES = "Decide what the customer wants, and answer in one word. "
_TEXT = "I bought it last week and it does not work any more. "


class Wish(BaseModel):
    kind: Literal["refund", "repair", "other"]
    urgent: bool


class Workload(msgspec.Struct):
    """Rows, and how they are asked."""

    name: str
    rows: list[dict[str, Any]]
    settings: dict[str, Any]
    schema: Any = None


def workloads(rows: int) -> Iterator[Workload]:
    texts = [{"text": f"mail {number}: " + _TEXT * (1 + number % 20)} for number in range(rows)]
    long, short = _RULES * 210, _RULES * 20
    yield Workload(
        "3,000 tokens of instructions, then the row", texts, {"system": long, "prompt": "{{ text }}"}
    )
    yield Workload("300 tokens of instructions in the prompt", texts, {"prompt": short + "{{ text }}"})
    yield Workload("the same, with a schema", texts, {"prompt": short + "{{ text }}"}, Wish)
    languages = [row | {"language": ("de", "fr", "it")[number % 3]} for number, row in enumerate(texts)]
    yield Workload(
        "a system message that differs at its end",
        languages,
        {"system": short + "Answer in {{ language }}.", "prompt": "{{ text }}"},
    )
    systems = [f"You work for shop {number}. " + short for number in range(8)]
    conversations = [
        {
            "messages": [
                {"role": "system", "content": systems[number % 8]},
                {"role": "user", "content": row["text"]},
            ]
        }
        for number, row in enumerate(texts)
    ]
    yield Workload("rows with one of 8 system messages", conversations, {})
    yield Workload("instructions after the row", texts, {"prompt": "{{ text }}\n\n" + long})
    yield Workload("nothing in common", texts, {"prompt": "{{ text }}"})


def possible_tokens(simulator: Simulator) -> int:
    """What could have been cached of all that came."""
    seen = set[int]()
    found = 0
    for received in simulator.requests:
        request = msgspec.convert(received.body, ChatRequest)
        blocks = blocks_of(msgspec.structs.replace(request, prompt_cache_key=None), 0)
        found += next((place for place, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
    return found * BLOCK_TOKENS


def measure(workload: Workload, folder: Path, *, prompt_cache: bool) -> tuple[RunReport, int]:
    """The report of a run, and the tokens that it could have had cached."""
    structured = None if workload.schema is None else {"schema": workload.schema}
    settings = Settings(latency_s=_LATENCY_S, requests_kept=2 * len(workload.rows))
    with Simulator(settings) as simulator:
        llm = MistralLLM(model=_MODEL, endpoint=simulator.url, api_key="any", structured_output=structured)
        run = Run(
            workload.rows,
            llm=llm,
            out=folder / f"{prompt_cache}.jsonl",
            fresh=True,
            progress=False,
            prompt_cache=prompt_cache,
            **workload.settings,
        )
        report = run.start()
        billed = simulator.stats()
        assert (report.cached_tokens, report.input_tokens) == (billed.cached_tokens, billed.input_tokens)
        return report, possible_tokens(simulator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000, help="of each workload")
    rows: int = parser.parse_args().rows
    print("| workload | tokens in | possible | cached | hit rate | $ without | $ with |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for workload in workloads(rows):
            with_cache, possible = measure(workload, Path(folder), prompt_cache=True)
            without, _ = measure(workload, Path(folder), prompt_cache=False)
            rate = f"{with_cache.cached_tokens / possible:.1%}" if possible else "–"
            print(
                f"| {workload.name} | {with_cache.input_tokens:,} | {possible / with_cache.input_tokens:.0%} "
                f"| {with_cache.cached_tokens / with_cache.input_tokens:.0%} | {rate} "
                f"| {without.cost:.3f} | {with_cache.cost:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
