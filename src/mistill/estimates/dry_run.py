"""What a run would ask, and about what it would cost: everything is made ready, and nothing is sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime
from typing import Any, Self, cast

import msgspec
from msgspec import Struct

from mistill.api.prices import Price, old_prices_note
from mistill.api.token_estimate import HOW
from mistill.delivery.diagnostics import Snapshot
from mistill.estimates.cache_savings import CachedInput
from mistill.estimates.lane_quotes import ChosenLane, LaneQuote, quote_lines
from mistill.progress.formatting import count, money, seconds
from mistill.progress.preformatted import preformatted
from mistill.wording import Part, Setting, Wording, in_python, parts_of, worded

_SHOWN_CHARS = 1000
_BATCH_ROWS = 1000


class Refusal(Struct, frozen=True):
    """A row that would not be sent, by its position in the input, and why."""

    row: int
    message: str
    hint: str | None = None


class ShownPrompt(Struct, frozen=True):
    """What would be sent for a row, as JSON values."""

    row: int
    prompt: Any


class Cost(Struct, frozen=True):
    """US dollars.

    Attributes:
        input: for what is sent, its answers left out.
        most: with the longest answers that may come; ``None`` where nothing bounds them.
    """

    input: float
    most: float | None

    def times(self, factor: float) -> Cost:
        return Cost(self.input * factor, None if self.most is None else self.most * factor)


class DryRun(Struct, frozen=True, kw_only=True):
    """What a run of the whole input would ask. Tokens are estimated, see ``estimate``.

    Attributes:
        rows: of the input. ``asked``: those that would be sent, ``requests``: in so many requests.
        duplicates: rows whose request is the same as an earlier one's; asked too, unless ``dedupe``.
        refused: rows that would not be sent. ``refusals``: the first of them.
        is_blocked: the first row is among them, and stops the run before anything is sent.
        too_long: rows that are longer than the model takes, ``context`` tokens; ``None`` where that is not known.
        input_tokens: of all requests. ``most_output_tokens``: of all answers; ``None`` where nothing bounds them.
        cost: live, nothing cached; ``None`` where the model has no known price. ``batch_cost``: in batch jobs;
            ``None`` too where the server has none.
        lanes: the same for each lane, and live with what can be cached; empty where no price is known.
        live_up_to_tokens: tokens of an answer, as a mean, up to which live with the cache costs less than a batch job;
            0: no answer is so short; ``None``: there are no jobs, or no price.
        minute_cost: US dollars for a minute of sound, which are not in these; 0 where it costs no more than its tokens.
        cache: what of the input can be cached, and so costs less than it does in ``cost``; ``None``: nothing of it.
        prices_of: when the price was published that these come of; ``None`` where there is none, or no date.
        lane: which of them it would be. ``seconds``: what the known quota makes it take live, at least; ``None``
            where none is known.
        few: so few rows that the cheapest lane makes no jobs of them.
        retired: that the model is served no more, and its successor; ``None``: nothing is known of that.
        prompts: what would be sent for the first rows.
        estimate: how tokens are estimated.
    """

    model: str
    rows: int
    asked: int
    requests: int
    duplicates: int
    dedupe: bool
    refused: int
    refusals: list[Refusal]
    is_blocked: bool
    too_long: int | None
    context: int | None
    input_tokens: int
    most_output_tokens: int | None
    cost: Cost | None
    batch_cost: Cost | None
    minute_cost: float = 0.0
    prices_of: date | None = None
    cache: CachedInput | None = None
    lanes: list[LaneQuote] = []
    live_up_to_tokens: int | None = None
    lane: ChosenLane = "live"
    seconds: float | None
    few: bool = False
    retired: str | None = None
    prompts: list[ShownPrompt]
    estimate: str = HOW

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return msgspec.to_builtins(self.worded(in_python))

    def worded(self, wording: Wording) -> DryRun:
        """The same in the words of a place."""
        refusals = [
            Refusal(one.row, worded(one.message, wording), one.hint and worded(one.hint, wording))
            for one in self.refusals
        ]
        return msgspec.structs.replace(self, refusals=refusals)

    def __str__(self) -> str:
        return "\n".join(self.lines(in_python))

    def _repr_html_(self) -> str:
        return preformatted(str(self))

    def lines(self, wording: Wording) -> Iterator[str]:
        """The same as text, in the words of a place."""
        for parts in self._lines():
            yield "".join(part if isinstance(part, str) else wording(part) for part in parts)

    def _lines(self) -> Iterator[tuple[Part, ...]]:
        for shown in self.prompts:
            yield (f"row {shown.row}:",)
            yield from ((line,) for line in _prompt_lines(shown.prompt))
        yield (f"{count(self.rows, 'row')}: {self.asked:,} to ask in {count(self.requests, 'request')}",)
        if self.retired is not None:
            yield (self.retired,)
        yield from self._problems()
        yield (f"tokens in: about {self.input_tokens:,} ({self.estimate})",)
        if self.cache is not None:
            yield from ((line,) for line in self.cache.lines(self.input_tokens))
        if self.most_output_tokens is None:
            yield ("tokens out: nothing bounds them: ", Setting("max_new_tokens"), " would")
        else:
            yield (f"tokens out: at most {self.most_output_tokens:,}",)
        yield from self._costs()
        if self.cost is not None and (old := old_prices_note(self.prices_of, datetime.now(UTC).date())):
            yield ("prices: ", *old.parts)
        if self.seconds is not None and not self._has_lanes:
            yield (f"time: {seconds(self.seconds)} at least, by the quota that is known",)
        yield ("nothing was sent; what answers really take, a few tell: ", Setting("sample", 20))

    @property
    def _has_lanes(self) -> bool:
        """There is more than one to choose from."""
        return len(self.lanes) > 1 and (self.batch_cost is not None or self.cache is not None)

    def _costs(self) -> Iterator[tuple[Part, ...]]:
        if self.cost is None:
            yield ("cost: no price is known for this model; give your own table with ", Setting("prices"))
            return
        sound = f"; and {money(self.minute_cost)} for each minute of sound" if self.minute_cost else ""
        if not self._has_lanes:
            yield (f"cost: {_cost(self.cost)}{sound}",)
            return
        yield (f"cost and time, by lane{sound}:",)
        yield from ((f"  {line}",) for line in quote_lines(self.lanes, self.lane, at_least=True))
        if self.lane == "cheapest" and self.few:
            yield ("  so few rows all go live: no job is worth the wait; see ", Setting("batch_tail"))
        elif self.live_up_to_tokens:
            most = f"where answers have fewer than about {self.live_up_to_tokens:,} tokens"
            yield (f"  live is cheaper than jobs {most}, if all that can be cached is",)
        if self.lane != "cheapest" and self.batch_cost is not None:
            yield ("  by what the first rows take: ", Setting("lane", "cheapest"))

    def _problems(self) -> Iterator[tuple[Part, ...]]:
        if self.duplicates:
            once = (" are asked once",) if self.dedupe else (" cost once with ", Setting("dedupe", True))
            yield (f"the same as an earlier one: {count(self.duplicates, 'row')}, which", *once)
        if self.too_long:
            yield (f"longer than the {self.context:,} tokens of the model: {count(self.too_long, 'row')}",)
        if self.refused:
            yield (f"would be refused: {count(self.refused, 'row')}",)
        for refusal in self.refusals:
            yield ("  ", *parts_of(refusal.message))
            if refusal.hint:
                yield ("    hint: ", *parts_of(refusal.hint))
        if self.is_blocked:
            yield ("the first row is one of them, so the run would send nothing",)


def _cost(cost: Cost) -> str:
    if cost.most is None:
        return f"{money(cost.input)} and the answers"
    return money(cost.most) if cost.most == cost.input else f"{money(cost.input)} to {money(cost.most)}"


def _prompt_lines(prompt: Any) -> Iterator[str]:
    messages = cast("list[Mapping[str, Any]]", prompt if isinstance(prompt, list) else [{"content": prompt}])
    for message in messages:
        content = message.get("content")
        chunks: list[Any] = content if isinstance(content, list) else [content]  # pyright: ignore[reportUnknownVariableType]
        role = f"{message['role']}: " if "role" in message else ""
        text = "\n".join(_chunk_text(chunk) for chunk in chunks)
        shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text):,} characters)"
        yield from ("  " + line for line in f"{role}{shown}".splitlines())


def _chunk_text(chunk: Any) -> str:
    if not isinstance(chunk, dict):
        return str(chunk)
    fields = cast("dict[str, Any]", chunk)
    return str(fields["text"]) if "text" in fields else json.dumps(fields, ensure_ascii=False)[:_SHOWN_CHARS]


class TotalRequests(Struct, frozen=True):
    """All that would be sent, see `DryRun`."""

    rows: int
    requests: float
    input_tokens: int
    cached_tokens: int
    most_output_tokens: int | None


class RequestTable:
    """What would be sent, a line for each row, in a temporary database, so that any number of rows may be compared."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("")  # on disk as far as it does not fit SQLite's own cache
        self._connection.execute(
            "CREATE TABLE requests (fingerprint BLOB, input INT, cached INT, output INT, requests REAL)"
        )
        self._lines: list[tuple[bytes, int, int, int | None, float]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(
        self, fingerprint: bytes, input_tokens: int, cached: int, output_tokens: int | None, requests: float
    ) -> None:
        """A row. ``cached``: those of its tokens that an earlier one begins with."""
        self._lines.append((fingerprint, input_tokens, cached, output_tokens, requests))
        if len(self._lines) >= _BATCH_ROWS:
            self._flush()

    def total(self, *, dedupe: bool) -> tuple[TotalRequests, int]:
        """All that would be sent, and how many rows ask what an earlier one asked."""
        self._flush()
        sums = (
            "SELECT count(*), total(requests), total(input), total(cached), total(output), count(output) FROM"
        )
        each = """(SELECT max(input) AS input, min(cached) AS cached, max(output) AS output, max(requests) AS requests
                   FROM requests"""
        with closing(self._connection.cursor()) as cursor:
            every = cursor.execute(f"{sums} requests").fetchone()
            once = cursor.execute(f"{sums} {each} GROUP BY fingerprint)").fetchone()
        rows, requests, inputs, cached, outputs, bounded = once if dedupe else every
        most = int(outputs) if bounded == rows else None
        return TotalRequests(rows, requests, int(inputs), int(cached), most), every[0] - once[0]

    def _flush(self) -> None:
        self._connection.executemany("INSERT INTO requests VALUES (?, ?, ?, ?, ?)", self._lines)
        self._lines.clear()


def cost_of(total: TotalRequests, price: Price | None) -> Cost | None:
    """What it costs, where the price is known."""
    if price is None:
        return None
    most = total.most_output_tokens
    return Cost(
        price.most(total.input_tokens, 0), None if most is None else price.most(total.input_tokens, most)
    )


def seconds_of(total: TotalRequests, limits: Snapshot) -> float | None:
    """What the quota makes it take at least, where one is known."""
    tokens = total.input_tokens + (total.most_output_tokens or 0)
    needs = ((total.requests, limits.requests_per_minute), (tokens, limits.tokens_per_minute))
    found = [needed / limit * 60 for needed, limit in needs if limit]
    return max(found) if found else None
