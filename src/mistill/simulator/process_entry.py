"""The child's side of ``SimulatorProcess``: JSON lines on stdin and stdout, the settings first, then commands.

The child ends when its stdin does, so it never outlives its parent, however that one died.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from mistill.simulator.service import Service
from mistill.simulator.settings import Settings
from mistill.simulator.site import Site, run_in_new_loop
from mistill.simulator.traffic import Stats


async def _main() -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer)
    service = Service(Settings.model_validate_json(await lines.readline()))
    site = Site(service, "127.0.0.1", 0)
    await site.open()
    _say({"url": f"http://127.0.0.1:{site.port}"})
    try:
        while line := await lines.readline():
            command: dict[str, Any] = msgspec.json.decode(line)
            if "change" in command:
                await site.adopt(Settings.model_validate(command["change"]))
            _say(service.billed_ids() if "billed_ids" in command else service.stats())
    finally:
        await site.close()


def _say(answer: dict[str, Any] | Stats) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run_in_new_loop(_main())
