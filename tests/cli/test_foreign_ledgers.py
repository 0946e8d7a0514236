"""A ledger may be somebody else's: whole by its checksums, and holding anything. No command may break on it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Mistill
from tests.libraries import library

from mistill.cli import main
from mistill.ledger.checksums import add_checksum, meta_sum
from mistill.ledger.tables import START_SUM
from mistill.simulator import Simulator

DEEP = "[" * 2000 + "]" * 2000
TEXTS = [
    "5",
    "[]",
    '"x"',
    "null",
    "{}",
    "no JSON",
    DEEP,
    '{"llm": 5}',
    '{"llm": []}',
    '{"options": 5}',
    '{"kind": "chat"}',
]
SCHEMA = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The ledger of a finished run, and the command that made it."""
    library("aiohttp")
    folder = tmp_path_factory.mktemp("whole")
    (folder / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with Simulator() as simulator:
        arguments = ["run", str(folder / "in.jsonl"), "--out", str(folder / "out.jsonl"), "--schema", SCHEMA]
        arguments += ["--model", "mistral-small-latest", "--endpoint", simulator.url, "--quiet"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MISTRAL_API_KEY", "a-key-for-tests")
            assert main(arguments) == 0
        yield folder / "out.jsonl.ledger", [*arguments[:3], "out.jsonl", *arguments[4:]]


def meta(key: str, change: Callable[[Any], Any]) -> Callable[[sqlite3.Connection], None]:
    def write(connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        value = change(found[0] if found else "0")
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, meta_sum(key, value)))

    return write


def inside(path: str, value: Any) -> Callable[[str], str]:
    """Changes one value deep inside JSON."""

    def change(text: str) -> str:
        found = json.loads(text)
        *parents, last = path.split(".")
        place = found
        for name in parents:
            place = place[name]
        place[last] = value
        return json.dumps(found)

    return change


def start(record: str) -> Callable[[sqlite3.Connection], None]:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE starts SET record = ?", (record,))
        connection.execute(f"UPDATE starts SET checksum = {START_SUM}")

    return write


NUMBERS = ["x", "-1", "9" * 5000, "²", "", "1.5"]
IN_SETTINGS = ["structured_output", "structured_output.schema", "type", "prices", "timeout", "endpoint"]
IN_MANIFEST = ["model", "kind", "prompt", "schema", "num_generations", "parameters"]
VALUES: list[Any] = [5, "x", [], {"a": 1}, {"schema": 5}, None, -1, "mistill.llms.connection:Connection"]
VALUES += [{"module": 1, "name": [], "json_schema": {}}]

CHANGES: dict[str, Callable[[sqlite3.Connection], None]] = {}
for text in TEXTS:
    CHANGES |= {
        f"{key} {text[:20]}": meta(key, lambda _, text=text: text) for key in ("settings", "manifest")
    }
    CHANGES[f"start {text[:20]}"] = start(text)
for number in NUMBERS:
    for key in ("input_rows", "commits", "dedupe"):
        CHANGES[f"{key} {number[:20]}"] = meta(key, lambda _, number=number: number)
for value in VALUES:
    for path in (*(f"llm.{name}" for name in IN_SETTINGS), "options.columns", "options"):
        CHANGES[f"{path} {str(value)[:20]}"] = meta("settings", inside(path, value))
    for path in IN_MANIFEST:
        CHANGES[f"manifest {path} {str(value)[:20]}"] = meta("manifest", inside(path, value))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_a_ledger_holds_no_command_ends_in_an_internal_error(
    whole: tuple[Path, list[str]], mistill: Mistill, change: Callable[[sqlite3.Connection], None]
) -> None:
    ledger, run = whole
    shutil.copy(ledger, "out.jsonl.ledger")
    with closing(sqlite3.connect("out.jsonl.ledger")) as connection, connection:
        add_checksum(connection)
        change(connection)
    commands = [["status", "out.jsonl"], ["status", "out.jsonl", "--json"], ["rows", "out.jsonl"]]
    commands += [["export", "out.jsonl", "--to", "more.csv"], ["retry", "out.jsonl", "--where", "row=0"], run]
    for command in commands:
        ended = mistill(*command)
        assert "internal error" not in ended.stderr, command
        assert "Traceback" not in ended.stderr, command
        assert ended.code in (0, 1, 2, 3), command
