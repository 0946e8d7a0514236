"""What OpenTelemetry was told, by the SDK's own exporters in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import place

from mistill.telemetry import names

__all__ = ["place"]


class Told:
    """Spans in the order of their ends, and metrics."""

    def __init__(self, spans: Any, metrics: Any) -> None:
        self._spans = spans
        self._metrics = metrics

    def spans(self, name: str | None = None) -> list[Any]:
        return [span for span in self._spans.get_finished_spans() if name in (None, span.name)]

    def span(self, name: str) -> Any:
        (span,) = self.spans(name)
        return span

    def points(self, name: str) -> list[Any]:
        """The points of a metric."""
        data = self._metrics.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def count(self, name: str, **attributes: Any) -> float:
        """Of how many values there are, or the sum of a counter, with these attributes."""
        wanted = {names.__dict__[key]: value for key, value in attributes.items()}
        points = [point for point in self.points(name) if wanted.items() <= dict(point.attributes).items()]
        return sum(point.count if hasattr(point, "count") else point.value for point in points)

    def total(self, name: str, **attributes: Any) -> float:
        """The sum of a histogram."""
        wanted = {names.__dict__[key]: value for key, value in attributes.items()}
        points = [point for point in self.points(name) if wanted.items() <= dict(point.attributes).items()]
        return sum(point.sum for point in points)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """An SDK is configured, as a user would."""
    library("opentelemetry.sdk")
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import _internal
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    # They can be set once a process.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    monkeypatch.setattr(_internal, "_METER_PROVIDER", meters)
    assert trace.get_tracer_provider() is tracers
    assert metrics.get_meter_provider() is meters
    yield Told(exporter, reader)
    meters.shutdown()
    tracers.shutdown()
