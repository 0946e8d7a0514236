"""How long the viewer takes over a large ledger, and its picture for the README.

    python -m benchmarks.viewer [--rows 1000000] [--folder FOLDER]
    python -m benchmarks.viewer --picture docs/viewer.png

The ledger is made by the library's own writer, as a run makes it: a prompt and an answer of two sentences, one row in
a hundred failed. Times are of whole HTTP requests, the ledger opened for each; CPU is the server's
and the client's, since other work on the machine changes seconds and not that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from mistill import MistralLLM, Run
from mistill.api.usage import Usage
from mistill.errors import InvalidOutput, RateLimited
from mistill.ledger import Attempt, InputRow, Ledger
from mistill.simulator import Simulator
from mistill.simulator.faults import Fault
from mistill.viewer.running import Viewer, view

MANIFEST = {
    "kind": "chat",
    "model": "mistral-small-latest",
    "prompt": {
        "prompt": "Which city? {{ text }}",
        "system": None,
        "messages_column": None,
        "prompt_column": None,
    },
    "parameters": {},
    "extra_body": None,
}
WINDOW = 500
CITIES = ("Paris", "Lyon", "Marseille", "Toulouse", "Nice", "Nantes", "Lille")


def body_of(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer = {"id": "a", "object": "chat.completion", "created": 1, "model": "mistral-small-2603"}
    return json.dumps(answer | {"choices": choices, "usage": usage}).encode()


async def make_ledger(path: Path, count: int) -> None:
    """A ledger as a run of so many rows leaves it."""
    with Ledger.open(path, MANIFEST, settings={"llm": {}, "options": {}}) as ledger:
        matcher = await ledger.match_input()
        await ledger.begin_start(b'{"version": "0", "max_concurrent_requests": 1}')
        for first in range(0, count, WINDOW):
            rows = [input_row(position) for position in range(first, min(first + WINDOW, count))]
            await matcher.known([row.digest for row in rows])
            states = await matcher.claim(rows)
            begun = await asyncio.gather(*(ledger.begin_attempts([state.row]) for state in states))
            ended = [
                end(ledger, row.position, attempt, count) for row, (attempt,) in zip(rows, begun, strict=True)
            ]
            await asyncio.gather(*ended)
        await matcher.finish()


def end(ledger: Ledger, position: int, attempt: Attempt, count: int) -> asyncio.Future[None]:
    """One row in a hundred is refused, and one alone fits no schema."""
    tokens = Usage(30, 12)
    if position == count * 9 // 10 or position % 100 == 7:
        is_rare = position == count * 9 // 10
        error = (
            InvalidOutput("it is no city", text="Mars", path="$")
            if is_rare
            else RateLimited("slow", status=429)
        )
        ledger.end_attempt(attempt, "failed", error)
        return ledger.fail(attempt.row, error, tokens=Usage())
    city = CITIES[position % len(CITIES)]
    ledger.answer(attempt, body_of(f"It is {city}, I think. The river gives it away."), tokens, 2e-5)
    return ledger.complete(attempt.row, [attempt.id], finish_reason="stop", tokens=tokens, cost=2e-5)


def input_row(position: int) -> InputRow:
    record = {
        "text": f"Letter {position}: I was in a town by a river, and there was a bridge with {position % 9} arches."
    }
    key = position.to_bytes(16, "big")
    return InputRow(position, key, key, json.dumps(record).encode())


class Browser:
    """Asks as the page does."""

    def __init__(self, viewer: Viewer) -> None:
        self._base = viewer.url.partition("/?")[0]
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._opener.open(viewer.url).read()

    def ask(self, what: str, **given: Any) -> Any:
        with self._opener.open(f"{self._base}/api/{what}?{urlencode(given)}") as response:
            return json.load(response)

    def page(self, **given: Any) -> tuple[float, float, int]:
        """Seconds to the first answer, seconds of CPU to a whole page, and how many rows it has."""
        began_at, began_cpu, found, first = time.perf_counter(), time.process_time(), 0, given.pop("first", 0)
        to_first = None
        while True:
            page = self.ask("rows", first=first, limit=100 - found, **given)
            to_first = to_first or time.perf_counter() - began_at
            found, first = found + len(page["rows"]), page["next"]
            if page["full"] or found >= 100:
                return to_first, time.process_time() - began_cpu, found


def measure(folder: Path, rows: int) -> None:
    path = folder / f"{rows}.jsonl.ledger"
    if not path.exists():
        began_at = time.perf_counter()
        asyncio.run(make_ledger(path, rows))
        print(f"made {path}: {path.stat().st_size / 1e6:,.0f} MB in {time.perf_counter() - began_at:.0f} s")
    run = f"{rows}.jsonl"
    with view(folder) as viewer:
        browser = Browser(viewer)
        for name, given in {
            "the first page": {},
            "a page from the middle": {"first": rows // 2},
            "state=failure": {"where": "state=failure"},
            "error=invalid_output, one row": {"where": "error=invalid_output"},
            "finish_reason=length, none": {"where": "finish_reason=length"},
            "a column: text=x, none": {"where": "text=x"},
            "search: Lille": {"search": "lille"},
            f"search: 'Letter {rows - 1}', one row": {"search": f"letter {rows - 1}:"},
        }.items():
            to_first, whole, found = browser.page(run=run, **given)
            print(f"{name:40} first answer {to_first:6.2f} s, whole page {whole:6.2f} s of CPU, {found} rows")
        for name, what, given in (
            ("one row", "row", {"row": rows - 1}),
            ("figures of the run", "run", {}),
            ("the same again", "run", {}),
        ):
            began_at, began_cpu = time.perf_counter(), time.process_time()
            browser.ask(what, run=run, **given)
            seconds, cpu = time.perf_counter() - began_at, time.process_time() - began_cpu
            print(f"{name:40} {seconds:6.2f} s, {cpu:6.2f} s of CPU")


# --- the picture ---------------------------------------------------------------------------------------------------


@contextmanager
def small_runs() -> Iterator[Path]:
    """Two runs as one would have them, in a folder."""
    topics = ("a refund for a lamp", "a parcel that is late", "another address", "an invoice from March")
    chance = random.Random(7)
    rows = [
        {"id": f"mail-{number}", "text": f"I write about {chance.choice(topics)}."} for number in range(240)
    ]
    schema = {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": ["refund", "delivery", "invoice"]},
            "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["category", "urgency"],
        "additionalProperties": False,
    }
    with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
        simulator.script([Fault.status(400)] * 9, when=lambda body: "from March" in str(body))
        llm = MistralLLM(
            model="mistral-small-latest",
            endpoint=simulator.url,
            structured_output={"schema": schema},
            api_key="any",
        )
        run = Run(
            rows,
            llm=llm,
            out=Path(folder, "mails.jsonl"),
            prompt="Sort this mail: {{ text }}",
            id_column="id",
        )
        run.start()
        for row, mark in ((1, "good"), (2, "bad"), (4, "good")):
            run.mark(row, mark)  # pyright: ignore[reportArgumentType]
        yield Path(folder)


def take_picture(to: str) -> None:
    from playwright.sync_api import sync_playwright

    with small_runs() as folder, view(folder, annotate=True) as viewer, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 760})
        page.goto(viewer.url)
        page.get_by_role("link", name="mails.jsonl").click()
        page.get_by_label("Cause").get_by_role("option", name="bad_request").wait_for(state="attached")
        page.keyboard.press("j")
        page.screenshot(path=to)
        browser.close()
    print(f"{to} is written")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the ledger is kept, to be measured again")
    parser.add_argument("--picture", metavar="FILE", help="takes the picture, and measures nothing")
    given = parser.parse_args()
    if given.picture:
        take_picture(given.picture)
    elif given.folder:
        given.folder.mkdir(exist_ok=True)
        measure(given.folder, given.rows)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measure(Path(temporary), given.rows)
