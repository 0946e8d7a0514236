"""Conversations for fine-tuning: what goes into a line, what is left out, and what is said of a wrong one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs.conftest import Place

from mistill import Run
from mistill.errors import InputError
from mistill.llms.conversations import encode_conversation
from mistill.runs.export import export_run
from mistill.simulator import Simulator

ONE_AT_ONCE = {"max_concurrent_requests": 1}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TURNS = {"user": "question", "assistant": "answer"}


def exported(place: Place, **settings: Any) -> list[dict[str, Any]]:
    to = place.out.with_name("sft.jsonl")
    written = export_run(place.out, to, as_="chat", overwrite=True, **settings)
    lines = [json.loads(line) for line in to.read_text().splitlines()]
    assert written.records == len(lines)
    return lines


def said_in(line: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message.get("content")) for message in line["messages"]]


def test_a_line_is_what_was_asked_and_answered(place: Place) -> None:
    place.run([{"text": "a", "who": "kind"}], system="You are {{ who }}.").start()
    (line,) = exported(place)
    assert said_in(line) == [("system", "You are kind."), ("user", "a"), ("assistant", "Echo: a")]
    assert list(line) == ["messages"]


def test_an_answer_that_is_one_value_is_said_as_text(place: Place, simulator: Simulator) -> None:
    simulator.script(['"neg"', "4.50", '["a"]', "null"])
    llm = place.llm(structured_output={"schema": str | float | list[str] | None}, **ONE_AT_ONCE)
    place.run([{"text": text} for text in "abcd"], llm=llm).start()
    assert [said_in(line)[-1][1] for line in exported(place)] == ["neg", "4.50", '["a"]', "null"]
    lines = exported(place, turns={"user": "text", "assistant": "generation"}, where="generation!=null")
    assert [said_in(line)[-1][1] for line in lines] == ["neg", "4.5", '["a"]']


def test_several_turns_of_a_row_and_several_generations_come_out(place: Place) -> None:
    history = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ]
    place.run([{"messages": history}], prompt=None, num_generations=2).start()
    lines = exported(place)
    assert [[role for role, _ in said_in(line)] for line in lines] == [["user", "assistant"] * 2] * 2


def test_failed_and_cut_rows_are_left_out_and_said(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(["fine", "poison", "long " * 50])
    simulator.change(poison="poison")
    place.run(parameters={"max_new_tokens": 5}).start()
    (line,) = exported(place)
    assert said_in(line)[0] == ("user", "fine")
    assert "left out of" in caplog.text
    assert "1 row that failed" in caplog.text
    assert "1 answer cut off by the token limit" in caplog.text


def test_calls_of_tools_and_the_tools_themselves_are_in_it(place: Place) -> None:
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    parameters: dict[str, Any] = {"tools": [tool], "tool_choice": "any"}
    place.run([{"text": "a"}], parameters=parameters).start()
    (line,) = exported(place)
    (call,) = line["messages"][-1]["tool_calls"]
    assert call["function"]["name"] == "add"
    assert len(call["id"]) == 9
    assert [one["function"]["name"] for one in line["tools"]] == ["add"]


ROWS = [
    {"text": "x", "question": "q1", "answer": "a1", "persona": "P", "score": 5},
    {"text": "x", "question": "q2", "answer": None, "persona": None, "score": 2},
    {"text": "x", "question": "q3", "answer": "a3", "persona": None, "score": 4},
]


def test_columns_say_who_says_what(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.run(ROWS).start()
    first, second = exported(place, turns={"system": "persona", **TURNS})
    assert said_in(first) == [("system", "P"), ("user", "q1"), ("assistant", "a1")]
    assert said_in(second) == [("user", "q3"), ("assistant", "a3")]
    assert "1 row with nothing in 'answer'" in caplog.text
    (only,) = exported(place, turns=TURNS, where="score>=5")
    assert said_in(only) == [("user", "q1"), ("assistant", "a1")]
    lines = exported(place, turns=[*TURNS.items(), ("user", "text"), ("assistant", "answer.generation")])
    assert said_in(lines[0]) == [("user", "q1"), ("assistant", "a1"), ("user", "x"), ("assistant", "Echo: x")]


def test_turns_take_messages_calls_and_results(place: Place) -> None:
    rows: list[dict[str, Any]] = [
        {
            "text": "x",
            "history": json.dumps([{"role": "user", "content": "1 + 1?"}]),
            "calls": [CALL],
            "result": {"content": "2", "tool_call_id": "abcdefghi"},
            "answer": "It is 2.",
        }
    ]
    place.run(rows).start()
    turns = [("messages", "history"), ("assistant", "calls"), ("tool", "result"), ("assistant", "answer")]
    (line,) = exported(place, turns=turns)
    assert [role for role, _ in said_in(line)] == ["user", "assistant", "tool", "assistant"]
    assert line["messages"][1]["tool_calls"] == [CALL]


def test_a_wrong_line_is_named_and_no_file_is_written(place: Place) -> None:
    rows = [{"id": "a", "text": "x", "answer": "fine"}, {"id": "b", "text": "  ", "answer": 7}]
    place.run(rows, prompt="p {{ text }}", id_column="id").start()
    to = place.out.with_name("sft.jsonl")
    with pytest.raises(InputError) as refused:
        export_run(place.out, to, as_="chat", turns={"user": "text", "assistant": "answer"})
    message = str(refused.value)
    assert "1 of 2 lines of" in message
    assert "line 2 (row 1, id 'b'): message 0 has no text" in message
    assert not to.exists()


ODD: list[Any] = [
    ["x"], [1], [None], [[]], [{}], [{"content": 1}], ["x", {"content": "y", "tool_call_id": "abcdefghi"}], {}, [],
    7, True, {"content": None}, {"content": {"a": 1}}, {"role": 5}, {"tool_calls": 5},
    {"tool_calls": [5]}, {"messages": []},
    [{"function": 1}], [{"function": {}}], [{"function": {"name": "f", "arguments": 5}}], [{"role": []}], "[", "{}",
    '["x"]', [{"role": "user"}], [{"role": "tool", "content": "x"}], [{"type": "text"}],
    [{"type": 5, "text": []}], 1e300,
    [[["x"]]], [{"type": "image_url", "image_url": 5}], "\ud83d", [{"role": "assistant", "prefix": 5, "content": "a"}],
]  # fmt: skip


def test_odd_values_in_turns_are_their_lines_own_errors(place: Place) -> None:
    rows = [{"text": "x", "odd": odd} for odd in ODD]
    place.run(rows, prompt="p {{ text }}").start()
    for role in ("system", "user", "assistant", "tool", "messages"):
        turns = [("user", "text"), (role, "odd"), ("assistant", "text")]
        with pytest.raises(InputError, match=r"would be no conversation: line \d+ \(row \d+\): "):
            export_run(place.out, place.out.with_name("sft.jsonl"), as_="chat", turns=turns)
    with pytest.raises(
        InputError, match=r"row 0\): the column 'odd' is a list with 'x' in it, which is no message"
    ):
        export_run(
            place.out, place.out.with_name("sft.jsonl"), as_="chat", turns=[("user", "text"), ("tool", "odd")]
        )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "tool_calls", "tool_call_id", "function", "name", "type", "text", "id"]
            )
            | st.text(max_size=3),
            inner | st.sampled_from(["user", "assistant", "tool", "system", "text", "image_url"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON_VALUES, max_size=4))
def test_whatever_messages_are_they_are_a_conversation_or_an_input_error(messages: list[Any]) -> None:
    try:
        assert encode_conversation(messages).startswith(b"[")
    except InputError:
        return


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"as_": "chat", "turns": {"usr": "text"}}, r"no role 'usr' .*did you mean 'user'"),
        (
            {"as_": "chat", "turns": {"user": "quest"}},
            r"turns: there is no column 'quest' .*there are text, question",
        ),
        ({"as_": "chat", "keep": ["text"]}, r"keep: a conversation has no such columns"),
        ({"turns": TURNS}, r"as_='chat'"),
        ({"as_": "alpaca"}, r"there is no form 'alpaca'"),
    ],
)
def test_what_cannot_be_meant_is_refused(place: Place, settings: dict[str, Any], message: str) -> None:
    place.run(ROWS).start()
    with pytest.raises(InputError, match=message):
        export_run(place.out, place.out.with_name("sft.jsonl"), **settings)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([("user", "a")], "not the assistant's"),
        ([("user", "a"), ("assistant", "")], "neither text nor calls"),
        ([("assistant", "a")], "answers none of the user's"),
        ([("system", "a"), ("assistant", "a")], "answers none of the user's"),
        ([("user", "a"), ("assistant", "a"), ("assistant", "a")], "answers none of the user's"),
        ([("user", "a"), ("system", "a"), ("user", "b"), ("assistant", "a")], "message 1 is of the system"),
        ([("user", " "), ("assistant", "a")], "message 0 has no text"),
    ],
)
def test_what_fine_tuning_would_refuse_is_said(messages: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        encode_conversation([{"role": role, "content": text} for role, text in messages])


def test_a_call_without_its_result_is_no_conversation() -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [CALL]}]
    with pytest.raises(InputError, match="Not the same number of function calls and responses"):
        encode_conversation([*asked, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}])


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=4))
def test_turn_by_turn_is_always_a_conversation(turns: list[tuple[str, str]]) -> None:
    words = [("user" + one, "assistant" + other) for one, other in turns]
    messages = [
        {"role": role, "content": text}
        for pair in words
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    decoded: Any = json.loads(encode_conversation(messages))
    assert [message["role"] for message in decoded] == ["user", "assistant"] * len(turns)


def test_the_lines_are_a_list_in_python_too(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": 2}, {"text": "poison", "n": 2}]
    place.write_rows([row | {"is": [1, 2]} for row in rows])
    simulator.change(poison="poison")
    run = place.run(num_generations=2)
    run.start()
    to = place.out.with_name("sft.jsonl")
    for turns, where in ((None, None), (None, "n=2"), ({"user": "text", "assistant": "n"}, "state=failure")):
        export_run(place.out, to, as_="chat", turns=turns, where=where, overwrite=True)
        lines = [json.loads(line) for line in to.read_text().splitlines()]
        assert run.to_chat(turns, where=where) == Run.open(place.out).to_chat(turns, where=where) == lines
    with pytest.raises(InputError, match=r"out.jsonl would be no conversation: line 1 \(row 0\): "):
        run.to_chat({"user": "text", "assistant": "is"})
    assert "left out of the conversations: 1 row that failed" in caplog.text


def test_the_output_of_a_run_is_not_replaced_by_conversations_unasked(place: Place) -> None:
    place.run([{"text": "a"}]).start()
    before = place.out.read_bytes()
    with pytest.raises(InputError, match="own output, and would be replaced by conversations"):
        export_run(place.out, place.out, as_="chat")
    assert place.out.read_bytes() == before
    export_run(place.out, place.out, as_="chat", overwrite=True)
    assert b"messages" in place.out.read_bytes()


@pytest.mark.parametrize("name", ["sft.csv", "sft.tsv.gz", "sft.xlsx"])
def test_a_table_of_texts_takes_no_conversations(place: Place, name: str) -> None:
    place.write(["a"])
    place.run().start()
    with pytest.raises(InputError, match="holds no conversations"):
        export_run(place.out, place.out.with_name(name), as_="chat")
    assert not place.out.with_name(name).exists()
