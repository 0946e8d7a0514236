"""The picture of the live view for the README: what a terminal of 80 columns shows while a run goes on.

    python -m benchmarks.progress --picture docs/live.svg

The run is a real one, in the simulator, with a quota, faults and a cache; the view is taken when some of its rows are
done, and drawn as the terminal draws it.
"""

from __future__ import annotations

import argparse
import io
import re
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from mistill import MistralLLM, Run
from mistill.progress.screens import Drawn
from mistill.progress.view import View
from mistill.simulator import Fault, Settings, Simulator

_ROWS = 4_000
_COLUMNS = 80
_TAKEN_AT = 0.5
_REFUSED = 40
_COMMAND = (
    "mistill run mails.jsonl --out sorted.jsonl --model mistral-small-latest \\\n"
    "    --schema mail.json --prompt-file sort.txt"
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"enum": ["refund", "delivery", "praise", "other"]},
        "reply": {"type": "string"},
    },
    "required": ["category", "reply"],
    "additionalProperties": False,
}
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
"""Rich has the reader's browser fetch a font from elsewhere."""


def some_view() -> View:
    """Of a run that goes on."""
    settings = Settings(
        latency_s=0.4,
        latency_distribution="lognormal",
        requests_per_minute=6_000,
        faults={"503": 0.02},
        cache_hits=0.9,
    )
    views: list[View] = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder), Simulator(settings) as simulator:
        simulator.script([Fault.status(400)] * _REFUSED, when=lambda body: "lamp" in str(body))
        llm = MistralLLM(
            model="mistral-small-latest",
            endpoint=simulator.url,
            api_key="any",
            structured_output={"schema": _SCHEMA},
            max_concurrent_requests=128,
        )
        Run(
            [{"text": f"Mail {n}: my {'lamp' if n % 150 == 0 else 'parcel'} is late."} for n in range(_ROWS)],
            llm=llm,
            out="sorted.jsonl",
            system="You sort the mails of a shop, and answer each in a sentence. " * 20,
            prompt="Sort this mail:\n{{ text }}",
            progress=False,
            on_progress=views.append,
        ).start()
    return next(view for view in views if view.done >= _TAKEN_AT * _ROWS)


def picture(target: Path) -> None:
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {_COMMAND}", "bold"))
    console.print(Drawn(some_view()))
    svg = console.export_svg(title="mistill run", theme=MONOKAI, unique_id="mistill")
    target.write_text(_FONTS.sub("", svg), "utf-8")
    print(f"{target} is written")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE")
    given: Any = parser.parse_args()
    picture(given.picture.absolute())


if __name__ == "__main__":
    main()
