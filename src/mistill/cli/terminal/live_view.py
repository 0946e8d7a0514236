"""A run while it goes on: a live bar on a terminal, elsewhere a line now and then.

A thread draws. It only reads what the run counts anyway, so it never slows the run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from msgspec import Struct

from mistill.cli.terminal.formatting import count, money, seconds, time_split, wait
from mistill.cli.terminal.output import is_terminal, say
from mistill.delivery.diagnostics import Snapshot
from mistill.runs.progress import Progress
from mistill.runs.run import Run

_LINE_EVERY_S = 10.0
_DRAW_EVERY_S = 0.25
_CHUNK_BYTES = 1 << 20
_BAR_WIDTH = 30
_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
        sources: what was given as input: JSON lines are counted, for a total. At most ``limit`` are wanted.
    """

    def __init__(self, run: Run, sources: Sequence[str], limit: int | None = None) -> None:
        self._run = run
        self._limit = limit
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
            lines = count_lines(sources)
        except OSError:
            return  # a total would have been nice; the run itself says what is wrong with its input
        self._lines = lines if lines is None or self._limit is None else min(lines, self._limit)


def count_lines(sources: Sequence[str]) -> int | None:
    """The lines of plain JSONL files, which are their rows; ``None`` where an input is anything else."""
    paths = [Path(path) for source in sources for path in glob(source) or [source]]  # noqa: PTH207  Path.glob takes no absolute pattern
    if not all(path.suffix in (".jsonl", ".ndjson") and path.is_file() for path in paths):
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
    with _explained_interrupts(watch, grace_s):
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


@contextmanager
def _explained_interrupts(watch: Watch, grace_s: float) -> Generator[None]:
    """Ctrl-C stops the run, and so do SIGTERM and SIGHUP, as containers, batch systems and closed terminals send them.

    It is said from a thread: what is printed inside a signal handler may meet itself half printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    pressed = threading.Event()
    ended = False

    def explain() -> None:
        pressed.wait()
        if not ended:
            flying = count(watch.in_flight, "request")
            say(
                f"stopping: waiting up to {seconds(grace_s)} for {flying} in flight; Ctrl-C again cuts them off"
            )

    def press(number: int, frame: FrameType | None) -> Any:
        pressed.set()
        return signal.default_int_handler(number, frame)

    thread = threading.Thread(target=explain, name="mistill-interrupts", daemon=True)
    thread.start()
    before = {
        number: signal.signal(number, press)
        for number in _STOPPING
        if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL  # nohup ignores SIGHUP
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended = True
        pressed.set()
        thread.join()


def _can_move_cursor() -> bool:
    return os.environ.get("TERM") != "dumb"
