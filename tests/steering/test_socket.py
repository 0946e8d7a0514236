"""The socket by which a start is steered: where it is, who may use it, and what may come over it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.permissions import BOUND_BY_MODES

from mistill.errors import InputError, LedgerError
from mistill.ledger.files import lock_of
from mistill.ledger.lock import LedgerLock
from mistill.progress.view import View
from mistill.steering import client, server
from mistill.steering.address import MAX_ADDRESS_BYTES, addresses, find_address, make_address, sweep
from mistill.steering.client import Control
from mistill.steering.orders import Answer, Order, SettingState, Standing
from mistill.steering.server import OrderServer

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Path]:
    """One that is held by a start."""
    path = tmp_path / "out.jsonl.ledger"
    path.touch()
    lock = LedgerLock(path)
    yield path
    lock.release()


@pytest.fixture(autouse=True)
def runtime(runtime_dir: Path) -> Path:
    return runtime_dir


class Obedient:
    """Obeys, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Order, str]] = []
        self.is_told = asyncio.Event()
        self.waits = asyncio.Event()
        self.waits.set()

    async def obey(self, order: Order, by: str) -> Answer:
        self.told.append((order, by))
        self.is_told.set()
        await self.waits.wait()
        if order.do == "resume":
            raise LedgerError("the disk is full")
        if order.do == "stop":
            raise ZeroDivisionError
        standing = Standing(
            process=os.getpid(),
            paused_s=None,
            is_stopping=False,
            in_flight=3,
            settings=[SettingState("max_cost", 20.5), SettingState("max_tokens_total", None, "12 used")],
        )
        return Answer(standing=standing, told="done")

    def view(self, *, is_last: bool = False) -> View:
        self.is_told.set()
        return View(total=7, completions=len(self.told), is_last=is_last)


@asynccontextmanager
async def served(ledger: Path) -> AsyncIterator[Obedient]:
    steered = Obedient()
    server = OrderServer(ledger, steered)
    await server.open()
    try:
        yield steered
    finally:
        await server.close()


def send(address: Path, data: bytes) -> bytes:
    """What is answered to raw bytes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(address))
        with suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file:
            return file.read()


async def test_an_order_is_obeyed_and_who_gave_it_is_known(ledger: Path) -> None:
    async with served(ledger) as steered:
        standing = await asyncio.to_thread(Control(ledger).set, max_cost=20.5, deadline=None)
        assert [(one.name, one.value, one.told) for one in standing.settings] == [
            ("max_cost", 20.5, None),
            ("max_tokens_total", None, "12 used"),
        ]
    ((order, by),) = steered.told
    assert order == Order("set", {"max_cost": 20.5, "deadline": None})
    assert f"(process {os.getpid()})" in by or sys.platform != "linux"


async def test_errors_come_back_as_they_are(ledger: Path) -> None:
    async with served(ledger):
        with pytest.raises(LedgerError, match="the disk is full"):
            await asyncio.to_thread(Control(ledger).resume)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            await asyncio.to_thread(Control(ledger).stop)
        assert (await asyncio.to_thread(Control(ledger).standing)).in_flight == 3


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"\0\xff\n",
        b"[]\n",
        b'{"do": "explode"}\n',
        b'{"do": "set", "settings": 3}\n',
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"do": "' + b"x" * 200_000 + b'"}\n',
        b'{"do": "view"',
        b"{" * 50_000 + b"\n",
    ],
)
async def test_what_is_no_order_hurts_nobody(ledger: Path, line: bytes) -> None:
    async with served(ledger) as steered:
        address = find_address(ledger)
        assert address is not None
        answer = await asyncio.to_thread(send, address, line)
        for one in answer.splitlines():
            assert "the run does not know this order" in json.loads(one)["error"]["message"]
        assert steered.told == []
        assert (await asyncio.to_thread(Control(ledger).standing)).in_flight == 3


async def test_an_order_that_is_nested_too_deep_is_answered(ledger: Path) -> None:
    line = b'{"do": "set", "settings": {"max_cost": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}\n"
    async with served(ledger):
        address = find_address(ledger)
        assert address is not None
        answer = json.loads(await asyncio.to_thread(send, address, line))
    assert "the run does not know this order" in answer["error"]["message"]


async def test_an_order_that_is_being_obeyed_as_the_start_ends_is_answered(ledger: Path) -> None:
    steered = Obedient()
    server = OrderServer(ledger, steered)
    await server.open()
    steered.waits.clear()
    ordered = asyncio.create_task(asyncio.to_thread(Control(ledger).pause))
    await steered.is_told.wait()
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0)
    steered.waits.set()
    assert (await ordered).in_flight == 3
    await closing
    assert find_address(ledger) is None


async def test_who_watches_hears_of_the_end(ledger: Path) -> None:
    seen: list[View] = []

    def watch() -> None:
        seen.extend(Control(ledger).views(30.0))

    async with served(ledger) as steered:
        watching = asyncio.create_task(asyncio.to_thread(watch))
        await steered.is_told.wait()
        steered.told.append((Order("show"), "me"))
    await watching
    assert [(view.completions, view.is_last) for view in seen] == [(0, False), (1, True)]


async def test_who_watches_one_that_is_silent_for_long_hears_of_its_end_all_the_same(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_ANSWERS_WITHIN_S", 1.0)
    views = Control(ledger).views(every_s=30.0)
    async with served(ledger):
        assert not (await asyncio.to_thread(next, views)).is_last
        watching = asyncio.create_task(asyncio.to_thread(list[View], views))
        await asyncio.wait({watching}, timeout=1.5)  # longer than an order is waited for
        assert not watching.done()
    assert [view.is_last for view in await watching] == [True]


async def test_one_watcher_too_many_is_told_so(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 1)
    views = Control(ledger).views(every_s=30.0)
    async with served(ledger):
        await asyncio.to_thread(next, views)
        with pytest.raises(InputError, match="watched or steered by 1 others, which is as many"):
            await asyncio.to_thread(Control(ledger).standing)
    assert [view.is_last for view in await asyncio.to_thread(list[View], views)] == [True]


async def test_a_socket_that_a_killed_start_has_left_is_in_nobodys_way(ledger: Path) -> None:
    address = make_address(ledger)
    assert address is not None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(address))
    with pytest.raises(InputError, match="takes no orders from here"):
        Control(ledger, begins_within_s=0).standing()
    async with served(ledger):
        assert (await asyncio.to_thread(Control(ledger).standing)).in_flight == 3


def test_sockets_that_killed_starts_have_left_are_cleared_away(ledger: Path) -> None:
    address = make_address(ledger)
    assert address is not None
    old, new, alive = (address.with_name(f"orders-{name}") for name in ("old", "new", "alive"))
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(str(old))
        second.bind(str(new))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(alive))
        listening.listen()
        for path in (old, alive):
            os.utime(path, (0.0, time.time() - 3600))
        sweep(address.parent)
        assert sorted(path.name for path in address.parent.iterdir()) == ["orders-alive", "orders-new"]


def test_no_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no start of the run in"):
        Control(tmp_path / "none.ledger").pause()


def test_a_start_without_a_socket_cannot_be_steered(ledger: Path) -> None:
    with pytest.raises(InputError) as refused:
        Control(ledger, begins_within_s=0).pause()
    assert f"the run goes on in process {os.getpid()}, and takes no orders from here" in str(refused.value)


# --- where it is ------------------------------------------------------------------------------------------------------


def test_both_ends_find_it_whatever_their_environment_says(
    ledger: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    made = make_address(ledger)
    assert made is not None
    monkeypatch.setenv("TMPDIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(made))
    assert find_address(ledger) == made
    made.unlink()


def test_it_goes_by_the_ledger_and_not_by_how_its_path_is_written(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = ledger.parent.with_name("link")
    link.symlink_to(ledger.parent)
    monkeypatch.chdir(ledger.parent)
    names = (ledger, link / ledger.name, Path(ledger.name), Path("..", ledger.parent.name, ledger.name))
    assert len({make_address(name) for name in names}) == 1
    assert make_address(ledger.with_name("another.ledger")) != make_address(ledger)


def test_no_address_is_longer_than_one_may_be(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = ledger.parent / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    long_ledger = deep / ("l" * 200)
    for address in addresses(long_ledger):
        assert len(os.fsencode(address)) <= MAX_ADDRESS_BYTES
    assert make_address(long_ledger) is not None


def test_a_folder_into_which_others_can_look_is_not_used(ledger: Path, runtime: Path) -> None:
    folder = runtime / "mistill"
    folder.mkdir(mode=0o755)
    address = make_address(ledger)
    assert address is None or address.parent != folder
    folder.chmod(0o700)
    address = make_address(ledger)
    assert address is not None
    assert address.parent == folder


def test_a_link_in_the_place_of_the_folder_is_not_followed(ledger: Path, runtime: Path) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "mistill").symlink_to(runtime / "elsewhere")
    address = make_address(ledger)
    assert address is None or address.parent != runtime / "mistill"


AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(10)
    try:
        connection.connect(sys.argv[1])
        connection.sendall(b'{"do": "stop"}\\n')
        print(connection.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("opened", [False, True], ids=["by the folder", "by who has connected"])
async def test_no_other_user_is_obeyed(ledger: Path, runtime: Path, opened: bool) -> None:
    async with served(ledger) as steered:
        address = find_address(ledger)
        assert address is not None
        os.chmod(runtime, 0o755)  # noqa: PTH101
        if opened:  # somebody has changed their modes
            os.chmod(address.parent, 0o755)  # noqa: PTH101
            os.chmod(address, 0o666)  # noqa: PTH101
        command: list[Any] = [sys.executable, "-c", AS_NOBODY, address]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd="/")
        expected = ("b''", "ConnectionResetError", "BrokenPipeError") if opened else ("PermissionError",)
        assert ended.stdout.strip() in expected, ended.stderr
        assert steered.told == []


@pytest.mark.parametrize("goes_on", [True, False], ids=["it goes on", "it was killed"])
def test_of_a_run_of_another_user_nobody_says_whether_it_goes_on(tmp_path: Path, goes_on: bool) -> None:
    path = tmp_path / "out.jsonl.ledger"
    path.touch()
    lock = LedgerLock(path)
    if not goes_on:
        lock.release(keep=True)
    lock_of(path).chmod(0)
    order = f"import pathlib, mistill.steering.client as it; it.Control(pathlib.Path({str(path)!r})).pause()"
    ended = subprocess.run(
        [*BOUND_BY_MODES, sys.executable, "-c", order], capture_output=True, text=True, check=False
    )
    told = f"has started the run in {path}: this user may not see whether it goes on"
    assert told in ended.stderr.splitlines()[-1]
    if goes_on:
        lock.release()
