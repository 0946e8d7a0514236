"""Work is shown while it goes on, by a thread that only looks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress

from msgspec import Struct

from mistill.errors import let_interrupt_pass
from mistill.progress.screens import Screen, find_screen
from mistill.progress.view import View, Watch

OnProgress = Callable[[View], object]

_LOOK_S = 0.25

_logger = logging.getLogger("mistill")
_taken = threading.Lock()
"""Two at a time would draw over each other: the first has the screen."""


class Display(Struct, frozen=True):
    """Who is told how far work is.

    Attributes:
        progress: ``None``: where somebody looks, a terminal or a notebook. ``True``: anywhere, as lines on stderr where
            it is neither. ``False``: nowhere.
        on_progress: is given a `View` a few times a second and once at the end, from another thread.
    """

    progress: bool | None = None
    on_progress: OnProgress | None = None

    @property
    def is_wanted(self) -> bool:
        """Somebody wants to know."""
        return self.on_progress is not None or find_screen(self.progress) is not None

    @contextmanager
    def showing(self, watch: Watch, *, after_s: float = 0.0) -> Generator[None]:
        """Shows the work of the block for as long as it lasts; on a screen only if it takes longer than ``after_s``."""
        has_screen = self.progress is not False and _taken.acquire(blocking=False)
        with ExitStack() as ends:
            if has_screen:
                ends.callback(_taken.release)
            drawing = _Drawing(watch, self.progress if has_screen else False, self.on_progress, after_s)
            drawing.start()
            ends.callback(drawing.end)
            yield


class _Drawing(threading.Thread):
    def __init__(
        self, watch: Watch, progress: bool | None, on_progress: OnProgress | None, after_s: float
    ) -> None:
        super().__init__(name="mistill-progress", daemon=True)
        self._watch = watch
        self._progress = progress
        self._on_progress = on_progress
        self._after_s = after_s
        self._ended = threading.Event()
        self._screen: Screen | None = None
        self._shown_s = 0.0
        self._was_stopping = False

    def end(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        began_s = self._shown_s = time.monotonic()
        looks_for_screen = True
        while not self._ended.wait(_LOOK_S):
            view = self._watch.view()
            self._tell(view)
            if looks_for_screen and time.monotonic() - began_s >= self._after_s:
                looks_for_screen = False
                found = find_screen(self._progress)
                self._screen = None if found is None else found()
            self._show(view)
        view = self._watch.view(is_last=True)
        self._tell(view)
        if self._screen is not None:
            with suppress(OSError, ValueError):
                self._screen.close(view)

    def _show(self, view: View) -> None:
        if self._screen is None:
            return
        now_s = time.monotonic()
        is_stopping = view.cut_off_in_s is not None
        is_news = is_stopping and not self._was_stopping
        self._was_stopping = is_stopping
        if now_s - self._shown_s < self._screen.every_s - _LOOK_S / 2 and not is_news:
            return
        self._shown_s = now_s
        try:
            self._screen.show(view)
        except (OSError, ValueError):  # what it is drawn on was closed: the work goes on
            self._screen = None

    def _tell(self, view: View) -> None:
        if self._on_progress is None:
            return
        try:
            self._on_progress(view)
        except BaseException as error:
            let_interrupt_pass(error)
            _logger.exception("on_progress failed, and is not called again; the work goes on")
            self._on_progress = None
