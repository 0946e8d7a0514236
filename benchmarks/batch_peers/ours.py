"""The batch lane of this project, as ``benchmarks.batch_faults`` runs the others: a script, its rows, a folder.

``batch_tail=0``: nothing is asked live, so that the lane alone is measured.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mistill import MistralLLM, Run
from mistill.api.client import MistralClient
from mistill.errors import MistillError


def main(given: str) -> None:
    """One start."""
    asked = json.loads(given)
    if asked["dies"]:
        _die_once_created()
    llm = MistralLLM(model=asked["model"], endpoint=asked["url"], api_key="benchmark")
    rows = json.loads(Path(asked["rows"]).read_text())
    out = Path(asked["folder"], "answers.jsonl")
    run = Run(rows, llm=llm, prompt="{{ text }}", out=out, lane="batch", batch_tail=0, progress=False)
    said: dict[str, Any] = {"said": "", "error": None}
    try:
        report = run.start()
        is_done = report.is_finished and not report.failures and report.stopped is None
        said["said"] = "complete" if is_done else str(report)
    except MistillError as error:
        said["error"] = f"{type(error).__name__}: {error}"
    said["answers"] = [
        (str(record["id"]), record["generation"])
        for record in run.results()
        if record["generation"] is not None
    ]
    Path(asked["out"]).write_text(json.dumps(said))


def _die_once_created() -> None:
    """The process is killed as soon as its client has the answer to a job's creation."""
    create = MistralClient.create_job

    async def created(*arguments: Any, **named: Any) -> Any:
        await create(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    MistralClient.create_job = created


if __name__ == "__main__":
    main(sys.argv[1])
