"""One distilabel pipeline on one server, with each class that could run it: time, requests, rows answered.

    python -m benchmarks.pipeline [--rows 1000] [--batch 50]

The server is the simulator, in a process of its own: 0.2 s for an answer; once faultless, once with a fault in every
fifth request. Each run is a process of its own, with an empty cache. Needs the extras ``distilabel`` and
``simulator``, and the package ``mistralai`` for the original's row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from mistill.simulator import Settings, SimulatorProcess

LATENCY_S = 0.2
FAULTS = {"503": 0.05, "disconnect": 0.05, "truncate": 0.05, "html": 0.05}
MODEL = "mistral-small-latest"
LLMS = {
    "mistill.integrations.distilabel.MistralLLM": "endpoint",
    "distilabel.models.MistralLLM": "endpoint",
    "distilabel.models.OpenAILLM": "base_url",
}
TIMEOUT_S = 600
FRAMEWORKS_BATCH = 50


def run_pipeline(class_path: str, endpoint: str, rows: int, batch: int) -> dict[str, Any]:
    """In a child process: one pipeline, from its start to its table."""
    import importlib
    import logging

    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import TextGeneration

    module, _, name = class_path.rpartition(".")
    where = {"endpoint": endpoint} if LLMS[class_path] == "endpoint" else {"base_url": f"{endpoint}/v1"}
    llm = getattr(importlib.import_module(module), name)(model=MODEL, api_key="a-key", **where)
    data = [{"instruction": f"row {index}"} for index in range(rows)]
    with tempfile.TemporaryDirectory() as cache, Pipeline(name="benchmark", cache_dir=cache) as pipeline:
        LoadDataFromDicts(data=data, batch_size=batch) >> TextGeneration(llm=llm, input_batch_size=batch)
        started_at = time.perf_counter()
        try:
            table = pipeline.run(use_cache=False)["default"]["train"]
        except RuntimeError as error:
            logging.disable()
            return {"error": f"{type(error.__cause__).__name__}: {error.__cause__}"}
        seconds = time.perf_counter() - started_at
    right = sum(row["generation"] == f"Echo: {row['instruction']}" for row in table)
    return {"seconds": seconds, "rows": table.num_rows, "answered": right}


def measure(class_path: str, rows: int, batch: int, faults: dict[str, float]) -> dict[str, Any]:
    settings = Settings(latency_s=LATENCY_S, faults=faults)  # pyright: ignore[reportArgumentType]  checked there
    with SimulatorProcess(settings) as simulator:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.pipeline", "--child", class_path]
        ended = subprocess.run(
            [*command, "--endpoint", simulator.url, "--rows", str(rows), "--batch", str(batch)],
            env=os.environ | {"PYTHONWARNINGS": "ignore", "DISTILABEL_LOG_LEVEL": "CRITICAL"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        counts = simulator.stats().counts_by_status
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(ended.stderr[-2000:])
    return json.loads(lines[-1]) | {"requests": sum(counts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=FRAMEWORKS_BATCH)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        result = run_pipeline(arguments.child, arguments.endpoint, arguments.rows, arguments.batch)
        print("\n" + json.dumps(result))
        return
    print("| class | faults | time | requests | rows answered |\n|---|---|---|---|---|")
    for class_path in LLMS:
        for named, faults in (("none", {}), ("20%", FAULTS)):
            result = measure(class_path, arguments.rows, arguments.batch, faults)
            if "error" in result:
                print(f"| `{class_path}` | | | | does not load: `{result['error']}` |", flush=True)
                break
            print(
                f"| `{class_path}` | {named} | {result['seconds']:.1f} s | {result['requests']} "
                f"| {result['answered']} of {arguments.rows} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
