"""Ledgers with flipped bits: what comes out is right or is said to be damaged, and a run gets over it.

    python -m tests.ledger.fuzz_damage [--tries 10000] [--seed 0] [--bits 1]

Each try flips bits of one small ledger, reads all there is to read, works on it as a run would, and reads it again.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mistill.api.usage import Usage
from mistill.errors import InvalidOutput, LedgerError
from mistill.ledger import InputRow, Ledger, LedgerReader, LedgerRow, RowState, Selection

MANIFEST = {"kind": "chat", "model": "m", "prompt": "{{ text }}"}
SETTINGS = {"llm": {"model": "m"}}
ROWS = 24
_REQUESTS = 20  # the others are copies
_FAILED = 7
_SEVERAL = 3
_AGAIN = 5
_MAX_SHOWN = 5


class Wrong(AssertionError):
    """Damaged data was given for good."""


def request_of(position: int) -> str:
    return f"question {position % _REQUESTS}"


def input_row(position: int) -> InputRow:
    record = json.dumps({"id": position, "text": request_of(position), "more": "x" * 300}).encode()
    digest, fingerprint = (
        hashlib.blake2b(part, digest_size=16).digest() for part in (record, request_of(position).encode())
    )
    return InputRow(position, digest, fingerprint, record)


async def match(ledger: Ledger) -> list[RowState]:
    """A pass over the input, in windows."""
    matcher = await ledger.match_input(dedupe=True)
    states: list[RowState] = []
    for start in range(0, ROWS, 10):
        rows = [input_row(position) for position in range(start, min(start + 10, ROWS))]
        known = await matcher.known([row.digest for row in rows])
        missed = [row for row, state in zip(rows, known, strict=True) if state is None]
        claimed = iter(await matcher.claim(missed))
        states += [state or next(claimed) for state in known]
    await matcher.finish()
    return states


async def ask(ledger: Ledger, state: RowState, text: str, times: int = 1) -> None:
    attempts: list[int] = []
    for number in range(times):
        (attempt,) = await ledger.begin_attempts([state.row])
        body = json.dumps({"to": text, "number": number, "more": "y" * 200}).encode()
        ledger.answer(attempt, body, Usage(10, 20, 5), 0.25)
        attempts.append(attempt.id)
    await ledger.complete(
        state.row,
        attempts,
        finish_reason="stop",
        tokens=Usage(10, 20),
        cost=0.25,
    )


async def make(path: Path) -> None:
    """A ledger that has some of everything."""
    with Ledger.open(path, MANIFEST, settings=SETTINGS) as ledger:
        number = await ledger.begin_start(b'{"max_concurrent_requests":1}')
        for state in await match(ledger):
            if state.same_as is not None:
                continue
            text = request_of(state.position)
            if state.position == _FAILED:
                (attempt,) = await ledger.begin_attempts([state.row])
                error = InvalidOutput("no", text="raw", path="$.n")
                ledger.end_attempt(attempt, "failed", error)
                await ledger.fail(state.row, error, tokens=Usage(1, 2), cost=0.5)
            else:
                await ask(ledger, state, text, times=2 if state.position == _SEVERAL else 1)
        await ledger.end_start(number, b'{"max_concurrent_requests":1,"sent":20}')
        await ledger.begin_retry(Selection.parse(f"row={_AGAIN}"), {"manifest": {"temperature": 1.0}})
        (again,) = [state for state in await match(ledger) if state.position == _AGAIN]
        await ask(ledger, again, request_of(_AGAIN))


async def work_on(path: Path) -> None:
    """What a run does with a ledger: asks what has no answer, twice, since the first pass may find damage."""
    with Ledger.open(path, MANIFEST, settings=SETTINGS) as ledger:
        for _ in range(2):
            for state in await match(ledger):
                if state.state != "completion" and state.same_as is None:
                    await ledger.known_attempts([state.row])
                    await ask(ledger, state, request_of(state.position))
            await ledger.set_damaged_aside()


class Expected:
    """What a sound ledger gives."""

    def __init__(self, path: Path) -> None:
        with LedgerReader(path) as reader:
            self.rows = list(reader.rows())
            self.manifest, self.settings, self.starts = reader.manifest(), reader.settings(), reader.starts()
            self.earlier = [reader.earlier_outcomes(row.row) for row in self.rows]

    def check(self, path: Path) -> set[str]:
        """Reads all of a damaged ledger. Returns what was said of it.

        Raises:
            Wrong: something that is not so was given.
        """
        said: set[str] = set()
        with LedgerReader(path) as reader:
            _same_or_refused(said, reader.manifest, self.manifest)
            _same_or_refused(said, reader.settings, self.settings)
            for read in (reader.failures, reader.finish_reasons, lambda: reader.latencies_s([0.5, 1.0])):
                _same_or_refused(said, read)
            if not set(reader.starts()) <= set(self.starts):
                raise Wrong("another start")
            counts = reader.counts()
            for where in (None, "state=completion", "finish_reason=stop", f"row={_FAILED}"):
                self._check_rows(
                    reader, None if where is None else Selection.parse(where), whole=counts.is_finished
                )
            for row, earlier in zip(self.rows, self.earlier, strict=True):
                for outcome in reader.earlier_outcomes(row.row):
                    if not any(outcome == one or outcome.answers == () for one in earlier):
                        raise Wrong(f"another earlier outcome of row {row.position}")
            try:
                reader.check_damages()
            except LedgerError:
                said |= {damage.part for damage in reader.damages}
            if not counts.is_finished:
                said.add("not finished")
        return said

    def _check_rows(self, reader: LedgerReader, selection: Selection | None, *, whole: bool) -> None:
        found = list(reader.rows() if selection is None else reader.rows(selection))
        expected = {row.position: row for row in self.rows if selection is None or _is_in(row, selection)}
        named = {damage.position for damage in reader.damages}
        for row in found:
            if row.state == "pending" and not whole:
                continue  # its outcome was lost: it is asked again
            if row.damaged is None and row != expected.get(row.position):
                raise Wrong(f"row {row.position} is not what it was")
            if row.damaged is not None and row.position not in named:
                raise Wrong(f"row {row.position} is not named")
        missing = expected.keys() - named - {row.position for row in found}
        if whole and missing:
            raise Wrong(f"rows {missing} are missing, and nothing said so")


def _is_in(row: LedgerRow, selection: Selection) -> bool:
    ((value,), field) = selection.values, selection.sql.split()[0]
    return {"state": row.state, "finish_reason": row.finish_reason, "position": row.position}[field] == value


def _same_or_refused(said: set[str], read: object, expected: object = None) -> None:
    assert callable(read)
    try:
        found = read()
    except LedgerError:
        said.add("refused in part")
        return
    if expected is not None and found != expected:
        raise Wrong(f"{read} gave something else")


def check_after_work(path: Path) -> None:
    """No row has another's answer or record, and nothing is damaged any more.

    Raises:
        Wrong: that is not so.
    """
    with LedgerReader(path) as reader:
        rows = list(reader.rows())
        reader.check_damages()
        if not reader.counts().is_finished:
            return  # and says so
    if [row.position for row in rows] != list(range(ROWS)):
        raise Wrong("other rows")
    for row in rows:
        if row.state == "failure":
            continue  # where the tree of a table is damaged, an outcome cannot always be replaced
        answered = {json.loads(answer)["to"] for answer in row.answers}
        if answered != {request_of(row.position)} or row.record != input_row(row.position).record:
            raise Wrong(f"row {row.position} has another answer or record")


def flip(sound: bytes, bits: int, chance: random.Random) -> bytes:
    damaged = bytearray(sound)
    for _ in range(bits):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def try_one(path: Path, expected: Expected) -> set[str]:
    """Reads a damaged ledger, works on it, reads it again. Returns what was said of it; empty where nothing was wrong.

    Raises:
        Wrong: damaged data was given for good.
    """
    try:
        said = expected.check(path)
    except LedgerError:
        said = {"refused"}
    try:
        asyncio.run(work_on(path))
        check_after_work(path)
    except LedgerError:
        said.add("no work")
    return said


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.ledger.fuzz_damage")
    options.add_argument("--tries", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--bits", type=int, default=1)
    given = options.parse_args()
    found: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger")
        asyncio.run(make(path))
        sound, expected = path.read_bytes(), Expected(path)
        for number in range(given.seed, given.seed + given.tries):
            for left in path.parent.iterdir():
                left.unlink()
            path.write_bytes(flip(sound, given.bits, random.Random(number)))
            try:
                found.update(try_one(path, expected) or {"nothing"})
            except Exception as error:  # any other is a finding, and the next seed is still tried
                wrong.append(f"seed {number}: {error!r}")
    print(f"{given.tries} ledgers of {len(sound)} bytes, {given.bits} bits flipped in each: {dict(found)}")
    print(f"{len(wrong)} wrong", *wrong[:_MAX_SHOWN], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
