"""Which rows are the same rows, after the input was edited."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistill.api.usage import Usage
from mistill.errors import ServerError
from mistill.ledger import InputRow, Ledger, LedgerReader, RowState

PAID = Usage(input_tokens=3, output_tokens=5)
COST = 0.5


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "out.ledger", {}) as ledger:
        yield ledger


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


async def match(ledger: Ledger, rows: str, *, window: int = 4, dedupe: bool = False) -> list[RowState]:
    """Each letter is a row: its case shows only in the record, not in the request."""
    matcher = await ledger.match_input(dedupe=dedupe)
    states: list[RowState] = []
    for start in range(0, len(rows), window):
        part = [
            InputRow(position, digest(letter), digest(letter.lower()), b'"%s"' % letter.encode())
            for position, letter in enumerate(rows[start : start + window], start)
        ]
        known = await matcher.known([row.digest for row in part])
        missed = iter(await matcher.claim([r for r, state in zip(part, known, strict=True) if state is None]))
        states += [state or next(missed) for state in known]
    await matcher.finish()
    await ledger.flush()
    return states


async def complete(ledger: Ledger, *rows: int) -> None:
    for row in rows:
        (attempt,) = await ledger.begin_attempts([row])
        ledger.answer(attempt, b"to %d" % row, PAID, COST)
        await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=PAID, cost=COST)


async def fail(ledger: Ledger, row: int) -> None:
    (attempt,) = await ledger.begin_attempts([row])
    error = ServerError("no", status=500)
    ledger.end_attempt(attempt, "failed", error)
    await ledger.fail(row, error, tokens=Usage())


def pending(states: list[RowState]) -> list[int]:
    return [state.position for state in states if state.state != "completion" and state.same_as is None]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("edited", "asked"),
    [
        ("abcdef", []),
        ("abcdefg", [6]),
        ("gabcdef", [0]),
        ("fedcba", []),
        ("bdf", []),
        ("abXdef", [2]),
        ("abcdeff", [6]),
        ("ffffff", [1, 2, 3, 4, 5]),
        ("ABCDEF", []),
        ("", []),
    ],
)
async def test_only_the_difference_is_asked(
    ledger: Ledger, edited: str, asked: list[int], window: int
) -> None:
    await complete(ledger, *(state.row for state in await match(ledger, "abcdef")))
    assert len(pending(await match(ledger, edited, window=window))) == len(asked)
    with LedgerReader(ledger.path) as reader:
        rows = list(reader.rows())
    assert b"".join(row.record for row in rows).replace(b'"', b"").decode() == edited
    assert all(row.answers == (b"to %d" % row.row,) for row in rows if row.state == "completion")


async def test_identical_rows_are_each_asked_and_each_found_again(ledger: Ledger) -> None:
    first = await match(ledger, "aaaa", window=3)
    assert len({state.row for state in first}) == 4
    await complete(ledger, first[0].row, first[1].row)
    assert pending(await match(ledger, "aaaa", window=3)) == [2, 3]


async def test_a_row_that_was_removed_and_comes_back_is_not_paid_again(ledger: Ledger) -> None:
    await complete(ledger, *(state.row for state in await match(ledger, "abc")))
    assert pending(await match(ledger, "ac")) == []
    assert pending(await match(ledger, "cba")) == []


async def test_of_identical_rows_the_one_that_was_paid_is_kept(ledger: Ledger) -> None:
    states = await match(ledger, "aba")
    await complete(ledger, states[2].row)
    assert pending(await match(ledger, "ba")) == [0]


async def test_a_pass_that_was_cut_short_leaves_the_rest_where_it_was(ledger: Ledger) -> None:
    await complete(ledger, *(state.row for state in await match(ledger, "abcdef")))
    matcher = await ledger.match_input()
    assert await matcher.known([digest("x")]) == [None]
    await matcher.claim([InputRow(0, digest("x"), digest("x"), b'"x"')])
    assert pending(await match(ledger, "abcdef")) == []


async def test_known_rows_need_no_prompt_however_they_ended(ledger: Ledger) -> None:
    done, failed, _ = await match(ledger, "abc")
    await complete(ledger, done.row)
    await fail(ledger, failed.row)
    matcher = await ledger.match_input()
    known = await matcher.known([digest("a"), digest("b"), digest("c"), digest("new")])
    assert [state and state.state for state in known] == ["completion", "failure", "pending", None]


class TestDedupe:
    async def test_identical_requests_are_asked_once_and_share_the_outcome(self, ledger: Ledger) -> None:
        states = await match(ledger, "aAbaBa", dedupe=True, window=2)
        assert pending(states) == [0, 2]
        await complete(ledger, states[0].row, states[2].row)
        with LedgerReader(ledger.path) as reader:
            rows = list(reader.rows())
            counts = reader.counts()
        assert [row.answers for row in rows] == [(b"to %d" % states[n].row,) for n in (0, 0, 2, 0, 2, 0)]
        assert [row.copied for row in rows] == [False, True, False, True, True, True]
        assert sum(row.cost or 0 for row in rows) == counts.cost == 1.0
        assert counts.completions == 6
        assert pending(await match(ledger, "aAbaBa", dedupe=True, window=2)) == []

    async def test_when_the_one_that_is_asked_is_removed_another_is_asked(self, ledger: Ledger) -> None:
        await match(ledger, "abaa", dedupe=True)
        assert pending(await match(ledger, "baa", dedupe=True)) == [0, 1]

    async def test_when_the_one_that_was_answered_is_removed_its_answer_stays(self, ledger: Ledger) -> None:
        states = await match(ledger, "abaa", dedupe=True)
        await complete(ledger, states[0].row)
        assert pending(await match(ledger, "ba", dedupe=True, window=1)) == [0]

    async def test_an_answer_further_on_serves_the_rows_before_it(self, ledger: Ledger) -> None:
        states = await match(ledger, "xbaa")
        await complete(ledger, states[3].row)
        assert pending(await match(ledger, "abaa", dedupe=True)) == [1]
        assert pending(await match(ledger, "abaa", dedupe=True, window=1)) == [1]

    async def test_without_it_the_copies_are_rows_of_their_own_again(self, ledger: Ledger) -> None:
        states = await match(ledger, "aaa", dedupe=True)
        await complete(ledger, states[0].row)
        assert pending(await match(ledger, "aaa")) == [1, 2]

    async def test_a_failure_is_shared_and_tried_again_once(self, ledger: Ledger) -> None:
        states = await match(ledger, "aa", dedupe=True)
        await fail(ledger, states[0].row)
        again = await match(ledger, "aa", dedupe=True)
        assert [state.state for state in again] == ["failure", "failure"]
        assert pending(again) == [0]
