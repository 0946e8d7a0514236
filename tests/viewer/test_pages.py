"""What the page is answered: runs, rows by pages, one row, two side by side, marks; over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runs.odd_bodies import good_body
from tests.viewer.conftest import MODEL, ODD, Client, Look, Runs

from mistill import InputError, MistralLLM, Run
from mistill.errors import LedgerError
from mistill.kinds.kept_settings import ledger_beside
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.marks import write_mark
from mistill.llms.event_loop import background
from mistill.runs.report import StartRecord
from mistill.runs.run_name import RunName
from mistill.runs.where import RunFilter
from mistill.simulator.faults import Fault
from mistill.viewer import catalogue, pages
from mistill.viewer.catalogue import KnownRun
from mistill.viewer.one_run import Summaries
from mistill.viewer.pages import RunRows
from mistill.viewer.texts import MAX_SHOWN_CHARS, page_text, preview, texts_in

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["city", "score"],
    "additionalProperties": False,
}


def rows_of(client: Client, run: str, **asked: Any) -> list[int]:
    """All rows that are found, page by page."""
    found: list[int] = []
    first: int | None = 0
    while first is not None:
        page = client.ask("rows", run=run, first=first, **asked)
        found += [row["row"] for row in page["rows"]]
        first = page["next"]
    return found


def test_a_name_that_is_no_text_hides_no_run(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a"])
    odd = os.fsencode(runs.folder) + b"/\xff\xfe.jsonl.ledger"
    os.link(runs.folder / "answers.jsonl.ledger", odd)
    assert len(look(runs.folder).ask("home")["runs"]) >= 1


def test_a_summary_is_of_one_moment(runs: Runs) -> None:
    manifest = runs.run("answers.jsonl", ["a"]).kind.manifest.values()
    ledger = runs.folder / "answers.jsonl.ledger"
    run = KnownRun("answers.jsonl", RunName("answers.jsonl"), ledger)
    told: list[str] = []

    def mark_meanwhile(statement: str) -> None:
        told.append(statement)
        if statement.startswith("SELECT") and len(told) == 3:  # the first look has been taken
            write_mark(ledger, 0, "good", None)

    summaries = Summaries()
    with Ledger.open(ledger, manifest), LedgerReader(ledger) as reader:
        rows = RunRows(reader)
        reader._connection.set_trace_callback(mark_meanwhile)
        assert summaries.of(run, rows).marks == []
        reader._connection.set_trace_callback(None)
        assert [choice.value for choice in summaries.of(run, rows).marks] == ["good"]
    assert "marks" in "".join(told[3:])


def test_a_run_in_shards_is_one_run(runs: Runs, look: Look) -> None:
    source = runs.folder / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(40)))
    llm = MistralLLM(model=MODEL, endpoint=runs.simulator.url)

    def start(number: int) -> None:
        Run(source, llm=llm, out=runs.folder / "answers", prompt="{{ text }}", shard=f"{number}/4").start()

    start(2)
    start(0)
    listed = look(runs.folder)
    (line,) = listed.ask("home")["runs"]
    assert (line["name"], line["problem"]) == ("answers", None)
    assert line["bytes"] > 50_000
    assert listed.ask("run", run="answers")["counts"]["completions"] == 20
    assert rows_of(listed, "answers") == [*range(10), *range(20, 30)]
    start(1)
    assert listed.ask("run", run="answers")["counts"]["completions"] == 30
    alone = look(runs.folder / "answers")
    assert alone.ask("home")["single"] == str(runs.folder / "answers")
    assert "text 25" in json.dumps(alone.ask("row", run=str(runs.folder / "answers"), row=25)["prompt"])


def test_rows_that_are_still_to_be_read_are_open_too(runs: Runs, look: Look) -> None:
    """As `status` says it: what was read so far is not the whole input."""
    runs.run("answers.jsonl", [f"text {number}" for number in range(60)], sample=5)
    summary = look(runs.folder).ask("run", run="answers.jsonl")
    assert summary["counts"]["completions"] == 5
    assert summary["input_rows"] == 60


def test_the_runs_of_a_folder_are_listed_with_what_is_wrong_with_one(runs: Runs, look: Look) -> None:
    runs.folder.joinpath("deeper").mkdir()
    runs.run("answers.jsonl", ["a"])
    runs.run("deeper/more.csv", ["a", "b"])
    runs.folder.joinpath("broken.jsonl.ledger").write_bytes(b"nothing of the kind" * 100)
    client = look(runs.folder)
    found = {run["name"]: run for run in client.ask("home")["runs"]}
    assert found.keys() == {"answers.jsonl", "deeper/more.csv", "broken.jsonl"}
    assert found["deeper/more.csv"]["model"] == "mistral-small-latest"
    assert "is not a ledger" in found["broken.jsonl"]["problem"]
    assert "is not a ledger" in client.ask("rows", run="broken.jsonl")["problem"]
    summary = client.ask("run", run="deeper/more.csv")
    assert (summary["counts"]["rows"], summary["counts"]["completions"], summary["live"]) == (2, 2, False)
    single = look(runs.folder / "deeper/more.csv").ask("home")
    assert (single["single"], len(single["runs"]), single["annotate"]) == (
        str(runs.folder / "deeper/more.csv"),
        1,
        False,
    )


def test_a_link_that_leads_back_to_itself_hides_no_run(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a", "b"])
    loop = runs.folder / "loop.jsonl.ledger"
    loop.symlink_to(loop)
    client = look(runs.folder)
    assert [run["name"] for run in client.ask("home")["runs"]] == ["answers.jsonl"]
    assert client.ask("run", run="answers.jsonl")["counts"]["completions"] == 2
    assert len(client.ask("rows", run="answers.jsonl")["rows"]) == 2


def test_a_ledger_with_views_in_place_of_its_tables_holds_up_nobody(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a"])
    runs.run("odd.jsonl", ["a"])
    with closing(sqlite3.connect(runs.folder / "odd.jsonl.ledger")) as connection:
        connection.execute("ALTER TABLE meta RENAME TO other")
        connection.execute(
            "CREATE VIEW Meta AS WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) "
            "SELECT 'a' || x AS key, 'b' AS value, 1 AS checksum FROM t"
        )
    client = look(runs.folder)
    found = {run["name"]: run["problem"] for run in client.ask("home")["runs"]}
    assert found["answers.jsonl"] is None
    assert "its tables are not those that were made" in found["odd.jsonl"]
    assert client.ask("run", run="answers.jsonl")["counts"]["completions"] == 1
    for ask in (lambda: Run.open(runs.folder / "odd.jsonl"), lambda: runs.run("odd.jsonl", ["a"])):
        with pytest.raises(LedgerError, match="its tables are not those that were made"):
            ask()


def test_of_more_runs_than_are_listed_it_is_the_newest_and_each_is_found(
    runs: Runs, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "_MAX_LISTED", 2)
    runs.run("a.jsonl", ["a"])
    for number, name in enumerate(("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl")):
        ledger = runs.folder / f"{name}.ledger"
        if number:
            ledger.write_bytes(runs.folder.joinpath("a.jsonl.ledger").read_bytes())
        os.utime(ledger, (1e9 + number, 1e9 + number))
    client = look(runs.folder)
    home = client.ask("home")
    assert ([run["name"] for run in home["runs"]], home["left_out"]) == (["d.jsonl", "c.jsonl"], 2)
    assert client.ask("run", run="a.jsonl")["counts"]["completions"] == 1
    runs.folder.joinpath("e.jsonl.ledger").write_bytes(runs.folder.joinpath("a.jsonl.ledger").read_bytes())
    assert [run["name"] for run in client.ask("home")["runs"]] == ["e.jsonl", "d.jsonl"]
    assert rows_of(client, "e.jsonl") == [0]
    runs.folder.joinpath("b.jsonl.ledger").unlink()
    assert "there is no run 'b.jsonl'" in client.ask("rows", run="b.jsonl")["problem"]


def test_a_list_leaves_ledgers_of_older_formats_as_they_are(tmp_path: Path) -> None:
    old = list((Path(__file__).parents[1] / "ledger" / "data").glob("*.ledger"))
    for path in old:
        shutil.copy(path, tmp_path)
    lines, _ = catalogue.Catalogue(tmp_path).lines()
    assert len(lines) == len(old)
    assert {line.problem for line in lines} == {None}
    assert {line.kind for line in lines} == {"chat", "embedding"}
    now = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert now == {path.name: path.read_bytes() for path in old}
    journal = tmp_path / "format-5-chat.ledger-journal"
    journal.write_bytes(b"half a change")
    assert "cut off in the middle of a change" in str(
        {line.problem for line in catalogue.Catalogue(tmp_path).lines()[0]}
    )
    assert journal.exists()


def test_a_ledger_of_a_folder_is_opened_once_until_it_changes(
    runs: Runs, look: Look, opened: list[str]
) -> None:
    runs.run("a.jsonl", ["a"], ledger=runs.folder / "aside.ledger")
    runs.run("b.jsonl", ["a"])
    known = runs.folder.joinpath("b.jsonl.ledger").read_bytes()
    for name in ("c", "d"):
        runs.folder.joinpath(f"{name}.jsonl.ledger").write_bytes(known)
    folder = catalogue.Catalogue(runs.folder)

    def ledgers() -> set[str]:
        found = {name for name in ("aside", "b", "c", "d") if any(f"/{name}." in one for one in opened)}
        opened.clear()
        return found

    opened.clear()
    assert folder.find("c.jsonl").ledger.name == "c.jsonl.ledger"
    assert ledgers() == {"c"}
    assert folder.find("a.jsonl").ledger.name == "aside.ledger"  # which is called otherwise
    assert "aside" in ledgers()
    for expected in ({"b", "d"}, set[str]()):
        lines, _ = folder.lines()
        assert {line.name for line in lines} == {"a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"}
        assert ledgers() <= expected
    write_mark(runs.folder / "b.jsonl.ledger", 0, "good", None)
    opened.clear()
    folder.lines()
    assert ledgers() == {"b"}
    with pytest.raises(InputError, match="there is no run 'e"):
        folder.find("e.jsonl")
    assert ledgers() == set()


def test_what_columns_have_in_place_of_a_value_that_none_has_is_said(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", [{"text": "a", "kind": "bill"}, {"text": "b", "kind": "spam"}])
    client = look(runs.folder)

    def others(where: str, **asked: Any) -> str | None:
        return client.ask("rows", run="answers.jsonl", where=where, **asked)["others"]

    assert others("kind=bil") == "kind is bill, spam"
    assert others("kind=bil, text=c") == "kind is bill, spam"
    assert others("kind=bill, text=c") == "text is a"  # there are bills
    assert others("kind=bill") is None
    assert others("kind=bill", search="nowhere") is None
    assert others("state=failure") is None


def test_commands_of_the_page_name_a_run_and_its_ledger(runs: Runs, look: Look) -> None:
    out, ledger = runs.folder / "answers.jsonl", runs.folder / "else where.ledger"
    runs.run("answers.jsonl", ["a"], ledger=ledger)
    runs.run("beside.jsonl", ["a"])
    named = [client.ask("run", run=run)["named"] for client, run in (
        (look(out, ledger=ledger), str(out)),
        (look(ledger), str(out)),
        (look(runs.folder), "answers.jsonl"),
        (look(runs.folder), "beside.jsonl"),
    )]  # fmt: skip
    assert named == [f"{out} --ledger '{ledger}'"] * 3 + [str(runs.folder / "beside.jsonl")]


def test_a_table_is_named_and_found_as_it_is_written(runs: Runs, look: Look) -> None:
    address = f"sqlite:///{runs.folder}/crm.db?table=labels"
    runs.run(address, ["a"])
    client = look(runs.folder)
    assert [line["name"] for line in client.ask("home")["runs"]] == [address]
    assert client.ask("run", run=address)["named"] == f"'{address}'"


def test_a_page_behind_the_last_row_is_the_last(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a", "b"])
    client = look(runs.folder)
    for what in ("rows", "side-by-side"):
        page = client.ask(what, run="answers.jsonl", first=5000)
        assert (page["rows"], page["next"], page["full"]) == ([], None, True)


def test_rows_are_chosen_by_condition_and_by_text(runs: Runs, look: Look) -> None:
    runs.simulator.script([Fault.status(400)], when=lambda body: "row 3" in str(body))
    texts = [f"row {number}" for number in range(6)] + ["Größe K \u212a", 'quoted "\\ tab\there']
    runs.run("answers.jsonl", [{"text": text, "n": number} for number, text in enumerate(texts)])
    client = look(runs.folder)
    for where, expected in (
        ("state=failure", [3]),
        ("error=bad_request", [3]),
        ("finish_reason=stop, row<2", [0, 1]),
        ("n>=6", [6, 7]),
        ("answer.generation='Echo: Say row 4'", [4]),
        ("state=pending", []),
    ):
        assert rows_of(client, "answers.jsonl", where=where) == expected, where
    for search, expected in (
        ("ROW 5", [5]),
        ("grösse", [6]),
        ("k k", [6]),
        ('"\\ TAB\there', [7]),
        ("refused", [3]),  # in its error
        ("retryable", []),  # no more than what a person reads
        ("text", []),
        ("echo: say", [0, 1, 2, 4, 5, 6, 7]),
    ):
        assert rows_of(client, "answers.jsonl", search=search) == expected, search
    assert rows_of(client, "answers.jsonl", search="row", where="n<2") == [0, 1]
    wrong = client.ask("rows", run="answers.jsonl", where="stat=failure")
    assert "no column 'stat'" in wrong["problem"]
    assert "state" in wrong["hint"]
    assert "cannot read" in client.ask("rows", run="answers.jsonl", where="???")["problem"]


def test_pages_begin_at_a_key_and_have_every_row_once(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", [f"row {number}" for number in range(25)])
    client = look(runs.folder)
    first = client.ask("rows", run="answers.jsonl", limit=10)
    assert ([row["row"] for row in first["rows"]], first["next"], first["full"]) == (
        list(range(10)),
        10,
        True,
    )
    last = client.ask("rows", run="answers.jsonl", limit=10, first=20)
    assert ([row["row"] for row in last["rows"]], last["next"], last["last_position"]) == (
        list(range(20, 25)),
        None,
        24,
    )
    assert client.ask("rows", run="answers.jsonl", limit=25)["next"] is None
    assert client.ask("rows", run="answers.jsonl", first=10**18)["rows"] == []
    for limit in (1, 3, 7, 500, 0, 10**30, "x"):
        assert rows_of(client, "answers.jsonl", limit=limit) == list(range(25)), limit
    for wrong in ("-1", "1.5", "x", "9" * 30):
        assert "there is no row" in client.ask("rows", run="answers.jsonl", first=wrong)["problem"], wrong


@settings(max_examples=15)
@given(
    where=st.sampled_from([None, "state=failure", "row>=7", "n>=12", "text=even", "state=completion, n<5"]),
    search=st.sampled_from(["", "even", "2"]),
    limit=st.integers(1, 30),
    is_hurried=st.booleans(),
)
def test_pages_have_what_the_condition_has(
    where: str | None, search: str, limit: int, is_hurried: bool, odd_and_even: Runs
) -> None:
    """However few fit on one, and however little time there is for each."""
    path = odd_and_even.folder / "answers.jsonl.ledger"
    with LedgerReader(path) as reader, pytest.MonkeyPatch.context() as patch:
        if is_hurried:
            patch.setattr(pages, "PAGE_S", -1.0)
            patch.setattr(pages, "_WINDOW", 4)
            patch.setattr(pages, "_THIN_WINDOW", 4)
        rows = RunRows(reader)
        found: list[int] = []
        first: int | None = 0
        while first is not None:
            page = rows.page(where, search, first, limit)
            assert len(page.rows) <= limit
            assert page.next is None or page.next > first
            found += [row.row for row in page.rows]
            first = page.next
        chosen = RunFilter(where, reader, rows.shape).rows(reader)
        expected = [
            row.position for row in chosen if search in f"{row.record.decode()} {rows.answer_of(row)}"
        ]
    assert found == expected


@pytest.fixture(scope="module")
def odd_and_even(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("aiohttp", reason="needs pip install 'mistill[simulator]'")
    from mistill.simulator import Settings, Simulator
    from mistill.testing import without_waiting

    with Simulator(Settings()) as simulator, without_waiting(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_API_KEY", "any")
        simulator.script([Fault.status(400)] * 3, when=lambda body: "odd" in str(body))
        runs = Runs(tmp_path_factory.mktemp("odd"), simulator)
        runs.run("answers.jsonl", [{"text": "odd" if n % 2 else "even", "n": n} for n in range(20)])
        yield runs


def test_one_row_has_all_that_is_known_of_it(runs: Runs, look: Look) -> None:
    runs.run(
        "answers.jsonl",
        [{"who": f"mail {n}"} for n in range(3)],
        prompt="Where? {{ who }}",
        system="Be brief.",
        id_column="who",
        flatten=True,
        llm_settings={"structured_output": {"schema": SCHEMA}},
    )
    runs.retry("answers.jsonl", "row=1", prompt="And where? {{ who }}")
    row = look(runs.folder).ask("row", run="answers.jsonl", row=1)
    assert (row["row_id"], row["record"]) == (
        "who 'mail 1'",
        [{"name": "who", "text": {"text": "mail 1", "chars": 6}}],
    )
    assert [(part["name"], part["text"]["text"]) for part in row["prompt"]] == [
        ("system", "Be brief."),
        ("user", "And where? mail 1"),
    ]
    assert json.loads(row["value"]["text"]).keys() >= {"city", "score", "error"}
    assert [attempt["status"] for attempt in row["attempts"]] == ["answered", "answered"]
    assert json.loads(row["attempts"][0]["raw"]["text"])["object"] == "chat.completion"
    assert json.loads(row["outcome"]["settings"]) == {"prompt": "And where? {{ who }}"}
    assert (len(row["earlier"]), row["earlier"][0]["settings"]) == (1, "")
    problem = look(runs.folder).ask("row", run="answers.jsonl", row=3)
    assert (problem["problem"], problem["hint"]) == ("there is no row 3", "rows 0 to 2 were read")


def test_a_row_is_found_by_its_id(runs: Runs, look: Look) -> None:
    runs.run("ids.jsonl", ["a", "b", "b"], id_column="text")
    runs.run("none.jsonl", ["a"])
    client = look(runs.folder)
    found = client.ask("row", run="ids.jsonl", row="a")
    assert (found["row"], found["row_id"]) == (0, "text 'a'")
    assert client.ask("row", run="ids.jsonl", row="1")["row"] == 1  # a number is a place
    assert client.ask("row", run="ids.jsonl", row="b")["problem"] == "2 rows have the text 'b': 1, 2"
    assert "no row has the text 'c'" in client.ask("row", run="ids.jsonl", row="c")["problem"]
    assert "rows count from 0" in client.ask("row", run="none.jsonl", row="a")["problem"]


def test_runs_that_write_elsewhere_have_their_addresses_as_names(
    runs: Runs, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTILL_STATE_DIR", str(runs.folder / "state"))
    runs.run("answers.jsonl", ["a"])
    address = "s3://team/answers.parquet"
    ledger = ledger_beside(address)
    ledger.parent.mkdir(parents=True)
    os.link(runs.folder / "answers.jsonl.ledger", ledger)
    client = look(runs.folder / "state" / "ledgers")
    assert [line["name"] for line in client.ask("home")["runs"]] == [address]
    assert client.ask("run", run=address)["counts"]["completions"] == 1


def test_texts_are_text_and_long_ones_are_cut_and_had_whole(runs: Runs, look: Look) -> None:
    long = "lorem ipsum " * 40_000
    runs.simulator.script([long], when=lambda body: "long" in str(body))
    runs.run("answers.jsonl", [ODD, "long"], prompt="{{ text }}")
    client = look(runs.folder)
    (odd, big) = client.ask("rows", run="answers.jsonl")["rows"]
    assert odd["answer"].startswith("Echo: <script>document.title='owned'</script>")
    assert "\\x1b[31mred \\u202eturned NUL\\x00" in odd["answer"]
    assert not any(character in odd["answer"] for character in "\x1b\u202e\x00")
    assert len(big["answer"]) < 310
    answer = client.get("/api/row?run=answers.jsonl&row=1")
    assert len(answer.body) < 300_000
    text = answer.json["outcome"]["answers"][0]
    assert (len(text["text"]), text["chars"]) == (MAX_SHOWN_CHARS, len(long))
    whole = client.get("/api/text?run=answers.jsonl&row=1&name=answer.0")
    assert whole.body.decode() == long
    assert whole.headers["Content-Disposition"].startswith("attachment;")
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert client.get("/api/text?run=answers.jsonl&row=0&name=record.0").body.decode() == ODD
    assert (
        "has no text 'answer.7'" in client.ask("text", run="answers.jsonl", row=0, name="answer.7")["problem"]
    )


def test_two_runs_are_side_by_side_wherever_their_rows_stand(runs: Runs, look: Look) -> None:
    texts = [f"row {number}" for number in range(8)]
    runs.run("one.jsonl", texts)
    runs.run("other.jsonl", [texts[0], *reversed(texts[2:])], prompt="Tell {{ text }}")
    runs.run("same.jsonl", texts)
    client = look(runs.folder)
    page = client.ask("side-by-side", run="one.jsonl", **{"with": "other.jsonl"})
    assert [(pair["row"], pair["right"] and pair["right"]["row"]) for pair in page["rows"]] == [
        (0, 0),
        (1, None),
        *((row, 8 - row) for row in range(2, 8)),
    ]
    assert page["rows"][2]["left"]["answer"]["text"] == "Echo: Say row 2"
    assert page["rows"][2]["right"]["answer"]["text"] == "Echo: Tell row 2"
    same = {"with": "same.jsonl", "differing": 1}
    assert client.ask("side-by-side", run="one.jsonl", **same)["rows"] == []
    assert len(client.ask("side-by-side", run="one.jsonl", **{"with": "same.jsonl"})["rows"]) == 8


def test_ids_say_which_row_is_which_where_both_runs_have_them(runs: Runs, look: Look) -> None:
    runs.run("one.jsonl", [{"id": n, "text": f"row {n}"} for n in range(3)], id_column="id")
    runs.run("other.jsonl", [{"id": n, "text": f"better row {n}"} for n in range(3)], id_column="id")
    page = look(runs.folder).ask("side-by-side", run="one.jsonl", **{"with": "other.jsonl"})
    assert [pair["right"]["row"] for pair in page["rows"]] == [0, 1, 2]


def test_two_settings_of_a_run_are_side_by_side(runs: Runs, look: Look) -> None:
    runs.run("one.jsonl", [f"row {number}" for number in range(6)])
    runs.retry("one.jsonl", "row>=2, row<4", prompt="Tell {{ text }}")
    runs.retry("one.jsonl", "row=3", prompt="Sing {{ text }}")
    client = look(runs.folder)
    assert [retry["number"] for retry in client.ask("run", run="one.jsonl")["retries"]] == [1, 2]
    for left, right, expected in (
        ("earlier", "now", {2: ("Say", "Tell"), 3: ("Tell", "Sing")}),
        ("own", "1", {2: ("Say", "Tell"), 3: ("Say", "Tell")}),
        ("own", "2", {3: ("Say", "Sing")}),
        ("2", "2", {3: ("Sing", "Sing")}),
    ):
        page = client.ask("side-by-side", run="one.jsonl", left=left, right=right)
        found = {
            pair["row"]: tuple(pair[side]["answer"]["text"].split()[1] for side in ("left", "right"))
            for pair in page["rows"]
        }
        assert found == expected
    assert "there are no settings '3'" in client.ask("side-by-side", run="one.jsonl", left="3")["problem"]


def test_structured_answers_are_compared_field_by_field(runs: Runs, look: Look) -> None:
    answers = {
        "one.jsonl": [
            '{"city": "Lyon", "at": {"x": 1, "y": 2}, "tags": ["a", "b"], "items": [{"n": 1}]}',
            '{"a": 1, "b": 2}',
        ],
        "other.jsonl": [
            '{"at": {"y": 2, "x": true}, "city": "Lyon", "tags": ["a", "c"], "items": []}',
            '{"b":2,"a":1}',
        ],
    }
    for name, said in answers.items():
        runs.simulator.script(said)
        runs.run(name, ["first", "second"], llm_settings={"max_concurrent_requests": 1})
    client = look(runs.folder)
    asked = {"run": "one.jsonl", "with": "other.jsonl"}
    (pair,) = client.ask("side-by-side", **asked, differing=1)["rows"]  # the order of fields is no difference
    fields = {
        field["name"]: tuple(side and side["text"] for side in (field["left"], field["right"]))
        for field in pair["fields"]
        if field["differs"]
    }
    assert fields == {
        "at.x": ("1", "true"),
        "tags": ('[\n  "a",\n  "b"\n]', '[\n  "a",\n  "c"\n]'),
        "items.0.n": ("1", None),
        "items": (None, "[]"),
    }
    assert [pair["differs"] for pair in client.ask("side-by-side", **asked)["rows"]] == [True, False]


def test_fields_whose_ways_look_alike_are_fields_of_their_own(runs: Runs, look: Look) -> None:
    answers = {
        "one.jsonl": ['{"a.b": 1, "a": {"b": 2}}', '{"x": [{"a": 1}]}'],
        "other.jsonl": ['{"a.b": 9, "a": {"b": 2}}', '{"x": {"0": {"a": 1}}}'],
    }
    for name, said in answers.items():
        runs.simulator.script(said)
        runs.run(name, ["first", "second"], llm_settings={"max_concurrent_requests": 1})
    asked = {"run": "one.jsonl", "with": "other.jsonl", "differing": 1}
    dots, kinds = look(runs.folder).ask("side-by-side", **asked)["rows"]
    assert [shown(field) for field in dots["fields"]] == [("a.b", "1", "9"), ("a.b", "2", "2")]
    assert [shown(field) for field in kinds["fields"]] == [("x.0.a", "1", None), ("x.0.a", None, "1")]


def shown(field: dict[str, Any]) -> tuple[str | None, ...]:
    return (field["name"], *(side and side["text"] for side in (field["left"], field["right"])))


def test_texts_and_objects_larger_than_anybody_reads_are_compared_as_texts(runs: Runs, look: Look) -> None:
    large = json.dumps({f"field {number}": number for number in range(300)})
    deep = '{"a": ' * 60 + "1" + "}" * 60
    for name, said in {
        "one.jsonl": ["text", large, deep],
        "other.jsonl": ["{}", large[:-1] + " }", deep],
    }.items():
        runs.simulator.script(said)
        runs.run(name, ["a", "b", "c"], llm_settings={"max_concurrent_requests": 1})
    pairs = look(runs.folder).ask("side-by-side", run="one.jsonl", **{"with": "other.jsonl"})["rows"]
    assert [(pair["fields"] is None, pair["differs"]) for pair in pairs] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    assert pairs[2]["fields"][0]["name"] == "a.a.a.a.a.a.a.a"


def test_a_run_says_how_it_stands(runs: Runs, look: Look) -> None:
    runs.run("ended.jsonl", ["a", "b"])
    runs.run(
        "stopped.jsonl", ["a", "b", "c"], max_tokens_total=5, llm_settings={"max_concurrent_requests": 1}
    )
    died = runs.run("died.jsonl", ["a", "b"])
    with Ledger.open(runs.folder / "died.jsonl.ledger", died.kind.manifest.values()) as ledger:
        background.run(ledger.begin_start(StartRecord(max_concurrent_requests=3).encode()))
    client = look(runs.folder)
    phases = {name: client.ask("run", run=f"{name}.jsonl")["phase"] for name in ("ended", "stopped", "died")}
    assert {name: phase["name"] for name, phase in phases.items()} == {name: name for name in phases}
    assert "max_tokens_total" in phases["stopped"]["told"]
    assert "killed" in phases["died"]["told"]


def test_what_a_terminal_would_obey_is_in_no_answer(runs: Runs, look: Look) -> None:
    """Whatever it came of: a name of a file, a finish reason, a model."""
    odd = "\x1b[31mred\u202e\x9b"
    runs.simulator.script([Fault.status(200, good_body("fine", finish_reason=odd) | {"model": odd})])
    runs.run(f"{odd}.jsonl", ["a"])
    client = look(runs.folder)
    name = client.ask("home")["runs"][0]["name"]
    for path in ("home", "run", "rows", "row?row=0&", "side-by-side", "text?row=0&name=answer.9&"):
        answer = client.get(f"/api/{path}{'' if '?' in path else '?'}{urlencode({'run': name})}")
        assert not {*"\x1b\u202e\x9b"} & {*answer.body.decode()}, path
    reason = client.ask("run", run=name)["finish_reasons"][0]["value"]
    assert rows_of(client, name, where=f'finish_reason="{reason}"') == [0]  # it still chooses its rows


def test_marks_are_of_what_was_looked_at(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a", "b"])
    client = look(runs.folder, annotate=True)
    row = client.ask("rows", run="answers.jsonl")["rows"][1]
    marking = {
        "run": "answers.jsonl",
        "row": 1,
        "outcome_at": row["ended_at"],
        "mark": "bad",
        "note": "no\x00\u202e <b>",
    }
    assert client.post("/api/mark", marking).json == {"mark": "bad", "note": "no\x00\u202e <b>"}
    assert rows_of(client, "answers.jsonl", where="mark=bad") == [1]
    assert client.ask("run", run="answers.jsonl")["marks"] == [{"value": "bad", "count": 1}]
    assert client.ask("rows", run="answers.jsonl")["rows"][1]["note"] == "no\\x00\\u202e <b>"
    runs.retry("answers.jsonl", "mark=bad", prompt="Again {{ text }}")
    late = client.post("/api/mark", marking)
    assert (late.status, late.json["problem"]) == (
        400,
        "row 1 has another outcome by now, and was not marked",
    )
    earlier = client.ask("row", run="answers.jsonl", row=1)["earlier"][0]
    assert (earlier["mark"], earlier["note"]) == ("bad", "no\x00\u202e <b>")
    for wrong in (b"{", b"[]", {"run": "answers.jsonl"}, marking | {"mark": "fine"}, marking | {"more": 1}):
        assert client.post("/api/mark", wrong).status == 400, wrong
    assert client.post("/api/mark", marking, Content_Type="text/plain").status == 415
    assert client.post("/api/mark", marking | {"note": "x" * 200_000}).status == 413
    assert client.get("/api/mark").status == 405


def test_a_run_is_live_while_it_goes_on_and_its_rows_are_marked_meanwhile(runs: Runs, look: Look) -> None:
    half = threading.Event()
    rest = threading.Event()

    def rows() -> Any:
        yield from ({"text": f"row {number}"} for number in range(600))
        half.set()
        rest.wait(20)
        yield {"text": "the last"}

    going = threading.Thread(target=lambda: runs_later(runs, rows()))
    going.start()
    try:
        assert half.wait(20)
        client = look(runs.folder, annotate=True)
        runs.simulator.wait_until(
            lambda: client.ask("run", run="answers.jsonl")["counts"]["completions"] >= 500
        )
        assert client.ask("run", run="answers.jsonl")["live"]
        assert client.ask("home")["runs"][0]["live"]
        row = client.ask("rows", run="answers.jsonl")["rows"][5]
        marking = {"run": "answers.jsonl", "row": 5, "outcome_at": row["ended_at"], "mark": "good"}
        assert client.post("/api/mark", marking).json["mark"] == "good"
        assert client.ask("run", run="answers.jsonl")["phase"]["name"] == "running"
        control = Run.open(runs.folder / "answers.jsonl").control()
        control.pause()
        assert client.ask("run", run="answers.jsonl")["phase"]["name"] == "paused"
        control.resume()
    finally:
        rest.set()
        going.join()
    summary = client.ask("run", run="answers.jsonl")
    assert (summary["live"], summary["counts"]["completions"]) == (False, 601)
    assert rows_of(client, "answers.jsonl", where="mark=good") == [5]


def runs_later(runs: Runs, rows: Any) -> None:
    from mistill import MistralLLM

    llm = MistralLLM(model="mistral-small-latest", endpoint=runs.simulator.url)
    Run(rows, llm=llm, out=runs.folder / "answers.jsonl", prompt="Say {{ text }}").start()


def test_a_damaged_row_is_shown_as_one_and_holds_up_no_other(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a", "b", "c"])
    with closing(sqlite3.connect(runs.folder / "answers.jsonl.ledger", isolation_level=None)) as connection:
        connection.execute("UPDATE answers SET body = x'00' WHERE attempt = 2")
    client = look(runs.folder)
    states = [(row["state"], row["error_kind"]) for row in client.ask("rows", run="answers.jsonl")["rows"]]
    assert sorted(states, key=str) == sorted(
        [("completion", None), ("completion", None), ("failure", "damaged_answer")], key=str
    )


def test_a_run_that_is_deleted_while_one_looks_is_said_to_be_gone(runs: Runs, look: Look) -> None:
    runs.run("answers.jsonl", ["a"])
    client = look(runs.folder / "answers.jsonl")
    name = client.ask("home")["single"]
    runs.folder.joinpath("answers.jsonl.ledger").unlink()
    assert "there is no ledger at" in client.ask("rows", run=name)["problem"]
    assert client.ask("home")["runs"] == []


def test_texts_are_shown_for_what_they_are() -> None:
    assert page_text("a\x00\u2066\ud800b").text == "a\\x00\\u2066\ufffdb"
    assert not page_text("\x1b" * 10).is_cut
    assert page_text("x" * 11, 10).is_cut
    assert preview("one\n two\t\x07") == "one two \\x07"
    assert len(preview("word " * 1000)) == 301
    assert sorted(texts_in({"a": [1, "x", {"b": None}], "c": True})) == ["1", "true", "x"]
