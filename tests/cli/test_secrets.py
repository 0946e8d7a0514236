"""What is secret in an address is in nothing that anybody sees or keeps, however the address is written."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from tests.libraries import library

from mistill import MistralLLM, Run
from mistill.cli import main
from mistill.datasets import far_places
from mistill.errors import MistillError
from mistill.simulator import Simulator

SECRET = "s3cr3t-value"
ADDRESSES = [
    "http://me:{}@127.0.0.1:1/a.jsonl",
    "http://me:x/{}@127.0.0.1:1/a.jsonl",
    "http://me:1/{}@127.0.0.1:1/a.jsonl",
    "https://127.0.0.1:1/a.jsonl?sig={}#{}",
    "postgresql://me:{}@127.0.0.1:1/db?table=t",
    "postgresql:/me:{}@127.0.0.1:1/db?table=t",
    "postgresql://me:{}@127.0.0.1:1/db?sslmode={}&table=t",
    "postgresql://127.0.0.1:1/db?%70assword={}&odd={}&table=t",
    "postgresql://127.0.0.1:{}/db?table=t",
    "s3://key:{}/x@bucket/a.jsonl",
    "sqlite:///a.db?query=SELECT '{}' FROMM t",
    "duckdb:///a.db?query=SELECT '{}' FROMM t",
    "simplecache::https://me:{}@host/a.jsonl",
    " https://me:{}@host/a.jsonl",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_command_and_no_error_tells_what_is_secret_in_an_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("aiohttp", "s3fs", "psycopg", "duckdb", "pyarrow"):
        library(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MISTILL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(far_places, "WAITS_S", ())
    Path("in.jsonl").write_text('{"text": "a"}\n')
    library("duckdb").connect("a.db").close() if address.startswith("duckdb") else Path("a.db").touch()
    secret = address.replace("{}", SECRET)
    told: list[str] = []
    with Simulator() as simulator:
        model = ["--model", "mistral-small-latest", "--endpoint", simulator.url, "--prompt", "{{ text }}"]
        for command in (
            ["run", secret, "--out", "out.jsonl", *model, "--debug"],
            ["run", "in.jsonl", f"--out={secret}", *model, "--debug"],
            ["run", "in.jsonl", "--out", "out.jsonl", "--ledger", secret, *model],
            ["run", "in.jsonl", "--out", "out.jsonl", *model, "--schema", secret],
            ["run", "in.jsonl", "--out", "out.jsonl", *model, "--prices", secret],
            ["dedupe", secret, "--to", secret],
            ["status", secret],
        ):
            main(command)
        for source, out in ((secret, "out.jsonl"), ("in.jsonl", secret), (Path(secret), Path(secret))):
            llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
            with pytest.raises(MistillError) as raised:
                Run(source, llm=llm, prompt="{{ text }}", out=out).start()
            told += traceback.format_exception(raised.value)
        requests = len(simulator.requests)
    # An output on the web can be found wanting only once there is something to send.
    assert requests == (1 if address.startswith(("http://me:{}", "https://127")) else 0)
    captured = capfd.readouterr()
    assert SECRET not in captured.out + captured.err + "".join(told)
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
