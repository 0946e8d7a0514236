"""A run on Ray: a real cluster of two nodes on this machine, whose workers and drivers are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from tests.libraries import library

from mistill import InputError, MistralLLM, Run
from mistill.delivery import governors
from mistill.delivery.sharing.place import Door
from mistill.ledger.lock import holder_of, is_held
from mistill.runs.report import RunReport
from mistill.shards import channel, ray_workers
from mistill.shards.workers import Setup
from mistill.simulator import Settings, Simulator

_ROWS = 400
_KEY = "a-key-that-is-in-no-log"
_FLIGHT = 16


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one CPU each. This process is not connected: a driver is, for as long as it drives."""
    library("ray")
    cluster_utils = library("ray.cluster_utils")
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(Settings(latency_s=0.1, requests_kept=10 * _ROWS)) as simulator:
        yield simulator


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"row {n}"}) + "\n" for n in range(_ROWS)))
    return path


def _llm(simulator: Simulator, **settings: Any) -> MistralLLM:
    return MistralLLM(
        model="mistral-small-latest",
        endpoint=simulator.url,
        api_key=SecretStr(_KEY),
        max_concurrent_requests=_FLIGHT,
        **settings,
    )


def _command(rows: Path, out: Path, simulator: Simulator, address: str) -> list[str]:
    command = [sys.executable, "-m", "mistill", "run", str(rows), "--out", str(out), "--prompt", "{{ text }}"]
    llm = ["--model", "mistral-small-latest", "--endpoint", simulator.url]
    return [
        *command,
        *llm,
        "--max-concurrent-requests",
        str(_FLIGHT),
        "--on",
        f"ray://{address}",
        "--shards",
        "6",
    ]


def _holders(folder: Path) -> list[int]:
    """Processes that work on a shard."""
    found = (holder_of(path) for path in sorted(folder.glob("shard-*.ledger")) if is_held(path))
    return [process for process in found if process is not None]


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_and_drivers_that_are_killed_cost_no_row_and_all_ask_the_governor_of_the_driver(
    cluster: Any,
    rows: Path,
    tmp_path: Path,
    simulator: Simulator,
    runtime_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", _KEY)
    out, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.ledger"
    log = tmp_path / "driver.log"
    with log.open("w") as stderr:
        driver = subprocess.Popen(
            _command(rows, out, simulator, cluster.address), stdout=stderr, stderr=stderr
        )
    simulator.wait_until(lambda: simulator.answered > 40 or driver.poll() is not None, timeout_s=60)
    simulator.change(latency_s=1.0)  # so that there is enough to do until another worker is there
    killed, *_ = _holders(folder)
    os.kill(killed, signal.SIGKILL)
    simulator.wait_until(lambda: killed not in (now := _holders(folder)) and len(now) == 2, timeout_s=60)
    simulator.wait_until(lambda: simulator.in_flight > _FLIGHT, timeout_s=60)
    driver.kill()
    driver.wait()
    simulator.wait_until(lambda: simulator.in_flight == 0 and not _holders(folder), timeout_s=60)
    answered = simulator.answered
    simulator.change(latency_s=0.1)
    assert f"a worker died (process {killed} on " in log.read_text(), log.read_text()

    run = Run(
        rows,
        llm=_llm(simulator, requests_per_minute=60_000),
        out=out,
        prompt="{{ text }}",
        on=f"ray://{cluster.address}",
    )
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(run.start()))
    thread.start()
    simulator.wait_until(lambda: simulator.in_flight > _FLIGHT, timeout_s=60)
    (hosted,) = (
        one
        for host in governors._participant._hosts.values()
        if isinstance(host.place, Door)
        for one in host._hosted.values()
    )
    assert len(hosted.guests) == 2
    assert hosted.governor is not None
    assert hosted.governor.snapshot().requests_source == "user"
    run.pause()
    simulator.wait_until(lambda: simulator.in_flight == 0)
    standing = {
        one.name: one for one in run.set(max_concurrent_requests=64, requests_per_minute=30_000).settings
    }
    assert (standing["requests_per_minute"].value, standing["requests_per_minute"].told) == (30_000, None)
    assert hosted.governor.snapshot().requests_per_minute == 30_000
    run.resume()
    thread.join(120)

    (report,) = reports
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(_ROWS))
    assert (report.completions, report.rows) == (_ROWS, _ROWS)
    assert simulator.answered - answered == report.sent
    asked = Counter(
        str(one.body["messages"][-1]["content"]) for one in simulator.requests if one.status == 200
    )
    paid_twice = sum(asked.values()) - len(asked)
    assert paid_twice <= report.maybe_billed <= 3 * _FLIGHT
    session = Path(cluster.head_node.get_session_dir_path())
    logs = [path for path in session.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(logs) > 10
    assert [path for path in logs if _KEY.encode() in path.read_bytes()] == []


def test_a_worker_that_hangs_is_ended_and_gives_its_cpu_back(
    cluster: Any, rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "_SILENT_S", 5.0)
    out, folder = tmp_path / "out.jsonl", tmp_path / "out.jsonl.ledger"
    run = Run(
        rows, llm=_llm(simulator), out=out, prompt="{{ text }}", on=f"ray://{cluster.address}", shards=2
    )
    reports: list[RunReport] = []
    simulator.change(latency_s=1.0)
    thread = threading.Thread(target=lambda: reports.append(run.start()))
    thread.start()
    simulator.wait_until(lambda: len(_holders(folder)) == 2, timeout_s=60)
    stopped, _ = _holders(folder)
    os.kill(stopped, signal.SIGSTOP)
    try:
        simulator.wait_until(lambda: not _is_there(stopped), timeout_s=60)
    finally:
        simulator.change(latency_s=0.1)
        with suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    thread.join(120)
    (report,) = reports
    assert report.completions == _ROWS
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == list(range(_ROWS))


def test_a_node_that_cannot_work_on_the_run_says_so_and_nothing_is_sent(
    cluster: Any, rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, answered = cluster.address, simulator.answered
    monkeypatch.chdir(tmp_path)
    elsewhere = Path("/proc/self/cwd/answers")  # for each process another one
    ray = library("ray")
    ray.init(address, log_to_driver=False)
    try:
        with pytest.raises(
            InputError, match=r"a node of the Ray cluster, does not see the folder /proc/self/cwd/"
        ):
            Run(rows, llm=_llm(simulator), out=elsewhere, prompt="{{ text }}", on="ray").start()
        monkeypatch.setattr(ray_workers, "__version__", "0.0.1")
        with pytest.raises(
            InputError, match=r"a node of the Ray cluster, has mistill .*, and this is 0\.0\.1"
        ):
            Run(
                rows, llm=_llm(simulator), out=tmp_path / "a", prompt="{{ text }}", on=f"ray://{address}"
            ).start()
        with pytest.raises(InputError, match="connected to another Ray cluster"):
            Run(
                rows, llm=_llm(simulator), out=tmp_path / "b", prompt="{{ text }}", on="ray://127.0.0.1:1"
            ).start()
    finally:
        ray.shutdown()
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        Run(
            rows, llm=_llm(simulator), out=tmp_path / "b", prompt="{{ text }}", on="ray://127.0.0.1:1"
        ).start()
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.5:10001")
    with pytest.raises(
        InputError, match=r"RAY_ADDRESS is ray://10\.0\.0\.5:10001, the address of Ray Client"
    ):
        Run(rows, llm=_llm(simulator), out=tmp_path / "b", prompt="{{ text }}", on="ray").start()
    assert simulator.answered == answered


def test_workers_that_could_not_be_begun_leave_nothing_behind(tmp_path: Path) -> None:
    called: list[tuple[str, int]] = []

    class Ray:
        """As much of it as begins tasks, the second of which it refuses."""

        cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)
        exceptions = SimpleNamespace(RayError=RuntimeError)

        def remote(self, work: Any) -> Any:
            return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._begin))

        def _begin(self, address: tuple[str, int], *_: Any) -> str:
            called.append(address)
            if len(called) == 2:
                raise RuntimeError("the cluster is gone")
            return "a task"

        def cancel(self, task: str, *, force: bool = False) -> None:
            assert (task, force) == ("a task", False)

        def wait(self, tasks: list[str], **_: Any) -> tuple[list[str], list[str]]:
            return tasks, []

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        ray_workers.RayWorkers(Ray(), "127.0.0.1", 3, Setup(b"", {}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(called[0])
    with pytest.raises(InputError, match="cannot write into the folder of the ledgers") as refused:
        ray_workers.RayWorkers(Ray(), "127.0.0.1", 3, Setup(b"", {}), tmp_path / "missing")
    assert refused.traceback[-1].frame.f_locals["self"]._listening.fileno() == -1


def test_where_a_cluster_may_want_a_token_that_is_said(
    rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:  # all that Ray 2.60 says, but for what it writes itself
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1")

    ray = ModuleType("ray")
    node = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
    vars(ray).update(is_initialized=lambda: False, util=node, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        on = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(InputError, match="Failed to connect to Ray cluster") as refused:
            Run(rows, llm=_llm(simulator), out=tmp_path / "a", prompt="{{ text }}", on=on).start()
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless ~/.ray/auth_token here is that" in str(
        refused.value
    )


def test_without_ray_it_is_said_what_installs_it(
    rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"a run on Ray needs ray \(pip install .*ray"):
        Run(rows, llm=_llm(simulator), out=tmp_path / "a", prompt="{{ text }}", on="ray").start()
