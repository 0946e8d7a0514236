"""A run while it goes on: a live bar on a terminal, elsewhere a line now and then.

A thread draws. It only reads what the run counts anyway, so it never slows the run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from mistill.cli.terminal.interrupts import stopped_by_signals
from mistill.cli.terminal.output import is_terminal, say
from mistill.datasets.formats import format_of
from mistill.delivery.diagnostics import Snapshot
from mistill.errors import InputError
from mistill.progress.formatting import count, money, seconds, time_split, wait
from mistill.progress.progress import Progress
from mistill.runs.run import Run

_LINE_EVERY_S = 10.0
_DRAW_EVERY_S = 0.25
_CHUNK_BYTES = 1 << 20
_BAR_WIDTH = 30


class View(Struct, frozen=True):
    """What is to be seen of a run at one moment.

    Attributes:
        total: rows of the input, ``None`` while not known.
        spent: the seconds since the run began, by what was waited for; ``cause``: what is waited for now.
    """

    progress: Progress
    total: int | None
    in_flight: int
    spent: dict[Any, float]
    cause: str

    def rows(self) -> str:
        done = f"{self.progress.done:,}"
        text = f"{done} of {count(self.total, 'row')}" if self.total else f"{done} rows"
        return f"{text}, {self.progress.failures:,} failed" if self.progress.failures else text

    def speed(self) -> str:
        text = f"{self.progress.rows_per_s:.1f} rows/s"
        left_s = self.left_s()
        return text if left_s is None else f"{text}, {seconds(left_s)} left"

    def left_s(self) -> float | None:
        """At the mean speed so far."""
        if self.total is None or not self.progress.completions + self.progress.failures:
            return None
        return max(0, self.total - self.progress.done) / self.progress.rows_per_s

    def spending(self) -> str:
        usage = self.progress.usage
        text = f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
        return text if self.progress.cost is None else f"{text}, {money(self.progress.cost)}"

    def waiting(self) -> str:
        return f"{self.in_flight} in flight, waiting for: {wait(self.cause)}"


class Watch:
    """Looks at a run from the outside.

    Args:
        sources: what was given as input: JSON lines are counted, for a total.
    """

    def __init__(self, run: Run, sources: Sequence[str]) -> None:
        self._run = run
        self._begin = self._last = self._snapshot()
        self._lines: int | None = None
        self._cause = "idle"
        if run.progress.total is None and sources:
            threading.Thread(target=self._count, args=(list(sources),), daemon=True).start()

    def view(self) -> View:
        now = self._snapshot()
        lately = now.since(self._last)
        self._last = now
        if lately:
            self._cause = max(lately, key=lambda cause: lately[cause])
        progress = self._run.progress
        total = progress.total if progress.total is not None else self._lines
        return View(progress, total, now.in_flight, dict(now.since(self._begin)), self._cause)

    @property
    def in_flight(self) -> int:
        return self._snapshot().in_flight

    def _snapshot(self) -> Snapshot:
        return self._run.kind.dispatcher.governor.snapshot()

    def _count(self, sources: list[str]) -> None:
        try:
            lines = count_lines(sources, self._run.options.input_format)
        except OSError:
            return  # a total would have been nice; the run itself says what is wrong with its input
        self._lines = None if lines is None else self._run.rows_of(lines)


def count_lines(sources: Sequence[str], input_format: str | None = None) -> int | None:
    """The lines of plain JSONL files, which are their rows; ``None`` where an input is anything else."""
    paths = [Path(path) for source in sources for path in glob(source) or [source]]  # noqa: PTH207  Path.glob takes no absolute pattern
    if not all(path.is_file() and _is_plain_jsonl(path, input_format) for path in paths):
        return None
    lines = 0
    for path in paths:
        last = b"\n"
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                lines += chunk.count(b"\n")
                last = chunk
        lines += not last.endswith(b"\n")
    return lines


def _is_plain_jsonl(path: Path, input_format: str | None) -> bool:
    try:
        found = format_of(str(path), input_format)
    except InputError:
        return False
    return found.name == "jsonl" and found.compression is None


class Screen(Protocol):
    """Where views are shown."""

    every_s: float

    def show(self, view: View) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One line for each view."""

    every_s = _LINE_EVERY_S

    def show(self, view: View) -> None:
        say("; ".join([view.rows(), view.speed(), view.spending(), view.waiting()]))

    def close(self) -> None:
        pass


class Bar:
    """Three lines that are drawn again and again, and gone at the end."""

    every_s = _DRAW_EVERY_S

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        done: Any = Text(f"{view.rows()} · {view.speed()}", no_wrap=True, overflow="ellipsis")
        if view.total:
            completed = min(view.progress.done, view.total)
            head.add_row(ProgressBar(total=view.total, completed=completed, width=_BAR_WIDTH), done)
        else:
            head.add_row(done)
        texts = [f"{view.spending()} · {view.waiting()}"]
        if split := time_split(view.spent):
            texts.append(f"time: {split}")
        lines = [Text(text, no_wrap=True, overflow="ellipsis") for text in texts]
        self._live.update(Group(head, *lines), refresh=True)

    def close(self) -> None:
        self._live.stop()


@contextmanager
def shown(watch: Watch, *, quiet: bool, grace_s: float) -> Generator[None]:
    """Shows the run for as long as the block lasts, and says what Ctrl-C does when it is pressed."""
    with stopped_by_signals(lambda: watch.in_flight, grace_s):
        if quiet:
            yield
            return
        screen: Screen = Bar() if is_terminal(stderr=True) and _can_move_cursor() else Lines()
        with _drawn(screen, watch):
            yield


@contextmanager
def _drawn(screen: Screen, watch: Watch) -> Generator[None]:
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(screen.every_s):
            screen.show(watch.view())

    thread = threading.Thread(target=draw, name="mistill-live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        screen.close()


def _can_move_cursor() -> bool:
    return os.environ.get("TERM") != "dumb"
