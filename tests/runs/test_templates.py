"""What a template may write: text. Never a method, a null or a rounded number, and never without end."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.filters import FILTERS
from tests.runs.conftest import Place, sent

from mistill.datasets.sources import Row, open_source
from mistill.errors import InputError
from mistill.prompts.prompt_template import PromptTemplate, TextTemplate
from mistill.prompts.template_environment import MAX_WORK
from mistill.simulator import Simulator


def render(record: dict[str, Any], template: str) -> str:
    (row,) = open_source([record])
    return PromptTemplate(prompt=template).render(row)[0]["content"]


def refusal(record: dict[str, Any], template: str) -> str:
    with pytest.raises(InputError) as caught:
        render(record, template)
    assert caught.value.index == 0
    return str(caught.value)


# --- names in single braces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "braced", ["{text}", "{ text }", "{text!r}", "{text:>9}", "{text[0]}", "{text.name}", "${text}"]
)
def test_a_column_in_the_braces_of_an_f_string_is_refused_before_anything_is_sent(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture, braced: str
) -> None:
    place.write(["a", "b"])
    with pytest.raises(
        InputError, match=r"has \{text\}, which is sent as it stands.*\{\{ text \}\}"
    ) as caught:
        place.run(prompt=f"Say {braced}").start()
    assert caught.value.index == 0
    assert (sent(simulator), caplog.text) == ([], "")


@pytest.mark.parametrize(
    "template",
    [
        "{label}",
        '{"text": 1}',
        "{text: a}",
        "{{ '{text}' }}",
        "{% raw %}{text}{% endraw %}",
        "{text} {{ text }}",
    ],
)
def test_other_braces_go_out_as_they_stand(template: str) -> None:
    assert "{" in render({"text": "a"}, template)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_prompt_that_is_the_same_for_several_rows_is_said_to_be(
    place: Place, caplog: pytest.LogCaptureFixture, rows: int
) -> None:
    place.write(["a", "b"][:rows])
    assert place.run(prompt="Say hello").start().completions == rows
    assert ("every row is asked the same; a column goes into it as {{ text }}" in caplog.text) == (rows == 2)


def test_a_column_in_single_braces_beside_others_is_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(["a", "b"])
    place.run(system="You are {text}, {{ text }}", prompt="{{ text }}").start()
    assert "{text} is sent as it stands" in caplog.text
    assert "the same" not in caplog.text


# --- methods and other objects --------------------------------------------------------------------------------------

METHODS_OF_OBJECTS = [
    "clear",
    "copy",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
]


@pytest.mark.parametrize("name", METHODS_OF_OBJECTS)
@pytest.mark.parametrize("form", ["order.{}", "order['{}']", "row.order.{}", "(order | attr('{}'))"])
def test_a_name_is_an_item_before_it_is_a_method(name: str, form: str) -> None:
    expression = form.format(name)
    if "attr" not in form:
        assert render({"order": {name: "pen"}}, f"{{{{ {expression} }}}}") == "pen"
        assert (
            render({"order": {name: ["pen"]}}, f"{{% for i in {expression} %}}{{{{ i }}}}{{% endfor %}}")
            == "pen"
        )
    for template in (
        "{{ %s }}",
        "{{ %s | upper }}",
        "{{ 'a' ~ %s }}",
        "{{ '{}'.format(%s) }}",
        "{{ [%s] }}",
    ):
        assert " at 0x" not in refusal({"order": {"id": 7}}, template.replace("%s", expression))


@pytest.mark.parametrize("name", [name for name in dir(str) if not name.startswith("_")])
def test_a_method_of_a_text_is_written_only_where_it_is_called(name: str) -> None:
    message = refusal({"text": "a"}, f"{{{{ text.{name} }}}}")
    assert f"str object has no item {name!r}, but a method: {name}()" in message
    assert render({"text": "a"}, f"{{{{ text.{name} is defined }}}}") == "False"


@pytest.mark.parametrize(
    "template",
    [
        "{{ m.items() }}",
        "{{ m.keys() | list | first }}{{ m.values() }}",
        "{{ xs | map('upper') }}",
        "{% for x in xs %}{{ loop }}{% endfor %}",
        "{% macro f() %}{% endmacro %}{{ f }}",
        "{{ range }}",
        "{{ namespace(a=1) }}",
        "{{ [m.items()] }}",
        "{{ 'a' ~ (xs | map('upper')) }}",
        "{{ '{}'.format(m.items()) }}",
        "{{ '%s' % (xs | map('upper'),) }}",
        "{{ xs | map('upper') | string }}",
        "{{ m }}",
        "{{ xs }}",
        "{{ 'a' ~ xs }}",
        "{{ xs | string }}",
        "{{ '%s' % (m,) }}",
        "{{ [xs] | join }}",
    ],
)
def test_what_is_no_text_is_not_written(template: str) -> None:
    assert "would write a" in refusal({"m": {"a": 1}, "xs": ["a"]}, template)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for k, v in m.items() %}{{ k }}{{ v }}{% endfor %}", "items1"),
        ("{{ m.get('items') }}{{ m.keys() | join }}", "1items"),
        ("{{ xs | map('upper') | list | tojson }}{{ xs | map('upper') | join('-') }}", '["A", "B"]A-B'),
        (
            "{% for x in xs %}{{ loop.index }}{{ loop.cycle('x', 'y') }}{{ loop.last }}{% endfor %}",
            "1xFalse2yTrue",
        ),
        ("{{ text.strip().upper() }}{{ 'a-b'.split('-')[1] }}{{ xs.0 }}", "HIba"),
        ("{{ '{} {x}'.format(1, x=2) }}{{ '%s-%s' % (1, 2) }}{{ 'a' ~ 1 ~ 'b' }}", "1 21-2a1b"),
        (
            "{% set ns = namespace(n=0) %}{% for x in xs %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{% macro f(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call f(1) %}in{% endcall %}", "[1in]"),
        ("{% block b %}{{ text }}{% endblock %}{{ self.b() }}", " hi  hi "),
        (
            "{% filter upper %}a{{ text }}{% endfilter %}{{ range(3) | list | tojson }}{{ (1, 2) | join }}",
            "A HI [0, 1, 2]12",
        ),
        ("{{ m | tojson }}{{ (m | dictsort)[0] | join }}", '{"items": 1}items1'),
    ],
)
def test_what_templates_are_written_for_goes_on(template: str, expected: str) -> None:
    assert render({"m": {"items": 1}, "xs": ["a", "b"], "text": " hi "}, template) == expected


def test_a_column_called_self_is_that_column() -> None:
    assert render({"self": "me"}, "{{ self }}{{ self | upper }}{{ self ~ '!' }}") == "meMEme!"
    assert render({"self": {"name": "me"}}, "{{ self.name }}") == "me"
    assert "needs a column 'self'" in refusal({"text": "x"}, "{{ self }}")


def test_rows_in_another_order_are_not_paid_again(place: Place, simulator: Simulator) -> None:
    rows = [{"order": {"id": number, "items": [f"pen {number}"]}} for number in range(3)]
    assert place.run(rows, prompt="{{ order.items | tojson }}").start().sent == 3
    assert place.run(rows[::-1], prompt="{{ order.items | tojson }}").start().sent == 0
    assert sorted(sent(simulator)) == ['["pen 0"]', '["pen 1"]', '["pen 2"]']


# --- null -----------------------------------------------------------------------------------------------------------

# What takes a null for what it is. (int and float have a default of their own, xmlattr leaves such attributes out.)
TAKE_NULL = {"default", "d", "tojson", "int", "float"}
ARGUMENTS = {"format": "(t)", "replace": "('a', 'b')", "map": "('upper')", "select": "", "attr": "('x')"}
ARGUMENTS |= {"round": "(1)", "slice": "(2)", "batch": "(2)", "groupby": "('a')", "indent": "(2)"}


@pytest.mark.parametrize("name", sorted(FILTERS.keys() - TAKE_NULL))
def test_a_null_reads_none_through_no_filter(name: str) -> None:
    arguments = ARGUMENTS.get(name, "")
    for value in ("t", "[t]", "[t, 'a']", "{'a': t}", "o.t", "row.t", "o.get('t')", "o.get('z')", "(none)"):
        for template in (
            f"{{{{ {value} | {name}{arguments} }}}}",
            f"{{{{ {value} | {name}{arguments} | list | join }}}}",
        ):
            try:
                text = render({"t": None, "o": {"t": None}}, "Note: " + template)
            except InputError:
                continue
            assert "none" not in text.lower(), template


@pytest.mark.parametrize(
    "template",
    [
        "{{ t }}",
        "{{ 'x ' ~ t }}",
        "{{ t ~ 'x' }}",
        "{{ '%s' % t }}",
        "{{ '%s %s' % ('a', t) }}",
        "{{ '{}'.format(t) }}",
        "{{ '{a}'.format(a=t) }}",
        "{{ '{a}'.format_map({'a': t}) }}",
        "{{ [t] | join }}",
        "{{ 'a' | replace('a', t) }}",
        "{{ '%(a)s' | format(a=t) }}",
        "{{ ['a', 'b'] | join(t) }}",
        "{{ xs | map('string') | join }}",
        "{{ os | join(',', attribute='a') }}",
        "{{ os | map(attribute='a') | join }}",
        "{% set x %}{{ t }}{% endset %}{{ x }}",
        "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(t) }}",
        "{% filter upper %}{{ t }}{% endfilter %}",
        "{{ t if true else 1 }}",
        "{{ t | default('x') }}",
        "{{ xs | first }}",
        "{% for x in xs %}{{ x }}{% endfor %}",
    ],
)
def test_a_null_is_an_error_on_every_way_into_the_text(template: str) -> None:
    assert "is null, and the prompt would read 'None'" in refusal(
        {"t": None, "xs": [None], "os": [{"a": None}]}, template
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ t or 'x' }}{{ t | default('y', true) }}{{ 'z' if t is none else t }}{{ t == none }}", "xyzTrue"),
        ("{{ xs | map('default', '-', true) | join }}{{ xs | select | join }}", "-aa"),
        ("{{ xs | tojson }}{{ o | tojson }}{{ xs | length }}", '[null, "a"]{"a": null}2'),
        ("{{ [o] | selectattr('a', 'none') | list | length }}{{ xs | reject('none') | join }}", "1a"),
        ("{% if t %}a{% else %}b{% endif %}{% for x in xs if x %}{{ x }}{% endfor %}", "ba"),
    ],
)
def test_a_null_can_be_asked_about_and_replaced(template: str, expected: str) -> None:
    assert render({"t": None, "xs": [None, "a"], "o": {"a": None}}, template) == expected


# --- digits -----------------------------------------------------------------------------------------------------------

DIGITS = [
    "1.10",
    "19.90",
    "12345678901234567890.12",
    "9223372036854775808",
    "-9223372036854775809",
    "1" + "0" * 30,
]
DIGITS += [
    "1e5",
    "1E-7",
    "0.1000000000000000055511151231257827",
    "1e-400",
    "-0.0",
    "100.0",
    "5e-324",
    "1.0e+2",
]


def row_of(tmp_path: Path, line: str) -> Row:
    path = tmp_path / "in.jsonl"
    path.write_text(line + "\n")
    (row,) = open_source(path)
    return row


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize(
    "template",
    [
        "{{ n }}",
        "{{ row.n }}",
        "{{ o.n }}",
        "{{ xs[0] }}",
        "{{ '%s' % n }}",
        "{{ n ~ '' }}",
        "{{ n | string }}",
        "{{ '{}'.format(n) }}",
        "{{ xs | join }}",
        "{{ n | tojson }}",
        "{{ '%s' | format(n) }}",
        "{{ xs | first }}",
        "{% for x in xs %}{{ x }}{% endfor %}",
        "{{ xs | map('string') | join }}",
        "{{ [n] | max }}",
        "{{ n | trim }}",
    ],
)
def test_a_number_reads_as_it_stands_in_the_row(tmp_path: Path, digits: str, template: str) -> None:
    row = row_of(tmp_path, f'{{"n":{digits},"o":{{"n":{digits}}},"xs":[{digits}]}}')
    assert PromptTemplate(prompt=template).render(row)[0]["content"] == digits
    assert TextTemplate(template).render(row) == digits


@pytest.mark.parametrize("digits", ["7", *DIGITS])
def test_a_text_that_is_a_number_is_embedded_as_it_is_written(tmp_path: Path, digits: str) -> None:
    assert TextTemplate().render(row_of(tmp_path, f'{{"text": {digits}}}')) == digits


@pytest.mark.parametrize("value", ["true", "[1]", "{}", "null"])
def test_a_text_that_is_neither_is_none(tmp_path: Path, value: str) -> None:
    row = row_of(tmp_path, f'{{"text": {value}}}')
    with pytest.raises(InputError, match="the column 'text'"):
        TextTemplate().render(row)


@pytest.mark.parametrize("indent", ["", "indent=1", "indent=4"])
def test_json_in_a_prompt_keeps_the_digits(tmp_path: Path, indent: str) -> None:
    line = '{"a": 1.10, "b": [1e5, {"c": "é"}], "d": 12345678901234567890.12, "e": null}'
    text = PromptTemplate(prompt=f"{{{{ row | tojson({indent}) }}}}").render(row_of(tmp_path, line))[0][
        "content"
    ]
    assert [digits in text for digits in ("1.10", "1e5", "12345678901234567890.12")] == [True] * 3
    assert json.loads(text) == json.loads(line)
    if not indent:
        assert text == line


def test_a_number_is_a_number_where_one_computes_with_it(tmp_path: Path) -> None:
    row = row_of(tmp_path, '{"n": 1.10, "big": 9223372036854775808}')
    template = "{{ n * 2 }} {{ '%.3f' % n }} {{ n | round | int }} {{ n == 1.1 }} {{ n | float }}"
    template += " {{ big + 1 }} {{ n > 1 }}"
    text = PromptTemplate(prompt=template).render(row)[0]["content"]
    assert text == "2.2 1.100 1 True 1.1 9223372036854775809 True"


def test_arguments_of_a_rows_own_tool_calls_keep_their_digits(tmp_path: Path) -> None:
    call = '{"id": "c", "function": {"name": "f", "arguments": {"price": 19.90, "note": null}}}'
    asked = '{"role": "user", "content": "hi"}'
    line = f'{{"messages": [{asked}, {{"role": "assistant", "tool_calls": [{call}]}}]}}'
    messages = PromptTemplate().render(row_of(tmp_path, line))
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"price":19.90,"note":null}'


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_other_values_are_as_python_writes_them(value: Any) -> None:
    template = "|{{ row.v | tojson }}"
    assert render({"v": value}, template) == "|" + json.dumps(value, ensure_ascii=False)


# --- without end ------------------------------------------------------------------------------------------------------

LOOP = "{% for i in range(99999) %}"
NS = "{% set ns = namespace(x='ab', n=3, l=[1]) %}{% for i in range(99) %}"


@pytest.mark.parametrize(
    "template",
    [
        LOOP * 2 + "x{% endfor %}{% endfor %}",
        LOOP * 2 + "{% endfor %}{% endfor %}x",
        LOOP + "{% for j in range(999) if false %}{% endfor %}{% endfor %}x",
        LOOP + "{% for j in hundred %}{% endfor %}{% endfor %}x",
        LOOP + "{% for j in hundred if false %}{% endfor %}{% endfor %}x",
        LOOP + "{% set y = range(99999) | sum %}{% endfor %}x",
        LOOP + "{{ big }}{% endfor %}",
        "{% set x %}" + LOOP + "{{ big }}{% endfor %}{% endset %}x",
        "{% filter upper %}" + LOOP + "{{ big }}{% endfor %}{% endfilter %}",
        LOOP + "{% block b scoped %}{% for j in hundred %}{% endfor %}{% endblock %}{% endfor %}x",
        LOOP + "y" * 1000 + "{% endfor %}",
        LOOP + "{% if hundred | sort | list | length %}y{% endif %}{% endfor %}",
        "{% for i in range(9) recursive %}{% if loop.depth < 9 %}{{ loop(range(9)) }}{% endif %}x{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}x",
        NS + "{% set ns.x = ns.x + ns.x %}{% endfor %}x",
        NS + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}x",
        NS + "{% set ns.x = ns.x * 9 %}{% endfor %}x",
        NS + "{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}x",
        NS + "{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}x",
        NS + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}x",
        NS + "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}x",
        NS + "{% set ns.n = ns.n * ns.n %}{% endfor %}x",
        NS + "{% set ns.l = ns.l + ns.l %}{% endfor %}x",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 10 ** 10 * 'a' }}",
        "{{ [0] * 10 ** 10 }}",
    ],
)
def test_a_template_without_end_is_its_rows_error(template: str) -> None:
    began_s = time.monotonic()
    message = refusal({"big": "x" * 10_000, "hundred": list(range(100))}, template)
    assert (
        f"row 0 of the list: the prompt template goes on beyond {MAX_WORK:,} characters and steps" in message
    )
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize(
    "expression",
    [
        "'x' | center(300000000)",
        "'x'.center(300000000)",
        "'x'.ljust(width)",
        "'x'.rjust(300000000)",
        "'x'.zfill(300000000)",
        "'x'.ljust(300000000) | length",
        "'\t\t\t'.expandtabs(300000000)",
        "'%300000000d' % 1",
        "'%-300000000s' % 'x'",
        "'%.300000000f' % 1.5",
        "'%(a)300000000d' % {'a': 1}",
        "'%*d' % (300000000, 1)",
        "'%300000000d' | format(1)",
        "'{:300000000}'.format(1)",
        "'{:>{w}}'.format(1, w=300000000)",
        "'{a:.300000000f}'.format_map({'a': 1.5})",
        "'a\nb' | indent(300000000)",
        "big | replace('x', big)",
        "big.replace('x', big)",
        "big.translate({120: big})",
        "big.join(['x'] * 9999)",
        "(['x'] * 9999) | join(big)",
        "([big] * 9999) | join",
        "''.join([big] * 9999)",
        "hundred | batch(50000000, 'x') | list | length",
        "hundred | slice(50000000) | list | length",
        "hundred | tojson(indent=300000000)",
        "(1).to_bytes(300000000, 'big') | length",
        "['x'] | map('center', 300000000) | list | length",
        "'x'.ljust(" + "9" * 30 + ")",
        "'%" + "9" * 5000 + "d' % 1",
        "('x' * 1000000) | wordwrap(1) | length",
        "('x' * 9999999) | wordwrap | length",
        "('x\n' * 2000000) | wordwrap(width=0) | length",
        "('<>' * 500000) | striptags | length",
        "('http://x' ~ '(' * 500000 ~ ')' * 500000) | urlize | length",
        "('x' * 1000000) | trim('y' * 1000000 ~ 'x')",
        "('x' * 1000000).strip('y' * 1000000 ~ 'x')",
        "1.5 | round(300000000, 'floor')",
        "1.5 | round(method='ceil', precision=300000000)",
        "([[1]] * 100000) | sum(start=[]) | length",
        "([{'a': [1]}] * 100000) | sum('a', []) | length",
    ],
)
def test_what_would_be_too_much_is_refused_before_it_is_made(expression: str) -> None:
    tracemalloc.start()
    try:
        row = {"big": "x" * 10_000, "hundred": list(range(100)), "width": 300_000_000}
        message = refusal(row, "{{ " + expression + " }}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "goes on beyond" in message
    assert peak < 30_000_000


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'x' | center(7)", "   x   "),
        ("'%05d %s 300000000' % (7, 'order 999999999')", "00007 order 999999999 300000000"),
        ("'100%d of 999999999' % 3", "1003 of 999999999"),
        ("'{:>5} 999999999 {}'.format(1, 999999999)", "    1 999999999 999999999"),
        ("'a,b'.replace(',', ';')", "a;b"),
        ("[1, 2, 3] | batch(2, 0) | list | tojson", "[[1, 2], [3, 0]]"),
        ("[1, 2, 3] | slice(2) | list | tojson", "[[1, 2], [3]]"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("{'a': [1]} | tojson(indent=2)", '{\n  "a": [\n    1\n  ]\n}'),
        ("'-'.join(['a', 'b'])", "a-b"),
        ("'-'.join(['a', 'b'] | map('upper'))", "A-B"),
        ("(999999999).bit_length()", "30"),
    ],
)
def test_what_is_not_much_is_written(expression: str, text: str) -> None:
    assert render({"text": "x"}, "{{ " + expression + " }}") == text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(10 ** 12) %}x{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}", "RecursionError"),
    ],
)
def test_so_is_one_that_is_too_deep_or_too_wide(template: str, message: str) -> None:
    assert message in refusal({"text": "x"}, template)


def test_a_large_row_is_no_endless_template() -> None:
    text = "x" * (2 * MAX_WORK)
    assert render({"text": text}, "{{ text | trim | upper }}") == text.upper()
    assert len(render({"text": text, "n": 3}, "{% for i in range(n) %}{{ text }}{% endfor %}")) == 3 * len(
        text
    )


def test_a_stop_gets_through_while_rows_are_rendered(place: Place, simulator: Simulator) -> None:
    slow = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{{ text }}"
    place.write_rows([{"text": f"row {number}", "n": 1 if number == 0 else 600} for number in range(1000)])
    run = place.run(prompt=slow)
    began_s = time.monotonic()
    threading.Timer(0.3, run.stop).start()
    report = run.start()
    assert report.stopped is not None
    assert time.monotonic() - began_s < 30  # all of them take minutes


@pytest.mark.parametrize(
    "expression",
    [
        "big * 10", "1e400", "-1e400", "1e400 - 1e400", "'nan' | float", "'inf' | float", "big * 10 ~ ''",
        "[big * 10] | join", "(big * 10) | string", "'%s' % (big * 10)", "'{}'.format(big * 10)", "(big * 10) | upper",
        "[1, {'a': big * 10}] | tojson", "[price, big * 10] | tojson", "1e400 | filesizeformat",
        "{'a': big * 10} | xmlattr", "'%d' | format(big * 10)",
    ],
)  # fmt: skip
def test_an_infinity_is_nothing_to_write(expression: str) -> None:
    message = refusal({"big": 1e308, "price": 19.90}, "{{ " + expression + " }}")
    assert message.startswith("row 0 of the list: the prompt template would write ")
    assert "which is no number to read" in message


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        (
            "order.pop",
            "dict object has no item 'pop', but a method that changes it, and what templates may not use",
        ),
        (
            "order.pop('a')",
            "dict object has no item 'pop', but a method that changes it, and what templates may not use",
        ),
        ("order.a.append", "list object has no item 'append', but a method that changes it"),
        ("order['__class__']", "dict object has no item '__class__', but what templates may not use"),
        ("order.__class__.__mro__", "dict object has no item '__class__', but what templates may not use"),
        ("order | attr('__class__')", "dict object has no item '__class__', but what templates may not use"),
        ("'{0.__class__}'.format('a')", "no item '__class__', but what templates may not use"),
    ],
)
def test_what_templates_may_not_use_is_said_in_words(expression: str, words: str) -> None:
    message = refusal({"order": {"a": [1]}}, "{{ " + expression + " }}")
    assert words in message
    assert "SecurityError" not in message
