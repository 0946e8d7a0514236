"""How long the page of a large run takes, and its picture for the README.

    python -m benchmarks.report [--rows 1000000] [--folder FOLDER]
    python -m benchmarks.report --picture docs/report.png      needs Debian's chromium, and playwright

The ledger is made by the library's own writer, see ``benchmarks.viewer``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import resource
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

from benchmarks.viewer import make_ledger
from mistill import MistralLLM, Run
from mistill.runs.report import read_report
from mistill.simulator import Settings, Simulator

_WORDS = (
    "parcel",
    "late",
    "broken",
    "refund",
    "please",
    "help",
    "invoice",
    "wrong",
    "thanks",
    "order",
    "size",
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": ["refund", "delivery", "praise", "other"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
        "amount": {"type": "number", "minimum": 0, "maximum": 500},
        "reply": {"type": "string"},
    },
    "required": ["category", "urgency", "amount", "reply"],
    "additionalProperties": False,
}
_SECTIONS = ("in-short", "time", "answers")


def measure(rows: int, folder: Path) -> None:
    ledger = folder / f"{rows}.ledger"
    asyncio.run(make_ledger(ledger, rows))
    began_s, began_cpu = time.perf_counter(), time.process_time()
    page = read_report(ledger).to_html()
    cpu_s, seconds = time.process_time() - began_cpu, time.perf_counter() - began_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{rows:,} rows: {seconds:.1f} s, {cpu_s:.1f} s of CPU, {len(page) / 1024:,.0f} KB, {peak:,.0f} MB at the most"
    )


def picture(target: Path) -> None:
    """The page of a run with faults and a quota."""
    rng = random.Random(0)
    rows: list[dict[str, Any]] = [
        {"id": f"mail-{n}", "text": " ".join(rng.choices(_WORDS, k=rng.randint(5, 60)))} for n in range(1_500)
    ]
    faults: dict[str, Any] = {"503": 0.05, "length": 0.02, "wrong_json": 0.05}
    settings = Settings(
        latency_s=0.3,
        latency_distribution="lognormal",
        requests_per_minute=6_000,
        faults=faults,
        cache_hits=0.9,
    )
    with tempfile.TemporaryDirectory() as folder, chdir(folder), Simulator(settings) as simulator:
        llm = MistralLLM(
            model="mistral-small-latest",
            endpoint=simulator.url,
            api_key="any",
            structured_output={"schema": _SCHEMA},
        )
        run = Run(
            rows,
            llm=llm,
            out="mails.jsonl",
            system="You sort the mails of a shop. " * 12,
            prompt="Sort this mail:\n{{ text }}",
            id_column="id",
            parameters={"max_new_tokens": 200},
        )
        page = Path(folder, "mails.html")
        run.start().save(page)
        _shoot(page, target)


def _shoot(page: Path, target: Path) -> None:
    """Some sections, one below the other, in few colours: the file is small."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1000, "height": 800})
        shown.goto(page.as_uri())
        shots = [shown.locator(f"#{section}").screenshot() for section in _SECTIONS]
        browser.close()
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    whole = Image.new("RGB", (images[0].width + 40, sum(image.height for image in images) + 20), "white")
    top = 10
    for image in images:
        whole.paste(image, (20, top))
        top += image.height
    whole.quantize(128).save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.picture is not None:
        picture(given.picture.absolute())
        return
    for rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder or Path.cwd()) as folder:
            measure(rows, Path(folder))


if __name__ == "__main__":
    main()
