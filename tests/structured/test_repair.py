"""From an answer to a value, or to the next question: what is repaired, what is asked again, and in which words."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mistill.api.chat import AnsweredFunction, AnsweredToolCall
from mistill.errors import InvalidOutput, RepeatedAnswer
from mistill.structured import (
    Parsed,
    Reask,
    answer_text,
    compile_schema,
    compile_structured_output,
    judge,
    read_answer,
)
from mistill.structured.json_in_text import standing_values
from mistill.structured.repair import reask_messages

GOOD = '{"name": "Ada {x}", "age": 3}'


class Person(BaseModel):
    name: str
    age: int


class Loose(BaseModel):
    """Fits any object: so a piece of a broken answer would fit too."""

    age: int = 0


PROMPT: list[dict[str, Any]] = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```\n",
        f"  ```JSON\n{GOOD}```",
        f"Here you are:\n```json\n{GOOD}\n```\nAnything else?",
        f"```json\n{GOOD}",
        f"Sure! {GOOD}",
        f"{GOOD}\n\nI hope that helps {{you}} [really].",
        f"[note] as in [1]: {GOOD}",
        f"\ufeff{GOOD}",
        f"{GOOD}\nThat is: {GOOD}",
    ],
)
def test_the_json_in_an_answer_is_found_as_it_stands(text: str) -> None:
    assert read_answer(compile_schema(Person), text) == Parsed(Person(name="Ada {x}", age=3), GOOD)


@pytest.mark.parametrize(
    "text",
    [
        '{"age": 1, "inner": {"age": 2}',
        '{"age": 1} {"age": 2}',
        '[{"age": 1}, {"age": 2}',
        '{"items": [{"age": 1}, {"ag',
        '{"age": 1, oops: {"age": 2}}',
        'He wrote "{" and then {"age": 1}'.replace('"{"', '{"'),
        "{'age': 1}",
        "no JSON at all",
        "",
        "```json\n```",
        "[" * 50_000,
        '{"' * 50_000,
        "{" * 50_000,
        '[{"age": ' * 20_000,
    ],
)
def test_a_broken_cut_or_double_answer_gives_no_value(text: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        read_answer(compile_schema(Loose), text)
    assert caught.value.text == text


@pytest.mark.parametrize("first", ['{"age": 1}', '{"years": 1}', "[1]", "{}", '```json\n{"age": 1}\n```'])
def test_of_two_values_none_is_taken_whether_both_fit_or_one(first: str) -> None:
    with pytest.raises(InvalidOutput, match="2 different JSON values"):
        read_answer(compile_schema(Loose), f'{first}\nand then:\n{{"age": 2}}')


class Friend(BaseModel):
    name: str
    friend: Friend | None = None


class Nameless(BaseModel):
    name: str | None = None


@pytest.mark.parametrize(
    "text",
    [
        # Broken: keys or strings without quotes, other quotes, other literals, commas too many, comments.
        '{name: "Ann", friend: {"name": "Bob"}}',
        "{'name': 'Ann', 'friend': {\"name\": \"Bob\"}}",
        '[None, {"name": "Bob"}]',
        '{"name": "Ann", "friend": {"name": "Bob"},}',
        '{"name": "Ann" "friend": {"name": "Bob"}}',
        '{"name": "Ann", "at": 3pm, "friend": {"name": "Bob"}}',
        '{\n  // the person\n  "name": "Ann",\n  "friend": {"name": "Bob"}\n}',
        '{\n  // the person\n  "name": "Ann",\n  "friend": {"name": "Bob"}',
        '{"name": /* like {"name": "Bob"} */ "Ann"}',
        'Person(name="Ann", friend={"name": "Bob"})',
        '<person name="Ann">{"name": "Bob"}</person>',
        '{{"name": "Bob"}}',
        '```json\n{name: "Ann", friend: {"name": "Bob"}}\n```',
        'Here it is:\n```json\n{name: "Ann", friend: {"name": "Bob"}}\n```',
        # Cut: at the end, at the beginning, at both.
        '{"name": "Ann", "friend": {"name": "Bob"}',
        '[{"name": "Bob"}',
        '{"name": "Ann", "friends": [{"name": "Bob"}, {"na',
        '"name": "Ann", "friend": {"name": "Bob"}}',
        '"friend": {"name": "Bob"}}',
        '"friend": {"name": "Bob"}',
        '"Ann", {"name": "Bob"}',
        '{"name": "Bob"}]',
        '{"name": "Bob"}, "age": 3',
        # In a string: JSON, broken, or of prose.
        '"I cannot: the schema wants {\\"name\\"} but see {} "',
        '"the answer is {} "',
        '"the answer is {}',
        '"he said {"name": "Bob"} "',
        '"he said {"name": "Bob"}',
        '"he said "{"name": "Bob"}" ok"',
        '"he said " {"name": "Bob"} " ok"',
        '"a \\" b {"name": "Bob"} c',
        '"{\\"name\\": \\"Bob\\"}"',
        '"""{"name": "Bob"}"""',
        '["{\\"name\\": \\"Bob\\"}"',
        # In a comment.
        '// {"name": "Bob"}',
        '// such as {"name": "Bob"}\n{"name": 5}',
        '/* {"name": "Bob"} */ {"name": 5}',
        '<!-- {"name": "Bob"} -->',
        '# {"name": "Bob"}\nnothing',
        '# For example:\n# {"name": "Bob"}',
        '-- {"name": "Bob"}',
        '% {"name": "Bob"}',
        '; {"name": "Bob"}',
        'REM {"name": "Bob"}',
        "'''\n{\"name\": \"Bob\"}\n'''",
        # In quotes of any kind.
        '\'{"name": "Bob"}\'',
        '\'\n{"name": "Bob"}\n\'',
        '“{"name": "Bob"}”',
        '‘{"name": "Bob"}’',
        '«{"name": "Bob"}»',
        'He wrote: \'{"name": "Bob"}\'.',
        '> {"name": "Bob"}',
        # In code, in a call, in an assignment.
        'outer = dict(x={"name": "Bob"}, y=2',
        'f({"name": "Bob"})',
        'f(\n{"name": "Bob"}\n)',
        'person = {"name": "Bob"}',
        'person =\n{"name": "Bob"}',
        'return {"name": "Bob"}',
        '-{"name": "Bob"}',
        '+{"name": "Bob"}',
        '{"name": "Bob"}.000',
        '{"name": "Bob"},\nand more',
        '```python\nprint(1)\n{"name": "Bob"}\n```',
        # In markup.
        '<result><item>{"name": "Bob"}</item>',
        '<result><item>{"name": "Bob"}</item></result>',
        '<item>{"name": "Bob"}',
        '{"name": "Bob"}</item>',
        '<a href=x>{"name": "Bob"}</a>',
        # In a list, in a table, in YAML.
        '- {"name": "Bob"}',
        '1. {"name": "Bob"}',
        '| {"name": "Bob"} |',
        'name: Ann\nfriend: {"name": "Bob"}',
        'friend: {"name": "Bob"}\nname: Ann',
        'friend:\n  {"name": "Bob"}\nname: Ann',
        'text: |\n  {"name": "Bob"}',
        'people:\n  - {"name": "Bob"}\n  - {"name": "Ann"}',
        'result: {"id": 2}\nother: {"name": "Bob"}',
        # In thinking that never came to an answer.
        '<think>maybe {"name": "Bob"}</think>',
        '<think>maybe:\n{"name": "Bob"}',
        'Well. <think>Maybe:\n{"name": "Bob"}',
        '[THINK]Maybe:\n{"name": "Bob"}[/THINK]\n',
        '{"name": "Bob"}\n</think>\n\nI do not know.',
        # In the middle of a sentence.
        'Do not answer {"name": "Bob"}; I refuse.',
        '{"name": "Bob"} and no wait, it is Ann',
        '{"name": "Bob"}. and so on',
        '{"name": "Bob"}Done',
        '{"name": "Bob"} 2',
        'Friend: {"name": "Bob"} Name: Ann',
        'I would not say {"name": "Bob"}',
        'Is it {"name": "Bob"}?',
        'Write JSON, e.g. {"name": "Bob"}',
        'The schema {"type": "object"} gives {"name": "Bob"}',
    ],
)
def test_a_part_is_never_taken_for_the_answer(text: str) -> None:
    for schema in (Friend, Nameless, Nameless | None, {"type": "object"}, {"anyOf": [{"type": "object"}]}):
        with pytest.raises(InvalidOutput) as caught:
            read_answer(compile_schema(schema), text)
        assert caught.value.text == text


@pytest.mark.parametrize(
    "text",
    [
        'Sure! {"name": "Ann"}',
        'Sure! {"name": "Ann"} Done.',
        'It is: {"name": "Ann"}. That is all.',
        '{"name": "Ann"} I hope that helps [1].',
        'It is: {"name": "Ann"}.',
        '{"name": "Ann"}\n\nThat is all.\n- a note\n- another',
        '**Answer:** {"name": "Ann"}',
        'Answer: {"name": "Ann"}\n\nExplanation: it is said so.',
        'Answer: `{"name": "Ann"}`',
        '答案：{"name": "Ann"}',
        '<answer>\n```json\n{"name": "Ann"}\n```\n</answer>',
        '{"name": "Ann"}<|im_end|>',
        '{"name": "Ann"}\n</s>',
        '<think>{"name": "Bob"}? No.</think>{"name": "Ann"}',
        '<think>He is "Bob".</think>\n\nIt is: {"name": "Ann"}',
        'Maybe {"name": "Bob"}.\n</think>\n\n{"name": "Ann"}',
        '[THINK]{"name": "Bob"}[/THINK]{"name": "Ann"}',
        'The "person" (as you say, "the one"): {"name": "Ann"}',
        'Here it is:\n```json\n{"name": "Ann"}\n```\nAnything else?',
        '~~~json\n{"name": "Ann"}\n~~~',
        '```{"name": "Ann"}```',
        '{"name": "Ann"}\n\nSee https://example.com/[1] and {you}.',
        '<answer>{"name": "Ann"}</answer>',
        'The person\'s name: {"name": "Ann"}',
    ],
)
def test_a_whole_value_with_prose_around_it_is_taken(text: str) -> None:
    assert read_answer(compile_schema(Friend), text) == Parsed(Friend(name="Ann"), '{"name": "Ann"}')


def test_a_footnote_is_no_list() -> None:
    schema = compile_schema(list[int])
    with pytest.raises(InvalidOutput):
        read_answer(schema, "I do not know, see [1].")
    assert read_answer(schema, "These, as in [1]:\n[2, 3]").value == [2, 3], "a value that has its own lines"
    assert read_answer(schema, "These:\n```json\n[2, 3]\n```\nand no more").value == [2, 3]
    assert read_answer(schema, 'These, as in [1]: {"value": [2, 3]}').value == [2, 3]
    assert read_answer(schema, "<think>[1]?</think>[2, 3]").value == [2, 3]
    assert read_answer(compile_schema(int), "<think>4, or 5?</think>\n5\n").value == 5


def test_the_arguments_of_one_tool_call_are_an_answer_that_has_no_text() -> None:
    def call(arguments: str | dict[str, Any]) -> AnsweredToolCall:
        return AnsweredToolCall(AnsweredFunction("json", arguments))

    assert answer_text(None, [call(GOOD)]) == GOOD
    assert answer_text(" ", [call({"name": "é"})]) == '{"name": "é"}'
    assert answer_text("text", [call(GOOD)]) == "text"
    assert answer_text(None, [call(GOOD), call(GOOD)]) == GOOD
    assert answer_text(None, [call(GOOD), call("{}")]) == "", "which of them nobody knows"
    assert answer_text(None) == ""


def test_a_mistake_inside_a_fence_is_named_by_its_place_there() -> None:
    text = '```json\n{"name": "A", "age": "old"}\n```'
    with pytest.raises(InvalidOutput) as caught:
        read_answer(compile_schema(Person), text)
    assert (caught.value.path, caught.value.text) == ("$.age", text)


def test_a_wrapped_value_is_found_in_a_fence() -> None:
    schema = compile_schema(Literal["yes", "no"])
    assert read_answer(schema, '```json\n{"value": "yes"}\n```') == Parsed("yes", '"yes"')
    assert read_answer(schema, '```json\n"no"\n```') == Parsed("no", '"no"')


def json_candidates(text: str) -> list[str]:
    return [text[one.start : one.end] for one in standing_values(text)]


_PROSE = st.text(st.characters(codec="utf-8", exclude_characters='{}[]`"/'))  # a slash may begin a comment
_DOCUMENTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(_PROSE, _DOCUMENTS, _PROSE)
def test_repair_never_changes_a_value(before: str, document: dict[str, Any], after: str) -> None:
    text = json.dumps(document)
    assert json_candidates(f"{before}{text}{after}") in ([], [text])
    assert json_candidates(f"```json\n{text}\n```") == [text]


_SENTENCE = st.text("abcdé ,", max_size=20).map(lambda words: f"So {words}.")


@given(
    _SENTENCE, st.sampled_from([" ", "\n", "\n\n"]), _DOCUMENTS.filter(bool), st.lists(_SENTENCE, max_size=2)
)
def test_a_value_between_sentences_is_found(
    before: str, gap: str, document: dict[str, Any], after: list[str]
) -> None:
    text = json.dumps(document)
    assert json_candidates("\n".join([f"{before}{gap}{text}", *after])) == [text]


@given(_DOCUMENTS.filter(bool), st.data())
def test_a_cut_answer_never_yields_a_piece_of_itself(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = data.draw(st.integers(0, len(text) - 1))
    assert json_candidates(text[:cut]) == []


@given(_DOCUMENTS.filter(bool), st.data())
def test_an_answer_that_lost_its_beginning_never_yields_a_piece_of_itself(
    document: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(document)
    assert json_candidates(text[data.draw(st.integers(1, len(text) - 1)) :]) == []


@given(_DOCUMENTS.filter(bool), st.data())
def test_an_answer_with_one_wrong_character_is_taken_whole_or_not_at_all(
    document: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(document)
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = (
        text[:place]
        + data.draw(st.sampled_from(["", "'", '"', "\\", ",", "{", "]", "//", "x"]))
        + text[place + 1 :]
    )
    assert json_candidates(wrong) in ([], [wrong])


# --- asking again ----------------------------------------


def compiled(**setting: Any) -> Any:
    return compile_structured_output({"schema": Person, **setting})


def test_a_good_answer_ends_it() -> None:
    assert judge(compiled(), PROMPT, GOOD, finish_reason="stop", asks_left=1) == Parsed(
        Person(name="Ada {x}", age=3), GOOD
    )


def test_a_model_is_asked_again_with_its_last_answer_and_what_is_wrong_with_it() -> None:
    verdict = judge(compiled(), PROMPT, '{"name": "A"}', finish_reason="stop", asks_left=1)
    assert isinstance(verdict, Reask)
    assert verdict.messages == [
        *PROMPT,
        {"role": "assistant", "content": '{"name": "A"}'},
        {
            "role": "user",
            "content": "the answer does not fit Person: $.age: Field required\n"
            "Answer again with the whole JSON, corrected, and nothing else.",
        },
    ]
    assert verdict.error.path == "$.age"


def test_the_context_does_not_grow_with_the_number_of_attempts() -> None:
    sizes: list[int] = []
    verdict: Parsed | Reask
    for asks_left in range(20, 0, -1):
        verdict = judge(compiled(), PROMPT, '{"name": "A"}', finish_reason="stop", asks_left=asks_left)
        assert isinstance(verdict, Reask)
        sizes.append(len(json.dumps(verdict.messages)))
    assert set(sizes) == {sizes[0]}
    assert len(PROMPT) == 2


def test_an_answer_that_looped_up_to_its_limit_is_not_said_to_need_more_room() -> None:
    """As one of a batch job, which nobody watches."""
    with pytest.raises(RepeatedAnswer) as caught:
        judge(compiled(), PROMPT, '{"name": "A"' + " " * 5000, finish_reason="length", asks_left=1)
    assert "another prompt" in str(caught.value.hint)
    assert "loop_guard" not in str(caught.value.hint)
    with pytest.raises(InvalidOutput) as whole:
        judge(compiled(), PROMPT, '{"name": "A, and more of it', finish_reason="length", asks_left=1)
    assert not isinstance(whole.value, RepeatedAnswer)


def test_no_ask_left_is_a_failure_that_keeps_the_answer() -> None:
    with pytest.raises(InvalidOutput) as caught:
        judge(compiled(), PROMPT, '{"name": 1}', finish_reason="stop", asks_left=0)
    assert (caught.value.text, caught.value.path) == ('{"name": 1}', "$.name")


@pytest.mark.parametrize(
    ("finish_reason", "told"),
    [
        ("length", r"cut short by the token limit.*raise max_new_tokens"),
        ("model_length", r"cut short by the end of the model's context.*shorten the prompt"),
    ],
)
def test_an_answer_that_was_cut_short_is_not_asked_again(finish_reason: str, told: str) -> None:
    with pytest.raises(InvalidOutput, match=told) as caught:
        judge(compiled(), PROMPT, '{"name": "A', finish_reason=finish_reason, asks_left=5)
    assert caught.value.text == '{"name": "A'
    whole = judge(compiled(), PROMPT, GOOD + "\n", finish_reason=finish_reason, asks_left=5)
    assert isinstance(whole, Parsed), "it was whole before the limit"


@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_answer_is_not_sent_back(text: str | None) -> None:
    verdict = judge(compiled(), PROMPT, text, finish_reason="stop", asks_left=1)
    assert isinstance(verdict, Reask)
    assert [message["role"] for message in verdict.messages] == ["system", "user", "user"]


def test_a_prefix_gives_way_to_the_answer() -> None:
    prompt = [*PROMPT, {"role": "assistant", "content": "{", "prefix": True}]
    messages = reask_messages(prompt, "nope", InvalidOutput("wrong", text="nope"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2] == {"role": "assistant", "content": "nope"}
    assert len(prompt) == 3


def test_half_a_character_is_not_sent_back() -> None:
    messages = reask_messages(
        PROMPT, "half \ud83d, whole \ud83d\ude00", InvalidOutput("wrong: \udc00", text="")
    )
    assert messages[2]["content"] == "half \ufffd, whole 😀"
    assert messages[3]["content"].startswith("wrong: \ufffd\n")


@pytest.mark.parametrize(
    "text",
    [
        "```\n" + " " * 300_000,
        '" ' * 200_000,
        "[note] " * 50_000,
        "[1] " * 50_000,
        "```\n" * 50_000,
        "{} [] " * 50_000,
    ],
    ids=["spaces", "quotes", "notes", "footnotes", "fences", "brackets"],
)
def test_an_odd_answer_is_done_with_at_once(text: str) -> None:
    before = time.process_time()
    for schema in (Person, list[int], {"type": "array"}):
        with pytest.raises(InvalidOutput):
            read_answer(compile_schema(schema), text)
    assert time.process_time() - before < 2, "linear: it takes some hundredths"
