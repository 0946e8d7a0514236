"""A page as a browser's parser sees it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HARMLESS = frozenset((
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "article", "figure",
    "figcaption", "details", "summary", "div", "span", "p", "h1", "h2", "h3", "h4", "h5", "dl", "dt", "dd", "ul", "li",
    "pre", "code", "b", "strong", "a", "table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "desc", "g",
    "path", "line", "rect", "text", "tspan", "defs", "clippath",
))  # fmt: skip
_VOID = frozenset(("meta", "path", "line", "rect"))


class HtmlPage(HTMLParser):
    """Attributes:
    tags: which there are. ``attributes``: all of them, with the tag. ``text``: what is read.
    unclosed: elements that nothing ends, or that end in the wrong place.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.unclosed: list[str] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(html)
        self.close()
        self.unclosed += self._open
        self.text = " ".join(self._texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.unclosed.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self._texts.append(data)

    def all_of(self, name: str) -> list[str]:
        """The values of an attribute, in all elements."""
        return [value for _, one, value in self.attributes if one == name]


def checked(html: str) -> HtmlPage:
    """The page, once it is known that it does nothing, fetches nothing, and hides no character."""
    page = HtmlPage(html)
    assert page.tags <= HARMLESS, page.tags - HARMLESS
    assert page.unclosed == []
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    links = [value for name in ("href", "src", "xlink:href", "action") for value in page.all_of(name)]
    assert [link for link in links if not link.startswith("#")] == []
    names = page.all_of("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in links} <= set(names)
    assert re.findall(r"url\(|@import", html) == []
    obeyed = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
    assert obeyed.findall(html) == []
    assert html.encode()
    return page
