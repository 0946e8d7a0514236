"""The simulator's bill: whatever was made is on it, whoever got it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conftest import Simulate

from mistill import MistralLLM
from mistill.errors import GenerationError
from mistill.simulator import Fault, Settings, Simulator
from mistill.simulator.process import SimulatorProcess

KEY = "an-admin-key"
MODEL = "mistral-small-2603"


def usage(url: str, query: str = "", **headers: str) -> Any:
    request = urllib.request.Request(f"{url}/v1/admin/usage{query}", headers=headers or {"x-api-key": KEY})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def status(url: str, query: str = "", **headers: str) -> int:
    """That it is refused with."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        usage(url, query, **headers)
    with refused.value:
        return refused.value.code


def units(simulator: Simulator, query: str = "") -> Counter[str]:
    """Group → units, of all names."""
    found: Counter[str] = Counter()
    for groups in usage(simulator.url, query)["completion"]["models"].values():
        for group, entries in groups.items():
            found[group] += sum(entry["value"] for entry in entries)
    return found


def ask(simulator: Simulator, rows: int = 1, **settings: Any) -> None:
    llm = MistralLLM(model=MODEL, endpoint=simulator.url, max_retries=0, **settings)
    llm.generate(inputs=["Hello"] * rows)


def test_a_bill_has_the_day_the_model_and_the_price_of_what_was_used(simulate: Simulate) -> None:
    simulator = simulate(admin_keys=[KEY], answered_by={MODEL: "mistral-medium-3-5"})
    ask(simulator, rows=2)
    bill = usage(simulator.url)
    first = bill["completion"]["models"][f"{MODEL}::mistral-medium-3-5"]["input"][0]
    assert first["timestamp"] == datetime.now(UTC).date().isoformat()
    assert (first["billing_metric"], first["billing_display_name"]) == ("mistral-medium-3-5", MODEL)
    prices = {one["billing_group"]: float(one["price"]) for one in bill["prices"]}
    assert prices == {"input": 1.5e-6, "output": 7.5e-6}
    assert bill["currency"] == "USD"


@pytest.mark.parametrize(
    "fault",
    [Fault.disconnect(), Fault.html(), Fault.truncate(), Fault.cut_stream()],
    ids=lambda fault: fault.name,
)
def test_what_was_cut_off_or_never_delivered_is_billed(simulate: Simulate, fault: Fault) -> None:
    simulator = simulate(admin_keys=[KEY])
    ask(simulator)
    whole = units(simulator)
    simulator.script([fault])
    with pytest.raises(GenerationError):
        ask(simulator)
    assert units(simulator) == {group: 2 * number for group, number in whole.items()}
    simulator.change(bills_undelivered=0)
    simulator.script([Fault.disconnect(), Fault.status(400)])
    for _ in range(2):
        with pytest.raises(GenerationError):
            ask(simulator)
    assert units(simulator) == {group: 2 * number for group, number in whole.items()}


def test_what_nobody_waited_for_is_billed(simulate: Simulate) -> None:
    simulator = simulate(admin_keys=[KEY], latency_s=30)
    with pytest.raises(GenerationError):
        ask(simulator, timeout=0.05)
    simulator.wait_until(lambda: simulator.in_flight == 0)
    assert set(units(simulator)) == {"input", "output"}


def test_it_takes_a_key_of_its_own_and_a_month_that_there_is(simulate: Simulate) -> None:
    simulator = simulate(admin_keys=[KEY])
    ask(simulator)
    for headers in ({"x-api-key": "another"}, {"Authorization": f"Bearer {KEY}"}, {"x-api-key": ""}):
        assert status(simulator.url, **headers) == 401
    assert status(simulator.url, "?month=13") == 422
    now = datetime.now(UTC)
    assert units(simulator, f"?month={now.month:02}&year={now.year}") == units(simulator)
    assert units(simulator, f"?month={now.month}&year={now.year - 1}") == {}
    assert units(simulator, f"?workspace_id={simulator.settings.workspace_id}") == units(simulator)
    assert units(simulator, "?workspace_id=another") == {}
    assert all(received.headers.get("x-api-key") in (None, "present") for received in simulator.requests)


def test_a_simulator_in_another_process_has_its_keys_too() -> None:
    settings = Settings.model_validate({"admin_keys": [KEY]})
    with SimulatorProcess(settings) as process:
        assert usage(process.url)["completion"] == {"models": {}}
        assert status(process.url, **{"x-api-key": "another"}) == 401
    assert KEY not in repr(settings)
