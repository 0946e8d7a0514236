"""The spans of runs and of batch jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from mistill._version import __version__
from mistill.errors import Stopped
from mistill.telemetry import names
from mistill.telemetry.harmless import harmless
from mistill.telemetry.providers import Wanted


class RunSpan:
    """The span of a start, below which those of its requests are. It begins in the current context.

    Args:
        wanted: who is told; ``None``: nobody.
        name: what the run asks, and of which model.
    """

    def __init__(self, wanted: Wanted | None, name: str, attributes: Mapping[str, Any]) -> None:
        self._span: Any = None
        self._tracer: Any = None
        if wanted is not None and wanted.tracer_provider is not None:
            self._tracer = wanted.tracer_provider.get_tracer("mistill", __version__)
            self._span = harmless(self._tracer.start_span)(name, attributes=_known(attributes))

    @contextmanager
    def current(self) -> Generator[None]:
        """Within the block, spans begin below it."""
        if self._span is None:
            yield
            return
        from opentelemetry import context
        from opentelemetry.trace import set_span_in_context

        token = context.attach(set_span_in_context(self._span))
        try:
            yield
        finally:
            context.detach(token)

    @harmless
    def end(self, attributes: Callable[[], Mapping[str, Any]], error: BaseException | None) -> None:
        """The start has ended. ``error``: what ended it early; that somebody wanted it, or a budget, is no failure."""
        if self._span is None:
            return
        self._span.set_attributes(_known(attributes()))
        if isinstance(error, Stopped):
            self._span.set_attribute(names.RUN_STOPPED, error.reason)
        elif isinstance(error, KeyboardInterrupt):
            self._span.set_attribute(names.RUN_STOPPED, "interrupted")
        elif error is not None:
            from mistill.telemetry.requests import fail

            fail(self._span, error)
        self._span.end()


@harmless
def tell_of_job(
    wanted: Wanted | None,
    model: str,
    attributes: Mapping[str, Any],
    *,
    began_at: float,
    ended_at: float,
    failed: bool,
) -> None:
    """A batch job was read: its span, from when it was made to its end, in unix seconds, in the current context."""
    if wanted is None or wanted.tracer_provider is None:
        return
    from opentelemetry.trace import Status, StatusCode

    tracer = wanted.tracer_provider.get_tracer("mistill", __version__)
    span = tracer.start_span(
        f"batch {model}", attributes=_known(attributes), start_time=round(began_at * 1e9)
    )
    if failed:
        span.set_status(Status(StatusCode.ERROR))
    span.end(round(max(began_at, ended_at) * 1e9))


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
