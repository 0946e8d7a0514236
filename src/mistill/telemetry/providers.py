"""Whether anybody wants to be told, by which settings. Nothing of OpenTelemetry is loaded here."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from msgspec import Struct

CONTENT_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
PROPAGATORS_VARIABLE: Final = "OTEL_PROPAGATORS"
_CONTENT_IN_SPANS: Final = frozenset({"true", "span_only", "span_and_event"})


class Wanted(Struct, frozen=True):
    """Who is told, and what.

    Attributes:
        tracer_provider, meter_provider: of OpenTelemetry's API; ``None``: none is configured.
        content: prompts and answers too.
        propagates: the trace goes along with requests, in the headers of the standard propagators.
    """

    tracer_provider: Any
    meter_provider: Any
    content: bool
    propagates: bool


def wanted(content: bool | None = None) -> Wanted | None:
    """Who is told by now; ``None``: nobody.

    Args:
        content: prompts and answers too; ``None``: if the conventional environment variable says so.
    """
    tracers = _provider("opentelemetry.trace", "get_tracer_provider")
    meters = _provider("opentelemetry.metrics", "get_meter_provider")
    if tracers is None and meters is None:
        return None
    if content is None:
        content = os.environ.get(CONTENT_VARIABLE, "").strip().lower() in _CONTENT_IN_SPANS
    propagators = os.environ.get(PROPAGATORS_VARIABLE, "").strip().lower()
    return Wanted(tracers, meters, content, propagators not in ("", "none"))


def _provider(module: str, get: str) -> Any:
    """The one that is configured. Whoever configures one has loaded the module."""
    loaded = sys.modules.get(module)
    provider = None if loaded is None else getattr(loaded, get)()
    # Those of the API itself, which stand where nobody has configured any.
    is_stand_in = type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
    return None if provider is None or is_stand_in else provider
