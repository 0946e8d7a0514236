"""A page as one HTML file that asks nobody for anything: no script, no network, all texts escaped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistill._version import __version__
from mistill.addresses import scheme_of
from mistill.characters import whole_characters
from mistill.datasets.places import Place, place_of
from mistill.errors import InputError
from mistill.extras import install_command
from mistill.ledger.targets import check_targets
from mistill.pages.blocks import Block, Chart, Page
from mistill.pages.charts import VL_CONVERT, drawn
from mistill.same_place import is_same_place
from mistill.visible import visible
from mistill.wording import Phrase, Setting, words

if TYPE_CHECKING:  # importing them takes 30 ms, which only a page is worth
    from jinja2 import Environment
    from markupsafe import Markup

_MARK: Final = b'<meta name="mistill-run" content='
_TEMPLATES: Final = Path(__file__).parent


def _shown(value: Any) -> Any:
    """What a page is told as text: what turns its direction, or is no character to be seen, is written out."""
    return visible(whole_characters(value)) if type(value) is str else value


class _Drawing:
    """Draws the charts of one page, and numbers them."""

    def __init__(self) -> None:
        self._number = 0

    def __call__(self, chart: Chart) -> Markup | None:
        from markupsafe import Markup

        self._number += 1
        svg = drawn(chart.spec, chart.title, chart.summary, self._number)
        return None if svg is None else Markup(svg)  # noqa: S704  the drawing library and `drawn` have escaped it


def _kind(block: Block) -> str:
    return str(type(block).__struct_config__.tag)


def templates() -> Environment:
    """The templates of this room. Whatever they write is escaped, and made visible."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own: dict[str, Any] = {"svg": _Drawing(), "kind": _kind}
    found.filters.update(own)  # pyright: ignore[reportUnknownMemberType]  Jinja does not say what a filter is
    return found


def colors() -> str:
    """The colours of all that we show in a browser, as a style sheet: light or dark as the system is, and in print."""
    return (_TEMPLATES / "colors.css").read_text("utf-8")


def theme() -> Markup:
    """The style sheet of a page."""
    from markupsafe import Markup

    return Markup(colors() + (_TEMPLATES / "theme.css").read_text("utf-8"))  # noqa: S704  it is ours


def page_html(page: Page) -> str:
    """The whole page. Without the extra ``report`` it has tables in place of charts, and says what would draw."""
    sections = [section for section in page.sections if section.blocks]
    return (
        templates()
        .get_template("page.html")
        .render(
            page=page,
            sections=sections,
            theme=theme(),
            version=__version__,
            missing=None if VL_CONVERT.is_there else install_command(VL_CONVERT.extra),
        )
    )


_LOOKED_AT_BYTES: Final = 4096


def page_target(
    path: str | Path,
    ledger: Path | None,
    inputs: Iterable[str | Path],
    *,
    out: str | None = None,
    overwrite: bool = False,
) -> Place:
    """Where a page goes. Nothing is written yet.

    Args:
        path: its name ends in ``.html``; ``"-"``: stdout.
        ledger: of the run that the page is about. ``inputs``, ``out``: of that run.
        overwrite: replace whatever else is there; an earlier page about the same ledger is replaced in any case.

    Raises:
        InputError: it cannot be there, or would take the place of what somebody may regret.
    """
    place = place_of(path)
    if str(path) == "-":
        return place
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"{place.name}: a report is a page in HTML", hint="give it a name that ends in .html"
        )
    place.check_writable()
    check_targets(path, ledger, inputs)
    if out is not None and out != "-" and _is_output(path, out):
        raise InputError(
            f"{place.name} is the output of this run, and the page would replace it",
            hint="give the page another name",
        )
    if not overwrite and not _holds(place, _mark(ledger)) and place.holds_something():
        what = "is the report of another run" if _holds(place, _MARK) else "exists, and is no report of a run"
        raise InputError(
            f"{place.name} {what}",
            hint=words(
                Phrase("save it as another file", "write another file with --to FILE.html"),
                ", or replace this one with ",
                Setting("overwrite", True),
            ),
        )
    return place


def _is_output(path: str | Path, out: str) -> bool:
    """Whether it is the file that a run writes, or a part in its folder, whatever link names it."""
    if scheme_of(out) is None and Path(out).is_dir():
        return any(is_same_place(str(path), str(part)) for part in Path(out).iterdir())
    return is_same_place(str(path), out)


def subject(ledger: Path | None) -> str:
    """What tells a page about this ledger from those about others, without its path."""
    name = "" if ledger is None else os.path.realpath(ledger)
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _mark(ledger: Path | None) -> bytes:
    return _MARK + f'"{subject(ledger)}">'.encode()


def _holds(place: Place, mark: bytes) -> bool:
    try:
        with place.open() as file:
            return mark in file.read(_LOOKED_AT_BYTES)
    except (InputError, OSError):  # there is none
        return False
