"""Numbers and sizes that SQLite does not hold, and texts that UTF-8 does not: clamped, refused with words, replaced."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.api.usage import Usage
from mistill.errors import InputError, InvalidOutput, LedgerError, MalformedAnswer
from mistill.ledger import Attempt, InputRow, Ledger, LedgerReader, Selection
from mistill.ledger.checksums import add_checksum
from mistill.ledger.tables import ATTEMPT_SUM

ODD_NUMBERS = [0, -1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400)]
ODD_COSTS = [None, 0, 1, -0.0, -1.0, 1e300, math.inf, -math.inf, math.nan, 10**400]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


async def claim(ledger: Ledger, count: int, record: bytes = b"{}") -> list[int]:
    matcher = await ledger.match_input()
    digests = [number.to_bytes(16, "big") for number in range(count)]
    known = await matcher.known(digests)
    rows = [InputRow(number, digests[number], digests[number], record) for number in range(count)]
    claimed = iter(
        await matcher.claim([row for row, state in zip(rows, known, strict=True) if state is None])
    )
    await matcher.finish()
    return [(state or next(claimed)).row for state in known]


async def attempt_at(ledger: Ledger, row: int) -> Attempt:
    (attempt,) = await ledger.begin_attempts([row])
    return attempt


async def test_absurd_numbers_end_no_run_and_what_has_them_can_be_read(path: Path) -> None:
    cases = [(tokens, cost) for tokens in ODD_NUMBERS for cost in ODD_COSTS]
    with Ledger.open(path, {}) as ledger:
        rows = await claim(ledger, 2 * len(cases))
        for row, (tokens, cost) in zip(rows, cases * 2, strict=True):
            usage: Any = Usage(tokens, tokens, tokens)
            attempt = await attempt_at(ledger, row)
            ledger.answer(attempt, b"an answer", usage, cost)
            if row > len(cases):
                await ledger.fail(row, InvalidOutput("no", text=None), tokens=usage, cost=cost)
            else:
                await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=usage, cost=cost)
    with LedgerReader(path) as reader:
        counts, found = reader.counts(), list(reader.rows())
        reader.check_damages()
    assert counts.completions == counts.failures == len(found) / 2 == len(cases)
    assert counts.cost is not None
    assert math.isfinite(counts.cost)
    assert all(0 <= row.output_tokens <= 2**53 for row in found)
    assert all(row.cost is None or 0 <= row.cost <= 2**53 for row in found)


@settings(max_examples=25)
@given(
    tokens=st.lists(st.integers(), min_size=3, max_size=3),
    cost=st.none() | st.floats() | st.integers(),
    finish_reason=st.none() | st.text(st.characters(exclude_categories=[])),
    several=st.booleans(),
)  # fmt: skip
async def test_any_number_and_any_text_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    tokens: list[int],
    cost: Any,
    finish_reason: str | None,
    several: bool,
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    usage = Usage(*tokens)
    with Ledger.open(path, {}) as ledger:
        (row,) = await claim(ledger, 1)
        attempts = [await attempt_at(ledger, row) for _ in range(2 if several else 1)]
        for attempt in attempts:
            ledger.answer(attempt, b"an answer", usage, cost)
        numbers = [attempt.id for attempt in attempts]
        await ledger.complete(row, numbers, finish_reason=finish_reason, tokens=usage, cost=cost)
    with LedgerReader(path) as reader:
        (found,) = reader.rows()
        reader.check_damages()
        reader.counts()
    assert found.answers == (b"an answer",) * len(attempts)
    assert (
        found.finish_reason is None or "\ufffd" in found.finish_reason or found.finish_reason == finish_reason
    )
    if 0 <= tokens[0] < 2**53 and 0 <= tokens[1] < 2**53:
        assert (found.input_tokens, found.output_tokens) == tuple(tokens[:2])


async def test_half_a_character_in_an_error_is_replaced(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        (row,) = await claim(ledger, 1)
        error = InvalidOutput("half \ud83d of one", text=None, path="$.\udc00")
        ledger.end_attempt(await attempt_at(ledger, row), "failed", error)
        await ledger.fail(row, error, tokens=Usage(), finish_reason="\ud83d\ude00")
    with LedgerReader(path) as reader:
        (found,) = reader.rows()
        (cause,) = reader.failures()
    assert (cause.error.message, cause.error.path, found.finish_reason) == (
        "half \ufffd of one",
        "$.\ufffd",
        "😀",
    )


async def test_a_ledger_that_has_such_numbers_already_stays_readable(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        for row in await claim(ledger, 3):
            attempt = await attempt_at(ledger, row)
            ledger.answer(attempt, b"an answer", Usage(1, 1), 0.5)
            await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(1, 1), cost=0.5)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        add_checksum(connection)
        connection.execute("UPDATE attempts SET input_tokens = ?, cost = 1e308", (2**63 - 1,))
        connection.execute(f"UPDATE attempts SET checksum = {ATTEMPT_SUM}")  # as if it had been written so
    with LedgerReader(path) as reader:
        counts = reader.counts()
        assert (counts.completions, counts.input_tokens, counts.cost) == (
            3,
            0,
            0.0,
        )  # what cannot be is no sum
        assert len(list(reader.rows())) == 3
        assert len(reader.latencies_s([0.5])) == 1
    Ledger.open(path, {}).close()


@pytest.mark.parametrize("number", ["1e30", "9223372036854775808", "-1e300", "1e308"])
def test_a_number_in_a_condition_may_be_of_any_size(path: Path, number: str) -> None:
    Ledger.open(path, {}).close()
    with LedgerReader(path) as reader:
        assert list(reader.rows(Selection.parse(f"output_tokens>={number}"))) == []


@pytest.fixture
def _small_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite holds values of a gigabyte; here of 20,000 bytes."""
    connect = sqlite3.connect

    def connect_small(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **keywords)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("_small_values")
async def test_a_row_too_large_for_a_ledger_is_named(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        matcher = await ledger.match_input()
        records = [b"x" * size for size in (10, 19_000, 19_001, 10)]
        digests = [number.to_bytes(16, "big") for number in range(4)]
        await matcher.known(digests)
        rows = [InputRow(number, digests[number], digests[number], records[number]) for number in range(4)]
        with pytest.raises(InputError, match=r"row 2 has 19,001 bytes; a ledger can hold 19,000") as refused:
            await matcher.claim(rows)
        assert refused.value.index == 2
        matcher = await ledger.match_input()
        await matcher.known(digests[:2])
        assert len(await matcher.claim(rows[:2])) == 2  # the largest that is let through is also held
        await ledger.flush()


@pytest.mark.usefixtures("_small_values")
async def test_an_answer_too_large_for_a_ledger_is_its_rows_failure_alone(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        first, second = await claim(ledger, 2)
        attempt = await attempt_at(ledger, first)
        with pytest.raises(MalformedAnswer, match="20,001 bytes is more than a ledger can hold") as failed:
            ledger.answer(attempt, b"x" * 20_001, Usage(1, 2), None)
        await ledger.fail(first, failed.value, tokens=Usage())
        attempt = await attempt_at(ledger, second)
        ledger.answer(attempt, b"x" * 19_000, Usage(1, 2), None)
        await ledger.complete(second, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=None)
    with LedgerReader(path) as reader:
        assert [row.state for row in reader.rows()] == ["failure", "completion"]
        assert reader.counts().maybe_billed == 1
    Ledger.open(path, {}).close()
    with LedgerReader(path) as reader:
        assert reader.counts().maybe_billed == 1


def test_the_error_of_a_closed_reader_is_no_damage(path: Path) -> None:
    Ledger.open(path, {}).close()
    reader = LedgerReader(path)
    reader.close()
    with pytest.raises(LedgerError, match="closed"):
        list(reader.rows())
    assert reader.damages == []
