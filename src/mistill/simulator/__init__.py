"""A fake Mistral API to test against and to rehearse runs with: limits, faults, latency, no bill.

    from mistill.simulator import Fault, Settings, Simulator

    with Simulator(Settings(latency_s=0.05, requests_per_minute=600)) as simulator:
        simulator.script([Fault.status(503), "the second answer"])
        ...  # any client, with endpoint=simulator.url

It answers chat completions (whole and streamed), embeddings, the list of models, files and batch jobs over a real
socket, and is no model: its answers are made up by rule (see ``mistill.simulator.drafts``).
"""

from __future__ import annotations

from mistill.simulator.faults import Answer, Fault
from mistill.simulator.process import SimulatorProcess
from mistill.simulator.running import Simulator, serve
from mistill.simulator.settings import FaultName, Settings
from mistill.simulator.traffic import LINES_PATH, STATS_PATH, BatchStats, Received, Stats

__all__ = [
    "LINES_PATH",
    "STATS_PATH",
    "Answer",
    "BatchStats",
    "Fault",
    "FaultName",
    "Received",
    "Settings",
    "Simulator",
    "SimulatorProcess",
    "Stats",
    "serve",
]
