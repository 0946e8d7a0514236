"""Where views are shown: a terminal, a notebook, or lines in a log."""

from __future__ import annotations

import html
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from mistill.progress.view import View

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult

_MAX_BAR_WIDTH = 30
_MIN_BAR_WIDTH = 8
_SAME_AGAIN_S = 600.0
"""How often a log is told that nothing has changed."""
_ECHO_WIDTH = 4
"""Columns that are left free, since a terminal prints ``^C`` where the cursor is: a line that it filled would wrap."""


class Screen(Protocol):
    """Where views are shown.

    Attributes:
        every_s: how often.
    """

    every_s: float

    def show(self, view: View) -> None: ...

    def close(self, last: View) -> None:
        """Nothing more is shown: the work has ended, at ``last``."""
        ...


def find_screen(progress: bool | None) -> type[Screen] | None:
    """Where somebody looks: a notebook or a terminal; else lines on stderr, if ``progress`` is wanted at any rate."""
    if progress is False:
        return None
    if _is_notebook():
        return Notebook
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":  # pyright: ignore[reportUnnecessaryComparison]  None where it is closed
        return Terminal
    return Lines if progress else None


class Lines:
    """One line on stderr for each view."""

    every_s = 10.0

    def __init__(self) -> None:
        self._seen: tuple[int, ...] | None = None
        self._silent_until_s = 0.0

    def show(self, view: View) -> None:
        stands_still = view.waits_for_jobs_alone or (view.is_paused and not view.in_flight)
        if stands_still and view.cut_off_in_s is None and not self._is_news(view):
            return
        stopping = None if view.cut_off_in_s is None else view.waiting()
        text = stopping or "; ".join(view.texts())
        print(text, file=sys.stderr, flush=True)  # noqa: T201  it is for a person

    def close(self, last: View) -> None:
        pass

    def _is_news(self, view: View) -> bool:
        """Jobs take hours: a line every ten seconds that says the same would hide whatever else a log has."""
        seen, now_s = (view.done, view.jobs, view.server_done, view.is_paused), time.monotonic()
        if seen == self._seen and now_s < self._silent_until_s:
            return False
        self._seen, self._silent_until_s = seen, now_s + _SAME_AGAIN_S
        return True


class Terminal:
    """A few lines that are drawn again and again, and gone at the end."""

    every_s = 0.25

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # What the program prints on stdout is its own; on stderr it is printed above.
        self._live = Live(
            console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start()

    def show(self, view: View) -> None:
        self._live.update(Drawn(view), refresh=True)

    def close(self, last: View) -> None:  # noqa: ARG002  the screen's signature
        self._live.stop()


class Drawn:
    """A view as `rich` prints it, as wide as there is room: what matters most is cut last."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._lines(max(1, options.max_width - _ECHO_WIDTH))

    def _lines(self, width: int) -> Group:
        from rich.console import Group
        from rich.constrain import Constrain
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        view = self._view
        head = Text(view.rows(), no_wrap=True, overflow="ellipsis")
        if failed := view.failed():
            head.append(", ").append(failed, "red")
        for text in (view.time_left(), view.speed()):
            if text is not None and len(head) + len(text) + 3 <= width:
                head.append(f" · {text}")
        head.truncate(width, overflow="ellipsis")
        lines: list[Any] = [head]
        bar_width = min(_MAX_BAR_WIDTH, width - len(head) - 1)
        if view.total and bar_width >= _MIN_BAR_WIDTH:
            row = Table.grid(padding=(0, 1))
            done = min(view.done, view.total)
            row.add_row(ProgressBar(view.total, done, bar_width, complete_style="green"), head)
            lines = [row]
        spending = _spending(view)
        lines.append(_cut(spending if len(spending) <= width else _spending(view, is_short=True), width))
        if jobs := view.at_server():
            lines.append(_cut(jobs if len(jobs) <= width else view.at_server_in_short(), width))
        if settings := view.settings():
            lines.append(_cut(settings, width))
        if waiting := view.waiting():
            if view.is_paused:
                lines.append(_cut(waiting, width, "bold yellow"))
            elif view.cut_off_in_s is None:
                lines.append(_cut(waiting, width))
            else:  # what another Ctrl-C does is not cut
                lines.append(Constrain(Text(waiting, "bold yellow"), width))
        if time := view.time():
            lines.append(_cut(time if len(time) <= width else time[: time.rfind(", ", 0, width)], width))
        return Group(*lines)


def _spending(view: View, *, is_short: bool = False) -> str:
    """Money and tokens, with what caching has saved."""
    tokens = view.tokens_in_short() if is_short else view.tokens()
    return " · ".join(text for text in (view.money(), tokens) if text)


def _cut(text: str, width: int, style: str = "") -> Any:
    from rich.text import Text

    cut = Text(text, style, no_wrap=True)
    cut.truncate(width, overflow="ellipsis")
    return cut


class Notebook:
    """One output of the cell that is drawn again and again; the last view stays."""

    every_s = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, view: View) -> None:
        from IPython.display import HTML, display  # pyright: ignore  it is there, or this is no notebook

        page: Any = HTML(as_html(view))  # pyright: ignore[reportUnknownVariableType]
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def close(self, last: View) -> None:
        self.show(last)


def as_html(view: View) -> str:
    """A view as a piece of a page; no script is in it."""
    rows = f"<b>{html.escape(view.rows())}</b>"
    if failed := view.failed():
        rows += f', <span style="color:#e53935">{html.escape(failed)}</span>'
    head = [rows, *(html.escape(text) for text in (view.time_left(), view.speed()) if text)]
    bar = ""
    if view.total:
        done = min(view.done, view.total)
        bar = f'<progress max="{view.total}" value="{done}" aria-label="{html.escape(view.rows())}"></progress> '
    lines = [bar + " · ".join(head), html.escape(_spending(view))]
    lines += [
        html.escape(text) for text in (view.at_server(), view.settings(), view.waiting(), view.time()) if text
    ]
    return f'<div style="font-family:monospace">{"<br>".join(lines)}</div>'


def _is_notebook() -> bool:
    """Whether a kernel runs this whose front-end shows pages: Jupyter and its like, not IPython on a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
