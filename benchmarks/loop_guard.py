"""``python -m benchmarks.loop_guard``: what is saved where answers repeat themselves without end, and what it costs
where none does.

Both against the simulator in a process of its own, which bills a stream that its client leaves as far as it had been
made. First, a share of the structured answers loops, in white space, digits and a text alike, until ``max_new_tokens``.
Then none does, and answers of several lengths are asked for with the guard and without: CPU time of this process for
each row, and how long a run took. A row has the CPU time of all that a run does, ledger and output included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from mistill import MistralLLM, Run
from mistill.api.loop_guard import LoopGuard
from mistill.simulator import Settings, SimulatorProcess

_MODEL = "mistral-small-latest"
_LOOPS = ("loop_space", "loop_digits", "loop_text")
_TOKEN_TIME_S = 0.002
_AT_ONCE = 16


class Measured(Struct):
    """Of one run, with what the simulator billed."""

    answered: int
    failed: int
    output_tokens: int
    cost: float
    seconds: float
    cpu_ms_per_row: float


def schema_of(tokens: int) -> dict[str, Any]:
    """Answers of about so many tokens, by the simulator's count."""
    text = {"type": "string", "minLength": 4 * tokens - 20, "maxLength": 4 * tokens - 20}
    return {
        "type": "object",
        "properties": {"text": text, "n": {"type": "integer"}},
        "required": ["text", "n"],
    }


def measured(settings: Settings, rows: int, tokens: int, *, guard: bool, max_new_tokens: int) -> Measured:
    with SimulatorProcess(settings) as simulator, tempfile.TemporaryDirectory() as directory:
        llm = MistralLLM(
            model=_MODEL,
            endpoint=simulator.url,
            api_key="any",
            structured_output={"schema": schema_of(tokens)},
            max_concurrent_requests=_AT_ONCE,
            timeout=600,
        )
        began, cpu_began = time.perf_counter(), time.process_time()
        report = Run(
            [{"text": f"row {number}"} for number in range(rows)],
            llm=llm,
            prompt="{{ text }}",
            out=Path(directory, "out.jsonl"),
            parameters={"max_new_tokens": max_new_tokens},
            loop_guard=guard,
        ).start()
        cpu_s, took_s = time.process_time() - cpu_began, time.perf_counter() - began
        stats = simulator.stats()
        return Measured(
            report.completions,
            report.failures,
            stats.output_tokens,
            stats.cost,
            took_s,
            cpu_s / rows * 1000,
        )


def looking_us(text: str) -> float:
    """CPU time of the guard alone for each 80 tokens, which it looks at together."""
    pieces = [text[start : start + 320] for start in range(0, len(text), 320)]
    began = time.process_time()
    guard = LoopGuard()
    for piece in pieces:
        guard.feed(piece)
    return (time.process_time() - began) / len(pieces) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.03, help="of answers that loop")
    parser.add_argument("--max-new-tokens", type=int, default=8192)
    given = parser.parse_args()

    print("| guard | answered | failed | tokens out, billed | $ | seconds |")
    print("|---|--:|--:|--:|--:|--:|")
    for guard in (False, True):
        looping = Settings(faults=dict.fromkeys(_LOOPS, given.share / 3), token_time_s=_TOKEN_TIME_S)
        one = measured(looping, given.rows, 50, guard=guard, max_new_tokens=given.max_new_tokens)
        print(
            f"| {'on' if guard else 'off'} | {one.answered} | {one.failed} | {one.output_tokens:,} | {one.cost:.4f} "
            f"| {one.seconds:.1f} |"
        )

    print("\n| tokens of an answer | CPU per row, off | on | seconds, off | on |")
    print("|--:|--:|--:|--:|--:|")
    for tokens in (25, 100, 400, 1600):
        rows = max(50, given.rows * 25 // tokens)
        off, on = (
            measured(
                Settings(token_time_s=_TOKEN_TIME_S),
                rows,
                tokens,
                guard=guard,
                max_new_tokens=given.max_new_tokens,
            )
            for guard in (False, True)
        )
        print(
            f"| {tokens:,} | {off.cpu_ms_per_row:.2f} ms | {on.cpu_ms_per_row:.2f} ms | {off.seconds:.1f} "
            f"| {on.seconds:.1f} |"
        )

    fields = json.dumps([{"name": f"row {number}", "score": number} for number in range(20_000)])
    words = json.dumps([" ".join(f"word {number}" for number in range(50_000))])
    looked = f"{looking_us(fields):.1f} µs in fields, {looking_us(words):.1f} µs in a long text"
    print(f"\nlooking, for each 80 tokens: {looked}")


if __name__ == "__main__":
    main()
