"""The simulator as a thing that runs: counts, threads, live changes, processes, both event loops."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from pydantic import SecretStr
from tests.conftest import Simulate
from tests.libraries import library
from tests.simulator.conftest import Ask

from mistill.simulator import STATS_PATH, Fault, FaultName, Settings, Simulator, SimulatorProcess


def test_requests_are_remembered_without_the_key(simulator: Simulator, ask: Ask) -> None:
    ask(simulator, "Hi", key="a-very-secret-key")
    ask(simulator, key=None, raw=b"{broken")
    first, second = simulator.requests
    assert first.path == "/v1/chat/completions"
    assert first.body["messages"] == [{"role": "user", "content": "Hi"}]
    assert first.headers["authorization"] == "present"
    assert first.headers["content-type"] == "application/json"
    assert "authorization" not in second.headers
    assert second.body is None
    assert [first.status, second.status] == [200, 401]
    assert first.received_at <= second.received_at
    assert "secret" not in repr(vars(simulator)) + repr(simulator.requests) + repr(first.headers)


def test_accepted_keys_are_in_no_repr() -> None:
    settings = Settings(api_keys=frozenset({SecretStr("a-very-secret-key")}))
    assert "secret-key" not in repr(settings) + str(settings.model_dump())


def test_only_the_newest_requests_are_kept(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_kept=2)
    for text in ("a", "b", "c"):
        ask(simulator, text)
    assert [each.body["messages"][0]["content"] for each in simulator.requests] == ["b", "c"]
    simulator.change(requests_kept=1)
    assert [each.body["messages"][0]["content"] for each in simulator.requests] == ["c"]
    assert simulator.answered == 3


def test_requests_in_flight_are_counted_at_once_and_at_most(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(latency_s=0.05)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: ask(simulator).status, range(24)))
    assert statuses == [200] * 24
    assert 1 < simulator.peak_in_flight <= 8
    assert simulator.in_flight == 0
    assert simulator.counts_by_status == {200: 24}


def test_the_peak_of_one_connection_is_one(simulator: Simulator) -> None:
    """An answered request has left the count before its client can send the next."""
    connection = http.client.HTTPConnection(simulator.url.removeprefix("http://"))
    raw = b'{"model":"mistral-small-latest","stream":true,"messages":[{"role":"user","content":"a"}]}'
    for _ in range(200):
        connection.request("POST", "/v1/chat/completions", raw, {"Authorization": "Bearer a"})
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    connection.close()
    assert simulator.peak_in_flight == 1


def test_a_client_that_gives_up_is_no_longer_in_flight(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(latency_s=60)
    with pytest.raises(TimeoutError):
        ask(simulator, timeout_s=0.1)
    simulator.wait_until(lambda: simulator.in_flight == 0)
    assert simulator.counts_by_status == {0: 1}


@pytest.mark.parametrize("distribution", ["fixed", "uniform", "lognormal"])
def test_latency_is_drawn_around_its_setting(simulate: Simulate, ask: Ask, distribution: str) -> None:
    simulator = simulate(latency_s=0.002, latency_distribution=distribution, latency_spread=0.5)
    assert [ask(simulator).status for _ in range(5)] == [200] * 5


def test_changes_are_checked_and_leave_the_rest_alone(simulate: Simulate) -> None:
    simulator = simulate(seed=3, latency_s=0.1)
    changed = simulator.change(latency_s=0.2)
    assert (changed.seed, changed.latency_s) == (3, 0.2)
    assert simulator.settings == changed
    with pytest.raises(ValueError):
        simulator.change(latency_s=-1)
    assert simulator.settings == changed


def test_changes_from_many_threads_all_arrive(simulator: Simulator, ask: Ask) -> None:
    threads = [
        threading.Thread(target=lambda: [simulator.change(latency_s=0.001), ask(simulator)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert simulator.settings.latency_s == 0.001
    assert simulator.answered == 8


def test_it_ends_with_requests_in_flight_and_twice(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(latency_s=60)
    waiting = threading.Thread(target=_ask_in_vain, args=(ask, simulator))
    waiting.start()
    simulator.wait_until(lambda: simulator.in_flight == 1)
    simulator.close()
    simulator.close()
    waiting.join(5)
    assert not waiting.is_alive()


def _ask_in_vain(ask: Ask, simulator: Simulator) -> None:
    with pytest.raises(OSError):
        ask(simulator)


def test_outside_its_block_it_has_no_url() -> None:
    library("aiohttp")
    with pytest.raises(RuntimeError, match="with"):
        _ = Simulator().url


def test_waiting_for_what_does_not_come_is_an_error(simulator: Simulator) -> None:
    with pytest.raises(TimeoutError):
        simulator.wait_until(lambda: False, timeout_s=0.01)


def test_the_plain_event_loop_serves_too(
    simulate: Simulate, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # importing it fails, as where it is not installed
    simulator = simulate()
    assert ask(simulator).content == "Echo: Hello"
    assert ask(simulator, stream=True).text.endswith("data: [DONE]\n\n")
    simulator.change(outage="refuse")
    with pytest.raises(ConnectionRefusedError):
        ask(simulator)
    simulator.change(outage=None)
    assert ask(simulator).status == 200


def test_a_process_of_its_own(ask: Ask) -> None:
    with SimulatorProcess(Settings(api_keys=frozenset({SecretStr("right")}))) as process:
        assert ask(process, key="wrong").status == 401
        assert ask(process, key="right").status == 200
        process.change(outage="503")
        assert ask(process, key="right").status == 503
        stats = process.stats()
        assert (stats.requests, stats.answered, stats.in_flight, stats.peak_in_flight) == (3, 1, 0, 1)
        assert stats.counts_by_status == {"200": 1, "401": 1, "503": 1}
    with pytest.raises(RuntimeError):
        process.stats()


def test_the_manual_names_every_setting_and_fault() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
    named = set(re.findall(r"`([^`\n]+)`", manual))
    assert set(Settings.model_fields) <= named
    assert set(get_args(FaultName)) <= named


SERVE = """
from mistill.simulator import FaultName, Settings, serve
serve(Settings(), port=0, on_ready=lambda url: print(url, flush=True))
print("ended cleanly")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_in_the_foreground_ends_with_a_signal(ask: Ask, number: int) -> None:
    class Served:
        url: str

    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        Served.url = process.stdout.readline().strip()
        assert ask(Served).status == 200
        process.send_signal(number)
        assert process.stdout.read() == "ended cleanly\n"
        assert process.wait(10) == 0


def test_it_tells_over_http_what_it_answered(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(embedding_dimension=4)
    simulator.script([Fault.html(), Fault.status(503), Fault.truncate(), "an answer"])
    for _ in range(4):
        with suppress(Exception):  # one is cut
            ask(simulator)
    with urllib.request.urlopen(f"{simulator.url}{STATS_PATH}") as answer:
        stats = json.loads(answer.read())
    assert stats == msgspec.to_builtins(simulator.stats())
    assert (stats["requests"], stats["answered"], stats["pages"]) == (4, 1, 1)
    assert stats["counts_by_status"] == {"0": 1, "200": 2, "503": 1}
    assert stats["input_tokens"] > 0
    assert simulator.answered == 1
    assert [request.path for request in simulator.requests] == [
        "/v1/chat/completions"
    ] * 4  # looking is not counted


def test_the_command_tells_at_its_end() -> None:
    command = [sys.executable, "-m", "mistill", "simulate", "--port", "0", "--fault", "html=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split()[-1]
    job = {"endpoint": "/v1/embeddings", "requests": [{"body": {}}]}
    for path, body in (("/v1/chat/completions", {}), ("/v1/batch/jobs", job)):
        request = urllib.request.Request(
            f"{url}{path}", json.dumps(body).encode(), {"Authorization": "Bearer k"}
        )
        urllib.request.urlopen(request).close()
    while b"SUCCESS" not in urllib.request.urlopen(f"{url}{STATS_PATH}").read():
        pass
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "2 requests, at most 1 at once\n1 answer: 0 tokens in, 0 out\n" in told
    assert "1 batch job: 1 SUCCESS\n0 lines billed at half the price: 0 tokens in, 0 out\n" in told
    assert "1 file never deleted\n1 page of HTML\n" in told
