from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.prompts.prompt_template import PromptTemplate

SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [{"role": "user", "content": "hello"}]


def render(record: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    (row,) = open_source([record])
    return PromptTemplate(**options).render(row)


# --- templates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Summarise: {{ text }}", "Summarise: <é> & more"),
        ("no column at all", "no column at all"),
        ("{{ text }}\n", "<é> & more\n"),
        ("{{ text | upper }} {{ n + 1 }}", "<É> & MORE 3"),
        ("{% for x in items %}{{ loop.index }}{{ x }} {% endfor %}", "1a 2b "),
        ("{{ nested.key }}{{ nested['key'] }}", "vv"),
        ("{{ nested | tojson }}", '{"key": "v", "a": "<é>"}'),
        ("{{ items | tojson(indent=1) }}", '[\n "a",\n "b"\n]'),
        ("{{ row['two words'] }}", "x"),
        ("{{ row | length }}", "7"),
        ("{{ nothing or 'unknown' }}", "unknown"),
        ("{{ missing | default('d') }}", "d"),
        ("{% if missing is defined %}yes{% else %}no{% endif %}", "no"),
        ("{% if nothing is none %}null{% endif %}", "null"),
        ("{% for i in range(n) %}{{ i }}{% endfor %}", "01"),
        ("{% set ns = namespace(total=0) %}{% set ns.total = n %}{{ ns.total }}", "2"),
        ("{% macro shout(x) %}{{ x }}!{% endmacro %}{{ shout(n) }}", "2!"),
    ],
)
def test_a_template_over_the_columns(template: str, expected: str) -> None:
    record = {
        "text": "<é> & more",
        "n": 2,
        "items": ["a", "b"],
        "nested": {"key": "v", "a": "<é>"},
        "two words": "x",
        "nothing": None,
        "prompt": "the template goes first",
    }
    assert render(record, prompt=template) == [{"role": "user", "content": expected}]


def test_a_column_called_row_is_that_column() -> None:
    assert render({"row": "mine"}, prompt="{{ row }}")[0]["content"] == "mine"


def test_system_is_a_template_too() -> None:
    messages = render({"text": "x", "who": "a poet"}, prompt="{{ text }}", system="You are {{ who }}.")
    assert messages == [{"role": "system", "content": "You are a poet."}, {"role": "user", "content": "x"}]


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}x", fullmatch=True), st.text(min_size=1), min_size=1))
def test_a_value_arrives_as_it_is(record: dict[str, str]) -> None:
    template = "|" + "|".join(f"{{{{ {name} }}}}" for name in record)
    assert render(record, prompt=template)[0]["content"] == "|" + "|".join(record.values())


def test_rendering_leaves_the_record_alone() -> None:
    (row,) = open_source([{"items": [1], "text": "a"}])
    prompt = PromptTemplate(prompt="{% set text = 'b' %}{{ text }}{{ row.text }}")
    assert [prompt.render(row)[0]["content"] for _ in range(2)] == ["ba", "ba"]
    assert row.record == {"items": [1], "text": "a"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ txt }}",
            r"row 0 of the list: the prompt template needs a column 'txt'; it has 'text', 'n', .*did you mean 'text'\?",
        ),
        ("{{ zebra }}", r"needs a column 'zebra'; it has 'text', 'n', 'nothing'$"),
        ("{{ dict }}", "needs a column 'dict'"),
        ("{{ lipsum() }}", "needs a column 'lipsum'"),
        ("{{ row.txt }}", "the prompt template: 'dict object' has no attribute 'txt'"),
        ("{{ text.length }}", "the prompt template: 'str object' has no attribute 'length'"),
        (
            "{{ nothing }}",
            r"the column 'nothing' is null, and the prompt would read 'None' .*{{ nothing or 'unknown' }}",
        ),
        ("{{ row.nothing }}", "a value of the template is null"),
        ("{{ n / 0 }}", "the prompt template failed: ZeroDivisionError"),
        (
            "{{ text.__class__.__mro__ }}",
            "str object has no item '__class__', but what templates may not use",
        ),
        ("{{ range(10000000) | length }}", "the prompt template failed: OverflowError"),
        (
            "{% set _ = row.update({'a': 1}) %}x",
            "dict object has no item 'update', but a method that changes it",
        ),
        ("{# nothing #} \n", "row 0 of the list: the prompt template gives a blank text"),
        ("{% include 'x' %}", "the prompt template failed"),
    ],
)
def test_a_row_that_the_template_does_not_fit(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        render({"text": "x", "n": 1, "nothing": None}, prompt=template)
    assert caught.value.index == 0


def test_the_error_names_the_row_in_the_file(tmp_path: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": "x"}\n\n{"b": "y"}\n')
    prompt = PromptTemplate(prompt="{{ a }}")
    first, second = open_source(path)
    assert prompt.render(first)[0]["content"] == "x"
    with pytest.raises(
        InputError, match=r"in\.jsonl line 3: the prompt template needs a column 'a'; it has 'b'"
    ):
        prompt.render(second)


def test_of_many_columns_the_error_shows_some() -> None:
    with pytest.raises(InputError, match="'c19' and 80 more"):
        render({f"c{n}": 1 for n in range(100)}, prompt="{{ zebra }}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("ok\n{{ text", "the prompt template, line 2: unexpected end of template.*{{ text"),
        ("{% nope %}", "line 1: Encountered unknown tag 'nope'"),
        ("a\n\n{{ x | nope }}", "line 3: No filter named 'nope'"),
        ("", "the prompt template is blank"),
        ("  \n", "the prompt template is blank"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_at_once(template: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PromptTemplate(prompt=template)
    with pytest.raises(InputError, match=message.replace("prompt", "system")):
        PromptTemplate(prompt="x", system=template)


# --- columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"messages": HELLO},
        {"messages": json.dumps(HELLO)},
        {"prompt": "hello"},
        {"messages": None, "prompt": "hello"},
        {"messages": HELLO, "prompt": "messages go first"},
        {"messages": [{"role": "user", "content": "hello", "name": None, "tool_calls": None}]},
    ],
)
def test_a_row_that_brings_its_own_messages(record: dict[str, Any]) -> None:
    assert render(record) == HELLO
    assert render(record, system="Be brief.") == [SYSTEM, *HELLO]


def test_the_columns_can_have_other_names() -> None:
    assert render({"chat": HELLO, "messages": 7}, messages_column="chat") == HELLO
    assert render({"question": "hello", "prompt": 7}, prompt_column="question") == HELLO


def test_nulls_that_columnar_files_put_into_messages_are_dropped_but_content_and_arguments_are_kept() -> None:
    call = {"id": "c", "index": None, "function": {"name": "f", "arguments": {"x": None}}}
    text = {"type": "text", "text": "hi", "image_url": None}
    messages = [
        {"role": "user", "content": [text], "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    assert render({"messages": messages}) == [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"x": None}}}],
        },
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x", "n": 1}, r"no column 'messages' or 'prompt'; it has 'text', 'n' .*'{{ text }}'"),
        ({"two words": "x"}, r"for example '{{ row\[\"two words\"\] }}'"),
        ({}, "it has no columns"),
        ({"prompt": None}, "the column 'prompt' is null"),
        ({"prompt": " \n"}, "the column 'prompt' is blank"),
        ({"prompt": 7}, "the column 'prompt' is not a string but a number"),
        ({"messages": []}, "the column 'messages' is an empty list"),
        ({"messages": {"role": "user"}}, "the column 'messages' is not a list of messages but an object"),
        ({"messages": "hello"}, "the column 'messages' is text, but not the JSON of messages"),
        ({"messages": '"hello"'}, "the column 'messages' is not a list of messages but a string"),
        ({"messages": [*HELLO, "hi"]}, "message 1 of the column 'messages' is no object with a role"),
        ({"messages": [{"content": "hi"}]}, "message 0 of the column 'messages' is no object with a role"),
    ],
)
def test_a_row_with_nothing_to_ask(record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        render(record)
    assert "row 0 of the list" in str(caught.value)


def test_two_system_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="a system prompt is given, and the column 'messages' holds one too"):
        render({"messages": [SYSTEM, *HELLO]}, system="Be long.")


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_the_description_has_what_the_messages_depend_on() -> None:
    columns = {"messages_column": "messages", "prompt_column": "prompt"}
    nothing = dict.fromkeys(columns)
    assert PromptTemplate().describe() == {"prompt": None, "system": None, **columns}
    assert PromptTemplate(system="s").describe() == {"prompt": None, "system": "s", **columns}
    assert PromptTemplate(prompt="{{ a }}", messages_column="x").describe() == {
        "prompt": "{{ a }}",
        "system": None,
        **nothing,
    }


def test_jinja_is_loaded_for_templates_only() -> None:
    code = (
        "import sys\n"
        "from mistill.datasets.sources import open_source\n"
        "from mistill.prompts.prompt_template import PromptTemplate\n"
        "PromptTemplate().render(next(iter(open_source([{'prompt': 'x'}]))))\n"
        "print([name for name in ('jinja2', 'pyarrow', 'pandas', 'polars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
