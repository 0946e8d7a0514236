"""One governor for several processes: here each is a `Participant` of its own, over real sockets."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.delivery.fake_clock import run_in_fake_time
from tests.sharing.peers import NAME, QUICK, Peers, until

from mistill.delivery.governor import ConcurrencyLimit, Governor, Permit
from mistill.delivery.governors import governor_for
from mistill.delivery.limits_file import LimitsFile
from mistill.delivery.sharing.frames import ErrorParts
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.place import place_of
from mistill.errors import (
    BadRequest,
    ConnectFailed,
    MistillError,
    NothingAnswers,
    RateLimited,
    RateLimits,
    ServerError,
    Stopped,
)
from mistill.testing import without_waiting
from mistill.wording import Setting, words

TOLD = RateLimits(requests_limit=600, requests_remaining=300)


async def test_the_first_has_the_governor_itself_and_the_others_ask_it(peers: Peers) -> None:
    host, first, second = peers.start(), peers.start(), peers.start()
    assert isinstance(host.governor, Governor)
    assert not first.is_host
    assert not second.is_host
    await asyncio.gather(host.send(100), first.send(100), second.send(100))
    assert [peer.governor.snapshot().answered for peer in (host, first, second)] == [100, 100, 100]
    assert host.governor.has_sent == 300
    await until(lambda: host.governor.in_flight == 0)


async def test_a_guest_knows_what_any_of_them_has_been_told(peers: Peers) -> None:
    host, guest, other = peers.start(), peers.start(), peers.start()
    guest.governor.settle(await guest.permit(), limits=TOLD)
    await until(lambda: host.governor.snapshot().requests_per_minute == 600)
    await other.send(1)
    await until(lambda: other.governor.snapshot().requests_per_minute == 600)
    snapshot = other.governor.snapshot()
    assert (snapshot.requests_source, snapshot.waiting, snapshot.refused) == ("server", 0, 0)
    assert snapshot.requests_room is not None


async def test_what_one_object_may_have_in_flight_is_kept_by_a_guest(peers: Peers) -> None:
    peers.start()
    guest, limit, most = peers.start(), ConcurrencyLimit(3), 0

    async def one() -> None:
        nonlocal most
        permit = await guest.permit(limit)
        most = max(most, limit.in_flight, guest.governor.in_flight)
        await asyncio.sleep(0)
        guest.governor.settle(permit)

    await asyncio.gather(*(one() for _ in range(50)))
    assert (most, limit.in_flight, guest.governor.in_flight) == (3, 0, 0)


async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind(peers: Peers) -> None:
    host, guest, limit = peers.start(), peers.start(), ConcurrencyLimit(8)
    await guest.send(1)
    waiting = [asyncio.create_task(guest.permit(limit)) for _ in range(50)]
    for rounds, task in enumerate(waiting):
        if rounds % 3 == 0:
            await asyncio.sleep(0.001)  # some are asked for by now, some have their permits
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    for permit in ended:
        if isinstance(permit, Permit):
            guest.governor.refund(permit)
    await until(lambda: isinstance(host.governor, Governor) and host.governor.in_flight == 0)
    assert (limit.in_flight, guest.governor.in_flight, guest.governor.snapshot().waiting) == (0, 0, 0)
    await guest.send(20, limit)


async def test_a_row_that_pauses_by_itself_is_waited_for_by_its_process_alone(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    assert isinstance(guest.governor, GuestGovernor)
    guest.governor.note_resting(1)
    await until(lambda: guest.governor.snapshot().seconds.get("backoff", 0.0) > 0)
    guest.governor.set_quota(600, None)  # it goes on by itself
    asked = guest.governor.snapshot()
    await until(lambda: guest.governor.snapshot().since(asked).get("backoff", 0.0) > 0)
    guest.governor.note_resting(-1)
    assert "backoff" not in host.governor.snapshot().seconds


# --- failures -------------------------------------------------------------------------------------------------------


async def test_the_host_says_whose_fault_a_failure_is(peers: Peers) -> None:
    peers.start()
    guest = peers.start()
    guest.governor.settle(await guest.permit())
    failing = ServerError("no", status=503)
    charged = [
        (await guest.governor.settle_failure(await guest.permit(), failing, row))[0] for row in range(5)
    ]
    assert charged == [True, True, True, True, False]  # five different rows are an outage


async def test_a_guest_hears_that_nothing_answers(peers: Peers) -> None:
    impatient = replace(QUICK, unreachable_patience_s=0.05, probe_interval_s=0.01)
    peers.start(tuning=impatient)
    guest = peers.start(tuning=impatient)
    refused = ConnectFailed("connection refused", endpoint="http://x", why="refused", hint="look")
    seen: MistillError = refused
    while seen is refused:
        try:
            _, seen = await guest.governor.settle_failure(await guest.permit(), refused, 1)
        except NothingAnswers as error:  # while it waited for its permit
            seen = error
    assert isinstance(seen, NothingAnswers)
    assert str(seen) == "nothing answers at http://x: refused (look)"


async def test_who_waits_for_a_key_that_may_not_use_the_model_is_told_the_servers_own_words(
    peers: Peers,
) -> None:
    host, guest = peers.start(), peers.start()
    hint = words("raise ", Setting("timeout"))
    limits = RateLimits(requests_limit=0)
    never = RateLimited("not yours", status=429, code="1300", correlation_id="c-1", limits=limits, hint=hint)
    permit = await host.permit()
    assert isinstance(host.governor, Governor)
    # All else waits for the end of a cool-down.
    host.governor.settle(await host.permit(), error=RateLimited("wait", status=429, retry_after_s=30))
    waiting = asyncio.create_task(guest.permit())
    await until(lambda: guest.governor.snapshot().seconds.get("cool_down", 0) > 0)
    host.governor.settle(permit, error=never)
    with pytest.raises(RateLimited) as raised:
        await asyncio.wait_for(waiting, 20)
    error = raised.value
    assert str(error) == str(never)
    assert (error.code, error.correlation_id, error.limits) == ("1300", "c-1", limits)
    assert error.hint is not None
    assert error.hint.parts == hint.parts  # type: ignore[attr-defined]


async def test_an_error_of_a_row_of_its_own_is_charged_and_teaches_nothing(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    permit = await guest.permit()
    bad = BadRequest("no such field", status=422)
    assert await guest.governor.settle_failure(permit, bad, 1) == (True, bad)
    with pytest.raises(AssertionError):
        guest.governor.settle(permit)
    assert host.governor.snapshot().refused == 0


async def test_the_permits_of_a_process_that_is_gone_are_taken_back(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    for _ in range(5):
        await guest.permit()
    waiting = [asyncio.create_task(guest.permit(ConcurrencyLimit(1))) for _ in range(3)]
    assert host.governor.snapshot().in_flight == 0  # they are not the host's own
    assert isinstance(host.governor, Governor)
    assert host.governor.in_flight >= 5
    guest.end()
    await until(lambda: host.governor.in_flight == 0)
    for task in waiting:
        task.cancel()
    await host.send(10)


async def test_one_that_is_gone_with_many_waiting_leaves_the_others_to_go_on(peers: Peers) -> None:
    """Also where in this moment those that it waited for could be had."""
    host, guest, other = peers.start(), peers.start(), peers.start()
    governor = host.governor
    assert isinstance(governor, Governor)
    held = await guest.permit()
    governor.settle(await host.permit(), error=RateLimited("wait", status=429, retry_after_s=30))
    waiting = [asyncio.create_task(guest.permit()) for _ in range(100)]
    await until(lambda: guest.governor.snapshot().seconds.get("cool_down", 0) > 0)
    governor._clock = lambda: time.monotonic() + 1_000
    guest.end()
    await until(lambda: governor.in_flight == 0)
    await asyncio.gather(other.send(20), host.send(20))
    await until(lambda: governor.in_flight == 0)
    assert not held.is_settled
    for task in waiting:
        task.cancel()


# --- the next host --------------------------------------------------------------------------------------------------


async def test_a_guest_takes_over_where_the_host_has_ended(peers: Peers, tmp_path: Path) -> None:
    file = LimitsFile("a", 1000)
    host, guest, other = peers.start(limits_file=file), peers.start(limits_file=file), peers.start()
    await host.send(40)
    permit = await host.permit()
    host.governor.settle(permit, limits=RateLimits(requests_limit=600, requests_remaining=559))
    lent = await guest.permit()
    host.end()
    await asyncio.gather(guest.send(30), other.send(30))
    assert sorted((guest.is_host, other.is_host)) == [False, True]
    guest.governor.settle(lent)  # of a governor that is there no more
    new = guest if guest.is_host else other
    assert isinstance(new.governor, GuestGovernor)
    assert new.governor.own is not None
    assert sum(amount for _, amount in new.governor.own.counts().requests) == 41 + 1 + 60
    assert [peer.governor.snapshot().in_flight for peer in (guest, other)] == [0, 0]
    assert guest.governor.snapshot().answered == 31


async def test_a_failure_whose_verdict_is_lost_is_not_charged(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    permit = await guest.permit()
    host.end()
    await until(lambda: guest.is_host)
    failing = ServerError("no", status=503)
    assert await guest.governor.settle_failure(permit, failing, 1) == (False, failing)


async def test_a_quota_of_the_users_own_is_nobody_elses(peers: Peers) -> None:
    host, guest, other = peers.start(), peers.start(), peers.start()
    await asyncio.gather(guest.send(1), other.send(1))
    guest.governor.set_quota(60, None)
    assert guest.is_host
    assert guest.governor.snapshot().requests_source == "user"
    await asyncio.gather(host.send(5), other.send(5), guest.send(5))
    assert host.governor.snapshot().requests_per_minute is None
    host.participant.withdraw(host.governor)
    host.governor.set_quota(6_000, None)
    await other.send(5)
    assert other.is_host
    third = peers.start()
    await third.send(1)
    other.governor.set_quota(6_000, None)  # which has become the host as a guest
    await third.send(5)
    assert third.is_host
    assert third.governor.snapshot().requests_per_minute is None


async def test_who_takes_no_limit_away_is_a_guest_as_before(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    guest.governor.set_quota(None, None)
    await guest.send(4)
    assert not guest.is_host
    governor = host.governor
    assert isinstance(governor, Governor)
    assert governor.has_sent == 5


# --- who is served --------------------------------------------------------------------------------------------------


def test_a_process_with_many_waiting_does_not_starve_one_with_few() -> None:
    async def main() -> dict[str, int]:
        governor = Governor(clock=asyncio.get_running_loop().time, requests_per_minute=60)
        served = {"many": 0, "few": 0}

        async def work(who: str, limit: ConcurrencyLimit) -> None:
            while True:
                permit = governor.try_admit(limit, 1) or await governor.admit(limit, 1)
                served[who] += 1
                governor.settle(permit)

        many, few = governor.add_guest("many"), governor.add_guest("few")
        tasks = [asyncio.create_task(work("many", many)) for _ in range(256)]
        await asyncio.sleep(70)
        before = dict(served)
        tasks += [asyncio.create_task(work("few", few)) for _ in range(4)]
        await asyncio.sleep(300)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {who: served[who] - before[who] for who in served}

    served = run_in_fake_time(main())
    assert sum(served.values()) >= 285
    # And it may catch up on what it had less of lately: half a window.
    assert 0 <= served["few"] - served["many"] <= 32


def test_the_time_of_the_host_is_its_own() -> None:
    """It is idle while only its guests wait for the quota."""

    async def main() -> tuple[dict[str, float], int]:
        governor = Governor(clock=asyncio.get_running_loop().time, requests_per_minute=60)
        guest = governor.add_guest("guest")
        for _ in range(120):
            governor.settle(governor.try_admit(guest, 1) or await governor.admit(guest, 1))
        snapshot = governor.snapshot()
        return {str(cause): spent for cause, spent in snapshot.seconds.items()}, snapshot.answered

    seconds, answered = run_in_fake_time(main())
    assert answered == 0
    assert seconds["idle"] > 60
    assert "quota_requests" not in seconds


@pytest.mark.parametrize(("took_s", "waits_s"), [(0.0, 0.15), (0.05, 0.15), (0.25, 0.5), (9.0, 3.0)])
def test_refusals_are_waited_for_as_long_as_they_take_to_be_known(took_s: float, waits_s: float) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        governor = Governor(clock=loop.time)
        limit = governor.add_guest("guest")
        permits = [governor.try_admit(limit, 1) for _ in range(8)]
        assert permits[0] is not None
        await asyncio.sleep(took_s)
        governor.settle(permits[0], error=RateLimited("no", status=429))
        since_s = loop.time()
        await governor.admit(limit, 1)
        return loop.time() - since_s

    assert run_in_fake_time(main()) == pytest.approx(waits_s, abs=0.01)


# --- who shares -----------------------------------------------------------------------------------------------------


def test_without_waiting_nothing_is_shared(runtime_dir: Path) -> None:
    with without_waiting():
        assert isinstance(governor_for("https://w.example", "k", "m"), Governor)
    assert list(runtime_dir.iterdir()) == []


def test_processes_with_other_constants_do_not_share(peers: Peers) -> None:
    peers.start()
    governor = governor_for("https://w.example", "k", "m", QUICK)
    assert isinstance(governor, Governor)
    assert isinstance(governor_for("https://w.example", "k", "m"), Governor)


def test_the_governor_that_nobody_uses_any_more_is_hosted_no_longer(runtime_dir: Path) -> None:
    async def main() -> None:
        governor = governor_for("https://v.example", "k", "m", QUICK)
        again = governor_for("https://v.example", "k", "m", QUICK)
        assert governor is again
        folder = runtime_dir / "mistill"
        assert len(list(folder.glob("*.lock"))) == 1
        del governor, again
        gc.collect()
        await until(lambda: not list(folder.glob("*.lock")))

    asyncio.run(main())


async def test_a_governor_that_guests_use_outlives_its_own_process_part(peers: Peers) -> None:
    host, guest, place = peers.start(), peers.start(), place_of(NAME)
    assert place is not None
    await guest.send(1)
    host.governor = guest.governor  # nobody in the host's process has a use for its own any more
    await guest.send(20)
    assert isinstance(guest.governor, GuestGovernor)
    assert not guest.governor.decides_itself
    again = host.participant.governor(place, NAME, QUICK, None)
    assert isinstance(again, Governor)
    assert again.has_sent >= 21


def test_an_attempt_that_was_cut_off_is_told_without_a_verdict(peers: Peers) -> None:
    async def main() -> None:
        host, guest = peers.start(), peers.start()
        permit = await guest.permit()
        guest.governor.settle(permit, error=Stopped("cancelled", reason="cancelled"))
        assert isinstance(host.governor, Governor)
        governor = host.governor
        await until(lambda: governor.in_flight == 0)

    asyncio.run(main())


def test_errors_are_the_same_at_the_other_end() -> None:
    errors: list[MistillError] = [
        RateLimited("m", status=429, code="1300", limits=TOLD, retry_after_s=1.5, hint="h"),
        ConnectFailed("m", endpoint="e", why="w"),
        ServerError("m", status=503, error_type="t"),
        Stopped("m"),
    ]
    for error in errors:
        again = ErrorParts.of(error).error()
        assert (type(again), str(again)) == (type(error), str(error))
        assert vars(again) == vars(error)


async def test_what_a_server_makes_up_is_kept_from_the_host(peers: Peers) -> None:
    host, guest = peers.start(), peers.start()
    guest.governor.settle(await guest.permit(), limits=RateLimits(requests_limit=-1), tokens=-5)
    odd = RateLimited("half a character: \ud800", status=429, retry_after_s=float("inf"))
    await guest.governor.settle_failure(await guest.permit(), odd, 1)
    await guest.send(3)
    assert guest.governor.snapshot().alone_s == 0
    assert not guest.is_host
    assert host.governor.snapshot().requests_per_minute is None
