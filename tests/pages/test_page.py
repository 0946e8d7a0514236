"""A page of ours: nothing in it is markup that was text, nothing is fetched, and it can be read by everybody."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libraries import library
from tests.pages.html_page import checked

from mistill.characters import cut
from mistill.errors import InputError
from mistill.pages.blocks import (
    Chart,
    Example,
    Facts,
    Figure,
    Figures,
    Group,
    Lines,
    Page,
    Section,
    Table,
    Text,
)
from mistill.pages.charts import Bin, Point, areas, bars, histogram, lines, stacked_bars
from mistill.pages.page import page_html, page_target, subject, theme

HOSTILE = "</pre></svg><script>alert(1)</script>\x1b]0;owned\x07\u202egnp.exe\x9b31m&lt;'\"` {{ 7*7 }} \ud800"


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def page_of(text: str, spec: dict[str, object]) -> Page:
    table = Table.of_numbers(text, [text, "rows"], [[text, "1"]])
    blocks = [
        Figures([Figure(text, text, text, "bad")]),
        Lines([(text, text), ("", text)]),
        Facts([(text, text)]),
        Text(text, text),
        Example(text, [(text, text)]),
        Chart(text, text, spec, table),
        Group(text, [table]),
    ]
    return Page(text, text, [Section("all", "All", blocks), Section("none", "None", [])], [text])


@pytest.mark.usefixtures("no_charts")
@settings(max_examples=40)
@given(st.text() | st.just(HOSTILE))
def test_whatever_a_text_is_it_is_read_and_does_nothing(text: str) -> None:
    page = checked(page_html(page_of(text, {})))
    assert page.text.count("All") >= 2
    assert "None" not in page.text


@pytest.mark.usefixtures("no_charts")
def test_what_would_be_obeyed_is_seen() -> None:
    page = checked(page_html(page_of(HOSTILE, {})))
    assert "<script>alert(1)</script>" in page.text
    assert r"\x1b]0;owned\x07\u202egnp.exe\x9b31m" in page.text
    assert "{{ 7*7 }} \ufffd" in page.text


@pytest.mark.usefixtures("no_charts")
def test_without_the_extra_there_are_tables_and_a_word_on_what_would_draw() -> None:
    page = checked(page_html(page_of("plain", bars([("a", 1)], "rows"))))
    assert "svg" not in page.tags
    assert re.search(r"pip install .*report", page.text)


def test_a_chart_is_a_drawing_with_a_name_a_description_and_a_table_behind_it() -> None:
    library("vl_convert")
    specs = [
        bars([(HOSTILE, 3), ("b" * 200, 2), ("b" * 201, 1)], HOSTILE),
        histogram([Bin(0, 1, 3), Bin(1, 2, 5)], "seconds", "answers"),
        stacked_bars([("2026-11-25", "live", 0.5), ("2026-11-26", "batch jobs", 0.25)], "US dollars", {}),
        areas(
            [Point(0, HOSTILE, 40), Point(1, HOSTILE, 60), Point(0, "server", 60)],
            "seconds",
            "%",
            {HOSTILE: "--c2"},
        ),
        lines(
            [Point(0, "answered", 40), Point(1, "answered", 60), Point(0, HOSTILE, 60)],
            "seconds",
            "a second",
            {},
        ),
        bars([], "rows"),
    ]
    table = Table.of_numbers("Rows by state", ["state", "rows"], [["answered", "3"]])
    blocks = [Chart("Rows by state", "3 answered.", spec, table) for spec in specs]
    html = page_html(Page("A run", "", [Section("rows", "Rows", [*blocks])], []))
    page = checked(html)
    assert page.tags >= {"svg", "title", "desc", "table", "details"}
    assert page.all_of("role").count("img") == len(specs)
    labels = [names.split() for names in page.all_of("aria-labelledby") if "chart" in names]
    assert len({name for names in labels for name in names}) == 2 * len(specs)
    assert "3 answered." in page.text
    assert "var(--c1)" in html
    colors = {value for _, name, value in page.attributes if name in ("fill", "stroke")}
    assert {color for color in colors if color[:1] == "#" or color == "black"} == set()


def contrast(one: str, two: str) -> float:
    """Of two colours, as WCAG 2 has it."""
    first, second = sorted((_luminance(one), _luminance(two)))
    return (second + 0.05) / (first + 0.05)


def _luminance(color: str) -> float:
    shares = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_everything_can_be_told_from_the_paper_in_the_light_in_the_dark_and_in_print() -> None:
    themes = re.findall(r":root \{(.*?)\}", theme(), re.DOTALL)
    assert len(themes) == 3
    for one in themes:
        colors = dict(re.findall(r"--([\w-]+): (#\w{6});", one))
        for name in ("ink", "muted", "link", "good", "bad"):
            assert contrast(colors[name], colors["paper"]) >= 4.5, name
            assert contrast(colors[name], colors["card"]) >= 4.5, name
        assert contrast(colors["on-link"], colors["link"]) >= 4.5
        for name in ("more", "less"):
            assert contrast(colors["ink"], colors[name]) >= 4.5, name
        for number in range(1, 13):
            assert contrast(colors[f"c{number}"], colors["paper"]) >= 3, number


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("a" * 10, 10) == "a" * 10
    assert cut("a" * 10_000_000, 10) == "a" * 10 + "… (9,999,990 more characters)"


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(tmp_path: Path) -> None:
    ours, other = tmp_path / "report.html", tmp_path / "index.html"
    ours.write_text(page_html(Page("A run", "", [], [], subject(None))))
    other.write_text("<p>dear to somebody</p>")
    page_target(ours, None, [])
    with pytest.raises(
        InputError, match=r"is the report of another run .save it as another file, or replace"
    ):
        page_target(ours, tmp_path / "another.ledger", [])
    page_target(tmp_path / "new.HTML", None, [])
    page_target("-", None, [])
    with pytest.raises(InputError, match="exists, and is no report of a run"):
        page_target(other, None, [])
    page_target(other, None, [], overwrite=True)
    with pytest.raises(InputError, match="is an input"):
        page_target(other, None, [other], overwrite=True)
    with pytest.raises(InputError, match="in HTML"):
        page_target(tmp_path / "answers.jsonl", None, [], overwrite=True)
    with pytest.raises(InputError, match="there is no directory"):
        page_target(tmp_path / "none" / "report.html", None, [])
