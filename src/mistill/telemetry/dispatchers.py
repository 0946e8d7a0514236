"""A dispatcher, observed where anybody wants to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mistill.api.client import MistralClient
from mistill.api.operation import Operation, R
from mistill.delivery.dispatcher import Dispatcher, Refuse
from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit
from mistill.telemetry.providers import Wanted


def new_dispatcher(
    wanted: Wanted | None,
    client: MistralClient,
    governor: AnyGovernor,
    concurrency: ConcurrencyLimit,
    *,
    operation: Operation[R],
    refuse: Refuse,
    max_retries: int,
    model: str,
    provider: Callable[[], str],
) -> Dispatcher[R]:
    """The others as for `Dispatcher`.

    Args:
        wanted: who is told of its requests; ``None``: nobody, and then it is a plain one.
        model: that is asked for. ``provider``: who answers, as OpenTelemetry's conventions call it.
    """
    settings: dict[str, Any] = {"operation": operation, "refuse": refuse, "max_retries": max_retries}
    if wanted is None:
        return Dispatcher(client, governor, concurrency, **settings)
    from mistill.telemetry.observed import ObservedDispatcher
    from mistill.telemetry.requests import Telemetry

    telemetry = Telemetry(
        wanted, endpoint=client.endpoint, model=model, path=operation.path, provider=provider
    )
    return ObservedDispatcher(client, governor, concurrency, telemetry=telemetry, **settings)
