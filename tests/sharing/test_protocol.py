"""What somebody else says on the socket ends his connection, and hurts nobody."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.sharing.peers import IMPATIENT, NAME, QUICK, Peer, Peers, until

from mistill.delivery.diagnostics import advice
from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.delivery.governors import governor_for
from mistill.delivery.purse import Amount, SpendingLimit, Statement
from mistill.delivery.sharing.far_purse import PurseWishes
from mistill.delivery.sharing.frames import (
    MAX_ITEMS,
    VERSION,
    Challenge,
    ErrorParts,
    Failed,
    GuestFrame,
    Hello,
    Welcome,
    proof,
)
from mistill.delivery.sharing.place import TOKEN_VARIABLE as TOKEN
from mistill.delivery.sharing.place import VARIABLE, place_of
from mistill.errors import InputError, RateLimits, ServerError

Caller = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def call(runtime_dir: Path) -> Caller:
    (path,) = (runtime_dir / "mistill").glob("*.sock")
    return await asyncio.open_unix_connection(path)


def frame(message: object) -> bytes:
    data = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    return len(data).to_bytes(4) + data


async def hear(caller: Caller) -> bytes:
    return await caller[0].readexactly(int.from_bytes(await caller[0].readexactly(4)))


async def greet(caller: Caller, *, version: int = VERSION, name: str = NAME, token: bytes = b"") -> None:
    challenge = msgspec.msgpack.decode(await hear(caller), type=Challenge)
    nonce = os.urandom(32)
    proven = proof(token, b"guest", challenge.nonce, nonce, name.encode())
    caller[1].write(frame(Hello(version, name, nonce, proven)))


async def is_closed(caller: Caller) -> bool:
    try:
        async with asyncio.timeout(20):
            while await caller[0].read(1 << 16):
                pass
    except ConnectionError:
        pass
    caller[1].close()
    return True


async def all_is_well(host: Peer, guest: Peer) -> None:
    assert isinstance(host.governor, Governor)
    governor = host.governor
    await until(lambda: governor.in_flight == 0)
    await asyncio.gather(host.send(5), guest.send(5))


async def garbage(caller: Caller) -> None:
    caller[1].write(frame(b"\xc1GET / HTTP/1.1\r\n\r\n"))


async def http(caller: Caller) -> None:
    caller[1].write(b"GET / HTTP/1.1\r\nHost: mistill\r\n\r\n")


async def another_version(caller: Caller) -> None:
    await greet(caller, version=VERSION + 1)


async def another_token(caller: Caller) -> None:
    await greet(caller, token=b"x")


async def another_name(caller: Caller) -> None:
    await greet(caller, name="cd" * 16)


async def no_name(caller: Caller) -> None:
    await greet(caller, name="../../etc/passwd")


async def huge_before_it_is_known(caller: Caller) -> None:
    caller[1].write((2_000).to_bytes(4))


async def huge(caller: Caller) -> None:
    await greet(caller)
    caller[1].write((1 << 31).to_bytes(4))


def said(message: object) -> Callable[[Caller], Awaitable[None]]:
    async def say(caller: Caller) -> None:
        await greet(caller)
        caller[1].write(frame(message))

    return say


FAILURE = ErrorParts.of(ServerError("no", status=503))


STATEMENT = Statement(0, "cd" * 16, "0", SpendingLimit(1.0, None), Amount(), [], {})


@pytest.mark.parametrize(
    "say",
    [
        garbage,
        http,
        another_version,
        another_token,
        another_name,
        no_name,
        huge_before_it_is_known,
        huge,
        said(b"\x00"),
        said([1, 2, 3]),
        said(GuestFrame(answered=[(7, 1, None)])),
        said(GuestFrame(given_back=[], asked=[(1, 1), (1, 1)])),
        said(GuestFrame(asked=[(1, -1)])),
        said(GuestFrame(asked=[(number, 1) for number in range(MAX_ITEMS + 1)])),
        said(GuestFrame(failed=[Failed(9, FAILURE, None, True)])),
        said([[], [], [], [[1, 1e300]]]),
        said(GuestFrame(asked=[(1, 1)], answered=[(1, None, None)])),
        said(GuestFrame(purse=PurseWishes(reserved=[(0, 1, Amount(1.0, 1))]))),
        said(GuestFrame(purse=PurseWishes(stated=[STATEMENT], settled=[(0, 1, Amount(-1.0, 1))]))),
        said(GuestFrame(purse=PurseWishes(stated=[STATEMENT], settled=[(0, 1, Amount(math.nan, 1))]))),
        said(GuestFrame(purse=PurseWishes(stated=[replace(STATEMENT, purse="../x")]))),
    ],
)
async def test_who_says_something_else_is_hung_up_on(
    peers: Peers, runtime_dir: Path, say: Callable[[Caller], Awaitable[None]]
) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    caller = await call(runtime_dir)
    await say(caller)
    assert await is_closed(caller)
    await all_is_well(host, guest)


async def test_a_failure_that_no_server_can_have_sent_is_not_learned_from(
    peers: Peers, runtime_dir: Path
) -> None:
    host, guest = peers.start(), peers.start()
    for limits in (RateLimits(requests_limit=-5), RateLimits(requests_limit=60, query_cost=1 << 60)):
        caller = await call(runtime_dir)
        await greet(caller)
        caller[1].write(frame(GuestFrame(asked=[(1, 1)])))
        await hear(caller)  # welcome
        while b"\x91\x01" not in await hear(caller):  # the permit
            pass
        caller[1].write(frame(GuestFrame(answered=[(1, 1, limits)])))
        assert await is_closed(caller)
    assert host.governor.snapshot().requests_per_minute is None
    await all_is_well(host, guest)


numbers = st.integers(0, 6)
turns = st.builds(
    GuestFrame,
    answered=st.lists(st.tuples(numbers, numbers, st.none()), max_size=3),
    failed=st.lists(st.builds(Failed, numbers, st.just(FAILURE), numbers, st.booleans()), max_size=2),
    given_back=st.lists(numbers, max_size=3),
    asked=st.lists(st.tuples(numbers, numbers), max_size=4),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(turns, max_size=6))
def test_whatever_a_guest_says_nothing_of_it_stays_when_it_is_gone(
    peers: Peers, runtime_dir: Path, said: list[GuestFrame]
) -> None:
    async def main() -> None:
        host = peers.start()
        assert isinstance(host.governor, Governor)
        governor = host.governor
        try:
            caller = await call(runtime_dir)
            await greet(caller)
            await hear(caller)
            caller[1].write(b"".join(map(frame, said)))
            caller[1].write_eof()
            assert await is_closed(caller)
            await until(lambda: governor.in_flight == 0)
            await host.send(3)
            assert (governor.in_flight, governor.snapshot().waiting) == (0, 0)
        finally:
            host.end()

    asyncio.run(main())


# --- over TCP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def address(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv(VARIABLE, address)
    monkeypatch.setenv(TOKEN, "a-token-of-some-length")
    return address


async def test_over_tcp_one_process_is_the_host_of_all_quotas(address: str, peers: Peers) -> None:
    host, guest, other = peers.start(), peers.start(), peers.start(name="cd" * 16)
    assert host.is_host
    await asyncio.gather(host.send(10), guest.send(10), other.send(10))
    assert not guest.is_host
    assert not other.is_host
    guest.governor.settle(await guest.permit(), limits=RateLimits(requests_limit=60, requests_remaining=9))
    await until(lambda: host.governor.snapshot().requests_per_minute == 60)
    assert other.governor.snapshot().requests_per_minute is None
    host.end()
    await asyncio.gather(guest.send(5), other.send(5))
    assert sorted((guest.is_host, other.is_host)) in ([False, True], [True, True])


async def test_of_an_address_where_no_host_is_it_is_asked_whether_it_is_right(
    address: str, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = address[6:].rpartition(":")
    with socket.create_server((host, int(port))):  # another program's
        guest = peers.start(tuning=IMPATIENT)
        await guest.send(5)
        await until(lambda: any(record.levelname == "WARNING" for record in caplog.records))
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"({address[6:]}) does not answer this process: it goes on alone" in told
    assert told.endswith(
        "Is MISTILL_GOVERNOR right, can it be reached from here, and is it no other program's?"
    )
    assert "is no other program's" in str(advice(guest.governor.snapshot(), max_concurrent_requests=8))


async def test_who_does_not_know_the_token_is_no_guest_and_goes_on_alone(
    address: str, peers: Peers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = peers.start()
    monkeypatch.setenv(TOKEN, "another-token-of-some-length")
    stranger = peers.start(tuning=IMPATIENT)
    await stranger.send(5)
    await until(lambda: stranger.governor.snapshot().alone_s > 5 * IMPATIENT.come_back_s)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"({address[6:]}) refused the MISTILL_GOVERNOR_TOKEN of this process: it goes on alone" in told
    assert told.endswith("is let in once both have the same token, and the same version of mistill")
    assert "token-of" not in caplog.text
    assert isinstance(host.governor, Governor)
    assert host.governor.has_sent == 0


@pytest.mark.parametrize(
    ("said", "token", "match"),
    [
        ("on", "", "none of: off, tcp://HOST:PORT"),
        ("tcp://", "", "none of"),
        ("tcp://host", "", "none of"),
        ("tcp://host:99999", "", "none of"),
        ("tcp://user:secret@host:1", "", "none of"),
        ("tcp://[", "", "none of"),
        ("http://host:1", "", "none of"),
        ("tcp://127.0.0.1:7000", "", f"{TOKEN} is not set"),
        ("tcp://127.0.0.1:7000", "secret", "fewer than 16 characters"),
    ],
)
def test_what_the_environment_says_is_checked(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, said: str, token: str, match: str
) -> None:
    monkeypatch.setenv(VARIABLE, said)
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(InputError, match=match) as raised:
        Peers().start()
    assert "secret" not in str(raised.value).replace("the same secret", "")


def test_off_is_off_and_a_folder_that_others_may_look_into_is_not_used(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert place_of(NAME) is not None
    monkeypatch.setenv(VARIABLE, "off")
    assert place_of(NAME) is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("mistill.runtime_folder.runtime_folders", lambda: [runtime_dir / "mistill"])
    folder = runtime_dir / "mistill"
    folder.chmod(0o755)
    assert place_of(NAME) is None
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    assert place_of(NAME) is None
    folder.unlink()
    assert place_of(NAME) is not None
    assert (folder.stat().st_mode & 0o777) == 0o700


async def test_what_others_have_left_there_for_a_day_is_cleared_away(peers: Peers, runtime_dir: Path) -> None:
    host, folder = peers.start(), runtime_dir / "mistill"
    left = [folder / f"1-{'0f' * 16}{suffix}" for suffix in (".lock", ".sock", ".counts")]
    used = list(folder.iterdir())
    for path in (*left, *used):
        path.touch()
        os.utime(path, (0, 0))
    peers.start(name="cd" * 16)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in used)
    await host.send(1)


async def test_nothing_in_the_folder_tells_the_key(peers: Peers, runtime_dir: Path) -> None:
    governor = governor_for("https://shared.example", "a-key-that-nobody-may-read", "m", QUICK)
    governor.settle(await governor.admit(ConcurrencyLimit(1), 1))
    await until(lambda: bool(list((runtime_dir / "mistill").glob("*.counts"))))
    for path in (runtime_dir / "mistill").iterdir():
        assert "a-key" not in path.name
        assert path.is_socket() or b"a-key" not in path.read_bytes()


def test_a_welcome_proves_that_the_host_knows_the_token_too() -> None:
    said = (b"a" * 32, b"b" * 32, NAME.encode())
    assert proof(b"token", b"host", *said) != proof(b"token", b"guest", *said)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(Welcome(b"", 1)), type=Welcome).process == 1
