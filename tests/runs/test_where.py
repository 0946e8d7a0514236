"""``--where`` over columns: what is read, what a run has, and what is said where a name or a value is wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.libraries import library
from tests.runs.conftest import Place, sent

from mistill import Run
from mistill.errors import InputError
from mistill.ledger import LedgerReader, parse_terms
from mistill.ledger.conditions import Condition
from mistill.runs.export import export_run
from mistill.runs.record_shape import shape_of
from mistill.runs.where import RunFilter
from mistill.simulator import Simulator
from mistill.simulator.faults import Fault

ROWS = [
    {
        "text": "a",
        "category": "refund",
        "score": 4,
        "ok": True,
        "note": None,
        "place": {"city": "Paris, Texas"},
    },
    {"text": "b", "category": "bug", "score": 2.5, "ok": False, "note": "", "place": {"city": "Rome"}},
    {"text": "c", "category": "refund", "score": 5, "ok": True, "note": "x", "place": None},
    {"text": "d", "category": None, "score": None, "tags": ["a", "b"]},
]
SCHEMA = {"type": "object", "properties": {"grade": {"type": "integer"}}, "required": ["grade"]}
ONE_AT_ONCE = {"max_concurrent_requests": 1}


class Endless:
    """Rows without end, which can be read any number of times."""

    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"number": number} for number in count())


def test_a_run_can_be_left_while_its_filter_finds_nothing(place: Place, simulator: Simulator) -> None:
    for outcome in place.run(Endless(), prompt="{{ number }}", where="number=7"):
        assert outcome.record == {"number": 7}
        break
    assert sent(simulator) == ["7"]


def test_what_a_column_has_instead_is_of_the_pass_that_found_nothing(place: Place) -> None:
    place.write_rows([{"text": "a", "category": "counted"}])
    run = place.run(prompt="{{ text }}", where="category=refund")
    with pytest.raises(InputError, match="category is counted"):
        run.dry_run()
    place.write_rows([{"text": "a", "category": "read"}])
    with pytest.raises(InputError) as refused:
        run.start()
    assert refused.value.hint == "category is read"


def texts(place: Place) -> list[str]:
    return [record["text"] for record in place.records()]


CASES = [
    ("category=refund", "ac"),
    ("category!=refund", "bd"),
    ("category = 'refund' and score >= 5", "c"),
    ("score>=4", "ac"),
    ("score<4", "b"),
    ("score=2.5", "b"),
    ("score=null", "d"),
    ("score!=null", "abc"),
    ("ok=true", "ac"),
    ("ok!=true", "bd"),
    ("note=null", "abd"),
    ("note=x", "c"),
    ("place.city='Paris, Texas'", "a"),
    ("place.city=null", "cd"),
    ("row.place.city>=R", "b"),
    ("tags=null", "abc"),
    ("tags.0=a", "d"),
    ("category>=c", "ac"),
]


@pytest.mark.parametrize(("where", "chosen"), CASES)
def test_only_rows_that_fulfil_it_are_asked_and_come_out(
    place: Place, simulator: Simulator, where: str, chosen: str
) -> None:
    report = place.run(ROWS, where=where).start()
    assert "".join(texts(place)) == "".join(sorted(sent(simulator))) == chosen
    assert (report.rows, report.completions) == (len(chosen), len(chosen))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("where", "chosen"), [one for one in CASES if "tags" not in one[0]])
def test_every_format_means_the_same(place: Place, suffix: str, where: str, chosen: str) -> None:
    source = place.input.with_suffix(f".{suffix}")
    if suffix == "csv":
        with source.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(ROWS[0])
            for row in ROWS:
                cells = [row.get(name) for name in ROWS[0]]
                writer.writerow(json.dumps(one) if isinstance(one, dict | bool) else one for one in cells)
    else:
        library("pyarrow.parquet").write_table(library("pyarrow").Table.from_pylist(ROWS), source)
    place.run(source, where=where).start()
    assert "".join(texts(place)) == chosen


def test_a_wider_filter_asks_only_what_is_new_and_a_narrower_one_nothing(
    place: Place, simulator: Simulator
) -> None:
    place.run(ROWS, where="score>=5").start()
    assert place.run(ROWS, where="score>=2").start().sent == 2
    assert texts(place) == ["a", "b", "c"]
    report = place.run(ROWS, where="category=bug").start()
    assert (report.sent, report.rows, report.no_longer_in_input) == (0, 1, 2)
    assert texts(place) == ["b"]
    assert place.run(ROWS).start().sent == 1
    assert len(simulator.requests) == 4


def test_a_limit_counts_what_is_left(place: Place) -> None:
    place.run(ROWS, where="category=refund", limit=1).start()
    assert texts(place) == ["a"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "categori=refund",
            r"no column 'categori' .*did you mean 'category'\? there are text, category, score",
        ),
        ("place.citi=Rome", r"no column 'place.citi' .*did you mean 'place.city'"),
        ("answer.grade=1", r"answer.grade=1 is about an answer, and the rows have none yet"),
        ("score>high", r"score is a number, such as 4, and 'high' is none"),
        (
            "category=refnd",
            r"no row of the list matches 'category=refnd', of 4 rows \(category is refund, bug, null\)",
        ),
    ],
)
def test_a_wrong_name_or_value_is_said_before_anything_is_sent(
    place: Place, simulator: Simulator, where: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        place.run(ROWS, where=where).start()
    assert not simulator.requests
    assert not place.out.exists()


def test_a_column_that_only_a_late_row_has_is_found(place: Place) -> None:
    rows = [{"text": str(n)} for n in range(1500)] + [{"text": "late", "flag": True}]
    place.run(rows, where="flag=true").start()
    assert texts(place) == ["late"]


def test_a_stream_is_filtered_and_nothing_of_it_is_lost(place: Place) -> None:
    def stream() -> Iterator[dict[str, Any]]:
        for n in range(700):
            yield {"text": str(n)} | ({"flag": n % 100 == 0} if n else {})

    place.run(stream(), where="flag=true").start()
    assert texts(place) == ["100", "200", "300", "400", "500", "600"]


def test_rows_are_named_by_their_id_column(place: Place, simulator: Simulator) -> None:
    rows = [{"id": "a7", "text": "fine"}, {"id": "b8", "text": None}]
    report = place.run(rows, id_column="id", prompt="{{ text }}").start()
    (cause,) = report.causes
    assert (cause.row, cause.row_id) == (1, "id 'b8'")
    assert "row 1 of the list (id 'b8')" in place.records()[1]["error"]
    with pytest.raises(InputError, match=r"id_column: .* no column 'key'.*there are id, text"):
        place.run(rows, id_column="key", fresh=True)


# --- rows of a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def graded(place: Place, simulator: Simulator) -> Place:
    place.write_rows(ROWS)
    simulator.script(['{"grade": 1}', '{"grade": 9, "why": "bold"}', '{"grade": 7}', '{"grade": 9}'])
    place.run(llm_settings={"structured_output": {"schema": SCHEMA}, **ONE_AT_ONCE}).start()
    return place


def chosen_by(place: Place, where: str) -> list[int]:
    with LedgerReader(place.ledger) as reader:
        return [row.position for row in RunFilter(where, reader, shape_of(reader)).rows(reader)]


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        ("grade>=7", [1, 2, 3]),
        ("answer.grade=9, category=bug", [1]),
        ("answer.grade=9, state=completion, row>1", [3]),
        ("row.category=refund, grade<5", [0]),
        ("why=bold", [1]),
        ("generation=null", []),
        ("place.city=Rome", [1]),
    ],
)
def test_rows_of_a_run_are_chosen_by_their_columns_and_their_answers(
    graded: Place, where: str, positions: list[int]
) -> None:
    assert chosen_by(graded, where) == positions


def test_a_name_of_both_wants_to_be_told_apart(graded: Place, simulator: Simulator) -> None:
    simulator.script(['{"grade": 1}'])
    rows = [{"text": "a", "grade": 4}]
    graded.run(rows, llm_settings={"structured_output": {"schema": SCHEMA}}, fresh=True).start()
    with pytest.raises(InputError, match=r"have a column 'grade'.*row\.grade or answer\.grade"):
        chosen_by(graded, "grade=4")
    assert chosen_by(graded, "row.grade=4, answer.grade=1") == [0]
    with pytest.raises(InputError, match=r"no column 'gade' of the answers .*did you mean 'grade'"):
        chosen_by(graded, "answer.gade=4")


def test_export_and_retry_take_the_same(graded: Place, simulator: Simulator) -> None:
    to = graded.out.with_name("high.csv")
    assert export_run(graded.out, to, where="grade>=9", keep=["text", "grade"], flatten=True).records == 2
    assert to.read_text().splitlines() == ["text,grade", "b,9", "d,9"]
    simulator.script(['{"grade": 3}', '{"grade": 3}'])
    assert Run.retry(graded.out, "grade>=9, category!=refund").start().sent == 2
    assert chosen_by(graded, "grade=3") == [1, 3]


def test_a_retry_of_nothing_says_so_and_asks_nothing(
    graded: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    assert Run.retry(graded.out, "grade=4").start().sent == 0
    assert "matches 'grade=4', of 4 rows (grade is 1, 9, 7)" in caplog.text
    assert Run.retry(graded.out, failed=True).start().sent == 0
    assert "matches 'state=failure'" in caplog.text
    assert len(simulator.requests) == len(ROWS)


def test_an_export_of_nothing_says_so(graded: Place, caplog: pytest.LogCaptureFixture) -> None:
    assert export_run(graded.out, graded.out.with_name("none.jsonl"), where="grade=4").records == 0
    assert "matches 'grade=4', of 4 rows (grade is 1, 9, 7)" in caplog.text


# --- invariants ---------------------------------------------------------------------------------------------------

values = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8) | st.lists(st.integers())
)


@given(values, st.text(max_size=8))
def test_a_condition_and_its_opposite_are_never_both_true(value: Any, text: str) -> None:
    quoted = msgspec.json.encode(text).decode() if text.isascii() and text.isprintable() else "4"
    for written in (quoted, "4", "null", "true"):
        (equal,), (unequal,) = parse_terms(f"x={written}"), parse_terms(f"x!={written}")
        record = {"x": value}
        assert Condition(equal).holds(record) is not Condition(unequal).holds(record)


@given(st.text(min_size=1, max_size=12))
def test_a_text_in_quotes_is_that_text(text: str) -> None:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    (term,) = parse_terms(f'"unit price"="{escaped}"')
    assert (term.name, term.value, term.quoted) == ("unit price", text, True)
    assert Condition(term).holds({"unit price": text})
    assert not Condition(term).holds({"unit price": text + "x"})


def test_a_sample_of_the_rows_that_are_left_is_of_all_of_them(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"text": str(n), "odd": n % 2 == 1} for n in range(2000)])
    report = place.run(where="odd=true", sample=20).start()
    asked = [int(text) for text in sent(simulator)]
    assert len(asked) == 20
    assert all(number % 2 for number in asked)
    assert max(asked) > 200
    assert report.forecast is not None
    assert report.forecast.rows_left == 980


def test_a_finish_reason_or_cause_that_no_row_has_is_said_with_those_that_there_are(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.script([Fault.status(400)], when=lambda body: "two" in str(body))
    place.write(["one", "two"])
    place.run().start()
    for where, told in [
        ("finish_reason=lenght", "matches 'finish_reason=lenght' (finish_reason is stop)"),
        ("row<9, error=bad_requets", "matches 'row<9, error=bad_requets' (error is bad_request)"),
        ("row<1, error=bad_request", "matches 'row<1, error=bad_request'"),
    ]:
        caplog.clear()
        Run.retry(place.out, where).start()
        (line,) = [line for line in caplog.messages if "no row of" in line]
        assert line.endswith(told), line
