"""The viewer in a browser: keys, marks, what is live, and that text stays text.

Needs Debian's Chromium (``apt-get install chromium``) and playwright, which brings no browser of its own along.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.libraries import library
from tests.viewer.conftest import ODD, Runs, View

from mistill import MistralLLM, Run, read_row
from mistill.progress.formatting import moment
from mistill.runs.report import read_report
from mistill.simulator.faults import Fault

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = library("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as running:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


class Tab:
    """A page of the viewer. Whatever the browser complains of fails the test."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if message.type == "error" else None,
        )
        self.page.set_default_timeout(10_000)
        self.base = url.partition("/?")[0]
        self.page.goto(url)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.textContent")

    def path(self) -> str:
        return self.page.url.removeprefix(self.base)


@pytest.fixture
def tabs(chromium: Any) -> Iterator[Any]:
    opened: list[Tab] = []

    def open_tab(url: str, **settings: Any) -> Tab:
        opened.append(Tab(chromium, url, **settings))
        return opened[-1]

    yield open_tab
    for tab in opened:
        tab.context.close()
        assert tab.complaints == []


def test_from_the_runs_to_a_row_and_back_by_keys(runs: Runs, views: View, tabs: Any) -> None:
    runs.simulator.script([Fault.status(400)], when=lambda body: "row 7" in str(body))
    runs.run("answers.jsonl", [f"row {number}" for number in range(130)])
    tab: Tab = tabs(views(runs.folder).url)
    tab.see("answers.jsonl")
    assert tab.path() == "/"  # the token is in no history
    tab.press("j", "Enter")
    tab.see("100 rows, and more on the next page")
    tab.press("j", "j", "j", "k")
    assert tab.focused() == "1"
    tab.press("Enter")
    tab.page.get_by_role("heading", name="Row 1").wait_for()
    tab.press("j")
    tab.page.get_by_role("heading", name="Row 2").wait_for()
    tab.press("Escape")
    # Not by a function that waits in the page: its policy allows no script that is made of a string.
    tab.page.locator(":focus", has_text=re.compile(r"^2$")).wait_for()
    tab.press("Enter", "j", "j", "k", "j", "Escape")  # faster than pages come
    tab.page.locator(":focus", has_text=re.compile(r"^4$")).wait_for()
    tab.press("n")
    tab.see("30 rows")
    tab.press("p")
    tab.see("100 rows, and more on the next page")
    tab.press("/")
    tab.page.keyboard.type("row 12")
    tab.press("Enter")
    tab.see("11 rows")
    assert tab.path() == "/run?run=answers.jsonl&search=row+12"
    tab.page.get_by_label("Cause").select_option("bad_request")
    tab.see("No row matches error=bad_request and the search for “row 12”.")
    tab.see("The run has 130 rows: 129 answered, 1 failed. Its causes: bad_request (1).")
    tab.page.get_by_role("link", name="Clear the conditions").click()
    tab.see("100 rows, and more on the next page")
    tab.page.get_by_label("State").select_option("failure")
    tab.see("mistill retry")
    assert tab.page.locator("tbody tr").count() == 1
    tab.page.get_by_label("Condition").fill("colour=red")
    tab.press("Enter")
    tab.see("there is no column 'colour'")
    tab.complaints.clear()  # the browser's own, of an answer 400
    tab.page.go_back()
    tab.see("mistill retry")
    tab.press("?")
    tab.page.get_by_role("dialog", name="Keys").get_by_role("button", name="Close").click()
    tab.page.go_back()
    tab.see("100 rows, and more on the next page")


def test_rows_are_marked_by_keys_and_with_a_note(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("answers.jsonl", ["a", "b", "c"])
    tab: Tab = tabs(views(runs.folder / "answers.jsonl", annotate=True).url)
    tab.see("3 rows")
    tab.press("m")
    tab.see("No row is chosen: j and k choose one.")
    tab.press("j", "j", "b")
    tab.page.locator("tr[data-row='1'] .mark.bad").wait_for()
    assert tab.focused() == "1"
    tab.press("b")
    tab.page.locator("tr[data-row='1'] .mark.bad").wait_for(state="detached")
    tab.press("Enter")
    tab.page.locator("button[data-mark=good]").wait_for()
    tab.press("g")
    tab.page.locator("button[data-mark=good][aria-pressed=true]").wait_for()
    tab.press("m")
    tab.page.keyboard.type("short, and <b>right</b> g b j")
    tab.press("Control+Enter")
    tab.see("row 1: good, with a note")
    tab.press("Escape")
    tab.page.locator("tr[data-row='1'] .mark.good").wait_for()
    tab.press("m")
    tab.page.locator("textarea:focus").wait_for()
    assert tab.path().endswith("row=1")
    said = read_row(runs.folder / "answers.jsonl", 1).outcome
    assert (said.mark, said.note) == ("good", "short, and <b>right</b> g b j")


def test_text_is_never_markup(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("answers.jsonl", [{"text": ODD, "<img src=x onerror=alert(1)>": ODD}], prompt="{{ text }}")
    tab: Tab = tabs(views(runs.folder).url)
    dialogs: list[str] = []
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    for path in (
        "/run?run=answers.jsonl",
        "/row?run=answers.jsonl&row=0",
        "/run?run=answers.jsonl&search=<img src=x onerror=alert(1)>",
    ):
        tab.page.goto(tab.base + path)
        tab.page.wait_for_selector("h1")
        there = tab.page.locator("tbody tr, section pre").or_(tab.page.get_by_text("No row"))
        there.first.wait_for()
        assert tab.page.evaluate("document.querySelectorAll('main img, main script').length") == 0
        assert "owned" not in tab.page.title()
    assert dialogs == []
    # What no answer may do, not even a script on the page could: nothing that is not of this server is run or loaded.
    assert tab.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'refused')") == "refused"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
    tab.complaints.clear()


def test_rows_come_while_one_looks(runs: Runs, views: View, tabs: Any) -> None:
    begun, rest = threading.Event(), threading.Event()

    def rows() -> Iterator[dict[str, str]]:
        yield from ({"text": f"row {number}"} for number in range(600))
        begun.set()
        rest.wait(30)
        yield from ({"text": f"row {number}"} for number in range(600, 610))

    llm = MistralLLM(model="mistral-small-latest", endpoint=runs.simulator.url)
    run = Run(rows(), llm=llm, out=runs.folder / "answers.jsonl", prompt="Say {{ text }}")
    going = threading.Thread(target=run.start)
    going.start()
    try:
        assert begun.wait(20)
        tab: Tab = tabs(views(runs.folder).url)
        tab.page.get_by_role("link", name="answers.jsonl").wait_for()
        tab.page.goto(f"{tab.base}/run?run=answers.jsonl&where=row>=500")
        tab.page.locator("#phase", has_text="live").wait_for()
        rest.set()
        tab.page.locator("tr[data-row='599'] .completion").wait_for(state="attached")
    finally:
        rest.set()
        going.join()
    tab.page.locator("#phase .badge").wait_for(state="detached")


def test_two_outcomes_are_side_by_side_with_what_differs(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("one.jsonl", ["the brown fox", "the white fox"])
    runs.retry("one.jsonl", "row=1", prompt="Sing {{ text }}")
    runs.run("other.jsonl", ["the brown fox", "the white fox"], prompt="Tell {{ text }}")
    tab: Tab = tabs(views(runs.folder).url)
    tab.page.get_by_role("link", name="one.jsonl").click()
    tab.page.get_by_role("link", name="Before and after rows were asked again").click()
    tab.see("1 row that differ")
    assert (tab.page.locator("del").all_text_contents(), tab.page.locator("ins").all_text_contents()) == (
        ["Say"],
        ["Sing"],
    )
    tab.page.get_by_label("beside").select_option("other.jsonl")
    tab.see("2 rows that differ")
    assert tab.page.locator("ins").all_text_contents() == ["Tell", "Tell"]


def test_a_second_start_is_no_retry(runs: Runs, views: View, tabs: Any) -> None:
    runs.simulator.script([Fault.status(400)])
    for _ in range(2):  # the second asks again what has failed
        runs.run("answers.jsonl", ["a"])
    runs.run("good.jsonl", ["a"])
    viewer = views(runs.folder)
    tab: Tab = tabs(viewer.url)
    tab.page.get_by_role("link", name="answers.jsonl").click()
    tab.page.get_by_role("link", name="Before and after rows were asked again").click()
    tab.see("1 row that differ")
    assert "retries" not in tab.page.locator("main").inner_text()
    tab.page.goto(f"{tab.base}/side-by-side?run=good.jsonl&with=answers.jsonl")
    tab.see("There are no rows that differ.")
    assert tab.page.get_by_label("beside").inner_text() == "answers.jsonl"  # no row of it was asked again


def test_times_are_of_the_zone_that_is_said(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("answers.jsonl", ["a"])
    started_at = read_report(runs.folder / "answers.jsonl").starts[0].started_at
    tab: Tab = tabs(views(runs.folder / "answers.jsonl").url, timezone_id="Asia/Kolkata")
    tab.see(f"started {moment(started_at, to_seconds=True)}")


def test_what_there_is_in_place_of_a_wrong_value_is_said(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("answers.jsonl", [{"text": "a", "kind": "bill"}, {"text": "b", "kind": "spam"}])
    tab: Tab = tabs(views(runs.folder / "answers.jsonl").url)
    tab.page.get_by_label("Condition").fill("kind=bil")
    tab.press("Enter")
    tab.see("No row matches kind=bil. The run has 2 rows: 2 answered. There, kind is bill, spam.")
    tab.page.get_by_label("Condition").fill("finish_reason=lenght")
    tab.press("Enter")
    tab.see("Its finish reasons: stop (2).")
    assert "lenght (0)" in tab.page.get_by_label("Finish reason").inner_text()
    tab.see("Asked again: mistill retry")
    tab.page.get_by_label("Condition").fill("colour=red")
    tab.press("Enter")
    tab.page.get_by_role("alert").wait_for()
    assert "mistill retry" not in tab.page.inner_text("body")
    assert ["400" in one for one in tab.complaints] == [True]  # the browser's, of what was refused
    tab.complaints.clear()


def test_what_differs_is_marked_in_each_field_by_words_and_signs(runs: Runs, views: View, tabs: Any) -> None:
    said = {
        "one.jsonl": '{"city": "Lyon", "why": "(a river), 2.50 wide"}',
        "other.jsonl": '{"city": "Lyon", "why": "(a bridge), 2.75 wide", "score": 3, "of": ""}',
    }
    for name, answer in said.items():
        runs.simulator.script([answer, Fault.status(400)])
        runs.run(name, ["a", "b"], llm_settings={"max_concurrent_requests": 1})
    tab: Tab = tabs(views(runs.folder).url)
    tab.page.goto(f"{tab.base}/side-by-side?run=one.jsonl&with=other.jsonl")
    tab.see("1 row that differ")
    assert (tab.page.locator("del").all_text_contents(), tab.page.locator("ins").all_text_contents()) == (
        ["river", "2.50"],
        ["bridge", "2.75", "3"],
    )
    assert tab.page.locator("tr.differs th").all_text_contents() == ["why", "score", "of"]
    assert tab.page.locator("tr.differs").last.locator("td").all_text_contents() == [
        "no such field",
        "(empty)",
    ]
    tab.page.goto(f"{tab.base}/run?run=one.jsonl")
    tab.page.get_by_role("img", name="1 answered, 1 failed, 0 open").wait_for()


def test_it_can_be_read_in_a_narrow_window_and_in_the_dark(runs: Runs, views: View, tabs: Any) -> None:
    runs.run("answers.jsonl", ["a" * 300, "b"])
    tab: Tab = tabs(views(runs.folder, annotate=True).url, viewport={"width": 360, "height": 640})
    for path in (
        "/",
        "/run?run=answers.jsonl&where=row>=0",
        "/row?run=answers.jsonl&row=0",
        "/side-by-side?run=answers.jsonl",
    ):
        tab.page.goto(tab.base + path)
        tab.page.wait_for_selector("h1")
        for scheme in ("light", "dark"):
            tab.page.emulate_media(color_scheme=scheme)
            assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
            assert tab.page.evaluate(_UNNAMED) == [], path
            assert tab.page.evaluate(_FAINT) == [], (path, scheme)


_UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, a')]
    .filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).map((one) => one.outerHTML)"""

_FAINT = """(() => {
    const channel = (value) => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const behind = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const color = parts(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll('body *')].filter((one) =>
        [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())
        && one.checkVisibility() && !one.closest('noscript, option, .unseen')
    ).filter((one) => {
        const [ink, back] = [parts(getComputedStyle(one).color), behind(one)].map(light);
        return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05) < 4.5;
    }).map((one) => one.outerHTML.slice(0, 120));
})()"""
"""Texts whose contrast is below 4.5 : 1 (WCAG 2.1, 1.4.3)."""
