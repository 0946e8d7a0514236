"""Curator's batches with Mistral, run in curator's own environment by ``benchmarks.batch_faults``.

As its documentation has it: a subclass of ``curator.LLM`` with ``batch=True`` and ``backend="mistral"``, called with a
dataset; the same call again goes on from its working folder. Its settings are its own, but for the interval of its
looks, which is the shortest that it takes. At the second start ``require_all_responses`` is off, which its error of the
first names: so it gives what there is. It takes no address (this backend reads no ``base_url``): the one in the SDK
below it is changed, and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import mistralai.sdkconfiguration
from bespokelabs import curator

from datasets import Dataset


class Echo(curator.LLM):
    """The rows' own texts as prompts."""

    def prompt(self, input: dict[str, Any]) -> str:  # noqa: A002  its own name for it
        return input["text"]

    def parse(self, input: dict[str, Any], response: str) -> dict[str, Any]:  # noqa: A002  its own name for it
        return {"id": input["id"], "answer": response}


def main(given: str) -> None:
    """One start."""
    asked = json.loads(given)
    mistralai.sdkconfiguration.SERVERS["eu"] = asked["url"]
    if asked["dies"]:
        _die_once_created()
    out: dict[str, Any] = {"said": "", "error": None, "answers": []}
    try:
        llm = Echo(
            model_name=asked["model"],
            batch=True,
            backend="mistral",
            backend_params={"batch_check_interval": 1, "require_all_responses": asked["start"] == 1},
        )
        rows = Dataset.from_list(json.loads(Path(asked["rows"]).read_text()))
        response = llm(rows, working_dir=asked["folder"])
        out["answers"] = [(str(row["id"]), row["answer"]) for row in response.dataset]
        out["said"] = "complete"
        if response.failed_requests_path and response.failed_requests_path.stat().st_size:
            out["said"] = f"failed requests in {response.failed_requests_path.name}"
    except Exception as error:
        traceback.print_exc()
        out["error"] = f"{type(error).__name__}: {error}"
    Path(asked["out"]).write_text(json.dumps(out))


def _die_once_created() -> None:
    """The process is killed as soon as its client has the answer to a job's creation."""
    from mistralai.mistral_jobs import MistralJobs

    create = MistralJobs.create

    def created(*arguments: Any, **named: Any) -> Any:
        create(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    MistralJobs.create = created


if __name__ == "__main__":
    main(sys.argv[1])
