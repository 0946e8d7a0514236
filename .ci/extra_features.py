"""What each extra is for, in a few lines: run by .ci/extras in an environment that has that extra and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENDPOINT = os.environ.get("MISTILL_TEST_ENDPOINT", "")
MODEL = "mistral-small-latest"


def command(*words: str) -> str:
    return subprocess.run(["mistill", *words], check=True, capture_output=True, text=True).stdout


def write_rows(name: str, rows: list[dict[str, object]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def try_uvloop() -> None:
    from mistill.llms.event_loop import background

    async def loop_module() -> str:
        import asyncio

        return type(asyncio.get_running_loop()).__module__

    assert background.run(loop_module()).startswith("uvloop")
    run_rows("answers.jsonl")


def run_rows(out: str) -> None:
    write_rows("rows.jsonl", [{"text": "a marathon"}, {"text": "a sprint"}])
    model = ["--model", MODEL, "--endpoint", ENDPOINT]
    command("run", "rows.jsonl", "--out", out, *model, "--prompt", "Describe {{ text }}.")


def try_arrow() -> None:
    from mistill.datasets.sources import open_source

    for out in ("answers.parquet", "answers.arrow", "answers.jsonl.zst"):
        run_rows(out)
        assert [row.record["generation"] for row in open_source(out)] == [
            "Echo: Describe a marathon.",
            "Echo: Describe a sprint.",
        ]


def try_ray() -> None:
    write_rows("rows.jsonl", [{"text": f"a run of {number} km"} for number in range(10)])
    model = ["--model", MODEL, "--endpoint", ENDPOINT]
    command("run", "rows.jsonl", "--out", "answers.jsonl", *model, "--prompt", "{{ text }}", "--on", "ray")
    assert len(Path("answers.jsonl").read_text().splitlines()) == 10


def try_excel() -> None:
    from mistill.datasets.sources import open_source

    run_rows("answers.xlsx")
    assert [row.record["text"] for row in open_source("answers.xlsx")] == ["a marathon", "a sprint"]


def try_remote() -> None:
    """The web alone needs no account and no server but one of Python's own."""
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    import fsspec

    from mistill.datasets.sources import open_source

    run_rows("answers.jsonl")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=".")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rows = list(open_source(f"http://127.0.0.1:{server.server_port}/answers.jsonl"))
        server.shutdown()
    assert [row.record["text"] for row in rows] == ["a marathon", "a sprint"]
    os.environ |= {
        "AZURE_STORAGE_ACCOUNT_NAME": "a",
        "AZURE_STORAGE_ACCOUNT_KEY": "YQ==",
        "AWS_DEFAULT_REGION": "any",
    }
    os.environ |= {"FSSPEC_GS_TOKEN": "anon"}
    for scheme in ("s3", "gs", "az", "hf"):  # each by its own library
        fsspec.filesystem(scheme)


def try_sql() -> None:
    from mistill.datasets.sources import open_source

    for kind in ("sqlite", "duckdb"):
        run_rows(f"{kind}:///answers.{kind}?table=answers")
        rows = open_source(f"{kind}:///answers.{kind}?query=SELECT * FROM answers ORDER BY text")
        assert [row.record["text"] for row in rows] == ["a marathon", "a sprint"]
    try:
        open_source("postgresql://127.0.0.1:9/none?table=t")
    except Exception as error:
        assert "connection" in str(error)


def try_dedupe() -> None:
    write_rows("v.jsonl", [{"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.001]}, {"embedding": [0.0, 1.0]}])
    command("dedupe", "v.jsonl", "--to", "unique.jsonl")
    assert len(Path("unique.jsonl").read_text().splitlines()) == 2


def try_report() -> None:
    run_rows("answers.jsonl")
    command("report", "answers.jsonl")
    assert "<svg" in Path("answers.report.html").read_text()


def try_simulator() -> None:
    from mistill import MistralLLM
    from mistill.simulator import Simulator

    with Simulator() as simulator:
        assert MistralLLM(model=MODEL, endpoint=simulator.url).complete(["Hi"])[0][0].text == "Echo: Hi"


def try_local() -> None:
    """The weights come from an index too, which may not have them: then it says so."""
    from mistill.errors import MistillError
    from mistill.local import LocalModel

    try:
        with LocalModel() as model:
            assert model.endpoint.startswith("http://127.0.0.1")
    except MistillError as error:
        assert "weights" in str(error), error
        print(f"no weights here: {error}")


def try_instructor() -> None:
    from pydantic import BaseModel

    from mistill import MistralLLM

    class User(BaseModel):
        name: str

    llm = MistralLLM(model=MODEL, endpoint=ENDPOINT, structured_output={"schema": User, "mode": "tools"})
    (user,) = llm.parse(["A user."], User)
    assert isinstance(user, User)


def try_view() -> None:
    import urllib.request

    import mistill

    run_rows("answers.jsonl")
    with mistill.view(".") as viewer, urllib.request.urlopen(viewer.url) as page:
        assert page.status == 200
        assert b"/page/app.js" in page.read()


def try_otel() -> None:
    """The API alone, with a provider of our own: the SDK is the user's to choose."""
    from opentelemetry import trace

    from mistill import MistralLLM

    names: list[str] = []

    class Tracer(trace.NoOpTracer):
        def start_span(self, name: str, *arguments: Any, **settings: Any) -> trace.Span:
            names.append(name)
            return super().start_span(name, *arguments, **settings)

    class Provider(trace.TracerProvider):
        def get_tracer(self, *arguments: Any, **settings: Any) -> trace.Tracer:  # noqa: ARG002
            return Tracer()

    trace.set_tracer_provider(Provider())
    MistralLLM(model=MODEL, endpoint=ENDPOINT).generate(["Hi"])
    assert names == [f"chat {MODEL}", "POST /v1/chat/completions"], names


def try_distilabel() -> None:
    from mistill.integrations.distilabel import MistralLLM

    llm = MistralLLM(model=MODEL, endpoint=ENDPOINT)
    llm.load()
    (output,) = llm.generate(inputs=[[{"role": "user", "content": "Hi"}]])
    assert output["generations"] == ["Echo: Hi"]


FEATURES: dict[str, Callable[[], None]] = {
    name.removeprefix("try_"): function for name, function in globals().items() if name.startswith("try_")
}

if __name__ == "__main__":
    FEATURES[sys.argv[1]]()
