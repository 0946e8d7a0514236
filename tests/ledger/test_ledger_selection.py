"""What a ledger says about a run, and rows that are selected and asked again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mistill.api.usage import Usage
from mistill.errors import BadRequest, InputError, InvalidOutput, RateLimited
from mistill.ledger import Cause, ErrorRecord, InputRow, Ledger, LedgerReader, RowState, Selection

MANIFEST = {"model": "m"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "out.ledger", MANIFEST) as ledger:
        yield ledger


async def rows_of(ledger: Ledger, count: int) -> list[RowState]:
    matcher = await ledger.match_input()
    digests = [n.to_bytes(16, "big") for n in range(count)]
    known = await matcher.known(digests)
    new = [
        InputRow(n, digests[n], digests[n], json.dumps({"n": n}).encode())
        for n in range(count)
        if not known[n]
    ]
    claimed = iter(await matcher.claim(new))
    await matcher.finish()
    return [state or next(claimed) for state in known]


async def complete(
    ledger: Ledger, state: RowState, finish_reason: str, tokens: int, body: bytes = b"{}"
) -> None:
    (attempt,) = await ledger.begin_attempts([state.row])
    ledger.answer(attempt, body, Usage(10, tokens), 0.25)
    await ledger.complete(
        state.row,
        [attempt.id],
        finish_reason=finish_reason,
        tokens=Usage(10, tokens),
        cost=0.25,
    )


async def test_failures_are_grouped_by_cause_with_an_example_and_its_hint(ledger: Ledger) -> None:
    states = await rows_of(ledger, 5)
    limited = RateLimited("slow down", status=429, code="1300", correlation_id="abc", hint="lower the rate")
    limited.retryable = True  # delivery decides that
    for state in (states[3], states[1]):
        await ledger.fail(state.row, limited, tokens=Usage())
    await ledger.fail(states[2].row, InvalidOutput("no number", text="raw", path="$.n"), tokens=Usage())
    with LedgerReader(ledger.path) as reader:
        first, second = reader.failures()
        counts = reader.counts()
    assert (first.kind, first.count, first.row) == ("rate_limited", 2, 1)
    assert first.error == ErrorRecord(
        kind="rate_limited", message="slow down", hint="lower the rate", retryable=True,
        status=429, code="1300", correlation_id="abc",
    )  # fmt: skip
    assert (second.kind, second.error.path) == ("invalid_output", "$.n")
    assert (counts.rows, counts.failures, counts.pending) == (5, 3, 2)


async def test_a_group_of_failures_has_the_hint_of_the_most(ledger: Ledger) -> None:
    states = await rows_of(ledger, 5)
    for state, hint in zip(states, (None, "shorter", "shorter", "other", "shorter"), strict=True):
        error = BadRequest(f"no {state.row}", status=400, hint=hint)
        await ledger.fail(state.row, error, tokens=Usage())
    with LedgerReader(ledger.path) as reader:
        (cause,) = reader.failures()
    assert (cause.count, cause.row, cause.error.hint, cause.alike) == (5, 1, "shorter", 3)
    assert cause.error.message == f"no {states[1].row}"  # of the row that is named
    assert not cause.is_of_all
    first = Cause("bad_request", 4, 2, ErrorRecord(kind="bad_request", message="a", hint="other"), alike=4)
    both = cause.after(first, rows=10)
    assert (both.count, both.row, both.error.hint, both.alike) == (9, 2, "other", 4)
    both = msgspec.structs.replace(cause, alike=5).after(both, rows=10)
    assert (both.count, both.row, both.error.hint, both.alike) == (14, 11, "shorter", 5)


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        ("state=completion", [0, 1]),
        ("state=pending", [3]),
        ("state!=completion", [2, 3]),
        ("error=bad_request", [2]),
        ("error != bad_request", [0, 1, 3]),
        ("finish_reason=length", [1]),
        ("output_tokens>=20", [1]),
        ("output_tokens > 1, output_tokens<20", [0]),
        ("state=completion and row>0", [1]),
        ("cost=0.25 AND finish_reason=stop", [0]),
        ("row=17", []),
        ("finish_reason=' OR 1=1 --", []),
        ('finish_reason="length"', [1]),
        ("finish_reason==length", [1]),
        ("finish_reason=null", [2, 3]),
        ("finish_reason='null'", []),
    ],
)
async def test_where(ledger: Ledger, where: str, positions: list[int]) -> None:
    states = await rows_of(ledger, 4)
    await complete(ledger, states[0], "stop", 5)
    await complete(ledger, states[1], "length", 20)
    await ledger.fail(states[2].row, BadRequest("no", status=400), tokens=Usage())
    with LedgerReader(ledger.path) as reader:
        assert [row.position for row in reader.rows(Selection.parse(where))] == positions


@pytest.mark.parametrize(
    ("where", "message", "hint"),
    [
        ("finish_reson=length", "no field 'finish_reson'", "finish_reason"),
        ("1", "cannot read '1'", "error=rate_limited"),
        ("finish_reason=war and peace", "cannot read 'peace'", "stands in quotes"),
        ("", "cannot read ''", "error=rate_limited"),
        ("row=first", "row is a number", "row=17"),
        ("cost=nan", "cost is a number", "cost=17"),
        ("state=failed", "no state 'failed'", "failure"),
        ("error>rate_limited", "error is text", "error=…"),
    ],
)
def test_where_refuses_what_it_does_not_know(where: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as refused:
        Selection.parse(where)
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


async def test_rows_asked_again_keep_their_outcome_until_a_better_one_comes(ledger: Ledger) -> None:
    await complete(ledger, (await rows_of(ledger, 2))[0], "length", 20, b"cut")
    settings = {"manifest": {"max_tokens": 99}}
    assert await ledger.begin_retry(Selection.parse("finish_reason=length"), settings) == 1

    state, _ = await rows_of(ledger, 2)
    assert state.state == "pending"
    with LedgerReader(ledger.path) as reader:
        (before, _) = reader.rows()
        counts = reader.counts()
        assert (counts.pending, counts.asked_again) == (1, 1)
    assert (before.state, before.asked_again, before.answers) == ("completion", True, (b"cut",))

    await complete(ledger, state, "stop", 50, b"whole")
    with LedgerReader(ledger.path) as reader:
        (after, _) = reader.rows()
        earlier = reader.earlier_outcomes(after.row)
        kept = reader.retry_settings()
        counts = reader.counts()
    assert (after.asked_again, after.answers, after.finish_reason) == (False, (b"whole",), "stop")
    assert after.settings is not None
    assert json.loads(kept[after.settings]) == settings
    assert [(outcome.finish_reason, outcome.answers, outcome.settings) for outcome in earlier] == [
        ("length", (b"cut",), None)
    ]
    assert counts.cost == 0.5


async def test_a_retry_that_fails_does_not_take_the_answer_away(ledger: Ledger) -> None:
    await complete(ledger, (await rows_of(ledger, 1))[0], "length", 20, b"cut")
    await ledger.begin_retry(Selection.parse("row=0"))
    await ledger.fail(1, BadRequest("too many tokens", status=400), tokens=Usage())
    (state,) = await rows_of(ledger, 1)
    with LedgerReader(ledger.path) as reader:
        (row,) = reader.rows()
    assert state.state == row.state == "completion"
    assert row.answers == (b"cut",)


async def test_a_row_is_completed_once(ledger: Ledger) -> None:
    (state,) = await rows_of(ledger, 1)
    await complete(ledger, state, "stop", 1, b"first")
    await complete(ledger, state, "stop", 1, b"second")
    with LedgerReader(ledger.path) as reader:
        (row,) = reader.rows()
        assert row.answers == (b"first",)
        assert reader.counts().cost == 0.5  # both were paid


async def test_several_generations_come_back_in_their_order(ledger: Ledger) -> None:
    (state,) = await rows_of(ledger, 1)
    attempts = [(await ledger.begin_attempts([state.row]))[0] for _ in range(3)]
    for attempt in attempts:
        ledger.answer(attempt, b"%d" % attempt.id, Usage(1, 1), None)
    await ledger.complete(
        state.row,
        [attempts[place].id for place in (2, 0, 1)],
        finish_reason="stop",
        tokens=Usage(3, 3),
        cost=None,
    )
    with LedgerReader(ledger.path) as reader:
        (row,) = reader.rows()
    assert row.answers == (b"3", b"1", b"2")


async def test_answers_paid_before_a_stop_are_there_for_the_next_run(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "out.ledger", {}) as ledger:
        (state,) = await rows_of(ledger, 1)
        paid, lost = [(await ledger.begin_attempts([state.row]))[0] for _ in range(2)]
        ledger.answer(paid, b"one of two", Usage(1, 2), 0.5)
    with Ledger.open(tmp_path / "out.ledger", {}) as ledger:
        (state,) = await rows_of(ledger, 1)
        assert (state.state, state.has_answers, state.maybe_billed) == ("pending", True, True)
        ((known,),) = (await ledger.known_attempts([state.row])).values()
        answer = known.answer
        assert answer is not None
        assert (answer.attempt, answer.body) == (paid, b"one of two")
        usage = Usage(answer.input_tokens, answer.output_tokens)
        assert (usage, answer.cost) == (Usage(1, 2), 0.5)
        assert lost.id != answer.attempt.id
        await ledger.complete(
            state.row, [answer.attempt.id], finish_reason="stop", tokens=usage, cost=answer.cost
        )
    with LedgerReader(tmp_path / "out.ledger") as reader:
        assert [row.answers for row in reader.rows()] == [(b"one of two",)]


async def paid_and_killed(path: Path, settings: dict[str, Any] | None) -> None:
    """A retry that was answered, and died before it could say so."""
    with Ledger.open(path, MANIFEST) as ledger:
        await ledger.begin_retry(Selection.parse("row=0"), settings)
        (attempt,) = await ledger.begin_attempts([1])
        ledger.answer(attempt, b"paid", Usage(1, 1), 0.5)
        await ledger.flush()


@pytest.mark.parametrize("settings", [None, {"manifest": {"model": "other"}}])
async def test_an_answer_that_a_killed_retry_paid_for_is_used_by_the_same_retry_alone(
    ledger: Ledger, settings: dict[str, Any] | None
) -> None:
    await complete(ledger, (await rows_of(ledger, 1))[0], "length", 2, b"cut")
    ledger.close()
    await paid_and_killed(ledger.path, settings)
    with Ledger.open(ledger.path, MANIFEST) as again:
        assert 1 in again.rows_with_answers
        assert await again.begin_retry(None, settings) == 1
        ((paid,),) = (await again.known_attempts([1])).values()
        assert paid.answer is not None
        assert (paid.answer.body, paid.attempt.settings) == (b"paid", 1 if settings else None)
    with Ledger.open(ledger.path, MANIFEST) as other:
        assert await other.begin_retry(Selection.parse("row=0"), {"manifest": {"model": "third"}}) == 1
        assert await other.known_attempts([1]) == {}
    with Ledger.open(ledger.path, MANIFEST) as run:
        await run.end_retry()
        (state,) = await rows_of(run, 1)
        assert state.state == "completion"


async def test_settings_are_kept_once_however_often_they_are_asked_with(ledger: Ledger) -> None:
    await complete(ledger, (await rows_of(ledger, 1))[0], "stop", 2)
    for endpoint in ("a", "b"):
        for model in ("small", "large"):
            settings = {"manifest": {"model": model}, "llm": {"endpoint": endpoint}}
            await ledger.begin_retry(Selection.parse("row=0"), settings)
    with LedgerReader(ledger.path) as reader:
        kept = [json.loads(text)["manifest"]["model"] for text in reader.retry_settings().values()]
    assert kept == ["small", "large"]


@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        ("stop", "stop", False),
        ("length", "stop", False),
        ("length", "length", False),
        ("stop", "length", True),
        ("stop", "model_length", True),
        ("tool_calls", "length", True),
    ],
)
async def test_what_replaces_an_answer_is_as_whole_as_it(
    ledger: Ledger, before: str, after: str, stays: bool
) -> None:
    (state,) = await rows_of(ledger, 1)
    await complete(ledger, state, before, 2, b"before")
    await ledger.begin_retry(Selection.parse("row=0"))
    await complete(ledger, state, after, 2, b"after")
    with LedgerReader(ledger.path) as reader:
        (row,) = reader.rows()
        assert row.answers == ((b"before",) if stays else (b"after",))
        assert not row.asked_again
        assert reader.counts().pending == 0
        assert len(reader.attempts_of(row.row)) == 2


@pytest.mark.parametrize(
    ("where", "pending", "damaged"),
    [
        ("state=pending", True, False),
        ("state=pending, row<5", True, False),
        ("state!=pending", False, False),
        ("finish_reason=pending", False, False),
        ("finish_reason!=pending", False, False),
        ("error=damaged_answer", False, True),
        ("error=damaged_record, row=1", False, True),
        ("error!=damaged_answer", False, False),
        ("finish_reason=damaged_answer", False, False),
        ("row<5", False, False),
    ],
)
def test_rows_without_an_outcome_and_damaged_ones_are_wanted_only_in_so_many_words(
    where: str, pending: bool, damaged: bool
) -> None:
    selection = Selection.parse(where)
    assert (selection.wants_pending, selection.wants_damaged) == (pending, damaged)


async def test_a_server_that_names_each_answers_node_does_not_make_each_commit_longer(ledger: Ledger) -> None:
    (state,) = await rows_of(ledger, 1)
    for number in range(2_000):
        (attempt,) = await ledger.begin_attempts([state.row])
        ledger.answer(attempt, b"{}", Usage(1, 1), None, f"node-{number}")
    await ledger.flush()
    with LedgerReader(ledger.path) as reader:
        counts = reader.answers_by_model(lambda _: None)
    assert sum(one.answers for one in counts) == 2_000
    assert len(counts) <= 257
    assert counts[-1].model is None  # the others, that answered last
