"""From an answer to a value, or to the next question: what is repaired, what is asked again, and in which words."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mistill.errors import InvalidOutput
from mistill.structured import Parsed, Reask, compile_schema, compile_structured_output, judge, read_answer
from mistill.structured.repair import json_candidates, reask_messages

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
        f"{{}} or {GOOD}",
        f"{GOOD}\nThat is: {GOOD}",
        f'The schema {{"type": "object"}} gives {GOOD}',
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


def test_two_values_that_fit_are_said_to_be_two() -> None:
    with pytest.raises(InvalidOutput, match="2 different values"):
        read_answer(compile_schema(Loose), 'First {"age": 1}, then {"age": 2}')


def test_a_mistake_inside_a_fence_is_told_by_its_place_there() -> None:
    text = '```json\n{"name": "A", "age": "old"}\n```'
    with pytest.raises(InvalidOutput) as caught:
        read_answer(compile_schema(Person), text)
    assert (caught.value.path, caught.value.text) == ("$.age", text)


def test_a_wrapped_value_is_found_in_a_fence() -> None:
    schema = compile_schema(Literal["yes", "no"])
    assert read_answer(schema, '```json\n{"value": "yes"}\n```') == Parsed("yes", '"yes"')
    assert read_answer(schema, '```json\n"no"\n```') == Parsed("no", '"no"')


_PROSE = st.text(st.characters(codec="utf-8", exclude_characters='{}[]`"'))
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
    assert json_candidates(f"{before}{text}{after}") == [text]
    assert json_candidates(f"```json\n{text}\n```") == [text]


@given(_DOCUMENTS.filter(bool), st.data())
def test_a_cut_answer_never_yields_a_piece_of_itself(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = data.draw(st.integers(0, len(text) - 1))
    assert json_candidates(text[:cut]) == []


# --- asking again ----------------------------------------


def plan(**setting: Any) -> Any:
    return compile_structured_output({"schema": Person, **setting})


def test_a_good_answer_ends_it() -> None:
    assert judge(plan(), PROMPT, GOOD, finish_reason="stop", asks_left=1) == Parsed(
        Person(name="Ada {x}", age=3), GOOD
    )


def test_a_model_is_asked_again_with_its_last_answer_and_what_is_wrong_with_it() -> None:
    verdict = judge(plan(), PROMPT, '{"name": "A"}', finish_reason="stop", asks_left=1)
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
        verdict = judge(plan(), PROMPT, '{"name": "A"}', finish_reason="stop", asks_left=asks_left)
        assert isinstance(verdict, Reask)
        sizes.append(len(json.dumps(verdict.messages)))
    assert set(sizes) == {sizes[0]}
    assert len(PROMPT) == 2


def test_no_ask_left_is_a_failure_that_keeps_the_answer() -> None:
    with pytest.raises(InvalidOutput) as caught:
        judge(plan(), PROMPT, '{"name": 1}', finish_reason="stop", asks_left=0)
    assert (caught.value.text, caught.value.path) == ('{"name": 1}', "$.name")


@pytest.mark.parametrize("finish_reason", ["length", "model_length"])
def test_an_answer_that_was_cut_short_is_not_asked_again(finish_reason: str) -> None:
    with pytest.raises(InvalidOutput, match=r"cut short by the token limit.*raise max_new_tokens") as caught:
        judge(plan(), PROMPT, '{"name": "A', finish_reason=finish_reason, asks_left=5)
    assert caught.value.text == '{"name": "A'
    whole = judge(plan(), PROMPT, GOOD + "\n", finish_reason=finish_reason, asks_left=5)
    assert isinstance(whole, Parsed), "it was whole before the limit"


@pytest.mark.parametrize("text", ["", "  ", None])
def test_an_empty_answer_is_not_sent_back(text: str | None) -> None:
    verdict = judge(plan(), PROMPT, text, finish_reason="stop", asks_left=1)
    assert isinstance(verdict, Reask)
    assert [message["role"] for message in verdict.messages] == ["system", "user", "user"]


def test_a_prefix_gives_way_to_the_answer() -> None:
    prompt = [*PROMPT, {"role": "assistant", "content": "{", "prefix": True}]
    messages = reask_messages(prompt, "nope", InvalidOutput("wrong", text="nope"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2] == {"role": "assistant", "content": "nope"}
    assert len(prompt) == 3
