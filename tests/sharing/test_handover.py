"""Who goes on, and with what it knows: where a host ends, stands still, hangs up, or is found no more."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.sharing.peers import IMPATIENT, NAME, QUICK, Peer, Peers, until

from mistill.delivery.governor import Governor, WindowCounts
from mistill.delivery.limits_file import LearnedLimits
from mistill.delivery.purse import Amount, PurseMember, SpendingLimit
from mistill.delivery.sharing.frames import HELLO, VERSION, Challenge, Welcome, new_nonce, proof
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.place import Place, place_of
from mistill.delivery.sharing.thread import SharingThread
from mistill.errors import ConnectFailed, NothingAnswers, RateLimited, RateLimits

TOLD = RateLimits(requests_limit=600, requests_remaining=100)


def own_of(peer: Peer) -> Governor:
    governor = peer.governor.own if isinstance(peer.governor, GuestGovernor) else peer.governor
    assert isinstance(governor, Governor)
    return governor


async def learn(peer: Peer, limits: RateLimits) -> None:
    peer.governor.settle(await peer.permit(), limits=limits)


async def test_all_that_the_host_had_counted_is_counted_on(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await host.send(200)
    await guest.send(10)
    host.end()  # in the moment of its last request: its window's newest part is not over
    await until(lambda: guest.is_host)
    assert own_of(guest).counts().requests
    assert sum(amount for _, amount in own_of(guest).counts().requests) == 210


async def test_what_others_use_and_a_pause_are_handed_over(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    await learn(host, TOLD)  # of 600, programs that nobody here knows of have used 499
    refused = RateLimited("wait", status=429, retry_after_s=30)
    await host.governor.settle_failure(await host.permit(), refused)
    host.end()
    await until(lambda: guest.is_host)
    room = guest.governor.snapshot().requests_room
    assert room is not None
    assert 0 <= room.free <= 100
    waiting = asyncio.create_task(guest.permit())
    await until(lambda: guest.governor.snapshot().waiting == 1)
    waiting.cancel()
    assert own_of(guest).cause == "cool_down"


def test_counts_of_a_clock_that_was_set_back_a_little_are_taken_up() -> None:
    before = Governor()
    counts = before.counts()
    ahead = msgspec.structs.replace(counts.learned, learned_at=time.time() + 5, used_requests=7)
    told = msgspec.structs.replace(ahead, requests_per_minute=60, source="server")
    after = Governor()
    after.take_over(WindowCounts(told, ((0, 3),), (), 0), None)
    room = after.snapshot().requests_room
    assert room is not None
    assert room.free == pytest.approx(60 - 7 - 3)


def test_a_quota_that_probes_have_confirmed_is_not_probed_anew() -> None:
    """At the edge of a window a probe is let through, since what was handed over counts a little longer than it was:
    that would be taken for a limit by the second."""
    before = Governor()
    before.take_over(WindowCounts(inferred(60), (), (), 0, probing=(20.0, 27.0)), None)
    counts = before.counts()
    assert counts.probing == (pytest.approx(20.0, abs=1.0), 27.0)
    after = Governor()
    after.take_over(counts, None)
    assert after.counts().probing == (pytest.approx(20.0, abs=2.0), 27.0)


def inferred(requests_per_minute: float) -> LearnedLimits:
    return LearnedLimits(
        learned_at=time.time(), in_flight=8, requests_per_minute=requests_per_minute, source="inferred"
    )


async def test_where_the_server_has_answered_an_outage_is_waited_for_by_the_next_host_too(
    peers: Peers,
) -> None:
    quick = msgspec.structs.replace(QUICK, unreachable_patience_s=0.05, probe_interval_s=0.01, patience_s=60)
    host, guest, other = (peers.start(tuning=quick) for _ in range(3))
    await guest.send(1)
    await until(lambda: other.governor.snapshot().adaptive_limit > 0)
    host.end()
    refused = ConnectFailed("connection refused", endpoint="http://x", why="refused", hint="look")
    ended_s = time.monotonic() + 0.3  # six times what a server that has never answered is waited for
    while time.monotonic() < ended_s:
        _, seen = await guest.governor.settle_failure(await guest.permit(), refused, 1)
        assert not isinstance(seen, NothingAnswers)


async def test_a_guest_is_served_while_the_hosts_own_loop_stands_still(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    stands_still, goes_on = threading.Event(), threading.Event()

    async def use_host() -> None:
        refused = RateLimited("wait", status=429, retry_after_s=0.3)
        await host.governor.settle_failure(await host.permit(), refused)
        waiting = asyncio.create_task(host.permit())  # until the pause ends
        await until(lambda: host.governor.snapshot().waiting == 1)
        stands_still.set()
        assert goes_on.wait(20)  # a cell of a notebook that computes
        host.governor.settle(await waiting)

    thread = threading.Thread(target=lambda: asyncio.run(use_host()))
    thread.start()
    try:
        assert await asyncio.to_thread(stands_still.wait, 20)
        async with asyncio.timeout(15):
            guest.governor.settle(await guest.permit())
        assert thread.is_alive()
    finally:
        goes_on.set()
        thread.join()


async def test_a_host_that_greets_and_hangs_up_is_none(peers: Peers) -> None:
    place = place_of(NAME)
    assert place is not None
    seat = place.take()
    assert seat is not None
    calls = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        nonce = new_nonce()
        writer.write(frame(Challenge(VERSION, nonce)))
        hello = HELLO.decode(await reader.readexactly(int.from_bytes(await reader.readexactly(4))))
        proven = proof(b"", b"host", nonce, hello.nonce, hello.name.encode())
        writer.write(frame(Welcome(proven, 1)))
        await reader.read(1)
        writer.close()

    async with await asyncio.start_unix_server(greet, sock=seat.listening):
        guest = peers.start(tuning=IMPATIENT)
        async with asyncio.timeout(20):
            guest.governor.settle(await guest.permit())
        assert guest.governor.snapshot().alone_s > 0
        assert calls < 200
        guest.end()
    seat.give_up()


def frame(message: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4) + data


async def test_where_the_folder_is_removed_the_host_takes_its_place_again(
    peers: Peers, runtime_dir: Path
) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    (runtime_dir / "mistill").rename(runtime_dir / "removed")
    await until(lambda: any((runtime_dir / "mistill").glob("*.sock")))
    other = peers.start()
    await asyncio.gather(host.send(5), guest.send(5), other.send(5))
    assert (guest.is_host, other.is_host) == (False, False)
    assert own_of(host).has_sent == 16


def _open_to_others(folder: Path) -> None:
    folder.chmod(0o777)


def _of_another_user(folder: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12_345, -1)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "in place"])
@pytest.mark.parametrize("give_away", [_open_to_others, _of_another_user])
async def test_a_folder_that_is_ours_no_more_is_not_used_by_anybody(
    peers: Peers,
    runtime_dir: Path,
    caplog: pytest.LogCaptureFixture,
    give_away: Callable[[Path], None],
    is_replaced: bool,
) -> None:
    folder, place = runtime_dir / "mistill", _place()
    host, guest = peers.start(), peers.start()
    await asyncio.gather(host.send(3), guest.send(3))
    await until(lambda: any(folder.glob("*.counts")))
    if is_replaced:
        theirs = runtime_dir / "theirs"
        theirs.mkdir(mode=0o700)
        give_away(theirs)
        folder.rename(runtime_dir / "removed")
        theirs.rename(folder)
    else:
        give_away(folder)
    await until(lambda: f"is not shared: {folder} is not this user's own" in caplog.text)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    other = Peer(place, NAME, QUICK, None)  # which was told of the place before
    peers.started.append(other)
    await asyncio.gather(host.send(3), guest.send(3), other.send(3))
    assert (guest.is_host, other.is_host) == (False, True)  # who was a guest stays one
    assert own_of(host).has_sent == 12
    with pytest.raises(PermissionError):
        place.take()
    with pytest.raises(PermissionError):
        place.caller()
    for peer in (guest, other, host):
        peer.end()
    await until(lambda: not host.participant._hosts)
    after = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert after == before, "nothing was written, kept in use or removed"


async def test_nothing_is_put_into_a_folder_that_others_may_look_into(
    peers: Peers, runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host, guest = peers.start(), peers.start(tuning=IMPATIENT)
    await guest.send(1)
    folder = runtime_dir / "mistill"
    folder.rename(runtime_dir / "removed")
    folder.mkdir(mode=0o755)
    await until(lambda: f"is not shared: {folder} is not this user's own" in caplog.text)
    other = peers.start()
    await asyncio.gather(host.send(5), guest.send(5), other.send(5))
    host.end()
    await guest.send(5)
    assert list(folder.iterdir()) == []


async def test_where_another_has_the_place_by_then_it_is_host_no_more(
    peers: Peers, runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rarely = msgspec.structs.replace(QUICK, counts_every_s=0.2)
    host, guest = peers.start(tuning=rarely), peers.start(tuning=rarely)
    await guest.send(1)
    (runtime_dir / "mistill").rename(runtime_dir / "removed")
    other = peers.start(tuning=rarely)
    assert other.is_host
    await until(lambda: "another process shares it now" in caplog.text)
    await asyncio.gather(host.send(5), guest.send(5))
    assert not guest.is_host
    assert own_of(other).has_sent == 5
    host.end()  # which leaves the other's files where they are
    third = peers.start(tuning=rarely)
    assert not third.is_host
    await third.send(1)


async def test_one_that_goes_on_alone_has_a_share_of_what_is_left(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await learn(host, TOLD)
    await guest.send(1)
    await until(lambda: guest.governor.snapshot().requests_room is not None)
    assert isinstance(guest.governor, GuestGovernor)
    known = guest.governor.snapshot()
    assert known.requests_room is not None
    assert guest.governor.go_alone(2.0) == 2
    alone = guest.governor.snapshot()
    assert alone.requests_room is not None
    assert (alone.requests_per_minute, alone.requests_source) == (300, "server")
    assert alone.requests_room.free <= known.requests_room.free + 1


async def test_one_that_goes_on_alone_spends_its_share_of_a_purse() -> None:
    guest = GuestGovernor(SharingThread(), make_own=Governor, leave=lambda _: None)
    member = PurseMember("ab" * 16, "0", SpendingLimit(10.0, None))
    guest.join_purse(member)  # while nobody decides
    left = [asyncio.create_task(member.reserve(Amount(0.25, 1))) for _ in range(8)]
    await asyncio.sleep(0)
    guest.go_alone(2.0)
    await until(lambda: sum(task.done() for task in left) >= 2)
    await asyncio.sleep(0)
    # Of how many it is one, nobody knows: a 16th of 10 dollars, overrun by less than one.
    assert sum(task.done() for task in left) <= 3
    for task in left:
        task.cancel()


async def test_after_the_end_of_its_process_part_a_guest_decides_itself(peers: Peers) -> None:
    peers.start()
    guest = peers.start()
    await guest.send(1)
    guest.end()
    async with asyncio.timeout(20):
        await guest.send(3)
    assert isinstance(guest.participant.governor(_place(), NAME, QUICK, None), Governor)


def _place() -> Place:
    place = place_of(NAME)
    assert place is not None
    return place


async def test_an_error_that_cannot_be_said_is_no_reason_to_wait(peers: Peers) -> None:
    peers.start()
    guest = peers.start()
    odd = RateLimited("no", status=429, code="\ud800", correlation_id="\udfff" * 3)
    async with asyncio.timeout(20):
        _, seen = await guest.governor.settle_failure(await guest.permit(), odd)
        await guest.governor.settle_failure(await guest.permit(), odd)
    assert seen is odd
    assert guest.governor.snapshot().alone_s == 0
