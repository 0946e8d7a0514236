"""What was learned of an endpoint is there for the next process: for a day, of no key, and never in the way."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.delivery.fake_clock import run_in_fake_time
from tests.delivery.model_server import ModelServer, send_rows

from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit, Governor, Snapshot
from mistill.delivery.governors import governor_for
from mistill.delivery.limits_file import LearnedLimits, LimitsFile
from mistill.errors import RateLimits
from mistill.testing import without_waiting

KEY = "a-key-that-nobody-may-read"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTILL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "limits"


def wait_for_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "mistill-limits":
            thread.join()


def start(rows: int, name: str = "a", **server: Any) -> tuple[float, int, Snapshot]:
    """A process's rows: how long they took, how many were refused, and the governor at the end."""

    async def main() -> tuple[float, int, Snapshot]:
        loop = asyncio.get_running_loop()
        governor = Governor(clock=loop.time, limits_file=LimitsFile(name, 86_400))
        passage = await send_rows(ModelServer(loop.time, **server), governor, rows)
        return passage.took_s, passage.refused, governor.snapshot()

    found = run_in_fake_time(main())
    wait_for_writers()
    return found


@pytest.mark.parametrize("settings", [{}, {"requests_per_minute": 6_000}])
def test_the_second_start_is_wide_at_once(folder: Path, settings: dict[str, Any]) -> None:
    """A plain loop of 64 takes one answer's time, at most 1.5 of the mean here, and the way there and back."""
    first, _, _ = start(64, latency_s=2.0, **settings)
    second, refused, _ = start(64, latency_s=2.0, **settings)
    assert second <= 3.1 < first
    assert refused == 0


def test_a_start_whose_rows_ran_short_before_it_was_wide_makes_the_next_one_wide(folder: Path) -> None:
    first, _, _ = start(64, latency_s=0.2)
    second, refused, _ = start(64, latency_s=0.2)
    assert second <= 0.4 < first
    assert refused == 0


def test_a_server_that_was_full_is_not_filled_again(folder: Path) -> None:
    _, first, _ = start(500, capacity=20, latency_s=1.0)
    _, second, _ = start(500, capacity=20, latency_s=1.0)
    assert 0 < second <= first


async def told(requests: int, slots: int) -> int:
    """How many leave within 0.3 s where the user has told the quota, and nothing is answered."""
    clock = asyncio.get_running_loop().time
    server = ModelServer(clock, latency_s=1_000)
    sending = asyncio.create_task(
        send_rows(
            server, Governor(clock=clock, requests_per_minute=requests), slots, max_concurrent_requests=slots
        )
    )
    await asyncio.sleep(0.3)
    sending.cancel()
    return server.accepted


def test_a_quota_that_is_told_is_all_that_holds_back_a_first_start() -> None:
    assert run_in_fake_time(told(6_000, 128)) == 128


def test_an_estimate_is_taken_up_and_a_window_that_was_just_used_is_waited_for(folder: Path) -> None:
    quota: dict[str, Any] = {"requests_per_minute": 60, "reports_limits": False, "latency_s": 0.1}
    _, refused, snapshot = start(120, **quota)
    assert refused > 5
    (learned,) = written(folder)
    assert learned.source == "inferred"
    assert learned.requests_per_minute == snapshot.requests_per_minute
    took_s, refused, snapshot = start(60, **quota)
    assert snapshot.requests_source == "inferred"
    assert refused <= 2  # what probes find out
    assert took_s > 5  # the model server of this start is new, but nobody can know


def test_a_quota_that_the_server_no_longer_tells_is_forgotten_with_its_first_answer(folder: Path) -> None:
    start(10, requests_per_minute=60)
    _, _, snapshot = start(10)
    assert snapshot.requests_per_minute is None
    start(10, requests_per_minute=60)
    _, _, snapshot = start(10, requests_per_minute=6_000)
    assert snapshot.requests_per_minute == 6_000


def written(folder: Path) -> list[LearnedLimits]:
    return [msgspec.json.decode(path.read_bytes(), type=LearnedLimits) for path in folder.iterdir()]


def settle_one(governor_of: Callable[[], AnyGovernor]) -> None:
    async def main() -> None:
        governor = governor_of()
        permit = governor.try_admit(ConcurrencyLimit(8), 1)
        assert permit is not None
        governor.settle(permit, limits=RateLimits(requests_limit=600, requests_remaining=599))

    asyncio.run(main())
    wait_for_writers()


def test_a_governor_of_the_process_writes_for_its_owner_alone_and_never_the_key(folder: Path) -> None:
    settle_one(lambda: governor_for("https://a.example", KEY, "m"))
    (path,) = folder.iterdir()
    assert KEY.encode() not in path.read_bytes()
    assert KEY not in path.name
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (learned,) = written(folder)
    assert (learned.requests_per_minute, learned.source) == (600, "server")
    assert governor_for("https://a.example", KEY, "m").snapshot().requests_per_minute == 600
    assert governor_for("https://a.example", "another", "m").snapshot().requests_per_minute is None


def test_without_waiting_nothing_is_kept_and_nothing_read(folder: Path) -> None:
    settle_one(lambda: governor_for("https://b.example", KEY, "m"))
    with without_waiting():
        assert governor_for("https://b.example", KEY, "m").snapshot().requests_per_minute is None
        settle_one(lambda: governor_for("https://c.example", KEY, "m"))
    assert len(list(folder.iterdir())) == 1


DAMAGED = [
    b"",
    b"\xff\x00",
    b"[]",
    b'{"version":1}',
    b'{"version":2,"learned_at":%d,"in_flight":64}',
    b'{"version":1,"learned_at":%d,"in_flight":-5}',
    b'{"version":1,"learned_at":%d,"in_flight":64,"requests_per_minute":0,"source":"server"}',
    b'{"version":1,"learned_at":%d,"in_flight":64,"requests_per_minute":1e-9,"source":"server"}',
    b'{"version":1,"learned_at":%d,"in_flight":64,"tokens_per_minute":1e300,"source":"server"}',
    b'{"version":1,"learned_at":%d,"in_flight":4000000000}',
    b'{"version":1,"learned_at":%d,"in_flight":64,"used_tokens":4000000000000000000}',
    b"[" * 4096,
    b'{"a":' * 4096,
    b'{"version":1,"learned_at":1e400,"in_flight":64}',
    b'{"version":1,"learned_at":0,"in_flight":64}',
    b'{"version":1,"learned_at":99999999999,"in_flight":64}',
]


@pytest.mark.parametrize("data", DAMAGED)
def test_what_is_damaged_too_old_or_of_another_version_is_as_if_it_were_not_there(
    folder: Path, data: bytes
) -> None:
    folder.mkdir(parents=True)
    path = folder / "a.json"
    path.write_bytes(data % int(time.time()) if b"%d" in data else data)
    assert LimitsFile("a", 86_400).read() is None
    took_s, _, _ = start(8, latency_s=0.1)
    assert took_s < 1
    assert LimitsFile("a", 86_400).read() is not None  # made good


def test_a_cache_that_cannot_be_written_is_in_nobodys_way(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("no directory")
    assert start(8, latency_s=0.1)[0] < 1


def test_files_of_long_ago_are_cleared_away(folder: Path) -> None:
    folder.mkdir(parents=True)
    old = folder / "old.json"
    old.write_text("{}")
    os.utime(old, (0, 0))
    start(8, latency_s=0.1)
    assert [path.name for path in folder.iterdir()] == ["a.json"]
