"""``models``, ``chat``, ``simulate``, ``local serve``."""

from __future__ import annotations

import http.client
import json
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from tests.api.raw_server import RawServer, response
from tests.cli.conftest import Answers, Mistill, RunOf, Spawn
from tests.conftest import Simulate
from tests.libraries import library

from mistill.cli.program import program
from mistill.llms.event_loop import background
from mistill.simulator import Fault, Settings, Simulator
from mistill.testing import without_waiting

# --- models ---------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_their_prices(mistill: Mistill, simulator: Simulator) -> None:
    ended = mistill("models", "--endpoint", simulator.url)
    assert ended.code == 0
    rows = {line.split("\t")[0]: line.split("\t") for line in ended.stdout.splitlines()}
    assert rows["mistral-small-2603"][1:3] == ["131,072", "0.15 / 0.6"]
    assert rows["voxtral-small-latest"][2] == "0.1 / 0.4, 0.004 / min"
    assert list(rows) == sorted(rows)


def test_models_cost_what_they_cost_at_that_host(
    mistill: Mistill, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("prices.toml").write_text("[models.scan]\npage = 0.004\n")
    monkeypatch.setenv(
        "HTTP_PROXY", simulate(models=["mistral-small-latest", "mistral-ocr-latest", "scan"]).url
    )
    region = ("--endpoint", "http://api.eu.mistral.ai", "--allow-http")
    ended = mistill("models", *region, "--prices", "prices.toml")
    rows = {line.split("\t")[0]: line.split("\t") for line in ended.stdout.splitlines()}
    assert rows["mistral-small-latest"][2] == "0.165 / 0.66"
    assert rows["mistral-ocr-latest"][2] == "4.4 / 1,000 pages (5.5 annotated)"
    assert rows["scan"][2] == "4.4 / 1,000 pages"


def test_models_are_json_where_it_is_wanted(mistill: Mistill, simulator: Simulator) -> None:
    Path("prices.toml").write_text('[models."magistral-medium-latest"]\ninput = 1\noutput = 2\n')
    cards = mistill("models", "--endpoint", simulator.url, "--json", "--prices", "prices.toml").json
    card = next(card for card in cards if card["id"] == "magistral-medium-latest")
    assert card["usd_per_million_tokens"] == {"input": 1.0, "output": 2.0, "cached_input": 0.1}
    card = next(card for card in cards if card["id"] == "voxtral-small-latest")
    assert (card["usd_per_minute"], card["usd_per_1000_pages"]) == (0.004, None)
    assert card["prices_of"] == "2026-08-01"


def test_a_refused_key_is_told(mistill: Mistill, simulate: Simulate) -> None:
    ended = mistill("models", "--endpoint", simulate(api_keys={"other"}).url)
    assert ended.code == 3
    assert "MISTRAL_API_KEY" in ended.stderr


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_list_of_models_that_does_not_come_is_no_failure_of_a_row(mistill: Mistill, status: int) -> None:
    server = RawServer(response({"detail": "not this"}, status))
    background.run(server.__aenter__())
    with without_waiting():
        ended = mistill("models", "--endpoint", server.url)
    assert (ended.code, server.requests) == (3, 8 if status == 500 else 1)
    server.answers = [response({"detail": "not now"}, 503), response({"data": [{"id": "m"}]})]
    server.requests = 0
    with without_waiting():
        ended = mistill("models", "--endpoint", server.url)
    background.run(server.__aexit__(None, None, None))
    assert (ended.code, server.requests) == (0, 2)
    assert "the list of models did not come, and is asked for again: not now" in ended.stderr


# --- chat -----------------------------------------------------------------------------------------------------------


def test_chat_streams_the_answer(mistill: Mistill, simulator: Simulator) -> None:
    ended = mistill(
        "chat", "Hello", "--endpoint", simulator.url, "--system", "Be kind.", "--temperature", "0.2"
    )
    assert (ended.code, ended.stdout, ended.stderr) == (0, "Echo: Hello\n", "")
    body = simulator.requests[0].body
    assert (body["stream"], body["temperature"], body["model"]) == (True, 0.2, "mistral-small-latest")
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}


def test_chat_reads_stdin(spawn: Spawn, simulator: Simulator) -> None:
    process = spawn("chat", "-", "--endpoint", simulator.url)
    out, _ = process.communicate("from a pipe")
    assert out == "Echo: from a pipe\n"


def test_chat_checks_an_answer_that_must_fit(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script(["nonsense", '{"name": "Ada"}'])
    schema = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
    ended = mistill("chat", "Who?", "--endpoint", simulator.url, "--schema", schema)
    assert ended.code == 0
    assert json.loads(ended.stdout) == {"name": "Ada"}


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Fault.status(400, {"message": "no such thing"}), 1, "no such thing"),
        (Fault.status(401, {"message": "Unauthorized"}), 3, "MISTRAL_API_KEY"),
        ("nonsense", 1, "the answer"),
    ],
)
def test_a_chat_that_must_fit_and_fails_says_why(
    mistill: Mistill, simulator: Simulator, fault: Fault | str, code: int, words: str
) -> None:
    simulator.script([fault] * 3)
    schema = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
    given = ["--endpoint", simulator.url, "--schema", schema, "--schema-retries", "0", "--max-retries", "0"]
    ended = mistill("chat", "Who?", *given)
    assert ended.code == code
    assert words in ended.stderr
    assert "internal error" not in ended.stderr
    assert "rows failed" not in ended.stderr


def test_chat_says_when_an_answer_was_cut(mistill: Mistill, simulator: Simulator) -> None:
    ended = mistill("chat", "one two three four five", "--endpoint", simulator.url, "--max-new-tokens", "2")
    assert ended.code == 0
    assert "raise --max-new-tokens" in ended.stderr


def test_a_stream_that_breaks_off_is_an_error(mistill: Mistill, simulator: Simulator) -> None:
    simulator.script([Fault.cut_stream()])
    ended = mistill("chat", "Hello", "--endpoint", simulator.url)
    assert ended.code == 1
    assert ended.stderr.startswith("error: ")


def test_a_blank_prompt_is_refused(mistill: Mistill, simulator: Simulator) -> None:
    assert mistill("chat", " ", "--endpoint", simulator.url).code == 2
    assert simulator.requests == []


# --- simulate -------------------------------------------------------------------------------------------------------


def test_the_simulator_tells_its_address_and_ends_with_ctrl_c(mistill: Mistill, spawn: Spawn) -> None:
    library("aiohttp")
    process = spawn("simulate", "--port", "0", "--poison", "word 1", "--fault", "503=0.2", "--seed", "1")
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stdout.readline().split()[-1]
    assert mistill("chat", "Hello", "--endpoint", url).stdout == "Echo: Hello\n"
    assert mistill("chat", "word 1", "--endpoint", url).code == 1
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert f"--endpoint {url}" in process.stderr.read()


def test_every_setting_of_one_word_or_number_is_an_option() -> None:
    command = program.get_command(click.Context(program), "simulate")
    assert command is not None
    names = {param.name for param in command.params}
    assert set(Settings.model_fields) - names == {"api_keys", "admin_keys", "models", "faults"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--fault", "503"], "not of the form NAME=RATE"),
        (["--fault", "503=often"], "'often' is not a number"),
        (["--fault", "503=0.9", "--fault", "500=0.9"], "add up to 1.8"),
        (["--fault", "404=0.1"], "--fault: "),
        (["--latency-s", "-1"], "--latency-s: input should be greater than or equal to 0"),
        (["--outage", "partly"], "'partly' is not one of"),
    ],
)
def test_what_cannot_be_simulated_is_told(mistill: Mistill, given: list[str], message: str) -> None:
    ended = mistill("simulate", "--port", "0", *given)
    assert ended.code == 2
    assert message in ended.stderr


def test_a_port_that_is_taken_is_told(mistill: Mistill, simulator: Simulator) -> None:
    ended = mistill("simulate", "--port", str(urlsplit(simulator.url).port))
    assert ended.code == 2
    assert (
        f"cannot listen at 127.0.0.1, port {urlsplit(simulator.url).port}: Address already in use"
        in ended.stderr
    )
    assert "--port 0 takes a free one" in ended.stderr


# --- local ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="the local model needs pip install 'mistill[local]'"
)
def test_the_demo_model_is_served_until_ctrl_c(spawn: Spawn) -> None:
    process = spawn("local", "serve", "--slots", "1")
    assert process.stdout is not None
    url = next(line for line in process.stdout if " answers at " in line).split()[-1]
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


def test_a_chat_file_is_exported_and_what_is_left_out_is_said(
    mistill: Mistill, run_of: RunOf, answers: Answers, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.change(poison="word 1")
    assert mistill(*run_of(3)).code == 1
    ended = mistill("export", "answers.jsonl", "--to", "sft.jsonl", "--as", "chat")
    assert ended.code == 0
    assert "left out of sft.jsonl: 1 row that failed" in caplog.text
    said = [line["messages"][-1]["content"] for line in answers("sft.jsonl")]
    assert said == ["Echo: Say word 0", "Echo: Say word 2"]
    ended = mistill("export", "answers.jsonl", "--to", "x.jsonl", "--as", "chat", "--turn", "user=txt")
    assert ended.code == 2
    assert "--turn: there is no column 'txt'" in ended.stderr


def test_rows_with_a_column_of_the_name_of_ours_are_shown_as_the_hint_says(
    mistill: Mistill, run_of: RunOf
) -> None:
    arguments = run_of(1)
    Path(arguments[1]).write_text('{"text": "a", "prompt": "its own"}\n')
    mistill(*arguments)
    refused = mistill("rows", "answers.jsonl", "--extra-column", "prompt")
    assert refused.code == 2
    for way in ("--column prompt=new_prompt", "--earlier drop", "--earlier first_"):
        assert way in refused.stderr
        ended = mistill("rows", "answers.jsonl", "--extra-column", "prompt", *way.split())
        assert (ended.code, "Say a" in ended.stdout) == (0, True)
        assert ("its own" in ended.stdout) == (way != "--earlier drop")


@pytest.mark.parametrize("length", [300, 250])
def test_a_name_that_is_too_long_for_a_file_is_told_shortly(
    mistill: Mistill, run_of: RunOf, length: int
) -> None:
    name = f"{'x' * length}.jsonl"
    for arguments in (run_of(1, out=name), ["status", name], ["rows", name], ["run", name, *run_of(1)[2:]]):
        ended = mistill(*arguments)
        told, hint = ended.stderr.splitlines()[-2:]
        assert ended.code in (2, 3)
        assert told.startswith("error: the name of a file is too long: xxx")
        assert len(told) < 150
        assert "--ledger" in hint
