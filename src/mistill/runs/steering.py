"""What of a start may be changed while it goes on, and who has changed what."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from mistill.delivery.diagnostics import Snapshot
from mistill.delivery.governor import Governor
from mistill.delivery.purse import Amount, SpendingLimit
from mistill.errors import InputError, MistillError, Stopped, did_you_mean
from mistill.estimates.budget import Budget
from mistill.kinds.options import RunOptions
from mistill.llms.connection import Connection
from mistill.llms.event_loop import background
from mistill.llms.parameters import PARAMETERS
from mistill.progress.formatting import count, money, seconds
from mistill.progress.view import View, Watch
from mistill.runs.runner import Runner
from mistill.shards.driver import Driver
from mistill.steering.orders import Answer, Change, Changes, Order, SettingState, Standing, shown_settings
from mistill.wording import START_AGAIN, Phrase, words

_log = logging.getLogger("mistill")

PACE = ("max_concurrent_requests", "requests_per_minute", "tokens_per_minute")
"""Attributes of the model that say how fast it goes."""
BUDGETS = ("max_cost", "max_tokens_total")
LIMITS = (*BUDGETS, "deadline")
"""Options of the run that end it."""
SETTINGS = (*PACE, *LIMITS)


class Steering:
    """Obeys the orders that a start is given: see ``mistill.steering.orders``.

    What is set holds for this start; at its end, the model is as it would be without.

    Args:
        is_part: of a start that a driver steers, who says what was done.
        whole: the start that it is a part of, if all its parts use this very model: what is set of its pace holds until
            the end of that.
        snapshot: how the governor stands.
        watch: sees how far the start is. ``find_size``: called when somebody looks, who wants to know of how many rows.
        keep: writes what was changed into the ledger.

    Attributes:
        changes: what was done.
    """

    def __init__(
        self,
        runner: Runner,
        llm: Connection,
        snapshot: Callable[[], Snapshot],
        *,
        watch: Watch,
        find_size: Callable[[], None],
        keep: Callable[[], Awaitable[None]],
        is_part: bool,
        whole: object | None,
    ) -> None:
        self.changes = Changes()
        self._is_part = is_part
        self._paced_until = self if whole is None else whole
        self._turn = asyncio.Lock()
        self._watch = watch
        self._find_size = find_size
        self._runner = runner
        self._llm = llm
        self._snapshot = snapshot
        self._keep = keep
        self._at_first = self._values()
        llm.join_pace(self, self._take_up_pace_soon)
        self._take_up_pace_soon()  # others may have set it since the runner was made

    async def obey(self, order: Order, by: str) -> Answer:
        """Does what is asked. See `Steered`.

        Args:
            by: who asks.
        """
        async with self._turn:  # one after the other: a budget is read from the ledger on the way
            match order.do:
                case "show" | "view":
                    told, settings = None, {}
                case "pause":
                    told, settings = self._pause(), {}
                case "resume":
                    told, settings = self._resume(), {}
                case "stop":
                    told, settings = self._end(by), {}
                case "set":
                    told, settings = await self._set(order.settings)
            if told is not None:
                self.changes.add(Change(time.time(), by, order.do, settings))
                if not self._is_part:
                    _log.warning("%s: %s", by, told)
                await self._keep()
            return Answer(standing=self._standing(), told=told)

    def view(self, *, is_last: bool = False) -> View:
        """How far the start is. See `Steered`."""
        self._find_size()
        return self._watch.view(is_last=is_last)

    def close(self) -> None:
        """The start has ended, and with it what was set of the model's pace, unless its whole goes on."""
        self._llm.leave_pace(self)

    # --- orders -----------------------------------------------------------------------------------------------------

    def _pause(self) -> str | None:
        check_goes_on(self._runner.stopped)
        if self._runner.progress.paused_at_s is not None:
            return None
        self._runner.pause()
        in_flight = self._snapshot().in_flight
        come = "comes" if in_flight == 1 else "come"
        flying = f"; {count(in_flight, 'request')} in flight {come} home" if in_flight else ""
        return f"paused: nothing more is sent{flying}"

    def _resume(self) -> str | None:
        check_goes_on(self._runner.stopped)
        if self._runner.progress.paused_at_s is None:
            return None
        self._runner.resume()
        return "resumed"

    def _end(self, by: str) -> str | None:
        if self._runner.stopped is not None:
            return None
        self._runner.stop(Stopped(f"stopped by {by}", reason="stopped", hint=words(START_AGAIN, " to go on")))
        return "stopped: nothing more is sent, and what is in flight is waited for"

    async def _set(self, given: Mapping[str, Any]) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
        check_goes_on(self._runner.stopped)
        asked = checked_settings(given)
        before = self._values()
        changed = {name: (before[name], value) for name, value in asked.items() if before[name] != value}
        now = before | asked
        pace = {name: asked[name] for name in PACE if name in asked}
        if any(name in changed for name in ("max_cost", "max_tokens_total")):
            await self._runner.limit(now["max_cost"], now["max_tokens_total"])
        if "deadline" in changed:
            self._runner.budget.set_deadline(now["deadline"])
            self._runner.watch_deadline()
        # Also where nothing changes: it may be so by another start, which ends before.
        self._llm.steer_pace(self, pace, self._paced_until)
        if not changed:
            return None, {}
        self._take_up_pace()
        reached = self._runner.stopped
        ends = "" if reached is None else f"; {reached.message}: the run stops"
        if not ends and "deadline" in changed and self._runner.budget.time_left_s() <= 0:
            ends = _DEADLINE_IS_OVER
        return f"set {shown_settings(changed)}{ends}", changed

    def _take_up_pace_soon(self) -> None:
        background.call(self._take_up_pace)

    def _take_up_pace(self) -> None:
        """It was set: by an order, or by one that another start of the same model was given, or by the end of that."""
        self._runner.resize(self._llm.max_concurrent_requests)
        self._note_settings()

    def _note_settings(self) -> None:
        """What differs by now from how the start began is shown while it goes on."""
        now = self._values()
        changed = {
            name: (self._at_first[name], now[name]) for name in SETTINGS if now[name] != self._at_first[name]
        }
        self._runner.progress.changed = shown_settings(changed) or None

    # --- what stands how --------------------------------------------------------------------------------------------

    def _values(self) -> dict[str, Any]:
        budget, llm = self._runner.budget, self._llm
        return {name: getattr(llm, name) for name in PACE} | {name: getattr(budget, name) for name in LIMITS}

    def _standing(self) -> Standing:
        paused_at_s, told = self._runner.progress.paused_at_s, self._told()
        return Standing(
            process=os.getpid(),
            paused_s=None if paused_at_s is None else time.monotonic() - paused_at_s,
            is_stopping=self._runner.stopped is not None,
            in_flight=self._snapshot().in_flight,
            settings=[SettingState(name, value, told.get(name)) for name, value in self._values().items()],
        )

    def _told(self) -> dict[str, str]:
        """What is known of settings besides."""
        budget, told = self._runner.budget, _told_of_quotas(self._snapshot())
        if budget.is_complete:
            told |= _told_of_spent(Amount(budget.spent_cost, budget.spent_tokens))
        if self._is_part:
            told |= {name: f"of all shards; {told[name]} in this one" for name in BUDGETS if name in told}
        if budget.deadline is not None:
            told["deadline"] = _told_of_deadline(budget.time_left_s())
        return told


def _told_of_spent(spent: Amount) -> dict[str, str]:
    return {"max_cost": f"{money(spent.cost)} spent", "max_tokens_total": f"{spent.tokens:,} used"}


def _told_of_deadline(left_s: float) -> str:
    return f"{seconds(max(0.0, left_s))} left"


def _told_of_quotas(now: Snapshot) -> dict[str, str]:
    """What was learned of them, by the settings that would take their place."""
    quotas = {
        "requests_per_minute": (now.requests_per_minute, now.requests_source),
        "tokens_per_minute": (now.tokens_per_minute, now.tokens_source),
    }
    return {
        name: f"{quota:,.0f} {_LEARNED[source]}"
        for name, (quota, source) in quotas.items()
        if quota is not None and source in _LEARNED
    }


class OfOneShard:
    """A shard that a driver steers, for others: what is of all shards, they do not set here. See `Steered`."""

    def __init__(self, steering: Steering, folder: Path) -> None:
        self._steering = steering
        self._folder = folder
        self.view = steering.view

    async def obey(self, order: Order, by: str) -> Answer:
        """See `Steered`."""
        for name in BUDGETS:
            if order.do == "set" and name in order.settings:
                raise InputError(
                    f"{name} is of all shards together, and this is one of them",
                    hint=f"set it for all: mistill ctl {shlex.quote(str(self._folder))} set {name}=…",
                )
        return await self._steering.obey(order, by)


class DriverSteering:
    """Obeys for the shards of a run: an order goes on to each of them, and to those that begin later.

    Args:
        llm: as the run has it; each process has one like it.
        budget: has the limits of all shards. ``before``: what they had spent before this start; ``None``: nobody has
            added it up, since nothing limits it.
        keeper: has the quota of the user's own, for all processes.
        note_sent: tells it what was sent lately; called before there is such a quota.
        watch, keep: as for `Steering`.

    Attributes:
        changes: what was done.
    """

    def __init__(
        self,
        driver: Driver,
        llm: Connection,
        budget: Budget,
        keeper: Governor,
        *,
        before: Amount | None,
        note_sent: Callable[[], None],
        watch: Watch,
        keep: Callable[[], Awaitable[None]],
    ) -> None:
        self.changes = Changes()
        self._before = before
        self.view = watch.view
        self._driver = driver
        self._keeper = keeper
        self._note_sent = note_sent
        self._values: dict[str, Any] = {name: getattr(llm, name) for name in PACE}
        self._values |= {name: getattr(budget, name) for name in LIMITS}
        self._budget = budget
        self._has_budget = budget.is_limited
        self._set: dict[str, Any] = {}
        self._set_by = ""
        self._keep = keep
        self._turn = asyncio.Lock()
        self._late: set[asyncio.Task[list[int]]] = set()
        driver.on_begun = self._note_begun

    def value_of(self, setting: str) -> Any:
        """As it is by now."""
        return self._values[setting]

    async def obey(self, order: Order, by: str) -> Answer:
        """See `Steered`."""
        async with self._turn:
            told, settings = await self._do(order, by)
            if told is not None:
                self.changes.add(Change(time.time(), by, order.do, settings))
                _log.warning("%s: %s", by, told)
                await self._keep()
            paused_at_s = self._driver.progress.paused_at_s
            known = self._told()
            standing = Standing(
                process=os.getpid(),
                paused_s=None if paused_at_s is None else time.monotonic() - paused_at_s,
                is_stopping=self._driver.stopped is not None,
                in_flight=self._driver.snapshot().in_flight,
                settings=[SettingState(name, value, known.get(name)) for name, value in self._values.items()],
            )
            return Answer(standing=standing, told=told)

    def _told(self) -> dict[str, str]:
        """What is known of settings besides."""
        told = _told_of_quotas(self._driver.quotas()) | {"max_concurrent_requests": _OF_EACH}
        if self._budget.is_limited and (spent := self._spent()) is not None:
            told |= _told_of_spent(spent)
        if self._driver.deadline_s is not None:
            told["deadline"] = _told_of_deadline(self._driver.time_left_s)
        return told

    def _spent(self) -> Amount | None:
        """By all shards, in earlier starts too, as far as they have told."""
        progress = self._driver.progress
        tokens = progress.usage.input_tokens + progress.usage.output_tokens
        return None if self._before is None else self._before.plus(Amount(progress.cost or 0.0, tokens))

    async def _do(self, order: Order, by: str) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
        driver = self._driver
        if order.do in ("show", "view") or (order.do == "stop" and driver.stopped is not None):
            return None, {}
        if order.do == "stop":
            driver.stop(Stopped(f"stopped by {by}", reason="stopped", hint=words(START_AGAIN, " to go on")))
            return "stopped: nothing more is sent, and what is in flight is waited for", {}
        check_goes_on(driver.stopped)
        if order.do == "set":
            return await self._change(checked_settings(order.settings), by)
        if (driver.progress.paused_at_s is not None) is (order.do == "pause"):
            return None, {}
        (driver.pause if order.do == "pause" else driver.resume)()
        late = await self._pass_on(order, by, driver.under_way)
        done = "resumed" if order.do == "resume" else "paused" if late else "paused: nothing more is sent"
        return done + late, {}

    async def _change(self, asked: dict[str, Any], by: str) -> tuple[str | None, dict[str, tuple[Any, Any]]]:
        budgets = [name for name in asked if name in BUDGETS]
        if budgets and not self._has_budget:
            raise InputError(
                f"{budgets[0]} cannot be changed while a run in shards goes on that began without a budget",
                hint=words("stop it, and ", _AGAIN),
            )
        changed = {
            name: (self._values[name], value) for name, value in asked.items() if self._values[name] != value
        }
        if not changed:
            return None, {}
        now = self._values | asked
        if budgets:
            self._budget.set_limits(now["max_cost"], now["max_tokens_total"])
        if not _has_quota(self._values) and _has_quota(now):
            await asyncio.to_thread(self._note_sent)
        self._values = now
        self._driver.deadline_s = self._values["deadline"]
        self._keeper.set_quota(self._values["requests_per_minute"], self._values["tokens_per_minute"])
        of_shards = {name: value for name, value in asked.items() if name != "deadline"}
        self._set, self._set_by = self._set | of_shards, by
        late = await self._pass_on(Order("set", of_shards), by, self._driver.under_way) if of_shards else ""
        self._driver.progress.changed = shown_settings(changed)
        of_each = f", {_OF_EACH}" if "max_concurrent_requests" in changed else ""
        return f"set {shown_settings(changed)}{of_each}{self._told_if_reached()}{late}", changed

    def _told_if_reached(self) -> str:
        """Where more is spent than there is to spend, shards find that out before their next request."""
        if self._driver.deadline_s is not None and self._driver.time_left_s <= 0:
            return _DEADLINE_IS_OVER
        limit = SpendingLimit(self._values["max_cost"], self._values["max_tokens_total"])
        spent = self._spent()
        if spent is None or not limit.is_reached(spent):
            return ""
        return f"; {money(spent.cost)} and {count(spent.tokens, 'token')} are spent: the run stops"

    async def _pass_on(self, order: Order, by: str, shards: Iterable[int]) -> str:
        """Shards obey; what is to be said of those that have not."""
        late = await self._driver.order(order, by, shards)
        if not late:
            return ""
        named = f"{'shard' if len(late) == 1 else 'shards'} {', '.join(map(str, late[:_MOST_NAMED]))}"
        others = len(late) - _MOST_NAMED
        return (
            f"; {named}{f' and {others:,} more' if others > 0 else ''} not yet: what works there is starting, or "
            "suspended, and obeys as soon as it can"
        )

    def _note_begun(self, shard: int) -> None:
        """What was set holds for a shard that begins later, too."""
        if self._set:
            order = self._driver.order(Order("set", dict(self._set)), self._set_by, {shard})
            task = asyncio.ensure_future(order)
            self._late.add(task)
            task.add_done_callback(self._late.discard)


def _has_quota(values: Mapping[str, Any]) -> bool:
    return values["requests_per_minute"] is not None or values["tokens_per_minute"] is not None


_OF_EACH = "in each process"
_DEADLINE_IS_OVER = "; it has gone on for longer than that: the run stops"
_MOST_NAMED = 5
"""Of shards, in one line."""


def check_goes_on(stopped: MistillError | None) -> None:
    """``InputError`` where a start is stopping."""
    if stopped is not None:
        raise InputError(
            f"the run is stopping: {stopped.headline}",
            hint=words("what is in flight is waited for; then ", _AGAIN),
        )


_LEARNED = {"server": "by the server's headers", "inferred": "accepted, as it seems"}
_AGAIN = Phrase(
    "start the same run again, with other settings if need be", "the same command again, with other options"
)


def checked_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they may be set, each of its type; texts as the command line writes them too.

    Raises:
        InputError: one that cannot be changed while a run goes on, or a value that it cannot have.
    """
    if not given:
        raise InputError("nothing is to be set", hint=f"one or several of {', '.join(SETTINGS)}")
    return {name: _checked(name, value) for name, value in given.items()}


_ALWAYS = ("max_concurrent_requests",)
"""What a run cannot be without."""
_EXAMPLES = {
    "max_concurrent_requests": "16",
    "requests_per_minute": "300",
    "tokens_per_minute": "500000",
    "max_cost": "20",
    "max_tokens_total": "1000000",
    "deadline": "2h",
}


def _checked(name: str, value: Any) -> Any:
    if name not in SETTINGS:
        raise _cannot_change(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{name}: {value!r} is no number")
    field = (Connection.model_fields if name in PACE else RunOptions.model_fields)[name]
    annotation: Any = Annotated[field.annotation, *field.metadata]
    try:
        return TypeAdapter[Any](annotation).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        told = f"{problem[0].lower()}{problem[1:]}" if value is not None else "there is no run without one"
        none = "" if value is None or name in _ALWAYS else "; none is no limit"
        raise InputError(f"{name}: {told}", hint=f"for example {name}={_EXAMPLES[name]}{none}") from error


_OF_MODEL = ("structured_output", "schema", "generation_kwargs", "parameters")


def _cannot_change(name: str) -> InputError:
    changeable = f"what can: {', '.join(SETTINGS)}"
    if any(
        name in known for known in (RunOptions.model_fields, Connection.model_fields, PARAMETERS, _OF_MODEL)
    ):
        return InputError(
            f"{name} cannot be changed while a run goes on",
            hint=words("stop it, and ", _AGAIN, f"; {changeable}"),
        )
    return InputError(f"a run has no setting {name!r}", hint=did_you_mean(name, SETTINGS))
